//! Which handlers there are, and which of them an event is for: [`Registry`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Place;
use crate::handler::{ErasedHandler, LinkedHandler, Registration, StateNeed, States, Wants};
use crate::metrics::Meters;
use crate::retry::Backoff;
use crate::settings::Settings;
use crate::sync::Semaphore;

/// The longest timeout of a handler where a lease has an end: 11 hours of SQS's 12.
const MAX_TIMEOUT: Duration = Duration::from_secs(11 * 3600);

/// One handler with its settings.
pub(crate) struct Entry {
    pub(crate) name: Arc<str>,
    pub(crate) wants: Wants,
    pub(crate) attempts: u32,
    pub(crate) timeout: Duration,
    pub(crate) backoff: Backoff,
    /// Runs of it that may start, where it has a limit of its own.
    pub(crate) limiter: Option<Arc<Semaphore>>,
    /// The code, where this node runs it.
    pub(crate) run: Option<Arc<dyn ErasedHandler>>,
    /// States that it takes and nobody has given; it must not be run.
    pub(crate) missing: Vec<StateNeed>,
    meters: OnceLock<Meters>,
    registration: Registration,
}

impl Entry {
    fn wants(&self, kind: &str) -> bool {
        match &self.wants {
            Wants::Kind(wanted) => *wanted == kind,
            Wants::All { except } => !except.contains(&kind),
        }
    }

    /// What is measured of its runs with events of `kind`.
    pub(crate) fn meters(&self, kind: &str) -> Cow<'_, Meters> {
        match self.wants {
            Wants::Kind(_) => Cow::Borrowed(self.meters.get_or_init(|| Meters::new(kind, &self.name))),
            Wants::All { .. } => Cow::Owned(Meters::new(kind, &self.name)),
        }
    }

    pub(crate) fn wants_all(&self) -> bool {
        matches!(self.wants, Wants::All { .. })
    }
}

/// A handler as [`Dawdle::handlers`](crate::Dawdle::handlers) shows it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HandlerInfo {
    /// Its name, as on the wire.
    pub name: String,
    /// The kind it handles; `None` for every kind.
    pub kind: Option<&'static str>,
    /// How many attempts an event has with it.
    pub attempts: u32,
    /// How long one run may take.
    pub timeout: Duration,
    /// How many runs of it this node has at once, where it has a limit of its own.
    pub concurrency: Option<usize>,
    /// How long it waits between attempts.
    pub backoff: Backoff,
    /// Where it is declared.
    pub place: Place,
}

/// Which handlers this node is to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Take in what is linked in.
    pub(crate) discover: bool,
    /// Run only these.
    pub(crate) only: Option<Vec<String>>,
    /// And not these.
    pub(crate) except: Vec<String>,
    /// These must be there.
    pub(crate) expected: Vec<String>,
    /// Treat handlers that are not run here as if they did not exist: a harness.
    pub(crate) alone: bool,
}

/// All handlers, by what they want.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    entries: Vec<Arc<Entry>>,
    by_kind: HashMap<&'static str, Vec<Arc<Entry>>>,
    catch_alls: Vec<Arc<Entry>>,
}

impl Registry {
    /// Builds the registry, refusing what could not work.
    pub(crate) fn build(
        given: Vec<Registration>,
        selection: &Selection,
        states: &States,
        settings: &Settings,
        max_lease: Option<Duration>,
    ) -> Result<Self> {
        refuse_unmade(&given)?;
        let mut registrations: Vec<Registration> = Vec::new();
        if selection.discover {
            registrations.extend(inventory::iter::<LinkedHandler>().map(|linked| (linked.0)()));
            registrations.sort_by_key(|registration| (registration.place.file, registration.place.line));
            // What is given by hand takes the place of what was discovered.
            registrations.retain(|found| !given.iter().any(|given| given.identity == found.identity));
        }
        registrations.extend(given);
        for name in selection.only.iter().flatten().chain(&selection.expected) {
            let named: Vec<_> = registrations.iter().filter(|it| it.name == name).cloned().collect();
            if named.is_empty() {
                return Err(not_linked_in(name, &registrations));
            }
            refuse_unmade(&named)?;
        }
        for name in &selection.except {
            if !registrations.iter().any(|registration| registration.name == name) {
                tracing::warn!(
                    "handler `{name}` is not to run here (`except_handlers`), and no handler is called that"
                );
            }
        }
        let mut registry = Registry::default();
        for registration in registrations {
            let among = |names: &Vec<String>| names.iter().any(|name| name == registration.name);
            let selected = selection.only.as_ref().is_none_or(among) && !among(&selection.except);
            if selection.alone && (!selected || registration.handler.is_none()) {
                continue;
            }
            if selected && registration.handler.is_none() {
                tracing::warn!(
                    "handler `{}` ({}) is linked in, but no value of it was given to the builder; its events are passed on",
                    registration.name,
                    registration.place
                );
            }
            registry.add(registration, selected, states, settings, max_lease)?;
        }
        Ok(registry)
    }

