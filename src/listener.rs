//! Taking deliveries off the queues and seeing each to its end: [`Listener`].
//!
//! ```text
//!  message queue ─ receive ─► lease table ─► dispatcher ─ verdict ─► write ─► unlease ─► ack
//!                    ▲                                                          (or release)
//!                  room: concurrency + prefetch
//!  delay queue ── look, every few minutes ──► forward, park or renew   (listener/delay_queue.rs)
//! ```
//!
//! Receives run side by side while they come back full. An error makes a loop back off, never
//! end. What is deliberately absent: deciding (the dispatcher's), the choice of a hop (`delay`'s).

use std::any::Any;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tracing::Instrument;

use crate::backend::{Backend, Delivery, Lane, Outgoing};
use crate::clock::{Clock, Latch, guarded};
use crate::dispatcher::{Dispatcher, Verdict, Write, pack_ended};
use crate::envelope::{Envelope, is_group};
use crate::error::{Error, ErrorKind, Result};
use crate::health::Monitor;
use crate::lease::{self, Inserted, Leases};
use crate::reason;
use crate::retry::Backoff;
use crate::room::{Place, Room};
use crate::sender::{Parcel, Sender};
use crate::settings::Settings;
use crate::settle::Settler;
use crate::shutdown::{InFlight, Work};
use crate::suspect::{self, InLine, Standing, Suspects};
use crate::sync::AtomicUsize;
use crate::trace::Tracer;
use crate::wire::{self, Body};

mod delay_queue;
#[cfg(test)]
mod orders;

/// Between failed receives.
const AFTER_ERRORS: Backoff = Backoff::exponential(Duration::from_millis(200), Duration::from_secs(5));

/// Between tries of a write that must come before an ack.
const WRITE_AGAIN: Backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(30));

/// From this receive on, a message that was not begun is given back as a fresh one: the count is
/// to tell of crashes.
const FRESH_FROM: u32 = 3;

/// Everything that a listener works with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Clock,
    pub(crate) settings: Arc<Settings>,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) sender: Sender,
    pub(crate) settler: Settler,
    pub(crate) leases: Leases,
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) tracer: Tracer,
}

/// A running listener.
pub(crate) struct Listener {
    engine: Engine,
    work: Work,
    /// The loops that are receiving or looking.
    loops: InFlight,
    /// How many of them receive messages.
    receivers: AtomicUsize,
    room: Room,
    suspects: Suspects,
    /// Stops the keeper of leases: after everything else.
    unleased: Latch,
    /// What handlers get as `cx.dawdle()` lives as long as they may run.
    _instance: Arc<dyn Any + Send + Sync>,
}

impl Listener {
    /// Starts receiving. `runtime` is what handlers run on, where it is known; when it ends, so does
    /// the listener.
    pub(crate) fn start(engine: Engine, instance: Arc<dyn Any + Send + Sync>, runtime: Option<&Handle>) -> Arc<Self> {
        let settings = &engine.settings;
        let unleased = Latch::default();
        lease::start_keeper(&engine.leases, &unleased);
        let listener = Arc::new(Listener {
            work: Work::default(),
            loops: InFlight::default(),
            receivers: AtomicUsize::new(0),
            room: Room::new(engine.dispatcher.concurrency().limit(), settings.prefetch, settings.max_held),
            suspects: Suspects::new(settings.max_receives),
            unleased,
            engine,
            _instance: instance,
        });
        if let Some(runtime) = runtime {
            listener.engine.dispatcher.set_runtime(runtime.clone());
            if !listener.engine.clock.is_virtual() {
                runtime.spawn(Listener::end_with_runtime(Arc::clone(&listener)));
            }
        }
        listener.engine.lanes().for_each(|lane| listener.engine.monitor.listen(lane, true));
        listener.add_receiver();
        if listener.engine.lanes().any(|lane| lane == Lane::Delay) {
            let (looking, guard) = (Arc::clone(&listener), listener.loops.guard());
            listener.engine.clock.spawn(async move {
                let _guard = guard;
                looking.look_at_delays().await;
            });
        }
        listener
    }

