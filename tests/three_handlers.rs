//! Of an event's handlers only the one that failed runs again, in memory and on a file.
#![cfg(all(feature = "local", feature = "testing"))]

use std::time::Duration;

use anyhow::{Result, ensure};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod common;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_file_of_three_handlers_only_the_one_that_failed_runs_again() -> Result<()> {
    use dawdle::backend::local::{LocalBackend, LocalOptions};
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("queue.db");
    let backend = LocalBackend::open(&path, LocalOptions::default()).await?;
    let config = dawdle::Config {
        backend: Some(dawdle::BackendKind::Local),
        local_path: Some(path),
        ..dawdle::Config::default()
    };
    three::only_the_one_that_failed_runs_again(config, &backend).await
}
