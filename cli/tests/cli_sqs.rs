//! The command line on SQS: queues created, examined, counted, and their dead letters replayed.

use std::io::{BufRead as _, BufReader};

use serde_json::{Value, json};
use sqs_model::{Endpoint, Faults, Options};

use common::sqs::{ask, place, url};
use common::{Place, id, letter, tell};

mod common;

fn endpoint(options: Options) -> Endpoint {
    Endpoint::start(options).expect("an endpoint")
}

fn bury(endpoint: &Endpoint, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        let body = json!({ "QueueUrl": url(endpoint, "orders-dead"), "MessageBody": letter(number).to_string() });
        ask(endpoint, "SendMessage", &body);
    }
}

/// The state of each finding, by its check.
fn states(place: &Place) -> (Option<i32>, Value) {
    let said = place.run(&["doctor", "--json"]);
    let findings = said.lines().remove(0);
    let state = |finding: &Value| (finding["check"].as_str().unwrap_or_default().to_owned(), finding["state"].clone());
    (said.code, findings["findings"].as_array().expect("findings").iter().map(state).collect())
}

#[test]
fn init_creates_queues_that_doctor_has_nothing_against_and_may_be_run_again() {
    let endpoint = endpoint(Options::default());
    let place = place(&endpoint.url());
    let (code, before) = states(&place);
    assert_eq!((code, &before["sender"]), (Some(3), &json!("wrong")));
    for _ in 0..2 {
        assert_eq!(place.json(&["init"])[0]["backend"], "sqs");
    }
    let (code, after) = states(&place);
    let all = [
        "configuration",
        "sender",
        "listener",
        "operator",
        "message queue",
        "delay queue",
        "dead queue",
        "message size",
        "retention",
        "clock",
    ];
    let mut expected: Value = all.iter().map(|check| ((*check).to_owned(), json!("ok"))).collect();
    expected["permissions"] = json!("note");
    assert_eq!((code, after), (Some(0), expected));
}

