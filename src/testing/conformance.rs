//! The suite that every [`Backend`] passes: Dawdle's own, and yours.
//!
//! Each function checks one property that Dawdle relies on, on a backend that is fresh and empty,
//! and panics with the property's name where it does not hold. To run them on a backend, say how
//! to open one and how to let time pass: implement [`Subject`]. Then either
//! [`conformance_tests!`](crate::conformance_tests) makes a test of each property, or
//! [`run_all`] runs all of them in one. What a backend openly does not promise is switched off in
//! its [`Features`].
//!
//! ```
//! use std::sync::Arc;
//! use std::time::{Duration, SystemTime};
//!
//! use dawdle::backend::{Backend, BoxFuture, memory::MemoryBackend};
//! use dawdle::testing::conformance::{self, Subject};
//! use dawdle::{Clock, VirtualClock};
//!
//! struct Memory(VirtualClock);
//!
//! impl Subject for Memory {
//!     fn open(&self, handles: usize) -> BoxFuture<'_, Vec<Arc<dyn Backend>>> {
//!         Box::pin(async move {
//!             let backend = MemoryBackend::new(Clock::from_virtual(self.0.clone()));
//!             (0..handles).map(|_| Arc::new(backend.clone()) as Arc<dyn Backend>).collect()
//!         })
//!     }
//!
//!     fn pass(&self, span: Duration) -> BoxFuture<'_, ()> {
//!         Box::pin(self.0.advance(span))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! conformance::run_all(&Memory(VirtualClock::new(SystemTime::UNIX_EPOCH))).await;
//! # }
//! ```
//!
//! A backend on the system's clock passes time by really sleeping:
//! `Box::pin(tokio::time::sleep(span))`. Give it [leases](crate::backend::Limits::lease) of 1 or 2
//! seconds, and the whole suite takes less than a minute.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::backend::{Backend, BoxFuture, Delivery, Lane, Limits, Outgoing, Receipt, Settle, Settlement};
use crate::error::{Error, ErrorKind, Result};

/// The largest message that the suite really sends.
const LARGE: usize = 1024 * 1024;

/// A backend under test.
pub trait Subject: Send + Sync {
    /// Opens fresh and empty queues, and answers this many handles of them. Each is ready for
    /// use; where the backend has only one handle of a queue, its clones will do.
    fn open(&self, handles: usize) -> BoxFuture<'_, Vec<Arc<dyn Backend>>>;

    /// Lets this much time pass: really sleeps, or moves the clock that the backend runs on.
    fn pass(&self, span: Duration) -> BoxFuture<'_, ()>;

    /// What the backend promises beyond what every backend does.
    fn features(&self) -> Features {
        Features::default()
    }
}

/// What a backend promises beyond what every backend does: by default, everything.
///
/// ```
/// use dawdle::testing::conformance::Features;
///
/// let mut features = Features::default();
/// features.exact_counts = false;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// `inspect` counts exactly, and at once.
    pub exact_counts: bool,
    /// A message over [`Limits::max_message_bytes`] is refused.
    pub message_limit: bool,
    /// A delay over [`Limits::max_delay`] is refused.
    pub delay_limit: bool,
    /// A lease over [`Limits::max_lease`] is refused.
    pub lease_limit: bool,
    /// An ack with a stale receipt leaves the newer delivery alone. A backend is to promise this;
    /// some emulators of SQS do not.
    pub stale_ack_is_harmless: bool,
    /// A release or extension with a receipt that is stale or gone is answered by
    /// [`ErrorKind::LeaseLost`].
    pub stale_receipt_is_told: bool,
    /// How late a message may become visible, measured from outside.
    pub lateness: Duration,
}

impl Default for Features {
    /// Everything, and 5 seconds of lateness.
    fn default() -> Self {
        Features {
            exact_counts: true,
            message_limit: true,
            delay_limit: true,
            lease_limit: true,
            stale_ack_is_harmless: true,
            stale_receipt_is_told: true,
            lateness: Duration::from_secs(5),
        }
    }
}

/// Makes a `#[tokio::test]` of each property of the [conformance suite](crate::testing::conformance),
/// for the [`Subject`](crate::testing::conformance::Subject) that an expression yields. The
/// expression is evaluated in each test.
///
/// The crate that calls it needs tokio with the features `macros` and `rt`.
///
/// ```
/// # struct MySubject;
/// mod my_backend {
///     dawdle::conformance_tests!(super::MySubject);
/// }
/// ```
#[macro_export]
macro_rules! conformance_tests {
    (@each_property $($then:tt)*) => {
        $crate::conformance_tests! { @ $($then)* :
            bodies_and_attributes_arrive_exactly
            a_large_body_arrives_exactly
            what_was_sent_outlives_the_handle_that_sent_it
            a_call_without_entries_answers_none
            a_receive_yields_at_most_what_was_asked_for
            a_receive_waits_and_wakes_on_a_send
            a_receive_waits_and_wakes_when_a_delay_ends
            a_dropped_receive_loses_nothing
            each_receive_has_the_same_id_a_new_receipt_and_a_higher_count
            a_delay_hides_for_its_length
            a_lease_hides_until_it_ends
            an_extension_hides_for_longer
            a_release_shows_at_once
            a_release_with_a_delay_hides_for_its_length
            an_ack_removes_for_good
            an_ack_can_be_repeated
            a_stale_ack_leaves_the_newer_delivery_alone
            a_stale_receipt_neither_extends_nor_releases_the_newer_delivery
            an_extension_of_what_is_gone_brings_nothing_back
            a_failed_entry_spares_its_neighbours
            a_settlement_answers_each_entry
            a_message_over_the_limit_is_refused_and_one_at_the_limit_taken
            a_delay_over_the_limit_is_refused
            a_lease_over_the_limit_is_refused
            lanes_are_separate
            a_browse_holds_what_it_shows
            a_browse_shows_every_letter_in_several_calls
            a_dead_letter_goes_back_to_the_message_queue
            an_inspection_counts_what_is_there
            receivers_at_once_share_the_messages
        }
    };
    (@tests ($subject:expr) : $($property:ident)*) => {
        $(
            #[::tokio::test]
            async fn $property() {
                $crate::testing::conformance::$property(&$subject).await;
            }
        )*
    };
    (@run $subject:ident : $($property:ident)*) => {
        $(
            ::std::println!("conformance: {}", stringify!($property));
            $property($subject).await;
        )*
    };
    ($subject:expr) => {
        $crate::conformance_tests! { @each_property tests ($subject) }
    };
}

