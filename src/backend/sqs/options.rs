use std::fmt;
use std::time::Duration;

use crate::backend::Lane;
use crate::error::{Error, ErrorKind, Result};
use crate::redact::{Shown, without_userinfo};

/// Which queues [`SqsBackend`](super::SqsBackend) uses, where they are, and how long it waits for
/// an answer.
///
/// The queues are given by one name or by URL, and a URL wins over the name for its lane:
///
/// ```
/// use dawdle::backend::sqs::SqsOptions;
///
/// let by_name = SqsOptions { queue: Some("orders".to_owned()), ..SqsOptions::default() };
/// let by_url = SqsOptions {
///     queue_url: Some("https://sqs.eu-west-1.amazonaws.com/123456789012/orders".to_owned()),
///     ..SqsOptions::default()
/// };
/// ```
///
/// There are no credentials here: they come from the AWS default chain (environment, profile,
/// web identity, container, instance) and are renewed by it.
#[derive(Clone, PartialEq)]
pub struct SqsOptions {
    /// A name, which gives the queues `NAME`, `NAME-delay` and `NAME-dead`. Their URLs are asked
    /// for with `GetQueueUrl`.
    pub queue: Option<String>,
    /// The URL of the message queue.
    pub queue_url: Option<String>,
    /// The URL of the delay queue. With neither a name nor this, long delays chain on the message
    /// queue.
    pub delay_queue_url: Option<String>,
    /// The URL of the dead-letter queue. A listener needs one.
    pub dead_letter_queue_url: Option<String>,
    /// The region. Else it is read from the queue's URL, where that is one of AWS's, else it comes
    /// from the AWS default chain (`AWS_REGION`, profile, instance).
    pub region: Option<String>,
    /// Where SQS answers, such as an emulator or a VPC endpoint. Else it comes from
    /// `AWS_ENDPOINT_URL_SQS`, from `AWS_ENDPOINT_URL` or from the profile, else it is AWS's.
    pub endpoint_url: Option<String>,
    /// How long opening a connection may take: 3 seconds.
    pub connect_timeout: Duration,
    /// How long any call but a receive may take: 4 seconds, so that a send that hangs is tried again
    /// within its send timeout.
    pub request_timeout: Duration,
    /// How long a receive on the message queue waits for a first message, in whole seconds: 20,
    /// which is the most that SQS takes.
    pub receive_wait: Duration,
    /// How long a receive may take beyond its wait: 5 seconds. Wait and margin together must stay
    /// below the visibility timeout of the queues.
    pub receive_margin: Duration,
}

impl Default for SqsOptions {
    fn default() -> Self {
        SqsOptions {
            queue: None,
            queue_url: None,
            delay_queue_url: None,
            dead_letter_queue_url: None,
            region: None,
            endpoint_url: None,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(4),
            receive_wait: Duration::from_secs(20),
            receive_margin: Duration::from_secs(5),
        }
    }
}

/// Without the passwords that URLs may hold.
impl fmt::Debug for SqsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = |url: &Option<String>| url.as_deref().map(without_userinfo);
        f.debug_struct("SqsOptions")
            .field("queue", &self.queue)
            .field("queue_url", &url(&self.queue_url))
            .field("delay_queue_url", &url(&self.delay_queue_url))
            .field("dead_letter_queue_url", &url(&self.dead_letter_queue_url))
            .field("region", &self.region)
            .field("endpoint_url", &url(&self.endpoint_url))
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("receive_wait", &self.receive_wait)
            .field("receive_margin", &self.receive_margin)
            .finish()
    }
}

/// How the queue of a lane was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Given {
    Name(String),
    Url(String),
    Absent,
}

impl Given {
    /// The name, which is also the end of the URL.
    pub(super) fn name(&self) -> &str {
        match self {
            Given::Name(name) => name,
            Given::Url(url) => name_in(url),
            Given::Absent => "(none)",
        }
    }
}

/// The last part of a queue's URL; a user and password are none.
pub(super) fn name_in(url: &str) -> &str {
    url.trim_end_matches('/').rsplit(['/', '@']).next().unwrap_or(url)
}

impl SqsOptions {
    /// How long a receive on the message queue may take.
    pub fn receive_timeout(&self) -> Duration {
        Duration::from_secs(self.receive_wait.as_secs()) + self.receive_margin
    }

    pub(super) fn given(&self, lane: Lane) -> Given {
        let (url, suffix) = match lane {
            Lane::Message => (&self.queue_url, ""),
            Lane::Delay => (&self.delay_queue_url, "-delay"),
            Lane::Dead => (&self.dead_letter_queue_url, "-dead"),
        };
        match (url, &self.queue) {
            (Some(url), _) => Given::Url(url.clone()),
            (None, Some(name)) => Given::Name(format!("{name}{suffix}")),
            (None, None) => Given::Absent,
        }
    }

    /// The region, as far as the options say: their own, or the one in the message queue's URL.
    pub(super) fn region(&self) -> Option<String> {
        let in_url = || match self.endpoint_url {
            None => self.queue_url.as_deref().and_then(region_in).map(str::to_owned),
            Some(_) => None,
        };
        self.region.clone().or_else(in_url)
    }

