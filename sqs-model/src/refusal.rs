//! What the endpoint answers instead of doing what it was asked: SQS's own codes.

use std::fmt;

/// An error of SQS: how it is named on the wire, and its HTTP status.
///
/// The shapes and the older query codes beside them follow the service's public model; the codes
/// are those of <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html>
/// and of each action's own page.
#[derive(Debug)]
pub(crate) struct Code {
    /// `__type` in the body.
    pub(crate) shape: &'static str,
    /// The code in the header `x-amzn-query-error`, and in a failed entry of a batch.
    pub(crate) query: &'static str,
    pub(crate) status: u16,
}

macro_rules! codes {
    ($($name:ident = $shape:literal, $query:literal, $status:literal;)*) => {
        $(pub(crate) static $name: Code = Code { shape: $shape, query: $query, status: $status };)*
    };
}

codes! {
    QUEUE_DOES_NOT_EXIST = "com.amazonaws.sqs#QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", 400;
    QUEUE_NAME_EXISTS = "com.amazonaws.sqs#QueueNameExists", "QueueAlreadyExists", 400;
    QUEUE_DELETED_RECENTLY = "com.amazonaws.sqs#QueueDeletedRecently", "AWS.SimpleQueueService.QueueDeletedRecently", 400;
    PURGE_IN_PROGRESS = "com.amazonaws.sqs#PurgeQueueInProgress", "AWS.SimpleQueueService.PurgeQueueInProgress", 403;
    OVER_LIMIT = "com.amazonaws.sqs#OverLimit", "OverLimit", 403;
    EMPTY_BATCH = "com.amazonaws.sqs#EmptyBatchRequest", "AWS.SimpleQueueService.EmptyBatchRequest", 400;
    TOO_MANY_ENTRIES = "com.amazonaws.sqs#TooManyEntriesInBatchRequest", "AWS.SimpleQueueService.TooManyEntriesInBatchRequest", 400;
    BATCH_TOO_LONG = "com.amazonaws.sqs#BatchRequestTooLong", "AWS.SimpleQueueService.BatchRequestTooLong", 400;
    IDS_NOT_DISTINCT = "com.amazonaws.sqs#BatchEntryIdsNotDistinct", "AWS.SimpleQueueService.BatchEntryIdsNotDistinct", 400;
    INVALID_ENTRY_ID = "com.amazonaws.sqs#InvalidBatchEntryId", "AWS.SimpleQueueService.InvalidBatchEntryId", 400;
    RECEIPT_INVALID = "com.amazonaws.sqs#ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid", 404;
    NOT_IN_FLIGHT = "com.amazonaws.sqs#MessageNotInflight", "AWS.SimpleQueueService.MessageNotInflight", 400;
    INVALID_CONTENTS = "com.amazonaws.sqs#InvalidMessageContents", "InvalidMessageContents", 400;
    INVALID_ATTRIBUTE_NAME = "com.amazonaws.sqs#InvalidAttributeName", "InvalidAttributeName", 400;
    INVALID_ATTRIBUTE_VALUE = "com.amazonaws.sqs#InvalidAttributeValue", "InvalidAttributeValue", 400;
    UNSUPPORTED = "com.amazonaws.sqs#UnsupportedOperation", "AWS.SimpleQueueService.UnsupportedOperation", 400;
    RESOURCE_NOT_FOUND = "com.amazonaws.sqs#ResourceNotFoundException", "ResourceNotFoundException", 404;
    INVALID_VALUE = "com.amazon.coral.service#InvalidParameterValueException", "InvalidParameterValue", 400;
    MISSING_PARAMETER = "com.amazon.coral.service#MissingRequiredParameterException", "MissingParameter", 400;
    UNKNOWN_OPERATION = "com.amazon.coral.service#UnknownOperationException", "InvalidAction", 400;
    UNREADABLE = "com.amazon.coral.service#SerializationException", "MalformedInput", 400;
    INTERNAL = "com.amazon.coral.service#InternalFailure", "InternalFailure", 500;
    REQUEST_THROTTLED = "com.amazonaws.sqs#RequestThrottled", "RequestThrottled", 400;
    THROTTLING = "com.amazon.coral.service#ThrottlingException", "ThrottlingException", 400;
    SERVICE_UNAVAILABLE = "com.amazon.coral.service#ServiceUnavailableException", "ServiceUnavailable", 503;
    OVER_LIMIT_503 = "com.amazonaws.sqs#OverLimit", "OverLimit", 503;
    EXPIRED_TOKEN = "com.amazon.coral.service#ExpiredTokenException", "ExpiredToken", 403;
}

/// A code and what it says of this case.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: &'static Code,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: &'static Code, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }

    /// A parameter whose value is not allowed.
    pub(crate) fn value(value: impl fmt::Display, parameter: &str, reason: impl fmt::Display) -> Refusal {
        let message = format!("Value {value} for parameter {parameter} is invalid. Reason: {reason}");
        Refusal::new(&INVALID_VALUE, message)
    }

    pub(crate) fn missing(parameter: &str) -> Refusal {
        Refusal::new(&MISSING_PARAMETER, format!("The request must contain the parameter {parameter}."))
    }

    /// Whether the sender is to blame.
    pub(crate) fn senders_fault(&self) -> bool {
        self.code.status < 500
    }
}
