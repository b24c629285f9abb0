//! The command line at a terminal: what it asks, draws and leaves behind. `common/terminal.py` is the terminal.

use std::process::Command;

use dawdle::backend::Lane;
use serde_json::json;
use sqs_model::{Endpoint, Options};

use common::{Place, Said, letter, said, sqs};

mod common;

/// Runs the program at a terminal, and does the steps (see `terminal.py`). What it wrote is in `out`.
fn at_terminal(place: &Place, steps: &[&str], args: &[&str], env: &[(&str, &str)]) -> Said {
    let mut command = place.dress(Command::new("python3"));
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/terminal.py")).arg("160x24").args(steps).arg("--");
    command.arg(env!("CARGO_BIN_EXE_dawdle")).args(args).env_remove("NO_COLOR").envs(env.iter().copied());
    said(command.output().expect("python3"))
}

const CTRL_C: &str = "send:\\x03";
const END_OF_INPUT: &str = "send:\\x04";

#[tokio::test]
async fn a_watch_draws_on_the_other_screen_and_leaves_the_terminal_as_it_was() {
    let place = Place::local();
    place.bury(1..=3).await;
    let said = at_terminal(&place, &["wait:+0.0", CTRL_C], &["stats", "--watch", "1"], &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let (before, drawn) = said.out.split_once("\x1b[?1049h").expect("the other screen is entered");
    let (drawn, after) = drawn.split_once("\x1b[?1049l").expect("and left");
    assert!(before.is_empty() && !after.contains('\x1b'), "{said:?}");
    assert!(drawn.contains("\x1b[?25l") && drawn.trim_end().ends_with("\x1b[?25h"), "the cursor is shown again");
    for part in ["PER SECOND", "DEPTH", "queue.db", "Ctrl-C ends", "▁", "█"] {
        assert!(drawn.contains(part), "{part}: {drawn}");
    }
    assert_eq!(drawn.matches("\x1b[H\x1b[2J").count(), 2, "each look is drawn once: {drawn}");
}

#[tokio::test]
async fn a_purge_is_done_for_a_yes_and_for_nothing_else() {
    let place = Place::local();
    place.bury(1..=5).await;
    let purge = ["dead", "purge", "--kind", "trial.ending"];
    let question = "wait:Delete 4 dead letters";
    for (answer, code) in [("send:n\\r", 1), ("send:\\r", 1), ("send:yess\\r", 1), (END_OF_INPUT, 1), (CTRL_C, 1)] {
        let said = at_terminal(&place, &[question, "wait:[y/N] ", answer], &purge, &[]);
        assert_eq!(said.code, Some(code), "{answer}: {said:?}");
        assert!(said.out.contains("not done"), "{answer}: {said:?}");
        let dead = place.queue().await.stats(Lane::Dead).await;
        assert_eq!((dead.visible, dead.in_flight), (5, 0), "{answer}: and what it counted is given back");
    }
    assert_eq!(place.audit().len(), 0, "nothing was changed");
    let said = at_terminal(&place, &[question, "wait:[y/N] ", "send:y\\r"], &purge, &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("4 purged, 0 failed"), "{said:?}");
    assert_eq!(place.queue().await.stats(Lane::Dead).await.total(), 1);
}

#[tokio::test]
async fn the_bar_of_a_replay_reaches_the_end_and_is_wiped_away() {
    let place = Place::local();
    place.bury(0..10_000).await;
    let said = at_terminal(&place, &[], &["dead", "replay", "--all"], &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let drawn: Vec<&str> = said.out.split('\r').filter(|drawn| drawn.contains("of at most 10000")).collect();
    let last = drawn.last().expect("a bar");
    assert!(last.contains("10000 of at most 10000") && !last.contains('░'), "{last:?}");
    // The line of the bar is cleared before the one that stays is written.
    let (_, end) = said.out.rsplit_once("\x1b[2K").expect("a line is cleared");
    assert_eq!(end.trim(), "10000 replayed, 0 failed");
    assert_eq!(place.queue().await.stats(Lane::Message).await.total(), 10_000);
}

#[tokio::test]
async fn colours_are_for_terminals_and_no_color_turns_them_off() {
    let place = Place::local();
    place.bury(1..=3).await;
    for args in [&["dead", "list"][..], &["stats"], &["dead", "show", "event-0001"], &["doctor"]] {
        assert!(at_terminal(&place, &[], args, &[]).out.contains("\x1b["), "{args:?}");
        assert!(!at_terminal(&place, &[], args, &[("NO_COLOR", "1")]).out.contains('\x1b'), "{args:?}");
        let piped = place.run(args);
        assert!(!(piped.out + &piped.err).contains('\x1b'), "{args:?}");
    }
    let refused = at_terminal(&place, &[], &["dead", "purge"], &[]);
    assert!(refused.code == Some(2) && refused.out.contains("\x1b["), "{refused:?}");
}

#[tokio::test]
async fn a_watch_outlives_an_endpoint_that_goes_down_and_shows_what_it_saw_last() {
    let endpoint = Endpoint::start(Options::default()).expect("an endpoint");
    let place = sqs::place(&endpoint.url());
    place.json(&["init"]);
    sqs::put(&endpoint, "orders", &["one".to_owned()]);
    let (seen, failed) = (place.path("seen"), place.path("failed"));
    let touch = |path: &std::path::Path| format!("touch:{}", path.display());
    let steps =
        ["wait:+0.0", &touch(&seen), "wait:no answer since", &touch(&failed), "wait:  999  ", CTRL_C].map(String::from);
    let watched = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
            at_terminal(&place, &steps, &["stats", "--watch", "1"], &[])
        });
        let wait_for = |path: &std::path::Path| {
            while !path.exists() && !watch.is_finished() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        };
        wait_for(&seen);
        endpoint.go_down();
        wait_for(&failed);
        endpoint.come_back();
        sqs::put(&endpoint, "orders", &vec!["more".to_owned(); 998]);
        watch.join().expect("the watch")
    });
    assert_eq!(watched.code, Some(0), "{watched:?}");
    let screens: Vec<&str> = watched.out.split("\x1b[H\x1b[2J").collect();
    let broken = screens.iter().find(|screen| screen.contains("no answer since")).expect("it is said");
    let row = |screen: &str| screen.lines().find(|line| line.starts_with("message")).map(str::to_owned);
    assert!(row(broken).is_some_and(|row| row.contains("  1  ")), "the rows stay: {broken}");
    let last = screens.last().expect("a screen");
    assert!(row(last).is_some_and(|row| row.contains("  999  ")) && !last.contains("no answer"), "{last}");
}

