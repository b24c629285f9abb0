//! A backend that writes down what crosses it: which messages were received, and what became of
//! each ack, extension and send. It knows nothing of why.
//!
//! It changes one thing: the queue takes shorter delays than it could, and keeps messages for less long, so
//! that within a run events are parked on the delay queue, forwarded and sent afresh.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dawdle::Result;
use dawdle::backend::{Backend, BoxFuture, Delivery, Lane, Limits, Outgoing, Receipt, Settle, Settlement};
use serde::Deserialize;

use crate::events::Stage;
use crate::ledger::{Ledger, Record, What};
use crate::plan::{Plan, handler_called};

#[path = "../../tests/common/forward.rs"]
mod forward;
use forward::forward;

/// What the delay queue keeps free of the retention's end.
const DAY: Duration = Duration::from_secs(86_400);

/// A backend, watched.
pub(crate) struct Witness<B> {
    backend: B,
    plan: Arc<Plan>,
    ledger: Arc<Ledger>,
    in_hand: Mutex<InHand>,
}

/// What was received and has not been settled.
#[derive(Default)]
struct InHand {
    messages: HashMap<Receipt, Message>,
    /// The works of those that are on the delay queue.
    on_delay: HashSet<Work>,
}

/// An event, and the handler that a message of it is addressed to.
type Work = (u64, Option<u8>);

/// Which work a message stands for: several where it is a pack.
#[derive(Clone)]
struct Message {
    works: Arc<[Work]>,
    /// A hash of its id.
    id: u64,
}

#[derive(Deserialize)]
struct Body {
    handler: Option<String>,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    n: u64,
}

/// The work in a body.
fn works_in(body: &str) -> Vec<Work> {
    let bodies = if body.starts_with('[') {
        serde_json::from_str::<Vec<Body>>(body).unwrap_or_default()
    } else {
        serde_json::from_str(body).into_iter().collect()
    };
    let work = |body: Body| {
        let handler = body.handler.and_then(|name| u8::try_from(handler_called(&name)?).ok());
        (body.data.n, handler)
    };
    bodies.into_iter().map(work).collect()
}

/// What a message is called in the ledgers.
pub(crate) fn hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

impl<B: Backend> Witness<B> {
    pub(crate) fn new(backend: B, stage: &Stage) -> Self {
        let Stage { plan, ledger } = stage.clone();
        Witness { backend, plan, ledger, in_hand: Mutex::default() }
    }

    fn in_hand(&self) -> MutexGuard<'_, InHand> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record for each of the works of a message.
    fn records(&self, what: What, works: &[Work], id: u64, attempt: u16) -> impl Iterator<Item = Record> {
        let at = self.ledger.now();
        works.iter().map(move |(event, handler)| Record {
            what,
            handler: *handler,
            attempt,
            event: *event,
            at,
            extra: id,
        })
    }

    fn received(&self, lane: Lane, deliveries: &[Delivery]) {
        if lane == Lane::Dead {
            return;
        }
        let what = if lane == Lane::Delay { What::Found } else { What::Received };
        let mut records = Vec::with_capacity(deliveries.len());
        let mut in_hand = self.in_hand();
        for delivery in deliveries {
            let message = Message { works: works_in(&delivery.body).into(), id: hash(&delivery.message_id) };
            let count = u16::try_from(delivery.receive_count).unwrap_or(u16::MAX);
            records.extend(self.records(what, &message.works, message.id, count));
            if lane == Lane::Delay {
                in_hand.on_delay.extend(message.works.first());
            }
            in_hand.messages.insert(delivery.receipt.clone(), message);
        }
        drop(in_hand);
        self.ledger.write(&records);
    }

    fn messages<'a>(&self, receipts: impl IntoIterator<Item = &'a Receipt>) -> Vec<Option<Message>> {
        let in_hand = self.in_hand();
        receipts.into_iter().map(|receipt| in_hand.messages.get(receipt).cloned()).collect()
    }

    /// Which hops these messages are: those of what is in hand from the delay queue.
    fn hops(&self, lane: Lane, works: &[Vec<Work>]) -> Vec<Record> {
        let what = match lane {
            Lane::Message => What::Forwarded,
            Lane::Delay => What::Renewed,
            Lane::Dead => return Vec::new(),
        };
        let in_hand = self.in_hand();
        let firsts = works.iter().filter_map(|works| works.first());
        let hopped = firsts.filter(|work| in_hand.on_delay.contains(work));
        hopped.flat_map(|work| self.records(what, &[*work], 0, 0).collect::<Vec<_>>()).collect()
    }
}

