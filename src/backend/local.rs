//! Messages in one SQLite file, shared by the processes of a machine.
//!
//! [`LocalBackend`] is a durable queue with no server and nothing to configure. What `send`
//! answered is on disk; any number of processes may open the file; any of them may be killed at
//! any instant, and what it had leased is received by another within about a second.
//!
//! ```text
//!  .dawdle/queue.db          the queue: messages, nodes, meta (read it with the sqlite3 shell)
//!  .dawdle/queue.db-wal      what was committed of late, by SQLite
//!  .dawdle/queue.db.nodes/   who writes next, who lives, whom to wake: locks and sockets, no data
//! ```
//!
//! The file is written by one thread for each opened backend (`writer`): what is asked for
//! while a transaction is being synced goes into the next one, together. The threads of several
//! processes take turns (`turn`). A process that waits is woken by those that write (`wake`),
//! and whether a process lives is told by a lock that ends with it (`nodes`).
//!
//! The file must be on a local disk. Where it is deleted while processes have it open, they notice
//! at their next call and begin a new one; what was in it is gone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};

use crate::backend::{
    Backend, BoxFuture, Delivery, Lane, LaneStats, Limits, Outgoing, Receipt, Role, Settle, Settlement,
};
use crate::clock::later;
use crate::error::{Error, ErrorKind, Result};

pub(crate) mod errors;
mod inbox;
pub(crate) mod mount;
mod nodes;
pub(crate) mod place;
pub(crate) mod schema;
mod table;
pub(crate) mod turn;
mod wake;
mod writer;

use inbox::{Inbox, Tidy, Work};
use place::Place;
use table::{LeasedRow, NewRow, Token};
use wake::Waiters;
use writer::Writer;

/// How many entries one call takes.
const BATCH: usize = 100;

/// For how long dropping the backend waits for its thread to leave the queue.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a [`LocalBackend`] behaves. Processes that share a file may differ in it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LocalOptions {
    /// How many messages there may be on all lanes together, leased and delayed ones included; a
    /// send beyond is answered [`ErrorKind::Full`]. 1,000,000.
    pub max_messages: u64,
    /// The largest message, its attributes included, in bytes as [`Outgoing::bytes`] counts them;
    /// a larger one is answered [`ErrorKind::TooLarge`]. 1 MiB.
    pub max_message_bytes: usize,
    /// For how long a receive leases what it yields. At least a millisecond. 30 seconds.
    pub lease: Duration,
    /// For how long dead letters are kept, counted from when they became such. Older ones are
    /// deleted, a few hundred at a time, while a process receives. 14 days.
    pub dead_retention: Duration,
    /// For how long a receive waits before it answers none. 20 seconds.
    pub receive_wait: Duration,
}

impl Default for LocalOptions {
    fn default() -> Self {
        LocalOptions {
            max_messages: 1_000_000,
            max_message_bytes: 1024 * 1024,
            lease: Duration::from_secs(30),
            dead_retention: Duration::from_secs(14 * 86_400),
            receive_wait: Duration::from_secs(20),
        }
    }
}

impl LocalOptions {
    fn validate(&self) -> Result<()> {
        let refuse = |name: &str, value: &dyn std::fmt::Debug, least: &str| {
            Err(Error::new(
                ErrorKind::Config,
                format!("LocalOptions::{name} is {value:?}, and must be {least} or more"),
            ))
        };
        if self.max_messages == 0 {
            return refuse("max_messages", &self.max_messages, "1");
        }
        if self.max_message_bytes == 0 {
            return refuse("max_message_bytes", &self.max_message_bytes, "1");
        }
        if self.lease < Duration::from_millis(1) {
            return refuse("lease", &self.lease, "1 ms");
        }
        Ok(())
    }
}

/// A durable queue in one SQLite file: see the [module](self).
///
/// Its calls may be dropped at any point. A dropped send or settle may be done or not; what a
/// dropped receive had taken is visible again at once, as if it had never been received.
///
/// Dropping the backend waits for its thread, a few milliseconds and five seconds at most, to end
/// the leases that this backend still holds and to leave no trace but the queue. A process that
/// does not get to that is treated as one that was killed.
pub struct LocalBackend {
    path: PathBuf,
    options: LocalOptions,
    inbox: Arc<Inbox>,
    waiters: Arc<Waiters>,
    commits: Arc<AtomicU64>,
    closed: Mutex<mpsc::Receiver<()>>,
}