    /// How many messages are worked on.
    pub(crate) fn in_flight(&self) -> usize {
        self.work.busy.count()
    }

    /// Receives for another number of running handlers from now on.
    pub(crate) fn set_concurrency(&self, concurrency: usize) {
        self.room.set_concurrency(concurrency);
    }

    /// Stops receiving and gives back what was not begun. What runs goes on.
    pub(crate) fn stop_receiving(&self) {
        self.work.stops.begin.raise();
        self.engine.lanes().for_each(|lane| self.engine.monitor.listen(lane, false));
    }

    /// Sees what still runs to its end, however long that takes, once it has stopped receiving.
    pub(crate) async fn retire(&self) {
        self.loops.none().await;
        self.work.busy.none().await;
        self.unleased.raise();
    }

    /// Stops receiving, and sees what was received to its end, within `timeout`.
    pub(crate) async fn drain(&self, timeout: Duration) {
        let (clock, start) = (&self.engine.clock, self.engine.clock.instant());
        self.stop_receiving();
        let drained = self.work.drain(clock, timeout);
        futures_util::future::join(drained, clock.timeout(timeout, self.loops.none())).await;
        // A receive that was awaited may have brought more, to be given back.
        let left = timeout.saturating_sub(clock.instant().saturating_duration_since(start));
        clock.timeout(left, self.work.busy.none()).await;
        self.unleased.raise();
    }

    /// Lives on the runtime of the handlers. When that ends without a shutdown, what this node has
    /// in hand is given back: no handler can run any more.
    async fn end_with_runtime(listener: Arc<Self>) {
        struct Ending(Option<Arc<Listener>>);
        impl Drop for Ending {
            fn drop(&mut self) {
                if let Some(listener) = self.0.take() {
                    let timeout = listener.engine.settings.shutdown_timeout;
                    let clock = listener.engine.clock.clone();
                    clock.spawn(async move { listener.drain(timeout).await });
                }
            }
        }
        let unleased = listener.unleased.clone();
        let mut ending = Ending(Some(listener));
        unleased.raised().await;
        ending.0 = None;
    }

    /// Tells everything to stop, and waits for nothing.
    #[cfg(feature = "testing")]
    pub(crate) fn abandon(&self) {
        self.work.stops.raise_all();
        self.unleased.raise();
    }

    fn add_receiver(self: &Arc<Self>) {
        self.receivers.fetch_add(1, Ordering::AcqRel);
        let (listener, guard) = (Arc::clone(self), self.loops.guard());
        self.engine.clock.spawn(async move {
            let _guard = guard;
            listener.receive_messages().await;
        });
    }

