//! Leases: what is being handled is handled once, for as long as it takes, and whoever loses a
//! lease is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use dawdle::backend::memory::{Action, Fault, MemoryBackend};
use dawdle::backend::{Backend, Lane};
use dawdle::{Clock, Config, Context, Dawdle, Event, Outcome, State, VirtualClock};
use serde::{Deserialize, Serialize};

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
        let config = Config { ack_linger: Some(Duration::ZERO), ..config };
        let clock = Clock::from_virtual(self.time.clone());
        let builder = Dawdle::builder().config(config).backend(self.queue.clone()).clock(clock);
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
    fleet.queue.fail(Fault::unavailable(Action::Extend).times(8));
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
