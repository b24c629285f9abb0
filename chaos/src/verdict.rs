//! What the ledgers prove.
//!
//! The first reading goes through every record and keeps a few bytes for each event. The second
//! keeps the whole story of those events only that ran more often than they had to, and asks of each
//! such run whether something explains it.
//!
//! A run of a handler is *one too many* when an earlier run of it succeeded (or discarded, or gave
//! up), or was the same attempt. It is explained when, before it began, one of these happened to a
//! message that stands for this event and this handler:
//! - a process that had received it was killed, or aborted itself, before the queue confirmed its ack;
//! - its ack was answered by an error, or by nothing;
//! - an extension of its lease was answered by an error, or by nothing;
//! - it was sent, and the answer to that was lost;
//! - it was received more than once, and since its first receive the endpoint was told to duplicate
//!   messages or to bring deleted ones back. (What becomes of a message is decided at its first receive.
//!   Where the answer to that was lost, it may have been as early as the event was signalled.)
//!
//! A run that has the attempt of an earlier one is explained, too, when that one did not end and its
//! process had been told to stop: what a stop cuts off goes to another node, and spends no attempt.
//!
//! So with neither kills nor faults every run that is one too many is a violation.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::ledger::{self, Record, What};
use crate::plan::{Expected, GIVEN_UP, HANDLERS, MOST_HANDLERS, Plan, handlers_of};
use crate::process::End;

/// How early a run may be by the queue's clock, in microseconds.
const TOLERANCE: u64 = 50_000;

/// How long an answer may be on its way: a message that was handed out twice may be on file as received so
/// much later, in microseconds.
const ANSWERING: u64 = 3_000_000;

/// The most violations that are listed.
const LISTED: usize = 40;

/// A process as the parent knows it.
#[derive(Clone, Debug)]
pub(crate) struct Past {
    pub(crate) number: u32,
    pub(crate) ledger: PathBuf,
    pub(crate) is_sender: bool,
    pub(crate) end: End,
    /// When it was told to stop, if it was, and from when on it may have been dead; in microseconds of the
    /// queue's clock.
    pub(crate) stopped: Option<u64>,
    pub(crate) ended: u64,
}

/// When the endpoint was told to deliver messages twice: from, to, in microseconds.
pub(crate) type Windows = Vec<(u64, u64)>;

/// What was found out.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) intended: u64,
    pub(crate) confirmed: u64,
    pub(crate) unsure: u64,
    pub(crate) refused: u64,
    pub(crate) runs: u64,
    pub(crate) lost: u64,
    pub(crate) early: u64,
    pub(crate) explained: BTreeMap<&'static str, u64>,
    pub(crate) unexplained: u64,
    pub(crate) dead_letters: u64,
    pub(crate) unexpected_dead_letters: u64,
    pub(crate) late: Lateness,
    pub(crate) violations: Violations,
}

/// A bounded list.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    pub(crate) count: u64,
    pub(crate) listed: Vec<String>,
}

impl Violations {
    pub(crate) fn add(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.listed.len() < LISTED {
            self.listed.push(text());
        }
    }
}

/// How late first runs began, in buckets that grow by an eighth.
#[derive(Debug)]
pub(crate) struct Lateness {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Lateness {
    fn default() -> Self {
        Lateness { buckets: vec![0; 256], count: 0 }
    }
}

impl Lateness {
    pub(crate) fn add(&mut self, micros: u64) {
        let bucket = ((micros.max(1) as f64).log2() * 6.0) as usize;
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            *bucket += 1;
            self.count += 1;
        }
    }

    /// The upper end of the bucket in which the run at this share lies, in milliseconds.
    pub(crate) fn at(&self, share: f64) -> f64 {
        let mut left = (self.count as f64 * share).ceil() as u64;
        for (bucket, count) in self.buckets.iter().enumerate() {
            left = left.saturating_sub(*count);
            if left == 0 {
                return ((bucket + 1) as f64 / 6.0).exp2() / 1_000.0;
            }
        }
        0.0
    }
}

