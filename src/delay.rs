//! How an event that is due later travels: one hop at a time, each a pure function of what is
//! known when it is chosen.
//!
//! ```text
//!   due within max_delay ────────────────► message queue, delayed for the rest
//!   due later ──► delay queue, delayed (up to max_delay) ──► park (up to max_lease a time) ─┐
//!                      ▲                                                                    │
//!                      └── sent afresh on day 7 of 14, or spilled near the in-flight quota  │
//!                          message queue, delayed for the rest ◄── ten minutes before due ──┘
//! ```
//!
//! Without a delay queue the event chains on the message queue, max_delay at a time. Nothing here
//! waits or sends. A message there is received once for each park; one that is received far more
//! often is forwarded unread, for it may be killing whoever reads it. A hop always ends before the
//! event is due, with time to spare for whoever makes the next one; so at worst, when a node dies
//! with it in hand, it is repeated.

use std::time::{Duration, SystemTime};

use crate::backend::{Lane, Limits};

/// How long before due an event on the delay queue is woken, to be forwarded: the message
/// queue's delay and the nodes' looking (every few minutes) fit in between.
pub(crate) const WAKE_AHEAD: Duration = Duration::from_secs(600);

/// How early an event is asked for where delays are counted in seconds; the rest is held.
const ASK_EARLY: Duration = Duration::from_millis(500);

/// What is kept free of a lease's end, for requests that are under way.
const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// The part of the retention's end by which an event should long be off the delay queue.
const LAST_DAY: Duration = Duration::from_secs(86_400);

/// What is between the receives of a message that is parked for as long as it can be, and how
/// often it may be received without being hopped: by a node that is restarted every day.
const LONG_PARK_SHARE: f64 = 0.9;
const RESTARTS: Duration = Duration::from_secs(86_400);

/// The share of the in-flight quota at which parked events spill.
const SPILL_AT: f64 = 0.8;

/// The share at which only long parks are worth a place: a downstream that fails for an hour makes
/// a crowd of retries that are due within hours, which must leave room to what is due in days.
const CROWDED_AT: f64 = 0.1;
const LONG_PARK: Duration = Duration::from_secs(4 * 3_600);

/// The longest that a delivery is held in this process until it is due; one that arrives earlier
/// goes back to the queue.
pub(crate) const HOLD: Duration = Duration::from_secs(5);

/// Where an event that is due at `due` is sent now.
pub(crate) fn first_lane(now: SystemTime, due: SystemTime, limits: &Limits) -> Lane {
    match limits.max_delay {
        Some(max_delay) if limits.delay_lane && until(now, due) > max_delay => Lane::Delay,
        _ => Lane::Message,
    }
}

/// With which delay a message for `due` is put on `lane` now.
pub(crate) fn delay_on(lane: Lane, now: SystemTime, due: SystemTime, limits: &Limits) -> Duration {
    let left = match lane {
        Lane::Message => until(now, due),
        Lane::Delay => until(now, due).saturating_sub(wake_ahead(limits)),
        Lane::Dead => return Duration::ZERO,
    };
    let coarse = limits.delay_step > ASK_EARLY;
    let asked = if coarse { left.saturating_sub(ASK_EARLY) } else { left };
    let whole = in_steps(asked, limits.delay_step);
    limits.max_delay.map_or(whole, |max| whole.min(max))
}

/// What is done with an event found on the delay queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// Put it on the message queue, delayed for the rest.
    Forward,
    /// Leave it where it is, hidden for this long from now.
    Park(Duration),
    /// Put it on the delay queue again: its retention would end, too many are parked, or one more
    /// delay is as good as a park, which counts as in flight.
    Renew,
}

/// What is known of an event found on the delay queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parked {
    /// When it is due.
    pub(crate) due: SystemTime,
    /// When it was put on the delay queue.
    pub(crate) enqueued: SystemTime,
    /// When this receive began.
    pub(crate) received: SystemTime,
}

/// Chooses the next hop of an event found on the delay queue, with `in_flight` messages leased
/// or parked there.
pub(crate) fn next_hop(now: SystemTime, event: Parked, in_flight: u64, limits: &Limits) -> Hop {
    let left = until(now, event.due);
    let Some(max_delay) = limits.max_delay else { return Hop::Forward };
    if left <= max_delay {
        return Hop::Forward;
    }
    if in_flight >= spill_at(limits) {
        return Hop::Renew;
    }
    let wanted = left.saturating_sub(wake_ahead(limits));
    let allowed = match limits.max_lease {
        Some(max) => max.saturating_sub(until(event.received, now) + LEASE_MARGIN),
        None => wanted,
    };
    let park = in_steps(wanted.min(allowed), limits.delay_step);
    if wanted <= max_delay || park.is_zero() {
        return Hop::Renew;
    }
    if park < LONG_PARK && in_flight >= share(limits, CROWDED_AT) {
        return Hop::Renew;
    }
    // The other half is for the time in which no node runs.
    let half = limits.retention.map(|retention| event.enqueued + retention / 2);
    if half.is_some_and(|half| now + park > half) {
        return Hop::Renew;
    }
    Hop::Park(park)
}

