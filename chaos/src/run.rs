//! A run: starts the queue, the nodes and the sender, lets faults come and nodes fall, waits for
//! everything to be handled, and reads the ledgers.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail, ensure};
use dawdle::backend::Lane;
use dawdle::{Dawdle, Filter};
use sqs_model::Counts;

use crate::args::Args;
use crate::ledger::{self, Ledger, Record, VOID, What, micros};
use crate::plan::{Blow, Episode, Fall, Plan, Weather, falls, handler_called, weather};
use crate::process::{End, Place, Process, Role, Told, last_words};
use crate::queue::{Kind, Queue};
use crate::verdict::{DELIVERED_TWICE, Past, Verdict, Violations, judge, number_of_reason};
use crate::witness;

/// How often the parent looks around.
const TICK: Duration = Duration::from_millis(10);

/// The share of all runs that may be ones too many, but for those that the endpoint delivered twice on
/// purpose. Much is in hand when a node falls, and a run of seconds may have little weather but bad.
const MOST_REPEATED: f64 = 1.0 / 3.0;

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    plan: Plan,
    span: Duration,
    nodes: usize,
    backend: Kind,
    /// Neither faults nor kills.
    calm: bool,
    quiet: bool,
    /// Where the ledgers are kept, if they are to be.
    keep: Option<PathBuf>,
}

/// Reads the command line.
pub(crate) fn options(args: impl Iterator<Item = String>) -> Result<Options> {
    let args = Args::read(
        args,
        &["seed", "minutes", "events", "rate", "nodes", "backend", "keep", "visibility", "max-delay", "skew"],
        &["calm", "no-poison", "short", "quiet"],
    )?;
    let short = args.has("short");
    let minutes: f64 = args.number("minutes")?.unwrap_or(if short { 0.15 } else { 1.0 });
    ensure!(minutes > 0.0, "--minutes must be above 0");
    let span = Duration::from_secs_f64(minutes * 60.0);
    let default_rate = |events: Option<u64>| events.map_or(500.0, |events| events as f64 / span.as_secs_f64());
    let given: Option<u64> = args.number("events")?;
    let rate: f64 = args.number("rate")?.unwrap_or_else(|| default_rate(given));
    ensure!(rate > 0.0, "--rate must be above 0");
    let events = given.unwrap_or((rate * span.as_secs_f64()) as u64).max(1);
    let backend = match args.text("backend") {
        None | Some("model") => Kind::Model,
        Some("local") => Kind::Local,
        Some(other) => bail!("--backend is `{other}`; it is `model` or `local`"),
    };
    let skew: f64 = args.number("skew")?.unwrap_or(0.0);
    ensure!(
        skew == 0.0 || backend == Kind::Model,
        "--skew is {skew}; the local file has no clock but the machine's, leave it out with `--backend local`"
    );
    let longest_delay = (span.as_secs_f64() / 2.0).clamp(9.0, 300.0);
    let calm = args.has("calm");
    Ok(Options {
        plan: Plan {
            seed: args.number("seed")?.unwrap_or_else(|| fastrand::u64(..1_000_000)),
            events,
            rate,
            max_delay_ms: (args.number("max-delay")?.unwrap_or(longest_delay) * 1_000.0) as u64,
            visibility_secs: args.number("visibility")?.unwrap_or(if short { 5 } else { 10 }),
            max_receives: 8,
            clock_ahead_ms: (skew * 1_000.0) as i64,
            // On the endpoint each takes as many visibility timeouts as it has receives.
            poison: !(calm || args.has("no-poison") || (short && backend == Kind::Model)),
        },
        span,
        nodes: args.number("nodes")?.unwrap_or(4),
        backend,
        calm,
        quiet: args.has("quiet"),
        keep: args.text("keep").map(PathBuf::from),
    })
}

