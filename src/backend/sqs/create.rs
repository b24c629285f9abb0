use std::collections::HashMap;

use aws_sdk_sqs::types::QueueAttributeName;

use super::options::{Given, LONGEST_RETENTION_SECS, NEW_VISIBILITY_SECS};
use super::requests::Action;
use super::{SqsBackend, SqsOptions};
use crate::backend::Lane;
use crate::error::{Error, ErrorKind, Result};

/// The redrive count of a queue made here. It is far above the 10 receives at which Dawdle
/// dead-letters a message itself, with its reason: SQS only takes what Dawdle never got to.
pub(super) const REDRIVE_COUNT: u32 = 100;

/// Creates the three queues of a name, for development and tests, or gives existing ones the
/// attributes that they need. Doing it twice changes nothing.
///
/// All three keep messages for 14 days. The message and the delay queue get a visibility timeout
/// of 60 seconds, and the message queue a redrive policy to the dead-letter queue after 100
/// receives. In production leave this to what creates the rest of the infrastructure: it needs
/// `sqs:CreateQueue` and `sqs:SetQueueAttributes`.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html>
///
/// # Errors
/// [`ErrorKind::Config`] when the queues are given by URL, and what
/// [`check`](crate::backend::Backend::check) answers when SQS cannot be reached or refuses. A queue
/// that was deleted within the last 60 seconds cannot be created again
/// ([`ErrorKind::Queue`]).
///
/// # Cancel safety
/// Dropping the future may leave some of the queues created. Call it again.
pub async fn create_queues(options: SqsOptions) -> Result<()> {
    SqsBackend::connect(options).await?.create_queues().await
}

impl SqsBackend {
    pub(super) async fn create_queues(&self) -> Result<()> {
        let name = |lane| match self.0.options.given(lane) {
            Given::Name(name) => Ok(name),
            _ => Err(Error::new(
                ErrorKind::Config,
                format!("the {lane} is given by URL, and queues are created by name: set DAWDLE_SQS_QUEUE instead"),
            )),
        };
        let (message, delay, dead) = (name(Lane::Message)?, name(Lane::Delay)?, name(Lane::Dead)?);
        // The dead-letter queue goes first: the message queue refers to it.
        let dead_url = self.create_queue(Lane::Dead, &dead, attributes(Lane::Dead, None)).await?;
        let dead_arn = self.attributes(Lane::Dead, &dead, &dead_url).await?.arn;
        self.create_queue(Lane::Delay, &delay, attributes(Lane::Delay, None)).await?;
        self.create_queue(Lane::Message, &message, attributes(Lane::Message, Some(&dead_arn))).await?;
        Ok(())
    }

    /// Creates a queue or sets the attributes of the one there is; answers its URL.
    async fn create_queue(
        &self,
        lane: Lane,
        name: &str,
        attributes: HashMap<QueueAttributeName, String>,
    ) -> Result<String> {
        let queue = format!("{lane} {name}");
        let clients = self.clients().await;
        let client = &clients.calls;
        if let Some(url) = self.find(lane, name).await? {
            let request = client.set_queue_attributes().queue_url(&url).set_attributes(Some(attributes));
            let watch = self.watch(Action::SetAttributes);
            let answer = request.customize().interceptor(watch.clone()).send().await;
            self.answer(Action::SetAttributes, &queue, &watch, answer)?;
            return Ok(url);
        }
        let request = client.create_queue().queue_name(name).set_attributes(Some(attributes));
        let watch = self.watch(Action::CreateQueue);
        let answer = request.customize().interceptor(watch.clone()).send().await;
        let created = self.answer(Action::CreateQueue, &queue, &watch, answer)?;
        created.queue_url.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, format!("CreateQueue on the {queue}: the answer has no queue URL"))
        })
    }
}

fn attributes(lane: Lane, dead_arn: Option<&str>) -> HashMap<QueueAttributeName, String> {
    let mut attributes = HashMap::new();
    attributes.insert(QueueAttributeName::MessageRetentionPeriod, LONGEST_RETENTION_SECS.to_string());
    if lane != Lane::Dead {
        attributes.insert(QueueAttributeName::VisibilityTimeout, NEW_VISIBILITY_SECS.to_string());
    }
    if let Some(arn) = dead_arn {
        let policy = serde_json::json!({ "deadLetterTargetArn": arn, "maxReceiveCount": REDRIVE_COUNT });
        attributes.insert(QueueAttributeName::RedrivePolicy, policy.to_string());
    }
    attributes
}
