//! Coming to an end without losing anything: [`Work`], and the order in which it is drained.
//!
//! 1. Begin nothing more: receives end, what waits for a permit or for its due time is given back.
//! 2. Wait for handlers, until five seconds before the deadline.
//! 3. Tell them to stop (`cx.cancelled()`), and give them a moment.
//! 4. Drop those that have not; what they had in hand is written or given back.
//! 5. Flush acks and sends.
//!
//! Whatever is left when the deadline comes is on the queue still, and its lease ends by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::{Clock, Latch};
use crate::sync::{AtomicUsize, Notify};

/// What the end of a drain is kept for: settling.
const FOR_SETTLING: Duration = Duration::from_secs(5);

/// For how long, of that, handlers may come to an end by themselves.
const TO_COME_TO_AN_END: Duration = Duration::from_secs(2);

/// What tells work to stop, in three degrees.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stops {
    /// Begin nothing more.
    pub(crate) begin: Latch,
    /// Tell handlers to come to an end.
    pub(crate) cancel: Latch,
    /// Drop handlers that have not.
    pub(crate) abort: Latch,
}

impl Stops {
    /// All three at once.
    pub(crate) fn raise_all(&self) {
        for stop in [&self.begin, &self.cancel, &self.abort] {
            stop.raise();
        }
    }
}

/// Work that can be drained: what is under way, and what tells it to stop.
#[derive(Clone, Default)]
pub(crate) struct Work {
    pub(crate) stops: Stops,
    pub(crate) busy: InFlight,
}

impl Work {
    /// Steps 1 to 4, within `timeout` in all.
    pub(crate) async fn drain(&self, clock: &Clock, timeout: Duration) {
        let reserve = FOR_SETTLING.min(timeout / 2);
        self.stops.begin.raise();
        if clock.timeout(timeout - reserve, self.busy.none()).await.is_none() {
            tracing::warn!("{} messages are still being handled; telling their handlers to stop", self.busy.count());
            self.stops.cancel.raise();
            let moment = TO_COME_TO_AN_END.min(reserve / 2);
            if clock.timeout(moment, self.busy.none()).await.is_none() {
                self.stops.abort.raise();
                if clock.timeout(reserve - moment, self.busy.none()).await.is_none() {
                    tracing::warn!("{} messages are left to the end of their leases", self.busy.count());
                }
            }
        }
        self.stops.raise_all();
    }
}

/// Counts what is under way.
#[derive(Clone, Default)]
pub(crate) struct InFlight(Arc<Count>);

#[derive(Default)]
struct Count {
    count: AtomicUsize,
    none: Notify,
}

impl InFlight {
    /// Counts one thing more, until the guard is dropped.
    pub(crate) fn guard(&self) -> Counted {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        Counted(Arc::clone(&self.0))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.count.load(Ordering::Acquire)
    }

    /// Waits until nothing is under way. Cancel-safe.
    pub(crate) async fn none(&self) {
        loop {
            let none = self.0.none.notified();
            if self.count() == 0 {
                return;
            }
            none.await;
        }
    }
}

/// One thing under way, until it is dropped.
pub(crate) struct Counted(Arc<Count>);

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ExploredClock;
    use crate::sync::explore::{any, exhaust, explore, turns};

    #[test]
    fn whoever_waits_for_the_last_to_end_is_woken_in_every_order() {
        let schedules = exhaust(|| async {
            let busy = InFlight::default();
            for guard in [busy.guard(), busy.guard()] {
                shuttle::future::spawn(async move { drop(guard) });
            }
            busy.none().await;
            assert_eq!(busy.count(), 0);
        });
        assert!(schedules > 100, "{schedules}");
    }

    /// Some of the work ends by itself, some when it is told to begin nothing, to come to an end or
    /// is dropped, and some never.
    #[test]
    fn a_drain_ends_whatever_the_work_does() {
        explore(300, || async {
            let clock = Clock::from_explored(ExploredClock::new(true));
            let work = Work::default();
            let hung = (0..3).filter(|_| {
                let (guard, stops, obeys) = (work.busy.guard(), work.stops.clone(), any(5));
                clock.spawn(async move {
                    let _guard = guard;
                    match obeys {
                        0 => turns(5).await,
                        1 => stops.begin.raised().await,
                        2 => stops.cancel.raised().await,
                        3 => stops.abort.raised().await,
                        _ => std::future::pending().await,
                    }
                });
                obeys == 4
            });
            let hung = hung.count();
            turns(3).await;
            work.drain(&clock, Duration::from_secs(25)).await;
            assert!(work.stops.begin.is_raised() && work.stops.cancel.is_raised() && work.stops.abort.is_raised());
            turns(100).await;
            if hung == 0 {
                work.busy.none().await;
            }
            assert!(work.busy.count() >= hung);
        });
    }
}
