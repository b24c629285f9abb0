//! What a run decides, all of it from its seed: what each event is, how each handler behaves with
//! it, when faults come and when nodes die.
//!
//! A decision is a pure function of the seed and of what is decided about, so that any process
//! can make it without asking, and the verdict can make it again.

use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// What every process of a run knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// How many events there are.
    pub(crate) events: u64,
    /// Events a second.
    pub(crate) rate: f64,
    /// The longest delay of an event, in milliseconds.
    pub(crate) max_delay_ms: u64,
    /// For how long a receive hides a message, in seconds.
    pub(crate) visibility_secs: u64,
    /// So many receives without an end and a message is dead-lettered.
    pub(crate) max_receives: u32,
    /// How far the queue's clock is ahead of this machine's.
    pub(crate) clock_ahead_ms: i64,
    /// Whether there are handlers that abort the process.
    pub(crate) poison: bool,
}

/// A handler, as the verdict knows it. The attributes in `events.rs` say the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandlerSpec {
    pub(crate) name: &'static str,
    pub(crate) kind: u8,
    pub(crate) attempts: u32,
}

/// How often each kind comes, of 100: `Plain`, `Pair`, `Trio`, `Narrow`, `Long`, `Watched`, `Packed`.
const SHARES: [u64; 7] = [30, 20, 15, 10, 10, 5, 10];

const fn handler(name: &'static str, kind: u8, attempts: u32) -> HandlerSpec {
    HandlerSpec { name, kind, attempts }
}

/// Every handler; its place here is its number.
pub(crate) const HANDLERS: [HandlerSpec; 12] = [
    handler("plain", 0, 5),
    handler("pair_left", 1, 5),
    handler("pair_right", 1, 5),
    handler("trio_one", 2, 5),
    handler("trio_two", 2, 5),
    handler("trio_three", 2, 3),
    handler("narrow", 3, 5),
    handler("long_keep", 4, 5),
    handler("long_note", 4, 5),
    handler("watched", 5, 5),
    handler("audit", 5, 5),
    handler("packed", 6, 5),
];

pub(crate) const PLAIN: usize = 0;
pub(crate) const LONG_KEEP: usize = 7;

/// The most handlers of one kind.
pub(crate) const MOST_HANDLERS: usize = 3;

/// The numbers of a kind's handlers.
pub(crate) fn handlers_of(kind: u8) -> impl Iterator<Item = usize> {
    (0..HANDLERS.len()).filter(move |handler| HANDLERS.get(*handler).is_some_and(|spec| spec.kind == kind))
}

/// The number of a handler by its name.
pub(crate) fn handler_called(name: &str) -> Option<usize> {
    HANDLERS.iter().position(|spec| spec.name == name)
}

/// What a handler does with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Succeed,
    /// Succeeds after so many milliseconds.
    Slow(u64),
    /// Fails this many times, then succeeds.
    Fail(u32),
    /// The same, by panics.
    Panic(u32),
    /// Fails for ever: a dead letter.
    FailForEver,
    /// Its first attempt hangs until its timeout.
    Hang,
    /// Runs for so many milliseconds, longer than the visibility timeout.
    Outlive(u64),
    /// Keeps its thread for so many milliseconds.
    Block(u64),
    /// Snoozes until two seconds after due.
    Snooze,
    /// Asks for a dead letter.
    GiveUp,
    Discard,
    /// Aborts the process, every time.
    Abort,
}

/// The reason that `GiveUp` gives.
pub(crate) const GIVEN_UP: &str = "chaos gives up";

/// How a handler's part of an event must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Success,
    Discarded,
    /// A dead letter of this reason.
    Dead(&'static str),
}

impl Behaviour {
    /// Whether a run of it is on file from its beginning, and not only from its end.
    pub(crate) fn is_begun_on_file(self) -> bool {
        matches!(
            self,
            Behaviour::Slow(_)
                | Behaviour::Hang
                | Behaviour::Outlive(_)
                | Behaviour::Block(_)
                | Behaviour::Abort
                | Behaviour::Panic(_)
        )
    }

    pub(crate) fn expected(self) -> Expected {
        match self {
            Behaviour::FailForEver => Expected::Dead(dawdle::reason::ATTEMPTS),
            Behaviour::GiveUp => Expected::Dead(GIVEN_UP),
            Behaviour::Abort => Expected::Dead(dawdle::reason::POISON),
            Behaviour::Discard => Expected::Discarded,
            _ => Expected::Success,
        }
    }
}

/// A stream of chance for one decision.
fn chance(seed: u64, what: u64, about: u64) -> Rng {
    // Two rounds of splitmix64: neighbouring numbers must not give neighbouring decisions.
    let mut state = seed ^ what.wrapping_mul(0xA076_1D64_78BD_642F) ^ about.wrapping_mul(0xE703_7ED1_A0B4_28DB);
    for _ in 0..2 {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        state ^= state >> 31;
    }
    Rng::with_seed(state)
}