/// Runs it; whether everything held.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    let temporary = tempfile::tempdir()?;
    let folder = options.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)?;
    ensure!(!ledger::path(&folder, 0).exists(), "{} holds another run's ledgers", folder.display());
    let plan = &options.plan;
    println!(
        "seed {}: {} events at {:.0}/s on {} nodes, {:?}{}, delays up to {:.0} s, by the delay queue from {} s on, \
         visibility {} s{}",
        plan.seed,
        plan.events,
        plan.rate,
        options.nodes,
        options.backend,
        if options.calm { ", calm" } else { "" },
        plan.max_delay_ms as f64 / 1e3,
        plan.longest_hop().as_secs(),
        plan.visibility_secs,
        match plan.clock_ahead_ms {
            0 => String::new(),
            ahead => format!(", the queue's clock {:.1} s ahead", ahead as f64 / 1e3),
        }
    );
    let begun = Instant::now();
    let queue = Queue::start(options.backend, plan, &folder).await?;
    let mut fleet = Fleet::new(options, &folder, queue.place.clone());
    let mut sky = Sky::new(options);
    let falls = if options.calm { Vec::new() } else { falls(plan.seed, options.span, options.nodes) };

    fleet.begin(options.nodes)?;
    let mut to_come = falls.iter().peekable();
    let patience = options.span * 3 + Duration::from_secs(120);
    let mut said = Instant::now();
    while !(fleet.sender_is_done && begun.elapsed() >= options.span) {
        let now = begun.elapsed();
        ensure!(now < patience, "the sender has not come to its end within {patience:?}");
        sky.look(now, &queue);
        while let Some(fall) = to_come.next_if(|fall| fall.at <= now) {
            fleet.fall(fall)?;
        }
        fleet.tend()?;
        if !options.quiet && said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            println!("  {:>4.0} s  {}  {}", now.as_secs_f64(), describe(&queue).await, fleet.describe());
        }
        tokio::time::sleep(TICK).await;
    }
    sky.clear(&queue);
    let signalled = begun.elapsed();
    let left = drain(options, &queue, &mut fleet).await?;
    let drained = begun.elapsed();
    fleet.stop_all()?;
    let mut violations = std::mem::take(&mut fleet.violations);
    if left > 0 {
        violations.add(|| format!("stuck: {left} messages are still on the queues"));
    }
    let dead = folder.join("dead.ledger");
    collect_dead_letters(plan, &queue, &dead).await?;
    let mut not_empty = 0;
    for lane in Lane::ALL {
        let stats = queue.stats(lane).await?;
        not_empty += stats.total();
        if stats.total() > 0 {
            violations.add(|| format!("the {lane} is not empty at the end: {stats:?}"));
        }
    }
    let twice = queue.delivered_twice().iter().map(|id| witness::hash(id)).collect();
    let verdict = judge(plan, &fleet.pasts, &dead, &twice)?;
    violations.count += verdict.violations.count;
    violations.listed.extend(verdict.violations.listed.iter().cloned());
    let counts = queue.counts();
    let explained: u64 = verdict.explained.values().sum();
    if options.calm && explained > 0 {
        violations
            .add(|| format!("{explained} runs too many, where neither fault nor kill was: {:?}", verdict.explained));
    }
    let on_purpose = verdict.explained.get(DELIVERED_TWICE).copied().unwrap_or_default();
    let repeated = (explained - on_purpose) as f64 / verdict.runs.max(1) as f64;
    if repeated > MOST_REPEATED {
        violations.add(|| {
            let runs = verdict.runs;
            format!("of {runs} runs a share of {repeated:.2} are ones too many, and {MOST_REPEATED:.2} is the most")
        });
    }
    let (latest, allowed) = (verdict.late.most(), plan.latest(options.span));
    if latest > allowed {
        violations.add(|| format!("a first run began {latest:.1?} after due, and {allowed:.1?} is the most"));
    }
    let spent = fleet.spent()?;
    report(&Report { options, fleet: &fleet, counts, spent, verdict: &verdict, stuck: not_empty, signalled, drained });
    for violation in &violations.listed {
        println!("  VIOLATION {violation}");
    }
    let holds = violations.count == 0;
    println!("{}", if holds { "PASSED".to_owned() } else { format!("FAILED: {} violations", violations.count) });
    if !holds && options.keep.is_none() {
        println!("ledgers and logs are in {}", temporary.keep().display());
    }
    Ok(holds)
}

