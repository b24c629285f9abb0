//! Leases: what is being handled is handled once, for as long as it takes, and whoever loses a
//! lease is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use dawdle::backend::memory::{Action, Fault, MemoryBackend};
use dawdle::backend::{Backend, BoxFuture, Lane, Outgoing, Receipt, Settle};
use dawdle::{Clock, Config, Context, Dawdle, Error, ErrorKind, Event, Outcome, Result, State, VirtualClock};
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};

#[path = "common/forward.rs"]
mod forward;
use forward::forward;

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "long")]
struct Long;

#[derive(Clone, Default)]
struct Counts {
    begun: Arc<AtomicUsize>,
    cancelled: Arc<AtomicUsize>,
}

/// Runs until it is told to stop, or its timeout comes.
#[dawdle::handler(timeout = "299s", attempts = 1)]
async fn takes_long(_: &Long, cx: &Context, counts: State<Counts>) -> Outcome {
    counts.begun.fetch_add(1, Ordering::Relaxed);
    cx.cancelled().await;
    counts.cancelled.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "stubborn")]
struct Stubborn;

/// Does not listen when it is told to stop.
#[dawdle::handler(timeout = "100s", attempts = 1)]
async fn goes_on(_: &Stubborn, counts: State<Counts>) -> Outcome {
    counts.begun.fetch_add(1, Ordering::Relaxed);
    std::future::pending().await
}

struct Fleet {
    time: VirtualClock,
    queue: MemoryBackend,
    counts: Counts,
    nodes: Vec<Dawdle>,
}

impl Fleet {
    async fn of(nodes: usize) -> Self {
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let clock = Clock::from_virtual(time.clone());
        let queue = MemoryBackend::new(clock);
        let counts = Counts::default();
        let mut fleet = Fleet { time, queue, counts, nodes: Vec::new() };
        for _ in 0..nodes {
            fleet.add_node(Config::default()).await;
        }
        fleet
    }

    async fn add_node(&mut self, config: Config) {
        self.add_node_by(self.queue.clone(), config).await;
    }

    async fn add_node_by(&mut self, backend: impl Backend, config: Config) {
        let config = Config { ack_linger: Some(Duration::ZERO), ..config };
        let clock = Clock::from_virtual(self.time.clone());
        let builder = Dawdle::builder().config(config).backend(backend).clock(clock.clone()).state(clock);
        self.nodes.push(builder.state(self.counts.clone()).start().await.unwrap());
    }

    fn begun(&self) -> usize {
        self.counts.begun.load(Ordering::Relaxed)
    }

    fn cancelled(&self) -> usize {
        self.counts.cancelled.load(Ordering::Relaxed)
    }

