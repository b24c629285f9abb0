//! Markers in a SQLite file, shared by the processes of a machine: [`SqliteStore`].
//!
//! ```text
//!  begin, renew, finish, abandon          other processes
//!        |                                      |
//!      channel --- everything that waits ---> turn
//!        ^                                      |
//!     answers <--- BEGIN IMMEDIATE, each, COMMIT (one sync)
//! ```
//!
//! One thread owns the connection, as a local queue's does, and shares its way of opening a file
//! and of taking turns: what is asked for while a transaction is being synced goes into the next
//! one, together.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::store::{Begun, Claim, DedupeKey, DedupeStore, claim_lost};
use crate::backend::BoxFuture;
use crate::backend::local::errors::{Called, failed_in};
use crate::backend::local::mount::refuse_network;
use crate::backend::local::place::Place;
use crate::backend::local::schema::{self, Schema};
use crate::backend::local::turn::Turn;
use crate::clock::{guarded_now, later};
use crate::error::{Error, ErrorKind, Result};

/// `DAWK`. Times are unix milliseconds. A key is running while it has a `lease_until`; without one
/// it is done. The token names one claim on it. What is over is deleted after `forget_at`.
const MARKERS: Schema = Schema {
    called: Called { name: "the dedupe store", at: "at SqliteStore::open" },
    kind: "a dedupe store of Dawdle's",
    application_id: 0x4441_574b,
    version: 1,
    tables: "
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE dedupe (
    kind        TEXT NOT NULL,
    handler     TEXT NOT NULL,
    key         TEXT NOT NULL,
    token       INTEGER NOT NULL,
    crashes     INTEGER NOT NULL,
    lease_until INTEGER,
    forget_at   INTEGER NOT NULL,
    PRIMARY KEY (kind, handler, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX dedupe_by_forget_at ON dedupe (forget_at);
",
};

/// For how long a claim that ended without a word is counted.
const COUNT_CRASHES: Duration = Duration::from_secs(86_400);

/// How many calls may be under way at once; callers beyond wait.
const AT_ONCE: usize = 1_024;

/// How many rows that are over a transaction deletes: more than most add.
const PRUNE_AT_ONCE: i64 = 200;

/// How many calls one transaction takes.
const GROUP: usize = 100;

/// Remembers in one SQLite file, for all processes of a machine that open it: durable (synced
/// before a call is answered), and readable with the `sqlite3` shell, table `dedupe`.
///
/// The file is one of its own, beside a local queue's, say `.dawdle/dedupe.db`, on a local disk;
/// locks are in a folder beside it. It serves a queue of any kind whose listeners all run on one
/// machine. Nodes on several machines need a store that they share: implement [`DedupeStore`] on
/// their database.
///
/// ```no_run
/// use dawdle::middleware::dedupe::SqliteStore;
/// use dawdle::{Dawdle, Dedupe};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> dawdle::Result<()> {
/// let store = SqliteStore::open(".dawdle/dedupe.db").await?;
/// let dawdle = Dawdle::builder().middleware(Dedupe::new(store)).start().await?;
/// # Ok(())
/// # }
/// ```
///
/// What is over is deleted a few hundred rows at a time, as others come. A row takes about 200
/// bytes with an event's id as its key. A call may be dropped at any point; the claim of a
/// dropped `begin` is given back.
#[derive(Debug)]
pub struct SqliteStore {
    calls: mpsc::Sender<Call>,
    permits: Arc<Semaphore>,
    path: PathBuf,
}

/// What is asked of the thread, and where the answer goes.
#[derive(Debug)]
struct Call {
    ask: Ask,
    answer: oneshot::Sender<Result<Option<Begun>>>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Ask {
    Begin { key: DedupeKey, now: i64, lease_until: i64, forget_at: i64 },
    Renew { claim: Claim, lease_until: i64, forget_at: i64 },
    Finish { claim: Claim, now: i64, forget_at: i64 },
    Abandon { claim: Claim },
}

impl SqliteStore {
    /// Opens the store in the file at `path`, creating it and the folders it is in where they are
    /// missing, readable by this user only.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a path that names no file; [`ErrorKind::Queue`] where the file or
    /// folder cannot be written, is no dedupe store, was written by a newer Dawdle, or lies on a
    /// network file system; [`ErrorKind::Unavailable`] while another program keeps it locked.
    ///
    /// # Blocking
    /// The file is opened and used on a thread of its own; the calling task only waits.
    pub async fn open(path: impl AsRef<Path>) -> Result<SqliteStore> {
        let path = path.as_ref().to_owned();
        let (calls, inbox) = mpsc::channel();
        let (opened, answer) = oneshot::channel();
        let asked = path.clone();
        std::thread::Builder::new()
            .name("dawdle-dedupe".to_owned())
            .spawn(move || match Keeper::open(&asked) {
                Ok(keeper) => {
                    if opened.send(Ok(keeper.place.file.clone())).is_ok() {
                        keeper.run(&inbox);
                    }
                }
                Err(error) => drop(opened.send(Err(error))),
            })
            .map_err(|error| {
                let text = format!("no thread could be started for the dedupe store {}: {error}", path.display());
                Error::new(ErrorKind::Unavailable, text).with_source(error)
            })?;
        let path = answer.await.map_err(|_| lost(&path))??;
        Ok(SqliteStore { calls, permits: Arc::new(Semaphore::new(AT_ONCE)), path })
    }

    async fn ask(&self, ask: Ask) -> Result<Option<Begun>> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| lost(&self.path))?;
        let (answer, answered) = oneshot::channel();
        self.calls.send(Call { ask, answer, _permit: permit }).map_err(|_| lost(&self.path))?;
        answered.await.map_err(|_| lost(&self.path))?
    }
}

impl DedupeStore for SqliteStore {
    fn begin<'a>(&'a self, key: &'a DedupeKey, now: SystemTime, lease: Duration) -> BoxFuture<'a, Result<Begun>> {
        Box::pin(async move {
            let (lease_until, forget_at) = ends(now, lease);
            let ask = Ask::Begin { key: key.clone(), now: millis(now), lease_until, forget_at };
            self.ask(ask).await?.ok_or_else(|| lost(&self.path))
        })
    }

    fn renew<'a>(&'a self, claim: &'a Claim, now: SystemTime, lease: Duration) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (lease_until, forget_at) = ends(now, lease);
            self.ask(Ask::Renew { claim: claim.clone(), lease_until, forget_at }).await.map(drop)
        })
    }

    fn finish<'a>(&'a self, claim: &'a Claim, now: SystemTime, remember_for: Duration) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let forget_at = millis(later(now, remember_for));
            self.ask(Ask::Finish { claim: claim.clone(), now: millis(now), forget_at }).await.map(drop)
        })
    }

    fn abandon<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.ask(Ask::Abandon { claim: claim.clone() }).await.map(drop) })
    }
}

