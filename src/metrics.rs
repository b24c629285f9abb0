#![doc = include_str!("metrics.md")]

use std::sync::Arc;
use std::time::Duration;

use ::metrics::{
    Counter, Gauge, Histogram, SharedString, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use crate::backend::{Lane, LaneStats, Usage};
use crate::event;
use crate::reason;
use crate::registry::HandlerInfo;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Type {
    /// Only grows, while the process lives.
    Counter,
    /// What is so now.
    Gauge,
    /// How values are spread.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Type,
    /// What it counts or measures in.
    pub unit: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident $name:literal $kind:ident $unit:literal [$($label:literal),*] $help:literal;)*) => {
        $(const $constant: &str = $name;)*

        /// Every metric that there is.
        pub const ALL: &[Metric] = &[$(Metric {
            name: $name,
            kind: Type::$kind,
            unit: $unit,
            labels: &[$($label),*],
            help: $help,
        }),*];
    };
}

metrics! {
    SIGNALLED "dawdle_signalled_total" Counter "events" ["kind", "due"]
        "Events that were signalled: durable, or in the buffer of `.buffered()`, or begun by `.direct()`; `due` is `now`, or `later` for those with a delay or a time";
    RECEIVED "dawdle_received_total" Counter "messages" ["queue"]
        "Messages that were received";
    HANDLED "dawdle_handled_total" Counter "runs" ["kind", "handler", "outcome"]
        "Runs of handlers that have ended; `outcome` is `ok`, `retry`, `snooze`, `discard`, `dead_letter`, `timeout` or `panic`";
    RETRIED "dawdle_retried_total" Counter "runs" ["kind", "handler"]
        "Failed runs that are tried again";
    DEAD_LETTERED "dawdle_dead_lettered_total" Counter "events" ["kind", "handler", "reason"]
        "Events that became dead letters; `reason` is one of Dawdle's, or `handler`";
    HANDLER_SECONDS "dawdle_handler_seconds" Histogram "seconds" ["kind", "handler"]
        "How long runs took";
    LAG_SECONDS "dawdle_start_lag_seconds" Histogram "seconds" ["kind", "handler"]
        "From when an event was due, or signalled, until a run of it began; for a retry, from when that was due";
    END_TO_END_SECONDS "dawdle_end_to_end_seconds" Histogram "seconds" ["kind", "handler"]
        "The same until a run of it succeeded";
    BATCH_ENTRIES "dawdle_batch_entries" Histogram "entries" ["queue", "action"]
        "Entries of one request; `action` is `send`, `receive` or `settle`";
    RUNNING "dawdle_handlers_running" Gauge "runs" []
        "Handlers that run now";
    PERMITS_FREE "dawdle_permits_free" Gauge "permits" []
        "How many more handlers could begin now";
    CONCURRENCY "dawdle_concurrency" Gauge "permits" []
        "How many handlers may run at once";
    IN_FLIGHT "dawdle_messages_in_flight" Gauge "messages" []
        "Messages that this node has received and not settled";
    SEND_BUFFER "dawdle_send_buffer_events" Gauge "events" []
        "Events that wait to be sent, out of `send_buffer`";
    EXTENDED "dawdle_lease_extensions_total" Counter "messages" ["queue"]
        "Leases that were extended";
    LEASES_LOST "dawdle_leases_lost_total" Counter "messages" ["queue"]
        "Leases that ended while their messages were worked on";
    ACK_FAILURES "dawdle_ack_failures_total" Counter "messages" ["queue"]
        "Acks that failed, each try of them";
    REQUESTS "dawdle_requests_total" Counter "requests" ["action"]
        "Requests made of the queues, as `dawdle.usage()` counts them";
    BILLED "dawdle_billed_units_total" Counter "requests" []
        "What SQS bills for them";
    QUEUE_MESSAGES "dawdle_queue_messages" Gauge "messages" ["queue", "state"]
        "Messages on the local file; `state` is `visible`, `in_flight` or `delayed`. Not asked of SQS: CloudWatch has it";
    OLDEST_SECONDS "dawdle_queue_oldest_seconds" Gauge "seconds" ["queue"]
        "For how long the oldest on the local file has waited to be received, delayed ones left out; of `dead`, its age";
}

