//! What a load costs on Amazon SQS, in requests, before it is built: [`estimate`].
//!
//! Measure what it costs in the end with [`Dawdle::usage`](crate::Dawdle::usage).

use std::time::{Duration, SystemTime};

use crate::backend::{BILLING_UNIT, Lane, Limits};
use crate::delay::{self, Hop, Parked};
use crate::settings::Settings;

/// What Dawdle writes around an event's own data, in bytes, about.
const ENVELOPE: usize = 230;

/// How often a node asks an empty queue, in requests a second.
const IDLE_POLLS: f64 = 1.0 / 20.0;

/// A load, described.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// An event's data as JSON, in bytes.
    pub payload_bytes: usize,
    /// How long after its signal an event is due.
    pub delay: Duration,
    /// How many events are signalled at about the same time: by one `signal_all`, by many tasks while
    /// requests are in the air, or within the 50 milliseconds that `.buffered()` gathers. 1 for events that
    /// come alone. A steady rate of `r` events a second and node keeps about `r / 20` together.
    pub together: u32,
    /// Whether they share messages ([`#[event(pack)]`](macro@crate::Event)).
    pub packed: bool,
    /// On a fleet whose nodes run different handlers (`only_handlers`): how many handlers an event has. Each
    /// costs a message of its own. 0 where the node that takes an event runs all of its handlers.
    pub fan_out: u32,
    /// Nodes that listen.
    pub nodes: u32,
    /// Whether there is a delay queue. Without one, long delays chain, 15 minutes at a time.
    pub delay_queue: bool,
}

impl Default for Load {
    /// Events of 200 bytes that come alone and are due at once, on one node with a delay queue.
    fn default() -> Self {
        Load {
            payload_bytes: 200,
            delay: Duration::ZERO,
            together: 1,
            packed: false,
            fan_out: 0,
            nodes: 1,
            delay_queue: true,
        }
    }
}

/// What a [`Load`] costs.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// Requests for one event, from its signal to its ack, without retries; polls that find nothing apart.
    pub requests_per_event: f64,
    /// What SQS bills for one event: requests, and further units of 64 KiB.
    pub billed_per_event: f64,
    /// What all nodes together ask in 30 days while nothing happens.
    pub idle_requests_per_month: f64,
}

/// Estimates what a load costs, with the default settings.
///
/// ```
/// use dawdle::cost::{Load, estimate};
///
/// let alone = estimate(&Load::default());
/// assert_eq!(alone.requests_per_event, 3.0); // send, receive, delete
/// let packed = estimate(&Load { together: 10_000, packed: true, ..Load::default() });
/// assert!(packed.billed_per_event < 0.02);
/// // At 0.40 dollars a million, ten million events a month:
/// println!("{:.2} dollars", 10.0 * packed.billed_per_event * 0.40);
/// ```
pub fn estimate(load: &Load) -> Estimate {
    let settings = Settings::default();
    let limits = Limits { delay_lane: load.delay_queue, ..Limits::sqs() };
    let event_bytes = load.payload_bytes.saturating_add(ENVELOPE);
    let together = f64::from(load.together.max(1));
    let fit = if load.packed { (settings.pack_bytes / event_bytes.max(1)).clamp(1, settings.pack_count) } else { 1 };
    let events_per_message = (fit as f64).min(together);
    let message_bytes = event_bytes as f64 * events_per_message;
    let batch = |messages: f64| {
        let most = (limits.max_batch_bytes as f64 / message_bytes).clamp(1.0, limits.max_batch_entries as f64);
        messages.clamp(1.0, most)
    };
    let mut total =
        Cost::of(&Journey::of(load.delay, &settings, &limits), batch(together / events_per_message), message_bytes)
            .times(1.0 / events_per_message);
    if load.fan_out > 0 {
        let fan_out = f64::from(load.fan_out);
        // Each is written singly, and those of one event go together.
        let single = Cost::of(&Journey::AT_ONCE, batch(together * fan_out), event_bytes as f64);
        total = total.plus(single.times(fan_out));
    }
    let looks = if load.delay_queue { 1.0 / settings.delay_poll.as_secs_f64() } else { 0.0 };
    Estimate {
        requests_per_event: total.requests,
        billed_per_event: total.billed,
        idle_requests_per_month: f64::from(load.nodes) * (IDLE_POLLS + looks) * 30.0 * 86_400.0,
    }
}

