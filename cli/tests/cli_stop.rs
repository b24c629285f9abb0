//! How a command ends when it is told to: what it holds is given back, and a second signal does not wait for that.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStderr, ChildStdout};
use std::time::Duration;

use dawdle::backend::Lane;
use sqs_model::{Endpoint, Options};

use common::{Place, letter, said, sqs, tell, until};

mod common;

/// A replay that has one letter behind it, and holds the others until their turn in a hundred seconds.
async fn slow_replay(endpoint: &Endpoint, place: &Place) -> (Child, Lines<BufReader<ChildStderr>>) {
    place.json(&["init"]);
    sqs::put(endpoint, "orders-dead", &(0..10).map(|number| letter(number).to_string()).collect::<Vec<_>>());
    let mut replay = place.start(&["dead", "replay", "--all", "--rate", "0.01"]);
    let errors = BufReader::new(replay.stderr.take().expect("errors")).lines();
    let replayed = || async { endpoint.queue("orders-dead").is_some_and(|dead| dead.total() == 9) };
    until("one is replayed, and gone", replayed).await;
    (replay, errors)
}

fn next_of(lines: &mut Lines<BufReader<ChildStderr>>) -> String {
    lines.next().expect("a line").expect("text")
}

#[tokio::test]
async fn each_signal_ends_a_replay_which_gives_back_what_it_holds() {
    for signal in ["-INT", "-TERM", "-HUP"] {
        let endpoint = Endpoint::start(Options::default()).expect("an endpoint");
        let place = sqs::place(&endpoint.url());
        let (replay, mut errors) = slow_replay(&endpoint, &place).await;
        tell(&replay, signal);
        assert!(next_of(&mut errors).contains("giving back 9 dead letters; again"), "{signal}");
        let ended = said(replay.wait_with_output().expect("ended"));
        assert_eq!((ended.code, ended.out.trim()), (Some(1), "1 replayed, 0 failed"), "{signal}");
        assert!(next_of(&mut errors).contains("told to stop"), "{signal}");
        let dead = endpoint.queue("orders-dead").expect("the queue");
        assert_eq!((dead.visible, dead.in_flight), (9, 0), "{signal}");
        assert_eq!(place.audit().last().expect("a line")["outcome"], "interrupted", "{signal}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let endpoint = Endpoint::start(Options::default()).expect("an endpoint");
    let place = sqs::place(&endpoint.url());
    let (replay, mut errors) = slow_replay(&endpoint, &place).await;
    endpoint.set_latency(Duration::from_millis(3_500));
    tell(&replay, "-HUP");
    assert!(next_of(&mut errors).contains("up to five minutes"));
    // A terminal that goes away may say so twice.
    tell(&replay, "-HUP");
    tell(&replay, "-TERM");
    let ended = said(replay.wait_with_output().expect("ended"));
    assert_eq!((ended.code, ended.out.as_str()), (Some(130), ""));
}

/// A watch, once it has written a line.
fn watch(command: &mut std::process::Command) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut watch = command.spawn().expect("the program");
    let mut lines = BufReader::new(watch.stdout.take().expect("output")).lines();
    lines.next().expect("a line").expect("text");
    (watch, lines)
}

#[tokio::test]
async fn a_hangup_ends_a_watch_unless_it_is_to_outlive_its_terminal() {
    let place = Place::local();
    place.bury([1]).await;
    let args = ["stats", "--watch", "1", "--json"];
    let (mut plain, _) = watch(&mut place.command(&args));
    tell(&plain, "-HUP");
    assert_eq!(plain.wait().expect("ended").code(), Some(0));
    assert_eq!(place.queue().await.stats(Lane::Dead).await.in_flight, 0);

    if !cfg!(target_os = "linux") {
        return;
    }
    let mut nohup = place.dress(std::process::Command::new("nohup"));
    nohup.arg(env!("CARGO_BIN_EXE_dawdle")).args(args);
    let (mut kept, mut lines) = watch(&mut nohup);
    tell(&kept, "-HUP");
    for _ in 0..2 {
        lines.next().expect("it goes on").expect("text");
    }
    tell(&kept, "-INT");
    assert_eq!(kept.wait().expect("ended").code(), Some(0));
}