/// What the thread works with.
struct Keeper {
    place: Place,
    turn: Turn,
    /// Open on the file of this identity; none after a failure.
    connection: Option<(Connection, Option<(u64, u64)>)>,
}

impl Keeper {
    fn open(path: &Path) -> Result<Keeper> {
        let place = Place::prepare(&MARKERS.called, path)?;
        refuse_network(&MARKERS.called, &place.file)?;
        let turn = Turn::new(&place).map_err(|error| refused(&place.file, error))?;
        let mut keeper = Keeper { place, turn, connection: None };
        keeper.connect()?;
        Ok(keeper)
    }

    /// Begins anew where the file was deleted or replaced, and after a failure.
    fn connect(&mut self) -> Result<()> {
        let current = self.connection.as_ref().is_some_and(|(_, identity)| *identity == self.place.identity());
        if current {
            return Ok(());
        }
        if self.connection.take().is_some() {
            tracing::warn!(path = %self.place.file.display(), "the dedupe store's file was deleted or replaced: opening it anew");
            self.place = Place::prepare(&MARKERS.called, &self.place.file)?;
            self.turn = Turn::new(&self.place).map_err(|error| refused(&self.place.file, error))?;
        }
        let _turn = self.turn.take();
        self.place.create_file().map_err(|error| refused(&self.place.file, error))?;
        self.connection = Some((schema::open(&MARKERS, &self.place.file)?, self.place.identity()));
        Ok(())
    }