/// Waits until nothing is left on the message and the delay queue; yields what is, in the end.
async fn drain(options: &Options, queue: &Queue, fleet: &mut Fleet) -> Result<u64> {
    let plan = &options.plan;
    let repeats = plan.all_receives().max(Duration::from_secs(plan.visibility_secs + 4) * (plan.max_receives + 2));
    let bound = Duration::from_millis(plan.max_delay_ms) + repeats + Duration::from_secs(90);
    let (start, mut said) = (Instant::now(), Instant::now());
    let mut empty = 0;
    loop {
        fleet.tend()?;
        let left = queue.stats(Lane::Message).await?.total() + queue.stats(Lane::Delay).await?.total();
        empty = if left == 0 { empty + 1 } else { 0 };
        // What a handler's run writes is on the queue before its message leaves.
        if empty == 3 || start.elapsed() > bound {
            return Ok(left);
        }
        if !options.quiet && said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            println!("  draining  {}  {}", describe(queue).await, fleet.describe());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Writes every dead letter down and purges it.
async fn collect_dead_letters(plan: &Plan, queue: &Queue, path: &Path) -> Result<()> {
    let ledger = Ledger::open(path, plan.clock_ahead_ms)?;
    let builder = Dawdle::builder().backend(Arc::clone(&queue.backend)).discover(false).listener(false);
    let dawdle = builder.start().await?;
    let mut scan = dawdle.dead_letters().scan(Filter::default());
    while let Some(letter) = scan.next().await {
        let letter = letter?;
        #[derive(serde::Deserialize)]
        struct Data {
            n: u64,
        }
        let data: Option<Data> = letter.envelope.data().and_then(|data| serde_json::from_str(data).ok());
        let handler = letter.handler.as_deref().and_then(|name| u8::try_from(handler_called(name)?).ok());
        let record = Record {
            what: What::Dead,
            handler,
            attempt: u16::try_from(letter.attempts).unwrap_or(u16::MAX),
            event: data.map_or(u64::MAX, |data| data.n),
            at: micros(letter.died_at),
            extra: number_of_reason(&letter.reason),
        };
        ledger.write(&[record]);
        dawdle.dead_letters().purge(&letter).await?;
    }
    dawdle.shutdown().await;
    Ok(())
}

async fn describe(queue: &Queue) -> String {
    match queue.stats(Lane::Message).await {
        Ok(stats) => format!("{} visible, {} in flight, {} delayed", stats.visible, stats.in_flight, stats.delayed),
        Err(_) => "no answer from the queue".to_owned(),
    }
}

/// The weather over the endpoint.
struct Sky {
    /// What is still to come.
    episodes: std::iter::Peekable<std::vec::IntoIter<Episode>>,
    now: Weather,
}

impl Sky {
    fn new(options: &Options) -> Sky {
        let episodes = match options.backend {
            Kind::Model if !options.calm => weather(options.plan.seed, options.span),
            _ => Vec::new(),
        };
        Sky { episodes: episodes.into_iter().peekable(), now: Weather::Calm }
    }

    fn look(&mut self, now: Duration, queue: &Queue) {
        while let Some(episode) = self.episodes.next_if(|episode| episode.from <= now) {
            self.change(episode.weather, queue);
        }
    }

    fn change(&mut self, weather: Weather, queue: &Queue) {
        queue.weather(self.now, weather);
        self.now = weather;
    }

    fn clear(&mut self, queue: &Queue) {
        self.change(Weather::Calm, queue);
    }
}

/// The processes that run and those that have ended.
struct Fleet {
    plan: Plan,
    place: Place,
    folder: PathBuf,
    quiet: bool,
    began: SystemTime,
    /// The nodes; the last one is the sender.
    slots: Vec<Slot>,
    started: u32,
    pasts: Vec<Past>,
    sender_is_done: bool,
    kills: u32,
    stops: u32,
    aborts: u32,
    violations: Violations,
}

/// A node's or the sender's place.
#[derive(Default)]
struct Slot {
    process: Option<Process>,
    /// When the next one is started, where there is none.
    back_at: Option<Instant>,
    /// Since when its process has been told to stop.
    stopping: Option<Instant>,
    /// When it is killed in the middle of that.
    kill_at: Option<Instant>,
    back_after: Duration,
}

/// How long a node may take to stop: its shutdown timeout, and what starting and a busy machine add.
const STOPPING: Duration = Duration::from_secs(20);

impl Fleet {
    fn new(options: &Options, folder: &Path, place: Place) -> Fleet {
        Fleet {
            plan: options.plan.clone(),
            place,
            folder: folder.to_owned(),
            quiet: options.quiet,
            began: SystemTime::now(),
            slots: Vec::new(),
            started: 0,
            pasts: Vec::new(),
            sender_is_done: false,
            kills: 0,
            stops: 0,
            aborts: 0,
            violations: Violations::default(),
        }
    }

    fn begin(&mut self, nodes: usize) -> Result<()> {
        self.slots.resize_with(nodes + 1, Slot::default);
        for slot in 0..=nodes {
            self.fill(slot)?;
        }
        Ok(())
    }

    fn is_sender(&self, slot: usize) -> bool {
        slot + 1 == self.slots.len()
    }

    /// Starts a process in a slot.
    fn fill(&mut self, slot: usize) -> Result<()> {
        let role = match self.is_sender(slot) {
            true => Role::Sender { from: self.next_event()?, began: self.began },
            false => Role::Node,
        };
        self.started += 1;
        let number = self.started;
        let ledger = ledger::path(&self.folder, number);
        let told = Told { role, plan: self.plan.clone(), place: self.place.clone(), ledger };
        let process = Process::start(number, &told)?;
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = Slot { process: Some(process), ..Slot::default() };
        }
        Ok(())
    }

    /// The first event that no sender before has intended.
    fn next_event(&self) -> Result<u64> {
        let mut next = 0;
        for past in self.pasts.iter().filter(|past| past.is_sender && past.ledger.exists()) {
            for record in ledger::read(&past.ledger)? {
                let record = record?;
                if record.what == What::Intended {
                    next = next.max(record.event + 1);
                }
            }
        }
        Ok(next)
    }

    /// What the processes have spent, by the last that each has noted.
    fn spent(&self) -> Result<(u64, u64)> {
        let (mut requests, mut billed) = (0, 0);
        for past in self.pasts.iter().filter(|past| past.ledger.exists()) {
            let mut last = (0, 0);
            for record in ledger::read(&past.ledger)? {
                let record = record?;
                if record.what == What::Spent {
                    last = (record.event, record.extra);
                }
            }
            requests += last.0;
            billed += last.1;
        }
        Ok((requests, billed))
    }

    fn now(&self) -> u64 {
        micros(SystemTime::now()).saturating_add_signed(self.plan.clock_ahead_ms * 1_000)
    }

    fn fall(&mut self, fall: &Fall) -> Result<()> {
        let now = self.now();
        let is_sender = self.is_sender(fall.slot);
        let Some(slot) = self.slots.get_mut(fall.slot) else { return Ok(()) };
        // One that is down or stopping is left alone.
        let Some(process) = slot.process.as_mut().filter(|_| slot.stopping.is_none()) else { return Ok(()) };
        slot.back_after = fall.back_after;
        match fall.blow {
            // The sender knows no stop but its end.
            Blow::Stop | Blow::StopThenKill(_) if is_sender => {}
            Blow::Kill => {
                let status = process.kill()?;
                self.note_end(fall.slot, status, now);
            }
            Blow::Stop | Blow::StopThenKill(_) => {
                process.stop()?;
                slot.stopping = Some(Instant::now());
                if let Blow::StopThenKill(after) = fall.blow {
                    slot.kill_at = Some(Instant::now() + after);
                }
            }
        }
        Ok(())
    }

    /// Notes what has ended by itself or as told, and starts what is to be.
    fn tend(&mut self) -> Result<()> {
        for at in 0..self.slots.len() {
            let now = self.now();
            let Some(slot) = self.slots.get_mut(at) else { continue };
            if let Some(process) = &mut slot.process {
                let mut ended = process.ended()?;
                if ended.is_none() && slot.kill_at.is_some_and(|at| at <= Instant::now()) {
                    ended = Some(process.kill()?);
                }
                match ended {
                    // It may have been dead since the last look.
                    Some(status) => self.note_end(at, status, now.saturating_sub(50_000)),
                    None if slot.stopping.is_some_and(|since| since.elapsed() > STOPPING) => {
                        let status = process.kill()?;
                        self.violations.add(|| format!("a node did not stop within {STOPPING:?}"));
                        self.note_end(at, status, now);
                    }
                    None => {}
                }
            } else if slot.back_at.is_some_and(|at| at <= Instant::now()) {
                self.fill(at)?;
            }
        }
        Ok(())
    }

    fn note_end(&mut self, at: usize, status: ExitStatus, ended: u64) {
        use std::os::unix::process::ExitStatusExt;
        let is_sender = self.is_sender(at);
        let ahead = self.plan.clock_ahead_ms * 1_000;
        let Some(slot) = self.slots.get_mut(at) else { return };
        let Some(process) = slot.process.take() else { return };
        let ago = slot.stopping.take().map(|since| u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
        let stopped_at = ago.map(|ago| micros(SystemTime::now()).saturating_add_signed(ahead).saturating_sub(ago));
        let stopped = stopped_at.is_some();
        slot.kill_at = None;
        slot.back_at = Some(Instant::now() + slot.back_after);
        let ledger = ledger::path(&self.folder, process.number);
        const SIGABRT: i32 = 6;
        const SIGKILL: i32 = 9;
        const SIGTERM: i32 = 15;
        let end = match (status.signal(), status.code()) {
            (Some(SIGKILL), _) => {
                self.kills += 1;
                End::Killed
            }
            (Some(SIGABRT), _) if has_poison(&self.plan, &ledger) => {
                self.aborts += 1;
                End::Aborted
            }
            // Told to stop before it had come to listen for that.
            (Some(SIGTERM), _) if stopped => {
                self.stops += 1;
                End::Killed
            }
            (None, Some(0)) if stopped => {
                self.stops += 1;
                End::Exited
            }
            (None, Some(0)) if is_sender => {
                self.sender_is_done = true;
                slot.back_at = None;
                End::Exited
            }
            (_, code) => {
                let void = if code == Some(VOID) { ", its ledger is incomplete" } else { "" };
                let words = last_words(&ledger);
                let who = if is_sender { "the sender" } else { "a node" };
                self.violations
                    .add(|| format!("{who} (process {}) ended with {status}{void}: {words}", process.number));
                End::Killed
            }
        };
        self.pasts.push(Past { number: process.number, ledger, is_sender, end, stopped: stopped_at, ended });
    }

    /// Stops every node, and waits for it.
    fn stop_all(&mut self) -> Result<()> {
        for slot in &mut self.slots {
            slot.back_at = None;
            if let Some(process) = &slot.process {
                process.stop()?;
                slot.stopping = Some(Instant::now());
            }
        }
        for at in 0..self.slots.len() {
            let Some(process) = self.slots.get_mut(at).and_then(|slot| slot.process.as_mut()) else { continue };
            let status = match process.ends_within(STOPPING)? {
                Some(status) => status,
                None => {
                    let number = process.number;
                    let status = process.kill()?;
                    self.violations.add(|| format!("process {number} did not stop within {STOPPING:?} at the end"));
                    status
                }
            };
            let now = self.now();
            self.note_end(at, status, now);
        }
        Ok(())
    }

    fn describe(&self) -> String {
        if self.quiet {
            return String::new();
        }
        let up = self.slots.iter().filter(|slot| slot.process.is_some()).count();
        format!("{up} processes, {} kills, {} stops, {} aborts", self.kills, self.stops, self.aborts)
    }
}

/// Whether a process began a run that aborts it.
fn has_poison(plan: &Plan, ledger: &Path) -> bool {
    let Ok(mut records) = ledger::read(ledger) else { return false };
    records.any(|record| {
        record.is_ok_and(|record| {
            record.what == What::Begun
                && record.handler.is_some_and(|handler| {
                    plan.behaviour(record.event, usize::from(handler)) == crate::plan::Behaviour::Abort
                })
        })
    })
}

/// What is told at the end.
struct Report<'a> {
    options: &'a Options,
    fleet: &'a Fleet,
    counts: Option<Counts>,
    /// Requests and what is billed for them, by the processes' own meters.
    spent: (u64, u64),
    verdict: &'a Verdict,
    stuck: u64,
    signalled: Duration,
    drained: Duration,
}

fn report(report: &Report<'_>) {
    let Report { options, fleet, verdict, .. } = report;
    let explained: u64 = verdict.explained.values().sum();
    let why: Vec<String> = verdict.explained.iter().map(|(why, count)| format!("{why} {count}")).collect();
    let seconds = |span: Duration| span.as_secs_f64();
    println!("seed            {}", options.plan.seed);
    println!(
        "events          {} signalled: {} confirmed, {} unsure, {} refused",
        verdict.intended, verdict.confirmed, verdict.unsure, verdict.refused
    );
    println!("handler runs    {}", verdict.runs);
    println!("kills           {} (and {} stops, {} aborts of their own)", fleet.kills, fleet.stops, fleet.aborts);
    println!("lost            {}", verdict.lost);
    println!("early           {}", verdict.early);
    println!("stuck           {}", report.stuck);
    println!("duplicates      {explained} explained, {} unexplained  [{}]", verdict.unexplained, why.join(", "));
    println!(
        "dead letters    {} expected, {} unexpected",
        verdict.dead_letters - verdict.unexpected_dead_letters,
        verdict.unexpected_dead_letters
    );
    println!(
        "late            p50 {:.1} ms, p99 {:.1} ms, at most {:.1} s",
        verdict.late.at(0.5),
        verdict.late.at(0.99),
        seconds(verdict.late.most())
    );
    let [parked, forwarded, renewed] = verdict.hops;
    println!("delay queue     {parked} parked, {forwarded} forwarded, {renewed} sent afresh");
    println!(
        "wall time       {:.1} s to signal, {:.1} s until all was handled: {:.0} events/s",
        seconds(report.signalled),
        seconds(report.drained),
        verdict.intended as f64 / seconds(report.drained)
    );
    let (requests, billed) = report.spent;
    println!("spend meters    {requests} requests, billed as {billed}, by the processes' own count");
    let Some(counts) = &report.counts else { return };
    let struck = &counts.struck;
    println!(
        "faults struck   {} refused, {} reset before, {} reset after, {} slow, {} hung, {} of 500, {} of HTML, \
         {} throttled, {} expired credentials, {} entries, {} duplicated, {} undeleted",
        struck.refuse,
        struck.reset_before,
        struck.reset_after,
        struck.slow,
        struck.hang,
        struck.error_500,
        struck.html_404 + struck.html_502,
        struck.throttle,
        struck.expired_credentials,
        struck.entry_failure,
        struck.duplicate,
        struck.undelete
    );
    println!(
        "requests        {} ({:.2} an event): {} sends, {} receives ({} empty), {} deletes, {} visibility changes",
        counts.requests(),
        counts.requests() as f64 / verdict.intended.max(1) as f64,
        counts.send_message_batch,
        counts.receive_message,
        counts.empty_receives,
        counts.delete_message_batch,
        counts.change_message_visibility_batch
    );
}