/// Tells the recorder what each metric says. Done at each start; a recorder that is installed later is told
/// by calling this.
pub fn describe() {
    for metric in ALL {
        // The facade has units of measure, and one for whatever is counted.
        let unit = if metric.unit == "seconds" { Unit::Seconds } else { Unit::Count };
        match metric.kind {
            Type::Counter => describe_counter!(metric.name, unit, metric.help),
            Type::Gauge => describe_gauge!(metric.name, unit, metric.help),
            Type::Histogram => describe_histogram!(metric.name, unit, metric.help),
        }
    }
}

/// How runs end.
const OUTCOMES: [&str; 7] = ["ok", "retry", "snooze", "discard", "dead_letter", "timeout", "panic"];

/// Why an event dies whatever handler it was for, and why it dies of one.
const ANYWHERE: [&str; 4] = [reason::EXPIRED, reason::UNHANDLED, reason::POISON, reason::UNSENDABLE];
const OF_A_HANDLER: [&str; 2] = [reason::ATTEMPTS, "handler"];

/// Makes the counters that alerts watch, at zero, when a listener starts: one that came only with the first event
/// would come with all that happened until then, and nobody would see it grow. A handler of every kind gets none,
/// since there may be any number of kinds.
pub(crate) fn listening(lanes: impl Iterator<Item = Lane>, handlers: &[HandlerInfo]) {
    for lane in lanes {
        for name in [RECEIVED, EXTENDED, LEASES_LOST, ACK_FAILURES] {
            counter!(name, "queue" => lane.name()).increment(0);
        }
    }
    let died = |kind: &'static str, handler: SharedString, why: &'static str| {
        counter!(DEAD_LETTERED, "kind" => kind, "handler" => handler, "reason" => why).increment(0);
    };
    let no_handler = SharedString::const_str("");
    for why in ANYWHERE.into_iter().chain([reason::UNDECODABLE]) {
        died("unknown", no_handler.clone(), why);
    }
    for HandlerInfo { name, kind, .. } in handlers {
        let &Some(kind) = kind else { continue };
        let handler = SharedString::from_owned(name.clone());
        for outcome in OUTCOMES {
            counter!(HANDLED, "kind" => kind, "handler" => handler.clone(), "outcome" => outcome).increment(0);
        }
        counter!(RETRIED, "kind" => kind, "handler" => handler.clone()).increment(0);
        for why in ANYWHERE {
            died(kind, no_handler.clone(), why);
            died(kind, handler.clone(), why);
        }
        for why in OF_A_HANDLER {
            died(kind, handler.clone(), why);
        }
    }
}

/// The label of a kind: other programs can put any number of kinds on a queue.
fn kind_label(kind: &str) -> &'static str {
    event::canonical_kind(kind).unwrap_or("unknown")
}

fn handler_label(handler: &Arc<str>) -> SharedString {
    SharedString::from_shared(Arc::clone(handler))
}

pub(crate) fn signalled(kind: &str, later: bool, events: usize) {
    let due = if later { "later" } else { "now" };
    counter!(SIGNALLED, "kind" => kind_label(kind), "due" => due).increment(events as u64);
}

pub(crate) fn received(lane: Lane, messages: usize) {
    counter!(RECEIVED, "queue" => lane.name()).increment(messages as u64);
    batch(lane, "receive", messages);
}

pub(crate) fn batch(lane: Lane, action: &'static str, entries: usize) {
    histogram!(BATCH_ENTRIES, "queue" => lane.name(), "action" => action).record(entries as f64);
}

/// What is measured of each run of a handler with events of one kind: found once, used for every run.
#[derive(Clone)]
pub(crate) struct Meters {
    kind: &'static str,
    handler: SharedString,
    running: Gauge,
    lag: Histogram,
    seconds: Histogram,
    end_to_end: Histogram,
    ok: Counter,
}

impl Meters {
    pub(crate) fn new(kind: &str, handler: &Arc<str>) -> Self {
        let (kind, handler) = (kind_label(kind), handler_label(handler));
        Meters {
            running: gauge!(RUNNING),
            lag: histogram!(LAG_SECONDS, "kind" => kind, "handler" => handler.clone()),
            seconds: histogram!(HANDLER_SECONDS, "kind" => kind, "handler" => handler.clone()),
            end_to_end: histogram!(END_TO_END_SECONDS, "kind" => kind, "handler" => handler.clone()),
            ok: counter!(HANDLED, "kind" => kind, "handler" => handler.clone(), "outcome" => "ok"),
            kind,
            handler,
        }
    }

