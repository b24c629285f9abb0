//! One queue as SQS keeps it: which of its messages are visible, leased or delayed.
//!
//! What a message holds is the caller's affair, and so is how a receipt is written down.
//!
//! Nothing here reads a clock, waits or locks: the time is an argument, and must have been
//! [moved on](Queue::move_on) before anything else is asked. No operation looks at every message.
//!
//! ```text
//!           send, delay 0                receive
//!         .--------------> visible ------------------> leased ---> gone (ack)
//!  message                    ^    <------------------   |
//!         '--> delayed -------'     lease ends, release  |
//!               delay ends                               '--- hidden for longer (extend)
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::backend::{LaneStats, Limits};
use crate::clock::later;
use crate::error::{Error, ErrorKind};

/// A message that is kept, by a number of its own: a duplicate has another than its original.
pub type Key = u64;

/// A queue of messages that hold a `C` each.
#[derive(Debug)]
pub struct Queue<C> {
    messages: HashMap<Key, Message<C>>,
    /// In the order in which they became visible.
    visible: BTreeMap<u64, Key>,
    /// Leased and delayed ones, by when they become visible.
    hidden: BTreeSet<(SystemTime, Key)>,
    by_age: BTreeSet<(SystemTime, Key)>,
    /// Those that are not delayed, by when they were due.
    due: BTreeSet<(SystemTime, Key)>,
    leased: u64,
    most_leased: u64,
    next_key: Key,
    next_place: u64,
}

#[derive(Debug)]
struct Message<C> {
    /// The key of the original: what its id is made of.
    original: Key,
    content: Arc<C>,
    enqueued_at: SystemTime,
    /// When its delay ends.
    due_at: SystemTime,
    first_received_at: Option<SystemTime>,
    received_at: SystemTime,
    receive_count: u32,
    place: Place,
    twin: Twin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Visible(u64),
    Delayed(SystemTime),
    Leased(SystemTime),
}

/// Whether SQS delivers a message once more than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twin {
    Undecided,
    No,
    AfterAck,
}

/// What a receive asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The most messages.
    pub max: usize,
    /// For how long each is leased.
    pub lease: Duration,
    /// After how many receives a message is taken out instead of being received once more; `None`
    /// where there is no redrive policy.
    pub max_receives: Option<u32>,
    /// The time.
    pub now: SystemTime,
}

/// How the messages of a receive are chosen.
#[derive(Debug)]
pub struct Choice<'a> {
    /// Decides the rest.
    pub random: &'a mut fastrand::Rng,
    /// Any order, instead of that in which they became visible.
    pub reorder: bool,
    /// The chance of a message to be received twice.
    pub duplicate: f64,
    /// The chance of a message to come back once after its ack.
    pub undelete: f64,
}

/// What a receive yields.
#[derive(Debug)]
pub struct Received<C> {
    /// The messages, leased.
    pub leased: Vec<Leased<C>>,
    /// Those that had been received as often as they may be. They have left the queue.
    pub exhausted: Vec<Exhausted<C>>,
    /// How many of the leased ones are received by somebody else as well.
    pub duplicates: u64,
}

/// A message that is leased to whoever received it.
#[derive(Debug)]
pub struct Leased<C> {
    /// What names this receive.
    pub handle: Handle,
    /// The number of the message, which a duplicate shares with its original.
    pub original: Key,
    /// What it holds.
    pub content: Arc<C>,
    /// How many times it has been received, this time included.
    pub receive_count: u32,
    /// When it was put on its first queue.
    pub enqueued_at: SystemTime,
    /// When it was received for the first time.
    pub first_received_at: SystemTime,
}

/// A message on its way to another queue.
#[derive(Debug)]
pub struct Exhausted<C> {
    /// What it holds.
    pub content: Arc<C>,
    /// When it was put on its first queue: retention goes on counting from there.
    pub enqueued_at: SystemTime,
    first_received_at: Option<SystemTime>,
    receive_count: u32,
}

