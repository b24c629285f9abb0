//! From a delivery to what becomes of it: [`Dispatcher`].
//!
//! A body is read, each of its events decoded once and handed to its handlers, which run
//! concurrently and fail independently. The result is a [`Verdict`]: what must be written before
//! the delivery may be acked. Nothing here writes or settles; that is the
//! listener's part.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{Instrument, Span};

use crate::activity::{FailedRun, Journal};
use crate::backend::{BoxFuture, Delivery};
use crate::clock::{Clock, Handoff, Latch, TaskError, later};
use crate::concurrency::{Concurrency, Permit};
use crate::delay::{self, HOLD};
use crate::envelope::{Data, Death, Envelope};
use crate::error::Error;
use crate::event::{self, Event, EventId};
use crate::foreign::{Foreign, RawMessage};
use crate::handler::{Context, INSTANCE, States};
use crate::metrics;
use crate::middleware::{ErasedMiddleware, Next};
use crate::outcome::{Directive, Failure, Outcome};
use crate::reason;
use crate::redact::Shown;
use crate::registry::{Entry, Registry};
use crate::room::Place;
use crate::settings::Settings;
use crate::shutdown::Stops;
use crate::sync::{AtomicUsize, Semaphore};
use crate::trace::{self, Tracer};
use crate::wire::{self, Body, Unreadable};

#[cfg(test)]
pub(crate) mod orders;

/// The most of a handler's error that a dead letter keeps, in bytes.
const MAX_ERROR: usize = 4096;

/// The most of it that is kept among the recent failures.
const MAX_SHOWN_ERROR: usize = 1024;

/// What compressed bodies may unfold to, all together, in bytes. One more waits until others have come to
/// their ends.
const MAX_UNFOLDED: usize = 64 * 1024 * 1024;

/// An event that nobody here can handle is passed on after two seconds at first, and then after an
/// eighth of the time that it has been passed on already, up to a bound: several times quickly,
/// for on a mixed fleet chance may bring it to the wrong node more than once. It is never held
/// until then: where delays are counted in seconds and asked for early, less than two would be
/// none.
const PASS_ON_AFTER: Duration = Duration::from_secs(2);
const PASS_ON_SHARE: u32 = 8;
const PASS_ON_AT_MOST: Duration = Duration::from_secs(900);

/// For how long the events of a pack may wait for permits.
const SPLIT_AFTER: Duration = Duration::from_secs(30);

/// How far a handler's task has come: it waits for a thread, has begun, or may no longer begin.
const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const WITHDRAWN: u8 = 2;

/// What becomes of a delivery.
pub(crate) enum Verdict<'a> {
    /// These are written, then it is acked.
    Finish(Vec<Write>),
    /// These are written while the rest of it goes on; then what is left of that; then it is acked.
    Split { writes: Vec<Write>, rest: Pack<'a> },
    /// Nothing of it was begun: it is given back.
    GiveBack,
}

/// The events of a pack that are under way, each with what must be written of it; an error is an event
/// of which nothing was begun.
pub(crate) type Pack<'a> = FuturesUnordered<BoxFuture<'a, Result<Vec<Write>, Write>>>;

/// What must be written of the rest of a pack, when all of it has ended.
pub(crate) async fn pack_ended(rest: Pack<'_>) -> Vec<Write> {
    writes_of(rest.collect().await)
}

fn writes_of(ends: Vec<Result<Vec<Write>, Write>>) -> Vec<Write> {
    ends.into_iter().flat_map(|end| end.unwrap_or_else(|again| vec![again])).collect()
}

/// A message that stands for work which is not finished.
#[derive(Debug)]
pub(crate) enum Write {
    /// To be handled from then on, or at once.
    Again(Box<Envelope>, Option<SystemTime>),
    /// To the dead letters, with the message attributes that it came with.
    Dead(Box<Envelope>, BTreeMap<String, String>),
}

/// Told of what happens; the test harness is one.
pub(crate) trait Observer: Any + Send + Sync {
    /// An envelope is about to be sent for the first time.
    fn signalled(&self, envelope: &Envelope);
    /// A handler's run has ended.
    fn ran(&self, handler: &str, event: &Arc<dyn Event>, id: EventId, outcome: &Outcome);
    /// A handler could not run for want of a state.
    fn lacks_state(&self, handler: &str, type_name: &str);
}

