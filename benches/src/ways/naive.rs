//! The loop of a first draft: one message by one, with the SDK as it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{BehaviorVersion, Region};
use tokio::task::JoinSet;

use super::by_hand::{credentials, http_client};
use crate::cue::{ready, told_to_stop};
use crate::endpoint::queue_url;
use crate::meter::Meter;
use crate::task::{Measured, Phase, Task};

/// In `at_once` tasks, or else it would do nothing but wait.
pub(crate) async fn play(task: &Task) -> Result<Measured> {
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .credentials_provider(credentials())
        .http_client(http_client())
        .endpoint_url(&task.place);
    let client = Client::from_conf(config.build());
    let queue = queue_url(&task.place);
    client.get_queue_attributes().queue_url(&queue).send().await?;
    ready().await?;
    let meter = Meter::start();
    match task.phase {
        Phase::Produce => produce(client, queue, task).await?,
        Phase::Consume => consume(client, queue, task.at_once).await?,
    }
    meter.read()
}

async fn produce(client: Client, queue: String, task: &Task) -> Result<()> {
    let left = Arc::new(AtomicU64::new(task.events));
    let mut senders: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..task.at_once {
        let (client, queue, body, left) = (client.clone(), queue.clone(), task.body.clone(), left.clone());
        senders.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                client.send_message().queue_url(&queue).message_body(&body).send().await?;
            }
            Ok(())
        });
    }
    senders.join_all().await.into_iter().collect()
}

async fn consume(client: Client, queue: String, at_once: usize) -> Result<()> {
    let mut receivers: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..at_once {
        let (client, queue) = (client.clone(), queue.clone());
        receivers.spawn(async move {
            loop {
                let receive = client.receive_message().queue_url(&queue);
                let answer = receive.max_number_of_messages(10).wait_time_seconds(20).send().await?;
                for message in answer.messages.unwrap_or_default() {
                    let receipt = message.receipt_handle.context("no receipt")?;
                    client.delete_message().queue_url(&queue).receipt_handle(receipt).send().await?;
                }
            }
        });
    }
    tokio::select! {
        Some(failed) = receivers.join_next() => failed?,
        stopped = told_to_stop() => stopped,
    }
}
