//! Several processes on SQS, one of them killed and one told to stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dawdle::backend::sqs::{SqsBackend, create_queues};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod common;
#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod engine;
#[allow(unreachable_pub, reason = "shared with the same on the local backend")]
#[path = "common/fleet.rs"]
mod fleet;

use engine::Queues;

/// Not a test: what the other processes run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() -> Result<()> {
    fleet::child().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_10_000_events_none_is_lost_when_one_listener_is_killed_and_one_stopped() -> Result<()> {
    let queues = Queues::new();
    create_queues(queues.options()).await?;
    // What the killed listener had in hand comes back after this: the least, in whole ten
    // seconds, that a receive's 25 allow.
    queues.set("", "VisibilityTimeout", "30").await;
    let backend = Arc::new(SqsBackend::connect(queues.options()).await?);
    let proof = fleet::loses_nothing(&queues.config(), backend, Duration::from_secs(240)).await;
    queues.delete().await;
    proof
}
