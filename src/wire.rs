//! The wire form: how an [`Envelope`] is written as a message body, and read back.
//!
//! A body is one CloudEvents 1.0 JSON object, or a JSON array of them (the CloudEvents batch
//! format). The text is plain JSON unless it holds a character that SQS refuses, or is
//! compressed; then it is base64. The first byte tells which: `{` and `[` begin plain text,
//! anything else is base64, and what it decodes to is gzip if it begins with gzip's magic number.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use crate::clock::Clock;
use crate::envelope::{Attribute, Data, Death, Envelope, RESERVED, UNDECODABLE};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventId;
use crate::redact::Shown;

/// The most that a compressed body may unfold to, in bytes: 16 MiB. Nothing larger is written.
const MAX_UNFOLDED: u64 = 16 * 1024 * 1024;

/// What gzip begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The most events of one body. 1 MiB holds about as many that are next to empty; a body of more is
/// no pack but a way to have one message make very many.
pub(crate) const MAX_PACK: usize = 10_000;

/// The most attributes of one event beside those that have a meaning here.
const MAX_ATTRIBUTES: usize = 1_000;

/// The attributes that say why an envelope is a dead letter.
pub(crate) const OF_DEATH: [&str; 5] = ["deadreason", "deaderror", "deadtime", "deadnode", "deadversion"];

/// The two characters that JSON leaves as they are and SQS refuses
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>).
const REFUSED: [char; 2] = ['\u{FFFE}', '\u{FFFF}'];

/// What a message body turned out to hold.
#[derive(Debug)]
pub(crate) enum Body {
    One(Box<Envelope>),
    Pack(Vec<Result<Envelope, Unreadable>>),
    Unreadable(String),
}

/// One element of a pack that is no event.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) text: String,
    pub(crate) why: String,
}

/// Writes one envelope as a message body, compressed when it is longer than `compress_above` bytes.
pub(crate) fn write(envelope: &Envelope, compress_above: Option<usize>) -> Result<String> {
    let text = serde_json::to_string(envelope).map_err(|error| {
        Error::new(
            ErrorKind::Codec,
            format!("event {} of kind `{}` cannot be written: {error}", envelope.id, envelope.kind),
        )
    })?;
    if envelope.attributes.len() > MAX_ATTRIBUTES {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "event {} has {} attributes, and readers take {MAX_ATTRIBUTES}; put them into its data instead",
                envelope.id,
                envelope.attributes.len()
            ),
        ));
    }
    if text.len() as u64 > MAX_UNFOLDED {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "event {} is {} bytes before compression, and readers take {MAX_UNFOLDED}; send a reference to the \
                 data instead",
                envelope.id,
                text.len()
            ),
        ));
    }
    if compress_above.is_some_and(|limit| text.len() > limit) {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        if gzip.write_all(text.as_bytes()).is_ok()
            && let Ok(packed) = gzip.finish()
        {
            return Ok(BASE64.encode(packed));
        }
    }
    // Both begin with the same byte, which is found faster.
    if text.as_bytes().contains(&0xEF) && text.contains(REFUSED) {
        return Ok(BASE64.encode(text));
    }
    Ok(text)
}

/// Whether a body is one event in plain text, as [`pack`] takes it.
pub(crate) fn is_plain(body: &str) -> bool {
    body.starts_with('{')
}

/// Writes a pack of events, each written as plain text.
pub(crate) fn pack<'a>(events: impl Iterator<Item = &'a str> + Clone) -> String {
    let mut pack = String::with_capacity(events.clone().map(|event| event.len() + 1).sum::<usize>() + 1);
    for (at, event) in events.enumerate() {
        pack.push(if at == 0 { '[' } else { ',' });
        pack.push_str(event);
    }
    pack.push(']');
    pack
}

/// Whether a body is a pack in plain text.
pub(crate) fn is_pack(body: &str) -> bool {
    body.starts_with('[')
}

/// Reads a message body. `enqueued` stands in for the time of an event that names none.
pub(crate) fn read(body: &str, enqueued: SystemTime) -> Body {
    let text = body.trim_ascii();
    match text.as_bytes().first() {
        Some(b'{') => read_one(text, enqueued),
        Some(b'[') => read_pack(text, enqueued),
        Some(_) => match unfold(text) {
            Ok(text) if text.trim_ascii_start().starts_with('[') => read_pack(&text, enqueued),
            Ok(text) => read_one(&text, enqueued),
            Err(why) => Body::Unreadable(why),
        },
        None => Body::Unreadable("the body is empty".into()),
    }
}

fn read_one(text: &str, enqueued: SystemTime) -> Body {
    match parse(text, enqueued) {
        Ok(envelope) => Body::One(Box::new(envelope)),
        Err(why) => Body::Unreadable(why),
    }
}

