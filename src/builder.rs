//! Starting: [`Builder`] puts the parts together, and chooses the backend that is configured.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;
use crate::backend::memory::MemoryBackend;
use crate::clock::Clock;
use crate::config::{BackendKind, Config, platform};
use crate::dawdle::Dawdle;
use crate::dispatcher::{Dispatcher, Observer};
use crate::envelope::Envelope;
use crate::error::Result;
use crate::event;
use crate::foreign::{Foreign, RawMessage};
use crate::handler::{EventHandler, Registration, States};
use crate::lease::Leases;
use crate::listener::Engine;
use crate::middleware::{ErasedMiddleware, Middleware};
use crate::registry::{Registry, Selection};
use crate::retry::Backoff;
use crate::sender::Sender;
use crate::settings::Settings;
use crate::settle::Settler;
use crate::trace::Tracer;

/// Between tries to reach the backend at start.
const CONNECT_AGAIN: Backoff = Backoff::exponential(Duration::from_millis(250), Duration::from_secs(3));

/// The handler, in a trial, of events that are not on trial.
#[cfg(feature = "testing")]
pub(crate) const ELSEWHERE: &str = "(elsewhere)";

/// Makes a [`Dawdle`]. What it is not told, the environment says.
#[derive(Default)]
pub struct Builder {
    config: Config,
    ignores_env: bool,
    backend: Option<Arc<dyn Backend>>,
    states: Vec<GiveState>,
    given: Vec<Registration>,
    discover: Option<bool>,
    only: Option<Vec<String>>,
    except: Option<Vec<String>>,
    expected: Vec<String>,
    middleware: Vec<Arc<dyn ErasedMiddleware>>,
    foreign: Option<Foreign>,
    listener: Option<bool>,
    install: bool,
    clock: Option<Clock>,
    observer: Option<Arc<dyn Observer>>,
    alone: bool,
}

type GiveState = Box<dyn FnOnce(&Dawdle, &States) + Send>;

impl Builder {
    /// Settings. Made in code they go before the environment's; deserialized, after.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// A backend of the application's own, or one that is shared with it.
    #[must_use]
    pub fn backend(mut self, backend: impl Backend) -> Self {
        self.backend = Some(Arc::new(backend));
        self
    }

    /// A state for handlers that take `State<T>`.
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(mut self, state: T) -> Self {
        self.states.push(Box::new(move |_, states| states.insert(state)));
        self
    }

