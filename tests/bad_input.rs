//! Whatever is wrong is said clearly, and nothing of it is lost: it is on the queue or among the
//! dead letters.
#![cfg(all(feature = "local", feature = "testing"))]

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dawdle::backend::memory::{Action, Fault, MemoryBackend};
use dawdle::backend::{Backend, Lane, Outgoing};
use dawdle::testing::{Harness, HarnessBuilder};
use dawdle::{
    Clock, Config, Context, Dawdle, DeadLetter, Envelope, ErrorKind, Event, Failure, Filter, Outcome, State, handlers,
    reason,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod common;
use common::{say, told, until};

const DAY: Duration = Duration::from_secs(86_400);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(kind = "bad.note")]
struct Note {
    text: String,
}

#[dawdle::handler(attempts = 2, backoff = "10s")]
async fn read(event: &Note) -> Outcome {
    match event.text.as_str() {
        "panic" => panic!("at the note"),
        "fail" => Err("cannot read it")?,
        _ => Ok(()),
    }
}

#[dawdle::handler]
async fn file(_: &Note) -> Outcome {
    Ok(())
}

fn builder() -> HarnessBuilder {
    Harness::builder().discover(false).handlers(handlers![read])
}

async fn harness() -> Harness {
    builder().start().await.unwrap()
}

async fn put(backend: &dyn Backend, body: impl Into<String>) {
    let mut outgoing = Outgoing::new(body);
    outgoing.attributes.insert("origin".to_owned(), "elsewhere".to_owned());
    backend.send(Lane::Message, &[outgoing]).await.remove(0).unwrap();
}

fn event(id: &str, kind: &str, data: Value) -> Value {
    json!({ "specversion": "1.0", "id": id, "source": "test", "type": kind, "data": data, "tenant": "a" })
}

fn note(id: &str, text: &str) -> Value {
    event(id, "bad.note", json!({ "text": text }))
}

async fn on(test: &Harness, lane: Lane) -> u64 {
    test.backend().inspect(lane).await.unwrap().total()
}

/// The one dead letter there is, with nothing left on the queue.
async fn one_letter(test: &Harness) -> DeadLetter {
    let mut letters = test.dead_letters().await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(on(test, Lane::Message).await, 0);
    letters.remove(0)
}

/// Not a test: what the other processes run.
#[tokio::test]
async fn child() -> Result<()> {
    if told()?.is_some() {
        let started = Dawdle::start().await;
        say(&started.map_or_else(|error| format!("{:?} {error}", error.kind()), |_| "started".to_owned()));
    }
    Ok(())
}

mod at_start {
    use super::*;

    fn start_with(name: &str, value: &str) -> String {
        let mut child = common::child("start", &Config::default(), "".as_ref()).unwrap();
        String::from_utf8(child.env(name, value).output().unwrap().stdout).unwrap()
    }

    #[test]
    fn an_unknown_backend_is_refused_with_what_is_allowed() {
        let said = start_with("DAWDLE_BACKEND", "redis");
        assert!(said.contains("> Config DAWDLE_BACKEND is `redis`; allowed is `local`, `memory` or `sqs`"), "{said}");
    }

    #[test]
    fn a_misspelt_variable_is_refused_with_the_nearest() {
        let said = start_with("DAWDLE_CONCURENCY", "4");
        let text = "> Config there is no setting DAWDLE_CONCURENCY; the nearest is DAWDLE_CONCURRENCY";
        assert!(said.contains(text), "{said}");
    }

    fn memory() -> dawdle::Builder {
        Dawdle::builder().backend(MemoryBackend::new(Clock::system())).discover(false)
    }

    async fn refused(builder: dawdle::Builder) -> String {
        let error = builder.start().await.expect_err("it starts");
        assert_eq!(error.kind(), ErrorKind::Registration);
        error.to_string()
    }

