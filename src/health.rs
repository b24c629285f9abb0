//! How a node's queues are: [`Health`].

use std::sync::{Mutex, MutexGuard, PoisonError};
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
        let watch = &mut self.lock()[lane as usize];
        let failing = watch.failing.get_or_insert_with(|| Failing { since: now, failures: 0, error: error.clone() });
        failing.failures = failing.failures.saturating_add(1);
        failing.error = error.clone();
        failing.failures
    }

    /// How the lanes are that this node listens to, or would.
    pub(crate) fn health(&self, lanes: impl IntoIterator<Item = Lane>) -> Health {
        let watches = self.lock();
        let queue = |lane| {
            let Watch { listening, failing, last_receive } = &watches[lane as usize];
            let state = match failing {
                _ if !listening => QueueState::Stopped,
                None => QueueState::Running,
                Some(Failing { since, failures, error }) => {
                    QueueState::BackingOff { since: *since, failures: *failures, error: error.clone() }
                }
            };
            QueueHealth { lane, state, last_receive: *last_receive }
        };
        Health { queues: lanes.into_iter().map(queue).collect() }
    }
}