/// How the signalling of an event ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sent {
    #[default]
    Never,
    /// Its sender ended before it wrote down how.
    Intended,
    Confirmed,
    Unsure,
    Refused,
}

/// What the first reading keeps of one handler's part of an event.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    /// A bit for each attempt that was begun.
    attempts: u16,
    ended: bool,
    discarded: bool,
    gave_up: bool,
    dead: bool,
}

/// What it keeps of an event.
#[derive(Clone, Copy, Debug, Default)]
struct Event {
    due: u64,
    sent: Sent,
    /// It was received, or ran.
    seen: bool,
    suspicious: bool,
    parts: [Part; MOST_HANDLERS],
}

/// Reads everything that was written down.
pub(crate) fn judge(plan: &Plan, processes: &[Past], dead: &Path, twice: &Windows) -> Result<Verdict> {
    let mut first = First {
        plan,
        events: vec![Event::default(); usize::try_from(plan.events)?],
        slots: slots(),
        verdict: Verdict::default(),
    };
    // Senders first: whether a run is early depends on when it was due.
    let (senders, nodes): (Vec<&Past>, Vec<&Past>) = processes.iter().partition(|past| past.is_sender);
    for past in senders.iter().chain(&nodes) {
        for record in records(&past.ledger)? {
            first.take(record?);
        }
    }
    for record in records(dead)? {
        first.dead(record?);
    }
    first.conclude();
    let First { events, mut verdict, .. } = first;
    let mut stories: HashMap<u64, Vec<(Record, u32)>> = HashMap::new();
    let suspects = (0..).zip(&events).filter(|(_, event)| event.suspicious);
    stories.extend(suspects.map(|(number, _)| (number, Vec::new())));
    drop(events);
    for past in processes {
        for record in records(&past.ledger)? {
            let record = record?;
            if let Some(story) = stories.get_mut(&record.event) {
                story.push((record, past.number));
            }
        }
    }
    let pasts: HashMap<u32, &Past> = processes.iter().map(|past| (past.number, past)).collect();
    let mut stories: Vec<_> = stories.into_iter().collect();
    stories.sort_by_key(|(event, _)| *event);
    for (event, mut records) in stories {
        records.sort_by_key(|(record, _)| record.at);
        Story { event, plan, records: &records, pasts: &pasts, twice }.judge(&mut verdict);
    }
    Ok(verdict)
}

/// The records of a ledger that are about events; none where the process ended before it had one.
fn records(path: &Path) -> Result<Box<dyn Iterator<Item = Result<Record>>>> {
    if !path.exists() {
        return Ok(Box::new(std::iter::empty()));
    }
    let is_a_meter = |record: &Result<Record>| record.as_ref().is_ok_and(|record| record.what == What::Spent);
    Ok(Box::new(ledger::read(path)?.filter(move |record| !is_a_meter(record))))
}

/// The place of each handler among those of its kind.
fn slots() -> [usize; HANDLERS.len()] {
    std::array::from_fn(|handler| {
        HANDLERS.get(handler).map_or(0, |spec| handlers_of(spec.kind).take_while(|other| *other < handler).count())
    })
}

/// The first reading.
struct First<'a> {
    plan: &'a Plan,
    events: Vec<Event>,
    slots: [usize; HANDLERS.len()],
    verdict: Verdict,
}