    /// Holds the instance that holds it.
    struct Clerk(#[expect(dead_code, reason = "held, not read")] Dawdle, #[expect(dead_code, reason = "held")] Arc<()>);

    #[tokio::test]
    async fn a_start_that_fails_installs_nothing_and_keeps_nothing() {
        let unreachable = MemoryBackend::new(Clock::system());
        unreachable.fail(Fault::unavailable(Action::Check).times(u32::MAX));
        let config = Config { start_timeout: Some(Duration::from_millis(300)), ..Config::default() };
        let cannot_connect = Dawdle::builder().backend(unreachable).config(config).discover(false);
        for (builder, kind) in
            [(cannot_connect, ErrorKind::Unavailable), (memory().expect_handler("absent"), ErrorKind::Registration)]
        {
            let (held, holds) = (Arc::new(()), Arc::new(()));
            let clerk = Arc::clone(&held);
            let builder = builder.state_with(move |dawdle| Clerk(dawdle, clerk)).state(Arc::clone(&holds)).install();
            assert_eq!(builder.start().await.unwrap_err().kind(), kind);
            assert_eq!((Arc::strong_count(&held), Arc::strong_count(&holds)), (1, 1));
            let error = dawdle::signal(Note { text: "lost".into() }).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotInstalled);
        }
    }

    struct Mailer;

    #[dawdle::handler]
    async fn mail(_: &Note, _mailer: State<Mailer>) -> Outcome {
        Ok(())
    }

    #[tokio::test]
    async fn a_missing_state_names_the_handler_and_the_type() {
        let text = refused(memory().handlers(handlers![mail])).await;
        assert!(text.contains("handler `mail`") && text.contains("tests/bad_input.rs"), "{text}");
        assert!(text.contains("Mailer>") && text.contains(".state(..)"), "{text}");
        memory().handlers(handlers![mail]).state(Mailer).start().await.unwrap().shutdown().await;
    }

    #[tokio::test]
    async fn an_expected_or_selected_handler_that_is_not_linked_in_is_named_with_the_remedy() {
        for builder in [memory().expect_handler("absent"), memory().only_handlers(["read", "absent"])] {
            let text = refused(builder.handlers(handlers![read])).await;
            assert!(text.contains("no handler called `absent`") && text.contains("there are: read"), "{text}");
            assert!(text.contains("use that_crate as _;"), "{text}");
        }
    }

    mod elsewhere {
        use super::super::{Note, Outcome};

        #[dawdle::handler]
        pub(crate) async fn read(_: &Note) -> Outcome {
            Ok(())
        }

        #[dawdle::handler(aliases("read"))]
        pub(crate) async fn peruse(_: &Note) -> Outcome {
            Ok(())
        }
    }

    #[tokio::test]
    async fn two_handlers_of_one_name_for_a_kind_are_refused_with_both_places() {
        for other in [handlers![elsewhere::read], handlers![elsewhere::peruse]] {
            let text = refused(memory().handlers(handlers![read]).handlers(other)).await;
            assert!(text.contains("`read`"), "{text}");
            assert_eq!(text.matches("tests/bad_input.rs:").count(), 2, "{text}");
            assert!(text.contains("name = \"..\""), "{text}");
        }
    }
}

