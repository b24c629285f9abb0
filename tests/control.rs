//! A node is paused, resumed and resized, and a handler switched off and on, without a restart.
#![cfg(feature = "testing")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use dawdle::backend::memory::MemoryBackend;
use dawdle::backend::{Backend, Lane};
use dawdle::testing::Harness;
use dawdle::{Clock, Config, Dawdle, ErrorKind, Event, Outcome, State, VirtualClock, handlers};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "control.step")]
struct Step {
    number: u32,
}

/// What the handlers have done, and how many of them run.
#[derive(Clone, Default)]
struct Counts {
    done: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    clock: Clock,
}

#[dawdle::handler]
async fn slow(_: &Step, counts: State<Counts>) -> Outcome {
    counts.most.fetch_max(counts.running.fetch_add(1, SeqCst) + 1, SeqCst);
    counts.clock.sleep(Duration::from_secs(10)).await;
    counts.running.fetch_sub(1, SeqCst);
    counts.done.fetch_add(1, SeqCst);
    Ok(())
}

#[dawdle::handler]
async fn mail(_: &Step, counts: State<Counts>) -> Outcome {
    counts.sent.fetch_add(1, SeqCst);
    Ok(())
}

struct Node {
    time: VirtualClock,
    queue: MemoryBackend,
    counts: Counts,
    dawdle: Dawdle,
}

/// A node on a queue of its own, on a clock that the test moves.
async fn node(config: Config, registrations: Vec<dawdle::Registration>) -> Node {
    let time = VirtualClock::new(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let clock = Clock::from_virtual(time.clone());
    let queue = MemoryBackend::new(clock.clone());
    let counts = Counts { clock: clock.clone(), ..Counts::default() };
    let builder = Dawdle::builder().config(config).backend(queue.clone()).clock(clock).state(counts.clone());
    let dawdle = builder.discover(false).handlers(registrations).start().await.unwrap();
    Node { time, queue, counts, dawdle }
}

impl Node {
    async fn signal(&self, events: u32) {
        for signalled in self.dawdle.signal_all((0..events).map(|number| Step { number })).await {
            signalled.unwrap();
        }
    }

    async fn pass(&self, secs: u64) {
        self.time.advance(Duration::from_secs(secs)).await;
    }

    fn done(&self) -> usize {
        self.counts.done.load(SeqCst)
    }
}

fn at_once(concurrency: usize) -> Config {
    Config { concurrency: Some(concurrency), ..Config::default() }
}

#[tokio::test]
async fn a_paused_node_ends_what_it_runs_and_leaves_the_rest_to_others_until_it_is_resumed() {
    let node = node(at_once(2), handlers![slow]).await;
    node.signal(6).await;
    node.pass(1).await;
    node.dawdle.pause();
    assert!(node.dawdle.is_paused() && !node.dawdle.listener_running());
    node.pass(5).await;
    let left = node.queue.inspect(Lane::Message).await.unwrap();
    assert_eq!((left.visible, left.in_flight), (4, 2), "what was not begun is given back at once");
    // Ten minutes: no deadline ends what runs, nor does its lease run out.
    node.pass(600).await;
    assert_eq!((node.done(), node.queue.inspect(Lane::Message).await.unwrap().total()), (2, 4));
    node.dawdle.start_listener().await.unwrap();
    node.pass(60).await;
    assert_eq!(node.done(), 2, "it is paused still");
    node.dawdle.resume().unwrap();
    node.pass(60).await;
    assert_eq!((node.done(), node.queue.inspect(Lane::Message).await.unwrap().total()), (6, 0));
    node.dawdle.shutdown().await;
}

#[tokio::test]
async fn a_handler_that_outlasts_a_pause_runs_beside_those_of_the_resumed_node_and_is_drained_with_them() {
    let node = node(at_once(2), handlers![slow]).await;
    node.signal(4).await;
    node.pass(5).await;
    node.dawdle.pause();
    node.pass(1).await;
    node.dawdle.resume().unwrap();
    node.pass(1).await;
    assert_eq!(node.counts.most.load(SeqCst), 2, "the limit holds over both");
    node.pass(4).await;
    assert_eq!(node.done(), 2);
    node.dawdle.pause();
    let shutdown = tokio::spawn({
        let dawdle = node.dawdle.clone();
        async move { dawdle.shutdown().await }
    });
    node.pass(20).await;
    shutdown.await.unwrap();
    assert_eq!((node.done(), node.queue.inspect(Lane::Message).await.unwrap().total()), (4, 0));
    assert_eq!(node.dawdle.resume().unwrap_err().kind(), ErrorKind::ShutDown);
}

#[tokio::test]
async fn the_concurrency_changes_while_handlers_run() {
    let node = node(at_once(8), handlers![slow]).await;
    node.signal(100).await;
    node.pass(1).await;
    let running = || node.counts.running.load(SeqCst);
    assert_eq!(running(), 8);
    node.dawdle.set_concurrency(3).unwrap();
    node.pass(1).await;
    assert_eq!(running(), 8, "what runs goes on");
    node.pass(9).await;
    assert_eq!(running(), 3);
    node.dawdle.set_concurrency(40).unwrap();
    node.pass(1).await;
    assert_eq!((running(), node.dawdle.concurrency()), (40, 40));
    for refused in [0, 1_000_001] {
        let error = node.dawdle.set_concurrency(refused).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(&refused.to_string()), "{error}");
    }
    node.pass(60).await;
    assert_eq!(node.done(), 100);
    node.dawdle.shutdown().await;
}

#[tokio::test]
async fn the_work_of_a_paused_handler_waits_and_its_siblings_run_once() {
    let node = node(at_once(20), handlers![slow, mail]).await;
    node.dawdle.pause_handler("mail").unwrap();
    node.signal(5).await;
    node.pass(60).await;
    assert_eq!((node.done(), node.counts.sent.load(SeqCst)), (5, 0));
    assert_eq!(node.queue.inspect(Lane::Message).await.unwrap().total(), 5);
    node.dawdle.resume_handler("mail").unwrap();
    node.pass(900).await;
    assert_eq!((node.done(), node.counts.sent.load(SeqCst)), (5, 5));
    let error = node.dawdle.resume_handler("mial").unwrap_err();
    assert!(error.kind() == ErrorKind::Registration && error.to_string().contains("mail"), "{error}");
    node.dawdle.shutdown().await;
}

#[tokio::test]
async fn a_handler_is_switched_off_by_the_configuration() {
    let config: Config = serde_json::from_str(r#"{ "except_handlers": "mail, other" }"#).unwrap();
    let test = node(config.clone(), handlers![slow, mail]).await;
    assert_eq!(test.dawdle.handlers().into_iter().map(|handler| handler.name).collect::<Vec<_>>(), ["slow"]);
    test.dawdle.resume_handler("mail").unwrap();
    assert_eq!(test.dawdle.handler_count(), 2);
    test.dawdle.shutdown().await;
    let error = serde_json::from_str::<Config>(r#"{ "except_handlers": "mail,,slow" }"#).unwrap_err();
    assert!(error.to_string().contains("commas"), "{error}");
    // In code, over the configuration.
    let builder = Harness::builder().config(config).discover(false).handlers(handlers![slow, mail]);
    let harness = builder.except_handlers(["slow"]).state(Counts::default()).start().await.unwrap();
    harness.signal(Step { number: 1 }).await.unwrap();
    harness.drain().await;
    assert_eq!((harness.runs("mail"), harness.dawdle().handler_count()), (1, 1));
}