/// Reads deliveries and runs handlers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dispatcher(Arc<Shared>);

struct Shared {
    clock: Clock,
    tracer: Tracer,
    settings: Settings,
    states: Arc<States>,
    middleware: Vec<Arc<dyn ErasedMiddleware>>,
    registry: RwLock<Arc<Registry>>,
    concurrency: Concurrency,
    journal: Journal,
    /// The bytes that compressed bodies may still unfold to.
    unfolding: Arc<Semaphore>,
    foreign: Option<Foreign>,
    observer: Option<Arc<dyn Observer>>,
    instance: OnceLock<Instance>,
    /// What handlers run on: the runtime that the instance, or its listener, was started on.
    runtime: RwLock<Option<Handoff>>,
}

/// Finds the `Dawdle` that all this is a part of, which this module does not know.
pub(crate) type Instance = Box<dyn Fn() -> Option<Arc<dyn Any + Send + Sync>> + Send + Sync>;

/// What an envelope needs.
enum Triage {
    Run { event: Arc<dyn Event>, here: Vec<Arc<Entry>>, elsewhere: Vec<Arc<Entry>> },
    Write(Write),
}

/// What the handlers of one event run on.
#[derive(Clone, Copy)]
struct Run<'a> {
    envelope: &'a Arc<Envelope>,
    event: &'a Arc<dyn Event>,
    /// The place of its message, if it is of one.
    place: Option<&'a Place>,
    lost: &'a Latch,
    stops: &'a Stops,
}

/// How one run of a handler ended.
struct Ran {
    outcome: Outcome,
    /// What the metrics call that.
    ended: &'static str,
    span: Span,
}

/// How one handler's part of an event ended.
#[derive(Debug)]
enum End {
    Done,
    /// It is to run again: this attempt, at this time.
    Again {
        attempt: u32,
        at: SystemTime,
    },
    Dead {
        reason: String,
        error: String,
        attempt: u32,
    },
    /// It was not begun, or dropped by a shutdown.
    NotRun {
        attempt: u32,
    },
}

impl Dispatcher {
    pub(crate) fn new(
        clock: Clock,
        tracer: Tracer,
        settings: Settings,
        middleware: Vec<Arc<dyn ErasedMiddleware>>,
        registry: Registry,
        foreign: Option<Foreign>,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        Dispatcher(Arc::new(Shared {
            journal: Journal::new(clock.instant()),
            clock,
            tracer,
            concurrency: Concurrency::new(settings.concurrency),
            unfolding: Arc::new(Semaphore::new(MAX_UNFOLDED)),
            settings,
            states: Arc::default(),
            middleware,
            registry: RwLock::new(Arc::new(registry)),
            foreign,
            observer,
            instance: OnceLock::new(),
            runtime: RwLock::new(Handle::try_current().ok().map(Handoff::new)),
        }))
    }

    /// Says what handlers get as `cx.dawdle()`.
    pub(crate) fn set_instance(&self, instance: Instance) {
        let _ = self.0.instance.set(instance);
    }

    /// Says what handlers run on from here on.
    pub(crate) fn set_runtime(&self, runtime: Handle) {
        *self.0.runtime.write().unwrap_or_else(PoisonError::into_inner) = Some(Handoff::new(runtime));
    }

