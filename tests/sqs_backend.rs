//! The SQS backend against a real engine, on queues of each test's own.

use std::time::{Duration, Instant, SystemTime};

use dawdle::ErrorKind;
use dawdle::backend::sqs::{SqsBackend, SqsOptions, create_queues};
use dawdle::backend::{Backend, Delivery, Lane, Outgoing, Receipt, Role, Settle, Settlement};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod engine;
use engine::Queues;

async fn ready() -> (Queues, SqsBackend) {
    let queues = Queues::new();
    create_queues(queues.options()).await.expect("queues");
    let backend = SqsBackend::connect(queues.options()).await.expect("connected");
    backend.check(Role::Listener).await.expect("good queues");
    (queues, backend)
}

async fn send(backend: &SqsBackend, lane: Lane, messages: &[Outgoing]) {
    for answer in backend.send(lane, messages).await {
        answer.expect("sent");
    }
}

/// Receives until `count` have come, or ten seconds are over.
async fn receive(backend: &SqsBackend, lane: Lane, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    let begun = Instant::now();
    while all.len() < count && begun.elapsed() < Duration::from_secs(10) {
        all.extend(backend.receive(lane, count - all.len()).await.expect("an answer"));
    }
    all
}

async fn settle(backend: &SqsBackend, lane: Lane, deliveries: &[Delivery], how: Settlement) {
    let entries: Vec<_> = deliveries.iter().map(|it| Settle { receipt: it.receipt.clone(), how }).collect();
    for answer in backend.settle(lane, &entries).await {
        answer.expect("settled");
    }
}

#[tokio::test]
async fn what_is_sent_is_received_with_all_it_carries_and_leaves_when_acked() {
    let (queues, backend) = ready().await;
    let before = SystemTime::now();
    let mut outgoing = Outgoing::new("{\"text\":\"gr\u{fc}\u{df}e \u{1f980}\\n\"}");
    outgoing.attributes.insert("tenant".to_owned(), "a".to_owned());
    for lane in Lane::ALL {
        send(&backend, lane, std::slice::from_ref(&outgoing)).await;
        let deliveries = receive(&backend, lane, 1).await;
        let delivery = &deliveries[0];
        assert_eq!((&delivery.body, &delivery.attributes), (&outgoing.body, &outgoing.attributes));
        assert_eq!(delivery.receive_count, 1);
        assert!(!delivery.message_id.is_empty());
        let late = delivery.enqueued_at.duration_since(before - Duration::from_secs(2)).expect("later");
        assert!(late < Duration::from_secs(15), "{late:?}");
        assert_eq!(delivery.lease.as_secs(), if lane == Lane::Dead { 30 } else { 60 });
        assert_eq!(backend.inspect(lane).await.expect("counts").in_flight, 1);
        settle(&backend, lane, &deliveries, Settlement::Ack).await;
        assert_eq!(backend.inspect(lane).await.expect("counts").total(), 0);
    }
    assert!(backend.clock_offset_ms().abs() < 100, "{}", backend.clock_offset_ms());
    queues.delete().await;
}

#[tokio::test]
async fn a_batch_of_ten_goes_in_one_request() {
    let (queues, backend) = ready().await;
    let messages: Vec<_> = (0..10).map(|n| Outgoing::new(format!("body {n}"))).collect();
    send(&backend, Lane::Message, &messages).await;
    let deliveries = receive(&backend, Lane::Message, 10).await;
    let mut bodies: Vec<_> = deliveries.iter().map(|it| it.body.clone()).collect();
    bodies.sort();
    assert_eq!(bodies, messages.iter().map(|it| it.body.clone()).collect::<Vec<_>>());
    settle(&backend, Lane::Message, &deliveries, Settlement::Ack).await;
    let requests = backend.requests();
    assert_eq!((requests.send, requests.delete), (1, 1));
    queues.delete().await;
}

#[tokio::test]
async fn a_released_message_comes_back_when_it_was_to_and_counts() {
    let (queues, backend) = ready().await;
    send(&backend, Lane::Message, &[Outgoing::new("again")]).await;
    let first = receive(&backend, Lane::Message, 1).await;
    settle(&backend, Lane::Message, &first, Settlement::ReleaseAfter(Duration::from_millis(1_500))).await;
    let begun = Instant::now();
    let second = receive(&backend, Lane::Message, 1).await;
    assert!(begun.elapsed() > Duration::from_millis(1_400), "{:?}", begun.elapsed());
    assert_eq!((second[0].receive_count, &second[0].message_id), (2, &first[0].message_id));
    settle(&backend, Lane::Message, &second, Settlement::ReleaseAfter(Duration::ZERO)).await;
    assert_eq!(receive(&backend, Lane::Message, 1).await[0].receive_count, 3);
    queues.delete().await;
}

#[tokio::test]
async fn a_delay_is_kept() {
    let (queues, backend) = ready().await;
    let begun = Instant::now();
    let delayed = Outgoing { delay: Duration::from_millis(2_900), ..Outgoing::new("later") };
    send(&backend, Lane::Message, &[delayed]).await;
    assert_eq!(backend.inspect(Lane::Message).await.expect("counts").delayed, 1);
    assert_eq!(receive(&backend, Lane::Message, 1).await.len(), 1);
    let waited = begun.elapsed();
    assert!(waited > Duration::from_millis(1_800) && waited < Duration::from_secs(6), "{waited:?}");
    queues.delete().await;
}

