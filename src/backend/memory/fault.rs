//! Faults that a test switches on: [`Fault`].

use crate::backend::Lane;
use crate::error::{Error, ErrorKind};

/// A method of [`Backend`](crate::backend::Backend), as faults name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// `check`
    Check,
    /// `send`
    Send,
    /// `receive`
    Receive,
    /// `settle`
    Settle,
    /// `extend`
    Extend,
    /// `inspect`
    Inspect,
    /// `browse`
    Browse,
}

/// A failure that strikes the next calls of one [`Action`].
///
/// ```
/// use dawdle::backend::memory::{Action, Fault, MemoryBackend};
/// use dawdle::{Clock, VirtualClock};
/// # let clock = Clock::from_virtual(VirtualClock::new(std::time::SystemTime::UNIX_EPOCH));
/// let backend = MemoryBackend::new(clock);
/// backend.fail(Fault::unavailable(Action::Receive).times(3));
/// backend.fail(Fault::answer_lost(Action::Send));
/// backend.fail(Fault::throttled(Action::Settle).entry(2));
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    action: Action,
    lane: Option<Lane>,
    failure: Failure,
    entry: Option<usize>,
    times: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Unavailable,
    AnswerLost,
    Kind(ErrorKind),
}

impl Fault {
    /// The call answers [`ErrorKind::Unavailable`], and nothing has happened.
    pub fn unavailable(action: Action) -> Self {
        Fault::new(action, Failure::Unavailable)
    }

    /// The call takes effect and answers [`ErrorKind::Unavailable`] all the same: messages are in
    /// the queue ([`maybe_sent`](Error::maybe_sent)), leased, deleted or extended.
    pub fn answer_lost(action: Action) -> Self {
        Fault::new(action, Failure::AnswerLost)
    }

    /// The call answers [`ErrorKind::Throttled`], and nothing has happened.
    pub fn throttled(action: Action) -> Self {
        Fault::error(action, ErrorKind::Throttled)
    }

    /// The call answers [`ErrorKind::Refused`]: nothing has happened, and would not at another try.
    pub fn refused(action: Action) -> Self {
        Fault::error(action, ErrorKind::Refused)
    }

    /// The call answers an error of this kind, and nothing has happened: [`ErrorKind::Credentials`] for those
    /// that have expired, [`ErrorKind::Queue`] for a queue that is gone for a while.
    pub fn error(action: Action, kind: ErrorKind) -> Self {
        Fault::new(action, Failure::Kind(kind))
    }

    /// Strikes this many calls, 1 unless told; `u32::MAX` is for ever.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Fault { times, ..self }
    }

    /// Strikes only the entry at this position (from 0) of a call that has one, and spares its
    /// other entries.
    #[must_use]
    pub fn entry(self, position: usize) -> Self {
        Fault { entry: Some(position), ..self }
    }

    /// Strikes only calls on this lane.
    #[must_use]
    pub fn on(self, lane: Lane) -> Self {
        Fault { lane: Some(lane), ..self }
    }

    fn new(action: Action, failure: Failure) -> Self {
        Fault { action, lane: None, failure, entry: None, times: 1 }
    }

    /// Whether it strikes this call of this many entries.
    fn strikes(&self, action: Action, lane: Option<Lane>, entries: usize) -> bool {
        self.times > 0
            && self.action == action
            && (self.lane.is_none() || self.lane == lane)
            && self.entry.is_none_or(|position| position < entries)
    }
}

/// The faults switched on, in the order given.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes what strikes this call: the first fault that fits.
    pub(super) fn strike(&mut self, action: Action, lane: Option<Lane>, entries: usize) -> Strike {
        let fitting = self.0.iter_mut().find(|fault| fault.strikes(action, lane, entries));
        let strike = Strike(fitting.map(|fault| {
            fault.times = if fault.times == u32::MAX { u32::MAX } else { fault.times - 1 };
            fault.clone()
        }));
        self.0.retain(|fault| fault.times > 0);
        strike
    }
}

/// What strikes one call, if anything does.
#[derive(Debug)]
pub(super) struct Strike(Option<Fault>);

impl Strike {
    /// What a call without entries answers instead of doing anything.
    pub(super) fn before(&self) -> Result<(), Error> {
        self.entry_before(0)
    }

    /// What a call without entries answers instead of its result.
    pub(super) fn after(&self) -> Result<(), Error> {
        self.entry_after(0)
    }

    /// What an entry answers instead of taking effect.
    pub(super) fn entry_before(&self, position: usize) -> Result<(), Error> {
        self.at(position, false)
    }

    /// What an entry answers although it has taken effect.
    pub(super) fn entry_after(&self, position: usize) -> Result<(), Error> {
        self.at(position, true)
    }

    fn at(&self, position: usize, after: bool) -> Result<(), Error> {
        match &self.0 {
            Some(fault)
                if after == (fault.failure == Failure::AnswerLost)
                    && fault.entry.is_none_or(|entry| entry == position) =>
            {
                Err(fault.as_error())
            }
            _ => Ok(()),
        }
    }
}

impl Fault {
    fn as_error(&self) -> Error {
        let action = self.action;
        match self.failure {
            Failure::Unavailable => Error::new(
                ErrorKind::Unavailable,
                format!("{action:?} failed before it took effect, as the test asked"),
            ),
            Failure::AnswerLost => {
                Error::new(ErrorKind::Unavailable, format!("the answer of {action:?} was lost, as the test asked"))
                    .with_maybe_sent(action == Action::Send)
            }
            Failure::Kind(kind @ ErrorKind::Throttled) => {
                Error::new(kind, format!("{action:?} was throttled, as the test asked"))
            }
            Failure::Kind(kind) => Error::new(kind, format!("{action:?} was refused, as the test asked")),
        }
    }
}