    fn add(
        &mut self,
        registration: Registration,
        selected: bool,
        states: &States,
        settings: &Settings,
        max_lease: Option<Duration>,
    ) -> Result<()> {
        let run = registration.handler.clone().filter(|_| selected);
        let missing: Vec<StateNeed> = match &run {
            Some(_) => registration.states.iter().filter(|need| !states.has(need)).cloned().collect(),
            None => Vec::new(),
        };
        let timeout = registration.timeout.unwrap_or(settings.timeout);
        if max_lease.is_some() && timeout > MAX_TIMEOUT {
            return Err(Error::new(
                ErrorKind::Registration,
                format!(
                    "handler `{}` ({}) has a timeout of {timeout:?}; a lease on this backend can last 12 hours, so a \
                     timeout is at most {MAX_TIMEOUT:?}: split the work into several events",
                    registration.name, registration.place
                ),
            ));
        }
        let entry = Entry {
            name: registration.name.into(),
            wants: registration.wants.clone(),
            attempts: registration.attempts.unwrap_or(settings.attempts).max(1),
            timeout,
            backoff: registration.backoff.unwrap_or(settings.backoff),
            limiter: registration
                .concurrency
                .map(|limit| Arc::new(Semaphore::new(limit.clamp(1, Semaphore::MAX_PERMITS)))),
            run,
            missing,
            meters: OnceLock::new(),
            registration,
        };
        self.refuse_duplicates(&entry)?;
        self.insert(Arc::new(entry));
        Ok(())
    }

    /// Whether a handler of this name was linked in, selected or not.
    #[cfg(feature = "testing")]
    pub(crate) fn is_linked_in(name: &str) -> bool {
        inventory::iter::<LinkedHandler>().any(|linked| (linked.0)().name == name)
    }

    /// Two handlers of one name may exist for two kinds, never for one.
    fn refuse_duplicates(&self, entry: &Entry) -> Result<()> {
        let overlap = |other: &Entry| match (&other.wants, &entry.wants) {
            (Wants::Kind(a), Wants::Kind(b)) => a == b,
            (Wants::Kind(kind), Wants::All { .. }) => entry.wants(kind),
            (Wants::All { .. }, Wants::Kind(kind)) => other.wants(kind),
            (Wants::All { .. }, Wants::All { .. }) => true,
        };
        for other in self.entries.iter().filter(|other| overlap(other)) {
            let Some(name) = names(&entry.registration).find(|name| names(&other.registration).any(|it| it == *name))
            else {
                continue;
            };
            return Err(Error::new(
                ErrorKind::Registration,
                format!(
                    "two handlers of one event are called `{name}`: {} and {}; rename one with `name = \"..\"`",
                    other.registration.place, entry.registration.place
                ),
            ));
        }
        Ok(())
    }

    /// Every handler that wants events of `kind`, run here or not.
    pub(crate) fn wanting(&self, kind: &str) -> Vec<Arc<Entry>> {
        let typed = self.by_kind.get(kind).into_iter().flatten();
        let all = self.catch_alls.iter().filter(|entry| entry.wants(kind));
        typed.chain(all).cloned().collect()
    }

    /// The handler that a message for `name` of this kind is for.
    pub(crate) fn addressed(&self, kind: &str, name: &str) -> Option<Arc<Entry>> {
        let mut wanting = self.by_kind.get(kind).into_iter().flatten().chain(&self.catch_alls);
        wanting.find(|entry| entry.wants(kind) && names(&entry.registration).any(|it| it == name)).cloned()
    }

    /// Refuses handlers that would run here without a state that they take.
    pub(crate) fn check_states(&self) -> Result<()> {
        let lacking = self.entries.iter().find_map(|entry| Some((entry, entry.missing.first()?)));
        let Some((entry, need)) = lacking else { return Ok(()) };
        Err(Error::new(
            ErrorKind::Registration,
            format!(
                "handler `{}` ({}) takes State<{}>, and none was given; add `.state(..)` of that type to the builder",
                entry.name, entry.registration.place, need.type_name
            ),
        ))
    }

