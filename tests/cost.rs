//! What `dawdle::cost` estimates is what is counted.
#![cfg(feature = "testing")]

use std::time::{Duration, SystemTime};

use dawdle::cost::{Load, estimate};
use dawdle::testing::Harness;
use dawdle::{Config, Event, Outcome, handlers};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "cost.single")]
struct Single {
    text: String,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "cost.packed", pack)]
struct Packed {
    text: String,
}

#[dawdle::handler]
async fn single(_: &Single) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn packed(_: &Packed) -> Outcome {
    Ok(())
}

/// What the events of a load are counted to cost, for each: requests, and what is billed.
async fn counted(load: &Load, events: u32) -> (f64, f64) {
    let config = Config { ack_linger: Some(Duration::from_millis(50)), ..Config::default() };
    let builder = Harness::builder().discover(false).handlers(handlers![single, packed]).config(config);
    let test = builder.start().await.unwrap();
    let text = || "x".repeat(load.payload_bytes - r#"{"text":""}"#.len());
    // In the middle of a second, for all of them.
    let now = test.now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    test.advance(Duration::from_secs(1) - Duration::from_nanos(now.subsec_nanos().into())).await;
    let due = test.now() + load.delay;
    let before = test.dawdle().usage();
    for _ in 0..events / load.together {
        for _ in 0..load.together {
            let signalled = match load.packed {
                true => test.signal(Packed { text: text() }).at(due).buffered().await,
                false => test.signal(Single { text: text() }).at(due).buffered().await,
            };
            signalled.unwrap();
        }
        test.advance(Duration::from_millis(200)).await;
    }
    test.advance(load.delay + Duration::from_secs(1)).await;
    assert_eq!(test.runs("single") + test.runs("packed"), events as usize);
    let spent = test.dawdle().usage().since(&before);
    let (requests, billed) = (spent.requests() - spent.empty_receives, spent.billed - spent.empty_receives);
    (requests as f64 / f64::from(events), billed as f64 / f64::from(events))
}

#[tokio::test]
async fn an_estimate_is_within_a_fifth_of_what_is_counted() {
    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    let load = Load::default();
    let loads = [
        (Load { ..load }, 20),
        (Load { payload_bytes: 100_000, ..load }, 20),
        (Load { together: 1_000, ..load }, 3_000),
        (Load { together: 5, ..load }, 50),
        (Load { together: 3_000, packed: true, ..load }, 9_000),
        (Load { together: 40, packed: true, ..load }, 400),
        (Load { delay: hours(24), ..load }, 1),
        (Load { delay: hours(24), together: 1_000, ..load }, 1_000),
        (Load { delay: hours(24 * 13), ..load }, 1),
        (Load { delay: hours(2), together: 3_000, packed: true, ..load }, 3_000),
    ];
    for (load, events) in loads {
        let (requests, billed) = counted(&load, events).await;
        let estimate = estimate(&load);
        for (estimated, counted) in [(estimate.requests_per_event, requests), (estimate.billed_per_event, billed)] {
            let share = estimated / counted;
            assert!((0.8..=1.25).contains(&share), "{load:?}: {estimated} estimated, {counted} counted");
        }
    }
}

#[tokio::test]
async fn a_day_ahead_costs_ten_requests_alone_and_hardly_more_than_one_in_a_crowd() {
    let load = Load { delay: Duration::from_secs(86_400), ..Load::default() };
    let (alone, _) = counted(&load, 1).await;
    let (in_a_crowd, _) = counted(&Load { together: 1_000, ..load }, 1_000).await;
    assert!(alone <= 10.0 && in_a_crowd <= 1.05, "{alone} and {in_a_crowd}");
}

#[tokio::test]
async fn an_idle_node_asks_what_is_estimated() {
    // A receive on the model waits for as long as there is nothing; SQS's ends after 20 seconds.
    let idle = estimate(&Load { nodes: 1, ..Load::default() }).idle_requests_per_month;
    let per_minute = idle / (30.0 * 24.0 * 60.0);
    assert!((3.2..=3.3).contains(&per_minute), "{per_minute}");
    let config = Config { ack_linger: Some(Duration::from_millis(50)), ..Config::default() };
    let builder = Harness::builder().discover(false).handlers(handlers![single, packed]).config(config);
    let test = builder.start().await.unwrap();
    test.advance(Duration::from_secs(600)).await;
    let before = test.dawdle().usage();
    test.advance(Duration::from_secs(86_400)).await;
    let looks = test.dawdle().usage().since(&before).empty_receives;
    assert!((350..=420).contains(&looks), "{looks} looks at the delay queue in a day");
}
