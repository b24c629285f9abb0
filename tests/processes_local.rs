//! Several processes on one SQLite file, one of them killed and one told to stop.
#![cfg(feature = "local")]

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dawdle::backend::local::{LocalBackend, LocalOptions};
use dawdle::{BackendKind, Config};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod common;
#[allow(unreachable_pub, reason = "shared with the same on SQS")]
#[path = "common/fleet.rs"]
mod fleet;

/// Not a test: what the other processes run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() -> Result<()> {
    fleet::child().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_10_000_events_none_is_lost_when_one_listener_is_killed_and_one_stopped() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("queue.db");
    let config = Config { backend: Some(BackendKind::Local), local_path: Some(path.clone()), ..Config::default() };
    let backend = Arc::new(LocalBackend::open(path, LocalOptions::default()).await?);
    fleet::loses_nothing(&config, backend, Duration::from_secs(120)).await
}
