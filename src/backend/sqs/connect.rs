//! The clients: one to call, one to poll, one to extend leases; made anew when their credentials
//! are refused.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::SharedHttpClient;
use aws_smithy_http_client::tls;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::options::SqsOptions;
use crate::backend::BoxFuture;
use crate::error::{Error, ErrorKind, Result};

/// For how long an idle connection is kept: less than what firewalls and load balancers take to
/// forget one without a word.
const KEEP_IDLE: Duration = Duration::from_secs(50);

/// How often credentials that are refused are loaded anew, at most.
const RENEW_AFTER: Duration = Duration::from_secs(2);

/// Loads what the clients are made of: credentials, region, endpoint; for calls and for leases.
pub(super) type Loader = Box<dyn Fn() -> BoxFuture<'static, (SdkConfig, SdkConfig)> + Send + Sync>;

/// The clients in use.
///
/// The SDK keeps credentials until the time at which they say they expire, and reads some sources
/// (a profile's keys) only once; where SQS refuses them earlier, only a new load can mend that
/// without a restart.
pub(super) struct Connection {
    clients: RwLock<Arc<Clients>>,
    load: Loader,
    /// SQS has refused the credentials.
    refused: AtomicBool,
    /// When they were last loaded.
    loaded: Mutex<Instant>,
}

impl Connection {
    pub(super) fn new(clients: Clients, load: Loader) -> Self {
        Connection {
            clients: RwLock::new(Arc::new(clients)),
            load,
            refused: AtomicBool::new(false),
            loaded: Mutex::new(Instant::now()),
        }
    }

    /// Takes note that SQS refuses the credentials.
    pub(super) fn refused(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// The clients, with other credentials if theirs were refused.
    pub(super) async fn clients(&self, options: &SqsOptions) -> Arc<Clients> {
        if self.refused.load(Ordering::Relaxed)
            // One caller loads; the others need not wait for it.
            && let Ok(mut loaded) = self.loaded.try_lock()
            && loaded.elapsed() >= RENEW_AFTER
        {
            *loaded = Instant::now();
            let (calls, leases) = (self.load)().await;
            match Clients::new(&calls, &leases, options) {
                Ok(clients) => {
                    *self.clients.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(clients);
                    self.refused.store(false, Ordering::Relaxed);
                    tracing::info!("SQS refused the credentials; they were loaded anew");
                }
                Err(error) => tracing::warn!("credentials could not be loaded anew: {error}"),
            }
        }
        self.current()
    }

    /// The clients as they are.
    pub(super) fn current(&self) -> Arc<Clients> {
        Arc::clone(&self.clients.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there are other clients than those that were `refused`; waits for whoever loads them.
    pub(super) async fn has_renewed(&self, refused: &Arc<Clients>, options: &SqsOptions) -> bool {
        self.clients(options).await;
        drop(self.loaded.lock().await);
        !Arc::ptr_eq(&self.current(), refused)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

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