fn read_pack(text: &str, enqueued: SystemTime) -> Body {
    match serde_json::from_str::<Parts<'_>>(text) {
        Ok(Parts { parts, .. }) if parts.is_empty() => Body::Unreadable("the body is an empty JSON array".into()),
        Ok(Parts { more: true, .. }) => {
            Body::Unreadable(format!("the body is a JSON array of more than {MAX_PACK} elements"))
        }
        Ok(Parts { parts, more: false }) => {
            let parts: Vec<_> = parts
                .into_iter()
                .map(|part| parse(part.get(), enqueued).map_err(|why| Unreadable { text: part.get().to_owned(), why }))
                .collect();
            // An array without an event is not a pack but another program's message, and stays whole.
            if let Some(Err(first)) = parts.first()
                && parts.iter().all(Result::is_err)
            {
                return Body::Unreadable(format!(
                    "the body is a JSON array without an event; of its first: {}",
                    first.why
                ));
            }
            Body::Pack(parts)
        }
        Err(error) => Body::Unreadable(not_json(&error)),
    }
}

fn parse(text: &str, enqueued: SystemTime) -> Result<Envelope, String> {
    let parsed: Parsed<'_> = serde_json::from_str(text).map_err(|error| not_json(&error))?;
    parsed.into_envelope(enqueued)
}

/// Where JSON broke off, without quoting it.
fn not_json(error: &serde_json::Error) -> String {
    format!("the body is not a JSON object (line {}, column {})", error.line(), error.column())
}

/// How many bytes a compressed body unfolds to, as far as it may; `None` for any other body.
pub(crate) fn unfolded_bytes(body: &str) -> Option<u64> {
    let text = body.trim_ascii();
    // Whatever begins with gzip's magic number begins with this in base64.
    let bytes = text.starts_with("H4").then(|| BASE64.decode(text).ok()).flatten()?;
    Some(std::io::copy(&mut gunzip(&bytes), &mut std::io::sink()).unwrap_or(MAX_UNFOLDED))
}

fn gunzip(bytes: &[u8]) -> impl Read {
    flate2::read::MultiGzDecoder::new(bytes).take(MAX_UNFOLDED + 1)
}

/// Undoes base64 and gzip.
fn unfold(text: &str) -> Result<String, String> {
    let bytes = BASE64.decode(text).map_err(|_| "the body is neither JSON nor base64".to_owned())?;
    let bytes = if bytes.starts_with(&GZIP) {
        let mut unfolded = Vec::new();
        gunzip(&bytes).read_to_end(&mut unfolded).map_err(|_| "the body's gzip stream is broken".to_owned())?;
        if unfolded.len() as u64 > MAX_UNFOLDED {
            return Err(format!("the body unfolds to more than {MAX_UNFOLDED} bytes"));
        }
        unfolded
    } else {
        bytes
    };
    String::from_utf8(bytes).map_err(|_| "the body's base64 is not UTF-8 text".to_owned())
}

/// The body of a message that held no event, as the data of an envelope that dead letters can keep.
pub(crate) fn wrap_undecodable(body: &str, source: &str, id: EventId, enqueued: SystemTime) -> Envelope {
    let mut envelope = Envelope::bare(id, source, UNDECODABLE, enqueued);
    envelope.data = Data::Base64(BASE64.encode(body));
    envelope
}

/// The body that [`wrap_undecodable`] wrapped.
pub(crate) fn unwrap_undecodable(envelope: &Envelope) -> Option<String> {
    match &envelope.data {
        Data::Base64(text) if envelope.kind == UNDECODABLE => String::from_utf8(BASE64.decode(text).ok()?).ok(),
        _ => None,
    }
}

/// A timestamp as RFC 3339 text in UTC.
fn timestamp<E: serde::ser::Error>(time: SystemTime) -> Result<String, E> {
    OffsetDateTime::from(time).format(&Rfc3339).map_err(E::custom)
}

impl Envelope {
    /// The events in the body of a message, whatever their kinds: one, or those of a pack. What has no
    /// time of its own gets `enqueued`.
    ///
    /// ```
    /// use std::time::SystemTime;
    ///
    /// use dawdle::Envelope;
    ///
    /// let body = serde_json::to_string(&Envelope::of_kind("trial.ending", "{}")?).unwrap();
    /// assert_eq!(Envelope::read_all(&body, SystemTime::now())?[0].kind(), "trial.ending");
    /// # Ok::<(), dawdle::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Codec`] for a body that is no event, and for a pack that has a part which is none.
    pub fn read_all(body: &str, enqueued: SystemTime) -> Result<Vec<Self>> {
        let no_event = |why: String| Error::new(ErrorKind::Codec, why);
        match read(body, enqueued) {
            Body::One(envelope) => Ok(vec![*envelope]),
            Body::Pack(parts) => parts.into_iter().map(|part| part.map_err(|part| no_event(part.why))).collect(),
            Body::Unreadable(why) => Err(no_event(why)),
        }
    }
}

impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("specversion", "1.0")?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("source", &self.source)?;
        map.serialize_entry("type", &self.kind)?;
        map.serialize_entry("time", &timestamp::<S::Error>(self.time)?)?;
        let mut text = |name: &str, value: &Option<String>| match value {
            Some(value) => map.serialize_entry(name, value),
            None => Ok(()),
        };
        text("datacontenttype", &self.content_type)?;
        text("due", &self.due.map(timestamp::<S::Error>).transpose()?)?;
        text("expires", &self.expires.map(timestamp::<S::Error>).transpose()?)?;
        text("handler", &self.handler)?;
        text("dedupkey", &self.dedup_key)?;
        text("group", &self.group)?;
        text("traceparent", &self.traceparent)?;
        text("tracestate", &self.tracestate)?;
        text("unhandledsince", &self.unhandled_since.map(timestamp::<S::Error>).transpose()?)?;
        if let Some(death) = &self.death {
            text("deadreason", &Some(death.reason.clone()))?;
            text("deaderror", &death.error)?;
            text("deadtime", &Some(timestamp::<S::Error>(death.time)?))?;
            text("deadnode", &death.node)?;
            text("deadversion", &death.version)?;
        }
        if self.attempt > 1 {
            map.serialize_entry("attempt", &self.attempt)?;
        }
        if let Some(generation) = self.generation {
            map.serialize_entry("generation", &generation)?;
        }
        let replaced = |name: &String| self.death.is_some() && OF_DEATH.contains(&name.as_str());
        for (name, value) in self.attributes.iter().filter(|(name, _)| !replaced(name)) {
            map.serialize_entry(name, value)?;
        }
        match &self.data {
            Data::None => {}
            Data::Json(json) => map.serialize_entry("data", json)?,
            Data::Base64(text) => map.serialize_entry("data_base64", text)?,
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        parse(json.get(), Clock::system().now()).map_err(D::Error::custom)
    }
}

/// The elements of a JSON array, as text.
struct Parts<'a> {
    parts: Vec<&'a RawValue>,
    /// There are more than are read.
    more: bool,
}

impl<'de> Deserialize<'de> for Parts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;
        impl<'de> Visitor<'de> for Array {
            type Value = Parts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Parts<'de>, A::Error> {
                let mut parts = Vec::new();
                while parts.len() < MAX_PACK {
                    match seq.next_element()? {
                        Some(part) => parts.push(part),
                        None => return Ok(Parts { parts, more: false }),
                    }
                }
                let mut more = false;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    more = true;
                }
                Ok(Parts { parts, more })
            }
        }
        deserializer.deserialize_seq(Array)
    }
}

/// A JSON object whose values are left as text.
#[derive(Default)]
struct Parsed<'a> {
    attributes: BTreeMap<Cow<'a, str>, &'a RawValue>,
    data: Option<&'a RawValue>,
    /// Why it is no event, whatever else it holds.
    fault: Option<String>,
}

impl<'de> Deserialize<'de> for Parsed<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Parsed<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a CloudEvents JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed<'de>, A::Error> {
                let mut parsed = Parsed::default();
                while let Some(Text(name)) = map.next_key()? {
                    // Which of two is meant nobody knows, and one would be lost.
                    let twice = if name == "data" {
                        parsed.data.replace(map.next_value()?).is_some()
                    } else if parsed.attributes.len() < MAX_ATTRIBUTES + RESERVED.len() {
                        parsed.attributes.insert(name, map.next_value()?).is_some()
                    } else {
                        map.next_value::<IgnoredAny>()?;
                        parsed.fault = Some(too_many_attributes());
                        false
                    };
                    if twice {
                        parsed.fault = Some("not a CloudEvent: it has two attributes of one name".to_owned());
                    }
                }
                Ok(parsed)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A JSON string, borrowed where it holds no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Characters;
        impl<'de> Visitor<'de> for Characters {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Characters)
    }
}

impl Serialize for Attribute {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Attribute::Text(text) => serializer.serialize_str(text),
            Attribute::Other(json) => json.serialize(serializer),
        }
    }
}

fn too_many_attributes() -> String {
    format!("it has more than {MAX_ATTRIBUTES} attributes")
}

