//! SQLite by hand: rows put into a table and taken out of it, many to a transaction, as durable as
//! Dawdle's local file.
//!
//! It knows no leases, no due times, no other processes, and holds its transaction while it
//! handles.

use std::path::Path;

use anyhow::Result;
use rusqlite::{Connection, TransactionBehavior, params};

use crate::cue::{ready, told_to_stop};
use crate::meter::Meter;
use crate::task::{Measured, Phase, Task};

/// Commits `at_once` rows at a time.
pub(crate) async fn play(task: &Task) -> Result<Measured> {
    let mut connection = open(Path::new(&task.place))?;
    ready().await?;
    let meter = Meter::start();
    let many = i64::try_from(task.at_once)?;
    match task.phase {
        Phase::Produce => {
            let mut left = i64::try_from(task.events)?;
            while left > 0 {
                put(&mut connection, &task.body, many.min(left))?;
                left -= many;
            }
        }
        Phase::Consume => {
            while take(&mut connection, many)? > 0 {}
            told_to_stop().await?;
        }
    }
    meter.read()
}

/// Opens the file with the durability of Dawdle's.
pub(crate) fn open(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT;",
    )?;
    Ok(connection)
}

/// Puts so many rows there, in one transaction.
pub(crate) fn put(connection: &mut Connection, body: &str, rows: i64) -> Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut insert = transaction.prepare_cached("INSERT INTO messages (body) VALUES (?1)")?;
        for _ in 0..rows {
            insert.execute(params![body])?;
        }
    }
    Ok(transaction.commit()?)
}

/// Takes and handles so many rows, in one transaction; says how many there were.
fn take(connection: &mut Connection, rows: i64) -> Result<usize> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let taken = {
        let mut delete = transaction.prepare_cached(
            "DELETE FROM messages WHERE id IN (SELECT id FROM messages ORDER BY id LIMIT ?1) RETURNING body",
        )?;
        let bodies: rusqlite::Result<Vec<String>> = delete.query_map(params![rows], |row| row.get(0))?.collect();
        bodies?.len()
    };
    transaction.commit()?;
    Ok(taken)
}
