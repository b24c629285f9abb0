//! A backend that writes down what crosses it: which messages were received, and what became of
//! each ack, extension and send. It changes nothing, and knows nothing of why.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dawdle::Result;
use dawdle::backend::{Backend, BoxFuture, Delivery, Lane, Outgoing, Receipt, Settle, Settlement};
use serde::Deserialize;

use crate::ledger::{Ledger, Record, What};
use crate::plan::handler_called;

#[path = "../../tests/common/forward.rs"]
mod forward;
use forward::forward;

/// A backend, watched.
pub(crate) struct Witness<B> {
    backend: B,
    ledger: Arc<Ledger>,
    /// What was received and has not been settled, by its receipt.
    in_hand: Mutex<HashMap<Receipt, Message>>,
}

/// Which work a message stands for.
#[derive(Clone, Copy)]
struct Message {
    event: u64,
    handler: Option<u8>,
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

/// The event in a body, and the handler that it is addressed to.
fn work_in(body: &str) -> Option<(u64, Option<u8>)> {
    let body: Body = serde_json::from_str(body).ok()?;
    let handler = body.handler.and_then(|name| u8::try_from(handler_called(&name)?).ok());
    Some((body.data.n, handler))
}

fn hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

impl<B: Backend> Witness<B> {
    pub(crate) fn new(backend: B, ledger: Arc<Ledger>) -> Self {
        Witness { backend, ledger, in_hand: Mutex::default() }
    }

    fn in_hand(&self) -> MutexGuard<'_, HashMap<Receipt, Message>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, what: What, message: Message, attempt: u16) -> Record {
        let Message { event, handler, id } = message;
        Record { what, handler, attempt, event, at: self.ledger.now(), extra: id }
    }

    fn received(&self, lane: Lane, deliveries: &[Delivery]) {
        if lane == Lane::Dead {
            return;
        }
        let mut records = Vec::with_capacity(deliveries.len());
        let mut in_hand = self.in_hand();
        for delivery in deliveries {
            let Some((event, handler)) = work_in(&delivery.body) else { continue };
            let message = Message { event, handler, id: hash(&delivery.message_id) };
            let count = u16::try_from(delivery.receive_count).unwrap_or(u16::MAX);
            records.push(self.record(What::Received, message, count));
            in_hand.insert(delivery.receipt.clone(), message);
        }
        drop(in_hand);
        self.ledger.write(&records);
    }

    fn messages<'a>(&self, receipts: impl IntoIterator<Item = &'a Receipt>) -> Vec<Option<Message>> {
        let in_hand = self.in_hand();
        receipts.into_iter().map(|receipt| in_hand.get(receipt).copied()).collect()
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
    forward!(self.backend => name, describe, limits, usage, clock_offset_ms, learn_clock_offset, check, inspect);

    fn send<'a>(&'a self, lane: Lane, messages: &'a [Outgoing]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move {
            let work: Vec<_> = messages.iter().map(|message| work_in(&message.body)).collect();
            let unsure = |work: &Option<(u64, Option<u8>)>| {
                let (event, handler) = (*work)?;
                Some(self.record(What::SendUnsure, Message { event, handler, id: 0 }, 0))
            };
            let records = work.iter().filter_map(unsure).collect();
            let mut unanswered = Unanswered { ledger: &self.ledger, records };
            let answers = self.backend.send(lane, messages).await;
            unanswered.records.clear();
            let failed = |(work, answer): (_, &Result<()>)| match answer {
                Err(error) if error.maybe_sent() => unsure(work),
                _ => None,
            };
            let records: Vec<_> = work.iter().zip(&answers).filter_map(failed).collect();
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
            let unsure: Vec<Record> = messages
                .iter()
                .zip(entries)
                .filter(|(_, entry)| entry.how == Settlement::Ack)
                .filter_map(|(message, _)| Some(self.record(What::AckUnsure, (*message)?, 0)))
                .collect();
            let mut unanswered = Unanswered { ledger: &self.ledger, records: unsure };
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
                records.push(self.record(what, message, 0));
                if answer.is_ok() {
                    self.in_hand().remove(&entry.receipt);
                }
            }
            self.ledger.write(&records);
            answers
        })
    }

    fn extend<'a>(&'a self, lane: Lane, receipts: &'a [Receipt], lease: Duration) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move {
            let messages = self.messages(receipts);
            let failed = |message: &Option<Message>| Some(self.record(What::ExtendFailed, (*message)?, 0));
            let records = messages.iter().filter_map(failed).collect();
            let mut unanswered = Unanswered { ledger: &self.ledger, records };
            let answers = self.backend.extend(lane, receipts, lease).await;
            unanswered.records.clear();
            let refused = messages.iter().zip(&answers).filter(|(_, answer)| answer.is_err());
            let records: Vec<_> = refused.filter_map(|(message, _)| failed(message)).collect();
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