    /// Whether there is another loop that receives; if so, the caller ends.
    fn is_one_too_many(&self) -> bool {
        let fewer = |receivers: usize| (receivers > 1).then(|| receivers - 1);
        self.receivers.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer).is_ok()
    }

    /// One of the loops that receive. Another is started while they come back full; one that
    /// does not, and is not the last, ends.
    async fn receive_messages(self: &Arc<Self>) {
        let stop = &self.work.stops.begin;
        let max = self.engine.backend.limits().max_batch_entries;
        while !stop.is_raised() {
            let Some(room) = self.room_for(max).await else { return };
            let (asked, start) = (room.len(), self.engine.clock.instant());
            let span = self.engine.tracer.receive(Lane::Message);
            let received = tokio::select! {
                biased;
                received = guarded("a receive", async {
                    self.engine.backend.receive(Lane::Message, asked).await
                }).instrument(span.clone()) => received,
                () = self.poll_is_over() => return,
            };
            let panicked = || Err(Error::new(ErrorKind::Unavailable, "the backend panicked"));
            match received.unwrap_or_else(panicked) {
                Ok(deliveries) => {
                    span.record("messaging.batch.message_count", deliveries.len());
                    drop(span);
                    self.engine.monitor.received(Lane::Message, self.engine.clock.now());
                    crate::metrics::received(Lane::Message, deliveries.len());
                    self.engine.dispatcher.journal().received(deliveries.len());
                    let full = deliveries.len() >= asked;
                    if full {
                        let bytes: usize = deliveries.iter().map(Delivery::bytes).sum();
                        let took = self.engine.clock.instant().saturating_duration_since(start);
                        self.room.received(took, bytes / asked);
                    }
                    crate::crash::point!("receive.answered");
                    let found = !deliveries.is_empty();
                    self.take_in_all(deliveries, room);
                    if found {
                        // The next request takes longer to put together than their handlers to be begun: first
                        // the tasks that read them, then the one that hands the handlers over.
                        self.engine.clock.yield_now().await;
                        self.engine.clock.yield_now().await;
                    }
                    if full && asked == max {
                        let receivers = self.receivers.load(Ordering::Acquire);
                        if receivers < self.engine.settings.max_receives_at_once && self.room.has_places(max) {
                            self.add_receiver();
                        }
                    } else if !full && self.is_one_too_many() {
                        return;
                    }
                }
                Err(error) => {
                    // One that asks is enough for as long as there are no answers.
                    let ends = self.is_one_too_many();
                    let pause = self.engine.failed(Lane::Message, &error);
                    if ends || self.engine.clock.timeout(pause, stop.raised()).await.is_some() {
                        return;
                    }
                }
            }
        }
    }

    /// Room for as many messages as a receive brings; `None` when the listener stops.
    async fn room_for(&self, max: usize) -> Option<Vec<Place>> {
        tokio::select! {
            biased;
            () = self.work.stops.begin.raised() => None,
            places = self.room.places(max) => places,
        }
    }

    /// When a receive that is under way is to be dropped: at once where that hides nothing, else
    /// when the handlers have ended, and after two seconds at least (messages that come later
    /// stay hidden until their lease ends).
    async fn poll_is_over(&self) {
        self.work.stops.begin.raised().await;
        if !self.engine.backend.limits().receive_cancels {
            self.engine.clock.sleep(Duration::from_secs(2)).await;
            self.work.busy.none().await;
        }
    }

    /// Starts the work on what one receive has brought, once it is known who of it is a suspect.
    fn take_in_all(self: &Arc<Self>, deliveries: Vec<Delivery>, room: Vec<Place>) {
        let standing = |mut delivery: Delivery| {
            let marked = suspect::unmark(&mut delivery);
            (self.suspects.standing(delivery.receive_count, marked), delivery)
        };
        let deliveries: Vec<_> = deliveries.into_iter().map(standing).collect();
        if self.suspects.any() {
            let (suspects, clock) = (self.suspects.clone(), self.engine.clock.clone());
            self.engine.clock.spawn(async move { suspects.begin_soon(&clock).await });
        }
        for ((standing, delivery), place) in deliveries.into_iter().zip(room) {
            self.take_in(delivery, place, standing);
        }
    }

    /// Starts the work on one delivery.
    fn take_in(self: &Arc<Self>, delivery: Delivery, place: Place, standing: Standing) {
        let Inserted::New(lost) = self.engine.leases.insert(Lane::Message, &delivery) else {
            tracing::debug!("message {} came again while it is worked on here", delivery.message_id);
            return;
        };
        crate::crash::point!("receive.leased");
        let (listener, guard) = (Arc::clone(self), self.work.busy.guard());
        self.engine.clock.spawn(async move {
            let _guard = guard;
            let id = delivery.message_id.clone();
            if guarded("the work on a message", listener.take_turns(delivery, lost, place, standing)).await.is_none() {
                // Or its lease would be extended with nobody working on it.
                listener.engine.leases.remove(&id).await;
            }
            listener.room.finished(listener.engine.clock.instant());
        });
    }

    /// Lets a suspect wait for its turn, which lasts until it is settled: one that is handled and
    /// not yet acked would be received again after a crash.
    async fn take_turns(&self, delivery: Delivery, lost: Latch, place: Place, standing: Standing) {
        let place = place.leased_until(self.engine.leases.wall(&delivery.message_id));
        match standing {
            Standing::Ordinary => self.work_on(delivery, lost, place).await,
            // Rare and large: kept out of every task.
            Standing::Leaving { marked, _leaving } => {
                Box::pin(self.put_back(delivery, lost, place, marked)).await;
            }
            Standing::Suspect(line) => Box::pin(self.wait_in_line(delivery, lost, place, line)).await,
        }
    }

    async fn wait_in_line(&self, delivery: Delivery, lost: Latch, place: Place, line: InLine) {
        let (clock, _working) = (&self.engine.clock, self.suspects.work());
        place.step_aside();
        let turn = tokio::select! {
            biased;
            () = self.work.stops.begin.raised() => None,
            turn = line.turn(clock) => Some(turn),
        };
        let begun = place.begun().clone();
        let mut work = pin!(self.work_on(delivery, lost, place));
        if let Some(turn) = turn {
            tokio::select! {
                biased;
                () = &mut work => return,
                () = turn.over(clock, &begun) => {}
            }
        }
        work.await;
    }

    /// Replaces a message by a copy, whose receives are counted afresh, without reading it.
    async fn put_back(&self, delivery: Delivery, lost: Latch, place: Place, marked: bool) {
        let (engine, id) = (&self.engine, delivery.message_id.as_str());
        if engine.settler.is_finished(id) {
            return self.work_on(delivery, lost, place).await;
        }
        let mut copy = as_it_came(&delivery);
        if marked {
            suspect::mark(&mut copy, engine.backend.limits().max_message_bytes);
        }
        let copy = Parcel::alone(Lane::Message, copy, None);
        crate::crash::point!("put_back.before");
        let mut tries = 0;
        while let Err(error) = engine.sender.send(Parcel::clone(&copy)).await {
            tries += 1;
            let pause = WRITE_AGAIN.delay(tries, fastrand::f64());
            tracing::warn!("message {id} cannot be put back as a copy, again in {pause:?}: {error}");
            let stopped = engine.clock.timeout(pause, self.work.stops.begin.raised()).await.is_some();
            if stopped || error.is_permanent() || !engine.leases.is_held(id) {
                if let Some(receipt) = engine.leases.remove(id).await {
                    engine.settler.release(Lane::Message, id, receipt, Duration::ZERO).await;
                }
                return;
            }
        }
        crate::crash::point!("put_back.copied");
        if let Some(receipt) = engine.leases.remove(id).await {
            crate::crash::point!("put_back.unleased");
            engine.settler.ack(Lane::Message, id, receipt).await;
            crate::crash::point!("put_back.acked");
        }
    }

    async fn work_on(&self, delivery: Delivery, lost: Latch, place: Place) {
        let id = delivery.message_id.clone();
        let id = id.as_str();
        let engine = &self.engine;
        if engine.settler.is_finished(id) {
            if let Some(receipt) = engine.leases.remove(id).await {
                crate::crash::point!("finished.unleased");
                engine.settler.ack(Lane::Message, id, receipt).await;
                crate::crash::point!("finished.acked");
            }
            return;
        }
        crate::crash::point!("decide.before");
        let (writes, split_off) = match engine.dispatcher.decide(&delivery, &place, &lost, &self.work.stops).await {
            Verdict::Finish(writes) => (writes, true),
            Verdict::Split { writes, rest } => {
                place.end();
                let written = self.write_all(writes, &delivery);
                let (written, rest) = Box::pin(futures_util::future::join(written, pack_ended(rest))).await;
                (rest, written)
            }
            Verdict::GiveBack => {
                crate::crash::point!("verdict.give_back");
                place.end();
                return Box::pin(self.give_back(&delivery)).await;
            }
        };
        if !engine.leases.is_held(id) {
            // The message is somebody else's by now, or will be: what failed here fails or
            // succeeds there. What is done here need not be done again here.
            if writes.is_empty() && split_off {
                engine.settler.remember(id);
            }
            engine.leases.remove(id).await;
            return;
        }
        crate::crash::point!("verdict.finish");
        // A queue that cannot be written to is not to keep the handlers of other events from running.
        place.end();
        let written = (writes.is_empty() || Box::pin(self.write_all(writes, &delivery)).await) && split_off;
        crate::crash::point!("finish.written");
        // Nobody needs its body while its ack is under way.
        drop(delivery);
        let held = engine.leases.is_held(id);
        let receipt = engine.leases.remove(id).await;
        crate::crash::point!("finish.unleased");
        match receipt {
            Some(receipt) if written && held => engine.settler.ack(Lane::Message, id, receipt).await,
            // An ack by a receipt that is no longer the newest deletes nothing, and may say it did.
            _ if written => engine.settler.remember(id),
            // What this node can no longer write, another can.
            Some(receipt) if held && self.work.stops.abort.is_raised() => {
                engine.settler.release(Lane::Message, id, receipt, Duration::ZERO).await;
            }
            _ => {}
        }
        crate::crash::point!("finish.settled");
    }

    /// Gives back a message of which nothing was begun.
    async fn give_back(&self, delivery: &Delivery) {
        let (engine, id) = (&self.engine, delivery.message_id.as_str());
        let held = engine.leases.is_held(id);
        // A copy, whose receives are counted afresh.
        let copy = || {
            let Told { due, group, .. } = told(delivery);
            copied_to(Lane::Message, delivery, (due, group))
        };
        // A pack that comes a second time would be unpacked.
        let fresh_from = if wire::is_pack(&delivery.body) { 1 } else { FRESH_FROM };
        let fresh = held && delivery.receive_count >= fresh_from && engine.sender.send(copy()).await.is_ok();
        let Some(receipt) = engine.leases.remove(id).await else { return };
        crate::crash::point!("give_back.unleased");
        if fresh {
            crate::crash::point!("give_back.copied");
            engine.settler.ack(Lane::Message, id, receipt).await;
        } else if held {
            engine.settler.release(Lane::Message, id, receipt, Duration::ZERO).await;
        }
        crate::crash::point!("give_back.after");
    }

    /// Writes everything that must be safe before the delivery is acked. `false` when that was
    /// not possible within the lease: the delivery will come again.
    async fn write_all(&self, writes: Vec<Write>, delivery: &Delivery) -> bool {
        let writes = writes.into_iter().map(|write| self.write(write, delivery));
        futures_util::future::join_all(writes).await.into_iter().all(|written| written)
    }

    async fn write(&self, write: Write, delivery: &Delivery) -> bool {
        let span = match &write {
            Write::Again(envelope, _) => self.engine.tracer.hop("send_again", Lane::Message, envelope),
            Write::Dead(envelope, _) => self.engine.tracer.hop("dead_letter", Lane::Dead, envelope),
        };
        self.write_until_safe(write, delivery).instrument(span).await
    }

    async fn write_until_safe(&self, write: Write, delivery: &Delivery) -> bool {
        let mut write = Some(write);
        let mut parcel = None;
        let mut waiting = None;
        let mut tries = 0;
        loop {
            let sent = match parcel.take().map_or_else(|| self.engine.parcel_about(write.as_ref(), delivery), Ok) {
                Ok(next) => {
                    parcel = Some(Parcel::clone(&next));
                    crate::crash::point!("write.before");
                    self.engine.sender.send(next).await
                }
                Err(error) => Err(error),
            };
            let Err(error) = sent else {
                crate::crash::point!("write.after");
                return true;
            };
            if error.is_permanent() {
                // What cannot be put on its queue becomes a dead letter; what cannot even be that is
                // moved as it came. That fitted once.
                parcel = None;
                write = match write {
                    Some(Write::Again(envelope, _)) => {
                        Some(self.engine.dispatcher.dead(*envelope, reason::UNSENDABLE, Some(error.to_string())))
                    }
                    Some(Write::Dead(..)) => None,
                    None => {
                        tracing::error!(
                            "message {} cannot be moved, and stays on the queue: {error}",
                            delivery.message_id
                        );
                        return false;
                    }
                };
                continue;
            }
            let lane = match (&parcel, &write) {
                (Some(parcel), _) => parcel.lane,
                (None, Some(Write::Again(..))) => Lane::Message,
                (None, _) => Lane::Dead,
            };
            waiting = Some(self.engine.monitor.holds_up(waiting.take(), lane, self.engine.clock.now(), &error));
            tries += 1;
            let pause = WRITE_AGAIN.delay(tries, fastrand::f64());
            tracing::warn!(
                "message {} cannot be finished: writing what is left of it failed {tries} times, again in {pause:?}: {error}",
                delivery.message_id
            );
            tokio::select! {
                biased;
                () = self.engine.clock.sleep(pause) => {}
                () = self.work.stops.abort.raised() => return false,
            }
            if !self.engine.leases.is_held(&delivery.message_id) {
                return false;
            }
        }
    }
}