/// How many times a message may be received that has been on the delay queue for `age`: once for
/// its first look, its last and each park in between, once a day for a node that was stopped in the
/// middle, and `max_receives` times besides.
pub(crate) fn most_receives(age: Duration, max_receives: u32, limits: &Limits) -> u32 {
    let times = |every: Duration| age.as_secs_f64() / every.as_secs_f64().max(1.0);
    let parks = limits.max_lease.map_or(0.0, |max| times(max.mul_f64(LONG_PARK_SHARE)));
    max_receives.saturating_add(2).saturating_add((parks + times(RESTARTS)) as u32)
}

/// Whether a message found on the delay queue is to leave it soon or be gone: its last day there,
/// when it should have been sent afresh.
pub(crate) fn is_about_to_end(now: SystemTime, enqueued: SystemTime, limits: &Limits) -> bool {
    limits.retention.is_some_and(|kept| until(enqueued, now) >= kept.saturating_sub(LAST_DAY))
}

/// Waking ends on the message queue's delay, whatever that is.
fn wake_ahead(limits: &Limits) -> Duration {
    limits.max_delay.map_or(WAKE_AHEAD, |max| WAKE_AHEAD.min(max / 2))
}

/// At how many messages in flight parked events spill.
pub(crate) fn spill_at(limits: &Limits) -> u64 {
    share(limits, SPILL_AT)
}

/// A share of the in-flight quota, in messages.
fn share(limits: &Limits, share: f64) -> u64 {
    limits.max_in_flight.map_or(u64::MAX, |max| (max as f64 * share) as u64)
}

/// From `now` until `then`; nothing if that has passed.
pub(crate) fn until(now: SystemTime, then: SystemTime) -> Duration {
    then.duration_since(now).unwrap_or_default()
}

