use std::ops::Deref;

use tokio::task::JoinHandle;

use super::*;
use crate::clock::VirtualClock;

const LEASE: Duration = Duration::from_secs(30);

/// A backend on a clock of its own.
struct Rig {
    time: VirtualClock,
    backend: MemoryBackend,
}

impl Deref for Rig {
    type Target = MemoryBackend;

    fn deref(&self) -> &MemoryBackend {
        &self.backend
    }
}

impl Rig {
    fn sqs() -> Self {
        Rig::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::sqs();
        change(&mut limits);
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH + seconds(1_000_000_000));
        Rig { backend: MemoryBackend::with_limits(Clock::from_virtual(time.clone()), limits), time }
    }

    async fn pass(&self, span: Duration) {
        self.time.advance(span).await;
    }

    async fn put(&self, body: &str) {
        self.put_after(body, Duration::ZERO).await;
    }

    async fn put_after(&self, body: &str, delay: Duration) {
        self.try_put(Outgoing { delay, ..Outgoing::new(body) }).await.unwrap();
    }

    async fn try_put(&self, message: Outgoing) -> Result<()> {
        self.send(Lane::Message, &[message]).await.remove(0)
    }

    async fn fill(&self, count: usize) {
        for number in 0..count {
            self.put(&number.to_string()).await;
        }
    }

    /// What can be received now.
    async fn look(&self) -> Vec<Delivery> {
        self.browse(Lane::Message, 10, LEASE).await.unwrap()
    }

    async fn take_one(&self) -> Delivery {
        self.receive(Lane::Message, 1).await.unwrap().remove(0)
    }

    async fn ack(&self, delivery: &Delivery) -> Result<()> {
        self.settle(Lane::Message, &[ack(delivery)]).await.remove(0)
    }

    async fn release(&self, delivery: &Delivery, delay: Duration) -> Result<()> {
        self.settle(Lane::Message, &[release(delivery, delay)]).await.remove(0)
    }

    async fn hold(&self, delivery: &Delivery, lease: Duration) -> Result<()> {
        self.extend(Lane::Message, std::slice::from_ref(&delivery.receipt), lease).await.remove(0)
    }

    async fn stats(&self) -> LaneStats {
        self.inspect(Lane::Message).await.unwrap()
    }

    /// A receive that waits beside the test.
    fn receiver(&self) -> JoinHandle<Result<Vec<Delivery>>> {
        let backend = self.backend.clone();
        tokio::spawn(async move { backend.receive(Lane::Message, 10).await })
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn ack(delivery: &Delivery) -> Settle {
    Settle { receipt: delivery.receipt.clone(), how: Settlement::Ack }
}

fn release(delivery: &Delivery, delay: Duration) -> Settle {
    Settle { receipt: delivery.receipt.clone(), how: Settlement::ReleaseAfter(delay) }
}

fn bodies(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|delivery| delivery.body.as_str()).collect()
}

fn assert_refused(answer: Result<()>, kind: ErrorKind, texts: &[&str]) {
    let error = answer.expect_err("it should have been refused");
    assert_eq!(error.kind(), kind, "{error}");
    for text in texts {
        assert!(error.to_string().contains(text), "{error} does not name {text}");
    }
}

#[tokio::test]
async fn a_delayed_message_is_hidden_until_its_delay_has_passed() {
    let rig = Rig::sqs();
    rig.put_after("later", seconds(900)).await;
    rig.pass(seconds(900) - Duration::from_millis(1)).await;
    assert_eq!(rig.look().await.len(), 0);
    rig.pass(Duration::from_millis(1)).await;
    assert_eq!(rig.look().await.len(), 1);
}

#[tokio::test]
async fn a_delay_is_rounded_down_to_a_step() {
    let rig = Rig::sqs();
    rig.put_after("later", Duration::from_millis(1_999)).await;
    rig.pass(seconds(1)).await;
    assert_eq!(rig.look().await.len(), 1);
}

#[tokio::test]
async fn a_delay_over_the_limit_is_refused_and_names_both() {
    let rig = Rig::sqs();
    let message = Outgoing { delay: seconds(901), ..Outgoing::new("later") };
    assert_refused(rig.try_put(message.clone()).await, ErrorKind::Invalid, &["900s", "901s"]);

    let rig = Rig::with(|limits| *limits = Limits::unlimited());
    rig.try_put(message).await.unwrap();
}

