//! The seam to what keeps messages: [`Backend`], and the values that cross it.
//!
//! A backend moves opaque bodies on three lanes and knows nothing of events, retries or long
//! delays. What it can do is data ([`Limits`]); what to do about it is decided elsewhere. A new
//! backend is one implementation of [`Backend`] that passes
//! `testing::conformance` (feature `testing`).

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::Result;

#[cfg(feature = "local")]
pub mod local;
pub mod memory;
#[cfg(feature = "sqs")]
pub mod sqs;
mod usage;

pub use usage::{BILLING_UNIT, Usage};

/// A boxed future, as the methods of dyn-compatible traits return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One of the three queues of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// The message queue: what handlers run on.
    Message,
    /// The delay queue: what is due later than a message can be delayed. Handlers never run here.
    Delay,
    /// The dead letters.
    Dead,
}

impl Lane {
    /// All three.
    pub const ALL: [Lane; 3] = [Lane::Message, Lane::Delay, Lane::Dead];

    /// Its name in a word, as metrics, the local file and the command line have it: `message`, `delay` or `dead`.
    pub const fn name(self) -> &'static str {
        match self {
            Lane::Message => "message",
            Lane::Delay => "delay",
            Lane::Dead => "dead",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lane::Message => "message queue",
            Lane::Delay => "delay queue",
            Lane::Dead => "dead-letter queue",
        })
    }
}

/// What a backend can do. Sizes are bytes of UTF-8, counted as the backend counts them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// The largest message, its attributes included.
    pub max_message_bytes: usize,
    /// The most entries that one call of `send`, `settle` or `extend` takes, and `receive` yields.
    pub max_batch_entries: usize,
    /// The largest sum of the messages of one `send`.
    pub max_batch_bytes: usize,
    /// The longest delay that `send` takes; `None` where there is no limit.
    pub max_delay: Option<Duration>,
    /// The steps in which delays are counted; a delay is rounded down to one.
    pub delay_step: Duration,
    /// For how long `receive` leases what it yields, unless it is extended.
    pub lease: Duration,
    /// The longest lease in all, counted from the receive; `None` where there is no limit.
    pub max_lease: Option<Duration>,
    /// For how long a message is kept, counted from its enqueue; `None` where it is for ever.
    pub retention: Option<Duration>,
    /// How many messages of a lane may be leased at once; `None` where there is no limit.
    pub max_in_flight: Option<u64>,
    /// Whether there is a delay lane.
    pub delay_lane: bool,
    /// Whether there is a dead lane.
    pub dead_lane: bool,
    /// Whether a `receive` that is dropped while it waits hides no message.
    pub receive_cancels: bool,
    /// Whether calls that are made at the same time share what they cost, so that no send or settle
    /// need wait for others to go with it.
    pub calls_share: bool,
}

impl Limits {
    /// No limit but those of the machine: 64 MiB a message, batches of 100, leases of 30 seconds.
    pub const fn unlimited() -> Self {
        Limits {
            max_message_bytes: 64 * 1024 * 1024,
            max_batch_entries: 100,
            max_batch_bytes: 256 * 1024 * 1024,
            max_delay: None,
            delay_step: Duration::from_millis(1),
            lease: Duration::from_secs(30),
            max_lease: None,
            retention: None,
            max_in_flight: None,
            delay_lane: true,
            dead_lane: true,
            receive_cancels: true,
            calls_share: false,
        }
    }

    /// The limits of Amazon SQS standard queues with the queue's default visibility timeout.
    ///
    /// 1 MiB a message and a batch, 10 entries, delays of 0 to 900 seconds, 12 hours of
    /// visibility from the receive, 14 days of retention, 120,000 messages in flight:
    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>
    pub const fn sqs() -> Self {
        Limits {
            max_message_bytes: 1024 * 1024,
            max_batch_entries: 10,
            max_batch_bytes: 1024 * 1024,
            max_delay: Some(Duration::from_secs(900)),
            delay_step: Duration::from_secs(1),
            lease: Duration::from_secs(30),
            max_lease: Some(Duration::from_secs(43_200)),
            retention: Some(Duration::from_secs(14 * 86_400)),
            max_in_flight: Some(120_000),
            delay_lane: true,
            dead_lane: true,
            receive_cancels: false,
            calls_share: false,
        }
    }
}

