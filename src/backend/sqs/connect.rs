//! The clients: one to call, one to poll, one to extend leases.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::SharedHttpClient;
use aws_smithy_http_client::tls;

use super::options::SqsOptions;
use crate::error::{Error, ErrorKind, Result};

/// For how long an idle connection is kept: less than what firewalls and load balancers take to
/// forget one without a word.
const KEEP_IDLE: Duration = Duration::from_secs(50);

/// The clients of a backend. They differ in how long a call may take and in what they share.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    /// For everything that answers at once.
    pub(super) calls: Client,
    /// For receives. Shares connections and credentials with `calls`.
    pub(super) polls: Client,
    /// For extending leases, from a runtime of its own. It shares nothing with the others: a
    /// connection is driven by the runtime that opened it, and credentials are loaded by the one
    /// that asked first, and that runtime may be blocked.
    pub(super) leases: Client,
}

/// What the AWS default chain says, once for the calls and once for the leases.
pub(super) async fn load(options: &SqsOptions) -> (SdkConfig, SdkConfig) {
    let calls = load_one(options.region()).await;
    // The region is not looked up again: on an EC2 instance that asks over the network, on a
    // connection of this runtime.
    let region = calls.region().map(ToString::to_string).or_else(|| options.region());
    let leases = load_one(region).await;
    (calls, leases)
}

async fn load_one(region: Option<String>) -> SdkConfig {
    let loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http_client());
    match region {
        Some(region) => loader.region(Region::new(region)).load().await,
        None => loader.load().await,
    }
}

pub(super) fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .pool_idle_timeout(KEEP_IDLE)
        .build_https()
}

fn timeouts(options: &SqsOptions, whole: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(options.connect_timeout.min(whole))
        .operation_attempt_timeout(whole)
        .build()
}

impl Clients {
    /// Clients by two configurations that share neither an HTTP client nor an identity cache.
    pub(super) fn new(calls: &SdkConfig, leases: &SdkConfig, options: &SqsOptions) -> Result<Clients> {
        if calls.region().is_none() {
            return Err(Error::new(
                ErrorKind::Config,
                "no AWS region is configured: set DAWDLE_SQS_REGION or AWS_REGION, such as eu-west-1",
            ));
        }
        let client = |config: &SdkConfig, whole: Duration| {
            let mut builder = aws_sdk_sqs::config::Builder::from(config)
                .retry_config(RetryConfig::disabled())
                .timeout_config(timeouts(options, whole))
                // Every call is bounded as a whole, and a long poll is silent by design.
                .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
            if let Some(endpoint) = &options.endpoint_url {
                builder = builder.endpoint_url(endpoint);
            }
            Client::from_conf(builder.build())
        };
        Ok(Clients {
            calls: client(calls, options.request_timeout),
            polls: client(calls, options.receive_timeout()),
            leases: client(leases, options.request_timeout),
        })
    }
}
