//! How a node's queues are: [`Health`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::backend::Lane;
use crate::error::Error;

/// How the queues are that a node listens to, by what it last heard of them; from
/// [`Dawdle::health`](crate::Dawdle::health).
///
/// For a liveness or readiness probe, mind that a restart mends no queue: a node that backs off
/// resumes by itself, within seconds of the queue's return.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// The message queue, then the delay queue where there is one to be looked at.
    pub queues: Vec<QueueHealth>,
    /// The queues that cannot be written to now, so that messages wait which are handled already.
    pub held_up: Vec<HeldUp>,
}

impl Health {
    /// Whether every queue is received from, without errors.
    pub fn is_running(&self) -> bool {
        self.queues.iter().all(|queue| matches!(queue.state, QueueState::Running))
    }

    /// How one queue is; `None` where this node has nothing to do with it.
    pub fn queue(&self, lane: Lane) -> Option<&QueueHealth> {
        self.queues.iter().find(|queue| queue.lane == lane)
    }
}

/// A queue that what is left of messages cannot be written to: their retries, or their dead letters. The messages
/// are kept, their leases extended, and the writes tried again with growing pauses of at most half a minute.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HeldUp {
    /// Which queue.
    pub lane: Lane,
    /// How many writes wait.
    pub writes: usize,
    /// When the first of them failed.
    pub since: SystemTime,
    /// Why the last one did.
    pub error: Error,
}

/// How one queue is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueueHealth {
    /// Which queue.
    pub lane: Lane,
    /// Whether it is received from.
    pub state: QueueState,
    /// When a receive last succeeded, one that brought nothing included. A message queue that is
    /// idle answers every 20 seconds, the delay queue is looked at every few minutes.
    pub last_receive: Option<SystemTime>,
}

/// Whether a queue is received from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum QueueState {
    /// The listener does not run.
    Stopped,
    /// The listener runs, and the last receive did not fail.
    Running,
    /// Receives fail, and are tried again with growing pauses of at most five seconds.
    BackingOff {
        /// When the first of them failed.
        since: SystemTime,
        /// How many have failed in a row.
        failures: u32,
        /// Why the last one did.
        error: Error,
    },
}

/// Keeps what [`Health`] shows.
#[derive(Debug, Default)]
pub(crate) struct Monitor(Mutex<[Watch; Lane::ALL.len()]>);

#[derive(Debug, Default)]
struct Watch {
    listening: bool,
    failing: Option<Failing>,
    last_receive: Option<SystemTime>,
    writes: usize,
    /// While there are such.
    not_written: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    since: SystemTime,
    failures: u32,
    error: Error,
}

impl Monitor {
    fn lock(&self) -> MutexGuard<'_, [Watch; Lane::ALL.len()]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins, or ends, listening to a lane.
    pub(crate) fn listen(&self, lane: Lane, listening: bool) {
        let watch = &mut self.lock()[lane as usize];
        watch.listening = listening;
        watch.failing = None;
    }

    /// A receive has succeeded.
    pub(crate) fn received(&self, lane: Lane, now: SystemTime) {
        let recovered = {
            let watch = &mut self.lock()[lane as usize];
            watch.last_receive = Some(now);
            watch.failing.take()
        };
        if let Some(Failing { since, failures, .. }) = recovered {
            let span = now.duration_since(since).unwrap_or_default();
            tracing::info!("receiving from the {lane} again, after {failures} failures in {span:.1?}");
        }
    }

    /// A receive has failed. Says how many have in a row.
    pub(crate) fn failed(&self, lane: Lane, now: SystemTime, error: &Error) -> u32 {
        Failing::again(&mut self.lock()[lane as usize].failing, now, error)
    }

    /// A write has failed, and waits; for the first time where no `before` says otherwise.
    pub(crate) fn holds_up(
        self: &Arc<Self>,
        before: Option<Waiting>,
        lane: Lane,
        now: SystemTime,
        error: &Error,
    ) -> Waiting {
        let waiting = before.filter(|before| before.lane == lane).unwrap_or_else(|| {
            self.lock()[lane as usize].writes += 1;
            Waiting { monitor: Arc::clone(self), lane }
        });
        Failing::again(&mut self.lock()[lane as usize].not_written, now, error);
        waiting
    }

    /// How the lanes are that this node listens to, or would.
    pub(crate) fn health(&self, lanes: impl IntoIterator<Item = Lane>) -> Health {
        let watches = self.lock();
        let queue = |lane| {
            let Watch { listening, failing, last_receive, .. } = &watches[lane as usize];
            let state = match failing {
                _ if !listening => QueueState::Stopped,
                None => QueueState::Running,
                Some(Failing { since, failures, error }) => {
                    QueueState::BackingOff { since: *since, failures: *failures, error: error.clone() }
                }
            };
            QueueHealth { lane, state, last_receive: *last_receive }
        };
        let held_up = |lane: Lane| {
            let Watch { writes, not_written, .. } = &watches[lane as usize];
            let Failing { since, error, .. } = not_written.as_ref()?;
            Some(HeldUp { lane, writes: *writes, since: *since, error: error.clone() })
        };
        Health {
            queues: lanes.into_iter().map(queue).collect(),
            held_up: Lane::ALL.into_iter().filter_map(held_up).collect(),
        }
    }
}

impl Failing {
    /// Takes one failure more in. Says how many there were in a row.
    fn again(failing: &mut Option<Failing>, now: SystemTime, error: &Error) -> u32 {
        let failing = failing.get_or_insert_with(|| Failing { since: now, failures: 0, error: error.clone() });
        failing.failures = failing.failures.saturating_add(1);
        failing.error = error.clone();
        failing.failures
    }
}

/// A write that waits to be tried again, until it is dropped.
pub(crate) struct Waiting {
    monitor: Arc<Monitor>,
    lane: Lane,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let watch = &mut self.monitor.lock()[self.lane as usize];
        watch.writes -= 1;
        if watch.writes == 0 {
            watch.not_written = None;
        }
    }
}
