//! A process on SQS is killed at each of Dawdle's crash points.

use std::time::Duration;

use anyhow::{Context, Result};
use dawdle::backend::sqs::{SqsBackend, SqsOptions};

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
    let endpoint = sqs_model::Endpoint::start(sqs_model::Options::default())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    crash::survives_a_crash_at_every_point(
        |point| !point.starts_with("local."),
        |folder| {
            runtime.block_on(async {
                let name = folder.file_name().context("no name")?.to_string_lossy().replace('.', "run-");
                let queues = Queues::at(endpoint.url(), name);
                let lease = crash::LEASE.as_secs().to_string();
                for suffix in ["", "-delay", "-dead"] {
                    let attributes = [("VisibilityTimeout", lease.as_str()), ("MessageRetentionPeriod", "1209600")];
                    queues.create(suffix, &attributes).await;
                }
                Ok(queues.config())
            })
        },
    )
}
