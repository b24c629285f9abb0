//! Events that were signalled and are not durable yet, with nobody waiting for each: [`Buffer`].
//!
//! They gather for a moment, or until there is a batch of them, and are then sent together. A batch
//! that cannot be sent is tried until it can, so nothing is dropped while the process lives; what the
//! buffer may hold is bounded by places that its callers bring along.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Latch};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventId;
use crate::retry::Backoff;
use crate::sender::{Parcel, Sender};
use crate::settings::Settings;
use crate::sync::{Mutex, MutexGuard};

/// Between rounds of tries, each of which takes as long as a send may.
const TRY_AGAIN: Backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(30));

/// Gathers events and sends them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Buffer(Arc<Shared>);

struct Shared {
    sender: Sender,
    clock: Clock,
    batch: usize,
    delay: Duration,
    flush_timeout: Duration,
    state: Mutex<State>,
    /// Raised when what is left is given up.
    abort: Latch,
}

#[derive(Default)]
struct State {
    waiting: Vec<(EventId, Parcel)>,
    /// A timer runs for what waits.
    timed: bool,
    /// Nothing more is taken.
    closed: bool,
    /// One for each batch that is under way, raised when it has come to its end.
    under_way: VecDeque<Latch>,
    /// Events that could never be sent, since the last flush, and why the first of them could not.
    failed: Option<(usize, Error)>,
    /// Why a batch is tried on, until one is durable.
    held_up: Option<Error>,
}

impl Buffer {
    pub(crate) fn new(sender: Sender, clock: Clock, settings: &Settings) -> Self {
        Buffer(Arc::new(Shared {
            sender,
            clock,
            batch: settings.buffer_batch,
            delay: settings.buffer_delay,
            flush_timeout: settings.send_timeout,
            state: Mutex::default(),
            abort: Latch::default(),
        }))
    }

    /// Takes an event, to be sent soon.
    ///
    /// # Errors
    /// Once it is closed: nobody would wait for the event to be sent.
    pub(crate) fn push(&self, id: EventId, parcel: Parcel) -> Result<()> {
        let shared = &self.0;
        let mut state = shared.lock();
        if state.closed {
            let text = "this Dawdle is being shut down; it takes no more into its send buffer";
            return Err(Error::new(ErrorKind::ShutDown, text));
        }
        state.waiting.push((id, parcel));
        if state.waiting.len() >= shared.batch {
            self.send_waiting(state);
        } else if !state.timed {
            state.timed = true;
            drop(state);
            let buffer = self.clone();
            shared.clock.spawn(async move {
                buffer.0.clock.sleep(buffer.0.delay).await;
                let mut state = buffer.0.lock();
                state.timed = false;
                buffer.send_waiting(state);
            });
        }
        Ok(())
    }

    /// Sends what waits.
    fn send_waiting(&self, mut state: MutexGuard<'_, State>) {
        let batch = std::mem::take(&mut state.waiting);
        if batch.is_empty() {
            return;
        }
        state.under_way.retain(|ended| !ended.is_raised());
        let ended = Latch::default();
        state.under_way.push_back(ended.clone());
        drop(state);
        let sending = Sending { buffer: self.clone(), left: batch, ended };
        self.0.clock.spawn(sending.until_durable());
    }

    /// Sends what waits, and waits until everything that was in the buffer is durable.
    ///
    /// # Errors
    /// Where events could not be sent since the last flush, and where some are not durable yet after
    /// the send timeout: those are tried on.
    pub(crate) async fn flush(&self) -> Result<()> {
        let shared = &self.0;
        let in_time = shared.clock.timeout(shared.flush_timeout, self.all_ended()).await.is_some();
        shared.report()?;
        if !in_time {
            let text = format!(
                "buffered events are not durable after {:?} (`send_timeout`); they are tried on",
                shared.flush_timeout
            );
            return Err(match shared.lock().held_up.clone() {
                Some(error) => Error::new(error.kind(), format!("{text}: {error}")).with_source(error),
                None => Error::new(ErrorKind::Unavailable, text),
            });
        }
        Ok(())
    }

    /// Takes nothing more, and sends what it has, for as long as that takes.
    ///
    /// # Errors
    /// Where events could not be sent since the last flush.
    pub(crate) async fn close(&self) -> Result<()> {
        self.0.lock().closed = true;
        self.all_ended().await;
        self.0.report()
    }

    /// Sends what waits, and waits for the end of everything that was in the buffer.
    async fn all_ended(&self) {
        self.send_waiting(self.0.lock());
        let under_way: Vec<Latch> = self.0.lock().under_way.iter().cloned().collect();
        for ended in &under_way {
            ended.raised().await;
        }
    }

    /// Gives up what is left.
    pub(crate) fn abort(&self) {
        self.0.abort.raise();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What could not be sent since the last report.
    fn report(&self) -> Result<()> {
        let Some((count, error)) = self.lock().failed.take() else { return Ok(()) };
        let text = format!("{count} buffered events could not be sent, and are dropped; the first: {error}");
        Err(Error::new(error.kind(), text).with_source(error))
    }

    /// An event that can never be sent.
    fn failed(&self, id: &EventId, error: Error) {
        tracing::error!("buffered event {id} cannot be sent, and is dropped: {error}");
        let mut state = self.lock();
        match &mut state.failed {
            Some((count, _)) => *count += 1,
            None => state.failed = Some((1, error)),
        }
    }
}

/// A batch that is under way.
struct Sending {
    buffer: Buffer,
    left: Vec<(EventId, Parcel)>,
    ended: Latch,
}

impl Sending {
    async fn until_durable(mut self) {
        let shared = Arc::clone(&self.buffer.0);
        let mut tries = 0;
        loop {
            let parcels = self.left.iter().map(|(_, parcel)| parcel.clone()).collect();
            crate::crash::point!("buffer.before");
            let answers = shared.sender.send_all(parcels).await;
            crate::crash::point!("buffer.after");
            let mut last = None;
            let mut answers = answers.into_iter();
            self.left.retain(|(id, _)| match answers.next() {
                Some(Err(error)) if error.is_permanent() => {
                    shared.failed(id, error);
                    false
                }
                Some(Err(error)) => {
                    last = Some(error);
                    true
                }
                Some(Ok(())) | None => false,
            });
            shared.lock().held_up = last.clone();
            let Some(error) = last else { return };
            tries += 1;
            let pause = TRY_AGAIN.delay(tries, fastrand::f64());
            tracing::error!("{} buffered events cannot be sent, again in {pause:?}: {error}", self.left.len());
            if shared.clock.timeout(pause, shared.abort.raised()).await.is_some() {
                return;
            }
        }
    }
}

impl Drop for Sending {
    /// The end, also where its runtime ends under it.
    fn drop(&mut self) {
        if !self.left.is_empty() {
            let first = self.left.first().map_or_else(String::new, |(id, _)| id.to_string());
            tracing::error!("{} buffered events are LOST, the first of them {first}", self.left.len());
        }
        self.ended.raise();
    }
}