impl<C> Exhausted<C> {
    /// The same message, holding something else.
    pub fn map<D>(self, content: impl FnOnce(Arc<C>) -> D) -> Exhausted<D> {
        let Exhausted { content: old, enqueued_at, first_received_at, receive_count } = self;
        Exhausted { content: Arc::new(content(old)), enqueued_at, first_received_at, receive_count }
    }
}

/// One receive of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// Which message.
    pub key: Key,
    /// Which of its receives.
    pub receive_count: u32,
}

/// What an ack did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acked {
    /// The message is gone.
    pub deleted: bool,
    /// It is gone, and visible once more.
    pub comes_back: bool,
}

/// Why a message is not hidden for longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unhidden {
    /// It is gone, or was received again with a newer receipt.
    Gone,
    /// Its lease has ended: it is visible.
    Visible,
    /// It would be hidden for more than `max` in all.
    TooLong {
        /// The most, counted from the receive.
        max: Duration,
        /// For how long it has been hidden already.
        held: Duration,
        /// For how long more was asked.
        asked: Duration,
    },
}

impl From<Unhidden> for Error {
    fn from(unhidden: Unhidden) -> Error {
        let lost = |why: &str| Error::new(ErrorKind::LeaseLost, format!("the lease is lost: the message {why}"));
        match unhidden {
            Unhidden::Gone => lost("is gone, or was received again with a newer receipt"),
            Unhidden::Visible => lost("is visible again, since its lease has ended"),
            Unhidden::TooLong { max, held, asked } => Error::new(
                ErrorKind::Invalid,
                format!(
                    "a message can be hidden for at most {max:?} in all from its receive, and {asked:?} more after \
                     {held:?} was asked for; hide it for at most {:?}",
                    max.saturating_sub(held)
                ),
            ),
        }
    }
}

impl<C> Default for Queue<C> {
    fn default() -> Self {
        Queue {
            messages: HashMap::new(),
            visible: BTreeMap::new(),
            hidden: BTreeSet::new(),
            by_age: BTreeSet::new(),
            due: BTreeSet::new(),
            leased: 0,
            most_leased: 0,
            next_key: 0,
            next_place: 0,
        }
    }
}

impl<C> Queue<C> {
    /// Makes visible what is due, and drops what has been kept for long enough.
    pub fn move_on(&mut self, limits: &Limits, now: SystemTime) {
        while let Some(&(until, key)) = self.hidden.first()
            && until <= now
        {
            self.put(key, Place::Visible);
        }
        if let Some(retention) = limits.retention {
            while let Some(&(enqueued_at, key)) = self.by_age.first()
                && later(enqueued_at, retention) <= now
            {
                self.remove(key);
            }
        }
    }

    /// When the next hidden message becomes visible.
    pub fn next_due(&self) -> Option<SystemTime> {
        self.hidden.first().map(|(until, _)| *until)
    }

    /// Whether a message can be received, quota aside.
    pub fn has_visible(&self) -> bool {
        !self.visible.is_empty()
    }

    /// How many messages can be received, quota aside.
    pub fn visible(&self) -> usize {
        self.visible.len()
    }

