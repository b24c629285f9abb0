//! Of an event's handlers only the one that failed runs again, and a replay reaches only that one,
//! on SQS.

use anyhow::Result;
use dawdle::Config;
use dawdle::backend::sqs::{SqsBackend, create_queues};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod common;
#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod engine;
#[allow(dead_code, unreachable_pub, reason = "shared with the same on other backends")]
#[path = "common/replay.rs"]
mod replay;
#[allow(dead_code, unreachable_pub, reason = "shared with the same on other backends")]
#[path = "common/three_handlers.rs"]
mod three;

use engine::Queues;

async fn fresh() -> Result<(Queues, SqsBackend, Config)> {
    let queues = Queues::new();
    create_queues(queues.options()).await?;
    let backend = SqsBackend::connect(queues.options()).await?;
    let config = queues.config();
    Ok((queues, backend, config))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqs_of_three_handlers_only_the_one_that_failed_runs_again() -> Result<()> {
    let (queues, backend, config) = fresh().await?;
    let proof = three::only_the_one_that_failed_runs_again(config, &backend).await;
    queues.delete().await;
    proof
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqs_a_replay_reaches_only_the_handler_that_failed() -> Result<()> {
    let (queues, backend, config) = fresh().await?;
    let proof = replay::reaches_only_the_handler_that_failed(config, &backend).await;
    queues.delete().await;
    proof
}