impl Engine {
    /// The lanes that a listener receives from.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = Lane> + use<> {
        let limits = self.backend.limits();
        let delays = limits.delay_lane && limits.max_delay.is_some();
        [Some(Lane::Message), delays.then_some(Lane::Delay)].into_iter().flatten()
    }

    /// Takes note of a failed receive; says how long to wait before the next.
    fn failed(&self, lane: Lane, error: &Error) -> Duration {
        let failures = self.monitor.failed(lane, self.clock.now(), error);
        let pause = AFTER_ERRORS.delay(failures, fastrand::f64());
        tracing::warn!("receiving from the {lane} failed {failures} times in a row, again in {pause:?}: {error}");
        pause
    }

    /// Asks the backend on Dawdle's own threads: a connection is driven by the runtime that it was
    /// opened on, and a caller's may come to be blocked.
    pub(crate) async fn ask<T, F>(&self, call: impl FnOnce(Arc<dyn Backend>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let answer = self.clock.spawn(call(Arc::clone(&self.backend))).await;
        answer.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Unavailable, format!("the backend's answer did not come: {error:?}")))
        })
    }

    /// The message that a write stands for.
    pub(crate) fn parcel(&self, write: &Write) -> Result<Parcel> {
        match write {
            Write::Again(envelope, not_before) => self.sender.rest_parcel(envelope, *not_before),
            Write::Dead(envelope, attributes) => self.sender.dead_parcel(envelope, attributes.clone()),
        }
    }

    /// The message that a write about a delivery stands for; without one, the delivery as it came,
    /// for the dead letters.
    fn parcel_about(&self, write: Option<&Write>, delivery: &Delivery) -> Result<Parcel> {
        let moved = || Parcel::alone(Lane::Dead, as_it_came(delivery), None);
        let Some(write) = write else { return Ok(moved()) };
        let parcel = self.parcel(write)?;
        let Write::Dead(envelope, _) = write else { return Ok(parcel) };
        let too_large = parcel.outgoing.bytes() > self.backend.limits().max_message_bytes;
        let wraps_it = wire::unwrap_undecodable(envelope).as_deref() == Some(delivery.body.as_str());
        Ok(if too_large && wraps_it { moved() } else { parcel })
    }
}

