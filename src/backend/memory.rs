//! Messages in memory: [`MemoryBackend`], a model of SQS standard queues on a [`Clock`].
//!
//! It keeps the rules of SQS that an application can run into, so that a test on a virtual clock
//! meets them without a network: how long a message can be delayed and hidden, how large it can
//! be and what it may hold, how many can be in flight, for how long they are kept, and that a
//! receipt goes stale. The numbers are [`Limits`], which a test may change; the rest is what
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/standard-queues.html>
//! and the pages beside it say. Faults are switched on by hand: messages that come twice or out
//! of order, and [calls that fail](Fault).
//!
//! Where it departs from SQS:
//! - `receive` waits for as long as there is nothing, where SQS answers none after 20 seconds. At
//!   the quota of messages in flight it does answer none after 20 seconds.
//! - A message that is too large is refused on its own, where SQS refuses the whole call: the
//!   [`Backend`] promises an answer for each.
//! - Leases and releases are exact, where SQS counts whole seconds. Delays are rounded down to a
//!   [`delay_step`](Limits::delay_step).
//! - Nothing outlives the process.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use crate::backend::usage::{Asked, Meter};
use crate::backend::{
    Backend, BoxFuture, Delivery, Lane, LaneStats, Limits, Outgoing, Receipt, Role, Settle, Settlement, Usage,
};
use crate::clock::{Clock, later};
use crate::error::{Error, ErrorKind, Result};

mod fault;
mod queue;
mod rules;

/// The model of SQS itself, for what speaks its protocol in tests. Not part of the public API.
#[doc(hidden)]
pub mod model {
    pub use super::queue::{Acked, Ask, Choice, Exhausted, Handle, Key, Leased, Queue, Received, Unhidden};
    pub use super::rules::{MAX_ATTRIBUTES, forbidden_character, is_attribute_name};
}

#[cfg(test)]
mod tests;

pub use fault::{Action, Fault};

use fault::{Faults, Strike};
use queue::{Ask, Choice, Handle, Leased, Queue};

/// For how long a receive waits at the quota of messages in flight before it answers none: the
/// longest poll of SQS.
const LONG_POLL: Duration = Duration::from_secs(20);

/// The most entries that SQS takes, and bills, as one request.
const ENTRIES_PER_REQUEST: usize = 10;

/// Three queues in memory that keep the rules of SQS standard queues.
///
/// Clones are handles of the same queues. See the [module](self) for what it models.
///
/// ```
/// use dawdle::backend::{Backend, Lane, Outgoing, memory::MemoryBackend};
/// use dawdle::{Clock, VirtualClock};
/// use std::time::{Duration, SystemTime};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> dawdle::Result<()> {
/// let time = VirtualClock::new(SystemTime::UNIX_EPOCH);
/// let backend = MemoryBackend::new(Clock::from_virtual(time.clone()));
///
/// let message = Outgoing { delay: Duration::from_secs(900), ..Outgoing::new("later") };
/// backend.send(Lane::Message, &[message]).await.remove(0)?;
/// time.advance(Duration::from_secs(900)).await;
/// assert_eq!(backend.receive(Lane::Message, 10).await?[0].body, "later");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryBackend(Arc<Shared>);

struct Shared {
    clock: Clock,
    limits: Limits,
    meter: Meter,
    state: Mutex<State>,
    /// One for each lane: woken when a message becomes visible, or will earlier than was known.
    arrivals: [Notify; Lane::ALL.len()],
}

struct State {
    queues: [Queue<Outgoing>; Lane::ALL.len()],
    faults: Faults,
    random: fastrand::Rng,
    /// Which receiver goes first.
    turns: fastrand::Rng,
    reorder: bool,
    duplicate: f64,
}

impl MemoryBackend {
    /// Empty queues with the limits of SQS.
    pub fn new(clock: Clock) -> Self {
        MemoryBackend::with_limits(clock, Limits::sqs())
    }

    /// Empty queues with these limits; where one is `None`, there is none.
    pub fn with_limits(clock: Clock, limits: Limits) -> Self {
        MemoryBackend(Arc::new(Shared {
            clock,
            // Whatever else it is a model of: a dropped receive takes nothing here.
            limits: Limits { receive_cancels: true, ..limits },
            state: Mutex::new(State {
                queues: Default::default(),
                faults: Faults::default(),
                random: fastrand::Rng::with_seed(0),
                turns: fastrand::Rng::with_seed(0),
                reorder: false,
                duplicate: 0.0,
            }),
            meter: Meter::default(),
            arrivals: Default::default(),
        }))
    }

    /// What chance decides, of the faults below, is decided by this seed from here on; 0 at first.
    pub fn seed(&self, seed: u64) {
        self.lock().random.seed(seed);
    }