/// What is asked for one message on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Journey {
    /// Requests that carry the message: it is billed by its size.
    sends: f64,
    receives: f64,
    /// Those that name it only.
    others: f64,
}

impl Journey {
    /// Sent, received and deleted.
    const AT_ONCE: Journey = Journey { sends: 1.0, receives: 1.0, others: 1.0 };

    /// Hop by hop, each as it would be chosen.
    fn of(delay: Duration, settings: &Settings, limits: &Limits) -> Self {
        let mut journey = Journey::default();
        let start = SystemTime::UNIX_EPOCH;
        let due = start + delay;
        let (mut now, mut enqueued) = (start, start);
        let mut lane = delay::first_lane(now, due, limits);
        loop {
            journey.sends += 1.0;
            now += delay::delay_on(lane, now, due, limits);
            if lane == Lane::Message {
                journey.receives += 1.0;
                journey.others += 1.0;
                if delay::until(now, due) <= delay::HOLD {
                    return journey;
                }
                // A message that chains is received, and sent again.
                continue;
            }
            // Found when the queue is next looked at; parked there as often as it takes.
            lane = loop {
                now += settings.delay_poll / 2;
                journey.receives += 1.0;
                journey.others += 1.0;
                match delay::next_hop(now, Parked { due, enqueued, received: now }, 0, limits) {
                    Hop::Park(span) => now += span,
                    Hop::Renew => break Lane::Delay,
                    Hop::Forward => break Lane::Message,
                }
            };
            enqueued = now;
        }
    }
}

/// Requests, and what is billed for them.
#[derive(Clone, Copy, Debug)]
struct Cost {
    requests: f64,
    billed: f64,
}

impl Cost {
    /// Of one message that goes with others, so many to a request.
    fn of(journey: &Journey, batch: f64, message_bytes: f64) -> Cost {
        let Journey { sends, receives, others } = *journey;
        let units = (batch * message_bytes / BILLING_UNIT as f64).ceil().max(1.0);
        let carrying = sends + receives;
        Cost { requests: (carrying + others) / batch, billed: (carrying * units + others) / batch }
    }

    fn times(self, factor: f64) -> Cost {
        Cost { requests: self.requests * factor, billed: self.billed * factor }
    }

    fn plus(self, other: Cost) -> Cost {
        Cost { requests: self.requests + other.requests, billed: self.billed + other.billed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(load: Load) -> f64 {
        estimate(&load).requests_per_event
    }

    #[test]
    fn a_lone_event_costs_what_the_readme_says_for_each_delay() {
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        let table = [
            (Duration::from_secs(1), 3.0),
            (Duration::from_secs(899), 3.0),
            (Duration::from_secs(901), 6.0),
            (hours(1), 8.0),
            (hours(12), 8.0),
            (hours(24), 10.0),
            (hours(13 * 24), 61.0),
            (hours(30 * 24), 138.0),
        ];
        for (delay, expected) in table {
            assert_eq!(requests(Load { delay, ..Load::default() }), expected, "{delay:?}");
        }
        let chained = requests(Load { delay: hours(24), delay_queue: false, ..Load::default() });
        assert!((285.0..=294.0).contains(&chained), "{chained}");
    }

    #[test]
    fn no_estimate_is_less_than_nothing_or_beyond_counting() {
        for together in [0, 1, 7, u32::MAX] {
            for payload_bytes in [0, 1, 1 << 20, usize::MAX] {
                let load = Load { together, payload_bytes, packed: true, fan_out: 3, ..Load::default() };
                let Estimate { requests_per_event, billed_per_event, .. } = estimate(&load);
                assert!(requests_per_event > 0.0 && requests_per_event.is_finite());
                assert!(billed_per_event >= requests_per_event);
            }
        }
    }
}
