//! Messages on Amazon SQS.
//!
//! [`SqsBackend`] speaks to three standard queues: the message queue, the delay queue and the
//! dead-letter queue. They are configured by [`SqsOptions`]; for development [`create_queues`]
//! makes them.
//!
//! # Permissions
//! A process that only sends needs `sqs:SendMessage` on the message and the delay queue, and
//! `sqs:GetQueueUrl` on them when they are configured by name; by URL it needs nothing else. A
//! listener needs `sqs:SendMessage`, `sqs:ReceiveMessage`, `sqs:DeleteMessage`,
//! `sqs:ChangeMessageVisibility` and `sqs:GetQueueAttributes` on both, and `sqs:SendMessage` and
//! `sqs:GetQueueAttributes` on the dead-letter queue. Replaying and purging dead letters needs
//! `sqs:ReceiveMessage`, `sqs:DeleteMessage` and `sqs:ChangeMessageVisibility` on that one, and
//! `sqs:SendMessage` on the message queue; counting needs `sqs:GetQueueAttributes` on all three.
//!
//! # What SQS does, and what that means here
//! - Visibility is the queue's own `VisibilityTimeout`; a receive never overrides it. It is
//!   counted from when SQS hands the message out, and all extensions together end 12 hours after
//!   that: <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html>
//! - A receive waits up to 20 seconds on the message queue and 1 second on the others:
//!   <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html>
//! - At about 120,000 messages in flight a long poll answers nothing, and no error:
//!   <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>
//! - Every call is bounded in time. The SDK retries nothing: who calls decides that.

mod check;
mod clock_offset;
mod connect;
mod create;
mod fault;
mod options;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry,
};
use base64::Engine;
use tokio::sync::OnceCell;

use self::check::Queue;
use self::connect::{Clients, Connection, Loader};
use self::fault::At;
use self::options::Given;
use self::requests::{Action, Ledger, Watch};
use super::{
    Backend, BoxFuture, Delivery, Lane, LaneStats, Limits, Outgoing, Receipt, Role, Settle, Settlement, Usage,
};
use crate::error::{Error, ErrorKind, Result};
use crate::redact::without_userinfo;

pub use self::create::{QueueChange, QueuePlan, create_queues};
pub use self::options::SqsOptions;

/// The most entries of a batch:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
const BATCH: usize = 10;

/// The longest visibility, in seconds.
const LONGEST_VISIBILITY_SECS: i32 = 43_200;

/// How long a receive waits where it is made every few minutes, or only to look. Not at all would
/// ask a part of SQS's servers only, and miss messages.
const SHORT_WAIT_SECS: i32 = 1;

/// Amazon SQS as a [`Backend`]. Cheap to clone; the clones share connections and counts.
#[derive(Clone)]
pub struct SqsBackend(Arc<Inner>);

struct Inner {
    options: SqsOptions,
    connection: Connection,
    ledger: Arc<Ledger>,
    /// Where SQS is, for the start line.
    place: String,
    lanes: [LaneState; 3],
}

/// What is known of a lane's queue. Either cell is filled once, by whoever asks first.
#[derive(Debug, Default)]
struct LaneState {
    /// Its URL; `None` where there is no such queue.
    url: OnceCell<Option<String>>,
    queue: OnceCell<Queue>,
}

impl fmt::Debug for SqsBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqsBackend").field(&self.0.options).finish()
    }
}

