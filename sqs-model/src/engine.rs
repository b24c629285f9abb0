//! The queues, and what each action does to them.
//!
//! All queues stand behind one lock, which is held for as long as it takes to change them:
//! requests are read, and answers written, outside of it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dawdle::backend::Limits;
use dawdle::backend::memory::model::{Ask, Choice, Handle, Leased, Queue, Unhidden};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::Options;
use crate::attributes::{ARN_PREFIX, Attributes};
use crate::content::{Attribute, Content, Id, attributes_md5};
use crate::counts::{Action, Counts, QueueStats};
use crate::faults::Chance;
use crate::moves::Move;
use crate::refusal::{self, Refusal};
use crate::wire::{
    self, Batch, BatchAnswer, Done, Entry, Failed, Message, OfReceipt, ReceiptHandle, ReceivedMessage, Sent,
    SystemAttribute,
};

/// The most entries of a batch, and the most messages of a receive.
const MAX_ENTRIES: usize = 10;

/// For how long a queue cannot be purged again:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_PurgeQueue.html>
const PURGE_TAKES: Duration = Duration::from_secs(60);

/// What is done, answered in JSON.
type Answer = Result<Vec<u8>, Refusal>;

pub(crate) struct Engine {
    port: u16,
    seed: u64,
    clock_ahead_ms: AtomicI64,
    max_in_flight: u64,
    recreate_after: Duration,
    numbers: AtomicU64,
    state: Mutex<State>,
    /// Tells the one that watches hidden messages that one of them is due earlier than it knows.
    sooner: Notify,
}

pub(crate) struct State {
    pub(crate) queues: HashMap<Box<str>, Kept>,
    deleted: HashMap<Box<str>, Instant>,
    pub(crate) counts: Counts,
    pub(crate) chance: Chance,
    pub(crate) moves: Vec<Move>,
    /// The messages that faults have handed out once more than they should have been.
    pub(crate) twice: HashSet<Id>,
    /// When the watch looks at hidden messages again; `None` where nobody waits for any.
    looks_at: Option<SystemTime>,
}

/// A queue.
pub(crate) struct Kept {
    pub(crate) name: Box<str>,
    number: u64,
    pub(crate) arn: Arc<str>,
    pub(crate) attributes: Attributes,
    pub(crate) limits: Limits,
    pub(crate) queue: Queue<Content>,
    line: Arc<Line>,
    created_at: SystemTime,
    modified_at: SystemTime,
    purged_at: Option<Instant>,
}

/// Those who wait for a message of one queue.
#[derive(Default)]
struct Line {
    arrival: Arc<Notify>,
    length: AtomicUsize,
}

/// A place in a line, given up when it is dropped.
struct Place(Arc<Line>);