#[tokio::test]
async fn a_look_that_takes_longer_than_a_moment_shows_how_many_there_are_so_far() {
    let endpoint = Endpoint::start(Options::default()).expect("an endpoint");
    let place = sqs::place(&endpoint.url());
    place.json(&["init"]);
    sqs::put(&endpoint, "orders-dead", &(0..15).map(|number| letter(number).to_string()).collect::<Vec<_>>());
    endpoint.set_latency(std::time::Duration::from_millis(150));
    for (args, end) in [
        (&["dead", "list"][..], "no account"),
        (&["dead", "replay", "--all", "--dry-run"], "15 would be replayed"),
        (&["dead", "purge", "--all", "--dry-run"], "15 would be purged"),
    ] {
        let said = at_terminal(&place, &[], args, &[]);
        assert_eq!(said.code, Some(0), "{said:?}");
        let (shown, left) = said.out.rsplit_once("\x1b[2K").expect("a line is cleared");
        assert!(shown.contains(" found, ") && left.contains(end), "{args:?}: {said:?}");
        let plain = at_terminal(&place, &[], args, &[("NO_COLOR", "1")]);
        assert!(!plain.out.contains(" found, ") && plain.out.contains(end), "{args:?}: {plain:?}");
    }
}

#[tokio::test]
async fn a_terminal_that_goes_away_leaves_no_letter_hidden() {
    let endpoint = Endpoint::start(Options::default()).expect("an endpoint");
    let place = sqs::place(&endpoint.url());
    place.json(&["init"]);
    sqs::put(&endpoint, "orders-dead", &(0..30).map(|number| letter(number).to_string()).collect::<Vec<_>>());
    let purge = ["dead", "purge", "--all"];
    let said = at_terminal(&place, &["wait:Delete 30 dead letters", "wait:[y/N] ", "hang:up"], &purge, &[]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let dead = endpoint.queue("orders-dead").expect("the queue");
    assert_eq!(json!([dead.visible, dead.in_flight]), json!([30, 0]));
}
