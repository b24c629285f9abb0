//! A whole application in a test: [`Harness`].

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::backend::memory::MemoryBackend;
use crate::backend::{Backend, Lane, Limits};
use crate::builder::Builder;
use crate::clock::{Clock, Latch, VirtualClock};
use crate::config::Config;
use crate::dawdle::Dawdle;
use crate::dead_letter::{DeadLetter, Filter};
use crate::envelope::{Envelope, whole_milliseconds};
use crate::error::Result;
use crate::event::{EventId, TypedEvent};
use crate::foreign::RawMessage;
use crate::handler::{Context, EventHandler, INSTANCE, Registration, State};
use crate::middleware::Middleware;
use crate::registry::Registry;
use crate::settings::Settings;
use crate::signal::Signal;
use crate::testing::recorder::Recorder;

/// The most timers that [`Harness::drain_scheduled`] passes before it gives up.
const MOST_STEPS: usize = 1_000_000;

/// How far ahead it goes.
const FURTHEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A Dawdle for one test: messages in memory with the limits of SQS, real encoding and decoding,
/// and a clock that stands still until the test moves it.
///
/// Works under `#[tokio::test]`, with tokio's time paused or not, and while handlers use a real
/// database: the clock waits for them. Harnesses do not see each other. The environment is not
/// read. Handlers that are linked in are found, as in production; the states of those that come to
/// run must be given. Handlers that [`only_handlers`](HarnessBuilder::only_handlers) leaves out do
/// not exist for a harness, which is a fleet of its own.
///
/// ```standalone_crate
/// use dawdle::testing::Harness;
/// use dawdle::{Event, Outcome};
/// use std::time::Duration;
///
/// #[derive(serde::Serialize, serde::Deserialize, Event)]
/// #[event(kind = "doc.harness.ending")]
/// struct TrialEnding { account: u64 }
///
/// #[dawdle::handler]
/// async fn remind(event: &TrialEnding) -> Outcome {
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> dawdle::Result<()> {
/// let test = Harness::start().await?;
/// test.signal(TrialEnding { account: 7 }).delay(Duration::from_secs(14 * 86_400)).await?;
/// test.advance(Duration::from_secs(14 * 86_400 - 1)).await;
/// assert_eq!(test.runs("remind"), 0);
/// test.advance(Duration::from_secs(1)).await;
/// assert_eq!(test.runs("remind"), 1);
/// # Ok(())
/// # }
/// ```
pub struct Harness {
    dawdle: Dawdle,
    time: VirtualClock,
    backend: MemoryBackend,
    recorder: Arc<Recorder>,
}

impl Harness {
    /// A harness with everything that is linked in.
    ///
    /// # Errors
    /// [`Registration`](crate::ErrorKind::Registration), as at a real start.
    pub async fn start() -> Result<Self> {
        Harness::builder().start().await
    }

    /// A harness with more than that; takes what [`Dawdle::builder`] takes.
    pub fn builder() -> HarnessBuilder {
        HarnessBuilder::default()
    }

    /// Signals an event, as [`Dawdle::signal`] does.
    pub fn signal<E: TypedEvent>(&self, event: E) -> Signal {
        self.dawdle.signal(event)
    }

    /// Moves the clock by `span`, from timer to timer, and returns when everything that came due
    /// has settled. A handler that waits for something outside of the clock is waited for, until
    /// it has shown no sign of life for two seconds of real time.
    ///
    /// # Panics
    /// When a handler came to run whose state was not given, and for spans of over ten years: the
    /// clock goes through every look at the queues on the way.
    pub async fn advance(&self, span: Duration) {
        assert!(span <= FURTHEST, "a test's clock is moved by {FURTHEST:?} (ten years) at most, not by {span:?}");
        self.time.advance(span).await;
        self.check();
    }

    /// Lets everything that is due now settle. The clock stands still.
    ///
    /// # Panics
    /// As [`advance`](Harness::advance).
    pub async fn drain(&self) {
        self.time.settle().await;
        self.check();
    }

    /// Jumps to whatever is scheduled, again and again, until no event is left on the queues.
    ///
    /// # Panics
    /// As [`advance`](Harness::advance), and when events keep each other alive for ten years of
    /// the clock or a million timers.
    pub async fn drain_scheduled(&self) {
        let end = self.time.now() + FURTHEST;
        for _ in 0..MOST_STEPS {
            self.time.settle().await;
            if self.waiting().await == 0 {
                self.check();
                return;
            }
            if !self.time.step(Some(end)).await {
                break;
            }
        }
        panic!("drain_scheduled: {} messages are still on the queues at {:?}", self.waiting().await, self.now());
    }

    async fn waiting(&self) -> u64 {
        let mut waiting = 0;
        for lane in [Lane::Message, Lane::Delay] {
            waiting += self.backend.inspect(lane).await.map_or(0, |stats| stats.total());
        }
        waiting
    }

    fn check(&self) {
        if let Some(lacking) = self.recorder.take_lacking() {
            panic!("{lacking}");
        }
    }

    /// The time that the clock shows.
    pub fn now(&self) -> SystemTime {
        self.time.now()
    }

    /// How many runs of the handler called `name` have ended, failed ones included.
    ///
    /// # Panics
    /// When no handler is called that.
    pub fn runs(&self, name: &str) -> usize {
        let registry = self.dawdle.engine().dispatcher.registry();
        assert!(
            registry.has(name) || Registry::is_linked_in(name),
            "no handler is called `{name}`; there are: {:?}",
            registry.infos().into_iter().map(|info| info.name).collect::<Vec<_>>()
        );
        self.recorder.runs(name)
    }

    /// The events of type `E` that at least one handler has finished, each once, in that order.
    pub fn handled<E: TypedEvent>(&self) -> Vec<Arc<E>> {
        self.recorder.handled()
    }

    /// The events of type `E` that were signalled, by the test or by handlers, in order.
    pub fn signalled<E: TypedEvent>(&self) -> Vec<Arc<E>> {
        self.recorder.signalled()
    }

    /// A state that was given to the harness, to look at what handlers did to it.
    ///
    /// # Panics
    /// When none of that type was given.
    pub fn state<T: Send + Sync + 'static>(&self) -> State<T> {
        let state = self.dawdle.engine().dispatcher.states().get();
        state.unwrap_or_else(|| panic!("no State<{}> was given to the harness", std::any::type_name::<T>()))
    }

    /// The dead letters.
    ///
    /// # Panics
    /// When the memory backend fails, which it does only when told to.
    pub async fn dead_letters(&self) -> Vec<DeadLetter> {
        let mut letters = Vec::new();
        let mut scan = self.dawdle.dead_letters().scan(Filter::default());
        while let Some(letter) = scan.next().await {
            match letter {
                Ok(letter) => letters.push(letter),
                Err(error) => panic!("the dead letters cannot be read: {error}"),
            }
        }
        letters
    }

    /// The instance under test.
    pub fn dawdle(&self) -> &Dawdle {
        &self.dawdle
    }

    /// Where its messages are, to look at requests or to inject faults.
    pub fn backend(&self) -> &MemoryBackend {
        &self.backend
    }

    /// Runs `future` so that [`dawdle::signal`](crate::signal) in it goes through this harness.
    pub async fn scope<F: Future>(&self, future: F) -> F::Output {
        INSTANCE.scope(self.dawdle.as_any(), future).await
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.dawdle.abandon();
    }
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness").field("now", &self.now()).finish_non_exhaustive()
    }
}