/// Runs every property, one after another, printing the name of each before it.
///
/// # Panics
/// When a property does not hold, naming it.
pub async fn run_all(subject: &dyn Subject) {
    conformance_tests! { @each_property run subject }
}

/// Bodies of one byte, of all kinds of characters, and with spaces around them come as they were
/// sent, and so do the attributes beside them.
pub async fn bodies_and_attributes_arrive_exactly(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "bodies_and_attributes_arrive_exactly").await;
    let mut bodies = vec!["1", " \t\r\n around \n", r#"{"escaped":"\u0000\u001f\uffff","quoted":"\"\\"}"#];
    bodies.extend(["<a href='x'>&amp;</a> %00 + ;--", "Grüße, 世界, 🦥, e\u{301}, \u{FFFD}\u{10FFFF}"]);
    let attribute = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let attributes = BTreeMap::from([
        attribute("trace-parent_1.a", "00-ab"),
        attribute("UPPER", "ü 世界 🦥 <&>"),
        attribute("n", "1"),
    ]);
    let mut sent: Vec<_> = bodies.into_iter().map(Outgoing::new).collect();
    sent.push(Outgoing { attributes, ..Outgoing::new("with attributes") });
    trial.send(Lane::Message, &sent).await;

    let mut arrived = trial.arrive(Lane::Message, sent.len()).await;
    arrived.sort_by(|one, other| one.body.cmp(&other.body));
    sent.sort_by(|one, other| one.body.cmp(&other.body));
    for (delivery, message) in arrived.iter().zip(&sent) {
        trial.same(&delivery.body, &message.body, "the body");
        trial.same(&delivery.attributes, &message.attributes, "the attributes");
        trial.same(delivery.receive_count, 1, "the receive count");
    }
}

/// A body as large as the limit allows, up to 1 MiB, comes as it was sent.
pub async fn a_large_body_arrives_exactly(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_large_body_arrives_exactly").await;
    let bytes = trial.limits.max_message_bytes.min(LARGE);
    let mut body: String = (0..bytes / 2 / 4).map(|_| '🦥').collect();
    body.extend((body.len()..bytes).map(|at| char::from(b'a' + (at % 26) as u8)));
    trial.send(Lane::Message, &[Outgoing::new(body.clone())]).await;
    let arrived = trial.arrive_one(Lane::Message).await;
    trial.ensure(arrived.body == body, || format!("a body of {bytes} bytes arrived changed"));
}

/// What was sent is there for another handle when the one that sent it is gone.
pub async fn what_was_sent_outlives_the_handle_that_sent_it(subject: &dyn Subject) {
    let mut trial = Trial::begin(subject, "what_was_sent_outlives_the_handle_that_sent_it").await;
    let sender = trial.open(2).await.remove(0);
    trial.all_ok(sender.send(Lane::Message, &[Outgoing::new("testament")]).await, "sending");
    drop(sender);
    trial.same(&trial.arrive_one(Lane::Message).await.body, "testament", "the body");
}

/// A call without entries is answered without answers.
pub async fn a_call_without_entries_answers_none(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_call_without_entries_answers_none").await;
    let backend = &trial.backend;
    trial.same(backend.send(Lane::Message, &[]).await.len(), 0, "the answers of send");
    trial.same(backend.settle(Lane::Message, &[]).await.len(), 0, "the answers of settle");
    trial.same(backend.extend(Lane::Message, &[], trial.limits.lease).await.len(), 0, "the answers of extend");
}

/// A receive yields no more messages than it was asked for, and the others stay.
pub async fn a_receive_yields_at_most_what_was_asked_for(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_receive_yields_at_most_what_was_asked_for").await;
    trial.send_numbers(Lane::Message, 5).await;
    let mut seen = BTreeSet::new();
    while seen.len() < 5 {
        let deliveries = trial.within(trial.features.lateness, trial.backend.receive(Lane::Message, 2)).await;
        let Some(deliveries) = deliveries else { trial.fail(&format!("only {} of 5 messages came", seen.len())) };
        let deliveries = trial.ok(deliveries, "receiving");
        trial.ensure(deliveries.len() <= 2, || format!("2 were asked for, {} came", deliveries.len()));
        seen.extend(deliveries.into_iter().map(|delivery| delivery.body));
    }
}

