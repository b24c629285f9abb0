//! What a listener's queues must be like, and what mends each that is not.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;

use super::SqsBackend;
use super::options::{LONGEST_RETENTION_SECS, SqsOptions};
use crate::backend::Lane;
use crate::error::{Error, ErrorKind, Result};
use crate::redact::without_userinfo;

/// The least redrive count: Dawdle dead-letters a message that was received 10 times, with its
/// reason, and SQS must not be quicker.
pub(super) const LEAST_REDRIVE_COUNT: u32 = 12;

/// The redrive count of a queue made here. It is far above the 10 receives at which Dawdle
/// dead-letters a message itself, with its reason: SQS only takes what Dawdle never got to.
const REDRIVE_COUNT: u32 = 100;

/// A queue that exists, with the attributes that matter.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) lane: Lane,
    pub(super) name: String,
    pub(super) url: String,
    pub(super) arn: String,
    pub(super) visibility: Option<Duration>,
    pub(super) retention: Option<Duration>,
    pub(super) max_message_bytes: Option<usize>,
    fifo: bool,
    redrive: Option<Redrive>,
}

#[derive(Clone, Debug, Default)]
struct Redrive {
    /// All of it, as SQS has it.
    policy: String,
    target: String,
    count: Option<u32>,
}

/// What a listener cannot work with, and the attribute that mends it.
#[derive(Clone, Debug)]
pub(super) struct Flaw {
    /// The end of a sentence that begins with the queue.
    what: String,
    pub(super) attribute: QueueAttributeName,
    pub(super) from: String,
    /// Empty where the attribute is to go.
    pub(super) to: String,
}

impl Flaw {
    /// The attribute as the command line takes it.
    fn argument(&self) -> String {
        let (name, value) = (self.attribute.as_str(), &self.to);
        match value.parse::<u64>() {
            Ok(_) => format!("{name}={value}"),
            Err(_) => format!("'{}'", serde_json::json!({ name: value })),
        }
    }
}

/// The redrive policy that a message queue made here has, to the dead-letter queue of this ARN.
pub(super) fn redrive_policy(dead_arn: &str) -> String {
    serde_json::json!({ "deadLetterTargetArn": dead_arn, "maxReceiveCount": REDRIVE_COUNT.to_string() }).to_string()
}

impl Queue {
    pub(super) fn new(lane: Lane, name: &str, url: &str, attributes: &HashMap<QueueAttributeName, String>) -> Queue {
        let text = |name: QueueAttributeName| attributes.get(&name).filter(|value| !value.is_empty());
        let number = |name: QueueAttributeName| text(name).and_then(|value| value.parse::<u64>().ok());
        Queue {
            lane,
            name: name.to_owned(),
            url: url.to_owned(),
            arn: text(QueueAttributeName::QueueArn).cloned().unwrap_or_default(),
            visibility: number(QueueAttributeName::VisibilityTimeout).map(Duration::from_secs),
            retention: number(QueueAttributeName::MessageRetentionPeriod).map(Duration::from_secs),
            max_message_bytes: number(QueueAttributeName::MaximumMessageSize).and_then(|size| size.try_into().ok()),
            fifo: name.ends_with(".fifo") || text(QueueAttributeName::FifoQueue).is_some_and(|fifo| fifo == "true"),
            redrive: text(QueueAttributeName::RedrivePolicy).map(|policy| Redrive::parse(policy)),
        }
    }

    /// Refuses a queue that would lose or spoil events. `dead_arn` is that of the dead-letter queue.
    pub(super) fn check(&self, options: &SqsOptions, dead_arn: &str) -> Result<()> {
        match self.flaws(options, dead_arn)?.first() {
            Some(flaw) => Err(self.refused(options, flaw)),
            None => Ok(()),
        }
    }

    /// All that would lose or spoil events and that an attribute mends.
    ///
    /// # Errors
    /// For a queue that no attribute mends.
    pub(super) fn flaws(&self, options: &SqsOptions, dead_arn: &str) -> Result<Vec<Flaw>> {
        if self.fifo {
            return Err(options.fifo(self.lane, &self.name));
        }
        let flaws = match self.lane {
            Lane::Message => [self.short_visibility(options), self.low_redrive_count(dead_arn), None],
            Lane::Delay => [self.short_visibility(options), self.short_retention(), self.any_redrive()],
            Lane::Dead => [self.short_retention(), None, None],
        };
        Ok(flaws.into_iter().flatten().collect())
    }

