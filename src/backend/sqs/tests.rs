//! The backend against a server that says what a test has it say: what SQS does now and then, and
//! an emulator never.

use std::sync::Mutex;
use std::time::Instant;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

mod answers;
mod permissions;

/// What the server does with a request.
enum Reply {
    Answer(u16, Value),
    /// An answer of any text.
    Text(u16, String),
    /// An error with the header by which SQS tells the old code and whose fault it is.
    Fault(u16, &'static str, &'static str),
    /// The effect takes place, then the connection ends without an answer.
    Close,
    Hang,
}

type Script = Arc<dyn Fn(&str, &Value) -> Reply + Send + Sync>;

struct Server {
    url: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(script: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, log): (Script, _) = (Arc::new(script), seen.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, script.clone(), log.clone()));
            }
        });
        Server { url, seen, task }
    }

    fn actions(&self) -> Vec<String> {
        self.seen.lock().expect("unpoisoned").iter().map(|(action, _)| action.clone()).collect()
    }

    fn bodies(&self, action: &str) -> Vec<Value> {
        let seen = self.seen.lock().expect("unpoisoned");
        seen.iter().filter(|(name, _)| name == action).map(|(_, body)| body.clone()).collect()
    }

    fn options(&self) -> SqsOptions {
        SqsOptions {
            queue_url: Some(format!("{}/000000000000/orders", self.url)),
            delay_queue_url: Some(format!("{}/000000000000/orders-delay", self.url)),
            dead_letter_queue_url: Some(format!("{}/000000000000/orders-dead", self.url)),
            endpoint_url: Some(self.url.clone()),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            receive_wait: Duration::ZERO,
            receive_margin: Duration::from_secs(1),
            ..SqsOptions::default()
        }
    }

    /// For a server that hangs.
    fn impatient_options(&self) -> SqsOptions {
        let soon = Duration::from_millis(500);
        SqsOptions { connect_timeout: soon, request_timeout: soon, receive_margin: soon, ..self.options() }
    }

    fn named(&self) -> SqsOptions {
        SqsOptions {
            queue: Some("orders".to_owned()),
            queue_url: None,
            delay_queue_url: None,
            dead_letter_queue_url: None,
            ..self.options()
        }
    }

    fn backend(&self) -> SqsBackend {
        backend(self.options())
    }
}

/// What clients are made of, with this access key.
fn config(key: &str) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("eu-west-1"))
        .http_client(connect::http_client())
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(key, "SECRET", None, None, "test")))
        .build()
}

fn backend(options: SqsOptions) -> SqsBackend {
    loaded(options, Box::new(|| Box::pin(async { (config("AKTEST"), config("AKTEST")) })))
}

/// Loading waits for nothing here.
fn loaded(options: SqsOptions, load: Loader) -> SqsBackend {
    let loading = futures_util::FutureExt::now_or_never(SqsBackend::load(options, load));
    loading.expect("nothing to wait for").expect("valid options")
}

