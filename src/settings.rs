//! The numbers that the machinery runs by, all of them bounds; [`Config`](crate::Config) says
//! where each comes from.

use std::time::Duration;

use crate::retry::Backoff;

/// Every setting with its value.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Handlers running at once on this node.
    pub(crate) concurrency: usize,
    /// The most messages received ahead of the handlers.
    pub(crate) prefetch: usize,
    /// The most messages that are held until they are due, beyond the prefetched.
    pub(crate) max_held: usize,
    /// The most receives under way at once.
    pub(crate) max_receives_at_once: usize,
    /// The whole of a drain; its last five seconds are for settling.
    pub(crate) shutdown_timeout: Duration,
    /// For how long a send is tried.
    pub(crate) send_timeout: Duration,
    /// Events waiting to be sent.
    pub(crate) send_buffer: usize,
    /// Send requests under way at once, per lane.
    pub(crate) sends_at_once: usize,
    /// Between tries of one send.
    pub(crate) send_backoff: Backoff,
    /// Events of the buffered form that go without waiting for more.
    pub(crate) buffer_batch: usize,
    /// How long one waits for others otherwise.
    pub(crate) buffer_delay: Duration,
    /// How long an ack waits for others to share its request.
    pub(crate) ack_linger: Duration,
    /// For how long nodes pass on an event that none of them can handle.
    pub(crate) unknown_after: Duration,
    /// How many times a message may be received without being settled.
    pub(crate) max_receives: u32,
    /// How often the delay queue is looked at.
    pub(crate) delay_poll: Duration,
    /// How many finished messages are remembered that could not be deleted.
    pub(crate) remembered_ids: usize,
    /// Bodies longer than this are compressed; `None` for never.
    pub(crate) compress_above: Option<usize>,
    /// Whether many events share a message, where their type does not say.
    pub(crate) pack: bool,
    /// The most events of a message.
    pub(crate) pack_count: usize,
    /// The most bytes of a message of several events.
    pub(crate) pack_bytes: usize,
    /// Attempts of a handler that names none.
    pub(crate) attempts: u32,
    /// Timeout of a handler that names none.
    pub(crate) timeout: Duration,
    /// Backoff of a handler that names none.
    pub(crate) backoff: Backoff,
    /// The CloudEvents source of what this process signals.
    pub(crate) source: String,
    /// The build that dead letters name.
    pub(crate) version: Option<String>,
    /// The node that dead letters name.
    pub(crate) node: String,
}

impl Default for Settings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Settings {
            concurrency: (2 * cores).max(10),
            prefetch: 2_000,
            max_held: 5_000,
            max_receives_at_once: 128,
            shutdown_timeout: Duration::from_secs(25),
            send_timeout: Duration::from_secs(10),
            send_buffer: 10_000,
            sends_at_once: 128,
            send_backoff: Backoff::exponential(Duration::from_millis(100), Duration::from_secs(2)),
            buffer_batch: 500,
            buffer_delay: Duration::from_millis(50),
            ack_linger: Duration::from_millis(50),
            unknown_after: Duration::from_secs(86_400),
            max_receives: 10,
            delay_poll: Duration::from_secs(240),
            remembered_ids: 10_000,
            compress_above: None,
            pack: false,
            pack_count: 1_000,
            pack_bytes: 64 * 1024,
            attempts: 25,
            timeout: Duration::from_secs(300),
            backoff: Backoff::default(),
            source: crate::envelope::DEFAULT_SOURCE.to_owned(),
            version: None,
            node: String::new(),
        }
    }
}