impl First<'_> {
    fn take(&mut self, record: Record) {
        let Some(event) = usize::try_from(record.event).ok().and_then(|at| self.events.get_mut(at)) else {
            self.verdict.violations.add(|| format!("event {} was never to be signalled, and ran", record.event));
            return;
        };
        match record.what {
            What::Intended => {
                if event.sent != Sent::Never {
                    self.verdict
                        .violations
                        .add(|| format!("event {} was signalled twice by this program", record.event));
                }
                event.sent = Sent::Intended;
                event.due = record.extra;
            }
            What::Confirmed => event.sent = Sent::Confirmed,
            What::Unsure => event.sent = Sent::Unsure,
            What::Refused => event.sent = Sent::Refused,
            What::Received => event.seen = true,
            What::Acked
            | What::AckUnsure
            | What::ExtendFailed
            | What::SendUnsure
            | What::Released
            | What::Dead
            | What::Spent => {}
            What::Begun | What::Succeeded | What::Failed | What::Snoozed | What::Discarded | What::GaveUp => {
                self.run(record);
            }
        }
    }

    fn run(&mut self, record: Record) {
        let Some(handler) = record.handler.map(usize::from) else { return };
        let (Some(event), Some(slot)) = (self.events.get_mut(record.event as usize), self.slots.get(handler)) else {
            return;
        };
        let Some(part) = event.parts.get_mut(*slot) else { return };
        event.seen = true;
        let begins = record.what == What::Begun || !self.plan.behaviour(record.event, handler).is_begun_on_file();
        if begins {
            self.verdict.runs += 1;
            let bit = 1 << record.attempt.min(15);
            if record.attempt == 1 && part.attempts == 0 {
                self.verdict.late.add(record.at.saturating_sub(event.due));
            }
            let again = part.attempts & bit != 0 && record.what != What::Snoozed;
            let over = part.ended || part.discarded || part.gave_up;
            // A last snooze and the success after it are the same attempt.
            let snoozes = self.plan.behaviour(record.event, handler) == crate::plan::Behaviour::Snooze;
            event.suspicious |= over || (again && !snoozes);
            part.attempts |= bit;
            if record.at + TOLERANCE < event.due {
                self.verdict.early += 1;
                let early = (event.due - record.at) / 1_000;
                self.verdict.violations.add(|| {
                    format!("early: event {} ran in {} {early} ms before it was due", record.event, name(handler))
                });
            }
        }
        match record.what {
            What::Succeeded => part.ended = true,
            What::Discarded => part.discarded = true,
            What::GaveUp => part.gave_up = true,
            _ => {}
        }
    }

    fn dead(&mut self, record: Record) {
        self.verdict.dead_letters += 1;
        let reason = reason_of(record.extra);
        let kind = self.plan.kind(record.event);
        let about = || {
            let handler = record.handler.map_or("no handler", |handler| name(usize::from(handler)));
            format!("event {} ({handler}, reason {reason}, {} attempts)", record.event, record.attempt)
        };
        let Some(event) = usize::try_from(record.event).ok().and_then(|at| self.events.get_mut(at)) else {
            self.verdict.unexpected_dead_letters += 1;
            self.verdict.violations.add(|| format!("a dead letter of no event of this run: {}", about()));
            return;
        };
        event.seen = true;
        let mut is_expected = false;
        for handler in handlers_of(kind).filter(|handler| record.handler.is_none_or(|it| usize::from(it) == *handler)) {
            let attempts = HANDLERS.get(handler).map_or(0, |spec| spec.attempts);
            if self.plan.behaviour(record.event, handler).expected() == Expected::Dead(reason)
                && (reason != dawdle::reason::ATTEMPTS || u32::from(record.attempt) == attempts)
                && let Some(part) = self.slots.get(handler).and_then(|slot| event.parts.get_mut(*slot))
            {
                is_expected = true;
                // A second one is explained by whatever explains a second run.
                event.suspicious |= part.dead;
                part.dead = true;
            }
        }
        if !is_expected {
            self.verdict.unexpected_dead_letters += 1;
            self.verdict.violations.add(|| format!("an unexpected dead letter: {}", about()));
        }
    }

    /// What is missing.
    fn conclude(&mut self) {
        let verdict = &mut self.verdict;
        for (number, event) in (0..).zip(&self.events) {
            match event.sent {
                Sent::Never => {
                    verdict.violations.add(|| format!("event {number} was never signalled by this program"));
                    continue;
                }
                Sent::Confirmed => verdict.confirmed += 1,
                Sent::Unsure | Sent::Intended => verdict.unsure += 1,
                Sent::Refused => verdict.refused += 1,
            }
            verdict.intended += 1;
            if event.sent == Sent::Refused && event.seen {
                verdict
                    .violations
                    .add(|| format!("event {number} is there, and `signal` said for certain that it was not sent"));
            }
            if event.sent != Sent::Confirmed && !event.seen {
                continue;
            }
            let mut is_lost = false;
            for handler in handlers_of(self.plan.kind(number)) {
                let Some(part) = self.slots.get(handler).and_then(|slot| event.parts.get(*slot)) else { continue };
                let behaviour = self.plan.behaviour(number, handler);
                let is_there = match behaviour.expected() {
                    Expected::Success => part.ended,
                    Expected::Discarded => part.discarded,
                    Expected::Dead(_) => part.dead,
                };
                if !is_there {
                    is_lost = true;
                    verdict.violations.add(|| {
                        let seen = if event.seen { "seen" } else { "never seen" };
                        format!(
                            "missing: event {number} ({:?}, {seen}) did not come to its end in {}: {behaviour:?}, attempts begun {:#b}",
                            event.sent,
                            name(handler),
                            part.attempts
                        )
                    });
                }
            }
            verdict.lost += u64::from(is_lost);
        }
    }
}