/// Makes a [`Harness`].
#[derive(Debug)]
pub struct HarnessBuilder {
    builder: Builder,
    config: Config,
    limits: Limits,
}

impl Default for HarnessBuilder {
    fn default() -> Self {
        HarnessBuilder { builder: Builder::default(), config: Config::default(), limits: Limits::sqs() }
    }
}

/// The methods that are the builder's own.
macro_rules! as_builder {
    ($($(#[$doc:meta])* fn $name:ident$(<$($generic:ident: $bound:path),*>)?($($arg:ident: $type:ty),*);)*) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name$(<$($generic: $bound),*>)?(mut self, $($arg: $type),*) -> Self {
            self.builder = self.builder.$name($($arg),*);
            self
        })*
    };
}

impl HarnessBuilder {
    as_builder! {
        /// As [`Builder::handlers`].
        fn handlers(handlers: Vec<Registration>);
        /// As [`Builder::handler`].
        fn handler<H: EventHandler>(handler: H);
        /// As [`Builder::discover`].
        fn discover(discover: bool);
        /// As [`Builder::expect_handler`].
        fn expect_handler(name: impl Into<String>);
        /// As [`Builder::middleware`].
        fn middleware<M: Middleware>(middleware: M);
        /// As [`Builder::foreign`].
        fn foreign(adopt: impl Fn(&RawMessage<'_>) -> Option<Envelope> + Send + Sync + 'static);
        /// As [`Builder::listener`].
        fn listener(listener: bool);
        /// As [`Builder::install`]. Tests that run side by side better use [`Harness::scope`].
        fn install();
    }

    /// As [`Builder::state`].
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(mut self, state: T) -> Self {
        self.builder = self.builder.state(state);
        self
    }

    /// As [`Builder::state_with`].
    #[must_use]
    pub fn state_with<T: Send + Sync + 'static>(mut self, make: impl FnOnce(Dawdle) -> T + Send + 'static) -> Self {
        self.builder = self.builder.state_with(make);
        self
    }

