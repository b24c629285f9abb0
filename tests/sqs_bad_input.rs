//! What is wrong with queues and bodies on SQS is said at start, or kept among the dead letters.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dawdle::backend::sqs::{SqsBackend, create_queues};
use dawdle::backend::{Backend, Lane, Outgoing};
use dawdle::{BackendKind, Builder, Config, Dawdle, ErrorKind, Event, Filter, Outcome, State, handlers, reason};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod common;
#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod engine;

use common::until;
use engine::{Queues, endpoint};

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "bad.note")]
struct Note {
    text: String,
}

#[dawdle::handler]
async fn keep(event: &Note, kept: State<UnboundedSender<String>>) -> Outcome {
    kept.send(event.text.clone())?;
    Ok(())
}

fn config(queue: &str) -> Config {
    Config {
        backend: Some(BackendKind::Sqs),
        sqs_queue: Some(queue.to_owned()),
        sqs_endpoint_url: Some(endpoint()),
        sqs_region: Some("us-east-1".to_owned()),
        ..Config::default()
    }
}

fn listener(config: Config) -> Builder {
    let (sender, _) = unbounded_channel::<String>();
    Dawdle::builder().config(config).discover(false).handlers(handlers![keep]).state(sender)
}

/// The text of the refusal, which must come at once: it does not pass by itself.
async fn refused(config: Config) -> Result<String> {
    let started = tokio::time::timeout(Duration::from_secs(15), listener(config).start()).await?;
    let error = started.err().context("it starts")?;
    ensure!(error.kind() == ErrorKind::Queue, "{error:?}");
    Ok(error.to_string())
}

#[tokio::test]
async fn a_missing_queue_is_refused_at_start_with_the_command_that_creates_it() -> Result<()> {
    let queues = Queues::new();
    let text = refused(config(&queues.name)).await?;
    ensure!(text.contains(&format!("aws sqs create-queue --queue-name {}", queues.name)), "{text}");
    ensure!(text.contains("--endpoint-url http://127.0.0.1"), "{text}");
    queues.create("", &[("VisibilityTimeout", "60")]).await;
    let text = refused(config(&queues.name)).await?;
    ensure!(text.contains(&format!("aws sqs create-queue --queue-name {}-dead", queues.name)), "{text}");
    queues.delete().await;
    Ok(())
}

#[tokio::test]
async fn a_fifo_queue_is_refused_at_start() -> Result<()> {
    let queues = Queues::new();
    queues.create(".fifo", &[("FifoQueue", "true")]).await;
    let text = refused(config(&format!("{}.fifo", queues.name))).await?;
    ensure!(text.contains("FIFO") && text.contains("create-queue"), "{text}");
    let by_url = Config { sqs_queue: None, sqs_queue_url: Some(queues.url(".fifo").await), ..config("") };
    let text = refused(by_url).await?;
    ensure!(text.contains("FIFO"), "{text}");
    queues.delete().await;
    Ok(())
}

#[tokio::test]
async fn attributes_that_would_lose_or_spoil_events_are_refused_with_the_command_that_mends_them() -> Result<()> {
    let queues = Queues::new();
    create_queues(queues.options()).await?;
    listener(config(&queues.name)).start().await?.shutdown().await;
    let policy = queues.attribute("", "RedrivePolicy").await.context("a policy")?;
    let quick = policy.replace("100", "5");
    for (suffix, attribute, bad, good, says) in [
        ("", "VisibilityTimeout", "25", "60", "VisibilityTimeout="),
        ("", "RedrivePolicy", quick.as_str(), policy.as_str(), "maxReceiveCount of 5"),
        ("-dead", "MessageRetentionPeriod", "345600", "1209600", "MessageRetentionPeriod=1209600"),
        ("-delay", "MessageRetentionPeriod", "345600", "1209600", "MessageRetentionPeriod=1209600"),
        ("-delay", "VisibilityTimeout", "10", "60", "VisibilityTimeout="),
        ("-delay", "RedrivePolicy", policy.as_str(), "", "has a redrive policy"),
    ] {
        queues.set(suffix, attribute, bad).await;
        let text = refused(config(&queues.name)).await?;
        ensure!(text.contains(says) && text.contains("aws sqs set-queue-attributes"), "{attribute}: {text}");
        ensure!(text.contains(&format!("{}{suffix}", queues.name)), "{text}");
        // It is no business of a process that only sends.
        let sender = Dawdle::builder().config(config(&queues.name)).discover(false).listener(false);
        sender.start().await?.shutdown().await;
        queues.set(suffix, attribute, good).await;
    }
    listener(config(&queues.name)).start().await?.shutdown().await;
    queues.delete().await;
    Ok(())
}

#[tokio::test]
async fn odd_characters_go_round_and_what_is_no_event_is_kept() -> Result<()> {
    const ODD: &str = "a\u{fffe}b\u{ffff}c \u{0} \u{1f980}";
    let queues = Queues::new();
    create_queues(queues.options()).await?;
    let backend = SqsBackend::connect(queues.options()).await?;
    for answer in backend.send(Lane::Message, &["no JSON", "{\"a\": 1}"].map(Outgoing::new)).await {
        answer?;
    }
    let (sender, mut kept) = unbounded_channel::<String>();
    let builder = Dawdle::builder().config(config(&queues.name)).discover(false).handlers(handlers![keep]);
    let dawdle = builder.state(sender).start().await?;
    dawdle.signal(Note { text: ODD.to_owned() }).await?;
    let text = tokio::time::timeout(Duration::from_secs(30), kept.recv()).await?;
    ensure!(text.as_deref() == Some(ODD), "{text:?}");
    let error = dawdle.signal(Note { text: "x".repeat(1024 * 1024) }).await.err().context("it is taken")?;
    ensure!(error.kind() == ErrorKind::TooLarge && error.to_string().contains("1032192"), "{error}");
    until(Duration::from_secs(30), "the queue is empty", async || {
        Ok(backend.inspect(Lane::Message).await?.total() == 0 && backend.inspect(Lane::Dead).await?.total() == 2)
    })
    .await?;
    let mut letters = dawdle.dead_letters().scan(Filter::default());
    let mut reasons = Vec::new();
    while let Some(letter) = letters.next().await {
        reasons.push(letter?.reason);
    }
    ensure!(reasons == [reason::UNDECODABLE; 2], "{reasons:?}");
    dawdle.shutdown().await;
    queues.delete().await;
    Ok(())
}