#[tokio::test]
async fn a_lease_that_ends_makes_the_message_visible_again() {
    let rig = Rig::sqs();
    rig.put("once more").await;
    let first = rig.take_one().await;
    rig.pass(LEASE - Duration::from_millis(1)).await;
    assert_eq!(rig.look().await.len(), 0);
    rig.pass(Duration::from_millis(1)).await;
    let second = rig.take_one().await;
    assert_eq!(second.message_id, first.message_id);
    assert_ne!(second.receipt, first.receipt);
    assert_eq!((first.receive_count, second.receive_count), (1, 2));
    assert_eq!(second.enqueued_at, first.enqueued_at);
    assert_eq!(second.lease, LEASE);
}

#[tokio::test]
async fn an_extended_lease_is_counted_from_the_extension_and_not_remembered() {
    let rig = Rig::sqs();
    rig.put("long").await;
    let delivery = rig.take_one().await;
    rig.pass(seconds(20)).await;
    rig.hold(&delivery, seconds(3600)).await.unwrap();
    rig.pass(seconds(3599)).await;
    assert_eq!(rig.look().await.len(), 0);
    rig.pass(seconds(1)).await;
    rig.take_one().await;
    rig.pass(LEASE).await;
    assert_eq!(rig.look().await.len(), 1);
}

#[tokio::test]
async fn a_lease_over_the_limit_in_all_is_refused_and_never_clamped() {
    let rig = Rig::sqs();
    rig.put("parked").await;
    let delivery = rig.take_one().await;
    assert_refused(rig.hold(&delivery, seconds(43_201)).await, ErrorKind::Invalid, &["43200s", "43201s"]);
    assert_refused(rig.release(&delivery, seconds(43_201)).await, ErrorKind::Invalid, &["43200s", "43201s"]);
    rig.pass(seconds(10)).await;
    assert_refused(rig.hold(&delivery, seconds(43_191)).await, ErrorKind::Invalid, &["43200s", "43191s", "43190s"]);
    assert_refused(rig.release(&delivery, seconds(43_191)).await, ErrorKind::Invalid, &["43200s", "43191s"]);
    rig.pass(seconds(20)).await;
    assert_eq!(rig.look().await.len(), 1, "a refused extension changes nothing");
}

#[tokio::test]
async fn a_message_can_be_parked_to_the_limit_and_again_after_another_receive() {
    let rig = Rig::sqs();
    rig.put("parked").await;
    for _ in 0..3 {
        let delivery = rig.take_one().await;
        rig.release(&delivery, seconds(43_200)).await.unwrap();
        assert_eq!(rig.stats().await.in_flight, 1, "a parked message is in flight");
        rig.pass(seconds(43_200)).await;
    }
    assert_eq!(rig.look().await[0].receive_count, 4);
}

#[tokio::test]
async fn a_release_makes_the_message_visible_after_its_delay() {
    let rig = Rig::sqs();
    rig.put("back").await;
    let delivery = rig.take_one().await;
    rig.release(&delivery, Duration::ZERO).await.unwrap();
    let delivery = rig.take_one().await;
    rig.release(&delivery, seconds(60)).await.unwrap();
    rig.pass(seconds(59)).await;
    assert_eq!(rig.look().await.len(), 0);
    rig.pass(seconds(1)).await;
    assert_eq!(rig.look().await.len(), 1);
}

#[tokio::test]
async fn a_message_over_the_size_limit_is_refused_and_spares_the_others() {
    let rig = Rig::with(|limits| limits.max_message_bytes = 100);
    let mut large = Outgoing::new("é".repeat(48));
    large.attributes.insert("abc".to_owned(), "ü".to_owned());
    assert_eq!(large.bytes(), 107);
    let mut answers = rig.send(Lane::Message, &[Outgoing::new("a"), large, Outgoing::new("b")]).await;
    answers.remove(0).unwrap();
    assert_refused(answers.remove(0), ErrorKind::TooLarge, &["100", "107"]);
    answers.remove(0).unwrap();
    assert_eq!(bodies(&rig.look().await), ["a", "b"]);
}

