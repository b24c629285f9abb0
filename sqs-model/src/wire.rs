//! Requests and answers of the SQS JSON protocol, as far as they are used here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use dawdle::backend::memory::model::Handle;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::content::{Attribute, Hex, Id};

pub(crate) type Text<'a> = Cow<'a, str>;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CreateQueue<'a> {
    #[serde(borrow, default)]
    pub(crate) queue_name: Text<'a>,
    #[serde(default)]
    pub(crate) attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GetQueueUrl<'a> {
    #[serde(borrow, default)]
    pub(crate) queue_name: Text<'a>,
}

/// A request that names a queue and nothing else.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct OfQueue<'a> {
    #[serde(borrow, default)]
    pub(crate) queue_url: Text<'a>,
}

/// The queue that a request is about, by its name; empty where it is about none.
pub(crate) fn queue_named(body: &[u8]) -> String {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct About {
        queue_url: String,
        queue_name: String,
    }
    let about: About = serde_json::from_slice(body).unwrap_or_default();
    let of_url = about.queue_url.rsplit('/').next().unwrap_or_default();
    if of_url.is_empty() { about.queue_name } else { of_url.to_owned() }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListQueues<'a> {
    #[serde(borrow, default)]
    pub(crate) queue_name_prefix: Text<'a>,
    #[serde(borrow, default)]
    pub(crate) next_token: Text<'a>,
    #[serde(default)]
    pub(crate) max_results: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GetQueueAttributes<'a> {
    #[serde(borrow, default)]
    pub(crate) queue_url: Text<'a>,
    #[serde(default)]
    pub(crate) attribute_names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SetQueueAttributes<'a> {
    #[serde(borrow, default)]
    pub(crate) queue_url: Text<'a>,
    #[serde(default)]
    pub(crate) attributes: BTreeMap<String, String>,
}

/// What is sent: by itself, or as an entry of a batch.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Message<'a> {
    #[serde(borrow, default)]
    pub(crate) message_body: Text<'a>,
    #[serde(default)]
    pub(crate) delay_seconds: Option<i64>,
    #[serde(default)]
    pub(crate) message_attributes: BTreeMap<String, Attribute>,
    #[serde(default)]
    pub(crate) message_system_attributes: BTreeMap<String, Attribute>,
    #[serde(borrow, default)]
    pub(crate) message_group_id: Option<Text<'a>>,
    /// Of an entry.
    #[serde(borrow, default)]
    pub(crate) id: Text<'a>,
    /// Of a message by itself.
    #[serde(borrow, default)]
    pub(crate) queue_url: Text<'a>,
}

/// A batch of any kind.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Batch<'a, E> {
    #[serde(borrow, default)]
    pub(crate) queue_url: Text<'a>,
    #[serde(default = "Vec::new")]
    pub(crate) entries: Vec<E>,
}

/// A receipt, and what is to become of its message: by itself, or as an entry of a batch.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct OfReceipt<'a> {
    #[serde(borrow, default)]
    pub(crate) receipt_handle: Text<'a>,
    #[serde(default)]
    pub(crate) visibility_timeout: Option<i64>,
    /// Of an entry.
    #[serde(borrow, default)]
    pub(crate) id: Text<'a>,
    /// Of a receipt by itself.
    #[serde(borrow, default)]
    pub(crate) queue_url: Text<'a>,
}

/// An entry of a batch.
pub(crate) trait Entry {
    fn id(&self) -> &str;
}

impl Entry for Message<'_> {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Entry for OfReceipt<'_> {
    fn id(&self) -> &str {
        &self.id
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ReceiveMessage<'a> {
    #[serde(borrow, default)]
    pub(crate) queue_url: Text<'a>,
    #[serde(default)]
    pub(crate) max_number_of_messages: Option<i64>,
    #[serde(default)]
    pub(crate) visibility_timeout: Option<i64>,
    #[serde(default)]
    pub(crate) wait_time_seconds: Option<i64>,
    /// The older name of the next.
    #[serde(borrow, default)]
    pub(crate) attribute_names: Vec<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) message_system_attribute_names: Vec<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) message_attribute_names: Vec<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct StartMessageMoveTask<'a> {
    #[serde(borrow, default)]
    pub(crate) source_arn: Text<'a>,
    #[serde(borrow, default)]
    pub(crate) destination_arn: Option<Text<'a>>,
    #[serde(default)]
    pub(crate) max_number_of_messages_per_second: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListMessageMoveTasks<'a> {
    #[serde(borrow, default)]
    pub(crate) source_arn: Text<'a>,
    #[serde(default)]
    pub(crate) max_results: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CancelMessageMoveTask<'a> {
    #[serde(borrow, default)]
    pub(crate) task_handle: Text<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct QueueUrl {
    pub(crate) queue_url: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct QueueUrls {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) queue_urls: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_token: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct QueueAttributes {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) attributes: BTreeMap<&'static str, String>,
}