    /// Does what is asked until nobody is left to ask.
    fn run(mut self, inbox: &mpsc::Receiver<Call>) {
        while let Ok(first) = inbox.recv() {
            let mut calls = vec![first];
            calls.extend(inbox.try_iter().take(GROUP - 1));
            // A panic drops the group, and with it the answers: each caller is told.
            if guarded_now("the dedupe store's thread", || self.perform(calls)).is_none() {
                self.connection = None;
            }
        }
    }

    fn perform(&mut self, mut calls: Vec<Call>) {
        calls.retain(|call| !(matches!(call.ask, Ask::Begin { .. }) && call.answer.is_closed()));
        let asks: Vec<&Ask> = calls.iter().map(|call| &call.ask).collect();
        let answers = match self.transact(&asks) {
            Ok(answers) => answers,
            Err(error) => {
                self.connection = None;
                calls.iter().map(|_| Err(error.clone())).collect()
            }
        };
        let mut unseen = Vec::new();
        for (call, answer) in calls.into_iter().zip(answers) {
            if let Err(Ok(Some(Begun::Fresh(claim)))) = call.answer.send(answer) {
                unseen.push(Ask::Abandon { claim });
            }
        }
        // What is not given back ends with its lease.
        if !unseen.is_empty() && self.transact(&unseen.iter().collect::<Vec<_>>()).is_err() {
            self.connection = None;
        }
    }

    /// Does all of them in one transaction, or none.
    fn transact(&mut self, asks: &[&Ask]) -> Result<Vec<Result<Option<Begun>>>> {
        self.connect()?;
        let path = &self.place.file;
        let Some((connection, _)) = &mut self.connection else { return Err(lost(path)) };
        let _turn = self.turn.take();
        let done = (|| {
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let answers = asks.iter().map(|ask| perform(&transaction, ask)).collect::<rusqlite::Result<Vec<_>>>()?;
            if let Some(now) = asks.iter().rev().find_map(|ask| ask.now()) {
                prune(&transaction, now)?;
            }
            transaction.commit()?;
            Ok(answers)
        })();
        done.map_err(|error| failed_in(&MARKERS.called, path, "writing to", error))
    }
}

impl Ask {
    fn now(&self) -> Option<i64> {
        match self {
            Ask::Begin { now, .. } | Ask::Finish { now, .. } => Some(*now),
            Ask::Renew { .. } | Ask::Abandon { .. } => None,
        }
    }
}