    /// Refuses what can be refused without asking SQS.
    pub(super) fn validate(&self) -> Result<()> {
        let config = |text: String| Err(Error::new(ErrorKind::Config, text));
        if self.given(Lane::Message) == Given::Absent {
            return config(
                "no SQS queue is configured: set a queue name (DAWDLE_SQS_QUEUE) or the queue's URL \
                 (DAWDLE_SQS_QUEUE_URL)"
                    .to_owned(),
            );
        }
        for (what, url) in [
            ("queue URL (DAWDLE_SQS_QUEUE_URL)", &self.queue_url),
            ("delay queue URL (DAWDLE_SQS_DELAY_QUEUE_URL)", &self.delay_queue_url),
            ("dead-letter queue URL (DAWDLE_SQS_DEAD_LETTER_QUEUE_URL)", &self.dead_letter_queue_url),
            ("endpoint URL (DAWDLE_SQS_ENDPOINT_URL)", &self.endpoint_url),
        ] {
            let url = url.as_deref().unwrap_or("http://");
            if !(url.starts_with("https://") || url.starts_with("http://")) {
                // Before an `@` there may be a password.
                let shown = Shown(url.rsplit('@').next().unwrap_or_default());
                return config(format!("the SQS {what}, `{shown}`, is no URL: it must begin with https:// or http://"));
            }
        }
        if self.receive_wait > Duration::from_secs(20) {
            return config(format!(
                "the SQS receive wait is {:?}, and SQS takes at most 20 seconds",
                self.receive_wait
            ));
        }
        for lane in Lane::ALL {
            let given = self.given(lane);
            if given.name().ends_with(".fifo") {
                return Err(self.fifo(lane, given.name()));
            }
        }
        Ok(())
    }

    /// What to say of a FIFO queue.
    pub(super) fn fifo(&self, lane: Lane, name: &str) -> Error {
        let standard = name.trim_end_matches(".fifo");
        Error::new(
            ErrorKind::Queue,
            format!(
                "the {lane} {name} is a FIFO queue, which takes no delay for a single message and would hold up \
                 a whole group behind one event. Create a standard queue and configure that: {}",
                self.cli(&format!("create-queue --queue-name {standard} --attributes {}", attributes_of(lane)))
            ),
        )
    }

    /// An `aws sqs` command, for where these queues are.
    pub(super) fn cli(&self, command: &str) -> String {
        let mut text = format!("`aws sqs {command}");
        for (flag, value) in [("--region", &self.region), ("--endpoint-url", &self.endpoint_url)] {
            if let Some(value) = value {
                text.push_str(&format!(" {flag} {}", without_userinfo(value)));
            }
        }
        text.push('`');
        text
    }
}

/// The visibility timeout that a new queue gets, in seconds: well above the receive timeout.
pub(super) const NEW_VISIBILITY_SECS: u32 = 60;
/// 14 days in seconds: the longest retention, and the least for delays and dead letters.
pub(super) const LONGEST_RETENTION_SECS: u32 = 1_209_600;

/// What a new queue needs, as the command line writes it.
pub(super) fn attributes_of(lane: Lane) -> String {
    match lane {
        Lane::Message | Lane::Delay => {
            format!("VisibilityTimeout={NEW_VISIBILITY_SECS},MessageRetentionPeriod={LONGEST_RETENTION_SECS}")
        }
        Lane::Dead => format!("MessageRetentionPeriod={LONGEST_RETENTION_SECS}"),
    }
}

/// The region in a URL of AWS's: `https://sqs.REGION.amazonaws.com/..`, or the old
/// `https://REGION.queue.amazonaws.com/..`.
fn region_in(url: &str) -> Option<&str> {
    let host = url.split("://").nth(1)?.split(['/', ':']).next()?;
    let host = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    let region = host.strip_prefix("sqs.").or_else(|| host.strip_suffix(".queue"))?;
    (!region.is_empty() && !region.contains('.')).then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_url(url: &str) -> SqsOptions {
        SqsOptions { queue_url: Some(url.to_owned()), ..SqsOptions::default() }
    }

    #[test]
    fn a_name_gives_three_queues_and_a_url_wins() {
        let mut options = SqsOptions { queue: Some("orders".to_owned()), ..SqsOptions::default() };
        options.dead_letter_queue_url = Some("https://sqs.eu-west-1.amazonaws.com/1/graves".to_owned());
        assert_eq!(options.given(Lane::Message), Given::Name("orders".to_owned()));
        assert_eq!(options.given(Lane::Delay), Given::Name("orders-delay".to_owned()));
        assert_eq!(options.given(Lane::Dead).name(), "graves");
        assert_eq!(by_url("https://sqs.eu-west-1.amazonaws.com/1/orders").given(Lane::Delay), Given::Absent);
    }

    #[test]
    fn the_region_is_the_one_where_the_queue_is() {
        assert_eq!(by_url("https://sqs.eu-west-1.amazonaws.com/1/orders").region().as_deref(), Some("eu-west-1"));
        assert_eq!(by_url("https://us-west-2.queue.amazonaws.com/1/orders").region().as_deref(), Some("us-west-2"));
        assert_eq!(by_url("https://sqs.cn-north-1.amazonaws.com.cn/1/q").region().as_deref(), Some("cn-north-1"));
        assert_eq!(by_url("http://127.0.0.1:4566/1/orders").region(), None);
        assert_eq!(by_url("https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/1/orders").region(), None);
    }

    #[test]
    fn what_cannot_work_is_refused_without_asking() {
        for (options, kind, text) in [
            (SqsOptions::default(), ErrorKind::Config, "DAWDLE_SQS_QUEUE"),
            (by_url("orders"), ErrorKind::Config, "queue URL (DAWDLE_SQS_QUEUE_URL), `orders`, is no URL"),
            (by_url("me:secret@host/orders"), ErrorKind::Config, "`host/orders`, is no URL"),
            (by_url("https://sqs.eu-west-1.amazonaws.com/1/orders.fifo"), ErrorKind::Queue, "create-queue"),
            (
                SqsOptions { receive_wait: Duration::from_secs(21), ..by_url("http://q/1/q") },
                ErrorKind::Config,
                "20 seconds",
            ),
        ] {
            let error = options.validate().expect_err("refused");
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
