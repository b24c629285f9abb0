//! What SQS's refusals and the network's failures are, in Dawdle's words.
//!
//! An error here carries SQS's code and the first line of its message, never the SDK's own error
//! value: that one holds the whole answer, which may be an event, and the message of a signature
//! mismatch goes on to quote the signed headers, session token included.

use std::error::Error as StdError;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};

use super::requests::Action;
use crate::error::{Error, ErrorKind};

/// The longest part of a message of SQS's that is repeated.
const MESSAGE_CHARS: usize = 400;

/// What stands for the code of an answer that has none, before its status.
const NO_CODE: &str = "HTTP status ";

/// Which call an error is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) action: Action,
    /// The queue, as errors name it: `message queue orders`.
    pub(super) queue: &'a str,
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on the {}", self.action.name(), self.queue)
    }
}

/// The error of a call that failed as a whole. `transmitted`: whether the request may have left
/// this machine.
pub(super) fn of_call<E>(at: At<'_>, error: &SdkError<E, HttpResponse>, transmitted: bool) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let lost = |reached: bool| at.action.sends() && transmitted && reached;
    match error {
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            let code = service.err().code().unwrap_or_default();
            let message = service.err().message().unwrap_or_default();
            let code = if code.is_empty() { format!("{NO_CODE}{status}") } else { code.to_owned() };
            refused(at, classify(at.action, &code, message, Some(status), true), &code, message)
        }
        SdkError::TimeoutError(_) => {
            Error::new(ErrorKind::Unavailable, format!("{at}: no answer in time")).with_maybe_sent(lost(true))
        }
        SdkError::ResponseError(response) => {
            let status = response.raw().status().as_u16();
            let text = format!("{at}: the answer, HTTP status {status}, could not be read: {}", chain(error));
            Error::new(ErrorKind::Unavailable, text).with_maybe_sent(lost(true))
        }
        _ => match credentials_in(error) {
            Some(missing) => credentials(at, missing),
            None => {
                let connected = !never_connected(error);
                let text = format!("{at}: {}", chain(error));
                match error {
                    SdkError::ConstructionFailure(_) => Error::new(ErrorKind::Config, text),
                    _ => Error::new(ErrorKind::Unavailable, text).with_maybe_sent(lost(connected)),
                }
            }
        },
    }
}

/// The error of one entry of a batch that was answered.
pub(super) fn of_entry(at: At<'_>, code: &str, message: &str, sender_fault: bool) -> Error {
    refused(at, classify(at.action, code, message, None, sender_fault), code, message)
}

/// The error of an entry that the answer does not mention at all.
pub(super) fn unanswered(at: At<'_>) -> Error {
    let text = format!("{at}: the answer mentions this entry neither as successful nor as failed");
    Error::new(ErrorKind::Unavailable, text).with_maybe_sent(at.action.sends())
}

fn refused(at: At<'_>, kind: ErrorKind, code: &str, message: &str) -> Error {
    let mut text = format!("{at}: {code}");
    let message = first_line(message);
    if !message.is_empty() {
        text.push_str(": ");
        text.push_str(&message);
    }
    if let Some(mend) = mend(at, kind, code) {
        text.push_str(". ");
        text.push_str(&mend);
    }
    // What SQS refused was not sent; what failed inside SQS may have been.
    Error::new(kind, text).with_maybe_sent(at.action.sends() && kind == ErrorKind::Unavailable)
}

fn mend(at: At<'_>, kind: ErrorKind, code: &str) -> Option<String> {
    let permission = at.action.permission();
    let code = bare(code);
    match kind {
        ErrorKind::Credentials => Some(match () {
            () if code.contains("Expired") => {
                "Renew the credentials (`aws sts get-caller-identity` shows whose they are) or set the machine's clock"
                    .to_owned()
            }
            () if code.contains("Kms") || code.contains("KMS") => format!(
                "Grant {} on the key that encrypts the {}",
                if at.action.sends() { "kms:GenerateDataKey and kms:Decrypt" } else { "kms:Decrypt" },
                at.queue
            ),
            () if code.contains("AccessDenied") || code.starts_with("HTTP") || code.contains("NotAuthorized") => {
                let by_url = match at.action {
                    Action::GetUrl => ", or configure the queues by URL, which needs no such permission",
                    _ => "",
                };
                format!("Grant {permission} on the {} to this role{by_url}", at.queue)
            }
            () => "Check the credentials of this process (`aws sts get-caller-identity` shows whose they are) and \
                   the machine's clock"
                .to_owned(),
        }),
        ErrorKind::Queue if code.starts_with("Kms") || code.starts_with("KMS") => {
            Some("Enable the key that encrypts the queue, or give the queue another one".to_owned())
        }
        _ => None,
    }
}