    /// The events' kind.
    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    /// Counts a run that begins so long after it was due; it runs until this is dropped.
    pub(crate) fn begin(&self, lag: Duration) -> Running<'_> {
        self.running.increment(1.0);
        self.lag.record(lag);
        Running(self)
    }
}

/// A handler that runs, until it is dropped.
pub(crate) struct Running<'a>(&'a Meters);

impl Running<'_> {
    pub(crate) fn ended(&self, outcome: &'static str, took: Duration, since_due: Duration) {
        let Running(Meters { kind, handler, seconds, end_to_end, ok, .. }) = self;
        seconds.record(took);
        if outcome == "ok" {
            ok.increment(1);
            end_to_end.record(since_due);
        } else {
            counter!(HANDLED, "kind" => *kind, "handler" => handler.clone(), "outcome" => outcome).increment(1);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.decrement(1.0);
    }
}

pub(crate) fn retried(kind: &str, handler: &Arc<str>) {
    counter!(RETRIED, "kind" => kind_label(kind), "handler" => handler_label(handler)).increment(1);
}

/// `handler` is the one it died of, if any; one that is not linked in has no label of its own.
pub(crate) fn dead_lettered(kind: &str, handler: Option<Arc<str>>, why: &str) {
    let why = reason::ALL.into_iter().find(|known| *known == why).unwrap_or("handler");
    let handler = handler.as_ref().map_or(SharedString::const_str(""), handler_label);
    counter!(DEAD_LETTERED, "kind" => kind_label(kind), "handler" => handler, "reason" => why).increment(1);
}

pub(crate) fn leases_extended(lane: Lane, leases: usize) {
    counter!(EXTENDED, "queue" => lane.name()).increment(leases as u64);
}

pub(crate) fn lease_lost(lane: Lane) {
    counter!(LEASES_LOST, "queue" => lane.name()).increment(1);
}

pub(crate) fn ack_failed(lane: Lane) {
    counter!(ACK_FAILURES, "queue" => lane.name()).increment(1);
}

/// What a node has and is now.
pub(crate) struct Sample {
    pub(crate) concurrency: usize,
    pub(crate) permits_free: usize,
    pub(crate) in_flight: usize,
    pub(crate) send_buffer: usize,
    pub(crate) usage: Usage,
}

pub(crate) fn sampled(sample: &Sample) {
    gauge!(CONCURRENCY).set(sample.concurrency as f64);
    gauge!(PERMITS_FREE).set(sample.permits_free as f64);
    gauge!(IN_FLIGHT).set(sample.in_flight as f64);
    gauge!(SEND_BUFFER).set(sample.send_buffer as f64);
    let usage = sample.usage;
    for (action, requests) in [
        ("send", usage.send),
        ("receive", usage.receive),
        ("empty_receive", usage.empty_receives),
        ("delete", usage.delete),
        ("change_visibility", usage.change_visibility),
        ("get_attributes", usage.get_attributes),
        ("get_url", usage.get_url),
    ] {
        counter!(REQUESTS, "action" => action).absolute(requests);
    }
    counter!(BILLED).absolute(usage.billed);
}

pub(crate) fn counted(lane: Lane, stats: &LaneStats) {
    for (state, messages) in [("visible", stats.visible), ("in_flight", stats.in_flight), ("delayed", stats.delayed)] {
        gauge!(QUEUE_MESSAGES, "queue" => lane.name(), "state" => state).set(messages as f64);
    }
    gauge!(OLDEST_SECONDS, "queue" => lane.name()).set(stats.oldest.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_documentation_is_that_of_the_code() {
        let row = |metric: &Metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let kind = format!("{:?}", metric.kind).to_lowercase();
            format!("| `{}` | {kind} | {} | {} | {} |", metric.name, metric.unit, labels.join(", "), metric.help)
        };
        let rows: Vec<String> = ALL.iter().map(row).collect();
        let documented: Vec<&str> =
            include_str!("metrics.md").lines().filter(|line| line.starts_with("| `dawdle_")).collect();
        assert_eq!(documented, rows, "the rows are to be:\n{}", rows.join("\n"));
    }
}
