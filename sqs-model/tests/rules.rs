//! The rules of SQS, asked of every engine there is, in raw calls: of the model always, of LocalStack
//! and moto where `./test` runs them (feature `engine-tests`).
//!
//! [`RULES`] says of each rule what AWS's page says, and which engine departs from it how. It is the
//! one place for that: `RULES.md` is made of it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry,
};
use sqs_model::{Endpoint, Options};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod client;

const MIB: usize = 1024 * 1024;

/// What is known of an engine and a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Keeps,
    /// It does this instead.
    Breaks(&'static str),
    /// It cannot be asked, for this reason.
    NotAsked(&'static str),
}
use Verdict::{Breaks, Keeps, NotAsked};

/// What a check saw: nothing wrong, or this.
type Seen = Result<(), String>;

struct Rule {
    name: &'static str,
    says: &'static str,
    page: &'static str,
    localstack: Verdict,
    moto: Verdict,
    check: fn(Trial) -> Pin<Box<dyn Future<Output = Seen> + Send>>,
}

macro_rules! rules {
    ($($check:ident: $says:literal, $page:expr, $localstack:expr, $moto:expr;)*) => {
        /// Every rule, by the name of its check below.
        const RULES: &[Rule] = &[$(Rule {
            name: stringify!($check),
            says: $says,
            page: $page,
            localstack: $localstack,
            moto: $moto,
            check: |trial| Box::pin($check(trial)),
        }),*];
    };
}

macro_rules! api {
    ($action:literal) => {
        concat!("https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_", $action, ".html")
    };
}

macro_rules! guide {
    ($page:literal) => {
        concat!("https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/", $page, ".html")
    };
}

rules! {
    a_delay_is_up_to_900_seconds: "DelaySeconds is at most 900", api!("SendMessage"), Breaks("takes DelaySeconds 901"), Keeps;
    neither_span_is_negative: "DelaySeconds and VisibilityTimeout are at least 0", api!("SendMessage"), Breaks("takes DelaySeconds -1"), Breaks("takes DelaySeconds -1");
    a_delay_hides: "a message is hidden for its delay, and then visible", guide!("sqs-delay-queues"), Keeps, Keeps;
    a_messages_own_delay_wins: "a message's own delay, 0 too, goes before the queue's", guide!("sqs-message-timers"), Keeps, Keeps;
    a_delayed_message_is_not_in_flight: "a delayed message counts as delayed, a received one as in flight", guide!("sqs-visibility-timeout"), Keeps, Keeps;
    a_visibility_is_up_to_12_hours: "a visibility timeout is at most 43,200 seconds", api!("ChangeMessageVisibility"), Breaks("takes a visibility timeout of 43201"), Keeps;
    a_receives_own_visibility_wins: "a receive's own visibility timeout goes before the queue's, and is at most 43,200", api!("ReceiveMessage"), Breaks("takes a receive's visibility timeout of 43201"), Keeps;
    hidden_for_12_hours_in_all: "a message is hidden for at most 12 hours in all from its receive; more is an error and changes nothing", guide!("sqs-visibility-timeout"), Breaks("takes more than 12 hours in all"), Keeps;
    a_visibility_of_0_shows_at_once: "a visibility timeout of 0 makes a message visible at once", guide!("sqs-visibility-timeout"), Keeps, Keeps;
    a_changed_visibility_is_not_remembered: "a changed visibility timeout is that of one receive; the next has the queue's again", api!("ChangeMessageVisibility"), Keeps, Keeps;
    a_stale_handle_deletes_nothing: "a delete by an older handle than the newest succeeds and deletes nothing", api!("DeleteMessage"), Breaks("deletes it"), Breaks("deletes it");
    a_stale_handle_changes_no_visibility: "an older handle than the newest changes no visibility timeout", api!("ChangeMessageVisibility"), Breaks("shows a message to whoever has an old handle of it"), Breaks("shows a message to whoever has an old handle of it");
    a_handle_deletes_after_its_visibility_has_ended: "the newest handle still deletes after the visibility timeout has ended", api!("DeleteMessage"), Keeps, Keeps;
    what_is_not_in_flight_has_no_visibility: "the visibility timeout of a message that is visible again cannot be changed: MessageNotInflight", api!("ChangeMessageVisibility"), Breaks("takes a visible message"), Breaks("takes a visible message");
    a_delete_can_be_repeated: "a delete of what is deleted succeeds", api!("DeleteMessage"), Keeps, Keeps;
    a_handle_that_is_none_is_refused: "what is no receipt handle is refused: ReceiptHandleIsInvalid", api!("DeleteMessage"), Keeps, Keeps;
    a_short_poll_at_the_quota_is_an_error: "at the quota of messages in flight a short poll is refused: OverLimit", guide!("quotas-messages"), NotAsked("120,000 messages"), NotAsked("120,000 messages");
    a_long_poll_at_the_quota_is_empty: "at the quota of messages in flight a long poll answers nothing, and no error", guide!("quotas-messages"), NotAsked("120,000 messages"), NotAsked("120,000 messages");
    a_message_is_kept_for_its_retention: "a message is dropped when the retention period since it was sent is over, in flight or not", guide!("quotas-messages"), Keeps, Keeps;
    retention_counts_from_the_first_enqueue: "a message in a dead-letter queue keeps the time at which it was first sent", guide!("setting-up-dead-letter-queue-retention"), Keeps, Keeps;
    some_characters_are_refused: "a body holds #x9, #xA, #xD, #x20-#xD7FF, #xE000-#xFFFD, #x10000-#x10FFFF and no others: InvalidMessageContents", api!("SendMessage"), Keeps, Breaks("takes #x0");
    an_empty_body_is_refused: "a body has at least one character", api!("SendMessage"), Keeps, Breaks("takes an empty body");
    a_message_is_up_to_1_mib: "a message is up to 1,048,576 bytes", guide!("quotas-messages"), Keeps, Keeps;
    attributes_count_as_size: "names, types and values of attributes count as the message's size", guide!("quotas-messages"), Keeps, Breaks("takes 1,048,577 bytes, attributes included");
    size_is_in_utf8: "the size is counted in bytes of UTF-8, not in characters", guide!("quotas-messages"), Keeps, Breaks("takes 1,048,577 bytes in 524,289 characters");
    a_batch_is_up_to_1_mib: "the messages of a batch are up to 1,048,576 bytes together: BatchRequestTooLong", api!("SendMessageBatch"), Keeps, Keeps;
    a_queue_may_take_less: "a queue's MaximumMessageSize is kept", api!("SetQueueAttributes"), Keeps, Keeps;
    a_batch_has_entries: "a batch without entries is refused: EmptyBatchRequest", api!("SendMessageBatch"), Keeps, Keeps;
    a_batch_has_up_to_10_entries: "a batch has at most 10 entries: TooManyEntriesInBatchRequest", api!("DeleteMessageBatch"), Keeps, Breaks("refuses 11 deletes by BatchEntryIdsNotDistinct");
    entry_ids_are_distinct: "the ids of a batch are distinct: BatchEntryIdsNotDistinct", api!("SendMessageBatch"), Keeps, Keeps;
    entry_ids_are_plain: "an id is 1 to 80 letters, digits, hyphens and underscores: InvalidBatchEntryId", api!("SendMessageBatchRequestEntry"), Breaks("takes the id ü"), Breaks("takes the id ü");
    a_bad_entry_spares_the_others: "an entry that is refused fails alone, as the sender's fault", api!("SendMessageBatch"), Breaks("does not call it the sender's fault"), Breaks("does all of it");
    a_bad_delay_in_a_batch_spares_the_others: "an entry whose DelaySeconds is out of range fails alone", api!("SendMessageBatch"), Breaks("does all of it"), Keeps;
    a_bad_handle_spares_the_others: "an entry whose handle is none fails alone", api!("DeleteMessageBatch"), Breaks("does not call it the sender's fault"), Keeps;
    a_bad_visibility_spares_the_others: "an entry whose visibility timeout is out of range fails alone", api!("ChangeMessageVisibilityBatch"), Breaks("does all of it"), Keeps;
    a_receive_takes_1_to_10: "MaxNumberOfMessages is 1 to 10", api!("ReceiveMessage"), Breaks("takes MaxNumberOfMessages 0"), Keeps;
    a_long_poll_is_up_to_20_seconds: "WaitTimeSeconds is 0 to 20", guide!("sqs-short-and-long-polling"), Keeps, Keeps;
    a_long_poll_answers_when_a_message_comes: "a long poll answers as soon as a message is there", guide!("sqs-short-and-long-polling"), Keeps, Keeps;
    too_many_receives_go_to_the_dead_letters: "a message received more than maxReceiveCount times goes to the dead-letter queue, and says where it comes from", guide!("sqs-dead-letter-queues"), Keeps, Breaks("gives no DeadLetterQueueSourceArn");
    attribute_names_are_checked: "the name of a message attribute is letters, digits, `_`, `-`, single inner dots, and does not begin with AWS. or Amazon.", guide!("sqs-message-metadata"), Breaks("takes the name a..b"), Breaks("takes the name AWS.a");
    attributes_are_up_to_10: "a message has at most 10 attributes", guide!("sqs-message-metadata"), Breaks("takes 11 attributes"), Breaks("takes 11 attributes");
    attribute_types_are_checked: "the type of a message attribute is String, Number or Binary, with a label or without", guide!("sqs-message-metadata"), Keeps, Keeps;
    a_number_is_a_number: "the value of a Number is a number", api!("MessageAttributeValue"), Breaks("takes a Number that is none"), Breaks("takes a Number that is none");
    an_attribute_has_a_value: "name, type and value of a message attribute are not empty", guide!("sqs-message-metadata"), Keeps, Breaks("takes an empty value");
    the_md5_of_attributes_is_of_all: "the MD5 of message attributes is that of names, types and values, sorted by name", guide!("sqs-message-metadata"), Keeps, Keeps;
    a_standard_queue_takes_groups: "a message on a standard queue may have a MessageGroupId, which is given back", guide!("sqs-fair-queues"), Keeps, Keeps;
    receives_are_counted: "each receive raises ApproximateReceiveCount, has a handle of its own, and leaves the times of sending and first receive as they are", api!("ReceiveMessage"), Keeps, Keeps;
    queue_attributes_have_ranges: "queue attributes out of their range are refused", api!("SetQueueAttributes"), Breaks("takes DelaySeconds 901"), Breaks("takes DelaySeconds 901");
    an_unknown_attribute_is_refused: "a queue attribute that does not exist is refused: InvalidAttributeName", api!("GetQueueAttributes"), Keeps, Keeps;
    a_queue_is_created_once: "creating a queue again answers its URL, and is refused with other attributes: QueueNameExists", api!("CreateQueue"), Keeps, Keeps;
    queue_names_are_plain: "a queue's name is 1 to 80 letters, digits, hyphens and underscores", api!("CreateQueue"), Keeps, Keeps;
    a_deleted_name_rests_for_60_seconds: "a queue cannot be created for 60 seconds after one of its name was deleted: QueueDeletedRecently", api!("CreateQueue"), Breaks("takes it at once"), Breaks("takes it at once");
    a_queue_is_purged_once_a_minute: "a queue is purged at most once in 60 seconds: PurgeQueueInProgress", api!("PurgeQueue"), Breaks("takes a second purge"), Keeps;
    a_missing_queue_is_said: "what is asked of a queue that does not exist is refused: QueueDoesNotExist", api!("ReceiveMessage"), Keeps, Keeps;
    only_dead_letters_are_moved: "StartMessageMoveTask takes no queue that is nobody's dead-letter queue", api!("StartMessageMoveTask"), Keeps, Breaks("answers HTTP 500");
    moved_messages_are_new: "StartMessageMoveTask moves messages back, with new ids", guide!("sqs-configure-dead-letter-queue-redrive"), Breaks("keeps its id"), Breaks("answers HTTP 500");
}

/// One check on one engine.
#[derive(Clone)]
struct Trial {
    client: Client,
    /// The model, whose clock need not be waited for.
    model: Option<Arc<Endpoint>>,
}

/// What an engine says to a call: done, or the code of its refusal, without what it is wrapped in.
#[derive(Debug, PartialEq)]
enum Said {
    Done,
    Refused(String),
}

fn said<T, E>(answer: Result<T, SdkError<E>>) -> Result<Said, String>
where
    E: ProvideErrorMetadata + std::fmt::Debug,
{
    match answer {
        Ok(_) => Ok(Said::Done),
        Err(SdkError::ServiceError(error)) if error.raw().status().as_u16() < 500 => {
            let code = error.err().code().unwrap_or("none");
            let code = code.rsplit_once('#').map_or(code, |(_, code)| code);
            let code = code.strip_prefix("AWS.SimpleQueueService.").unwrap_or(code);
            Ok(Said::Refused(code.trim_end_matches("Exception").to_owned()))
        }
        Err(SdkError::ServiceError(error)) => Err(format!("answers HTTP {}", error.raw().status().as_u16())),
        Err(error) => Err(format!("{error:?}")),
    }
}

fn done<T, E>(answer: Result<T, SdkError<E>>) -> Result<T, String>
where
    E: ProvideErrorMetadata + std::fmt::Debug,
{
    match answer {
        Ok(answer) => Ok(answer),
        Err(error) => match said::<T, E>(Err(error))? {
            Said::Refused(code) => Err(format!("refuses by {code}")),
            Said::Done => Err("answers an error that is none".to_owned()),
        },
    }
}

/// Refused, by whatever code.
fn refused<T, E>(what: &str, answer: Result<T, SdkError<E>>) -> Seen
where
    E: ProvideErrorMetadata + std::fmt::Debug,
{
    match said(answer)? {
        Said::Refused(_) => Ok(()),
        Said::Done => Err(format!("takes {what}")),
    }
}

/// Refused, by one of these codes.
fn refused_by<T, E>(codes: &[&str], what: &str, answer: Result<T, SdkError<E>>) -> Seen
where
    E: ProvideErrorMetadata + std::fmt::Debug,
{
    match said(answer)? {
        Said::Refused(code) if codes.contains(&&*code) => Ok(()),
        Said::Refused(code) => Err(format!("refuses {what} by {code}")),
        Said::Done => Err(format!("takes {what}")),
    }
}

fn ensure(holds: bool, otherwise: impl Into<String>) -> Seen {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

impl Trial {
    /// Lets time pass: on the model by its clock, elsewhere by waiting.
    async fn pass(&self, span: Duration) {
        match &self.model {
            Some(model) => {
                let ahead = model.clock_ahead_ms() + i64::try_from(span.as_millis()).expect("short");
                model.set_clock_ahead_ms(ahead);
            }
            None => tokio::time::sleep(span).await,
        }
    }

    /// So many seconds, or on the model, where they cost nothing, so many times more that a slow
    /// machine does not let them go by between two calls.
    fn secs(&self, count: i32) -> i32 {
        if self.model.is_some() { count * 20 } else { count }
    }

    async fn pass_secs(&self, count: i32) {
        self.pass(seconds(self.secs(count).unsigned_abs().into())).await;
    }

    async fn queue(&self, attributes: &[(QueueAttributeName, &str)]) -> Result<String, String> {
        let mut request = self.client.create_queue().queue_name(client::new_name());
        for (name, value) in attributes {
            request = request.attributes(name.clone(), *value);
        }
        Ok(done(request.send().await)?.queue_url.expect("a URL"))
    }

    async fn attribute(&self, url: &str, name: QueueAttributeName) -> Result<String, String> {
        let request = self.client.get_queue_attributes().queue_url(url).attribute_names(name.clone());
        let answer = done(request.send().await)?;
        answer.attributes.and_then(|mut all| all.remove(&name)).ok_or_else(|| format!("shows no {name}"))
    }

    /// A queue and its dead-letter queue, to which messages go after so many receives.
    async fn with_dead_letters(&self, max_receives: u32) -> Result<(String, String), String> {
        let dead = self.queue(&[]).await?;
        let arn = self.attribute(&dead, QueueAttributeName::QueueArn).await?;
        let policy = format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":"{max_receives}"}}"#);
        let queue = self.queue(&[(QueueAttributeName::RedrivePolicy, &policy)]).await?;
        Ok((queue, dead))
    }

    async fn send(&self, url: &str, body: &str) -> Seen {
        done(self.client.send_message().queue_url(url).message_body(body).send().await).map(|_| ())
    }

    /// What comes at once.
    async fn look(&self, url: &str) -> Result<Vec<Message>, String> {
        let request = self.client.receive_message().queue_url(url).max_number_of_messages(10).wait_time_seconds(0);
        let request =
            request.message_system_attribute_names(MessageSystemAttributeName::All).message_attribute_names("All");
        Ok(done(request.send().await)?.messages.unwrap_or_default())
    }

    async fn one(&self, url: &str) -> Result<Message, String> {
        let request = self.client.receive_message().queue_url(url).max_number_of_messages(1).wait_time_seconds(5);
        let request =
            request.message_system_attribute_names(MessageSystemAttributeName::All).message_attribute_names("All");
        done(request.send().await)?
            .messages
            .unwrap_or_default()
            .pop()
            .ok_or_else(|| "a message does not come".to_owned())
    }

    async fn hide(
        &self,
        url: &str,
        message: &Message,
        seconds: i32,
    ) -> Result<(), SdkError<impl ProvideErrorMetadata + std::fmt::Debug>> {
        let request = self.client.change_message_visibility().queue_url(url).visibility_timeout(seconds);
        request.receipt_handle(handle(message)).send().await.map(|_| ())
    }

    async fn delete(&self, url: &str, message: &Message) -> Seen {
        done(self.client.delete_message().queue_url(url).receipt_handle(handle(message)).send().await).map(|_| ())
    }

    async fn send_batch(
        &self,
        url: &str,
        entries: Vec<SendMessageBatchRequestEntry>,
    ) -> Result<Batch, SdkError<impl ProvideErrorMetadata + std::fmt::Debug>> {
        let request = self.client.send_message_batch().queue_url(url).set_entries(Some(entries));
        let answer = request.send().await;
        answer.map(|answer| Batch::of(answer.successful.into_iter().map(|entry| entry.id), answer.failed))
    }
}

/// The ids of a batch that succeeded, and of those that failed, whose fault it was.
#[derive(Debug, PartialEq)]
struct Batch {
    successful: Vec<String>,
    failed: Vec<(String, bool)>,
}

impl Batch {
    fn of(successful: impl Iterator<Item = String>, failed: Vec<BatchResultErrorEntry>) -> Batch {
        let failed = failed.into_iter().map(|entry| (entry.id, entry.sender_fault)).collect();
        Batch { successful: successful.collect(), failed }
    }

    /// `a` and `c` were done, and `b` was not.
    fn spared(&self) -> Seen {
        ensure(!self.successful.iter().any(|id| id == "b"), "does all of it")?;
        ensure(self.successful == ["a", "c"], format!("does only {:?}", self.successful))?;
        ensure(self.failed == [("b".to_owned(), true)], "does not call it the sender's fault")
    }
}

fn handle(message: &Message) -> &str {
    message.receipt_handle().expect("a receipt handle")
}

fn system(message: &Message, name: MessageSystemAttributeName) -> Result<String, String> {
    let value = message.attributes().and_then(|all| all.get(&name));
    value.cloned().ok_or_else(|| format!("gives no {name}"))
}

fn entry(id: &str, body: &str) -> SendMessageBatchRequestEntry {
    SendMessageBatchRequestEntry::builder().id(id).message_body(body).build().expect("an entry")
}

fn text(kind: &str, value: &str) -> MessageAttributeValue {
    MessageAttributeValue::builder().data_type(kind).string_value(value).build().expect("an attribute")
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

async fn a_delay_is_up_to_900_seconds(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let send = |delay| t.client.send_message().queue_url(&url).message_body("a").delay_seconds(delay).send();
    done(send(900).await)?;
    refused("DelaySeconds 901", send(901).await)
}

async fn neither_span_is_negative(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let request = t.client.send_message().queue_url(&url).message_body("a");
    refused("DelaySeconds -1", request.delay_seconds(-1).send().await)?;
    let request = t.client.receive_message().queue_url(&url).visibility_timeout(-1);
    refused("a receive's visibility timeout of -1", request.send().await)?;
    t.send(&url, "a").await?;
    let message = t.one(&url).await?;
    refused("a visibility timeout of -1", t.hide(&url, &message, -1).await)
}

async fn a_delay_hides(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    done(t.client.send_message().queue_url(&url).message_body("a").delay_seconds(t.secs(4)).send().await)?;
    ensure(t.look(&url).await?.is_empty(), "shows a delayed message")?;
    t.pass_secs(4).await;
    t.one(&url).await.map(|_| ())
}

async fn a_messages_own_delay_wins(t: Trial) -> Seen {
    let url = t.queue(&[(QueueAttributeName::DelaySeconds, "900")]).await?;
    t.send(&url, "hidden").await?;
    done(t.client.send_message().queue_url(&url).message_body("shown").delay_seconds(0).send().await)?;
    let message = t.one(&url).await?;
    ensure(message.body() == Some("shown"), "shows a message that the queue delays")
}

async fn a_delayed_message_is_not_in_flight(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    done(t.client.send_message().queue_url(&url).message_body("a").delay_seconds(900).send().await)?;
    t.send(&url, "b").await?;
    t.one(&url).await?;
    t.send(&url, "c").await?;
    let counts = [
        t.attribute(&url, QueueAttributeName::ApproximateNumberOfMessages).await?,
        t.attribute(&url, QueueAttributeName::ApproximateNumberOfMessagesNotVisible).await?,
        t.attribute(&url, QueueAttributeName::ApproximateNumberOfMessagesDelayed).await?,
    ];
    ensure(counts == ["1", "1", "1"], format!("counts {counts:?} as visible, in flight and delayed"))
}

async fn a_visibility_is_up_to_12_hours(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    t.send(&url, "a").await?;
    let message = t.one(&url).await?;
    done(t.hide(&url, &message, 40_000).await)?;
    refused("a visibility timeout of 43201", t.hide(&url, &message, 43_201).await)
}

async fn a_receives_own_visibility_wins(t: Trial) -> Seen {
    let url = t.queue(&[(QueueAttributeName::VisibilityTimeout, "900")]).await?;
    let request = t.client.receive_message().queue_url(&url).visibility_timeout(43_201);
    refused("a receive's visibility timeout of 43201", request.send().await)?;
    t.send(&url, "a").await?;
    let first = done(t.client.receive_message().queue_url(&url).visibility_timeout(1).send().await)?;
    ensure(first.messages().len() == 1, "a message does not come")?;
    t.pass(Duration::from_millis(1_100)).await;
    t.one(&url).await.map(|_| ())
}

async fn hidden_for_12_hours_in_all(t: Trial) -> Seen {
    let url = t.queue(&[(QueueAttributeName::VisibilityTimeout, &t.secs(6).to_string())]).await?;
    t.send(&url, "a").await?;
    let message = t.one(&url).await?;
    t.pass_secs(2).await;
    refused("more than 12 hours in all", t.hide(&url, &message, 43_199).await)?;
    ensure(t.look(&url).await?.is_empty(), "shows a message whose visibility timeout it refused to change")?;
    t.pass_secs(5).await;
    t.one(&url).await.map(|_| ())
}

async fn a_visibility_of_0_shows_at_once(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    t.send(&url, "a").await?;
    let message = t.one(&url).await?;
    done(t.hide(&url, &message, 0).await)?;
    let again = t.one(&url).await?;
    ensure(again.message_id() == message.message_id(), "gives it another id")
}

async fn a_changed_visibility_is_not_remembered(t: Trial) -> Seen {
    let url = t.queue(&[(QueueAttributeName::VisibilityTimeout, &t.secs(4).to_string())]).await?;
    t.send(&url, "a").await?;
    let message = t.one(&url).await?;
    done(t.hide(&url, &message, t.secs(10)).await)?;
    t.pass_secs(5).await;
    ensure(t.look(&url).await?.is_empty(), "does not change it")?;
    t.pass_secs(6).await;
    t.one(&url).await?;
    t.pass_secs(5).await;
    t.one(&url).await.map(|_| ())
}

/// A message that was received twice, both times as it came.
async fn received_twice(t: &Trial, url: &str) -> Result<(Message, Message), String> {
    t.send(url, "a").await?;
    let stale = t.one(url).await?;
    done(t.hide(url, &stale, 0).await)?;
    Ok((stale, t.one(url).await?))
}

async fn a_stale_handle_deletes_nothing(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let (stale, newest) = received_twice(&t, &url).await?;
    t.delete(&url, &stale).await?;
    done(t.hide(&url, &newest, 0).await).map_err(|_| "deletes it".to_owned())?;
    t.one(&url).await.map(|_| ()).map_err(|_| "deletes it".to_owned())
}

async fn a_stale_handle_changes_no_visibility(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let (stale, _newest) = received_twice(&t, &url).await?;
    // What it answers is not documented; what it does is.
    let _ = said(t.hide(&url, &stale, 0).await)?;
    ensure(t.look(&url).await?.is_empty(), "shows a message to whoever has an old handle of it")
}

async fn a_handle_deletes_after_its_visibility_has_ended(t: Trial) -> Seen {
    let url = t.queue(&[(QueueAttributeName::VisibilityTimeout, "1")]).await?;
    t.send(&url, "a").await?;
    let message = t.one(&url).await?;
    t.pass(Duration::from_millis(1_500)).await;
    t.delete(&url, &message).await?;
    ensure(t.look(&url).await?.is_empty(), "does not delete it")
}

async fn what_is_not_in_flight_has_no_visibility(t: Trial) -> Seen {
    let url = t.queue(&[(QueueAttributeName::VisibilityTimeout, "1")]).await?;
    t.send(&url, "a").await?;
    let message = t.one(&url).await?;
    t.pass(Duration::from_millis(1_500)).await;
    refused_by(&["MessageNotInflight"], "a visible message", t.hide(&url, &message, 30).await)
}

async fn a_delete_can_be_repeated(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    t.send(&url, "a").await?;
    let message = t.one(&url).await?;
    t.delete(&url, &message).await?;
    t.delete(&url, &message).await
}

async fn a_handle_that_is_none_is_refused(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let request = t.client.delete_message().queue_url(&url).receipt_handle("nothing");
    refused_by(&["ReceiptHandleIsInvalid", "InvalidIdFormat"], "any text as a handle", request.send().await)
}

/// A queue of the model at its quota of messages in flight, with one more that is visible.
async fn at_the_quota(t: &Trial) -> Result<String, String> {
    let url = t.queue(&[]).await?;
    for _ in 0..=QUOTA {
        t.send(&url, "a").await?;
    }
    for _ in 0..QUOTA {
        t.one(&url).await?;
    }
    Ok(url)
}

async fn a_short_poll_at_the_quota_is_an_error(t: Trial) -> Seen {
    let url = at_the_quota(&t).await?;
    let request = t.client.receive_message().queue_url(&url).wait_time_seconds(0);
    refused_by(&["OverLimit"], "a short poll", request.send().await)
}

async fn a_long_poll_at_the_quota_is_empty(t: Trial) -> Seen {
    let url = at_the_quota(&t).await?;
    let begun = Instant::now();
    let answer = done(t.client.receive_message().queue_url(&url).wait_time_seconds(1).send().await)?;
    ensure(answer.messages().is_empty(), "answers a message")?;
    ensure(begun.elapsed() >= Duration::from_millis(900), "answers before the poll is over")
}

async fn a_message_is_kept_for_its_retention(t: Trial) -> Seen {
    let url = t.queue(&[(QueueAttributeName::MessageRetentionPeriod, "60")]).await?;
    t.send(&url, "a").await?;
    t.pass(seconds(40)).await;
    let message = t.one(&url).await?;
    done(t.hide(&url, &message, 10).await)?;
    t.pass(seconds(25)).await;
    ensure(t.look(&url).await?.is_empty(), "keeps a message for longer")
}

async fn retention_counts_from_the_first_enqueue(t: Trial) -> Seen {
    let (url, dead) = t.with_dead_letters(1).await?;
    t.send(&url, "a").await?;
    let message = t.one(&url).await?;
    let sent = system(&message, MessageSystemAttributeName::SentTimestamp)?;
    done(t.hide(&url, &message, 0).await)?;
    t.pass(seconds(1)).await;
    ensure(t.look(&url).await?.is_empty(), "does not move it")?;
    let moved = t.one(&dead).await?;
    let shown = system(&moved, MessageSystemAttributeName::SentTimestamp)?;
    ensure(shown == sent, "gives it another SentTimestamp")
}

async fn some_characters_are_refused(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    for body in ["a \u{0}", "a \u{b}", "a \u{1f}", "a \u{fffe}", "a \u{ffff}"] {
        let request = t.client.send_message().queue_url(&url).message_body(body);
        refused_by(
            &["InvalidMessageContents"],
            &format!("#x{:x}", body.chars().last().map_or(0, u32::from)),
            request.send().await,
        )?;
    }
    let all = "\t\n\r \u{7f}\u{d7ff}\u{e000}\u{fffd}\u{10000}\u{10ffff}";
    t.send(&url, all).await?;
    ensure(t.one(&url).await?.body() == Some(all), "changes a body")
}

async fn an_empty_body_is_refused(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    refused("an empty body", t.client.send_message().queue_url(&url).message_body("").send().await)
}

async fn a_message_is_up_to_1_mib(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let body = "a".repeat(MIB);
    t.send(&url, &body).await?;
    let request = t.client.send_message().queue_url(&url).message_body(format!("{body}a"));
    refused("1,048,577 bytes", request.send().await)
}

async fn attributes_count_as_size(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    // "name", "String" and "value" are 15 bytes.
    let send = |bytes: usize| {
        let request = t.client.send_message().queue_url(&url).message_body("a".repeat(bytes - 15));
        request.message_attributes("name", text("String", "value")).send()
    };
    done(send(MIB).await)?;
    refused("1,048,577 bytes, attributes included", send(MIB + 1).await)
}

async fn size_is_in_utf8(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let body = "\u{fc}".repeat(MIB / 2);
    t.send(&url, &body).await?;
    let request = t.client.send_message().queue_url(&url).message_body(format!("{body}a"));
    refused("1,048,577 bytes in 524,289 characters", request.send().await)
}

async fn a_batch_is_up_to_1_mib(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let half = "a".repeat(MIB / 2);
    let answer = done(t.send_batch(&url, vec![entry("a", &half), entry("b", &half)]).await)?;
    ensure(answer.failed.is_empty(), format!("answers {answer:?}"))?;
    let over = vec![entry("a", &half), entry("b", &half), entry("c", "c")];
    refused_by(&["BatchRequestTooLong"], "1,048,577 bytes", t.send_batch(&url, over).await)
}

async fn a_queue_may_take_less(t: Trial) -> Seen {
    let url = t.queue(&[(QueueAttributeName::MaximumMessageSize, "1024")]).await?;
    t.send(&url, &"a".repeat(1024)).await?;
    refused("1,025 bytes", t.client.send_message().queue_url(&url).message_body("a".repeat(1025)).send().await)
}

async fn a_batch_has_entries(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    refused_by(&["EmptyBatchRequest"], "no entries", t.send_batch(&url, Vec::new()).await)
}

async fn a_batch_has_up_to_10_entries(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let code = ["TooManyEntriesInBatchRequest"];
    let eleven = || (0..11).map(|id| id.to_string());
    let entries = eleven().map(|id| entry(&id, "a")).collect();
    refused_by(&code, "11 messages", t.send_batch(&url, entries).await)?;
    t.send(&url, "a").await?;
    let message = t.one(&url).await?;
    let deletes = eleven()
        .map(|id| {
            DeleteMessageBatchRequestEntry::builder().id(id).receipt_handle(handle(&message)).build().expect("an entry")
        })
        .collect();
    let request = t.client.delete_message_batch().queue_url(&url).set_entries(Some(deletes));
    refused_by(&code, "11 deletes", request.send().await)
}

async fn entry_ids_are_distinct(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let entries = vec![entry("a", "a"), entry("a", "b")];
    refused_by(&["BatchEntryIdsNotDistinct"], "an id twice", t.send_batch(&url, entries).await)
}

async fn entry_ids_are_plain(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    for id in ["a b", "\u{fc}", &"a".repeat(81)] {
        let what = format!("the id {id}");
        refused_by(&["InvalidBatchEntryId"], &what, t.send_batch(&url, vec![entry(id, "a")]).await)?;
    }
    done(t.send_batch(&url, vec![entry(&"a-_9".repeat(20), "a")]).await).map(|_| ())
}

async fn a_bad_entry_spares_the_others(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let entries = vec![entry("a", "a"), entry("b", "b \u{ffff}"), entry("c", "c")];
    done(t.send_batch(&url, entries).await)?.spared()
}

async fn a_bad_delay_in_a_batch_spares_the_others(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let late = SendMessageBatchRequestEntry::builder().id("b").message_body("b").delay_seconds(901);
    let entries = vec![entry("a", "a"), late.build().expect("an entry"), entry("c", "c")];
    done(t.send_batch(&url, entries).await)?.spared()
}

/// Two messages in flight.
async fn two_in_flight(t: &Trial, url: &str) -> Result<[Message; 2], String> {
    t.send(url, "a").await?;
    t.send(url, "c").await?;
    Ok([t.one(url).await?, t.one(url).await?])
}

async fn a_bad_handle_spares_the_others(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let [first, second] = two_in_flight(&t, &url).await?;
    let entries = [("a", handle(&first)), ("b", "nothing"), ("c", handle(&second))];
    let entries = entries.map(|(id, handle)| {
        DeleteMessageBatchRequestEntry::builder().id(id).receipt_handle(handle).build().expect("an entry")
    });
    let request = t.client.delete_message_batch().queue_url(&url).set_entries(Some(entries.into()));
    let answer = done(request.send().await)?;
    Batch::of(answer.successful.into_iter().map(|entry| entry.id), answer.failed).spared()
}

async fn a_bad_visibility_spares_the_others(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let [first, second] = two_in_flight(&t, &url).await?;
    let entries = [("a", handle(&first), 60), ("b", handle(&second), 43_201), ("c", handle(&second), 60)];
    let entries = entries.map(|(id, handle, visibility)| {
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(id).receipt_handle(handle);
        entry.visibility_timeout(visibility).build().expect("an entry")
    });
    let request = t.client.change_message_visibility_batch().queue_url(&url).set_entries(Some(entries.into()));
    let answer = done(request.send().await)?;
    Batch::of(answer.successful.into_iter().map(|entry| entry.id), answer.failed).spared()
}

async fn a_receive_takes_1_to_10(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    for max in [11, 0, -1] {
        let request = t.client.receive_message().queue_url(&url).max_number_of_messages(max);
        refused(&format!("MaxNumberOfMessages {max}"), request.send().await)?;
    }
    Ok(())
}

async fn a_long_poll_is_up_to_20_seconds(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    t.send(&url, "a").await?;
    for wait in [21, -1] {
        let request = t.client.receive_message().queue_url(&url).wait_time_seconds(wait);
        refused(&format!("WaitTimeSeconds {wait}"), request.send().await)?;
    }
    Ok(())
}

async fn a_long_poll_answers_when_a_message_comes(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let begun = Instant::now();
    let poll = t.client.receive_message().queue_url(&url).wait_time_seconds(20).send();
    let send = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        t.send(&url, "a").await
    };
    let (polled, sent) = tokio::join!(poll, send);
    sent?;
    ensure(done(polled)?.messages().len() == 1, "answers nothing")?;
    ensure(begun.elapsed() < seconds(15), "waits for longer than it has to")
}

async fn too_many_receives_go_to_the_dead_letters(t: Trial) -> Seen {
    let (url, dead) = t.with_dead_letters(2).await?;
    t.send(&url, "a").await?;
    for _ in 0..2 {
        let message = t.one(&url).await?;
        done(t.hide(&url, &message, 0).await)?;
    }
    ensure(t.look(&url).await?.is_empty(), "receives it once more")?;
    let moved = t.one(&dead).await?;
    let arn = t.attribute(&url, QueueAttributeName::QueueArn).await?;
    let from = system(&moved, MessageSystemAttributeName::DeadLetterQueueSourceArn)?;
    ensure(from == arn, format!("says that it came from {from}"))
}

async fn attribute_names_are_checked(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    for name in ["AWS.a", "aws.a", "Amazon.a", ".a", "a.", "a..b", "a b", "a/b"] {
        let request = t.client.send_message().queue_url(&url).message_body("a");
        refused(&format!("the name {name}"), request.message_attributes(name, text("String", "a")).send().await)?;
    }
    let request = t.client.send_message().queue_url(&url).message_body("a");
    done(request.message_attributes("A_b-1.c", text("String", "a")).send().await).map(|_| ())
}

async fn attributes_are_up_to_10(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let mut request = t.client.send_message().queue_url(&url).message_body("a");
    for number in 0..10 {
        request = request.message_attributes(format!("a{number}"), text("String", "a"));
    }
    done(request.clone().send().await)?;
    refused("11 attributes", request.message_attributes("b", text("String", "a")).send().await)
}

async fn attribute_types_are_checked(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    for kind in ["Text", "string", "", "Boolean"] {
        let request = t.client.send_message().queue_url(&url).message_body("a");
        refused(&format!("the type {kind:?}"), request.message_attributes("a", text(kind, "a")).send().await)?;
    }
    let request = t.client.send_message().queue_url(&url).message_body("a");
    done(request.message_attributes("a", text("String.label", "a")).send().await).map(|_| ())
}

async fn a_number_is_a_number(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let request = t.client.send_message().queue_url(&url).message_body("a");
    refused("a Number that is none", request.message_attributes("a", text("Number", "a")).send().await)
}

async fn an_attribute_has_a_value(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let request = t.client.send_message().queue_url(&url).message_body("a");
    refused("an empty value", request.message_attributes("a", text("String", "")).send().await)
}

async fn the_md5_of_attributes_is_of_all(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let blob = MessageAttributeValue::builder().data_type("Binary").binary_value(Blob::new([0, 255, 1]));
    let request = t.client.send_message().queue_url(&url).message_body("a");
    let request = request
        .message_attributes("b", text("Number.int", "42"))
        .message_attributes("a", text("String", "gr\u{fc}\u{df}e"))
        .message_attributes("c", blob.build().expect("an attribute"));
    let sent = done(request.send().await)?;
    // Reckoned by hand, from the algorithm on the page.
    let md5 = Some("4ca6380396fb0ca77e890b7e4bcc2d1d");
    ensure(sent.md5_of_message_attributes() == md5, format!("answers {:?}", sent.md5_of_message_attributes()))?;
    ensure(sent.md5_of_message_body() == Some("0cc175b9c0f1b6a831c399e269772661"), "answers another MD5 of the body")?;
    let message = t.one(&url).await?;
    ensure(message.md5_of_message_attributes() == md5, "gives another MD5 than it answered")?;
    let blob = message.message_attributes().and_then(|all| all.get("c")).and_then(|value| value.binary_value());
    ensure(blob.is_some_and(|blob| blob.as_ref() == [0, 255, 1]), "changes an attribute")
}

async fn a_standard_queue_takes_groups(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    done(t.client.send_message().queue_url(&url).message_body("a").message_group_id("tenant").send().await)?;
    let group = system(&t.one(&url).await?, MessageSystemAttributeName::MessageGroupId)?;
    ensure(group == "tenant", format!("gives {group}"))
}

async fn receives_are_counted(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let (first, second) = received_twice(&t, &url).await?;
    let counts = [
        system(&first, MessageSystemAttributeName::ApproximateReceiveCount)?,
        system(&second, MessageSystemAttributeName::ApproximateReceiveCount)?,
    ];
    ensure(counts == ["1", "2"], format!("counts {counts:?}"))?;
    ensure(handle(&first) != handle(&second), "gives the same handle twice")?;
    for name in
        [MessageSystemAttributeName::SentTimestamp, MessageSystemAttributeName::ApproximateFirstReceiveTimestamp]
    {
        ensure(system(&first, name.clone())? == system(&second, name.clone())?, format!("changes {name}"))?;
    }
    Ok(())
}

async fn queue_attributes_have_ranges(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    for (name, values) in [
        (QueueAttributeName::DelaySeconds, ["901", "-1"]),
        (QueueAttributeName::MaximumMessageSize, ["1048577", "1023"]),
        (QueueAttributeName::MessageRetentionPeriod, ["1209601", "59"]),
        (QueueAttributeName::ReceiveMessageWaitTimeSeconds, ["21", "-1"]),
        (QueueAttributeName::VisibilityTimeout, ["43201", "-1"]),
    ] {
        for value in values {
            let request = t.client.set_queue_attributes().queue_url(&url).attributes(name.clone(), value);
            refused(&format!("{name} {value}"), request.send().await)?;
        }
    }
    Ok(())
}

async fn an_unknown_attribute_is_refused(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    let request = t.client.get_queue_attributes().queue_url(&url).attribute_names("Colour".into());
    refused_by(&["InvalidAttributeName"], "Colour", request.send().await)
}

async fn a_queue_is_created_once(t: Trial) -> Seen {
    let name = client::new_name();
    let create = |visibility: &str| {
        let request = t.client.create_queue().queue_name(&name);
        request.attributes(QueueAttributeName::VisibilityTimeout, visibility).send()
    };
    let first = done(create("40").await)?;
    ensure(done(create("40").await)?.queue_url() == first.queue_url(), "answers another URL")?;
    refused_by(&["QueueNameExists", "QueueAlreadyExists"], "other attributes", create("41").await)
}

async fn queue_names_are_plain(t: Trial) -> Seen {
    for name in ["a b", "a/b", "\u{fc}", &"a".repeat(81)] {
        refused(&format!("the name {name}"), t.client.create_queue().queue_name(name).send().await)?;
    }
    Ok(())
}

async fn a_deleted_name_rests_for_60_seconds(t: Trial) -> Seen {
    let name = client::new_name();
    let created = done(t.client.create_queue().queue_name(&name).send().await)?;
    done(t.client.delete_queue().queue_url(created.queue_url().expect("a URL")).send().await)?;
    refused_by(&["QueueDeletedRecently"], "it at once", t.client.create_queue().queue_name(&name).send().await)
}

async fn a_queue_is_purged_once_a_minute(t: Trial) -> Seen {
    let url = t.queue(&[]).await?;
    t.send(&url, "a").await?;
    done(t.client.purge_queue().queue_url(&url).send().await)?;
    ensure(t.look(&url).await?.is_empty(), "keeps a message")?;
    refused_by(&["PurgeQueueInProgress"], "a second purge", t.client.purge_queue().queue_url(&url).send().await)
}

async fn a_missing_queue_is_said(t: Trial) -> Seen {
    let url = format!("{}-gone", t.queue(&[]).await?);
    let codes = ["QueueDoesNotExist", "NonExistentQueue"];
    refused_by(&codes, "a send", t.client.send_message().queue_url(&url).message_body("a").send().await)?;
    refused_by(&codes, "a receive", t.client.receive_message().queue_url(&url).send().await)?;
    refused_by(&codes, "a look-up", t.client.get_queue_url().queue_name(client::new_name()).send().await)
}

async fn only_dead_letters_are_moved(t: Trial) -> Seen {
    let arn = t.attribute(&t.queue(&[]).await?, QueueAttributeName::QueueArn).await?;
    refused("any queue", t.client.start_message_move_task().source_arn(arn).send().await)
}

async fn moved_messages_are_new(t: Trial) -> Seen {
    let (url, dead) = t.with_dead_letters(1).await?;
    t.send(&url, "a").await?;
    let first = t.one(&url).await?;
    done(t.hide(&url, &first, 0).await)?;
    ensure(t.look(&url).await?.is_empty(), "receives it once more")?;
    let arn = t.attribute(&dead, QueueAttributeName::QueueArn).await?;
    done(t.client.start_message_move_task().source_arn(&arn).send().await)?;
    let moved = t.one(&url).await?;
    ensure(moved.message_id() != first.message_id(), "keeps its id")?;
    let listed = done(t.client.list_message_move_tasks().source_arn(arn).send().await)?;
    let moved = listed.results().iter().map(|task| task.approximate_number_of_messages_moved()).sum::<i64>();
    ensure(moved == 1, format!("says that {moved} were moved"))
}

/// The quota of messages in flight of the model in these tests.
const QUOTA: u64 = 3;

/// For how long one rule may take.
const PATIENCE: Duration = Duration::from_secs(150);

/// How many rules are checked at once.
const AT_ONCE: usize = 16;

/// Checks every rule that an engine can be asked about, and answers what was seen.
async fn check(trial: impl Fn() -> Trial, verdict: fn(&Rule) -> Verdict) -> Vec<(&'static Rule, Seen)> {
    let turns = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let asked = RULES.iter().filter(|rule| !matches!(verdict(rule), NotAsked(_)));
    let mut running = Vec::new();
    for rule in asked {
        let turn = turns.clone().acquire_owned().await.expect("open");
        let check = (rule.check)(trial());
        let check = async move {
            let _turn = turn;
            tokio::time::timeout(PATIENCE, check).await
        };
        running.push((rule, tokio::spawn(check)));
    }
    let mut seen = Vec::new();
    for (rule, check) in running {
        let late = || Err(format!("does not answer within {PATIENCE:?}"));
        seen.push((rule, check.await.expect("no check panics").unwrap_or_else(|_| late())));
    }
    seen
}

/// Fails where an engine does not do what [`RULES`] says of it.
fn expect(engine: &str, seen: &[(&'static Rule, Seen)], verdict: fn(&Rule) -> Verdict) {
    let wrong = seen.iter().filter_map(|(rule, seen)| match (verdict(rule), seen) {
        (Keeps, Ok(())) => None,
        (Breaks(how), Err(seen)) if how == seen => None,
        (expected, seen) => Some(format!("    {}: {expected:?} was expected, and seen: {seen:?}", rule.name)),
    });
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{engine} departs from RULES:\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_model_keeps_every_rule() {
    let trial = || {
        let options = Options { max_in_flight: QUOTA, ..Options::default() };
        let model = Arc::new(Endpoint::start(options).expect("an endpoint"));
        Trial { client: client::client(&model.url()), model: Some(model) }
    };
    expect("the model", &check(trial, |_| Keeps).await, |_| Keeps);
}

#[cfg(feature = "engine-tests")]
fn at(variable: &str) -> impl Fn() -> Trial {
    let endpoint = std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run `./test`, or `localstack/engine run --moto -- cargo test`")
    });
    move || Trial { client: client::client(&endpoint), model: None }
}

#[cfg(feature = "engine-tests")]
#[tokio::test]
async fn localstack_keeps_and_breaks_what_is_written_down() {
    let verdict = |rule: &Rule| rule.localstack;
    expect("LocalStack", &check(at("TEST_SQS_ENDPOINT_URL"), verdict).await, verdict);
}

#[cfg(feature = "engine-tests")]
#[tokio::test]
async fn moto_keeps_and_breaks_what_is_written_down() {
    let verdict = |rule: &Rule| rule.moto;
    expect("moto", &check(at("TEST_MOTO_ENDPOINT_URL"), verdict).await, verdict);
}

/// `RULES.md`, as it is to be.
fn table() -> String {
    let word = |verdict: Verdict| match verdict {
        Keeps => "keeps".to_owned(),
        Breaks(how) => format!("**{how}**"),
        NotAsked(why) => format!("not asked: {why}"),
    };
    let agreed = |rule: &Rule| rule.localstack == Keeps || rule.moto == Keeps;
    let mut table = format!(
        "# The rules of SQS, and who keeps them\n\n\
         Made of `tests/rules.rs`, which asks each of the engines: the model always, LocalStack 4.13.1 and moto 5.2.5 in\n\
         `./test`. Where an engine departs from the page, in bold what it does instead. A rule is agreed on where the\n\
         page, the model and one of the two others say the same; {} of {} are. The rest go by the page alone.\n\n\
         | rule | page of AWS's | model | LocalStack | moto | agreed | check |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        RULES.iter().filter(|rule| agreed(rule)).count(),
        RULES.len(),
    );
    for rule in RULES {
        let page = rule.page.rsplit('/').next().unwrap_or_default().trim_end_matches(".html");
        table += &format!(
            "| {} | [{}]({}) | keeps | {} | {} | {} | `{}` |\n",
            rule.says,
            page.trim_start_matches("API_"),
            rule.page,
            word(rule.localstack),
            word(rule.moto),
            if agreed(rule) { "yes" } else { "page only" },
            rule.name,
        );
    }
    table
}

#[test]
fn the_table_says_what_is_checked() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/RULES.md");
    if std::env::var_os("WRITE_RULES").is_some() {
        std::fs::write(path, table()).expect("RULES.md is written");
    }
    let kept = std::fs::read_to_string(path).expect("RULES.md");
    assert!(
        kept == table(),
        "RULES.md is not what tests/rules.rs says: WRITE_RULES=1 cargo test -p sqs-model --test rules"
    );
}