    /// Lets each message that is first received from here on come twice at this rate (0 to 1):
    /// received by somebody else as well, or coming back after its ack. Off (0) at first.
    ///
    /// SQS does both, rarely:
    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/standard-queues-at-least-once-delivery.html>
    pub fn duplicate(&self, rate: f64) {
        self.lock().duplicate = rate;
    }

    /// Lets messages be received in any order, instead of that in which they became visible. Off
    /// at first.
    pub fn reorder(&self, on: bool) {
        self.lock().reorder = on;
    }

    /// Lets the next calls of an action fail. Faults strike in the order given, one a call; one
    /// for `receive` strikes calls that begin after it was given.
    pub fn fail(&self, fault: Fault) {
        self.lock().faults.add(fault);
    }

    /// Takes back the faults given to [`fail`](MemoryBackend::fail) that have not struck.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// What SQS would have been asked so far, since the last reset.
    ///
    /// A receive counts once, when it answers, however long it has waited: SQS would have answered,
    /// and been asked again, every 20 seconds.
    pub fn requests(&self) -> Usage {
        self.0.meter.usage()
    }

    /// Counts requests from 0 again.
    pub fn reset_requests(&self) {
        self.0.meter.reset();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call: refuses a lane that is not there, takes the fault that strikes it.
    fn begin(&self, action: Action, lane: Lane, entries: usize) -> Result<Strike> {
        let limits = &self.0.limits;
        let there = match lane {
            Lane::Message => true,
            Lane::Delay => limits.delay_lane,
            Lane::Dead => limits.dead_lane,
        };
        if !there {
            return Err(Error::new(
                ErrorKind::Queue,
                format!("there is no {lane}; give this memory backend limits that have one"),
            ));
        }
        Ok(self.lock().faults.strike(action, Some(lane), entries))
    }

    fn count(&self, asked: Asked, entries: usize) {
        self.0.meter.count(asked, entries.div_ceil(ENTRIES_PER_REQUEST) as u64);
    }

    /// Counts a receive by what it has taken.
    fn count_taken(&self, deliveries: &[Delivery]) {
        self.count(if deliveries.is_empty() { Asked::Empty } else { Asked::Receive }, 1);
        self.0.meter.bill(deliveries.iter().map(Delivery::bytes).sum());
    }

    /// Changes a lane at this instant, and wakes its receivers if they have something to see.
    fn change<T>(&self, lane: Lane, change: impl FnOnce(&mut Queue<Outgoing>, SystemTime) -> T) -> T {
        let now = self.0.clock.now();
        let (output, wake) = {
            let mut state = self.lock();
            let queue = &mut state.queues[lane as usize];
            queue.move_on(&self.0.limits, now);
            let due = queue.next_due();
            let output = change(queue, now);
            let sooner = queue.next_due().is_some_and(|next| due.is_none_or(|due| next < due));
            (output, sooner || queue.has_visible())
        };
        if wake {
            self.0.arrivals[lane as usize].notify_waiters();
        }
        output
    }

    /// Changes a lane entry by entry, except for those that a fault strikes.
    fn change_each<E>(
        &self,
        lane: Lane,
        strike: &Strike,
        entries: &[E],
        mut change: impl FnMut(&mut Queue<Outgoing>, &E, SystemTime) -> Result<()>,
    ) -> Vec<Result<()>> {
        self.change(lane, |queue, now| {
            let answers = entries.iter().enumerate().map(|(position, entry)| {
                strike.entry_before(position)?;
                change(queue, entry, now)?;
                strike.entry_after(position)
            });
            answers.collect()
        })
    }

    fn send_now(&self, lane: Lane, messages: &[Outgoing]) -> Vec<Result<()>> {
        let limits = &self.0.limits;
        self.count(Asked::Send, messages.len());
        for request in messages.chunks(ENTRIES_PER_REQUEST) {
            self.0.meter.bill(request.iter().map(Outgoing::bytes).sum());
        }
        let begun = self.begin(Action::Send, lane, messages.len());
        let strike = match rules::entries(limits, messages.len()).and(begun) {
            Ok(strike) => strike,
            Err(error) => return refuse_all(messages.len(), &error),
        };
        let mut checks: Vec<_> = messages.iter().map(|message| rules::message(limits, message)).collect();
        let sound = messages.iter().zip(&checks).filter(|(_, check)| check.is_ok());
        if let Err(error) = rules::batch_bytes(limits, sound.map(|(message, _)| message.bytes()).sum()) {
            checks.iter_mut().filter(|check| check.is_ok()).for_each(|check| *check = Err(error.clone()));
        }
        let entries: Vec<_> = messages.iter().zip(checks).collect();
        self.change_each(lane, &strike, &entries, |queue, (message, check), now| {
            check.clone()?;
            queue.send((*message).clone(), rules::whole_steps(limits, message.delay), now);
            Ok(())
        })
    }

    fn settle_now(&self, lane: Lane, entries: &[Settle]) -> Vec<Result<()>> {
        let limits = &self.0.limits;
        let acks = entries.iter().filter(|entry| entry.how == Settlement::Ack).count();
        self.count(Asked::Delete, acks);
        self.count(Asked::ChangeVisibility, entries.len() - acks);
        let begun = self.begin(Action::Settle, lane, entries.len());
        let strike = match rules::entries(limits, entries.len()).and(begun) {
            Ok(strike) => strike,
            Err(error) => return refuse_all(entries.len(), &error),
        };
        self.change_each(lane, &strike, entries, |queue, entry, now| match entry.how {
            Settlement::Ack => {
                queue.ack(parse(lane, &entry.receipt)?);
                Ok(())
            }
            Settlement::ReleaseAfter(delay) => {
                rules::lease(limits, delay)?;
                Ok(queue.hide(limits, parse(lane, &entry.receipt)?, delay, now)?)
            }
        })
    }

    fn extend_now(&self, lane: Lane, receipts: &[Receipt], lease: Duration) -> Vec<Result<()>> {
        let limits = &self.0.limits;
        self.count(Asked::ChangeVisibility, receipts.len());
        let begun = self.begin(Action::Extend, lane, receipts.len());
        let checked = rules::entries(limits, receipts.len()).and(rules::lease(limits, lease));
        let strike = match checked.and(begun) {
            Ok(strike) => strike,
            Err(error) => return refuse_all(receipts.len(), &error),
        };
        self.change_each(lane, &strike, receipts, |queue, receipt, now| {
            Ok(queue.hide(limits, parse(lane, receipt)?, lease, now)?)
        })
    }

    async fn receive_waiting(&self, lane: Lane, max: usize) -> Result<Vec<Delivery>> {
        let (max, strike) = self.begin_receive(Action::Receive, lane, max)?;
        let mut poll_ends = None;
        loop {
            // Listening begins before looking, so that nothing falls in between.
            let mut arrival = pin!(self.0.arrivals[lane as usize].notified());
            arrival.as_mut().enable();
            let taken = self.take(lane, max, self.0.limits.lease);
            if !taken.deliveries.is_empty() {
                self.count_taken(&taken.deliveries);
                strike.after()?;
                return Ok(taken.deliveries);
            }
            let mut look_again = taken.next_due;
            if taken.full {
                let ends = *poll_ends.get_or_insert_with(|| later(taken.now, LONG_POLL));
                if ends <= taken.now {
                    self.count(Asked::Empty, 1);
                    return Ok(Vec::new());
                }
                look_again = Some(look_again.map_or(ends, |due| due.min(ends)));
            } else {
                poll_ends = None;
            }
            match look_again {
                Some(time) => {
                    tokio::select! {
                        () = arrival => {}
                        () = self.0.clock.sleep_until(time) => {}
                    }
                }
                None => arrival.await,
            }
            self.let_others_go_first().await;
        }
    }

    /// By chance: receivers that are woken together would else always be served in one order,
    /// where SQS serves any of them.
    async fn let_others_go_first(&self) {
        let mut turns = self.lock().turns.u8(0..4);
        std::future::poll_fn(|cx| {
            if turns == 0 {
                return Poll::Ready(());
            }
            turns -= 1;
            // Not tokio's yield: that wakes later, behind a virtual clock's back.
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn browse_now(&self, lane: Lane, max: usize, hold: Duration) -> Result<Vec<Delivery>> {
        rules::lease(&self.0.limits, hold)?;
        let (max, strike) = self.begin_receive(Action::Browse, lane, max)?;
        let taken = self.take(lane, max, hold);
        self.count_taken(&taken.deliveries);
        if taken.full && taken.deliveries.is_empty() {
            return Err(Error::new(
                ErrorKind::Throttled,
                format!(
                    "the {lane} has as many messages in flight as it may, {}; settle some first",
                    self.0.limits.max_in_flight.unwrap_or(u64::MAX)
                ),
            ));
        }
        strike.after()?;
        Ok(taken.deliveries)
    }

    fn begin_receive(&self, action: Action, lane: Lane, max: usize) -> Result<(usize, Strike)> {
        let most = self.0.limits.max_batch_entries;
        if max == 0 {
            return Err(rules::invalid(format!("a receive takes 1 to {most} messages, and 0 were asked for")));
        }
        let strike = self.begin(action, lane, 1)?;
        if let Err(error) = strike.before() {
            self.count(Asked::Receive, 1);
            return Err(error);
        }
        Ok((max.min(most), strike))
    }

    /// Leases what is visible. Wakes other receivers for nothing but a message that comes twice:
    /// they know of the rest.
    fn take(&self, lane: Lane, max: usize, lease: Duration) -> Taken {
        let now = self.0.clock.now();
        let limits = &self.0.limits;
        let taken = {
            let mut state = self.lock();
            let State { queues, random, reorder, duplicate, .. } = &mut *state;
            let queue = &mut queues[lane as usize];
            queue.move_on(limits, now);
            let full = queue.is_full(limits);
            let (duplicate, undelete) = (*duplicate / 2.0, *duplicate / 2.0);
            let mut choice = Choice { random, reorder: *reorder, duplicate, undelete };
            let ask = Ask { max, lease, max_receives: None, now };
            let leased = queue.receive(limits, ask, &mut choice).leased;
            let deliveries = leased.into_iter().map(|message| delivery(lane, message, lease)).collect::<Vec<_>>();
            Taken { deliveries, full, next_due: queue.next_due(), now, more: queue.has_visible() }
        };
        if !taken.deliveries.is_empty() && taken.more {
            self.0.arrivals[lane as usize].notify_waiters();
        }
        taken
    }
}

/// What a look at a lane yields.
struct Taken {
    deliveries: Vec<Delivery>,
    full: bool,
    next_due: Option<SystemTime>,
    now: SystemTime,
    more: bool,
}

/// What the message ids and receipts of a lane begin with.
fn letter(lane: Lane) -> char {
    match lane {
        Lane::Message => 'm',
        Lane::Delay => 'd',
        Lane::Dead => 'x',
    }
}

fn delivery(lane: Lane, message: Leased<Outgoing>, lease: Duration) -> Delivery {
    let letter = letter(lane);
    let Handle { key, receive_count } = message.handle;
    Delivery {
        message_id: format!("{letter}{}", message.original),
        receipt: Receipt(format!("{letter}{key}/{receive_count}")),
        body: message.content.body.clone(),
        attributes: message.content.attributes.clone(),
        receive_count,
        enqueued_at: message.enqueued_at,
        lease,
    }
}

fn parse(lane: Lane, receipt: &Receipt) -> Result<Handle> {
    let parts = receipt.0.strip_prefix(letter(lane)).and_then(|text| text.split_once('/'));
    let handle = parts.and_then(|(key, receive_count)| {
        Some(Handle { key: key.parse().ok()?, receive_count: receive_count.parse().ok()? })
    });
    handle.ok_or_else(|| {
        Error::new(ErrorKind::Invalid, "the receipt is none of this queue's; pass on that of a delivery from it")
    })
}

fn refuse_all(entries: usize, error: &Error) -> Vec<Result<()>> {
    (0..entries).map(|_| Err(error.clone())).collect()
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend").field("clock", &self.0.clock).finish_non_exhaustive()
    }
}

impl Backend for MemoryBackend {
    fn name(&self) -> &str {
        "memory"
    }

    fn describe(&self) -> String {
        "the memory of this process".to_owned()
    }

    fn limits(&self) -> Limits {
        self.0.limits.clone()
    }

    fn usage(&self) -> Usage {
        self.requests()
    }

    fn check(&self, _role: Role) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let strike = self.lock().faults.strike(Action::Check, None, 1);
            strike.before().and(strike.after())
        })
    }

    fn send<'a>(&'a self, lane: Lane, messages: &'a [Outgoing]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move { self.send_now(lane, messages) })
    }

    /// Waits until there is a message; at the quota of messages in flight, for at most 20 seconds.
    ///
    /// Cancel-safe: what is dropped while it waits has taken nothing.
    fn receive(&self, lane: Lane, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(self.receive_waiting(lane, max))
    }

    fn settle<'a>(&'a self, lane: Lane, entries: &'a [Settle]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move { self.settle_now(lane, entries) })
    }

    fn extend<'a>(&'a self, lane: Lane, receipts: &'a [Receipt], lease: Duration) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move { self.extend_now(lane, receipts, lease) })
    }

    fn inspect(&self, lane: Lane) -> BoxFuture<'_, Result<LaneStats>> {
        Box::pin(async move {
            self.count(Asked::GetAttributes, 1);
            let strike = self.begin(Action::Inspect, lane, 1)?;
            strike.before().and(strike.after())?;
            Ok(self.change(lane, |queue, now| queue.stats(now)))
        })
    }

    fn browse(&self, lane: Lane, max: usize, hold: Duration) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(async move { self.browse_now(lane, max, hold) })
    }
}
