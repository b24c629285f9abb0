//! No payload is logged at `info` or above, nor is one in an error or in what a dead letter says of
//! its death. What a handler writes into its own error is its own.
#![cfg(feature = "testing")]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dawdle::backend::memory::{Action, Fault};
use dawdle::backend::{Backend, Lane, Limits, Outgoing};
use dawdle::testing::Harness;
use dawdle::{Config, Envelope, Event, EventId, Failure, Filter, Outcome, handlers};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tracing_subscriber::fmt::MakeWriter;

const MARKER: &str = "m4rk3r";
/// After so long an event that nobody can handle is a dead letter here.
const UNKNOWN_AFTER: Duration = Duration::from_secs(30);

/// Everything that is logged at `info` and above.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// A type whose own errors quote what they refuse.
#[derive(Debug)]
struct Colour(String);

impl<'de> Deserialize<'de> for Colour {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "red" { Ok(Colour(text)) } else { Err(D::Error::custom(format!("`{text}` is no colour"))) }
    }
}

impl Serialize for Colour {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_str() {
            "unspeakable" => Err(S::Error::custom(format!("{MARKER} cannot be written"))),
            text => serializer.serialize_str(text),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Size {
    Small,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "secret.order")]
#[serde(deny_unknown_fields)]
struct Order {
    text: String,
    colour: Colour,
    size: Size,
    count: u8,
}

fn order(text: &str) -> Order {
    Order { text: format!("{MARKER} {text}"), colour: Colour("red".into()), size: Size::Small, count: 1 }
}

#[dawdle::handler(attempts = 2)]
async fn work(event: &Order) -> Outcome {
    match event.text.split_once(' ').unwrap().1 {
        "fails" => Err("the downstream is down")?,
        "panics" => panic!("at the disco"),
        "hangs" => std::future::pending().await,
        "dies" => Err(Failure::dead_letter("no use")),
        "is dropped" => Err(Failure::discard("not wanted")),
        "sleeps" => Err(Failure::snooze(Duration::from_secs(3600))),
        _ => Ok(()),
    }
}

fn is_silent(what: &str, text: &str) {
    assert!(!text.contains(MARKER), "{what}: {text}");
    let in_base64 = BASE64.encode(MARKER);
    assert!(!text.contains(in_base64.trim_end_matches('=')), "{what}: {text}");
}

/// Bodies that hold the marker wherever something may be refused.
fn undecodable() -> Vec<String> {
    let event = |attributes: &str| {
        format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"secret.order"{attributes}}}"#)
    };
    let mut bodies = vec![
        MARKER.to_owned(),
        format!("{{\"{MARKER}\": "),
        format!("[\"{MARKER}\", \"{MARKER}\"]"),
        format!("{{\"specversion\":\"{MARKER}\"}}"),
        format!("[{}, \"{MARKER}\", {{\"{MARKER}\": 1}}]", event("")),
        BASE64.encode(format!("{{\"data\": \"{MARKER}")),
        event(&format!(r#","{MARKER}":1,"{MARKER}":2"#)),
        event(&format!(r#","data":"{MARKER}","data_base64":"{MARKER}""#)),
        event(&format!(r#","data":{{"{MARKER}" "#)),
        event("").replace(r#""id":"1""#, &format!(r#""id":"{}""#, MARKER.repeat(20))),
    ];
    for name in ["time", "due", "expires", "unhandledsince", "attempt", "generation"] {
        bodies.push(event(&format!(r#","{name}":"{MARKER}""#)));
        bodies.push(event(&format!(r#","{name}":{{"{MARKER}":"{MARKER}"}}"#)));
    }
    bodies
}

/// Events of a known kind whose data does not decode, or of an unknown one.
fn passed_on() -> Vec<String> {
    let order = |data: &str| {
        format!(
            r#"{{"specversion":"1.0","id":"1","source":"s","type":"secret.order","tenant":"{MARKER}","data":{data}}}"#
        )
    };
    let with = |name: &str, value: &str| {
        let mut fields = [("text", "\"\""), ("colour", "\"red\""), ("size", "\"Small\""), ("count", "1")];
        for field in fields.iter_mut().filter(|(field, _)| *field == name) {
            field.1 = value;
        }
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        order(&format!("{{{}}}", fields.join(",")))
    };
    let text = format!("\"{MARKER}\"");
    vec![
        order(&text),
        order(&format!("{{{text}:1}}")),
        order(&format!("[{text}]")),
        with("colour", &text),
        with("colour", &format!("\"`{MARKER}`, expected {MARKER}\"")),
        with("size", &text),
        with("size", &format!("{{{text}:1}}")),
        with("count", &text),
        with("count", &format!("{{{text}:1}}")),
        with("text", &format!("[{text}]")),
        with("text", &format!("\"\\ud800{MARKER}\"")),
        order(&text).replace("secret.order", "secret.newer"),
        order(&text).replace(r#""tenant""#, r#""handler":"elsewhere","tenant""#),
        order("0").replace(r#""data":0"#, &format!(r#""data_base64":"{}""#, BASE64.encode(MARKER))),
    ]
}

#[tokio::test]
async fn no_payload_is_logged_or_in_an_error() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_ansi(false);
    tracing::subscriber::set_global_default(subscriber.with_writer(log.clone()).finish()).unwrap();
    let mut limits = Limits::sqs();
    limits.max_message_bytes = 100_000;
    let config = Config { unknown_after: Some(UNKNOWN_AFTER), ..Config::default() };
    let builder = Harness::builder().discover(false).handlers(handlers![work]);
    let test = builder.limits(limits).config(config).start().await.unwrap();

    // Handled, failed, given up; refused by the backend for a while.
    for what in ["is fine", "fails", "panics", "hangs", "dies", "is dropped", "sleeps"] {
        test.signal(order(what)).attribute("tenant", MARKER).key(MARKER).await.unwrap();
    }
    test.signal(order("fails")).direct().await.unwrap();
    for action in [Action::Send, Action::Receive, Action::Settle, Action::Extend, Action::Browse] {
        test.backend().fail(Fault::unavailable(action).times(3));
    }
    test.advance(Duration::from_secs(600)).await;
    let own = log.text();
    for said in ["the downstream is down", "panicked: at the disco", "timed out", "no use", "not wanted"] {
        assert!(own.contains(said), "a handler's own error is logged: {said}");
    }

    // No event, no event of ours.
    for body in undecodable().into_iter().chain(passed_on()) {
        test.backend().send(Lane::Message, &[Outgoing::new(body)]).await.remove(0).unwrap();
    }
    test.advance(2 * UNKNOWN_AFTER).await;
    let letters = test.dead_letters().await;
    assert!(letters.len() > undecodable().len() + passed_on().len(), "{}", letters.len());
    for letter in &letters {
        let said = format!("{} {:?} {:?}", letter.reason, letter.error, letter.handler);
        is_silent("a dead letter", &said);
        is_silent("a raw message", &format!("{:?}", letter.raw()));
    }
    assert_eq!(test.dawdle().dead_letters().replay_where(Filter::default()).await.unwrap(), letters.len());
    test.advance(2 * UNKNOWN_AFTER).await;

    // What a call answers.
    let unspeakable = || Order { colour: Colour("unspeakable".into()), ..order("") };
    let mut errors = vec![
        test.signal(order(&"x".repeat(200_000))).await.unwrap_err(),
        test.signal(unspeakable()).await.unwrap_err(),
        Envelope::new(unspeakable()).unwrap_err(),
        test.signal(order("late")).delay(Duration::MAX).await.unwrap_err(),
        test.signal(order("direct")).direct().delay(UNKNOWN_AFTER).await.unwrap_err(),
        test.signal(order("")).key(MARKER.repeat(1_000)).await.unwrap_err(),
        test.signal(order("")).attribute("id", MARKER).await.unwrap_err(),
        MARKER.repeat(20).parse::<EventId>().unwrap_err(),
    ];
    for (fault, times) in [(Fault::unavailable(Action::Send), u32::MAX), (Fault::throttled(Action::Send), u32::MAX)] {
        test.backend().fail(fault.times(times));
        let sent = tokio::spawn(test.signal(order("nowhere")).into_future());
        test.advance(Duration::from_secs(60)).await;
        errors.push(sent.await.unwrap().unwrap_err());
        test.backend().heal();
    }
    let dawdle = test.dawdle().clone();
    let stopping = tokio::spawn(async move { dawdle.shutdown().await });
    test.advance(Duration::from_secs(60)).await;
    stopping.await.unwrap();
    errors.push(test.signal(order("too late")).await.unwrap_err());
    for error in &errors {
        is_silent("an error", &format!("{error} {error:?}"));
    }
    let text = log.text();
    assert!(text.lines().count() > 100, "{text}");
    for line in text.lines() {
        is_silent("the log", line);
    }
}
