//! What must hold of any input, as functions that panic where it does not. The tests below call
//! them on what proptest makes up and on `tests/corpus/`, the targets of `fuzz/` on what libFuzzer
//! finds.

use std::io::Write;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer};

use crate::config::Config;
use crate::envelope::{Death, Envelope};
use crate::error::ErrorKind;
use crate::event::EventId;
use crate::wire::{self, Body};

fn enqueued() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_338_000_000)
}

/// Reads the bytes as a body: as they are, in base64, and compressed.
pub fn wire(bytes: &[u8]) {
    body(&String::from_utf8_lossy(bytes));
    body(&BASE64.encode(bytes));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).expect("memory");
    body(&BASE64.encode(gzip.finish().expect("memory")));
}

/// A body is an event, a bounded pack, or wrapped whole.
fn body(body: &str) {
    match wire::read(body, enqueued()) {
        Body::One(event) => envelope(&event),
        Body::Pack(parts) => {
            assert!((1..=10_000).contains(&parts.len()));
            assert!(parts.iter().any(Result::is_ok));
            for part in parts {
                match part {
                    Ok(event) => envelope(&event),
                    Err(part) => unreadable(&part.text, &part.why),
                }
            }
        }
        Body::Unreadable(why) => unreadable(body, &why),
    }
}

fn unreadable(body: &str, why: &str) {
    assert!(!why.is_empty() && why.len() < 300, "{why}");
    let wrapped = wire::wrap_undecodable(body, "s", EventId::new(), enqueued());
    let Some(read) = written_and_read(&wrapped, None) else { return };
    assert_eq!(wire::unwrap_undecodable(&read).as_deref(), Some(body));
}

/// What was read can be written, is read the same again, and survives a retry and a death.
fn envelope(event: &Envelope) {
    for compress_above in [None, Some(0)] {
        let Some(again) = written_and_read(event, compress_above) else { return };
        assert_eq!(json(&again), json(event));
    }
    let kept: Envelope = serde_json::from_str(&json(event)).expect("an outbox reads what it wrote");
    assert_eq!(json(&kept), json(event));

    let due = enqueued() + Duration::from_secs(60);
    let retry = event.addressed("remind", 2, Some(due));
    let Some(retry) = written_and_read(&retry, None) else { return };
    assert_eq!((retry.handler(), retry.attempt(), retry.due), (Some("remind"), 2, Some(due)));
    same_event(&retry, event);
    assert_eq!(names(&retry), names(event));

    let death = Death {
        reason: "attempts".to_owned(),
        error: Some("no \u{0} use \u{FFFF}".to_owned()),
        time: due,
        node: Some("host:1".to_owned()),
        version: None,
    };
    let dead = Envelope { death: Some(death.clone()), ..event.clone() };
    let Some(dead) = written_and_read(&dead, Some(0)) else { return };
    assert_eq!(dead.death.as_ref(), Some(&death));
    same_event(&dead, event);
    let left: Vec<&str> = names(event).into_iter().filter(|name| !wire::OF_DEATH.contains(name)).collect();
    assert_eq!(names(&dead), left);
}

/// `None` for what is too large to be written.
fn written_and_read(event: &Envelope, compress_above: Option<usize>) -> Option<Envelope> {
    let text = match wire::write(event, compress_above) {
        Ok(text) => text,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
            assert!(json(event).len() > 15 * 1024 * 1024, "{error}");
            return None;
        }
    };
    assert!(text.chars().all(is_taken_by_sqs));
    match wire::read(&text, enqueued() + Duration::from_secs(1)) {
        Body::One(read) => Some(*read),
        other => panic!("written, and read as {other:?}"),
    }
}

/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>
fn is_taken_by_sqs(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}')
}

fn same_event(one: &Envelope, other: &Envelope) {
    assert_eq!((one.id(), one.kind(), one.source()), (other.id(), other.kind(), other.source()));
    assert_eq!((one.data(), one.signalled_at()), (other.data(), other.signalled_at()));
    assert_eq!((one.expires_at(), one.key(), one.group()), (other.expires_at(), other.key(), other.group()));
    for name in names(one) {
        assert_eq!(one.attribute(name), other.attribute(name));
    }
}

fn names(event: &Envelope) -> Vec<&str> {
    event.attributes.keys().map(String::as_str).collect()
}

fn json(event: &Envelope) -> String {
    serde_json::to_string(event).expect("what was read can be written")
}

/// Reads lines of `NAME=value` as the environment.
pub fn config_variables(text: &str) {
    let variables: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (format!("DAWDLE_{name}"), value.to_owned()))
        .collect();
    match Config::from_vars(variables.clone()) {
        Ok(config) => config_is_usable(&config),
        Err(error) => {
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Config);
            let named = variables.iter().any(|(name, value)| {
                text.starts_with(&format!("{name} is `{value}`; allowed is "))
                    || text.starts_with(&format!("there is no setting {name}; the nearest is DAWDLE_"))
            });
            assert!(named, "{text}");
        }
    }
}

/// Reads a table of some format.
pub fn config_table<'de, D: Deserializer<'de>>(table: D) {
    if let Ok(config) = Config::deserialize(table) {
        config_is_usable(&config);
    }
}

