//! One queue as SQS keeps it: which of its messages are visible, leased or delayed.
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

use crate::backend::{Delivery, LaneStats, Limits, Outgoing, Receipt};
use crate::clock::later;
use crate::error::{Error, ErrorKind, Result};

/// A message that is kept, by a number of its own: a duplicate has another than its original.
type Key = u64;

#[derive(Debug)]
pub(super) struct Queue {
    /// What its message ids and receipts begin with.
    letter: char,
    messages: HashMap<Key, Message>,
    /// In the order in which they became visible.
    visible: BTreeMap<u64, Key>,
    /// Leased and delayed ones, by when they become visible.
    hidden: BTreeSet<(SystemTime, Key)>,
    by_age: BTreeSet<(SystemTime, Key)>,
    leased: u64,
    next_key: Key,
    next_place: u64,
}

#[derive(Clone, Debug)]
struct Message {
    /// The key of the original: what its id is made of.
    original: Key,
    content: Arc<Outgoing>,
    enqueued_at: SystemTime,
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

/// How the messages of a receive are chosen.
pub(super) struct Choice<'a> {
    pub(super) random: &'a mut fastrand::Rng,
    pub(super) reorder: bool,
    /// The chance of a message to come twice.
    pub(super) duplicate: f64,
}

impl Queue {
    pub(super) fn new(letter: char) -> Self {
        Queue {
            letter,
            messages: HashMap::new(),
            visible: BTreeMap::new(),
            hidden: BTreeSet::new(),
            by_age: BTreeSet::new(),
            leased: 0,
            next_key: 0,
            next_place: 0,
        }
    }

    /// Makes visible what is due, and drops what has been kept for long enough.
    pub(super) fn move_on(&mut self, limits: &Limits, now: SystemTime) {
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
    pub(super) fn next_due(&self) -> Option<SystemTime> {
        self.hidden.first().map(|(until, _)| *until)
    }

    pub(super) fn has_visible(&self) -> bool {
        !self.visible.is_empty()
    }

    /// Whether as many messages are leased as may be.
    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        self.free(limits) == 0
    }

    pub(super) fn stats(&self, now: SystemTime) -> LaneStats {
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        LaneStats {
            visible: count(self.visible.len()),
            in_flight: self.leased,
            delayed: count(self.hidden.len()).saturating_sub(self.leased),
            oldest: self.by_age.first().map(|(enqueued_at, _)| now.duration_since(*enqueued_at).unwrap_or_default()),
        }
    }

    pub(super) fn send(&mut self, content: Outgoing, delay: Duration, now: SystemTime) {
        self.next_key += 1;
        let key = self.next_key;
        let message = Message {
            original: key,
            content: Arc::new(content),
            enqueued_at: now,
            received_at: now,
            receive_count: 0,
            place: Place::Visible(0),
            twin: Twin::Undecided,
        };
        let until = (!delay.is_zero()).then(|| later(now, delay));
        self.insert(key, message, until);
    }

    /// Leases up to `max` visible messages, as far as the quota goes.
    pub(super) fn receive(
        &mut self,
        limits: &Limits,
        max: usize,
        lease: Duration,
        now: SystemTime,
        choice: &mut Choice<'_>,
    ) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        let free = usize::try_from(self.free(limits)).unwrap_or(usize::MAX);
        for _ in 0..max.min(free) {
            let Some(key) = self.pick(choice) else { break };
            self.put(key, |_| Place::Leased(later(now, lease)));
            let Some(message) = self.messages.get_mut(&key) else { break };
            message.receive_count += 1;
            message.received_at = now;
            let comes_twice = message.twin == Twin::Undecided && choice.random.f64() < choice.duplicate;
            let at_once = comes_twice && choice.random.bool();
            message.twin = if comes_twice && !at_once { Twin::AfterAck } else { Twin::No };
            deliveries.push(message.delivery(self.letter, key, lease));
            if at_once {
                self.add_twin(key);
            }
        }
        deliveries
    }

    /// Deletes what the receipt names, if it is the newest of its message: otherwise it is
    /// somebody else's, and SQS answers the same.
    pub(super) fn ack(&mut self, receipt: &Receipt) -> Result<()> {
        let receipt = self.parse(receipt)?;
        if let Some(message) = self.received_as(receipt) {
            if message.twin == Twin::AfterAck {
                self.add_twin(receipt.key);
            }
            self.remove(receipt.key);
        }
        Ok(())
    }

    /// Hides a leased message for `span` from now: a release, or an extension of its lease.
    pub(super) fn hide(&mut self, limits: &Limits, receipt: &Receipt, span: Duration, now: SystemTime) -> Result<()> {
        let receipt = self.parse(receipt)?;
        let lost = |why: &str| Error::new(ErrorKind::LeaseLost, format!("the lease is lost: the message {why}"));
        let Some(message) = self.received_as(receipt) else {
            return Err(lost("is gone, or was received again with a newer receipt"));
        };
        let Place::Leased(_) = message.place else {
            return Err(lost("is visible again, since its lease has ended"));
        };
        let until = later(now, span);
        if let Some(max) = limits.max_lease
            && until > later(message.received_at, max)
        {
            let held = now.duration_since(message.received_at).unwrap_or_default();
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "a message can be hidden for at most {max:?} in all from its receive, and {span:?} more after \
                     {held:?} was asked for; hide it for at most {:?}",
                    max.saturating_sub(held)
                ),
            ));
        }
        if span.is_zero() {
            self.put(receipt.key, Place::Visible);
        } else {
            self.put(receipt.key, |_| Place::Leased(until));
        }
        Ok(())
    }

    fn parse(&self, receipt: &Receipt) -> Result<ReceiptParts> {
        let parts = receipt.0.strip_prefix(self.letter).and_then(|text| text.split_once('/'));
        let parts = parts.and_then(|(key, receive_count)| {
            Some(ReceiptParts { key: key.parse().ok()?, receive_count: receive_count.parse().ok()? })
        });
        parts.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "the receipt is none of this queue's; pass on that of a delivery from it")
        })
    }

    fn received_as(&self, receipt: ReceiptParts) -> Option<&Message> {
        self.messages.get(&receipt.key).filter(|message| message.receive_count == receipt.receive_count)
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
        let twin = Message { twin: Twin::No, ..message.clone() };
        self.next_key += 1;
        self.insert(self.next_key, twin, None);
    }

    fn insert(&mut self, key: Key, mut message: Message, hidden_until: Option<SystemTime>) {
        message.place = match hidden_until {
            Some(until) => {
                self.hidden.insert((until, key));
                Place::Delayed(until)
            }
            None => {
                self.next_place += 1;
                self.visible.insert(self.next_place, key);
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

    fn remove(&mut self, key: Key) {
        self.take_from_place(key);
        if let Some(message) = self.messages.remove(&key) {
            self.by_age.remove(&(message.enqueued_at, key));
        }
    }
}

impl Message {
    fn delivery(&self, letter: char, key: Key, lease: Duration) -> Delivery {
        Delivery {
            message_id: format!("{letter}{}", self.original),
            receipt: Receipt(format!("{letter}{key}/{}", self.receive_count)),
            body: self.content.body.clone(),
            attributes: self.content.attributes.clone(),
            receive_count: self.receive_count,
            enqueued_at: self.enqueued_at,
            lease,
        }
    }
}

/// What a receipt says.
#[derive(Clone, Copy, Debug)]
struct ReceiptParts {
    key: Key,
    receive_count: u32,
}
