//! Messages that other programs put on the queue: what `.foreign(..)` is given.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::envelope::Envelope;

/// Makes an event of a message that is none, or declines.
pub(crate) type Foreign = Arc<dyn Fn(&RawMessage<'_>) -> Option<Envelope> + Send + Sync>;

/// A message whose body is no CloudEvent.
#[derive(Clone, Copy)]
pub struct RawMessage<'a> {
    id: &'a str,
    body: &'a str,
    attributes: &'a BTreeMap<String, String>,
    enqueued_at: SystemTime,
}

impl<'a> RawMessage<'a> {
    pub(crate) fn new(
        id: &'a str,
        body: &'a str,
        attributes: &'a BTreeMap<String, String>,
        enqueued_at: SystemTime,
    ) -> Self {
        RawMessage { id, body, attributes, enqueued_at }
    }

    /// The backend's id of the message: the same each time it is received, so that an event id
    /// made of it stays the same, too.
    pub fn id(&self) -> &'a str {
        self.id
    }

    /// The body as it was sent.
    pub fn body(&self) -> &'a str {
        self.body
    }

    /// The message attributes whose values are text.
    pub fn attributes(&self) -> &'a BTreeMap<String, String> {
        self.attributes
    }

    /// One message attribute.
    pub fn attribute(&self, name: &str) -> Option<&'a str> {
        self.attributes.get(name).map(String::as_str)
    }

    /// When it was put on the queue.
    pub fn enqueued_at(&self) -> SystemTime {
        self.enqueued_at
    }
}

impl fmt::Debug for RawMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawMessage")
            .field("id", &self.id)
            .field("bytes", &self.body.len())
            .field("attributes", &self.attributes.keys())
            .finish_non_exhaustive()
    }
}