/// All that is known of one event.
struct Story<'a> {
    event: u64,
    plan: &'a Plan,
    /// In the order of time, each with its process.
    records: &'a [(Record, u32)],
    pasts: &'a HashMap<u32, &'a Past>,
    twice: &'a Windows,
}

/// One run, put together from its beginning and its end.
#[derive(Clone, Copy)]
struct Run {
    process: u32,
    attempt: u16,
    begun: u64,
    /// How it ended, if it did.
    end: Option<What>,
}

impl Story<'_> {
    fn judge(&self, verdict: &mut Verdict) {
        for handler in handlers_of(self.plan.kind(self.event)) {
            let runs = self.runs(handler);
            for (at, run) in runs.iter().enumerate() {
                let before = runs.iter().take(at);
                let is_over = |end: Option<What>| matches!(end, Some(What::Succeeded | What::Discarded | What::GaveUp));
                let repeats = |other: &Run| {
                    other.attempt == run.attempt && other.end != Some(What::Snoozed) && other.begun < run.begun
                };
                if !before.clone().any(|other| is_over(other.end) || repeats(other)) {
                    continue;
                }
                let is_cut_off = |other: &Run| {
                    let stopped = self.pasts.get(&other.process).and_then(|past| past.stopped);
                    other.end.is_none() && stopped.is_some_and(|stopped| stopped <= run.begun)
                };
                let by_a_stop = !before.clone().any(|other| is_over(other.end)) && before.clone().any(is_cut_off);
                let why = by_a_stop.then_some("stop").or_else(|| self.explains(handler, run.begun));
                match why {
                    Some(why) => *verdict.explained.entry(why).or_default() += 1,
                    None => {
                        verdict.unexplained += 1;
                        verdict.violations.add(|| self.tell(handler, run));
                    }
                }
            }
        }
    }

    fn runs(&self, handler: usize) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (record, process) in self.records {
            let end = match record.what {
                What::Begun => None,
                what @ (What::Succeeded | What::Failed | What::Snoozed | What::Discarded | What::GaveUp) => Some(what),
                _ => continue,
            };
            if record.handler.map(usize::from) != Some(handler) {
                continue;
            }
            let same =
                |run: &&mut Run| run.begun == record.at && run.process == *process && run.attempt == record.attempt;
            match runs.iter_mut().find(same) {
                Some(run) => run.end = end.or(run.end),
                None => runs.push(Run { process: *process, attempt: record.attempt, begun: record.at, end }),
            }
        }
        runs
    }

    /// What happened before `time` to a message that stands for this handler's part.
    fn explains(&self, handler: usize, time: u64) -> Option<&'static str> {
        let stands_for = |record: &Record| record.handler.is_none_or(|it| usize::from(it) == handler);
        let before = || self.records.iter().filter(|(record, _)| record.at <= time && stands_for(record));
        for (record, _) in before() {
            match record.what {
                What::AckUnsure => return Some("ack without an answer"),
                What::ExtendFailed => return Some("lease not extended"),
                What::SendUnsure => return Some("send without an answer"),
                _ => {}
            }
        }
        for (received, process) in before().filter(|(record, _)| record.what == What::Received) {
            let Some(Past { end, ended, .. }) = self.pasts.get(process) else { continue };
            let is_acked = |(record, it): &(Record, u32)| {
                record.what == What::Acked
                    && it == process
                    && record.extra == received.extra
                    && record.at >= received.at
            };
            if *end != End::Exited && *ended <= time && !self.records.iter().any(is_acked) {
                return Some(if *end == End::Killed { "kill" } else { "abort" });
            }
            let again = |(record, _): &(Record, u32)| {
                record.what == What::Received && record.extra == received.extra && record.at > received.at
            };
            let first = if received.attempt > 1 { self.start() } else { received.at };
            let in_a_window = |(from, to): &(u64, u64)| *from <= time && to.saturating_add(ANSWERING) >= first;
            if before().any(again) && self.twice.iter().any(in_a_window) {
                return Some("delivered twice by the queue");
            }
        }
        None
    }

    /// When the first thing is on file.
    fn start(&self) -> u64 {
        self.records.first().map_or(0, |(record, _)| record.at)
    }

    fn tell(&self, handler: usize, run: &Run) -> String {
        let start = self.start();
        let story: Vec<String> = self
            .records
            .iter()
            .take(24)
            .map(|(record, process)| {
                format!(
                    "\n      +{:.3} s  process {process}  {:?} {} attempt {} of {:x}",
                    (record.at - start) as f64 / 1e6,
                    record.what,
                    record.handler.map_or("*", |handler| name(usize::from(handler))),
                    record.attempt,
                    record.extra,
                )
            })
            .collect();
        format!(
            "run again without a reason: event {} in {}, attempt {}, on process {}, +{:.3} s{}",
            self.event,
            name(handler),
            run.attempt,
            run.process,
            (run.begun - start) as f64 / 1e6,
            story.concat()
        )
    }
}

