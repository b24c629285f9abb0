//! What the ledgers prove.
//!
//! The first reading goes through every record and keeps a few bytes for each event. The second
//! keeps the whole story of those events only that ran more often than they had to, and asks of each
//! such run whether something explains it.
//!
//! A run of a handler is *one too many* when an earlier run of it succeeded (or discarded, or gave
//! up), or was the same attempt. It needs an excuse, and an excuse is spent by one such run of each attempt. These
//! are what excuses there were before it began, each about a message that stands for this event and this handler:
//! - The message was received again, and before that one of these happened to it: a process that had received
//!   it was killed, or aborted itself, before the queue confirmed its ack; its ack was answered by an error, or by
//!   nothing; an extension of its lease was answered by an error, or by nothing. It is no excuse once the
//!   queue has confirmed the ack of its latest receive: what comes again then was not deleted.
//! - The message was received again, and a process that had been told to stop came to its end with it in hand, while
//!   the queue left calls of that process without an answer: a stop is bounded in time, and leaves what it cannot write.
//! - The message was received again from the delay queue, where leases are not extended, and its lease had run out.
//! - The message was received again, and the endpoint says that it delivered this one twice on purpose.
//! - It was sent, and the answer to that was lost: there may be two of it.
//!
//! A run that has the attempt of an earlier one is explained, too, when that one did not end and its
//! process had been told to stop: what a stop cuts off goes to another node, and spends no attempt; each run that was
//! cut off is an excuse for one. And so is the first
//! run of the next attempt when the earlier one came to its end after its timeout: nobody heard of that end.
//!
//! So with neither kills nor faults every run that is one too many is a violation.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::ledger::{self, Record, What};
use crate::plan::{Expected, GIVEN_UP, HANDLERS, MOST_HANDLERS, Plan, handlers_of};
use crate::process::End;

/// How long an answer may be on its way: a message that was received before it was deleted may be on file as
/// received so much later, in microseconds.
const ANSWERING: u64 = 3_000_000;

/// The excuse of a run whose message the endpoint delivered twice on purpose.
pub(crate) const DELIVERED_TWICE: &str = "delivered twice by the queue";

/// How long the handlers may take, but for the one that outlives its leases and never comes near its timeout; in
/// microseconds.
const TIMEOUT: u64 = 2_000_000;

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

/// The messages that the endpoint says it has delivered twice on purpose.
pub(crate) type Twice = HashSet<u64>;

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
    /// Messages that were parked on the delay queue, forwarded from it, and sent there afresh.
    pub(crate) hops: [u64; 3],
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
    /// In microseconds.
    most: u64,
}

impl Default for Lateness {
    fn default() -> Self {
        Lateness { buckets: vec![0; 256], count: 0, most: 0 }
    }
}

