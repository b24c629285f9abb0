//! Dawdle on the local file: events signalled from many tasks, and a handler.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use dawdle::Dawdle;
use dawdle::backend::local::{LocalBackend, LocalOptions};
use tokio::task::JoinSet;

use super::dawdle::builder;
use crate::cue::{ready, told_to_stop};
use crate::event::Order;
use crate::meter::Meter;
use crate::task::{Measured, Phase, Task};

/// Produces from `at_once` tasks, each of which waits for its event; consumes with as many handlers.
pub(crate) async fn play(task: &Task) -> Result<Measured> {
    let backend = LocalBackend::open(&task.place, LocalOptions::default()).await?;
    let dawdle = builder(task, false)?.backend(backend).start().await?;
    ready().await?;
    let meter = Meter::start();
    match task.phase {
        Phase::Produce => produce(&dawdle, task).await?,
        Phase::Consume => {
            dawdle.start_listener().await?;
            told_to_stop().await?;
        }
    }
    let measured = meter.read()?;
    dawdle.shutdown().await;
    Ok(measured)
}

async fn produce(dawdle: &Dawdle, task: &Task) -> Result<()> {
    let left = Arc::new(AtomicU64::new(task.events));
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..task.at_once {
        let (dawdle, left) = (dawdle.clone(), left.clone());
        tasks.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                dawdle.signal(Order::new()).await?;
            }
            Ok(())
        });
    }
    tasks.join_all().await.into_iter().collect()
}
