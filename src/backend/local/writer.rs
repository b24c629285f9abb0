//! The thread that owns the connection.
//!
//! ```text
//!  send, receive, settle, extend                    other processes
//!        |                                                |
//!      inbox  --- everything that is queued --->  turn ---'
//!        ^                                          |
//!        |                        BEGIN IMMEDIATE, each entry, COMMIT (one sync)
//!        |                                          |
//!     answers  <------------------------------------+-->  wake: waiters here, bells elsewhere
//! ```
//!
//! While one group is being synced the next one gathers, so there is no timer: alone, a send
//! costs one sync; together, thousands share one.
//!
//! Deliberately absent: a pool of readers (nothing here reads for long), and any retry (that
//! belongs to the callers, who know what they can wait for).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tokio::sync::oneshot;

use super::errors::{self, QUEUE, failed};
use super::inbox::{Command, Group, Inbox, Leased, Tidy, Work};
use super::nodes::{self, Node};
use super::place::Place;
use super::table::{LeasedRow, Table, Token};
use super::turn::Turn;
use super::wake::{Bell, Lanes, Ringer, Waiters};
use super::{LocalOptions, millis, millis_later, schema};
use crate::backend::{Lane, LaneStats};
use crate::clock::panic_text;
use crate::error::{Error, ErrorKind, Result};

/// A transaction takes about as many entries, and bytes of bodies, at most.
const GROUP_ENTRIES: usize = 1_000;
const GROUP_BYTES: usize = 16 * 1024 * 1024;

/// How often dead nodes are looked for, while anybody receives.
const NODES_EVERY: Duration = Duration::from_secs(1);

/// How often old dead letters are looked for, and how many are deleted in one transaction.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
const PRUNE_AT_ONCE: u32 = 500;

/// A file shrinks by as many pages (4 KiB) at once, and when more than so many are free.
const SHRINK_FROM: i64 = 4_096;
const SHRINK_AT_ONCE: u32 = 2_048;

/// A message that is due later than this wakes nobody now: everyone looks again before.
const SOON_MS: i64 = 2_000;

/// What a command came to, until the commit.
enum Done {
    Entries(Vec<Result<()>>),
    Leased { rows: Vec<LeasedRow>, token: i64, next_due: Option<i64> },
    Counted(LaneStats, Option<i64>),
    Tidied(u64),
    Failed(Error),
}

/// How a transaction ended without a commit.
enum Lost {
    /// It did not begin: another program keeps the file locked, or the file is gone.
    NotBegun(Error),
    /// It was rolled back: nothing of it is there.
    Undone(Error),
    /// The commit failed: most likely nothing of it is there.
    Commit(Error),
}

pub(super) struct Writer {
    place: Place,
    options: LocalOptions,
    inbox: Arc<Inbox>,
    waiters: Arc<Waiters>,
    commits: Arc<AtomicU64>,
    connection: Connection,
    /// Which file it is open on.
    identity: Option<(u64, u64)>,
    turn: Turn,
    node: Node,
    started_at: i64,
    ringer: Option<Ringer>,
    bell: Option<Bell>,
    /// Whether it was tried to hang up a bell.
    rang: bool,
    nodes_looked_for: Option<Instant>,
    pruned: Option<Instant>,
}

impl Writer {
    /// Opens the queue at `place`.
    pub(super) fn open(
        place: Place,
        options: LocalOptions,
        inbox: Arc<Inbox>,
        waiters: Arc<Waiters>,
        commits: Arc<AtomicU64>,
    ) -> Result<Writer> {
        let refused = |error: std::io::Error| {
            Error::new(
                ErrorKind::Queue,
                format!(
                    "the local queue {} cannot be opened: {error}; make it and its folder writable, or set \
                     DAWDLE_LOCAL_PATH to a file in a folder that is",
                    place.file.display()
                ),
            )
            .with_source(error)
        };
        let turn = Turn::new(&place).map_err(refused)?;
        let taken = turn.take();
        place.create_file().map_err(refused)?;
        let connection = connect(&place)?;
        let node = Node::new(&place).map_err(refused)?;
        let started_at = millis(SystemTime::now());
        crate::crash::point!("local.join.before");
        Table(&connection)
            .join(&node.id, started_at, None)
            .and_then(|()| nodes::sweep(&place, &connection, &node.id))
            .map_err(|error| failed(&place.file, "joining", error))?;
        crate::crash::point!("local.join.after");
        drop(taken);
        let mut writer = Writer {
            options,
            inbox,
            waiters,
            commits,
            identity: place.identity(),
            place,
            connection,
            turn,
            node,
            started_at,
            ringer: Ringer::new().ok(),
            bell: None,
            rang: false,
            nodes_looked_for: None,
            pruned: None,
        };
        writer.keep_house();
        Ok(writer)
    }

