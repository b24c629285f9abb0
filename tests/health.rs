//! What an application can see of its queues while they fail, and that a node resumes by itself.

use std::time::{Duration, SystemTime};

use dawdle::backend::memory::{Action, Fault, MemoryBackend};
use dawdle::backend::{Backend, Lane};
use dawdle::{Clock, Dawdle, ErrorKind, Event, Failure, Filter, Outcome, QueueHealth, QueueState, VirtualClock};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "health.noted")]
struct Noted;

#[dawdle::handler]
async fn note(_: &Noted) -> Outcome {
    Ok(())
}

struct Node {
    time: VirtualClock,
    queue: MemoryBackend,
    dawdle: Dawdle,
}

impl Node {
    async fn start() -> Self {
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let clock = Clock::from_virtual(time.clone());
        let queue = MemoryBackend::new(clock.clone());
        let dawdle = Dawdle::builder().backend(queue.clone()).clock(clock).start().await.unwrap();
        time.settle().await;
        Node { time, queue, dawdle }
    }

    fn queue(&self, lane: Lane) -> QueueHealth {
        self.dawdle.health().queue(lane).unwrap().clone()
    }

    /// A receive that waits is over, and the next one begins.
    async fn receive_one(&self) {
        self.dawdle.signal(Noted).await.unwrap();
        self.time.advance(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_queue_that_fails_is_seen_to_fail_since_when_and_why_and_resumes_by_itself_within_seconds() {
    let node = Node::start().await;
    assert!(node.dawdle.health().is_running());
    assert!(node.queue(Lane::Delay).last_receive.is_some(), "looked at when the listener starts");
    let begun = node.time.now();

    node.queue.fail(Fault::unavailable(Action::Receive).times(u32::MAX));
    node.receive_one().await;
    node.time.advance(Duration::from_secs(3_600)).await;
    let health = node.queue(Lane::Message);
    let QueueState::BackingOff { since, failures, error } = health.state else { panic!("{health:?}") };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(since.duration_since(begun).unwrap() < Duration::from_secs(1));
    assert!((700..1_100).contains(&failures), "{failures} tries in an hour: about one in five seconds, less jitter");
    assert!(health.last_receive.unwrap() <= since);
    assert!(!node.dawdle.health().is_running());
    assert!(matches!(node.queue(Lane::Delay).state, QueueState::Running), "the other queue is well");

    node.dawdle.signal(Noted).await.unwrap();
    node.queue.heal();
    node.time.advance(Duration::from_secs(6)).await;
    assert!(node.dawdle.health().is_running());
    assert!(node.queue(Lane::Message).last_receive.unwrap() > since);
    assert_eq!(node.queue.requests().delete, 2, "both events are handled");
    node.dawdle.shutdown().await;
}

#[tokio::test]
async fn a_delay_queue_that_fails_is_seen_to_fail_too() {
    let node = Node::start().await;
    node.queue.fail(Fault::throttled(Action::Browse).on(Lane::Delay).times(u32::MAX));
    node.time.advance(Duration::from_secs(241)).await;
    let health = node.queue(Lane::Delay);
    let QueueState::BackingOff { error, .. } = health.state else { panic!("{health:?}") };
    assert_eq!(error.kind(), ErrorKind::Throttled);
    node.queue.heal();
    node.time.advance(Duration::from_secs(6)).await;
    assert!(node.dawdle.health().is_running());
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "health.doomed")]
struct Doomed;

#[dawdle::handler]
async fn give_up(_: &Doomed) -> Outcome {
    Err(Failure::dead_letter("no use"))
}

#[tokio::test]
async fn a_queue_that_cannot_be_written_to_is_seen_and_keeps_no_other_handler_waiting() {
    let node = Node::start().await;
    node.dawdle.set_concurrency(4).unwrap();
    for kind in [ErrorKind::Queue, ErrorKind::Credentials, ErrorKind::Unavailable] {
        let (begun, acked) = (node.time.now(), node.queue.requests().delete);
        node.queue.fail(Fault::error(Action::Send, kind).on(Lane::Dead).times(u32::MAX));
        for _ in 0..300 {
            node.dawdle.signal(Doomed).await.unwrap();
        }
        node.time.advance(Duration::from_secs(60)).await;
        let held_up = node.dawdle.health().held_up;
        assert_eq!((held_up.len(), held_up[0].lane, held_up[0].writes), (1, Lane::Dead, 300), "{kind:?}");
        assert_eq!(held_up[0].error.kind(), kind);
        assert!(held_up[0].since.duration_since(begun).unwrap() < Duration::from_secs(30), "{kind:?}");

        assert_eq!(node.queue.requests().delete, acked);
        for _ in 0..50 {
            node.dawdle.signal(Noted).await.unwrap();
        }
        node.time.advance(Duration::from_secs(2)).await;
        assert_eq!(
            node.queue.inspect(Lane::Message).await.unwrap().total(),
            300,
            "{kind:?}: all but these are handled"
        );

        node.queue.heal();
        node.time.advance(Duration::from_secs(60)).await;
        assert!(node.dawdle.health().held_up.is_empty());
        assert_eq!(node.queue.inspect(Lane::Message).await.unwrap().total(), 0);
        assert_eq!(node.queue.inspect(Lane::Dead).await.unwrap().total(), 300, "{kind:?}");
        assert_eq!(node.dawdle.dead_letters().purge_where(Filter::default()).await.unwrap(), 300);
    }
}

#[tokio::test]
async fn a_listener_that_is_stopped_is_not_running_and_neither_is_one_that_never_was() {
    let node = Node::start().await;
    let stopping = node.dawdle.clone();
    let stopped = tokio::spawn(async move { stopping.stop_listener().await });
    node.time.advance(Duration::from_secs(1)).await;
    stopped.await.unwrap();
    let health = node.dawdle.health();
    assert!(health.queues.iter().all(|queue| matches!(queue.state, QueueState::Stopped)) && !health.is_running());
    node.dawdle.start_listener().await.unwrap();
    assert!(node.dawdle.health().is_running());
}
