//! A process on one SQLite file is killed at each of Dawdle's crash points.

use std::time::Duration;

use anyhow::{Context, Result};
use dawdle::backend::local::{LocalBackend, LocalOptions};
use dawdle::{BackendKind, Config};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod common;
#[allow(unreachable_pub, reason = "shared with the same on SQS")]
#[path = "common/crash.rs"]
mod crash;

/// Not a test: what the other processes run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() -> Result<()> {
    crash::child(async |config| {
        let path = config.local_path.as_ref().context("no path")?;
        let receive_wait = Duration::from_secs(1);
        let mut options = LocalOptions::default();
        (options.lease, options.receive_wait) = (crash::LEASE, receive_wait);
        Ok(LocalBackend::open(path, options).await?)
    })
    .await
}

#[test]
fn a_process_that_is_killed_at_any_point_loses_nothing() -> Result<()> {
    crash::survives_a_crash_at_every_point(
        |point| !point.starts_with("sqs."),
        |folder| {
            let local_path = Some(folder.join("queue.db"));
            Ok(Config { backend: Some(BackendKind::Local), local_path, ..Config::default() })
        },
    )
}
