//! The place where everything meets: [`Dawdle`].

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tracing::Instrument;
use tracing::field::debug;

use crate::activity::Activity;
use crate::backend::{Backend, BoxFuture, Lane, LaneStats, Role, Usage};
use crate::buffer::Buffer;
use crate::builder::{Builder, until};
use crate::clock::{Clock, Latch, guarded};
use crate::config::MOST;
use crate::dead_letter::{DeadLetters, Held};
use crate::dispatcher::{Observer, Write};
use crate::envelope::Envelope;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventId, TypedEvent};
use crate::handler::{Context, INSTANCE, Registration, States};
use crate::health::Health;
use crate::listener::{Engine, Listener};
use crate::metrics;
use crate::middleware::ErasedMiddleware;
use crate::reason;
use crate::registry::{HandlerInfo, Registry};
use crate::retry::Backoff;
use crate::sender::{Parcel, WhenFull};
use crate::settings::Settings;
use crate::shutdown::{InFlight, Work};
use crate::signal::Signal;
use crate::trace;

/// Between tries to put what failed of a direct event on a queue.
const WRITE_AGAIN: Backoff = Backoff::exponential(Duration::from_millis(250), Duration::from_secs(3));

/// The events of a `signal_all` that are put in line together, and how many such crowds are on their way
/// at once.
const CROWD: usize = 500;
const CROWDS_AT_ONCE: usize = 4;

/// How often gauges are brought up to date.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// Signals events, and runs their handlers: one application's queues and this process's part in them.
///
/// Used within a tokio runtime. Cheap to clone; clones are handles of one instance. A listener goes
/// on in the background, also when every handle is dropped, until [`shutdown`](Dawdle::shutdown) or
/// until the tokio runtime ends; whatever is then under way is still on the queue.
///
/// ```no_run
/// # use dawdle::{Context, Dawdle, Event, Outcome};
/// # #[derive(serde::Serialize, serde::Deserialize, Event)]
/// # #[event(kind = "doc.trial.ending")]
/// # struct TrialEnding { account: u64 }
/// # #[tokio::main]
/// # async fn main() -> dawdle::Result<()> {
/// let dawdle = Dawdle::start().await?;
/// dawdle.signal(TrialEnding { account: 7 }).delay(std::time::Duration::from_secs(14 * 86_400)).await?;
/// dawdle.run().await
/// # }
/// ```
#[derive(Clone)]
pub struct Dawdle(Arc<Inner>);

struct Inner {
    engine: Engine,
    middleware: Vec<Arc<dyn ErasedMiddleware>>,
    observer: Option<Arc<dyn Observer>>,
    /// Handlers that run for events on no queue.
    direct: Work,
    listener: Mutex<Option<Arc<Listener>>>,
    /// Listeners that were paused while handlers ran, until those have ended.
    retired: Mutex<Vec<Arc<Listener>>>,
    /// Whether nothing is to be received, for now.
    paused: AtomicBool,
    /// Listeners that are being drained.
    stopping: InFlight,
    /// Whether a listener is wanted once there are handlers.
    wants_listener: AtomicBool,
    /// Handlers may lack a state: a harness.
    alone: bool,
    closing: AtomicBool,
    closed: Latch,
    held: Held,
    buffer: Buffer,
    /// Whether the queue's time has been asked for.
    time: OnceCell<()>,
}

/// The instance that `dawdle::signal` falls back to.
static INSTALLED: RwLock<Option<Dawdle>> = RwLock::new(None);

impl Dawdle {
    pub(crate) fn new(
        engine: Engine,
        middleware: Vec<Arc<dyn ErasedMiddleware>>,
        observer: Option<Arc<dyn Observer>>,
        wants_listener: bool,
        alone: bool,
    ) -> Self {
        let buffer = Buffer::new(engine.sender.clone(), engine.clock.clone(), &engine.settings);
        let dawdle = Dawdle(Arc::new(Inner {
            buffer,
            engine,
            middleware,
            observer,
            direct: Work::default(),
            listener: Mutex::new(None),
            retired: Mutex::default(),
            paused: AtomicBool::new(false),
            stopping: InFlight::default(),
            wants_listener: AtomicBool::new(wants_listener),
            alone,
            closing: AtomicBool::new(false),
            closed: Latch::default(),
            held: Held::default(),
            time: OnceCell::new(),
        }));
        // Not the instance itself, or it would hold itself for ever.
        let instance = Arc::downgrade(&dawdle.0);
        dawdle.0.engine.dispatcher.set_instance(Box::new(move || Some(Dawdle(instance.upgrade()?).as_any())));
        dawdle
    }

