//! Signals that are not waited for: each is durable once `flush` or `shutdown` has returned, or is named.
#![cfg(feature = "testing")]

use std::time::Duration;

use dawdle::backend::memory::{Action, Fault, MemoryBackend};
use dawdle::backend::{Backend, Lane};
use dawdle::{Clock, Config, Dawdle, ErrorKind, Event, VirtualClock};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "buffered.note")]
struct Note {
    number: u32,
}

/// A process that only signals, on a clock that the test moves.
struct Stage {
    time: VirtualClock,
    queue: MemoryBackend,
    node: Dawdle,
}

impl Stage {
    async fn new(config: Config) -> Stage {
        let time = VirtualClock::new(std::time::SystemTime::now());
        let clock = Clock::from_virtual(time.clone());
        let queue = MemoryBackend::new(clock.clone());
        let builder = Dawdle::builder().config(config).backend(queue.clone()).clock(clock).listener(false);
        let node = builder.discover(false).start().await.unwrap();
        Stage { time, queue, node }
    }

    async fn signal(&self, count: u32) {
        for number in 0..count {
            self.node.signal(Note { number }).buffered().await.unwrap();
        }
    }

    async fn queued(&self) -> u64 {
        self.queue.inspect(Lane::Message).await.unwrap().total()
    }

    async fn advance(&self, millis: u64) {
        self.time.advance(Duration::from_millis(millis)).await;
    }

    /// Runs a call while the clock goes on.
    async fn during<T: Send + 'static>(&self, call: impl Future<Output = T> + Send + 'static) -> T {
        let calling = tokio::spawn(call);
        while !calling.is_finished() {
            self.advance(100).await;
            tokio::task::yield_now().await;
        }
        calling.await.unwrap()
    }

    async fn flush(&self) -> dawdle::Result<()> {
        let node = self.node.clone();
        self.during(async move { node.flush().await }).await
    }
}

#[tokio::test]
async fn what_is_buffered_gathers_for_the_batch_delay_and_goes_together() {
    let stage = Stage::new(Config::default()).await;
    stage.signal(25).await;
    stage.advance(49).await;
    assert_eq!(stage.queued().await, 0);
    stage.advance(1).await;
    assert_eq!((stage.queued().await, stage.queue.requests().send), (25, 3));
}

#[tokio::test]
async fn a_full_batch_does_not_wait_for_the_delay() {
    let stage = Stage::new(Config { buffer_batch: Some(20), ..Config::default() }).await;
    stage.signal(20).await;
    stage.advance(0).await;
    assert_eq!((stage.queued().await, stage.queue.requests().send), (20, 2));
}

#[tokio::test]
async fn flush_waits_for_all_that_was_buffered_and_does_not_wait_for_the_delay() {
    let config = Config { buffer_delay: Some(Duration::from_secs(10)), ..Config::default() };
    let stage = Stage::new(config).await;
    stage.signal(25).await;
    let begun = stage.time.now();
    stage.flush().await.unwrap();
    assert_eq!(stage.queued().await, 25);
    assert!(stage.time.now().duration_since(begun).unwrap() < Duration::from_secs(1));
}

#[tokio::test]
async fn past_its_critical_size_the_buffer_answers_overloaded_and_takes_more_when_it_has_drained() {
    let stage = Stage::new(Config { send_buffer: Some(10), ..Config::default() }).await;
    stage.signal(10).await;
    let error = stage.node.signal(Note { number: 10 }).buffered().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    stage.flush().await.unwrap();
    stage.signal(10).await;
    stage.flush().await.unwrap();
    assert_eq!(stage.queued().await, 20);
}

#[tokio::test]
async fn an_outage_of_any_length_loses_nothing_that_is_buffered() {
    let stage = Stage::new(Config::default()).await;
    let fails = Fault::unavailable(Action::Send).times(3_000);
    stage.queue.fail(fails);
    stage.signal(25).await;
    let error = stage.flush().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(stage.queued().await, 0);
    stage.advance(3_600_000).await;
    assert_eq!(stage.queued().await, 25);
    stage.flush().await.unwrap();
}

