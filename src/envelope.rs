//! One signalled event with everything that travels beside its data: [`Envelope`].

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::value::RawValue;

use crate::clock::{Clock, later};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{self, EventId, TypedEvent};
use crate::redact::Shown;

/// The kind of a dead letter that wraps a body which is no event.
pub(crate) const UNDECODABLE: &str = "dawdle.undecodable";

/// The longest kind that [`Envelope::of_kind`] takes, in bytes.
const MAX_KIND: usize = 256;

/// The longest dedup key, in bytes.
pub(crate) const MAX_KEY: usize = 1024;

/// The longest fair-queue group, in bytes:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>
const MAX_GROUP: usize = 128;

/// The longest tracestate that is passed on whatever happens, in characters:
/// <https://www.w3.org/TR/trace-context/#tracestate-limits>
const MAX_TRACE_STATE: usize = 512;

/// The CloudEvents source of an envelope that was given none.
pub(crate) const DEFAULT_SOURCE: &str = "dawdle";

/// The attributes that CloudEvents or Dawdle give a meaning to; an application cannot set them.
pub(crate) const RESERVED: [&str; 27] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
    "data_base64",
    "due",
    "expires",
    "handler",
    "attempt",
    "dedupkey",
    "group",
    "generation",
    "traceparent",
    "tracestate",
    "unhandledsince",
    "deadreason",
    "deaderror",
    "dataref",
    "dataversion",
    "deadtime",
    "deadnode",
    "deadversion",
];

/// A signalled event: its data, and the CloudEvents attributes that travel with it.
///
/// Made by [`Signal::into_envelope`](crate::Signal::into_envelope) or [`Envelope::new`], sent by
/// [`Dawdle::send`](crate::Dawdle::send). As a serde value it is its CloudEvents JSON object, so
/// that it can be kept elsewhere (an outbox table) in between.
#[derive(Clone, Debug)]
pub struct Envelope {
    pub(crate) id: EventId,
    pub(crate) source: String,
    pub(crate) kind: String,
    pub(crate) time: SystemTime,
    pub(crate) content_type: Option<String>,
    pub(crate) data: Data,
    pub(crate) due: Option<SystemTime>,
    pub(crate) expires: Option<SystemTime>,
    pub(crate) handler: Option<String>,
    pub(crate) attempt: u32,
    pub(crate) dedup_key: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) generation: Option<u64>,
    pub(crate) traceparent: Option<String>,
    pub(crate) tracestate: Option<String>,
    /// Since when nodes have been passing it on because none of them can handle it.
    pub(crate) unhandled_since: Option<SystemTime>,
    pub(crate) death: Option<Death>,
    /// Every other attribute, kept as it came.
    pub(crate) attributes: BTreeMap<String, Attribute>,
}

/// The value of an attribute that has no meaning here.
#[derive(Clone, Debug)]
pub(crate) enum Attribute {
    Text(String),
    /// JSON that is not text, to the letter: a number that were read would lose digits.
    Other(Box<RawValue>),
}

/// An event's data as it is on the wire.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    None,
    Json(Box<RawValue>),
    Base64(String),
}

/// Why, when and where an envelope became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Death {
    pub(crate) reason: String,
    pub(crate) error: Option<String>,
    pub(crate) time: SystemTime,
    pub(crate) node: Option<String>,
    pub(crate) version: Option<String>,
}

impl Envelope {
    /// `event`, signalled now with a new id, due at once.
    ///
    /// # Errors
    /// [`ErrorKind::Codec`] when the event does not encode as JSON; [`ErrorKind::Invalid`] when the
    /// [key](TypedEvent::dedup_key) that its type makes of it is empty or too long.
    pub fn new<E: TypedEvent>(event: E) -> Result<Self> {
        let mut envelope = Envelope::of(&event, DEFAULT_SOURCE, Clock::system().now())?;
        if let Some(key) = event.dedup_key() {
            envelope.set_own_key(key)?;
        }
        Ok(envelope)
    }

