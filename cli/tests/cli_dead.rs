//! Dead letters by the command line, on a local file: listed, replayed, edited and purged, and each
//! change in the audit log.

use std::collections::BTreeSet;

use dawdle::backend::Lane;
use serde_json::{Value, json};

use common::{Place, id, letter, script, until};

mod common;

/// What the log says: what, outcome and count of each line.
fn noted(place: &Place) -> Vec<(String, String, Value)> {
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    place.audit().iter().map(|line| (text(line, "what"), text(line, "outcome"), line["count"].clone())).collect()
}

fn entry(what: &str, outcome: &str, count: impl Into<Value>) -> (String, String, Value) {
    (what.to_owned(), outcome.to_owned(), count.into())
}

#[tokio::test]
async fn letters_that_died_of_the_same_are_one_group() {
    let place = Place::local();
    place.bury(1..=30).await;
    let listed = place.json(&["dead", "list"]);
    assert_eq!(listed[0]["letters"], 30);
    let groups = listed[0]["groups"].as_array().expect("groups");
    let shown: Vec<_> = groups.iter().map(|group| (&group["kind"], &group["handler"], &group["count"])).collect();
    assert_eq!(
        json!(shown),
        json!([["trial.ending", "remind", 20], ["order.placed", "charge", 10]]),
        "errors that differ in their numbers only"
    );
    assert_eq!(groups[0]["versions"], json!(["1.0", "1.1"]));
    assert!(groups[0]["first"].as_str() < groups[0]["last"].as_str());

    let fingerprint = groups[1]["fingerprint"].as_str().expect("a fingerprint");
    let each = place.json(&["dead", "list", "--each", "--fingerprint", fingerprint]);
    assert_eq!(each.len(), 10);
    assert!(each.iter().all(|line| line["handler"] == "charge"));
    let table = place.run(&["dead", "list"]);
    assert!(table.out.contains(fingerprint) && !table.out.contains('\u{1b}'), "{table:?}");
}

#[tokio::test]
async fn each_filter_leaves_out_what_it_does_not_name() {
    let place = Place::local();
    place.bury(1..=30).await;
    for (filter, count) in [
        (&["--kind", "order.placed"][..], 10),
        (&["--handler", "remind"], 20),
        (&["--reason", "attempts"], 15),
        (&["--version", "1.1"], 15),
        (&["--since", "2026-01-22T00:00:00Z"], 1),
        (&["--limit", "7"], 7),
        (&["--kind", "order.placed", "--reason", "attempts", "--limit", "3"], 3),
    ] {
        let lines = place.json(&[&["dead", "list", "--each"], filter].concat());
        assert_eq!(lines.len(), count, "{filter:?}");
    }
    let none = place.run(&["dead", "list", "--kind", "nobody.knows"]);
    assert_eq!(none.code, Some(4), "{none:?}");
}

#[tokio::test]
async fn a_look_leaves_every_letter_where_it_is() {
    let place = Place::local();
    place.bury(1..=12).await;
    place.json(&["dead", "list"]);
    place.json(&["dead", "show", &id(3)]);
    place.json(&["dead", "replay", "--all", "--dry-run"]);
    place.json(&["peek", "--queue", "dead"]);
    let stats = place.queue().await.stats(Lane::Dead).await;
    assert_eq!((stats.visible, stats.in_flight), (12, 0));
    assert_eq!(place.audit(), Vec::<Value>::new());
}

#[tokio::test]
async fn show_has_everything_of_one_letter() {
    let place = Place::local();
    place.bury([4]).await;
    let shown = place.json(&["dead", "show", &id(4)]);
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0]["data"], json!({ "number": 4 }));
    assert_eq!(shown[0]["attempts"], 25);
    assert_eq!(shown[0]["error"], letter(4)["deaderror"]);
    assert_eq!(shown[0]["event"]["type"], "trial.ending");
    let text = place.run(&["dead", "show", &id(4)]).out;
    assert!(text.contains("  \"number\": 4"), "{text}");
    assert_eq!(place.run(&["dead", "show", "nobody"]).code, Some(4));
}

#[tokio::test]
async fn a_letter_of_hostile_text_gives_the_terminal_no_commands() {
    let place = Place::local();
    let mut hostile = letter(1);
    hostile["deaderror"] = json!("\u{1b}]0;owned\u{7}\u{1b}[2J");
    hostile["handler"] = json!("re\u{9b}31mmind");
    place.queue().await.put(Lane::Dead, [hostile.to_string(), "no event \u{85}".to_owned()]).await;
    for args in
        [&["dead", "list"][..], &["dead", "list", "--each"], &["dead", "show", &id(1)], &["peek", "--queue", "dead"]]
    {
        let said = place.run(args);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(!said.out.chars().any(|character| character.is_control() && character != '\n'), "{said:?}");
    }
}