#[tokio::test]
async fn a_call_over_the_size_limit_in_all_is_refused_whole() {
    let rig = Rig::with(|limits| limits.max_batch_bytes = 10);
    let answers = rig.send(Lane::Message, &[Outgoing::new("123456"), Outgoing::new("12345")]).await;
    for answer in answers {
        assert_refused(answer, ErrorKind::TooLarge, &["10", "11"]);
    }
    assert_eq!(rig.stats().await.total(), 0);
}

#[tokio::test]
async fn a_call_of_too_many_entries_is_refused_whole() {
    let rig = Rig::sqs();
    let answers = rig.send(Lane::Message, &vec![Outgoing::new("x"); 11]).await;
    assert_eq!(answers.len(), 11);
    for answer in answers {
        assert_refused(answer, ErrorKind::Invalid, &["10", "11"]);
    }
    assert_eq!(rig.stats().await.total(), 0);
    rig.put("x").await;
    let delivery = rig.take_one().await;
    assert!(rig.settle(Lane::Message, &vec![ack(&delivery); 11]).await.iter().all(Result::is_err));
    let receipts = vec![delivery.receipt.clone(); 11];
    assert!(rig.extend(Lane::Message, &receipts, LEASE).await.iter().all(Result::is_err));
    assert_eq!(rig.stats().await.in_flight, 1);
}

#[tokio::test]
async fn a_call_of_no_entries_answers_none_and_asks_for_nothing() {
    let rig = Rig::sqs();
    assert!(rig.send(Lane::Message, &[]).await.is_empty());
    assert!(rig.settle(Lane::Message, &[]).await.is_empty());
    assert!(rig.extend(Lane::Message, &[], LEASE).await.is_empty());
    assert_eq!(rig.requests(), Usage::default());
}

#[tokio::test]
async fn characters_that_sqs_refuses_are_refused() {
    let rig = Rig::sqs();
    for bad in ["\u{0}", "\u{8}", "\u{b}", "\u{c}", "\u{1f}", "\u{FFFE}", "\u{FFFF}"] {
        let answer = rig.try_put(Outgoing::new(format!("ab{bad}"))).await;
        assert_refused(answer, ErrorKind::Invalid, &["byte 2", &format!("{:?}", bad.chars().next().unwrap())]);
        let mut message = Outgoing::new("x");
        message.attributes.insert("name".to_owned(), bad.to_owned());
        assert_refused(rig.try_put(message).await, ErrorKind::Invalid, &["name"]);
    }
    rig.put("\t\n\r \u{7f}\u{D7FF}\u{E000}\u{FFFD}\u{10000}\u{10FFFF}").await;
    assert_refused(rig.try_put(Outgoing::new("")).await, ErrorKind::Invalid, &["at least 1"]);
}

#[tokio::test]
async fn attributes_that_sqs_refuses_are_refused() {
    let rig = Rig::sqs();
    let with = |pairs: &[(&str, &str)]| {
        let attributes = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Outgoing { attributes, ..Outgoing::new("x") }
    };
    for name in ["", ".a", "a.", "a..b", "AWS.a", "amazon.a", "a b", "é", &"a".repeat(257)] {
        assert_refused(rig.try_put(with(&[(name, "x")])).await, ErrorKind::Invalid, &["attribute name"]);
    }
    assert_refused(rig.try_put(with(&[("a", "")])).await, ErrorKind::Invalid, &["\"a\""]);
    let names: Vec<_> = (0..11).map(|number| format!("a{number}")).collect();
    let pairs: Vec<_> = names.iter().map(|name| (name.as_str(), "x")).collect();
    assert_refused(rig.try_put(with(&pairs)).await, ErrorKind::Invalid, &["10", "11"]);
    rig.try_put(with(&pairs[..10])).await.unwrap();
}

