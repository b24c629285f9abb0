//! A message that aborts its process, with processes that really die: on one SQLite file.
#![cfg(feature = "local")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use dawdle::backend::local::{LocalBackend, LocalOptions};
use dawdle::backend::{Backend, Lane};
use dawdle::{BackendKind, Config, Dawdle, Event, Filter, Outcome, State, reason};
use serde::{Deserialize, Serialize};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod common;

use common::{Ledger, Process, counts, say, told, until};

const INNOCENTS: u64 = 12;

/// As many deaths as a message may be received times, and twice that again where others have taken its last turn.
const MOST_DEATHS: u32 = 30;

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "poison.abort")]
struct Abort;

#[dawdle::handler]
async fn abort(_: &Abort) -> Outcome {
    std::process::abort()
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "poison.innocent")]
struct Innocent {
    number: u64,
    takes: Duration,
}

#[dawdle::handler]
async fn handle(event: &Innocent, ledger: State<Ledger>) -> Outcome {
    tokio::time::sleep(event.takes).await;
    ledger.write(&[event.number])?;
    Ok(())
}

/// Not a test: what the other processes run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() -> Result<()> {
    let Some(told) = told()? else { return Ok(()) };
    let dawdle = Dawdle::builder().config(told.config).state(Ledger::open(&told.place)?).start().await?;
    say("listens");
    dawdle.run().await?;
    Ok(())
}

/// Starts one process after the other until the queue is empty. Says how many have died.
async fn restart_until_empty(config: &Config, ledger: &Path, backend: &dyn Backend) -> Result<u32> {
    let mut deaths = 0;
    loop {
        let mut process = Process::start("listen", config, ledger)?;
        let mut died = false;
        until(Duration::from_secs(60), "the process dies or the queue is empty", async || {
            died = process.end_within(Duration::from_millis(1)).is_ok();
            Ok(died || backend.inspect(Lane::Message).await?.total() == 0)
        })
        .await?;
        if !died {
            return Ok(deaths);
        }
        deaths += 1;
        ensure!(deaths <= MOST_DEATHS, "{deaths} processes have died, and {MOST_DEATHS} are the most");
    }
}

async fn is_found_out(takes: Duration) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (path, ledger) = (folder.path().join("queue.db"), folder.path().join("handled"));
    let config = Config { backend: Some(BackendKind::Local), local_path: Some(path.clone()), ..Config::default() };
    let backend = Arc::new(LocalBackend::open(path, LocalOptions::default()).await?);
    let sender = Dawdle::builder().backend(Arc::clone(&backend)).discover(false).start().await?;
    for number in 0..INNOCENTS {
        if number == INNOCENTS / 2 {
            sender.signal(Abort).await?;
        }
        sender.signal(Innocent { number, takes }).await?;
    }
    let deaths = restart_until_empty(&config, &ledger, &*backend).await?;
    let mut letters = BTreeMap::<_, u32>::new();
    let mut scan = sender.dead_letters().scan(Filter::default());
    while let Some(letter) = scan.next().await {
        let letter = letter?;
        *letters.entry((letter.kind.clone(), letter.reason.clone())).or_default() += 1;
    }
    let handled = counts(&ledger)?;
    println!("innocents of {takes:?}: {deaths} deaths, handled {handled:?}, dead letters {letters:?}");
    ensure!(handled.len() == INNOCENTS as usize, "handled: {handled:?}");
    let poison = ("poison.abort".to_owned(), reason::POISON.to_owned());
    ensure!(letters.keys().eq([&poison]), "dead letters: {letters:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_aborts_its_process_ends_in_the_dead_letters_and_quick_innocents_are_handled() -> Result<()> {
    is_found_out(Duration::from_millis(1)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_aborts_its_process_ends_in_the_dead_letters_and_slow_innocents_are_handled() -> Result<()> {
    is_found_out(Duration::from_secs(1)).await
}
