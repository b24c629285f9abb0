//! Of an event's handlers only the one that failed runs again, and a replay reaches only that one, in
//! memory and on a file.
#![cfg(all(feature = "local", feature = "testing"))]

use std::time::Duration;

use anyhow::{Result, ensure};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod common;
#[allow(dead_code, unreachable_pub, reason = "shared with the same on SQS")]
#[path = "common/replay.rs"]
mod replay;
#[allow(dead_code, unreachable_pub, reason = "shared with the same on SQS")]
#[path = "common/three_handlers.rs"]
mod three;

#[tokio::test]
async fn in_memory_of_three_handlers_only_the_one_that_failed_runs_again() -> Result<()> {
    let runs = three::Runs::default();
    let builder = dawdle::testing::Harness::builder().discover(false).handlers(three::handlers());
    let test = builder.state(runs.clone()).start().await?;
    test.signal(three::Order { slow_siblings: false }).await?;
    test.drain().await;
    ensure!(runs.seen(false) == [1, 1, 1], "{:?}", runs.seen(false));
    test.advance(Duration::from_secs(3)).await;
    ensure!(runs.seen(false) == [3, 1, 1], "{:?}", runs.seen(false));
    test.advance(Duration::from_secs(86_400)).await;
    ensure!(runs.seen(false) == [3, 1, 1], "{:?}", runs.seen(false));
    ensure!(test.dead_letters().await.is_empty());
    Ok(())
}

/// A queue in a file of its own, and the configuration that names it.
async fn fresh(folder: &tempfile::TempDir) -> Result<(dawdle::backend::local::LocalBackend, dawdle::Config)> {
    use dawdle::backend::local::{LocalBackend, LocalOptions};
    let path = folder.path().join("queue.db");
    let backend = LocalBackend::open(&path, LocalOptions::default()).await?;
    let config = dawdle::Config {
        backend: Some(dawdle::BackendKind::Local),
        local_path: Some(path),
        ..dawdle::Config::default()
    };
    Ok((backend, config))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_file_of_three_handlers_only_the_one_that_failed_runs_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (backend, config) = fresh(&folder).await?;
    three::only_the_one_that_failed_runs_again(config, &backend).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_file_a_replay_reaches_only_the_handler_that_failed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (backend, config) = fresh(&folder).await?;
    replay::reaches_only_the_handler_that_failed(config, &backend).await
}
