//! Two processes signal 10,000 events to three that listen. One of those is killed in the middle
//! and one is told to stop: every event is handled, and none is dead-lettered.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use dawdle::backend::{Backend, Lane};
use dawdle::{Config, Dawdle, Event, Outcome, State};
use serde::{Deserialize, Serialize};

use crate::common::{Ledger, Process, counts, say, told, until};

const SENDERS: u64 = 2;
const EACH: u64 = 5_000;
const LISTENERS: usize = 3;

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "fleet.numbered")]
struct Numbered {
    number: u64,
}

#[dawdle::handler]
async fn enter(event: &Numbered, ledger: State<Ledger>) -> Outcome {
    tokio::time::sleep(Duration::from_millis(2)).await;
    ledger.write(&[event.number])?;
    Ok(())
}

/// What the children do.
pub async fn child() -> Result<()> {
    let Some(told) = told()? else { return Ok(()) };
    let ledger = Ledger::open(&told.place)?;
    match told.role.as_str() {
        "listen" => {
            let dawdle = Dawdle::builder().config(told.config).state(ledger).start().await?;
            say("listens");
            dawdle.run().await?;
        }
        sender => {
            let first = sender.parse::<u64>()? * EACH;
            // The handler that is linked in is not for this process to run.
            let dawdle = Dawdle::builder().config(told.config).discover(false).listener(false).start().await?;
            let numbers: Vec<u64> = (first..first + EACH).collect();
            for chunk in numbers.chunks(250) {
                let answers = dawdle.signal_all(chunk.iter().map(|number| Numbered { number: *number })).await;
                let mut sent = Vec::new();
                for (number, answer) in chunk.iter().zip(answers) {
                    match answer {
                        Ok(_) => sent.push(*number),
                        Err(error) => eprintln!("{number} was not sent: {error}"),
                    }
                }
                ledger.write(&sent)?;
            }
            dawdle.shutdown().await;
        }
    }
    Ok(())
}

/// Runs it all, on the queues that `config` names and `backend` looks at.
pub async fn loses_nothing(config: &Config, backend: Arc<dyn Backend>, bound: Duration) -> Result<()> {
    let start = Instant::now();
    let folder = tempfile::tempdir()?;
    let sent_by = |sender: u64| folder.path().join(format!("sent-{sender}"));
    let handled_by = |listener: usize| folder.path().join(format!("handled-{listener}"));
    let handled = || -> Result<usize> {
        let mut all = 0;
        for listener in 0..LISTENERS {
            all += lines(&handled_by(listener))?;
        }
        Ok(all)
    };
    let left = || bound.saturating_sub(start.elapsed());

    let mut listeners = Vec::new();
    for listener in 0..LISTENERS {
        listeners.push(Process::start("listen", config, &handled_by(listener))?);
    }
    listeners.iter().try_for_each(|listener| listener.wait_for("listens"))?;
    let mut senders = Vec::new();
    for sender in 0..SENDERS {
        senders.push(Process::start(&sender.to_string(), config, &sent_by(sender))?);
    }
    let [killed, stopped, survivor] = listeners.as_mut_slice() else { bail!("{LISTENERS} listeners") };

    until(left(), "2,000 are handled", async || Ok(handled()? >= 2_000)).await?;
    killed.kill()?;
    until(left(), "4,000 are handled", async || Ok(handled()? >= 4_000)).await?;
    stopped.terminate()?;
    let begun = Instant::now();
    let status = stopped.end_within(Duration::from_secs(25))?;
    ensure!(status.success(), "the listener that was told to stop: {status}");
    let stopping = begun.elapsed();
    for sender in &mut senders {
        let status = sender.end_within(left())?;
        ensure!(status.success(), "a sender: {status}");
    }
    let sending = start.elapsed();

    let mut sent = BTreeMap::new();
    for sender in 0..SENDERS {
        sent.extend(counts(&sent_by(sender))?);
    }
    ensure!(sent.len() == (SENDERS * EACH) as usize, "only {} were sent", sent.len());
    until(left(), "the message queue is empty", async || {
        Ok(backend.inspect(Lane::Message).await?.total() == 0 && handled()? >= sent.len())
    })
    .await?;
    let emptied = start.elapsed();
    survivor.terminate()?;
    let status = survivor.end_within(Duration::from_secs(25))?;
    ensure!(status.success(), "the last listener: {status}");

    let ledgers: Vec<BTreeMap<u64, u32>> =
        (0..LISTENERS).map(|listener| counts(&handled_by(listener))).collect::<Result<_>>()?;
    let times = |number: &u64| ledgers.iter().filter_map(|ledger| ledger.get(number)).sum::<u32>();
    let missing: Vec<&u64> = sent.keys().filter(|number| times(number) == 0).collect();
    ensure!(missing.is_empty(), "{} events were lost: {missing:?}", missing.len());
    let repeated: Vec<&u64> = sent.keys().filter(|number| times(number) > 1).collect();
    let duplicates: u32 = repeated.iter().map(|number| times(number) - 1).sum();
    let each: Vec<usize> = ledgers.iter().map(BTreeMap::len).collect();
    println!(
        "{}: {} events sent in {sending:.1?}, handled by {each:?} (killed, stopped, survivor) and gone from the queue \
         in {emptied:.1?}; {duplicates} duplicates; the stop took {stopping:.1?}",
        backend.name(),
        sent.len()
    );
    ensure!(each.iter().all(|handled| *handled > 0), "a listener had nothing to do: {each:?}");
    // Without a fault there is no duplicate: each was in the killed listener's hands.
    let unexplained: Vec<&&u64> = repeated.iter().filter(|number| !ledgers[0].contains_key(number)).collect();
    ensure!(unexplained.is_empty(), "handled twice, and never by the one that was killed: {unexplained:?}");
    for lane in [Lane::Delay, Lane::Dead] {
        if lane == Lane::Dead || backend.limits().delay_lane {
            let stats = backend.inspect(lane).await?;
            ensure!(stats.total() == 0, "on the {lane}: {stats:?}");
        }
    }
    Ok(())
}

fn lines(path: &Path) -> Result<usize> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes.iter().filter(|byte| **byte == b'\n').count()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error.into()),
    }
}
