//! The command line on a local file: what is counted, signalled and shown, and what is refused.

use std::time::Duration;

use dawdle::backend::{Lane, Outgoing};
use serde_json::json;

use common::{Place, id};

mod common;

#[tokio::test]
async fn stats_counts_each_queue() {
    let place = Place::local();
    place.bury(1..=4).await;
    {
        use dawdle::backend::Backend as _;
        let queue = place.queue().await;
        let later = Outgoing { delay: Duration::from_secs(3_600), ..Outgoing::new("later") };
        queue.0.send(Lane::Message, &[Outgoing::new("now"), Outgoing::new("now"), later]).await;
    }
    let stats = &place.json(&["stats"])[0];
    assert_eq!(stats["backend"], "local");
    let shown = |at: usize| {
        let queue = &stats["queues"][at];
        json!([queue["queue"], queue["visible"], queue["in_flight"], queue["delayed"]])
    };
    assert_eq!(shown(0), json!(["message", 2, 0, 1]));
    assert_eq!(shown(1), json!(["dead", 4, 0, 0]));
    assert!(stats["queues"][0]["oldest_seconds"].is_u64());
    let table = place.run(&["stats"]).out;
    assert!(table.starts_with("QUEUE") && table.lines().count() == 3, "{table}");
}

#[tokio::test]
async fn a_watch_looks_again_until_it_is_told_to_stop() {
    use std::io::{BufRead as _, BufReader};
    let place = Place::local();
    place.bury([1]).await;
    let mut watch = place.start(&["stats", "--watch", "1", "--json"]);
    let mut lines = BufReader::new(watch.stdout.take().expect("output")).lines();
    for _ in 0..2 {
        let line = lines.next().expect("a line").expect("text");
        let stats: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(stats["queues"][1]["visible"], 1);
    }
    let told = std::process::Command::new("kill").args(["-INT", &watch.id().to_string()]).status().expect("kill");
    assert!(told.success());
    assert_eq!(watch.wait().expect("ended").code(), Some(0));
}