/// The answer to a message that was sent: by itself, or as an entry of a batch.
#[derive(Serialize)]
pub(crate) struct Sent<'a> {
    #[serde(rename = "Id", skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<&'a str>,
    #[serde(rename = "MessageId")]
    pub(crate) message_id: Id,
    #[serde(rename = "MD5OfMessageBody")]
    pub(crate) body_md5: Hex,
    #[serde(rename = "MD5OfMessageAttributes", skip_serializing_if = "Option::is_none")]
    pub(crate) attributes_md5: Option<Hex>,
    #[serde(rename = "MD5OfMessageSystemAttributes", skip_serializing_if = "Option::is_none")]
    pub(crate) system_attributes_md5: Option<Hex>,
}

/// An entry of which nothing is to be said but that it was done.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Done<'a> {
    pub(crate) id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Failed<'a> {
    pub(crate) id: &'a str,
    pub(crate) sender_fault: bool,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct BatchAnswer<'a, S> {
    pub(crate) successful: Vec<S>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) failed: Vec<Failed<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Messages<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) messages: Vec<ReceivedMessage<'a>>,
}

#[derive(Serialize)]
pub(crate) struct ReceivedMessage<'a> {
    #[serde(rename = "MessageId")]
    pub(crate) message_id: Id,
    #[serde(rename = "ReceiptHandle")]
    pub(crate) receipt_handle: ReceiptHandle,
    #[serde(rename = "MD5OfBody")]
    pub(crate) body_md5: Hex,
    #[serde(rename = "Body")]
    pub(crate) body: &'a str,
    #[serde(rename = "Attributes", skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub(crate) system_attributes: Vec<(&'static str, SystemAttribute<'a>)>,
    #[serde(rename = "MD5OfMessageAttributes", skip_serializing_if = "Option::is_none")]
    pub(crate) attributes_md5: Option<Hex>,
    #[serde(rename = "MessageAttributes", skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub(crate) attributes: Vec<(&'a str, &'a Attribute)>,
}

/// What names one receive of one message of one queue.
#[derive(Clone, Copy)]
pub(crate) struct ReceiptHandle {
    pub(crate) queue: u64,
    pub(crate) handle: Handle,
}

impl fmt::Display for ReceiptHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:x}-{:x}", self.queue, self.handle.key, self.handle.receive_count)
    }
}

impl Serialize for ReceiptHandle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl ReceiptHandle {
    pub(crate) fn parse(text: &str) -> Option<ReceiptHandle> {
        let mut parts = text.split('-').map(|part| u64::from_str_radix(part, 16).ok());
        let (queue, key, count) = (parts.next()??, parts.next()??, parts.next()??);
        let handle = Handle { key, receive_count: count.try_into().ok()? };
        parts.next().is_none().then_some(ReceiptHandle { queue, handle })
    }
}

/// The value of a system attribute: always text on the wire.
pub(crate) enum SystemAttribute<'a> {
    Text(&'a str),
    Number(u128),
}

impl Serialize for SystemAttribute<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            SystemAttribute::Text(text) => serializer.serialize_str(text),
            SystemAttribute::Number(number) => serializer.collect_str(number),
        }
    }
}

fn as_map<K: Serialize, V: Serialize, S: Serializer>(pairs: &[(K, V)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(pairs.len()))?;
    for (key, value) in pairs {
        map.serialize_entry(key, value)?;
    }
    map.end()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TaskHandle {
    pub(crate) task_handle: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct MoveTasks {
    pub(crate) results: Vec<MoveTask>,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct MoveTask {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) task_handle: Option<String>,
    pub(crate) status: &'static str,
    pub(crate) source_arn: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) destination_arn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_number_of_messages_per_second: Option<i64>,
    pub(crate) approximate_number_of_messages_moved: u64,
    pub(crate) approximate_number_of_messages_to_move: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure_reason: Option<&'static str>,
    pub(crate) started_timestamp: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Moved {
    pub(crate) approximate_number_of_messages_moved: u64,
}

/// The body of an error.
#[derive(Serialize)]
pub(crate) struct Problem<'a> {
    #[serde(rename = "__type")]
    pub(crate) shape: &'a str,
    pub(crate) message: &'a str,
}
