//! What the tests on an SQS engine share.

use std::time::Duration;

use aws_sdk_sqs::Client;
use dawdle::backend::sqs::SqsOptions;
use dawdle::{BackendKind, Config};

/// Where the engine is.
pub fn endpoint() -> String {
    std::env::var("TEST_SQS_ENDPOINT_URL").unwrap_or_else(|_| {
        panic!(
            "TEST_SQS_ENDPOINT_URL is not set: run `./test`, or `localstack/engine run -- cargo test --all-features`"
        )
    })
}

/// Queues of a name that nobody else has.
pub struct Queues {
    pub name: String,
    endpoint: String,
    client: Client,
}

impl Queues {
    pub fn new() -> Queues {
        Queues::named(format!("test-{}", uuid::Uuid::now_v7().simple()))
    }

    pub fn named(name: String) -> Queues {
        Queues::at(endpoint(), name)
    }

    /// Queues on another engine.
    pub fn at(endpoint: String, name: String) -> Queues {
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(aws_config::BehaviorVersion::v2026_01_12())
            .region(aws_config::Region::new("us-east-1"))
            .credentials_provider(aws_sdk_sqs::config::Credentials::new("test", "test", None, None, "test"))
            .http_client(
                aws_smithy_http_client::Builder::new()
                    .tls_provider(aws_smithy_http_client::tls::Provider::Rustls(
                        aws_smithy_http_client::tls::rustls_provider::CryptoMode::Ring,
                    ))
                    .build_https(),
            )
            .endpoint_url(&endpoint)
            .build();
        Queues { name, endpoint, client: Client::from_conf(config) }
    }

    /// The configuration of a node on them.
    pub fn config(&self) -> Config {
        Config {
            backend: Some(BackendKind::Sqs),
            sqs_queue: Some(self.name.clone()),
            sqs_endpoint_url: Some(self.endpoint.clone()),
            sqs_region: Some("us-east-1".to_owned()),
            ..Config::default()
        }
    }

    /// Options by name, with receives that wait only a second.
    pub fn options(&self) -> SqsOptions {
        SqsOptions {
            queue: Some(self.name.clone()),
            endpoint_url: Some(self.endpoint.clone()),
            region: Some("us-east-1".to_owned()),
            receive_wait: Duration::from_secs(1),
            receive_margin: Duration::from_millis(900),
            ..SqsOptions::default()
        }
    }

    /// The URL of the queue whose name ends so.
    pub async fn url(&self, suffix: &str) -> String {
        let name = format!("{}{suffix}", self.name);
        let found = self.client.get_queue_url().queue_name(&name).send().await;
        found.unwrap_or_else(|error| panic!("{name}: {error:?}")).queue_url.expect("a URL")
    }

    pub async fn set(&self, suffix: &str, attribute: &str, value: &str) {
        let url = self.url(suffix).await;
        let request = self.client.set_queue_attributes().queue_url(url).attributes(attribute.into(), value);
        request.send().await.expect("attributes");
    }

    pub async fn create(&self, suffix: &str, attributes: &[(&str, &str)]) {
        let mut request = self.client.create_queue().queue_name(format!("{}{suffix}", self.name));
        for (name, value) in attributes {
            request = request.attributes((*name).into(), *value);
        }
        request.send().await.expect("a queue");
    }

    pub async fn attribute(&self, suffix: &str, attribute: &str) -> Option<String> {
        let url = self.url(suffix).await;
        let answer = self.client.get_queue_attributes().queue_url(url).attribute_names("All".into()).send().await;
        answer.expect("attributes").attributes?.remove(&attribute.into())
    }

    pub async fn delete_one(&self, suffix: &str) {
        let url = self.url(suffix).await;
        self.client.delete_queue().queue_url(url).send().await.expect("deleted");
    }

    pub async fn delete(self) {
        let listed = self.client.list_queues().queue_name_prefix(&self.name).send().await.expect("a list");
        for url in listed.queue_urls() {
            let _ = self.client.delete_queue().queue_url(url).send().await;
        }
    }
}
