//! Each fault, as a client sees it.

use std::time::{Duration, Instant};

use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use dawdle::ErrorKind;
use dawdle::backend::sqs::{SqsBackend, create_queues};
use dawdle::backend::{Backend, Lane, Outgoing};
use sqs_model::{Action, Aimed, Endpoint, Faults, Options};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod client;
use client::{Raw, bodies, options};

/// An endpoint, a client, and a queue by its name and URL.
struct Rig {
    endpoint: Endpoint,
    raw: Raw,
    name: String,
    url: String,
}

impl Rig {
    async fn new(seed: u64) -> Rig {
        let endpoint = Endpoint::start(Options { seed, ..Options::default() }).expect("an endpoint");
        let raw = Raw::new(&endpoint.url());
        let url = raw.create(&[]).await;
        Rig { name: url.rsplit('/').next().expect("a name").to_owned(), endpoint, raw, url }
    }

    fn strike(&self, faults: Faults) {
        self.endpoint.set_faults(faults);
    }

    fn heal(&self) {
        self.strike(Faults::default());
    }

    async fn send(&self) -> Said {
        said(self.raw.0.send_message().queue_url(&self.url).message_body("a").send().await)
    }

    /// How many messages there are.
    fn kept(&self) -> u64 {
        self.endpoint.queue(&self.name).expect("the queue").total()
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Said {
    Done,
    /// No answer came.
    Lost,
    Refused(u16, String),
}

fn said<T, E: ProvideErrorMetadata + std::fmt::Debug>(answer: Result<T, SdkError<E>>) -> Said {
    match answer {
        Ok(_) => Said::Done,
        Err(SdkError::ServiceError(error)) => {
            Said::Refused(error.raw().status().as_u16(), error.err().code().unwrap_or_default().to_owned())
        }
        Err(SdkError::DispatchFailure(_) | SdkError::ResponseError(_)) => Said::Lost,
        Err(error) => panic!("an odd error: {error:?}"),
    }
}

#[tokio::test]
async fn a_new_connection_is_refused() {
    let rig = Rig::new(1).await;
    rig.strike(Faults { refuse: 1.0, ..Faults::default() });
    let fresh = Raw::new(&rig.endpoint.url());
    assert_eq!(said(fresh.0.send_message().queue_url(&rig.url).message_body("a").send().await), Said::Lost);
    assert_eq!(rig.kept(), 0);
    assert!(rig.endpoint.counts().struck.refuse >= 1);
    rig.heal();
    assert_eq!(rig.send().await, Said::Done);
}

#[tokio::test]
async fn an_open_connection_is_refused() {
    let rig = Rig::new(1).await;
    assert_eq!(rig.send().await, Said::Done);
    rig.strike(Faults { refuse: 1.0, ..Faults::default() });
    assert_eq!(rig.send().await, Said::Lost);
    assert_eq!(rig.kept(), 1);
}

#[tokio::test]
async fn a_reset_before_leaves_no_effect_and_a_reset_after_does() {
    let rig = Rig::new(1).await;
    rig.strike(Faults { reset_before: 1.0, ..Faults::default() });
    assert_eq!(rig.send().await, Said::Lost);
    assert_eq!(rig.kept(), 0);
    rig.strike(Faults { reset_after: 1.0, ..Faults::default() });
    assert_eq!(rig.send().await, Said::Lost);
    assert_eq!(rig.kept(), 1);
    let struck = rig.endpoint.counts().struck;
    assert_eq!((struck.reset_before, struck.reset_after), (1, 1));
}

#[tokio::test]
async fn a_slow_answer_comes_late_and_whole() {
    let rig = Rig::new(1).await;
    let slow_by = Duration::from_millis(400);
    rig.strike(Faults { slow: 1.0, slow_by, ..Faults::default() });
    let begun = Instant::now();
    let sending = rig.send();
    let looking = async {
        tokio::time::sleep(slow_by / 2).await;
        rig.kept()
    };
    let (answer, kept) = tokio::join!(sending, looking);
    assert_eq!((answer, kept), (Said::Done, 1), "it takes effect at once");
    assert!(begun.elapsed() >= slow_by);
}

#[tokio::test]
async fn a_request_that_hangs_is_never_answered_and_half_of_them_take_effect() {
    let rig = Rig::new(1).await;
    rig.strike(Faults { hang: 1.0, ..Faults::default() });
    let patience = Duration::from_millis(300);
    let sends: Vec<_> = (0..16)
        .map(|_| {
            let (client, url) = (rig.raw.0.clone(), rig.url.clone());
            tokio::spawn(async move {
                tokio::time::timeout(patience, client.send_message().queue_url(url).message_body("a").send())
                    .await
                    .is_err()
            })
        })
        .collect();
    for send in sends {
        assert!(send.await.expect("no panic"), "an answer came");
    }
    assert!((1..16).contains(&rig.kept()), "{} of 16 took effect", rig.kept());
    assert_eq!(rig.endpoint.counts().struck.hang, 16);
    rig.heal();
    assert_eq!(rig.send().await, Said::Done);
}

#[tokio::test]
async fn an_internal_failure_is_said() {
    let rig = Rig::new(1).await;
    rig.strike(Faults { error_500: 1.0, ..Faults::default() });
    assert_eq!(rig.send().await, Said::Refused(500, "InternalFailure".to_owned()));
    assert_eq!(rig.kept(), 0);
}

#[tokio::test]
async fn throttling_comes_in_each_of_its_forms() {
    let rig = Rig::new(1).await;
    rig.strike(Faults { throttle: 1.0, ..Faults::default() });
    let forms =
        [(400, "RequestThrottled"), (503, "ServiceUnavailable"), (400, "ThrottlingException"), (503, "OverLimit")];
    for (status, code) in forms {
        assert_eq!(rig.send().await, Said::Refused(status, code.to_owned()));
    }
    assert_eq!(rig.kept(), 0);
}

#[tokio::test]
async fn an_answer_may_be_a_page_of_html() {
    let rig = Rig::new(1).await;
    for (status, faults) in
        [(404, Faults { html_404: 1.0, ..Faults::default() }), (502, Faults { html_502: 1.0, ..Faults::default() })]
    {
        rig.strike(faults);
        let error = rig.raw.0.send_message().queue_url(&rig.url).message_body("a").send().await.expect_err("no answer");
        let raw = error.raw_response().expect("an answer over HTTP");
        assert_eq!((raw.status().as_u16(), raw.headers().get("content-type")), (status, Some("text/html")));
        assert!(raw.body().bytes().is_some_and(|body| body.starts_with(b"<html>")), "{raw:?}");
    }
    let struck = rig.endpoint.counts().struck;
    assert_eq!((struck.html_404, struck.html_502, rig.kept()), (1, 1, 0));
    rig.heal();
    assert_eq!(rig.send().await, Said::Done);
}

#[tokio::test]
async fn what_is_aimed_at_a_queue_spares_the_others() {
    let rig = Rig::new(1).await;
    let other = rig.raw.create(&[]).await;
    let to_other = || rig.raw.0.send_message().queue_url(&other).message_body("a").send();
    let at = |faults| Aimed { queue: Some(rig.name.clone()), action: None, faults };
    for (faults, says) in [
        (Faults { error_500: 1.0, ..Faults::default() }, Said::Refused(500, "InternalFailure".to_owned())),
        (Faults { refuse: 1.0, ..Faults::default() }, Said::Lost),
    ] {
        rig.strike(Faults { aimed: vec![at(faults)], ..Faults::default() });
        assert_eq!((rig.send().await, said(to_other().await)), (says, Said::Done));
        let url = rig.raw.0.get_queue_url().queue_name(&rig.name).send().await;
        assert_ne!(said(url), Said::Done, "this is about that queue too");
    }
    // And the other way round: what strikes all the others may spare one.
    rig.strike(Faults { aimed: vec![at(Faults::default())], throttle: 1.0, ..Faults::default() });
    assert_eq!(rig.send().await, Said::Done);
    assert_ne!(said(to_other().await), Said::Done);
}

#[tokio::test]
async fn what_is_aimed_at_an_action_spares_the_others() {
    let rig = Rig::new(1).await;
    let at = |action, faults| Aimed { queue: None, action: Some(action), faults };
    let deletes = at(Action::DeleteMessage, Faults { reset_before: 1.0, ..Faults::default() });
    let receives = at(Action::ReceiveMessage, Faults { duplicate: 1.0, ..Faults::default() });
    let batches = at(Action::SendMessageBatch, Faults { entry_failure: 1.0, ..Faults::default() });
    rig.strike(Faults { aimed: vec![deletes, receives, batches], ..Faults::default() });
    assert_eq!(rig.send().await, Said::Done);
    let entry = SendMessageBatchRequestEntry::builder().id("1").message_body("b").build().expect("an entry");
    let batch = rig.raw.0.send_message_batch().queue_url(&rig.url).entries(entry).send().await.expect("an answer");
    assert_eq!(batch.failed().len(), 1);
    let mut received = rig.raw.receive(&rig.url).await;
    received.extend(rig.raw.receive(&rig.url).await);
    assert_eq!(received.len(), 2, "it comes twice");
    let handle = received[0].receipt_handle().expect("a handle");
    assert_eq!(said(rig.raw.0.delete_message().queue_url(&rig.url).receipt_handle(handle).send().await), Said::Lost);
}

#[tokio::test]
async fn credentials_are_expired_until_they_are_not() {
    let rig = Rig::new(1).await;
    rig.strike(Faults { expired_credentials: true, ..Faults::default() });
    for _ in 0..2 {
        assert_eq!(rig.send().await, Said::Refused(403, "ExpiredToken".to_owned()));
    }
    rig.heal();
    assert_eq!(rig.send().await, Said::Done);
    assert_eq!(rig.kept(), 1);
}

#[tokio::test]
async fn entries_fail_on_their_own_and_blame_either_side() {
    let rig = Rig::new(1).await;
    let entry = |id: u32| {
        SendMessageBatchRequestEntry::builder().id(id.to_string()).message_body("a").build().expect("an entry")
    };
    let batch = || rig.raw.0.send_message_batch().queue_url(&rig.url).set_entries(Some((0..10).map(entry).collect()));
    rig.strike(Faults { entry_failure: 1.0, ..Faults::default() });
    let answer = batch().send().await.expect("an answer");
    let failed: Vec<_> = answer.failed().iter().map(|entry| (entry.code(), entry.sender_fault())).collect();
    assert_eq!(failed[..2], [("InternalError", false), ("RequestThrottled", true)]);
    assert_eq!((failed.len(), rig.kept()), (10, 0));

    rig.strike(Faults { entry_failure: 0.5, ..Faults::default() });
    let answer = batch().send().await.expect("an answer");
    let sent = u64::try_from(answer.successful().len()).expect("few");
    assert_eq!(answer.failed().len() + answer.successful().len(), 10);
    assert!((1..10).contains(&sent), "{sent} of 10 were sent");
    assert_eq!(rig.kept(), sent);
}

#[tokio::test]
async fn a_duplicate_is_received_twice_at_once() {
    let rig = Rig::new(1).await;
    rig.strike(Faults { duplicate: 1.0, ..Faults::default() });
    assert_eq!(rig.send().await, Said::Done);
    let mut received = rig.raw.receive(&rig.url).await;
    received.extend(rig.raw.receive(&rig.url).await);
    let [first, second] = &received[..] else { panic!("it was received {} times", received.len()) };
    assert_eq!(first.message_id(), second.message_id());
    assert_ne!(first.receipt_handle(), second.receipt_handle());
    rig.raw.delete(&rig.url, first).await;
    assert_eq!(rig.kept(), 1, "each is deleted by its own handle");
    assert_eq!(rig.endpoint.delivered_twice(), [first.message_id().expect("an id")]);
    assert_eq!(rig.endpoint.counts().struck.duplicate, 1);
}

#[tokio::test]
async fn a_deleted_message_comes_back_once() {
    let rig = Rig::new(1).await;
    rig.strike(Faults { undelete: 1.0, ..Faults::default() });
    assert_eq!(rig.send().await, Said::Done);
    for left in [1, 0] {
        let message = rig.raw.receive(&rig.url).await.remove(0);
        rig.raw.delete(&rig.url, &message).await;
        assert_eq!(rig.kept(), left);
    }
    assert_eq!((rig.endpoint.counts().struck.undelete, rig.endpoint.delivered_twice().len()), (1, 1));
}

#[tokio::test]
async fn messages_come_in_order_unless_they_are_not_to() {
    for reorder in [false, true] {
        let rig = Rig::new(1).await;
        rig.strike(Faults { reorder, ..Faults::default() });
        let sent: Vec<_> = (0..30).map(|number| number.to_string()).collect();
        for body in &sent {
            rig.raw.send(&rig.url, body).await;
        }
        let mut received = Vec::new();
        for _ in 0..3 {
            received.extend(bodies(&rig.raw.receive(&rig.url).await));
        }
        assert_eq!(received == sent, !reorder, "{received:?}");
        received.sort_by_key(|body| body.parse::<u32>().expect("a number"));
        assert_eq!(received, sent);
    }
}

/// What a row of requests meets.
async fn met(seed: u64) -> Vec<Said> {
    let rig = Rig::new(seed).await;
    rig.strike(Faults {
        refuse: 0.1,
        reset_before: 0.1,
        reset_after: 0.1,
        error_500: 0.1,
        throttle: 0.1,
        ..Faults::default()
    });
    let mut met = Vec::new();
    for _ in 0..60 {
        met.push(rig.send().await);
    }
    met
}

#[tokio::test]
async fn a_seed_decides_what_strikes() {
    let first = met(7).await;
    assert_eq!(first, met(7).await);
    assert_ne!(first, met(8).await);
    let struck = first.iter().filter(|said| **said != Said::Done).count();
    assert!((15..45).contains(&struck), "{struck} of 60");
}

#[tokio::test]
async fn down_is_refused_and_what_was_kept_is_there_afterwards() {
    let rig = Rig::new(1).await;
    assert_eq!(rig.send().await, Said::Done);
    let empty = rig.raw.create(&[]).await;
    let waiting = tokio::spawn({
        let client = rig.raw.0.clone();
        async move { said(client.receive_message().queue_url(empty).wait_time_seconds(20).send().await) }
    });
    while rig.endpoint.counts().receive_message == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    rig.endpoint.go_down();
    assert_eq!(waiting.await.expect("no panic"), Said::Lost);
    let refused = std::net::TcpStream::connect(("127.0.0.1", rig.endpoint.port())).expect_err("refused");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    rig.endpoint.go_down();
    assert_eq!(rig.send().await, Said::Lost);
    rig.endpoint.come_back();
    rig.endpoint.come_back();
    assert_eq!(rig.send().await, Said::Done);
    assert_eq!(rig.kept(), 2);
}

#[tokio::test]
async fn dawdles_backend_calls_each_fault_by_its_kind() {
    let endpoint = Endpoint::start(Options::default()).expect("an endpoint");
    let options = options(&endpoint.url());
    create_queues(options.clone()).await.expect("queues");
    let backend = SqsBackend::connect(options).await.expect("connected");
    let send = async || backend.send(Lane::Message, &[Outgoing::new("a")]).await.remove(0);
    send().await.expect("sent");
    let faults = Faults::default;
    for (faults, kind, maybe_sent) in [
        (Faults { refuse: 1.0, ..faults() }, ErrorKind::Unavailable, true),
        (Faults { reset_before: 1.0, ..faults() }, ErrorKind::Unavailable, true),
        (Faults { reset_after: 1.0, ..faults() }, ErrorKind::Unavailable, true),
        (Faults { hang: 1.0, ..faults() }, ErrorKind::Unavailable, true),
        (Faults { error_500: 1.0, ..faults() }, ErrorKind::Unavailable, true),
        (Faults { html_502: 1.0, ..faults() }, ErrorKind::Unavailable, true),
        (Faults { throttle: 1.0, ..faults() }, ErrorKind::Throttled, false),
        (Faults { expired_credentials: true, ..faults() }, ErrorKind::Credentials, false),
    ] {
        endpoint.set_faults(faults.clone());
        let error = send().await.expect_err("it fails");
        assert_eq!((error.kind(), error.maybe_sent()), (kind, maybe_sent), "{faults:?}: {error}");
    }
    endpoint.set_faults(faults());
    endpoint.go_down();
    // Whatever went over a connection that was open may have arrived.
    send().await.expect_err("it fails");
    let error = send().await.expect_err("it fails");
    assert_eq!((error.kind(), error.maybe_sent()), (ErrorKind::Unavailable, false), "{error}");
}
