//! Of an event's handlers only the one that failed runs again, on SQS.

use anyhow::Result;
use dawdle::backend::sqs::{SqsBackend, create_queues};
use dawdle::{BackendKind, Config};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod common;
#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod engine;
#[allow(dead_code, unreachable_pub, reason = "shared with the same on other backends")]
#[path = "common/three_handlers.rs"]
mod three;

use engine::{Queues, endpoint};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqs_of_three_handlers_only_the_one_that_failed_runs_again() -> Result<()> {
    let queues = Queues::new();
    create_queues(queues.options()).await?;
    let backend = SqsBackend::connect(queues.options()).await?;
    let config = Config {
        backend: Some(BackendKind::Sqs),
        sqs_queue: Some(queues.name.clone()),
        sqs_endpoint_url: Some(endpoint()),
        sqs_region: Some("us-east-1".to_owned()),
        ..Config::default()
    };
    let proof = three::only_the_one_that_failed_runs_again(config, &backend).await;
    queues.delete().await;
    proof
}