    /// Whether as many messages are leased as may be.
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.free(limits) == 0
    }

    /// Counts it, in no time.
    pub fn stats(&self, now: SystemTime) -> LaneStats {
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        LaneStats {
            visible: count(self.visible.len()),
            in_flight: self.leased,
            delayed: count(self.hidden.len()).saturating_sub(self.leased),
            oldest: self.due.first().map(|(due_at, _)| now.duration_since(*due_at).unwrap_or_default()),
        }
    }

    /// The most messages that were leased at once.
    pub fn most_leased(&self) -> u64 {
        self.most_leased
    }

    /// Puts a message on the queue, hidden for `delay`; answers its number.
    pub fn send(&mut self, content: impl Into<Arc<C>>, delay: Duration, now: SystemTime) -> Key {
        let until = (!delay.is_zero()).then(|| later(now, delay));
        self.add(content.into(), until, now, None, 0)
    }

    /// Puts a message here that has left another queue.
    pub fn take_in(&mut self, message: Exhausted<C>) {
        let Exhausted { content, enqueued_at, first_received_at, receive_count } = message;
        self.add(content, None, enqueued_at, first_received_at, receive_count);
    }

    /// Takes the first visible message out, received by nobody.
    pub fn take_out(&mut self) -> Option<Exhausted<C>> {
        let (_, key) = self.visible.first_key_value()?;
        self.remove(*key).map(Message::exhausted)
    }

    /// Drops every message.
    pub fn purge(&mut self) {
        let Queue { most_leased, next_key, next_place, .. } = *self;
        *self = Queue { most_leased, next_key, next_place, ..Queue::default() };
    }

    /// Leases up to as many visible messages as are asked for, as far as the quota goes.
    pub fn receive(&mut self, limits: &Limits, ask: Ask, choice: &mut Choice<'_>) -> Received<C> {
        let mut received = Received { leased: Vec::new(), exhausted: Vec::new(), duplicates: 0 };
        let free = usize::try_from(self.free(limits)).unwrap_or(usize::MAX);
        while received.leased.len() < ask.max.min(free) {
            let Some(key) = self.pick(choice) else { break };
            let count = self.messages.get(&key).map_or(0, |message| message.receive_count);
            if ask.max_receives.is_some_and(|max| count >= max) {
                received.exhausted.extend(self.remove(key).map(Message::exhausted));
                continue;
            }
            self.put(key, |_| Place::Leased(later(ask.now, ask.lease)));
            let Some(message) = self.messages.get_mut(&key) else { break };
            message.receive_count += 1;
            message.received_at = ask.now;
            message.first_received_at.get_or_insert(ask.now);
            let mut at_once = false;
            if message.twin == Twin::Undecided {
                let chance = choice.random.f64();
                at_once = chance < choice.duplicate;
                let after_ack = !at_once && chance < choice.duplicate + choice.undelete;
                message.twin = if after_ack { Twin::AfterAck } else { Twin::No };
            }
            received.leased.push(message.leased(key));
            if at_once {
                received.duplicates += 1;
                self.add_twin(key);
            }
        }
        self.most_leased = self.most_leased.max(self.leased);
        received
    }

    /// Deletes what the handle names, if it is the newest of its message: otherwise it is somebody
    /// else's, and SQS answers the same.
    pub fn ack(&mut self, handle: Handle) -> Acked {
        let Some(message) = self.received_as(handle) else { return Acked::default() };
        let comes_back = message.twin == Twin::AfterAck;
        if comes_back {
            self.add_twin(handle.key);
        }
        Acked { deleted: self.remove(handle.key).is_some(), comes_back }
    }

    /// Hides a leased message for `span` from now: a release, or an extension of its lease.
    ///
    /// # Errors
    /// Where the message is no longer leased under this handle, or would be hidden for too long.
    pub fn hide(&mut self, limits: &Limits, handle: Handle, span: Duration, now: SystemTime) -> Result<(), Unhidden> {
        let message = self.received_as(handle).ok_or(Unhidden::Gone)?;
        let Place::Leased(_) = message.place else { return Err(Unhidden::Visible) };
        let until = later(now, span);
        if let Some(max) = limits.max_lease
            && until > later(message.received_at, max)
        {
            let held = now.duration_since(message.received_at).unwrap_or_default();
            return Err(Unhidden::TooLong { max, held, asked: span });
        }
        if span.is_zero() {
            self.put(handle.key, Place::Visible);
        } else {
            self.put(handle.key, |_| Place::Leased(until));
        }
        Ok(())
    }

    fn received_as(&self, handle: Handle) -> Option<&Message<C>> {
        self.messages.get(&handle.key).filter(|message| message.receive_count == handle.receive_count)
    }

    fn add(
        &mut self,
        content: Arc<C>,
        hidden_until: Option<SystemTime>,
        enqueued_at: SystemTime,
        first_received_at: Option<SystemTime>,
        receive_count: u32,
    ) -> Key {
        self.next_key += 1;
        let message = Message {
            original: self.next_key,
            content,
            enqueued_at,
            due_at: hidden_until.unwrap_or(enqueued_at),
            first_received_at,
            received_at: enqueued_at,
            receive_count,
            place: Place::Visible(0),
            twin: Twin::Undecided,
        };
        self.insert(self.next_key, message, hidden_until);
        self.next_key
    }

    fn free(&self, limits: &Limits) -> u64 {
        limits.max_in_flight.map_or(u64::MAX, |max| max.saturating_sub(self.leased))
    }

    /// The next visible message; with `reorder`, any of them.
    fn pick(&self, choice: &mut Choice<'_>) -> Option<Key> {
        let (first, last) = (*self.visible.first_key_value()?.0, *self.visible.last_key_value()?.0);
        let from = if choice.reorder { choice.random.u64(first..=last) } else { first };
        self.visible.range(from..).next().map(|(_, key)| *key)
    }

    /// Puts the same message, by id, beside a message that comes twice.
    fn add_twin(&mut self, key: Key) {
        let Some(message) = self.messages.get(&key) else { return };
        let twin = Message { twin: Twin::No, content: message.content.clone(), ..*message };
        self.next_key += 1;
        self.insert(self.next_key, twin, None);
    }

    fn insert(&mut self, key: Key, mut message: Message<C>, hidden_until: Option<SystemTime>) {
        message.place = match hidden_until {
            Some(until) => {
                self.hidden.insert((until, key));
                Place::Delayed(until)
            }
            None => {
                self.next_place += 1;
                self.visible.insert(self.next_place, key);
                self.due.insert((message.due_at, key));
                Place::Visible(self.next_place)
            }
        };
        self.by_age.insert((message.enqueued_at, key));
        self.messages.insert(key, message);
    }

    /// Moves a message to the place that `to` makes, given the number of the last visible one.
    fn put(&mut self, key: Key, to: impl FnOnce(u64) -> Place) {
        self.take_from_place(key);
        self.next_place += 1;
        let place = to(self.next_place);
        match place {
            Place::Visible(number) => {
                self.visible.insert(number, key);
            }
            Place::Delayed(until) => {
                self.hidden.insert((until, key));
            }
            Place::Leased(until) => {
                self.hidden.insert((until, key));
                self.leased += 1;
            }
        }
        if let Some(message) = self.messages.get_mut(&key) {
            message.place = place;
            self.due.insert((message.due_at, key));
        }
    }

    fn take_from_place(&mut self, key: Key) {
        match self.messages.get(&key).map(|message| message.place) {
            Some(Place::Visible(number)) => {
                self.visible.remove(&number);
            }
            Some(Place::Delayed(until)) => {
                self.hidden.remove(&(until, key));
            }
            Some(Place::Leased(until)) => {
                self.hidden.remove(&(until, key));
                self.leased -= 1;
            }
            None => {}
        }
    }

    fn remove(&mut self, key: Key) -> Option<Message<C>> {
        self.take_from_place(key);
        let message = self.messages.remove(&key)?;
        self.by_age.remove(&(message.enqueued_at, key));
        self.due.remove(&(message.due_at, key));
        Some(message)
    }
}

impl<C> Message<C> {
    fn leased(&self, key: Key) -> Leased<C> {
        Leased {
            handle: Handle { key, receive_count: self.receive_count },
            original: self.original,
            content: self.content.clone(),
            receive_count: self.receive_count,
            enqueued_at: self.enqueued_at,
            first_received_at: self.first_received_at.unwrap_or(self.received_at),
        }
    }

    fn exhausted(self) -> Exhausted<C> {
        let Message { content, enqueued_at, first_received_at, receive_count, .. } = self;
        Exhausted { content, enqueued_at, first_received_at, receive_count }
    }
}
