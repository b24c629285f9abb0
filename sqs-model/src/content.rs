//! What a message holds, and what SQS checks of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use dawdle::backend::memory::model::{MAX_ATTRIBUTES, forbidden_character, is_attribute_name};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use crate::refusal::{self, Refusal};
use crate::wire::Message;

/// The longest type of an attribute, and the longest message group:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html>
const MAX_TYPE: usize = 256;
const MAX_GROUP: usize = 128;

/// A message as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) id: Id,
    pub(crate) body: Box<str>,
    pub(crate) body_md5: Hex,
    pub(crate) attributes: BTreeMap<String, Attribute>,
    pub(crate) attributes_md5: Option<Hex>,
    /// The header that traces it, and its MD5.
    pub(crate) trace: Option<Box<(Attribute, Hex)>>,
    pub(crate) group: Option<Box<str>>,
    /// As SQS counts them.
    pub(crate) bytes: usize,
    /// The queue that it was moved away from by a redrive policy.
    pub(crate) redriven_from: Option<Arc<str>>,
}

/// A message attribute. Binary values stay in base64.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Attribute {
    #[serde(default)]
    pub(crate) data_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) string_value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) binary_value: Option<String>,
}

/// Text of a fixed length, kept in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ascii<const LENGTH: usize>([u8; LENGTH]);

/// An MD5, as it is written.
pub(crate) type Hex = Ascii<32>;

/// What is named by a UUID, as it is written.
pub(crate) type Id = Ascii<36>;

impl<const LENGTH: usize> Ascii<LENGTH> {
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl<const LENGTH: usize> Serialize for Ascii<LENGTH> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

fn digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

impl Hex {
    fn of(digest: Md5) -> Hex {
        let mut hex = [0; 32];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(digest.finalize()) {
            pair.copy_from_slice(&digits(byte));
        }
        Ascii(hex)
    }
}

impl Id {
    /// A UUID of these bits, which says that they are random.
    pub(crate) fn of(random: u128) -> Id {
        let mut bytes = random.to_be_bytes();
        bytes[6] = bytes[6] & 0x0F | 0x40;
        bytes[8] = bytes[8] & 0x3F | 0x80;
        let mut id = [b'-'; 36];
        for (index, byte) in bytes.into_iter().enumerate() {
            let dashes = [4, 6, 8, 10].into_iter().filter(|after| index >= *after).count();
            id[index * 2 + dashes..][..2].copy_from_slice(&digits(byte));
        }
        Ascii(id)
    }
}

impl Content {
    /// What a message would be kept as, once it has been found right.
    ///
    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>
    pub(crate) fn new(message: Message<'_>, id: Id, max_bytes: usize) -> Result<Content, Refusal> {
        let bytes = message.bytes();
        if message.message_body.is_empty() {
            return Err(Refusal::missing("MessageBody"));
        }
        if bytes > max_bytes {
            let message =
                format!("One or more parameters are invalid. Reason: Message must be shorter than {max_bytes} bytes.");
            return Err(Refusal::new(&refusal::INVALID_VALUE, message));
        }
        check_text(&message.message_body)?;
        check_attributes(&message.message_attributes)?;
        if let Some(group) = &message.message_group_id {
            check_group(group)?;
        }
        let mut system = message.message_system_attributes;
        let trace = system.remove("AWSTraceHeader");
        if let Some(unknown) = system.keys().next() {
            return Err(Refusal::value(unknown, "MessageSystemAttributes", "only AWSTraceHeader can be sent."));
        }
        let body_md5 = Hex::of(Md5::new_with_prefix(message.message_body.as_bytes()));
        let trace = trace.and_then(|trace| {
            let md5 = attributes_md5([("AWSTraceHeader", &trace)])?;
            Some(Box::new((trace, md5)))
        });
        Ok(Content {
            id,
            body_md5,
            body: message.message_body.into(),
            attributes_md5: attributes_md5(message.message_attributes.iter().map(|(name, value)| (&**name, value))),
            attributes: message.message_attributes,
            trace,
            group: message.message_group_id.map(Cow::into_owned).map(Into::into),
            bytes,
            redriven_from: None,
        })
    }
}

impl Message<'_> {
    /// Its size: the body, and names, types and values of the attributes.
    pub(crate) fn bytes(&self) -> usize {
        let attributes = self.message_attributes.iter().map(|(name, value)| {
            let text = value.string_value.as_ref().map_or(0, String::len);
            let binary = value.binary_value.as_ref().map_or(0, |base64| base64.trim_end_matches('=').len() * 3 / 4);
            name.len() + value.data_type.len() + text + binary
        });
        self.message_body.len() + attributes.sum::<usize>()
    }
}