    /// Whether this node runs anything.
    pub(crate) fn runs_any(&self) -> bool {
        self.entries.iter().any(|entry| entry.run.is_some())
    }

    /// Whether a handler is called `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| &*entry.name == name)
    }

    /// The handlers that this node runs.
    pub(crate) fn infos(&self) -> Vec<HandlerInfo> {
        let info = |entry: &Arc<Entry>| HandlerInfo {
            name: entry.name.to_string(),
            kind: match entry.wants {
                Wants::Kind(kind) => Some(kind),
                Wants::All { .. } => None,
            },
            attempts: entry.attempts,
            timeout: entry.timeout,
            concurrency: entry.registration.concurrency,
            backoff: entry.backoff,
            place: entry.registration.place,
        };
        self.entries.iter().filter(|entry| entry.run.is_some()).map(info).collect()
    }

    /// The same registry with more handlers run here; one of the same identity is replaced.
    pub(crate) fn with(
        &self,
        more: Vec<Registration>,
        states: &States,
        settings: &Settings,
        max_lease: Option<Duration>,
    ) -> Result<Self> {
        refuse_unmade(&more)?;
        let replaced = |entry: &Entry| more.iter().any(|it| it.identity == entry.registration.identity);
        let mut registry = self.keeping(|entry| !replaced(entry));
        for registration in more {
            registry.add(registration, true, states, settings, max_lease)?;
        }
        Ok(registry)
    }

    /// The same registry with the handlers called `name` run here again.
    pub(crate) fn with_again(
        &self,
        name: &str,
        states: &States,
        settings: &Settings,
        max_lease: Option<Duration>,
    ) -> Result<Self> {
        if !self.has(name) {
            return Err(not_linked_in(name, self.entries.iter().map(|entry| &entry.registration)));
        }
        let paused = self.entries.iter().filter(|entry| &*entry.name == name && entry.run.is_none());
        self.with(paused.map(|entry| entry.registration.clone()).collect(), states, settings, max_lease)
    }

    /// The same registry with the handlers called `name` no longer run here: their events are
    /// passed on to other nodes.
    pub(crate) fn without(&self, name: &str) -> Result<Self> {
        if !self.has(name) {
            return Err(not_linked_in(name, self.entries.iter().map(|entry| &entry.registration)));
        }
        let mut registry = Registry::default();
        for entry in &self.entries {
            let entry = if &*entry.name == name {
                Arc::new(Entry {
                    run: None,
                    limiter: None,
                    missing: Vec::new(),
                    meters: OnceLock::new(),
                    registration: entry.registration.clone(),
                    name: Arc::clone(&entry.name),
                    wants: entry.wants.clone(),
                    ..**entry
                })
            } else {
                Arc::clone(entry)
            };
            registry.insert(entry);
        }
        Ok(registry)
    }

    fn keeping(&self, keep: impl Fn(&Entry) -> bool) -> Self {
        let mut registry = Registry::default();
        for entry in self.entries.iter().filter(|entry| keep(entry)) {
            registry.insert(Arc::clone(entry));
        }
        registry
    }

    fn insert(&mut self, entry: Arc<Entry>) {
        match entry.wants {
            Wants::Kind(kind) => self.by_kind.entry(kind).or_default().push(Arc::clone(&entry)),
            Wants::All { .. } => self.catch_alls.push(Arc::clone(&entry)),
        }
        self.entries.push(entry);
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| &entry.name)).finish()
    }
}

/// Refuses what is listed and has no value to run.
fn refuse_unmade(given: &[Registration]) -> Result<()> {
    let unmade = given.iter().find(|registration| registration.handler.is_none());
    let Some(Registration { name, place, .. }) = unmade else { return Ok(()) };
    Err(Error::new(
        ErrorKind::Registration,
        format!(
            "handler `{name}` ({place}) is asked for, but has no `Default` to make it of; give the value to the builder: \
             `.handler({name} {{ .. }})`"
        ),
    ))
}

/// The names that a message may address a handler by.
fn names(registration: &Registration) -> impl Iterator<Item = &'static str> {
    std::iter::once(registration.name).chain(registration.aliases.iter().copied())
}

fn not_linked_in<'a>(name: &str, known: impl IntoIterator<Item = &'a Registration>) -> Error {
    let known: Vec<&str> = known.into_iter().map(|registration| registration.name).collect();
    Error::new(
        ErrorKind::Registration,
        format!(
            "no handler called `{name}` is linked in (there are: {}); a crate that is only named in Cargo.toml is \
             dropped by the linker, so write `use that_crate as _;`, or give the handler to the builder",
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        ),
    )
}
