//! What a store of finished work promises: [`DedupeStore`].

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::backend::BoxFuture;
use crate::error::Result;

/// What one effect is known by: a kind, a handler and a key.
///
/// Each handler of an event finishes it for itself, and two kinds may use one key without meeting.
/// Its text, `kind handler key`, is unambiguous: kinds and names of handlers have no spaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DedupeKey {
    kind: String,
    handler: String,
    key: String,
}

impl DedupeKey {
    /// The effect that `handler` has for events of `kind` with this key.
    pub fn new(kind: impl Into<String>, handler: impl Into<String>, key: impl Into<String>) -> Self {
        DedupeKey { kind: kind.into(), handler: handler.into(), key: key.into() }
    }

    /// The kind that the event was signalled with: 1 to 128 bytes.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The handler's name: 1 to 128 bytes.
    pub fn handler(&self) -> &str {
        &self.handler
    }

    /// The event's key, or its id: 1 to 1024 bytes.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for DedupeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind, self.handler, self.key)
    }
}

/// The right to run a handler for one key, until its lease ends: what a
/// [`begin`](DedupeStore::begin) yields to one of all that ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    key: DedupeKey,
    token: u64,
    crashes: u32,
}

impl Claim {
    /// The claim on `key` that `token` tells from every other claim on it, earlier and later;
    /// `crashes` is how many claims before it, in a row, ended without a word.
    pub fn new(key: DedupeKey, token: u64, crashes: u32) -> Self {
        Claim { key, token, crashes }
    }

    /// What it is a claim on.
    pub fn key(&self) -> &DedupeKey {
        &self.key
    }

    /// What tells it from every other claim on the key.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// How many claims before it, in a row, were neither finished nor abandoned when their lease
    /// ended: as often, most likely, the handler has taken its process with it.
    pub fn crashes(&self) -> u32 {
        self.crashes
    }
}

/// What a [`begin`](DedupeStore::begin) finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Nobody runs it, and nobody has finished it: the asker may run it now, and nobody else.
    Fresh(Claim),
    /// It was finished, and that is still remembered.
    Done,
    /// Somebody runs it.
    InProgress {
        /// When that claim ends, unless it is renewed.
        until: SystemTime,
    },
}

/// Remembers what is being run and what was finished: what [`Dedupe`](crate::Dedupe) works on.
///
/// Implement it to keep the markers in a database of the application's own.
/// `testing::dedupe_conformance` checks one.
///
/// **Atomic.** Calls on one key, from any number of tasks, processes and machines that share the
/// store, happen one after the other. Of all that begin a key, one is answered
/// [`Fresh`](Begun::Fresh).
///
/// **Fenced.** A claim whose lease has ended may be somebody else's by now. Its token says so: what
/// comes with a token that is not the newest of its key changes nothing.
///
/// **Time** comes with each call: `now` is the queue's clock, which the nodes share to within some
/// 50 ms. A store reads no clock; one that has a shared clock of its own, a database server's, may go
/// by that instead.
///
/// **Errors** are those of the store itself, naming it: out of reach, full. They are tried again.
///
/// **Dropping** a call that is under way leaves it done or not done. A claim that nobody was told of
/// ends with its lease at the latest.
pub trait DedupeStore: Send + Sync + 'static {
    /// Claims `key` until `now + lease`, unless it is [done](Begun::Done) or
    /// [claimed](Begun::InProgress) by somebody whose lease ends after `now`. A claim that ended
    /// without a word is counted in the [next](Claim::crashes), for a day at least.
    ///
    /// # Errors
    /// [`Overloaded`](crate::ErrorKind::Overloaded) when a bounded store is full of claims that are
    /// running; the store's own.
    fn begin<'a>(&'a self, key: &'a DedupeKey, now: SystemTime, lease: Duration) -> BoxFuture<'a, Result<Begun>>;

    /// Lets a claim end at `now + lease` instead. One that has ended is renewed too, as long as
    /// nobody else has begun.
    ///
    /// # Errors
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) when somebody else has begun, or when it was
    /// finished or abandoned; the store's own.
    fn renew<'a>(&'a self, claim: &'a Claim, now: SystemTime, lease: Duration) -> BoxFuture<'a, Result<()>>;

    /// Remembers, until `now + remember_for`, that the key is done. Once more is fine. It is durable
    /// when this answers, if the store is one that outlives the process.
    ///
    /// # Errors
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) when somebody else has begun: nothing is
    /// remembered then, since what they do may be under way; the store's own.
    fn finish<'a>(&'a self, claim: &'a Claim, now: SystemTime, remember_for: Duration) -> BoxFuture<'a, Result<()>>;

    /// Gives a claim back: the next may begin at once. One that is not the newest, or is finished,
    /// changes nothing.
    ///
    /// # Errors
    /// The store's own.
    fn abandon<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>>;
}

/// Nodes of one process share a store by cloning its `Arc`.
impl<S: DedupeStore + ?Sized> DedupeStore for Arc<S> {
    fn begin<'a>(&'a self, key: &'a DedupeKey, now: SystemTime, lease: Duration) -> BoxFuture<'a, Result<Begun>> {
        (**self).begin(key, now, lease)
    }

    fn renew<'a>(&'a self, claim: &'a Claim, now: SystemTime, lease: Duration) -> BoxFuture<'a, Result<()>> {
        (**self).renew(claim, now, lease)
    }

    fn finish<'a>(&'a self, claim: &'a Claim, now: SystemTime, remember_for: Duration) -> BoxFuture<'a, Result<()>> {
        (**self).finish(claim, now, remember_for)
    }

    fn abandon<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        (**self).abandon(claim)
    }
}

/// The answer to a claim that is no longer the newest of its key.
pub(super) fn claim_lost(key: &DedupeKey) -> crate::Error {
    crate::Error::new(
        crate::ErrorKind::LeaseLost,
        format!(
            "the claim on `{} {}` is over: it was finished or given back, or its lease ended and another began",
            key.kind, key.handler
        ),
    )
}