impl<'a> Parsed<'a> {
    fn into_envelope(mut self, enqueued: SystemTime) -> Result<Envelope, String> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        match self.text("specversion")?.as_deref() {
            Some("1.0") => {}
            Some(_) => return Err("attribute `specversion` is not 1.0".into()),
            None => return Err("not a CloudEvent: attribute `specversion` is missing".into()),
        }
        let id = self.required("id")?.parse::<EventId>().map_err(|error| error.to_string())?;
        let source = self.required("source")?;
        let kind = self.required("type")?;
        let mut envelope = Envelope::bare(id, &source, &kind, enqueued);
        if let Some(time) = self.time("time")? {
            envelope.time = time;
        }
        envelope.content_type = self.owned("datacontenttype")?;
        envelope.due = self.time("due")?;
        envelope.expires = self.time("expires")?;
        envelope.handler = self.owned("handler")?;
        envelope.attempt = match self.number("attempt")? {
            Some(attempt) => u32::try_from(attempt).unwrap_or(u32::MAX).max(1),
            None => 1,
        };
        envelope.dedup_key = self.owned("dedupkey")?;
        envelope.group = self.owned("group")?;
        envelope.generation = self.number("generation")?;
        envelope.traceparent = self.owned("traceparent")?;
        envelope.tracestate = self.owned("tracestate")?;
        envelope.unhandled_since = self.time("unhandledsince")?;
        if let Some(reason) = self.owned("deadreason")? {
            envelope.death = Some(Death {
                reason,
                error: self.owned("deaderror")?,
                time: self.time("deadtime")?.unwrap_or(enqueued),
                node: self.owned("deadnode")?,
                version: self.owned("deadversion")?,
            });
        }
        envelope.data = match (self.owned("data_base64")?, self.data) {
            (None, None) => Data::None,
            (None, Some(json)) => Data::Json(json.to_owned()),
            (Some(text), None) => Data::Base64(text),
            (Some(_), Some(_)) => return Err("not a CloudEvent: it has both `data` and `data_base64`".into()),
        };
        if self.attributes.len() > MAX_ATTRIBUTES {
            return Err(too_many_attributes());
        }
        for (name, json) in self.attributes {
            let value = match text_of(&name, json)? {
                Some(Text(text)) => Attribute::Text(text.into_owned()),
                None => Attribute::Other(json.to_owned()),
            };
            envelope.attributes.insert(name.into_owned(), value);
        }
        Ok(envelope)
    }

    fn required(&mut self, name: &str) -> Result<Cow<'a, str>, String> {
        match self.text(name)? {
            Some(text) if !text.is_empty() => Ok(text),
            Some(_) => Err(format!("not a CloudEvent: attribute `{name}` is empty")),
            None => Err(format!("not a CloudEvent: attribute `{name}` is missing")),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<Cow<'a, str>>, String> {
        let Some(json) = self.attributes.remove(name).filter(|json| !is_null(json)) else { return Ok(None) };
        match text_of(name, json)? {
            Some(Text(text)) => Ok(Some(text)),
            None => Err(format!("attribute `{name}` is not text")),
        }
    }

    fn owned(&mut self, name: &str) -> Result<Option<String>, String> {
        Ok(self.text(name)?.map(Cow::into_owned))
    }

    fn time(&mut self, name: &str) -> Result<Option<SystemTime>, String> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let time = OffsetDateTime::parse(&text, &Rfc3339)
            .map_err(|_| format!("attribute `{name}` is not an RFC 3339 time"))?;
        // One that could not be written again would be stuck.
        let utc = time.checked_to_offset(UtcOffset::UTC).filter(|utc| (0..=9999).contains(&utc.year()));
        match utc {
            Some(utc) => Ok(Some(SystemTime::from(utc))),
            None => Err(format!("attribute `{name}` is not within the years 0 to 9999")),
        }
    }

    /// A number, also as text: some producers' bindings write every attribute as text.
    fn number(&mut self, name: &str) -> Result<Option<u64>, String> {
        let Some(json) = self.attributes.remove(name).filter(|json| !is_null(json)) else { return Ok(None) };
        let number = match text_of(name, json)? {
            Some(Text(text)) => text.parse().ok(),
            None => json.get().parse().ok(),
        };
        number.map(Some).ok_or_else(|| format!("attribute `{name}` is not a whole number"))
    }
}

fn is_null(json: &RawValue) -> bool {
    json.get() == "null"
}

/// The text of an attribute; `None` where it is none.
fn text_of<'a>(name: &str, json: &'a RawValue) -> Result<Option<Text<'a>>, String> {
    if !json.get().starts_with('"') {
        return Ok(None);
    }
    let broken = |_| format!("attribute `{}` is no text of Unicode characters", Shown(name));
    serde_json::from_str(json.get()).map(Some).map_err(broken)
}

#[cfg(test)]
mod tests;
