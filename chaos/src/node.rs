//! What the processes of a run do: listen, or signal.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use dawdle::{Config, Dawdle};
use tokio::task::JoinSet;

use crate::events::{Stage, handlers, signal};
use crate::ledger::{Ledger, Record, What};
use crate::memory;
use crate::process::{Role, Told};
use crate::witness::Witness;

/// Handlers at once on one node.
const CONCURRENCY: usize = 48;

/// Events that are signalled together, and how many such batches are under way.
const CHUNK: u64 = 250;
const CHUNKS_AT_ONCE: usize = 8;

/// How often a process notes what it has spent: what it spends after that is not known of one that is killed.
const METER_EVERY: Duration = Duration::from_millis(500);

/// For how long a process tries to start: the endpoint may be down, or refuse its credentials.
const STARTING: Duration = Duration::from_secs(60);

/// Plays a role to its end.
pub(crate) async fn play(told: Told) -> Result<()> {
    match told.role {
        Role::Endpoint => return memory::keep_endpoint(&told).await,
        Role::Drip { pause_ms } => return memory::listen(&told, Duration::from_millis(pause_ms)).await,
        Role::Node | Role::Sender { .. } => {}
    }
    let plan = Arc::new(told.plan.clone());
    let ledger = Arc::new(Ledger::open(&told.ledger, plan.clock_ahead_ms)?);
    let stage = Stage { plan, ledger };
    let dawdle = start(&told, &stage).await?;
    let played = async {
        match told.role {
            Role::Sender { from, began } => send(&dawdle, &stage, from, began).await,
            _ => Ok(dawdle.run().await?),
        }
    };
    let metered = async {
        loop {
            tokio::time::sleep(METER_EVERY).await;
            stage.ledger.write(&[spent(&dawdle, &stage.ledger)]);
        }
    };
    let ended = tokio::select! {
        ended = played => ended,
        () = metered => Ok(()),
    };
    stage.ledger.write(&[spent(&dawdle, &stage.ledger)]);
    ended
}

/// What this process's spend meter shows.
fn spent(dawdle: &Dawdle, ledger: &Ledger) -> Record {
    let usage = dawdle.usage();
    let (what, event, extra) = (What::Spent, usage.requests(), usage.billed);
    Record { what, handler: None, attempt: 0, event, at: ledger.now(), extra }
}

async fn start(told: &Told, stage: &Stage) -> Result<Dawdle> {
    let begun = SystemTime::now();
    loop {
        let error = match try_start(told, stage).await {
            Ok(dawdle) => return Ok(dawdle),
            Err(error) => error,
        };
        if begun.elapsed().unwrap_or_default() > STARTING {
            bail!(error);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn try_start(told: &Told, stage: &Stage) -> dawdle::Result<Dawdle> {
    let backend = told.place.open(&told.plan).await?;
    let config = Config {
        concurrency: Some(CONCURRENCY),
        max_receives: Some(told.plan.max_receives),
        start_timeout: Some(Duration::from_secs(10)),
        shutdown_timeout: Some(Duration::from_secs(8)),
        send_timeout: Some(Duration::from_secs(8)),
        ..Config::default()
    };
    let builder = Dawdle::builder().config(config).backend(Witness::new(backend, Arc::clone(&stage.ledger)));
    builder.discover(false).handlers(handlers()).state(stage.clone()).listener(told.role == Role::Node).start().await
}

/// Signals the events at the plan's rate, each due as planned from when it is signalled.
async fn send(dawdle: &Dawdle, stage: &Stage, from: u64, began: SystemTime) -> Result<()> {
    let plan = &stage.plan;
    let mut next = from;
    let mut under_way = JoinSet::new();
    while next < plan.events {
        let due_by_now = began.elapsed().unwrap_or_default().as_secs_f64() * plan.rate;
        let until = (due_by_now as u64).min(plan.events).min(next + CHUNK);
        if until < next + CHUNK.min(plan.events - next) && due_by_now < next as f64 + plan.rate / 20.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        while under_way.len() >= CHUNKS_AT_ONCE {
            under_way.join_next().await.transpose()?;
        }
        let now = stage.ledger.now();
        let chunk: Vec<(u64, u64, bool)> = (next..until)
            .map(|n| {
                let delay = plan.delay(n);
                // Due times are whole milliseconds on the wire, rounded up.
                let due = (now + u64::try_from(delay.as_micros()).unwrap_or(0)).div_ceil(1_000) * 1_000;
                (n, if delay.is_zero() { now } else { due }, !delay.is_zero())
            })
            .collect();
        let record = move |what, n, due| Record { what, handler: None, attempt: 0, event: n, at: now, extra: due };
        stage.ledger.write(&chunk.iter().map(|(n, due, _)| record(What::Intended, *n, *due)).collect::<Vec<_>>());
        let (dawdle, stage) = (dawdle.clone(), stage.clone());
        under_way.spawn(async move {
            let signals =
                chunk.iter().map(|(n, due, delayed)| signal(&dawdle, stage.plan.kind(*n), *n, *due, *delayed));
            let answers = futures_util::future::join_all(signals).await;
            let answered = chunk.iter().zip(answers).map(|((n, due, _), answer)| match answer {
                Ok(_) => record(What::Confirmed, *n, *due),
                Err(error) if error.maybe_sent() => record(What::Unsure, *n, *due),
                Err(_) => record(What::Refused, *n, *due),
            });
            stage.ledger.write(&answered.collect::<Vec<_>>());
        });
        next = until;
    }
    while under_way.join_next().await.transpose()?.is_some() {}
    dawdle.shutdown().await;
    Ok(())
}
