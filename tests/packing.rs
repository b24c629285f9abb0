//! Many events in one message: what they share, and that each of them keeps what is its own.
#![cfg(feature = "testing")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use dawdle::backend::memory::MemoryBackend;
use dawdle::backend::{Backend, Lane};
use dawdle::testing::Harness;
use dawdle::{Clock, Config, Dawdle, Event, EventId, Failure, Outcome, State, VirtualClock, handlers, reason};
use serde::{Deserialize, Serialize};

/// Packs because its type says so.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "packing.step", pack)]
struct Step {
    number: u32,
    text: String,
}

/// Packs where the configuration says so.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "packing.open")]
struct Open {
    number: u32,
}

/// Never packs.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "packing.never", pack = false)]
struct Never {
    number: u32,
}

fn step(number: u32) -> Step {
    Step { number, text: "x".repeat(200) }
}

#[dawdle::handler(attempts = 2)]
async fn first(event: &Step) -> Outcome {
    match event.number % 100 {
        13 => Err(Failure::retry("thirteen")),
        17 => Err(Failure::dead_letter("seventeen")),
        _ => Ok(()),
    }
}

#[dawdle::handler]
async fn second(_: &Step) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn opened(_: &Open) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn never(_: &Never) -> Outcome {
    Ok(())
}

async fn harness(config: Config) -> Harness {
    let builder = Harness::builder().discover(false).handlers(handlers![first, second, opened, never]);
    builder.config(config).start().await.unwrap()
}

async fn signal_all<E: dawdle::TypedEvent>(test: &Harness, events: impl Iterator<Item = E>) -> Vec<EventId> {
    test.dawdle().signal_all(events).await.into_iter().map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_thousand_events_are_a_handful_of_requests_each_event_with_its_own_id_retry_and_dead_letter() {
    let test = harness(Config::default()).await;
    let ids = signal_all(&test, (0..1_000).map(step)).await;
    let sent = test.dawdle().usage();
    assert!(sent.send <= 4, "{sent:?}");
    test.drain().await;
    assert_eq!((test.runs("first"), test.runs("second")), (1_000, 1_000));
    assert_eq!(test.dead_letters().await.len(), 10);
    // The ten that failed are written singly, addressed to their handler.
    test.advance(Duration::from_secs(3)).await;
    assert_eq!((test.runs("first"), test.runs("second")), (1_010, 1_000));
    let letters = test.dead_letters().await;
    let mut dead: Vec<&EventId> = letters.iter().map(|letter| &letter.id).collect();
    let mut expected: Vec<&EventId> =
        ids.iter().skip(13).step_by(100).chain(ids.iter().skip(17).step_by(100)).collect();
    dead.sort();
    expected.sort();
    assert_eq!(dead, expected);
    assert!(letters.iter().all(|letter| letter.handler.as_deref() == Some("first")));
    assert_eq!(letters.iter().filter(|letter| letter.reason == reason::ATTEMPTS).count(), 10);
}

#[tokio::test]
async fn two_hundred_bytes_events_cost_no_more_than_4_requests_and_20_billed_units_for_a_thousand() {
    // As outside of a harness.
    let test = harness(Config { ack_linger: Some(Duration::from_millis(50)), ..Config::default() }).await;
    let before = test.dawdle().usage();
    signal_all(&test, (0..20_000).map(|_| step(1))).await;
    test.drain().await;
    test.advance(Duration::from_secs(1)).await;
    assert_eq!(test.runs("second"), 20_000);
    let spent = test.dawdle().usage().since(&before);
    assert!(spent.requests() <= 80 && spent.billed <= 400, "{spent:?}");
}

#[tokio::test]
async fn packing_is_off_unless_the_type_or_the_configuration_turns_it_on() {
    for (pack, most) in [(false, [10, 10]), (true, [2, 10])] {
        let test = harness(Config { pack: Some(pack), ..Config::default() }).await;
        let mut sends = test.dawdle().usage().send;
        let mut spent = || {
            let now = test.dawdle().usage().send;
            now - std::mem::replace(&mut sends, now)
        };
        signal_all(&test, (0..100).map(|number| Open { number })).await;
        let open = spent();
        signal_all(&test, (0..100).map(|number| Never { number })).await;
        let never = spent();
        assert!(open <= most[0] && never == most[1], "{pack}: {open} and {never}");
        test.drain().await;
        assert_eq!((test.runs("opened"), test.runs("never")), (100, 100));
    }
}

#[tokio::test]
async fn a_pack_shares_its_group_and_due_second_and_no_event_of_it_is_early() {
    let test = harness(Config::default()).await;
    let now = test.now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let due = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs() + 100);
    let mut signals = Vec::new();
    for number in 0..40_u64 {
        let signal = test.signal(step(1)).at(due + Duration::from_millis(number % 10 * 99));
        signals.push(if number % 2 == 0 { signal } else { signal.group("tenant") }.buffered());
    }
    for signal in signals {
        signal.await.unwrap();
    }
    test.advance(Duration::from_millis(100)).await;
    assert_eq!(test.backend().inspect(Lane::Message).await.unwrap().total(), 2, "one for each group");
    let left = || due.duration_since(test.now()).unwrap();
    test.advance(left() - Duration::from_millis(1)).await;
    assert_eq!(test.runs("second"), 0);
    test.advance(Duration::from_millis(1)).await;
    assert_eq!(test.runs("second"), 4, "those due at the very second");
    test.advance(Duration::from_millis(891)).await;
    assert_eq!(test.runs("second"), 40);
    assert_eq!(test.backend().inspect(Lane::Message).await.unwrap().total(), 0);
}

