//! The seam to an application's code: [`Handler`], what it is given ([`Context`], [`State`]),
//! and how it is made known ([`Registration`]).

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use crate::backend::BoxFuture;
use crate::clock::{Clock, Latch};
use crate::envelope::Envelope;
use crate::event::{Event, EventId, Place, TypedEvent};
use crate::outcome::{Failure, Outcome};
use crate::retry::Backoff;

/// Handles events of type `E`, or every event as `dyn Event`.
///
/// The type also derives [`EventHandler`](macro@crate::EventHandler), which names its event and
/// its options. A function does the same with [`#[dawdle::handler]`](macro@crate::handler).
///
/// A handler may run more than once for one event, also at the same time on two nodes when a
/// lease was lost: it should do no harm then. It runs in a task of its own; a panic is a failed
/// attempt. At its timeout it is dropped at an await.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle `{E}`",
    label = "not a handler of `{E}`",
    note = "write `impl dawdle::Handler<{E}> for {Self}` with `async fn handle(&self, event: &{E}, cx: &Context) -> Outcome`"
)]
pub trait Handler<E: ?Sized>: Send + Sync + 'static {
    /// Handles one event. Its outcome says what becomes of the event for this handler.
    fn handle(&self, event: &E, cx: &Context) -> impl Future<Output = Outcome> + Send;
}

/// A type with a handler's registration; implemented by `#[derive(EventHandler)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not registered as a handler",
    note = "derive it: `#[derive(dawdle::EventHandler)] #[handler(event = ..)]`"
)]
pub trait EventHandler: Sized + Send + Sync + 'static {
    /// Its registration, without a value to run.
    #[doc(hidden)]
    fn describe() -> Registration;

    /// Its registration, with this value to run.
    #[doc(hidden)]
    fn into_registration(self) -> Registration;
}

tokio::task_local! {
    /// The `Dawdle` that the current handler or test runs in.
    pub(crate) static INSTANCE: Arc<dyn Any + Send + Sync>;
}

/// What one run of a handler is told about its event and its own situation.
pub struct Context {
    pub(crate) envelope: Arc<Envelope>,
    /// The event's, whichever of its names it came by.
    pub(crate) kind: &'static str,
    pub(crate) handler: Arc<str>,
    pub(crate) attempt: u32,
    pub(crate) attempts: u32,
    pub(crate) clock: Clock,
    pub(crate) states: Arc<States>,
    pub(crate) cancelled: Latch,
    /// The `Dawdle` it runs in, which this module does not know.
    pub(crate) instance: Arc<dyn Any + Send + Sync>,
}

impl Context {
    /// The event's identity: the same for every handler, attempt and replay.
    pub fn id(&self) -> EventId {
        self.envelope.id
    }

    /// The event's kind: that of its type, also where it was signalled under an alias.
    pub fn kind(&self) -> &str {
        self.kind
    }

    /// What deduplication goes by: the key that the event was signalled with, else its id. Together
    /// with the kind and the handler it names this effect, for an idempotency key or a unique
    /// constraint of the application's own.
    pub fn key(&self) -> &str {
        // A key of no bytes, of another producer, would make one event of many.
        let key = self.envelope.dedup_key.as_deref().filter(|key| !key.is_empty());
        key.unwrap_or(self.envelope.id.as_str())
    }

    /// The name of the handler that runs.
    pub fn handler(&self) -> &str {
        &self.handler
    }

    /// The number of this attempt, from 1. Snoozes and crashes spend none.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether a failure now is the last: the event would go to the dead letters.
    pub fn is_last_attempt(&self) -> bool {
        self.attempt >= self.attempts
    }

    /// When the event was first signalled.
    pub fn signalled_at(&self) -> SystemTime {
        self.envelope.signalled_at()
    }

    /// When this run was due: the event's due time, or the retry's.
    pub fn due_at(&self) -> SystemTime {
        self.envelope.due_at()
    }

    /// The time by the queue's clock; the test's clock under a harness.
    pub fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// How late this run is: from due until now.
    pub fn lag(&self) -> Duration {
        self.now().duration_since(self.due_at()).unwrap_or_default()
    }

    /// An attribute that the event was signalled with, if it is there and is text.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.envelope.attribute(name)
    }

    /// Resolves when this run should stop: its lease is lost, so that another node may be running
    /// it too, or the shutdown's deadline has come. Cancel-safe.
    pub async fn cancelled(&self) {
        self.cancelled.raised().await;
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("id", &self.id())
            .field("kind", &self.kind())
            .field("handler", &self.handler())
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// Something the application shares with its handlers, given to the builder by `.state(..)`.
///
/// Derefs to `T`; cheap to clone.
pub struct State<T: ?Sized>(Arc<T>);

impl<T> State<T> {
    /// A state made by hand, to call a handler function in a test.
    pub fn new(value: T) -> Self {
        State(Arc::new(value))
    }
}

impl<T: ?Sized> Clone for State<T> {
    fn clone(&self) -> Self {
        State(Arc::clone(&self.0))
    }
}

impl<T: ?Sized> Deref for State<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for State<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("State").field(&&*self.0).finish()
    }
}

