//! How far SQS's clock is ahead of this machine's, from what its answers say in passing.
//!
//! Every answer bounds the offset. One that was asked for at `sent` and arrived at `answered`, by
//! this machine's clock, and that shows the time `shown` with a resolution of `step`, was made
//! somewhere in between:
//!
//! ```text
//! shown - answered  <=  offset  <=  shown + step - sent
//! ```
//!
//! [`ClockOffset`] keeps the intersection of these intervals. Clocks drift, so it widens with
//! time. Clocks are set, and now and then a single answer is wrong, so an interval that
//! contradicts it is put aside: when the next one agrees with that rather than with what was
//! known, what was known is forgotten.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How fast two clocks are taken to drift apart, in microseconds a second. An unsynchronised
/// quartz stays below that.
const DRIFT_PPM: u128 = 100;

/// How far into a one-sided interval the estimate goes. A long poll bounds the offset well on one
/// side only, and the middle of its interval would mean nothing.
const REACH_US: i64 = 500_000;

/// An estimate of the offset, narrowed by observations.
#[derive(Debug, Default)]
pub(super) struct ClockOffset {
    known: Option<Interval>,
    /// The last observation, when it contradicted what is known.
    aside: Option<Interval>,
    at: Option<Instant>,
}

/// Microseconds by which the queue's clock may be ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) lo: i64,
    pub(super) hi: i64,
}

impl Interval {
    /// What an answer says that shows the time `shown`, rounded down to `step`, and that was
    /// under way for `span` until `answered`. The span is measured apart, by a clock that
    /// nobody sets.
    pub(super) fn of_answer(shown: Duration, step: Duration, answered: SystemTime, span: Duration) -> Option<Interval> {
        let answered = micros(answered.duration_since(UNIX_EPOCH).ok()?)?;
        let lo = micros(shown)?.checked_sub(answered)?;
        Some(Interval { lo, hi: lo.checked_add(micros(step)?)?.checked_add(micros(span)?)? })
    }

    fn and(self, other: Interval) -> Option<Interval> {
        let both = Interval { lo: self.lo.max(other.lo), hi: self.hi.min(other.hi) };
        (both.lo <= both.hi).then_some(both)
    }

    fn widened(self, by: i64) -> Interval {
        Interval { lo: self.lo.saturating_sub(by), hi: self.hi.saturating_add(by) }
    }
}

fn micros(span: Duration) -> Option<i64> {
    i64::try_from(span.as_micros()).ok()
}

impl ClockOffset {
    /// Takes in what was seen at `now`.
    pub(super) fn observe(&mut self, seen: Interval, now: Instant) {
        let idle = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let drift = i64::try_from(idle.as_micros() * DRIFT_PPM / 1_000_000).unwrap_or(i64::MAX);
        // Below a microsecond of drift the clock of the widening stands, or frequent
        // observations would never widen.
        if drift > 0 || self.at.is_none() {
            self.at = Some(now);
        }
        let known = self.known.map(|known| known.widened(drift));
        let aside = self.aside.take().map(|aside| aside.widened(drift));
        self.known = match (known, known.and_then(|known| known.and(seen))) {
            (None, _) => Some(seen),
            (_, Some(narrower)) => Some(narrower),
            (Some(known), None) => match aside.and_then(|aside| aside.and(seen)) {
                Some(agreed) => Some(agreed),
                None => {
                    self.aside = Some(seen);
                    Some(known)
                }
            },
        };
    }

    /// Whether anything was observed.
    pub(super) fn is_known(&self) -> bool {
        self.known.is_some()
    }

