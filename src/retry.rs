//! When a failed handler runs again: [`Backoff`].

use std::time::Duration;

/// The share of a delay that jitter may take off: a retry is never later than its nominal delay.
const JITTER: f64 = 0.2;

/// Exponential backoff with jitter: how long to wait after the n-th failed attempt.
///
/// The delay doubles (or grows by [`factor`](Backoff::factor)) from `first` up to `max`. Jitter
/// takes up to a fifth off, so that failures of one moment do not return in one moment; a
/// retry is never later than the nominal delay.
///
/// ```
/// use dawdle::Backoff;
/// use std::time::Duration;
///
/// let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60));
/// assert_eq!(backoff.nominal(1), Duration::from_secs(1));
/// assert_eq!(backoff.nominal(4), Duration::from_secs(8));
/// assert_eq!(backoff.nominal(40), Duration::from_secs(60));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    factor: f64,
}

impl Backoff {
    /// From `first`, doubling, up to `max`; a `max` below `first` is taken as `first`.
    pub const fn exponential(first: Duration, max: Duration) -> Self {
        let max = if max.as_nanos() < first.as_nanos() { first } else { max };
        Backoff { first, max, factor: 2.0 }
    }

    /// The same delay every time.
    pub const fn fixed(delay: Duration) -> Self {
        Backoff { first: delay, max: delay, factor: 1.0 }
    }

    /// Grows by `factor` instead of doubling; below 1 is taken as 1.
    #[must_use]
    pub const fn factor(mut self, factor: f64) -> Self {
        self.factor = if factor >= 1.0 { factor } else { 1.0 };
        self
    }

    /// The delay after failed attempt number `attempt` (from 1), before jitter.
    pub fn nominal(&self, attempt: u32) -> Duration {
        if self.first.is_zero() {
            // Times a factor that is beyond all bounds by now, it would be no number.
            return self.first;
        }
        let doublings = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.first.as_secs_f64() * self.factor.powi(doublings);
        if seconds >= self.max.as_secs_f64() { self.max } else { Duration::from_secs_f64(seconds) }
    }

    /// The delay after failed attempt number `attempt`, with `random` in 0..1 as its jitter.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let nominal = self.nominal(attempt);
        let seconds = nominal.as_secs_f64() * (1.0 - JITTER * random.clamp(0.0, 1.0));
        Duration::try_from_secs_f64(seconds).unwrap_or(nominal)
    }
}

impl Default for Backoff {
    /// 1 second doubling to 6 hours: with 25 attempts, a weekend.
    fn default() -> Self {
        Backoff::exponential(Duration::from_secs(1), Duration::from_secs(6 * 3600))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_attempts_span_a_weekend() {
        let total: Duration = (1..25).map(|attempt| Backoff::default().nominal(attempt)).sum();
        assert!(total > Duration::from_secs(60 * 3600), "{total:?}");
    }

    #[test]
    fn no_backoff_is_too_short_or_too_long_for_any_attempt() {
        for attempt in [1, 2, 2_000, u32::MAX] {
            assert_eq!(Backoff::exponential(Duration::ZERO, Duration::MAX).delay(attempt, 0.5), Duration::ZERO);
            assert_eq!(Backoff::fixed(Duration::MAX).delay(attempt, 0.0), Duration::MAX);
        }
    }

    proptest! {
        #[test]
        fn a_delay_is_within_its_bounds_whatever_the_attempt(
            first in 1u64..100_000, max in 1u64..1_000_000, factor in 0.0f64..100.0, attempt: u32, random in 0.0f64..1.0,
        ) {
            let backoff = Backoff::exponential(Duration::from_millis(first), Duration::from_millis(max)).factor(factor);
            let delay = backoff.delay(attempt, random);
            prop_assert!(delay <= Duration::from_millis(max.max(first)));
            prop_assert!(delay >= Duration::from_millis(first).mul_f64(0.79));
        }
    }
}