    /// An event of a kind that is not linked in, signalled now with a new id, due at once: its data is
    /// `json`, to the letter.
    ///
    /// ```
    /// let envelope = dawdle::Envelope::of_kind("trial.ending", r#"{ "account": 7 }"#)?;
    /// assert_eq!((envelope.kind(), envelope.data()), ("trial.ending", Some(r#"{ "account": 7 }"#)));
    /// # Ok::<(), dawdle::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Codec`] when `json` is not JSON; [`ErrorKind::Invalid`] when the kind is empty or
    /// longer than 256 bytes.
    pub fn of_kind(kind: &str, json: &str) -> Result<Self> {
        if !(1..=MAX_KIND).contains(&kind.len()) {
            let actual = kind.len();
            let text = format!("an event's kind has 1 to {MAX_KIND} bytes, this one has {actual}");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        Envelope::bare(EventId::new(), DEFAULT_SOURCE, kind, Clock::system().now()).with_data(json)
    }

    pub(crate) fn of<E: TypedEvent>(event: &E, source: &str, time: SystemTime) -> Result<Self> {
        let mut envelope = Envelope::bare(EventId::new(), source, E::KIND, time);
        envelope.data = Data::Json(event::encode(event)?);
        envelope.content_type = Some("application/json".into());
        Ok(envelope)
    }

    pub(crate) fn bare(id: EventId, source: &str, kind: &str, time: SystemTime) -> Self {
        Envelope {
            id,
            source: source.to_owned(),
            kind: kind.to_owned(),
            time,
            content_type: None,
            data: Data::None,
            due: None,
            expires: None,
            handler: None,
            attempt: 1,
            dedup_key: None,
            group: None,
            generation: None,
            traceparent: None,
            tracestate: None,
            unhandled_since: None,
            death: None,
            attributes: BTreeMap::new(),
        }
    }

    /// The same with another id.
    #[must_use]
    pub fn with_id(mut self, id: EventId) -> Self {
        self.id = id;
        self
    }

    /// The same, due at `due`.
    #[must_use]
    pub fn with_due_at(mut self, due: SystemTime) -> Self {
        self.due = Some(whole_milliseconds(due));
        self
    }

    /// The same with other data: `json`, to the letter. Its key stays, also one that its type had made
    /// of the data.
    ///
    /// ```
    /// # fn main() -> dawdle::Result<()> {
    /// let envelope = dawdle::Envelope::of_kind("trial.ending", r#"{"account":7}"#)?;
    /// let mended = envelope.clone().with_data(r#"{"account":8}"#)?.with_handler("remind")?.with_group("tenant-7")?;
    /// assert_eq!((mended.id(), mended.data()), (envelope.id(), Some(r#"{"account":8}"#)));
    /// assert_eq!((mended.handler(), mended.group()), (Some("remind"), Some("tenant-7")));
    /// assert!(envelope.with_data("{").is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Codec`] when `json` is not JSON, saying where it breaks off.
    pub fn with_data(mut self, json: &str) -> Result<Self> {
        let data = serde_json::from_str::<Box<RawValue>>(json).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Error::new(ErrorKind::Codec, format!("the data is not JSON: it breaks off at line {line}, column {column}"))
        })?;
        self.data = Data::Json(data);
        self.content_type = Some("application/json".into());
        Ok(self)
    }

    /// The same for the one handler of this name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the name is empty.
    pub fn with_handler(mut self, name: &str) -> Result<Self> {
        if name.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "a handler's name has at least 1 byte, this one has none"));
        }
        self.handler = Some(name.to_owned());
        Ok(self)
    }

    /// The same for a tenant; see [`Signal::group`](crate::Signal::group).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when SQS would not take it.
    pub fn with_group(mut self, group: &str) -> Result<Self> {
        self.set_group(group)?;
        Ok(self)
    }

    pub(crate) fn set_group(&mut self, group: &str) -> Result<()> {
        if !is_group(group) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "group `{}` has {} bytes: SQS takes 1 to {MAX_GROUP} letters, digits and punctuation of ASCII",
                    Shown(group),
                    group.len()
                ),
            ));
        }
        self.group = Some(group.to_owned());
        Ok(())
    }

    /// The same with an attribute of the application's.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when `name` is not lower-case letters and digits, longer than 64
    /// bytes, or has a meaning of its own in CloudEvents or in Dawdle.
    pub fn with_attribute(mut self, name: &str, value: impl Into<String>) -> Result<Self> {
        self.set_attribute(name, value)?;
        Ok(self)
    }

    /// The same with this as what deduplication goes by, in place of the key that its type makes of
    /// it; see [`Signal::key`](crate::Signal::key).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it has no byte, or more than 1024.
    pub fn with_key(mut self, key: impl Into<String>) -> Result<Self> {
        self.set_key(key.into())?;
        Ok(self)
    }

    pub(crate) fn set_key(&mut self, key: String) -> Result<()> {
        if !(1..=MAX_KEY).contains(&key.len()) {
            let actual = key.len();
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("a key has 1 to {MAX_KEY} bytes, this one has {actual}"),
            ));
        }
        self.dedup_key = Some(key);
        Ok(())
    }

    /// Sets the key that the event's type makes of it.
    pub(crate) fn set_own_key(&mut self, key: String) -> Result<()> {
        let actual = key.len();
        self.set_key(key).map_err(|_| {
            Error::new(
                ErrorKind::Invalid,
                format!(
                    "the key that `#[event(key = ..)]` makes of this event of kind `{}` has {actual} bytes, and a key \
                     has 1 to {MAX_KEY}: make it of other fields, or signal the event with a `.key(..)` of its own",
                    self.kind
                ),
            )
        })
    }

    /// Sets an attribute of the application's: what middleware does before a send.
    ///
    /// # Errors
    /// As [`with_attribute`](Envelope::with_attribute).
    pub fn set_attribute(&mut self, name: &str, value: impl Into<String>) -> Result<()> {
        let well_formed = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if !well_formed {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "attribute name `{}`: a CloudEvents attribute has 1 to 64 lower-case letters and digits",
                    Shown(name)
                ),
            ));
        }
        if RESERVED.contains(&name) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("attribute name `{name}` has a meaning of its own on the wire; choose another"),
            ));
        }
        self.attributes.insert(name.to_owned(), Attribute::Text(value.into()));
        Ok(())
    }

    /// Lets it carry a trace, as `traceparent` and `tracestate` of W3C Trace Context: for tracing that is not
    /// OpenTelemetry's, which the feature `otel` sees to, and for events of other programs. What reads it is
    /// [`attribute("traceparent")`](Envelope::attribute).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when `traceparent` is none
    /// (<https://www.w3.org/TR/trace-context/#traceparent-header>), or `tracestate` longer than 512 characters.
    pub fn set_trace_context(&mut self, traceparent: &str, tracestate: Option<&str>) -> Result<()> {
        let invalid = |text: String| Err(Error::new(ErrorKind::Invalid, text));
        if !is_traceparent(traceparent) {
            return invalid(format!(
                "`{}` is no traceparent: that is `00-`, a trace's 32, a span's 16 and the flags' 2 hexadecimal digits, \
                 with `-` between them",
                Shown(traceparent)
            ));
        }
        if let Some(length) = tracestate.map(|state| state.chars().count()).filter(|length| *length > MAX_TRACE_STATE) {
            return invalid(format!("a tracestate has at most {MAX_TRACE_STATE} characters, this one has {length}"));
        }
        self.traceparent = Some(traceparent.to_owned());
        self.tracestate = tracestate.map(str::to_owned);
        Ok(())
    }

    /// The event's identity.
    pub fn id(&self) -> EventId {
        self.id
    }

    /// The event's name on the wire.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What signalled it: the CloudEvents source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// When it was first signalled. Hops, retries and replays never change it.
    pub fn signalled_at(&self) -> SystemTime {
        self.time
    }

    /// When it is due; for a retry, when that is due.
    pub fn due_at(&self) -> SystemTime {
        self.due.unwrap_or(self.time)
    }

    /// When it expires, if it does.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires
    }

    /// The one handler that it is addressed to, if it is.
    pub fn handler(&self) -> Option<&str> {
        self.handler.as_deref()
    }

    /// The number of the attempt that comes next, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What deduplication goes by, if it was given.
    pub fn key(&self) -> Option<&str> {
        self.dedup_key.as_deref()
    }

    /// The fair-queue group, if it was given.
    pub fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// The data as JSON text; `None` when there is none or it is binary.
    pub fn data(&self) -> Option<&str> {
        match &self.data {
            Data::Json(json) => Some(json.get()),
            Data::None | Data::Base64(_) => None,
        }
    }

    /// An attribute of the application's, or of another producer's, that is text.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        match name {
            "traceparent" => self.traceparent.as_deref(),
            "tracestate" => self.tracestate.as_deref(),
            _ => match self.attributes.get(name)? {
                Attribute::Text(text) => Some(text),
                Attribute::Other(_) => None,
            },
        }
    }

    /// The same event for the one handler `name`, whose attempt number `attempt` is due at `due`.
    pub(crate) fn addressed(&self, name: &str, attempt: u32, due: Option<SystemTime>) -> Self {
        Envelope {
            handler: Some(name.to_owned()),
            attempt,
            due: due.map(whole_milliseconds).or(self.due),
            unhandled_since: None,
            ..self.clone()
        }
    }

    pub(crate) fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| now > expires)
    }
}