impl std::fmt::Debug for LocalBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalBackend").field("path", &self.path).field("options", &self.options).finish_non_exhaustive()
    }
}

impl LocalBackend {
    /// Opens the queue in the file at `path`, creating it and the folders it is in where they are
    /// missing, readable by this user only. In a folder named `.dawdle`, a `.gitignore` is put
    /// beside it.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for options or a path that cannot be; [`ErrorKind::Queue`] where the
    /// file or folder cannot be written, is no Dawdle queue, was written by a newer Dawdle, or lies
    /// on a network file system; [`ErrorKind::Unavailable`] while another program keeps it locked.
    ///
    /// # Blocking
    /// The file is opened on a thread of its own; the calling task only waits. Dropping the future
    /// closes the file again.
    pub async fn open(path: impl AsRef<Path>, options: LocalOptions) -> Result<LocalBackend> {
        options.validate()?;
        let path = path.as_ref().to_owned();
        let inbox = Arc::new(Inbox::new(std::path::absolute(&path).unwrap_or_else(|_| path.clone())));
        let waiters = Arc::new(Waiters::default());
        let commits = Arc::new(AtomicU64::new(0));
        let (done, closed) = mpsc::channel();
        let opening = {
            let (path, options) = (path.clone(), options.clone());
            let (inbox, waiters, commits) = (Arc::clone(&inbox), Arc::clone(&waiters), Arc::clone(&commits));
            move || {
                let place = Place::prepare(&errors::QUEUE, &path)?;
                mount::refuse_network(&errors::QUEUE, &place.file)?;
                Writer::open(place, options, inbox, waiters, commits)
            }
        };
        let opened = writer::start(opening, done).map_err(|error| {
            Error::new(
                ErrorKind::Unavailable,
                format!("no thread could be started for the local queue {}: {error}", path.display()),
            )
            .with_source(error)
        })?;
        let path = opened.await.map_err(|_| errors::lost(&path))??;
        Ok(LocalBackend { path, options, inbox, waiters, commits, closed: Mutex::new(closed) })
    }

    /// How many transactions this backend has committed for its callers: against the number of
    /// calls, it shows how many of them share a sync.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Deletes all messages: of every lane, delayed and leased ones included. Says how many there were.
    /// Handlers that run go on, and find their messages gone.
    ///
    /// ```
    /// use dawdle::backend::local::{LocalBackend, LocalOptions};
    /// use dawdle::backend::{Backend, Lane, Outgoing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> dawdle::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("queue.db");
    /// let queue = LocalBackend::open(path, LocalOptions::default()).await?;
    /// queue.send(Lane::Dead, &[Outgoing::new("one"), Outgoing::new("two")]).await;
    /// assert_eq!(queue.clear().await?, 2);
    /// assert_eq!(queue.inspect(Lane::Dead).await?.total(), 0);
    /// queue.vacuum().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] while another program keeps the file locked, and what the disk answers.
    pub async fn clear(&self) -> Result<u64> {
        self.inbox.ask(|answer| Work::Tidy { tidy: Tidy::Clear, answer }).await?
    }

    /// Writes the file anew without what is free in it; says by how many bytes it has become smaller. It
    /// needs as much room beside the file as the messages take, and everything else waits meanwhile.
    ///
    /// # Errors
    /// As [`clear`](LocalBackend::clear).
    pub async fn vacuum(&self) -> Result<u64> {
        self.inbox.ask(|answer| Work::Tidy { tidy: Tidy::Vacuum, answer }).await?
    }

    async fn send_rows(&self, lane: Lane, messages: &[Outgoing]) -> Vec<Result<()>> {
        let now = SystemTime::now();
        let checked: Vec<Result<NewRow>> = messages.iter().map(|message| self.row(message, now)).collect();
        each_allowed(checked, |rows| self.inbox.ask(|answer| Work::Send { lane, rows, answer })).await
    }

