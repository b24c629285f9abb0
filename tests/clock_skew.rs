//! Due times, retries, expiry and dead letters go by the queue's clock, on nodes whose own is minutes
//! off: on the memory backend, in virtual time.

use std::future::IntoFuture;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use dawdle::backend::memory::MemoryBackend;
use dawdle::backend::{Backend, BoxFuture, Lane};
use dawdle::{Clock, Config, Context, Dawdle, ErrorKind, Event, Filter, Outcome, State, VirtualClock, reason};
use serde::{Deserialize, Serialize};

#[path = "common/forward.rs"]
mod forward;
use forward::forward;

const MINUTES_OFF: [i64; 3] = [-5, 0, 5];

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "skew.timed")]
struct Timed {
    due: SystemTime,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "skew.failing")]
struct Failing;

/// What was seen, by the queue's clock.
#[derive(Clone)]
struct Seen {
    queue_time: VirtualClock,
    lags: Arc<Mutex<Vec<Duration>>>,
    tries: Arc<Mutex<Vec<SystemTime>>>,
}

#[dawdle::handler]
async fn time(event: &Timed, cx: &Context, seen: State<Seen>) -> Outcome {
    let now = seen.queue_time.now();
    assert_eq!(cx.now(), now);
    seen.lags.lock().unwrap().push(now.duration_since(event.due).map_err(|early| format!("early: {early}"))?);
    Ok(())
}

#[dawdle::handler(attempts = 3, backoff = "60s..60s")]
async fn fail(_: &Failing, seen: State<Seen>) -> Outcome {
    seen.tries.lock().unwrap().push(seen.queue_time.now());
    Err("not today")?
}

/// The queue, seen from a machine whose clock is off: what it tells of the time is as far off, the other
/// way round.
#[derive(Clone)]
struct Skewed {
    queue: MemoryBackend,
    offset_ms: Arc<AtomicI64>,
    /// Nothing has told the time yet.
    unknown: Arc<AtomicBool>,
    /// So many questions for it stay without an answer.
    unanswered: Arc<AtomicU32>,
}

impl Backend for Skewed {
    forward!(self.queue => describe, limits, check, send, receive, settle, extend, inspect, browse);

    fn name(&self) -> &str {
        "skewed"
    }

    fn clock_offset_ms(&self) -> i64 {
        if self.unknown.load(Ordering::Relaxed) { 0 } else { self.offset_ms.load(Ordering::Relaxed) }
    }

    fn learn_clock_offset(&self) -> BoxFuture<'_, dawdle::Result<()>> {
        let less = |left: u32| left.checked_sub(1);
        let unanswered = self.unanswered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        self.unknown.store(unanswered, Ordering::Relaxed);
        let lost = || Err(dawdle::Error::new(ErrorKind::Unavailable, "the answer was lost"));
        Box::pin(std::future::ready(if unanswered { lost() } else { Ok(()) }))
    }
}

struct World {
    time: VirtualClock,
    queue: MemoryBackend,
    seen: Seen,
}

