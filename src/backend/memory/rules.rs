//! What SQS refuses, as functions of the [`Limits`]: sizes, characters, counts and ranges.

use std::time::Duration;

use crate::backend::{Limits, Outgoing};
use crate::error::{Error, ErrorKind, Result};

/// The most message attributes of one message:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>
pub const MAX_ATTRIBUTES: usize = 10;

/// The longest name of a message attribute:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html>
const MAX_ATTRIBUTE_NAME: usize = 256;

/// Refuses a call of too many entries.
pub(super) fn entries(limits: &Limits, count: usize) -> Result<()> {
    if count > limits.max_batch_entries {
        return Err(invalid(format!(
            "a call takes at most {} entries, and this one has {count}; split it",
            limits.max_batch_entries
        )));
    }
    Ok(())
}

/// Refuses a message for what it holds: size, characters, attributes, delay.
pub(super) fn message(limits: &Limits, message: &Outgoing) -> Result<()> {
    let bytes = message.bytes();
    if bytes > limits.max_message_bytes {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "a message takes at most {} bytes, its attributes included, and this one has {bytes}; \
                 keep the data elsewhere and send where it is",
                limits.max_message_bytes
            ),
        ));
    }
    if message.body.is_empty() {
        return Err(invalid("a message needs a body of at least 1 byte, and this one has 0".to_owned()));
    }
    text("the body", &message.body)?;
    if message.attributes.len() > MAX_ATTRIBUTES {
        return Err(invalid(format!(
            "a message takes at most {MAX_ATTRIBUTES} attributes, and this one has {}; put the rest into the body",
            message.attributes.len()
        )));
    }
    for (name, value) in &message.attributes {
        attribute(name, value)?;
    }
    if let Some(max) = limits.max_delay
        && message.delay > max
    {
        return Err(invalid(format!(
            "a message can be delayed by at most {max:?}, and {:?} was asked for; send it later, or to the delay queue",
            message.delay
        )));
    }
    Ok(())
}

/// Refuses a call whose messages are too large together.
pub(super) fn batch_bytes(limits: &Limits, bytes: usize) -> Result<()> {
    if bytes > limits.max_batch_bytes {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "the messages of a call take at most {} bytes together, and these have {bytes}; split the call",
                limits.max_batch_bytes
            ),
        ));
    }
    Ok(())
}

/// Refuses a lease longer than any may be.
pub(super) fn lease(limits: &Limits, lease: Duration) -> Result<()> {
    match limits.max_lease {
        Some(max) if lease > max => Err(invalid(format!(
            "a message can be hidden for at most {max:?}, and {lease:?} was asked for; \
             hide it for less, and again before that ends"
        ))),
        _ => Ok(()),
    }
}

pub(super) fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

/// Whether a message attribute may have this name:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html>
pub fn is_attribute_name(name: &str) -> bool {
    let reserved = ["aws.", "amazon."].iter().any(|prefix| name.to_ascii_lowercase().starts_with(prefix));
    let dotted = name.starts_with('.') || name.ends_with('.') || name.contains("..");
    let characters = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    !name.is_empty() && name.len() <= MAX_ATTRIBUTE_NAME && !reserved && !dotted && characters
}

fn attribute(name: &str, value: &str) -> Result<()> {
    if !is_attribute_name(name) {
        return Err(invalid(format!(
            "the attribute name {name:?} is refused: it takes 1 to {MAX_ATTRIBUTE_NAME} letters, digits, `_`, `-` and \
             single inner `.`, and must not begin with `AWS.` or `Amazon.`"
        )));
    }
    if value.is_empty() {
        return Err(invalid(format!("the attribute {name:?} needs a value of at least 1 byte; leave it out instead")));
    }
    text(&format!("the attribute {name:?}"), value)
}

fn text(what: &str, text: &str) -> Result<()> {
    match forbidden_character(text) {
        Some((at, character)) => Err(invalid(format!(
            "{what} holds {character:?} at byte {at}, and only #x9, #xA, #xD, #x20-#xD7FF, #xE000-#xFFFD and \
             #x10000-#x10FFFF are allowed; escape it"
        ))),
        None => Ok(()),
    }
}

/// The first character that a message must not hold, and at which byte it stands:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>
pub fn forbidden_character(text: &str) -> Option<(usize, char)> {
    // Most texts need no decoding: only plain ASCII, and a few bytes beside it.
    let plain = |byte: &u8| matches!(byte, b' '..=0x7F | b'\t' | b'\n' | b'\r');
    if text.as_bytes().iter().all(plain) {
        return None;
    }
    text.char_indices().find(|(_, character)| !allowed(*character))
}

fn allowed(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}')
}

/// A delay in the steps in which it is counted.
pub(super) fn whole_steps(limits: &Limits, delay: Duration) -> Duration {
    let step = limits.delay_step.as_nanos();
    let rest = delay.as_nanos().checked_rem(step).unwrap_or(0);
    delay.saturating_sub(Duration::from_nanos(u64::try_from(rest).unwrap_or(0)))
}
