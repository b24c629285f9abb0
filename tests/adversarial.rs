//! Messages made to do harm: each ends among the dead letters as it came, or is handled; the next
//! message is; and memory and work stay within bounds that do not depend on what a message claims to be.
#![cfg(feature = "testing")]

use std::io::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dawdle::backend::{Backend, Lane, Limits, Outgoing};
use dawdle::testing::Harness;
use dawdle::{Config, DeadLetter, Event, Filter, Outcome, handlers, reason};
use flate2::Compression;
use flate2::write::GzEncoder;
use peak_alloc::PeakAlloc;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MIB: usize = 1024 * 1024;
/// After so long an event that nobody can handle is a dead letter here.
const UNKNOWN_AFTER: Duration = Duration::from_secs(30);

/// The most that the processor may work for one test, in an unoptimized build: several times what the longest
/// takes. Time that others have the processor does not count.
const MOST_WORK: Duration = Duration::from_secs(60);

/// The tests of this file go one by one: they measure the memory and the work of the process.
static ALONE: Mutex<()> = Mutex::const_new(());

/// The memory that is taken beyond what there is now, and the work that is done from now on.
struct Measured {
    _alone: MutexGuard<'static, ()>,
    memory: usize,
    worked: Option<Duration>,
}

impl Measured {
    async fn begin() -> Self {
        let _alone = ALONE.lock().await;
        MEMORY.reset_peak_usage();
        Measured { _alone, memory: MEMORY.current_usage(), worked: worked() }
    }

    fn assert_below(&self, limit: usize) {
        let taken = MEMORY.peak_usage().saturating_sub(self.memory);
        assert!(taken < limit, "{} MiB at the most, and {} are the limit", taken / MIB, limit / MIB);
        if let Some((before, now)) = self.worked.zip(worked()) {
            let work = now.saturating_sub(before);
            assert!(work < MOST_WORK, "{work:?} of work, and {MOST_WORK:?} are the limit");
        }
    }
}

/// For how long the processor has worked for this process, where the system says so.
fn worked() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // From the state on, which follows the program's name; in hundredths of a second: proc_pid_stat(5).
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut hundredths = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis(10 * (hundredths()? + hundredths()?)))
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "hostile.note")]
struct Note {
    text: String,
    #[serde(default)]
    count: u64,
    #[serde(default)]
    any: serde_json::Value,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "hostile.next")]
struct NextMessage;

#[dawdle::handler]
async fn read(_: &Note) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn next(_: &NextMessage) -> Outcome {
    Ok(())
}

async fn harness() -> Harness {
    // Larger messages than SQS takes: a file and memory may.
    let mut limits = Limits::sqs();
    limits.max_message_bytes = 64 * MIB;
    limits.max_batch_bytes = 256 * MIB;
    let config = Config { unknown_after: Some(UNKNOWN_AFTER), ..Config::default() };
    let builder = Harness::builder().discover(false).handlers(handlers![read, next]);
    builder.limits(limits).config(config).start().await.unwrap()
}

/// A note with these attributes or others instead of its own.
fn note(attributes: &str, data: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"hostile.note"{attributes},"data":{data}}}"#)
}

const FINE: &str = r#"{"text":"fine"}"#;