#[tokio::test]
async fn a_long_delay_packs_too_and_travels_as_one_message() {
    let test = harness(Config::default()).await;
    let due = test.now() + Duration::from_secs(86_400);
    for number in 0..100 {
        test.signal(step(number * 100)).at(due).buffered().await.unwrap();
    }
    let before = test.dawdle().usage();
    test.advance(Duration::from_secs(86_399)).await;
    assert_eq!(test.runs("first"), 0);
    test.advance(Duration::from_secs(1)).await;
    assert_eq!(test.runs("first"), 100);
    let spent = test.dawdle().usage().since(&before);
    assert!(spent.requests() - spent.empty_receives <= 12, "{spent:?}");
}

/// A node on a virtual clock, whose handler takes as many seconds as its event says.
struct Stage {
    time: VirtualClock,
    queue: MemoryBackend,
    node: Dawdle,
    running: Arc<Running>,
}

/// How many runs there are at once, and which events have run to their end.
#[derive(Default)]
struct Running {
    now: AtomicUsize,
    most: AtomicUsize,
    ended: Mutex<Vec<u32>>,
}

impl Running {
    fn ended(&self) -> usize {
        self.ended.lock().unwrap().len()
    }
}

#[dawdle::handler(timeout = "1h")]
async fn slow(event: &Open, clock: State<Clock>, running: State<Arc<Running>>) -> Outcome {
    running.most.fetch_max(running.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    clock.sleep(Duration::from_secs(u64::from(event.number % 1_000))).await;
    running.now.fetch_sub(1, Ordering::SeqCst);
    running.ended.lock().unwrap().push(event.number);
    Ok(())
}

impl Stage {
    async fn new(concurrency: usize) -> Stage {
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let clock = Clock::from_virtual(time.clone());
        let (queue, running) = (MemoryBackend::new(clock.clone()), Arc::<Running>::default());
        let config = Config { concurrency: Some(concurrency), pack: Some(true), ..Config::default() };
        let builder = Dawdle::builder().config(config).backend(queue.clone()).clock(clock.clone()).state(clock);
        let builder = builder.state(Arc::clone(&running)).discover(false).handlers(handlers![slow]);
        let starting = tokio::spawn(builder.start().into_future());
        time.settle().await;
        Stage { node: starting.await.unwrap().unwrap(), time, queue, running }
    }

    async fn signal(&self, numbers: impl Iterator<Item = u32>) {
        for number in numbers {
            self.node.signal(Open { number }).buffered().await.unwrap();
        }
        self.time.advance(Duration::from_millis(50)).await;
    }

    async fn advance(&self, secs: u64) {
        self.time.advance(Duration::from_secs(secs)).await;
    }

    async fn on_the_queue(&self) -> u64 {
        self.queue.inspect(Lane::Message).await.unwrap().total()
    }
}

#[tokio::test]
async fn a_pack_never_runs_more_handlers_at_once_than_the_node_may() {
    let stage = Stage::new(3).await;
    stage.signal((0..30).map(|number| number * 1_000 + 1)).await;
    assert_eq!(stage.on_the_queue().await, 1);
    stage.advance(11).await;
    assert_eq!((stage.running.ended(), stage.running.most.load(Ordering::SeqCst)), (30, 3));
    stage.advance(1).await;
    assert_eq!(stage.on_the_queue().await, 0);
}

#[tokio::test]
async fn a_pack_is_split_after_half_a_minute_and_what_waited_does_not_wait_for_what_runs() {
    let stage = Stage::new(2).await;
    // The first two take ten minutes.
    let numbers = (0..20).map(|number| number * 1_000 + if number < 2 { 600 } else { 1 });
    stage.signal(numbers).await;
    stage.advance(29).await;
    assert_eq!((stage.on_the_queue().await, stage.running.ended()), (1, 0));
    stage.advance(2).await;
    assert_eq!(stage.on_the_queue().await, 1 + 18, "the pack, and what was not begun of it");
    stage.advance(700).await;
    let mut ended = stage.running.ended.lock().unwrap().clone();
    ended.sort();
    ended.dedup();
    assert_eq!((ended.len(), stage.running.ended()), (20, 20), "each has run once");
    assert_eq!(stage.on_the_queue().await, 0);
}

#[tokio::test]
async fn a_pack_of_which_nothing_was_begun_is_given_back_as_it_is() {
    let stage = Stage::new(1).await;
    stage.signal([5_020, 6_020].into_iter()).await;
    stage.signal((0..10).map(|number| number * 1_000 + 1)).await;
    assert_eq!(stage.on_the_queue().await, 2);
    let stopping = stage.node.clone();
    let stop = tokio::spawn(async move { stopping.stop_listener().await });
    stage.advance(26).await;
    stop.await.unwrap();
    // What the first pack had not begun, and the whole second.
    assert_eq!((stage.running.ended(), stage.on_the_queue().await), (1, 2));
    let start = stage.node.clone();
    let start = tokio::spawn(async move { start.start_listener().await });
    stage.advance(40).await;
    start.await.unwrap().unwrap();
    assert_eq!((stage.running.ended(), stage.on_the_queue().await), (12, 0));
}