    fn row(&self, message: &Outgoing, now: SystemTime) -> Result<NewRow> {
        let (bytes, limit) = (message.bytes(), self.options.max_message_bytes);
        if bytes > limit {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "a message of {bytes} bytes is larger than the local queue's limit of {limit}: send less, keep the \
                     bulk elsewhere and send where it is, or raise LocalOptions::max_message_bytes"
                ),
            ));
        }
        let attributes = (!message.attributes.is_empty())
            .then(|| serde_json::to_string(&message.attributes))
            .transpose()
            .map_err(|error| {
                Error::new(ErrorKind::Codec, "the attributes of a message could not be encoded").with_source(error)
            })?;
        Ok(NewRow {
            body: message.body.clone(),
            attributes,
            enqueued_at: millis(now),
            visible_at: due(now, message.delay),
            in_place: message.in_place,
        })
    }

    async fn receive_or_wait(&self, lane: Lane, max: usize) -> Result<Vec<Delivery>> {
        let started = Instant::now();
        loop {
            // Before the look, so that what is committed after it is not missed.
            let mut woken = std::pin::pin!(self.waiters.lane(lane).notified());
            woken.as_mut().enable();
            let (deliveries, next_due) = self.lease(lane, max, self.options.lease, true).await?;
            let left = self.options.receive_wait.saturating_sub(started.elapsed());
            if !deliveries.is_empty() || left.is_zero() || max == 0 {
                return Ok(deliveries);
            }
            let due =
                next_due.map_or(Duration::MAX, |due| time(due).duration_since(SystemTime::now()).unwrap_or_default());
            let pause = left.min(self.waiters.look_again()).min(due);
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn lease(
        &self,
        lane: Lane,
        max: usize,
        lease: Duration,
        waits: bool,
    ) -> Result<(Vec<Delivery>, Option<i64>)> {
        let max = max.min(BATCH);
        let leased = self.inbox.ask(|answer| Work::Lease { lane, max, lease, waits, answer }).await??;
        let (token, next_due) = (leased.token, leased.next_due);
        // No await from here on: what was taken arrives.
        Ok((leased.take().into_iter().map(|row| delivery(row, token, lease)).collect(), next_due))
    }

    async fn settle_rows(&self, lane: Lane, entries: &[Settle]) -> Vec<Result<()>> {
        let now = SystemTime::now();
        let checked = entries.iter().map(|entry| {
            let release_at = match entry.how {
                Settlement::Ack => None,
                Settlement::ReleaseAfter(delay) => Some(due(now, delay)),
            };
            Ok((parse(&entry.receipt)?, release_at))
        });
        each_allowed(checked.collect(), |entries| self.inbox.ask(|answer| Work::Settle { lane, entries, answer })).await
    }

    async fn extend_rows(&self, lane: Lane, receipts: &[Receipt], lease: Duration) -> Vec<Result<()>> {
        let until = due(SystemTime::now(), lease);
        each_allowed(receipts.iter().map(parse).collect(), |tokens| {
            self.inbox.ask(|answer| Work::Extend { lane, tokens, until, answer })
        })
        .await
    }

    async fn count(&self, lane: Lane) -> Result<LaneStats> {
        let (stats, oldest) = self.inbox.ask(|answer| Work::Inspect { lane, answer }).await??;
        let age = |at| SystemTime::now().duration_since(time(at)).unwrap_or_default();
        Ok(LaneStats { oldest: oldest.map(age), ..stats })
    }
}

impl Backend for LocalBackend {
    fn name(&self) -> &str {
        "local"
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    /// No delay lane: a message can be delayed for as long as one likes.
    fn limits(&self) -> Limits {
        Limits {
            max_message_bytes: self.options.max_message_bytes,
            max_batch_entries: BATCH,
            max_batch_bytes: self.options.max_message_bytes.saturating_mul(BATCH),
            lease: self.options.lease,
            delay_lane: false,
            calls_share: true,
            ..Limits::unlimited()
        }
    }

    /// Opening has checked all there is; this sees that the file can be read.
    fn check(&self, _: Role) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.count(Lane::Message).await.map(drop) })
    }

    /// Answered when the messages are on disk. Delays are rounded up to a millisecond.
    fn send<'a>(&'a self, lane: Lane, messages: &'a [Outgoing]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(self.send_rows(lane, messages))
    }

    /// Waits up to [`LocalOptions::receive_wait`]. Must be called within a tokio runtime.
    fn receive(&self, lane: Lane, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(self.receive_or_wait(lane, max))
    }

    fn settle<'a>(&'a self, lane: Lane, entries: &'a [Settle]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(self.settle_rows(lane, entries))
    }

    fn extend<'a>(&'a self, lane: Lane, receipts: &'a [Receipt], lease: Duration) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(self.extend_rows(lane, receipts, lease))
    }

    /// Exact up to 100,000 messages of a kind (visible, leased); beyond, `in_flight` stays at that,
    /// and where more than that many are visible and as many are hidden, the rest counts as
    /// visible. The sum is always exact.
    fn inspect(&self, lane: Lane) -> BoxFuture<'_, Result<LaneStats>> {
        Box::pin(self.count(lane))
    }

    fn browse(&self, lane: Lane, max: usize, hold: Duration) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(async move {
            let (deliveries, _) = self.lease(lane, max, hold, false).await?;
            Ok(deliveries)
        })
    }
}