#[test]
fn init_changes_what_a_listener_would_refuse_and_nothing_else_and_notes_it() {
    let endpoint = endpoint(Options::default());
    let place = place(&endpoint.url());
    let set = |queue: &str, attributes: Value| {
        ask(&endpoint, "SetQueueAttributes", &json!({ "QueueUrl": url(&endpoint, queue), "Attributes": attributes }));
    };
    let attributes = |queue: &str| {
        let asked = json!({ "QueueUrl": url(&endpoint, queue), "AttributeNames": ["All"] });
        ask(&endpoint, "GetQueueAttributes", &asked)["Attributes"].clone()
    };
    let made = place.json(&["init"]);
    assert_eq!(made[0]["changes"].as_array().map(Vec::len), Some(3));
    let redrive = |count: u32| {
        json!({ "deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:orders-dead", "maxReceiveCount": count })
            .to_string()
    };
    set(
        "orders",
        json!({ "VisibilityTimeout": "900", "MessageRetentionPeriod": "86400", "RedrivePolicy": redrive(20) }),
    );
    set("orders-delay", json!({ "VisibilityTimeout": "10", "DelaySeconds": "3" }));
    set("orders-dead", json!({ "MessageRetentionPeriod": "3600", "VisibilityTimeout": "45" }));
    let chosen = attributes("orders");

    let said = place.run(&["init"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(
        lines[..2],
        ["orders-dead: MessageRetentionPeriod 3600 -> 1209600", "orders-delay: VisibilityTimeout 10 -> 60",]
    );
    assert!(lines.len() == 3 && lines[2].starts_with("ready: "), "{said:?}");
    assert_eq!(attributes("orders"), chosen);
    let (delay, dead) = (attributes("orders-delay"), attributes("orders-dead"));
    assert_eq!((&delay["VisibilityTimeout"], &delay["DelaySeconds"]), (&json!("60"), &json!("3")));
    assert_eq!((&dead["MessageRetentionPeriod"], &dead["VisibilityTimeout"]), (&json!("1209600"), &json!("45")));

    set("orders", json!({ "RedrivePolicy": redrive(3) }));
    let third = place.json(&["init"]).remove(0);
    let change = &third["changes"][0];
    assert_eq!((&change["queue"], &change["attribute"]), (&json!("orders"), &json!("RedrivePolicy")));
    assert_eq!(change["from"], json!(redrive(3)));
    assert!(change["to"].as_str().is_some_and(|to| to.contains("100")), "{third}");
    assert_eq!(attributes("orders")["VisibilityTimeout"], "900");
    assert_eq!(place.json(&["init"])[0]["changes"], json!([]));

    let noted: Vec<Value> =
        place.audit().iter().map(|line| json!([line["what"], line["outcome"], line["count"]])).collect();
    let both = |count: u64| [json!(["init", "begun", null]), json!(["init", "done", count])];
    assert_eq!(noted, [both(3), both(2), both(1)].concat(), "and nothing where nothing is changed");
    assert_eq!(place.audit()[4]["which"]["changes"], third["changes"]);
}

#[test]
fn init_changes_nothing_that_cannot_be_noted() {
    let endpoint = endpoint(Options::default());
    let place = place(&endpoint.url());
    let folder = place.path("folder");
    std::fs::create_dir(&folder).expect("a folder");
    let said = place.run(&["init", "--audit-log", folder.to_str().expect("a path")]);
    assert!(said.code == Some(1) && said.err.contains("audit log"), "{said:?}");
    assert!(endpoint.queue("orders-dead").is_none());
}

#[test]
fn doctor_notes_what_it_cannot_try_and_limits_that_were_chosen() {
    let endpoint = endpoint(Options::default());
    let place = place(&endpoint.url());
    place.json(&["init"]);
    let attributes = json!({ "MessageRetentionPeriod": "345600", "MaximumMessageSize": "262144" });
    let set = json!({ "QueueUrl": url(&endpoint, "orders"), "Attributes": attributes });
    ask(&endpoint, "SetQueueAttributes", &set);
    let (code, states) = states(&place);
    let noted = (&states["permissions"], &states["message size"], &states["retention"]);
    assert_eq!((code, noted), (Some(0), (&json!("note"), &json!("note"), &json!("note"))));
    let said = place.run(&["doctor"]).out;
    for part in ["sqs:SendMessage", "sqs:DeleteMessage", "262144", "MaximumMessageSize=1048576", "4d 0h", "1209600"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_peek_says_for_how_long_it_hides_and_whether_all_was_given_back() {
    let endpoint = endpoint(Options::default());
    let place = place(&endpoint.url());
    place.json(&["init"]);
    bury(&endpoint, 1..=3);
    for args in [&["peek", "--queue", "dead"][..], &["peek", "--queue", "dead", "--json"]] {
        let said = place.run(args);
        assert_eq!(
            (said.code, said.err.trim()),
            (
                Some(0),
                "note: looking hid these from the listeners for a moment, 30s at most, and counts as one receive of \
                 each; they were given back at once"
            )
        );
    }
    // Looking is no batch: only what gives back fails.
    endpoint.set_faults(Faults { entry_failure: 1.0, ..Faults::default() });
    let said = place.run(&["peek", "--queue", "dead"]);
    assert!(said.err.contains("not all were given back") && !said.err.contains("at once"), "{said:?}");
    assert!(said.err.contains("hidden for up to 30s"), "{said:?}");
    assert_eq!(endpoint.queue("orders-dead").expect("the queue").in_flight, 3);
}

#[test]
fn a_watch_that_is_piped_goes_on_once_the_endpoint_is_back() {
    let endpoint = endpoint(Options::default());
    let place = place(&endpoint.url());
    place.json(&["init"]);
    let mut watch = place.start(&["stats", "--watch", "1", "--json"]);
    let mut out = BufReader::new(watch.stdout.take().expect("output")).lines();
    let mut err = BufReader::new(watch.stderr.take().expect("errors")).lines();
    out.next().expect("a line").expect("text");
    endpoint.go_down();
    assert!(err.next().expect("a line").expect("text").contains("error: "));
    endpoint.come_back();
    let again: Value = serde_json::from_str(&out.next().expect("a line").expect("text")).expect("JSON");
    assert_eq!(again["backend"], "sqs");
    tell(&watch, "-TERM");
    assert_eq!(watch.wait().expect("ended").code(), Some(0));
}

#[test]
fn doctor_names_an_attribute_that_would_lose_events_and_how_to_mend_it() {
    let endpoint = endpoint(Options::default());
    let place = place(&endpoint.url());
    place.json(&["init"]);
    let attributes = json!({ "MessageRetentionPeriod": "3600" });
    ask(
        &endpoint,
        "SetQueueAttributes",
        &json!({ "QueueUrl": url(&endpoint, "orders-dead"), "Attributes": attributes }),
    );
    let said = place.run(&["doctor"]);
    assert_eq!(said.code, Some(3), "{said:?}");
    for part in ["3600 s", "1209600", "orders-dead", "mend it", "dawdle init"] {
        assert!(said.out.contains(part), "{part}: {said:?}");
    }
    place.json(&["init"]);
    assert_eq!(states(&place).0, Some(0), "init has mended it");
}

#[test]
fn doctor_notes_a_clock_that_is_off() {
    let endpoint = endpoint(Options { clock_ahead_ms: 90_000, ..Options::default() });
    let place = place(&endpoint.url());
    place.json(&["init"]);
    assert_eq!(states(&place).1["clock"], "note");
    endpoint.set_clock_ahead_ms(-900_000);
    assert_eq!((states(&place).0, &states(&place).1["clock"]), (Some(3), &json!("wrong")));
}

#[test]
fn an_endpoint_that_is_down_is_said_and_no_credential_with_it() {
    let endpoint = endpoint(Options::default());
    let place = place(&endpoint.url());
    endpoint.go_down();
    let said = place.run(&["doctor"]);
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.out.contains("DAWDLE_SQS_ENDPOINT_URL"), "{said:?}");
    assert!(!format!("{said:?}").contains("hidden-secret"));
}

#[test]
fn stats_counts_the_three_queues() {
    let endpoint = endpoint(Options::default());
    let place = place(&endpoint.url());
    place.json(&["init"]);
    bury(&endpoint, 1..=3);
    place.json(&["signal", "trial.ending", "{}"]);
    place.json(&["signal", "trial.ending", "{}", "--delay", "30d"]);
    let stats = &place.json(&["stats"])[0];
    let queues = stats["queues"].as_array().expect("queues");
    let shown: Vec<_> = queues.iter().map(|queue| (&queue["queue"], &queue["visible"])).collect();
    assert_eq!(json!(shown), json!([["message", 1], ["delay", 0], ["dead", 3]]));
    assert_eq!(queues[1]["delayed"], 1);
    assert_eq!(queues[0]["oldest_seconds"], Value::Null, "SQS does not say");
}

#[test]
fn queues_that_are_not_configured_are_not_counted() {
    let endpoint = endpoint(Options::default());
    place(&endpoint.url()).json(&["init"]);
    let url = url(&endpoint, "orders");
    let place = Place::with(&[
        ("DAWDLE_SQS_QUEUE_URL", &url),
        ("DAWDLE_SQS_ENDPOINT_URL", &endpoint.url()),
        ("DAWDLE_SQS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ]);
    let stats = &place.json(&["stats"])[0];
    assert_eq!(stats["queues"].as_array().map(Vec::len), Some(1), "{stats}");
    let (code, states) = states(&place);
    assert_eq!((code, &states["sender"], &states["listener"]), (Some(3), &json!("ok"), &json!("wrong")));
    assert_eq!(states["operator"], "note");
    let listed = place.run(&["dead", "list"]);
    assert!(listed.code == Some(1) && listed.err.contains("dead-letter queue"), "{listed:?}");
    let made = place.run(&["init"]);
    assert!(made.code == Some(1) && made.err.contains("DAWDLE_SQS_QUEUE"), "{made:?}");
}

#[test]
fn dead_letters_are_listed_replayed_and_purged_and_a_look_hides_none_for_long() {
    let endpoint = endpoint(Options::default());
    let place = place(&endpoint.url());
    place.json(&["init"]);
    bury(&endpoint, 1..=30);
    let hidden = || endpoint.queue("orders-dead").expect("the queue").in_flight;
    assert_eq!(place.json(&["dead", "list"])[0]["letters"], 30);
    assert_eq!(hidden(), 0, "a list gives back what it looked at");
    assert_eq!(place.json(&["peek", "--queue", "dead", "--limit", "25"]).len(), 25);
    assert_eq!(hidden(), 0, "and so does a peek");
    assert_eq!(place.json(&["dead", "show", &id(7)])[0]["data"], json!({ "number": 7 }));

    let report = &place.json(&["dead", "replay", "--kind", "order.placed", "--limit", "4"])[0];
    assert_eq!((&report["replayed"], &report["held_elsewhere"]), (&json!(4), &json!(0)));
    let purged = &place.json(&["dead", "purge", "--handler", "remind", "--yes"])[0];
    assert_eq!(purged["purged"], 20);
    assert_eq!(place.json(&["dead", "replay", "--all"])[0]["replayed"], 6);
    let total = |queue: &str| endpoint.queue(queue).expect("the queue").total();
    assert_eq!((total("orders-dead"), total("orders")), (0, 10));
    let seen = place.json(&["peek", "--limit", "100"]);
    assert!(seen.iter().all(|event| event["handler"] == "charge" && event["attempt"] == 1), "{seen:?}");
    assert_eq!(place.run(&["dead", "replay", "--all"]).code, Some(4));
}

#[test]
fn letters_that_a_killed_replay_held_are_said_to_be_held() {
    let endpoint = endpoint(Options::default());
    let place = place(&endpoint.url());
    place.json(&["init"]);
    bury(&endpoint, 1..=5);
    ask(
        &endpoint,
        "ReceiveMessage",
        &json!({ "QueueUrl": url(&endpoint, "orders-dead"), "MaxNumberOfMessages": 2, "VisibilityTimeout": 300 }),
    );
    let said = place.run(&["dead", "replay", "--all"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("3 replayed") && said.err.contains("2 dead letters are held"), "{said:?}");
    let none = place.run(&["dead", "replay", "--all"]);
    assert!(none.code == Some(4) && none.err.contains("2 are held"), "{none:?}");
    endpoint.set_clock_ahead_ms(301_000);
    assert_eq!(place.json(&["dead", "replay", "--all"])[0]["replayed"], 2);
}