fn name(handler: usize) -> &'static str {
    HANDLERS.get(handler).map_or("?", |spec| spec.name)
}

const REASONS: [&str; 4] = [dawdle::reason::ATTEMPTS, GIVEN_UP, dawdle::reason::POISON, "another"];

/// The number under which a reason is written down.
pub(crate) fn number_of_reason(reason: &str) -> u64 {
    (0..).zip(REASONS).find(|(_, known)| *known == reason).map_or(REASONS.len() as u64 - 1, |(number, _)| number)
}

fn reason_of(number: u64) -> &'static str {
    usize::try_from(number).ok().and_then(|number| REASONS.get(number).copied()).unwrap_or("another")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;
    use crate::plan::{Behaviour, PLAIN};

    const SENDER: u32 = 1;
    const FIRST: u32 = 2;
    const SECOND: u32 = 3;

    /// A run of one event, of a kind with one handler that succeeds at once.
    fn plan() -> Plan {
        let plan = |seed| Plan {
            seed,
            events: 1,
            rate: 1.0,
            max_delay_ms: 0,
            visibility_secs: 10,
            max_receives: 8,
            clock_ahead_ms: 0,
            poison: false,
        };
        let is_plain = |plan: &Plan| plan.kind(0) == 0 && plan.behaviour(0, PLAIN) == Behaviour::Succeed;
        (0..).map(plan).find(is_plain).unwrap()
    }

    fn record(what: What, at: u64, extra: u64) -> Record {
        let of_a_run = matches!(what, What::Succeeded);
        Record { what, handler: of_a_run.then_some(PLAIN as u8), attempt: 1, event: 0, at, extra }
    }

    /// The event is signalled, due at one second; the first node's and the second's records follow.
    fn verdict(first: &[Record], end: End, second: &[Record]) -> Verdict {
        verdict_where_twice(first, end, second, Windows::new())
    }

    fn verdict_where_twice(first: &[Record], end: End, second: &[Record], twice: Windows) -> Verdict {
        let folder = tempfile::tempdir().unwrap();
        let sent = [record(What::Intended, 0, 1_000_000), record(What::Confirmed, 0, 1_000_000)];
        let of = |number, records: &[Record], end| {
            let ledger = ledger::path(folder.path(), number);
            Ledger::open(&ledger, 0).unwrap().write(records);
            Past { number, ledger, is_sender: number == SENDER, end, stopped: None, ended: 3_000_000 }
        };
        let pasts = [of(SENDER, &sent, End::Exited), of(FIRST, first, end), of(SECOND, second, End::Exited)];
        judge(&plan(), &pasts, &folder.path().join("dead.ledger"), &twice).unwrap()
    }

    fn run_at(at: u64) -> [Record; 2] {
        [record(What::Received, at, 7), record(What::Succeeded, at, at + 1)]
    }

    const AFTER: u64 = 4_000_000;

    #[test]
    fn an_event_that_never_ran_is_lost_and_one_that_ran_before_it_was_due_is_early() {
        let lost = verdict(&[], End::Exited, &[]);
        assert_eq!((lost.lost, lost.early, lost.violations.count), (1, 0, 1));
        let early = verdict(&run_at(900_000), End::Exited, &[]);
        assert_eq!((early.lost, early.early, early.violations.count), (0, 1, 1));
        let well = verdict(&run_at(1_000_000), End::Exited, &[]);
        assert_eq!((well.runs, well.violations.count), (1, 0));
    }

    #[test]
    fn a_second_run_is_explained_by_the_death_of_the_node_that_had_it_and_by_nothing_less() {
        let unexplained = verdict(&run_at(1_000_000), End::Exited, &run_at(AFTER));
        assert_eq!((unexplained.unexplained, unexplained.violations.count), (1, 1));
        let killed = verdict(&run_at(1_000_000), End::Killed, &run_at(AFTER));
        assert_eq!((killed.explained.get("kill"), killed.violations.count), (Some(&1), 0));
        let too_early = verdict(&run_at(1_000_000), End::Killed, &run_at(2_000_000));
        assert_eq!(too_early.unexplained, 1, "it began before the kill");
        let mut acked = run_at(1_000_000).to_vec();
        acked.push(record(What::Acked, 1_100_000, 7));
        assert_eq!(verdict(&acked, End::Killed, &run_at(AFTER)).unexplained, 1, "the ack was confirmed");
    }

    #[test]
    fn an_answer_that_was_lost_explains_a_second_run() {
        for what in [What::AckUnsure, What::ExtendFailed, What::SendUnsure] {
            let mut first = run_at(1_000_000).to_vec();
            first.push(record(what, 1_100_000, 7));
            let verdict = verdict(&first, End::Exited, &run_at(AFTER));
            assert_eq!((verdict.explained.len(), verdict.violations.count), (1, 0), "{what:?}");
        }
    }

    #[test]
    fn a_message_that_comes_twice_is_explained_by_the_faults_since_its_first_receive() {
        let received_again = |count| {
            let mut first = run_at(12_000_000).to_vec();
            first[0].attempt = count;
            first.push(record(What::Acked, 12_100_000, 7));
            verdict_where_twice(&first, End::Exited, &run_at(13_000_000), vec![(2_000_000, 3_000_000)])
        };
        let after_all_faults = received_again(1);
        assert_eq!((after_all_faults.unexplained, after_all_faults.violations.count), (1, 1));
        let answer_lost = received_again(2);
        assert_eq!((answer_lost.explained.get("delivered twice by the queue"), answer_lost.unexplained), (Some(&1), 0));
    }
}