    /// Checks the queues, for as long as the deadline allows, and starts the listener if one is
    /// wanted and there are handlers. Says whether it did.
    pub(crate) async fn begin(&self, deadline: Instant) -> Result<bool> {
        let registry = self.0.engine.dispatcher.registry();
        let listens = self.0.wants_listener.load(Ordering::Acquire) && registry.runs_any();
        if listens {
            self.check_states(&registry)?;
        }
        let role = if listens { Role::Listener } else { Role::Sender };
        until(self.clock(), deadline, || self.check(role)).await?;
        if listens {
            self.begin_listening(&Dawdle::runtime()?)?;
        }
        self.keep_metrics();
        Ok(listens)
    }

    /// Brings the gauges up to date every few seconds, until the shutdown or the last handle is dropped.
    fn keep_metrics(&self) {
        metrics::describe();
        if self.clock().is_virtual() {
            return;
        }
        let (dawdle, clock, closed) = (Arc::downgrade(&self.0), self.clock().clone(), self.0.closed.clone());
        self.clock().spawn(async move {
            while let Some(inner) = dawdle.upgrade() {
                Dawdle(inner).sample().await;
                if clock.timeout(SAMPLE_EVERY, closed.raised()).await.is_some() {
                    return;
                }
            }
        });
    }

    async fn sample(&self) {
        let engine = &self.0.engine;
        let concurrency = engine.dispatcher.concurrency();
        metrics::sampled(&metrics::Sample {
            concurrency: concurrency.limit(),
            permits_free: concurrency.free(),
            in_flight: self.in_flight(),
            send_buffer: engine.sender.buffered(),
            usage: self.usage(),
        });
        // Counting costs nothing where calls do not.
        if engine.backend.limits().calls_share {
            for lane in [Lane::Message, Lane::Dead] {
                if let Ok(stats) = engine.backend.inspect(lane).await {
                    metrics::counted(lane, &stats);
                }
            }
        }
    }

    /// How many messages this node has received and not settled.
    fn in_flight(&self) -> usize {
        let retired: usize = self.retired().iter().map(|listener| listener.in_flight()).sum();
        retired + self.listener().as_ref().map_or(0, |listener| listener.in_flight())
    }

    /// A harness finds a missing state when the handler comes to run.
    fn check_states(&self, registry: &Registry) -> Result<()> {
        if self.0.alone { Ok(()) } else { registry.check_states() }
    }

    /// Makes this the instance that `dawdle::signal` falls back to.
    pub(crate) fn install(&self) {
        *INSTALLED.write().unwrap_or_else(PoisonError::into_inner) = Some(self.clone());
    }

    /// Starts, configured by the environment: the listener too, if there are handlers.
    ///
    /// # Errors
    /// Everything that would make it fail later, each saying how to mend it: [`ErrorKind::Config`],
    /// [`ErrorKind::Registration`], [`ErrorKind::Queue`], [`ErrorKind::Credentials`], and
    /// [`ErrorKind::Unavailable`] once the backend could not be reached for `start_timeout`.
    pub async fn start() -> Result<Self> {
        Dawdle::builder().start().await
    }

    /// The same without a listener: for migrations, scripts and processes that only send.
    ///
    /// # Errors
    /// As [`start`](Dawdle::start).
    pub async fn connect() -> Result<Self> {
        Dawdle::builder().listener(false).start().await
    }

    /// Starts with more than the environment says.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Signals an event: now, or as the returned builder says. It is sent when that is awaited.
    ///
    /// When awaiting returns `Ok`, the event is durable in the backend.
    pub fn signal<E: TypedEvent>(&self, event: E) -> Signal {
        Signal::new(Ok(self.clone()), &event, WhenFull::Wait)
    }

    /// The same, but answers [`ErrorKind::Overloaded`] instead of waiting when the send buffer is
    /// full.
    pub fn try_signal<E: TypedEvent>(&self, event: E) -> Signal {
        Signal::new(Ok(self.clone()), &event, WhenFull::Refuse)
    }

