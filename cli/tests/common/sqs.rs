//! The model of SQS, beside the program.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};
use sqs_model::Endpoint;

use super::Place;

/// A folder whose environment names the queues `orders` there.
pub(crate) fn place(url: &str) -> Place {
    place_of("orders", url)
}

/// A folder whose environment names the queues of this name there.
pub(crate) fn place_of(queue: &str, url: &str) -> Place {
    Place::with(&[
        ("DAWDLE_SQS_QUEUE", queue),
        ("DAWDLE_SQS_ENDPOINT_URL", url),
        ("DAWDLE_SQS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "hidden-secret"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ])
}

/// Asks the endpoint itself.
pub(crate) fn ask(endpoint: &Endpoint, action: &str, body: &Value) -> Value {
    let body = body.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", endpoint.port())).expect("a connection");
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/x-amz-json-1.0\r\n\
         X-Amz-Target: AmazonSQS.{action}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    if body.is_empty() { Value::Null } else { serde_json::from_str(body).expect("JSON") }
}

pub(crate) fn url(endpoint: &Endpoint, queue: &str) -> String {
    format!("{}/000000000000/{queue}", endpoint.url())
}

/// Puts bodies on a queue, ten to a request.
pub(crate) fn put(endpoint: &Endpoint, queue: &str, bodies: &[String]) {
    for batch in bodies.chunks(10) {
        let entry = |(index, body)| json!({ "Id": format!("{index}"), "MessageBody": body });
        let entries: Vec<Value> = batch.iter().enumerate().map(entry).collect();
        let answer =
            ask(endpoint, "SendMessageBatch", &json!({ "QueueUrl": url(endpoint, queue), "Entries": entries }));
        assert_eq!(answer["Successful"].as_array().map(Vec::len), Some(batch.len()), "{answer}");
    }
}

/// Takes all that can be received from a queue; the events, as JSON.
pub(crate) fn take(endpoint: &Endpoint, queue: &str) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        let receive = json!({ "QueueUrl": url(endpoint, queue), "MaxNumberOfMessages": 10, "VisibilityTimeout": 600 });
        let answer = ask(endpoint, "ReceiveMessage", &receive);
        let Some(messages) = answer["Messages"].as_array().filter(|messages| !messages.is_empty()) else {
            return events;
        };
        let event =
            |message: &Value| serde_json::from_str(message["Body"].as_str().expect("a body")).expect("an event");
        events.extend(messages.iter().map(event));
    }
}