impl Place {
    fn take(line: &Arc<Line>) -> Place {
        line.length.fetch_add(1, Ordering::Relaxed);
        Place(line.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.length.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Engine {
    pub(crate) fn new(options: &Options, port: u16) -> Engine {
        Engine {
            port,
            seed: options.seed,
            clock_ahead_ms: AtomicI64::new(options.clock_ahead_ms),
            max_in_flight: options.max_in_flight,
            recreate_after: options.recreate_after,
            numbers: AtomicU64::new(0),
            state: Mutex::new(State {
                queues: HashMap::new(),
                deleted: HashMap::new(),
                counts: Counts::default(),
                chance: Chance::new(options.seed),
                moves: Vec::new(),
                twice: HashSet::new(),
                looks_at: None,
            }),
            sooner: Notify::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time, as the endpoint tells it.
    pub(crate) fn now(&self) -> SystemTime {
        let ahead_ms = self.clock_ahead_ms();
        let ahead = Duration::from_millis(ahead_ms.unsigned_abs());
        let now = SystemTime::now();
        let shown = if ahead_ms < 0 { now.checked_sub(ahead) } else { now.checked_add(ahead) };
        shown.unwrap_or(now)
    }

    pub(crate) fn clock_ahead_ms(&self) -> i64 {
        self.clock_ahead_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn set_clock_ahead_ms(&self, ahead_ms: i64) {
        self.clock_ahead_ms.store(ahead_ms, Ordering::Relaxed);
        // What was hidden may be due now.
        self.sooner.notify_one();
    }

    /// An identifier that no other is equal to.
    pub(crate) fn new_id(&self) -> Id {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        Id::of(fastrand::Rng::with_seed(self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).u128(..))
    }

    fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/000000000000/{name}", self.port)
    }

    pub(crate) fn stats(&self, name: &str) -> Option<QueueStats> {
        let now = self.now();
        let mut state = self.lock();
        let kept = state.queues.get_mut(name)?;
        kept.queue.move_on(&kept.limits, now);
        let stats = kept.queue.stats(now);
        Some(QueueStats {
            visible: stats.visible,
            in_flight: stats.in_flight,
            delayed: stats.delayed,
            most_in_flight: kept.queue.most_leased(),
        })
    }

    /// Does what a request asks for.
    pub(crate) async fn act(self: &Arc<Self>, action: Action, body: &[u8]) -> Answer {
        self.lock().counts.count(action);
        match action {
            Action::CreateQueue => self.create_queue(read(body)?),
            Action::DeleteQueue => self.delete_queue(read(body)?),
            Action::GetQueueUrl => self.get_queue_url(read(body)?),
            Action::ListQueues => self.list_queues(read(body)?),
            Action::GetQueueAttributes => self.get_queue_attributes(read(body)?),
            Action::SetQueueAttributes => self.set_queue_attributes(read(body)?),
            Action::PurgeQueue => self.purge_queue(read(body)?),
            Action::SendMessage => self.send_message(read(body)?),
            Action::SendMessageBatch => self.send_message_batch(read(body)?),
            Action::ReceiveMessage => self.receive_message(read(body)?).await,
            Action::DeleteMessage => self.delete_message(read(body)?),
            Action::DeleteMessageBatch => self.delete_message_batch(read(body)?),
            Action::ChangeMessageVisibility => self.change_visibility(read(body)?),
            Action::ChangeMessageVisibilityBatch => self.change_visibility_batch(read(body)?),
            Action::StartMessageMoveTask => self.start_move(read(body)?),
            Action::ListMessageMoveTasks => self.list_moves(read(body)?),
            Action::CancelMessageMoveTask => self.cancel_move(read(body)?),
        }
    }

    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html>
    fn create_queue(&self, request: wire::CreateQueue<'_>) -> Answer {
        let name = request.queue_name;
        if name.is_empty() {
            return Err(Refusal::missing("QueueName"));
        }
        if name.len() > 80 || !is_name(&name) {
            let reason = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length";
            return Err(Refusal::value(name, "QueueName", reason));
        }
        let attributes = Attributes::default().with(&request.attributes)?;
        let now = self.now();
        let mut state = self.lock();
        let state = &mut *state;
        match state.queues.get(&*name) {
            Some(kept) if kept.attributes.with(&request.attributes)? != kept.attributes => {
                let message = "A queue already exists with the same name and a different value for an attribute.";
                return Err(Refusal::new(&refusal::QUEUE_NAME_EXISTS, message));
            }
            Some(_) => {}
            None => {
                state.check_redrive(&attributes)?;
                if state.deleted.get(&*name).is_some_and(|at| at.elapsed() < self.recreate_after) {
                    let message = format!(
                        "You must wait {} seconds after deleting a queue before you can create another with the same \
                         name.",
                        self.recreate_after.as_secs()
                    );
                    return Err(Refusal::new(&refusal::QUEUE_DELETED_RECENTLY, message));
                }
                state.deleted.remove(&*name);
                let kept = Kept {
                    name: (*name).into(),
                    number: self.numbers.fetch_add(1, Ordering::Relaxed),
                    arn: format!("{ARN_PREFIX}{name}").into(),
                    limits: attributes.limits(self.max_in_flight),
                    attributes,
                    queue: Queue::default(),
                    line: Arc::default(),
                    created_at: now,
                    modified_at: now,
                    purged_at: None,
                };
                state.queues.insert((*name).into(), kept);
            }
        }
        write(&wire::QueueUrl { queue_url: self.url(&name) })
    }

    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_DeleteQueue.html>
    fn delete_queue(&self, request: wire::OfQueue<'_>) -> Answer {
        let mut state = self.lock();
        let name = state.named(&request.queue_url)?.name.clone();
        if let Some(kept) = state.queues.remove(&name) {
            kept.line.arrival.notify_waiters();
        }
        state.deleted.insert(name, Instant::now());
        nothing()
    }

    fn get_queue_url(&self, request: wire::GetQueueUrl<'_>) -> Answer {
        if !self.lock().queues.contains_key(&*request.queue_name) {
            return Err(no_queue());
        }
        write(&wire::QueueUrl { queue_url: self.url(&request.queue_name) })
    }

    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ListQueues.html>
    fn list_queues(&self, request: wire::ListQueues<'_>) -> Answer {
        let most = match request.max_results {
            Some(most @ 1..=1000) => usize::try_from(most).unwrap_or(1000),
            Some(most) => {
                return Err(Refusal::value(most, "MaxResults", "MaxResults must be an integer between 1 and 1000."));
            }
            None => 1000,
        };
        let mut names: Vec<Box<str>> = self.lock().queues.keys().cloned().collect();
        names.retain(|name| name.starts_with(&*request.queue_name_prefix) && **name > *request.next_token);
        names.sort_unstable();
        let next = request.max_results.filter(|_| names.len() > most).and_then(|_| names.get(most - 1).cloned());
        names.truncate(most);
        write(&wire::QueueUrls {
            queue_urls: names.iter().map(|name| self.url(name)).collect(),
            next_token: next.map(String::from),
        })
    }

    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html>
    fn get_queue_attributes(&self, request: wire::GetQueueAttributes<'_>) -> Answer {
        let names = request.attribute_names;
        if let Some(unknown) = names.iter().find(|name| !Attributes::is_known(name)) {
            return Err(Refusal::new(&refusal::INVALID_ATTRIBUTE_NAME, format!("Unknown Attribute {unknown}.")));
        }
        let now = self.now();
        let mut state = self.lock();
        let kept = state.named(&request.queue_url)?;
        kept.queue.move_on(&kept.limits, now);
        let stats = kept.queue.stats(now);
        let mut attributes = kept.attributes.shown();
        let seconds = |time: SystemTime| since_1970(time).as_secs().to_string();
        attributes.extend([
            ("QueueArn", kept.arn.to_string()),
            ("ApproximateNumberOfMessages", stats.visible.to_string()),
            ("ApproximateNumberOfMessagesNotVisible", stats.in_flight.to_string()),
            ("ApproximateNumberOfMessagesDelayed", stats.delayed.to_string()),
            ("CreatedTimestamp", seconds(kept.created_at)),
            ("LastModifiedTimestamp", seconds(kept.modified_at)),
        ]);
        if !names.iter().any(|name| name == "All") {
            attributes.retain(|name, _| names.iter().any(|asked| asked == name));
        }
        write(&wire::QueueAttributes { attributes })
    }

    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html>
    fn set_queue_attributes(&self, request: wire::SetQueueAttributes<'_>) -> Answer {
        let now = self.now();
        let mut state = self.lock();
        let changed = state.named(&request.queue_url)?.attributes.with(&request.attributes)?;
        state.check_redrive(&changed)?;
        let kept = state.named(&request.queue_url)?;
        kept.limits = changed.limits(self.max_in_flight);
        kept.attributes = changed;
        kept.modified_at = now;
        nothing()
    }

    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_PurgeQueue.html>
    fn purge_queue(&self, request: wire::OfQueue<'_>) -> Answer {
        let mut state = self.lock();
        let kept = state.named(&request.queue_url)?;
        if kept.purged_at.is_some_and(|at| at.elapsed() < PURGE_TAKES) {
            let message = format!("Only one PurgeQueue operation on {} is allowed every 60 seconds.", kept.name);
            return Err(Refusal::new(&refusal::PURGE_IN_PROGRESS, message));
        }
        kept.purged_at = Some(Instant::now());
        kept.queue.purge();
        nothing()
    }

    fn send_message(&self, message: Message<'_>) -> Answer {
        let url = message.queue_url.clone().into_owned();
        // Looked up first: a queue that is not there is said before anything of the message.
        let max_bytes = self.lock().named(&url)?.limits.max_message_bytes;
        let delay = delay(&message)?;
        let content = Content::new(message, self.new_id(), max_bytes)?;
        let answer = sent(None, &content);
        let now = self.now();
        let mut state = self.lock();
        state.counts.messages_sent += 1;
        state.counts.bill_payload(content.bytes);
        let kept = state.named(&url)?;
        kept.queue.move_on(&kept.limits, now);
        kept.queue.send(content, delay.unwrap_or_else(|| kept.attributes.delay()), now);
        self.wake(&mut state, &url);
        drop(state);
        write(&answer)
    }

    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
    fn send_message_batch(&self, mut batch: Batch<'_, Message<'_>>) -> Answer {
        let limits = {
            let mut state = self.lock();
            let kept = state.named(&batch.queue_url)?;
            (kept.limits.max_message_bytes, kept.limits.max_batch_bytes)
        };
        check_entries(&batch.entries)?;
        let bytes: usize = batch.entries.iter().map(Message::bytes).sum();
        if bytes > limits.1 {
            let message =
                format!("Batch requests cannot be longer than {} bytes. You have sent {bytes} bytes.", limits.1);
            return Err(Refusal::new(&refusal::BATCH_TOO_LONG, message));
        }
        let ids: Vec<_> = batch.entries.iter_mut().map(|entry| std::mem::take(&mut entry.id)).collect();
        let contents: Vec<_> = batch
            .entries
            .into_iter()
            .map(|message| {
                let delay = delay(&message)?;
                Ok((Arc::new(Content::new(message, self.new_id(), limits.0)?), delay))
            })
            .collect();
        let mut successful = Vec::with_capacity(ids.len());
        let mut failed = Vec::new();
        let now = self.now();
        {
            let mut state = self.lock();
            let State { queues, counts, chance, .. } = &mut *state;
            let kept = named(queues, &batch.queue_url)?;
            kept.queue.move_on(&kept.limits, now);
            counts.bill_payload(bytes);
            for (id, content) in ids.iter().zip(contents) {
                if let Some(unlucky) = unlucky(chance, counts, (&kept.name, Action::SendMessageBatch), id) {
                    failed.push(unlucky);
                    continue;
                }
                match content {
                    Ok((content, delay)) => {
                        counts.messages_sent += 1;
                        successful.push(sent(Some(id), &content));
                        kept.queue.send(content, delay.unwrap_or_else(|| kept.attributes.delay()), now);
                    }
                    Err(refusal) => failed.push(failure(id, refusal)),
                }
            }
            self.wake(&mut state, &batch.queue_url);
        }
        write_about(&BatchAnswer { successful, failed }, 160 * ids.len())
    }

    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html>
    async fn receive_message(&self, request: wire::ReceiveMessage<'_>) -> Answer {
        let parameters = Parameters::read(&request)?;
        let mut ends = None;
        loop {
            let (arrival, _place, ends) = {
                let mut state = self.lock();
                let (leased, full) = self.take(&mut state, &request.queue_url, &parameters)?;
                let kept = state.named(&request.queue_url)?;
                let number = kept.number;
                let wait = parameters.wait.unwrap_or(kept.attributes.receive_message_wait_time_seconds);
                let ends = *ends.get_or_insert_with(|| Instant::now() + Duration::from_secs(wait.into()));
                let over = ends <= Instant::now();
                if leased.is_empty() && !over {
                    // From here on it hears of what arrives, before anybody else can change the queue.
                    let arrival = kept.line.arrival.clone().notified_owned();
                    let place = Place::take(&kept.line);
                    self.watch(&mut state, &request.queue_url);
                    (arrival, place, ends)
                } else {
                    if leased.is_empty() {
                        state.counts.empty_receives += 1;
                        // A long poll says nothing of the quota:
                        // <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>
                        if full && wait == 0 {
                            let message = "The maximum number of in flight messages is reached.";
                            return Err(Refusal::new(&refusal::OVER_LIMIT, message));
                        }
                    }
                    drop(state);
                    return parameters.answer(number, &leased);
                }
            };
            let _ = tokio::time::timeout_at(ends.into(), arrival).await;
        }
    }

    /// Leases what is visible; also answers whether the quota is reached.
    fn take(
        &self,
        state: &mut State,
        url: &str,
        parameters: &Parameters,
    ) -> Result<(Vec<Leased<Content>>, bool), Refusal> {
        let now = self.now();
        let State { queues, counts, chance, twice, .. } = state;
        let kept = named(queues, url)?;
        kept.queue.move_on(&kept.limits, now);
        let full = kept.queue.is_full(&kept.limits);
        let redrive = kept.attributes.redrive.clone();
        let ask = Ask {
            max: parameters.max,
            lease: parameters.lease.unwrap_or(kept.limits.lease),
            max_receives: redrive.as_ref().map(|redrive| redrive.max_receives),
            now,
        };
        let faults = chance.faults.at(&kept.name, Some(Action::ReceiveMessage));
        let mut choice = Choice {
            random: &mut chance.random,
            reorder: faults.reorder,
            duplicate: faults.duplicate,
            undelete: faults.undelete,
        };
        let received = kept.queue.receive(&kept.limits, ask, &mut choice);
        counts.struck.duplicate += received.duplicates;
        let is_twin = |message: &&Leased<Content>| message.handle.key != message.original;
        twice.extend(received.leased.iter().filter(is_twin).map(|message| message.content.id));
        counts.messages_received += u64::try_from(received.leased.len()).unwrap_or(u64::MAX);
        counts.bill_payload(received.leased.iter().map(|message| message.content.bytes).sum());
        let mut more_for = (!received.leased.is_empty() && kept.queue.has_visible()).then(|| kept.line.clone());
        let from = kept.arn.clone();
        if let Some(redrive) = redrive
            && !received.exhausted.is_empty()
            && let Some(target) = by_arn(queues, &redrive.target_arn)
        {
            for message in received.exhausted {
                counts.messages_redriven += 1;
                target.queue.take_in(
                    message.map(|content| Content { redriven_from: Some(from.clone()), ..Content::clone(&content) }),
                );
            }
            target.line.arrival.notify_one();
        }
        if let Some(line) = more_for.take()
            && line.length.load(Ordering::Relaxed) > 0
        {
            line.arrival.notify_one();
        }
        Ok((received.leased, full))
    }

    /// Wakes as many of those who wait for a message as there are messages, and has the watch look
    /// in time at those that are hidden.
    pub(crate) fn wake(&self, state: &mut State, url: &str) {
        let Ok(kept) = named(&mut state.queues, url) else { return };
        kept.wake();
        self.watch(state, url);
    }

    fn watch(&self, state: &mut State, url: &str) {
        let Ok(kept) = named(&mut state.queues, url) else { return };
        if kept.line.length.load(Ordering::Relaxed) > 0
            && let Some(due) = kept.queue.next_due()
            && state.looks_at.is_none_or(|looks_at| due < looks_at)
        {
            state.looks_at = Some(due);
            self.sooner.notify_one();
        }
    }

    /// Wakes those who wait when what was hidden becomes visible. Never ends.
    pub(crate) async fn watch_hidden(&self) {
        loop {
            let wait = {
                let now = self.now();
                let mut state = self.lock();
                let mut next: Option<SystemTime> = None;
                for kept in state.queues.values_mut() {
                    if kept.line.length.load(Ordering::Relaxed) > 0 {
                        kept.queue.move_on(&kept.limits, now);
                        kept.wake();
                        next = next.into_iter().chain(kept.queue.next_due()).min();
                    }
                }
                state.looks_at = next;
                next.map(|next| next.duration_since(now).unwrap_or_default())
            };
            match wait {
                Some(wait) => {
                    let _ = tokio::time::timeout(wait, self.sooner.notified()).await;
                }
                None => self.sooner.notified().await,
            }
        }
    }

    fn delete_message(&self, request: OfReceipt<'_>) -> Answer {
        let now = self.now();
        let mut state = self.lock();
        let State { queues, counts, .. } = &mut *state;
        let kept = named(queues, &request.queue_url)?;
        kept.queue.move_on(&kept.limits, now);
        kept.delete(counts, &request.receipt_handle)?;
        self.wake(&mut state, &request.queue_url);
        nothing()
    }

    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_DeleteMessageBatch.html>
    fn delete_message_batch(&self, batch: Batch<'_, OfReceipt<'_>>) -> Answer {
        self.each_receipt(Action::DeleteMessageBatch, batch, |kept, counts, entry, _| {
            kept.delete(counts, &entry.receipt_handle)
        })
    }

    fn change_visibility(&self, request: OfReceipt<'_>) -> Answer {
        let now = self.now();
        let mut state = self.lock();
        let kept = state.named(&request.queue_url)?;
        kept.queue.move_on(&kept.limits, now);
        kept.hide(&request, now)?;
        self.wake(&mut state, &request.queue_url);
        nothing()
    }

    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ChangeMessageVisibilityBatch.html>
    fn change_visibility_batch(&self, batch: Batch<'_, OfReceipt<'_>>) -> Answer {
        let action = Action::ChangeMessageVisibilityBatch;
        self.each_receipt(action, batch, |kept, _, entry, now| kept.hide(entry, now))
    }

    fn each_receipt(
        &self,
        action: Action,
        batch: Batch<'_, OfReceipt<'_>>,
        change: impl Fn(&mut Kept, &mut Counts, &OfReceipt<'_>, SystemTime) -> Result<(), Refusal>,
    ) -> Answer {
        let mut successful = Vec::with_capacity(batch.entries.len());
        let mut failed = Vec::new();
        let now = self.now();
        {
            let mut state = self.lock();
            let State { queues, counts, chance, .. } = &mut *state;
            let kept = named(queues, &batch.queue_url)?;
            check_entries(&batch.entries)?;
            kept.queue.move_on(&kept.limits, now);
            for entry in &batch.entries {
                if let Some(unlucky) = unlucky(chance, counts, (&kept.name, action), &entry.id) {
                    failed.push(unlucky);
                    continue;
                }
                match change(kept, counts, entry, now) {
                    Ok(()) => successful.push(Done { id: &entry.id }),
                    Err(refusal) => failed.push(failure(&entry.id, refusal)),
                }
            }
            self.wake(&mut state, &batch.queue_url);
        }
        write(&BatchAnswer { successful, failed })
    }
}

impl State {
    pub(crate) fn named(&mut self, url: &str) -> Result<&mut Kept, Refusal> {
        named(&mut self.queues, url)
    }

    fn check_redrive(&mut self, attributes: &Attributes) -> Result<(), Refusal> {
        match &attributes.redrive {
            Some(redrive) if by_arn(&mut self.queues, &redrive.target_arn).is_none() => {
                Err(Refusal::value(&redrive.target_arn, "RedrivePolicy", "Dead letter target does not exist."))
            }
            _ => Ok(()),
        }
    }
}

impl Kept {
    pub(crate) fn wake(&self) {
        let waiting = self.line.length.load(Ordering::Relaxed);
        if waiting > 0 && !self.queue.is_full(&self.limits) {
            for _ in 0..self.queue.visible().min(waiting) {
                self.line.arrival.notify_one();
            }
        }
    }

    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_DeleteMessage.html>
    fn delete(&mut self, counts: &mut Counts, receipt: &str) -> Result<(), Refusal> {
        let handle = self.parse(receipt)?;
        let acked = self.queue.ack(handle);
        counts.messages_deleted += u64::from(acked.deleted);
        counts.struck.undelete += u64::from(acked.comes_back);
        Ok(())
    }

    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ChangeMessageVisibility.html>
    fn hide(&mut self, request: &OfReceipt<'_>, now: SystemTime) -> Result<(), Refusal> {
        let seconds = request.visibility_timeout.ok_or_else(|| Refusal::missing("VisibilityTimeout"))?;
        let span = visibility(seconds)?;
        let handle = self.parse(&request.receipt_handle)?;
        self.queue.hide(&self.limits, handle, span, now).map_err(|unhidden| match unhidden {
            Unhidden::Gone => Refusal::value(
                &request.receipt_handle,
                "ReceiptHandle",
                "Message does not exist or is not available for visibility timeout change.",
            ),
            Unhidden::Visible => Refusal::new(&refusal::NOT_IN_FLIGHT, "The message referred to isn't in flight."),
            Unhidden::TooLong { .. } => Refusal::value(
                seconds,
                "VisibilityTimeout",
                "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]",
            ),
        })
    }

    fn parse(&self, receipt: &str) -> Result<Handle, Refusal> {
        if receipt.is_empty() {
            return Err(Refusal::missing("ReceiptHandle"));
        }
        let own = ReceiptHandle::parse(receipt).filter(|receipt| receipt.queue == self.number);
        own.map(|receipt| receipt.handle).ok_or_else(|| {
            let message = format!("The input receipt handle \"{receipt}\" is not a valid receipt handle.");
            Refusal::new(&refusal::RECEIPT_INVALID, message)
        })
    }
}

/// What a receive asks for.
struct Parameters {
    max: usize,
    lease: Option<Duration>,
    wait: Option<u32>,
    /// Which of [`SYSTEM_ATTRIBUTES`].
    system_attributes: [bool; SYSTEM_ATTRIBUTES.len()],
    attributes: Vec<String>,
}

/// What can be asked for beside a message.
const SYSTEM_ATTRIBUTES: [&str; 7] = [
    "SenderId",
    "SentTimestamp",
    "ApproximateReceiveCount",
    "ApproximateFirstReceiveTimestamp",
    "AWSTraceHeader",
    "MessageGroupId",
    "DeadLetterQueueSourceArn",
];

/// What can be asked for, and only FIFO queues have.
const FIFO_SYSTEM_ATTRIBUTES: [&str; 2] = ["SequenceNumber", "MessageDeduplicationId"];

impl Parameters {
    fn read(request: &wire::ReceiveMessage<'_>) -> Result<Parameters, Refusal> {
        let max = match request.max_number_of_messages {
            None => 1,
            Some(max @ 1..=10) => usize::try_from(max).unwrap_or(MAX_ENTRIES),
            Some(max) => {
                return Err(Refusal::value(max, "MaxNumberOfMessages", "Must be between 1 and 10, if provided."));
            }
        };
        let wait = match request.wait_time_seconds {
            None => None,
            Some(wait @ 0..=20) => u32::try_from(wait).ok(),
            Some(wait) => {
                return Err(Refusal::value(wait, "WaitTimeSeconds", "Must be >= 0 and <= 20, if provided."));
            }
        };
        let mut system_attributes = [false; SYSTEM_ATTRIBUTES.len()];
        for name in request.attribute_names.iter().chain(&request.message_system_attribute_names) {
            match SYSTEM_ATTRIBUTES.into_iter().position(|known| known == name) {
                Some(index) => system_attributes[index] = true,
                None if name == "All" => system_attributes.fill(true),
                None if FIFO_SYSTEM_ATTRIBUTES.contains(&&**name) => {}
                None => {
                    return Err(Refusal::new(&refusal::INVALID_ATTRIBUTE_NAME, format!("Unknown Attribute {name}.")));
                }
            }
        }
        Ok(Parameters {
            max,
            lease: request.visibility_timeout.map(visibility).transpose()?,
            wait,
            system_attributes,
            attributes: request.message_attribute_names.iter().map(|name| name.clone().into_owned()).collect(),
        })
    }

    fn answer(&self, queue: u64, leased: &[Leased<Content>]) -> Answer {
        // Beside its content a message takes about 400 bytes; the quotes in JSON are escaped.
        let about = leased.iter().map(|message| 512 + message.content.bytes * 5 / 4).sum();
        let messages = leased.iter().map(|message| self.message(queue, message)).collect();
        write_about(&wire::Messages { messages }, about)
    }

    fn message<'a>(&self, queue: u64, message: &'a Leased<Content>) -> ReceivedMessage<'a> {
        let content = &message.content;
        let millis = |time| SystemAttribute::Number(since_1970(time).as_millis());
        let mut system_attributes = Vec::with_capacity(SYSTEM_ATTRIBUTES.len());
        for (name, _) in SYSTEM_ATTRIBUTES.into_iter().zip(self.system_attributes).filter(|(_, asked)| *asked) {
            let value = match name {
                "SenderId" => Some(SystemAttribute::Text("AIDAMODELMODELMODELMO")),
                "SentTimestamp" => Some(millis(message.enqueued_at)),
                "ApproximateReceiveCount" => Some(SystemAttribute::Number(message.receive_count.into())),
                "ApproximateFirstReceiveTimestamp" => Some(millis(message.first_received_at)),
                "AWSTraceHeader" => {
                    content.trace.as_ref().and_then(|trace| trace.0.string_value.as_deref()).map(SystemAttribute::Text)
                }
                "MessageGroupId" => content.group.as_deref().map(SystemAttribute::Text),
                _ => content.redriven_from.as_deref().map(SystemAttribute::Text),
            };
            system_attributes.extend(value.map(|value| (name, value)));
        }
        let attributes: Vec<(&str, &Attribute)> = content
            .attributes
            .iter()
            .filter(|(name, _)| self.attributes.iter().any(|asked| asks_for(asked, name)))
            .map(|(name, attribute)| (&**name, attribute))
            .collect();
        let attributes_md5 = if attributes.len() == content.attributes.len() {
            content.attributes_md5
        } else {
            attributes_md5(attributes.iter().copied())
        };
        ReceivedMessage {
            message_id: content.id,
            receipt_handle: ReceiptHandle { queue, handle: message.handle },
            body_md5: content.body_md5,
            body: &content.body,
            system_attributes,
            attributes_md5,
            attributes,
        }
    }
}

/// Whether a name asked for means this attribute: itself, `All`, `.*`, or a prefix before `.*`.
fn asks_for(asked: &str, name: &str) -> bool {
    asked == "All" || asked == name || asked.strip_suffix(".*").is_some_and(|prefix| name.starts_with(prefix))
}

fn named<'a>(queues: &'a mut HashMap<Box<str>, Kept>, url: &str) -> Result<&'a mut Kept, Refusal> {
    if url.is_empty() {
        return Err(Refusal::missing("QueueUrl"));
    }
    let name = url.rsplit('/').next().unwrap_or(url);
    queues.get_mut(name).ok_or_else(no_queue)
}

pub(crate) fn by_arn<'a>(queues: &'a mut HashMap<Box<str>, Kept>, arn: &str) -> Option<&'a mut Kept> {
    queues.get_mut(arn.strip_prefix(ARN_PREFIX)?)
}

