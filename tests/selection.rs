//! Which handlers a node runs, and what becomes of the events of those that it does not.
#![cfg(feature = "testing")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use dawdle::backend::memory::MemoryBackend;
use dawdle::backend::{Backend, Lane};
use dawdle::{Builder, Clock, Config, Context, Dawdle, ErrorKind, Event, Outcome, State, VirtualClock, handlers};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "choice.order")]
struct Order;

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "choice.refund")]
struct Refund;

/// Which handler ran on which node, how often.
#[derive(Clone, Default)]
struct Runs(Arc<Mutex<BTreeMap<(String, &'static str), u32>>>);

impl Runs {
    fn seen(&self) -> Vec<(String, u32)> {
        let runs = self.0.lock().unwrap();
        runs.iter().map(|((handler, node), runs)| (format!("{handler}@{node}"), *runs)).collect()
    }
}

struct Node(&'static str, Runs);

fn ran(cx: &Context, node: &Node) -> Outcome {
    *node.1.0.lock().unwrap().entry((cx.handler().to_owned(), node.0)).or_default() += 1;
    Ok(())
}

#[dawdle::handler]
async fn charge(_: &Order, cx: &Context, node: State<Node>) -> Outcome {
    ran(cx, &node)
}

#[dawdle::handler]
async fn pack(_: &Order, cx: &Context, node: State<Node>) -> Outcome {
    ran(cx, &node)
}

#[dawdle::handler]
async fn thank(_: &Order, cx: &Context, node: State<Node>) -> Outcome {
    ran(cx, &node)
}

#[dawdle::handler]
async fn pay_back(_: &Refund, cx: &Context, node: State<Node>) -> Outcome {
    ran(cx, &node)
}

#[dawdle::handler(except(Refund))]
async fn audit(_: &dyn Event, cx: &Context, node: State<Node>) -> Outcome {
    ran(cx, &node)
}

/// Several nodes on one memory backend and one clock.
struct Fleet {
    time: VirtualClock,
    backend: MemoryBackend,
    runs: Runs,
}

impl Fleet {
    fn new() -> Self {
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let backend = MemoryBackend::new(Clock::from_virtual(time.clone()));
        Fleet { time, backend, runs: Runs::default() }
    }

    fn node(&self, name: &'static str) -> Builder {
        Dawdle::builder()
            .backend(self.backend.clone())
            .clock(Clock::from_virtual(self.time.clone()))
            .state(Node(name, self.runs.clone()))
            .config(Config { ack_linger: Some(Duration::ZERO), ..Config::default() })
    }

    async fn on(&self, lane: Lane) -> u64 {
        self.backend.inspect(lane).await.unwrap().total()
    }

    /// Lets ten minutes pass; then the queue is empty.
    async fn all_is_handled(&self) {
        self.time.advance(Duration::from_secs(600)).await;
        assert_eq!((self.on(Lane::Message).await, self.on(Lane::Dead).await), (0, 0));
    }
}

fn times(expected: &[(&str, u32)]) -> Vec<(String, u32)> {
    expected.iter().map(|(run, times)| ((*run).to_owned(), *times)).collect()
}

#[tokio::test]
async fn each_handler_runs_once_on_the_node_that_selects_it() {
    let fleet = Fleet::new();
    let left = fleet.node("left").only_handlers(["charge", "audit"]).start().await.unwrap();
    let right = fleet.node("right").only_handlers(["pack", "thank", "pay_back"]).start().await.unwrap();
    assert_eq!((left.handler_count(), right.handler_count()), (2, 3));
    for signals in 1..=20 {
        left.signal(Order).await.unwrap();
        right.signal(Refund).await.unwrap();
        fleet.all_is_handled().await;
        assert_eq!(
            fleet.runs.seen(),
            times(&[
                ("audit@left", signals),
                ("charge@left", signals),
                ("pack@right", signals),
                ("pay_back@right", signals),
                ("thank@right", signals)
            ])
        );
    }
    left.shutdown().await;
    right.shutdown().await;
}

#[tokio::test]
async fn events_of_handlers_that_no_node_selects_wait_for_one_that_does() {
    let fleet = Fleet::new();
    let left = fleet.node("left").only_handlers(["charge"]).start().await.unwrap();
    left.signal(Order).await.unwrap();
    fleet.time.advance(Duration::from_secs(3_600)).await;
    assert_eq!(fleet.runs.seen(), times(&[("charge@left", 1)]));
    assert_eq!((fleet.on(Lane::Message).await, fleet.on(Lane::Dead).await), (3, 0));
    let right = fleet.node("right").only_handlers(["audit", "pack", "thank"]).start().await.unwrap();
    fleet.time.advance(Duration::from_secs(7_200)).await;
    let all = [("audit@right", 1), ("charge@left", 1), ("pack@right", 1), ("thank@right", 1)];
    assert_eq!(fleet.runs.seen(), times(&all));
    assert_eq!((fleet.on(Lane::Message).await, fleet.on(Lane::Dead).await), (0, 0));
    left.shutdown().await;
    right.shutdown().await;
}

#[tokio::test]
async fn handlers_come_and_go_at_run_time() {
    let fleet = Fleet::new();
    let dawdle = fleet.node("one").discover(false).handlers(handlers![charge]).start().await.unwrap();
    dawdle.signal(Order).await.unwrap();
    fleet.all_is_handled().await;
    assert_eq!(fleet.runs.seen(), times(&[("charge@one", 1)]));

    dawdle.register(handlers![pack, pay_back]).unwrap();
    let names: Vec<_> = dawdle.handlers().into_iter().map(|handler| handler.name).collect();
    assert_eq!(names, ["charge", "pack", "pay_back"]);
    assert_eq!((dawdle.handler_count_for::<Order>(), dawdle.handler_count_for::<Refund>()), (2, 1));
    dawdle.signal(Order).await.unwrap();
    fleet.all_is_handled().await;
    assert_eq!(fleet.runs.seen(), times(&[("charge@one", 2), ("pack@one", 1)]));

    dawdle.unregister("charge").unwrap();
    assert_eq!((dawdle.handler_count(), dawdle.handler_count_for::<Order>()), (2, 1));
    dawdle.signal(Order).await.unwrap();
    fleet.time.advance(Duration::from_secs(60)).await;
    assert_eq!(fleet.runs.seen(), times(&[("charge@one", 2), ("pack@one", 2)]));
    assert_eq!(fleet.on(Lane::Message).await, 1, "it waits for a node that charges");
    dawdle.register(handlers![charge]).unwrap();
    fleet.all_is_handled().await;
    assert_eq!(fleet.runs.seen(), times(&[("charge@one", 3), ("pack@one", 2)]));
    // Given again, it is replaced.
    dawdle.register(handlers![charge]).unwrap();
    assert_eq!(dawdle.handler_count(), 3);

    let error = dawdle.unregister("absent").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Registration);
    assert!(error.to_string().contains("`absent`") && error.to_string().contains("charge"), "{error}");
    dawdle.shutdown().await;
}

#[tokio::test]
async fn a_process_without_handlers_starts_no_listener_until_it_has_some() {
    let fleet = Fleet::new();
    let dawdle = fleet.node("one").discover(false).start().await.unwrap();
    assert_eq!((dawdle.handler_count(), dawdle.listener_running()), (0, false));
    dawdle.start_listener().await.unwrap();
    assert!(!dawdle.listener_running());
    dawdle.signal(Order).await.unwrap();
    fleet.time.advance(Duration::from_secs(60)).await;
    assert_eq!((fleet.on(Lane::Message).await, fleet.backend.requests().receive), (1, 0));
    dawdle.register(handlers![charge]).unwrap();
    fleet.all_is_handled().await;
    assert!(dawdle.listener_running());
    assert_eq!(fleet.runs.seen(), times(&[("charge@one", 1)]));
    dawdle.shutdown().await;
}

#[tokio::test]
async fn one_that_was_told_not_to_listen_does_not() {
    let fleet = Fleet::new();
    let dawdle = fleet.node("one").listener(false).start().await.unwrap();
    assert_eq!((dawdle.handler_count(), dawdle.listener_running()), (5, false));
    dawdle.register(handlers![charge]).unwrap();
    dawdle.signal(Order).await.unwrap();
    fleet.time.advance(Duration::from_secs(60)).await;
    assert!(!dawdle.listener_running() && fleet.on(Lane::Message).await == 1);
    dawdle.start_listener().await.unwrap();
    fleet.all_is_handled().await;
    assert_eq!(fleet.runs.seen().len(), 4);
    dawdle.shutdown().await;
}

#[tokio::test]
async fn what_is_linked_in_is_found_unless_it_is_not_to_be() {
    let fleet = Fleet::new();
    let found = fleet.node("one").start().await.unwrap();
    let names: Vec<_> = found.handlers().into_iter().map(|handler| handler.name).collect();
    assert_eq!(names, ["charge", "pack", "thank", "pay_back", "audit"]);
    assert_eq!((found.handler_count_for::<Order>(), found.handler_count_for::<Refund>()), (4, 1));
    found.shutdown().await;
    let given = fleet.node("two").discover(false).handlers(handlers![thank]).start().await.unwrap();
    assert_eq!((given.handler_count(), given.handlers()[0].kind), (1, Some("choice.order")));
    given.shutdown().await;
}