    async fn left(&self, lane: Lane) -> u64 {
        self.queue.inspect(lane).await.unwrap().total()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn a_handler_that_runs_for_ten_visibility_timeouts_is_not_run_twice() {
    let fleet = Fleet::of(2).await;
    fleet.nodes[0].signal(Long).await.unwrap();
    fleet.time.advance(seconds(298)).await;
    assert_eq!((fleet.begun(), fleet.cancelled()), (1, 0));
    fleet.time.advance(seconds(2)).await;
    assert_eq!(fleet.left(Lane::Dead).await, 1, "its one attempt timed out");
    let extensions = fleet.queue.requests().change_visibility;
    assert!((20..=45).contains(&extensions), "{extensions} extensions");
}

#[tokio::test]
async fn a_finished_handler_leaves_no_extension_behind() {
    let fleet = Fleet::of(1).await;
    fleet.nodes[0].signal(Long).await.unwrap();
    fleet.time.advance(seconds(310)).await;
    let extensions = fleet.queue.requests().change_visibility;
    fleet.time.advance(seconds(3_600)).await;
    assert_eq!(fleet.queue.requests().change_visibility, extensions);
    assert_eq!(fleet.left(Lane::Message).await, 0);
}

#[tokio::test]
async fn when_a_lease_cannot_be_extended_the_handler_is_told_and_another_node_takes_over() {
    let mut fleet = Fleet::of(0).await;
    // One event runs and one waits, so that this node has no room to receive either again.
    fleet.add_node(Config { concurrency: Some(1), prefetch: Some(1), ..Config::default() }).await;
    for _ in 0..2 {
        fleet.nodes[0].signal(Long).await.unwrap();
    }
    fleet.time.advance(seconds(1)).await;
    fleet.add_node(Config::default()).await;
    // All four or five tries of this node, and the first of the other's.
    fleet.queue.fail(Fault::unavailable(Action::Extend).times(6));
    fleet.time.advance(seconds(28)).await;
    assert_eq!((fleet.begun(), fleet.cancelled()), (1, 0));
    fleet.time.advance(seconds(6)).await;
    assert_eq!(fleet.cancelled(), 1, "its lease ended after 30 s");
    assert_eq!(fleet.begun(), 3, "the other node runs both");
    assert_eq!(fleet.left(Lane::Message).await, 2, "an ack after a lost lease counts for nothing");
    fleet.time.advance(seconds(300)).await;
    assert_eq!((fleet.begun(), fleet.left(Lane::Message).await, fleet.left(Lane::Dead).await), (3, 0, 2));
}

#[tokio::test]
async fn a_drain_cancels_what_does_not_end_and_gives_it_back() {
    let fleet = Fleet::of(2).await;
    fleet.nodes[0].signal(Long).await.unwrap();
    fleet.time.advance(seconds(1)).await;
    assert_eq!(fleet.begun(), 1);
    let stopping: Vec<_> =
        fleet.nodes.iter().cloned().map(|node| tokio::spawn(async move { node.shutdown().await })).collect();
    fleet.time.advance(seconds(19)).await;
    assert_eq!(fleet.cancelled(), 0);
    fleet.time.advance(seconds(6)).await;
    assert_eq!(fleet.cancelled(), 1, "five seconds before the end");
    for stopped in stopping {
        assert!(stopped.is_finished());
    }
    assert_eq!(fleet.left(Lane::Message).await, 0, "the handler came to an end in time");
}

#[tokio::test]
async fn a_lease_that_was_lost_and_comes_back_to_its_node_is_kept_again() {
    let fleet = Fleet::of(1).await;
    fleet.queue.fail(Fault::unavailable(Action::Extend).times(6));
    fleet.nodes[0].signal(Stubborn).await.unwrap();
    fleet.time.advance(seconds(99)).await;
    assert_eq!(fleet.begun(), 1);
    assert_eq!(fleet.queue.requests().receive, 2, "received again once, when its lease had ended");
    fleet.time.advance(seconds(2)).await;
    assert_eq!((fleet.left(Lane::Message).await, fleet.left(Lane::Dead).await), (0, 1), "its outcome counts");
}

#[tokio::test]
async fn stopping_with_messages_in_hand_that_were_not_begun_never_makes_them_poison() {
    let mut fleet = Fleet::of(0).await;
    fleet.add_node(Config { start_listener: Some(false), ..Config::default() }).await;
    for _ in 0..2 {
        fleet.nodes[0].signal(Stubborn).await.unwrap();
    }
    // One begins and is dropped, one waits behind it, in each of twenty short lives.
    for _ in 0..20 {
        let short = Some(Duration::from_secs(1));
        fleet.add_node(Config { concurrency: Some(1), shutdown_timeout: short, ..Config::default() }).await;
        fleet.time.advance(seconds(1)).await;
        let node = fleet.nodes.pop().unwrap();
        let stopping = tokio::spawn(async move { node.shutdown().await });
        fleet.time.advance(seconds(2)).await;
        stopping.await.unwrap();
    }
    assert_eq!((fleet.left(Lane::Message).await, fleet.left(Lane::Dead).await), (2, 0));
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "half-day")]
struct HalfDay;

/// Takes nearly as long as a handler may.
#[dawdle::handler(timeout = "11h", attempts = 1)]
async fn takes_eleven_hours(_: &HalfDay, cx: &Context, time: State<Clock>, counts: State<Counts>) -> Outcome {
    counts.begun.fetch_add(1, Ordering::Relaxed);
    time.sleep(Duration::from_secs(11 * 3_600 - 60)).await;
    if cx.cancelled().now_or_never().is_some() {
        counts.cancelled.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "obedient")]
struct Obedient {
    fails: bool,
}

/// Ends when it is told to.
#[dawdle::handler(timeout = "1h", attempts = 3)]
async fn obeys(event: &Obedient, cx: &Context, counts: State<Counts>) -> Outcome {
    counts.begun.fetch_add(1, Ordering::Relaxed);
    cx.cancelled().await;
    counts.cancelled.fetch_add(1, Ordering::Relaxed);
    if event.fails { Err("told to stop")? } else { Ok(()) }
}

/// A node's way to the queue: counts what the node writes, and refuses extensions on demand.
#[derive(Clone)]
struct Strict {
    queue: MemoryBackend,
    refuses: Arc<AtomicBool>,
    writes: Arc<AtomicUsize>,
    invalid: Arc<AtomicUsize>,
}

impl Strict {
    fn on(queue: &MemoryBackend) -> Self {
        Strict { queue: queue.clone(), refuses: Arc::default(), writes: Arc::default(), invalid: Arc::default() }
    }
}

impl Backend for Strict {
    forward!(self.queue => describe, limits, check, receive, inspect, browse);