fn no_queue() -> Refusal {
    Refusal::new(&refusal::QUEUE_DOES_NOT_EXIST, "The specified queue does not exist.")
}

fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Refuses a batch for its entries' number or ids.
fn check_entries<E: Entry>(entries: &[E]) -> Result<(), Refusal> {
    if entries.is_empty() {
        return Err(Refusal::new(&refusal::EMPTY_BATCH, "There should be at least one entry in the request."));
    }
    if entries.len() > MAX_ENTRIES {
        let message =
            format!("Maximum number of entries per request are {MAX_ENTRIES}. You have sent {}.", entries.len());
        return Err(Refusal::new(&refusal::TOO_MANY_ENTRIES, message));
    }
    for (index, entry) in entries.iter().enumerate() {
        let id = entry.id();
        if id.is_empty() || id.len() > 80 || !is_name(id) {
            let message = "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can \
                           be at most 80 letters long.";
            return Err(Refusal::new(&refusal::INVALID_ENTRY_ID, message));
        }
        if entries.iter().take(index).any(|earlier| earlier.id() == id) {
            return Err(Refusal::new(&refusal::IDS_NOT_DISTINCT, format!("Id {id} repeated.")));
        }
    }
    Ok(())
}

fn unlucky<'a>(
    chance: &mut Chance,
    counts: &mut Counts,
    (queue, action): (&str, Action),
    id: &'a str,
) -> Option<Failed<'a>> {
    let (code, sender_fault) = chance.entry(queue, action, &mut counts.struck)?;
    Some(Failed { id, sender_fault, code, message: "This entry was struck by a fault.".to_owned() })
}