/// Whether SQS takes `text` as a message group.
pub(crate) fn is_group(text: &str) -> bool {
    (1..=MAX_GROUP).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// `time` as the wire keeps it: rounded up, so that nothing becomes due early.
pub(crate) fn whole_milliseconds(time: SystemTime) -> SystemTime {
    let Ok(since) = time.duration_since(SystemTime::UNIX_EPOCH) else { return SystemTime::UNIX_EPOCH };
    let millis = since.as_nanos().div_ceil(1_000_000);
    later(SystemTime::UNIX_EPOCH, Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
}

/// Whether a text is a `traceparent` of W3C Trace Context: <https://www.w3.org/TR/trace-context/#traceparent-header>
pub(crate) fn is_traceparent(text: &str) -> bool {
    fn is(part: Option<&str>, length: usize) -> Option<&str> {
        let is_hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        part.filter(|part| part.len() == length && part.bytes().all(is_hex))
    }
    let is_not_zero = |part: &str| part.bytes().any(|byte| byte != b'0');
    let mut parts = text.split('-');
    let Some(version) = is(parts.next(), 2).filter(|version| *version != "ff") else { return false };
    is(parts.next(), 32).is_some_and(is_not_zero)
        && is(parts.next(), 16).is_some_and(is_not_zero)
        && is(parts.next(), 2).is_some()
        // A later version may say more.
        && (version != "00" || parts.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_what_w3c_says_it_is() {
        for good in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-be-like",
        ] {
            assert!(is_traceparent(good), "{good}");
        }
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