/// A receive of an empty lane waits, and a send through another handle ends the wait.
pub async fn a_receive_waits_and_wakes_on_a_send(subject: &dyn Subject) {
    let mut trial = Trial::begin(subject, "a_receive_waits_and_wakes_on_a_send").await;
    let receiver = trial.open(2).await.remove(0);
    let mut receive = pin!(receiver.receive(Lane::Message, 10));
    let early = trial.within(Duration::from_millis(200), receive.as_mut()).await;
    trial.send_numbers(Lane::Message, 1).await;
    let arrived = match early {
        Some(answer) => {
            trial.same(trial.ok(answer, "receiving").len(), 0, "the messages received before any was sent");
            trial.arrive(Lane::Message, 1).await
        }
        None => match trial.within(trial.features.lateness, receive).await {
            Some(answer) => trial.ok(answer, "receiving"),
            None => trial.fail("the receive did not wake"),
        },
    };
    trial.same(arrived.len(), 1, "the messages received");
}

/// A receive that waits yields a delayed message when its delay ends, and not before.
pub async fn a_receive_waits_and_wakes_when_a_delay_ends(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_receive_waits_and_wakes_when_a_delay_ends").await;
    let (delay, since) = (trial.span(), Instant::now());
    trial.send(Lane::Message, &[Outgoing { delay, ..Outgoing::new("later") }]).await;
    let mut receive = pin!(trial.backend.receive(Lane::Message, 10));
    let most = delay.mul_f64(0.75);
    if let Some(answer) = trial.within(most, receive.as_mut()).await {
        let received = trial.ok(answer, "receiving");
        // The delay may have begun long before a slow send was over.
        let late = Instant::now() >= since + delay;
        trial.ensure(received.is_empty() || late, || "the delay had not ended, and a message was received".to_owned());
        return;
    }
    match trial.within(delay - most + trial.features.lateness, receive).await {
        Some(answer) => trial.same(trial.ok(answer, "receiving").len(), 1, "the messages received"),
        None => trial.fail("the receive did not wake"),
    }
}

/// What a dropped receive has taken comes back when its lease ends.
pub async fn a_dropped_receive_loses_nothing(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_dropped_receive_loses_nothing").await;
    // One that waits, and one that has messages to take.
    trial.poll_once_and_drop(trial.backend.receive(Lane::Message, 10)).await;
    trial.send_numbers(Lane::Message, 3).await;
    trial.poll_once_and_drop(trial.backend.receive(Lane::Message, 10)).await;
    let patience = trial.limits.lease * 3 + trial.features.lateness;
    let mut seen = BTreeSet::new();
    let all = trial.within(patience, async {
        while seen.len() < 3 {
            let deliveries = trial.ok(trial.backend.receive(Lane::Message, 10).await, "receiving");
            seen.extend(deliveries.into_iter().map(|delivery| delivery.body));
        }
    });
    if all.await.is_none() {
        trial.fail("some of 3 messages did not come back");
    }
}

/// A message keeps its id and its enqueue time, gets a new receipt, and counts its receives.
pub async fn each_receive_has_the_same_id_a_new_receipt_and_a_higher_count(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "each_receive_has_the_same_id_a_new_receipt_and_a_higher_count").await;
    trial.send_numbers(Lane::Message, 1).await;
    let mut receipts = BTreeSet::new();
    let mut first: Option<Delivery> = None;
    for count in 1..=3 {
        let delivery = trial.arrive_one(Lane::Message).await;
        trial.same(delivery.receive_count, count, "the receive count");
        trial.ensure(receipts.insert(delivery.receipt.0.clone()), || "a receipt came twice".to_owned());
        trial.ok(trial.release(&delivery, Duration::ZERO).await, "releasing");
        let first = first.get_or_insert(delivery.clone());
        trial.same(&delivery.message_id, &first.message_id, "the message id");
        trial.same(delivery.enqueued_at, first.enqueued_at, "the enqueue time");
    }
    trial.send_numbers(Lane::Message, 1).await;
    let ids: BTreeSet<_> = trial.arrive(Lane::Message, 2).await.into_iter().map(|each| each.message_id).collect();
    trial.same(ids.len(), 2, "the ids of two messages");
}

/// A delayed message cannot be received before its delay has passed, and can be after.
pub async fn a_delay_hides_for_its_length(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_delay_hides_for_its_length").await;
    let delay = trial.span();
    let since = Instant::now();
    trial.send(Lane::Message, &[Outgoing { delay, ..Outgoing::new("later") }]).await;
    trial.hidden_for(Lane::Message, since, delay).await;
    trial.arrive_one(Lane::Message).await;
}

/// A received message cannot be received again before its lease ends, and can be after.
pub async fn a_lease_hides_until_it_ends(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_lease_hides_until_it_ends").await;
    trial.send_numbers(Lane::Message, 1).await;
    let since = Instant::now();
    let first = trial.arrive_one(Lane::Message).await;
    trial.same(first.lease, trial.limits.lease, "the lease");
    let late = trial.hidden_for(Lane::Message, since, first.lease).await;
    let second = trial.arrive_one(Lane::Message).await;
    trial.same(second.message_id, first.message_id, "the message id");
    trial.same(second.receive_count, 2 + late, "the receive count");
}

