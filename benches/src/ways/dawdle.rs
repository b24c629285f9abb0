//! Dawdle: typed events, a handler, and the settings that it comes with.

use anyhow::Result;
use dawdle::backend::sqs::SqsBackend;
use dawdle::{Builder, Config, Dawdle, Envelope, Outcome};

use crate::cue::{ready, told_to_stop};
use crate::endpoint;
use crate::event::Order;
use crate::meter::Meter;
use crate::task::{Measured, Phase, Task};

#[dawdle::handler]
pub(crate) async fn handle(_: &Order) -> Outcome {
    Ok(())
}

/// Consumes with `at_once` handlers: as many as there are events in the hands of the loop.
pub(crate) async fn play(task: &Task, pack: bool) -> Result<Measured> {
    let backend = SqsBackend::connect(endpoint::options(&task.place)).await?;
    let dawdle = builder(task, pack)?.backend(backend).start().await?;
    match task.phase {
        Phase::Produce => produce(&dawdle, task.events).await,
        Phase::Consume => consume(&dawdle).await,
    }
}

/// Does not listen yet, so that connecting can be told from consuming.
pub(crate) fn builder(task: &Task, pack: bool) -> Result<Builder> {
    let config = Config {
        concurrency: Some(task.at_once),
        pack: Some(pack),
        // As in the body that the others send.
        source: Some(Envelope::new(Order::new())?.source().to_owned()),
        ..Config::default()
    };
    let handlers = match task.phase {
        Phase::Produce => Vec::new(),
        Phase::Consume => dawdle::handlers![handle],
    };
    Ok(Dawdle::builder().config(config).discover(false).handlers(handlers).listener(false))
}

async fn produce(dawdle: &Dawdle, events: u64) -> Result<Measured> {
    ready().await?;
    let meter = Meter::start();
    for signalled in dawdle.signal_all((0..events).map(|_| Order::new())).await {
        signalled?;
    }
    meter.read()
}

async fn consume(dawdle: &Dawdle) -> Result<Measured> {
    ready().await?;
    dawdle.start_listener().await?;
    let meter = Meter::start();
    told_to_stop().await?;
    meter.read()
}