#[tokio::test]
async fn a_signal_of_an_unknown_kind_is_on_the_queue_as_it_was_asked_for() {
    let place = Place::local();
    place.json(&["init"]);
    let plain = place.run(&["signal", "trial.ending", r#"{"account": 7}"#]);
    assert_eq!(plain.code, Some(0), "{plain:?}");
    let queue = place.queue().await;
    let event = &queue.events(Lane::Message).await[0];
    assert_eq!(event["id"], plain.out.trim());
    assert_eq!((&event["type"], &event["data"]), (&json!("trial.ending"), &json!({ "account": 7 })));
    drop(queue);

    place.json(&[
        "signal",
        "trial.ending",
        "{}",
        "--delay",
        "2h",
        "--handler",
        "remind",
        "--group",
        "tenant-7",
        "--id",
        "mine",
    ]);
    let later = place.json(&["signal", "trial.ending", "[1]", "--at", "2999-01-01T00:00:00Z"]);
    assert_eq!(later[0]["due"], "2999-01-01T00:00:00.000Z");
    let delayed = place.queue().await.stats(Lane::Message).await.delayed;
    assert_eq!(delayed, 2);

    let now = place.json(&["signal", "x", "{}", "--handler", "remind", "--group", "tenant-7", "--id", "mine"]);
    assert_eq!(now[0]["id"], "mine");
    let events = place.queue().await.events(Lane::Message).await;
    let event = events.iter().find(|event| event["type"] == "x").expect("the event");
    assert_eq!(
        (&event["id"], &event["handler"], &event["group"]),
        (&json!("mine"), &json!("remind"), &json!("tenant-7"))
    );
}

#[test]
fn a_signal_that_cannot_be_is_refused_and_nothing_is_sent() {
    let place = Place::local();
    place.json(&["init"]);
    for (args, complaint) in [
        (&["signal", "x", "{"][..], "line 1"),
        (&["signal", "", "{}"], "256"),
        (&["signal", "x", "{}", "--delay", "2"], "2h"),
        (&["signal", "x", "{}", "--delay", "9999y"], "9999"),
        (&["signal", "x", "{}", "--at", "tomorrow"], "RFC 3339"),
        (&["signal", "x", "{}", "--at", "2999-01-01T00:00:00Z", "--delay", "1s"], "--delay"),
        (&["signal", "x", "{}", "--group", "two words"], "two words"),
        (&["signal", "x", "{}", "--id", ""], "64"),
    ] {
        let said = place.run(args);
        assert_eq!(said.code, Some(2), "{args:?}: {said:?}");
        assert!(said.err.contains(complaint), "{args:?}: {said:?}");
    }
    let bad = place.run(&["signal", "x", r#"{"card": 4242 4242}"#]);
    assert!(!bad.err.contains("4242"), "an error quotes no payload: {bad:?}");
    assert_eq!(place.audit().len(), 0);
    assert_eq!(place.json(&["stats"])[0]["queues"][0]["visible"], 0);
}

#[test]
fn data_may_come_by_standard_input() {
    use std::io::Write as _;
    let place = Place::local();
    place.json(&["init"]);
    let mut command = place.command(&["signal", "x", "-", "--json"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().expect("the program");
    child.stdin.take().expect("input").write_all(b"{\"a\": 1}\n").expect("written");
    let said = common::said(child.wait_with_output().expect("ended"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let seen = place.json(&["peek"]);
    assert_eq!((&seen[0]["id"], &seen[0]["data"]), (&said.lines()[0]["id"], &json!({ "a": 1 })));
}

#[tokio::test]
async fn a_peek_shows_the_events_of_a_pack_and_what_is_none() {
    let place = Place::local();
    let event = |id: &str| json!({ "specversion": "1.0", "id": id, "source": "s", "type": "k", "data": {} });
    let pack = json!([event("one"), event("two")]).to_string();
    place.queue().await.put(Lane::Message, [pack, "not ours".to_owned()]).await;
    let seen = place.json(&["peek", "--limit", "5"]);
    let shown: Vec<_> = seen.iter().map(|seen| (&seen["id"], seen["unreadable"].is_string())).collect();
    assert_eq!(json!(shown), json!([["one", false], ["two", false], [null, true]]));
    let said = place.run(&["peek"]);
    assert!(said.err.contains("receive"), "looking is said to count: {said:?}");
    assert_eq!(place.run(&["peek", "--queue", "delay"]).code, Some(4));
    assert_eq!(place.run(&["peek", "--queue", "dead"]).code, Some(4));
}

#[test]
fn only_init_creates_a_queue() {
    let place = Place::local();
    for args in [&["stats"][..], &["dead", "list"], &["dead", "replay", "--all"], &["peek"], &["signal", "x", "{}"]] {
        let said = place.run(args);
        assert_eq!(said.code, Some(1), "{args:?}: {said:?}");
        assert!(said.err.contains("DAWDLE_LOCAL_PATH") && said.err.contains("dawdle init"), "{said:?}");
    }
    assert_eq!(place.run(&["doctor"]).code, Some(3));
    assert!(!place.path("queue.db").exists());
    assert_eq!(place.json(&["init"])[0]["ready"], true);
    assert_eq!(place.json(&["init"])[0]["backend"], "local");
    assert!(place.path("queue.db").exists());
    assert_eq!(place.json(&["doctor"])[0]["ok"], true);
}

#[test]
fn doctor_says_what_is_wrong_with_the_settings() {
    let place = Place::with(&[("DAWDLE_CONCURENCY", "3")]);
    let said = place.run(&["doctor", "--json"]);
    assert_eq!(said.code, Some(3), "{said:?}");
    let findings = &said.lines()[0];
    assert_eq!((&findings["ok"], &findings["findings"][0]["state"]), (&json!(false), &json!("wrong")));
    assert!(findings["findings"][0]["text"].as_str().is_some_and(|text| text.contains("DAWDLE_CONCURRENCY")));
    for place in [place, Place::local(), Place::with(&[("DAWDLE_BACKEND", "memory")])] {
        let findings = &place.run(&["doctor", "--json"]).lines()[0]["findings"];
        let last = findings.as_array().and_then(|findings| findings.last()).expect("a finding");
        assert!(last["state"] == "wrong" && last["mend"].is_string(), "what is wrong has a mend: {last}");
    }
    let said = Place::with(&[("DAWDLE_BACKEND", "memory")]).run(&["stats"]);
    assert!(said.code == Some(1) && said.err.contains("memory of one process"), "{said:?}");
}

#[tokio::test]
async fn a_reset_asks_first_and_a_vacuum_makes_the_file_smaller() {
    let place = Place::local();
    place.queue().await.put(Lane::Message, (0..200).map(|_| "x".repeat(50_000))).await;
    let refused = place.run(&["reset"]);
    assert!(refused.code == Some(2) && refused.err.contains("--yes"), "{refused:?}");
    assert_eq!(place.queue().await.stats(Lane::Message).await.total(), 200);
    assert_eq!(place.json(&["reset", "--yes"])[0]["deleted"], 200);
    let size = || std::fs::metadata(place.path("queue.db")).expect("a file").len();
    let before = size();
    let freed = place.json(&["vacuum"])[0]["freed_bytes"].as_u64().expect("a number");
    assert_eq!(before - size(), freed);
    assert!(freed > 5_000_000, "{freed}");
    place.bury([1]).await;
    assert_eq!(place.json(&["dead", "list", "--each"])[0]["id"], id(1));
}

#[test]
fn what_concerns_the_local_file_leaves_other_queues_alone() {
    let place = Place::with(&[("DAWDLE_SQS_QUEUE", "orders"), ("DAWDLE_SQS_REGION", "eu-west-1")]);
    for args in [&["reset", "--yes"][..], &["vacuum"]] {
        let said = place.run(args);
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.err.contains("DAWDLE_BACKEND=local"), "{said:?}");
    }
}

#[test]
fn what_creates_the_queues_is_printed_for_the_queues_of_the_settings() {
    let place = Place::with(&[("DAWDLE_SQS_QUEUE", "jobs"), ("DAWDLE_SQS_REGION", "us-east-2")]);
    for form in ["aws", "terraform", "cloudformation"] {
        let text = place.run(&["init", "--print", form]).out;
        for part in ["jobs-dead", "jobs-delay", "1209600", "60", "100", "maxReceiveCount"] {
            assert!(text.contains(part), "{form}: {part}");
        }
        assert_eq!(place.json(&["init", "--print", form])[0]["queue"], "jobs");
    }
    let commands = place.run(&["init", "--print", "aws"]).out;
    assert_eq!(commands.matches("aws --region 'us-east-2' sqs ").count(), 5, "{commands}");
    let longest = "x".repeat(74);
    assert_eq!(Place::with(&[("DAWDLE_SQS_QUEUE", &longest)]).run(&["init", "--print", "aws"]).code, Some(0));
    for name in ["x".repeat(75), "jobs; reboot".to_owned(), "jobs.fifo".to_owned()] {
        let refused = Place::with(&[("DAWDLE_SQS_QUEUE", &name)]).run(&["init", "--print", "aws"]);
        assert!(refused.code == Some(2) && refused.err.contains("1 to 74"), "{refused:?}");
    }
    assert_eq!(Place::local().run(&["init", "--print", "aws"]).code, Some(2));
    let policy = place.json(&["policy", "--role", "operator", "--account", "42"]);
    assert_eq!(policy[0]["Statement"][0]["Resource"][0], "arn:aws:sqs:us-east-2:42:jobs-dead");
    for role in ["sender", "listener", "operator"] {
        assert_eq!(place.json(&["policy", "--role", role])[0]["Version"], "2012-10-17");
        let bare = Place::local().run(&["policy", "--role", role]).out;
        let file = format!("{}/../ops/iam/{role}.json", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(bare.trim_end(), std::fs::read_to_string(file).expect("a policy").trim_end());
    }
}

#[test]
fn a_policy_for_queues_by_url_has_their_names_and_their_places() {
    const URL: &str = "DAWDLE_SQS_QUEUE_URL";
    const DELAY: &str = "DAWDLE_SQS_DELAY_QUEUE_URL";
    const DEAD: &str = "DAWDLE_SQS_DEAD_LETTER_QUEUE_URL";
    let place = Place::with(&[
        (URL, "https://sqs.us-east-2.amazonaws.com/42/jobs"),
        (DELAY, "https://vpce-1a2b-3c.sqs.us-east-2.vpce.amazonaws.com/42/sleepers/"),
        (DEAD, "https://eu-central-1.queue.amazonaws.com/43/graves"),
    ]);
    let (jobs, sleepers, graves) =
        ("arn:aws:sqs:us-east-2:42:jobs", "arn:aws:sqs:us-east-2:42:sleepers", "arn:aws:sqs:eu-central-1:43:graves");
    let of = |place: &Place, role: &str, more: &[&str]| {
        let policy = place.json(&[&["policy", "--role", role], more].concat()).remove(0);
        let statements = policy["Statement"].as_array().expect("statements").iter();
        let named = |it: &serde_json::Value| (it["Sid"].as_str().expect("a name").to_owned(), it["Resource"].clone());
        json!(statements.map(named).collect::<Vec<_>>())
    };
    assert_eq!(of(&place, "sender", &[]), json!([["Signal", [jobs, sleepers]]]));
    assert_eq!(of(&place, "listener", &[]), json!([["SignalAndListen", [jobs, sleepers]], ["DeadLetter", [graves]]]));
    let operator = json!([["LookAndPurge", [graves]], ["Replay", [jobs]], ["Count", [jobs, sleepers, graves]]]);
    assert_eq!(of(&place, "operator", &[]), operator);
    let text = place.run(&["policy", "--role", "listener"]).out;
    assert!(text.contains("\n      \"Sid\": \"DeadLetter\"") && !text.contains("orders"), "{text}");
    let elsewhere = of(&place, "sender", &["--region", "cn-north-1", "--account", "7", "--queue", "other"]);
    assert_eq!(
        elsewhere[0][1],
        json!(["arn:aws-cn:sqs:cn-north-1:7:other", "arn:aws-cn:sqs:cn-north-1:7:other-delay"])
    );

    let one = Place::with(&[(URL, "http://127.0.0.1:4566/000000000000/jobs")]);
    let refused = one.run(&["policy", "--role", "sender"]);
    assert!(refused.code == Some(2) && refused.err.contains("--region"), "{refused:?}");
    let here = of(&one, "sender", &["--region", "us-east-1"]);
    assert_eq!(here, json!([["Signal", ["arn:aws:sqs:us-east-1:000000000000:jobs"]]]));
    let refused = one.run(&["policy", "--role", "listener", "--region", "us-east-1"]);
    assert!(refused.code == Some(2) && refused.err.contains(DEAD), "{refused:?}");
    let bare = Place::with(&[(URL, "https://sqs.us-east-2.amazonaws.com/jobs")]).run(&["policy", "--role", "sender"]);
    assert!(bare.code == Some(2) && bare.err.contains("--account"), "{bare:?}");

    let mixed = Place::with(&[("DAWDLE_SQS_QUEUE", "orders"), (DEAD, "https://sqs.us-east-2.amazonaws.com/42/graves")]);
    let (orders, later) = ("arn:aws:sqs:us-east-2:42:orders", "arn:aws:sqs:us-east-2:42:orders-delay");
    let expected = json!([
        ["SignalAndListen", [orders, later]],
        ["DeadLetter", ["arn:aws:sqs:us-east-2:42:graves"]],
        ["QueuesByName", [orders, later]],
    ]);
    assert_eq!(of(&mixed, "listener", &[]), expected);
}

#[test]
fn completions_are_there_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let place = Place::local();
        let script = place.run(&["completions", shell]);
        assert!(script.code == Some(0) && script.out.contains("replay"), "{shell}");
        assert_eq!(place.json(&["completions", shell])[0]["shell"], shell);
    }
    assert_eq!(Place::local().run(&["completions", "cmd"]).code, Some(2));
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let place = Place::local();
    let mut child = place.start(&["completions", "bash"]);
    drop(child.stdout.take());
    let said = common::said(child.wait_with_output().expect("ended"));
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
}