/// An extension leases a message for as long as it says, counted from then.
pub async fn an_extension_hides_for_longer(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "an_extension_hides_for_longer").await;
    trial.send_numbers(Lane::Message, 1).await;
    let delivery = trial.arrive_one(Lane::Message).await;
    let longer = trial.limits.lease * 2;
    let since = Instant::now();
    trial.ok(trial.extend(&delivery, longer).await, "extending");
    trial.hidden_for(Lane::Message, since, longer).await;
    trial.arrive_one(Lane::Message).await;
}

/// A released message can be received at once.
pub async fn a_release_shows_at_once(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_release_shows_at_once").await;
    trial.send_numbers(Lane::Message, 1).await;
    let first = trial.arrive_one(Lane::Message).await;
    trial.ok(trial.release(&first, Duration::ZERO).await, "releasing");
    let second = trial.arrive_one(Lane::Message).await;
    trial.same(second.message_id, first.message_id, "the message id");
    trial.same(second.receive_count, 2, "the receive count");
}

/// A message released with a delay is hidden for that long, then comes back.
pub async fn a_release_with_a_delay_hides_for_its_length(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_release_with_a_delay_hides_for_its_length").await;
    trial.send_numbers(Lane::Message, 1).await;
    let delivery = trial.arrive_one(Lane::Message).await;
    let delay = trial.span() + trial.limits.lease;
    let since = Instant::now();
    trial.ok(trial.release(&delivery, delay).await, "releasing");
    trial.hidden_for(Lane::Message, since, delay).await;
    trial.arrive_one(Lane::Message).await;
}

/// An acked message does not come back when its lease ends.
pub async fn an_ack_removes_for_good(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "an_ack_removes_for_good").await;
    trial.send_numbers(Lane::Message, 3).await;
    let deliveries = trial.arrive(Lane::Message, 3).await;
    let entries: Vec<_> = deliveries.iter().map(ack).collect();
    trial.all_ok(trial.backend.settle(Lane::Message, &entries).await, "acking");
    trial.nothing_visible(Lane::Message, "right after the ack").await;
    subject.pass(trial.limits.lease + trial.limits.lease / 4).await;
    trial.nothing_visible(Lane::Message, "when the lease would have ended").await;
}

/// A second ack of a message harms nothing.
pub async fn an_ack_can_be_repeated(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "an_ack_can_be_repeated").await;
    trial.send_numbers(Lane::Message, 2).await;
    let deliveries = trial.arrive(Lane::Message, 2).await;
    trial.ok(trial.ack(&deliveries[0]).await, "acking");
    trial.lost_at_worst(trial.ack(&deliveries[0]).await, "acking once more");
    trial.ok(trial.release(&deliveries[1], Duration::ZERO).await, "releasing");
    trial.same(trial.arrive_one(Lane::Message).await.body, deliveries[1].body.clone(), "the message left");
}

/// An ack by who has lost the lease does not remove what somebody else has received since.
pub async fn a_stale_ack_leaves_the_newer_delivery_alone(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_stale_ack_leaves_the_newer_delivery_alone").await;
    if !trial.features.stale_ack_is_harmless {
        return trial.skipped();
    }
    trial.send_numbers(Lane::Message, 1).await;
    let stale = trial.arrive_one(Lane::Message).await;
    subject.pass(trial.limits.lease).await;
    let newer = trial.arrive_one(Lane::Message).await;
    trial.lost_at_worst(trial.ack(&stale).await, "acking by the stale receipt");
    trial.ok(trial.release(&newer, Duration::ZERO).await, "releasing the newer delivery");
    let last = trial.arrive_one(Lane::Message).await;
    trial.ok(trial.ack(&last).await, "acking the newest delivery");
    trial.nothing_visible(Lane::Message, "after the newest ack").await;
}

/// Who has lost the lease can neither prolong nor end that of somebody else.
pub async fn a_stale_receipt_neither_extends_nor_releases_the_newer_delivery(subject: &dyn Subject) {
    let name = "a_stale_receipt_neither_extends_nor_releases_the_newer_delivery";
    let trial = Trial::begin(subject, name).await;
    if !trial.features.stale_receipt_is_told {
        return trial.skipped();
    }
    trial.send_numbers(Lane::Message, 1).await;
    let stale = trial.arrive_one(Lane::Message).await;
    subject.pass(trial.limits.lease).await;
    trial.arrive_one(Lane::Message).await;
    trial.lost(trial.release(&stale, Duration::ZERO).await, "releasing by the stale receipt");
    trial.nothing_visible(Lane::Message, "after a stale release").await;
    trial.lost(trial.extend(&stale, trial.limits.lease * 4).await, "extending by the stale receipt");
    subject.pass(trial.limits.lease).await;
    trial.arrive_one(Lane::Message).await;
}

/// An extension of what was acked fails where the backend can tell, and brings nothing back.
pub async fn an_extension_of_what_is_gone_brings_nothing_back(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "an_extension_of_what_is_gone_brings_nothing_back").await;
    trial.send_numbers(Lane::Message, 2).await;
    let deliveries = trial.arrive(Lane::Message, 2).await;
    trial.ok(trial.ack(&deliveries[0]).await, "acking");
    let receipts: Vec<Receipt> = deliveries.iter().map(|delivery| delivery.receipt.clone()).collect();
    let mut answers = trial.backend.extend(Lane::Message, &receipts, trial.limits.lease).await;
    trial.same(answers.len(), 2, "the answers");
    trial.ok(answers.remove(1), "extending what is there");
    if trial.features.stale_receipt_is_told {
        trial.lost(answers.remove(0), "extending what is gone");
        trial.lost(trial.release(&deliveries[0], Duration::ZERO).await, "releasing what is gone");
    }
    trial.nothing_visible(Lane::Message, "after an extension of what is gone").await;
}

