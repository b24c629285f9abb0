//! Markers in memory: [`MemoryStore`].

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::store::{Begun, Claim, DedupeKey, DedupeStore, claim_lost};
use crate::backend::BoxFuture;
use crate::clock::later;
use crate::error::{Error, ErrorKind, Result};

/// Remembers within one process, for as long as it lives: for tests, and for a single node whose
/// handlers may run once more after a restart.
///
/// Clones are handles of one store. It holds as many keys as its capacity, running and finished
/// together. At the limit the oldest finished one is forgotten for each that begins. When all of
/// them are running, a further one is answered [`ErrorKind::Overloaded`], and its handler is tried
/// again later.
#[derive(Clone, Debug)]
pub struct MemoryStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    markers: HashMap<Arc<DedupeKey>, Marker>,
    /// By when they are forgotten, and by token.
    finished: BTreeMap<(SystemTime, u64), Arc<DedupeKey>>,
    /// By when their lease ends, and by token.
    running: BTreeMap<(SystemTime, u64), Arc<DedupeKey>>,
    last_token: u64,
}

#[derive(Clone, Copy, Debug)]
struct Marker {
    token: u64,
    done: bool,
    /// When it is forgotten, or its lease ends.
    ends: SystemTime,
    crashes: u32,
}

impl MemoryStore {
    /// A store of 100,000 keys: some 30 MB when it is full of event ids.
    pub fn new() -> Self {
        MemoryStore::with_capacity(100_000)
    }

    /// A store of this many keys, at least 1.
    pub fn with_capacity(capacity: usize) -> Self {
        MemoryStore(Arc::new(Shared { capacity: capacity.max(1), state: Mutex::default() }))
    }

    /// How many keys it holds, running and finished.
    pub fn len(&self) -> usize {
        self.lock().markers.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_now(&self, key: &DedupeKey, now: SystemTime, lease: Duration) -> Result<Begun> {
        let mut state = self.lock();
        let crashes = match state.markers.get(key) {
            Some(marker) if marker.done && marker.ends > now => return Ok(Begun::Done),
            Some(marker) if marker.ends > now => return Ok(Begun::InProgress { until: marker.ends }),
            Some(marker) if !marker.done => marker.crashes.saturating_add(1),
            Some(_) => 0,
            None => {
                state.make_room(self.0.capacity, now)?;
                0
            }
        };
        state.last_token += 1;
        let token = state.last_token;
        state.put(Arc::new(key.clone()), Marker { token, done: false, ends: later(now, lease), crashes });
        Ok(Begun::Fresh(Claim::new(key.clone(), token, crashes)))
    }
}

impl State {
    /// Lets go of a few that are over, and at the capacity of one that need not be kept.
    fn make_room(&mut self, capacity: usize, now: SystemTime) -> Result<()> {
        // Two for each that comes, so that what is over does not pile up.
        for _ in 0..2 {
            match self.finished.first_key_value() {
                Some((&(ends, _), key)) if ends <= now => self.remove(&Arc::clone(key)),
                _ => break,
            }
        }
        if self.markers.len() < capacity {
            return Ok(());
        }
        let over = self.running.first_key_value().filter(|((ends, _), _)| *ends <= now);
        let Some(key) = self.finished.first_key_value().or(over).map(|(_, key)| Arc::clone(key)) else {
            return Err(Error::new(
                ErrorKind::Overloaded,
                format!(
                    "the dedupe store in memory holds {capacity} keys, its capacity, and every one is running; give \
                     it more with MemoryStore::with_capacity"
                ),
            ));
        };
        self.remove(&key);
        Ok(())
    }

    fn put(&mut self, key: Arc<DedupeKey>, marker: Marker) {
        self.remove(&key);
        let by_end = if marker.done { &mut self.finished } else { &mut self.running };
        by_end.insert((marker.ends, marker.token), Arc::clone(&key));
        self.markers.insert(key, marker);
    }

    fn remove(&mut self, key: &DedupeKey) {
        let Some(marker) = self.markers.remove(key) else { return };
        let by_end = if marker.done { &mut self.finished } else { &mut self.running };
        by_end.remove(&(marker.ends, marker.token));
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

impl DedupeStore for MemoryStore {
    fn begin<'a>(&'a self, key: &'a DedupeKey, now: SystemTime, lease: Duration) -> BoxFuture<'a, Result<Begun>> {
        Box::pin(async move { self.begin_now(key, now, lease) })
    }

    fn renew<'a>(&'a self, claim: &'a Claim, now: SystemTime, lease: Duration) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut state = self.lock();
            match state.markers.get(claim.key()).copied() {
                Some(marker) if marker.token == claim.token() && !marker.done => {
                    state.put(Arc::new(claim.key().clone()), Marker { ends: later(now, lease), ..marker });
                    Ok(())
                }
                _ => Err(claim_lost(claim.key())),
            }
        })
    }

    fn finish<'a>(&'a self, claim: &'a Claim, now: SystemTime, remember_for: Duration) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut state = self.lock();
            match state.markers.get(claim.key()) {
                Some(marker) if marker.token != claim.token() => return Err(claim_lost(claim.key())),
                Some(_) => {}
                None => state.make_room(self.0.capacity, now)?,
            }
            let done = Marker { token: claim.token(), done: true, ends: later(now, remember_for), crashes: 0 };
            state.put(Arc::new(claim.key().clone()), done);
            Ok(())
        })
    }

    fn abandon<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut state = self.lock();
            if state.markers.get(claim.key()).is_some_and(|marker| marker.token == claim.token() && !marker.done) {
                state.remove(claim.key());
            }
            Ok(())
        })
    }
}