    /// Does what is asked until the inbox is stopped.
    pub(super) fn run(mut self) {
        while let Some(group) = self.inbox.take(GROUP_ENTRIES, GROUP_BYTES) {
            // A panic drops the group, and with it the answers: each caller is told.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.perform(group))) {
                tracing::error!(panic = panic_text(&*panic), "the local queue's writer panicked, and goes on");
                self.reconnect();
            }
        }
        if catch_unwind(AssertUnwindSafe(|| self.close())).is_err() {
            tracing::error!("the local queue's writer panicked while closing");
        }
    }

    fn perform(&mut self, group: Group) {
        let Group { commands, returns } = group;
        if let Err(error) = self.follow_file() {
            return fail(commands, Lost::NotBegun(error));
        }
        let wanted = commands.into_iter().filter(|command| !command.work.is_moot());
        let (asides, mut commands): (Vec<_>, Vec<_>) =
            wanted.partition(|command| matches!(command.work, Work::Inspect { .. } | Work::Tidy { .. }));
        for command in asides {
            let (done, doing) = match &command.work {
                Work::Tidy { tidy, .. } => (self.tidy(*tidy), "tidying"),
                _ => (self.inspect(&command), "counting"),
            };
            match done {
                Ok(done) => self.answer(command, done),
                Err(error) => command.work.fail(&failed(&self.place.file, doing, error)),
            }
        }
        if commands.iter().any(|command| matches!(command.work, Work::Lease { .. })) {
            self.keep_house();
        }
        self.hang_bell(&commands);
        if returns.is_empty() {
            commands = self.answer_idle(commands);
        }
        if commands.is_empty() && returns.is_empty() {
            return;
        }
        match self.transact(&commands, &returns) {
            Ok((dones, wake)) => self.settle_group(commands, dones, wake),
            // One command may be what failed (a large one on a disk that is nearly full): each by
            // itself. Not after a failed commit, which may have been one after all.
            Err(Lost::Undone(_)) if commands.len() > 1 => {
                for (index, command) in commands.into_iter().enumerate() {
                    let returns = if index == 0 { returns.as_slice() } else { &[] };
                    match self.transact(std::slice::from_ref(&command), returns) {
                        Ok((dones, wake)) => self.settle_group(vec![command], dones, wake),
                        Err(lost) => fail(vec![command], lost),
                    }
                }
            }
            Err(lost) => fail(commands, lost),
        }
        if !self.connection.is_autocommit() {
            self.reconnect();
        }
    }

    /// Does all of it in one transaction; what each came to, and whom to wake.
    fn transact(&self, commands: &[Command], returns: &[Token]) -> Result<(Vec<Done>, Wake), Lost> {
        let _turn = self.turn.take();
        let path = &self.place.file;
        let connection = &self.connection;
        crate::crash::point!("local.begin");
        connection
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(|error| Lost::NotBegun(failed(path, "writing to", error)))?;
        let mut step = Step {
            writer: self,
            now: millis(SystemTime::now()),
            length: None,
            changes: [0; 3],
            wake: Lanes::default(),
        };
        let done = step.all(commands, returns);
        let wake = step.wake;
        if connection.is_autocommit() {
            // SQLite rolled back by itself: the disk is full, or failed.
            let error = done.err().unwrap_or_else(|| errors::lost(path));
            return Err(Lost::Undone(error));
        }
        let done = done.and_then(|done| {
            let others = if wake.is_empty() { Ok(Vec::new()) } else { Table(connection).others(&self.node.id) };
            others.map(|others| (done, others)).map_err(|error| failed(path, "writing to", error))
        });
        crate::crash::point!("local.commit.before");
        let committed = match done {
            Err(error) => Err(Lost::Undone(error)),
            Ok(done) => match connection.execute_batch("COMMIT") {
                Ok(()) => Ok(done),
                Err(error) => Err(Lost::Commit(failed(path, "writing to", error))),
            },
        };
        match committed {
            Ok((dones, others)) => {
                crate::crash::point!("local.commit.after");
                self.commits.fetch_add(1, Ordering::Relaxed);
                Ok((dones, Wake { lanes: wake, bells: others.into_iter().filter_map(|node| node.bell).collect() }))
            }
            Err(lost) => {
                if !connection.is_autocommit() {
                    // If that fails too, the connection is opened anew.
                    let _ = connection.execute_batch("ROLLBACK");
                }
                Err(lost)
            }
        }
    }

    fn settle_group(&self, commands: Vec<Command>, dones: Vec<Done>, wake: Wake) {
        for (command, done) in commands.into_iter().zip(dones) {
            self.answer(command, done);
        }
        crate::crash::point!("local.answered");
        self.wake(&wake);
    }

    fn answer(&self, command: Command, done: Done) {
        match (command.work, done) {
            (work, Done::Failed(error)) => work.fail(&error),
            (
                Work::Send { answer, .. } | Work::Settle { answer, .. } | Work::Extend { answer, .. },
                Done::Entries(results),
            ) => drop(answer.send(results)),
            #[cfg(test)]
            (Work::Run { answer, .. }, Done::Entries(results)) => drop(answer.send(results)),
            // Where nobody takes them any more, dropping them gives them back.
            (Work::Lease { answer, .. }, Done::Leased { rows, token, next_due }) => {
                drop(answer.send(Ok(Leased::new(&self.inbox, rows, token, next_due))));
            }
            (Work::Inspect { answer, .. }, Done::Counted(stats, oldest)) => drop(answer.send(Ok((stats, oldest)))),
            (Work::Tidy { answer, .. }, Done::Tidied(count)) => drop(answer.send(Ok(count))),
            (work, _) => work.fail(&errors::lost(&self.place.file)),
        }
    }

    fn wake(&self, wake: &Wake) {
        self.waiters.wake(wake.lanes);
        if let Some(ringer) = &self.ringer {
            for bell in &wake.bells {
                ringer.ring(bell.as_ref(), wake.lanes);
            }
        }
    }

    fn inspect(&self, command: &Command) -> rusqlite::Result<Done> {
        match &command.work {
            Work::Inspect { lane, .. } => Table(&self.connection)
                .stats(*lane, millis(SystemTime::now()))
                .map(|(stats, oldest)| Done::Counted(stats, oldest)),
            _ => Ok(Done::Entries(Vec::new())),
        }
    }

    fn tidy(&self, tidy: Tidy) -> rusqlite::Result<Done> {
        let _turn = self.turn.take();
        match tidy {
            Tidy::Clear => {
                let cleared = in_transaction(&self.connection, |connection| Table(connection).clear())?;
                Ok(Done::Tidied(cleared))
            }
            Tidy::Vacuum => {
                let pages = || self.connection.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0));
                let before = pages()?;
                self.connection.execute_batch("VACUUM")?;
                self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
                let page = self.connection.query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0))?;
                Ok(Done::Tidied(u64::try_from((before - pages()?) * page).unwrap_or(0)))
            }
        }
    }

    /// Answers receives that come when there is nothing, without a transaction: waiting costs the
    /// other writers nothing. The rest is left to do.
    fn answer_idle(&self, commands: Vec<Command>) -> Vec<Command> {
        if !commands.iter().all(|command| matches!(command.work, Work::Lease { .. })) {
            return commands;
        }
        let mut left = Vec::new();
        for command in commands {
            let Work::Lease { lane, .. } = &command.work else { continue };
            let next_due = Table(&self.connection).next_due(*lane);
            match next_due {
                Ok(next_due) if next_due.is_none_or(|due| due > millis(SystemTime::now())) => {
                    let done = Done::Leased { rows: Vec::new(), token: 0, next_due };
                    self.answer(command, done);
                }
                _ => left.push(command),
            }
        }
        left
    }

    /// Before the first receive that waits. Its row is written, and the queue looked at, after
    /// the bell is up, so no ring falls between.
    fn hang_bell(&mut self, commands: &[Command]) {
        let waits = |command: &Command| matches!(command.work, Work::Lease { waits: true, .. });
        if self.rang || !commands.iter().any(waits) {
            return;
        }
        self.rang = true;
        let bell = match Bell::hang(&self.place, &self.node.id, &self.waiters) {
            Ok(bell) => bell,
            Err(error) => {
                tracing::debug!(%error, "no socket for the local queue: looking at it often instead");
                return;
            }
        };
        crate::crash::point!("local.bell.hung");
        let _turn = self.turn.take();
        match Table(&self.connection).join(&self.node.id, self.started_at, bell.path().to_str()) {
            Ok(()) => self.bell = Some(bell),
            // The next receive tries again.
            Err(_) => self.rang = false,
        }
        crate::crash::point!("local.bell.told");
    }

    /// Takes over from dead nodes and deletes old dead letters, now and then.
    fn keep_house(&mut self) {
        let is_over = |last: Option<Instant>, every: Duration| last.is_none_or(|last| last.elapsed() >= every);
        if !is_over(self.nodes_looked_for, NODES_EVERY) {
            return;
        }
        self.nodes_looked_for = Some(Instant::now());
        if let Err(error) = self.take_over() {
            tracing::warn!(error = %failed(&self.place.file, "taking over in", error), "will be tried again");
        }
        if is_over(self.pruned, PRUNE_EVERY) {
            let more = self.prune().and_then(|pruned| Ok(self.shrink()? || pruned));
            let more = more.unwrap_or_else(|error| {
                tracing::warn!(error = %failed(&self.place.file, "pruning", error), "will be tried again");
                false
            });
            // Where there may be more, it goes on with the next look at the nodes.
            self.pruned = if more { None } else { Some(Instant::now()) };
        }
    }

    fn take_over(&self) -> rusqlite::Result<()> {
        let now = millis(SystemTime::now());
        let dead = nodes::find_dead(&self.place, &self.connection, &self.node.id, now)?;
        if dead.is_empty() {
            return Ok(());
        }
        crate::crash::point!("local.take_over.before");
        let turn = self.turn.take();
        let (taken, others) = in_transaction(&self.connection, |connection| {
            let taken = dead.iter().map(|node| node.take_over(connection, now)).sum::<rusqlite::Result<usize>>()?;
            Ok((taken, Table(connection).others(&self.node.id)?))
        })?;
        drop(turn);
        crate::crash::point!("local.take_over.after");
        for node in dead {
            node.remove(&self.place);
        }
        crate::crash::point!("local.take_over.removed");
        if taken > 0 {
            tracing::info!(messages = taken, "took over from processes that have ended");
            let bells = others.into_iter().filter_map(|node| node.bell).collect();
            self.wake(&Wake { lanes: Lanes::ALL, bells });
        }
        Ok(())
    }

    fn prune(&self) -> rusqlite::Result<bool> {
        let now = millis(SystemTime::now());
        let before = now.saturating_sub(i64::try_from(self.options.dead_retention.as_millis()).unwrap_or(i64::MAX));
        let _turn = self.turn.take();
        let pruned =
            in_transaction(&self.connection, |connection| Table(connection).prune_dead(before, now, PRUNE_AT_ONCE))?;
        if pruned > 0 {
            tracing::info!(messages = pruned, "deleted dead letters that were past their retention");
        }
        Ok(pruned > 0)
    }

    fn shrink(&self) -> rusqlite::Result<bool> {
        let _turn = self.turn.take();
        Table(&self.connection).shrink(SHRINK_FROM, SHRINK_AT_ONCE)
    }

    /// Begins anew where the file was deleted or replaced: what is put into a deleted file is lost.
    fn follow_file(&mut self) -> Result<()> {
        if self.identity == self.place.identity() {
            return Ok(());
        }
        tracing::warn!(path = %self.place.file.display(), "the local queue's file was deleted or replaced: opening it anew");
        let (inbox, waiters) = (Arc::clone(&self.inbox), Arc::clone(&self.waiters));
        let place = Place::prepare(&QUEUE, &self.place.file)?;
        *self = Writer::open(place, self.options.clone(), inbox, waiters, Arc::clone(&self.commits))?;
        Ok(())
    }

    /// Opens the file anew, after something that leaves the connection in doubt. The node stays who
    /// it is, and so do its leases.
    fn reconnect(&mut self) {
        let reopened = {
            let _turn = self.turn.take();
            connect(&self.place)
        };
        match reopened {
            Ok(connection) => self.connection = connection,
            Err(error) => tracing::error!(%error, "the local queue could not be opened again"),
        }
    }

    /// Leaves as a dead node would be made to, and moves what is in the log to the file.
    fn close(self) {
        crate::crash::point!("local.close.before");
        let now = millis(SystemTime::now());
        let left = {
            let _turn = self.turn.take();
            in_transaction(&self.connection, |connection| {
                let table = Table(connection);
                let taken = table.take_over(&self.node.id, now)?;
                table.leave(&self.node.id)?;
                Ok((taken, table.others(&self.node.id)?))
            })
        };
        crate::crash::point!("local.close.left");
        match left {
            Ok((taken, others)) => {
                if taken > 0 {
                    let bells = others.into_iter().filter_map(|node| node.bell).collect();
                    self.wake(&Wake { lanes: Lanes::ALL, bells });
                }
                self.node.remove();
            }
            // Its lock goes with this process, at the latest: the others will do it.
            Err(error) => tracing::warn!(%error, "leaving the local queue failed"),
        }
        drop(self.bell);
        let _turn = self.turn.take();
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        let _ = self.connection.close();
        crate::crash::point!("local.close.after");
    }
}