/// Writes these down if the call is dropped before it has answered.
struct Unanswered<'a> {
    ledger: &'a Ledger,
    records: Vec<Record>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let at = self.ledger.now();
        self.records.iter_mut().for_each(|record| record.at = at);
        self.ledger.write(&self.records);
    }
}

impl<B: Backend> Backend for Witness<B> {
    forward!(self.backend => name, describe, usage, clock_offset_ms, learn_clock_offset, check, inspect);

    fn limits(&self) -> Limits {
        let mut limits = self.backend.limits();
        limits.delay_lane = true;
        limits.max_delay = Some(self.plan.longest_hop());
        limits.retention = Some(DAY + self.plan.longest_park());
        limits.max_in_flight = Some(self.plan.most_parked());
        limits
    }

    fn send<'a>(&'a self, lane: Lane, messages: &'a [Outgoing]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move {
            let works: Vec<_> = messages.iter().map(|message| works_in(&message.body)).collect();
            let hops = self.hops(lane, &works);
            let unsure = |works: &Vec<Work>| self.records(What::SendUnsure, works, 0, 0).collect::<Vec<_>>();
            let records = works.iter().flat_map(unsure).collect();
            let mut unanswered = Unanswered { ledger: &self.ledger, records };
            let answers = self.backend.send(lane, messages).await;
            unanswered.records.clear();
            let is_unsure = |answer: &Result<()>| answer.as_ref().is_err_and(dawdle::Error::maybe_sent);
            let failed = works.iter().zip(&answers).filter(|(_, answer)| is_unsure(answer));
            let records: Vec<_> = failed.flat_map(|(works, _)| unsure(works)).chain(hops).collect();
            self.ledger.write(&records);
            answers
        })
    }

    fn receive(&self, lane: Lane, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(async move {
            let deliveries = self.backend.receive(lane, max).await?;
            self.received(lane, &deliveries);
            Ok(deliveries)
        })
    }

    fn settle<'a>(&'a self, lane: Lane, entries: &'a [Settle]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move {
            let messages = self.messages(entries.iter().map(|entry| &entry.receipt));
            let acks = messages.iter().zip(entries).filter(|(_, entry)| entry.how == Settlement::Ack);
            let unsure = acks.filter_map(|(message, _)| message.as_ref());
            let unsure = unsure.flat_map(|message| self.records(What::AckUnsure, &message.works, message.id, 0));
            let mut unanswered = Unanswered { ledger: &self.ledger, records: unsure.collect() };
            let answers = self.backend.settle(lane, entries).await;
            unanswered.records.clear();
            let mut records = Vec::with_capacity(entries.len());
            for ((entry, message), answer) in entries.iter().zip(messages).zip(&answers) {
                let Some(message) = message else { continue };
                let what = match (entry.how, answer) {
                    (Settlement::Ack, Ok(())) => What::Acked,
                    (Settlement::Ack, Err(_)) => What::AckUnsure,
                    (Settlement::ReleaseAfter(_), _) => What::Released,
                };
                records.extend(self.records(what, &message.works, message.id, 0));
                if answer.is_ok() {
                    let mut in_hand = self.in_hand();
                    in_hand.messages.remove(&entry.receipt);
                    if lane == Lane::Delay
                        && let Some(first) = message.works.first()
                    {
                        in_hand.on_delay.remove(first);
                        if matches!(entry.how, Settlement::ReleaseAfter(span) if !span.is_zero()) {
                            records.extend(self.records(What::Parked, &[*first], message.id, 0));
                        }
                    }
                }
            }
            self.ledger.write(&records);
            answers
        })
    }

    fn extend<'a>(&'a self, lane: Lane, receipts: &'a [Receipt], lease: Duration) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move {
            let messages = self.messages(receipts);
            let failed =
                |message: &Message| self.records(What::ExtendFailed, &message.works, message.id, 0).collect::<Vec<_>>();
            let records = messages.iter().flatten().flat_map(failed).collect();
            let mut unanswered = Unanswered { ledger: &self.ledger, records };
            let answers = self.backend.extend(lane, receipts, lease).await;
            unanswered.records.clear();
            let refused = messages.iter().zip(&answers).filter(|(_, answer)| answer.is_err());
            let records: Vec<_> = refused.filter_map(|(message, _)| message.as_ref()).flat_map(failed).collect();
            self.ledger.write(&records);
            answers
        })
    }

    fn browse(&self, lane: Lane, max: usize, hold: Duration) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(async move {
            let deliveries = self.backend.browse(lane, max, hold).await?;
            self.received(lane, &deliveries);
            Ok(deliveries)
        })
    }
}
