//! Clients of an SQS engine.

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use dawdle::backend::sqs::SqsOptions;

/// The SDK's own client, which tries nothing twice.
pub fn client(endpoint: &str) -> Client {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(aws_config::BehaviorVersion::v2026_01_12())
        .region(aws_config::Region::new("us-east-1"))
        .credentials_provider(aws_sdk_sqs::config::Credentials::new("test", "test", None, None, "test"))
        .retry_config(aws_config::retry::RetryConfig::disabled())
        .http_client(http)
        .endpoint_url(endpoint)
        .build();
    Client::from_conf(config)
}

/// Queue names that nobody else has.
pub fn new_name() -> String {
    format!("test-{}", uuid::Uuid::now_v7().simple())
}

/// Options of Dawdle's own backend, with receives that wait only a second.
pub fn options(endpoint: &str) -> SqsOptions {
    assert!(
        std::env::var_os("AWS_ACCESS_KEY_ID").is_some(),
        "Dawdle's backend takes its credentials from the AWS default chain: run `./test`, or set AWS_ACCESS_KEY_ID=test \
         and AWS_SECRET_ACCESS_KEY=test, which are as good as any here"
    );
    SqsOptions {
        queue: Some(new_name()),
        endpoint_url: Some(endpoint.to_owned()),
        region: Some("us-east-1".to_owned()),
        receive_wait: Duration::from_secs(1),
        receive_margin: Duration::from_secs(10),
        ..SqsOptions::default()
    }
}

/// A client and what is done with it again and again.
pub struct Raw(pub Client);

impl Raw {
    pub fn new(endpoint: &str) -> Raw {
        Raw(client(endpoint))
    }

    pub async fn create(&self, attributes: &[(&str, &str)]) -> String {
        let mut request = self.0.create_queue().queue_name(new_name());
        for (name, value) in attributes {
            request = request.attributes((*name).into(), *value);
        }
        request.send().await.expect("a queue").queue_url.expect("a URL")
    }

    pub async fn url(&self, name: &str) -> String {
        self.0.get_queue_url().queue_name(name).send().await.expect("a queue").queue_url.expect("a URL")
    }

    pub async fn set(&self, url: &str, attribute: &str, value: &str) {
        self.0.set_queue_attributes().queue_url(url).attributes(attribute.into(), value).send().await.expect("set");
    }

    pub async fn attribute(&self, url: &str, attribute: &str) -> Option<String> {
        let request = self.0.get_queue_attributes().queue_url(url).attribute_names("All".into());
        request.send().await.expect("attributes").attributes?.remove(&attribute.into())
    }

    pub async fn send(&self, url: &str, body: &str) {
        self.0.send_message().queue_url(url).message_body(body).send().await.expect("sent");
    }

    /// Up to 10 messages that are there, or come within a second.
    pub async fn receive(&self, url: &str) -> Vec<Message> {
        self.receive_within(url, 1).await
    }

    /// Up to 10 messages that are there, or come within these seconds.
    pub async fn receive_within(&self, url: &str, wait: i32) -> Vec<Message> {
        let request = self.0.receive_message().queue_url(url).max_number_of_messages(10).wait_time_seconds(wait);
        let request = request.message_system_attribute_names(MessageSystemAttributeName::All);
        request.send().await.expect("an answer").messages.unwrap_or_default()
    }

    pub async fn delete(&self, url: &str, message: &Message) {
        let handle = message.receipt_handle().expect("a receipt handle");
        self.0.delete_message().queue_url(url).receipt_handle(handle).send().await.expect("deleted");
    }
}

pub fn bodies(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| message.body().expect("a body").to_owned()).collect()
}
