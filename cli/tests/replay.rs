//! 10,000 dead letters replayed on a local file and on the model of SQS, the program killed in the middle.

use dawdle::backend::Lane;
use serde_json::Value;
use sqs_model::{Endpoint, Options};

use common::replay::{Queues, loses_none};
use common::{Place, Queue, sqs};

mod common;

impl Queues for Queue {
    async fn bury(&self, bodies: Vec<String>) {
        self.put(Lane::Dead, bodies).await;
    }

    async fn totals(&self) -> (u64, u64) {
        (self.stats(Lane::Message).await.total(), self.stats(Lane::Dead).await.total())
    }

    async fn events(&self) -> Vec<Value> {
        Queue::events(self, Lane::Message).await
    }

    /// The owner is gone, which the file notices by itself.
    async fn outlast_the_hold(&self) {}
}

impl Queues for Endpoint {
    async fn bury(&self, bodies: Vec<String>) {
        sqs::put(self, "orders-dead", &bodies);
    }

    async fn totals(&self) -> (u64, u64) {
        let total = |queue: &str| self.queue(queue).expect("the queue").total();
        (total("orders"), total("orders-dead"))
    }

    async fn events(&self) -> Vec<Value> {
        sqs::take(self, "orders")
    }

    async fn outlast_the_hold(&self) {
        self.set_clock_ahead_ms(301_000);
    }
}

#[tokio::test]
async fn of_10_000_dead_letters_none_is_lost_by_a_kill_on_a_local_file() {
    let place = Place::local();
    let queue = place.queue().await;
    loses_none(&place, &queue).await;
    assert_eq!(queue.totals().await.1, 0);
}

#[tokio::test]
async fn of_10_000_dead_letters_none_is_lost_by_a_kill_on_sqs() {
    let endpoint = Endpoint::start(Options::default()).expect("an endpoint");
    let place = sqs::place(&endpoint.url());
    place.json(&["init"]);
    loses_none(&place, &endpoint).await;
    assert_eq!(endpoint.totals().await.1, 0);
}
