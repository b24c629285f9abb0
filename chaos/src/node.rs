//! What the processes of a run do: listen, or signal.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use dawdle::{Config, Dawdle};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::events::{Signalled, Stage, handlers, signal};
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
        delay_poll: Some(Duration::from_secs(1)),
        ..Config::default()
    };
    let builder = Dawdle::builder().config(config).backend(Witness::new(backend, stage));
    builder.discover(false).handlers(handlers()).state(stage.clone()).listener(told.role == Role::Node).start().await
}

/// Signals the events at the plan's rate, each due as planned from when it is signalled.
async fn send(dawdle: &Dawdle, stage: &Stage, from: u64, began: SystemTime) -> Result<()> {
    let plan = &stage.plan;
    let mut next = from;
    let mut under_way = JoinSet::new();
    // What a flush answers is about everything in the buffer: one batch at a time.
    let buffer = Arc::new(Mutex::new(()));
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
        let chunk: Vec<Signalled> = (next..until)
            .map(|n| {
                let delay = plan.delay(n);
                // Due times are whole milliseconds on the wire, rounded up.
                let due = (now + u64::try_from(delay.as_micros()).unwrap_or(0)).div_ceil(1_000) * 1_000;
                let delayed = !delay.is_zero();
                Signalled { n, due: if delayed { due } else { now }, delayed, buffered: plan.is_buffered(n) }
            })
            .collect();
        let record = move |what, it: &Signalled| {
            let Signalled { n, due, .. } = *it;
            Record { what, handler: None, attempt: 0, event: n, at: now, extra: due }
        };
        stage.ledger.write(&chunk.iter().map(|it| record(What::Intended, it)).collect::<Vec<_>>());
        let (dawdle, stage, buffer) = (dawdle.clone(), stage.clone(), Arc::clone(&buffer));
        under_way.spawn(async move {
            let (buffered, durable): (Vec<Signalled>, Vec<Signalled>) = chunk.into_iter().partition(|it| it.buffered);
            let answered = |it: &Signalled, answer: dawdle::Result<()>| match answer {
                Ok(()) => record(What::Confirmed, it),
                Err(error) if error.maybe_sent() => record(What::Unsure, it),
                Err(_) => record(What::Refused, it),
            };
            let at_once = async {
                let answers = signal_all(&dawdle, &stage, &durable).await.into_iter();
                let ended = durable.iter().zip(answers).map(|(it, answer)| answered(it, answer));
                stage.ledger.write(&ended.collect::<Vec<_>>());
            };
            let through_the_buffer = async {
                let _alone = buffer.lock().await;
                let taken = signal_all(&dawdle, &stage, &buffered).await.into_iter();
                let flushed = dawdle.flush().await;
                let ended = |(it, taken): (&Signalled, dawdle::Result<()>)| match (taken, &flushed) {
                    // Some of them were not sent, or are not durable yet; nobody says which.
                    (Ok(()), Err(_)) => record(What::Unsure, it),
                    (taken, _) => answered(it, taken),
                };
                stage.ledger.write(&buffered.iter().zip(taken).map(ended).collect::<Vec<_>>());
            };
            tokio::join!(at_once, through_the_buffer);
        });
        next = until;
    }
    while under_way.join_next().await.transpose()?.is_some() {}
    dawdle.shutdown().await;
    Ok(())
}

async fn signal_all(dawdle: &Dawdle, stage: &Stage, events: &[Signalled]) -> Vec<dawdle::Result<()>> {
    let signals = events.iter().map(|it| signal(dawdle, stage.plan.kind(it.n), it));
    let answers = futures_util::future::join_all(signals).await;
    answers.into_iter().map(|answer| answer.map(drop)).collect()
}
