//! Delays of any length, in virtual time, on the memory backend with the limits of SQS: what they
//! cost, and that they hold when the node that has the message in hand dies.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use dawdle::backend::memory::MemoryBackend;
use dawdle::backend::{Backend, BoxFuture, Delivery, Lane, Limits, Outgoing, Receipt, Settle};
use dawdle::{Clock, Config, Context, Dawdle, Event, Outcome, Result, State, VirtualClock};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

#[path = "common/forward.rs"]
mod forward;
use forward::forward;

const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;

const DELAYS: [(&str, u64); 8] = [
    ("1 s", 1),
    ("14:59", 15 * MINUTE - 1),
    ("15:01", 15 * MINUTE + 1),
    ("1 h", HOUR),
    ("12 h", 12 * HOUR),
    ("24 h", DAY),
    ("13 d", 13 * DAY),
    ("30 d", 30 * DAY),
];

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "later")]
struct Later;

/// When the handler ran, on any node.
#[derive(Clone, Default)]
struct Runs(Arc<Mutex<Vec<SystemTime>>>);

#[dawdle::handler]
async fn note(_: &Later, cx: &Context, runs: State<Runs>) -> Outcome {
    runs.0.lock().unwrap().push(cx.now());
    Ok(())
}

/// At which call a node dies, and whether that call still takes effect.
#[derive(Clone, Copy, Debug)]
struct Death {
    call: usize,
    after_effect: bool,
}

/// A node's way to the queue. From its death on no call is answered, or takes effect.
#[derive(Clone)]
struct Mortal {
    queue: MemoryBackend,
    death: Option<Death>,
    /// Calls that moved a message.
    calls: Arc<AtomicUsize>,
    died: watch::Sender<bool>,
    /// Takes nothing before this one has died.
    heir_of: Option<watch::Receiver<bool>>,
}

impl Mortal {
    fn new(queue: &MemoryBackend, death: Option<Death>) -> Self {
        Mortal { queue: queue.clone(), death, calls: Arc::default(), died: watch::Sender::new(false), heir_of: None }
    }

    fn heir(&self) -> Self {
        Mortal { heir_of: Some(self.died.subscribe()), ..Mortal::new(&self.queue, None) }
    }

    async fn die<T>(&self) -> T {
        self.died.send_replace(true);
        std::future::pending().await
    }

    /// A call that changes something.
    async fn write<T>(&self, call: impl Future<Output = T>) -> T {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        match self.death {
            Some(death) if number > death.call || (number == death.call && !death.after_effect) => self.die().await,
            Some(death) if number == death.call => {
                call.await;
                self.die().await
            }
            _ => call.await,
        }
    }

    /// A call that takes messages, when it finds some.
    async fn take(&self, call: impl Future<Output = Result<Vec<Delivery>>>) -> Result<Vec<Delivery>> {
        if self.death.is_some_and(|death| self.calls.load(Ordering::Relaxed) >= death.call) {
            std::future::pending::<()>().await;
        }
        if let Some(heir_of) = &self.heir_of {
            heir_of.clone().wait_for(|died| *died).await.unwrap();
        }
        let found = call.await;
        if found.as_ref().is_ok_and(|found| !found.is_empty()) {
            self.write(async {}).await;
        }
        found
    }
}

impl Backend for Mortal {
    forward!(self.queue => describe, limits, check, inspect);

    fn name(&self) -> &str {
        "mortal"
    }

    fn send<'a>(&'a self, lane: Lane, messages: &'a [Outgoing]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(self.write(self.queue.send(lane, messages)))
    }

    fn receive(&self, lane: Lane, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(self.take(self.queue.receive(lane, max)))
    }

    fn settle<'a>(&'a self, lane: Lane, entries: &'a [Settle]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(self.write(self.queue.settle(lane, entries)))
    }

    fn extend<'a>(&'a self, lane: Lane, receipts: &'a [Receipt], lease: Duration) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(self.write(self.queue.extend(lane, receipts, lease)))
    }

    fn browse(&self, lane: Lane, max: usize, hold: Duration) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(self.take(self.queue.browse(lane, max, hold)))
    }
}

async fn node(backend: Mortal, clock: &Clock, runs: &Runs, listens: bool) -> Dawdle {
    let config = Config { ack_linger: Some(Duration::ZERO), ..Config::default() };
    let builder = Dawdle::builder().config(config).backend(backend).clock(clock.clone());
    builder.state(runs.clone()).listener(listens).start().await.unwrap()
}

/// What became of one delayed event.
struct Journey {
    /// How late each run was.
    late: Vec<Duration>,
    early: bool,
    calls: usize,
    requests: u64,
    left: u64,
}