#[tokio::test]
async fn a_letter_of_hostile_text_makes_no_row_and_no_field_of_its_own() {
    let place = Place::local();
    let mut hostile = letter(1);
    for name in ["handler", "deadreason", "deaderror", "type", "deadversion"] {
        hostile[name] = json!(format!("{name}\nevent-0009  forged {}", "x".repeat(9_000)));
    }
    let mut escaped = letter(2);
    escaped["handler"] = json!("\u{1b}".repeat(500));
    place.queue().await.put(Lane::Dead, [hostile.to_string(), escaped.to_string()]).await;
    for args in [&["dead", "list"][..], &["dead", "list", "--each"], &["peek", "--queue", "dead"]] {
        let said = place.run(args);
        assert_eq!((said.code, said.out.lines().count()), (Some(0), 3), "{args:?}: {}", said.out);
        let longest = said.out.lines().map(|line| line.chars().count()).max().unwrap_or_default();
        assert!(longest < 8 * 70 && !said.out.contains("forged"), "{args:?}: {longest}");
    }
    let shown = place.run(&["dead", "show", &id(1)]).out;
    assert!(shown.contains("forged") && !shown.contains("\nevent-0009"), "{shown}");
}

#[tokio::test]
async fn a_dry_run_says_how_many_there_are_and_changes_nothing() {
    let place = Place::local();
    place.bury(1..=9).await;
    for (verb, done) in [("replay", "replayed"), ("purge", "purged")] {
        let dry = |args: &[&'static str]| [&["dead", verb, "--dry-run"], args].concat();
        assert_eq!(place.run(&dry(&["--all"])).out.trim(), format!("9 would be {done}"));
        let report = place.json(&dry(&["--kind", "order.placed"]));
        assert_eq!(report, [json!({ "matched": 3, done: 0, "dry_run": true })]);
        assert_eq!(place.run(&dry(&["--kind", "nobody.knows"])).code, Some(4));
        assert_eq!(place.run(&dry(&[])).code, Some(2), "which is to be said");
    }
    let dead = place.queue().await.stats(Lane::Dead).await;
    assert_eq!((dead.visible, dead.in_flight), (9, 0));
    assert_eq!(place.audit(), Vec::<Value>::new());
}

#[tokio::test]
async fn a_rate_at_which_letters_would_outlast_their_hold_is_refused() {
    let place = Place::local();
    place.bury([1]).await;
    let said = place.run(&["dead", "replay", "--all", "--rate", "0.009"]);
    assert!(said.code == Some(2) && said.err.contains("from 0.01 to 100000"), "{said:?}");
    assert_eq!(place.json(&["dead", "replay", "--all", "--rate", "0.01"])[0]["replayed"], 1);
}

#[tokio::test]
async fn a_replay_addresses_the_handler_that_failed() {
    let place = Place::local();
    place.bury(1..=6).await;
    let report = place.json(&["dead", "replay", &id(1), &id(3)]);
    assert_eq!(
        (&report[0]["matched"], &report[0]["replayed"], &report[0]["failed"]),
        (&json!(2), &json!(2), &json!(0))
    );
    let queue = place.queue().await;
    let mut events = queue.events(Lane::Message).await;
    events.sort_by_key(|event| event["id"].to_string());
    let seen: Vec<_> = events.iter().map(|event| (&event["id"], &event["handler"], &event["deadreason"])).collect();
    assert_eq!(json!(seen), json!([[id(1), "remind", null], [id(3), "charge", null]]));
    assert_eq!(queue.stats(Lane::Dead).await.visible, 4);
}

#[tokio::test]
async fn what_to_replay_or_purge_must_be_said() {
    let place = Place::local();
    place.bury(1..=3).await;
    for args in [&["dead", "replay"][..], &["dead", "purge", "--yes"], &["dead", "purge", "--yes", "--limit", "1"]] {
        let said = place.run(args);
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.err.contains("--all"), "{said:?}");
    }
    assert_eq!(place.queue().await.stats(Lane::Dead).await.visible, 3);
}

