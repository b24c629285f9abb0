//! What a listener's queues must be like, and the command that mends each that is not.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;

use super::options::{LONGEST_RETENTION_SECS, SqsOptions};
use crate::backend::Lane;
use crate::error::{Error, ErrorKind, Result};
use crate::redact::without_userinfo;

/// The least redrive count: Dawdle dead-letters a message that was received 10 times, with its
/// reason, and SQS must not be quicker.
pub(super) const LEAST_REDRIVE_COUNT: u32 = 12;

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
    target: String,
    count: Option<u32>,
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
        if self.fifo {
            return Err(options.fifo(self.lane, &self.name));
        }
        match self.lane {
            Lane::Message => {
                self.check_visibility(options)?;
                self.check_redrive_count(options, dead_arn)
            }
            Lane::Delay => {
                self.check_visibility(options)?;
                self.check_retention(options)?;
                self.check_no_redrive(options)
            }
            Lane::Dead => self.check_retention(options),
        }
    }

    fn check_visibility(&self, options: &SqsOptions) -> Result<()> {
        let receive = options.receive_timeout();
        match self.visibility {
            Some(visibility) if visibility <= receive => self.refuse(
                options,
                format!(
                    "has a visibility timeout of {} s, which must be longer than the {} s that a receive may take: \
                     messages would be received again before their first answer has arrived",
                    visibility.as_secs(),
                    receive.as_secs_f64()
                ),
                &format!("VisibilityTimeout={}", receive.as_secs() + 35),
            ),
            _ => Ok(()),
        }
    }

    fn check_retention(&self, options: &SqsOptions) -> Result<()> {
        let least = u64::from(LONGEST_RETENTION_SECS);
        match self.retention {
            Some(retention) if retention.as_secs() < least => self.refuse(
                options,
                format!(
                    "keeps messages for {} s, which must be {least} s (14 days): retention counts from the first \
                     enqueue, and SQS drops what is older without a word",
                    retention.as_secs()
                ),
                &format!("MessageRetentionPeriod={least}"),
            ),
            _ => Ok(()),
        }
    }

    fn check_redrive_count(&self, options: &SqsOptions, dead_arn: &str) -> Result<()> {
        match &self.redrive {
            Some(redrive) if redrive.count.is_none_or(|count| count < LEAST_REDRIVE_COUNT) => {
                let target = if redrive.target.is_empty() { dead_arn } else { &redrive.target };
                let count = redrive.count.map_or("no".to_owned(), |count| format!("a maxReceiveCount of {count}, and"));
                self.refuse(
                    options,
                    format!(
                        "has a redrive policy with {count} at least {LEAST_REDRIVE_COUNT} is needed: SQS would move \
                         events away before Dawdle has given up on them, without saying why"
                    ),
                    &format!(
                        r#"'{{"RedrivePolicy":"{{\"deadLetterTargetArn\":\"{target}\",\"maxReceiveCount\":\"{}\"}}"}}'"#,
                        super::create::REDRIVE_COUNT
                    ),
                )
            }
            _ => Ok(()),
        }
    }

    fn check_no_redrive(&self, options: &SqsOptions) -> Result<()> {
        match &self.redrive {
            Some(_) => self.refuse(
                options,
                "has a redrive policy: what waits there is received many times before it is due, and SQS would take \
                 it for poison"
                    .to_owned(),
                r#"'{"RedrivePolicy":""}'"#,
            ),
            None => Ok(()),
        }
    }

    fn refuse(&self, options: &SqsOptions, what: String, attributes: &str) -> Result<()> {
        let url = without_userinfo(&self.url);
        let command = format!("set-queue-attributes --queue-url {url} --attributes {attributes}");
        let text = format!("the {} {} {what}. Mend it: {}", self.lane, self.name, options.cli(&command));
        Err(Error::new(ErrorKind::Queue, text))
    }

    /// Whether SQS moves nothing away from here by itself.
    pub(super) fn has_no_redrive(&self) -> bool {
        self.redrive.is_none()
    }
}

impl Redrive {
    /// Reads a policy. The count is text or a number, by who wrote it.
    fn parse(policy: &str) -> Redrive {
        let policy: serde_json::Value = serde_json::from_str(policy).unwrap_or_default();
        let count = &policy["maxReceiveCount"];
        Redrive {
            target: policy["deadLetterTargetArn"].as_str().unwrap_or_default().to_owned(),
            count: count
                .as_u64()
                .and_then(|count| count.try_into().ok())
                .or_else(|| count.as_str().and_then(|count| count.parse().ok())),
        }
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