impl SqsBackend {
    /// Makes the clients, with credentials, region and endpoint from the options and the AWS
    /// default chain. Asks SQS nothing yet: [`check`](Backend::check) does.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] where no queue or no region is configured, [`ErrorKind::Queue`] where
    /// a queue's name is that of a FIFO queue.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn connect(options: SqsOptions) -> Result<SqsBackend> {
        options.validate()?;
        let chain = options.clone();
        SqsBackend::load(
            options,
            Box::new(move || {
                let options = chain.clone();
                Box::pin(async move { connect::load(&options).await })
            }),
        )
        .await
    }

    /// Made of what `load` loads, which is asked again when SQS refuses the credentials.
    pub(crate) async fn load(options: SqsOptions, load: Loader) -> Result<SqsBackend> {
        options.validate()?;
        let (calls, leases) = load().await;
        let clients = Clients::new(&calls, &leases, &options)?;
        let place = match (options.endpoint_url.as_deref(), calls.endpoint_url(), calls.region()) {
            (Some(url), ..) | (None, Some(url), _) => without_userinfo(url),
            (None, None, Some(region)) => region.to_string(),
            (None, None, None) => String::new(),
        };
        let (lanes, connection) = (Default::default(), Connection::new(clients, load));
        Ok(SqsBackend(Arc::new(Inner { options, connection, ledger: Arc::default(), place, lanes })))
    }

    /// How many requests this backend and its clones have made so far, but for those that make queues.
    pub fn requests(&self) -> Usage {
        self.0.ledger.meter.usage()
    }

    fn lane(&self, lane: Lane) -> &LaneState {
        let [message, delay, dead] = &self.0.lanes;
        match lane {
            Lane::Message => message,
            Lane::Delay => delay,
            Lane::Dead => dead,
        }
    }

    fn queue_text(&self, lane: Lane) -> String {
        format!("{lane} {}", self.0.options.given(lane).name())
    }

    /// Counts a call and watches it.
    fn watch(&self, action: Action) -> Watch {
        self.0.ledger.count(action);
        Watch::new(&self.0.ledger)
    }

    /// The answer to a call, its error said in Dawdle's words.
    fn answer<T, E>(
        &self,
        action: Action,
        queue: &str,
        watch: &Watch,
        answer: Result<T, SdkError<E, HttpResponse>>,
    ) -> Result<T>
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        answer.map_err(|error| self.fault(At { action, queue }, &error, watch))
    }

    /// The error of a call, which may be news of the credentials.
    fn fault<E>(&self, at: At<'_>, error: &SdkError<E, HttpResponse>, watch: &Watch) -> Error
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        // A permission that lacks is not in the credentials.
        let denied = error.code().is_some_and(|code| code.contains("AccessDenied"));
        let error = fault::of_call(at, error, watch.transmitted());
        if error.kind() == ErrorKind::Credentials && !denied {
            self.0.connection.refused();
        }
        error
    }

    async fn clients(&self) -> Arc<Clients> {
        self.0.connection.clients(&self.0.options).await
    }

    /// The URL of a queue of this name, if there is one.
    async fn find(&self, lane: Lane, name: &str) -> Result<Option<String>> {
        let watch = self.watch(Action::GetUrl);
        let clients = self.clients().await;
        let request = clients.calls.get_queue_url().queue_name(name);
        match request.customize().interceptor(watch.clone()).send().await {
            Ok(found) => Ok(found.queue_url),
            Err(error) => {
                let at = At { action: Action::GetUrl, queue: &format!("{lane} {name}") };
                match error.code().map(fault::bare) {
                    Some("QueueDoesNotExist" | "NonExistentQueue") => Ok(None),
                    _ => Err(self.fault(at, &error, &watch)),
                }
            }
        }
    }

    /// The URL of a lane's queue, asked for once; `None` where there is to be no such queue.
    async fn url_if_any(&self, lane: Lane) -> Result<Option<&str>> {
        let resolve = || async {
            match self.0.options.given(lane) {
                Given::Url(url) => Ok(Some(url)),
                Given::Absent => Ok(None),
                Given::Name(name) => match self.find(lane, &name).await? {
                    None if lane != Lane::Delay => Err(check::missing(&self.0.options, lane, &name)),
                    found => Ok(found),
                },
            }
        };
        Ok(self.lane(lane).url.get_or_try_init(resolve).await?.as_deref())
    }

    async fn url(&self, lane: Lane) -> Result<&str> {
        let absent = || match self.0.options.given(lane) {
            Given::Absent => Error::new(ErrorKind::Queue, format!("no {lane} is configured")),
            given => check::missing(&self.0.options, lane, given.name()),
        };
        self.url_if_any(lane).await?.ok_or_else(absent)
    }

    /// The attributes of a queue, afresh.
    async fn attributes(&self, lane: Lane, name: &str, url: &str) -> Result<Queue> {
        let attributes = self.attribute_map(lane, name, url, vec![QueueAttributeName::All]).await?;
        Ok(Queue::new(lane, name, url, &attributes))
    }

    async fn attribute_map(
        &self,
        lane: Lane,
        name: &str,
        url: &str,
        names: Vec<QueueAttributeName>,
    ) -> Result<HashMap<QueueAttributeName, String>> {
        let watch = self.watch(Action::GetAttributes);
        let clients = self.clients().await;
        let request = clients.calls.get_queue_attributes().queue_url(url).set_attribute_names(Some(names));
        let answer = request.customize().interceptor(watch.clone()).send().await;
        if let Err(error) = &answer
            && matches!(error.code().map(fault::bare), Some("QueueDoesNotExist" | "NonExistentQueue"))
        {
            return Err(check::missing(&self.0.options, lane, name));
        }
        let answer = self.answer(Action::GetAttributes, &format!("{lane} {name}"), &watch, answer)?;
        Ok(answer.attributes.unwrap_or_default())
    }

    async fn check_sender(&self) -> Result<()> {
        self.url(Lane::Message).await?;
        if self.url_if_any(Lane::Delay).await?.is_none() {
            self.say_no_delay_queue();
        }
        Ok(())
    }

    async fn check_listener(&self) -> Result<()> {
        let options = &self.0.options;
        let message = self.checked_queue(Lane::Message).await?;
        let dead = match options.given(Lane::Dead) {
            Given::Absent => return Err(check::unset_dead_letter_queue(options, &message.name)),
            _ => self.checked_queue(Lane::Dead).await?,
        };
        message.check(options, &dead.arn)?;
        dead.check(options, &dead.arn)?;
        let delay = match self.url_if_any(Lane::Delay).await? {
            Some(_) => Some(self.checked_queue(Lane::Delay).await?),
            None => None,
        };
        match &delay {
            Some(delay) => delay.check(options, &dead.arn)?,
            None => self.say_no_delay_queue(),
        }
        if message.has_no_redrive() {
            tracing::info!(
                queue = %message.name,
                "the message queue has no redrive policy: a message that not even Dawdle gets to see stays until \
                 its retention ends"
            );
        }
        // Only now, when all three are in order: a check that is tried again asks afresh.
        for queue in [Some(message), Some(dead), delay].into_iter().flatten() {
            let _ = self.lane(queue.lane).queue.set(queue);
        }
        Ok(())
    }

    async fn checked_queue(&self, lane: Lane) -> Result<Queue> {
        let url = self.url(lane).await?;
        self.attributes(lane, self.0.options.given(lane).name(), url).await
    }

    fn say_no_delay_queue(&self) {
        let name = self.0.options.given(Lane::Delay);
        tracing::info!(queue = %name.name(), "there is no delay queue: long delays chain on the message queue");
    }

    /// How long a receive hides messages: asked for once, where no check has.
    async fn visibility(&self, lane: Lane) -> Result<Duration> {
        let queue = self.lane(lane).queue.get_or_try_init(|| self.checked_queue(lane)).await?;
        Ok(queue.visibility.unwrap_or(Limits::sqs().lease))
    }

    async fn send_all(&self, lane: Lane, messages: &[Outgoing]) -> Vec<Result<()>> {
        let queue = self.queue_text(lane);
        let at = At { action: Action::Send, queue: &queue };
        let url = match self.url(lane).await {
            Ok(url) => url,
            Err(error) => return messages.iter().map(|_| Err(error.clone())).collect(),
        };
        let limits = self.limits();
        let mut answers = Answers::new(messages.len());
        let mut fit = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            match refuse_message(message, &limits, at) {
                Some(error) => answers.set(index, Err(error)),
                None => fit.push(index),
            }
        }
        let work = Work::Send(lane, messages);
        for group in by_size(&fit, limits.max_batch_bytes, |index| messages.get(index).map_or(0, Outgoing::bytes)) {
            self.work(url, at, &work, &group, &mut answers).await;
        }
        answers.done(at)
    }

    async fn receive_some(&self, lane: Lane, max: usize, hold: Option<Duration>) -> Result<Vec<Delivery>> {
        let url = self.url(lane).await?;
        let queue = self.queue_text(lane);
        let lease = match hold {
            Some(hold) => hold,
            None => self.visibility(lane).await?,
        };
        let wait = match (lane, hold) {
            (Lane::Message, None) => i32::try_from(self.0.options.receive_wait.as_secs()).unwrap_or(20),
            _ => SHORT_WAIT_SECS,
        };
        let watch = self.watch(Action::Receive);
        let clients = self.clients().await;
        let request = clients
            .polls
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(i32::try_from(max.clamp(1, BATCH)).unwrap_or(1))
            .wait_time_seconds(wait)
            .set_visibility_timeout(hold.map(|hold| i32::try_from(hold.as_secs()).unwrap_or(0)))
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateFirstReceiveTimestamp)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_attribute_names("All");
        crate::crash::point!("sqs.receive.before");
        let answer = request.customize().interceptor(watch.clone()).send().await;
        crate::crash::point!("sqs.receive.after");
        let answer = self.answer(Action::Receive, &queue, &watch, answer)?;
        let messages = answer.messages.unwrap_or_default();
        let deliveries: Vec<_> = messages.into_iter().filter_map(|message| delivery(message, lease, &watch)).collect();
        if deliveries.is_empty() {
            self.0.ledger.meter.was_empty();
        }
        self.0.ledger.meter.bill(deliveries.iter().map(Delivery::bytes).sum());
        Ok(deliveries)
    }

    async fn settle_all(&self, lane: Lane, entries: &[Settle]) -> Vec<Result<()>> {
        let mut acks = Vec::new();
        let mut releases = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            match entry.how {
                Settlement::Ack => acks.push((index, &entry.receipt)),
                Settlement::ReleaseAfter(after) => releases.push((index, &entry.receipt, after)),
            }
        }
        let clients = self.clients().await;
        let (acked, released) =
            tokio::join!(self.delete(lane, &acks), self.change_visibility(&clients.calls, lane, &releases));
        let mut answers = Answers::new(entries.len());
        let acks = acks.iter().map(|(index, _)| *index).zip(acked);
        let releases = releases.iter().map(|(index, ..)| *index).zip(released);
        for (index, answer) in acks.chain(releases) {
            answers.set(index, answer);
        }
        answers.done(At { action: Action::Delete, queue: &self.queue_text(lane) })
    }

    async fn delete(&self, lane: Lane, receipts: &[(usize, &Receipt)]) -> Vec<Result<()>> {
        if receipts.is_empty() {
            return Vec::new();
        }
        let queue = self.queue_text(lane);
        let at = At { action: Action::Delete, queue: &queue };
        let url = match self.url(lane).await {
            Ok(url) => url,
            Err(error) => return receipts.iter().map(|_| Err(error.clone())).collect(),
        };
        let (unique, which) = distinct(receipts, |(_, receipt)| receipt.0.as_str());
        let receipts: Vec<&str> = unique.iter().map(|(_, receipt)| receipt.0.as_str()).collect();
        let all: Vec<usize> = (0..receipts.len()).collect();
        let mut answers = Answers::new(receipts.len());
        self.work(url, at, &Work::Delete(&receipts), &all, &mut answers).await;
        answers.shared(&which, at)
    }

    /// Hides deliveries for so much longer, counted from now. Also the way of `extend`, which has
    /// a client to itself.
    async fn change_visibility(
        &self,
        client: &Client,
        lane: Lane,
        entries: &[(usize, &Receipt, Duration)],
    ) -> Vec<Result<()>> {
        if entries.is_empty() {
            return Vec::new();
        }
        let queue = self.queue_text(lane);
        let at = At { action: Action::ChangeVisibility, queue: &queue };
        let url = match self.url(lane).await {
            Ok(url) => url,
            Err(error) => return entries.iter().map(|_| Err(error.clone())).collect(),
        };
        // Of the same receipt twice, the last word counts.
        let (unique, which) = distinct(entries, |(_, receipt, _)| receipt.0.as_str());
        let mut answers = Answers::new(unique.len());
        let mut fit = Vec::with_capacity(unique.len());
        let mut changes = Vec::with_capacity(unique.len());
        for (index, (_, receipt, after)) in unique.iter().enumerate() {
            match i32::try_from(whole_secs_up(*after)) {
                Ok(secs) if secs <= LONGEST_VISIBILITY_SECS => {
                    fit.push(index);
                    changes.push((receipt.0.as_str(), secs));
                }
                _ => {
                    let text = format!("{at}: a visibility of {after:?} is above SQS's limit of 12 hours");
                    answers.set(index, Err(Error::new(ErrorKind::Invalid, text)));
                    changes.push((receipt.0.as_str(), 0));
                }
            }
        }
        self.work(url, at, &Work::ChangeVisibility(client, &changes), &fit, &mut answers).await;
        answers.shared(&which, at)
    }

    /// Makes one call for every ten entries. A call that SQS refuses as a whole for what one of
    /// its entries is, is made again for each of them alone: nothing of it was done. One that it refuses for
    /// credentials that have expired is made again with others, if there are any.
    async fn work(&self, url: &str, at: At<'_>, work: &Work<'_>, indices: &[usize], answers: &mut Answers) {
        for batch in indices.chunks(BATCH) {
            let clients = self.0.connection.current();
            let mut answer = self.call(url, at, work, batch).await;
            if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Credentials)
                && self.0.connection.has_renewed(&clients, &self.0.options).await
            {
                answer = self.call(url, at, work, batch).await;
            }
            match answer {
                Ok(answered) => answers.take(batch, answered),
                Err(error) if batch.len() > 1 && is_about_one_entry(&error) => {
                    for single in batch.chunks(1) {
                        match self.call(url, at, work, single).await {
                            Ok(answered) => answers.take(single, answered),
                            Err(error) => answers.fail(single, &error),
                        }
                    }
                }
                Err(error) => answers.fail(batch, &error),
            }
        }
    }

    /// One call, for the entries of these indices; an entry's id is its index.
    async fn call(&self, url: &str, at: At<'_>, work: &Work<'_>, indices: &[usize]) -> Result<Answered> {
        let clients = self.clients().await;
        let calls = &clients.calls;
        match work {
            Work::Send(lane, messages) => {
                let entries = indices.iter().filter_map(|index| Some((*index, messages.get(*index)?)));
                let entries = entries.map(|(index, message)| send_entry(*lane, index, message, at));
                let entries = entries.collect::<Result<Vec<_>>>()?;
                let watch = self.watch(at.action);
                let sent = indices.iter().filter_map(|index| messages.get(*index));
                self.0.ledger.meter.bill(sent.map(Outgoing::bytes).sum());
                let request = calls.send_message_batch().queue_url(url).set_entries(Some(entries));
                crate::crash::point!("sqs.send.before");
                let answer = request.customize().interceptor(watch.clone()).send().await;
                crate::crash::point!("sqs.send.after");
                let answer = self.answer(at.action, at.queue, &watch, answer)?;
                Ok(Answered::new(answer.successful.iter().map(|entry| entry.id.as_str()), &answer.failed, at))
            }
            Work::Delete(receipts) => {
                let entries = indices.iter().filter_map(|index| Some((index, receipts.get(*index)?)));
                let entries = entries.map(|(index, receipt)| {
                    DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(*receipt).build()
                });
                let entries = entries.collect::<Result<Vec<_>, _>>().map_err(|error| unbuildable(at, &error))?;
                let watch = self.watch(at.action);
                let request = calls.delete_message_batch().queue_url(url).set_entries(Some(entries));
                crate::crash::point!("sqs.delete.before");
                let answer = request.customize().interceptor(watch.clone()).send().await;
                crate::crash::point!("sqs.delete.after");
                let answer = self.answer(at.action, at.queue, &watch, answer)?;
                Ok(Answered::new(answer.successful.iter().map(|entry| entry.id.as_str()), &answer.failed, at))
            }
            Work::ChangeVisibility(client, changes) => {
                let entries = indices.iter().filter_map(|index| Some((index, changes.get(*index)?)));
                let entries = entries.map(|(index, (receipt, secs))| {
                    ChangeMessageVisibilityBatchRequestEntry::builder()
                        .id(index.to_string())
                        .receipt_handle(*receipt)
                        .visibility_timeout(*secs)
                        .build()
                });
                let entries = entries.collect::<Result<Vec<_>, _>>().map_err(|error| unbuildable(at, &error))?;
                let watch = self.watch(at.action);
                let request = client.change_message_visibility_batch().queue_url(url).set_entries(Some(entries));
                crate::crash::point!("sqs.change_visibility.before");
                let answer = request.customize().interceptor(watch.clone()).send().await;
                crate::crash::point!("sqs.change_visibility.after");
                let answer = self.answer(at.action, at.queue, &watch, answer)?;
                Ok(Answered::new(answer.successful.iter().map(|entry| entry.id.as_str()), &answer.failed, at))
            }
        }
    }

    async fn count(&self, lane: Lane) -> Result<LaneStats> {
        let url = self.url(lane).await?;
        let names = vec![
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let counts = self.attribute_map(lane, self.0.options.given(lane).name(), url, names).await?;
        let count = |name| counts.get(&name).and_then(|count: &String| count.parse().ok()).unwrap_or(0);
        Ok(LaneStats {
            visible: count(QueueAttributeName::ApproximateNumberOfMessages),
            in_flight: count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
            delayed: count(QueueAttributeName::ApproximateNumberOfMessagesDelayed),
            oldest: None,
        })
    }
}