#[tokio::test]
async fn a_signal_over_the_limit_is_refused_with_limit_and_actual() {
    let test = harness().await;
    let error = test.signal(Note { text: "x".repeat(1024 * 1024) }).await.unwrap_err();
    assert_eq!((error.kind(), error.maybe_sent()), (ErrorKind::TooLarge, false));
    let text = error.to_string();
    assert!(text.contains(&(1024 * 1024 - 16 * 1024).to_string()), "{text}");
    let actual = text.split_once("the event is ").unwrap().1.split_once(" bytes").unwrap().0;
    assert!((1024 * 1024..1024 * 1024 + 500).contains(&actual.parse::<usize>().unwrap()), "{text}");
    assert_eq!(on(&test, Lane::Message).await, 0);
    // Counted in bytes of UTF-8, and just below is taken and handled.
    let error = test.signal(Note { text: "ä".repeat(520 * 1024) }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    test.signal(Note { text: "x".repeat(1024 * 1024 - 16 * 1024 - 500) }).await.unwrap();
    test.drain().await;
    assert_eq!(test.runs("read"), 1);
}

#[tokio::test]
async fn the_largest_event_can_still_fail_be_dead_lettered_and_be_replayed() {
    #[dawdle::handler(attempts = 2)]
    async fn complains(_: &Note) -> Outcome {
        Err("x".repeat(100_000))?
    }
    let test = Harness::builder().discover(false).handlers(handlers![complains]).start().await.unwrap();
    let mut size = 1024 * 1024 - 16 * 1024;
    while test.signal(Note { text: "\u{1}".repeat(size / 6) }).await.is_err() {
        size -= 12;
    }
    test.advance(DAY).await;
    let letter = one_letter(&test).await;
    assert_eq!((letter.reason.as_str(), letter.attempts), (reason::ATTEMPTS, 2));
    assert!(letter.error.as_ref().unwrap().len() <= 4096);
    test.dawdle().dead_letters().replay(&letter).await.unwrap();
    test.advance(DAY).await;
    one_letter(&test).await;
    assert_eq!(test.runs("complains"), 4);
}

#[tokio::test]
async fn a_body_that_is_no_event_is_dead_lettered_whole_and_harms_nobody() {
    let missing_id = json!({ "specversion": "1.0", "source": "test", "type": "bad.note" }).to_string();
    let later_version = json!({ "specversion": "2.0", "id": "1", "source": "s", "type": "bad.note" }).to_string();
    for (body, says) in [
        ("not JSON at all", "neither JSON nor base64"),
        (" ", "empty"),
        ("{\"half\": ", "not a JSON object"),
        ("{\"order\": 7}", "attribute `specversion` is missing"),
        (&missing_id, "attribute `id` is missing"),
        (&later_version, "`specversion` is not 1.0"),
        ("[]", "empty JSON array"),
        ("7", "neither JSON nor base64"),
    ] {
        let test = harness().await;
        put(test.backend(), body).await;
        test.signal(Note { text: "fine".into() }).await.unwrap();
        test.drain().await;
        assert_eq!(test.runs("read"), 1);
        let letter = one_letter(&test).await;
        assert_eq!((letter.kind.as_str(), letter.reason.as_str()), ("dawdle.undecodable", reason::UNDECODABLE));
        assert!(letter.error.as_ref().unwrap().contains(says), "{body}: {letter:?}");
        let kept = serde_json::to_value(&letter.envelope).unwrap();
        assert_eq!(kept["data_base64"], json!(BASE64.encode(body)));

        // Replayed, it is what it was; here it comes to the same end.
        test.dawdle().stop_listener().await;
        test.dawdle().dead_letters().replay(&letter).await.unwrap();
        let again = test.backend().browse(Lane::Message, 10, seconds(0)).await.unwrap();
        assert_eq!((again[0].body.as_str(), again[0].attributes["origin"].as_str()), (body, "elsewhere"));
        test.dawdle().start_listener().await.unwrap();
        test.drain().await;
        assert_eq!(one_letter(&test).await.reason, reason::UNDECODABLE);
    }
}

#[tokio::test]
async fn a_body_too_large_to_wrap_is_moved_as_it_came() {
    let test = harness().await;
    let body = "x ".repeat(500 * 1024);
    put(test.backend(), &body).await;
    test.drain().await;
    let letter = one_letter(&test).await;
    assert_eq!((letter.kind.as_str(), letter.reason.as_str()), ("dawdle.undecodable", reason::UNDECODABLE));
    test.dawdle().stop_listener().await;
    test.dawdle().dead_letters().replay(&letter).await.unwrap();
    assert!(test.backend().browse(Lane::Message, 1, seconds(0)).await.unwrap()[0].body == body);
}

/// Passed on for a day, ever more rarely, then a dead letter; a replay begins afresh.
async fn is_passed_on_for_a_day(body: Value, says: &str) {
    let test = harness().await;
    put(test.backend(), body.to_string()).await;
    test.drain().await;
    test.backend().reset_requests();
    test.advance(seconds(3_600)).await;
    let first = test.backend().requests().send;
    assert!((20..=70).contains(&first), "passed on {first} times in an hour");
    test.backend().reset_requests();
    test.advance(seconds(3_600)).await;
    assert!(test.backend().requests().send <= first / 2, "it grows rarer");
    test.advance(seconds(21 * 3_600)).await;
    assert_eq!((test.dead_letters().await.len(), on(&test, Lane::Message).await), (0, 1));
    test.advance(seconds(2 * 3_600)).await;
    let letter = one_letter(&test).await;
    assert_eq!(letter.reason, reason::UNHANDLED);
    assert!(letter.error.as_ref().unwrap().contains(says), "{letter:?}");
    assert_eq!((letter.id.as_str(), letter.envelope.attribute("tenant")), ("e1", Some("a")));
    assert_eq!(letter.envelope.data(), Some(body["data"].to_string().as_str()));

    assert_eq!(test.dawdle().dead_letters().replay_where(Filter::default()).await.unwrap(), 1);
    test.advance(seconds(3_600)).await;
    assert_eq!((test.dead_letters().await.len(), on(&test, Lane::Message).await), (0, 1));
    test.advance(DAY).await;
    one_letter(&test).await;
    assert_eq!(test.runs("read"), 0);
}

#[tokio::test]
async fn an_unknown_kind_is_passed_on_for_a_day_then_dead_lettered_and_can_be_replayed() {
    is_passed_on_for_a_day(event("e1", "bad.newer", json!({ "a": 1 })), "kind `bad.newer`").await;
}

#[tokio::test]
async fn a_known_kind_with_other_fields_is_passed_on_for_a_day_then_dead_lettered() {
    is_passed_on_for_a_day(event("e1", "bad.note", json!({ "title": "t" })), "`text`").await;
}

#[tokio::test]
async fn an_event_for_a_handler_that_nobody_has_waits_for_one_that_does() {
    let test = harness().await;
    let mut addressed = note("e1", "hello");
    addressed["handler"] = json!("file");
    put(test.backend(), addressed.to_string()).await;
    test.advance(seconds(60)).await;
    assert_eq!((test.runs("read"), on(&test, Lane::Message).await), (0, 1));
    test.dawdle().register(handlers![file]).unwrap();
    test.advance(seconds(900)).await;
    assert_eq!((test.runs("read"), test.runs("file"), on(&test, Lane::Message).await), (0, 1, 0));

    test.dawdle().unregister("file").unwrap();
    addressed["id"] = json!("e2");
    put(test.backend(), addressed.to_string()).await;
    test.advance(2 * DAY).await;
    let letter = one_letter(&test).await;
    assert_eq!((letter.reason.as_str(), letter.handler.as_deref()), (reason::UNHANDLED, Some("file")));
    assert!(letter.error.as_ref().unwrap().contains("no handler `file` of kind `bad.note`"), "{letter:?}");
    test.dawdle().register(handlers![file]).unwrap();
    test.dawdle().dead_letters().replay(&letter).await.unwrap();
    test.drain().await;
    assert_eq!((test.runs("read"), test.runs("file")), (0, 2));
    assert!(test.dead_letters().await.is_empty());
}

const REFUSED_BY_SQS: &str = "a\u{fffe}b\u{ffff}c \u{0} \u{1f980}";

#[tokio::test]
async fn characters_that_sqs_refuses_go_round_in_the_harness() {
    let test = harness().await;
    test.signal(Note { text: REFUSED_BY_SQS.into() }).await.unwrap();
    test.drain().await;
    assert_eq!(test.handled::<Note>()[0].text, REFUSED_BY_SQS);
}

#[tokio::test(flavor = "multi_thread")]
async fn characters_that_sqs_refuses_go_round_on_a_file() -> Result<()> {
    #[dawdle::handler]
    async fn keep(event: &Note, kept: State<tokio::sync::mpsc::UnboundedSender<String>>) -> Outcome {
        kept.send(event.text.clone())?;
        Ok(())
    }
    let folder = tempfile::tempdir()?;
    let config = Config {
        backend: Some(dawdle::BackendKind::Local),
        local_path: Some(folder.path().join("queue.db")),
        ..Config::default()
    };
    let (sender, mut kept) = tokio::sync::mpsc::unbounded_channel::<String>();
    let builder = Dawdle::builder().config(config).discover(false).handlers(handlers![keep]).state(sender);
    let dawdle = builder.start().await?;
    dawdle.signal(Note { text: REFUSED_BY_SQS.into() }).await?;
    let text = tokio::time::timeout(seconds(30), kept.recv()).await?;
    ensure!(text.as_deref() == Some(REFUSED_BY_SQS), "{text:?}");
    dawdle.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_handler_that_panics_has_failed_once_and_the_listener_goes_on() {
    let test = harness().await;
    test.signal(Note { text: "panic".into() }).await.unwrap();
    test.signal(Note { text: "fine".into() }).await.unwrap();
    test.drain().await;
    assert_eq!((test.runs("read"), on(&test, Lane::Message).await), (2, 1));
    test.advance(seconds(10)).await;
    let letter = one_letter(&test).await;
    assert_eq!((letter.reason.as_str(), letter.attempts), (reason::ATTEMPTS, 2));
    assert_eq!(letter.error.as_deref(), Some("panicked: at the note"));
    assert!(test.dawdle().listener_running());
}

/// Receives a message, and does not settle it, as a process that it kills would.
async fn receive_and_die(test: &Harness, times: u32) {
    for time in 1..=times {
        let deliveries = test.backend().browse(Lane::Message, 10, seconds(30)).await.unwrap();
        assert_eq!(deliveries.iter().map(|it| it.receive_count).collect::<Vec<_>>(), [time]);
        test.advance(seconds(30)).await;
    }
}

#[tokio::test]
async fn a_message_that_was_received_ten_times_is_poison_and_not_dispatched_again() {
    let pack = json!([note("e1", "hello"), { "no": "event" }]);
    for (body, letters) in [(note("e1", "hello"), 1), (pack, 2)] {
        let test = builder().listener(false).start().await.unwrap();
        put(test.backend(), body.to_string()).await;
        receive_and_die(&test, 10).await;
        test.dawdle().start_listener().await.unwrap();
        test.drain().await;
        assert_eq!((test.runs("read"), on(&test, Lane::Message).await), (0, 0));
        let found = test.dead_letters().await;
        assert_eq!(found.len(), letters);
        let letter = found.iter().find(|letter| letter.id.as_str() == "e1").unwrap();
        assert_eq!(letter.reason, reason::POISON);
        assert!(letter.error.as_ref().unwrap().contains("received 11 times"), "{letter:?}");
        test.dawdle().dead_letters().replay(letter).await.unwrap();
        test.drain().await;
        assert_eq!(test.runs("read"), 1);
    }
}

#[tokio::test]
async fn a_message_that_was_received_nine_times_still_has_its_turn() {
    let test = builder().listener(false).start().await.unwrap();
    put(test.backend(), note("e1", "hello").to_string()).await;
    receive_and_die(&test, 9).await;
    test.dawdle().start_listener().await.unwrap();
    // A suspect waits a moment for others like it.
    test.advance(seconds(1)).await;
    assert_eq!((test.runs("read"), test.dead_letters().await.len()), (1, 0));
}

#[tokio::test]
async fn a_pack_runs_all_of_its_events_and_only_what_failed_travels_on_singly() {
    let test = harness().await;
    let later = SystemTime::now() + seconds(3_600);
    let mut delayed = note("e4", "later");
    delayed["due"] =
        json!(time::OffsetDateTime::from(later).format(&time::format_description::well_known::Rfc3339).unwrap());
    let pack = json!([note("e1", "one"), note("e2", "fail"), note("e3", "three"), delayed, { "no": "event" }]);
    put(test.backend(), pack.to_string()).await;
    test.drain().await;
    assert_eq!(test.runs("read"), 3);
    // The failed one and the delayed one, in place of the pack.
    assert_eq!((on(&test, Lane::Message).await, on(&test, Lane::Delay).await), (1, 1));
    assert_eq!(one_of(&test, reason::UNDECODABLE).await.kind, "dawdle.undecodable");
    test.advance(seconds(10)).await;
    assert_eq!(test.runs("read"), 4);
    assert_eq!(one_of(&test, reason::ATTEMPTS).await.id.as_str(), "e2");
    test.advance(seconds(3_600)).await;
    assert_eq!(test.runs("read"), 5);
    assert_eq!((on(&test, Lane::Message).await, on(&test, Lane::Delay).await), (0, 0));
    let mut handled: Vec<_> = test.handled::<Note>().iter().map(|note| note.text.clone()).collect();
    handled.sort();
    assert_eq!(handled, ["later", "one", "three"]);
}

async fn one_of(test: &Harness, reason: &str) -> DeadLetter {
    let letters = test.dead_letters().await;
    let mut of_reason = letters.into_iter().filter(|letter| letter.reason == reason);
    let letter = of_reason.next().unwrap();
    assert!(of_reason.next().is_none());
    letter
}

#[tokio::test]
async fn a_pack_that_comes_a_second_time_is_rewritten_singly_before_anything_runs() {
    let test = builder().listener(false).start().await.unwrap();
    let pack = json!([note("e1", "one"), note("e2", "two"), { "no": "event" }]);
    put(test.backend(), pack.to_string()).await;
    receive_and_die(&test, 1).await;
    test.backend().reset_requests();
    test.dawdle().start_listener().await.unwrap();
    test.drain().await;
    assert_eq!(test.runs("read"), 2);
    assert_eq!(one_letter(&test).await.reason, reason::UNDECODABLE);
    let requests = test.backend().requests();
    assert!(requests.send >= 2, "the events, and the dead letter: {requests:?}");
}

#[tokio::test]
async fn base64_and_gzip_bodies_are_read_packed_or_not() {
    let pack = json!([note("e1", "one"), note("e2", "two")]).to_string();
    let one = note("e3", "three").to_string();
    let gzip = |text: &str| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(text.as_bytes()).unwrap();
        gzip.finish().unwrap()
    };
    for (body, runs) in [
        (BASE64.encode(&one), 1),
        (BASE64.encode(gzip(&one)), 1),
        (BASE64.encode(&pack), 2),
        (BASE64.encode(gzip(&pack)), 2),
    ] {
        let test = harness().await;
        put(test.backend(), body).await;
        test.drain().await;
        assert_eq!((test.runs("read"), test.dead_letters().await.len()), (runs, 0));
    }
    for (body, says) in [
        (BASE64.encode([0x1f, 0x8b, 8, 0]), "gzip stream is broken"),
        (BASE64.encode([0xff, 0xfe]), "not UTF-8"),
        (BASE64.encode(gzip(&" ".repeat(17 * 1024 * 1024))), "unfolds to more than"),
    ] {
        let test = harness().await;
        put(test.backend(), body).await;
        test.drain().await;
        let letter = one_letter(&test).await;
        assert!(letter.error.as_ref().unwrap().contains(says), "{letter:?}");
    }
}

#[tokio::test]
async fn an_expired_event_is_dead_lettered_and_a_replay_runs_it() {
    let test = harness().await;
    let mut expired = note("e1", "too late");
    expired["expires"] = json!("2020-01-01T00:00:00Z");
    put(test.backend(), expired.to_string()).await;
    test.drain().await;
    let letter = one_letter(&test).await;
    assert_eq!((letter.reason.as_str(), test.runs("read")), (reason::EXPIRED, 0));
    test.dawdle().dead_letters().replay(&letter).await.unwrap();
    test.drain().await;
    assert_eq!(test.runs("read"), 1);
}

#[tokio::test]
async fn a_foreign_body_is_adopted_or_dead_lettered_also_when_that_panics() {
    let adopt = |raw: &dawdle::RawMessage<'_>| match raw.body() {
        "panic" => panic!("at a foreign body"),
        body => {
            assert_eq!(raw.attribute("origin"), Some("elsewhere"));
            let text = body.strip_prefix("note: ")?.to_owned();
            Envelope::new(Note { text }).ok()
        }
    };
    let test = builder().foreign(adopt).start().await.unwrap();
    for body in ["note: fail", "note: fine", "something else", "panic"] {
        put(test.backend(), body).await;
    }
    test.drain().await;
    assert_eq!(test.runs("read"), 2);
    assert_eq!(test.handled::<Note>()[0].text, "fine");
    let letters = test.dead_letters().await;
    assert_eq!(letters.iter().map(|letter| letter.reason.as_str()).collect::<Vec<_>>(), [reason::UNDECODABLE; 2]);
    // What failed is an event of ours from here on.
    test.advance(seconds(10)).await;
    assert_eq!(test.runs("read"), 3);
    assert_eq!(one_of(&test, reason::ATTEMPTS).await.handler.as_deref(), Some("read"));
}

