//! Keeping what was received leased until it is settled: [`Leases`].
//!
//! Every delivery, waiting or running, is in one table, by its message's id. A keeper sweeps the
//! table a few times per lease and extends what has spent a third of its own, in batches. It runs
//! on a thread of its own, so that a handler that blocks its thread starves no lease. A delivery
//! leaves the table, any extension of it awaited, before it is settled: so nothing extends what
//! has been given back.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::{Backend, Delivery, Lane, Receipt};
use crate::clock::{Clock, Latch, guarded};
use crate::error::ErrorKind;
use crate::sync::{Mutex, MutexGuard, Notify};

/// Sweeps per lease.
const SWEEPS: u32 = 6;

/// What an extension leaves free of the backend's longest lease.
const WALL_MARGIN: Duration = Duration::from_secs(5);

/// The table of leased deliveries.
#[derive(Clone)]
pub(crate) struct Leases(Arc<Shared>);

struct Shared {
    backend: Arc<dyn Backend>,
    clock: Clock,
    table: Mutex<HashMap<String, Lease>>,
    /// Woken when the table is no longer empty: every keeper, for one may be about to stop.
    work: Notify,
    /// Woken when extensions have been answered.
    answered: Notify,
}

struct Lease {
    lane: Lane,
    receipt: Receipt,
    span: Duration,
    received: Instant,
    ends: Instant,
    /// An extension of it is under way.
    extending: bool,
    /// Raised once it has been lost, for whoever works on it.
    lost: Latch,
    /// It was lost, and the message came to this node again: nobody else has it.
    regained: bool,
}

impl Lease {
    fn is_held(&self) -> bool {
        self.regained || !self.lost.is_raised()
    }
}

/// What [`Leases::insert`] found.
pub(crate) enum Inserted {
    /// It is new here; the latch is raised if its lease is lost.
    New(Latch),
    /// The same message is being worked on here: its lease ran out, and it came again. The table
    /// has taken over the newer receipt.
    Known,
}

impl Leases {
    pub(crate) fn new(backend: Arc<dyn Backend>, clock: Clock) -> Self {
        Leases(Arc::new(Shared {
            backend,
            clock,
            table: Mutex::new(HashMap::new()),
            work: Notify::new(),
            answered: Notify::new(),
        }))
    }

    /// Enters a delivery that was received just now.
    pub(crate) fn insert(&self, lane: Lane, delivery: &Delivery) -> Inserted {
        let now = self.0.clock.instant();
        let mut table = self.0.lock();
        let was_empty = table.is_empty();
        if let Some(known) = table.get_mut(&delivery.message_id) {
            known.receipt = delivery.receipt.clone();
            known.received = now;
            known.ends = now + delivery.lease;
            known.regained = known.lost.is_raised();
            return Inserted::Known;
        }
        let lost = Latch::default();
        let lease = Lease {
            lane,
            receipt: delivery.receipt.clone(),
            span: delivery.lease,
            received: now,
            ends: now + delivery.lease,
            extending: false,
            lost: lost.clone(),
            regained: false,
        };
        table.insert(delivery.message_id.clone(), lease);
        drop(table);
        if was_empty {
            self.0.work.notify_waiters();
        }
        Inserted::New(lost)
    }

    /// Until when the lease of a message can be extended at most, if there is a limit.
    pub(crate) fn wall(&self, message_id: &str) -> Option<Instant> {
        let max_lease = self.0.backend.limits().max_lease?;
        let received = self.0.lock().get(message_id)?.received;
        Some(received + max_lease.saturating_sub(WALL_MARGIN))
    }

    /// Whether the message is this node's to settle.
    pub(crate) fn is_held(&self, message_id: &str) -> bool {
        self.0.lock().get(message_id).is_some_and(Lease::is_held)
    }

    /// Takes a delivery out, once no extension of it is under way; yields its newest receipt.
    pub(crate) async fn remove(&self, message_id: &str) -> Option<Receipt> {
        loop {
            let answered = self.0.answered.notified();
            {
                let mut table = self.0.lock();
                if !table.get(message_id)?.extending {
                    return table.remove(message_id).map(|lease| lease.receipt);
                }
            }
            answered.await;
        }
    }

    /// Extends leases until `stop`.
    pub(crate) async fn keep(&self, stop: Latch) {
        loop {
            // From before the look on, so that what comes after it is not missed.
            let work = self.0.work.notified();
            let next = {
                let table = self.0.lock();
                table.values().map(|lease| lease.span / SWEEPS).min()
            };
            match next {
                Some(pause) => {
                    if self.0.clock.timeout(pause, stop.raised()).await.is_some() {
                        return;
                    }
                    self.sweep().await;
                }
                None => tokio::select! {
                    biased;
                    () = work => {}
                    () = stop.raised() => return,
                },
            }
        }
    }