/// Of a call with one entry that must be refused, the others are sent, and each is answered in
/// its place.
pub async fn a_failed_entry_spares_its_neighbours(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_failed_entry_spares_its_neighbours").await;
    let mut bad = Vec::new();
    if trial.features.message_limit {
        bad.push(Outgoing::new("x".repeat(trial.limits.max_message_bytes + 1)));
    }
    if let (Some(max), true) = (trial.limits.max_delay, trial.features.delay_limit) {
        bad.push(Outgoing { delay: max + trial.limits.delay_step, ..Outgoing::new("too late") });
    }
    if bad.is_empty() || trial.limits.max_batch_entries < 3 {
        return trial.skipped();
    }
    for bad in bad {
        let answers = trial.backend.send(Lane::Message, &[Outgoing::new("first"), bad, Outgoing::new("last")]).await;
        let good: Vec<_> = answers.iter().map(Result::is_ok).collect();
        trial.same(good, vec![true, false, true], "which entries were sent");
        let arrived = trial.arrive(Lane::Message, 2).await;
        let bodies: BTreeSet<_> = arrived.iter().map(|delivery| delivery.body.as_str()).collect();
        trial.same(bodies, BTreeSet::from(["first", "last"]), "what came");
        trial.all_ok(trial.backend.settle(Lane::Message, &[ack(&arrived[0]), ack(&arrived[1])]).await, "acking");
    }
}

/// Acks, releases and the ack of what is gone, in one call, each have their own effect.
pub async fn a_settlement_answers_each_entry(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_settlement_answers_each_entry").await;
    if trial.limits.max_batch_entries < 4 {
        return trial.skipped();
    }
    trial.send_numbers(Lane::Message, 4).await;
    let deliveries = trial.arrive(Lane::Message, 4).await;
    trial.ok(trial.ack(&deliveries[1]).await, "acking");
    let entries = [
        ack(&deliveries[0]),
        ack(&deliveries[1]),
        release(&deliveries[2], Duration::ZERO),
        release(&deliveries[3], Duration::ZERO),
    ];
    let mut answers = trial.backend.settle(Lane::Message, &entries).await;
    trial.same(answers.len(), 4, "the answers");
    trial.lost_at_worst(answers.remove(1), "acking what is gone");
    trial.all_ok(answers, "settling");
    let mut back: Vec<_> = trial.arrive(Lane::Message, 2).await.into_iter().map(|each| each.message_id).collect();
    let mut released: Vec<_> = deliveries[2..].iter().map(|each| each.message_id.clone()).collect();
    back.sort();
    released.sort();
    trial.same(back, released, "what came back");
}

/// A message at the size limit is taken; a byte more is refused, with both numbers in the text.
pub async fn a_message_over_the_limit_is_refused_and_one_at_the_limit_taken(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_message_over_the_limit_is_refused_and_one_at_the_limit_taken").await;
    if !trial.features.message_limit {
        return trial.skipped();
    }
    let max = trial.limits.max_message_bytes;
    let mut message = Outgoing::new("x".repeat(max));
    message.attributes.insert("name".to_owned(), "é".to_owned());
    let bytes = message.bytes();
    let error = trial.refused(trial.try_send(message).await, "sending too large a message");
    trial.same(error.kind(), ErrorKind::TooLarge, "the kind of the error");
    for number in [max, bytes] {
        trial.ensure(error.to_string().contains(&number.to_string()), || format!("`{error}` does not name {number}"));
    }
    if max <= LARGE {
        let mut message = Outgoing::new("x".repeat(max - (bytes - max)));
        message.attributes.insert("name".to_owned(), "é".to_owned());
        trial.ok(trial.try_send(message).await, "sending a message at the limit");
        trial.arrive_one(Lane::Message).await;
    }
    trial.nothing_visible(Lane::Message, "after a refused message").await;
}

/// A delay over the limit is refused; where there is no limit, a long one hides.
pub async fn a_delay_over_the_limit_is_refused(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_delay_over_the_limit_is_refused").await;
    if !trial.features.delay_limit {
        return trial.skipped();
    }
    match trial.limits.max_delay {
        Some(max) => {
            let message = Outgoing { delay: max + trial.limits.delay_step, ..Outgoing::new("too late") };
            trial.refused(trial.try_send(message).await, "sending with too long a delay");
            let message = Outgoing { delay: max, ..Outgoing::new("just in time") };
            trial.ok(trial.try_send(message).await, "sending with the longest delay");
        }
        None => {
            let delay = Duration::from_secs(400 * 86_400);
            trial.ok(trial.try_send(Outgoing { delay, ..Outgoing::new("next year") }).await, "sending for next year");
        }
    }
    trial.nothing_visible(Lane::Message, "while it is delayed").await;
}

/// A lease over the limit is refused, and the delivery keeps the lease that it has.
pub async fn a_lease_over_the_limit_is_refused(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_lease_over_the_limit_is_refused").await;
    let (Some(max), true) = (trial.limits.max_lease, trial.features.lease_limit) else { return trial.skipped() };
    trial.send_numbers(Lane::Message, 1).await;
    let delivery = trial.arrive_one(Lane::Message).await;
    let over = max + Duration::from_secs(1);
    trial.refused(trial.extend(&delivery, over).await, "extending for too long");
    trial.refused(trial.release(&delivery, over).await, "releasing for too long");
    trial.nothing_visible(Lane::Message, "after a refused release").await;
    trial.ok(trial.ack(&delivery).await, "acking");
}