    /// Signals many events, in as few requests as they fit in. One answer for each, in order.
    ///
    /// Dropping the future leaves some of them sent.
    pub async fn signal_all<E: TypedEvent>(&self, events: impl IntoIterator<Item = E>) -> Vec<Result<EventId>> {
        let (mut events, crowd) = (events.into_iter(), CROWD.min(self.0.engine.settings.send_buffer));
        let span = self.0.engine.tracer.signal(E::KIND);
        let crowds = std::iter::from_fn(|| {
            let parcels: Vec<_> = events.by_ref().take(crowd).map(|event| self.signal(event).prepared(&span)).collect();
            (!parcels.is_empty()).then(|| self.send_crowd(E::KIND, parcels))
        });
        let sending = futures_util::stream::iter(crowds).buffered(CROWDS_AT_ONCE).collect::<Vec<_>>();
        let answers: Vec<_> = sending.instrument(span.clone()).await.into_iter().flatten().collect();
        span.record("messaging.batch.message_count", answers.len());
        if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
            trace::failed(&span, debug(error.kind()));
        }
        answers
    }

    async fn send_crowd(&self, kind: &str, prepared: Vec<Result<(EventId, Parcel)>>) -> Vec<Result<EventId>> {
        let (mut answers, mut parcels) = (Vec::with_capacity(prepared.len()), Vec::with_capacity(prepared.len()));
        for prepared in prepared {
            answers.push(prepared.map(|(id, parcel)| {
                parcels.push(parcel);
                id
            }));
        }
        let mut sent = self.0.engine.sender.signal_all(parcels).await.into_iter();
        self.count_signalled(kind, false, sent.as_slice().iter().filter(|sent| sent.is_ok()).count());
        let mut is_sent = |id| sent.next().unwrap_or_else(|| Err(unanswered())).map(|()| id);
        answers.into_iter().map(|answer| answer.and_then(&mut is_sent)).collect()
    }

    /// Waits until every event that was signalled by [`Signal::buffered`] is durable.
    ///
    /// # Errors
    /// The first error of those that could not be sent since the last flush, and are dropped (each was
    /// logged, with its id); [`ErrorKind::Unavailable`] where some are not durable after `send_timeout`.
    /// Those are tried on.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing: what is in the buffer is sent.
    pub async fn flush(&self) -> Result<()> {
        self.0.buffer.flush().await
    }

    /// Sends an envelope that was kept elsewhere, in an outbox table for instance.
    ///
    /// # Errors
    /// As awaiting a [`Signal`].
    pub async fn send(&self, mut envelope: Envelope) -> Result<EventId> {
        let span = self.0.engine.tracer.signal(&envelope.kind);
        span.record("messaging.message.id", envelope.id.as_str());
        trace::carry(&span, &mut envelope);
        trace::sending(span, self.send_envelope(envelope, WhenFull::Wait)).await
    }

    pub(crate) async fn send_envelope(&self, envelope: Envelope, when_full: WhenFull) -> Result<EventId> {
        let (kind, later) = (envelope.kind.clone(), envelope.due.is_some());
        let (id, parcel) = self.parcel(envelope)?;
        self.0.engine.sender.signal(parcel, when_full).await?;
        self.count_signalled(&kind, later, 1);
        crate::crash::point!("signal.sent");
        Ok(id)
    }

    /// Puts an event into the buffer.
    pub(crate) async fn buffer(&self, envelope: Envelope) -> Result<EventId> {
        let (kind, later) = (envelope.kind.clone(), envelope.due.is_some());
        let (id, parcel) = self.parcel(envelope)?;
        let place = self.0.engine.sender.buffer(WhenFull::Refuse).await?;
        self.0.buffer.push(id, Parcel { _buffered: Some(Arc::new(place)), ..parcel })?;
        self.count_signalled(&kind, later, 1);
        Ok(id)
    }

    fn count_signalled(&self, kind: &str, later: bool, events: usize) {
        metrics::signalled(kind, later, events);
        self.0.engine.dispatcher.journal().signalled(events);
    }

    /// The parcel of an event that is signalled.
    pub(crate) fn parcel(&self, mut envelope: Envelope) -> Result<(EventId, Parcel)> {
        self.before_send(&mut envelope)?;
        let parcel = self.0.engine.sender.parcel(&envelope, envelope.due)?;
        self.0.engine.sender.check_size(&parcel)?;
        self.observe(&envelope);
        Ok((envelope.id, parcel))
    }

    /// Asks for the queue's time until it is known: a process that has asked the queue nothing yet does
    /// not know how far its machine's clock is off, and would have an event handled early.
    ///
    /// # Errors
    /// Where the queue has not answered within the send timeout.
    pub(crate) async fn learn_the_time(&self) -> Result<()> {
        let (engine, clock) = (&self.0.engine, self.clock());
        let (timeout, begun) = (engine.settings.send_timeout, clock.instant());
        let ask = || engine.ask(|backend: Arc<dyn Backend>| async move { backend.learn_clock_offset().await });
        let mut tries = 0;
        loop {
            let left = timeout.saturating_sub(clock.instant().saturating_duration_since(begun));
            let error = match clock.timeout(left, self.0.time.get_or_try_init(ask)).await {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => error,
                None => Error::new(ErrorKind::Unavailable, format!("no answer within {timeout:?} (`send_timeout`)")),
            };
            tries += 1;
            let pause = engine.settings.send_backoff.delay(tries, fastrand::f64());
            if !error.is_transient() || pause >= left {
                let text = format!("the queue's time is not known, by which the event would be due: {error}");
                return Err(Error::new(error.kind(), text).with_source(error));
            }
            tracing::debug!(tries, "the queue's time is not known yet, asking again in {pause:?}: {error}");
            clock.sleep(pause).await;
        }
    }

    pub(crate) fn ensure_open(&self) -> Result<()> {
        if self.0.closed.is_raised() {
            return Err(Error::new(ErrorKind::ShutDown, "this Dawdle has been shut down; it does nothing more"));
        }
        Ok(())
    }

    /// The application's runtime, which handlers run on.
    pub(crate) fn runtime() -> Result<Handle> {
        Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::Invalid, "Dawdle was used outside of a tokio runtime; await it within one")
                .with_source(error)
        })
    }

    fn before_send(&self, envelope: &mut Envelope) -> Result<()> {
        self.ensure_open()?;
        Dawdle::runtime()?;
        for middleware in &self.0.middleware {
            middleware.before_send(envelope)?;
        }
        Ok(())
    }

    fn observe(&self, envelope: &Envelope) {
        if let Some(observer) = &self.0.observer {
            observer.signalled(envelope);
        }
    }

    /// Runs the handlers of an event on this node, each in a task of its own.
    pub(crate) async fn run_directly(&self, mut envelope: Envelope, when_full: WhenFull) -> Result<EventId> {
        let id = envelope.id;
        let registry = self.0.engine.dispatcher.registry();
        self.check_states(&registry)?;
        let wanting = registry.wanting(&envelope.kind);
        if !wanting.iter().any(|entry| entry.run.is_some() && !entry.wants_all()) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "no handler of its own for kind `{}` runs on this node, so it cannot be signalled directly",
                    envelope.kind
                ),
            ));
        }
        self.before_send(&mut envelope)?;
        let parcel = self.0.engine.sender.parcel(&envelope, None)?;
        self.0.engine.sender.check_size(&parcel)?;
        let buffered = self.0.engine.sender.buffer(when_full).await?;
        self.observe(&envelope);
        self.count_signalled(&envelope.kind, false, 1);
        let (guard, dawdle) = (self.0.direct.busy.guard(), self.clone());
        self.clock().spawn(async move {
            let _counted = (guard, buffered);
            crate::crash::point!("direct.before");
            let writer = dawdle.clone();
            let write = move |write| -> BoxFuture<'static, ()> {
                let dawdle = writer.clone();
                Box::pin(async move {
                    crate::crash::point!("direct.left");
                    dawdle.write_direct(write).await;
                    crate::crash::point!("direct.written");
                })
            };
            dawdle.0.engine.dispatcher.run_direct(envelope, &dawdle.0.direct.stops, write).await;
            crate::crash::point!("direct.ran");
        });
        Ok(id)
    }

    /// Puts what is left of a direct event on a queue: tried for as long as this instance lives.
    async fn write_direct(&self, mut write: Write) {
        let engine = &self.0.engine;
        let (Write::Again(envelope, _) | Write::Dead(envelope, _)) = &write;
        let id = envelope.id;
        let mut tries = 0;
        loop {
            let sent = match engine.parcel(&write) {
                Ok(parcel) => engine.sender.send(parcel).await,
                Err(error) => Err(error),
            };
            let Err(error) = sent else { return };
            if error.is_permanent() {
                write = match write {
                    Write::Again(envelope, _) => {
                        engine.dispatcher.dead(*envelope, reason::UNSENDABLE, Some(error.to_string()))
                    }
                    Write::Dead(..) => {
                        tracing::error!("event {id}, signalled directly, is LOST: no queue will ever take it: {error}");
                        return;
                    }
                };
                continue;
            }
            tries += 1;
            let pause = WRITE_AGAIN.delay(tries, fastrand::f64());
            let last = self.0.direct.stops.abort.is_raised();
            tracing::error!(last, "event {id}, signalled directly, failed and cannot be put on a queue: {error}");
            if last || engine.clock.timeout(pause, self.0.direct.stops.abort.raised()).await.is_some() {
                return;
            }
        }
    }

    /// Runs until Ctrl-C or SIGTERM, then drains and shuts down. A second signal exits at once.
    /// Returns, too, when this instance was shut down otherwise.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the process's signals cannot be listened to.
    pub async fn run(&self) -> Result<()> {
        // Listened to all along, so that no second signal falls between two listenings.
        let mut stops = StopSignals::new()?;
        tokio::select! {
            () = stops.recv() => {}
            () = self.0.closed.raised() => {}
        }
        self.shutdown_unless(stops).await;
        Ok(())
    }

    /// Runs until `stop` resolves, then drains and shuts down. A signal during the drain exits at
    /// once.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the process's signals cannot be listened to.
    pub async fn run_until(&self, stop: impl Future) -> Result<()> {
        tokio::select! {
            _ = stop => {}
            () = self.0.closed.raised() => {}
        }
        match StopSignals::new() {
            Ok(again) => self.shutdown_unless(again).await,
            Err(error) => {
                self.shutdown().await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Shuts down; exits at once on a signal.
    async fn shutdown_unless(&self, mut again: StopSignals) {
        tokio::select! {
            () = self.shutdown() => {}
            () = again.recv() => {
                tracing::warn!("a second signal: exiting at once; what was in hand comes again");
                std::process::exit(130);
            }
        }
    }

    /// Starts receiving. Does nothing when the listener runs already, or when this node has no
    /// handlers.
    ///
    /// # Errors
    /// As [`start`](Dawdle::start) for the queues; [`ErrorKind::ShutDown`].
    pub async fn start_listener(&self) -> Result<()> {
        self.start_listener_on(&Dawdle::runtime()?).await
    }

    async fn start_listener_on(&self, runtime: &Handle) -> Result<()> {
        self.0.wants_listener.store(true, Ordering::Release);
        let registry = self.0.engine.dispatcher.registry();
        if self.listener_running() || !registry.runs_any() {
            return Ok(());
        }
        self.check_states(&registry)?;
        self.check(Role::Listener).await?;
        self.begin_listening(runtime)
    }

    async fn check(&self, role: Role) -> Result<()> {
        self.0.engine.ask(move |backend| async move { backend.check(role).await }).await
    }

    fn begin_listening(&self, runtime: &Handle) -> Result<()> {
        let mut listener = self.listener();
        if self.0.closing.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::ShutDown, "this Dawdle has been shut down; it cannot listen"));
        }
        if listener.is_none() && !self.is_paused() {
            metrics::listening(self.0.engine.lanes(), &self.handlers());
            *listener = Some(Listener::start(self.0.engine.clone(), self.as_any(), Some(runtime)));
        }
        Ok(())
    }

    /// Stops receiving and drains what was received, within `shutdown_timeout`. Signals can still
    /// be sent, and the listener started again. The drain goes on when this is dropped; called
    /// again, it waits for that.
    pub async fn stop_listener(&self) {
        self.0.wants_listener.store(false, Ordering::Release);
        let guard = self.0.stopping.guard();
        let retired = std::mem::take(&mut *self.retired());
        let listener = self.listener().take();
        for listener in listener.into_iter().chain(retired) {
            let (timeout, guard) = (self.0.engine.settings.shutdown_timeout, self.0.stopping.guard());
            self.clock().spawn(async move {
                let _guard = guard;
                crate::crash::point!("stop.before");
                listener.drain(timeout).await;
                crate::crash::point!("stop.drained");
            });
        }
        drop(guard);
        self.0.stopping.none().await;
    }

    /// Begins no more handlers on this node until [`resume`](Dawdle::resume): stops receiving, and gives back
    /// what was not begun, for other nodes. Handlers that run go on to their ends, however long that takes, and
    /// signals can still be sent. Returns at once. Does nothing where it is paused already.
    pub fn pause(&self) {
        self.0.paused.store(true, Ordering::Release);
        let Some(listener) = self.listener().take() else { return };
        listener.stop_receiving();
        self.retired().push(Arc::clone(&listener));
        let dawdle = Arc::downgrade(&self.0);
        self.clock().spawn(async move {
            listener.retire().await;
            if let Some(inner) = dawdle.upgrade() {
                Dawdle(inner).retired().retain(|retired| !Arc::ptr_eq(retired, &listener));
            }
        });
        tracing::info!("paused: nothing is received until it is resumed");
    }

    /// Receives again after [`pause`](Dawdle::pause), if the listener is wanted and there are handlers.
    ///
    /// # Errors
    /// [`ErrorKind::ShutDown`]; [`ErrorKind::Invalid`] outside of a tokio runtime.
    pub fn resume(&self) -> Result<()> {
        self.ensure_open()?;
        let runtime = Dawdle::runtime()?;
        if !self.0.paused.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        tracing::info!("resumed");
        let wanted = self.0.wants_listener.load(Ordering::Acquire);
        if wanted && self.0.engine.dispatcher.registry().runs_any() { self.begin_listening(&runtime) } else { Ok(()) }
    }

    /// Whether this node is [paused](Dawdle::pause).
    pub fn is_paused(&self) -> bool {
        self.0.paused.load(Ordering::Acquire)
    }

    /// Runs at most `handlers` at once on this node from now on. What runs goes on: above a lower limit none is
    /// begun until enough have ended. The handlers' own limits stay as they are.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] where it is not 1 to 1,000,000; to run none, [`pause`](Dawdle::pause).
    pub fn set_concurrency(&self, handlers: usize) -> Result<()> {
        if !(1..=MOST).contains(&handlers) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("the concurrency is to be {handlers}; it is 1 to {MOST} (`pause()` runs none)"),
            ));
        }
        let listener = self.listener();
        self.0.engine.dispatcher.concurrency().set_limit(handlers);
        if let Some(listener) = &*listener {
            listener.set_concurrency(handlers);
        }
        tracing::info!(concurrency = handlers, "the concurrency was changed");
        Ok(())
    }

    /// How many handlers may run at once on this node.
    pub fn concurrency(&self) -> usize {
        self.0.engine.dispatcher.concurrency().limit()
    }

    fn retired(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Listener>>> {
        self.0.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the listener runs; while it is [paused](Dawdle::pause) it does not.
    pub fn listener_running(&self) -> bool {
        self.listener().is_some()
    }

    fn listener(&self) -> std::sync::MutexGuard<'_, Option<Arc<Listener>>> {
        self.0.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests this instance has made of its queues since it was started, and what SQS bills
    /// for them: a spend meter. Counted in this process; asks nothing of the backend.
    ///
    /// ```no_run
    /// # async fn doc() -> dawdle::Result<()> {
    /// let dawdle = dawdle::Dawdle::start().await?;
    /// let usage = dawdle.usage();
    /// println!("{} requests, billed as {}", usage.requests(), usage.billed);
    /// # Ok(())
    /// # }
    /// ```
    pub fn usage(&self) -> Usage {
        self.0.engine.backend.usage()
    }

    /// What this node is doing, and what its handlers have done in the last minutes: runs, failures and
    /// latencies, counted in this process. Asks nothing of the backend.
    ///
    /// ```standalone_crate
    /// # use std::time::Duration;
    /// # use dawdle::{Event, Outcome, testing::Harness};
    /// # #[derive(serde::Serialize, serde::Deserialize, Event)]
    /// # #[event(kind = "doc.activity.sent")]
    /// # struct Sent;
    /// #[dawdle::handler(attempts = 2, backoff = "1s")]
    /// async fn deliver(_: &Sent) -> Outcome {
    ///     Err("mailbox full".into())
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> dawdle::Result<()> {
    /// # let test = Harness::builder().only_handlers(["deliver"]).start().await?;
    /// # let dawdle = test.dawdle();
    /// dawdle.signal(Sent).await?;
    /// # test.drain_scheduled().await;
    /// let activity = dawdle.activity();
    /// let deliver = &activity.handlers[0];
    /// assert_eq!((deliver.runs, deliver.failed), (2, 2));
    /// assert_eq!((activity.failures[0].error.as_str(), activity.failures[0].dead), ("mailbox full", true));
    /// # Ok(())
    /// # }
    /// ```
    pub fn activity(&self) -> Activity {
        let engine = &self.0.engine;
        let (concurrency, journal) = (engine.dispatcher.concurrency(), engine.dispatcher.journal());
        let (signalled, received) = journal.counts();
        Activity {
            node: engine.settings.node.clone(),
            version: engine.settings.version.clone(),
            backend: engine.backend.describe(),
            counting_costs: !engine.backend.limits().calls_share,
            window: journal.window(),
            signalled,
            received,
            running: concurrency.running(),
            concurrency: concurrency.limit(),
            permits_free: concurrency.free(),
            in_flight: self.in_flight(),
            send_buffer: engine.sender.buffered(),
            handlers: journal.handlers(engine.clock.instant()),
            failures: journal.failures(),
        }
    }

    /// The queues that there are: the message queue, the delay queue where long delays need one, and the dead
    /// letters.
    pub fn lanes(&self) -> Vec<Lane> {
        let dead = self.0.engine.backend.limits().dead_lane.then_some(Lane::Dead);
        self.0.engine.lanes().chain(dead).collect()
    }

    /// Counts what is on a queue. On SQS that is one or two requests, which are billed, and the counts are
    /// approximate and up to a minute old:
    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html>
    ///
    /// # Errors
    /// The backend's: [`ErrorKind::Unavailable`], [`ErrorKind::Credentials`] or [`ErrorKind::Queue`].
    pub async fn inspect(&self, lane: Lane) -> Result<LaneStats> {
        self.0.engine.ask(move |backend| async move { backend.inspect(lane).await }).await
    }

    /// How the queues are that this node listens to: received from, or failing since when and why,
    /// and when a receive last succeeded. Asks nothing of the backend.
    pub fn health(&self) -> Health {
        let engine = &self.0.engine;
        engine.monitor.health(engine.lanes())
    }

    /// Drains and comes to an end, within `shutdown_timeout`: stops receiving, waits for handlers,
    /// tells them to stop five seconds before the end, flushes acks and sends, gives the rest
    /// back. Nothing that was on a queue is lost; what is in the send buffer is sent, unless the queue takes
    /// nothing until the time is up: those are logged as lost. It goes on when this is dropped; called again,
    /// it waits for that.
    pub async fn shutdown(&self) {
        if !self.0.closing.swap(true, Ordering::AcqRel) {
            let dawdle = self.clone();
            self.clock().spawn(async move {
                guarded("the shutdown", dawdle.close()).await;
                dawdle.0.closed.raise();
                tracing::info!("shut down");
            });
        }
        self.0.closed.raised().await;
    }

    async fn close(&self) {
        let engine = &self.0.engine;
        let (timeout, start) = (engine.settings.shutdown_timeout, engine.clock.instant());
        let direct = self.0.direct.drain(&engine.clock, timeout);
        crate::crash::point!("close.before");
        futures_util::future::join(self.stop_listener(), direct).await;
        crate::crash::point!("close.drained");
        let left = timeout.saturating_sub(engine.clock.instant().saturating_duration_since(start));
        let buffered = async {
            if let Err(error) = self.0.buffer.close().await {
                tracing::error!("at the shutdown: {error}");
            }
        };
        let rest = async {
            engine.sender.flush().await;
            crate::crash::point!("close.sent");
            self.dead_letters().release_all().await;
            crate::crash::point!("close.released");
            engine.settler.flush().await;
            crate::crash::point!("close.settled");
        };
        let flush = futures_util::future::join(buffered, rest);
        if engine.clock.timeout(left.max(Duration::from_millis(100)), flush).await.is_none() {
            tracing::warn!("the shutdown's time is up before everything was flushed; what is left comes again");
        }
        self.0.buffer.abort();
        {
            let mut installed = INSTALLED.write().unwrap_or_else(PoisonError::into_inner);
            installed.take_if(|installed| Arc::ptr_eq(&installed.0, &self.0));
        }
        self.let_go();
    }

    /// Lets go of the states: one that holds this instance would keep both for ever.
    pub(crate) fn let_go(&self) {
        self.0.engine.dispatcher.states().clear();
    }

    /// Tells everything to stop, and waits for nothing.
    #[cfg(feature = "testing")]
    pub(crate) fn abandon(&self) {
        self.0.closing.store(true, Ordering::Release);
        let retired = std::mem::take(&mut *self.retired());
        let listener = self.listener().take();
        listener.into_iter().chain(retired).for_each(|listener| listener.abandon());
        self.0.direct.stops.raise_all();
        self.0.buffer.abort();
        self.0.closed.raise();
        self.let_go();
    }

    /// Runs more handlers on this node from now on. One that is given again is replaced. If the
    /// listener was wanted and there was nothing to listen for, it is started.
    ///
    /// # Errors
    /// [`ErrorKind::Registration`], as at start; [`ErrorKind::ShutDown`].
    pub fn register(&self, handlers: Vec<Registration>) -> Result<()> {
        self.change_handlers(|registry, states, settings, max_lease| {
            registry.with(handlers, states, settings, max_lease)
        })
    }

    /// Puts another registry in place, and starts the listener if it was wanted and there was nothing to
    /// listen for.
    fn change_handlers(
        &self,
        change: impl FnOnce(&Registry, &States, &Settings, Option<Duration>) -> Result<Registry>,
    ) -> Result<()> {
        self.ensure_open()?;
        let engine = &self.0.engine;
        let max_lease = engine.backend.limits().max_lease;
        engine.dispatcher.change_registry(|registry| {
            let registry = change(registry, engine.dispatcher.states(), &engine.settings, max_lease)?;
            if self.0.wants_listener.load(Ordering::Acquire) {
                self.check_states(&registry)?;
            }
            Ok(registry)
        })?;
        if self.0.wants_listener.load(Ordering::Acquire) && !self.listener_running() {
            let runtime = Dawdle::runtime()?;
            let dawdle = self.clone();
            engine.clock.spawn(async move {
                if let Err(error) = dawdle.start_listener_on(&runtime).await {
                    tracing::error!("the listener was not started: {error}");
                }
            });
        }
        Ok(())
    }

    /// No longer runs the handler called `name` on this node; its events are passed on to other
    /// nodes. Runs under way go on.
    ///
    /// # Errors
    /// [`ErrorKind::Registration`] when no handler is called that.
    pub fn unregister(&self, name: &str) -> Result<()> {
        self.ensure_open()?;
        self.0.engine.dispatcher.change_registry(|registry| registry.without(name))
    }

    /// Does not run the handler called `name` on this node until [`resume_handler`](Dawdle::resume_handler):
    /// its part of an event is put on the queue by itself and passed on from node to node, after two seconds
    /// at first and quarters of an hour at last, until one takes it that runs the handler. The event's other
    /// handlers run as ever, and so do runs under way. What nobody has taken after `unknown_after` (24 hours)
    /// becomes a dead letter, to be replayed. For a whole fleet: `DAWDLE_EXCEPT_HANDLERS`.
    ///
    /// # Errors
    /// [`ErrorKind::Registration`] when no handler is called that; [`ErrorKind::ShutDown`].
    pub fn pause_handler(&self, name: &str) -> Result<()> {
        self.unregister(name)
    }

    /// Runs the handler called `name` on this node again, after [`pause_handler`](Dawdle::pause_handler),
    /// [`unregister`](Dawdle::unregister) or `except_handlers`.
    ///
    /// # Errors
    /// [`ErrorKind::Registration`] when no handler is called that, or there is no value of it to run;
    /// [`ErrorKind::ShutDown`].
    pub fn resume_handler(&self, name: &str) -> Result<()> {
        self.change_handlers(|registry, states, settings, max_lease| {
            registry.with_again(name, states, settings, max_lease)
        })
    }

    /// The handlers that this node runs.
    pub fn handlers(&self) -> Vec<HandlerInfo> {
        self.0.engine.dispatcher.registry().infos()
    }

    /// How many handlers this node runs.
    pub fn handler_count(&self) -> usize {
        self.handlers().len()
    }

    /// How many of them would run for an `E`, catch-alls included.
    pub fn handler_count_for<E: TypedEvent>(&self) -> usize {
        self.0.engine.dispatcher.registry().wanting(E::KIND).iter().filter(|entry| entry.run.is_some()).count()
    }

    /// The dead letters: to look at, replay or purge.
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(self.clone())
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    #[cfg(feature = "testing")]
    pub(crate) fn observer(&self) -> Option<Arc<dyn Observer>> {
        self.0.observer.clone()
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.engine.clock
    }

    pub(crate) fn held(&self) -> &Held {
        &self.0.held
    }

    /// The instance that the current handler or test runs in, else the installed one.
    pub(crate) fn current() -> Result<Self> {
        let running_in = INSTANCE.try_with(|instance| instance.downcast_ref::<Dawdle>().cloned()).ok().flatten();
        let installed = || INSTALLED.read().unwrap_or_else(PoisonError::into_inner).clone();
        running_in.or_else(installed).ok_or_else(|| {
            Error::new(
                ErrorKind::NotInstalled,
                "dawdle::signal was called where no Dawdle is in scope: call it in a handler or a test's scope, add \
                 `.install()` to the builder, or use `dawdle.signal(..)`",
            )
        })
    }

    /// This instance as a handler's context carries it.
    pub(crate) fn as_any(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::new(self.clone())
    }
}

impl fmt::Debug for Dawdle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dawdle").field("backend", &self.0.engine.backend.name()).finish_non_exhaustive()
    }
}

impl Context {
    /// The instance that the handler runs in: to signal further events, for instance.
    pub fn dawdle(&self) -> &Dawdle {
        match self.instance.downcast_ref() {
            Some(dawdle) => dawdle,
            None => unreachable!("every context is made with the instance it runs in"),
        }
    }
}

/// Signals an event through the instance of the handler or test that it is called in, else
/// through the one that `.install()` named.
///
/// Awaiting it answers [`ErrorKind::NotInstalled`] where there is neither.
pub fn signal<E: TypedEvent>(event: E) -> Signal {
    Signal::new(Dawdle::current(), &event, WhenFull::Wait)
}

/// Ctrl-C and SIGTERM.
struct StopSignals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn new() -> Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let listen = |kind| {
                signal(kind).map_err(|error| {
                    Error::new(ErrorKind::Config, "the process's signals cannot be listened to").with_source(error)
                })
            };
            Ok(StopSignals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
        }
        #[cfg(not(unix))]
        Ok(StopSignals {})
    }

    async fn recv(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn unanswered() -> Error {
    Error::new(ErrorKind::Unavailable, "the event was not answered").with_maybe_sent(true)
}