/// A message to be put on a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The body. Any text that XML 1.0 allows.
    pub body: String,
    /// Message attributes: text by name, beside the body.
    pub attributes: BTreeMap<String, String>,
    /// For how long it stays hidden. Within [`Limits::max_delay`].
    pub delay: Duration,
    /// The fair-queue group, where the backend has such a thing.
    pub group: Option<String>,
    /// Whether it stands for a message that leaves the queue right after, so that a limit on how
    /// many there may be does not concern it: refused, neither could ever move.
    pub in_place: bool,
}

impl Outgoing {
    /// A message of this body, due at once.
    pub fn new(body: impl Into<String>) -> Self {
        Outgoing { body: body.into(), ..Outgoing::default() }
    }

    /// Its size as SQS counts it: the body, and names, types and values of the attributes.
    pub fn bytes(&self) -> usize {
        bytes(&self.body, &self.attributes)
    }
}

fn bytes(body: &str, attributes: &BTreeMap<String, String>) -> usize {
    let attributes = attributes.iter().map(|(name, value)| name.len() + value.len() + "String".len());
    body.len() + attributes.sum::<usize>()
}

/// A message that was received and is leased to this process.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The backend's id of the message: the same each time it is received.
    pub message_id: String,
    /// What settles or extends this receive.
    pub receipt: Receipt,
    /// The body.
    pub body: String,
    /// Message attributes.
    pub attributes: BTreeMap<String, String>,
    /// How many times the message has been received, this time included.
    pub receive_count: u32,
    /// When it was put on this lane, by the queue's clock.
    pub enqueued_at: SystemTime,
    /// For how long it is leased, counted from when the receive answered.
    pub lease: Duration,
}

impl Delivery {
    /// Its size as SQS counts it: the body, and names, types and values of the attributes.
    pub fn bytes(&self) -> usize {
        bytes(&self.body, &self.attributes)
    }
}

/// What names one receive of one message. Opaque outside its backend.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Receipt(pub String);

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receipt(..)")
    }
}

/// How a delivery ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// Which delivery.
    pub receipt: Receipt,
    /// What becomes of it.
    pub how: Settlement,
}

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Finished: it leaves the queue.
    Ack,
    /// Given back: it stays hidden for this long, counted from now, then it can be received again.
    ReleaseAfter(Duration),
}

/// What a process is about to do with the queues, for [`Backend::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Only send.
    Sender,
    /// Receive, too.
    Listener,
}

/// What [`Backend::inspect`] counts on one lane. Approximate where the backend's counts are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Messages that can be received now.
    pub visible: u64,
    /// Messages that are leased, parked ones included.
    pub in_flight: u64,
    /// Messages that are still delayed.
    pub delayed: u64,
    /// For how long the message has been due that has been so for longest, where the backend can tell.
    /// Delayed ones are not due.
    pub oldest: Option<Duration>,
}

impl LaneStats {
    /// All messages on the lane.
    pub fn total(&self) -> u64 {
        self.visible + self.in_flight + self.delayed
    }
}