impl Backend for SqsBackend {
    fn name(&self) -> &str {
        "sqs"
    }

    fn describe(&self) -> String {
        let queue = |lane| match (self.lane(lane).url.get(), self.0.options.given(lane)) {
            (Some(Some(url)), _) => Some(without_userinfo(url)),
            (None, Given::Name(name)) => Some(name),
            (None, Given::Url(url)) => Some(without_userinfo(&url)),
            _ => None,
        };
        let queues: Vec<String> = Lane::ALL.into_iter().filter_map(queue).collect();
        format!("{} ({})", queues.join(", "), self.0.place)
    }

    fn queue_name(&self, lane: Lane) -> String {
        self.0.options.given(lane).name().to_owned()
    }

    fn limits(&self) -> Limits {
        let sqs = Limits::sqs();
        let known = |lane| self.lane(lane).queue.get();
        let there = |lane| match self.lane(lane).url.get() {
            Some(url) => url.is_some(),
            None => self.0.options.given(lane) != Given::Absent,
        };
        // Every message may end on every lane, so the smallest limit is the one of all. Queues
        // made before August 2025 keep 262,144 bytes unless they are changed.
        let smallest = Lane::ALL.into_iter().filter_map(|lane| known(lane)?.max_message_bytes).min();
        let delay_lane = there(Lane::Delay);
        let kept = known(if delay_lane { Lane::Delay } else { Lane::Message }).and_then(|queue| queue.retention);
        Limits {
            max_message_bytes: smallest.unwrap_or(sqs.max_message_bytes).min(sqs.max_message_bytes),
            lease: known(Lane::Message).and_then(|queue| queue.visibility).unwrap_or(sqs.lease),
            retention: kept.or(sqs.retention),
            delay_lane,
            dead_lane: there(Lane::Dead),
            ..sqs
        }
    }

