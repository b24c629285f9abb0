//! What `init --print` prints, given to what is meant to read it: queues made of it are right.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::json;

use common::sqs;

mod common;

/// Letters, digits and a few marks stay; the rest is written in hexadecimal.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Makes a stack, as `aws cloudformation create-stack` does.
fn create_stack(endpoint: &str, name: &str, template: &str) -> String {
    let address = endpoint.trim_start_matches("http://");
    let body = format!("Action=CreateStack&Version=2010-05-15&StackName={name}&TemplateBody={}", encoded(template));
    let mut stream = TcpStream::connect(address).expect("a connection");
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/cloudformation/aws4_request, \
         SignedHeaders=host, Signature=none\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_stack_of_the_printed_template_has_queues_that_doctor_has_nothing_against() {
    let endpoint = std::env::var("TEST_MOTO_ENDPOINT_URL").unwrap_or_else(|_| {
        panic!("TEST_MOTO_ENDPOINT_URL is not set: run `./test`, or `localstack/engine run --moto -- cargo test ..`")
    });
    let name = format!("printed-{}", std::process::id());
    let place = sqs::place_of(&name, &endpoint);
    assert_eq!(place.run(&["doctor"]).code, Some(3), "there are no queues yet");
    let template = place.run(&["init", "--print", "cloudformation"]).out;
    let answer = create_stack(&endpoint, &name, &template);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let findings = &place.json(&["doctor"])[0];
    assert_eq!(findings["ok"], true, "{findings}");
    let said = |check: &str| {
        let all = findings["findings"].as_array().expect("findings");
        all.iter().find(|finding| finding["check"] == check).map(|finding| finding["state"].clone())
    };
    assert_eq!((said("listener"), said("delay queue")), (Some(json!("ok")), Some(json!("ok"))));
}