    fn runtime(&self) -> Option<Handoff> {
        self.0.runtime.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.0.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another registry in place; what runs goes on as it was.
    pub(crate) fn change_registry(
        &self,
        change: impl FnOnce(&Registry) -> crate::Result<Registry>,
    ) -> crate::Result<()> {
        let mut registry = self.0.registry.write().unwrap_or_else(PoisonError::into_inner);
        *registry = Arc::new(change(&registry)?);
        Ok(())
    }

    /// The permits that handlers run under.
    pub(crate) fn concurrency(&self) -> &Concurrency {
        &self.0.concurrency
    }

    /// What was run here lately.
    pub(crate) fn journal(&self) -> &Journal {
        &self.0.journal
    }

    pub(crate) fn states(&self) -> &States {
        &self.0.states
    }

    /// Decides a delivery: reads it, waits until it is due, runs its handlers.
    /// `lost` is raised when its lease is lost.
    pub(crate) async fn decide<'a>(
        &'a self,
        delivery: &'a Delivery,
        place: &'a Place,
        lost: &'a Latch,
        stops: &Stops,
    ) -> Verdict<'a> {
        if stops.begin.is_raised() {
            return Verdict::GiveBack;
        }
        let max_receives = self.0.settings.max_receives;
        if delivery.receive_count > max_receives.saturating_mul(2) {
            return Verdict::Finish(vec![self.unread(delivery)]);
        }
        let _unfolded = tokio::select! {
            biased;
            unfolded = self.room_to_unfold(&delivery.body) => unfolded,
            () = stops.begin.raised() => return Verdict::GiveBack,
            () = lost.raised() => return Verdict::GiveBack,
        };
        let body = wire::read(&delivery.body, delivery.enqueued_at);
        if delivery.receive_count > max_receives {
            return Verdict::Finish(self.poison(body, delivery));
        }
        self.decide_body(body, delivery, place, lost, stops).await
    }

    /// Waits for room for what a compressed body unfolds to; kept for as long as it is worked on.
    async fn room_to_unfold(&self, body: &str) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(wire::unfolded_bytes(body)?).ok()?;
        Arc::clone(&self.0.unfolding).acquire_many_owned(bytes).await.ok()
    }

    async fn decide_body<'a>(
        &'a self,
        body: Body,
        delivery: &'a Delivery,
        place: &'a Place,
        lost: &'a Latch,
        stops: &Stops,
    ) -> Verdict<'a> {
        let envelope = match body {
            Body::One(envelope) => *envelope,
            Body::Pack(parts) if delivery.receive_count > 1 => return Verdict::Finish(self.unpack(parts, delivery)),
            Body::Pack(parts) => return Box::pin(self.decide_pack(parts, delivery, place, lost, stops)).await,
            Body::Unreadable(why) => match self.adopt(delivery) {
                Some(envelope) => envelope,
                None => return Verdict::Finish(vec![self.undecodable(&delivery.body, &why, delivery)]),
            },
        };
        let writes = self.see_to(&Arc::new(envelope), delivery, place, lost, stops).await;
        writes.map_or(Verdict::GiveBack, Verdict::Finish)
    }

    /// Holds one event of a delivery until it is due, and runs its handlers; yields what must be
    /// written of it. `None` when nothing of it was begun.
    async fn see_to(
        &self,
        envelope: &Arc<Envelope>,
        delivery: &Delivery,
        place: &Place,
        lost: &Latch,
        stops: &Stops,
    ) -> Option<Vec<Write>> {
        while let Some(due) = self.held_until(envelope) {
            if delay::until(self.0.clock.now(), due) > HOLD {
                return Some(vec![again(envelope, Some(due))]);
            }
            place.hold();
            tokio::select! {
                biased;
                () = self.0.clock.sleep_until(due) => {}
                () = stops.begin.raised() => return None,
            }
        }
        let span = self.0.tracer.dispatch(envelope);
        let dispatched = async {
            match self.triage(envelope) {
                Triage::Write(write) => Some(vec![with_attributes(write, delivery)]),
                Triage::Run { here, elsewhere, .. } if !elsewhere.is_empty() => {
                    Some(split(envelope, &here, &elsewhere))
                }
                Triage::Run { event, here, .. } => {
                    self.run_event(Run { envelope, event: &event, place: Some(place), lost, stops }, here).await
                }
            }
        };
        dispatched.instrument(span).await
    }

    /// When an event comes to be due that is not, and has not expired.
    fn held_until(&self, envelope: &Envelope) -> Option<SystemTime> {
        let now = self.0.clock.now();
        envelope.due.filter(|due| *due > now && !envelope.is_expired(now))
    }

    /// A pack's events go side by side, each under a permit of its own. What could not be begun within
    /// half a minute, or before the node stops, goes on singly, without waiting for the others.
    async fn decide_pack<'a>(
        &'a self,
        parts: Vec<Result<Envelope, Unreadable>>,
        delivery: &'a Delivery,
        place: &'a Place,
        lost: &'a Latch,
        stops: &Stops,
    ) -> Verdict<'a> {
        let begin = Latch::default();
        let own_stops = Stops { begin: begin.clone(), ..stops.clone() };
        let mut events = Pack::new();
        for part in parts {
            let stops = own_stops.clone();
            events.push(Box::pin(async move {
                match part {
                    Ok(envelope) => {
                        let envelope = Arc::new(envelope);
                        let writes = self.see_to(&envelope, delivery, place, lost, &stops).await;
                        writes.ok_or_else(|| again(&envelope, None))
                    }
                    Err(part) => Ok(vec![self.undecodable(&part.text, &part.why, delivery)]),
                }
            }));
        }
        let mut ends = Vec::with_capacity(events.len());
        let all = async {
            while let Some(end) = events.next().await {
                ends.push(end);
            }
        };
        tokio::select! {
            biased;
            () = all => {}
            () = self.0.clock.sleep(SPLIT_AFTER) => begin.raise(),
            () = stops.begin.raised() => begin.raise(),
        }
        // What was not begun ends at once.
        while let Some(Some(end)) = events.next().now_or_never() {
            ends.push(end);
        }
        match events.is_empty() {
            true if ends.iter().all(Result::is_err) => Verdict::GiveBack,
            true => Verdict::Finish(writes_of(ends)),
            false => Verdict::Split { writes: writes_of(ends), rest: events },
        }
    }

    /// A pack that comes a second time: its events travel singly from here on.
    fn unpack(&self, parts: Vec<Result<Envelope, Unreadable>>, delivery: &Delivery) -> Vec<Write> {
        crate::crash::point!("decide.unpack");
        let write = |part| match part {
            Ok(envelope) => {
                let due = Envelope::due_at(&envelope);
                Write::Again(Box::new(envelope), Some(due))
            }
            Err(Unreadable { text, why }) => self.undecodable(&text, &why, delivery),
        };
        parts.into_iter().map(write).collect()
    }

    fn received_too_often(&self, delivery: &Delivery) -> String {
        format!(
            "received {} times without being settled: it may be killing its process (`max_receives` is {})",
            delivery.receive_count, self.0.settings.max_receives
        )
    }

    /// A message that was received too often even to be read as poison: reading it may be what kills.
    fn unread(&self, delivery: &Delivery) -> Write {
        let envelope = self.wrapped(&delivery.body, delivery);
        with_attributes(self.dead(envelope, reason::POISON, Some(self.received_too_often(delivery))), delivery)
    }

    /// The dead letter of a message that could not be put where it belongs, and never could be.
    pub(crate) fn unsendable(&self, delivery: &Delivery, error: &Error) -> Write {
        let envelope = match wire::read(&delivery.body, delivery.enqueued_at) {
            Body::One(envelope) => *envelope,
            Body::Pack(_) | Body::Unreadable(_) => self.wrapped(&delivery.body, delivery),
        };
        with_attributes(self.dead(envelope, reason::UNSENDABLE, Some(error.to_string())), delivery)
    }

    /// A message that has been received too often without being settled.
    fn poison(&self, body: Body, delivery: &Delivery) -> Vec<Write> {
        crate::crash::point!("decide.poison");
        let error = self.received_too_often(delivery);
        let dead =
            |envelope: Envelope| with_attributes(self.dead(envelope, reason::POISON, Some(error.clone())), delivery);
        match body {
            Body::One(envelope) => vec![dead(*envelope)],
            Body::Pack(parts) => parts
                .into_iter()
                .map(|part| match part {
                    Ok(envelope) => dead(envelope),
                    Err(part) => self.undecodable(&part.text, &part.why, delivery),
                })
                .collect(),
            Body::Unreadable(why) => vec![self.undecodable(&delivery.body, &why, delivery)],
        }
    }

    /// A body that is no event.
    fn undecodable(&self, body: &str, why: &str, delivery: &Delivery) -> Write {
        let envelope = self.wrapped(body, delivery);
        with_attributes(self.dead(envelope, reason::UNDECODABLE, Some(why.to_owned())), delivery)
    }

    /// A body in an envelope that dead letters can keep, and a replay opens again.
    fn wrapped(&self, body: &str, delivery: &Delivery) -> Envelope {
        wire::wrap_undecodable(body, &self.0.settings.source, EventId::new(), delivery.enqueued_at)
    }

    /// Asks the application what it makes of a body that is no event.
    fn adopt(&self, delivery: &Delivery) -> Option<Envelope> {
        let foreign = self.0.foreign.as_ref()?;
        let raw = RawMessage::new(&delivery.message_id, &delivery.body, &delivery.attributes, delivery.enqueued_at);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| foreign(&raw))) {
            Ok(envelope) => envelope,
            Err(panic) => {
                tracing::error!(
                    "`foreign` panicked on message {}: {}",
                    delivery.message_id,
                    crate::clock::panic_text(&*panic)
                );
                None
            }
        }
    }

    fn triage(&self, envelope: &Arc<Envelope>) -> Triage {
        let now = self.0.clock.now();
        if envelope.is_expired(now) {
            return Triage::Write(self.dead((**envelope).clone(), reason::EXPIRED, None));
        }
        let Some(kind) = event::canonical_kind(&envelope.kind) else {
            let why = format!("no event of kind `{}` is linked in", Shown(&envelope.kind));
            return Triage::Write(self.pass_on(envelope, now, why));
        };
        let registry = self.registry();
        let wanting = match &envelope.handler {
            Some(name) => match registry.addressed(kind, name) {
                Some(entry) if entry.run.is_some() => vec![entry],
                _ => {
                    let why = format!("no handler `{}` of kind `{kind}` runs on this node", Shown(name));
                    return Triage::Write(self.pass_on(envelope, now, why));
                }
            },
            None => registry.wanting(kind),
        };
        // One that only catch-alls want may have a handler of its own in a newer build.
        if envelope.handler.is_none() && wanting.iter().all(|entry| entry.wants_all()) {
            let why = format!("no handler of its own for kind `{kind}` is linked in");
            return Triage::Write(self.pass_on(envelope, now, why));
        }
        let null = serde_json::value::RawValue::NULL;
        let data = match &envelope.data {
            Data::Json(json) => &**json,
            Data::None => null,
            Data::Base64(_) => {
                let why = format!("data of kind `{kind}` does not decode: it is binary");
                return Triage::Write(self.pass_on(envelope, now, why));
            }
        };
        match event::decode(kind, data) {
            Ok(event) => {
                let (here, elsewhere) = wanting.into_iter().partition(|entry| entry.run.is_some());
                Triage::Run { event, here, elsewhere }
            }
            Err(error) => Triage::Write(self.pass_on(envelope, now, error.to_string())),
        }
    }

    /// For another node, which may be of a newer build; for the dead letters after a time.
    fn pass_on(&self, envelope: &Envelope, now: SystemTime, why: String) -> Write {
        crate::crash::point!("decide.pass_on");
        let mut envelope = envelope.clone();
        // Not since a time that has not come: it would be passed on until then.
        let since = envelope.unhandled_since.map_or(now, |since| since.min(now));
        envelope.unhandled_since = Some(since);
        let so_far = delay::until(since, now);
        if so_far >= self.0.settings.unknown_after {
            return self.dead(envelope, reason::UNHANDLED, Some(why));
        }
        tracing::warn!(
            id = %Shown(envelope.id.as_str()),
            kind = %Shown(&envelope.kind),
            "passed on to another node: {why}"
        );
        let after = (so_far / PASS_ON_SHARE).clamp(PASS_ON_AFTER, PASS_ON_AT_MOST);
        Write::Again(Box::new(envelope), Some(later(now, after)))
    }

    /// The dead letter of an envelope.
    pub(crate) fn dead(&self, mut envelope: Envelope, reason: &str, error: Option<String>) -> Write {
        crate::crash::point!("decide.dead");
        // The label is one of this program's handlers.
        let died_of = envelope.handler.as_deref().and_then(|name| self.registry().addressed(&envelope.kind, name));
        metrics::dead_lettered(&envelope.kind, died_of.map(|entry| Arc::clone(&entry.name)), reason);
        let settings = &self.0.settings;
        tracing::warn!(
            id = %Shown(envelope.id.as_str()),
            kind = %Shown(&envelope.kind),
            handler = envelope.handler.as_deref().map(|name| tracing::field::display(Shown(name))),
            reason,
            "dead-lettered"
        );
        envelope.death = Some(Death {
            reason: truncated(reason.to_owned(), MAX_ERROR / 4),
            error: error.map(|error| truncated(error, MAX_ERROR)),
            time: self.0.clock.now(),
            node: Some(settings.node.clone()),
            version: settings.version.clone(),
        });
        Write::Dead(Box::new(envelope), BTreeMap::new())
    }

    /// Runs the handlers of one event. `None` when nothing of it was begun.
    async fn run_event(&self, run: Run<'_>, here: Vec<Arc<Entry>>) -> Option<Vec<Write>> {
        let siblings = Siblings::of(here.len());
        let runs = here.iter().map(|entry| self.run_handler(entry, run, &siblings));
        let ends = futures_util::future::join_all(runs).await;
        // Attempts that were spent are written down, though the next was not begun.
        if ends.iter().all(|end| matches!(end, End::NotRun { attempt } if *attempt == run.envelope.attempt)) {
            return None;
        }
        let left = here.iter().zip(ends).filter_map(|(entry, end)| self.left_of(entry, run.envelope, end));
        Some(left.collect())
    }

    /// What must be written of one handler's part.
    fn left_of(&self, entry: &Entry, envelope: &Envelope, end: End) -> Option<Write> {
        match end {
            End::Done => None,
            End::Again { attempt, at } => Some(addressed(envelope, entry, attempt, Some(at))),
            End::NotRun { attempt } => Some(addressed(envelope, entry, attempt, None)),
            End::Dead { reason, error, attempt } => {
                Some(self.dead(envelope.addressed(&entry.name, attempt, None), &reason, Some(error)))
            }
        }
    }

    /// Runs the handlers of an event that is on no queue. What must be written of one is, before the others have
    /// ended: there is no message that would come again.
    pub(crate) async fn run_direct(
        &self,
        envelope: Envelope,
        stops: &Stops,
        write: impl Fn(Write) -> BoxFuture<'static, ()>,
    ) {
        let envelope = Arc::new(envelope);
        if let Some(due) = self.held_until(&envelope) {
            return write(again(&envelope, Some(due))).await;
        }
        let span = self.0.tracer.dispatch(&envelope);
        let dispatched = async {
            match self.triage(&envelope) {
                Triage::Run { event, here, elsewhere } => {
                    let lost = Latch::default();
                    let run = Run { envelope: &envelope, event: &event, place: None, lost: &lost, stops };
                    let (run, write) = (&run, &write);
                    let ran = here.iter().map(async |entry| {
                        let end = self.run_handler(entry, *run, &Siblings::none()).await;
                        if let Some(left) = self.left_of(entry, run.envelope, end) {
                            write(left).await;
                        }
                    });
                    let passed_on = elsewhere.iter().map(|entry| write(addressed(&envelope, entry, 1, None)));
                    let (ran, passed_on) =
                        (futures_util::future::join_all(ran), futures_util::future::join_all(passed_on));
                    futures_util::future::join(ran, passed_on).await;
                }
                Triage::Write(left) => write(left).await,
            }
        };
        dispatched.instrument(span).await;
    }

    /// Runs one handler; while siblings of it still run, also its next tries.
    async fn run_handler(&self, entry: &Arc<Entry>, run: Run<'_>, siblings: &Siblings) -> End {
        let mut attempt = run.envelope.attempt;
        loop {
            let Some(Ran { outcome, ended, span }) = self.run_once(entry, run, attempt).await else {
                siblings.one_stopped();
                return End::NotRun { attempt };
            };
            let end = match outcome {
                Ok(()) => End::Done,
                Err(failure) => span.in_scope(|| self.end_of(entry, run.envelope, attempt, &failure, ended)),
            };
            drop(span);
            siblings.one_stopped();
            let End::Again { attempt: next, at } = end else { return end };
            tokio::select! {
                biased;
                () = siblings.none_runs.raised() => return end,
                () = run.stops.begin.raised() => return end,
                () = run.lost.raised() => return end,
                () = self.0.clock.sleep_until(at) => {}
            }
            crate::crash::point!("handler.again");
            siblings.one_started();
            attempt = next;
        }
    }

    /// What a failure means for its handler; `ended` is what the metrics call it.
    fn end_of(&self, entry: &Entry, envelope: &Envelope, attempt: u32, failure: &Failure, ended: &'static str) -> End {
        let now = self.0.clock.now();
        let error = truncated(failure.message(), MAX_ERROR);
        let (id, kind, handler) = (Shown(envelope.id.as_str()), &envelope.kind, &entry.name);
        let dead = |reason: &str| End::Dead { reason: reason.to_owned(), error: error.clone(), attempt };
        let end = match failure.directive() {
            Directive::Discard => {
                tracing::info!(%id, kind, %handler, attempt, "discarded: {error}");
                return End::Done;
            }
            Directive::Snooze(span) => {
                tracing::debug!(%id, kind, %handler, attempt, "snoozed for {span:?}");
                return End::Again { attempt, at: later(now, span) };
            }
            Directive::DeadLetter => dead(&error),
            Directive::Retry { .. } if attempt >= entry.attempts => dead(reason::ATTEMPTS),
            Directive::Retry { after } => {
                let pause = after.unwrap_or_else(|| entry.backoff.delay(attempt, fastrand::f64()));
                metrics::retried(kind, handler);
                tracing::warn!(%id, kind, %handler, attempt, attempts = entry.attempts, "failed, again in {pause:?}: {error}");
                End::Again { attempt: attempt + 1, at: later(now, pause) }
            }
        };
        self.0.journal.failed(FailedRun {
            time: now,
            id: envelope.id,
            kind: kind.clone(),
            handler: handler.to_string(),
            attempt,
            outcome: ended,
            dead: matches!(end, End::Dead { .. }),
            error: truncated(error, MAX_SHOWN_ERROR),
        });
        end
    }

    /// One run in a task of its own, under its permits and its timeout. `None` when it was not
    /// begun or was dropped by a shutdown.
    async fn run_once(&self, entry: &Arc<Entry>, run: Run<'_>, attempt: u32) -> Option<Ran> {
        let Run { envelope, event, place, lost, stops } = run;
        let shared = &self.0;
        if let Some(need) = entry.missing.first() {
            if let Some(observer) = &shared.observer {
                observer.lacks_state(&entry.name, need.type_name);
            }
            let outcome = Err(Failure::dead_letter(format!("no State<{}> was given", need.type_name)));
            let ended = name_of(&outcome);
            return Some(Ran { outcome, ended, span: Span::none() });
        }
        let permits = tokio::select! {
            biased;
            () = stops.begin.raised() => return None,
            () = lost.raised() => return None,
            permits = self.permits(entry, place) => permits?,
        };
        // It may have waited for long; a lease that ends in the middle would let another node run it, too.
        if place.is_some_and(|place| place.lease_ends_within(entry.timeout, shared.clock.instant())) {
            tracing::info!(id = %envelope.id, handler = %entry.name, "given back: it has waited too long to run under its lease");
            return None;
        }
        let handler = Arc::clone(entry.run.as_ref()?);
        let cancelled = Latch::default();
        let instance = shared.instance.get().and_then(|find| find())?;
        let cx = Context {
            envelope: Arc::clone(envelope),
            kind: event.kind(),
            handler: Arc::clone(&entry.name),
            attempt,
            attempts: entry.attempts,
            clock: shared.clock.clone(),
            states: Arc::clone(&shared.states),
            cancelled: cancelled.clone(),
            instance: Arc::clone(&instance),
        };
        if let Some(place) = place {
            place.begun().raise();
        }
        let (dispatcher, handled) = (self.clone(), Arc::clone(event));
        let span = shared.tracer.handler(&entry.name, attempt, envelope);
        crate::crash::point!("handler.before");
        let start = Arc::new(AtomicU8::new(WAITING));
        let begun = Arc::clone(&start);
        let run = INSTANCE.scope(instance, async move {
            // Given back when the run ends or is dropped, whichever way.
            let _permits = permits;
            if begun.compare_exchange(WAITING, BEGUN, Ordering::AcqRel, Ordering::Acquire).is_err() {
                return None;
            }
            Some(Next::new(&dispatcher.0.middleware, &*handler).run(&cx, &*handled).await)
        });
        let mut task = shared.clock.spawn_user(self.runtime().as_ref(), run.instrument(span.clone()));
        let _attended = task.attended();
        let (since, due) = (shared.clock.instant(), envelope.due_at());
        let since_due = || delay::until(due, shared.clock.now());
        let meters = entry.meters(&envelope.kind);
        let running = meters.begin(since_due());
        let mut forced = None;
        let limit = shared.clock.sleep(entry.timeout);
        tokio::pin!(limit);
        let mut told = false;
        let outcome = loop {
            tokio::select! {
                biased;
                ended = &mut task => break match ended {
                    Ok(outcome) => outcome?,
                    Err(TaskError::Panicked(text)) => {
                        forced = Some("panic");
                        Err(Failure::retry(format!("panicked: {text}")))
                    }
                    Err(TaskError::Aborted) => return None,
                },
                () = &mut limit => {
                    task.abort();
                    if start.compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                        // Its attempt was not spent; another node may have a thread for it.
                        tracing::error!(
                            handler = %entry.name,
                            "a handler could not be begun within its timeout of {:?}: handlers that block their \
                             threads leave none to the others; use `tokio::task::spawn_blocking`",
                            entry.timeout
                        );
                        return None;
                    }
                    forced = Some("timeout");
                    break Err(Failure::retry(format!("timed out after {:?}", entry.timeout)));
                }
                () = stops.abort.raised() => {
                    task.abort();
                    return None;
                }
                () = either(&stops.cancel, lost), if !told => {
                    told = true;
                    cancelled.raise();
                }
            }
        };
        crate::crash::point!("handler.after");
        let took = shared.clock.instant().saturating_duration_since(since);
        let ended = forced.unwrap_or_else(|| name_of(&outcome));
        running.ended(ended, took, since_due());
        let failed = matches!(ended, "retry" | "timeout" | "panic" | "dead_letter");
        span.record("dawdle.outcome", ended);
        if failed {
            trace::failed(&span, ended);
        }
        shared.journal.ran(meters.kind(), &entry.name, failed, took, shared.clock.instant());
        if let Some(observer) = &shared.observer {
            observer.ran(&entry.name, event, envelope.id, &outcome);
        }
        Some(Ran { outcome, ended, span })
    }

    /// A handler's own permit first, so that waiting for it holds none of the node's; nor does it
    /// keep a place from messages of other handlers.
    async fn permits(&self, entry: &Entry, place: Option<&Place>) -> Option<Permits> {
        let own = match &entry.limiter {
            Some(limiter) => match Arc::clone(limiter).try_acquire_owned() {
                Ok(own) => Some(own),
                Err(_) => {
                    if let Some(place) = place {
                        place.step_aside();
                    }
                    Some(Arc::clone(limiter).acquire_owned().await.ok()?)
                }
            },
            None => None,
        };
        let of_node = self.0.concurrency.permit().await?;
        Some((own, of_node))
    }
}