fn perform(connection: &Connection, ask: &Ask) -> rusqlite::Result<Result<Option<Begun>>> {
    let held = |changed: usize, claim: &Claim| if changed > 0 { Ok(None) } else { Err(claim_lost(claim.key())) };
    match ask {
        Ask::Begin { key, now, lease_until, forget_at } => {
            begin(connection, key, *now, *lease_until, *forget_at).map(|begun| Ok(Some(begun)))
        }
        Ask::Renew { claim, lease_until, forget_at } => {
            let key = claim.key();
            let mut renew = connection.prepare_cached(
                "UPDATE dedupe SET lease_until = ?5, forget_at = ?6 \
                 WHERE kind = ?1 AND handler = ?2 AND key = ?3 AND token = ?4 AND lease_until IS NOT NULL",
            )?;
            let changed =
                renew.execute(params![key.kind(), key.handler(), key.key(), token(claim), lease_until, forget_at])?;
            Ok(held(changed, claim))
        }
        Ask::Finish { claim, now, forget_at } => {
            let key = claim.key();
            // A row that is over may be there still, or not: it stands in nobody's way.
            let mut finish = connection.prepare_cached(
                "INSERT INTO dedupe VALUES (?1, ?2, ?3, ?4, 0, NULL, ?5) ON CONFLICT DO UPDATE \
                 SET token = excluded.token, crashes = 0, lease_until = NULL, forget_at = excluded.forget_at \
                 WHERE token = excluded.token OR forget_at <= ?6",
            )?;
            let changed =
                finish.execute(params![key.kind(), key.handler(), key.key(), token(claim), forget_at, now])?;
            Ok(held(changed, claim))
        }
        Ask::Abandon { claim } => {
            let key = claim.key();
            let mut abandon = connection.prepare_cached(
                "DELETE FROM dedupe \
                 WHERE kind = ?1 AND handler = ?2 AND key = ?3 AND token = ?4 AND lease_until IS NOT NULL",
            )?;
            abandon.execute(params![key.kind(), key.handler(), key.key(), token(claim)])?;
            Ok(Ok(None))
        }
    }
}

fn begin(
    connection: &Connection,
    key: &DedupeKey,
    now: i64,
    lease_until: i64,
    forget_at: i64,
) -> rusqlite::Result<Begun> {
    let mut look = connection.prepare_cached(
        "SELECT crashes, lease_until FROM dedupe WHERE kind = ?1 AND handler = ?2 AND key = ?3 AND forget_at > ?4",
    )?;
    let found: Option<(u32, Option<i64>)> = look
        .query_row(params![key.kind(), key.handler(), key.key(), now], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let crashes = match found {
        None => 0,
        Some((_, None)) => return Ok(Begun::Done),
        Some((_, Some(until))) if until > now => return Ok(Begun::InProgress { until: time(until) }),
        Some((crashes, Some(_))) => crashes.saturating_add(1),
    };
    let claim = Claim::new(key.clone(), fastrand::u64(1..=i64::MAX as u64), crashes);
    let mut take = connection.prepare_cached("INSERT OR REPLACE INTO dedupe VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    take.execute(params![key.kind(), key.handler(), key.key(), token(&claim), crashes, lease_until, forget_at])?;
    Ok(Begun::Fresh(claim))
}

/// Deletes some of what is over.
fn prune(connection: &Connection, now: i64) -> rusqlite::Result<()> {
    let mut prune = connection.prepare_cached(
        "DELETE FROM dedupe WHERE (kind, handler, key) IN \
         (SELECT kind, handler, key FROM dedupe WHERE forget_at <= ?1 ORDER BY forget_at LIMIT ?2)",
    )?;
    prune.execute(params![now, PRUNE_AT_ONCE]).map(drop)
}

fn token(claim: &Claim) -> i64 {
    // Made by `begin`, within what the column holds.
    i64::try_from(claim.token()).unwrap_or(i64::MAX)
}

/// When a lease ends, and when it is no longer counted that it did.
fn ends(now: SystemTime, lease: Duration) -> (i64, i64) {
    let until = later(now, lease);
    (millis(until), millis(later(until, COUNT_CRASHES)))
}

fn millis(time: SystemTime) -> i64 {
    let span = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn time(millis: i64) -> SystemTime {
    later(SystemTime::UNIX_EPOCH, Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
}

fn refused(path: &Path, error: std::io::Error) -> Error {
    Error::new(
        ErrorKind::Queue,
        format!("the dedupe store {} cannot be opened: {error}; make it and its folder writable", path.display()),
    )
    .with_source(error)
}

/// The answer to a caller whose call ended without one.
fn lost(path: &Path) -> Error {
    let text = format!(
        "the answer of the dedupe store {} was lost: its thread failed at this call; see the log",
        path.display()
    );
    Error::new(ErrorKind::Unavailable, text)
}
