//! What the endpoint does beside keeping the rules: waking, counting, telling the time, stopping.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_sdk_sqs::types::{MessageSystemAttributeName, SendMessageBatchRequestEntry};
use dawdle::backend::sqs::{SqsBackend, create_queues};
use dawdle::backend::{Backend, Lane, Outgoing};
use sqs_model::{Endpoint, Options};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod client;
use client::{Raw, bodies, options};

/// Longer than anything here should take, shorter than a long poll.
const SOON: Duration = Duration::from_secs(10);

fn start(options: Options) -> (Endpoint, Raw) {
    let endpoint = Endpoint::start(options).expect("an endpoint");
    let raw = Raw::new(&endpoint.url());
    (endpoint, raw)
}

fn name(url: &str) -> &str {
    url.rsplit('/').next().expect("a name")
}

/// A long poll that is under way.
async fn poll(endpoint: &Endpoint, raw: &Raw, url: &str) -> tokio::task::JoinHandle<Vec<String>> {
    let before = endpoint.counts().receive_message;
    let (raw, url) = (Raw(raw.0.clone()), url.to_owned());
    let polling = tokio::spawn(async move { bodies(&raw.receive_within(&url, 20).await) });
    while endpoint.counts().receive_message == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // It is counted before it waits.
    tokio::time::sleep(Duration::from_millis(50)).await;
    polling
}

