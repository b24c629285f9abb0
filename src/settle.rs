//! Ending deliveries: acks and releases in batches, and the memory of what could not be deleted.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::backend::{Backend, BoxFuture, Lane, Receipt, Settle, Settlement};
use crate::batch::{Batcher, Pace, Work};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::retry::Backoff;
use crate::settings::Settings;
use crate::sync::{Mutex, MutexGuard};

#[cfg(test)]
mod orders;

/// Settle requests under way at once, per lane.
const AT_ONCE: usize = 128;

/// Tries of one ack. A message that stays comes again and is deleted on sight.
const TRIES: u32 = 5;
const TRY_AGAIN: Backoff = Backoff::exponential(Duration::from_millis(100), Duration::from_secs(2));

/// Settles deliveries of every lane.
#[derive(Clone)]
pub(crate) struct Settler {
    clock: Clock,
    lanes: [Batcher<SettleWork>; 3],
    /// For dead letters that somebody waits to see removed: one alone does not linger.
    removals: Batcher<SettleWork>,
    finished: Arc<Mutex<Remembered>>,
}

impl Settler {
    pub(crate) fn new(backend: Arc<dyn Backend>, clock: Clock, settings: &Settings) -> Self {
        let pace = Pace::new(&backend.limits(), settings.ack_linger, settings.ack_linger, AT_ONCE);
        let batcher =
            |lane, pace| Batcher::new(SettleWork { backend: Arc::clone(&backend), lane }, clock.clone(), pace);
        let lanes = Lane::ALL.map(|lane| batcher(lane, pace));
        let removals = batcher(Lane::Dead, Pace { linger: Duration::ZERO, ..pace });
        let finished = Arc::new(Mutex::new(Remembered::new(settings.remembered_ids)));
        Settler { clock, lanes, removals, finished }
    }

    /// Deletes a message whose work is done. If that fails, its id is remembered.
    pub(crate) async fn ack(&self, lane: Lane, message_id: &str, receipt: Receipt) {
        for attempt in 1..=TRIES {
            let error = match self.settle(lane, receipt.clone(), Settlement::Ack).await {
                Ok(()) => {
                    crate::crash::point!("ack.answered");
                    self.finished().forget(message_id);
                    return;
                }
                Err(error) => error,
            };
            crate::metrics::ack_failed(lane);
            self.remember(message_id);
            let in_vain = error.is_permanent() || error.kind() == ErrorKind::LeaseLost;
            if in_vain || attempt == TRIES {
                tracing::warn!(
                    "message {message_id} is handled but could not be deleted; it will be on sight: {error}"
                );
                return;
            }
            self.clock.sleep(TRY_AGAIN.delay(attempt, fastrand::f64())).await;
        }
    }

    /// Gives a message back, to be received again after `delay`. A failure leaves it to the end of
    /// its lease.
    pub(crate) async fn release(&self, lane: Lane, message_id: &str, receipt: Receipt, delay: Duration) {
        if let Err(error) = self.settle(lane, receipt, Settlement::ReleaseAfter(delay)).await {
            tracing::warn!("message {message_id} was not given back; its lease will end by itself: {error}");
        }
        crate::crash::point!("release.answered");
    }

    /// Deletes a dead letter; those that are removed side by side share requests.
    pub(crate) async fn remove(&self, receipt: Receipt) -> Result<()> {
        let answer = self.removals.answer(Settle { receipt, how: Settlement::Ack }).await;
        answer.unwrap_or_else(|| Err(Error::new(ErrorKind::Unavailable, "the request broke off")))
    }

    async fn settle(&self, lane: Lane, receipt: Receipt, how: Settlement) -> Result<()> {
        let answer = self.lanes[lane as usize].answer(Settle { receipt, how }).await;
        answer.unwrap_or_else(|| Err(Error::new(ErrorKind::Unavailable, "the request broke off")))
    }

    /// Remembers a message as finished, to be deleted on sight.
    pub(crate) fn remember(&self, message_id: &str) {
        self.finished().insert(message_id);
    }

    /// Whether the message is one that is finished and could not be deleted.
    pub(crate) fn is_finished(&self, message_id: &str) -> bool {
        self.finished().ids.contains_key(message_id)
    }

    /// Sends everything that waits, and waits for the answers.
    pub(crate) async fn flush(&self) {
        for lane in &self.lanes {
            lane.flush().await;
        }
    }

    fn finished(&self) -> MutexGuard<'_, Remembered> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Message ids, the oldest forgotten when there are too many.
struct Remembered {
    /// Each with its turn.
    ids: HashMap<String, u64>,
    order: BTreeMap<u64, String>,
    turns: u64,
    limit: usize,
}

impl Remembered {
    fn new(limit: usize) -> Self {
        Remembered { ids: HashMap::new(), order: BTreeMap::new(), turns: 0, limit }
    }

    fn insert(&mut self, id: &str) {
        if self.ids.contains_key(id) {
            return;
        }
        self.turns += 1;
        self.ids.insert(id.to_owned(), self.turns);
        self.order.insert(self.turns, id.to_owned());
        while self.order.len() > self.limit {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.ids.remove(&oldest);
            tracing::warn!("more than {} finished messages could not be deleted; forgetting {oldest}", self.limit);
        }
    }

    fn forget(&mut self, id: &str) {
        if let Some(turn) = self.ids.remove(id) {
            self.order.remove(&turn);
        }
    }
}

struct SettleWork {
    backend: Arc<dyn Backend>,
    lane: Lane,
}

impl Work for SettleWork {
    type Item = Settle;
    type Answer = Result<()>;

    /// How many more entries there is room for.
    type Load = usize;

    fn begin(&self) -> usize {
        self.backend.limits().max_batch_entries.max(1)
    }

    fn add(&self, left: &mut usize, _: &Settle) -> bool {
        let fits = *left > 0;
        *left = left.saturating_sub(1);
        fits
    }

    fn is_full(&self, left: &usize) -> bool {
        *left == 0
    }

    fn skips_abandoned(&self) -> bool {
        false
    }

    fn run(&self, entries: Vec<Settle>) -> BoxFuture<'_, Vec<Result<()>>> {
        Box::pin(async move {
            crate::crash::point!("settle.before");
            crate::metrics::batch(self.lane, "settle", entries.len());
            let mut answers = self.backend.settle(self.lane, &entries).await;
            crate::crash::point!("settle.after");
            answers
                .resize_with(entries.len(), || Err(Error::new(ErrorKind::Unavailable, "the entry was not answered")));
            answers
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_ids_are_bounded_and_the_oldest_goes_first() {
        let mut remembered = Remembered::new(2);
        for id in ["a", "b", "b", "c"] {
            remembered.insert(id);
        }
        let ids = |remembered: &Remembered| remembered.order.values().cloned().collect::<Vec<_>>();
        assert_eq!(ids(&remembered), ["b", "c"]);
        remembered.forget("b");
        remembered.forget("b");
        assert_eq!(ids(&remembered), ["c"]);
        // One that is remembered anew is the newest.
        remembered.insert("b");
        remembered.insert("d");
        assert_eq!(ids(&remembered), ["b", "d"]);
        assert_eq!(remembered.ids.len(), 2);
    }
}
