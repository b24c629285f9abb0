//! A handler that blocks its thread, which is a user's mistake, holds up no lease, no ack, no
//! retry and no other handler's timeout: not even on a runtime that has only this one thread.
//!
//! In real time, for a thread can only be blocked in real time. What counts is how many leases that is: three
//! and a half here, as many as a minute and three quarters are of leases of half a minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dawdle::backend::memory::MemoryBackend;
use dawdle::backend::{Backend, Lane, Limits};
use dawdle::{Clock, Config, Dawdle, Event, Outcome, State};
use serde::{Deserialize, Serialize};

const BLOCKED: Duration = Duration::from_secs(7);
const LEASE: Duration = Duration::from_secs(2);

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "blocking")]
struct Blocking;

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "quick")]
struct Quick;

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "waiting")]
struct Waiting;

#[derive(Clone, Default)]
struct Counts {
    blocked: Arc<AtomicUsize>,
    quick: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
}

#[dawdle::handler(attempts = 1)]
async fn block(_: &Blocking, counts: State<Counts>) -> Outcome {
    counts.blocked.fetch_add(1, Ordering::Relaxed);
    std::thread::sleep(BLOCKED);
    Ok(())
}

#[dawdle::handler(attempts = 1)]
async fn be_quick(_: &Quick, counts: State<Counts>) -> Outcome {
    counts.quick.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

#[dawdle::handler(timeout = "2s", attempts = 1)]
async fn wait(_: &Waiting, counts: State<Counts>) -> Outcome {
    counts.waiting.fetch_add(1, Ordering::Relaxed);
    std::future::pending().await
}

/// What was seen while the only thread of the handlers' runtime was blocked.
#[derive(Debug)]
struct Seen {
    runs: [usize; 3],
    on_queue: u64,
    dead: u64,
}

fn queue(lease: Duration) -> MemoryBackend {
    let mut limits = Limits::sqs();
    limits.lease = lease;
    MemoryBackend::with_limits(Clock::system(), limits)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn look(queue: &MemoryBackend, counts: &Counts) -> Seen {
    let inspect = |lane| runtime().block_on(queue.inspect(lane)).unwrap().total();
    let runs = [&counts.blocked, &counts.quick, &counts.waiting].map(|count| count.load(Ordering::Relaxed));
    Seen { runs, on_queue: inspect(Lane::Message), dead: inspect(Lane::Dead) }
}

/// Looks, from a thread of its own, until it is so, for at most a time.
fn until(
    queue: &MemoryBackend,
    counts: &Counts,
    span: Duration,
    is: impl Fn(&Seen) -> bool + Send + 'static,
) -> std::thread::JoinHandle<Seen> {
    let (queue, counts) = (queue.clone(), counts.clone());
    std::thread::spawn(move || {
        let start = Instant::now();
        loop {
            let seen = look(&queue, &counts);
            if is(&seen) || start.elapsed() > span {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}

#[test]
fn a_handler_that_blocks_the_only_thread_starves_no_lease_no_ack_and_no_timeout() {
    let (queue, counts) = (queue(LEASE), Counts::default());
    let runtime = runtime();
    let dawdle = runtime.block_on(async {
        let config = Config { prefetch: Some(10), ..Config::default() };
        let dawdle =
            Dawdle::builder().config(config).backend(queue.clone()).state(counts.clone()).start().await.unwrap();
        // Begun before the thread is blocked, to time out while it is.
        dawdle.signal(Waiting).await.unwrap();
        while counts.waiting.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Handled before the thread is blocked, to be acked while it is.
        dawdle.signal(Quick).await.unwrap();
        while counts.quick.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        dawdle
    });
    let watch = until(&queue, &counts, BLOCKED - Duration::from_secs(1), |seen| {
        seen.runs[0] == 1 && (seen.on_queue, seen.dead) == (1, 1)
    });
    runtime.block_on(async {
        dawdle.signal(Blocking).await.unwrap();
        while counts.blocked.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let seen = watch.join().unwrap();
    assert_eq!(seen.runs, [1, 1, 1]);
    assert_eq!(seen.on_queue, 1, "what was handled is acked, and only the blocking one is left: {seen:?}");
    assert_eq!(seen.dead, 1, "the one that timed out came to its end: {seen:?}");
    runtime.block_on(dawdle.shutdown());
    let seen = look(&queue, &counts);
    assert_eq!((seen.runs[0], seen.on_queue, seen.dead), (1, 0, 1), "its lease was kept for three and a half of them");
}

#[test]
fn a_handler_that_cannot_be_begun_for_want_of_a_thread_spends_no_attempt() {
    let (queue, counts) = (queue(Duration::from_secs(30)), Counts::default());
    runtime().block_on(async {
        let dawdle = Dawdle::builder().backend(queue.clone()).state(counts.clone()).start().await.unwrap();
        // Its timeout of 2 s passes while the thread is blocked.
        let waiting = std::thread::spawn({
            let (dawdle, counts) = (dawdle.clone(), counts.clone());
            move || {
                while counts.blocked.load(Ordering::Relaxed) == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                runtime().block_on(async { dawdle.signal(Waiting).await }).unwrap();
            }
        });
        dawdle.signal(Blocking).await.unwrap();
        while counts.waiting.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(queue.inspect(Lane::Dead).await.unwrap().total(), 0, "its one attempt is only now under way");
        waiting.join().unwrap();
        dawdle.shutdown().await;
    });
}

#[test]
fn when_the_runtime_of_the_handlers_ends_what_is_in_hand_is_given_back() {
    let (queue, counts) = (queue(Duration::from_secs(30)), Counts::default());
    let first = runtime();
    first.block_on(async {
        let dawdle = Dawdle::builder().backend(queue.clone()).state(counts.clone()).start().await.unwrap();
        dawdle.signal(Waiting).await.unwrap();
        while counts.waiting.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    drop(first);
    let given_back = {
        let queue = queue.clone();
        move |_: &Seen| runtime().block_on(queue.inspect(Lane::Message)).unwrap().visible == 1
    };
    let seen = until(&queue, &counts, Duration::from_secs(10), given_back).join().unwrap();
    assert_eq!((seen.runs, seen.on_queue, seen.dead), ([0, 0, 1], 1, 0), "one run, and nobody asks for it again");

    let second = runtime();
    second.block_on(async {
        let dawdle = Dawdle::builder().backend(queue.clone()).state(counts.clone()).start().await.unwrap();
        while counts.waiting.load(Ordering::Relaxed) == 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        dawdle.shutdown().await;
    });
}