impl World {
    fn new() -> Self {
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123));
        let queue = MemoryBackend::new(Clock::from_virtual(time.clone()));
        let seen = Seen { queue_time: time.clone(), lags: Arc::default(), tries: Arc::default() };
        World { time, queue, seen }
    }

    /// A process on a machine whose clock is ahead by so many minutes.
    async fn node(&self, minutes: i64, listens: bool) -> Dawdle {
        self.node_unanswered(minutes, listens, 0).await
    }

    /// One whose first questions for the time stay without an answer.
    async fn node_unanswered(&self, minutes: i64, listens: bool, unanswered: u32) -> Dawdle {
        let ahead_ms = minutes * 60_000;
        let clock = Clock::from_virtual(self.time.clone()).ahead_by_ms(ahead_ms);
        let offset_ms = Arc::new(AtomicI64::new(-ahead_ms));
        let backend = Skewed {
            queue: self.queue.clone(),
            offset_ms,
            unknown: Arc::new(AtomicBool::new(!listens)),
            unanswered: Arc::new(AtomicU32::new(unanswered)),
        };
        let config = Config { ack_linger: Some(Duration::ZERO), ..Config::default() };
        let builder = Dawdle::builder().config(config).backend(backend).clock(clock).state(self.seen.clone());
        builder.listener(listens).start().await.unwrap()
    }

    fn lags(&self) -> Vec<Duration> {
        self.seen.lags.lock().unwrap().clone()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn due_times_hold_whichever_node_signals_forwards_and_runs() {
    for delay in [1, 2, 3, 899, 901, 3_600, 86_400] {
        let world = World::new();
        let mut nodes = Vec::new();
        for minutes in MINUTES_OFF {
            nodes.push(world.node(minutes, true).await);
        }
        for node in &nodes {
            let due = world.time.now() + seconds(delay);
            for _ in 0..5 {
                node.signal(Timed { due }).delay(seconds(delay)).await.unwrap();
            }
        }
        world.time.advance(seconds(delay + 60)).await;
        let lags = world.lags();
        assert_eq!(lags.len(), 15, "of {delay} s: {lags:?}");
        assert!(lags.iter().all(|lag| *lag < seconds(1)), "of {delay} s: {lags:?}");
    }
}

#[tokio::test]
async fn a_process_that_only_sends_finds_out_how_far_its_clock_is_off_before_its_first_delayed_event() {
    for minutes in MINUTES_OFF {
        for delay in [2, 3_600] {
            let world = World::new();
            let _listener = world.node(0, true).await;
            let sender = world.node(minutes, false).await;
            let due = world.time.now() + seconds(delay);
            sender.signal(Timed { due }).delay(seconds(delay)).await.unwrap();
            world.time.advance(seconds(delay + 60)).await;
            let lags = world.lags();
            assert!(lags.len() == 1 && lags[0] < seconds(1), "{minutes} minutes, {delay} s: {lags:?}");
        }
    }
}

#[tokio::test]
async fn a_process_asks_for_the_time_until_it_is_answered() {
    for minutes in MINUTES_OFF {
        let world = World::new();
        let _listener = world.node(0, true).await;
        let sender = world.node_unanswered(minutes, false, 3).await;
        let due = world.time.now() + seconds(3_600);
        let signal = tokio::spawn(sender.signal(Timed { due }).at(due).into_future());
        world.time.advance(seconds(20)).await;
        signal.await.unwrap().unwrap();
        let begun = world.time.now();
        sender.signal(Timed { due: begun + seconds(60) }).delay(seconds(60)).await.unwrap();
        world.time.advance(seconds(3_660)).await;
        let lags = world.lags();
        assert!(lags.len() == 2 && lags.iter().all(|lag| *lag < seconds(1)), "{minutes} minutes: {lags:?}");
    }
}

#[tokio::test]
async fn an_event_whose_time_nobody_can_tell_is_refused_and_not_handled_early() {
    let world = World::new();
    let sender = world.node_unanswered(5, false, u32::MAX).await;
    let due = world.time.now() + seconds(60);
    let signals: Vec<_> =
        (0..3).map(|_| tokio::spawn(sender.signal(Timed { due }).delay(seconds(60)).into_future())).collect();
    world.time.advance(seconds(60)).await;
    for signal in signals {
        assert!(signal.is_finished());
        let error = signal.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.maybe_sent()), (ErrorKind::Unavailable, false));
        assert!(error.to_string().starts_with("the queue's time is not known"), "{error}");
    }
    assert_eq!(world.queue.inspect(Lane::Message).await.unwrap().total(), 0);
    sender.signal(Timed { due }).await.unwrap();
}

#[tokio::test]
async fn an_event_expires_by_the_queues_clock() {
    for minutes in MINUTES_OFF {
        let world = World::new();
        let sender = world.node(minutes, false).await;
        let due = world.time.now();
        sender.signal(Timed { due }).expires_in(seconds(60)).await.unwrap();
        sender.signal(Timed { due }).expires_in(seconds(20)).await.unwrap();
        world.time.advance(seconds(30)).await;
        let node = world.node(-minutes, true).await;
        world.time.settle().await;
        assert_eq!(world.lags(), [seconds(30)], "{minutes} minutes");
        let letter = node.dead_letters().scan(Filter::default()).next().await.unwrap().unwrap();
        assert_eq!((letter.reason.as_str(), letter.died_at), (reason::EXPIRED, world.time.now()));
    }
}

#[tokio::test]
async fn retries_come_after_their_backoff_whichever_node_tries_again() {
    let world = World::new();
    let mut nodes = Vec::new();
    for minutes in MINUTES_OFF {
        nodes.push(world.node(minutes, true).await);
    }
    let start = world.time.now();
    nodes[0].signal(Failing).await.unwrap();
    world.time.advance(seconds(600)).await;
    let tries = world.seen.tries.lock().unwrap().clone();
    assert_eq!(tries.len(), 3);
    for (number, at) in tries.iter().enumerate() {
        let after = at.duration_since(start).unwrap();
        // A backoff's jitter takes off up to a quarter.
        assert!(after >= seconds(45) * number as u32 && after <= seconds(61) * number as u32, "{tries:?}");
    }
    let letter = nodes[1].dead_letters().scan(Filter::default()).next().await.unwrap().unwrap();
    assert_eq!((letter.reason.as_str(), letter.died_at), (reason::ATTEMPTS, tries[2]));
}
