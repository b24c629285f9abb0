use super::*;
use crate::backend::Outgoing;
use proptest::prelude::*;
use std::time::Duration;

fn at(text: &str) -> SystemTime {
    OffsetDateTime::parse(text, &Rfc3339).unwrap().into()
}

fn enqueued() -> SystemTime {
    at("2026-11-22T09:00:00Z")
}

fn one(body: &str) -> Envelope {
    match read(body, enqueued()) {
        Body::One(envelope) => *envelope,
        other => panic!("{other:?}"),
    }
}

fn why(body: &str) -> String {
    match read(body, enqueued()) {
        Body::Unreadable(why) => why,
        other => panic!("{other:?}"),
    }
}

fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn as_json(attributes: &BTreeMap<String, Attribute>) -> String {
    serde_json::to_string(attributes).unwrap()
}

/// Every attribute that Dawdle has, filled.
fn full() -> Envelope {
    let id = "01934f0e-7c1a-7c3e-8a5b-1f2e3d4c5b6a".parse().unwrap();
    let mut envelope = Envelope::bare(id, "billing", "trial.ending", at("2026-11-22T08:00:00.25Z"));
    envelope.content_type = Some("application/json".into());
    envelope.data = Data::Json(json(r#"{"account":7,"name":"Zoë \u0007"}"#));
    envelope.due = Some(at("2026-12-06T08:00:00.251Z"));
    envelope.expires = Some(at("2026-12-07T08:00:00Z"));
    envelope.handler = Some("remind".into());
    envelope.attempt = 3;
    envelope.dedup_key = Some("account-7".into());
    envelope.group = Some("tenant-1".into());
    envelope.generation = Some(2);
    envelope.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    envelope.tracestate = Some("a=b".into());
    envelope.attributes.insert("region".into(), Attribute::Text("eu".into()));
    envelope.attributes.insert("shard".into(), Attribute::Other(json("12")));
    envelope
}

fn dead() -> Envelope {
    let mut envelope = full();
    envelope.death = Some(Death {
        reason: "attempts".into(),
        error: Some("connection refused".into()),
        time: at("2026-12-06T09:00:00Z"),
        node: Some("host:1".into()),
        version: Some("1.2.3".into()),
    });
    envelope
}

/// What earlier builds have written is read for ever, and written the same.
#[test]
fn golden_files_are_written_and_read_to_the_letter() {
    let golden = [
        (include_str!("../../tests/golden/event.json"), full(), None),
        (include_str!("../../tests/golden/dead_letter.json"), dead(), None),
    ];
    for (text, envelope, compress) in golden {
        assert_eq!(write(&envelope, compress).unwrap(), text.trim_end());
        assert_eq!(write(&one(text), compress).unwrap(), text.trim_end());
    }
}

#[test]
fn a_minimal_event_is_read_with_its_defaults() {
    let envelope = one(include_str!("../../tests/golden/minimal.json"));
    assert_eq!((envelope.id.as_str(), envelope.kind.as_str(), envelope.attempt), ("A-1", "trial.ending", 1));
    assert_eq!(envelope.signalled_at(), enqueued());
    assert!(matches!(envelope.data, Data::None));
}

#[test]
fn an_event_of_another_producer_keeps_what_dawdle_does_not_know() {
    let text = include_str!("../../tests/golden/other_producer.json");
    let envelope = one(text);
    assert_eq!(envelope.attempt, 2, "numbers may come as text");
    assert_eq!(envelope.signalled_at(), at("2018-04-05T17:31:00.123456789Z"));
    let again = one(&write(&envelope, None).unwrap());
    for name in ["subject", "dataschema", "comexampleextension1", "comexampleothervalue", "dataref", "dataversion"] {
        assert!(again.attributes.contains_key(name), "{name} is lost");
    }
    assert_eq!(as_json(&again.attributes), as_json(&envelope.attributes));
    assert_eq!(again.signalled_at(), envelope.signalled_at());
}

#[test]
fn a_batch_is_read_part_by_part() {
    let Body::Pack(parts) = read(include_str!("../../tests/golden/batch.json"), enqueued()) else { panic!() };
    assert_eq!(parts.len(), 3);
    assert_eq!(parts[0].as_ref().unwrap().id.as_str(), "A-1");
    let unreadable = parts[1].as_ref().unwrap_err();
    assert_eq!((unreadable.text.as_str(), unreadable.why.contains("specversion")), (r#"{"no":"event"}"#, true));
    assert_eq!(parts[2].as_ref().unwrap().id.as_str(), "A-2");
}

#[test]
fn characters_that_sqs_refuses_travel_as_base64() {
    let mut envelope = full();
    envelope.data = Data::Json(json("\"a\u{FFFF}b\u{FFFE}c\""));
    let body = write(&envelope, None).unwrap();
    assert!(body.is_ascii() && !body.starts_with('{'));
    assert_eq!(body, include_str!("../../tests/golden/refused_characters.txt").trim_end());
    assert_eq!(one(&body).data(), Some("\"a\u{FFFF}b\u{FFFE}c\""));
}

#[test]
fn long_bodies_are_compressed_above_the_threshold_only() {
    let mut envelope = full();
    envelope.data = Data::Json(json(&format!("\"{}\"", "x".repeat(10_000))));
    assert!(write(&envelope, Some(20_000)).unwrap().starts_with('{'));
    let body = write(&envelope, Some(1_000)).unwrap();
    assert!(body.len() < 1_000 && !body.starts_with('{'));
    assert_eq!(one(&body).data().unwrap().len(), 10_002);
    assert_eq!(one(include_str!("../../tests/golden/gzip.txt")).id.as_str(), "A-1");
}

#[test]
fn a_body_that_unfolds_without_end_is_refused() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let block = vec![b' '; 1024 * 1024];
    for _ in 0..17 {
        gzip.write_all(&block).unwrap();
    }
    assert!(why(&BASE64.encode(gzip.finish().unwrap())).contains("16777216 bytes"));
}

#[test]
fn what_is_no_event_is_said_to_be_none_and_why_without_quoting_it() {
    let cases = [
        ("", "empty"),
        ("secret", "neither JSON nor base64"),
        ("{\"secret\":", "not a JSON object"),
        ("[]", "empty JSON array"),
        ("[1", "not a JSON object"),
        (r#"[{"specversion":"0.3"}, "secret"]"#, "without an event; of its first: attribute `specversion` is not 1.0"),
        ("{}", "`specversion` is missing"),
        (r#"{"specversion":"0.3","id":"1","source":"s","type":"t"}"#, "not 1.0"),
        (r#"{"specversion":"1.0","source":"s","type":"t"}"#, "`id` is missing"),
        (r#"{"specversion":"1.0","id":"1","source":"","type":"t"}"#, "`source` is empty"),
        (r#"{"specversion":"1.0","id":"1","source":"s","type":7}"#, "`type` is not text"),
        (r#"{"specversion":"1.0","id":"1","source":"s","type":"t","due":"secret"}"#, "`due` is not an RFC 3339 time"),
        (
            r#"{"specversion":"1.0","id":"1","source":"s","type":"t","attempt":"secret"}"#,
            "`attempt` is not a whole number",
        ),
    ];
    for (body, expected) in cases {
        let why = why(body);
        assert!(why.contains(expected), "{body}: {why}");
        assert!(!why.contains("secret"), "{why}");
    }
}

#[test]
fn an_undecodable_body_is_wrapped_and_unwrapped_exactly() {
    let body = "not an event \u{7f} \"\u{1F600}";
    let wrapped = wrap_undecodable(body, "s", EventId::new(), enqueued());
    let read = one(&write(&wrapped, None).unwrap());
    assert_eq!(read.kind, UNDECODABLE);
    assert_eq!(unwrap_undecodable(&read).as_deref(), Some(body));
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_the_same(
        data in any::<String>(),
        key in proptest::option::of(any::<String>()),
        attempt in 1u32..,
        due in proptest::option::of(0u64..253_402_300_799_000),
        attribute in any::<String>(),
        compress in proptest::option::of(0usize..500),
    ) {
        let mut envelope = full();
        envelope.data = Data::Json(serde_json::value::to_raw_value(&data).unwrap());
        envelope.dedup_key = key;
        envelope.attempt = attempt;
        envelope.due = due.map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        envelope.set_attribute("x", attribute).unwrap();
        let body = write(&envelope, compress).unwrap();
        prop_assert!(!body.contains(REFUSED));
        let read = one(&body);
        prop_assert_eq!(serde_json::to_string(&read).unwrap(), serde_json::to_string(&envelope).unwrap());
        prop_assert!(Outgoing::new(body).bytes() > 0);
    }

    #[test]
    fn no_body_makes_the_reader_panic(body in any::<String>()) {
        read(&body, enqueued());
    }

    #[test]
    fn no_json_makes_the_reader_panic(
        name in "(specversion|id|source|type|time|due|expires|attempt|generation|data|data_base64|deadreason|deadtime)",
        value in "(null|1|-1|1e999|\"x\"|\\{\\}|\\[\\]|true|\"2026-11-22T08:00:00Z\"|\"-9999-01-01T00:00:00Z\"|\"9999-12-31T23:59:59.999999999-23:59\")",
    ) {
        let body = format!(
            r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","{name}":{value}}}"#
        );
        if let Body::One(envelope) = read(&body, enqueued()) {
            prop_assert!(write(&envelope, None).is_ok(), "read, and cannot be written");
        }
    }
}
