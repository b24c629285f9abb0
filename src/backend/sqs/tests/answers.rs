//! Answers that no SQS should give, whole and in part: what they do not say was done is not taken for done, what can
//! be read is handed on, and nothing panics.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};

use super::*;

const ENTRIES: usize = 4;

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => select(&["0", "1", "2", "3", "17", "", "InternalError", "ThrottlingException", "ExpiredToken"][..])
            .prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((word(), inner), 0..4).prop_map(|all| Value::Object(all.into_iter().collect())),
        ]
    })
}

/// Mostly what belongs there.
fn mostly(right: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Value> {
    prop_oneof![9 => right, 1 => anything()].boxed()
}

fn text() -> BoxedStrategy<Value> {
    mostly(word().prop_map(Value::from))
}

/// An object of these fields, each of which may be missing.
fn object(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(name, value)| weighted(0.9, value).prop_map(move |value| value.map(|value| (name.to_owned(), value))))
        .collect();
    mostly(fields.prop_map(|fields| Value::Object(fields.into_iter().flatten().collect())))
}

fn list(item: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    mostly(vec(item, 0..6).prop_map(Value::from))
}

fn of_a_batch() -> BoxedStrategy<Value> {
    let done = vec![("Id", text()), ("MessageId", text()), ("MD5OfMessageBody", text())];
    let fault = mostly(any::<bool>().prop_map(Value::from));
    let failed = vec![("Id", text()), ("Code", text()), ("SenderFault", fault), ("Message", text())];
    object(vec![("Successful", list(object(done))), ("Failed", list(object(failed))), ("__type", text())])
}

fn of_a_receive() -> BoxedStrategy<Value> {
    let system = ["ApproximateReceiveCount", "SentTimestamp", "ApproximateFirstReceiveTimestamp"];
    let number = || mostly(any::<i64>().prop_map(|number| number.to_string().into()));
    let system = object(system.into_iter().map(|name| (name, number())).collect());
    let attribute = || object(vec![("DataType", text()), ("StringValue", text()), ("BinaryValue", text())]);
    let attributes = object(vec![("traceparent", attribute()), ("dawdle-suspect", attribute())]);
    let message = vec![
        ("MessageId", text()),
        ("ReceiptHandle", text()),
        ("Body", text()),
        ("Attributes", system),
        ("MessageAttributes", attributes),
    ];
    object(vec![("Messages", list(object(message))), ("__type", text())])
}

/// An answer with its status; some are cut off, and some no JSON at all.
fn answer(right: BoxedStrategy<Value>) -> impl Strategy<Value = (u16, String)> {
    let status = prop_oneof![6 => Just(200_u16), 1 => select(&[301_u16, 400, 403, 404, 413, 429, 500, 503][..])];
    let body = prop_oneof![
        8 => right.prop_map(|body| body.to_string()),
        1 => (anything(), any::<prop::sample::Index>()).prop_map(|(body, at)| {
            let body = body.to_string();
            body.chars().take(at.index(body.len().max(1))).collect()
        }),
        1 => any::<String>(),
    ];
    (status, body)
}

