//! What a node's handlers did in the last minutes: [`Activity`].

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::event::EventId;

/// How far back counts and latencies look, at most.
const WINDOW: Duration = Duration::from_secs(300);

/// The steps in which the oldest of them are forgotten.
const SLICES: usize = 10;

/// How many failed runs are kept.
const MAX_FAILURES: usize = 100;

/// What a node is doing and has done lately; from [`Dawdle::activity`](crate::Dawdle::activity).
///
/// Counted in this process, within a fixed bound: some kilobytes for each handler and kind, and the last
/// hundred failures.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Activity {
    /// The node, as dead letters name it.
    pub node: String,
    /// The build, as dead letters name it.
    pub version: Option<String>,
    /// The backend and where its queues are.
    pub backend: String,
    /// Whether [`inspect`](crate::Dawdle::inspect) makes requests that may be billed.
    pub counting_costs: bool,
    /// How far back `runs`, `failed` and the latencies of the handlers look, at most.
    pub window: Duration,
    /// Events that were signalled here, since the start.
    pub signalled: u64,
    /// Messages that were received here, since the start.
    pub received: u64,
    /// Handlers that run now.
    pub running: usize,
    /// How many may.
    pub concurrency: usize,
    /// How many more could begin now.
    pub permits_free: usize,
    /// Messages that were received and are not settled.
    pub in_flight: usize,
    /// Events that wait to be sent.
    pub send_buffer: usize,
    /// What ran here, by kind, then by handler.
    pub handlers: Vec<HandlerActivity>,
    /// The last hundred runs that failed, the latest first.
    pub failures: Vec<FailedRun>,
}

/// The runs of one handler with events of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerActivity {
    /// The events' kind.
    pub kind: String,
    /// The handler's name.
    pub handler: String,
    /// Runs that ended within the window.
    pub runs: u64,
    /// Those of them that failed: to be retried, by a timeout or a panic, or dead-lettered.
    pub failed: u64,
    /// Runs since the start.
    pub total_runs: u64,
    /// Those of them that failed.
    pub total_failed: u64,
    /// Half of the runs within the window took at most this, give or take an eighth.
    pub p50: Option<Duration>,
    /// 95 of 100 did.
    pub p95: Option<Duration>,
    /// 99 of 100 did.
    pub p99: Option<Duration>,
}

/// A run that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedRun {
    /// When it ended.
    pub time: SystemTime,
    /// The event's identity.
    pub id: EventId,
    /// Its kind.
    pub kind: String,
    /// The handler's name.
    pub handler: String,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// `retry`, `timeout`, `panic` or `dead_letter`, as the metrics have it.
    pub outcome: &'static str,
    /// Whether the event became a dead letter of it.
    pub dead: bool,
    /// What the handler said, at most 1 KiB of it.
    pub error: String,
}

/// Keeps what [`Activity`] shows.
pub(crate) struct Journal {
    signalled: AtomicU64,
    received: AtomicU64,
    start: Instant,
    runs: Mutex<Runs>,
}

#[derive(Default)]
struct Runs {
    /// By kind and handler; both are of this program, so there is an end to them.
    tallies: HashMap<(&'static str, Arc<str>), Tally>,
    failures: VecDeque<FailedRun>,
}

#[derive(Default)]
struct Tally {
    runs: u64,
    failed: u64,
    /// By `number % SLICES`.
    slices: [Option<Box<Slice>>; SLICES],
}

/// The runs that ended within a tenth of the window.
struct Slice {
    /// Counted from the start.
    number: u64,
    failed: u32,
    /// How many took how long.
    took: [u32; BUCKETS],
}

/// Four to each doubling, from a microsecond to half a day.
const BUCKETS: usize = 4 * 36;

/// The bucket of a span: each has a quarter of the width that its power of two has.
fn bucket(span: Duration) -> usize {
    let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
    let power = micros.ilog2();
    let quarter = match power {
        0 => 0,
        1 => (micros - 2) * 2,
        _ => (micros >> (power - 2)) - 4,
    };
    (power as usize * 4 + quarter as usize).min(BUCKETS - 1)
}

/// The middle of a bucket.
fn middle(bucket: usize) -> Duration {
    let (power, quarter) = (bucket / 4, bucket % 4);
    let nanos = (1_u64 << power) as f64 * 1_000.0 * (1.0 + (quarter as f64 + 0.5) / 4.0);
    Duration::from_nanos(nanos as u64)
}

impl Journal {
    pub(crate) fn new(start: Instant) -> Self {
        Journal { signalled: AtomicU64::new(0), received: AtomicU64::new(0), start, runs: Mutex::default() }
    }

