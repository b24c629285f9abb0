//! Putting envelopes on the queues: encoded, in batches, tried again until they are durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::OwnedSemaphorePermit;

use crate::backend::{Backend, BoxFuture, Lane, Limits, Outgoing};
use crate::batch::{Batcher, Pace, Work};
use crate::clock::Clock;
use crate::delay;
use crate::envelope::Envelope;
use crate::error::{Error, ErrorKind, Result};
use crate::retry::Backoff;
use crate::settings::Settings;
use crate::sync::Semaphore;
use crate::wire;

#[cfg(test)]
mod orders;

/// What `signal` leaves free of a message, so that a retry or a dead letter of it still fits.
pub(crate) const RESERVE: usize = 16 * 1024;

/// How long the next batch gathers while requests are in the air.
const GATHER: Duration = Duration::from_millis(50);

/// The longest fair-queue group, in bytes:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>
pub(crate) const MAX_GROUP: usize = 128;

/// Between tries of one send.
const TRY_AGAIN: Backoff = Backoff::exponential(Duration::from_millis(100), Duration::from_secs(2));

/// A message on its way to a lane.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) lane: Lane,
    pub(crate) outgoing: Outgoing,
    /// When it may be handled; the delay is worked out at each try.
    pub(crate) not_before: Option<SystemTime>,
    /// Its place in the send buffer, kept for as long as it is in line.
    pub(crate) _buffered: Option<Arc<OwnedSemaphorePermit>>,
}

/// What to do when the send buffer is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    Wait,
    Refuse,
}

/// Sends parcels through one [`Batcher`] per lane.
#[derive(Clone)]
pub(crate) struct Sender {
    backend: Arc<dyn Backend>,
    clock: Clock,
    lanes: [Batcher<SendWork>; 3],
    buffer: Arc<Semaphore>,
    send_timeout: Duration,
    send_buffer: usize,
    compress_above: Option<usize>,
}

impl Sender {
    pub(crate) fn new(backend: Arc<dyn Backend>, clock: Clock, settings: &Settings) -> Self {
        let pace = Pace { linger: Duration::ZERO, gather: GATHER, at_once: settings.sends_at_once };
        let lanes = Lane::ALL.map(|lane| {
            let work = SendWork { backend: Arc::clone(&backend), clock: clock.clone(), lane };
            Batcher::new(work, clock.clone(), pace)
        });
        Sender {
            backend,
            clock,
            lanes,
            buffer: Arc::new(Semaphore::new(settings.send_buffer)),
            send_timeout: settings.send_timeout,
            send_buffer: settings.send_buffer,
            compress_above: settings.compress_above,
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.backend.limits()
    }

    /// The parcel of an event that is signalled, to be handled from `not_before` on.
    pub(crate) fn parcel(&self, envelope: &Envelope, not_before: Option<SystemTime>) -> Result<Parcel> {
        let lane = self.lane_for(not_before);
        let outgoing = self.outgoing(envelope, self.compress_above)?;
        Ok(Parcel { lane, outgoing, not_before, _buffered: None })
    }

    /// The parcel of what is left of an event that leaves the queue: it goes where signals find no
    /// room, compressed if need be.
    pub(crate) fn rest_parcel(&self, envelope: &Envelope, not_before: Option<SystemTime>) -> Result<Parcel> {
        let lane = self.lane_for(not_before);
        let outgoing = Outgoing { in_place: true, ..self.squeezed(envelope)? };
        Ok(Parcel { lane, outgoing, not_before, _buffered: None })
    }

    /// The parcel of a dead letter.
    pub(crate) fn dead_parcel(&self, envelope: &Envelope, attributes: BTreeMap<String, String>) -> Result<Parcel> {
        let outgoing = Outgoing { group: None, attributes, in_place: true, ..self.squeezed(envelope)? };
        Ok(Parcel { lane: Lane::Dead, outgoing, not_before: None, _buffered: None })
    }

    fn lane_for(&self, not_before: Option<SystemTime>) -> Lane {
        not_before.map_or(Lane::Message, |due| delay::first_lane(self.clock.now(), due, &self.limits()))
    }

    fn squeezed(&self, envelope: &Envelope) -> Result<Outgoing> {
        let most = self.limits().max_message_bytes;
        self.outgoing(envelope, Some(self.compress_above.map_or(most, |above| above.min(most))))
    }

    fn outgoing(&self, envelope: &Envelope, compress_above: Option<usize>) -> Result<Outgoing> {
        let body = wire::write(envelope, compress_above)?;
        // Another producer's group may be one that SQS refuses; it stays in the body.
        let group = envelope.group.clone().filter(|group| is_group(group));
        Ok(Outgoing { body, group, ..Outgoing::default() })
    }

    /// Refuses a parcel that leaves no room for what a failure would add.
    pub(crate) fn check_size(&self, parcel: &Parcel) -> Result<()> {
        let limit = self.limits().max_message_bytes.saturating_sub(RESERVE);
        let actual = parcel.outgoing.bytes();
        if actual <= limit {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "the event is {actual} bytes on the wire, and the {} backend takes {limit} ({RESERVE} are kept for \
                 retries and dead letters); send a reference to the data instead, or set `compress_above`",
                self.backend.name()
            ),
        ))
    }

    /// Sends a signal's parcel: waits for room in the send buffer, or refuses.
    pub(crate) async fn signal(&self, parcel: Parcel, when_full: WhenFull) -> Result<()> {
        let deadline = self.clock.instant() + self.send_timeout;
        let buffered = Arc::new(self.buffer(when_full).await?);
        self.send_until(Parcel { _buffered: Some(buffered), ..parcel }, deadline).await
    }

    /// A place in the send buffer.
    pub(crate) async fn buffer(&self, when_full: WhenFull) -> Result<OwnedSemaphorePermit> {
        let buffer = Arc::clone(&self.buffer);
        let place = match when_full {
            WhenFull::Refuse => buffer.try_acquire_owned().ok(),
            WhenFull::Wait => self.clock.timeout(self.send_timeout, buffer.acquire_owned()).await.and_then(Result::ok),
        };
        place.ok_or_else(|| {
            Error::new(
                ErrorKind::Overloaded,
                format!(
                    "the send buffer is full: {} events are waiting to be sent (`send_buffer`); signal more slowly",
                    self.send_buffer
                ),
            )
        })
    }

    /// Sends a parcel; answers once it is durable, or has been tried for the send timeout.
    pub(crate) async fn send(&self, parcel: Parcel) -> Result<()> {
        self.send_until(parcel, self.clock.instant() + self.send_timeout).await
    }

    async fn send_until(&self, parcel: Parcel, deadline: Instant) -> Result<()> {
        let lane = parcel.lane;
        let batcher = &self.lanes[lane as usize];
        let mut maybe_sent = false;
        let mut waiting = parcel;
        let mut tries = 0;
        loop {
            tries += 1;
            let left = deadline.saturating_duration_since(self.clock.instant());
            let error = match self.clock.timeout(left, batcher.submit(waiting)).await {
                Some(Ok((_, Ok(())))) => return Ok(()),
                Some(Ok((parcel, Err(error)))) => {
                    waiting = parcel;
                    error
                }
                Some(Err(_)) => return Err(no_answer(lane, "the request broke off")),
                None => return Err(no_answer(lane, &format!("no answer within {:?}", self.send_timeout))),
            };
            maybe_sent |= error.maybe_sent();
            let pause = TRY_AGAIN.delay(tries, fastrand::f64());
            if !error.is_transient() || self.clock.instant() + pause >= deadline {
                return Err(error.with_maybe_sent(maybe_sent));
            }
            tracing::debug!(%lane, tries, "send failed, trying again in {pause:?}: {error}");
            self.clock.sleep(pause).await;
        }
    }

    /// Waits until everything under way has been answered.
    pub(crate) async fn flush(&self) {
        for lane in &self.lanes {
            lane.flush().await;
        }
    }
}