/// The states of an application, by type.
#[derive(Default)]
pub(crate) struct States(RwLock<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl States {
    pub(crate) fn insert<T: Send + Sync + 'static>(&self, value: T) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(TypeId::of::<T>(), Arc::new(value));
    }

    pub(crate) fn has(&self, need: &StateNeed) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains_key(&need.type_id)
    }

    pub(crate) fn get<T: Send + Sync + 'static>(&self) -> Option<State<T>> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&TypeId::of::<T>())?.clone();
        state.downcast().ok().map(State)
    }

    /// Lets go of all of them: one that holds a `Dawdle` would keep it, and itself, for ever.
    pub(crate) fn clear(&self) {
        let states = std::mem::take(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner));
        drop(states);
    }
}

/// A state that a handler takes.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct StateNeed {
    pub(crate) type_id: TypeId,
    pub(crate) type_name: &'static str,
}

/// What a handler function may take beside its event and its context: [`State`].
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a handler cannot take `{Self}`",
    label = "not something a handler can take",
    note = "after the event, a handler takes `&Context` and any number of `State<T>`"
)]
pub trait Argument: Sized {
    /// The state it stands for.
    fn need() -> StateNeed;
    /// The state itself.
    fn from_context(cx: &Context) -> Result<Self, Failure>;
}

impl<T: Send + Sync + 'static> Argument for State<T> {
    fn need() -> StateNeed {
        StateNeed { type_id: TypeId::of::<T>(), type_name: type_name::<T>() }
    }

    fn from_context(cx: &Context) -> Result<Self, Failure> {
        cx.states
            .get()
            .ok_or_else(|| Failure::retry(format!("no State<{}> was given to the builder", type_name::<T>())))
    }
}

/// What a handler function may take by reference beside its event: [`Context`].
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a handler cannot take `&{Self}`",
    label = "not something a handler can take by reference",
    note = "after the event, a handler takes `&Context` and any number of `State<T>`, as in `State<{Self}>`"
)]
pub trait Borrowed {
    /// The part of `cx` that it is.
    fn from_context(cx: &Context) -> &Self;
}

impl Borrowed for Context {
    fn from_context(cx: &Context) -> &Self {
        cx
    }
}

/// A handler whose types are erased.
#[doc(hidden)]
pub trait ErasedHandler: Send + Sync {
    /// Runs it.
    fn call<'a>(&'a self, event: &'a dyn Event, cx: &'a Context) -> BoxFuture<'a, Outcome>;
}

/// A handler function, as `#[dawdle::handler]` emits it.
#[doc(hidden)]
pub type HandlerFn = for<'a> fn(&'a dyn Event, &'a Context) -> BoxFuture<'a, Outcome>;

impl ErasedHandler for HandlerFn {
    fn call<'a>(&'a self, event: &'a dyn Event, cx: &'a Context) -> BoxFuture<'a, Outcome> {
        self(event, cx)
    }
}

struct Typed<H, E: ?Sized>(H, PhantomData<fn(&E)>);

impl<H: Handler<E>, E: Event> ErasedHandler for Typed<H, E> {
    fn call<'a>(&'a self, event: &'a dyn Event, cx: &'a Context) -> BoxFuture<'a, Outcome> {
        match event.downcast_ref::<E>() {
            Some(event) => Box::pin(self.0.handle(event, cx)),
            None => Box::pin(std::future::ready(Err(wrong_type::<E>(event)))),
        }
    }
}

impl<H: Handler<dyn Event>> ErasedHandler for Typed<H, dyn Event> {
    fn call<'a>(&'a self, event: &'a dyn Event, cx: &'a Context) -> BoxFuture<'a, Outcome> {
        Box::pin(self.0.handle(event, cx))
    }
}

/// The event as the `E` that a handler function takes.
#[doc(hidden)]
pub fn downcast<E: TypedEvent>(event: &dyn Event) -> Result<&E, Failure> {
    event.downcast_ref().ok_or_else(|| wrong_type::<E>(event))
}

/// The failure of a handler that is handed an event of another type than its own.
fn wrong_type<E>(event: &dyn Event) -> Failure {
    Failure::retry(format!("an event of kind `{}` is no {}", event.kind(), type_name::<E>()))
}

/// Which events a handler wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    Kind(&'static str),
    All { except: Vec<&'static str> },
}

/// A handler made known to Dawdle: its name, what it wants, its options, and the code to run.
///
/// Made by the macros; [`handlers!`](crate::handlers) lists them.
#[derive(Clone)]
pub struct Registration {
    pub(crate) identity: TypeId,
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
    pub(crate) wants: Wants,
    pub(crate) attempts: Option<u32>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) concurrency: Option<usize>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) states: Vec<StateNeed>,
    pub(crate) place: Place,
    pub(crate) handler: Option<Arc<dyn ErasedHandler>>,
}

