//! `dawdle bench` measures, on queues of its own, and leaves nothing behind.

use serde_json::json;
use sqs_model::{Endpoint, Options};

use common::{Place, sqs};

mod common;

fn left_of_it(place: &Place) -> usize {
    let entries = std::fs::read_dir(place.path("")).expect("a folder");
    entries.filter(|entry| entry.as_ref().expect("an entry").file_name().to_string_lossy().contains("bench")).count()
}

#[test]
fn a_local_file_is_measured_beside_the_applications_own() {
    let place = Place::local();
    place.json(&["init"]);
    place.json(&["signal", "trial.ending", "{}"]);
    let measured = &place.json(&["bench", "--events", "300", "--payload", "50"])[0];
    assert_eq!((&measured["events"], &measured["payload_bytes"]), (&json!(300), &json!(50)));
    for rate in ["in_per_second", "out_per_second"] {
        assert!(measured[rate].as_f64().is_some_and(|rate| rate > 0.0), "{measured}");
    }
    let at = |part: &str| measured["latency_ms"][part].as_f64().expect("a latency");
    assert!(0.0 < at("p50") && at("p50") <= at("p95") && at("p95") <= at("p99"), "{measured}");
    assert_eq!(left_of_it(&place), 0);
    assert_eq!(place.json(&["stats"])[0]["queues"][0]["visible"], 1, "what the application has there stays");
    assert_eq!(place.run(&["bench", "--queue", "x"]).code, Some(2));
}

#[test]
fn a_bench_that_is_told_to_stop_leaves_nothing_behind() {
    let place = Place::local();
    place.json(&["init"]);
    let bench = place.start(&["bench", "--events", "1000000"]);
    while left_of_it(&place) == 0 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    let told = std::process::Command::new("kill").args(["-INT", &bench.id().to_string()]).status().expect("kill");
    assert!(told.success());
    let said = common::said(bench.wait_with_output().expect("ended"));
    assert!(said.code == Some(1) && said.err.contains("told to stop"), "{said:?}");
    assert_eq!(left_of_it(&place), 0);
}

#[test]
fn on_sqs_it_asks_and_takes_only_queues_that_are_nobody_elses() {
    let endpoint = Endpoint::start(Options::default()).expect("an endpoint");
    let place = sqs::place(&endpoint.url());
    place.json(&["init"]);
    let made = place.command(&["init"]).env("DAWDLE_SQS_QUEUE", "measured").output().expect("the program");
    assert!(made.status.success());
    for args in [
        &["bench", "--yes"][..],
        &["bench", "--yes", "--queue", "orders"],
        &["bench", "--yes", "--queue", "orders-dead"],
    ] {
        let refused = place.run(args);
        assert_eq!(refused.code, Some(2), "{args:?}: {refused:?}");
    }
    let unasked = place.run(&["bench", "--queue", "measured"]);
    assert!(unasked.code == Some(2) && unasked.err.contains("--yes"), "{unasked:?}");

    let measured = &place.json(&["bench", "--yes", "--queue", "measured", "--events", "1000"])[0];
    let requests = measured["requests_per_event"].as_f64().expect("requests");
    assert!((0.2..=3.0).contains(&requests), "{measured}");
    assert!(measured["dollars"].as_f64().is_some_and(|dollars| dollars > 0.0));
    let total = |queue: &str| endpoint.queue(queue).expect("the queue").total();
    assert_eq!((total("measured"), total("measured-dead"), total("orders")), (0, 0, 0));

    sqs::put(&endpoint, "measured", &["somebody's".to_owned()]);
    let refused = place.run(&["bench", "--yes", "--queue", "measured"]);
    assert!(refused.code == Some(1) && refused.err.contains("not empty"), "{refused:?}");
    assert_eq!(total("measured"), 1);
}