/// A handler's own permit, if it has a limit of its own, and the node's.
type Permits = (Option<OwnedSemaphorePermit>, Permit);

/// The handlers of one event that are running now.
struct Siblings {
    running: AtomicUsize,
    none_runs: Latch,
}

impl Siblings {
    fn of(count: usize) -> Self {
        Siblings { running: AtomicUsize::new(count), none_runs: Latch::default() }
    }

    /// Of one that runs for itself: when it has stopped, none runs.
    fn none() -> Self {
        Siblings::of(1)
    }

    fn one_stopped(&self) {
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.none_runs.raise();
        }
    }

    fn one_started(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
    }
}

/// An outcome, as the metrics call it.
fn name_of(outcome: &Outcome) -> &'static str {
    match outcome.as_ref().map_err(Failure::directive) {
        Ok(()) => "ok",
        Err(Directive::Retry { .. }) => "retry",
        Err(Directive::Snooze(_)) => "snooze",
        Err(Directive::Discard) => "discard",
        Err(Directive::DeadLetter) => "dead_letter",
    }
}

async fn either(a: &Latch, b: &Latch) {
    tokio::select! {
        biased;
        () = a.raised() => {}
        () = b.raised() => {}
    }
}

/// An event as it is, to be handled from then on.
fn again(envelope: &Envelope, due: Option<SystemTime>) -> Write {
    Write::Again(Box::new(envelope.clone()), due)
}

/// The part of an event that is left for one handler.
fn addressed(envelope: &Envelope, entry: &Entry, attempt: u32, at: Option<SystemTime>) -> Write {
    Write::Again(Box::new(envelope.addressed(&entry.name, attempt, at)), at)
}

/// An event some of whose handlers run on other nodes: one message for each handler, at once, so
/// that none waits for another.
fn split(envelope: &Envelope, here: &[Arc<Entry>], elsewhere: &[Arc<Entry>]) -> Vec<Write> {
    here.iter().chain(elsewhere).map(|entry| addressed(envelope, entry, envelope.attempt, None)).collect()
}

fn with_attributes(write: Write, delivery: &Delivery) -> Write {
    match write {
        Write::Dead(envelope, _) => Write::Dead(envelope, delivery.attributes.clone()),
        again @ Write::Again(..) => again,
    }
}

/// The beginning of a text, of at most `limit` bytes.
fn truncated(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let mut end = limit.saturating_sub(3);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}
