//! Once where it matters, with processes that really die: several nodes on one queue and one dedupe store, killed
//! with SIGKILL in the middle of their handlers.
#![cfg(feature = "local")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dawdle::backend::local::{LocalBackend, LocalOptions};
use dawdle::backend::{Backend, Lane};
use dawdle::middleware::dedupe::SqliteStore;
use dawdle::{BackendKind, Config, Dawdle, Dedupe, Event, Outcome, State};
use serde::{Deserialize, Serialize};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod common;

use common::{Ledger, Process, counts, say, told, until};

const ACCOUNTS: u64 = 400;
const NODES: usize = 3;
const KILLS: usize = 8;
/// Handlers at once on a node: what it can have in hand when it is killed.
const CONCURRENCY: usize = 4;
/// How long a dead node's claims stand.
const LEASE: Duration = Duration::from_secs(3);

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "once.invoice", key = "{account}")]
struct Invoice {
    account: u64,
}

/// The effect is a line in the ledger, in the middle of the run: before it and after it the process may die.
#[dawdle::handler]
async fn charge(event: &Invoice, ledger: State<Ledger>) -> Outcome {
    tokio::time::sleep(Duration::from_millis(8)).await;
    ledger.write(&[event.account])?;
    tokio::time::sleep(Duration::from_millis(2)).await;
    Ok(())
}

/// Not a test: what the other processes run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() -> Result<()> {
    let Some(told) = told()? else { return Ok(()) };
    let folder = told.place.parent().context("a folder")?;
    let dedupe = Dedupe::new(SqliteStore::open(folder.join("dedupe.db")).await?).lease(LEASE);
    let ledger = Ledger::open(&told.place)?;
    let dawdle = Dawdle::builder().config(told.config).state(ledger).middleware(dedupe).start().await?;
    say("listens");
    dawdle.run().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_signalled_twice_has_its_effect_once_but_for_what_a_killed_node_had_in_hand() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("queue.db");
    let config = Config {
        backend: Some(BackendKind::Local),
        local_path: Some(path.clone()),
        concurrency: Some(CONCURRENCY),
        ..Config::default()
    };
    let backend = Arc::new(LocalBackend::open(path, LocalOptions::default()).await?);
    let sender = Dawdle::builder().backend(Arc::clone(&backend)).discover(false).listener(false).start().await?;
    let empty = async || Ok(backend.inspect(Lane::Message).await?.total() == 0);
    let signal_all = async || -> Result<()> {
        for sent in sender.signal_all((0..ACCOUNTS).map(|account| Invoice { account })).await {
            sent?;
        }
        Ok(())
    };
    signal_all().await?;
    signal_all().await?;

    // Each process has a ledger of its own.
    let ledger = |life: usize| folder.path().join(format!("charged-{life}"));
    let effects =
        |lives: usize| -> Result<Vec<BTreeMap<u64, u32>>> { (0..lives).map(|life| counts(&ledger(life))).collect() };
    let mut nodes = Vec::new();
    let mut killed = Vec::new();
    for life in 0..NODES {
        nodes.push((life, Process::start("listen", &config, &ledger(life))?));
    }
    for kill in 1..=KILLS {
        let lives = NODES + killed.len();
        let enough = ACCOUNTS as usize * kill / (KILLS + 1);
        until(Duration::from_secs(60), "so many are charged", async || {
            Ok(effects(lives)?.iter().map(BTreeMap::len).sum::<usize>() >= enough)
        })
        .await?;
        let (life, mut node) = nodes.remove(0);
        node.kill()?;
        killed.push(life);
        nodes.push((lives, Process::start("listen", &config, &ledger(lives))?));
    }
    until(Duration::from_secs(60), "the message queue is empty", empty).await?;
    let lives = NODES + KILLS;
    let charged = effects(lives)?;
    // A copy that comes later, to nodes that did not run the first.
    signal_all().await?;
    until(Duration::from_secs(60), "the message queue is empty again", empty).await?;
    ensure!(effects(lives)? == charged, "what is remembered was run again");

    // Of the nodes that charged one, all but the last were killed before they could say so.
    let mut twice = 0;
    for account in 0..ACCOUNTS {
        let by: Vec<(usize, u32)> =
            charged.iter().enumerate().filter_map(|(life, charged)| Some((life, *charged.get(&account)?))).collect();
        ensure!(!by.is_empty(), "{account} was not charged");
        twice += by.len() - 1;
        let living = by.iter().filter(|(life, _)| !killed.contains(life)).count();
        let once_each = by.iter().all(|(_, times)| *times == 1);
        ensure!(once_each && living <= 1, "{account} was charged by (life, times) {by:?}; killed were {killed:?}");
    }
    println!("{ACCOUNTS} invoices signalled three times, {KILLS} nodes killed: {twice} charged twice");
    ensure!(twice <= KILLS * CONCURRENCY, "{twice} were charged twice: more than were in hand");
    let dead = backend.inspect(Lane::Dead).await?.total();
    ensure!(dead == 0, "{dead} dead letters");
    Ok(())
}