    /// Extends what has spent a third of its lease; gives up what can no longer be extended.
    async fn sweep(&self) {
        let now = self.0.clock.instant();
        let limits = self.0.backend.limits();
        let mut due: HashMap<(Lane, Duration), Vec<(String, Receipt)>> = HashMap::new();
        let mut lost = Vec::new();
        for (id, lease) in self.0.lock().iter_mut() {
            // One that another keeper is extending is that keeper's.
            if !lease.is_held() || lease.extending {
                continue;
            }
            if now >= lease.ends {
                lease.regained = false;
                crate::metrics::lease_lost(lease.lane);
                lost.push(lease.lost.clone());
            } else if now + lease.span * 2 / 3 >= lease.ends
                && let Some(span) = extension(lease, now, limits.max_lease)
            {
                lease.extending = true;
                due.entry((lease.lane, span)).or_default().push((id.clone(), lease.receipt.clone()));
            }
        }
        lost.iter().for_each(Latch::raise);
        let batches = due.into_iter().flat_map(|((lane, span), leases)| {
            let batches: Vec<_> = leases.chunks(limits.max_batch_entries.max(1)).map(<[_]>::to_vec).collect();
            batches.into_iter().map(move |batch| (lane, span, Extending { leases: self, batch }))
        });
        // All of them at once, so that each is unmarked whatever becomes of the others.
        let batches: Vec<_> = batches.collect();
        let extended = batches.into_iter().map(|(lane, span, batch)| self.extend(lane, span, batch));
        futures_util::future::join_all(extended).await;
    }

    async fn extend(&self, lane: Lane, span: Duration, extending: Extending<'_>) {
        let asked = self.0.clock.instant();
        let receipts: Vec<Receipt> = extending.batch.iter().map(|(_, receipt)| receipt.clone()).collect();
        // A backend that panics, even before it begins to wait, is one that does not answer.
        let answered = guarded("extending leases", async { self.0.backend.extend(lane, &receipts, span).await });
        // An answer that takes longer is no use: the next sweep asks again.
        crate::crash::point!("extend.before");
        let answers = self.0.clock.timeout(span / 3, answered).await.flatten().unwrap_or_default();
        crate::crash::point!("extend.after");
        let mut lost = Vec::new();
        {
            let mut table = self.0.lock();
            for (at, (id, receipt)) in extending.batch.iter().enumerate() {
                let Some(lease) = table.get_mut(id) else { continue };
                match answers.get(at) {
                    // A newer receive has set its own end.
                    _ if lease.receipt != *receipt => {}
                    Some(Ok(())) => lease.ends = asked + span,
                    Some(Err(error)) if error.kind() == ErrorKind::LeaseLost => {
                        tracing::warn!("the lease of message {id} is lost: {error}");
                        lease.regained = false;
                        crate::metrics::lease_lost(lane);
                        lost.push(lease.lost.clone());
                    }
                    Some(Err(error)) => tracing::warn!("the lease of message {id} was not extended: {error}"),
                    None => tracing::warn!("the lease of message {id} was not extended: no answer"),
                }
            }
        }
        lost.iter().for_each(Latch::raise);
        crate::metrics::leases_extended(lane, answers.iter().filter(|answer| answer.is_ok()).count());
    }
}

/// Leases that are being extended: marked as such until this is dropped, also when the keeper's
/// runtime ends under it.
struct Extending<'a> {
    leases: &'a Leases,
    batch: Vec<(String, Receipt)>,
}

impl Drop for Extending<'_> {
    fn drop(&mut self) {
        let shared = &self.leases.0;
        {
            let mut table = shared.lock();
            for (id, _) in &self.batch {
                if let Some(lease) = table.get_mut(id) {
                    lease.extending = false;
                }
            }
        }
        shared.answered.notify_waiters();
    }
}

/// By how much a lease can be extended now, if it can.
fn extension(lease: &Lease, now: Instant, max_lease: Option<Duration>) -> Option<Duration> {
    let Some(max_lease) = max_lease else { return Some(lease.span) };
    let wall = (lease.received + max_lease).saturating_duration_since(now + WALL_MARGIN);
    let span = Duration::from_secs(lease.span.min(wall).as_secs());
    // Near the wall an extension would shorten the lease.
    (now + span > lease.ends).then_some(span)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Lease>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs [`Leases::keep`] on a thread of its own; under a virtual clock, as a task.
pub(crate) fn start_keeper(leases: &Leases, stop: &Latch) {
    let (leases, stop) = (leases.clone(), stop.clone());
    let clock = leases.0.clock.clone();
    if clock.is_virtual() {
        clock.spawn(async move { leases.keep(stop).await });
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let thread = std::thread::Builder::new().name("dawdle-leases".into());
    let fallback = (leases.clone(), stop.clone());
    let started = runtime.and_then(|runtime| thread.spawn(move || runtime.block_on(leases.keep(stop))));
    if let Err(error) = started {
        tracing::error!("leases are kept without a thread of their own: {error}");
        clock.spawn(async move { fallback.0.keep(fallback.1).await });
    }
}

#[cfg(test)]
mod orders;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VirtualClock;
    use crate::backend::Outgoing;
    use crate::backend::memory::MemoryBackend;
    use std::time::SystemTime;

    /// A listener that was stopped and one that was started in its place, each with a keeper.
    #[tokio::test]
    async fn a_keeper_that_stops_takes_no_work_from_the_one_that_stays() {
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH);
        let clock = Clock::from_virtual(time.clone());
        let backend = MemoryBackend::new(clock.clone());
        let leases = Leases::new(Arc::new(backend.clone()), clock);
        let (first, second) = (Latch::default(), Latch::default());
        start_keeper(&leases, &first);
        start_keeper(&leases, &second);
        time.settle().await;

        backend.send(Lane::Message, &[Outgoing::new("a")]).await.remove(0).unwrap();
        let delivery = backend.receive(Lane::Message, 1).await.unwrap().remove(0);
        leases.insert(Lane::Message, &delivery);
        first.raise();
        time.advance(Duration::from_secs(120)).await;
        assert_eq!(backend.inspect(Lane::Message).await.unwrap().visible, 0, "the lease has run out");
        second.raise();
        time.settle().await;
    }
}
