//! What an application signals: [`Event`], [`TypedEvent`], [`EventId`].

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use arrayvec::ArrayString;
use serde::Serialize;
use serde::de::value::MapDeserializer;
use serde::de::{Deserialize, DeserializeOwned};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};
use crate::redact;

/// Any event, whatever its type: what catch-all handlers and middleware see.
///
/// Implemented by `#[derive(Event)]`, which also registers the type so that it can be decoded
/// by its kind on any node that links it in. See [`macro@crate::Event`].
#[typetag::serde]
pub trait Event: Any + Send + Sync {
    /// The event's name on the wire.
    fn kind(&self) -> &'static str;
}

impl dyn Event {
    /// Whether the event is an `E`.
    pub fn is<E: Event>(&self) -> bool {
        (self as &dyn Any).is::<E>()
    }

    /// The event as an `E`, if it is one.
    pub fn downcast_ref<E: Event>(&self) -> Option<&E> {
        (self as &dyn Any).downcast_ref::<E>()
    }
}

impl fmt::Debug for dyn Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({})", self.kind())
    }
}

/// An event of a known type, with its names on the wire; implemented by `#[derive(Event)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event",
    note = "derive it: `#[derive(Serialize, Deserialize, dawdle::Event)] #[event(kind = \"..\")]`"
)]
pub trait TypedEvent: Event + Serialize + DeserializeOwned {
    /// The name under which it is written.
    const KIND: &'static str;
    /// Further names under which it is read: those it had before it was renamed.
    const ALIASES: &'static [&'static str];

    /// What deduplication goes by when the event is signalled without a
    /// [`.key(..)`](crate::Signal::key): what `#[event(key = "..")]` makes of its fields. `None`,
    /// where its type names no key: then it goes by the event's id.
    fn dedup_key(&self) -> Option<String> {
        None
    }
}

/// The identity of one signalled event: the CloudEvents `id`.
///
/// Those that Dawdle makes are UUIDs of version 7, which sort by time. Those of other producers
/// may be any text of 1 to 64 bytes in UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(ArrayString<64>);

impl EventId {
    /// A new one, unlike any other.
    #[expect(clippy::new_without_default, reason = "a default that differs each time would surprise")]
    pub fn new() -> Self {
        EventId::from(uuid::Uuid::now_v7())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl From<uuid::Uuid> for EventId {
    fn from(uuid: uuid::Uuid) -> Self {
        let mut buffer = uuid::Uuid::encode_buffer();
        // A hyphenated UUID has 36 bytes.
        EventId(ArrayString::from(uuid.hyphenated().encode_lower(&mut buffer)).unwrap_or_default())
    }
}

impl FromStr for EventId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match ArrayString::from(text) {
            Ok(id) if !text.is_empty() => Ok(EventId(id)),
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!("an event id has 1 to 64 bytes, this one has {}", text.len()),
            )),
        }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({})", self.as_str())
    }
}

impl Serialize for EventId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where in the source something was declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The source file, as the compiler names it.
    pub file: &'static str,
    /// The line, from 1.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What `#[derive(Event)]` leaves at link time.
#[doc(hidden)]
#[derive(Debug)]
pub struct EventRegistration {
    /// The name under which it is written.
    pub kind: &'static str,
    /// Further names under which it is read.
    pub aliases: &'static [&'static str],
    /// Whether many of it share a message, if the type says so.
    pub packs: Option<bool>,
    /// The Rust type.
    pub type_id: fn() -> TypeId,
    /// The Rust type's path.
    pub type_name: fn() -> &'static str,
    /// Where it is declared.
    pub place: Place,
}

inventory::collect!(EventRegistration);

/// The linked-in event that has this name, as a kind or as an alias.
fn registration(name: &str) -> Option<&'static EventRegistration> {
    static NAMES: OnceLock<HashMap<&'static str, &'static EventRegistration>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        inventory::iter::<EventRegistration>()
            .flat_map(|event| {
                let names = std::iter::once(event.kind).chain(event.aliases.iter().copied());
                names.map(move |name| (name, event))
            })
            .collect()
    });
    names.get(name).copied()
}

/// The kind that `name` stands for, as a kind or as an alias; `None` when no linked-in event has it.
pub(crate) fn canonical_kind(name: &str) -> Option<&'static str> {
    registration(name).map(|event| event.kind)
}

/// The same, and whether many events of it share a message: `None` where its type does not say.
pub(crate) fn kind_and_packs(name: &str) -> Option<(&'static str, Option<bool>)> {
    registration(name).map(|event| (event.kind, event.packs))
}

/// The kinds that are linked in.
#[cfg(feature = "testing")]
pub(crate) fn kinds() -> impl Iterator<Item = &'static str> {
    inventory::iter::<EventRegistration>().map(|event| event.kind)
}

/// Refuses two linked-in events that share a name.
pub(crate) fn check_registered() -> Result<()> {
    let mut seen: HashMap<&str, &EventRegistration> = HashMap::new();
    for event in inventory::iter::<EventRegistration>() {
        for name in std::iter::once(&event.kind).chain(event.aliases) {
            let Some(other) = seen.insert(name, event) else { continue };
            return Err(Error::new(
                ErrorKind::Registration,
                format!(
                    "two events are called `{name}` on the wire: `{}` ({}) and `{}` ({}); give one of them \
                     another `#[event(kind = \"..\")]` or take the name off its aliases",
                    (other.type_name)(),
                    other.place,
                    (event.type_name)(),
                    event.place,
                ),
            ));
        }
    }
    Ok(())
}

/// Decodes `data` as an event of `kind`, which must be canonical.
pub(crate) fn decode(kind: &'static str, data: &RawValue) -> Result<Arc<dyn Event>> {
    let one_entry = MapDeserializer::<_, serde_json::Error>::new(std::iter::once((kind, data)));
    match <Box<dyn Event>>::deserialize(one_entry) {
        Ok(event) => Ok(Arc::from(event)),
        Err(error) => {
            tracing::debug!(kind, "data does not decode: {error}");
            Err(Error::new(
                ErrorKind::Codec,
                format!("data of kind `{kind}` does not decode: {}", redact::codec_error(&error)),
            ))
        }
    }
}

/// `event` as JSON text.
pub(crate) fn encode<E: TypedEvent>(event: &E) -> Result<Box<RawValue>> {
    serde_json::value::to_raw_value(event).map_err(|error| {
        tracing::debug!(kind = E::KIND, "an event does not encode as JSON: {error}");
        let why = redact::codec_error(&error);
        Error::new(ErrorKind::Codec, format!("an event of kind `{}` does not encode as JSON: {why}", E::KIND))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_7_uuids_that_sort_by_time() {
        let ids: Vec<EventId> = (0..100).map(|_| EventId::new()).collect();
        assert!(ids.is_sorted());
        assert_eq!(uuid::Uuid::parse_str(ids[0].as_str()).unwrap().get_version_num(), 7);
    }

    #[test]
    fn ids_of_other_producers_are_any_short_text() {
        assert_eq!("A234-1234".parse::<EventId>().unwrap().as_str(), "A234-1234");
        assert!("".parse::<EventId>().is_err());
        assert!("x".repeat(65).parse::<EventId>().unwrap_err().to_string().contains("65"));
    }
}
