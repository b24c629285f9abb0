//! What callers ask of the writer, and how it gets there.
//!
//! Nothing here is `Debug`: it holds payloads.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::errors;
use super::table::{LeasedRow, NewRow, Token};
use crate::backend::{Lane, LaneStats};
use crate::error::{Error, ErrorKind, Result};

/// How many commands of one kind may be under way at once; callers beyond wait.
const AT_ONCE: usize = 1_024;

#[cfg(test)]
pub(super) type RunInTest = fn(&rusqlite::Connection) -> rusqlite::Result<()>;

/// What is done to the file as a whole.
#[derive(Clone, Copy)]
pub(super) enum Tidy {
    /// Deletes all messages.
    Clear,
    /// Writes the file anew, without what is free in it.
    Vacuum,
}

/// A command, and where its answer goes.
pub(super) enum Work {
    Send {
        lane: Lane,
        rows: Vec<NewRow>,
        answer: oneshot::Sender<Vec<Result<()>>>,
    },
    Lease {
        lane: Lane,
        max: usize,
        lease: Duration,
        /// Whether the caller is going to wait for a bell when there is nothing.
        waits: bool,
        answer: oneshot::Sender<Result<Leased>>,
    },
    Settle {
        lane: Lane,
        /// The receipts, and for a release when it is visible again.
        entries: Vec<(Token, Option<i64>)>,
        answer: oneshot::Sender<Vec<Result<()>>>,
    },
    Extend {
        lane: Lane,
        tokens: Vec<Token>,
        until: i64,
        answer: oneshot::Sender<Vec<Result<()>>>,
    },
    Inspect {
        lane: Lane,
        answer: oneshot::Sender<Result<(LaneStats, Option<i64>)>>,
    },
    /// Outside of the group's transaction.
    Tidy {
        tidy: Tidy,
        answer: oneshot::Sender<Result<u64>>,
    },
    /// Runs something on the connection, within the group's transaction.
    #[cfg(test)]
    Run {
        run: RunInTest,
        answer: oneshot::Sender<Vec<Result<()>>>,
    },
}

impl Work {
    /// How many entries it has, and how many bytes it puts in.
    fn weight(&self) -> (usize, usize) {
        match self {
            Work::Send { rows, .. } => (rows.len(), rows.iter().map(|row| row.body.len()).sum()),
            Work::Lease { max, .. } => (*max, 0),
            Work::Settle { entries, .. } => (entries.len(), 0),
            Work::Extend { tokens, .. } => (tokens.len(), 0),
            Work::Inspect { .. } | Work::Tidy { .. } => (1, 0),
            #[cfg(test)]
            Work::Run { .. } => (1, 0),
        }
    }

    /// Whether nobody waits for the answer and nothing is lost by not doing it.
    pub(super) fn is_moot(&self) -> bool {
        match self {
            Work::Send { answer, .. } => answer.is_closed(),
            Work::Lease { answer, .. } => answer.is_closed(),
            Work::Inspect { answer, .. } => answer.is_closed(),
            _ => false,
        }
    }

    /// Answers that it failed as a whole.
    pub(super) fn fail(self, error: &Error) {
        // A caller that is gone wants no answer.
        match self {
            Work::Send { rows, answer, .. } => drop(answer.send(rows.iter().map(|_| Err(error.clone())).collect())),
            Work::Lease { answer, .. } => drop(answer.send(Err(error.clone()))),
            Work::Settle { entries, answer, .. } => {
                drop(answer.send(entries.iter().map(|_| Err(error.clone())).collect()));
            }
            Work::Extend { tokens, answer, .. } => {
                drop(answer.send(tokens.iter().map(|_| Err(error.clone())).collect()));
            }
            Work::Inspect { answer, .. } => drop(answer.send(Err(error.clone()))),
            Work::Tidy { answer, .. } => drop(answer.send(Err(error.clone()))),
            #[cfg(test)]
            Work::Run { answer, .. } => drop(answer.send(vec![Err(error.clone())])),
        }
    }
}

/// Rows that were leased for a receive, on their way to it. Whatever of them is dropped on the way
/// goes back.
pub(super) struct Leased {
    pub(super) rows: Vec<LeasedRow>,
    pub(super) token: i64,
    /// Where there were none: when there will be.
    pub(super) next_due: Option<i64>,
    inbox: Arc<Inbox>,
}