fn failure(id: &str, refusal: Refusal) -> Failed<'_> {
    Failed { id, sender_fault: refusal.senders_fault(), code: refusal.code.query, message: refusal.message }
}

fn sent<'a>(id: Option<&'a str>, content: &Content) -> Sent<'a> {
    Sent {
        id,
        message_id: content.id,
        body_md5: content.body_md5,
        attributes_md5: content.attributes_md5,
        system_attributes_md5: content.trace.as_ref().map(|trace| trace.1),
    }
}

/// The delay that a message asks for itself.
fn delay(message: &Message<'_>) -> Result<Option<Duration>, Refusal> {
    match message.delay_seconds {
        None => Ok(None),
        Some(seconds @ 0..=900) => Ok(Some(Duration::from_secs(seconds.unsigned_abs()))),
        Some(seconds) => Err(Refusal::value(seconds, "DelaySeconds", "DelaySeconds must be >= 0 and <= 900.")),
    }
}

/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html>
fn visibility(seconds: i64) -> Result<Duration, Refusal> {
    match seconds {
        0..=43_200 => Ok(Duration::from_secs(seconds.unsigned_abs())),
        _ => Err(Refusal::value(seconds, "VisibilityTimeout", "VisibilityTimeout must be >= 0 and <= 43200.")),
    }
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(crate) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::new(&refusal::UNREADABLE, error.to_string()))
}

pub(crate) fn write<T: Serialize>(answer: &T) -> Answer {
    write_about(answer, 512)
}

/// Writes an answer that is about this long.
fn write_about<T: Serialize>(answer: &T, bytes: usize) -> Answer {
    let mut text = Vec::with_capacity(bytes);
    match serde_json::to_writer(&mut text, answer) {
        Ok(()) => Ok(text),
        Err(error) => Err(Refusal::new(&refusal::INTERNAL, error.to_string())),
    }
}

pub(crate) fn nothing() -> Answer {
    Ok(b"{}".to_vec())
}

impl Engine {
    pub(crate) fn millis_now(&self) -> u64 {
        u64::try_from(since_1970(self.now()).as_millis()).unwrap_or(u64::MAX)
    }
}
