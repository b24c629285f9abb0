//! What a listener's memory does when a million messages wait, and when its handler is slower than
//! the arrival: nothing. The queue holds the backlog.
//!
//! Endpoint and listener are processes of their own, so that what is measured is the listener's.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use dawdle::backend::Lane;
use dawdle::{Dawdle, Event, Outcome, State};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};
use sqs_model::Endpoint;

use crate::args::Args;
use crate::plan::Plan;
use crate::process::{Place, Process, Role, Told};
use crate::queue::create;

/// The most that a listener may hold, and the most by which it may grow once it is under way, in
/// MiB.
const MOST: f64 = 64.0;
const GROWTH: f64 = 24.0;

/// How often is looked.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "memory.waiting")]
struct Waiting {
    number: u64,
}

/// How long a run takes.
struct Pause(Duration);

#[dawdle::handler]
async fn drip(_: &Waiting, pause: State<Pause>) -> Outcome {
    tokio::time::sleep(pause.0).await;
    Ok(())
}

/// The endpoint's part: it says where it is in the file beside its ledger.
pub(crate) async fn keep_endpoint(told: &Told) -> Result<()> {
    let endpoint = Endpoint::start(sqs_model::Options::default())?;
    let said = told.ledger.with_extension("part");
    std::fs::write(&said, endpoint.url())?;
    std::fs::rename(&said, url_file(&told.ledger))?;
    std::future::pending().await
}

fn url_file(ledger: &Path) -> PathBuf {
    ledger.with_extension("url")
}

/// The listener's part.
pub(crate) async fn listen(told: &Told, pause: Duration) -> Result<()> {
    let backend = told.place.open(&told.plan).await?;
    let builder = Dawdle::builder().backend(backend).discover(false).handlers(dawdle::handlers![drip]);
    builder.state(Pause(pause)).start().await?.run().await?;
    Ok(())
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    messages: u64,
    span: Duration,
    rate: u64,
    svg: PathBuf,
}

/// Reads the command line.
pub(crate) fn options(args: impl Iterator<Item = String>) -> Result<Options> {
    let args = Args::read(args, &["messages", "seconds", "rate", "svg"], &["short"])?;
    let short = args.has("short");
    let seconds: u64 = args.number("seconds")?.unwrap_or(if short { 6 } else { 60 });
    ensure!(seconds >= 4, "--seconds is {seconds}; it is at least 4");
    Ok(Options {
        messages: args.number("messages")?.unwrap_or(if short { 10_000 } else { 1_000_000 }),
        span: Duration::from_secs(seconds),
        rate: args.number("rate")?.unwrap_or(if short { 300 } else { 1_000 }),
        svg: PathBuf::from(args.text("svg").unwrap_or("memory.svg")),
    })
}

/// One look.
#[derive(Clone, Copy, Debug)]
struct Sample {
    seconds: f64,
    /// Resident, in MiB.
    resident: f64,
    depth: u64,
}

/// Measures; whether the listener's memory stayed within its bounds.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    let folder = tempfile::tempdir()?;
    let plan = Plan {
        seed: 0,
        events: 0,
        rate: 1.0,
        max_delay_ms: 0,
        visibility_secs: 60,
        max_receives: 10,
        clock_ahead_ms: 0,
        poison: false,
    };
    let told = |number: u32, role, url: &str| Told {
        role,
        plan: plan.clone(),
        place: Place::Sqs { url: url.to_owned() },
        ledger: crate::ledger::path(folder.path(), number),
    };
    let endpoint = told(0, Role::Endpoint, "");
    let _endpoint = Process::start(0, &endpoint)?;
    let url = said(&url_file(&endpoint.ledger)).await?;
    create(&url, plan.visibility_secs).await?;
    let queue = Place::Sqs { url: url.clone() }.open(&plan).await?;
    let sender = Dawdle::builder().backend(queue.clone()).discover(false).listener(false).start().await?;

    let start = Instant::now();
    let mut number = 0;
    while number < options.messages {
        let until = (number + 10_000).min(options.messages);
        signal(&sender, number..until).await?;
        number = until;
    }
    println!("{number} messages wait, put there in {:.1} s", start.elapsed().as_secs_f64());

    let mut parts = Vec::new();
    for (part, (name, pause, rate)) in [
        ("a backlog, a handler of 1 ms", Duration::from_millis(1), 0),
        ("a handler slower than the arrival", Duration::from_millis(200), options.rate),
    ]
    .into_iter()
    .enumerate()
    {
        let listener = told(part as u32 + 1, Role::Drip { pause_ms: pause.as_millis() as u64 }, &url);
        let listener = Process::start(part as u32 + 1, &listener)?;
        let start = Instant::now();
        let mut samples = Vec::new();
        let mut sent = 0;
        while start.elapsed() < options.span {
            let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
            signal(&sender, sent..due).await?;
            sent = due;
            let depth = queue.inspect(Lane::Message).await?.total();
            samples.push(Sample { seconds: start.elapsed().as_secs_f64(), resident: resident(listener.id())?, depth });
            tokio::time::sleep(LOOK).await;
        }
        parts.push((name, samples));
    }
    draw(&options.svg, &parts).map_err(|error| anyhow!("drawing {}: {error}", options.svg.display()))?;
    println!("the curves are in {}", options.svg.display());
    let hold: Vec<bool> = parts.iter().map(|(name, samples)| conclude(name, samples)).collect();
    Ok(hold.iter().all(|holds| *holds))
}