/// What is sent to one lane comes from that lane, and settles there.
pub async fn lanes_are_separate(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "lanes_are_separate").await;
    for lane in trial.lanes() {
        trial.send(lane, &[Outgoing::new(lane.to_string())]).await;
    }
    let mut ids = BTreeSet::new();
    for lane in trial.lanes() {
        let delivery = trial.arrive_one(lane).await;
        trial.same(&delivery.body, &lane.to_string(), "the body");
        trial.all_ok(
            trial.backend.extend(lane, slice::from_ref(&delivery.receipt), trial.limits.lease).await,
            "extending",
        );
        trial.all_ok(trial.backend.settle(lane, &[ack(&delivery)]).await, "acking");
        trial.nothing_visible(lane, "after its ack").await;
        ids.insert(delivery.message_id);
    }
    trial.same(ids.len(), trial.lanes().len(), "the ids on all lanes");
}

/// A browse of the dead letters hides what it shows for as long as it was told, and no longer;
/// what is acked meanwhile is gone.
pub async fn a_browse_holds_what_it_shows(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_browse_holds_what_it_shows").await;
    if !trial.limits.dead_lane {
        return trial.skipped();
    }
    trial.nothing_visible(Lane::Dead, "before anything was sent").await;
    trial.send_numbers(Lane::Dead, 3).await;
    let hold = trial.span();
    let since = Instant::now();
    let shown = trial.browse_all(3, hold).await;
    trial.same(shown[0].lease, hold, "the hold");
    trial.all_ok(trial.backend.settle(Lane::Dead, &[ack(&shown[0])]).await, "acking");
    trial.hidden_for(Lane::Dead, since, hold).await;
    let again: BTreeSet<_> =
        trial.browse_all(2, trial.limits.lease).await.into_iter().map(|each| each.message_id).collect();
    let left: BTreeSet<_> = shown[1..].iter().map(|each| each.message_id.clone()).collect();
    trial.same(again, left, "what is shown again");
}

/// More dead letters than one call shows are shown by several, each letter once.
pub async fn a_browse_shows_every_letter_in_several_calls(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_browse_shows_every_letter_in_several_calls").await;
    if !trial.limits.dead_lane {
        return trial.skipped();
    }
    let count = 27.max(trial.limits.max_batch_entries.min(200) * 2 + 7);
    let hold = trial.limits.max_lease.unwrap_or(Duration::MAX).min(Duration::from_secs(60));
    trial.send_numbers(Lane::Dead, count).await;
    let shown = trial.browse_all(count, hold).await;
    let bodies: BTreeSet<_> = shown.into_iter().map(|each| each.body).collect();
    trial.same(bodies, (0..count).map(|number| number.to_string()).collect(), "the letters shown");
    trial.nothing_visible(Lane::Dead, "when all are held").await;
}

/// A dead letter that is sent to the message queue and then acked is there, and no longer here:
/// what a replay does.
pub async fn a_dead_letter_goes_back_to_the_message_queue(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "a_dead_letter_goes_back_to_the_message_queue").await;
    if !trial.limits.dead_lane {
        return trial.skipped();
    }
    trial.send_numbers(Lane::Dead, 1).await;
    let letter = trial.browse_all(1, trial.limits.lease).await.remove(0);
    trial.send(Lane::Message, &[Outgoing { in_place: true, ..Outgoing::new(letter.body.as_str()) }]).await;
    trial.all_ok(trial.backend.settle(Lane::Dead, &[ack(&letter)]).await, "acking");
    let arrived = trial.arrive_one(Lane::Message).await;
    trial.same(arrived.body, letter.body, "the body");
    trial.same(arrived.receive_count, 1, "how often it was received");
    subject.pass(trial.limits.lease).await;
    trial.nothing_visible(Lane::Dead, "after it went back").await;
}

/// An inspection tells apart what is visible, leased and delayed.
pub async fn an_inspection_counts_what_is_there(subject: &dyn Subject) {
    let trial = Trial::begin(subject, "an_inspection_counts_what_is_there").await;
    let empty = trial.ok(trial.backend.inspect(Lane::Message).await, "inspecting");
    trial.send_numbers(Lane::Message, 1).await;
    trial.arrive_one(Lane::Message).await;
    trial.send_numbers(Lane::Message, 2).await;
    let delay = trial.limits.max_delay.unwrap_or(Duration::from_secs(900));
    trial.send(Lane::Message, &[Outgoing { delay, ..Outgoing::new("later") }]).await;
    let waited = (trial.limits.lease / 4).min(Duration::from_secs(1));
    subject.pass(waited).await;
    let stats = trial.ok(trial.backend.inspect(Lane::Message).await, "inspecting");
    if !trial.features.exact_counts {
        return;
    }
    trial.same(empty.total(), 0, "the messages of an empty lane");
    trial.same((stats.visible, stats.in_flight, stats.delayed), (2, 1, 1), "visible, in flight and delayed");
    if let Some(oldest) = stats.oldest {
        trial.ensure(oldest >= waited.mul_f64(0.75), || format!("the oldest is said to be {oldest:?} old"));
    }
}