impl Lateness {
    pub(crate) fn add(&mut self, micros: u64) {
        let bucket = ((micros.max(1) as f64).log2() * 6.0) as usize;
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            *bucket += 1;
            self.count += 1;
        }
        self.most = self.most.max(micros);
    }

    /// The greatest.
    pub(crate) fn most(&self) -> Duration {
        Duration::from_micros(self.most)
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
    /// When the first run began; 0 where none did.
    first: u64,
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
pub(crate) fn judge(plan: &Plan, processes: &[Past], dead: &Path, twice: &Twice) -> Result<Verdict> {
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
    let mut hampered = HashSet::new();
    let suspects = (0..).zip(&events).filter(|(_, event)| event.suspicious);
    stories.extend(suspects.map(|(number, _)| (number, Vec::new())));
    drop(events);
    for past in processes {
        for record in records(&past.ledger)? {
            let record = record?;
            let is_unanswered = matches!(record.what, What::AckUnsure | What::SendUnsure | What::ExtendFailed);
            if is_unanswered && past.stopped.is_some_and(|stopped| stopped <= record.at) {
                hampered.insert(past.number);
            }
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
        Story { event, plan, records: &records, pasts: &pasts, twice, hampered: &hampered }.judge(&mut verdict);
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
            What::Received | What::Found => event.seen = true,
            What::Acked
            | What::AckUnsure
            | What::ExtendFailed
            | What::SendUnsure
            | What::Released
            | What::Dead
            | What::Spent => {}
            What::Parked => self.verdict.hops[0] += 1,
            What::Forwarded => self.verdict.hops[1] += 1,
            What::Renewed => self.verdict.hops[2] += 1,
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
            part.first = if part.first == 0 { record.at } else { part.first.min(record.at) };
            let again = part.attempts & bit != 0 && record.what != What::Snoozed;
            let over = part.ended || part.discarded || part.gave_up;
            // A last snooze and the success after it are the same attempt.
            let snoozes = self.plan.behaviour(record.event, handler) == crate::plan::Behaviour::Snooze;
            event.suspicious |= over || (again && !snoozes);
            part.attempts |= bit;
            if record.at + self.plan.tolerance() < event.due {
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
            for part in event.parts.iter().filter(|part| part.first > 0) {
                verdict.late.add(part.first.saturating_sub(event.due));
            }
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
    twice: &'a Twice,
    /// The processes of which calls were left without an answer after they had been told to stop.
    hampered: &'a HashSet<u32>,
}

/// One run, put together from its beginning and its end.
#[derive(Clone, Copy)]
struct Run {
    process: u32,
    attempt: u16,
    begun: u64,
    /// How it ended, if it did, and when.
    end: Option<What>,
    ended: u64,
}

impl Story<'_> {
    fn judge(&self, verdict: &mut Verdict) {
        for handler in handlers_of(self.plan.kind(self.event)) {
            let runs = self.runs(handler);
            // How many of each attempt have spent an excuse.
            let mut spent: HashMap<u16, usize> = HashMap::new();
            for (at, run) in runs.iter().enumerate() {
                let before = runs.iter().take(at);
                let is_over = |end: Option<What>| matches!(end, Some(What::Succeeded | What::Discarded | What::GaveUp));
                let repeats = |other: &Run| {
                    other.attempt == run.attempt && other.end != Some(What::Snoozed) && other.begun < run.begun
                };
                if !before.clone().any(|other| is_over(other.end) || repeats(other)) {
                    continue;
                }
                let is_cut_off = |other: &&Run| {
                    let stopped = self.pasts.get(&other.process).and_then(|past| past.stopped);
                    let same = other.attempt == run.attempt && other.end.is_none();
                    same && stopped.is_some_and(|stopped| stopped <= run.begun)
                };
                let cut_off = before.clone().filter(is_cut_off).map(|_| "stop");
                let timed_out = |other: &Run| other.attempt + 1 == run.attempt && self.is_over_time(handler, other);
                let by_a_timeout =
                    !before.clone().any(|other| other.attempt == run.attempt) && before.clone().any(timed_out);
                let why = by_a_timeout.then_some("timeout").or_else(|| {
                    let spent = spent.entry(run.attempt).or_default();
                    let excuse = self.excuses(handler, run.begun).into_iter().chain(cut_off).nth(*spent);
                    // A snooze spends no attempt: the next run has the same.
                    *spent += usize::from(run.end != Some(What::Snoozed));
                    excuse
                });
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
                Some(run) => (run.end, run.ended) = (end.or(run.end), record.extra),
                None => {
                    let (attempt, begun, ended) = (record.attempt, record.at, record.extra);
                    runs.push(Run { process: *process, attempt, begun, end, ended });
                }
            }
        }
        runs
    }

    /// Whether a run came to its end after its timeout, which counts from its message's receive at the earliest.
    fn is_over_time(&self, handler: usize, run: &Run) -> bool {
        let stands_for = |record: &Record| record.handler.is_none_or(|it| usize::from(it) == handler);
        let received = self.records.iter().rfind(|(record, process)| {
            record.what == What::Received && *process == run.process && record.at <= run.begun && stands_for(record)
        });
        received.is_some_and(|(record, _)| run.ended >= record.at + TIMEOUT)
    }

    /// What may have let a handler's part be done once more before `time`: an entry for each time.
    fn excuses(&self, handler: usize, time: u64) -> Vec<&'static str> {
        let stands_for = |record: &Record| record.handler.is_none_or(|it| usize::from(it) == handler);
        let before: Vec<&(Record, u32)> =
            self.records.iter().filter(|(record, _)| record.at <= time && stands_for(record)).collect();
        let excuse = |(at, (record, _)): (usize, &&(Record, u32))| match record.what {
            What::SendUnsure => Some("send without an answer"),
            What::Received | What::Found => self.why_again(record, before.get(..at)?, time),
            _ => None,
        };
        before.iter().enumerate().filter_map(excuse).collect()
    }

    /// Why a message was received again before `time`: `None` if it was not, or nothing says why.
    fn why_again(&self, received: &Record, before: &[&(Record, u32)], time: u64) -> Option<&'static str> {
        let is_about = |record: &Record| {
            let is_of_a_message = matches!(
                record.what,
                What::Received | What::Found | What::Acked | What::AckUnsure | What::ExtendFailed | What::Released
            );
            is_of_a_message && record.extra == received.extra
        };
        let same: Vec<&(Record, u32)> = before.iter().copied().filter(|(record, _)| is_about(record)).collect();
        let receives = || same.iter().filter(|(record, _)| matches!(record.what, What::Received | What::Found));
        // Where its first receive was never answered, it is not on file, and nobody has worked on it.
        receives().next()?;
        if self.twice.contains(&received.extra) {
            return Some(DELIVERED_TWICE);
        }
        let acks = same.iter().filter(|(record, _)| record.what == What::Acked);
        for (ack, by) in acks.filter(|(ack, _)| ack.at.saturating_add(ANSWERING) <= received.at) {
            // An ack of an older receive than the latest deletes nothing.
            let acked = receives().rfind(|(record, process)| process == by && record.at <= ack.at);
            if acked.is_some_and(|(record, _)| record.attempt + 1 == received.attempt) {
                return None;
            }
        }
        same.iter().find_map(|(record, process)| match record.what {
            What::AckUnsure => Some("ack without an answer"),
            What::ExtendFailed => Some("lease not extended"),
            What::Found if received.at + ANSWERING >= record.at + self.plan.visibility_secs * 1_000_000 => {
                Some("held for too long on the delay queue")
            }
            What::Received | What::Found => {
                let Past { end, ended, stopped, .. } = self.pasts.get(process)?;
                let has =
                    |what| same.iter().any(|(other, by)| other.what == what && by == process && other.at >= record.at);
                if *ended > time || has(What::Acked) {
                    return None;
                }
                let left = stopped.is_some() && self.hampered.contains(process) && !has(What::Released);
                match end {
                    End::Killed => Some("kill"),
                    End::Exited => left.then_some("stop"),
                    End::Aborted => Some("abort"),
                }
            }
            _ => None,
        })
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
        verdict_where_twice(first, end, second, Twice::new())
    }

    fn verdict_where_twice(first: &[Record], end: End, second: &[Record], twice: Twice) -> Verdict {
        verdict_where(first, end, None, second, twice)
    }

    /// The first node is told to stop, and comes to its end.
    fn verdict_of_a_stop(first: &[Record], second: &[Record]) -> Verdict {
        verdict_where(first, End::Exited, Some(2_000_000), second, Twice::new())
    }

    fn verdict_where(first: &[Record], end: End, stopped: Option<u64>, second: &[Record], twice: Twice) -> Verdict {
        let folder = tempfile::tempdir().unwrap();
        let sent = [record(What::Intended, 0, 1_000_000), record(What::Confirmed, 0, 1_000_000)];
        let of = |number, records: &[Record], end, stopped| {
            let ledger = ledger::path(folder.path(), number);
            Ledger::open(&ledger, 0).unwrap().write(records);
            Past { number, ledger, is_sender: number == SENDER, end, stopped, ended: 3_000_000 }
        };
        let pasts = [
            of(SENDER, &sent, End::Exited, None),
            of(FIRST, first, end, stopped),
            of(SECOND, second, End::Exited, None),
        ];
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
    fn what_a_stop_leaves_in_hand_explains_a_second_run_only_where_the_queue_did_not_answer_it() {
        let mut first = run_at(1_000_000).to_vec();
        assert_eq!(verdict_of_a_stop(&first, &run_at(AFTER)).unexplained, 1, "all its calls were answered");
        // Of another message.
        first.push(record(What::AckUnsure, 1_900_000, 8));
        assert_eq!(verdict_of_a_stop(&first, &run_at(AFTER)).unexplained, 1, "that was before the stop");
        first.push(record(What::AckUnsure, 2_100_000, 8));
        let left = verdict_of_a_stop(&first, &run_at(AFTER));
        assert_eq!((left.explained.get("stop"), left.unexplained), (Some(&1), 0));
        assert_eq!(verdict_of_a_stop(&first, &run_at(2_500_000)).unexplained, 1, "it had not come to its end");
        for settled in [What::Acked, What::Released] {
            let mut first = first.clone();
            first.push(record(settled, 2_200_000, 7));
            assert_eq!(verdict_of_a_stop(&first, &run_at(AFTER)).unexplained, 1, "{settled:?}");
        }
    }

    #[test]
    fn a_run_that_a_stop_cuts_off_explains_one_more_of_its_attempt() {
        let mut earlier = run_at(1_000_000).to_vec();
        earlier.push(record(What::AckUnsure, 1_100_000, 7));
        let begun = |at| Record { what: What::Begun, handler: Some(PLAIN as u8), ..record(What::Received, at, 0) };
        // It runs once more on the node that is told to stop, is cut off, and goes to another.
        let once_more = [record(What::Received, 1_500_000, 7), begun(1_500_000)];
        let first: Vec<_> = earlier.iter().chain(&once_more).copied().collect();
        let mut second = run_at(AFTER);
        second[0].extra = 8;
        let cut_off = verdict_of_a_stop(&first, &second);
        let explained = ["ack without an answer", "stop"].map(|why| cut_off.explained.get(why));
        assert_eq!((explained, cut_off.unexplained), ([Some(&1), Some(&1)], 0));
        assert_eq!(verdict(&first, End::Exited, &second).unexplained, 1, "nobody told it to stop");
        let mut third = second.to_vec();
        third.push(record(What::Succeeded, AFTER + 1, AFTER + 2));
        assert_eq!(verdict_of_a_stop(&first, &third).unexplained, 1, "two runs for one that was cut off");
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
    fn an_excuse_ends_with_the_confirmed_ack_of_its_message() {
        let mut first = run_at(1_000_000).to_vec();
        first.push(record(What::AckUnsure, 1_100_000, 7));
        first.push(record(What::Acked, 1_200_000, 7));
        let again = |received: u64, count: u16| {
            let mut second = run_at(received);
            second[0].attempt = count;
            verdict(&first, End::Exited, &second)
        };
        let deleted = again(8_000_000, 2);
        assert_eq!((deleted.unexplained, deleted.violations.count), (1, 1));
        assert_eq!(again(2_000_000, 2).unexplained, 0, "it was received before its ack, perhaps");
        assert_eq!(again(8_000_000, 3).unexplained, 0, "a receive without an answer came between: the ack was stale");
    }

    #[test]
    fn an_excuse_is_about_one_message_and_spent_by_one_run() {
        let mut first = run_at(1_000_000).to_vec();
        first.push(record(What::AckUnsure, 1_100_000, 7));
        let mut other = run_at(AFTER);
        other[0].extra = 8;
        assert_eq!(verdict(&first, End::Exited, &other).unexplained, 1, "another message, received for the first time");
        let mut second = run_at(AFTER).to_vec();
        second.push(record(What::Succeeded, AFTER + 1, AFTER + 2));
        let verdict = verdict(&first, End::Exited, &second);
        assert_eq!((verdict.explained.len(), verdict.unexplained), (1, 1), "one receive, and two runs");
    }

    #[test]
    fn a_message_that_comes_twice_is_explained_by_the_endpoints_word() {
        let received_again = |twice| {
            let mut first = run_at(12_000_000).to_vec();
            first.push(record(What::Acked, 12_100_000, 7));
            verdict_where_twice(&first, End::Exited, &run_at(13_000_000), twice)
        };
        let another = received_again(Twice::from([8]));
        assert_eq!((another.unexplained, another.violations.count), (1, 1));
        let twice = received_again(Twice::from([7]));
        assert_eq!((twice.explained.get(DELIVERED_TWICE), twice.unexplained), (Some(&1), 0));
    }

    #[test]
    fn the_lease_of_what_is_found_on_the_delay_queue_runs_out_and_not_before_its_time() {
        let found_again = |at: u64| {
            let hopped = |at: u64, id| {
                [record(What::Found, at, 7), record(What::Received, at, id), record(What::Succeeded, at, at + 1)]
            };
            verdict(&hopped(1_000_000, 8), End::Exited, &hopped(at, 9))
        };
        let in_time = found_again(7_000_000);
        assert_eq!((in_time.unexplained, in_time.violations.count), (1, 1));
        assert_eq!(found_again(11_000_000).explained.get("held for too long on the delay queue"), Some(&1));
    }

    #[test]
    fn nobody_hears_of_an_end_after_the_timeout() {
        let next_attempt = |takes: u64| {
            let mut first = run_at(1_000_000);
            first[1].extra = 1_000_000 + takes;
            let mut second = run_at(AFTER);
            (second[0].extra, second[1].attempt) = (8, 2);
            verdict(&first, End::Exited, &second)
        };
        assert_eq!(next_attempt(2_000_000).explained.get("timeout"), Some(&1));
        assert_eq!(next_attempt(1_000_000).unexplained, 1);
    }

    #[test]
    fn how_late_a_run_is_goes_by_the_first_one_whoever_wrote_it_down_first() {
        let late = |first, second| verdict(&run_at(first), End::Killed, &run_at(second)).late.most();
        assert_eq!(late(9_000_000, 1_500_000), Duration::from_millis(500));
        assert_eq!(late(1_500_000, 9_000_000), Duration::from_millis(500));
    }
}