#[tokio::test]
async fn a_replay_that_is_killed_in_the_middle_and_run_again_loses_none() {
    let place = Place::local();
    place.bury(0..1_000).await;
    let queue = place.queue().await;
    let mut replay = place.start(&["dead", "replay", "--all", "--rate", "1000"]);
    until("a part of the replay", || async { queue.stats(Lane::Message).await.total() >= 200 }).await;
    replay.kill().expect("killed");
    replay.wait().expect("ended");
    let (moved, left) = (queue.stats(Lane::Message).await.total(), queue.stats(Lane::Dead).await.total());
    assert!(left > 0 && moved < 1_000, "it was killed in the middle: {moved} moved, {left} left");
    // Fifty are worked on at once.
    assert!((1_000..=1_050).contains(&(moved + left)), "{moved} moved, {left} left");

    let report = place.json(&["dead", "replay", "--all"]);
    assert_eq!((&report[0]["replayed"], &report[0]["failed"]), (&json!(left), &json!(0)));
    assert_eq!(queue.stats(Lane::Dead).await.total(), 0);
    let events = queue.events(Lane::Message).await;
    assert!((1_000..=1_050).contains(&events.len()), "{} events", events.len());
    let ids: BTreeSet<String> =
        events.iter().map(|event| event["id"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(ids, (0..1_000).map(id).collect());
    let noted = noted(&place);
    let expected =
        [entry("replay", "begun", Value::Null), entry("replay", "begun", Value::Null), entry("replay", "done", left)];
    assert_eq!(noted, expected, "the one that was killed has no end");
}

#[tokio::test]
async fn a_replay_that_is_told_to_stop_says_what_it_has_done() {
    let place = Place::local();
    place.bury(0..300).await;
    let queue = place.queue().await;
    let replay = place.start(&["dead", "replay", "--all", "--rate", "200", "--json"]);
    until("a part of the replay", || async { queue.stats(Lane::Message).await.total() >= 20 }).await;
    let told = std::process::Command::new("kill").args(["-INT", &replay.id().to_string()]).status().expect("kill");
    assert!(told.success());
    let said = common::said(replay.wait_with_output().expect("ended"));
    assert_eq!(said.code, Some(1), "{said:?}");
    let report = &said.lines()[0];
    assert_eq!(report["interrupted"], true);
    let moved = queue.stats(Lane::Message).await.total();
    assert_eq!(report["replayed"], moved);
    let dead = queue.stats(Lane::Dead).await;
    assert_eq!((dead.visible, dead.in_flight), (300 - moved, 0), "what it held is given back");
    assert_eq!(noted(&place).last(), Some(&entry("replay", "interrupted", moved)));
}

#[tokio::test]
async fn a_purge_without_a_terminal_and_without_yes_is_refused() {
    let place = Place::local();
    place.bury(1..=5).await;
    let said = place.run(&["dead", "purge", "--all"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("--yes"), "{said:?}");
    assert_eq!(place.queue().await.stats(Lane::Dead).await.visible, 5);
    assert_eq!(place.audit(), Vec::<Value>::new());

    let report = place.json(&["dead", "purge", "--kind", "order.placed", "--yes"]);
    assert_eq!(report[0]["purged"], 1);
    let queue = place.queue().await;
    assert_eq!((queue.stats(Lane::Dead).await.total(), queue.stats(Lane::Message).await.total()), (4, 0));
}

#[tokio::test]
async fn an_edit_replays_the_changed_data_and_removes_the_letter() {
    let place = Place::local();
    place.bury([5]).await;
    let edited = place.json(&["dead", "edit", &id(5), "--data", r#"{ "number": 50, "note": "mended" }"#]);
    assert_eq!((&edited[0]["id"], &edited[0]["handler"]), (&json!(id(5)), &json!("remind")));
    let queue = place.queue().await;
    let events = queue.events(Lane::Message).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["data"], json!({ "number": 50, "note": "mended" }));
    assert_eq!((&events[0]["id"], &events[0]["handler"]), (&json!(id(5)), &json!("remind")));
    assert_eq!(queue.stats(Lane::Dead).await.total(), 0);
    assert_eq!(noted(&place), [entry("edit", "begun", Value::Null), entry("edit", "done", 1)]);
}

#[tokio::test]
async fn an_edit_in_an_editor_is_checked_before_anything_is_done() {
    let place = Place::local();
    place.bury([5]).await;
    let editor = |name: &str, text: &str| script(&place.path(name), text);
    for (editor, complaint) in [
        (editor("broken", "printf '{ \"number\": ' > \"$1\""), "What you wrote is in"),
        (editor("idle", "true"), "was not changed"),
        (editor("failing", "exit 3"), "nothing was done"),
    ] {
        let output = place.command(&["dead", "edit", &id(5)]).env("EDITOR", &editor).output().expect("the program");
        let said = common::said(output);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains(complaint), "{said:?}");
    }
    let refused = place.run(&["dead", "edit", &id(5), "--data", "{"]);
    assert!(refused.code == Some(2) && refused.err.contains("line 1"), "{refused:?}");
    let unset = place.run(&["dead", "edit", &id(5)]);
    assert!(unset.code == Some(1) && unset.err.contains("VISUAL"), "{unset:?}");
    assert_eq!(place.queue().await.stats(Lane::Dead).await.visible, 1);
    assert_eq!(place.audit(), Vec::<Value>::new());

    let mending = editor("mending", "grep -q '\"number\": 5' \"$1\" && echo '{\"number\": 6}' > \"$1\"");
    let output = place.command(&["dead", "edit", &id(5)]).env("VISUAL", &mending).output().expect("the program");
    let said = common::said(output);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(place.queue().await.events(Lane::Message).await[0]["data"], json!({ "number": 6 }));
}

#[tokio::test]
async fn an_edit_of_an_event_that_two_handlers_gave_up_asks_which() {
    let place = Place::local();
    let mut other = letter(2);
    other["handler"] = json!("count");
    place.queue().await.put(Lane::Dead, [letter(2).to_string(), other.to_string()]).await;
    let said = place.run(&["dead", "edit", &id(2), "--data", "{}"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("--handler") && said.err.contains("count"), "{said:?}");
    place.json(&["dead", "edit", &id(2), "--data", "{}", "--handler", "count"]);
    let queue = place.queue().await;
    assert_eq!(queue.events(Lane::Message).await[0]["handler"], "count");
    assert_eq!(queue.events(Lane::Dead).await[0]["handler"], "remind");
}

#[tokio::test]
async fn what_is_no_event_is_shown_and_replayed_as_it_came() {
    let place = Place::local();
    place.queue().await.put(Lane::Dead, ["not ours".to_owned()]).await;
    let listed = place.json(&["dead", "list", "--each"]);
    assert_eq!((&listed[0]["kind"], &listed[0]["reason"]), (&json!("dawdle.undecodable"), &json!("undecodable")));
    place.json(&["dead", "replay", "--reason", "undecodable"]);
    assert_eq!(place.queue().await.take(Lane::Message).await[0].body, "not ours");
}

#[tokio::test]
async fn every_change_is_in_the_audit_log() {
    let place = Place::local();
    place.bury(1..=9).await;
    place.json(&["dead", "replay", "--kind", "order.placed", "--limit", "2"]);
    place.json(&["dead", "purge", &id(1), "--yes"]);
    place.json(&["dead", "edit", &id(2), "--data", "{}"]);
    let signalled = place.json(&["signal", "trial.ending", r#"{"secret": "hunter2"}"#]);
    place.json(&["reset", "--yes"]);
    let both = |what: &str, count: u64| [entry(what, "begun", Value::Null), entry(what, "done", count)];
    let expected = [both("replay", 2), both("purge", 1), both("edit", 1), both("signal", 1), both("reset", 9)].concat();
    assert_eq!(noted(&place), expected);
    let audit = place.audit();
    assert!(audit.iter().all(|line| line["who"] == "ann@desk" && line["time"].is_string()));
    assert_eq!(audit[0]["which"], json!({ "kind": "order.placed", "limit": 2 }));
    assert_eq!(audit[2]["which"], json!({ "ids": [id(1)] }));
    assert_eq!(audit[6]["which"]["ids"], json!([signalled[0]["id"]]));
    assert!(!json!(audit).to_string().contains("hunter2"), "payloads stay out");
    let changes: BTreeSet<String> = audit.iter().map(|line| line["change"].to_string()).collect();
    assert_eq!(changes.len(), 5, "a change's two lines have one number");
}

#[tokio::test]
async fn an_audit_log_that_cannot_be_written_stops_every_change() {
    let place = Place::local();
    place.bury(1..=3).await;
    let folder = place.path("folder");
    std::fs::create_dir(&folder).expect("a folder");
    let log = folder.to_str().expect("a path");
    for args in [
        &["dead", "replay", "--all"][..],
        &["dead", "purge", "--all", "--yes"],
        &["dead", "edit", &id(1), "--data", "{}"],
        &["signal", "trial.ending", "{}"],
        &["reset", "--yes"],
    ] {
        let said = place.run(&[args, &["--audit-log", log]].concat());
        assert_eq!(said.code, Some(1), "{args:?}: {said:?}");
        assert!(said.err.contains("audit log") && said.err.contains("DAWDLE_AUDIT_LOG"), "{said:?}");
    }
    let queue = place.queue().await;
    assert_eq!((queue.stats(Lane::Dead).await.visible, queue.stats(Lane::Message).await.total()), (3, 0));

    let named = place.command(&["dead", "replay", "--all"]).env("DAWDLE_AUDIT_LOG", "noted.jsonl").status();
    assert!(named.expect("the program").success());
    let text = std::fs::read_to_string(place.path("noted.jsonl")).expect("a log");
    assert_eq!(text.lines().count(), 2, "{text}");
}