/// Whether SQS takes `text` as a message group.
pub(crate) fn is_group(text: &str) -> bool {
    (1..=MAX_GROUP).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn no_answer(lane: Lane, why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("sending to the {lane} did not finish: {why}")).with_maybe_sent(true)
}

struct SendWork {
    backend: Arc<dyn Backend>,
    clock: Clock,
    lane: Lane,
}

impl Work for SendWork {
    type Item = Parcel;
    /// The parcel comes back, for another try.
    type Answer = (Parcel, Result<()>);

    fn capacity(&self) -> (usize, usize) {
        let limits = self.backend.limits();
        (limits.max_batch_entries, limits.max_batch_bytes)
    }

    fn bytes(&self, parcel: &Parcel) -> usize {
        parcel.outgoing.bytes()
    }

    fn skips_abandoned(&self) -> bool {
        true
    }

    fn run(&self, mut parcels: Vec<Parcel>) -> BoxFuture<'_, Vec<Self::Answer>> {
        Box::pin(async move {
            let (now, limits) = (self.clock.now(), self.backend.limits());
            let messages: Vec<Outgoing> = parcels
                .iter_mut()
                .map(|parcel| {
                    let mut outgoing = std::mem::take(&mut parcel.outgoing);
                    outgoing.delay = match parcel.not_before {
                        Some(due) => delay::delay_on(self.lane, now, due, &limits),
                        None => Duration::ZERO,
                    };
                    if self.lane == Lane::Delay {
                        // Parked messages would count against their group's fair share.
                        outgoing.group = None;
                    }
                    outgoing
                })
                .collect();
            crate::crash::point!("send.before");
            let mut results = self.backend.send(self.lane, &messages).await;
            crate::crash::point!("send.after");
            results.resize_with(messages.len(), || Err(no_answer(self.lane, "the entry was not answered")));
            for (parcel, outgoing) in parcels.iter_mut().zip(messages) {
                parcel.outgoing = outgoing;
            }
            parcels.into_iter().zip(results).collect()
        })
    }
}