#[tokio::test]
async fn a_message_vanishes_when_its_retention_ends_wherever_it_is() {
    let rig = Rig::sqs();
    let day = seconds(86_400);
    rig.put("leased").await;
    rig.send(Lane::Dead, &[Outgoing::new("dead")]).await.remove(0).unwrap();
    rig.pass(14 * day - seconds(10)).await;
    let delivery = rig.take_one().await;
    rig.hold(&delivery, seconds(3600)).await.unwrap();
    assert_eq!(rig.stats().await.oldest, Some(14 * day - seconds(10)));
    rig.pass(seconds(10)).await;
    assert_eq!(rig.stats().await, LaneStats::default());
    assert_eq!(rig.inspect(Lane::Dead).await.unwrap(), LaneStats::default());
    assert_refused(rig.hold(&delivery, LEASE).await, ErrorKind::LeaseLost, &["gone"]);

    let rig = Rig::with(|limits| limits.retention = None);
    rig.put("kept").await;
    rig.pass(1000 * day).await;
    assert_eq!(rig.look().await.len(), 1);
}

#[tokio::test]
async fn at_the_in_flight_quota_a_long_poll_answers_none_and_a_short_one_fails() {
    let rig = Rig::with(|limits| limits.max_in_flight = Some(3));
    rig.fill(5).await;
    assert_eq!(rig.look().await.len(), 3);
    let error = rig.browse(Lane::Message, 10, LEASE).await.unwrap_err();
    assert!(error.to_string().contains('3'), "{error}");
    let receiver = rig.receiver();
    rig.pass(seconds(19)).await;
    assert!(!receiver.is_finished());
    rig.pass(seconds(1)).await;
    assert_eq!(bodies(&receiver.await.unwrap().unwrap()), [""; 0]);
    assert_eq!(rig.requests().empty_receives, 2);
}

#[tokio::test]
async fn at_the_in_flight_quota_a_settled_message_makes_room() {
    let rig = Rig::with(|limits| limits.max_in_flight = Some(3));
    rig.fill(5).await;
    let held = rig.look().await;
    let receiver = rig.receiver();
    rig.pass(seconds(1)).await;
    rig.ack(&held[0]).await.unwrap();
    assert_eq!(bodies(&receiver.await.unwrap().unwrap()), ["3"]);

    let receiver = rig.receiver();
    rig.pass(seconds(10)).await;
    assert!(!receiver.is_finished());
    rig.release(&held[1], Duration::ZERO).await.unwrap();
    assert_eq!(bodies(&receiver.await.unwrap().unwrap()), ["4"]);
}

#[tokio::test]
async fn a_stale_receipt_never_harms_the_newer_delivery() {
    let rig = Rig::sqs();
    rig.put("contested").await;
    let stale = rig.take_one().await;
    rig.pass(LEASE).await;
    let newer = rig.take_one().await;
    rig.ack(&stale).await.unwrap();
    assert_refused(rig.hold(&stale, seconds(60)).await, ErrorKind::LeaseLost, &["newer receipt"]);
    assert_refused(rig.release(&stale, Duration::ZERO).await, ErrorKind::LeaseLost, &["newer receipt"]);
    assert_eq!(rig.stats().await.in_flight, 1);
    rig.hold(&newer, seconds(60)).await.unwrap();
    rig.ack(&newer).await.unwrap();
    assert_eq!(rig.stats().await.total(), 0);
    rig.ack(&newer).await.unwrap();
}

#[tokio::test]
async fn an_expired_receipt_still_deletes_what_nobody_has_received_again() {
    let rig = Rig::sqs();
    rig.put("late").await;
    let delivery = rig.take_one().await;
    rig.pass(LEASE).await;
    assert_refused(rig.hold(&delivery, seconds(60)).await, ErrorKind::LeaseLost, &["visible again"]);
    assert_eq!(rig.stats().await.visible, 1, "a late extension hides nothing");
    rig.ack(&delivery).await.unwrap();
    assert_eq!(rig.stats().await.total(), 0);
}

#[tokio::test]
async fn a_receipt_of_another_queue_is_refused() {
    let rig = Rig::sqs();
    rig.put("x").await;
    rig.send(Lane::Dead, &[Outgoing::new("y")]).await.remove(0).unwrap();
    rig.browse(Lane::Dead, 1, LEASE).await.unwrap();
    let delivery = rig.take_one().await;
    let answer = rig.settle(Lane::Dead, &[ack(&delivery)]).await.remove(0);
    assert_refused(answer, ErrorKind::Invalid, &["receipt"]);
    assert_eq!(rig.inspect(Lane::Dead).await.unwrap().total(), 1);
}

