//! Putting envelopes on the queues: encoded, in batches, tried again until they are durable.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::OwnedSemaphorePermit;

use crate::backend::{Backend, BoxFuture, Lane, Limits, Outgoing};
use crate::batch::{Batcher, Pace, Work};
use crate::clock::Clock;
use crate::delay;
use crate::envelope::{Envelope, is_group};
use crate::error::{Error, ErrorKind, Result};
use crate::event;
use crate::pack::{Bounds, Load, PackKey};
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

/// A message on its way to a lane.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) lane: Lane,
    pub(crate) outgoing: Outgoing,
    /// When it may be handled; the delay is worked out at each try.
    pub(crate) not_before: Option<SystemTime>,
    /// What it has in common with those that it may share a message with, if it may.
    pub(crate) pack: Option<PackKey>,
    /// Its place in the send buffer, kept for as long as it is in line.
    pub(crate) _buffered: Option<Arc<OwnedSemaphorePermit>>,
}

impl Parcel {
    /// A message that travels by itself.
    pub(crate) fn alone(lane: Lane, outgoing: Outgoing, not_before: Option<SystemTime>) -> Self {
        Parcel { lane, outgoing, not_before, pack: None, _buffered: None }
    }
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
    /// Between tries of one send.
    backoff: Backoff,
    compress_above: Option<usize>,
    pack: bool,
}

/// What a parcel that was in line is answered; it comes back, for another try.
type Answered = (Parcel, Result<()>);

/// A try that failed, and the parcel, if it has come back.
struct Failed {
    error: Error,
    parcel: Option<Box<Parcel>>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed { error, parcel: None }
    }
}

impl Sender {
    pub(crate) fn new(backend: Arc<dyn Backend>, clock: Clock, settings: &Settings) -> Self {
        let pace = Pace::new(&backend.limits(), Duration::ZERO, GATHER, settings.sends_at_once);
        let lanes = Lane::ALL.map(|lane| {
            let (pack_count, pack_bytes) = (settings.pack_count, settings.pack_bytes);
            let work = SendWork { backend: Arc::clone(&backend), clock: clock.clone(), lane, pack_count, pack_bytes };
            Batcher::new(work, clock.clone(), pace)
        });
        Sender {
            backend,
            clock,
            lanes,
            buffer: Arc::new(Semaphore::new(settings.send_buffer)),
            send_timeout: settings.send_timeout,
            send_buffer: settings.send_buffer,
            backoff: settings.send_backoff,
            compress_above: settings.compress_above,
            pack: settings.pack,
        }
    }

    /// How many events wait to be sent.
    pub(crate) fn buffered(&self) -> usize {
        self.send_buffer.saturating_sub(self.buffer.available_permits())
    }

    pub(crate) fn limits(&self) -> Limits {
        self.backend.limits()
    }

    /// The parcel of an event that is signalled, to be handled from `not_before` on.
    pub(crate) fn parcel(&self, envelope: &Envelope, not_before: Option<SystemTime>) -> Result<Parcel> {
        let lane = self.lane_for(not_before);
        let outgoing = self.outgoing(envelope, self.compress_above)?;
        let pack = self.pack_key(envelope, &outgoing, not_before);
        Ok(Parcel { pack, ..Parcel::alone(lane, outgoing, not_before) })
    }

    /// An event packs if its type says so, or where that says nothing, the settings; and if it is plain
    /// text, for every node, not for one handler.
    fn pack_key(&self, envelope: &Envelope, outgoing: &Outgoing, due: Option<SystemTime>) -> Option<PackKey> {
        let (kind, packs) = event::kind_and_packs(&envelope.kind)?;
        let packs = packs.unwrap_or(self.pack);
        let travels = packs && envelope.handler.is_none() && wire::is_plain(&outgoing.body);
        travels.then(|| PackKey::new(kind, outgoing.group.clone(), due))
    }

    /// The parcel of what is left of an event that leaves the queue: it goes where signals find no
    /// room, compressed if need be.
    pub(crate) fn rest_parcel(&self, envelope: &Envelope, not_before: Option<SystemTime>) -> Result<Parcel> {
        let lane = self.lane_for(not_before);
        let outgoing = Outgoing { in_place: true, ..self.squeezed(envelope)? };
        Ok(Parcel::alone(lane, outgoing, not_before))
    }

