//! What a page shows of now and of the last minutes: [`Sampler`]. All viewers share it, and while nobody looks
//! it asks for nothing: each look takes what is fresh enough, and has the rest asked for once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use dawdle::backend::{Lane, LaneStats, Usage};
use dawdle::{Activity, Dawdle, Health};
use tokio::sync::watch;

/// How often the queues are counted where that costs nothing.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// How often they are where each count is a request that is billed.
const COUNT_EVERY_BILLED: Duration = Duration::from_secs(15);

/// How many counts of a queue are kept: two minutes of them, or half an hour.
const MOST_COUNTS: usize = 120;

/// What rates are taken over.
const RATE_SPAN: Duration = Duration::from_secs(60);

/// How far apart two readings of this process are at least.
const READ_EVERY: Duration = Duration::from_millis(900);

/// For how long the first look waits for the first count.
const FIRST_COUNT: Duration = Duration::from_secs(3);

/// Everything that the overview shows.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) activity: Activity,
    pub(crate) health: Health,
    pub(crate) paused: bool,
    pub(crate) listening: bool,
    /// How many handlers this process runs.
    pub(crate) handlers: usize,
    pub(crate) usage: Usage,
    pub(crate) rates: Option<Rates>,
    pub(crate) queues: Vec<Queue>,
    /// When the queues were last counted.
    pub(crate) counted_at: Option<SystemTime>,
    pub(crate) count_every: Duration,
}

/// What this process did a second, of late.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates {
    pub(crate) over: Duration,
    pub(crate) signalled: f64,
    pub(crate) received: f64,
    pub(crate) runs: f64,
    pub(crate) requests: f64,
    pub(crate) billed: f64,
}

/// One queue.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) lane: Lane,
    pub(crate) stats: Option<LaneStats>,
    /// Why it could not be counted the last time.
    pub(crate) error: Option<String>,
    /// By how many messages it grows a second.
    pub(crate) growth: Option<f64>,
    /// How many messages were on it, oldest first.
    pub(crate) depths: Vec<u64>,
}

pub(crate) struct Sampler {
    dawdle: Dawdle,
    kept: Arc<Mutex<Kept>>,
    /// How many counts there have been.
    counts: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
struct Kept {
    readings: VecDeque<Reading>,
    lanes: Vec<Track>,
    counted: Option<(Instant, SystemTime)>,
    counting: bool,
}

/// What this process had done by then.
#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    signalled: u64,
    received: u64,
    runs: u64,
    usage: Usage,
}

/// The counts of one queue.
struct Track {
    lane: Lane,
    error: Option<String>,
    last: Option<LaneStats>,
    depths: VecDeque<(Instant, u64)>,
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sampler {
    pub(crate) fn new(dawdle: Dawdle) -> Self {
        Sampler { dawdle, kept: Arc::default(), counts: Arc::new(watch::Sender::new(0)) }
    }

    /// What there is to be seen now. Waits for nothing but the first count.
    pub(crate) async fn look(&self) -> View {
        let activity = self.dawdle.activity();
        let count_every = if activity.counting_costs { COUNT_EVERY_BILLED } else { COUNT_EVERY };
        let mut counts = self.counts.subscribe();
        let (begin, first) = {
            let mut kept = lock(&self.kept);
            let due = kept.counted.is_none_or(|(at, _)| at.elapsed() >= count_every.mul_f64(0.9));
            let begin = due && !kept.counting;
            kept.counting |= begin;
            (begin, kept.counted.is_none())
        };
        if begin {
            self.count();
        }
        if first {
            // Without a count the page says that there is none yet.
            let _ = tokio::time::timeout(FIRST_COUNT, counts.wait_for(|counts| *counts > 0)).await;
        }
        self.view(activity, count_every)
    }

    /// Has the queues counted, in a task that whoever looked need not wait for.
    fn count(&self) {
        let (dawdle, kept, counts) = (self.dawdle.clone(), Arc::clone(&self.kept), Arc::clone(&self.counts));
        let under_way = UnderWay(Arc::clone(&kept));
        tokio::spawn(async move {
            let _under_way = under_way;
            let lanes = dawdle.lanes().into_iter().map(|lane| {
                let dawdle = dawdle.clone();
                async move { (lane, dawdle.inspect(lane).await) }
            });
            let counted = futures_util::future::join_all(lanes).await;
            let now = Instant::now();
            let mut kept = lock(&kept);
            for (lane, result) in counted {
                kept.counted(lane, result.map_err(|error| error.to_string()), now);
            }
            kept.counted = Some((now, SystemTime::now()));
            drop(kept);
            counts.send_modify(|counts| *counts += 1);
        });
    }

    fn view(&self, activity: Activity, count_every: Duration) -> View {
        let usage = self.dawdle.usage();
        let now = Instant::now();
        let mut kept = lock(&self.kept);
        kept.read(Reading {
            at: now,
            signalled: activity.signalled,
            received: activity.received,
            runs: activity.handlers.iter().map(|handler| handler.total_runs).sum(),
            usage,
        });
        View {
            rates: kept.rates(),
            queues: kept.lanes.iter().map(Track::shown).collect(),
            counted_at: kept.counted.map(|(_, at)| at),
            activity,
            health: self.dawdle.health(),
            paused: self.dawdle.is_paused(),
            listening: self.dawdle.listener_running(),
            handlers: self.dawdle.handler_count(),
            usage,
            count_every,
        }
    }
}

/// A count that is under way, until it is dropped.
struct UnderWay(Arc<Mutex<Kept>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.0).counting = false;
    }
}

