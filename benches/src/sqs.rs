//! Dawdle beside other ways to use SQS: the same events, produced and then consumed.

mod tell;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde::Serialize;

use crate::child::Client;
use crate::contender::{AtOnce, CONTENDERS, Contender, Program, REFERENCE};
use crate::endpoint::Endpoint;
use crate::event::body;
use crate::options::Options;
use crate::results::Part;
use crate::stats::median;
use crate::task::{Phase, Task};
use crate::ways::by_hand::BATCH;

/// The latencies that the endpoint adds, in milliseconds.
const LATENCIES: [u64; 3] = [0, 10, 50];

/// How many requests in the air the loop is tried with at each latency.
const TRIED: [usize; 3] = [8, 32, 128];

/// How often is looked whether all is consumed.
const LOOK: Duration = Duration::from_millis(5);

/// Nothing measured here takes nearly as long.
const TOO_LONG: Duration = Duration::from_secs(600);

/// What is measured is named by these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Case {
    phase: Phase,
    latency_ms: u64,
    contender: &'static str,
}

/// What came of one measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    events: u64,
    pub(crate) events_per_s: f64,
    pub(crate) cpu_us: f64,
    pub(crate) peak_mib: f64,
    /// For each event, by action.
    requests: BTreeMap<String, f64>,
    /// For each event, what SQS bills.
    billed: f64,
}

/// What came of all of them.
#[derive(Debug, Default)]
struct Samples {
    of: BTreeMap<Case, Vec<Sample>>,
    /// How many requests the loop has in the air, by phase and latency.
    tuned: BTreeMap<(Phase, u64), usize>,
    /// Who did not take part, and why.
    absent: BTreeMap<&'static str, String>,
}

pub(crate) fn measure(options: &Options) -> Result<Part> {
    let latencies = if options.quick { &LATENCIES[..2] } else { &LATENCIES[..] };
    let mut samples = Samples::default();
    let contenders = taking_part(options, &mut samples);
    for latency_ms in latencies {
        tune(options, *latency_ms, &mut samples)?;
    }
    for round in 1..=options.rounds {
        for latency_ms in latencies {
            for contender in &contenders {
                if samples.absent.contains_key(contender.name) {
                    continue;
                }
                eprintln!("round {round} of {}, {latency_ms} ms: {}", options.rounds, contender.name);
                match produce_and_consume(options, contender, *latency_ms, &samples.tuned) {
                    Ok(both) => both.into_iter().for_each(|(case, sample)| samples.add(case, sample)),
                    Err(error) if matches!(contender.program, Program::Peer(_)) => {
                        samples.absent.insert(contender.name, format!("{error:#}"));
                    }
                    Err(error) => return Err(error.context(contender.name)),
                }
            }
        }
    }
    tell::part(options, latencies, &samples)
}

/// Those that can be played here.
fn taking_part(options: &Options, samples: &mut Samples) -> Vec<Contender> {
    let mut taking_part = Vec::new();
    for contender in CONTENDERS {
        match contender.program {
            Program::Peer(_) if !options.peers => {}
            _ => match contender.command() {
                Ok(_) => taking_part.push(*contender),
                Err(error) => {
                    samples.absent.insert(contender.name, format!("{error:#}"));
                }
            },
        }
    }
    taking_part
}

/// Finds out how many requests in the air suit the loop best.
fn tune(options: &Options, latency_ms: u64, samples: &mut Samples) -> Result<()> {
    let Some(reference) = Contender::named(REFERENCE) else { bail!("there is no {REFERENCE}") };
    let tried = if options.quick { &TRIED[1..2] } else { &TRIED[..] };
    let mut best = BTreeMap::new();
    for at_once in tried {
        eprintln!("{REFERENCE} with {at_once} requests in the air, {latency_ms} ms");
        let everywhere = Phase::BOTH.map(|phase| ((phase, latency_ms), *at_once)).into();
        for (case, sample) in produce_and_consume(options, &reference, latency_ms, &everywhere)? {
            let best = best.entry(case.phase).or_insert((0.0, *at_once));
            if sample.events_per_s > best.0 {
                *best = (sample.events_per_s, *at_once);
            }
        }
    }
    samples.tuned.extend(best.into_iter().map(|(phase, (_, at_once))| ((phase, latency_ms), at_once)));
    Ok(())
}

