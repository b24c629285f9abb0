//! The loop that one would write by hand who knows the SDK well: batches of ten, many requests in
//! the air, and no setting that costs anything.
//!
//! It sends and receives text that it neither makes nor reads, retries nothing, and gives up on the
//! first error: less than any program in production does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use aws_runtime::invocation_id::{InvocationId, InvocationIdGenerator};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::endpoint::{Endpoint, EndpointFuture, Params, ResolveEndpoint};
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::{
    BehaviorVersion, Credentials, IdentityCache, Region, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_sqs::error::BoxError;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, SendMessageBatchRequestEntry};
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use tokio::task::JoinSet;

use crate::cue::{ready, told_to_stop};
use crate::endpoint::queue_url;
use crate::meter::Meter;
use crate::task::{Measured, Phase, Task};

/// The most entries of a batch.
pub(crate) const BATCH: u64 = 10;

/// Keeps `at_once` batches on their way.
pub(crate) async fn play(task: &Task) -> Result<Measured> {
    let way = Way { client: lean_client(&task.place), queue: queue_url(&task.place), body: task.body.clone() };
    way.client.get_queue_attributes().queue_url(&way.queue).send().await?;
    ready().await?;
    let meter = Meter::start();
    match task.phase {
        Phase::Produce => produce(Arc::new(way), task).await?,
        Phase::Consume => consume(Arc::new(way), task.at_once).await?,
    }
    meter.read()
}

struct Way {
    client: Client,
    queue: String,
    body: String,
}

async fn produce(way: Arc<Way>, task: &Task) -> Result<()> {
    let left = Arc::new(AtomicU64::new(task.events.div_ceil(BATCH)));
    let mut senders: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..task.at_once {
        let (way, left) = (way.clone(), left.clone());
        senders.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                way.send_ten().await?;
            }
            Ok(())
        });
    }
    senders.join_all().await.into_iter().collect()
}

async fn consume(way: Arc<Way>, at_once: usize) -> Result<()> {
    let mut receivers: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..at_once {
        let way = way.clone();
        receivers.spawn(async move {
            loop {
                way.receive_ten().await?;
            }
        });
    }
    tokio::select! {
        Some(failed) = receivers.join_next() => failed?,
        stopped = told_to_stop() => stopped,
    }
}

impl Way {
    async fn send_ten(&self) -> Result<()> {
        let entry =
            |id: u64| SendMessageBatchRequestEntry::builder().id(id.to_string()).message_body(&self.body).build();
        let entries = (0..BATCH).map(entry).collect::<Result<Vec<_>, _>>()?;
        let answer = self.client.send_message_batch().queue_url(&self.queue).set_entries(Some(entries)).send().await?;
        ensure!(answer.failed.is_empty(), "not all were sent: {:?}", answer.failed);
        Ok(())
    }

    /// Receives, handles and deletes up to ten.
    async fn receive_ten(&self) -> Result<()> {
        let receive = self.client.receive_message().queue_url(&self.queue);
        let answer = receive.max_number_of_messages(10).wait_time_seconds(20).send().await?;
        let mut entries = Vec::with_capacity(10);
        for (id, message) in answer.messages.unwrap_or_default().into_iter().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder().id(id.to_string());
            entries.push(entry.set_receipt_handle(message.receipt_handle).build()?);
        }
        if entries.is_empty() {
            return Ok(());
        }
        let delete = self.client.delete_message_batch().queue_url(&self.queue);
        let answer = delete.set_entries(Some(entries)).send().await?;
        ensure!(answer.failed.is_empty(), "not all were deleted: {:?}", answer.failed);
        Ok(())
    }
}

/// A client with everything turned off that can be: identity cache, timeouts, retries, watching
/// for stalled streams, correcting for clocks, invocation ids, rules that find the endpoint.
pub(crate) fn lean_client(url: &str) -> Client {
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .credentials_provider(credentials())
        .http_client(http_client())
        .identity_cache(IdentityCache::no_cache())
        .timeout_config(TimeoutConfig::disabled())
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .disable_clock_skew_correction(true)
        .invocation_id_generator(NoInvocationId)
        .endpoint_resolver(Known(Endpoint::builder().url(url.to_owned()).build()))
        .build();
    Client::from_conf(config)
}

pub(crate) fn credentials() -> Credentials {
    Credentials::new("bench", "bench", None, None, "bench")
}

/// The HTTP client that Dawdle uses, too.
pub(crate) fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .pool_idle_timeout(Duration::from_secs(50))
        .build_https()
}

#[derive(Debug)]
struct NoInvocationId;

impl InvocationIdGenerator for NoInvocationId {
    fn generate(&self) -> Result<Option<InvocationId>, BoxError> {
        Ok(None)
    }
}

/// An endpoint that need not be worked out for each request.
#[derive(Debug)]
struct Known(Endpoint);

impl ResolveEndpoint for Known {
    fn resolve_endpoint<'a>(&'a self, _: &'a Params) -> EndpointFuture<'a> {
        EndpointFuture::ready(Ok(self.0.clone()))
    }
}