    /// Runs only the handlers of these names; the others do not exist.
    #[must_use]
    pub fn only_handlers<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.builder = self.builder.only_handlers(names);
        self
    }

    /// Runs all handlers but those of these names, which do not exist.
    #[must_use]
    pub fn except_handlers<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.builder = self.builder.except_handlers(names);
        self
    }

    /// As [`Builder::config`]; the environment is not read.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Other limits than those of SQS.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Runs these handlers beside those given, and no other, with this middleware around all.
    pub(super) fn on_trial(mut self, handlers: Vec<Registration>, outermost: impl Middleware) -> Self {
        self.builder = self.builder.on_trial(handlers, outermost);
        self
    }

    /// Starts.
    ///
    /// # Errors
    /// [`Registration`](crate::ErrorKind::Registration) and [`Config`](crate::ErrorKind::Config), as at a real start.
    pub async fn start(self) -> Result<Harness> {
        let time = VirtualClock::new(whole_milliseconds(SystemTime::now()));
        let clock = Clock::from_virtual(time.clone());
        let backend = MemoryBackend::with_limits(clock.clone(), self.limits);
        let recorder = Arc::new(Recorder::default());
        // Acks wait for nothing: with the clock standing still, nothing else would come.
        let config = Config { ack_linger: self.config.ack_linger.or(Some(Duration::ZERO)), ..self.config };
        let builder = self.builder.config(config).backend(backend.clone());
        let dawdle = builder.for_tests(clock, Arc::<Recorder>::clone(&recorder)).start().await?;
        let harness = Harness { dawdle, time, backend, recorder };
        harness.time.settle().await;
        Ok(harness)
    }
}

impl Context {
    /// A context to call a handler function with: attempt 1 of an event that was signalled just
    /// now. What is signalled through it is recorded, see [`Context::signalled`], and goes nowhere.
    ///
    /// ```standalone_crate
    /// use dawdle::{Context, Event, Outcome, State};
    ///
    /// #[derive(serde::Serialize, serde::Deserialize, Event)]
    /// #[event(kind = "doc.context.ending")]
    /// struct Ending;
    ///
    /// #[dawdle::handler]
    /// async fn count(_: &Ending, cx: &Context, start: State<u32>) -> Outcome {
    ///     assert_eq!((cx.attempt(), *start), (1, 5));
    ///     cx.dawdle().signal(Ending).await?;
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let cx = Context::for_test();
    /// count(&Ending, &cx, State::new(5)).await.unwrap();
    /// assert_eq!(cx.signalled::<Ending>().len(), 1);
    /// # }
    /// ```
    pub fn for_test() -> Self {
        let clock = Clock::system();
        let backend = MemoryBackend::with_limits(clock.clone(), Limits::sqs());
        let builder = Builder::default().discover(false);
        let assembled = builder.for_tests(clock.clone(), Arc::new(Recorder::default())).assemble(
            Settings::default(),
            Arc::new(backend),
            clock.clone(),
            false,
        );
        let instance = match assembled {
            Ok(dawdle) => dawdle.as_any(),
            Err(error) => unreachable!("without handlers nothing can be wrong: {error}"),
        };
        let envelope = Envelope::bare(EventId::new(), "dawdle-test", "dawdle.test", clock.now());
        Context {
            envelope: Arc::new(envelope),
            kind: "dawdle.test",
            handler: "test".into(),
            attempt: 1,
            attempts: Settings::default().attempts,
            clock,
            states: Arc::default(),
            cancelled: Latch::default(),
            instance,
        }
    }

    /// The events of type `E` that were signalled through a context made by
    /// [`for_test`](Context::for_test), or in the harness that it is of, in order.
    pub fn signalled<E: TypedEvent>(&self) -> Vec<Arc<E>> {
        let observer: Option<Arc<dyn Any + Send + Sync>> = self.dawdle().observer().map(|observer| observer as _);
        let recorder = observer.and_then(|observer| observer.downcast::<Recorder>().ok());
        recorder.map(|recorder| recorder.signalled()).unwrap_or_default()
    }
}
