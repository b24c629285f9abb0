//! apalis on SQLite, as durable as Dawdle's local file.
//!
//! Its own `setup` turns syncing off. Here every connection has `synchronous = FULL` instead, and
//! only its migrations are run. Pushes, fetches and acks are in batches as large as the tasks of
//! the others are many.
#![forbid(unsafe_code)]

#[path = "../../../src/cue.rs"]
mod cue;
#[path = "../../../src/meter.rs"]
mod meter;
#[allow(dead_code, reason = "shared with the benchmark itself, which uses more of it")]
#[path = "../../../src/task.rs"]
mod task;

use anyhow::{Context, Result};
use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteConnectOptions, SqlitePoolOptions, SqliteStorage};
use futures_util::stream;

use meter::Meter;
use task::{Phase, Task as Told};

async fn handle(_: String) -> Result<(), BoxDynError> {
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let told: Told = serde_json::from_str(&std::env::args().nth(1).context("which task?")?)?;
    let connecting = SqliteConnectOptions::new()
        .filename(&told.place)
        .create_if_missing(true)
        .pragma("journal_mode", "WAL")
        .pragma("synchronous", "FULL");
    let pool = SqlitePoolOptions::new().connect_with(connecting).await?;
    SqliteStorage::migrations().run(&pool).await?;
    let config = Config::default().queue("bench").batch_size(told.at_once);
    let mut storage: SqliteStorage<String> = SqliteStorage::new(&pool).with_config(config);
    cue::ready().await?;
    let meter = Meter::start();
    match told.phase {
        Phase::Produce => {
            let mut left = usize::try_from(told.events)?;
            while left > 0 {
                let batch = left.min(told.at_once);
                storage.push_stream(&mut stream::iter(vec![told.body.clone(); batch])).await?;
                left -= batch;
            }
        }
        Phase::Consume => {
            let worker = WorkerBuilder::new("bench").backend(storage).concurrency(told.at_once).build(handle);
            tokio::select! {
                ended = worker.run() => ended?,
                stopped = cue::told_to_stop() => stopped?,
            }
        }
    }
    println!("{}", serde_json::to_string(&meter.read()?)?);
    std::process::exit(0);
}
