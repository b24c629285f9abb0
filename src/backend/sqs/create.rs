use std::collections::HashMap;
use std::fmt;

use aws_sdk_sqs::types::QueueAttributeName;

use super::check::{Flaw, Queue, redrive_policy};
use super::options::{Given, LONGEST_RETENTION_SECS, NEW_VISIBILITY_SECS};
use super::requests::Action;
use super::{SqsBackend, SqsOptions};
use crate::backend::Lane;
use crate::error::{Error, ErrorKind, Result};

/// Creates the three queues of a name, for development and tests, and mends those that there are: what a
/// listener would refuse is set, and every other attribute stays as it is. Doing it twice changes nothing.
///
/// A queue that is created keeps messages for 14 days. The message and the delay queue get a visibility
/// timeout of 60 seconds, and the message queue a redrive policy to the dead-letter queue after 100
/// receives. In production leave this to what creates the rest of the infrastructure: it needs
/// `sqs:GetQueueUrl`, `sqs:GetQueueAttributes`, `sqs:CreateQueue` and `sqs:SetQueueAttributes`.
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
    QueuePlan::make(options).await?.carry_out().await
}

/// What [`create_queues`] would do, looked at before it is done.
///
/// ```no_run
/// # async fn f() -> dawdle::Result<()> {
/// use dawdle::backend::sqs::{QueuePlan, SqsOptions};
///
/// let plan = QueuePlan::make(SqsOptions { queue: Some("orders".to_owned()), ..SqsOptions::default() }).await?;
/// for change in plan.changes() {
///     println!("{change}");
/// }
/// plan.carry_out().await?;
/// # Ok(())
/// # }
/// ```
pub struct QueuePlan {
    backend: SqsBackend,
    /// The dead-letter queue goes first: the message queue refers to it.
    queues: Vec<Planned>,
}

/// A queue, and what is wrong with it where it is there.
struct Planned {
    lane: Lane,
    name: String,
    found: Option<(Queue, Vec<Flaw>)>,
}

/// One thing that a [`QueuePlan`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueChange {
    /// A queue is created.
    Create {
        /// Its name.
        queue: String,
    },
    /// An attribute of a queue that is there is set.
    Set {
        /// The queue's name.
        queue: String,
        /// The attribute's.
        attribute: String,
        /// What it is before.
        from: String,
        /// What it is afterwards; empty where it is removed.
        to: String,
    },
}

impl fmt::Display for QueueChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueChange::Create { queue } => write!(f, "{queue}: created"),
            QueueChange::Set { queue, attribute, from, to } => {
                let to = if to.is_empty() { "none" } else { to };
                write!(f, "{queue}: {attribute} {from} -> {to}")
            }
        }
    }
}

impl fmt::Debug for QueuePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QueuePlan").field(&self.changes()).finish()
    }
}

impl QueuePlan {
    /// Looks at what there is. Changes nothing.
    ///
    /// # Errors
    /// As [`create_queues`].
    pub async fn make(options: SqsOptions) -> Result<QueuePlan> {
        let backend = SqsBackend::connect(options).await?;
        let options = &backend.0.options;
        let name = |lane| match options.given(lane) {
            Given::Name(name) => Ok(name),
            _ => Err(Error::new(
                ErrorKind::Config,
                format!("the {lane} is given by URL, and queues are created by name: set DAWDLE_SQS_QUEUE instead"),
            )),
        };
        let (message, delay, dead) = (name(Lane::Message)?, name(Lane::Delay)?, name(Lane::Dead)?);
        let (mut queues, mut dead_arn) = (Vec::new(), String::new());
        for (lane, name) in [(Lane::Dead, dead), (Lane::Delay, delay), (Lane::Message, message)] {
            let mut found = None;
            if let Some(url) = backend.find(lane, &name).await? {
                let queue = backend.attributes(lane, &name, &url).await?;
                if lane == Lane::Dead {
                    dead_arn.clone_from(&queue.arn);
                }
                let flaws = queue.flaws(options, &dead_arn)?;
                found = Some((queue, flaws));
            }
            queues.push(Planned { lane, name, found });
        }
        Ok(QueuePlan { backend, queues })
    }

    /// What it does, in this order.
    pub fn changes(&self) -> Vec<QueueChange> {
        let mut changes = Vec::new();
        for Planned { name, found, .. } in &self.queues {
            match found {
                None => changes.push(QueueChange::Create { queue: name.clone() }),
                Some((_, flaws)) => changes.extend(flaws.iter().map(|flaw| QueueChange::Set {
                    queue: name.clone(),
                    attribute: flaw.attribute.as_str().to_owned(),
                    from: flaw.from.clone(),
                    to: flaw.to.clone(),
                })),
            }
        }
        changes
    }

    /// Does it.
    ///
    /// # Errors
    /// As [`create_queues`]. What comes before the failure is done.
    ///
    /// # Cancel safety
    /// As [`create_queues`].
    pub async fn carry_out(self) -> Result<()> {
        let mut dead_arn = String::new();
        for Planned { lane, name, found } in &self.queues {
            let arn = match found {
                Some((queue, flaws)) => {
                    self.backend.mend(queue, flaws).await?;
                    queue.arn.clone()
                }
                None => {
                    let url = self.backend.create_queue(*lane, name, attributes(*lane, &dead_arn)).await?;
                    match lane {
                        Lane::Dead => self.backend.attributes(*lane, name, &url).await?.arn,
                        Lane::Message | Lane::Delay => String::new(),
                    }
                }
            };
            if *lane == Lane::Dead {
                dead_arn = arn;
            }
        }
        Ok(())
    }
}

impl SqsBackend {
    /// Creates a queue; answers its URL.
    async fn create_queue(
        &self,
        lane: Lane,
        name: &str,
        attributes: HashMap<QueueAttributeName, String>,
    ) -> Result<String> {
        let (queue, watch) = (format!("{lane} {name}"), self.watch(Action::CreateQueue));
        let clients = self.clients().await;
        let request = clients.calls.create_queue().queue_name(name).set_attributes(Some(attributes));
        let answer = request.customize().interceptor(watch.clone()).send().await;
        let created = self.answer(Action::CreateQueue, &queue, &watch, answer)?;
        created.queue_url.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, format!("CreateQueue on the {queue}: the answer has no queue URL"))
        })
    }

    /// Sets the attributes that a queue has wrong, and no others.
    async fn mend(&self, queue: &Queue, flaws: &[Flaw]) -> Result<()> {
        if flaws.is_empty() {
            return Ok(());
        }
        let attributes = flaws.iter().map(|flaw| (flaw.attribute.clone(), flaw.to.clone())).collect();
        let watch = self.watch(Action::SetAttributes);
        let clients = self.clients().await;
        let request = clients.calls.set_queue_attributes().queue_url(&queue.url).set_attributes(Some(attributes));
        let answer = request.customize().interceptor(watch.clone()).send().await;
        self.answer(Action::SetAttributes, &format!("{} {}", queue.lane, queue.name), &watch, answer)?;
        Ok(())
    }
}

/// What a new queue gets.
fn attributes(lane: Lane, dead_arn: &str) -> HashMap<QueueAttributeName, String> {
    let mut attributes = HashMap::new();
    attributes.insert(QueueAttributeName::MessageRetentionPeriod, LONGEST_RETENTION_SECS.to_string());
    if lane != Lane::Dead {
        attributes.insert(QueueAttributeName::VisibilityTimeout, NEW_VISIBILITY_SECS.to_string());
    }
    if lane == Lane::Message {
        attributes.insert(QueueAttributeName::RedrivePolicy, redrive_policy(dead_arn));
    }
    attributes
}
