//! An hour in which one of three handlers fails, at a thousand events a second: what it costs the
//! two others, and the queues.
//!
//! On a virtual clock and the memory backend, which keeps the limits of SQS; or in real time on the
//! fault-injecting endpoint, with an outage of minutes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use dawdle::backend::memory::MemoryBackend;
use dawdle::backend::sqs::SqsBackend;
use dawdle::backend::{Backend, Lane, LaneStats};
use dawdle::{Clock, Config, Context, Dawdle, Event, Outcome, State, VirtualClock};
use serde::{Deserialize, Serialize};

use sqs_model::Endpoint;

use crate::args::Args;
use crate::process::Place;
use crate::verdict::Lateness;

/// A fifth of the messages that SQS lets be in flight.
const IN_FLIGHT: u64 = 24_000;

/// The rate that the bound on messages in flight is for; others have their share of it.
const FULL_RATE: u64 = 1_000;

/// How much later the healthy handlers may begin during the outage, at the 99th percentile: in virtual time,
/// and in real time, where failing handlers take a share of the processor. In milliseconds.
const SLOWER: f64 = 100.0;
const SLOWER_IN_REAL_TIME: f64 = 250.0;

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "outage.order")]
struct Order {
    number: u64,
}

/// What the handlers call.
#[derive(Clone)]
struct Downstream(Arc<Shared>);

struct Shared {
    up: AtomicBool,
    /// How late the healthy handlers began, since the last look.
    late: Mutex<Lateness>,
    failures: AtomicU64,
    mailed: AtomicU64,
}

impl Downstream {
    fn work(&self, cx: &Context) {
        let micros = u64::try_from(cx.lag().as_micros()).unwrap_or(u64::MAX);
        self.0.late.lock().unwrap_or_else(PoisonError::into_inner).add(micros);
    }
}

#[dawdle::handler]
async fn ship(_: &Order, cx: &Context, downstream: State<Downstream>) -> Outcome {
    downstream.work(cx);
    Ok(())
}

#[dawdle::handler]
async fn bill(_: &Order, cx: &Context, downstream: State<Downstream>) -> Outcome {
    downstream.work(cx);
    Ok(())
}

#[dawdle::handler]
async fn mail(_: &Order, downstream: State<Downstream>) -> Outcome {
    if !downstream.0.up.load(Relaxed) {
        downstream.0.failures.fetch_add(1, Relaxed);
        Err("the mail server does not answer")?
    }
    downstream.0.mailed.fetch_add(1, Relaxed);
    Ok(())
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    /// Events a second.
    rate: u64,
    before: Duration,
    outage: Duration,
    nodes: usize,
    real: bool,
}

/// Reads the command line.
pub(crate) fn options(args: impl Iterator<Item = String>) -> Result<Options> {
    let args = Args::read(args, &["scale", "minutes", "before", "nodes"], &["real", "short"])?;
    let real = args.has("real");
    let minutes = |name, default: f64| -> Result<Duration> {
        let minutes: f64 = args.number(name)?.unwrap_or(default);
        ensure!(minutes > 0.0, "--{name} must be above 0");
        Ok(Duration::from_secs_f64(minutes * 60.0))
    };
    let by_default = |real_time, short, long| match (real, args.has("short")) {
        (true, _) => real_time,
        (false, true) => short,
        (false, false) => long,
    };
    let rate = args.number("scale")?.unwrap_or(by_default(FULL_RATE as f64, 10.0, 50.0) as u64);
    ensure!(rate >= 10, "--scale is {rate}; it is at least 10 events a second");
    Ok(Options {
        rate,
        before: minutes("before", by_default(0.5, 0.5, 5.0))?,
        outage: minutes("minutes", by_default(2.0, 3.0, 60.0))?,
        nodes: args.number("nodes")?.unwrap_or(by_default(3.0, 2.0, 3.0) as usize),
        real,
    })
}

/// Runs it; whether everything held.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    let begun = Instant::now();
    println!(
        "{} events/s, {:.1} minutes before and {:.1} minutes of outage, {} nodes, {}",
        options.rate,
        options.before.as_secs_f64() / 60.0,
        options.outage.as_secs_f64() / 60.0,
        options.nodes,
        if options.real { "in real time on the endpoint" } else { "in virtual time on the memory backend" },
    );
    let holds = if options.real {
        let endpoint = Endpoint::start(sqs_model::Options::default())?;
        crate::queue::create(&endpoint.url(), 60).await?;
        let options_of_queue = Place::sqs_options(&endpoint.url());
        let backend = Arc::new(SqsBackend::connect(options_of_queue).await?);
        Watch::new(options, Time::Real(Instant::now()), backend).await?.watch().await?
    } else {
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let backend = Arc::new(MemoryBackend::new(Clock::from_virtual(time.clone())));
        Watch::new(options, Time::Virtual(time), backend).await?.watch().await?
    };
    println!("{} in {:.1} s", if holds { "PASSED" } else { "FAILED" }, begun.elapsed().as_secs_f64());
    Ok(holds)
}