/// `span` rounded down to whole steps.
fn in_steps(span: Duration, step: Duration) -> Duration {
    let step = step.as_nanos().max(1);
    let whole = span.as_nanos() / step * step;
    Duration::from_nanos(u64::try_from(whole).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 86_400;

    fn at(seconds: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_secs_f64(seconds)
    }

    /// Follows one event from its signal until it can be run, with every look at the delay queue
    /// late by up to `look` seconds; returns the requests and when it reached the node.
    fn travel(
        delay: f64,
        limits: &Limits,
        look: f64,
        in_flight: u64,
        random: &mut dyn FnMut() -> f64,
    ) -> (u32, SystemTime) {
        let due = at(delay);
        let mut now = at(0.0);
        let mut lane = first_lane(now, due, limits);
        let mut requests = 1;
        for _ in 0..20_000 {
            let sleep = delay_on(lane, now, due, limits);
            assert!(limits.max_delay.is_none_or(|max| sleep <= max), "over the longest delay");
            assert!(now + sleep <= due, "a hop that ends after due");
            let enqueued = now;
            now += sleep;
            if lane == Lane::Message {
                requests += 2;
                if until(now, due) <= HOLD {
                    return (requests, now);
                }
                lane = first_lane(now, due, limits);
                requests += 1;
                continue;
            }
            loop {
                now += Duration::from_secs_f64(look * random());
                requests += 1;
                let received = now;
                match next_hop(now, Parked { due, enqueued, received }, in_flight, limits) {
                    Hop::Forward => {
                        lane = Lane::Message;
                        requests += 2;
                        break;
                    }
                    Hop::Renew => {
                        lane = Lane::Delay;
                        requests += 2;
                        break;
                    }
                    Hop::Park(span) => {
                        assert!(limits.max_lease.is_none_or(|max| received + max >= now + span), "over 12 h in all");
                        assert!(now + span + wake_ahead(limits) <= due + Duration::from_secs(1), "woken too late");
                        requests += 1;
                        now += span;
                        assert!(limits.retention.is_none_or(|kept| now < enqueued + kept), "past its retention");
                    }
                }
            }
        }
        panic!("no progress");
    }

    #[test]
    fn a_day_costs_ten_requests_where_a_chain_costs_288() {
        let mut never_late = || 0.0;
        assert_eq!(travel(86_400.0, &Limits::sqs(), 300.0, 0, &mut never_late).0, 10);
        assert_eq!(travel(3_600.0, &Limits::sqs(), 300.0, 0, &mut never_late).0, 8);
        let chained = Limits { delay_lane: false, ..Limits::sqs() };
        assert!((285..=291).contains(&travel(86_400.0, &chained, 0.0, 0, &mut never_late).0));
    }

    #[test]
    fn short_waits_take_no_place_in_the_in_flight_quota_when_it_fills() {
        let limits = Limits::sqs();
        let hop = |left: f64, in_flight| {
            let (now, enqueued) = (at(900.0), at(0.0));
            next_hop(now, Parked { due: at(900.0 + left), enqueued, received: now }, in_flight, &limits)
        };
        assert_eq!(hop(900.0, 0), Hop::Forward);
        assert_eq!(hop(1_350.0, 0), Hop::Renew, "one more delay does it");
        assert_eq!(hop(1_351.0, 0), Hop::Park(Duration::from_secs(901)));
        assert_eq!(hop(4_096.0, 12_000), Hop::Renew, "a retry of an hour, among many");
        assert_eq!(hop(86_400.0, 12_000), Hop::Park(Duration::from_secs(43_195)), "a day is worth its place");
        assert_eq!(hop(86_400.0, 96_000), Hop::Renew);
    }

    #[test]
    fn a_backend_without_limits_takes_any_delay_at_once() {
        let (requests, arrived) = travel(3_650.0 * DAY as f64, &Limits::unlimited(), 0.0, 0, &mut || 0.0);
        assert_eq!((requests, arrived), (3, at(3_650.0 * DAY as f64)));
    }

    proptest! {
        #[test]
        fn an_event_arrives_never_late_makes_progress_and_keeps_every_limit(
            delay in 0.0f64..(400 * DAY) as f64,
            lateness in 0.0f64..300.0,
            delay_lane: bool,
            crowded: bool,
            seed: u64,
        ) {
            let limits = Limits { delay_lane, ..Limits::sqs() };
            let mut random = fastrand::Rng::with_seed(seed);
            let in_flight = if crowded { 119_000 } else { 0 };
            let delay = if crowded || !delay_lane { delay / 10.0 } else { delay };
            let (_, arrived) = travel(delay, &limits, lateness, in_flight, &mut || random.f64());
            prop_assert!(arrived <= at(delay));
        }

        #[test]
        fn a_queue_with_a_shorter_delay_makes_progress_too(delay in 0.0f64..7_200.0, max_delay in 10u64..900) {
            let limits = Limits { max_delay: Some(Duration::from_secs(max_delay)), ..Limits::sqs() };
            let (_, arrived) = travel(delay, &limits, 0.0, 0, &mut || 0.0);
            prop_assert!(arrived <= at(delay));
        }

        #[test]
        fn parking_for_all_its_retention_is_never_taken_for_poison(
            seed: u64,
            delay in (DAY as f64)..(60 * DAY) as f64,
            restart_at in 0.0f64..DAY as f64,
            max_receives in 1u32..20,
        ) {
            let (limits, mut random) = (Limits::sqs(), fastrand::Rng::with_seed(seed));
            let (due, mut now, mut count) = (at(delay), at(900.0), 0);
            let mut restart = at(restart_at);
            loop {
                count += 1;
                let age = until(at(0.0), now);
                prop_assert!(count <= most_receives(age, max_receives, &limits), "{count} after {age:?}");
                if now >= restart {
                    // Once a day every node is stopped in the middle of a hop.
                    restart += Duration::from_secs(DAY);
                    now += limits.lease + Duration::from_secs_f64(240.0 * random.f64());
                    continue;
                }
                match next_hop(now, Parked { due, enqueued: at(0.0), received: now }, 0, &limits) {
                    Hop::Park(span) => now += span + Duration::from_secs_f64(240.0 * random.f64()),
                    Hop::Forward | Hop::Renew => break,
                }
                prop_assert!(!is_about_to_end(now - Duration::from_secs(600), at(0.0), &limits));
            }
        }

        #[test]
        fn what_kills_its_reader_is_found_out_soon(parks in 0u32..26, max_receives in 1u32..20) {
            let limits = Limits::sqs();
            let mut age = Duration::from_secs(900) + Duration::from_secs(43_195) * parks;
            let (mut count, mut deaths) = (parks + 1, 0);
            while count <= most_receives(age, max_receives, &limits) {
                deaths += 1;
                count += 1;
                age += limits.lease;
            }
            prop_assert!(deaths <= max_receives + 20, "{deaths} deaths");
        }

        #[test]
        fn the_time_asked_for_is_before_due_by_less_than_two_steps(left in 0.0f64..900.0) {
            let sleep = delay_on(Lane::Message, at(0.0), at(left), &Limits::sqs());
            prop_assert!(at(0.0) + sleep <= at(left));
            prop_assert!(until(at(0.0) + sleep, at(left)) < Duration::from_secs(2));
        }
    }
}