#[tokio::test]
async fn a_lane_that_is_not_there_is_refused() {
    let rig = Rig::with(|limits| limits.delay_lane = false);
    assert_refused(rig.send(Lane::Delay, &[Outgoing::new("x")]).await.remove(0), ErrorKind::Queue, &["delay queue"]);
    assert_eq!(rig.receive(Lane::Delay, 1).await.unwrap_err().kind(), ErrorKind::Queue);
}

#[tokio::test]
async fn a_receive_takes_at_least_one_and_at_most_a_batch() {
    let rig = Rig::sqs();
    rig.fill(12).await;
    assert_refused(rig.receive(Lane::Message, 0).await.map(drop), ErrorKind::Invalid, &["10", "0"]);
    assert_eq!(rig.receive(Lane::Message, 100).await.unwrap().len(), 10);
    assert_eq!(rig.receive(Lane::Message, 100).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_waiting_receive_wakes_on_a_send() {
    let rig = Rig::sqs();
    let receiver = rig.receiver();
    rig.pass(seconds(3600)).await;
    assert!(!receiver.is_finished());
    rig.put("hello").await;
    assert_eq!(bodies(&receiver.await.unwrap().unwrap()), ["hello"]);
}

#[tokio::test]
async fn a_waiting_receive_wakes_on_the_end_of_a_delay_given_after_it_began() {
    let rig = Rig::sqs();
    rig.put_after("far", seconds(900)).await;
    let receiver = rig.receiver();
    rig.pass(seconds(1)).await;
    rig.put_after("near", seconds(5)).await;
    rig.pass(seconds(5)).await;
    assert_eq!(bodies(&receiver.await.unwrap().unwrap()), ["near"]);
}

#[tokio::test]
async fn a_waiting_receive_wakes_on_a_release_and_on_the_end_of_a_lease() {
    let rig = Rig::sqs();
    rig.put("x").await;
    let delivery = rig.take_one().await;
    let receiver = rig.receiver();
    rig.pass(seconds(1)).await;
    rig.release(&delivery, Duration::ZERO).await.unwrap();
    let delivery = receiver.await.unwrap().unwrap().remove(0);

    let receiver = rig.receiver();
    rig.pass(seconds(1)).await;
    rig.hold(&delivery, seconds(5)).await.unwrap();
    rig.pass(seconds(5)).await;
    assert_eq!(bodies(&receiver.await.unwrap().unwrap()), ["x"]);
}

#[tokio::test]
async fn a_dropped_receive_takes_nothing() {
    let rig = Rig::sqs();
    let receiver = rig.receiver();
    rig.pass(seconds(1)).await;
    receiver.abort();
    assert!(receiver.await.is_err());
    rig.put("whole").await;
    assert_eq!(rig.look().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_message_is_received_once_by_many_receivers_at_once() {
    let backend = MemoryBackend::with_limits(Clock::system(), Limits::unlimited());
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..8 {
        let (backend, sender) = (backend.clone(), sender.clone());
        tokio::spawn(async move {
            while let Ok(deliveries) = backend.receive(Lane::Message, 3).await {
                let entries: Vec<_> = deliveries.iter().map(ack).collect();
                backend.settle(Lane::Message, &entries).await.into_iter().for_each(Result::unwrap);
                deliveries.into_iter().for_each(|delivery| sender.send(delivery.body).unwrap());
            }
        });
    }
    let mut bodies = Vec::new();
    for number in 0..2_000 {
        backend.send(Lane::Message, &[Outgoing::new(number.to_string())]).await.remove(0).unwrap();
    }
    while bodies.len() < 2_000 {
        bodies.push(received.recv().await.unwrap().parse::<usize>().unwrap());
    }
    bodies.sort_unstable();
    assert_eq!(bodies, (0..2_000).collect::<Vec<_>>());
    assert_eq!(backend.inspect(Lane::Message).await.unwrap(), LaneStats::default());
}

#[tokio::test]
async fn a_browse_holds_what_it_shows_and_never_waits() {
    let rig = Rig::sqs();
    assert_eq!(rig.look().await.len(), 0);
    rig.fill(3).await;
    let shown = rig.browse(Lane::Message, 2, seconds(7)).await.unwrap();
    assert_eq!(shown[0].lease, seconds(7));
    assert_eq!(bodies(&rig.look().await), ["2"]);
    rig.pass(seconds(7)).await;
    assert_eq!(bodies(&rig.look().await), ["0", "1"]);
    let too_long = rig.browse(Lane::Message, 2, seconds(43_201)).await.map(drop);
    assert_refused(too_long, ErrorKind::Invalid, &["43200s", "43201s"]);
}

#[tokio::test]
async fn an_inspection_counts_exactly() {
    let rig = Rig::sqs();
    rig.fill(3).await;
    rig.pass(seconds(5)).await;
    rig.put_after("later", seconds(60)).await;
    rig.take_one().await;
    let stats = LaneStats { visible: 2, in_flight: 1, delayed: 1, oldest: Some(seconds(5)) };
    assert_eq!(rig.stats().await, stats);
    assert_eq!(rig.inspect(Lane::Delay).await.unwrap(), LaneStats::default());
}

#[tokio::test]
async fn what_is_delayed_is_not_due() {
    let rig = Rig::sqs();
    rig.put_after("later", seconds(600)).await;
    rig.pass(seconds(599)).await;
    assert_eq!(rig.stats().await.oldest, None);
    rig.pass(seconds(4)).await;
    assert_eq!(rig.stats().await.oldest, Some(seconds(3)));
    let later = rig.take_one().await;
    rig.put("now").await;
    rig.pass(seconds(2)).await;
    assert_eq!(rig.stats().await.oldest, Some(seconds(5)), "it is due while it is handled, too");
    rig.ack(&later).await.unwrap();
    assert_eq!(rig.stats().await.oldest, Some(seconds(2)));
}

#[tokio::test]
async fn a_duplicated_message_comes_exactly_twice() {
    let rig = Rig::sqs();
    rig.duplicate(1.0);
    rig.fill(40).await;
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..80 {
        let delivery = rig.take_one().await;
        rig.ack(&delivery).await.unwrap();
        *seen.entry(delivery.message_id).or_insert(0) += 1;
    }
    assert_eq!(rig.stats().await.total(), 0);
    assert_eq!(seen.len(), 40);
    assert!(seen.values().all(|times| *times == 2), "{seen:?}");
}

#[tokio::test]
async fn a_message_received_twice_at_once_is_settled_apart() {
    let rig = Rig::sqs();
    rig.duplicate(1.0);
    for seed in 0..64 {
        rig.seed(seed);
        rig.put("twin").await;
        let first = rig.take_one().await;
        if let Some(second) = rig.look().await.pop() {
            assert_eq!(first.message_id, second.message_id);
            assert_ne!(first.receipt, second.receipt);
            rig.ack(&first).await.unwrap();
            assert_eq!(rig.stats().await.in_flight, 1);
            return;
        }
        rig.ack(&first).await.unwrap();
        rig.ack(&rig.take_one().await).await.unwrap();
    }
    panic!("no message was delivered twice at once");
}

#[tokio::test]
async fn reordered_messages_come_in_an_order_that_the_seed_decides() {
    let order = |seed| async move {
        let rig = Rig::sqs();
        rig.reorder(true);
        rig.seed(seed);
        rig.fill(10).await;
        bodies(&rig.look().await).join(" ")
    };
    assert_eq!(order(1).await, order(1).await);
    assert_ne!(order(1).await, order(2).await);
    let rig = Rig::sqs();
    rig.fill(10).await;
    assert_eq!(bodies(&rig.look().await).join(" "), "0 1 2 3 4 5 6 7 8 9");
}

#[tokio::test]
async fn a_call_that_is_unavailable_or_throttled_has_done_nothing() {
    let rig = Rig::sqs();
    rig.fail(Fault::unavailable(Action::Send).times(2));
    rig.fail(Fault::throttled(Action::Send));
    for kind in [ErrorKind::Unavailable, ErrorKind::Unavailable, ErrorKind::Throttled] {
        let error = rig.try_put(Outgoing::new("x")).await.unwrap_err();
        assert_eq!((error.kind(), error.maybe_sent(), error.is_transient()), (kind, false, true));
    }
    rig.put("x").await;
    assert_eq!(rig.stats().await.total(), 1);
    rig.fail(Fault::unavailable(Action::Receive).on(Lane::Message));
    assert!(rig.receive(Lane::Message, 1).await.is_err());
    assert_eq!(rig.stats().await.visible, 1);
    rig.fail(Fault::unavailable(Action::Check));
    assert!(rig.check(Role::Listener).await.is_err());
    rig.check(Role::Listener).await.unwrap();
}

#[tokio::test]
async fn a_call_whose_answer_is_lost_has_taken_effect() {
    let rig = Rig::sqs();
    rig.fail(Fault::answer_lost(Action::Send));
    assert!(rig.try_put(Outgoing::new("x")).await.unwrap_err().maybe_sent());
    rig.fail(Fault::answer_lost(Action::Receive));
    assert!(rig.receive(Lane::Message, 1).await.is_err());
    assert_eq!(rig.stats().await.in_flight, 1);
    rig.pass(LEASE).await;
    let delivery = rig.take_one().await;
    rig.fail(Fault::answer_lost(Action::Extend));
    assert!(rig.hold(&delivery, seconds(60)).await.is_err());
    rig.pass(LEASE).await;
    assert_eq!(rig.look().await.len(), 0);
    rig.fail(Fault::answer_lost(Action::Settle));
    assert!(rig.ack(&delivery).await.is_err());
    assert_eq!(rig.stats().await.total(), 0);
}

#[tokio::test]
async fn a_fault_of_one_entry_spares_the_others() {
    let rig = Rig::sqs();
    rig.fail(Fault::throttled(Action::Send).entry(1));
    rig.put("alone").await;
    let answers = rig.send(Lane::Message, &["a", "b", "c"].map(Outgoing::new)).await;
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(bodies(&rig.look().await), ["alone", "a", "c"]);
}

#[tokio::test]
async fn faults_end_when_they_are_healed() {
    let rig = Rig::sqs();
    rig.fail(Fault::unavailable(Action::Send).times(u32::MAX));
    for _ in 0..10 {
        assert!(rig.try_put(Outgoing::new("x")).await.is_err());
    }
    rig.heal();
    rig.put("x").await;
}

#[tokio::test]
async fn requests_are_counted_as_sqs_counts_them() {
    let rig = Rig::sqs();
    rig.send(Lane::Message, &vec![Outgoing::new("x"); 10]).await;
    let deliveries = rig.receive(Lane::Message, 10).await.unwrap();
    rig.look().await;
    let mut entries: Vec<_> = deliveries.iter().map(ack).collect();
    entries[3] = release(&deliveries[3], Duration::ZERO);
    rig.settle(Lane::Message, &entries[..9]).await;
    rig.settle(Lane::Message, &entries[9..]).await;
    rig.stats().await;
    let requests = Usage {
        send: 1,
        receive: 1,
        empty_receives: 1,
        delete: 2,
        change_visibility: 1,
        get_attributes: 1,
        get_url: 0,
        billed: 7,
    };
    assert_eq!((rig.requests(), requests.requests()), (requests, 7));
    rig.reset_requests();
    assert_eq!(rig.requests(), Usage::default());
}

#[tokio::test]
async fn a_call_of_more_than_ten_entries_counts_as_several_requests() {
    let rig = Rig::with(|limits| *limits = Limits::unlimited());
    rig.send(Lane::Message, &vec![Outgoing::new("x"); 21]).await;
    assert_eq!(rig.requests().send, 3);
}

#[tokio::test]
async fn each_further_64_kib_of_a_request_are_billed_as_sqs_bills_them() {
    let rig = Rig::sqs();
    rig.send(Lane::Message, &vec![Outgoing::new("x".repeat(40 * 1024)); 5]).await;
    assert_eq!((rig.requests().send, rig.requests().billed), (1, 4));
    rig.receive(Lane::Message, 10).await.unwrap();
    assert_eq!((rig.requests().receive, rig.requests().billed), (1, 8));
}