const KIND: u64 = 1;
const DELAY: u64 = 2;
const BEHAVIOUR: u64 = 3;
const BUFFERED: u64 = 500;
const FAULTS: u64 = 1_000;
const KILLS: u64 = 1_001;

impl Plan {
    /// The kind of an event.
    pub(crate) fn kind(&self, event: u64) -> u8 {
        let mut at = chance(self.seed, KIND, event).u64(0..SHARES.iter().sum());
        for (kind, share) in (0..).zip(SHARES) {
            if at < share {
                return kind;
            }
            at -= share;
        }
        0
    }

    /// For how long an event is delayed: most not at all, some for as long as it may be.
    pub(crate) fn delay(&self, event: u64) -> Duration {
        let mut rng = chance(self.seed, DELAY, event);
        let upto = |rng: &mut Rng, most: u64| Duration::from_millis(rng.u64(0..=most.min(self.max_delay_ms)));
        match rng.u32(0..100) {
            0..60 => Duration::ZERO,
            60..80 => upto(&mut rng, 2_000),
            80..95 => upto(&mut rng, 20_000),
            _ => upto(&mut rng, self.max_delay_ms),
        }
    }

    /// Whether an event is signalled through the send buffer: a quarter of them are.
    pub(crate) fn is_buffered(&self, event: u64) -> bool {
        chance(self.seed, BUFFERED, event).u32(0..4) == 0
    }

    /// The longest delay that the queue is made to take, so that what is due later goes by the delay queue. SQS
    /// counts in seconds: below three of them a renewal would come to no delay at all.
    pub(crate) fn longest_hop(&self) -> Duration {
        Duration::from_secs((self.max_delay_ms / 4_000).clamp(3, 5))
    }

    /// For how long a message may lie on the delay queue before it must be sent afresh.
    pub(crate) fn longest_park(&self) -> Duration {
        Duration::from_millis((self.max_delay_ms / 4 * 3).max(8_000))
    }

    /// How many messages are made to be all that the delay queue lets be in flight. From a tenth of that on,
    /// more are sent afresh instead of being parked.
    pub(crate) fn most_parked(&self) -> u64 {
        (self.rate * self.max_delay_ms as f64 / 6_000.0).max(50.0) as u64
    }

    /// For how long a message may be received again and again. What is beside one that aborts its process may be
    /// put back at its last receive, and begin anew; and a process that aborts is away for a while.
    pub(crate) fn all_receives(&self) -> Duration {
        match self.poison {
            true => Duration::from_secs(self.visibility_secs + 4) * self.max_receives * 2,
            false => Duration::from_secs(self.visibility_secs) * self.max_receives,
        }
    }

    /// How late a first run may be: as long as half of the run's faults, and one that is received as often
    /// as can be.
    pub(crate) fn latest(&self, span: Duration) -> Duration {
        span / 2 + self.all_receives()
    }

    /// How early a run may be by the queue's clock, in microseconds. A node that has just started knows a clock
    /// that is far off by a few answers, each of which tells whole seconds.
    pub(crate) fn tolerance(&self) -> u64 {
        if self.clock_ahead_ms == 0 { 50_000 } else { 500_000 }
    }

    /// What `handler` does with an event.
    pub(crate) fn behaviour(&self, event: u64, handler: usize) -> Behaviour {
        let mut rng = chance(self.seed, BEHAVIOUR + handler as u64, event);
        // A handful in a run, whatever its length: each takes several nodes down.
        if handler == PLAIN && self.poison && rng.f64() < 3.0 / self.events.max(1) as f64 {
            return Behaviour::Abort;
        }
        let spec = HANDLERS.get(handler);
        let fails = |rng: &mut Rng| rng.u32(1..spec.map_or(1, |spec| spec.attempts).clamp(2, 4));
        // Rare ones are counted against the rate: what takes seconds would else keep every permit.
        let scarce = (200.0 / self.rate).min(1.0);
        match rng.u32(0..10_000) {
            0..200 => Behaviour::Fail(fails(&mut rng)),
            200..230 => Behaviour::FailForEver,
            230..280 => Behaviour::Panic(fails(&mut rng)),
            280..330 => Behaviour::Snooze,
            330..350 => Behaviour::GiveUp,
            350..390 => Behaviour::Discard,
            390..490 => Behaviour::Slow(rng.u64(5..300)),
            490..520 if rng.f64() < scarce => Behaviour::Block(rng.u64(50..800)),
            520..560 if handler != LONG_KEEP && rng.f64() < scarce => Behaviour::Hang,
            520..620 if handler == LONG_KEEP && rng.f64() < scarce => {
                Behaviour::Outlive(self.visibility_secs * rng.u64(1_200..2_500))
            }
            _ => Behaviour::Succeed,
        }
    }
}