/// Signals an event on a process that only sends. One node listens; another takes over when it dies.
async fn travel(delay: Duration, limits: Limits, death: Option<Death>) -> Journey {
    let time = VirtualClock::new(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123));
    let clock = Clock::from_virtual(time.clone());
    let queue = MemoryBackend::with_limits(clock.clone(), limits.clone());
    let runs = Runs::default();
    let sender = node(Mortal::new(&queue, None), &clock, &runs, false).await;
    let mortal = Mortal::new(&queue, death);
    let first = node(mortal.clone(), &clock, &runs, true).await;
    let second = node(mortal.heir(), &clock, &runs, true).await;
    let due = time.now() + delay;
    sender.signal(Later).delay(delay).await.unwrap();
    time.advance(delay + limits.lease * 3).await;
    let runs: Vec<SystemTime> = std::mem::take(&mut *runs.0.lock().unwrap());
    let requests = queue.requests();
    let mut left = 0;
    for lane in Lane::ALL.into_iter().filter(|lane| *lane != Lane::Delay || limits.delay_lane) {
        left += queue.inspect(lane).await.unwrap().total();
    }
    drop((first, second));
    Journey {
        early: runs.iter().any(|run| *run < due),
        late: runs.iter().map(|run| run.duration_since(due).unwrap_or_default()).collect(),
        calls: mortal.calls.load(Ordering::Relaxed),
        requests: requests.requests() - requests.empty_receives,
        left,
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn a_delay_of_any_length_fires_within_a_second_of_due_at_little_cost() {
    for (name, delay) in DELAYS {
        let journey = travel(seconds(delay), Limits::sqs(), None).await;
        println!("{name:>6}: {} requests, late by {:?}", journey.requests, journey.late);
        assert!(!journey.early, "{name}: early");
        assert_eq!(journey.late.len(), 1, "{name}: runs");
        assert!(journey.late[0] < seconds(1), "{name}: late by {:?}", journey.late);
        assert_eq!(journey.left, 0, "{name}: left on the queues");
        if delay == DAY {
            assert!(journey.requests <= 10, "{name}: {} requests", journey.requests);
        }
    }
}

#[tokio::test]
async fn without_a_delay_queue_long_delays_chain_on_the_message_queue() {
    let mut limits = Limits::sqs();
    limits.delay_lane = false;
    let journey = travel(seconds(DAY), limits, None).await;
    println!("  24 h: {} requests by 15-minute messages", journey.requests);
    assert!(!journey.early && journey.late.len() == 1 && journey.late[0] < seconds(1));
    assert!((285..=291).contains(&journey.requests), "{}", journey.requests);
}

/// Lets the first node die at each of its calls, before or after the effect.
async fn survives_death_at_every_step(name: &str, delay: u64, after_effect: bool) {
    let limits = Limits::sqs();
    let steps = travel(seconds(delay), limits.clone(), None).await.calls;
    let mut duplicates = 0;
    for call in 1..=steps {
        let death = Death { call, after_effect };
        let journey = travel(seconds(delay), limits.clone(), Some(death)).await;
        assert!(!journey.early, "{name}: early after {death:?} of {steps}");
        let first = journey.late.iter().min();
        let first = first.unwrap_or_else(|| panic!("{name}: lost after {death:?} of {steps}"));
        assert!(*first <= seconds(1) + limits.lease, "{name}: late by {first:?} after {death:?} of {steps}");
        assert_eq!(journey.left, 0, "{name}: left on the queues after {death:?} of {steps}");
        duplicates += journey.late.len() - 1;
    }
    println!("{name:>6}: {steps} steps, each survived; ran a second time {duplicates} times");
}

macro_rules! deaths {
    ($($test:ident: $name:literal, $delay:expr;)*) => {
        /// The answer of a call is lost, and so is its effect.
        mod before_its_effect {
            use super::*;
            $(#[tokio::test]
            async fn $test() {
                survives_death_at_every_step($name, $delay, false).await;
            })*
        }

        /// The answer of a call is lost.
        mod after_its_effect {
            use super::*;
            $(#[tokio::test]
            async fn $test() {
                survives_death_at_every_step($name, $delay, true).await;
            })*
        }
    };
}

deaths! {
    a_node_may_die_at_any_step_of_a_second: "1 s", 1;
    a_node_may_die_at_any_step_of_just_under_a_quarter_hour: "14:59", 15 * MINUTE - 1;
    a_node_may_die_at_any_step_of_just_over_a_quarter_hour: "15:01", 15 * MINUTE + 1;
    a_node_may_die_at_any_step_of_an_hour: "1 h", HOUR;
    a_node_may_die_at_any_step_of_twelve_hours: "12 h", 12 * HOUR;
    a_node_may_die_at_any_step_of_a_day: "24 h", DAY;
    a_node_may_die_at_any_step_of_thirteen_days: "13 d", 13 * DAY;
    a_node_may_die_at_any_step_of_thirty_days: "30 d", 30 * DAY;
}
