//! The attributes of a queue: [`Attributes`], read, checked and shown.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use dawdle::backend::Limits;

use crate::refusal::{self, Refusal};

/// What stands before a queue's name in its ARN.
pub(crate) const ARN_PREFIX: &str = "arn:aws:sqs:us-east-1:000000000000:";

/// What a queue is told, and what it goes by:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html>
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attributes {
    delay_seconds: u32,
    maximum_message_size: u32,
    message_retention_period: u32,
    pub(crate) receive_message_wait_time_seconds: u32,
    visibility_timeout: u32,
    pub(crate) redrive: Option<Redrive>,
    /// What is kept and shown, and has no effect here.
    inert: BTreeMap<&'static str, String>,
}

/// Where messages go that were received too often.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Redrive {
    pub(crate) target_arn: String,
    pub(crate) max_receives: u32,
}

impl Default for Attributes {
    fn default() -> Self {
        Attributes {
            delay_seconds: 0,
            maximum_message_size: 1_048_576,
            message_retention_period: 345_600,
            receive_message_wait_time_seconds: 0,
            visibility_timeout: 30,
            redrive: None,
            inert: BTreeMap::new(),
        }
    }
}

/// Attributes that can be set and change nothing here.
const INERT: [&str; 6] = [
    "Policy",
    "KmsMasterKeyId",
    "KmsDataKeyReusePeriodSeconds",
    "SqsManagedSseEnabled",
    "RedriveAllowPolicy",
    "ContentBasedDeduplication",
];

/// Attributes that are only shown.
const SHOWN: [&str; 6] = [
    "QueueArn",
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
    "CreatedTimestamp",
    "LastModifiedTimestamp",
];

const NUMBERS: [(&str, RangeInclusive<u32>); 5] = [
    ("DelaySeconds", 0..=900),
    ("MaximumMessageSize", 1_024..=1_048_576),
    ("MessageRetentionPeriod", 60..=1_209_600),
    ("ReceiveMessageWaitTimeSeconds", 0..=20),
    ("VisibilityTimeout", 0..=43_200),
];

impl Attributes {
    /// Takes over what is set, or nothing where one of it is wrong.
    pub(crate) fn with(&self, set: &BTreeMap<String, String>) -> Result<Attributes, Refusal> {
        let mut changed = self.clone();
        for (name, value) in set {
            changed.set(name, value)?;
        }
        Ok(changed)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        let unknown = || Refusal::new(&refusal::INVALID_ATTRIBUTE_NAME, format!("Unknown Attribute {name}."));
        if let Some((name, range)) = NUMBERS.iter().find(|(number, _)| *number == name) {
            let number = value.parse().ok().filter(|number| range.contains(number));
            *self.number(name).ok_or_else(unknown)? = number.ok_or_else(|| invalid(name, value))?;
            return Ok(());
        }
        if name == "RedrivePolicy" {
            self.redrive = if value.is_empty() { None } else { Some(Redrive::parse(value)?) };
            return Ok(());
        }
        if matches!(name, "FifoQueue" | "DeduplicationScope" | "FifoThroughputLimit") {
            return Err(Refusal::new(&refusal::UNSUPPORTED, "This model of SQS has standard queues only."));
        }
        let name = INERT.into_iter().find(|inert| *inert == name).ok_or_else(unknown)?;
        if value.is_empty() {
            self.inert.remove(name);
        } else {
            self.inert.insert(name, value.to_owned());
        }
        Ok(())
    }

    fn number(&mut self, name: &str) -> Option<&mut u32> {
        Some(match name {
            "DelaySeconds" => &mut self.delay_seconds,
            "MaximumMessageSize" => &mut self.maximum_message_size,
            "MessageRetentionPeriod" => &mut self.message_retention_period,
            "ReceiveMessageWaitTimeSeconds" => &mut self.receive_message_wait_time_seconds,
            "VisibilityTimeout" => &mut self.visibility_timeout,
            _ => return None,
        })
    }

    pub(crate) fn delay(&self) -> Duration {
        Duration::from_secs(self.delay_seconds.into())
    }

    /// What the model goes by.
    pub(crate) fn limits(&self, max_in_flight: u64) -> Limits {
        let mut limits = Limits::sqs();
        limits.max_message_bytes = usize::try_from(self.maximum_message_size).unwrap_or(usize::MAX);
        limits.lease = Duration::from_secs(self.visibility_timeout.into());
        limits.retention = Some(Duration::from_secs(self.message_retention_period.into()));
        limits.max_in_flight = Some(max_in_flight);
        limits
    }

    /// All that was set or has a default, by name.
    pub(crate) fn shown(&self) -> BTreeMap<&'static str, String> {
        let mut shown: BTreeMap<&'static str, String> =
            self.inert.iter().map(|(name, value)| (*name, value.clone())).collect();
        for (name, value) in [
            ("DelaySeconds", self.delay_seconds),
            ("MaximumMessageSize", self.maximum_message_size),
            ("MessageRetentionPeriod", self.message_retention_period),
            ("ReceiveMessageWaitTimeSeconds", self.receive_message_wait_time_seconds),
            ("VisibilityTimeout", self.visibility_timeout),
        ] {
            shown.insert(name, value.to_string());
        }
        if let Some(Redrive { target_arn, max_receives }) = &self.redrive {
            let policy = serde_json::json!({ "deadLetterTargetArn": target_arn, "maxReceiveCount": max_receives });
            shown.insert("RedrivePolicy", policy.to_string());
        }
        shown.entry("SqsManagedSseEnabled").or_insert_with(|| "true".to_owned());
        shown
    }

    /// Whether there is an attribute of this name.
    pub(crate) fn is_known(name: &str) -> bool {
        name == "All"
            || name == "RedrivePolicy"
            || NUMBERS.iter().any(|(number, _)| *number == name)
            || INERT.contains(&name)
            || SHOWN.contains(&name)
            || matches!(name, "FifoQueue" | "DeduplicationScope" | "FifoThroughputLimit")
    }
}

impl Redrive {
    /// Reads a policy. The count is text or a number, by who wrote it.
    fn parse(policy: &str) -> Result<Redrive, Refusal> {
        let wrong = |reason: &str| Refusal::value(policy, "RedrivePolicy", reason);
        let value: serde_json::Value =
            serde_json::from_str(policy).map_err(|_| wrong("Redrive policy is not a valid JSON map."))?;
        let (target, count) = (&value["deadLetterTargetArn"], &value["maxReceiveCount"]);
        let target_arn =
            target.as_str().ok_or_else(|| wrong("Redrive policy does not contain deadLetterTargetArn."))?;
        let count = count.as_u64().or_else(|| count.as_str().and_then(|count| count.parse().ok()));
        let max_receives = count.and_then(|count| count.try_into().ok()).filter(|count| (1..=1000).contains(count));
        Ok(Redrive {
            target_arn: target_arn.to_owned(),
            max_receives: max_receives
                .ok_or_else(|| wrong("Invalid value for maxReceiveCount: it must be 1 to 1000."))?,
        })
    }
}

fn invalid(name: &str, value: &str) -> Refusal {
    Refusal::new(&refusal::INVALID_ATTRIBUTE_VALUE, format!("Invalid value for the parameter {name}: {value}"))
}