#[doc(hidden)]
impl Registration {
    /// A handler called `name` of events of type `E`; `I` is a type that stands for it alone.
    pub fn of<I: 'static, E: TypedEvent>(name: &'static str, place: Place) -> Self {
        Registration::new(TypeId::of::<I>(), name, place, Wants::Kind(E::KIND))
    }

    /// A handler called `name` of every event.
    pub fn of_all<I: 'static>(name: &'static str, place: Place) -> Self {
        Registration::new(TypeId::of::<I>(), name, place, Wants::All { except: Vec::new() })
    }

    fn new(identity: TypeId, name: &'static str, place: Place, wants: Wants) -> Self {
        Registration {
            identity,
            name,
            aliases: &[],
            wants,
            attempts: None,
            timeout: None,
            concurrency: None,
            backoff: None,
            states: Vec::new(),
            place,
            handler: None,
        }
    }

    /// Leaves events of type `E` out.
    pub fn except<E: TypedEvent>(mut self) -> Self {
        if let Wants::All { except } = &mut self.wants {
            except.push(E::KIND);
        }
        self
    }

    /// Names it had before.
    pub fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// How many attempts it has.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// How long one run may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How many runs of it one node has at once.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = Some(concurrency);
        self
    }

    /// How long it waits between attempts.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    /// A state that it takes.
    pub fn state<A: Argument>(mut self) -> Self {
        self.states.push(A::need());
        self
    }

    /// The function to run.
    pub fn run_fn(mut self, function: HandlerFn) -> Self {
        self.handler = Some(Arc::new(function));
        self
    }

    /// The value to run.
    pub fn run_typed<H: Handler<E>, E: TypedEvent>(mut self, handler: H) -> Self {
        self.handler = Some(Arc::new(Typed::<H, E>(handler, PhantomData)));
        self
    }

    /// The value to run for every event.
    pub fn run_all<H: Handler<dyn Event>>(mut self, handler: H) -> Self {
        self.handler = Some(Arc::new(Typed::<H, dyn Event>(handler, PhantomData)));
        self
    }
}

#[cfg(feature = "testing")]
impl Registration {
    /// The one kind that it handles; `None` for every kind.
    pub(crate) fn kind(&self) -> Option<&'static str> {
        match self.wants {
            Wants::Kind(kind) => Some(kind),
            Wants::All { .. } => None,
        }
    }

    /// A handler called `name` that does nothing with events of `kind`.
    pub(crate) fn ignoring(name: &'static str, kind: &'static str) -> Self {
        struct Ignoring;
        let nothing: HandlerFn = |_, _| Box::pin(std::future::ready(Ok(())));
        let place = Place { file: file!(), line: line!() };
        Registration::new(TypeId::of::<Ignoring>(), name, place, Wants::Kind(kind)).run_fn(nothing)
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("name", &self.name)
            .field("aliases", &self.aliases)
            .field("wants", &self.wants)
            .field("attempts", &self.attempts)
            .field("timeout", &self.timeout)
            .field("concurrency", &self.concurrency)
            .field("backoff", &self.backoff)
            .field("states", &self.states)
            .field("place", &self.place)
            .field("runs", &self.handler.is_some())
            .finish_non_exhaustive()
    }
}

/// What the handler macros leave at link time.
#[doc(hidden)]
#[derive(Debug)]
pub struct LinkedHandler(pub fn() -> Registration);

inventory::collect!(LinkedHandler);

/// A list of handlers: functions with [`#[dawdle::handler]`](macro@crate::handler), and types
/// that derive [`EventHandler`](macro@crate::EventHandler) and have a default.
///
/// For the builder's `.handlers(..)` and for `register`. Handlers that are linked in are found
/// without it, unless discovery is off.
///
/// ```
/// use dawdle::{Event, Outcome, handlers};
///
/// mod mail {
///     #[dawdle::handler]
///     pub async fn audit(event: &dyn dawdle::Event) -> dawdle::Outcome {
///         println!("{}", event.kind());
///         Ok(())
///     }
/// }
///
/// let list: Vec<dawdle::Registration> = handlers![mail::audit];
/// assert_eq!(list.len(), 1);
/// ```
#[macro_export]
macro_rules! handlers {
    ($($handler:path),* $(,)?) => {
        ::std::vec::Vec::<$crate::Registration>::from([$(<$handler>::__dawdle_handler()),*])
    };
}

/// Makes a value of `T` if `T` has a default; see [`MakeDefault`] and [`MakeNone`].
#[doc(hidden)]
#[derive(Debug)]
pub struct Maker<T>(pub PhantomData<T>);

/// Chosen by method lookup for types that have a default.
#[doc(hidden)]
pub trait MakeDefault<T> {
    /// The default.
    fn make(&self) -> Option<T>;
}

impl<T: Default> MakeDefault<T> for &Maker<T> {
    fn make(&self) -> Option<T> {
        Some(T::default())
    }
}

/// Chosen by method lookup for the others.
#[doc(hidden)]
pub trait MakeNone<T> {
    /// Nothing.
    fn make(&self) -> Option<T>;
}

impl<T> MakeNone<T> for Maker<T> {
    fn make(&self) -> Option<T> {
        None
    }
}
