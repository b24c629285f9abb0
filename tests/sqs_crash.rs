//! A process on SQS is killed at each of Dawdle's crash points.

use std::time::Duration;

use anyhow::Result;
use dawdle::backend::sqs::{SqsBackend, SqsOptions, create_queues};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod common;
#[allow(unreachable_pub, reason = "shared with the same on the local backend")]
#[path = "common/crash.rs"]
mod crash;
#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod engine;

use engine::Queues;

/// Not a test: what the other processes run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() -> Result<()> {
    crash::child(async |config| {
        let (receive_wait, receive_margin) = (Duration::from_secs(1), Duration::from_millis(900));
        Ok(SqsBackend::connect(SqsOptions { receive_wait, receive_margin, ..config.into() }).await?)
    })
    .await
}

#[test]
fn a_process_that_is_killed_at_any_point_loses_nothing() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    crash::survives_a_crash_at_every_point(
        |point| !point.starts_with("local."),
        |_| {
            runtime.block_on(async {
                let queues = Queues::new();
                create_queues(queues.options()).await?;
                for suffix in ["", "-delay"] {
                    queues.set(suffix, "VisibilityTimeout", &crash::LEASE.as_secs().to_string()).await;
                }
                Ok(queues.config())
            })
        },
    )
}