    /// By how many milliseconds the queue's clock is ahead: 0 as long as that may be so.
    pub(super) fn millis(&self) -> i64 {
        let Some(Interval { lo, hi }) = self.known else { return 0 };
        let reach = (hi.saturating_sub(lo) / 2).min(REACH_US);
        let micros = match (lo, hi) {
            (1.., _) => lo.saturating_add(reach),
            (_, ..=-1) => hi.saturating_sub(reach),
            _ => 0,
        };
        micros / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(base: Instant, ms: u64) -> Instant {
        base + Duration::from_millis(ms)
    }

    /// An honest answer, seen by a machine whose clock is `offset` ms behind the queue's.
    fn honest(offset: i64, sent_ms: u64, out: u64, back: u64, step_ms: u64) -> Interval {
        let base = 1_700_000_000_000_i64;
        let made = base + sent_ms as i64 + out as i64 + offset;
        let shown = made - made.rem_euclid(step_ms as i64);
        let answered = UNIX_EPOCH + Duration::from_millis((base as u64) + sent_ms + out + back);
        let shown = Duration::from_millis(shown as u64);
        Interval::of_answer(shown, Duration::from_millis(step_ms), answered, Duration::from_millis(out + back))
            .expect("in range")
    }

    #[test]
    fn nothing_seen_is_no_offset() {
        assert_eq!(ClockOffset::default().millis(), 0);
    }

    #[test]
    fn an_offset_within_a_second_needs_more_than_one_date() {
        let base = Instant::now();
        let mut clock = ClockOffset::default();
        clock.observe(honest(300, 0, 5, 5, 1000), base);
        assert_eq!(clock.millis(), 0);
        clock.observe(honest(300, 650, 5, 5, 1000), at(base, 650));
        clock.observe(honest(300, 2705, 5, 5, 1000), at(base, 2705));
        let estimate = clock.millis();
        assert!((250..=350).contains(&estimate) || estimate == 0, "{estimate}");
        clock.observe(honest(300, 3000, 5, 5, 1), at(base, 3000));
        assert!((295..=305).contains(&clock.millis()), "{}", clock.millis());
    }

    #[test]
    fn a_wild_answer_changes_nothing() {
        let base = Instant::now();
        let mut clock = ClockOffset::default();
        clock.observe(honest(0, 0, 5, 5, 1), base);
        clock.observe(honest(3_600_000, 10, 5, 5, 1), at(base, 10));
        assert_eq!(clock.millis(), 0);
        clock.observe(honest(0, 20, 5, 5, 1), at(base, 20));
        clock.observe(honest(-7_000_000, 30, 5, 5, 1), at(base, 30));
        assert_eq!(clock.millis(), 0);
    }

    #[test]
    fn a_wild_first_answer_is_forgotten() {
        let base = Instant::now();
        let mut clock = ClockOffset::default();
        clock.observe(honest(3_600_000, 0, 5, 5, 1), base);
        clock.observe(honest(40, 10, 5, 5, 1), at(base, 10));
        clock.observe(honest(40, 20, 5, 5, 1), at(base, 20));
        assert!((30..=50).contains(&clock.millis()), "{}", clock.millis());
    }

    #[test]
    fn a_clock_that_is_set_is_followed() {
        let base = Instant::now();
        let mut clock = ClockOffset::default();
        for ms in [0, 100, 200] {
            clock.observe(honest(0, ms, 5, 5, 1), at(base, ms));
        }
        for ms in [300, 400] {
            clock.observe(honest(-2_000, ms, 5, 5, 1), at(base, ms));
        }
        assert!((-2_010..=-1_990).contains(&clock.millis()), "{}", clock.millis());
    }

    #[test]
    fn a_long_poll_does_not_pull_the_estimate_to_its_middle() {
        let base = Instant::now();
        let mut clock = ClockOffset::default();
        clock.observe(honest(5_000, 0, 20_000, 5, 1000), base);
        assert!((3_900..=5_600).contains(&clock.millis()), "{}", clock.millis());
    }

    #[test]
    fn drift_is_followed() {
        let base = Instant::now();
        let mut clock = ClockOffset::default();
        for minute in 0..600 {
            let offset = i64::try_from(minute * 60_000 * 50 / 1_000_000).expect("small");
            clock.observe(honest(offset, minute * 60_000, 2, 2, 1), at(base, minute * 60_000));
        }
        assert!((1_750..=1_830).contains(&clock.millis()), "{}", clock.millis());
    }

    proptest! {
        #[test]
        fn honest_answers_never_contradict_and_bound_the_error(
            offset in -100_000_i64..100_000,
            answers in proptest::collection::vec((1_u64..30_000, 0_u64..200, 0_u64..200, prop_oneof![Just(1_u64), Just(1000)]), 1..60),
        ) {
            let base = Instant::now();
            let (mut clock, mut ms, mut narrowest) = (ClockOffset::default(), 0, i64::MAX);
            for (gap, out, back, step) in answers {
                ms += gap;
                let seen = honest(offset, ms, out, back, step);
                narrowest = narrowest.min(seen.hi - seen.lo);
                clock.observe(seen, at(base, ms));
                prop_assert!(clock.aside.is_none());
                let Interval { lo, hi } = clock.known.expect("observed");
                prop_assert!(lo <= offset * 1000 && offset * 1000 <= hi);
            }
            let drift = i64::try_from(ms).expect("small") / 10 + 1;
            prop_assert!((clock.millis() - offset).abs() * 1000 <= narrowest + 2 * drift + 1000);
        }

        #[test]
        fn no_one_wild_answer_moves_it(
            offset in -1_000_i64..1_000,
            wild in prop_oneof![-9_000_000_i64..-10_000, 10_000_i64..9_000_000],
            before in 2_usize..10,
        ) {
            let base = Instant::now();
            let mut clock = ClockOffset::default();
            for n in 0..before as u64 {
                clock.observe(honest(offset, n * 50, 1, 1, 1), at(base, n * 50));
            }
            let was = clock.millis();
            let ms = before as u64 * 50;
            clock.observe(honest(wild, ms, 1, 1, 1), at(base, ms));
            prop_assert!((clock.millis() - was).abs() <= 1);
            clock.observe(honest(offset, ms + 50, 1, 1, 1), at(base, ms + 50));
            prop_assert!((clock.millis() - offset).abs() <= 4);
        }
    }
}