/// Four receivers share 200 messages: each is received once, when it is acked within its lease.
pub async fn receivers_at_once_share_the_messages(subject: &dyn Subject) {
    const RECEIVERS: usize = 4;
    const MESSAGES: usize = 200;
    let mut trial = Trial::begin(subject, "receivers_at_once_share_the_messages").await;
    let handles = trial.open(RECEIVERS).await;
    trial.send_numbers(Lane::Message, MESSAGES).await;
    let seen = Mutex::new(BTreeMap::<String, u32>::new());
    let (received, all) = (AtomicUsize::new(0), Notify::new());
    let note = |body| *seen.lock().unwrap_or_else(PoisonError::into_inner).entry(body).or_insert(0) += 1;
    let receiver = |handle: &Arc<dyn Backend>| {
        let (trial, note, received, all, handle) = (&trial, &note, &received, &all, Arc::clone(handle));
        async move {
            loop {
                let mut done = pin!(all.notified());
                done.as_mut().enable();
                if received.load(Ordering::Acquire) >= MESSAGES {
                    return;
                }
                let deliveries = tokio::select! {
                    biased;
                    () = done => return,
                    deliveries = handle.receive(Lane::Message, 3) => trial.ok(deliveries, "receiving"),
                };
                let entries: Vec<_> = deliveries.iter().map(ack).collect();
                trial.all_ok(handle.settle(Lane::Message, &entries).await, "acking");
                deliveries.into_iter().for_each(|delivery| note(delivery.body));
                if received.fetch_add(entries.len(), Ordering::AcqRel) + entries.len() >= MESSAGES {
                    all.notify_waiters();
                }
                // So that the others get their share where nothing ever waits.
                tokio::task::yield_now().await;
            }
        }
    };
    let receivers = async {
        tokio::join!(receiver(&handles[0]), receiver(&handles[1]), receiver(&handles[2]), receiver(&handles[3]))
    };
    let patience = Duration::from_secs(20) + trial.features.lateness;
    let finished = trial.within(patience, receivers).await;
    let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    trial.ensure(twice.is_empty(), || format!("some messages came more than once: {twice:?}"));
    trial.ensure(finished.is_some(), || format!("only {} of {MESSAGES} messages came", seen.len()));
    trial.same(seen.len(), MESSAGES, "the messages received");
}

/// One property being tried on queues of its own.
struct Trial<'a> {
    property: &'static str,
    subject: &'a dyn Subject,
    backend: Arc<dyn Backend>,
    limits: Limits,
    features: Features,
}

impl<'a> Trial<'a> {
    async fn begin(subject: &'a dyn Subject, property: &'static str) -> Self {
        let Some(backend) = subject.open(1).await.pop() else { panic!("{property}: the subject opened no backend") };
        Trial { property, limits: backend.limits(), backend, features: subject.features(), subject }
    }

    /// Begins again with several handles, the last of which is the trial's own.
    async fn open(&mut self, handles: usize) -> Vec<Arc<dyn Backend>> {
        let opened = self.subject.open(handles).await;
        self.same(opened.len(), handles, "the handles opened");
        self.backend = Arc::clone(&opened[handles - 1]);
        opened
    }

    fn fail(&self, why: &str) -> ! {
        panic!("{} ({}): {why}", self.property, self.backend.name())
    }