    fn name(&self) -> &str {
        "strict"
    }

    fn send<'a>(&'a self, lane: Lane, messages: &'a [Outgoing]) -> BoxFuture<'a, Vec<Result<()>>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.queue.send(lane, messages)
    }

    fn settle<'a>(&'a self, lane: Lane, entries: &'a [Settle]) -> BoxFuture<'a, Vec<Result<()>>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.queue.settle(lane, entries)
    }

    fn extend<'a>(&'a self, lane: Lane, receipts: &'a [Receipt], lease: Duration) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move {
            if self.refuses.load(Ordering::Relaxed) {
                let lost = || Err(Error::new(ErrorKind::LeaseLost, "refused, as the test asked"));
                return receipts.iter().map(|_| lost()).collect();
            }
            let answers = self.queue.extend(lane, receipts, lease).await;
            let refused = answers.iter().filter(|answer| answer.is_err()).count();
            self.invalid.fetch_add(refused, Ordering::Relaxed);
            answers
        })
    }
}

async fn refused_extension(fails: bool) {
    let mut fleet = Fleet::of(0).await;
    let strict = Strict::on(&fleet.queue);
    // One runs and one waits, so that there is no room to receive either again.
    let config = Config { concurrency: Some(1), prefetch: Some(1), ..Config::default() };
    fleet.add_node_by(strict.clone(), config).await;
    for _ in 0..2 {
        fleet.nodes[0].signal(Obedient { fails }).await.unwrap();
    }
    fleet.time.advance(seconds(1)).await;
    let before = strict.writes.load(Ordering::Relaxed);
    strict.refuses.store(true, Ordering::Relaxed);
    fleet.time.advance(seconds(15)).await;
    assert_eq!((fleet.begun(), fleet.cancelled()), (1, 1), "told as soon as the extension was refused");
    assert_eq!(strict.writes.load(Ordering::Relaxed), before, "neither acked nor written again");
    assert_eq!((fleet.left(Lane::Message).await, fleet.left(Lane::Dead).await), (2, 0));
}

#[tokio::test]
async fn after_a_refused_extension_a_success_is_not_acked() {
    refused_extension(false).await;
}

#[tokio::test]
async fn after_a_refused_extension_a_failure_is_not_written() {
    refused_extension(true).await;
}

#[tokio::test]
async fn a_handler_of_eleven_hours_keeps_its_lease_and_nothing_beyond_twelve_is_asked_for() {
    let mut fleet = Fleet::of(0).await;
    let strict = Strict::on(&fleet.queue);
    fleet.add_node_by(strict.clone(), Config::default()).await;
    fleet.nodes[0].signal(HalfDay).await.unwrap();
    fleet.time.advance(seconds(1)).await;
    fleet.add_node(Config::default()).await;
    fleet.time.advance(seconds(12 * 3_600)).await;
    assert_eq!((fleet.begun(), fleet.cancelled()), (1, 0));
    assert_eq!((fleet.left(Lane::Message).await, fleet.left(Lane::Dead).await), (0, 0));
    assert_eq!(strict.invalid.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_has_waited_too_long_to_end_under_its_lease_is_given_back_and_not_begun() {
    let mut fleet = Fleet::of(0).await;
    let strict = Strict::on(&fleet.queue);
    let config = Config { concurrency: Some(1), ..Config::default() };
    fleet.add_node_by(strict.clone(), config).await;
    for _ in 0..2 {
        fleet.nodes[0].signal(HalfDay).await.unwrap();
    }
    // The second has waited for eleven hours, received all the while, and has one left.
    fleet.time.advance(seconds(23 * 3_600)).await;
    assert_eq!((fleet.begun(), fleet.cancelled()), (2, 0), "each once, and under one lease");
    assert_eq!((fleet.left(Lane::Message).await, fleet.left(Lane::Dead).await), (0, 0));
    assert_eq!(strict.invalid.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn of_messages_behind_a_long_handler_a_node_keeps_those_of_one_receive_and_others_get_the_rest() {
    let mut fleet = Fleet::of(0).await;
    fleet.add_node(Config { concurrency: Some(1), ..Config::default() }).await;
    for _ in 0..5 {
        fleet.nodes[0].signal(Long).await.unwrap();
    }
    fleet.time.advance(seconds(1)).await;
    fleet.add_node(Config::default()).await;
    fleet.time.advance(seconds(290)).await;
    assert_eq!(fleet.begun(), 4, "the other node is idle, and gets all but one of the four");
    assert_eq!(fleet.queue.requests().receive, 3, "two here, and the rest together: each was received once");
}