async fn signal(sender: &Dawdle, numbers: std::ops::Range<u64>) -> Result<()> {
    for answer in sender.signal_all(numbers.map(|number| Waiting { number })).await {
        answer?;
    }
    Ok(())
}

/// The text of a file, once it is there.
async fn said(path: &Path) -> Result<String> {
    for _ in 0..1_000 {
        if let Ok(text) = std::fs::read_to_string(path) {
            return Ok(text);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(anyhow!("the endpoint has not started within 10 s"))
}

/// The resident memory of a process, in MiB.
fn resident(process: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).context("the listener has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// Says what was measured; whether it is within the bounds.
fn conclude(name: &str, samples: &[Sample]) -> bool {
    // The first quarter is the start: connections, caches, the prefetch finding its size.
    let settled = samples.get(samples.len() / 4..).unwrap_or_default();
    let depths = (samples.first().map_or(0, |it| it.depth), samples.last().map_or(0, |it| it.depth));
    let least = settled.iter().map(|sample| sample.resident).fold(f64::MAX, f64::min);
    let most = settled.iter().map(|sample| sample.resident).fold(0.0, f64::max);
    let growth = most - settled.first().map_or(0.0, |sample| sample.resident);
    let holds = most <= MOST && growth <= GROWTH && !settled.is_empty();
    println!(
        "{} {name}: {} -> {} messages on the queue; resident {least:.1} to {most:.1} MiB, grew by {growth:.1} \
         (bounds: {MOST:.0}, {GROWTH:.0})",
        if holds { "ok       " } else { "VIOLATION" },
        depths.0,
        depths.1,
    );
    holds
}

/// What of a look is drawn.
type Value = fn(&Sample) -> f64;

/// A row for each part: memory on the left, depth on the right.
fn draw(path: &Path, parts: &[(&str, Vec<Sample>)]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, (1_000, 340 * parts.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let areas = root.split_evenly((parts.len(), 2));
    for ((name, samples), row) in parts.iter().zip(areas.chunks(2)) {
        let end = samples.last().map_or(1.0, |sample| sample.seconds);
        let curves: [(&str, &str, Value); 2] = [
            ("resident memory", "MiB", |sample| sample.resident),
            ("messages on the queue", "messages", |sample| sample.depth as f64),
        ];
        for ((what, unit, value), area) in curves.into_iter().zip(row) {
            let top = samples.iter().map(value).fold(1.0, f64::max) * 1.2;
            let mut chart = ChartBuilder::on(area)
                .caption(format!("{what}: {name}"), ("sans-serif", 15))
                .margin(10)
                .x_label_area_size(35)
                .y_label_area_size(75)
                .build_cartesian_2d(0.0..end, 0.0..top)?;
            chart.configure_mesh().x_desc("seconds").y_desc(unit).draw()?;
            chart.draw_series(LineSeries::new(samples.iter().map(|it| (it.seconds, value(it))), &BLUE))?;
        }
    }
    root.present()?;
    Ok(())
}