impl Leased {
    pub(super) fn new(inbox: &Arc<Inbox>, rows: Vec<LeasedRow>, token: i64, next_due: Option<i64>) -> Self {
        Leased { rows, token, next_due, inbox: Arc::clone(inbox) }
    }

    /// The rows, which have arrived.
    pub(super) fn take(mut self) -> Vec<LeasedRow> {
        std::mem::take(&mut self.rows)
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if !self.rows.is_empty() {
            let token = self.token;
            self.inbox.give_back(self.rows.iter().map(|row| Token { id: row.id, token }));
        }
    }
}

/// What the writer does next, in one transaction.
#[derive(Default)]
pub(super) struct Group {
    pub(super) commands: Vec<Command>,
    /// Receives that nobody has seen.
    pub(super) returns: Vec<Token>,
}

/// A command, and the room it takes among those under way.
pub(super) struct Command {
    pub(super) work: Work,
    _permit: OwnedSemaphorePermit,
}

/// What is asked of the writer, in the order that it was asked in, but for extensions, which come
/// first: they are what keeps running handlers' messages from being received again.
///
/// It is bounded by permits, one for each command until it is answered. Settling and extending
/// have permits of their own: a task that was given one and does not get to run, because a handler
/// blocks its runtime, must not keep leases from being extended.
pub(super) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
    ordinary: Arc<Semaphore>,
    settling: Arc<Semaphore>,
    extending: Arc<Semaphore>,
    path: PathBuf,
}

#[derive(Default)]
struct State {
    commands: VecDeque<Command>,
    extensions: VecDeque<Command>,
    returns: Vec<Token>,
    stopped: bool,
}

impl Inbox {
    pub(super) fn new(path: PathBuf) -> Self {
        let permits = || Arc::new(Semaphore::new(AT_ONCE));
        Inbox {
            state: Mutex::default(),
            arrived: Condvar::new(),
            ordinary: permits(),
            settling: permits(),
            extending: permits(),
            path,
        }
    }

    /// Hands a command over and waits for its answer. Dropping it before leaves a send or receive
    /// undone if it was not begun; a receive that was done is undone.
    pub(super) async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Work) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let work = make(sender);
        let urgent = matches!(work, Work::Extend { .. });
        let permits = match work {
            Work::Extend { .. } => &self.extending,
            Work::Settle { .. } => &self.settling,
            _ => &self.ordinary,
        };
        let permit = Arc::clone(permits).acquire_owned().await.map_err(|_| self.stopped())?;
        {
            let mut state = self.lock();
            if state.stopped {
                return Err(self.stopped());
            }
            let command = Command { work, _permit: permit };
            if urgent { state.extensions.push_back(command) } else { state.commands.push_back(command) }
        }
        self.arrived.notify_one();
        receiver.await.map_err(|_| errors::lost(&self.path).with_maybe_sent(true))
    }

    /// Undoes receives that nobody has seen.
    fn give_back(&self, tokens: impl Iterator<Item = Token>) {
        self.lock().returns.extend(tokens);
        self.arrived.notify_one();
    }

    /// Blocks until there is something to do, and takes up to about `most` entries and
    /// `most_bytes` of it. `None` when everything is done and [`stop`](Inbox::stop) was called.
    pub(super) fn take(&self, most: usize, most_bytes: usize) -> Option<Group> {
        let mut state = self.lock();
        loop {
            let State { commands, extensions, returns, stopped } = &mut *state;
            if commands.is_empty() && extensions.is_empty() && returns.is_empty() {
                if *stopped {
                    return None;
                }
                state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let mut group = Group { commands: Vec::new(), returns: std::mem::take(returns) };
            let (mut entries, mut bytes) = (group.returns.len(), 0);
            while entries < most && bytes < most_bytes {
                let Some(command) = extensions.pop_front().or_else(|| commands.pop_front()) else { break };
                let weight = command.work.weight();
                entries += weight.0;
                bytes += weight.1;
                group.commands.push(command);
            }
            return Some(group);
        }
    }

    /// Refuses everything that comes from now on, and lets the writer finish the rest and end.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        for permits in [&self.ordinary, &self.settling, &self.extending] {
            permits.close();
        }
        self.arrived.notify_one();
    }

    fn stopped(&self) -> Error {
        Error::new(
            ErrorKind::ShutDown,
            format!("the local queue {} has been closed by this process", self.path.display()),
        )
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and its parts are whole at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