/// Where messages are kept.
///
/// # What an implementation guarantees
/// - A message that `send` answered with `Ok` survives the death of this process, and stays until
///   it is acked, or for [`Limits::retention`].
/// - A message is delivered at least once: leased to one receiver at a time while its lease
///   lasts, visible again afterwards. Order is not promised.
/// - Every call that takes entries answers each of them, in the order given. One entry's failure
///   is not another's. A call is given at most [`Limits::max_batch_entries`] entries.
/// - A stale receipt (the lease ended and the message was received again) never acks, releases or
///   extends the newer delivery; the answer may be `Ok` or
///   [`ErrorKind::LeaseLost`](crate::ErrorKind::LeaseLost).
/// - All methods may be called concurrently, from any task. [`extend`](Backend::extend) is
///   called from a runtime and thread of its own, and must not depend on the progress of another.
/// - Dropping the future of a call may leave it done or undone. A dropped `receive` may hide
///   messages until their lease ends, never lose them.
/// - A failed entry answers an [`Error`](crate::Error) whose kind says whether another try is
///   worth it, and for `send`, [`maybe_sent`](crate::Error::maybe_sent) when the answer was lost.
pub trait Backend: Send + Sync + 'static {
    /// A word for logs: `sqs`, `local`, `memory`.
    fn name(&self) -> &str;

    /// Where the messages are, for the start line in the log: a path, the queues' URLs.
    fn describe(&self) -> String;

    /// The name of one of its queues, for traces; where they have none, what [`describe`](Backend::describe)
    /// says.
    fn queue_name(&self, lane: Lane) -> String {
        let _ = lane;
        self.describe()
    }

    /// What it can do. Constant after [`check`](Backend::check) has answered.
    fn limits(&self) -> Limits;

    /// How far the queue's clock is ahead of this machine's, in milliseconds, as far as known.
    fn clock_offset_ms(&self) -> i64 {
        0
    }

    /// Finds out [`clock_offset_ms`](Backend::clock_offset_ms), where nothing has told it yet. Asked
    /// before the first event is signalled whose handling depends on the time, until it has answered.
    ///
    /// # Errors
    /// Where no answer came: the offset stays as it is. An answer that tells no time is none.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the offset as it is.
    fn learn_clock_offset(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// How many requests it has made, as far as it counts them.
    fn usage(&self) -> Usage {
        Usage::default()
    }

    /// Connects, and refuses queues that are missing or would lose or spoil events.
    fn check(&self, role: Role) -> BoxFuture<'_, Result<()>>;

    /// Puts messages on a lane, durably.
    fn send<'a>(&'a self, lane: Lane, messages: &'a [Outgoing]) -> BoxFuture<'a, Vec<Result<()>>>;

    /// Takes up to `max` messages from a lane, each leased to this process. Waits until there
    /// is at least one, or for as long as the backend sees fit, and then answers none.
    fn receive(&self, lane: Lane, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>>>;

    /// Ends deliveries.
    fn settle<'a>(&'a self, lane: Lane, entries: &'a [Settle]) -> BoxFuture<'a, Vec<Result<()>>>;

    /// Leases deliveries for `lease` more, counted from now.
    fn extend<'a>(&'a self, lane: Lane, receipts: &'a [Receipt], lease: Duration) -> BoxFuture<'a, Vec<Result<()>>>;

    /// Counts a lane.
    fn inspect(&self, lane: Lane) -> BoxFuture<'_, Result<LaneStats>>;

    /// Takes up to `max` messages that can be received now, leased for `hold`, without waiting
    /// for more to come. Answers none when there are no others.
    fn browse(&self, lane: Lane, max: usize, hold: Duration) -> BoxFuture<'_, Result<Vec<Delivery>>>;
}

/// A backend that is shared: by several instances, or with the application.
impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn describe(&self) -> String {
        (**self).describe()
    }

    fn limits(&self) -> Limits {
        (**self).limits()
    }

    fn clock_offset_ms(&self) -> i64 {
        (**self).clock_offset_ms()
    }

    fn learn_clock_offset(&self) -> BoxFuture<'_, Result<()>> {
        (**self).learn_clock_offset()
    }

    fn usage(&self) -> Usage {
        (**self).usage()
    }

    fn check(&self, role: Role) -> BoxFuture<'_, Result<()>> {
        (**self).check(role)
    }

    fn send<'a>(&'a self, lane: Lane, messages: &'a [Outgoing]) -> BoxFuture<'a, Vec<Result<()>>> {
        (**self).send(lane, messages)
    }

    fn receive(&self, lane: Lane, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        (**self).receive(lane, max)
    }

    fn settle<'a>(&'a self, lane: Lane, entries: &'a [Settle]) -> BoxFuture<'a, Vec<Result<()>>> {
        (**self).settle(lane, entries)
    }

    fn extend<'a>(&'a self, lane: Lane, receipts: &'a [Receipt], lease: Duration) -> BoxFuture<'a, Vec<Result<()>>> {
        (**self).extend(lane, receipts, lease)
    }

    fn inspect(&self, lane: Lane) -> BoxFuture<'_, Result<LaneStats>> {
        (**self).inspect(lane)
    }

    fn browse(&self, lane: Lane, max: usize, hold: Duration) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        (**self).browse(lane, max, hold)
    }
}