/// Whom to wake after a commit.
struct Wake {
    lanes: Lanes,
    bells: Vec<String>,
}

/// One transaction on its way.
struct Step<'a> {
    writer: &'a Writer,
    now: i64,
    /// How many messages there are, once it was asked for.
    length: Option<u64>,
    /// How many messages more, or fewer, there are on each lane.
    changes: [i64; 3],
    wake: Lanes,
}

impl Step<'_> {
    /// Does each, until the transaction is lost.
    fn all(&mut self, commands: &[Command], returns: &[Token]) -> Result<Vec<Done>> {
        let table = Table(&self.writer.connection);
        for token in returns {
            if table.give_back(*token, self.now).map_err(|error| self.failed(error))? {
                self.wake = Lanes::ALL;
            }
        }
        let mut dones = Vec::with_capacity(commands.len());
        for command in commands {
            dones.push(self.one(&command.work)?);
        }
        for lane in Lane::ALL {
            let change = self.changes[lane as usize];
            if change != 0 {
                table.count_in(lane, change).map_err(|error| self.failed(error))?;
            }
        }
        Ok(dones)
    }

    fn one(&mut self, work: &Work) -> Result<Done> {
        let table = Table(&self.writer.connection);
        match work {
            Work::Send { lane, rows, .. } => self.each(rows, |step, row| {
                if !row.in_place {
                    step.reserve()?;
                }
                table.insert(*lane, row).map_err(|error| step.failed(error))?;
                step.count(*lane, 1);
                step.wakes_at(*lane, row.visible_at);
                Ok(())
            }),
            Work::Settle { lane, entries, .. } => self.each(entries, |step, (token, release_at)| {
                let was_there = match release_at {
                    None => table.ack(*lane, *token),
                    Some(visible_at) => table.release(*lane, *token, *visible_at),
                };
                match (was_there.map_err(|error| step.failed(error))?, release_at) {
                    (true, None) => step.count(*lane, -1),
                    (true, Some(visible_at)) => step.wakes_at(*lane, *visible_at),
                    (false, _) => return Err(errors::lease_lost()),
                }
                Ok(())
            }),
            Work::Extend { lane, tokens, until, .. } => self.each(tokens, |step, token| {
                if table.extend(*lane, *token, *until).map_err(|error| step.failed(error))? {
                    step.wakes_at(*lane, *until);
                    Ok(())
                } else {
                    Err(errors::lease_lost())
                }
            }),
            Work::Lease { lane, max, lease, .. } => self.lease(*lane, *max, *lease),
            Work::Inspect { .. } | Work::Tidy { .. } => Ok(Done::Failed(errors::lost(&self.writer.place.file))),
            #[cfg(test)]
            Work::Run { run, .. } => {
                self.each(&[()], |step, ()| run(&step.writer.connection).map_err(|error| step.failed(error)))
            }
        }
    }

    /// Does each entry. One that fails leaves nothing behind (a statement is all or nothing), and
    /// the others stand, unless the whole transaction is lost with it.
    fn each<T>(&mut self, entries: &[T], mut one: impl FnMut(&mut Self, &T) -> Result<()>) -> Result<Done> {
        let mut results = Vec::with_capacity(entries.len());
        for entry in entries {
            let result = one(self, entry);
            if self.writer.connection.is_autocommit() {
                return Err(result.err().unwrap_or_else(|| errors::lost(&self.writer.place.file)));
            }
            results.push(result);
        }
        Ok(Done::Entries(results))
    }

    fn lease(&mut self, lane: Lane, max: usize, lease: Duration) -> Result<Done> {
        let table = Table(&self.writer.connection);
        let token = fastrand::i64(1..);
        let until = millis_later(self.now, lease);
        let leased = table.lease(lane, max, &self.writer.node.id, token, self.now, until).and_then(|rows| {
            let next_due = if rows.is_empty() { table.next_due(lane)? } else { None };
            Ok(Done::Leased { rows, token, next_due })
        });
        match leased {
            Err(error) if self.writer.connection.is_autocommit() => Err(self.failed(error)),
            Err(error) => Ok(Done::Failed(self.failed(error))),
            Ok(done) => Ok(done),
        }
    }

    /// Refuses a message more than there may be.
    fn reserve(&mut self) -> Result<()> {
        let length = match self.length {
            Some(length) => length,
            None => {
                let before = Table(&self.writer.connection).length().map_err(|error| self.failed(error))?;
                before.saturating_add_signed(self.changes.iter().sum())
            }
        };
        self.length = Some(length);
        let limit = self.writer.options.max_messages;
        if length < limit {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Full,
            format!(
                "the local queue {} is full: it holds {length} messages, and its limit is {limit}; let listeners catch \
                 up, purge dead letters, or raise LocalOptions::max_messages",
                self.writer.place.file.display()
            ),
        ))
    }

    fn count(&mut self, lane: Lane, change: i64) {
        self.length = self.length.map(|length| length.saturating_add_signed(change));
        self.changes[lane as usize] += change;
    }

    fn wakes_at(&mut self, lane: Lane, visible_at: i64) {
        if visible_at - self.now < SOON_MS {
            self.wake.add(lane);
        }
    }

    fn failed(&self, error: rusqlite::Error) -> Error {
        failed(&self.writer.place.file, "writing to", error)
    }
}