fn credentials(at: At<'_>, error: &CredentialsError) -> Error {
    let why = chain(error);
    match error {
        CredentialsError::ProviderTimedOut(_) => {
            Error::new(ErrorKind::Unavailable, format!("{at}: credentials could not be loaded in time: {why}"))
        }
        _ => Error::new(
            ErrorKind::Credentials,
            format!(
                "{at}: the AWS default chain yields no credentials: {why}. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, or give this machine or task a role that allows {}",
                at.action.permission()
            ),
        ),
    }
}

/// What a code of SQS's means. The lists follow the common and SQS's own errors:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html>
pub(super) fn classify(
    action: Action,
    code: &str,
    message: &str,
    status: Option<u16>,
    sender_fault: bool,
) -> ErrorKind {
    let code = bare(code);
    // Throttling goes first: it can come flagged as the sender's fault, and with any status.
    if code.contains("Throttl")
        || matches!(
            code,
            "OverLimit" | "RequestLimitExceeded" | "TooManyRequests" | "SlowDown" | "BandwidthLimitExceeded"
        )
        || status == Some(429)
    {
        return ErrorKind::Throttled;
    }
    match code {
        "ExpiredToken"
        | "RequestExpired"
        | "RequestTimeTooSkewed"
        | "InvalidClientTokenId"
        | "UnrecognizedClient"
        | "AccessDenied"
        | "SignatureDoesNotMatch"
        | "InvalidSignature"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "InvalidAccessKeyId"
        | "InvalidSecurity"
        | "InvalidSecurityToken"
        | "AuthFailure"
        | "NotAuthorized"
        | "OptInRequired"
        | "KmsAccessDenied"
        | "KMS.AccessDenied"
        | "KmsOptInRequired"
        | "KMS.OptInRequired" => ErrorKind::Credentials,
        "QueueDoesNotExist"
        | "NonExistentQueue"
        | "QueueDeletedRecently"
        | "QueueNameExists"
        | "InvalidAddress"
        | "KmsDisabled"
        | "KMS.Disabled"
        | "KmsInvalidState"
        | "KMS.InvalidState"
        | "KmsNotFound"
        | "KMS.NotFound"
        | "KmsInvalidKeyUsage"
        | "KMS.InvalidKeyUsage" => ErrorKind::Queue,
        "BatchRequestTooLong" | "MessageTooLong" | "RequestEntityTooLarge" => ErrorKind::TooLarge,
        "ReceiptHandleIsInvalid" | "MessageNotInflight" => ErrorKind::LeaseLost,
        "InvalidParameterValue" if action.takes_receipts() && is_about_a_lease(message) => ErrorKind::LeaseLost,
        "InvalidParameterValue" if action.sends() && is_about_size(message) => ErrorKind::TooLarge,
        "ServiceUnavailable" | "InternalError" | "InternalFailure" | "InternalServerError" | "RequestTimeout" => {
            ErrorKind::Unavailable
        }
        // Permanent whoever is blamed: an engine blames itself for odd characters.
        "InvalidMessageContents"
        | "InvalidParameterValue"
        | "InvalidParameterCombination"
        | "MissingParameter"
        | "InvalidAttributeName"
        | "InvalidAttributeValue"
        | "InvalidBatchEntryId"
        | "BatchEntryIdsNotDistinct"
        | "EmptyBatchRequest"
        | "TooManyEntriesInBatchRequest"
        | "InvalidIdFormat"
        | "UnsupportedOperation"
        | "ValidationError"
        | "Validation"
        | "InvalidAction" => ErrorKind::Refused,
        _ => match status {
            Some(413) => ErrorKind::TooLarge,
            Some(403) => ErrorKind::Credentials,
            Some(408 | 500..) => ErrorKind::Unavailable,
            // SQS has a code for every refusal; what has none is a proxy's, and not about the message.
            _ if sender_fault && !code.starts_with(NO_CODE) => ErrorKind::Refused,
            _ => ErrorKind::Unavailable,
        },
    }
}

/// A code without the prefixes and the suffix that it may come with.
pub(super) fn bare(code: &str) -> &str {
    let code = code.rsplit_once('#').map_or(code, |(_, code)| code);
    let code = code.strip_prefix("AWS.SimpleQueueService.").unwrap_or(code);
    code.strip_suffix("Exception").unwrap_or(code)
}

fn is_about_a_lease(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["receipthandle", "receipt handle", "does not exist", "not available for visibility", "total visibilitytimeout"]
        .iter()
        .any(|part| message.contains(part))
}

fn is_about_size(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["must be shorter than", "too long", "message size", "message length"].iter().any(|part| message.contains(part))
}

fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default().trim().trim_end_matches('.');
    // A receipt is long, and whoever has it can delete the message.
    let receipt = line.strip_prefix("Value ").and_then(|rest| rest.split_once(" for parameter ReceiptHandle "));
    if let Some((_, rest)) = receipt {
        return format!("The ReceiptHandle {rest}");
    }
    match line.char_indices().nth(MESSAGE_CHARS) {
        Some((end, _)) => format!("{}..", &line[..end]),
        None => line.to_owned(),
    }
}

/// An error and its causes in one line, each said once.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let part = first_line(&cause.to_string());
        if !part.is_empty() && !text.contains(&part) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&part);
        }
    }
    text
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| -> Option<&'a (dyn StdError + 'static)> { (*error).source() })
}

fn credentials_in<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a CredentialsError> {
    causes(error).find_map(|cause| cause.downcast_ref::<CredentialsError>())
}

/// Whether no connection was made, so that nothing can have been sent.
fn never_connected(error: &(dyn StdError + 'static)) -> bool {
    use std::io::ErrorKind as Io;
    causes(error).any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        // Neither the HTTP client's error nor the name lookup's can be matched by type from here.
        matches!(io, Some(Io::ConnectionRefused | Io::HostUnreachable | Io::NetworkUnreachable | Io::AddrNotAvailable))
            || matches!(cause.to_string().as_str(), "client error (Connect)" | "dns error")
            || cause.to_string().starts_with("HTTP connect timeout")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_they_say_whoever_is_blamed() {
        use ErrorKind::*;
        for (code, message, status, sender, kind) in [
            ("RequestThrottled", "", Some(400), true, Throttled),
            ("ThrottlingException", "Rate exceeded", None, true, Throttled),
            ("AWS.SimpleQueueService.OverLimit", "", Some(403), true, Throttled),
            ("KMS.ThrottlingException", "", Some(400), true, Throttled),
            ("com.amazonaws.sqs#RequestThrottled", "", None, false, Throttled),
            ("ExpiredToken", "", Some(403), true, Credentials),
            ("ExpiredTokenException", "", Some(400), true, Credentials),
            ("AccessDeniedException", "", Some(400), true, Credentials),
            ("UnrecognizedClientException", "", Some(400), true, Credentials),
            ("AWS.SimpleQueueService.NonExistentQueue", "", Some(400), true, Queue),
            ("QueueDoesNotExist", "", Some(400), true, Queue),
            ("AWS.SimpleQueueService.BatchRequestTooLong", "", Some(400), true, TooLarge),
            (
                "InvalidParameterValue",
                "One or more parameters are invalid. Reason: Message must be shorter than 1048576 bytes.",
                Some(400),
                true,
                TooLarge,
            ),
            ("InvalidMessageContents", "", None, true, Refused),
            ("InvalidMessageContents", "", None, false, Refused),
            ("InvalidParameterValue", "The name is wrong", None, true, Refused),
            ("InternalError", "", None, false, Unavailable),
            ("InternalFailure", "", Some(500), true, Unavailable),
            ("Weird", "", Some(503), true, Unavailable),
            ("Weird", "", None, false, Unavailable),
            ("Weird", "", None, true, Refused),
            ("Weird", "", Some(400), true, Refused),
            ("HTTP status 400", "", Some(400), true, Unavailable),
            ("HTTP status 404", "", Some(404), true, Unavailable),
            ("HTTP status 413", "", Some(413), true, TooLarge),
        ] {
            assert_eq!(classify(Action::Send, code, message, status, sender), kind, "{code} {status:?}");
        }
    }

    #[test]
    fn a_lease_is_lost_only_by_what_takes_a_receipt() {
        for message in [
            "Value AQEB for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available \
             for visibility timeout change.",
            "Value 43200 for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout for the message \
             is beyond the limit [43200 seconds]",
        ] {
            let kind = |action| classify(action, "InvalidParameterValue", message, Some(400), true);
            assert_eq!(kind(Action::ChangeVisibility), ErrorKind::LeaseLost);
            assert_eq!(kind(Action::Send), ErrorKind::Refused);
        }
    }

    #[test]
    fn a_message_is_repeated_up_to_its_first_line() {
        let at = At { action: Action::Send, queue: "message queue orders" };
        let error = of_entry(at, "SignatureDoesNotMatch", "No match.\n\nx-amz-security-token:FQoG", true);
        assert_eq!(error.kind(), ErrorKind::Credentials);
        assert!(
            error
                .to_string()
                .starts_with("SendMessageBatch on the message queue orders: SignatureDoesNotMatch: No match. ")
        );
        assert!(!error.to_string().contains("FQoG"));
        let at = At { action: Action::Delete, ..at };
        let error = of_entry(at, "InvalidParameterValue", "Value AQEB== for parameter ReceiptHandle is invalid.", true);
        assert!(error.to_string().ends_with("The ReceiptHandle is invalid"), "{error}");
    }
}