fn check_text(text: &str) -> Result<(), Refusal> {
    match forbidden_character(text) {
        None => Ok(()),
        Some((at, character)) => Err(Refusal::new(
            &refusal::INVALID_CONTENTS,
            format!(
                "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to \
                 #xFFFD | #x10000 to #x10FFFF; {character:?} stands at byte {at}."
            ),
        )),
    }
}

/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html>
fn check_attributes(attributes: &BTreeMap<String, Attribute>) -> Result<(), Refusal> {
    let wrong = |message: String| Err(Refusal::new(&refusal::INVALID_VALUE, message));
    if attributes.len() > MAX_ATTRIBUTES {
        return wrong(format!(
            "Number of message attributes [{}] exceeds the allowed maximum [{MAX_ATTRIBUTES}].",
            attributes.len()
        ));
    }
    for (name, attribute) in attributes {
        if !is_attribute_name(name) {
            return wrong(format!("The message attribute name '{name}' is not allowed."));
        }
        let Attribute { data_type, string_value, binary_value } = attribute;
        let (base, custom) = data_type.split_once('.').unwrap_or((data_type, "any"));
        if data_type.len() > MAX_TYPE || custom.is_empty() || !matches!(base, "String" | "Number" | "Binary") {
            return wrong(format!(
                "The type of message (user) attribute '{name}' is invalid. You must use only the following supported \
                 type prefixes: Binary, Number, String."
            ));
        }
        let value = if base == "Binary" { binary_value } else { string_value };
        let other = if base == "Binary" { string_value } else { binary_value };
        let Some(value) = value.as_ref().filter(|value| !value.is_empty() && other.is_none()) else {
            return wrong(format!(
                "The message (user) attribute '{name}' must contain a non-empty value of type '{data_type}'."
            ));
        };
        match base {
            "Binary" if BASE64.decode(value).is_err() => {
                return wrong(format!("The message (user) attribute '{name}' holds no base64."));
            }
            "Binary" => {}
            "Number" if !is_number(value) => {
                return wrong(format!("Can't cast the value of message (user) attribute '{name}' to a number."));
            }
            _ => check_text(value)?,
        }
    }
    Ok(())
}

/// Up to 38 digits, between -10^128 and 10^126.
fn is_number(value: &str) -> bool {
    let digits = value.split(['e', 'E']).next().unwrap_or_default().bytes().filter(u8::is_ascii_digit).count();
    digits <= 38 && value.parse::<f64>().is_ok_and(|number| (-1e128..=1e126).contains(&number))
}

/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>
fn check_group(group: &str) -> Result<(), Refusal> {
    let printable = |byte: u8| byte.is_ascii_alphanumeric() || byte.is_ascii_punctuation();
    if group.is_empty() || group.len() > MAX_GROUP || !group.bytes().all(printable) {
        let reason = "MessageGroupId can only include alphanumeric and punctuation characters. 1 to 128 in length.";
        return Err(Refusal::value(group, "MessageGroupId", reason));
    }
    Ok(())
}

/// The MD5 of attributes that come sorted by name; `None` of none.
///
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html>
pub(crate) fn attributes_md5<'a>(attributes: impl IntoIterator<Item = (&'a str, &'a Attribute)>) -> Option<Hex> {
    let mut digest = Md5::new();
    let mut any = false;
    let put = |digest: &mut Md5, bytes: &[u8]| {
        digest.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        digest.update(bytes);
    };
    for (name, attribute) in attributes {
        any = true;
        put(&mut digest, name.as_bytes());
        put(&mut digest, attribute.data_type.as_bytes());
        match &attribute.binary_value {
            Some(base64) => {
                digest.update([2]);
                put(&mut digest, &BASE64.decode(base64).unwrap_or_default());
            }
            None => {
                digest.update([1]);
                put(&mut digest, attribute.string_value.as_deref().unwrap_or_default().as_bytes());
            }
        }
    }
    any.then(|| Hex::of(digest))
}