fn config_is_usable(config: &Config) {
    let table = serde_json::to_string(config).expect("a configuration is text");
    let again: Config = serde_json::from_str(&table).expect("read as it was written");
    assert_eq!(serde_json::to_string(&again).expect("text"), table);
    assert!(!format!("{config:?}").is_empty());
    match config.settings() {
        Ok(settings) => {
            for attempt in [1, 2, 60, u32::MAX] {
                settings.backoff.delay(attempt, 0.999);
            }
        }
        Err(error) => assert!(error.to_string().starts_with('`'), "{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn each_file_of(folder: &str, check: impl Fn(&[u8])) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut files = 0;
        for entry in std::fs::read_dir(&folder).expect("the folder") {
            check(&std::fs::read(entry.expect("an entry").path()).expect("a file"));
            files += 1;
        }
        assert!(files > 5, "{} holds {files} files", folder.display());
    }

    fn config(text: &str) {
        config_variables(text);
        config_table(&mut serde_json::Deserializer::from_str(text));
        if let Ok(table) = toml::Deserializer::parse(text) {
            config_table(table);
        }
    }

    #[test]
    fn every_body_of_the_corpus_is_an_event_or_is_kept_whole() {
        each_file_of("tests/golden", wire);
        each_file_of("tests/corpus/wire", wire);
    }

    #[test]
    fn every_configuration_of_the_corpus_is_usable_or_refused_by_name() {
        each_file_of("tests/corpus/config", |bytes| config(&String::from_utf8_lossy(bytes)));
    }

    /// JSON text of any shape, some of which serde would round or refuse.
    fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            Just("1e999999".to_owned()),
            Just("123456789012345678901234567890.10".to_owned()),
            Just(r#""\ud800""#.to_owned()),
            Just(r#""2026-11-22T08:00:00Z""#.to_owned()),
            Just(r#""9999-12-31T23:59:59.999999999-23:59""#.to_owned()),
            Just(r#""1.0""#.to_owned()),
            any::<f64>().prop_filter("JSON has no others", |it| it.is_finite()).prop_map(|it| format!("{it:?}")),
            any::<i64>().prop_map(|it| it.to_string()),
            any::<String>().prop_map(|it| serde_json::to_string(&it).expect("text")),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(|all| format!("[{}]", all.join(" , "))),
                proptest::collection::vec((any::<String>(), inner), 0..4).prop_map(|all| object(&all)),
            ]
        })
    }

    fn object(entries: &[(String, String)]) -> String {
        let entry =
            |(name, value): &(String, String)| format!("{}:{value}", serde_json::to_string(name).expect("text"));
        format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(","))
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            3 => proptest::sample::select(&crate::envelope::RESERVED[..]).prop_map(str::to_owned),
            1 => proptest::sample::select(&wire::OF_DEATH[..]).prop_map(str::to_owned),
            2 => any::<String>(),
        ]
    }

    /// An event, with attributes that may well be there twice or of another type.
    fn event() -> impl Strategy<Value = String> {
        proptest::collection::vec((name(), value()), 0..8).prop_map(|mut more| {
            for (name, value) in [("specversion", "1.0"), ("id", "1"), ("source", "s"), ("type", "t")] {
                if !more.iter().any(|(taken, _)| taken == name) {
                    more.push((name.to_owned(), format!("\"{value}\"")));
                }
            }
            object(&more)
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_are_kept_whole(bytes in any::<Vec<u8>>()) {
            wire(&bytes);
        }

        #[test]
        fn any_event_that_is_read_survives_a_retry_and_a_death(event in event()) {
            wire(event.as_bytes());
        }

        #[test]
        fn any_pack_is_read_part_by_part(parts in proptest::collection::vec(prop_oneof![event(), value()], 0..4)) {
            wire(format!("[{}]", parts.join(",")).as_bytes());
        }

        #[test]
        fn any_variables_are_usable_or_refused_by_name(
            variables in proptest::collection::vec((name_of_setting(), value_of_setting()), 0..4)
        ) {
            let lines: Vec<String> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
            config(&lines.join("\n"));
        }

        #[test]
        fn any_table_is_usable_or_refused(entries in proptest::collection::vec((name_of_setting(), value()), 0..4)) {
            let entries: Vec<_> = entries.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
            config(&object(&entries));
        }
    }

    fn name_of_setting() -> impl Strategy<Value = String> {
        let known = proptest::sample::select(crate::config::NAMES).prop_map(str::to_ascii_uppercase);
        prop_oneof![4 => known, 1 => "[A-Z_]{0,12}", 1 => "[^=\n\r]{0,12}"]
    }

    fn value_of_setting() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<u64>().prop_map(|number| number.to_string()),
            (any::<u64>(), "(ns|us|ms|s|m|h|days|years|months)").prop_map(|(number, unit)| format!("{number}{unit}")),
            (0u64..1_000, "(ns|us|ms|s|m|h|days|years|months)").prop_map(|(number, unit)| format!("{number}{unit}")),
            proptest::sample::select(&["local", "memory", "sqs", "true", "0", "", "http://me:secret@host"][..])
                .prop_map(str::to_owned),
            "[^\n\r]{0,20}",
        ]
    }
}