impl Kept {
    fn read(&mut self, reading: Reading) {
        if self.readings.back().is_some_and(|last| reading.at.duration_since(last.at) < READ_EVERY) {
            return;
        }
        self.readings.push_back(reading);
        // The first that is as old as the span stays: rates go back to it.
        while self.readings.len() > 2 && self.readings.get(1).is_some_and(|next| reading.at - next.at >= RATE_SPAN) {
            self.readings.pop_front();
        }
    }

    fn rates(&self) -> Option<Rates> {
        let (first, last) = (self.readings.front()?, self.readings.back()?);
        let over = last.at.duration_since(first.at);
        let used = last.usage.since(&first.usage);
        let rate = |count: u64| count as f64 / over.as_secs_f64();
        (over >= READ_EVERY).then(|| Rates {
            over,
            signalled: rate(last.signalled.saturating_sub(first.signalled)),
            received: rate(last.received.saturating_sub(first.received)),
            runs: rate(last.runs.saturating_sub(first.runs)),
            requests: rate(used.requests()),
            billed: rate(used.billed),
        })
    }

    fn counted(&mut self, lane: Lane, result: Result<LaneStats, String>, now: Instant) {
        let index = self.lanes.iter().position(|track| track.lane == lane).unwrap_or_else(|| {
            self.lanes.push(Track { lane, error: None, last: None, depths: VecDeque::new() });
            self.lanes.len() - 1
        });
        let track = &mut self.lanes[index];
        match result {
            Ok(stats) => {
                track.error = None;
                track.last = Some(stats);
                track.depths.push_back((now, stats.total()));
                if track.depths.len() > MOST_COUNTS {
                    track.depths.pop_front();
                }
            }
            Err(error) => track.error = Some(error),
        }
    }
}

impl Track {
    fn shown(&self) -> Queue {
        Queue {
            lane: self.lane,
            stats: self.last,
            error: self.error.clone(),
            growth: self.growth(),
            depths: self.depths.iter().map(|(_, depth)| *depth).collect(),
        }
    }

    fn growth(&self) -> Option<f64> {
        let (last_at, last) = self.depths.back()?;
        // Over a minute, or over two counts where those are further apart.
        let recent = self.depths.iter().rev().skip(1).take_while(|(at, _)| last_at.duration_since(*at) <= RATE_SPAN);
        let (first_at, first) = recent.last().or_else(|| self.depths.iter().rev().nth(1))?;
        Some((*last as f64 - *first as f64) / last_at.duration_since(*first_at).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn reading(at: Instant, signalled: u64) -> Reading {
        Reading { at, signalled, received: 0, runs: 0, usage: Usage::default() }
    }

    #[test]
    fn rates_are_of_the_last_minute() {
        let (mut kept, start) = (Kept::default(), Instant::now());
        assert_eq!(kept.rates(), None);
        // 100 a second for two minutes, then 10 a second for two more.
        for second in 0..=240_u32 {
            let signalled = if second <= 120 { second * 100 } else { 12_000 + (second - 120) * 10 };
            kept.read(reading(start + SECOND * second, signalled.into()));
        }
        let rates = kept.rates().expect("rates");
        assert_eq!((rates.over, rates.signalled), (RATE_SPAN, 10.0));
        assert!(kept.readings.len() <= 62, "{}", kept.readings.len());
    }

    #[test]
    fn a_pause_of_all_viewers_is_averaged_over() {
        let (mut kept, start) = (Kept::default(), Instant::now());
        kept.read(reading(start, 0));
        kept.read(reading(start + SECOND * 600, 600));
        assert_eq!(kept.rates().expect("rates").signalled, 1.0);
    }

    #[test]
    fn depths_are_bounded_and_their_growth_is_of_the_last_minute() {
        let (mut kept, start) = (Kept::default(), Instant::now());
        for second in 0..500_u32 {
            let visible = u64::from(second * 2);
            kept.counted(Lane::Message, Ok(LaneStats { visible, ..LaneStats::default() }), start + SECOND * second);
        }
        let queue = kept.lanes[0].shown();
        assert_eq!((queue.depths.len(), queue.growth), (MOST_COUNTS, Some(2.0)));
        kept.counted(Lane::Message, Err("gone".into()), start + SECOND * 500);
        let queue = kept.lanes[0].shown();
        assert_eq!((queue.error.as_deref(), queue.stats.map(|stats| stats.visible)), (Some("gone"), Some(998)));
    }
}