#[tokio::test]
async fn what_passes_loses_nothing_that_is_buffered_and_flush_says_what_it_is() {
    for kind in [ErrorKind::Credentials, ErrorKind::Queue, ErrorKind::Full, ErrorKind::Throttled] {
        let stage = Stage::new(Config::default()).await;
        stage.queue.fail(Fault::error(Action::Send, kind).times(u32::MAX));
        stage.signal(25).await;
        let error = stage.flush().await.unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains("they are tried on"), "{error}");
        stage.advance(3_600_000).await;
        stage.queue.heal();
        stage.advance(60_000).await;
        stage.flush().await.unwrap();
        assert_eq!(stage.queued().await, 25, "{kind:?}");
    }
}

#[tokio::test]
async fn what_is_about_no_event_takes_no_pack_apart() {
    let stage = Stage::new(Config { pack: Some(true), ..Config::default() }).await;
    stage.queue.fail(Fault::error(Action::Send, ErrorKind::Credentials));
    stage.signal(25).await;
    stage.advance(60_000).await;
    assert_eq!((stage.queued().await, stage.queue.requests().send), (1, 2));
}

#[tokio::test]
async fn what_can_never_be_sent_is_an_error_of_the_next_flush_and_harms_no_other() {
    let stage = Stage::new(Config::default()).await;
    stage.queue.fail(Fault::refused(Action::Send).entry(3));
    stage.signal(10).await;
    let error = stage.flush().await.unwrap_err();
    assert!(error.to_string().starts_with("1 buffered events could not be sent"), "{error}");
    assert_eq!(stage.queued().await, 9);
    stage.flush().await.unwrap();
}

#[tokio::test]
async fn a_shutdown_sends_what_is_buffered() {
    let config = Config { buffer_delay: Some(Duration::from_secs(10)), ..Config::default() };
    let stage = Stage::new(config).await;
    stage.signal(25).await;
    let node = stage.node.clone();
    stage.during(async move { node.shutdown().await }).await;
    assert_eq!(stage.queued().await, 25);
    let error = stage.node.signal(Note { number: 1 }).buffered().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ShutDown);
}

#[tokio::test]
async fn while_a_shutdown_waits_for_what_is_buffered_nothing_more_is_taken() {
    let stage = Stage::new(Config::default()).await;
    stage.queue.fail(Fault::unavailable(Action::Send).times(100));
    stage.signal(25).await;
    let node = stage.node.clone();
    let shutdown = tokio::spawn(async move { node.shutdown().await });
    stage.advance(500).await;
    assert!(!shutdown.is_finished());
    let error = stage.node.signal(Note { number: 25 }).buffered().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ShutDown);
    stage.during(async move { shutdown.await.unwrap() }).await;
    assert_eq!(stage.queued().await, 25);
}

#[tokio::test]
async fn a_signal_is_not_direct_and_buffered() {
    let stage = Stage::new(Config::default()).await;
    let error = stage.node.signal(Note { number: 1 }).buffered().direct().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn signal_all_fills_its_batches_and_answers_each_in_order() {
    let stage = Stage::new(Config::default()).await;
    stage.queue.fail(Fault::refused(Action::Send).entry(3));
    let node = stage.node.clone();
    let answers = stage.during(async move { node.signal_all((0..1_005).map(|number| Note { number })).await }).await;
    assert_eq!(stage.queue.requests().send, 101);
    assert_eq!(answers.iter().map(Result::is_ok).filter(|ok| !ok).count(), 1);
    assert!(answers[3].is_err());
    let mut ids: Vec<_> = answers.into_iter().flatten().collect();
    assert_eq!(ids.len(), 1_004);
    assert!(ids.is_sorted());
    ids.dedup();
    assert_eq!(ids.len(), 1_004);
}