    /// A state that needs the instance it will be part of: to signal events, for instance.
    #[must_use]
    pub fn state_with<T: Send + Sync + 'static>(mut self, make: impl FnOnce(Dawdle) -> T + Send + 'static) -> Self {
        self.states.push(Box::new(move |dawdle, states| states.insert(make(dawdle.clone()))));
        self
    }

    /// A handler that must be constructed. It takes the place of the one linked in.
    #[must_use]
    pub fn handler<H: EventHandler>(mut self, handler: H) -> Self {
        self.given.push(handler.into_registration());
        self
    }

    /// Handlers by name: `.handlers(dawdle::handlers![remind, audit])`.
    #[must_use]
    pub fn handlers(mut self, handlers: Vec<Registration>) -> Self {
        self.given.extend(handlers);
        self
    }

    /// Whether to take in the handlers that are linked in. Default: true.
    #[must_use]
    pub fn discover(mut self, discover: bool) -> Self {
        self.discover = Some(discover);
        self
    }

    /// Runs all handlers but those of these names on this node, whatever `except_handlers` of the
    /// configuration says. Their events are passed on to nodes that run them.
    pub fn except_handlers<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.except = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Runs only the handlers of these names on this node. The events of the others are passed on
    /// to other nodes, as messages addressed to those handlers.
    #[must_use]
    pub fn only_handlers<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.only = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Refuses to start when no handler of this name is linked in or given.
    #[must_use]
    pub fn expect_handler(mut self, name: impl Into<String>) -> Self {
        self.expected.push(name.into());
        self
    }

    /// Code around every signal and every run; the first given is outermost.
    #[must_use]
    pub fn middleware<M: Middleware>(mut self, middleware: M) -> Self {
        self.middleware.push(Arc::new(middleware));
        self
    }

    /// Makes events of messages that other programs put on the queue. Called for each body that
    /// is no CloudEvent; `None` sends it to the dead letters.
    #[must_use]
    pub fn foreign(mut self, adopt: impl Fn(&RawMessage<'_>) -> Option<Envelope> + Send + Sync + 'static) -> Self {
        self.foreign = Some(Arc::new(adopt));
        self
    }

    /// Whether to start a listener. Default: what `start_listener` says.
    #[must_use]
    pub fn listener(mut self, listener: bool) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Makes the instance the one that [`dawdle::signal`](crate::signal) uses outside of handlers,
    /// until it is shut down.
    #[must_use]
    pub fn install(mut self) -> Self {
        self.install = true;
        self
    }

    /// For the test harness: a clock of its own, no environment, no other nodes.
    #[cfg(feature = "testing")]
    pub(crate) fn for_tests(mut self, clock: Clock, observer: Arc<dyn Observer>) -> Self {
        self.clock = Some(clock);
        self.observer = Some(observer);
        self.alone = true;
        self.ignores_env = true;
        self
    }

    /// For a trial of handlers: runs these beside those given, and no other, with this middleware
    /// around all. Events that none of them wants are handled [elsewhere](ELSEWHERE).
    #[cfg(feature = "testing")]
    pub(crate) fn on_trial(mut self, handlers: Vec<Registration>, outermost: impl Middleware) -> Self {
        self.given.extend(handlers);
        let wanted: Vec<&str> = self.given.iter().filter_map(Registration::kind).collect();
        let unwanted = event::kinds().filter(|kind| !wanted.contains(kind));
        let ignoring: Vec<Registration> = unwanted.map(|kind| Registration::ignoring(ELSEWHERE, kind)).collect();
        self.given.extend(ignoring);
        self.middleware.insert(0, Arc::new(outermost));
        self.discover = Some(false);
        self
    }

    /// A clock that a test moves, with nothing else changed.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Starts: checks everything, connects, and starts the listener if one is wanted and there
    /// are handlers.
    ///
    /// # Errors
    /// As [`Dawdle::start`].
    pub async fn start(self) -> Result<Dawdle> {
        Dawdle::runtime()?;
        event::check_registered()?;
        let env = if self.ignores_env { Config::default() } else { Config::from_env()? };
        let config = self.config.clone().with_env(env);
        let settings = config.settings()?;
        let start_timeout = config.start_timeout.unwrap_or(Duration::from_secs(30));
        let wants_listener = self.listener.or(config.start_listener).unwrap_or(true);
        let clock = self.clock.clone().unwrap_or_default();
        let deadline = clock.instant() + start_timeout;
        let backend = match self.backend.clone() {
            Some(backend) => backend,
            None => until(&clock, deadline, || connect(&clock, &config)).await?,
        };
        let installs = self.install;
        let except = self.except.or(config.except_handlers);
        let dawdle = Builder { except, ..self }.assemble(settings, backend, clock, wants_listener)?;
        let listens = match dawdle.begin(deadline).await {
            Ok(listens) => listens,
            Err(error) => {
                dawdle.let_go();
                return Err(error);
            }
        };
        if installs {
            dawdle.install();
        }
        if wants_listener && !listens {
            tracing::warn!(
                "no handlers are linked in, so no listener is started; a crate of handlers that nothing refers to is \
                 dropped by the linker: write `use that_crate as _;`. A process that only signals uses `Dawdle::connect()`"
            );
        }
        let engine = dawdle.engine();
        let names: Vec<String> = dawdle.handlers().into_iter().map(|handler| handler.name).collect();
        tracing::info!(
            backend = engine.backend.name(),
            queues = engine.backend.describe(),
            handlers = ?names,
            listener = listens,
            concurrency = engine.settings.concurrency,
            "dawdle started"
        );
        Ok(dawdle)
    }

    /// Puts the parts together, without asking anything of the backend.
    pub(crate) fn assemble(
        self,
        settings: Settings,
        backend: Arc<dyn Backend>,
        clock: Clock,
        wants_listener: bool,
    ) -> Result<Dawdle> {
        let queue = Arc::clone(&backend);
        let clock = clock.following(move || queue.clock_offset_ms());
        let tracer = Tracer::new(&*backend);
        let dispatcher = Dispatcher::new(
            clock.clone(),
            tracer.clone(),
            settings.clone(),
            self.middleware.clone(),
            Registry::default(),
            self.foreign,
            self.observer.clone(),
        );
        let engine = Engine {
            sender: Sender::new(Arc::clone(&backend), clock.clone(), &settings),
            settler: Settler::new(Arc::clone(&backend), clock.clone(), &settings),
            leases: Leases::new(Arc::clone(&backend), clock.clone()),
            monitor: Arc::default(),
            backend,
            clock,
            settings: Arc::new(settings),
            dispatcher,
            tracer,
        };
        let dawdle = Dawdle::new(engine, self.middleware, self.observer, wants_listener, self.alone);
        let engine = dawdle.engine();
        for give in self.states {
            give(&dawdle, engine.dispatcher.states());
        }
        let selection = Selection {
            discover: self.discover.unwrap_or(true),
            only: self.only,
            except: self.except.unwrap_or_default(),
            expected: self.expected,
            alone: self.alone,
        };
        let registry = Registry::build(
            self.given,
            &selection,
            engine.dispatcher.states(),
            &engine.settings,
            engine.backend.limits().max_lease,
        );
        let registered = registry.and_then(|registry| engine.dispatcher.change_registry(|_| Ok(registry)));
        if let Err(error) = registered {
            dawdle.let_go();
            return Err(error);
        }
        Ok(dawdle)
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).field("handlers", &self.given).finish_non_exhaustive()
    }
}

