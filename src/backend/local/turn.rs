//! Who writes next, among the processes that share a file.
//!
//! SQLite lets one connection write at a time, and makes the others try again with pauses of up
//! to 100 ms. So writers queue up here first, blocking in the kernel, which also lets the next one
//! in when a process is killed. SQLite's own lock stays the one that keeps the data right: without
//! a turn (a file system that has no locks) writers are slow, not wrong.

use std::fs::File;
use std::io;

use super::place::Place;

/// Two locks, taken hand over hand: whoever waits for `turn` holds `next`, so one that writes all
/// the time comes behind it, and none starves.
#[derive(Debug)]
pub(crate) struct Turn {
    next: File,
    turn: File,
}

/// The turn, until dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a>(&'a Turn);

impl Turn {
    pub(crate) fn new(place: &Place) -> io::Result<Turn> {
        Ok(Turn { next: place.open_side_file("next")?, turn: place.open_side_file("turn")? })
    }

    /// Blocks until it is this process's turn.
    pub(crate) fn take(&self) -> Taken<'_> {
        if let Err(error) = lock(&self.next).and_then(|()| lock(&self.turn)) {
            tracing::debug!(%error, "writers of a file are ordered by SQLite's own lock only");
        }
        let _ = self.next.unlock();
        Taken(self)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let _ = self.0.turn.unlock();
    }
}

fn lock(file: &File) -> io::Result<()> {
    loop {
        match file.lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
