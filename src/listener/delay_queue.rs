//! The listener's looks at the delay queue, where handlers never run: every few minutes, and on while
//! they find something. Each message found is forwarded, parked or sent afresh, as `delay` decides.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tracing::{Instrument, Span};

use super::{Listener, Told, copied_to, told};
use crate::backend::{Backend, Delivery, Lane, Limits};
use crate::clock::{guarded, jittered};
use crate::delay::{self, Hop, Parked};
use crate::error::Result;

/// So many messages found on the delay queue make its in-flight count worth a request.
const A_CROWD: u64 = 100;

/// Looks at the delay queue under way at once, while they find something.
const LOOKS_AT_ONCE: usize = 8;

/// What earlier looks at the delay queue have found.
#[derive(Default)]
struct Crowd {
    /// Messages since the last count.
    seen: AtomicU64,
    in_flight: AtomicU64,
}

impl Crowd {
    /// Whether the messages in flight are to be counted, now that so many more were found.
    fn wants_a_count(&self, found: usize, limits: &Limits) -> bool {
        let seen = self.seen.fetch_add(found as u64, Ordering::Relaxed) + found as u64;
        // At the quota a look finds nothing and nothing says why; so a crowd is counted then, too.
        let crowded = self.in_flight.load(Ordering::Relaxed) >= delay::spill_at(limits) / 2;
        let wants = seen >= A_CROWD || (crowded && found == 0);
        if wants {
            self.seen.store(0, Ordering::Relaxed);
        }
        wants
    }
}

impl Listener {
    /// Looks at the delay queue every few minutes, and drains it while it answers.
    pub(super) async fn look_at_delays(&self) {
        let stop = &self.work.stops.begin;
        let crowd = Crowd::default();
        while !stop.is_raised() {
            let looked = guarded("a look at the delay queue", self.drain_delays(&crowd)).await;
            let pause = match looked {
                Some(Err(error)) => self.engine.failed(Lane::Delay, &error),
                Some(Ok(())) | None => jittered(self.engine.settings.delay_poll),
            };
            if self.engine.clock.timeout(pause, stop.raised()).await.is_some() {
                return;
            }
        }
    }

    /// Looks until nothing more is found: several looks at once as soon as one is full.
    async fn drain_delays(&self, crowd: &Crowd) -> Result<()> {
        let max = self.engine.backend.limits().max_batch_entries;
        let mut found = self.look(crowd).await?;
        while (1..max).contains(&found) {
            found = self.look(crowd).await?;
        }
        if found == 0 {
            return Ok(());
        }
        let look_on = async || -> Result<()> {
            while self.look(crowd).await? > 0 {}
            Ok(())
        };
        let looks = futures_util::future::join_all((0..LOOKS_AT_ONCE).map(|_| look_on())).await;
        looks.into_iter().collect()
    }

    /// One look at the delay queue, and the hops of what it found; says how many that were.
    async fn look(&self, crowd: &Crowd) -> Result<usize> {
        if self.work.stops.begin.is_raised() {
            return Ok(0);
        }
        let engine = &self.engine;
        let limits = engine.backend.limits();
        let received = engine.clock.now();
        let span = engine.tracer.receive(Lane::Delay);
        let looked = engine.backend.browse(Lane::Delay, limits.max_batch_entries, limits.lease);
        let found = looked.instrument(span.clone()).await?;
        span.record("messaging.batch.message_count", found.len());
        drop(span);
        engine.monitor.received(Lane::Delay, engine.clock.now());
        crate::metrics::received(Lane::Delay, found.len());
        if crowd.wants_a_count(found.len(), &limits) {
            self.count(crowd, &limits).await;
        }
        if found.is_empty() {
            return Ok(0);
        }
        crate::crash::point!("look.found");
        let (count, in_flight) = (found.len(), crowd.in_flight.load(Ordering::Relaxed));
        let hops = found.into_iter().map(|delivery| self.hop(delivery, received, in_flight));
        futures_util::future::join_all(hops).await;
        Ok(count)
    }