/// What happens to the endpoint for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Weather {
    Calm,
    /// A little of everything.
    Mixed,
    /// Much of a few things.
    Burst(u64),
    /// Connections are refused.
    Down,
    ExpiredCredentials,
    Throttled,
    /// Messages come twice.
    Duplicates,
    /// Deleted messages come back.
    Undeletes,
    Reordered,
    /// Answers that never come.
    Hangs,
    /// Every other request about the delay queue goes wrong, and none about the others.
    DelayQueue,
}

/// A stretch of one weather.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Episode {
    pub(crate) from: Duration,
    pub(crate) weather: Weather,
}

/// The weather of a run: each episode lasts until the next; the last is calm.
pub(crate) fn weather(seed: u64, span: Duration) -> Vec<Episode> {
    let mut rng = chance(seed, FAULTS, 0);
    let mut episodes = Vec::new();
    let mut from = Duration::ZERO;
    while from < span {
        let (weather, longest) = match rng.u32(0..16) {
            0..2 => (Weather::Calm, 6_000),
            2 => (Weather::DelayQueue, 6_000),
            3..6 => (Weather::Mixed, 10_000),
            6..8 => (Weather::Burst(rng.u64(..)), 4_000),
            8 => (Weather::Down, 6_000),
            9 => (Weather::ExpiredCredentials, 6_000),
            10 | 11 => (Weather::Throttled, 5_000),
            12 => (Weather::Duplicates, 6_000),
            13 => (Weather::Undeletes, 4_000),
            14 => (Weather::Reordered, 8_000),
            _ => (Weather::Hangs, 4_000),
        };
        episodes.push(Episode { from, weather });
        from += Duration::from_millis(rng.u64(1_000..longest));
    }
    episodes.push(Episode { from: span, weather: Weather::Calm });
    episodes
}

/// How a node is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    /// SIGKILL
    Kill,
    /// SIGTERM
    Stop,
    /// SIGTERM, and SIGKILL so much later.
    StopThenKill(Duration),
}

/// One end of one node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fall {
    pub(crate) at: Duration,
    /// Which node; one beyond the nodes is the sender.
    pub(crate) slot: usize,
    pub(crate) blow: Blow,
    /// After how long it is replaced.
    pub(crate) back_after: Duration,
}

/// When nodes fall: one every few seconds, whatever their number.
pub(crate) fn falls(seed: u64, span: Duration, nodes: usize) -> Vec<Fall> {
    let mut rng = chance(seed, KILLS, 0);
    let mut falls = Vec::new();
    let mut at = Duration::from_millis(1_500);
    while at < span {
        let slot = rng.usize(0..=nodes);
        let blow = match rng.u32(0..10) {
            0..5 => Blow::Kill,
            5..9 => Blow::Stop,
            _ => Blow::StopThenKill(Duration::from_millis(rng.u64(5..500))),
        };
        let back_after = Duration::from_millis(rng.u64(0..2_000));
        falls.push(Fall { at, slot, blow, back_after });
        at += Duration::from_millis(rng.u64(1_000..7_000));
    }
    falls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> Plan {
        Plan {
            seed,
            events: 100_000,
            rate: 500.0,
            max_delay_ms: 60_000,
            visibility_secs: 10,
            max_receives: 8,
            clock_ahead_ms: 0,
            poison: true,
        }
    }

    #[test]
    fn a_seed_decides_everything_and_another_decides_otherwise() {
        let decisions = |seed| {
            let plan = plan(seed);
            let events: Vec<_> = (0..500).map(|n| (plan.kind(n), plan.delay(n), plan.behaviour(n, 1))).collect();
            let span = Duration::from_secs(120);
            format!("{events:?} {:?} {:?}", weather(seed, span), falls(seed, span, 4))
        };
        assert_eq!(decisions(7), decisions(7));
        assert_ne!(decisions(7), decisions(8));
    }

    #[test]
    fn every_behaviour_and_every_kind_occurs() {
        let plan = plan(1);
        for kind in 0..SHARES.len() as u8 {
            assert!((0..1_000).any(|event| plan.kind(event) == kind), "{kind}");
        }
        let mut seen: Vec<_> = (0..plan.events)
            .flat_map(|event| [PLAIN, LONG_KEEP].map(|handler| plan.behaviour(event, handler)))
            .map(|behaviour| format!("{behaviour:?}").split('(').next().unwrap_or_default().to_owned())
            .collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 12, "{seen:?}");
    }
}
