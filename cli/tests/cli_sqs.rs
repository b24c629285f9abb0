//! The command line on SQS: queues created, examined, counted, and their dead letters replayed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};
use sqs_model::{Endpoint, Options};

use common::{Place, id, letter};

mod common;

fn endpoint(options: Options) -> Endpoint {
    Endpoint::start(options).expect("an endpoint")
}

/// A folder whose environment names queues there.
fn place(url: &str) -> Place {
    Place::with(&[
        ("DAWDLE_SQS_QUEUE", "orders"),
        ("DAWDLE_SQS_ENDPOINT_URL", url),
        ("DAWDLE_SQS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "hidden-secret"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ])
}

/// Asks the endpoint itself.
fn ask(endpoint: &Endpoint, action: &str, body: &Value) -> Value {
    let body = body.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", endpoint.port())).expect("a connection");
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/x-amz-json-1.0\r\n\
         X-Amz-Target: AmazonSQS.{action}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    if body.is_empty() { Value::Null } else { serde_json::from_str(body).expect("JSON") }
}

fn url(endpoint: &Endpoint, queue: &str) -> String {
    format!("{}/000000000000/{queue}", endpoint.url())
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
    let all =
        ["configuration", "sender", "listener", "operator", "message queue", "delay queue", "dead queue", "clock"];
    let expected: Value = all.iter().map(|check| ((*check).to_owned(), json!("ok"))).collect();
    assert_eq!((code, after), (Some(0), expected));
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