    /// Counts the messages in flight. A count that fails leaves the last: what was found is in hand already.
    async fn count(&self, crowd: &Crowd, limits: &Limits) {
        let in_flight = match self.engine.backend.inspect(Lane::Delay).await {
            Ok(counts) => counts.in_flight,
            Err(error) => return tracing::warn!("the messages in flight on the delay queue are not known: {error}"),
        };
        crowd.in_flight.store(in_flight, Ordering::Relaxed);
        if limits.max_in_flight.is_some_and(|max| in_flight >= max) {
            tracing::error!("the delay queue has {in_flight} messages in flight, its quota: events on it may be late");
        }
    }

    /// One hop of one message. If it fails the message stays, and is seen again after its lease.
    async fn hop(&self, delivery: Delivery, received: SystemTime, in_flight: u64) {
        let engine = &self.engine;
        if engine.settler.is_finished(&delivery.message_id) {
            // Forwarded before, and not deleted.
            crate::crash::point!("hop.finished");
            engine.settler.ack(Lane::Delay, &delivery.message_id, delivery.receipt).await;
            return;
        }
        let now = engine.clock.now();
        let age = delay::until(delivery.enqueued_at, now);
        if delivery.receive_count > delay::most_receives(age, engine.settings.max_receives, &engine.backend.limits()) {
            // The message queue has turns for such, and sends back what is innocent.
            tracing::warn!("message {} is forwarded unread: it was received too often here", delivery.message_id);
            self.hop_to(Lane::Message, (None, None), delivery).await;
            return;
        }
        let Told { due, group, first } = told(&delivery);
        let parked = Parked { due: due.unwrap_or(now), enqueued: delivery.enqueued_at, received };
        let hop = delay::next_hop(now, parked, in_flight, &engine.backend.limits());
        let (what, lane) = match hop {
            Hop::Park(_) => ("park", Lane::Delay),
            Hop::Forward => ("forward", Lane::Message),
            Hop::Renew => ("renew", Lane::Delay),
        };
        let span = first.map_or_else(Span::none, |event| engine.tracer.hop(what, lane, &event));
        let hopped = async {
            if let Hop::Park(for_how_long) = hop {
                crate::crash::point!("hop.park.before");
                engine.settler.release(lane, &delivery.message_id, delivery.receipt, for_how_long).await;
                crate::crash::point!("hop.park.after");
                return;
            }
            crate::crash::point!("hop.{lane:?}.before");
            self.hop_to(lane, (due, group), delivery).await;
            crate::crash::point!("hop.{lane:?}.acked");
        };
        hopped.instrument(span).await;
    }

    /// Replaces a message of the delay queue by one on `lane`. What can never be put there becomes a dead
    /// letter: it would be seen again and again, and be gone when its retention ends.
    async fn hop_to(&self, lane: Lane, due_and_group: (Option<SystemTime>, Option<String>), delivery: Delivery) {
        let engine = &self.engine;
        let gone = match engine.sender.send(copied_to(lane, &delivery, due_and_group)).await {
            Ok(()) => {
                crate::crash::point!("hop.{lane:?}.sent");
                true
            }
            Err(error) if error.is_permanent() => {
                self.write(engine.dispatcher.unsendable(&delivery, &error), &delivery).await
            }
            Err(error) => {
                let id = &delivery.message_id;
                if delay::is_about_to_end(engine.clock.now(), delivery.enqueued_at, &engine.backend.limits()) {
                    tracing::error!(
                        "message {id} has been on the delay queue for {:?}, cannot leave it, and is LOST when its \
                         retention ends: {error}",
                        delay::until(delivery.enqueued_at, engine.clock.now())
                    );
                } else {
                    tracing::warn!("message {id} stays on the delay queue, to be seen again: {error}");
                }
                false
            }
        };
        if gone {
            engine.settler.ack(Lane::Delay, &delivery.message_id, delivery.receipt).await;
        }
    }
}