    fn clock_offset_ms(&self) -> i64 {
        self.0.ledger.offset_ms()
    }

    fn usage(&self) -> Usage {
        self.requests()
    }

    /// By a batch of no messages, which SQS refuses, and the date of its answer: it needs no more
    /// permission than sending does.
    fn learn_clock_offset(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if self.0.ledger.knows_offset() {
                return Ok(());
            }
            // Looking the queue up tells the time, too.
            let url = self.url(Lane::Message).await;
            if self.0.ledger.knows_offset() {
                return Ok(());
            }
            let (clients, watch) = (self.clients().await, self.watch(Action::Send));
            let request = clients.calls.send_message_batch().queue_url(url?).set_entries(Some(Vec::new()));
            match request.customize().interceptor(watch.clone()).send().await {
                Err(error) if error.raw_response().is_none() => {
                    let queue = self.queue_text(Lane::Message);
                    Err(self.fault(At { action: Action::Send, queue: &queue }, &error, &watch).with_maybe_sent(false))
                }
                answer => {
                    if !self.0.ledger.knows_offset() {
                        tracing::warn!(
                            refused = answer.is_err(),
                            "asked SQS for the time, and the answer has none: due times go by this machine's clock"
                        );
                    }
                    Ok(())
                }
            }
        })
    }

    /// For [`Role::Sender`] the queues are looked up where they are given by name, and nothing is
    /// asked where they are given by URL. For [`Role::Listener`] the attributes of all three are
    /// read, and queues that would lose or spoil events are refused, with the command that mends
    /// them.
    ///
    /// A delay queue that is given by name and is not there is no error: long delays then chain
    /// on the message queue.
    fn check(&self, role: Role) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match role {
                Role::Sender => self.check_sender().await,
                Role::Listener => self.check_listener().await,
            }
        })
    }

    fn send<'a>(&'a self, lane: Lane, messages: &'a [Outgoing]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(self.send_all(lane, messages))
    }

    /// Waits up to 20 seconds on the message queue, 1 second on the others.
    fn receive(&self, lane: Lane, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(self.receive_some(lane, max, None))
    }

    fn settle<'a>(&'a self, lane: Lane, entries: &'a [Settle]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(self.settle_all(lane, entries))
    }

    fn extend<'a>(&'a self, lane: Lane, receipts: &'a [Receipt], lease: Duration) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move {
            let entries: Vec<_> = receipts.iter().enumerate().map(|(index, receipt)| (index, receipt, lease)).collect();
            let clients = self.clients().await;
            self.change_visibility(&clients.leases, lane, &entries).await
        })
    }

    fn inspect(&self, lane: Lane) -> BoxFuture<'_, Result<LaneStats>> {
        Box::pin(self.count(lane))
    }

    /// Looking hides: what is yielded can be received by nobody else for `hold`, rounded up to
    /// whole seconds and at most 12 hours, unless it is released before.
    fn browse(&self, lane: Lane, max: usize, hold: Duration) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        let hold = hold.min(Duration::from_secs(LONGEST_VISIBILITY_SECS.unsigned_abs().into()));
        let hold = Duration::from_secs(whole_secs_up(hold));
        Box::pin(self.receive_some(lane, max, Some(hold)))
    }
}