impl Drop for LocalBackend {
    fn drop(&mut self) {
        self.inbox.stop();
        // Ends with the thread, which drops its end.
        let _ = self.closed.get_mut().unwrap_or_else(PoisonError::into_inner).recv_timeout(CLOSE_TIMEOUT);
    }
}

/// Asks for those entries that are well-formed, and puts the answers back among the others, in the
/// order of the entries.
async fn each_allowed<T, F>(entries: Vec<Result<T>>, ask: impl FnOnce(Vec<T>) -> F) -> Vec<Result<()>>
where
    F: Future<Output = Result<Vec<Result<()>>>>,
{
    let mut allowed = Vec::with_capacity(entries.len());
    let mut answers = Vec::with_capacity(entries.len());
    for entry in entries {
        answers.push(entry.map(|entry| allowed.push(entry)));
    }
    if allowed.is_empty() {
        return answers;
    }
    let mut results = match ask(allowed).await {
        Ok(results) => results.into_iter(),
        Err(error) => return answers.into_iter().map(|answer| answer.and(Err(error.clone()))).collect(),
    };
    let missing =
        || Error::new(ErrorKind::Unavailable, "the local queue did not answer an entry").with_maybe_sent(true);
    answers.into_iter().map(|answer| answer.and_then(|()| results.next().unwrap_or_else(|| Err(missing())))).collect()
}

fn delivery(row: LeasedRow, token: i64, lease: Duration) -> Delivery {
    let attributes = row.attributes.as_deref().map(serde_json::from_str::<BTreeMap<String, String>>);
    let attributes = attributes.unwrap_or_else(|| Ok(BTreeMap::new())).unwrap_or_else(|_| {
        tracing::warn!(
            message_id = row.id,
            "the attributes of a message are no JSON object of texts; received without"
        );
        BTreeMap::new()
    });
    Delivery {
        // Distinct also when the file was deleted and ids begin anew: what is remembered by its id
        // must not be taken for another.
        message_id: format!("{}-{}", row.id, row.enqueued_at),
        receipt: Receipt(format!("{}-{token}", row.id)),
        body: row.body,
        attributes,
        receive_count: row.receive_count,
        enqueued_at: time(row.enqueued_at),
        lease,
    }
}

fn parse(receipt: &Receipt) -> Result<Token> {
    let parts = receipt.0.split_once('-').and_then(|(id, token)| Some((id.parse().ok()?, token.parse().ok()?)));
    parts.map(|(id, token)| Token { id, token }).ok_or_else(errors::lease_lost)
}

/// The last instant that a timestamp can say (the year 9999), in unix milliseconds.
const LAST: i64 = 253_402_300_799_000;

/// Unix milliseconds, rounded down.
fn millis(time: SystemTime) -> i64 {
    let span = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(span.as_millis()).unwrap_or(LAST).min(LAST)
}

/// When something is visible that is hidden for `delay` from `now`: never too early.
fn due(now: SystemTime, delay: Duration) -> i64 {
    if delay.is_zero() {
        return millis(now);
    }
    let due = later(now, delay);
    millis(later(due, Duration::from_nanos(999_999)))
}

/// The same where now is unix milliseconds.
fn millis_later(now: i64, span: Duration) -> i64 {
    due(time(now), span)
}

fn time(millis: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis.min(LAST)).unwrap_or(0))
}