    /// The parcel of a dead letter.
    pub(crate) fn dead_parcel(&self, envelope: &Envelope, attributes: BTreeMap<String, String>) -> Result<Parcel> {
        let outgoing = Outgoing { group: None, attributes, in_place: true, ..self.squeezed(envelope)? };
        Ok(Parcel::alone(Lane::Dead, outgoing, None))
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

    /// Sends the parcels of many signals, once there is room for all of them in the send buffer.
    pub(crate) async fn signal_all(&self, mut parcels: Vec<Parcel>) -> Vec<Result<()>> {
        let count = u32::try_from(parcels.len().min(self.send_buffer)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.buffer).acquire_many_owned(count);
        let Some(Ok(buffered)) = self.clock.timeout(self.send_timeout, room).await else {
            return parcels.iter().map(|_| Err(self.overloaded())).collect();
        };
        let buffered = Arc::new(buffered);
        parcels.iter_mut().for_each(|parcel| parcel._buffered = Some(Arc::clone(&buffered)));
        drop(buffered);
        self.send_all(parcels).await
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
        place.ok_or_else(|| self.overloaded())
    }

    fn overloaded(&self) -> Error {
        let text = format!(
            "the send buffer is full: {} events are waiting to be sent (`send_buffer`); signal more slowly",
            self.send_buffer
        );
        Error::new(ErrorKind::Overloaded, text)
    }

    /// Sends a parcel; answers once it is durable, or has been tried for the send timeout.
    pub(crate) async fn send(&self, parcel: Parcel) -> Result<()> {
        self.send_until(parcel, self.clock.instant() + self.send_timeout).await
    }

    async fn send_until(&self, parcel: Parcel, deadline: Instant) -> Result<()> {
        match self.send_once(parcel, deadline).await {
            Ok(()) => Ok(()),
            Err(failed) => self.try_on(failed, deadline).await,
        }
    }

    async fn send_once(&self, parcel: Parcel, deadline: Instant) -> Result<(), Failed> {
        let lane = parcel.lane;
        let answer = self.lanes[lane as usize].answer(parcel);
        let left = deadline.saturating_duration_since(self.clock.instant());
        self.outcome(lane, self.clock.timeout(left, answer).await)
    }

    /// What an answer comes to that has come in time, if it has, and was one.
    fn outcome(&self, lane: Lane, answer: Option<Option<Answered>>) -> Result<(), Failed> {
        match answer {
            Some(Some((_, Ok(())))) => Ok(()),
            Some(Some((parcel, Err(error)))) => Err(Failed { error, parcel: Some(Box::new(parcel)) }),
            Some(None) => Err(no_answer(lane, "the request broke off").into()),
            None => Err(no_answer(lane, &format!("no answer within {:?}", self.send_timeout)).into()),
        }
    }

    /// Tries again until `deadline`, as far as another try is worth it.
    async fn try_on(&self, mut failed: Failed, deadline: Instant) -> Result<()> {
        let mut maybe_sent = false;
        let mut tries = 0;
        loop {
            tries += 1;
            let Failed { error, parcel } = failed;
            maybe_sent |= error.maybe_sent();
            let Some(mut parcel) = parcel else { return Err(error.with_maybe_sent(maybe_sent)) };
            // It may have been refused for what another event of its pack is.
            let by_itself = error.is_permanent() && parcel.pack.take().is_some();
            if !by_itself {
                let pause = self.backoff.delay(tries, fastrand::f64());
                if !error.is_transient() || self.clock.instant() + pause >= deadline {
                    return Err(error.with_maybe_sent(maybe_sent));
                }
                tracing::debug!(lane = %parcel.lane, tries, "send failed, trying again in {pause:?}: {error}");
                self.clock.sleep(pause).await;
            }
            failed = match self.send_once(*parcel, deadline).await {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
        }
    }

    /// Sends many parcels, all of which are in line before the first of them goes. One answer for each, in
    /// order, as [`send`](Sender::send) answers.
    pub(crate) async fn send_all(&self, parcels: Vec<Parcel>) -> Vec<Result<()>> {
        let deadline = self.clock.instant() + self.send_timeout;
        let mut answers: Vec<_> = parcels.iter().map(|_| None).collect();
        let mut lanes = Lane::ALL.map(|lane| (lane, Vec::new()));
        for (at, parcel) in parcels.into_iter().enumerate() {
            lanes[parcel.lane as usize].1.push((at, parcel));
        }
        for (batcher, (lane, parcels)) in self.lanes.iter().zip(lanes) {
            let (places, parcels): (Vec<usize>, Vec<Parcel>) = parcels.into_iter().unzip();
            for (at, answer) in places.into_iter().zip(batcher.submit_all(parcels)) {
                answers[at] = Some((lane, answer));
            }
        }
        let mut limit = pin!(self.clock.sleep(self.send_timeout));
        let (mut results, mut again) = (Vec::with_capacity(answers.len()), Vec::new());
        for (at, (lane, answer)) in answers.into_iter().flatten().enumerate() {
            let answer = tokio::select! {
                biased;
                answer = answer => Some(answer.ok()),
                () = &mut limit => None,
            };
            again.extend(self.outcome(lane, answer).err().map(|failed| (at, failed)));
            results.push(Ok(()));
        }
        let again = again.into_iter().map(async |(at, failed)| (at, self.try_on(failed, deadline).await));
        for (at, result) in futures_util::future::join_all(again).await {
            results[at] = result;
        }
        results
    }

    /// Waits until everything under way has been answered.
    pub(crate) async fn flush(&self) {
        for lane in &self.lanes {
            lane.flush().await;
        }
    }
}

fn no_answer(lane: Lane, why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("sending to the {lane} did not finish: {why}")).with_maybe_sent(true)
}

struct SendWork {
    backend: Arc<dyn Backend>,
    clock: Clock,
    lane: Lane,
    pack_count: usize,
    pack_bytes: usize,
}

impl SendWork {
    /// Which parcels share a message.
    fn arranged(&self, parcels: &[Parcel]) -> Vec<Vec<usize>> {
        let (mut load, mut messages) = (self.begin(), Vec::<Vec<usize>>::new());
        for (at, parcel) in parcels.iter().enumerate() {
            let message = load.place(parcel.outgoing.bytes(), parcel.pack.as_ref());
            match message.and_then(|message| messages.get_mut(message)) {
                Some(pack) => pack.push(at),
                None => messages.push(vec![at]),
            }
        }
        messages
    }