#[tokio::test]
async fn an_extended_lease_holds_and_a_lost_one_does_not() {
    let (queues, backend) = ready().await;
    queues.set("", "VisibilityTimeout", "2").await;
    send(&backend, Lane::Message, &[Outgoing::new("held"), Outgoing::new("lost")]).await;
    let deliveries = receive(&backend, Lane::Message, 2).await;
    let held = deliveries.iter().find(|it| it.body == "held").expect("received");
    let begun = Instant::now();
    let answers = backend.extend(Lane::Message, std::slice::from_ref(&held.receipt), Duration::from_secs(30)).await;
    assert!(answers[0].is_ok());
    let again = receive(&backend, Lane::Message, 1).await;
    assert_eq!((again[0].body.as_str(), again[0].receive_count), ("lost", 2));
    assert!(begun.elapsed() > Duration::from_secs(1));
    assert!(backend.receive(Lane::Message, 1).await.expect("an answer").iter().all(|it| it.body != "held"));

    let answers = backend.extend(Lane::Message, &[Receipt("no receipt".to_owned())], Duration::from_secs(5)).await;
    assert_eq!(answers[0].as_ref().expect_err("refused").kind(), ErrorKind::LeaseLost, "{answers:?}");
    queues.delete().await;
}

#[tokio::test]
async fn what_is_browsed_is_hidden_for_as_long_as_was_said() {
    let (queues, backend) = ready().await;
    send(&backend, Lane::Dead, &[Outgoing::new("a"), Outgoing::new("b")]).await;
    let mut seen = backend.browse(Lane::Dead, 10, Duration::from_secs(3)).await.expect("letters");
    seen.extend(backend.browse(Lane::Dead, 10, Duration::from_secs(3)).await.expect("letters"));
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].lease, Duration::from_secs(3));
    assert_eq!(receive(&backend, Lane::Dead, 2).await.len(), 2);
    queues.delete().await;
}

#[tokio::test]
async fn queues_are_created_once_and_mended_the_second_time() {
    let (queues, backend) = ready().await;
    queues.set("-dead", "MessageRetentionPeriod", "345600").await;
    queues.set("-delay", "VisibilityTimeout", "1").await;
    queues.set("", "VisibilityTimeout", "900").await;
    let error = backend.check(Role::Listener).await.expect_err("refused");
    assert!(error.to_string().contains("MessageRetentionPeriod=1209600"), "{error}");
    create_queues(queues.options()).await.expect("idempotent");
    backend.check(Role::Listener).await.expect("mended");
    let chosen = queues.attribute("", "VisibilityTimeout").await;
    assert_eq!(chosen.as_deref(), Some("900"), "what a listener can work with stays");
    let policy = queues.attribute("", "RedrivePolicy").await.expect("a policy");
    assert!(policy.contains(&format!("{}-dead", queues.name)) && policy.contains("100"), "{policy}");
    queues.delete().await;
}

#[tokio::test]
async fn a_missing_queue_is_named_with_the_command_that_makes_it() {
    let queues = Queues::new();
    let backend = SqsBackend::connect(queues.options()).await.expect("connected");
    for role in [Role::Sender, Role::Listener] {
        let error = backend.check(role).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Queue);
        let command = format!("aws sqs create-queue --queue-name {} --attributes", queues.name);
        assert!(error.to_string().contains(&command), "{error}");
    }
    queues.create("", &[("VisibilityTimeout", "60")]).await;
    backend.check(Role::Sender).await.expect("a queue");
    assert!(!backend.limits().delay_lane);
    let error = backend.check(Role::Listener).await.expect_err("refused");
    assert!(error.to_string().contains("-dead"), "{error}");

    let url = format!("{}-gone", queues.url("").await);
    let options = SqsOptions { queue: None, queue_url: Some(url), ..queues.options() };
    let by_url = SqsBackend::connect(options).await.expect("connected");
    assert_eq!(by_url.check(Role::Listener).await.expect_err("refused").kind(), ErrorKind::Queue);
    let answers = by_url.send(Lane::Message, &[Outgoing::new("a")]).await;
    let error = answers[0].as_ref().expect_err("refused");
    assert_eq!((error.kind(), error.maybe_sent()), (ErrorKind::Queue, false), "{error}");
    queues.delete().await;
}

#[tokio::test]
async fn the_endpoint_and_the_region_may_come_from_the_environment() {
    assert_eq!(std::env::var("AWS_ENDPOINT_URL_SQS").as_deref(), Ok(engine::endpoint().as_str()));
    let (queues, _) = ready().await;
    let options = SqsOptions { endpoint_url: None, region: None, ..queues.options() };
    let backend = SqsBackend::connect(options).await.expect("connected");
    backend.check(Role::Listener).await.expect("good queues");
    assert!(backend.describe().contains(&queues.name), "{}", backend.describe());
    queues.delete().await;
}

#[tokio::test]
async fn a_fifo_queue_is_refused() {
    let queues = Queues::new();
    queues.create(".fifo", &[("FifoQueue", "true")]).await;
    let options = SqsOptions { queue: None, queue_url: Some(queues.url(".fifo").await), ..queues.options() };
    let error = SqsBackend::connect(options).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Queue);
    assert!(error.to_string().contains("FIFO") && error.to_string().contains("create-queue"), "{error}");
    queues.delete().await;
}

#[tokio::test]
async fn one_odd_body_harms_none_of_its_batch() {
    let (queues, backend) = ready().await;
    let bodies = ["fine", "odd \u{ffff}", "fine too"];
    let answers = backend.send(Lane::Message, &bodies.map(Outgoing::new)).await;
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().map_err(dawdle::Error::kind)).collect();
    assert_eq!(kinds, [Ok(&()), Err(ErrorKind::Refused), Ok(&())], "{answers:?}");
    assert_eq!(receive(&backend, Lane::Message, 2).await.len(), 2);
    queues.delete().await;
}
