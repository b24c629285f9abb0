//! Which nodes live, and what becomes of the leases of those that do not.
//!
//! A node is one opened backend. It holds an operating system's lock on a file of its own for as
//! long as it lives, and the kernel lets go of it when the process ends, however it ends. So
//! whoever gets the lock of another node knows that it is dead: no process id, which may be
//! reused, and no heartbeat, which may be late.
//!
//! The order that makes it free of races: a lock file is made and locked before its row stands in
//! `nodes`, and only files of such rows are tried; the row goes before the file does; and no file
//! is made anew for a row. A row without a file says nothing, so its leases are left to end by
//! themselves.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;

use rusqlite::Connection;
use uuid::Uuid;

use super::place::Place;
use super::table::{NodeRow, Table};

const LOCK: &str = "lock";

/// This node: its name, and the lock that says it lives.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: String,
    place: Place,
    _lock: File,
}

impl Node {
    /// A new node, alive; its row is yet to be written.
    pub(super) fn new(place: &Place) -> io::Result<Node> {
        // The random half: names stay short, since a socket's path must be.
        let (_, random) = Uuid::now_v7().as_u64_pair();
        let id = format!("{random:016x}");
        let lock = place.open_side_file(&format!("{id}.{LOCK}"))?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the lock file of a new node is locked"));
        }
        Ok(Node { id, place: place.clone(), _lock: lock })
    }

    /// Removes the lock file; to be called when the row is gone.
    pub(super) fn remove(self) {
        let _ = fs::remove_file(self.place.side_file(&format!("{}.{LOCK}", self.id)));
    }
}

/// A node that is known to be dead, because this process holds its lock.
#[derive(Debug)]
pub(super) struct DeadNode {
    row: NodeRow,
    lock: Option<File>,
}

/// The others that are dead, or have left nothing to wait for.
pub(super) fn find_dead(place: &Place, connection: &Connection, me: &str, now: i64) -> rusqlite::Result<Vec<DeadNode>> {
    let table = Table(connection);
    let mut dead = Vec::new();
    for row in table.others(me)? {
        let path = place.side_file(&format!("{}.{LOCK}", row.id));
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(lock) => {
                if lock.try_lock().is_ok() {
                    dead.push(DeadNode { row, lock: Some(lock) });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !table.holds_leases(&row.id, now)? => {
                dead.push(DeadNode { row, lock: None });
            }
            Err(_) => {}
        }
    }
    Ok(dead)
}

impl DeadNode {
    /// Takes its leases and its row, within a transaction; how many leases there were.
    pub(super) fn take_over(&self, connection: &Connection, now: i64) -> rusqlite::Result<usize> {
        let table = Table(connection);
        let taken = if self.lock.is_some() { table.take_over(&self.row.id, now)? } else { 0 };
        table.leave(&self.row.id)?;
        Ok(taken)
    }

    /// Removes its files, after the commit.
    pub(super) fn remove(self, place: &Place) {
        let _ = fs::remove_file(place.side_file(&format!("{}.{LOCK}", self.row.id)));
        if let Some(bell) = self.row.bell.as_deref().map(std::path::Path::new) {
            // The path comes from the table: nothing but this node's socket is removed by it.
            let name = bell.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name == format!("{}.bell", self.row.id) || name == format!("dawdle-{}.bell", self.row.id) {
                let _ = fs::remove_file(bell);
            }
        }
    }
}

/// Removes the side files of nodes that died between making a file and writing their row, or
/// between the two in reverse. Only to be called by who has the [turn](super::turn::Turn), under
/// which nodes are made.
pub(super) fn sweep(place: &Place, connection: &Connection, me: &str) -> rusqlite::Result<()> {
    let known: HashSet<String> = Table(connection).others(me)?.into_iter().map(|row| row.id).collect();
    for entry in fs::read_dir(&place.nodes).into_iter().flatten().flatten() {
        let path = entry.path();
        let (Some(id), Some(kind)) = (path.file_stem().and_then(|s| s.to_str()), path.extension()) else { continue };
        if id == me || known.contains(id) {
            continue;
        }
        let is_left =
            if kind == LOCK { File::open(&path).is_ok_and(|lock| lock.try_lock().is_ok()) } else { kind == "bell" };
        if is_left {
            let _ = fs::remove_file(&path);
        }
    }
    Ok(())
}
