//! Of three handlers of an event, one fails twice: the others run once, that one three times.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use dawdle::backend::{Backend, Lane};
use dawdle::{Config, Context, Dawdle, Event, Outcome, Registration, State};
use serde::{Deserialize, Serialize};

use crate::common::until;

/// Whether the handlers that succeed take until the first retry of the one that does not, which
/// then happens on the node.
#[derive(Serialize, Deserialize, Event)]
#[event(kind = "three.order")]
pub struct Order {
    pub slow_siblings: bool,
}

/// How often each handler has run, for either sort of order.
#[derive(Clone, Default)]
pub struct Runs(Arc<[[AtomicU32; 3]; 2]>);

impl Runs {
    fn add(&self, order: &Order, handler: usize) -> u32 {
        self.0[usize::from(order.slow_siblings)][handler].fetch_add(1, Relaxed) + 1
    }

    pub fn seen(&self, slow_siblings: bool) -> [u32; 3] {
        [0, 1, 2].map(|handler| self.0[usize::from(slow_siblings)][handler].load(Relaxed))
    }
}

#[dawdle::handler(backoff = "1s", attempts = 5)]
async fn fails_twice(event: &Order, cx: &Context, runs: State<Runs>) -> Outcome {
    let run = runs.add(event, 0);
    assert_eq!(run, cx.attempt());
    if run < 3 { Err("not yet")? } else { Ok(()) }
}

#[dawdle::handler]
async fn charges(event: &Order, runs: State<Runs>) -> Outcome {
    succeed(event, &runs, 1).await
}

#[dawdle::handler]
async fn thanks(event: &Order, runs: State<Runs>) -> Outcome {
    succeed(event, &runs, 2).await
}

async fn succeed(event: &Order, runs: &Runs, handler: usize) -> Outcome {
    if event.slow_siblings {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }
    runs.add(event, handler);
    Ok(())
}

pub fn handlers() -> Vec<Registration> {
    dawdle::handlers![fails_twice, charges, thanks]
}

/// Proves it on the queues that `config` names and `backend` looks at.
pub async fn only_the_one_that_failed_runs_again(config: Config, backend: &dyn Backend) -> Result<()> {
    let runs = Runs::default();
    let builder = Dawdle::builder().config(config).discover(false).handlers(handlers());
    let dawdle = builder.state(runs.clone()).start().await?;
    for slow_siblings in [false, true] {
        dawdle.signal(Order { slow_siblings }).await?;
        until(Duration::from_secs(30), "every handler has finished, and the queue is empty", async || {
            let all = runs.seen(slow_siblings).iter().sum::<u32>() >= 5;
            Ok(all && backend.inspect(Lane::Message).await?.total() == 0)
        })
        .await?;
        let seen = runs.seen(slow_siblings);
        println!("{}, slow siblings {slow_siblings}: {seen:?}", backend.name());
        ensure!(seen == [3, 1, 1], "{seen:?}");
        ensure!(backend.inspect(Lane::Dead).await?.total() == 0);
    }
    dawdle.shutdown().await;
    Ok(())
}