fn with(attributes: &str) -> String {
    note(attributes, FINE)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// What becomes of a message.
enum End {
    Handled,
    /// A dead letter at once, kept to the letter.
    Undecodable(&'static str),
    /// A dead letter after a time.
    Unhandled(&'static str),
    Expired,
}
use End::{Expired, Handled, Undecodable, Unhandled};

/// Puts a message before an ordinary one, and sees both to their end.
async fn ends(what: &str, body: &str, end: &End) {
    let test = harness().await;
    let sent = test.backend().send(Lane::Message, &[Outgoing::new(body)]).await.remove(0);
    sent.unwrap_or_else(|error| panic!("{what}: {error}"));
    test.signal(NextMessage).await.unwrap();
    test.drain().await;
    assert_eq!(test.runs("next"), 1, "{what}");
    match end {
        Handled => {
            assert_eq!((test.runs("read"), test.dead_letters().await.len()), (1, 0), "{what}");
            return;
        }
        Undecodable(says) => {
            let letter = one_letter(&test, what).await;
            assert_eq!(letter.reason, reason::UNDECODABLE, "{what}");
            assert!(letter.error.as_ref().unwrap().contains(says), "{what}: {letter:.300?}");
            assert!(letter.raw().unwrap().body() == body, "{what}: not as it came");
        }
        Unhandled(says) => {
            assert_eq!(test.dead_letters().await.len(), 0, "{what}");
            test.advance(2 * UNKNOWN_AFTER).await;
            let letter = one_letter(&test, what).await;
            assert_eq!(letter.reason, reason::UNHANDLED, "{what}");
            let error = letter.error.as_ref().unwrap();
            assert!(error.contains(says) && error.len() < 400, "{what}: {error:.1000}");
        }
        Expired => assert_eq!(one_letter(&test, what).await.reason, reason::EXPIRED, "{what}"),
    }
    assert_eq!(test.runs("read"), 0, "{what}");

    // Replayed, it harms nobody either, and is not lost.
    assert_eq!(test.dawdle().dead_letters().replay_where(Filter::default()).await.unwrap(), 1, "{what}");
    test.signal(NextMessage).await.unwrap();
    test.advance(2 * UNKNOWN_AFTER).await;
    assert_eq!(test.runs("next"), 2, "{what}");
    match end {
        // A replay ignores expiry.
        Expired => assert_eq!(test.runs("read"), 1, "{what}"),
        _ => drop(one_letter(&test, what).await),
    }
}

async fn one_letter(test: &Harness, what: &str) -> DeadLetter {
    let mut letters = test.dead_letters().await;
    assert_eq!(letters.len(), 1, "{what}");
    for lane in [Lane::Message, Lane::Delay] {
        assert_eq!(test.backend().inspect(lane).await.unwrap().total(), 0, "{what}");
    }
    letters.remove(0)
}

async fn all_end(cases: Vec<(&str, String, End)>) {
    let memory = Measured::begin().await;
    for (what, body, end) in &cases {
        ends(what, body, end).await;
    }
    // The largest are of 1 MB, and passed on some twenty times.
    memory.assert_below(256 * MIB);
}

#[tokio::test]
async fn json_nested_a_hundred_thousand_deep_overflows_no_stack() {
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    let nested = format!("{open}{close}");
    let objects = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    all_end(vec![
        ("as the data", note("", &nested), Unhandled("invalid type")),
        (
            "in a field of any shape",
            note("", &format!(r#"{{"text":"","any":{nested}}}"#)),
            Unhandled("recursion limit"),
        ),
        ("objects as the data", note("", &format!(r#"{{"text":{objects}}}"#)), Unhandled("invalid type")),
        ("in a field that nobody reads", note("", &format!(r#"{{"text":"","more":{nested}}}"#)), Handled),
        ("in an attribute", with(&format!(r#","deep":{nested},"deeper":{objects}"#)), Handled),
        ("in an attribute with a meaning", with(&format!(r#","attempt":{nested}"#)), Undecodable("`attempt`")),
        ("as the body", nested.clone(), Undecodable("without an event")),
        ("objects as the body", objects.clone(), Undecodable("`specversion` is missing")),
        ("never closed", open, Undecodable("not a JSON")),
        ("in base64", BASE64.encode(&nested), Undecodable("without an event")),
    ])
    .await;
}

#[tokio::test]
async fn numbers_beyond_all_bounds_are_kept_or_refused() {
    let digits = "9".repeat(1_000_000);
    all_end(vec![
        ("1e999999 as an attribute", with(r#","n":1e999999"#), Handled),
        ("a million digits as an attribute", with(&format!(r#","n":{digits}"#)), Handled),
        ("1e999999 as data", note("", r#"{"text":"","count":1e999999}"#), Unhandled("out of range")),
        (
            "a million digits as data",
            note("", &format!(r#"{{"text":"","count":{digits}}}"#)),
            Unhandled("out of range"),
        ),
        ("1e999999 attempts", with(r#","attempt":1e999999"#), Undecodable("`attempt` is not a whole number")),
        ("a million digits of attempts", with(&format!(r#","attempt":{digits}"#)), Undecodable("`attempt`")),
        ("attempts of u64::MAX", with(r#","attempt":18446744073709551615"#), Handled),
        ("attempts of u64::MAX as text", with(r#","attempt":"18446744073709551615""#), Handled),
        ("an attempt below nought", with(r#","attempt":-1"#), Undecodable("`attempt`")),
        ("attempt nought", with(r#","attempt":0"#), Handled),
        ("a generation beyond u64", with(r#","generation":18446744073709551616"#), Undecodable("`generation`")),
    ])
    .await;
}

#[tokio::test]
async fn text_that_is_no_text_is_kept_as_it_came() {
    let broken = BASE64.encode(b"{\"specversion\":\"1.0\",\"id\":\"\xff\xfe\"}");
    all_end(vec![
        ("base64 of what is no UTF-8", broken, Undecodable("not UTF-8")),
        ("base64 of a bare NUL", BASE64.encode(note("", "\"\0\"")), Undecodable("not a JSON")),
        ("an escaped NUL", note(r#","tenant":"\u0000""#, r#"{"text":"\u0000"}"#), Handled),
        ("a lone surrogate in the data", note("", r#"{"text":"\ud800"}"#), Unhandled("hex escape")),
        ("a lone surrogate in an attribute", with(r#","tenant":"\ud800""#), Undecodable("`tenant` is no text")),
        ("a lone surrogate in a name", with(r#","\ud800":1"#), Undecodable("not a JSON")),
        ("a name that is there twice", with(r#","id":"2""#), Undecodable("two attributes of one name")),
        ("data that is there twice", with(r#","data":{"text":"other"}"#), Undecodable("two attributes of one name")),
        ("data of both forms", with(r#","data_base64":"AAAA""#), Undecodable("both `data` and `data_base64`")),
        ("a field that is there twice", note("", r#"{"text":"a","text":"b"}"#), Unhandled("duplicate field")),
    ])
    .await;
}

#[tokio::test]
async fn times_and_names_beyond_all_bounds_are_refused_or_harmless() {
    let long = "x".repeat(1_000_000);
    let with_type = |kind: &str| with("").replace("hostile.note", kind);
    all_end(vec![
        ("due in the year 99999", with(r#","due":"99999-01-01T00:00:00Z""#), Undecodable("`due` is not an RFC 3339")),
        ("due before 1970", with(r#","due":"0001-01-01T00:00:00Z","time":"1969-12-31T23:59:59.9Z""#), Handled),
        (
            "due after the year 9999 by its offset",
            with(r#","due":"9999-12-31T23:59:59-23:59""#),
            Undecodable("`due` is not within the years"),
        ),
        ("expiry at the end of time", with(r#","expires":"9999-12-31T23:59:59.999999999Z""#), Handled),
        ("expiry before the beginning", with(r#","expires":"0000-01-01T00:00:00Z""#), Expired),
        ("an id of 10 KB", with("").replace(r#""1""#, &format!("\"{}\"", "x".repeat(10_000))), Undecodable("10000")),
        ("a handler's name of 1 MB", with(&format!(r#","handler":"{long}""#)), Unhandled("(1000000 bytes)` of kind")),
        ("a kind of 1 MB", with_type(&long), Unhandled("(1000000 bytes)")),
        ("a kind of several lines", with_type(r"a\nERROR b\u001b[2J"), Unhandled("`a\u{FFFD}ERROR b\u{FFFD}[2J`")),
        (
            "passed on since a time that has not come",
            with_type("hostile.newer").replace(r#","data""#, r#","unhandledsince":"9999-01-01T00:00:00Z","data""#),
            Unhandled("hostile.newer"),
        ),
        (
            "a death without a reason",
            with_type("hostile.newer").replace(r#","data""#, r#","deaderror":5,"deadtime":"never","data""#),
            Unhandled("hostile.newer"),
        ),
        ("a death of the wrong type", with(r#","deadreason":5"#), Undecodable("`deadreason` is not text")),
    ])
    .await;
}

fn attributes(count: usize) -> String {
    (0..count).map(|number| format!(r#","a{number}":{number}"#)).collect()
}

#[tokio::test]
async fn attributes_are_counted() {
    all_end(vec![
        ("as many as are read", with(&attributes(1_000)), Handled),
        ("one more", with(&attributes(1_001)), Undecodable("more than 1000 attributes")),
    ])
    .await;
    let test = harness().await;
    let signal =
        (0..1_001).fold(test.signal(NextMessage), |signal, number| signal.attribute(format!("a{number}"), "x"));
    let error = signal.await.unwrap_err();
    assert_eq!(error.kind(), dawdle::ErrorKind::TooLarge);
    assert!(error.to_string().contains("has 1001 attributes, and readers take 1000"), "{error}");
}

#[tokio::test]
async fn a_small_body_that_unfolds_without_end_is_refused_within_bounds() {
    // 1 GiB of zeros, as 1,024 members of a gzip stream.
    let bomb = BASE64.encode(gzip(&vec![0; MIB]).repeat(1_024));
    assert!(bomb.len() < 2 * MIB);
    let one_member = BASE64.encode(gzip(&vec![b' '; 32 * MIB]));
    assert!(one_member.len() < MIB / 16);
    let memory = Measured::begin().await;
    for body in [bomb, one_member] {
        ends("a bomb", &body, &Undecodable("unfolds to more than 16777216 bytes")).await;
    }
    memory.assert_below(96 * MIB);
}

#[tokio::test]
async fn what_unfolds_to_just_the_limit_takes_no_more_than_a_few_times_that() {
    let compressed = |text: String| BASE64.encode(gzip(text.as_bytes()));
    let zeros = "0,".repeat(7 * MIB);
    let cases = [
        ("an attribute", compressed(with(&format!(r#","a":[{zeros}0]"#))), Handled),
        ("data", compressed(note("", &format!(r#"{{"text":"","more":[{zeros}0]}}"#))), Handled),
        ("attributes", compressed(with(&attributes(900_000))), Undecodable("more than 1000 attributes")),
        ("elements", compressed(format!("[{},{zeros}0]", with(""))), Undecodable("more than 10000 elements")),
    ];
    let memory = Measured::begin().await;
    for (what, body, end) in cases {
        ends(what, &body, &end).await;
    }
    memory.assert_below(128 * MIB);
}

#[tokio::test]
async fn many_that_unfold_to_the_limit_take_no_more_than_a_few_of_them() {
    let memory = Measured::begin().await;
    let test = harness().await;
    let body = BASE64.encode(gzip(note("", &format!(r#"{{"text":"{}"}}"#, "x".repeat(15 * MIB))).as_bytes()));
    for _ in 0..8 {
        let messages = [Outgoing::new(body.as_str()), Outgoing::new(body.as_str()), Outgoing::new(body.as_str())];
        assert!(test.backend().send(Lane::Message, &messages).await.into_iter().all(|sent| sent.is_ok()));
    }
    test.drain().await;
    assert_eq!((test.runs("read"), test.dead_letters().await.len()), (24, 0));
    memory.assert_below(256 * MIB);
}

#[tokio::test]
async fn a_pack_of_a_million_is_one_dead_letter() {
    let body = format!("[{}{}]", with(""), ",0".repeat(1_000_000));
    let memory = Measured::begin().await;
    ends("a pack of a million", &body, &Undecodable("more than 10000 elements")).await;
    memory.assert_below(64 * MIB);
}

#[tokio::test]
async fn the_rest_of_a_bad_pack_is_handled() {
    let memory = Measured::begin().await;
    let test = harness().await;
    let parts = ["0", "[[]]", r#"{"specversion":"1.0"}"#, r#""\ud800""#].join(",");
    let body = format!("[{},{parts},{}]", with(""), with(r#","attempt":3"#));
    test.backend().send(Lane::Message, &[Outgoing::new(body)]).await.remove(0).unwrap();
    test.drain().await;
    assert_eq!((test.runs("read"), test.dead_letters().await.len()), (2, 4));
    memory.assert_below(64 * MIB);
}

#[tokio::test]
async fn a_replay_of_many_bodies_that_are_no_events_ends_although_they_die_again_at_once() {
    let memory = Measured::begin().await;
    let test = harness().await;
    for number in 0..25 {
        test.backend().send(Lane::Message, &[Outgoing::new(format!("no event {number}"))]).await.remove(0).unwrap();
    }
    test.drain().await;
    let letters = test.dawdle().dead_letters();
    let replay = tokio::spawn(async move { letters.replay_where(Filter::default()).await });
    for _ in 0..1_000 {
        test.drain().await;
        tokio::task::yield_now().await;
    }
    assert!(replay.is_finished(), "replayed for ever");
    assert_eq!(replay.await.unwrap().unwrap(), 25);
    test.drain().await;
    assert_eq!(test.dead_letters().await.len(), 25);
    memory.assert_below(64 * MIB);
}

#[cfg(feature = "local")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_on_a_file_outlives_them_all() {
    use dawdle::backend::local::{LocalBackend, LocalOptions};
    use futures_util::TryStreamExt;

    let memory = Measured::begin().await;
    let hostile = [
        BASE64.encode(gzip(&vec![0; 2 * MIB]).repeat(64)),
        format!("[{}{}]", with(""), ",0".repeat(1_000_000)),
        "[".repeat(100_000),
        with(r#","id":"2""#),
        "bare\0text".to_owned(),
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut options = LocalOptions::default();
    options.max_message_bytes = 64 * MIB;
    let open = || LocalBackend::open(folder.path().join("queue.db"), options.clone());
    let backend = open().await.unwrap();
    for body in &hostile {
        backend.send(Lane::Message, &[Outgoing::new(body.as_str())]).await.remove(0).unwrap();
    }
    let node = dawdle::Dawdle::builder().backend(open().await.unwrap()).discover(false).handlers(handlers![next]);
    let node = node.start().await.unwrap();
    node.signal(NextMessage).await.unwrap();
    while backend.inspect(Lane::Message).await.unwrap().total() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let letters: Vec<DeadLetter> = node.dead_letters().scan(Filter::default()).try_collect().await.unwrap();
    let mut kept: Vec<&str> = letters.iter().map(|letter| letter.raw().unwrap().body()).collect();
    kept.sort_unstable();
    let mut sent: Vec<&str> = hostile.iter().map(String::as_str).collect();
    sent.sort_unstable();
    assert!(kept == sent, "{} of {} as they came", kept.len(), sent.len());
    node.shutdown().await;
    memory.assert_below(128 * MIB);
}