/// The time that passes.
enum Time {
    Virtual(VirtualClock),
    Real(Instant),
}

/// Signals are sent, and time is moved, in such steps.
const STEP: Duration = Duration::from_millis(100);

/// An outage under way.
struct Watch<'a> {
    options: &'a Options,
    time: Time,
    now: Duration,
    backend: Arc<dyn Backend>,
    nodes: Vec<Dawdle>,
    sender: Dawdle,
    downstream: Downstream,
    sent: u64,
    /// The most in flight, per lane: message, delay.
    most: [u64; 2],
    row: Row,
    rows: Vec<(Phase, Row)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Before,
    Outage,
    After,
}

/// What one line of the table says.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    from: Duration,
    /// The most in flight, per lane.
    in_flight: [u64; 2],
    failures: u64,
    mailed: u64,
    /// The most mailed within a second.
    burst: u64,
    p99: f64,
}

impl<'a> Watch<'a> {
    async fn new(options: &'a Options, time: Time, backend: Arc<dyn Backend>) -> Result<Watch<'a>> {
        let clock = match &time {
            Time::Virtual(time) => Clock::from_virtual(time.clone()),
            Time::Real(_) => Clock::system(),
        };
        let downstream = Downstream(Arc::new(Shared {
            up: AtomicBool::new(true),
            late: Mutex::default(),
            failures: AtomicU64::new(0),
            mailed: AtomicU64::new(0),
        }));
        let start = |listens: bool| {
            let config = Config { concurrency: Some(64), ..Config::default() };
            let builder = Dawdle::builder().config(config).backend(Arc::clone(&backend)).clock(clock.clone());
            let handlers = dawdle::handlers![ship, bill, mail];
            builder.discover(false).handlers(handlers).state(downstream.clone()).listener(listens).start()
        };
        let sender = start(false).await?;
        let mut nodes = Vec::new();
        for _ in 0..options.nodes {
            nodes.push(start(true).await?);
        }
        Ok(Watch {
            options,
            time,
            now: Duration::ZERO,
            backend,
            nodes,
            sender,
            downstream,
            sent: 0,
            most: [0; 2],
            row: Row::default(),
            rows: Vec::new(),
        })
    }

    async fn watch(mut self) -> Result<bool> {
        let Options { before, outage, .. } = *self.options;
        println!(
            "{:>8}  {:>7}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>10}  {:>9}  {:>8}",
            "time", "phase", "backlog", "visible", "in flight", "parked", "delayed", "failures/s", "mailed/s", "p99 ms"
        );
        self.go_on(Phase::Before, before, true).await?;
        self.downstream.0.up.store(false, Relaxed);
        self.go_on(Phase::Outage, before + outage, true).await?;
        self.downstream.0.up.store(true, Relaxed);
        // The longest wait that begins within the outage: waits double from a second on, and jitter takes
        // up to a fifth off each.
        let longest = (outage.as_secs_f64() / 0.8 + 1.0).log2().floor().exp2();
        let latest = self.now + Duration::from_secs_f64(longest) + Duration::from_secs(120);
        while self.downstream.0.mailed.load(Relaxed) < self.sent && self.now < latest {
            let minute = self.now + self.line();
            self.go_on(Phase::After, minute, false).await?;
        }
        let conclusion = self.conclude().await;
        for dawdle in self.nodes.iter().chain([&self.sender]) {
            if matches!(self.time, Time::Real(_)) {
                dawdle.shutdown().await;
            }
        }
        conclusion
    }

    /// How much time one line of the table stands for.
    fn line(&self) -> Duration {
        if self.options.real { Duration::from_secs(10) } else { Duration::from_secs(60) }
    }

    async fn go_on(&mut self, phase: Phase, until: Duration, signals: bool) -> Result<()> {
        let (mut second, mut mailed) = (self.now, self.mailed());
        while self.now < until {
            if signals {
                self.signal().await?;
            }
            self.step().await;
            if self.now >= second + Duration::from_secs(1) {
                let stats = self.stats().await?;
                for ((most, in_row), stats) in self.most.iter_mut().zip(&mut self.row.in_flight).zip(stats) {
                    *most = (*most).max(stats.in_flight);
                    *in_row = (*in_row).max(stats.in_flight);
                }
                self.row.burst = self.row.burst.max(self.mailed() - mailed);
                (second, mailed) = (self.now, self.mailed());
            }
            if self.now >= self.row.from + self.line() {
                self.end_row(phase).await?;
            }
        }
        Ok(())
    }

    fn mailed(&self) -> u64 {
        self.downstream.0.mailed.load(Relaxed)
    }

    async fn signal(&mut self) -> Result<()> {
        let due = (self.now + STEP).as_millis() as u64 * self.options.rate / 1_000;
        let orders: Vec<Order> = (self.sent..due).map(|number| Order { number }).collect();
        self.sent = due.max(self.sent);
        for answer in self.sender.signal_all(orders).await {
            answer?;
        }
        Ok(())
    }

    async fn step(&mut self) {
        self.now += STEP;
        match &self.time {
            Time::Virtual(time) => time.advance(STEP).await,
            Time::Real(start) => tokio::time::sleep_until((*start + self.now).into()).await,
        }
    }

    async fn stats(&self) -> Result<[LaneStats; 2]> {
        Ok([self.backend.inspect(Lane::Message).await?, self.backend.inspect(Lane::Delay).await?])
    }

    async fn end_row(&mut self, phase: Phase) -> Result<()> {
        let shared = &self.downstream.0;
        let late = std::mem::take(&mut *shared.late.lock().unwrap_or_else(PoisonError::into_inner));
        let [message, delay] = self.stats().await?;
        let (failures, mailed) = (shared.failures.load(Relaxed), shared.mailed.load(Relaxed));
        let total = |count: fn(&Row) -> u64| self.rows.iter().map(|(_, row)| count(row)).sum::<u64>();
        self.row.failures = failures - total(|row| row.failures);
        self.row.mailed = mailed - total(|row| row.mailed);
        self.row.p99 = late.at(0.99);
        let seconds = self.line().as_secs_f64();
        println!(
            "{:>8}  {:>7}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>10.0}  {:>9.0}  {:>8.1}",
            humantime::format_duration(Duration::from_secs(self.now.as_secs())).to_string().replace(' ', ""),
            format!("{phase:?}").to_lowercase(),
            message.total() + delay.total(),
            message.visible,
            self.row.in_flight[0],
            self.row.in_flight[1],
            message.delayed + delay.delayed,
            self.row.failures as f64 / seconds,
            self.row.mailed as f64 / seconds,
            self.row.p99,
        );
        self.rows.push((phase, self.row));
        self.row = Row { from: self.now, ..Row::default() };
        Ok(())
    }

    async fn conclude(&self) -> Result<bool> {
        let rate = self.options.rate;
        let dead = self.backend.inspect(Lane::Dead).await?.total();
        let [message, delay] = self.stats().await?;
        let worst = |phase| {
            let rows = self.rows.iter().filter(|(it, _)| *it == phase);
            rows.map(|(_, row)| row.p99).fold(0.0, f64::max)
        };
        let (before, during) = (worst(Phase::Before), worst(Phase::Outage));
        let burst = self.rows.iter().filter(|(phase, _)| *phase == Phase::After).map(|(_, row)| row.burst).max();
        let drained = self.rows.iter().filter(|(phase, _)| *phase == Phase::After).count() as u32 * self.line();
        let in_flight = IN_FLIGHT * rate / FULL_RATE;
        let left = message.total() + delay.total();
        let unmailed = self.sent - self.mailed().min(self.sent);
        // Of every attempt that the outage has room for, some event's is due in any second.
        let attempts = (self.options.outage.as_secs_f64() + 1.0).log2().ceil() as u64;
        let bound = rate * (attempts + 1) * 2;
        let slower = if self.options.real { SLOWER_IN_REAL_TIME } else { SLOWER };
        let checks = [
            (
                format!(
                    "healthy handlers begin at p99 {before:.1} ms before, {during:.1} ms during the outage; the bound is \
                     {slower:.0} ms more"
                ),
                during <= before + slower,
            ),
            (
                format!(
                    "at most {} in flight on the message queue and {} on the delay queue; the bound is {in_flight}",
                    self.most[0], self.most[1]
                ),
                self.most.iter().all(|most| *most < in_flight.max(500)),
            ),
            (format!("{dead} dead letters"), dead == 0),
            (
                format!("{unmailed} of {} were not handled in the end, {left} left on the queues", self.sent),
                unmailed == 0,
            ),
            (
                format!(
                    "the backlog drained within {}, at most {} a second; the bound is {bound}",
                    humantime::format_duration(drained),
                    burst.unwrap_or(0)
                ),
                burst.is_none_or(|burst| burst <= bound),
            ),
        ];
        for (text, holds) in &checks {
            println!("{} {text}", if *holds { "ok       " } else { "VIOLATION" });
        }
        Ok(checks.iter().all(|(_, holds)| *holds))
    }
}