/// Whether a call was refused for one of its entries, so that the others deserve a call without it.
fn is_about_one_entry(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Refused | ErrorKind::TooLarge | ErrorKind::LeaseLost | ErrorKind::Invalid)
}

/// Why a message cannot be sent at all, said without asking SQS.
fn refuse_message(message: &Outgoing, limits: &Limits, at: At<'_>) -> Option<Error> {
    let (bytes, limit) = (message.bytes(), limits.max_message_bytes);
    if bytes > limit {
        let text = format!("{at}: a message of {bytes} bytes is above the queue's limit of {limit} bytes");
        return Some(Error::new(ErrorKind::TooLarge, text));
    }
    let longest = limits.max_delay.unwrap_or(Duration::MAX);
    if message.delay.as_secs() > longest.as_secs() {
        let text = format!("{at}: a delay of {:?} is above SQS's limit of {longest:?}", message.delay);
        return Some(Error::new(ErrorKind::Invalid, text));
    }
    None
}

/// The entries of a batch call.
enum Work<'a> {
    Send(Lane, &'a [Outgoing]),
    /// Receipts.
    Delete(&'a [&'a str]),
    /// Receipts and seconds, by this client.
    ChangeVisibility(&'a Client, &'a [(&'a str, i32)]),
}

fn unbuildable(at: At<'_>, error: &BuildError) -> Error {
    Error::new(ErrorKind::Invalid, format!("{at}: an entry cannot be written as a request: {error}"))
}

fn send_entry(lane: Lane, index: usize, message: &Outgoing, at: At<'_>) -> Result<SendMessageBatchRequestEntry> {
    let invalid = |error| unbuildable(at, &error);
    let mut entry = SendMessageBatchRequestEntry::builder()
        .id(index.to_string())
        .message_body(&message.body)
        // Always said: a message without it gets the queue's own delay.
        .delay_seconds(i32::try_from(message.delay.as_secs()).unwrap_or(i32::MAX));
    for (name, value) in &message.attributes {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value);
        entry = entry.message_attributes(name, value.build().map_err(invalid)?);
    }
    // Parked messages are in flight for days, and would make their group look noisy.
    if lane == Lane::Message
        && let Some(group) = &message.group
    {
        entry = entry.message_group_id(group);
    }
    entry.build().map_err(invalid)
}

/// A message as it was received; `None` for one that nothing could settle.
fn delivery(message: Message, lease: Duration, watch: &Watch) -> Option<Delivery> {
    let number = |name: MessageSystemAttributeName| -> Option<u64> { message.attributes()?.get(&name)?.parse().ok() };
    let receive_count = number(MessageSystemAttributeName::ApproximateReceiveCount).unwrap_or(1);
    let first_received = number(MessageSystemAttributeName::ApproximateFirstReceiveTimestamp);
    let enqueued = number(MessageSystemAttributeName::SentTimestamp).map(Duration::from_millis);
    if let (1, Some(first)) = (receive_count, first_received) {
        watch.saw_handed_out(first);
    }
    let attributes = message.message_attributes.unwrap_or_default().into_iter().map(|(name, value)| {
        let binary = || value.binary_value.map(|blob| base64::engine::general_purpose::STANDARD.encode(blob));
        (name, value.string_value.or_else(binary).unwrap_or_default())
    });
    Some(Delivery {
        message_id: message.message_id.unwrap_or_default(),
        receipt: Receipt(message.receipt_handle?),
        body: message.body.unwrap_or_default(),
        attributes: attributes.collect(),
        receive_count: u32::try_from(receive_count).unwrap_or(u32::MAX),
        enqueued_at: enqueued.and_then(|at| UNIX_EPOCH.checked_add(at)).unwrap_or_else(SystemTime::now),
        lease,
    })
}

fn whole_secs_up(span: Duration) -> u64 {
    span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0))
}