    fn runs(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn signalled(&self, events: usize) {
        self.signalled.fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, messages: usize) {
        self.received.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// Events signalled and messages received.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.signalled.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    fn slice_at(&self, now: Instant) -> u64 {
        let width = WINDOW / SLICES as u32;
        now.saturating_duration_since(self.start).as_secs() / width.as_secs()
    }

    /// A run has ended.
    pub(crate) fn ran(&self, kind: &'static str, handler: &Arc<str>, failed: bool, took: Duration, now: Instant) {
        let number = self.slice_at(now);
        let mut runs = self.runs();
        let tally = runs.tallies.entry((kind, Arc::clone(handler))).or_default();
        tally.runs += 1;
        tally.failed += u64::from(failed);
        let place = &mut tally.slices[(number % SLICES as u64) as usize];
        let slice = match place {
            Some(slice) if slice.number == number => slice,
            place => place.insert(Box::new(Slice { number, failed: 0, took: [0; BUCKETS] })),
        };
        slice.failed = slice.failed.saturating_add(u32::from(failed));
        let count = &mut slice.took[bucket(took)];
        *count = count.saturating_add(1);
    }

    /// Why one failed.
    pub(crate) fn failed(&self, run: FailedRun) {
        let mut runs = self.runs();
        if runs.failures.len() >= MAX_FAILURES {
            runs.failures.pop_back();
        }
        runs.failures.push_front(run);
    }

    /// How far back it looks.
    pub(crate) fn window(&self) -> Duration {
        WINDOW
    }

    pub(crate) fn failures(&self) -> Vec<FailedRun> {
        self.runs().failures.iter().cloned().collect()
    }

    pub(crate) fn handlers(&self, now: Instant) -> Vec<HandlerActivity> {
        let number = self.slice_at(now);
        let runs = self.runs();
        let mut handlers: Vec<_> =
            runs.tallies.iter().map(|((kind, handler), tally)| tally.shown(kind, handler, number)).collect();
        drop(runs);
        handlers.sort_by(|a, b| (&a.kind, &a.handler).cmp(&(&b.kind, &b.handler)));
        handlers
    }
}

impl Tally {
    fn shown(&self, kind: &str, handler: &str, number: u64) -> HandlerActivity {
        let (mut failed, mut took) = (0, [0_u64; BUCKETS]);
        for slice in self.slices.iter().flatten().filter(|slice| slice.number + SLICES as u64 > number) {
            failed += u64::from(slice.failed);
            took.iter_mut().zip(slice.took).for_each(|(sum, count)| *sum += u64::from(count));
        }
        let runs: u64 = took.iter().sum();
        let quantile = |of_100: u64| {
            let rank = (runs * of_100).div_ceil(100);
            let mut so_far = 0;
            let place = took.iter().position(|count| {
                so_far += count;
                rank > 0 && so_far >= rank
            });
            place.map(middle)
        };
        HandlerActivity {
            kind: kind.to_owned(),
            handler: handler.to_owned(),
            runs,
            failed,
            total_runs: self.runs,
            total_failed: self.failed,
            p50: quantile(50),
            p95: quantile(95),
            p99: quantile(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn journal() -> (Journal, Instant, Arc<str>) {
        let start = Instant::now();
        (Journal::new(start), start, Arc::from("remind"))
    }

    #[test]
    fn latencies_are_of_the_window_and_totals_of_all_time() {
        let (journal, start, remind) = journal();
        for millis in 1..=100 {
            journal.ran("trial.ending", &remind, millis > 90, MS * millis, start);
        }
        let [shown] = &journal.handlers(start)[..] else { panic!("one handler") };
        assert_eq!((shown.runs, shown.failed), (100, 10));
        for (quantile, millis) in [(shown.p50, 50.0), (shown.p95, 95.0), (shown.p99, 99.0)] {
            let ratio = quantile.unwrap().as_secs_f64() * 1_000.0 / millis;
            assert!((0.88..1.13).contains(&ratio), "{quantile:?} for {millis} ms");
        }
        let later = start + WINDOW;
        journal.ran("trial.ending", &remind, false, MS, later);
        let [shown] = &journal.handlers(later)[..] else { panic!("one handler") };
        assert_eq!((shown.runs, shown.failed, shown.total_runs, shown.total_failed), (1, 0, 101, 10));
        let [shown] = &journal.handlers(later + WINDOW)[..] else { panic!("one handler") };
        assert_eq!((shown.runs, shown.p50, shown.total_runs), (0, None, 101));
    }

    #[test]
    fn the_last_hundred_failures_are_kept_latest_first() {
        let (journal, ..) = journal();
        for attempt in 1..=150 {
            journal.failed(FailedRun {
                time: SystemTime::UNIX_EPOCH,
                id: EventId::new(),
                kind: "k".into(),
                handler: "h".into(),
                attempt,
                outcome: "retry",
                dead: false,
                error: String::new(),
            });
        }
        let attempts: Vec<u32> = journal.failures().iter().map(|run| run.attempt).collect();
        assert_eq!(attempts, (51..=150).rev().collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn a_bucket_is_an_eighth_off_at_most(micros in 4_u64..(1 << 36)) {
            let span = Duration::from_micros(micros);
            let ratio = middle(bucket(span)).as_secs_f64() / span.as_secs_f64();
            prop_assert!((0.875..=1.125).contains(&ratio), "{ratio}");
        }

        #[test]
        fn longer_runs_are_in_higher_buckets(one in any::<u64>(), other in any::<u64>()) {
            let (short, long) = (one.min(other), one.max(other));
            prop_assert!(bucket(Duration::from_micros(short)) <= bucket(Duration::from_micros(long)));
        }
    }
}