    fn short_visibility(&self, options: &SqsOptions) -> Option<Flaw> {
        let receive = options.receive_timeout();
        let visibility = self.visibility.filter(|visibility| *visibility <= receive)?;
        Some(Flaw {
            what: format!(
                "has a visibility timeout of {} s, which must be longer than the {} s that a receive may take: \
                 messages would be received again before their first answer has arrived",
                visibility.as_secs(),
                receive.as_secs_f64()
            ),
            attribute: QueueAttributeName::VisibilityTimeout,
            from: visibility.as_secs().to_string(),
            to: (receive.as_secs() + 35).to_string(),
        })
    }

    fn short_retention(&self) -> Option<Flaw> {
        let least = u64::from(LONGEST_RETENTION_SECS);
        let retention = self.retention?.as_secs();
        (retention < least).then(|| Flaw {
            what: format!(
                "keeps messages for {retention} s, which must be {least} s (14 days): retention counts from the first \
                 enqueue, and SQS drops what is older without a word"
            ),
            attribute: QueueAttributeName::MessageRetentionPeriod,
            from: retention.to_string(),
            to: least.to_string(),
        })
    }

    fn low_redrive_count(&self, dead_arn: &str) -> Option<Flaw> {
        let low = |redrive: &&Redrive| redrive.count.is_none_or(|count| count < LEAST_REDRIVE_COUNT);
        let redrive = self.redrive.as_ref().filter(low)?;
        let target = if redrive.target.is_empty() { dead_arn } else { &redrive.target };
        let count = redrive.count.map_or("no".to_owned(), |count| format!("a maxReceiveCount of {count}, and"));
        Some(Flaw {
            what: format!(
                "has a redrive policy with {count} at least {LEAST_REDRIVE_COUNT} is needed: SQS would move events \
                 away before Dawdle has given up on them, without saying why"
            ),
            attribute: QueueAttributeName::RedrivePolicy,
            from: redrive.policy.clone(),
            to: redrive_policy(target),
        })
    }

    fn any_redrive(&self) -> Option<Flaw> {
        let redrive = self.redrive.as_ref()?;
        Some(Flaw {
            what: "has a redrive policy: what waits there is received many times before it is due, and SQS would take \
                   it for poison"
                .to_owned(),
            attribute: QueueAttributeName::RedrivePolicy,
            from: redrive.policy.clone(),
            to: String::new(),
        })
    }

    fn refused(&self, options: &SqsOptions, flaw: &Flaw) -> Error {
        let url = without_userinfo(&self.url);
        let command = format!("set-queue-attributes --queue-url {url} --attributes {}", flaw.argument());
        let text = format!("the {} {} {}. Mend it: {}", self.lane, self.name, flaw.what, options.cli(&command));
        Error::new(ErrorKind::Queue, text)
    }

    /// Whether SQS moves nothing away from here by itself.
    pub(super) fn has_no_redrive(&self) -> bool {
        self.redrive.is_none()
    }
}

impl Redrive {
    /// Reads a policy. The count is text or a number, by who wrote it.
    fn parse(text: &str) -> Redrive {
        let policy: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let count = &policy["maxReceiveCount"];
        Redrive {
            policy: text.to_owned(),
            target: policy["deadLetterTargetArn"].as_str().unwrap_or_default().to_owned(),
            count: count
                .as_u64()
                .and_then(|count| count.try_into().ok())
                .or_else(|| count.as_str().and_then(|count| count.parse().ok())),
        }
    }
}

impl SqsBackend {
    /// For how long SQS keeps a message on the queue of a lane, as far as it says.
    ///
    /// # Errors
    /// What [`check`](crate::backend::Backend::check) answers when SQS cannot be reached or refuses.
    pub async fn retention(&self, lane: Lane) -> Result<Option<Duration>> {
        Ok(self.checked_queue(lane).await?.retention)
    }
}

/// The error for a queue that is not there.
pub(super) fn missing(options: &SqsOptions, lane: Lane, name: &str) -> Error {
    let command = format!("create-queue --queue-name {name} --attributes {}", super::options::attributes_of(lane));
    Error::new(
        ErrorKind::Queue,
        format!("the {lane} {name} does not exist in this account and region. Create it: {}", options.cli(&command)),
    )
}

/// The error for a listener without a dead-letter queue in its settings.
pub(super) fn unset_dead_letter_queue(options: &SqsOptions, message_queue: &str) -> Error {
    let attributes = super::options::attributes_of(Lane::Dead);
    let command = format!("create-queue --queue-name {message_queue}-dead --attributes {attributes}");
    Error::new(
        ErrorKind::Queue,
        format!(
            "no dead-letter queue is configured, and a listener needs one for what cannot be handled. Create one: {} \
             and set DAWDLE_SQS_DEAD_LETTER_QUEUE_URL to its URL",
            options.cli(&command)
        ),
    )
}