/// Indices in groups whose sizes sum up to no more than `limit`, in order.
fn by_size(indices: &[usize], limit: usize, size: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut sum = 0_usize;
    for index in indices {
        let bytes = size(*index);
        sum = sum.saturating_add(bytes);
        match groups.last_mut() {
            Some(group) if sum <= limit => group.push(*index),
            _ => {
                sum = bytes;
                groups.push(vec![*index]);
            }
        }
    }
    groups
}

/// The entries without repetitions, the last of each kept, and which of them each entry is. SQS
/// refuses a whole call for two entries that it takes for one.
fn distinct<'a, T>(entries: &'a [T], key: impl Fn(&T) -> &str) -> (Vec<&'a T>, Vec<usize>) {
    let mut places: HashMap<String, usize> = HashMap::with_capacity(entries.len());
    let mut unique: Vec<&'a T> = Vec::with_capacity(entries.len());
    let mut which = Vec::with_capacity(entries.len());
    for entry in entries {
        let place = *places.entry(key(entry).to_owned()).or_insert(unique.len());
        match unique.get_mut(place) {
            Some(kept) => *kept = entry,
            None => unique.push(entry),
        }
        which.push(place);
    }
    (unique, which)
}

/// What one call answered, by the id of the entry.
struct Answered(HashMap<String, Result<()>>);

