//! 10,000 dead letters replayed on an SQS engine, the program killed in the middle.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dawdle::backend::sqs::{SqsBackend, SqsOptions};
use dawdle::backend::{Backend as _, Delivery, Lane, Outgoing};
use futures_util::StreamExt as _;
use serde_json::Value;

use common::replay::{Queues, loses_none};
use common::sqs;

mod common;

/// Queues of an engine.
struct Engine(SqsBackend);

impl Queues for Engine {
    async fn bury(&self, bodies: Vec<String>) {
        let messages: Vec<Outgoing> = bodies.into_iter().map(Outgoing::new).collect();
        let sent = messages.chunks(10).map(|batch| self.0.send(Lane::Dead, batch));
        let sent: Vec<_> = futures_util::stream::iter(sent).buffer_unordered(8).collect().await;
        assert!(sent.into_iter().flatten().all(|sent| sent.is_ok()));
    }

    async fn totals(&self) -> (u64, u64) {
        let message = self.0.inspect(Lane::Message).await.expect("counts");
        (message.total(), self.0.inspect(Lane::Dead).await.expect("counts").total())
    }

    async fn events(&self) -> Vec<Value> {
        let mut taken: Vec<Delivery> = Vec::new();
        loop {
            let looks = (0..8).map(|_| self.0.browse(Lane::Message, 10, Duration::from_secs(600)));
            let found = futures_util::future::join_all(looks).await;
            let found: Vec<Delivery> = found.into_iter().flat_map(|found| found.expect("a look")).collect();
            if found.is_empty() {
                return taken.iter().map(|found| serde_json::from_str(&found.body).expect("an event")).collect();
            }
            taken.extend(found);
        }
    }

    /// The engine's time cannot be moved: what was held is counted instead.
    async fn outlast_the_hold(&self) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_10_000_dead_letters_none_is_lost_by_a_kill() {
    let endpoint = std::env::var("TEST_SQS_ENDPOINT_URL").unwrap_or_else(|_| {
        panic!(
            "TEST_SQS_ENDPOINT_URL is not set: run `./test`, or `localstack/engine run -- cargo test --all-features`"
        )
    });
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_nanos();
    let name = format!("replay-{since}");
    let place = sqs::place_of(&name, &endpoint);
    place.json(&["init"]);
    let options = SqsOptions {
        queue: Some(name),
        endpoint_url: Some(endpoint),
        region: Some("us-east-1".to_owned()),
        ..SqsOptions::default()
    };
    loses_none(&place, &Engine(SqsBackend::connect(options).await.expect("connected"))).await;
}