/// Opens the file for one that counts what it does by itself. Only to be called by who has the turn.
fn connect(place: &Place) -> Result<Connection> {
    let connection = schema::open(&schema::MESSAGES, &place.file)?;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
        .map_err(|error| failed(&place.file, "opening", error))?;
    Ok(connection)
}

fn fail(commands: Vec<Command>, lost: Lost) {
    let error = match lost {
        Lost::NotBegun(error) | Lost::Undone(error) => error,
        Lost::Commit(error) => error.with_maybe_sent(true),
    };
    for command in commands {
        command.work.fail(&error);
    }
}

fn in_transaction<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let done = work(connection).and_then(|done| connection.execute_batch("COMMIT").map(|()| done));
    if done.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    done
}

/// Opens the queue on a thread of its own, answers how that went and where it is, and goes on to
/// serve it. `done` is dropped when it has closed.
pub(super) fn start(
    open: impl FnOnce() -> Result<Writer> + Send + 'static,
    done: std::sync::mpsc::Sender<()>,
) -> std::io::Result<oneshot::Receiver<Result<PathBuf>>> {
    let (opened, answer) = oneshot::channel();
    std::thread::Builder::new().name("dawdle-local".to_owned()).spawn(move || {
        let _done = done;
        match open() {
            Ok(writer) => match opened.send(Ok(writer.place.file.clone())) {
                Ok(()) => writer.run(),
                // Nobody waits for it any more.
                Err(_) => writer.close(),
            },
            Err(error) => drop(opened.send(Err(error))),
        }
    })?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::LocalBackend;
    use super::super::inbox::RunInTest;
    use super::*;
    use crate::backend::{Backend, Outgoing, Settle, Settlement};

    async fn open(folder: &tempfile::TempDir) -> LocalBackend {
        LocalBackend::open(folder.path().join("queue.db"), LocalOptions::default()).await.unwrap()
    }

    async fn run(backend: &LocalBackend, run: RunInTest) -> Result<()> {
        backend.inbox.ask(|answer| Work::Run { run, answer }).await.and_then(|mut results| results.remove(0))
    }

    async fn send(backend: &LocalBackend, body: &str) -> Result<()> {
        backend.send(Lane::Message, &[Outgoing::new(body)]).await.remove(0)
    }

    fn sql(connection: &Connection, sql: &str) -> rusqlite::Result<i64> {
        connection.query_row(sql, [], |row| row.get(0))
    }

    #[tokio::test]
    async fn a_panic_is_an_answer_and_undoes_its_group() {
        let folder = tempfile::tempdir().unwrap();
        let backend = open(&folder).await;
        send(&backend, "before").await.unwrap();
        let panic = run(&backend, |connection| {
            connection.execute_batch("DELETE FROM messages")?;
            panic!("on purpose")
        });
        let error = tokio::time::timeout(Duration::from_secs(10), panic).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.maybe_sent());
        send(&backend, "after").await.unwrap();
        assert_eq!(backend.inspect(Lane::Message).await.unwrap().visible, 2);
        // Its leases are still its own.
        assert_eq!(backend.receive(Lane::Message, 10).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_spares_what_fits() {
        let folder = tempfile::tempdir().unwrap();
        let backend = open(&folder).await;
        run(&backend, |connection| {
            let pages = sql(connection, "PRAGMA page_count")?;
            sql(connection, &format!("PRAGMA max_page_count = {}", pages + 20)).map(drop)
        })
        .await
        .unwrap();
        let large = "x".repeat(500_000);
        let batch = [Outgoing::new("fits"), Outgoing::new(large.as_str()), Outgoing::new("fits, too")];
        let (small, answers) = tokio::join!(send(&backend, "small"), backend.send(Lane::Message, &batch));
        small.unwrap();
        let error = answers[1].as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("free some disk space"), "{error}");
        assert!(!error.maybe_sent());
        let sent = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(backend.inspect(Lane::Message).await.unwrap().visible, sent as u64 + 1, "{answers:?}");
        send(&backend, "goes on").await.unwrap();
    }

    #[tokio::test]
    async fn a_failed_commit_may_have_been_one_and_is_got_over() {
        let folder = tempfile::tempdir().unwrap();
        let backend = open(&folder).await;
        let error = run(&backend, |connection| {
            connection.execute_batch(
                "PRAGMA foreign_keys = ON;
                 CREATE TABLE parent (id INTEGER PRIMARY KEY);
                 CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);
                 INSERT INTO child VALUES (1);",
            )
        })
        .await
        .unwrap_err();
        assert_eq!((error.kind(), error.maybe_sent()), (ErrorKind::Unavailable, true), "{error}");
        send(&backend, "goes on").await.unwrap();
        assert_eq!(backend.inspect(Lane::Message).await.unwrap().visible, 1);
    }

    #[tokio::test]
    async fn a_file_that_was_large_shrinks() {
        let folder = tempfile::tempdir().unwrap();
        let backend = open(&folder).await;
        let batch: Vec<_> = (0..100).map(|_| Outgoing::new("x".repeat(250_000))).collect();
        assert!(backend.send(Lane::Message, &batch).await.iter().all(Result::is_ok));
        let shell = Connection::open(folder.path().join("queue.db")).unwrap();
        shell.execute("DELETE FROM messages", []).unwrap();
        drop(shell);
        assert_eq!(backend.inspect(Lane::Message).await.unwrap().total(), 0);
        drop(backend);
        let size = || std::fs::metadata(folder.path().join("queue.db")).unwrap().len();
        let large = size();
        drop(open(&folder).await);
        assert!(size() + u64::from(SHRINK_AT_ONCE) * 4096 <= large, "{large} to {}", size());
    }

    #[tokio::test]
    async fn what_is_edited_by_hand_is_counted_too() {
        let folder = tempfile::tempdir().unwrap();
        let backend = open(&folder).await;
        let batch: Vec<_> = (0..5).map(|n| Outgoing::new(n.to_string())).collect();
        assert!(backend.send(Lane::Message, &batch).await.iter().all(Result::is_ok));
        let receipt = backend.receive(Lane::Message, 1).await.unwrap().remove(0).receipt;
        let shell = Connection::open(folder.path().join("queue.db")).unwrap();
        shell.execute("DELETE FROM messages WHERE body IN ('3', '4')", []).unwrap();
        shell.execute("UPDATE messages SET lane = 'dead' WHERE body = '2'", []).unwrap();
        let ack = Settle { receipt, how: Settlement::Ack };
        let (sent, acked) = tokio::join!(backend.send(Lane::Message, &batch[..1]), async {
            backend.settle(Lane::Message, &[ack.clone(), ack]).await
        });
        assert!(sent[0].is_ok() && acked[0].is_ok() && acked[1].is_err());
        for (lane, total) in [(Lane::Message, 2), (Lane::Dead, 1)] {
            assert_eq!(backend.inspect(lane).await.unwrap().total(), total, "{lane}");
        }
        assert_eq!(sql(&shell, "SELECT sum(messages) FROM lanes").unwrap(), 3);
    }

    #[tokio::test]
    async fn a_shell_that_holds_the_lock_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let backend = open(&folder).await;
        let shell = Connection::open(folder.path().join("queue.db")).unwrap();
        shell.execute_batch("BEGIN IMMEDIATE").unwrap();
        let (sent, ()) = tokio::join!(send(&backend, "x"), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            shell.execute_batch("COMMIT").unwrap();
        });
        sent.unwrap();
    }

    #[tokio::test]
    async fn a_lock_that_is_held_too_long_is_told_once_to_all() {
        let folder = tempfile::tempdir().unwrap();
        let backend = open(&folder).await;
        let shell = Connection::open(folder.path().join("queue.db")).unwrap();
        shell.execute_batch("BEGIN IMMEDIATE").unwrap();
        let begun = Instant::now();
        let sent = tokio::join!(send(&backend, "first"), send(&backend, "second"), send(&backend, "third"));
        for error in [sent.0, sent.1, sent.2].map(Result::unwrap_err) {
            assert_eq!((error.kind(), error.maybe_sent()), (ErrorKind::Unavailable, false));
            assert!(error.to_string().contains("sqlite3 shell"), "{error}");
        }
        // Two waits of 5 seconds at most, not one for each.
        assert!(begun.elapsed() < Duration::from_millis(14_000), "{:?}", begun.elapsed());
        shell.execute_batch("COMMIT").unwrap();
        send(&backend, "goes on").await.unwrap();
    }

    #[tokio::test]
    async fn old_dead_letters_are_pruned_but_for_those_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let backend = open(&folder).await;
        let letters: Vec<_> = (0..3).map(|n| Outgoing::new(n.to_string())).collect();
        assert!(backend.send(Lane::Dead, &letters).await.iter().all(Result::is_ok));
        assert!(backend.send(Lane::Message, &letters[..1]).await.iter().all(Result::is_ok));
        assert_eq!(backend.browse(Lane::Dead, 1, Duration::from_secs(60)).await.unwrap().len(), 1);
        run(&backend, |c| c.execute("UPDATE messages SET enqueued_at = 1000 WHERE body <> '2'", []).map(drop))
            .await
            .unwrap();
        drop(backend);
        // Closing gave the one back; another node holds it now.
        let shell = Connection::open(folder.path().join("queue.db")).unwrap();
        shell
            .execute("UPDATE messages SET visible_at = 253402300799000 WHERE body = '0' AND lane = 'dead'", [])
            .unwrap();
        let backend = open(&folder).await;
        let left: i64 =
            sql(&shell, "SELECT count(*) FROM messages WHERE lane = 'dead' AND body IN ('0', '2')").unwrap();
        assert_eq!((left, backend.inspect(Lane::Dead).await.unwrap().total()), (2, 2));
        assert_eq!(backend.inspect(Lane::Message).await.unwrap().total(), 1, "messages are kept for ever");
    }

    #[tokio::test]
    async fn a_node_without_a_lock_file_keeps_its_leases() {
        let folder = tempfile::tempdir().unwrap();
        let (holder, other) = (open(&folder).await, open(&folder).await);
        send(&holder, "x").await.unwrap();
        let held = holder.receive(Lane::Message, 1).await.unwrap();
        for entry in std::fs::read_dir(folder.path().join("queue.db.nodes")).unwrap().flatten() {
            if entry.path().extension().is_some_and(|kind| kind == "lock") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        let stolen = tokio::time::timeout(Duration::from_millis(1500), other.receive(Lane::Message, 1)).await;
        assert!(stolen.is_err(), "a live node's message was received");
        let receipts: Vec<_> = held.into_iter().map(|delivery| delivery.receipt).collect();
        assert!(holder.extend(Lane::Message, &receipts, Duration::from_secs(9)).await[0].is_ok());
    }

    #[tokio::test]
    async fn a_deleted_file_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".dawdle/queue.db");
        let backend = LocalBackend::open(&path, LocalOptions::default()).await.unwrap();
        send(&backend, "gone").await.unwrap();
        std::fs::remove_dir_all(folder.path().join(".dawdle")).unwrap();
        send(&backend, "kept").await.unwrap();
        let other = LocalBackend::open(&path, LocalOptions::default()).await.unwrap();
        let bodies: BTreeMap<_, _> =
            other.receive(Lane::Message, 9).await.unwrap().into_iter().map(|d| (d.body, d.receive_count)).collect();
        assert_eq!(bodies, BTreeMap::from([("kept".to_owned(), 1)]));
    }

    /// A receive whose answer finds nobody, at whatever point, leaves no trace.
    #[tokio::test]
    async fn dropped_receives_leave_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let backend = open(&folder).await;
        send(&backend, "x").await.unwrap();
        let mut received = 0;
        for micros in (0..4000).step_by(100) {
            let receive = backend.browse(Lane::Message, 1, Duration::from_secs(60));
            let got = tokio::time::timeout(Duration::from_micros(micros), receive).await;
            if let Ok(deliveries) = got {
                for delivery in deliveries.unwrap() {
                    received += 1;
                    let how = Settlement::ReleaseAfter(Duration::ZERO);
                    let entry = Settle { receipt: delivery.receipt, how };
                    backend.settle(Lane::Message, &[entry]).await.remove(0).unwrap();
                }
            }
        }
        let last = backend.receive(Lane::Message, 1).await.unwrap().remove(0);
        assert_eq!(last.receive_count, received + 1);
    }
}