async fn serve(mut stream: TcpStream, script: Script, log: Arc<Mutex<Vec<(String, Value)>>>) {
    let mut buffer = Vec::new();
    loop {
        let Some((action, body)) = request(&mut stream, &mut buffer).await else { return };
        let reply = script(&action, &body);
        log.lock().expect("unpoisoned").push((action, body));
        let (status, header, body) = match reply {
            Reply::Answer(status, body) => (status, String::new(), body.to_string()),
            Reply::Text(status, body) => (status, String::new(), body),
            Reply::Fault(status, code, message) => (
                status,
                format!("x-amzn-query-error: {code};Sender\r\n"),
                json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": message }).to_string(),
            ),
            Reply::Close => return,
            Reply::Hang => std::future::pending().await,
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.0\r\n{header}content-length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all((head + &body).as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Value)> {
    loop {
        let text = String::from_utf8_lossy(buffer).into_owned();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let header = |name: &str| {
                head.lines().find_map(|line| {
                    let (key, value) = line.split_once(": ")?;
                    key.eq_ignore_ascii_case(name).then(|| value.to_owned())
                })
            };
            let length: usize = header("content-length")?.parse().ok()?;
            if rest.len() >= length {
                let action = header("x-amz-target")?.strip_prefix("AmazonSQS.")?.to_owned();
                let body = serde_json::from_str(&rest[..length]).ok()?;
                buffer.drain(..head.len() + 4 + length);
                return Some((action, body));
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn sent(ids: &[usize], failed: Value) -> Reply {
    let ok = ids.iter().map(|id| json!({ "Id": id.to_string(), "MessageId": "m", "MD5OfMessageBody": "0" }));
    Reply::Answer(200, json!({ "Successful": ok.collect::<Vec<_>>(), "Failed": failed }))
}

fn all_entries(body: &Value) -> Reply {
    let entries = body["Entries"].as_array().cloned().unwrap_or_default();
    let ok: Vec<Value> =
        entries.iter().map(|entry| json!({ "Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": "0" })).collect();
    Reply::Answer(200, json!({ "Successful": ok, "Failed": [] }))
}

fn messages(count: usize) -> Vec<Outgoing> {
    (0..count).map(|n| Outgoing::new(format!("body {n}"))).collect()
}

async fn send_one(script: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Error {
    let server = Server::start(script).await;
    let mut answers = server.backend().send(Lane::Message, &messages(1)).await;
    answers.remove(0).expect_err("refused")
}

#[tokio::test]
async fn every_entry_of_a_batch_gets_its_own_answer() {
    let server = Server::start(|_, _| {
        sent(
            &[0, 3],
            json!([
                { "Id": "1", "SenderFault": true, "Code": "InvalidMessageContents", "Message": "odd characters" },
                { "Id": "2", "SenderFault": false, "Code": "InternalError", "Message": "try again" },
            ]),
        )
    })
    .await;
    let backend = server.backend();
    let answers = backend.send(Lane::Message, &messages(5)).await;
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().map_err(|e| (e.kind(), e.maybe_sent()))).collect();
    assert_eq!(
        kinds,
        [
            Ok(&()),
            Err((ErrorKind::Refused, false)),
            Err((ErrorKind::Unavailable, true)),
            Ok(&()),
            // In neither list.
            Err((ErrorKind::Unavailable, true)),
        ]
    );
    assert_eq!(backend.requests().send, 1);
}

#[tokio::test]
async fn an_answer_lost_after_the_effect_may_have_been_sent() {
    let error = send_one(|_, _| Reply::Close).await;
    assert_eq!((error.kind(), error.maybe_sent()), (ErrorKind::Unavailable, true), "{error}");
    assert!(error.to_string().contains("SendMessageBatch on the message queue orders"), "{error}");
}

#[tokio::test]
async fn what_found_no_connection_was_not_sent() {
    let server = Server::start(|_, _| Reply::Close).await;
    let options = server.options();
    drop(server);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = backend(options).send(Lane::Message, &messages(1)).await.remove(0).expect_err("refused");
    assert_eq!((error.kind(), error.maybe_sent()), (ErrorKind::Unavailable, false), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up() {
    let server = Server::start(|_, _| Reply::Hang).await;
    let backend = backend(server.impatient_options());
    let begun = Instant::now();
    let error = backend.send(Lane::Message, &messages(1)).await.remove(0).expect_err("no answer");
    assert_eq!((error.kind(), error.maybe_sent()), (ErrorKind::Unavailable, true), "{error}");
    let error = backend.receive(Lane::Message, 1).await.expect_err("no answer");
    assert_eq!((error.kind(), error.maybe_sent()), (ErrorKind::Unavailable, false), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_failing_server_is_worth_another_try() {
    for status in [500, 503] {
        let error = send_one(move |_, _| Reply::Answer(status, json!({ "__type": "InternalFailure" }))).await;
        assert_eq!((error.kind(), error.maybe_sent()), (ErrorKind::Unavailable, true), "{error}");
    }
    // Nobody tries again behind the caller's back.
    let server = Server::start(|_, _| Reply::Answer(500, Value::Null)).await;
    assert!(server.backend().send(Lane::Message, &messages(1)).await[0].is_err());
    assert_eq!(server.actions(), ["SendMessageBatch"]);
}

#[tokio::test]
async fn throttling_is_throttling_in_either_form() {
    let error = send_one(|_, _| Reply::Fault(400, "RequestThrottled", "slow down")).await;
    assert_eq!((error.kind(), error.maybe_sent()), (ErrorKind::Throttled, false), "{error}");
    let error = send_one(|_, _| {
        sent(
            &[],
            json!([{ "Id": "0", "SenderFault": true, "Code": "ThrottlingException", "Message": "Rate exceeded" }]),
        )
    })
    .await;
    assert_eq!((error.kind(), error.maybe_sent()), (ErrorKind::Throttled, false), "{error}");
}

#[tokio::test]
async fn credentials_are_named_by_what_to_do_about_them() {
    let error = send_one(|_, _| Reply::Fault(403, "ExpiredToken", "The security token is expired")).await;
    assert_eq!(error.kind(), ErrorKind::Credentials);
    assert!(error.to_string().contains("Renew the credentials"), "{error}");
    let error = send_one(|_, _| Reply::Fault(403, "AccessDeniedException", "User u may not")).await;
    assert_eq!(error.kind(), ErrorKind::Credentials);
    assert!(error.to_string().contains("Grant sqs:SendMessage on the message queue orders"), "{error}");
    for text in [format!("{error}"), format!("{error:?}")] {
        assert!(!text.contains("AKTEST") && !text.contains("SECRET") && !text.contains("body 0"), "{text}");
    }
}

/// What is written of a backend whose URLs hold a password: its own words, and every error.
#[tokio::test]
async fn a_password_in_a_url_and_a_credential_are_written_nowhere() {
    fn with_password(url: &str) -> String {
        url.replace("://", "://me:PASSWORD@")
    }
    let faults: [fn() -> Reply; 8] = [
        || Reply::Close,
        || Reply::Hang,
        || Reply::Answer(200, json!("no answer of SQS's")),
        || Reply::Answer(500, json!({ "__type": "InternalFailure" })),
        || Reply::Fault(403, "AccessDeniedException", "not allowed"),
        || Reply::Fault(403, "SignatureDoesNotMatch", "the signature\nauthorization: SECRET"),
        || Reply::Fault(400, "AWS.SimpleQueueService.NonExistentQueue", "not there"),
        || Reply::Answer(200, json!({ "Attributes": { "VisibilityTimeout": "0", "MessageRetentionPeriod": "60" } })),
    ];
    for fault in faults {
        let server = Server::start(move |_, _| fault()).await;
        let given = server.impatient_options();
        let url = |url: &Option<String>| url.as_deref().map(with_password);
        let options = SqsOptions {
            queue_url: url(&given.queue_url),
            delay_queue_url: url(&given.delay_queue_url),
            dead_letter_queue_url: url(&given.dead_letter_queue_url),
            // A client that cannot reach an endpoint with a password would show less.
            endpoint_url: given.endpoint_url.clone(),
            ..given
        };
        let shown = SqsOptions { endpoint_url: url(&options.endpoint_url), ..options.clone() };
        let unreachable = backend(SqsOptions { request_timeout: Duration::from_millis(100), ..shown.clone() });
        let mut texts = vec![format!("{shown:?}"), format!("{unreachable:?}"), unreachable.describe()];
        for backend in [backend(options), unreachable] {
            let receipts = [Receipt("r".to_owned())];
            let settle = [Settle { receipt: receipts[0].clone(), how: Settlement::Ack }];
            let mut errors = vec![
                backend.check(Role::Listener).await.err(),
                backend.receive(Lane::Message, 1).await.err(),
                backend.inspect(Lane::Dead).await.err(),
            ];
            errors.extend(backend.send(Lane::Message, &messages(1)).await.into_iter().map(Result::err));
            errors.extend(backend.settle(Lane::Delay, &settle).await.into_iter().map(Result::err));
            errors.extend(
                backend.extend(Lane::Message, &receipts, Duration::from_secs(1)).await.into_iter().map(Result::err),
            );
            assert!(errors.iter().flatten().count() > 0);
            texts.extend(errors.iter().flatten().flat_map(|error| [error.to_string(), format!("{error:?}")]));
        }
        for text in texts {
            assert!(!["PASSWORD", "AKTEST", "SECRET", "body 0"].iter().any(|secret| text.contains(secret)), "{text}");
        }
    }
    let bare = SqsOptions { queue_url: Some("http://me:PASSWORD@sqs.test".to_owned()), ..SqsOptions::default() };
    assert!(!backend(bare).queue_text(Lane::Message).contains("PASSWORD"));
}

#[tokio::test]
async fn no_credentials_at_all_are_said_so() {
    let server = Server::start(|_, body| all_entries(body)).await;
    let none = || config("").into_builder().credentials_provider(SharedCredentialsProvider::new(NoCredentials)).build();
    let backend = loaded(server.options(), Box::new(move || Box::pin(async move { (none(), none()) })));
    let error = backend.send(Lane::Message, &messages(1)).await.remove(0).expect_err("refused");
    assert_eq!((error.kind(), error.maybe_sent()), (ErrorKind::Credentials, false), "{error}");
    assert!(error.to_string().contains("AWS_PROFILE"), "{error}");
}

#[tokio::test]
async fn credentials_that_sqs_refuses_are_loaded_anew_without_a_restart() {
    let loads = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let load: Loader = {
        let loads = Arc::clone(&loads);
        Box::new(move || {
            loads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Box::pin(async { (config("AKTEST"), config("AKTEST")) })
        })
    };
    let renewed = Arc::clone(&loads);
    let server = Server::start(move |_, body| match renewed.load(std::sync::atomic::Ordering::Relaxed) {
        1 => Reply::Fault(403, "ExpiredToken", "The security token included in the request is expired"),
        _ => all_entries(body),
    })
    .await;
    let backend = loaded(server.options(), load);
    let begun = Instant::now();
    loop {
        match backend.send(Lane::Message, &messages(1)).await.remove(0) {
            Ok(()) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Credentials),
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "the credentials are never loaded anew");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(loads.load(std::sync::atomic::Ordering::Relaxed), 2, "not at every refusal");
}

#[tokio::test]
async fn calls_that_are_refused_for_expired_credentials_are_made_again_with_new_ones() {
    let loads = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let loaded_so_far = Arc::clone(&loads);
    let load: Loader = Box::new(move || {
        let load = loads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Box::pin(async move {
            if load > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            (config("AKTEST"), config("AKTEST"))
        })
    });
    let server = Server::start(move |_, body| match loaded_so_far.load(std::sync::atomic::Ordering::Relaxed) {
        1 => Reply::Fault(403, "ExpiredToken", "The security token included in the request is expired"),
        _ => all_entries(body),
    })
    .await;
    let backend = loaded(server.options(), load);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    let to_send = messages(1);
    let sends = (0..20).map(|_| backend.send(Lane::Message, &to_send));
    for mut answers in futures_util::future::join_all(sends).await {
        answers.remove(0).expect("sent by the second call");
    }
}

#[derive(Debug)]
struct NoCredentials;

impl aws_sdk_sqs::config::ProvideCredentials for NoCredentials {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let error = aws_credential_types::provider::error::CredentialsError::not_loaded("no providers in chain");
        aws_credential_types::provider::future::ProvideCredentials::ready(Err(error))
    }
}

#[tokio::test]
async fn a_missing_queue_is_a_queue_error() {
    let error = send_one(|_, _| Reply::Fault(400, "AWS.SimpleQueueService.NonExistentQueue", "not there")).await;
    assert_eq!(error.kind(), ErrorKind::Queue, "{error}");
}

#[tokio::test]
async fn what_is_too_large_or_too_late_is_refused_without_asking() {
    let server = Server::start(|_, body| all_entries(body)).await;
    let backend = server.backend();
    let mut all = messages(3);
    all[0].body = "x".repeat(1024 * 1024 + 1);
    all[1].delay = Duration::from_secs(901);
    all[2].delay = Duration::from_millis(900_999);
    let answers = backend.send(Lane::Message, &all).await;
    let too_large = answers[0].as_ref().expect_err("refused");
    assert_eq!(too_large.kind(), ErrorKind::TooLarge);
    assert!(too_large.to_string().contains("1048577 bytes is above the queue's limit of 1048576"), "{too_large}");
    assert_eq!(answers[1].as_ref().expect_err("refused").kind(), ErrorKind::Invalid);
    assert!(answers[2].is_ok());
    assert_eq!(server.bodies("SendMessageBatch")[0]["Entries"][0]["DelaySeconds"], 900);

    let over = [Receipt("r".to_owned())];
    let answers = backend.extend(Lane::Message, &over, Duration::from_millis(43_200_001)).await;
    assert_eq!(answers[0].as_ref().expect_err("refused").kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_batch_that_sums_up_to_too_much_goes_in_several_calls() {
    let server = Server::start(|_, body| all_entries(body)).await;
    let all: Vec<_> = (0..10).map(|_| Outgoing::new("x".repeat(300 * 1024))).collect();
    // Three megabytes take their time on a busy machine.
    let options = SqsOptions { request_timeout: Duration::from_secs(20), ..server.options() };
    let answers = backend(options).send(Lane::Message, &all).await;
    assert!(answers.iter().all(Result::is_ok));
    let sizes: Vec<_> =
        server.bodies("SendMessageBatch").iter().map(|b| b["Entries"].as_array().map_or(0, Vec::len)).collect();
    assert_eq!(sizes, [3, 3, 3, 1]);
}

#[tokio::test]
async fn one_entry_that_spoils_the_call_harms_no_other() {
    let server = Server::start(|_, body| {
        let spoiled = |entry: &Value| entry["MessageBody"] == "body 1";
        match body["Entries"].as_array().is_some_and(|entries| entries.iter().any(spoiled)) {
            true => Reply::Fault(400, "InvalidMessageContents", "odd characters"),
            false => all_entries(body),
        }
    })
    .await;
    let answers = server.backend().send(Lane::Message, &messages(3)).await;
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().map_err(Error::kind)).collect();
    assert_eq!(kinds, [Ok(&()), Err(ErrorKind::Refused), Ok(&())]);
}

#[tokio::test]
async fn a_send_says_delay_attributes_and_group() {
    let server = Server::start(|_, body| all_entries(body)).await;
    let backend = server.backend();
    let mut message = Outgoing::new("hello");
    message.attributes.insert("tenant".to_owned(), "a".to_owned());
    message.delay = Duration::from_millis(2_900);
    message.group = Some("g".to_owned());
    for lane in [Lane::Message, Lane::Delay] {
        assert!(backend.send(lane, std::slice::from_ref(&message)).await[0].is_ok());
    }
    let bodies = server.bodies("SendMessageBatch");
    let entry = &bodies[0]["Entries"][0];
    assert_eq!((&entry["DelaySeconds"], &entry["MessageGroupId"]), (&json!(2), &json!("g")));
    assert_eq!(entry["MessageAttributes"]["tenant"]["StringValue"], "a");
    assert_eq!(bodies[1]["Entries"][0]["MessageGroupId"], Value::Null);
}

#[tokio::test]
async fn a_receipt_given_twice_does_not_break_the_batch() {
    let server = Server::start(|_, body| {
        let entries = body["Entries"].as_array().cloned().unwrap_or_default();
        let mut handles: Vec<_> = entries.iter().map(|entry| entry["ReceiptHandle"].to_string()).collect();
        handles.sort();
        handles.dedup();
        match handles.len() == entries.len() {
            true => all_entries(body),
            false => Reply::Fault(400, "BatchEntryIdsNotDistinct", "twice"),
        }
    })
    .await;
    let settle = |receipt: &str, how| Settle { receipt: Receipt(receipt.to_owned()), how };
    let release = |ms| Settlement::ReleaseAfter(Duration::from_millis(ms));
    let answers = server
        .backend()
        .settle(
            Lane::Message,
            &[
                settle("a", Settlement::Ack),
                settle("b", release(1_001)),
                settle("a", Settlement::Ack),
                settle("c", Settlement::Ack),
                settle("b", release(0)),
                settle("d", release(43_200_001)),
            ],
        )
        .await;
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().map_err(Error::kind)).collect();
    assert_eq!(kinds, [Ok(&()), Ok(&()), Ok(&()), Ok(&()), Ok(&()), Err(ErrorKind::Invalid)]);
    let changed = &server.bodies("ChangeMessageVisibilityBatch")[0]["Entries"];
    assert_eq!(changed, &json!([{ "Id": "0", "ReceiptHandle": "b", "VisibilityTimeout": 0 }]));
}

#[tokio::test]
async fn a_settlement_gets_the_answer_of_its_own_entry() {
    let server = Server::start(|action, _| match action {
        "DeleteMessageBatch" => Reply::Answer(
            200,
            json!({ "Successful": [{ "Id": "1" }], "Failed": [
                { "Id": "0", "SenderFault": true, "Code": "ReceiptHandleIsInvalid", "Message": "stale" }] }),
        ),
        _ => Reply::Answer(
            200,
            json!({ "Successful": [], "Failed": [{ "Id": "0", "SenderFault": true, "Code": "InvalidParameterValue",
                "Message": "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]" }] }),
        ),
    })
    .await;
    let settle = |receipt: &str, how| Settle { receipt: Receipt(receipt.to_owned()), how };
    let entries = [
        settle("a", Settlement::Ack),
        settle("b", Settlement::ReleaseAfter(Duration::from_millis(1_001))),
        settle("c", Settlement::Ack),
    ];
    let answers = server.backend().settle(Lane::Message, &entries).await;
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().map_err(Error::kind)).collect();
    assert_eq!(kinds, [Err(ErrorKind::LeaseLost), Err(ErrorKind::LeaseLost), Ok(&())]);
    assert_eq!(server.bodies("ChangeMessageVisibilityBatch")[0]["Entries"][0]["VisibilityTimeout"], 2);
}

#[tokio::test]
async fn a_receive_is_read_in_full_and_overrides_no_visibility() {
    let server = Server::start(|action, _| match action {
        "GetQueueAttributes" => Reply::Answer(200, json!({ "Attributes": { "VisibilityTimeout": "77" } })),
        _ => Reply::Answer(
            200,
            json!({ "Messages": [
                { "MessageId": "m-1", "ReceiptHandle": "r-1", "MD5OfBody": "0", "Body": "hello",
                  "Attributes": { "ApproximateReceiveCount": "3", "SentTimestamp": "1700000000123" },
                  "MessageAttributes": {
                      "tenant": { "DataType": "String", "StringValue": "a" },
                      "raw": { "DataType": "Binary", "BinaryValue": "AAE=" } } },
                { "MessageId": "m-2", "ReceiptHandle": "r-2", "Body": "bare" },
            ] }),
        ),
    })
    .await;
    let backend = server.backend();
    let deliveries = backend.receive(Lane::Message, 50).await.expect("messages");
    let first = &deliveries[0];
    assert_eq!((first.message_id.as_str(), first.receipt.0.as_str(), first.body.as_str()), ("m-1", "r-1", "hello"));
    assert_eq!((first.receive_count, first.lease), (3, Duration::from_secs(77)));
    assert_eq!(first.enqueued_at, UNIX_EPOCH + Duration::from_millis(1_700_000_000_123));
    assert_eq!(first.attributes["tenant"], "a");
    assert_eq!(first.attributes["raw"], "AAE=");
    assert_eq!((deliveries[1].receive_count, deliveries.len()), (1, 2));
    backend.receive(Lane::Delay, 0).await.expect("messages");
    backend.browse(Lane::Dead, 5, Duration::from_millis(9_500)).await.expect("messages");
    let bodies = server.bodies("ReceiveMessage");
    let said = |n: usize, name: &str| bodies[n][name].clone();
    assert_eq!((said(0, "MaxNumberOfMessages"), said(0, "WaitTimeSeconds")), (json!(10), json!(0)));
    assert_eq!(said(0, "VisibilityTimeout"), Value::Null);
    assert_eq!((said(1, "MaxNumberOfMessages"), said(1, "WaitTimeSeconds")), (json!(1), json!(1)));
    assert_eq!((said(2, "WaitTimeSeconds"), said(2, "VisibilityTimeout")), (json!(1), json!(10)));
}

#[tokio::test]
async fn a_receive_tells_sqs_time_to_the_millisecond_however_long_it_was_awaited() {
    for ahead_ms in [-5_000_i64, -600, 0, 600, 5_000] {
        let server = Server::start(move |action, _| {
            if action != "ReceiveMessage" {
                return Reply::Answer(200, json!({ "Attributes": {} }));
            }
            std::thread::sleep(Duration::from_millis(150));
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
            let at = i64::try_from(now).expect("this age") + ahead_ms;
            let attributes = json!({
                "ApproximateReceiveCount": "1", "ApproximateFirstReceiveTimestamp": at.to_string(),
                "SentTimestamp": at.to_string(),
            });
            Reply::Answer(
                200,
                json!({ "Messages": [{ "MessageId": "m", "ReceiptHandle": "r", "Body": "b", "Attributes": attributes }] }),
            )
        })
        .await;
        let backend = server.backend();
        for _ in 0..5 {
            backend.receive(Lane::Message, 10).await.expect("a message");
        }
        let off = (backend.clock_offset_ms() - ahead_ms).abs();
        assert!(off < 50, "{ahead_ms} ms ahead, and taken for {} ms", backend.clock_offset_ms());
    }
}

#[tokio::test]
async fn a_sender_asks_for_no_attributes() {
    let server = Server::start(|_, body| match body["QueueName"].as_str() {
        Some("orders-delay") => Reply::Fault(400, "AWS.SimpleQueueService.NonExistentQueue", "not there"),
        Some(name) => Reply::Answer(200, json!({ "QueueUrl": format!("http://sqs.test/000000000000/{name}") })),
        None => all_entries(body),
    })
    .await;
    let by_url = server.backend();
    by_url.check(Role::Sender).await.expect("nothing to check");
    assert!(by_url.send(Lane::Message, &messages(1)).await[0].is_ok());
    assert_eq!(server.actions(), ["SendMessageBatch"]);

    let by_name = backend(server.named());
    by_name.check(Role::Sender).await.expect("the message queue is there");
    assert!(by_name.send(Lane::Message, &messages(1)).await[0].is_ok());
    assert_eq!(server.actions()[1..], ["GetQueueUrl", "GetQueueUrl", "SendMessageBatch"]);
    assert!(!by_name.limits().delay_lane);
    assert!(by_url.limits().delay_lane);
}

/// Answers attributes, with changes to some of them by queue.
async fn listener(changes: &'static [(&'static str, &'static str, &'static str)]) -> (Result<()>, Limits) {
    let server = Server::start(move |_, body| {
        let name = body["QueueUrl"].as_str().map(options::name_in).unwrap_or_default();
        let mut attributes = json!({
            "QueueArn": format!("arn:aws:sqs:eu-west-1:000000000000:{name}"),
            "VisibilityTimeout": "60", "MessageRetentionPeriod": "1209600", "MaximumMessageSize": "1048576",
        });
        for (_, attribute, value) in changes.iter().filter(|(queue, ..)| *queue == name) {
            if *attribute == "missing" {
                return Reply::Fault(400, "AWS.SimpleQueueService.NonExistentQueue", "not there");
            }
            attributes[*attribute] = json!(value);
        }
        Reply::Answer(200, json!({ "Attributes": attributes }))
    })
    .await;
    let options = SqsOptions { receive_wait: Duration::from_secs(20), ..server.options() };
    let backend = backend(SqsOptions { receive_margin: Duration::from_secs(5), ..options });
    (backend.check(Role::Listener).await, backend.limits())
}

#[tokio::test]
async fn good_queues_pass_and_say_what_they_can_do() {
    let redrive = r#"{"deadLetterTargetArn":"arn:x","maxReceiveCount":12}"#;
    let (answer, limits) =
        listener(&[("orders", "MaximumMessageSize", "262144"), ("orders", "VisibilityTimeout", "26")]).await;
    answer.expect("good queues");
    assert_eq!((limits.max_message_bytes, limits.lease), (262_144, Duration::from_secs(26)));
    assert!(limits.delay_lane && limits.dead_lane);
    let redrive: &'static str = redrive;
    let changes: &'static [_] = Box::leak(Box::new([("orders", "RedrivePolicy", redrive)]));
    listener(changes).await.0.expect("12 is enough");
}

#[tokio::test]
async fn queues_that_spoil_events_are_refused_with_the_command_that_mends_them() {
    let set = "`aws sqs set-queue-attributes --queue-url http://127.0.0.1:";
    for (queue, attribute, value, what, command) in [
        (
            "orders",
            "missing",
            "",
            "message queue orders does not exist",
            "`aws sqs create-queue --queue-name orders --attributes ",
        ),
        (
            "orders-delay",
            "missing",
            "",
            "orders-delay does not exist",
            "`aws sqs create-queue --queue-name orders-delay ",
        ),
        ("orders-dead", "missing", "", "orders-dead does not exist", "`aws sqs create-queue --queue-name orders-dead "),
        ("orders", "FifoQueue", "true", "is a FIFO queue", "`aws sqs create-queue --queue-name orders "),
        ("orders", "VisibilityTimeout", "25", "visibility timeout of 25 s", "VisibilityTimeout=60"),
        ("orders-delay", "VisibilityTimeout", "10", "visibility timeout of 10 s", "VisibilityTimeout=60"),
        ("orders-delay", "MessageRetentionPeriod", "345600", "for 345600 s", "MessageRetentionPeriod=1209600"),
        ("orders-dead", "MessageRetentionPeriod", "1209599", "for 1209599 s", "MessageRetentionPeriod=1209600"),
        (
            "orders",
            "RedrivePolicy",
            r#"{"deadLetterTargetArn":"arn:x","maxReceiveCount":"11"}"#,
            "maxReceiveCount of 11",
            r#"'{"RedrivePolicy":"{\"deadLetterTargetArn\":\"arn:x\",\"maxReceiveCount\":\"100\"}"}'"#,
        ),
        (
            "orders-delay",
            "RedrivePolicy",
            r#"{"deadLetterTargetArn":"arn:x","maxReceiveCount":1000}"#,
            "has a redrive policy",
            r#"'{"RedrivePolicy":""}'"#,
        ),
    ] {
        let changes: &'static [_] = Box::leak(Box::new([(queue, attribute, value)]));
        let error = listener(changes).await.0.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Queue, "{error}");
        let text = error.to_string();
        assert!(text.contains(what) && text.contains(command), "{text}");
        assert!(command.starts_with('`') || text.contains(set), "{text}");
        assert!(text.ends_with('`') && text.contains(" --endpoint-url http://127.0.0.1:"), "{text}");
    }
}

#[tokio::test]
async fn a_listener_needs_a_dead_letter_queue_and_a_sender_does_not() {
    let server = Server::start(|_, _| Reply::Answer(200, json!({ "Attributes": {} }))).await;
    let options = SqsOptions { dead_letter_queue_url: None, ..server.options() };
    let error = backend(options.clone()).check(Role::Listener).await.expect_err("refused");
    assert!(error.to_string().contains("DAWDLE_SQS_DEAD_LETTER_QUEUE_URL"), "{error}");
    let sender = backend(options);
    sender.check(Role::Sender).await.expect("a sender");
    assert!(!sender.limits().dead_lane);
}

#[tokio::test]
async fn counts_are_read() {
    let server = Server::start(|_, _| {
        Reply::Answer(
            200,
            json!({ "Attributes": { "ApproximateNumberOfMessages": "3", "ApproximateNumberOfMessagesNotVisible": "2",
                "ApproximateNumberOfMessagesDelayed": "1" } }),
        )
    })
    .await;
    let stats = server.backend().inspect(Lane::Message).await.expect("counts");
    assert_eq!((stats.visible, stats.in_flight, stats.delayed, stats.total()), (3, 2, 1, 6));
}

#[tokio::test]
async fn leases_are_extended_while_the_other_runtime_is_blocked() {
    let server = std::thread::spawn(|| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let server = runtime.block_on(Server::start(|action, body| match action {
            "GetQueueAttributes" => Reply::Answer(200, json!({ "Attributes": { "VisibilityTimeout": "30" } })),
            "ReceiveMessage" => Reply::Answer(200, json!({ "Messages": [] })),
            _ => all_entries(body),
        }));
        (runtime, server)
    })
    .join()
    .expect("server");
    let (runtime, server) = server;
    let backend = server.backend();
    // The polls' connections and credentials belong to this runtime, which then stands still.
    backend.receive(Lane::Message, 1).await.expect("an answer");
    let extending = backend.clone();
    let answers = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(extending.extend(Lane::Message, &[Receipt("r".to_owned())], Duration::from_secs(30)))
    })
    .join()
    .expect("no panic");
    assert!(answers[0].is_ok());
    drop(server);
    runtime.shutdown_background();
}
