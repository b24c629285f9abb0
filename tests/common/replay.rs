//! A dead letter is looked at, replayed to the handler that failed, or purged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use dawdle::backend::{Backend, Lane};
use dawdle::{Config, Dawdle, DeadLetter, Event, Failure, Filter, Outcome, State};
use serde::{Deserialize, Serialize};

use crate::common::until;

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "replay.invoice")]
struct Invoice {
    number: u32,
}

#[derive(Clone, Default)]
struct Books {
    open: Arc<AtomicBool>,
    entered: Arc<AtomicU32>,
    mailed: Arc<AtomicU32>,
}

#[dawdle::handler]
async fn enter(_: &Invoice, books: State<Books>) -> Outcome {
    if !books.open.load(Relaxed) {
        return Err(Failure::dead_letter("the books are closed"));
    }
    books.entered.fetch_add(1, Relaxed);
    Ok(())
}

#[dawdle::handler]
async fn mail(_: &Invoice, books: State<Books>) -> Outcome {
    books.mailed.fetch_add(1, Relaxed);
    Ok(())
}

/// Proves it on the queues that `config` names and `backend` looks at.
pub async fn reaches_only_the_handler_that_failed(config: Config, backend: &dyn Backend) -> Result<()> {
    let books = Books::default();
    let builder = Dawdle::builder().config(config).discover(false).handlers(dawdle::handlers![enter, mail]);
    let dawdle = builder.state(books.clone()).start().await?;
    for number in 1..=3 {
        dawdle.signal(Invoice { number }).await?;
    }
    until(Duration::from_secs(30), "all three are dead letters", async || {
        Ok(backend.inspect(Lane::Dead).await?.total() == 3 && backend.inspect(Lane::Message).await?.total() == 0)
    })
    .await?;

    let letters = scan(&dawdle).await?;
    ensure!(letters.len() == 3 && letters.iter().all(|letter| letter.handler.as_deref() == Some("enter")));
    ensure!(letters.iter().all(|letter| letter.reason == "the books are closed" && letter.kind == "replay.invoice"));
    ensure!(scan(&dawdle).await?.len() == 3, "what this process holds is shown to it again");

    books.open.store(true, Relaxed);
    dawdle.dead_letters().replay(&letters[0]).await?;
    dawdle.dead_letters().purge(&letters[1]).await?;
    ensure!(dawdle.dead_letters().purge(&letters[1]).await.is_err(), "it is gone");
    let others = Filter::default().handler("mail");
    ensure!(dawdle.dead_letters().purge_where(others).await? == 0);
    ensure!(dawdle.dead_letters().replay_where(Filter::default().kind("replay.invoice")).await? == 1);
    until(Duration::from_secs(30), "both replays are handled, and nothing is left", async || {
        let entered = books.entered.load(Relaxed);
        let left = backend.inspect(Lane::Dead).await?.total() + backend.inspect(Lane::Message).await?.total();
        Ok(entered >= 2 && left == 0)
    })
    .await?;
    dawdle.shutdown().await;
    ensure!((books.entered.load(Relaxed), books.mailed.load(Relaxed)) == (2, 3), "mailed thrice, entered twice");
    Ok(())
}

async fn scan(dawdle: &Dawdle) -> Result<Vec<DeadLetter>> {
    let mut scan = dawdle.dead_letters().scan(Filter::default());
    let mut letters = Vec::new();
    while let Some(letter) = scan.next().await {
        letters.push(letter?);
    }
    Ok(letters)
}