impl Config {
    /// Which backend a process of this configuration uses.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) where settings contradict each other, and on a
    /// managed platform where no SQS queue is configured.
    ///
    /// ```
    /// use dawdle::{BackendKind, Config};
    ///
    /// let config = Config { sqs_queue: Some("orders".to_owned()), ..Config::default() };
    /// assert_eq!(config.chosen_backend()?, BackendKind::Sqs);
    /// # Ok::<(), dawdle::Error>(())
    /// ```
    pub fn chosen_backend(&self) -> Result<BackendKind> {
        self.backend_kind(platform())
    }

    /// Opens the backend that this configuration chooses, for what needs no handlers: to count a queue,
    /// to look at it, to check it. Tried once. It may be given to a [`Builder`], and shared with it.
    ///
    /// # Errors
    /// As [`chosen_backend`](Config::chosen_backend), and what the backend answers when it is opened.
    ///
    /// ```
    /// use dawdle::backend::{Backend, Lane};
    /// use dawdle::{BackendKind, Config};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> dawdle::Result<()> {
    /// let config = Config { backend: Some(BackendKind::Memory), ..Config::default() };
    /// let backend = config.open_backend().await?;
    /// assert_eq!(backend.inspect(Lane::Message).await?.total(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn open_backend(&self) -> Result<Arc<dyn Backend>> {
        connect(&Clock::system(), self).await
    }
}

/// Tries until it works, fails for good, or the deadline comes.
pub(crate) async fn until<T, F: Future<Output = Result<T>>>(
    clock: &Clock,
    deadline: std::time::Instant,
    mut attempt: impl FnMut() -> F,
) -> Result<T> {
    let mut tries = 0;
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        tries += 1;
        let pause = CONNECT_AGAIN.delay(tries, fastrand::f64());
        if !error.is_transient() || clock.instant() + pause >= deadline {
            return Err(error);
        }
        tracing::warn!("the backend cannot be reached, trying again in {pause:?}: {error}");
        clock.sleep(pause).await;
    }
}

/// The backend that the configuration names, connected to on Dawdle's own threads.
async fn connect(clock: &Clock, config: &Config) -> Result<Arc<dyn Backend>> {
    let config = config.clone();
    let connecting = clock.spawn(async move {
        match config.backend_kind(platform())? {
            BackendKind::Memory => Ok(Arc::new(MemoryBackend::new(Clock::system())) as Arc<dyn Backend>),
            BackendKind::Local => connect_local(&config).await,
            BackendKind::Sqs => connect_sqs(&config).await,
        }
    });
    connecting.await.unwrap_or_else(|error| {
        Err(crate::Error::new(crate::ErrorKind::Unavailable, format!("connecting to the backend broke off: {error:?}")))
    })
}

#[cfg(feature = "local")]
async fn connect_local(config: &Config) -> Result<Arc<dyn Backend>> {
    use crate::backend::local::{LocalBackend, LocalOptions};
    let default = LocalOptions::default();
    let options = LocalOptions {
        max_messages: config.local_max_messages.map_or(default.max_messages, |most| most as u64),
        max_message_bytes: config.local_max_message_bytes.unwrap_or(default.max_message_bytes),
        ..default
    };
    let path = config.local_path.clone().unwrap_or_else(|| ".dawdle/queue.db".into());
    Ok(Arc::new(LocalBackend::open(path, options).await?))
}

#[cfg(feature = "sqs")]
async fn connect_sqs(config: &Config) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(crate::backend::sqs::SqsBackend::connect(config.into()).await?))
}

#[cfg(not(feature = "local"))]
async fn connect_local(_: &Config) -> Result<Arc<dyn Backend>> {
    Err(without_feature("local", "a local file"))
}

#[cfg(not(feature = "sqs"))]
async fn connect_sqs(_: &Config) -> Result<Arc<dyn Backend>> {
    Err(without_feature("sqs", "SQS"))
}

#[cfg(not(all(feature = "local", feature = "sqs")))]
fn without_feature(feature: &str, backend: &str) -> crate::Error {
    crate::Error::new(
        crate::ErrorKind::Config,
        format!("the configuration asks for {backend}, and dawdle was built without its feature `{feature}`"),
    )
}