#[tokio::test]
async fn every_poll_wakes_for_a_message_of_its_own() {
    let (endpoint, raw) = start(Options { threads: 2, ..Options::default() });
    let url = raw.create(&[]).await;
    let mut polls = Vec::new();
    for _ in 0..8 {
        polls.push(poll(&endpoint, &raw, &url).await);
    }
    let begun = Instant::now();
    let mut expected = Vec::new();
    for number in 0..8 {
        raw.send(&url, &number.to_string()).await;
        expected.push(number.to_string());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut received = Vec::new();
    for poll in polls {
        received.extend(poll.await.expect("no panic"));
    }
    received.sort();
    assert_eq!(received, expected);
    assert!(begun.elapsed() < SOON);
}

#[tokio::test]
async fn a_poll_wakes_when_a_lease_ends() {
    let (endpoint, raw) = start(Options::default());
    let url = raw.create(&[("VisibilityTimeout", "1")]).await;
    raw.send(&url, "a").await;
    assert_eq!(raw.receive(&url).await.len(), 1);
    let begun = Instant::now();
    assert_eq!(poll(&endpoint, &raw, &url).await.await.expect("no panic"), ["a"]);
    assert!(begun.elapsed() < SOON);
}

#[tokio::test]
async fn a_poll_wakes_when_the_clock_is_set_past_a_delay() {
    let (endpoint, raw) = start(Options::default());
    let url = raw.create(&[("DelaySeconds", "900")]).await;
    raw.send(&url, "a").await;
    let begun = Instant::now();
    let polling = poll(&endpoint, &raw, &url).await;
    endpoint.set_clock_ahead_ms(900_000);
    assert_eq!(polling.await.expect("no panic"), ["a"]);
    assert!(begun.elapsed() < SOON);
}

#[tokio::test]
async fn a_poll_at_the_quota_wakes_when_a_message_is_deleted() {
    let (endpoint, raw) = start(Options { max_in_flight: 1, ..Options::default() });
    let url = raw.create(&[]).await;
    raw.send(&url, "a").await;
    raw.send(&url, "b").await;
    let first = raw.receive(&url).await.remove(0);
    let begun = Instant::now();
    let polling = poll(&endpoint, &raw, &url).await;
    assert!(!polling.is_finished());
    raw.delete(&url, &first).await;
    assert_eq!(polling.await.expect("no panic"), ["b"]);
    assert!(begun.elapsed() < SOON);
}

#[tokio::test]
async fn a_poll_whose_client_has_gone_takes_nothing() {
    let (endpoint, raw) = start(Options::default());
    let url = raw.create(&[]).await;
    poll(&endpoint, &raw, &url).await.abort();
    tokio::time::sleep(Duration::from_millis(100)).await;
    raw.send(&url, "a").await;
    assert_eq!(bodies(&raw.receive(&url).await), ["a"]);
}

#[tokio::test]
async fn a_poll_of_a_queue_that_is_deleted_ends() {
    let (endpoint, raw) = start(Options { recreate_after: Duration::ZERO, ..Options::default() });
    let url = raw.create(&[]).await;
    let polling = {
        let client = raw.0.clone();
        let url = url.clone();
        tokio::spawn(async move { client.receive_message().queue_url(url).wait_time_seconds(20).send().await })
    };
    while endpoint.counts().receive_message == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    raw.0.delete_queue().queue_url(&url).send().await.expect("deleted");
    let error = polling.await.expect("no panic").expect_err("no queue");
    assert!(error.into_service_error().is_queue_does_not_exist());
    assert!(endpoint.queue(name(&url)).is_none());
    raw.0.create_queue().queue_name(name(&url)).send().await.expect("created again at once");
}

#[tokio::test]
async fn its_clock_shows_in_every_time_that_it_tells() {
    for ahead_ms in [-180_000, 240_000] {
        let (endpoint, raw) = start(Options { clock_ahead_ms: ahead_ms, ..Options::default() });
        let url = raw.create(&[]).await;
        raw.send(&url, "a").await;
        let message = raw.receive(&url).await.remove(0);
        let sent = &message.attributes().expect("attributes")[&MessageSystemAttributeName::SentTimestamp];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
        let off = sent.parse::<i64>().expect("a time") - i64::try_from(now).expect("a time");
        assert!((off - ahead_ms).abs() < 5_000, "{off}");

        let options = options(&endpoint.url());
        create_queues(options.clone()).await.expect("queues");
        let backend = SqsBackend::connect(options).await.expect("connected");
        backend.send(Lane::Message, &[Outgoing::new("a")]).await.remove(0).expect("sent");
        backend.receive(Lane::Message, 1).await.expect("received");
        let seen = backend.clock_offset_ms();
        assert!((seen - ahead_ms).abs() < 1_000, "{seen}");
    }
}

#[tokio::test]
async fn requests_messages_and_units_are_counted() {
    let (endpoint, raw) = start(Options::default());
    let url = raw.create(&[]).await;
    endpoint.reset_counts();
    let body = "a".repeat(100 * 1024);
    let entry =
        |id: &str| SendMessageBatchRequestEntry::builder().id(id).message_body(&body).build().expect("an entry");
    let batch = raw.0.send_message_batch().queue_url(&url).entries(entry("a")).entries(entry("b"));
    batch.send().await.expect("sent");
    assert_eq!(raw.receive(&url).await.len(), 2);
    assert_eq!(raw.receive(&url).await.len(), 0);
    let counts = endpoint.counts();
    assert_eq!((counts.send_message_batch, counts.receive_message, counts.empty_receives), (1, 2, 1));
    assert_eq!((counts.messages_sent, counts.messages_received, counts.messages_deleted), (2, 2, 0));
    // 200 KiB are 4 units of 64 KiB, there and back.
    assert_eq!((counts.requests(), counts.billed), (3, 4 + 4 + 1));
    let stats = endpoint.queue(name(&url)).expect("the queue");
    assert_eq!((stats.visible, stats.in_flight, stats.delayed, stats.most_in_flight), (0, 2, 0, 2));
}

#[tokio::test]
async fn a_request_takes_at_least_the_latency() {
    let (endpoint, raw) = start(Options { latency: Duration::from_millis(200), ..Options::default() });
    let url = raw.create(&[]).await;
    let begun = Instant::now();
    raw.send(&url, "a").await;
    assert!(begun.elapsed() >= Duration::from_millis(200));
    endpoint.set_latency(Duration::ZERO);
    raw.send(&url, "b").await;
    assert_eq!(raw.receive(&url).await.len(), 2);
}

#[tokio::test]
async fn queues_are_listed_in_pages() {
    let (_endpoint, raw) = start(Options::default());
    let mut urls = Vec::new();
    for _ in 0..5 {
        urls.push(raw.create(&[]).await);
    }
    urls.sort();
    let (mut listed, mut next) = (Vec::new(), None);
    loop {
        let request = raw.0.list_queues().queue_name_prefix("test-").max_results(2).set_next_token(next.take());
        let page = request.send().await.expect("a list");
        listed.extend(page.queue_urls.unwrap_or_default());
        match page.next_token {
            Some(token) => next = Some(token),
            None => break,
        }
    }
    assert_eq!(listed, urls);
}

#[test]
fn it_starts_outside_of_a_runtime_and_stops_when_dropped() {
    let endpoint = Endpoint::start(Options::default()).expect("an endpoint");
    let port = endpoint.port();
    assert_eq!(endpoint.url(), format!("http://127.0.0.1:{port}"));
    std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let taken = Endpoint::start(Options { port, ..Options::default() }).expect_err("the port is taken");
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    drop(endpoint);
    std::net::TcpStream::connect(("127.0.0.1", port)).expect_err("it has stopped");
    Endpoint::start(Options { port, ..Options::default() }).expect("the port is free");
}