    fn ensure(&self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.fail(&otherwise());
        }
    }

    fn same<T: PartialEq<U> + std::fmt::Debug, U: std::fmt::Debug>(&self, is: T, expected: U, what: &str) {
        self.ensure(is == expected, || format!("{what}: expected {expected:?}, got {is:?}"));
    }

    fn skipped(&self) {
        println!("conformance: {} is not promised", self.property);
    }

    fn ok<T>(&self, answer: Result<T>, doing: &str) -> T {
        match answer {
            Ok(answer) => answer,
            Err(error) => self.fail(&format!("{doing} failed: {error:?}")),
        }
    }

    fn all_ok(&self, answers: Vec<Result<()>>, doing: &str) {
        for answer in answers {
            self.ok(answer, doing);
        }
    }

    /// An answer that no other try would change.
    fn refused(&self, answer: Result<()>, doing: &str) -> Error {
        match answer {
            Ok(()) => self.fail(&format!("{doing} was not refused")),
            Err(error) => {
                self.ensure(!error.is_transient(), || format!("{doing} failed in passing: {error:?}"));
                self.ensure(!error.maybe_sent(), || format!("{doing} may have been done all the same: {error:?}"));
                error
            }
        }
    }

    fn lost(&self, answer: Result<()>, doing: &str) {
        let error = self.refused(answer, doing);
        self.same(error.kind(), ErrorKind::LeaseLost, &format!("the kind of the error when {doing}"));
    }

    fn lost_at_worst(&self, answer: Result<()>, doing: &str) {
        if answer.is_err() {
            self.lost(answer, doing);
        }
    }

    fn lanes(&self) -> Vec<Lane> {
        let there = |lane: &Lane| match lane {
            Lane::Message => true,
            Lane::Delay => self.limits.delay_lane,
            Lane::Dead => self.limits.dead_lane,
        };
        Lane::ALL.into_iter().filter(there).collect()
    }

    /// A delay that can be told from none, in whole steps.
    fn span(&self) -> Duration {
        let span = self.limits.lease.max(self.limits.delay_step * 2);
        self.limits.max_delay.map_or(span, |max| span.min(max))
    }

    async fn send(&self, lane: Lane, messages: &[Outgoing]) {
        let answers = self.backend.send(lane, messages).await;
        self.same(answers.len(), messages.len(), "the answers to a send");
        self.all_ok(answers, "sending");
    }

    async fn try_send(&self, message: Outgoing) -> Result<()> {
        let mut answers = self.backend.send(Lane::Message, &[message]).await;
        self.same(answers.len(), 1, "the answers to a send");
        answers.remove(0)
    }

    /// Sends messages whose bodies are the numbers from 0.
    async fn send_numbers(&self, lane: Lane, count: usize) {
        let messages: Vec<_> = (0..count).map(|number| Outgoing::new(number.to_string())).collect();
        for batch in messages.chunks(self.limits.max_batch_entries) {
            self.send(lane, batch).await;
        }
    }

    async fn ack(&self, delivery: &Delivery) -> Result<()> {
        self.settle(ack(delivery)).await
    }

    async fn release(&self, delivery: &Delivery, delay: Duration) -> Result<()> {
        self.settle(release(delivery, delay)).await
    }

    async fn settle(&self, entry: Settle) -> Result<()> {
        let mut answers = self.backend.settle(Lane::Message, &[entry]).await;
        self.same(answers.len(), 1, "the answers to a settlement");
        answers.remove(0)
    }

    async fn extend(&self, delivery: &Delivery, lease: Duration) -> Result<()> {
        let mut answers = self.backend.extend(Lane::Message, slice::from_ref(&delivery.receipt), lease).await;
        self.same(answers.len(), 1, "the answers to an extension");
        answers.remove(0)
    }

    /// What the future yields before this much time has passed.
    async fn within<F: Future>(&self, span: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut time_is_up = pin!(async {
            self.subject.pass(span).await;
            // A virtual clock has passed in no time: tasks that were woken get theirs.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        });
        tokio::select! {
            biased;
            output = &mut future => Some(output),
            () = &mut time_is_up => None,
        }
    }

    /// Receives this many messages: they must be there, but for the backend's lateness.
    async fn arrive(&self, lane: Lane, count: usize) -> Vec<Delivery> {
        let mut arrived = Vec::new();
        let all = self.within(self.features.lateness, async {
            while arrived.len() < count {
                arrived.extend(self.ok(self.backend.receive(lane, count - arrived.len()).await, "receiving"));
            }
        });
        let all = all.await.is_some();
        self.ensure(all, || format!("only {} of {count} messages came from the {lane}", arrived.len()));
        arrived
    }

    async fn arrive_one(&self, lane: Lane) -> Delivery {
        self.arrive(lane, 1).await.remove(0)
    }

    /// Lets time pass up to the end of a hiding, seeing that nothing shows until shortly before. `since` is
    /// when it was asked for. What a slow backend shows after the end is no fault: how often that was.
    async fn hidden_for(&self, lane: Lane, since: Instant, span: Duration) -> u32 {
        let most = span.mul_f64(0.75);
        let mut late = self.look_before(since + span, lane, "as soon as it was hidden").await;
        // Looking takes time where it is real: the look shall be over before the end.
        let passed = most.saturating_sub(since.elapsed());
        self.subject.pass(passed).await;
        let when = format!("{most:?} after it was hidden for {span:?}");
        late += self.look_before(since + span, lane, &when).await;
        self.subject.pass(span - passed).await;
        // What a look showed, it took.
        self.subject.pass(self.limits.lease * late).await;
        late
    }

    /// Whether a look that was over too late shows something. One that was over before `end` shows nothing.
    async fn look_before(&self, end: Instant, lane: Lane, when: &str) -> u32 {
        let shown = self.ok(self.backend.browse(lane, 1, self.limits.lease).await, "browsing");
        let late = Instant::now() >= end;
        self.ensure(shown.is_empty() || late, || format!("the {lane} shows a message {when}"));
        u32::from(!shown.is_empty())
    }

    async fn nothing_visible(&self, lane: Lane, when: &str) {
        let shown = self.ok(self.backend.browse(lane, 1, self.limits.lease).await, "browsing");
        self.ensure(shown.is_empty(), || format!("the {lane} shows a message {when}"));
    }

    /// Browses the dead letters until this many have been shown.
    async fn browse_all(&self, count: usize, hold: Duration) -> Vec<Delivery> {
        let mut shown = Vec::new();
        let all = self.within(self.features.lateness, async {
            while shown.len() < count {
                let most = (count - shown.len()).min(self.limits.max_batch_entries);
                let more = self.ok(self.backend.browse(Lane::Dead, most, hold).await, "browsing");
                self.ensure(more.len() <= most, || format!("a browse for {most} shows {}", more.len()));
                if more.is_empty() {
                    tokio::task::yield_now().await;
                }
                shown.extend(more);
            }
        });
        let all = all.await.is_some();
        self.ensure(all, || format!("browsing shows only {} of {count} messages", shown.len()));
        shown
    }

    async fn poll_once_and_drop<F: Future>(&self, future: F) {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let _ = future.as_mut().poll(cx);
            Poll::Ready(())
        })
        .await;
    }
}

fn ack(delivery: &Delivery) -> Settle {
    Settle { receipt: delivery.receipt.clone(), how: Settlement::Ack }
}

fn release(delivery: &Delivery, delay: Duration) -> Settle {
    Settle { receipt: delivery.receipt.clone(), how: Settlement::ReleaseAfter(delay) }
}