/// Asks the backend once for each answer that is made up.
fn each_answer(right: BoxedStrategy<Value>, check: impl AsyncFn(&SqsBackend, u16, &str) -> TestCaseResult) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let next = Arc::new(Mutex::new((0, String::new())));
    let said = next.clone();
    let server = runtime.block_on(Server::start(move |action, body| match action {
        "GetQueueAttributes" if body["AttributeNames"][0] == "All" => {
            Reply::Answer(200, json!({ "Attributes": { "VisibilityTimeout": "30" } }))
        }
        _ => {
            let (status, text) = said.lock().expect("unpoisoned").clone();
            Reply::Text(status, text)
        }
    }));
    let backend = server.backend();
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let ran = runner.run(&answer(right), |(status, text)| {
        *next.lock().expect("unpoisoned") = (status, text.clone());
        runtime.block_on(check(&backend, status, &text))
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
}

/// Which entries the answer says were done, read by other means than the SDK's.
fn done(status: u16, text: &str) -> Vec<bool> {
    let body: Value = serde_json::from_str(text).unwrap_or_default();
    let named = |list: &str, id: usize| {
        let (entries, id) = (body[list].as_array(), id.to_string());
        entries.is_some_and(|entries| entries.iter().any(|entry| entry["Id"] == id))
    };
    (0..ENTRIES).map(|id| status == 200 && named("Successful", id) && !named("Failed", id)).collect()
}

fn compare(answers: &[Result<()>], status: u16, text: &str) -> TestCaseResult {
    prop_assert_eq!(answers.len(), ENTRIES);
    for (answer, done) in answers.iter().zip(done(status, text)) {
        prop_assert!(answer.is_err() || done, "taken for done: {:?}", answers);
    }
    Ok(())
}

#[test]
fn only_what_an_answer_names_as_done_is_taken_for_sent() {
    each_answer(of_a_batch(), async |backend, status, text| {
        let answers = backend.send(Lane::Message, &messages(ENTRIES)).await;
        compare(&answers, status, text)?;
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            let unsaid = error.kind() == ErrorKind::Unavailable;
            prop_assert_eq!(error.maybe_sent(), unsaid, "{}", error);
        }
        Ok(())
    });
}

#[test]
fn only_what_an_answer_names_as_done_is_taken_for_settled() {
    each_answer(of_a_batch(), async |backend, status, text| {
        for how in [Settlement::Ack, Settlement::ReleaseAfter(Duration::from_secs(1))] {
            let receipt = |n: usize| Receipt(format!("receipt {n}"));
            let entries: Vec<_> = (0..ENTRIES).map(|n| Settle { receipt: receipt(n), how }).collect();
            compare(&backend.settle(Lane::Message, &entries).await, status, text)?;
            let receipts: Vec<_> = (0..ENTRIES).map(receipt).collect();
            compare(&backend.extend(Lane::Message, &receipts, Duration::from_secs(30)).await, status, text)?;
        }
        Ok(())
    });
}

#[test]
fn a_message_is_handed_on_with_what_of_it_can_be_read() {
    each_answer(of_a_receive(), async |backend, status, text| {
        let Ok(deliveries) = backend.receive(Lane::Message, 10).await else { return Ok(()) };
        prop_assert_eq!(status, 200);
        let body: Value = serde_json::from_str(text).unwrap_or_default();
        let messages = body["Messages"].as_array().cloned().unwrap_or_default();
        let with_receipt: Vec<_> = messages.iter().filter(|message| message["ReceiptHandle"].is_string()).collect();
        prop_assert_eq!(deliveries.len(), with_receipt.len());
        for (delivery, message) in deliveries.iter().zip(with_receipt) {
            let said = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
            prop_assert_eq!(&delivery.receipt.0, &said("ReceiptHandle"));
            prop_assert_eq!(&delivery.body, &said("Body"));
            let system = &message["Attributes"]["ApproximateReceiveCount"];
            let count = system.as_str().and_then(|count| count.parse::<u64>().ok()).unwrap_or(1);
            prop_assert_eq!(delivery.receive_count, u32::try_from(count).unwrap_or(u32::MAX));
            let attributes = message["MessageAttributes"].as_object();
            let named = attributes.map_or(0, |all| all.values().filter(|value| value.is_object()).count());
            prop_assert_eq!(delivery.attributes.len(), named);
        }
        Ok(())
    });
}

#[test]
fn counts_that_cannot_be_read_are_no_panic() {
    let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
    let counts: BTreeMap<_, _> = names.into_iter().map(|name| (name, text())).collect();
    each_answer(object(vec![("Attributes", object(counts.into_iter().collect()))]), async |backend, status, _| {
        if backend.inspect(Lane::Message).await.is_ok() {
            prop_assert_eq!(status, 200);
        }
        Ok(())
    });
}