fn produce_and_consume(
    options: &Options,
    contender: &Contender,
    latency_ms: u64,
    tuned: &BTreeMap<(Phase, u64), usize>,
) -> Result<Vec<(Case, Sample)>> {
    let events = events(options.events, latency_ms, contender.share);
    let mut endpoint = Endpoint::start(latency_ms)?;
    let mut both = Vec::new();
    for phase in Phase::BOTH {
        let tuned = tuned.get(&(phase, latency_ms)).copied().unwrap_or(1);
        let at_once = match contender.at_once {
            AtOnce::Requests(requests) => requests,
            AtOnce::Tuned => tuned,
            AtOnce::Handlers => tuned * BATCH as usize,
        };
        let sample = one(contender, phase, &mut endpoint, events, at_once)?;
        both.push((Case { phase, latency_ms, contender: contender.name }, sample));
    }
    Ok(both)
}

/// How many events a measurement takes, in whole batches: fewer where each takes longer.
fn events(most: u64, latency_ms: u64, share: u64) -> u64 {
    (most * 25 / (25 + latency_ms) / share / BATCH).max(10) * BATCH
}

/// One measurement: one half of the work by one contender.
pub(crate) fn one(
    contender: &Contender,
    phase: Phase,
    endpoint: &mut Endpoint,
    events: u64,
    at_once: usize,
) -> Result<Sample> {
    let task = Task { phase, place: endpoint.url.clone(), events, at_once, body: body()? };
    let before = endpoint.seen()?;
    let mut client = Client::start(contender.command()?, &task)?;
    client.begin()?;
    if phase == Phase::Consume {
        let start = Instant::now();
        while endpoint.seen()?.deleted < before.deleted + before.left {
            client.check()?;
            ensure!(start.elapsed() < TOO_LONG, "after {TOO_LONG:?} there are still events on the queue");
            std::thread::sleep(LOOK);
        }
        client.stop()?;
    }
    let measured = client.measured()?;
    let after = endpoint.seen()?;
    let sent = after.sent - before.sent;
    let (left, all) = match phase {
        Phase::Produce if contender.packs => (before.left + sent, (1..=events).contains(&sent)),
        Phase::Produce => (before.left + sent, sent == events),
        Phase::Consume => (0, sent == 0),
    };
    ensure!(all && after.left == left, "{sent} messages were sent, and {} are on the queue", after.left);
    let each = |count: u64| count as f64 / events as f64;
    Ok(Sample {
        events,
        events_per_s: events as f64 / measured.wall_s,
        cpu_us: measured.cpu_s * 1e6 / events as f64,
        peak_mib: measured.peak_kib as f64 / 1024.0,
        requests: after.requests_since(&before).into_iter().map(|(action, count)| (action, each(count))).collect(),
        billed: each(after.billed - before.billed),
    })
}

impl Samples {
    fn add(&mut self, case: Case, sample: Sample) {
        self.of.entry(case).or_default().push(sample);
    }

    /// The median of each figure.
    fn median(&self, case: Case) -> Option<Sample> {
        let samples = self.of.get(&case)?;
        let of = |figure: &dyn Fn(&Sample) -> f64| median(samples.iter().map(figure));
        let first = samples.first()?;
        let requests = |action: &String| of(&|sample| sample.requests.get(action).copied().unwrap_or(0.0));
        Some(Sample {
            events: first.events,
            events_per_s: of(&|sample| sample.events_per_s),
            cpu_us: of(&|sample| sample.cpu_us),
            peak_mib: of(&|sample| sample.peak_mib),
            requests: first.requests.keys().map(|action| (action.clone(), requests(action))).collect(),
            billed: of(&|sample| sample.billed),
        })
    }
}