impl Answered {
    fn new<'a>(successful: impl Iterator<Item = &'a str>, failed: &[BatchResultErrorEntry], at: At<'_>) -> Answered {
        let mut by_id: HashMap<String, Result<()>> = successful.map(|id| (id.to_owned(), Ok(()))).collect();
        for entry in failed {
            let error =
                fault::of_entry(at, &entry.code, entry.message.as_deref().unwrap_or_default(), entry.sender_fault);
            by_id.insert(entry.id.clone(), Err(error));
        }
        Answered(by_id)
    }
}

/// One answer for each entry, gathered over several calls.
struct Answers(Vec<Option<Result<()>>>);

impl Answers {
    fn new(len: usize) -> Answers {
        Answers(vec![None; len])
    }

    fn set(&mut self, index: usize, answer: Result<()>) {
        if let Some(slot) = self.0.get_mut(index) {
            *slot = Some(answer);
        }
    }

    fn take(&mut self, indices: &[usize], mut answered: Answered) {
        for index in indices {
            if let Some(answer) = answered.0.remove(&index.to_string()) {
                self.set(*index, answer);
            }
        }
    }

    fn fail(&mut self, indices: &[usize], error: &Error) {
        for index in indices {
            self.set(*index, Err(error.clone()));
        }
    }

    fn done(self, at: At<'_>) -> Vec<Result<()>> {
        self.0.into_iter().map(|answer| answer.unwrap_or_else(|| Err(fault::unanswered(at)))).collect()
    }

    /// The answers of entries that share them.
    fn shared(self, which: &[usize], at: At<'_>) -> Vec<Result<()>> {
        let answers = self.done(at);
        which.iter().map(|index| answers.get(*index).cloned().unwrap_or_else(|| Err(fault::unanswered(at)))).collect()
    }
}