#[tokio::test]
async fn attributes_that_nobody_knows_survive_retries_dead_letters_and_replays() {
    #[dawdle::handler(attempts = 2)]
    async fn check(_: &Note, cx: &Context) -> Outcome {
        if cx.attribute("tenant") != Some("a") {
            return Err(Failure::discard("the attribute is gone"));
        }
        Err("always")?
    }
    let test = Harness::builder().discover(false).handlers(handlers![check]).start().await.unwrap();
    let mut strange = note("e1", "hello");
    strange["priority"] = json!({ "of": ["another", 1] });
    put(test.backend(), strange.to_string()).await;
    for runs in [2, 4] {
        test.advance(seconds(10)).await;
        let letter = one_letter(&test).await;
        let kept: BTreeMap<String, Value> =
            serde_json::from_value(serde_json::to_value(&letter.envelope).unwrap()).unwrap();
        assert_eq!((&kept["priority"], &kept["tenant"]), (&strange["priority"], &strange["tenant"]));
        assert_eq!(test.runs("check"), runs);
        test.dawdle().dead_letters().replay(&letter).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_clearly_and_takes_again_when_there_is_room() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = Config {
        backend: Some(dawdle::BackendKind::Local),
        local_path: Some(folder.path().join("queue.db")),
        local_max_messages: Some(3),
        ..Config::default()
    };
    let sender = Dawdle::builder().config(config.clone()).discover(false).start().await?;
    for number in 0..3 {
        sender.signal(Note { text: number.to_string() }).await?;
    }
    let error = sender.signal(Note { text: "3".into() }).await.unwrap_err();
    ensure!(error.kind() == ErrorKind::Full && error.to_string().contains('3'), "{error}");
    let listener = Dawdle::builder().config(config).discover(false).handlers(handlers![read]).start().await?;
    until(seconds(30), "there is room", async || Ok(sender.signal(Note { text: "3".into() }).await.is_ok())).await?;
    listener.shutdown().await;
    sender.shutdown().await;
    Ok(())
}