    /// The message of these parcels; taken out of its parcel where it is of one.
    fn message(&self, parcels: &mut [Parcel], of: &[usize], now: SystemTime, limits: &Limits) -> Outgoing {
        let due = of.iter().filter_map(|at| parcels.get(*at)?.not_before).min();
        let mut outgoing = match *of {
            [at] => parcels.get_mut(at).map(|parcel| std::mem::take(&mut parcel.outgoing)).unwrap_or_default(),
            _ => {
                let events = || of.iter().filter_map(|at| parcels.get(*at)).map(|parcel| &parcel.outgoing);
                let body = wire::pack(events().map(|event| event.body.as_str()));
                let group = events().next().and_then(|event| event.group.clone());
                Outgoing { body, group, ..Outgoing::default() }
            }
        };
        outgoing.delay = due.map_or(Duration::ZERO, |due| delay::delay_on(self.lane, now, due, limits));
        if self.lane == Lane::Delay {
            // Parked messages would count against their group's fair share.
            outgoing.group = None;
        }
        outgoing
    }
}

impl Work for SendWork {
    type Item = Parcel;
    type Answer = Answered;
    type Load = Load;

    fn begin(&self) -> Load {
        let limits = self.backend.limits();
        Load::new(Bounds {
            messages: limits.max_batch_entries.max(1),
            bytes: limits.max_batch_bytes,
            pack_count: self.pack_count,
            pack_bytes: self.pack_bytes.min(limits.max_message_bytes.saturating_sub(RESERVE)),
        })
    }

    fn add(&self, load: &mut Load, parcel: &Parcel) -> bool {
        load.place(parcel.outgoing.bytes(), parcel.pack.as_ref()).is_some()
    }

    fn is_full(&self, load: &Load) -> bool {
        load.is_full()
    }

    fn skips_abandoned(&self) -> bool {
        true
    }

    fn run(&self, mut parcels: Vec<Parcel>) -> BoxFuture<'_, Vec<Self::Answer>> {
        Box::pin(async move {
            let (now, limits) = (self.clock.now(), self.backend.limits());
            let arranged = self.arranged(&parcels);
            let messages: Vec<Outgoing> =
                arranged.iter().map(|of| self.message(&mut parcels, of, now, &limits)).collect();
            crate::crash::point!("send.before");
            crate::metrics::batch(self.lane, "send", messages.len());
            let mut results = self.backend.send(self.lane, &messages).await;
            crate::crash::point!("send.after");
            results.resize_with(messages.len(), || Err(no_answer(self.lane, "the entry was not answered")));
            let mut answers: Vec<Result<()>> = vec![Ok(()); parcels.len()];
            for ((of, message), result) in arranged.iter().zip(messages).zip(results) {
                if let [at] = *of.as_slice()
                    && let Some(parcel) = parcels.get_mut(at)
                {
                    parcel.outgoing = message;
                }
                for at in of {
                    answers[*at] = result.clone();
                }
            }
            parcels.into_iter().zip(answers).collect()
        })
    }
}