/// What a body tells of its message.
#[derive(Default)]
struct Told {
    due: Option<SystemTime>,
    group: Option<String>,
    /// The first of its events.
    first: Option<Box<Envelope>>,
}

/// When a message is due, and the group that its body names.
fn told(delivery: &Delivery) -> Told {
    let add = |told: Told, event: Box<Envelope>| Told {
        due: told.due.into_iter().chain(event.due).min(),
        group: told.group.or_else(|| event.group.clone().filter(|group| is_group(group))),
        first: told.first.or(Some(event)),
    };
    match wire::read(&delivery.body, delivery.enqueued_at) {
        Body::One(event) => add(Told::default(), event),
        Body::Pack(parts) => parts.into_iter().flatten().map(Box::new).fold(Told::default(), add),
        Body::Unreadable(_) => Told::default(),
    }
}

/// The same message on a lane, for when it is due.
fn copied_to(lane: Lane, delivery: &Delivery, (due, group): (Option<SystemTime>, Option<String>)) -> Parcel {
    Parcel::alone(lane, Outgoing { group, ..as_it_came(delivery) }, due)
}

/// A message with the body and attributes of a delivery, to take its place.
fn as_it_came(delivery: &Delivery) -> Outgoing {
    Outgoing {
        body: delivery.body.clone(),
        attributes: delivery.attributes.clone(),
        in_place: true,
        ..Outgoing::default()
    }
}
