//! What becomes of a failure: a retry, a snooze, a dead letter, and the way back.
//!
//! ```sh
//! cargo run --example retries
//! ```

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use dawdle::{Config, Context, Dawdle, DeadLetter, Event, EventId, Failure, Filter, Outcome, State};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "retries.charge")]
enum Charge {
    /// The bank answers at the third attempt.
    SlowBank,
    /// The bank opens a second after the charge was signalled.
    BankOpensSoon,
    /// There is no such account any more.
    ClosedAccount,
    /// The handler has a bug.
    OddAmount,
}

/// Whether the handler's bug has been mended: in earnest that is the next deployment.
#[derive(Clone, Default)]
struct Mended(Arc<AtomicBool>);

type Done = mpsc::UnboundedSender<EventId>;

#[dawdle::handler(attempts = 3, backoff = "200ms", timeout = "5s")]
async fn charge(event: &Charge, cx: &Context, mended: State<Mended>, done: State<Done>) -> Outcome {
    println!("    {event:?}, attempt {}", cx.attempt());
    match event {
        // `?` on any error is a retry, after the backoff.
        Charge::SlowBank if cx.attempt() < 3 => Err("the bank does not answer")?,
        // A snooze is no failure: the attempts stay as they are.
        Charge::BankOpensSoon if cx.now() < cx.signalled_at() + Duration::from_secs(1) => {
            return Err(Failure::snooze(Duration::from_secs(1)));
        }
        // No attempt would help.
        Charge::ClosedAccount => return Err(Failure::dead_letter("account closed")),
        // A panic is a failed attempt, and harms nobody else.
        Charge::OddAmount if !mended.0.load(Ordering::Relaxed) => panic!("cannot halve an odd amount"),
        _ => {}
    }
    done.send(cx.id())?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mended = Mended::default();
    let (done, mut charged) = mpsc::unbounded_channel();
    let config = Config { local_path: Some(".dawdle/retries.db".into()), ..Config::default() };
    let dawdle = Dawdle::builder().config(config).state(mended.clone()).state::<Done>(done).start().await?;

    // One line for each panic, in its place among the others.
    std::panic::set_hook(Box::new(|panic| println!("    {panic}")));

    println!("Signalled four charges:");
    let slow = dawdle.signal(Charge::SlowBank).await?;
    let soon = dawdle.signal(Charge::BankOpensSoon).await?;
    let closed = dawdle.signal(Charge::ClosedAccount).await?;
    let odd = dawdle.signal(Charge::OddAmount).await?;

    wait_for(&mut charged, [slow, soon]).await?;
    println!("Two came through in the end. The dead letters:");
    let letters = dead_letters(&dawdle, [closed, odd]).await?;
    for letter in &letters {
        println!(
            "    {} of handler {}: {} after {} attempts, {}",
            letter.envelope.data().unwrap_or_default(),
            letter.handler.as_deref().unwrap_or("(none)"),
            letter.reason,
            letter.attempts,
            letter.error.as_deref().unwrap_or("no error"),
        );
    }

    mended.0.store(true, Ordering::Relaxed);
    println!("The bug is mended, and the charge that died of it is replayed:");
    let died_of_it = letters.iter().find(|letter| letter.id == odd).context("it is not among the dead letters")?;
    dawdle.dead_letters().replay(died_of_it).await?;
    wait_for(&mut charged, [odd]).await?;

    let purged = dawdle.dead_letters().purge_where(Filter::default().kind("retries.charge")).await?;
    ensure!(purged >= 1, "the closed account's dead letter was not purged");
    println!("The rest of the dead letters is purged: {purged}.");
    dawdle.shutdown().await;
    Ok(())
}

async fn wait_for(
    charged: &mut mpsc::UnboundedReceiver<EventId>,
    ids: impl Into<HashSet<EventId>>,
) -> anyhow::Result<()> {
    let mut ids = ids.into();
    while !ids.is_empty() {
        let id = timeout(Duration::from_secs(10), charged.recv()).await.context("not all charges came through")?;
        ids.remove(&id.context("the listener has ended")?);
    }
    Ok(())
}

/// The dead letters of these events, once they are all there.
async fn dead_letters(dawdle: &Dawdle, ids: impl Into<HashSet<EventId>>) -> anyhow::Result<Vec<DeadLetter>> {
    let (ids, start) = (ids.into(), Instant::now());
    while start.elapsed() < Duration::from_secs(10) {
        let mut letters = Vec::new();
        let mut scan = dawdle.dead_letters().scan(Filter::default().handler("charge"));
        while let Some(letter) = scan.next().await {
            letters.extend(Some(letter?).filter(|letter| ids.contains(&letter.id)));
        }
        if letters.len() == ids.len() {
            return Ok(letters);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the dead letters did not come")
}
