//! The drill of `ops/drill.md`: 40,000 events that a bad build has put into the dead letters are looked
//! at, and replayed once a good build runs. The commands are read out of the page, and what the page
//! shows is what they say.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dawdle::backend::memory::MemoryBackend;
use dawdle::backend::{Backend as _, Lane};
use dawdle::{Config, Context, Dawdle, Event, Failure, Outcome, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqs_model::{Endpoint, Options};

use common::{Place, sqs};

mod common;

const ORDERS: u64 = 24_000;
const TRIALS: u64 = 16_000;
/// Of an earlier build, weeks ago.
const OLD: u64 = 12;
/// Of those that `--rate` is given for: the page's command would take a quarter of an hour.
const PACED: u64 = 250;

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "order.placed")]
struct OrderPlaced {
    order: u64,
    cents: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "trial.ending")]
struct TrialEnding {
    account: u64,
}

/// The build that a node runs, and where it writes what it has handled.
struct Build {
    version: String,
    handled: PathBuf,
    reminded: AtomicU64,
}

impl Build {
    fn new(version: &str, handled: impl Into<PathBuf>) -> Build {
        Build { version: version.to_owned(), handled: handled.into(), reminded: AtomicU64::new(0) }
    }

    fn write(&self, cx: &Context) -> Outcome {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.handled)?;
        file.write_all(format!("{} {}\n", cx.handler(), cx.id()).as_bytes())?;
        Ok(())
    }
}

#[dawdle::handler(attempts = 1)]
async fn charge(event: &OrderPlaced, cx: &Context, build: State<Build>) -> Outcome {
    match build.version.as_str() {
        "1.4" => Err(format!("card {} was refused", event.order))?,
        "1.5" => Err(format!("no price list for order {} in shard 0x{:x}", event.order, event.cents))?,
        _ => build.write(cx),
    }
}

#[dawdle::handler(attempts = 1)]
async fn remind(event: &TrialEnding, cx: &Context, build: State<Build>) -> Outcome {
    if build.version == "1.5" {
        Err(format!("no template v2 for account {}", event.account))?;
    }
    // Of the first ten, one.
    if build.reminded.fetch_add(1, Ordering::Relaxed) == 6 {
        return Err(Failure::dead_letter(format!("account {} is closed", event.account)));
    }
    build.write(cx)
}

/// Not a test: the node that the children run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(handled) = std::env::var_os("DRILL_HANDLED") else { return };
    let config = Config::from_env().expect("settings");
    let build = Build::new(config.version.as_deref().expect("a version"), handled);
    let dawdle = Dawdle::builder().config(config).state(build).start().await.expect("a start");
    println!("\n> listens");
    dawdle.run().await.expect("an end");
}

/// A node in a process of its own; killed when it is dropped.
struct Node {
    process: Child,
    /// Kept open: a node that lives for long says more, and would end if nobody could read it.
    _output: BufReader<ChildStdout>,
}

impl Node {
    fn start(place: &Place, version: &str) -> Node {
        let program = std::env::current_exe().expect("a path");
        let mut command = place.dress(Command::new(program));
        command
            .args(["child", "--exact", "--nocapture"])
            .env("DRILL_HANDLED", place.path("handled"))
            .env("DAWDLE_VERSION", version)
            .stderr(Stdio::inherit());
        let mut child = command.spawn().expect("a node");
        let mut output = BufReader::new(child.stdout.take().expect("output"));
        let lines = output.by_ref().lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "> listens"), "the node has not started");
        Node { process: child, _output: output }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The dead letters that a node of this build makes of some events, as they are on its queue.
async fn died_of(version: &str, orders: u64, trials: u64) -> Vec<Value> {
    let backend = MemoryBackend::new(dawdle::Clock::system());
    let config = Config { version: Some(version.to_owned()), source: Some("shop".to_owned()), ..Config::default() };
    let build = Build::new(version, "");
    let dawdle = Dawdle::builder().config(config).backend(backend.clone()).state(build).start().await.expect("a start");
    for order in 0..orders {
        dawdle.signal(OrderPlaced { order, cents: 990 }).await.expect("signalled");
    }
    for account in 0..trials {
        dawdle.signal(TrialEnding { account }).await.expect("signalled");
    }
    let mut letters: Vec<Value> = Vec::new();
    while (letters.len() as u64) < orders + trials {
        let look = backend.browse(Lane::Dead, 10, Duration::from_secs(60));
        let found = tokio::time::timeout(Duration::from_secs(30), look).await.expect("in time").expect("a look");
        letters.extend(found.iter().map(|found| serde_json::from_str::<Value>(&found.body).expect("an event")));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    dawdle.shutdown().await;
    letters
}

fn id_of(number: u64) -> String {
    format!("019be3a0-0000-7000-8000-{number:012x}")
}

/// What lies there at three in the morning: letters as nodes wrote them, of the bad build and, few and old,
/// of the one before it.
async fn letters(share: u64) -> Vec<String> {
    let mut bad = died_of("1.5", 1, 1).await;
    bad.sort_by_key(|letter| letter["type"].to_string());
    let [order, trial] = bad.try_into().expect("one of each kind");
    let old = died_of("1.4", 1, 0).await.remove(0);
    let copy = |letter: &Value, number: u64, event: u64, data: Value, time: String| {
        let error = letter["deaderror"].as_str().expect("an error");
        let said = format!("{} {event}", error.split(" 0").next().expect("text"));
        let error = error.split_once(" 0").map_or(said.clone(), |(_, rest)| said + rest);
        let mut letter = letter.clone();
        letter["id"] = json!(id_of(number));
        letter["data"] = data;
        letter["time"] = json!(time);
        letter["deadtime"] = json!(time);
        letter["deaderror"] = json!(error);
        letter.to_string()
    };
    let mut bodies = Vec::new();
    for number in 0..OLD {
        let data = json!({ "order": 100 + number, "cents": 990 });
        bodies.push(copy(&old, number, 100 + number, data, format!("2026-01-{:02}T09:30:00.000Z", 5 + number)));
    }
    let (mut orders, mut trials) = (0, 0);
    let fives = (ORDERS + TRIALS) / share / 5;
    for number in 0..fives * 5 {
        // From the first to the last moment of half an hour.
        let millis = number / 5 * 1_799_999 / (fives - 1);
        let (minute, second) = (10 + millis / 60_000, millis / 1_000 % 60);
        let time = format!("2026-01-22T02:{minute:02}:{second:02}.{:03}Z", millis % 1_000);
        let (letter, event, data) = if number % 5 < 3 {
            orders += 1;
            (&order, 7_000 + orders, json!({ "order": 7_000 + orders, "cents": 990 }))
        } else {
            trials += 1;
            (&trial, trials, json!({ "account": trials }))
        };
        bodies.push(copy(letter, OLD + number, event, data, time));
    }
    bodies
}
/// A step of the page.
enum Step {
    /// The build is mended, and deployed.
    Mend,
    /// A command, and what the page shows of its output.
    Run { command: String, shown: Vec<String> },
}

/// The commands of the page's blocks, in order.
fn steps() -> Vec<Step> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/drill.md")).expect("the page");
    let (mut steps, mut in_block) = (Vec::new(), false);
    for line in page.lines() {
        match (line, line.strip_prefix("$ dawdle "), steps.last_mut()) {
            ("```console", ..) => in_block = true,
            ("```", ..) => in_block = false,
            ("## Mend it", ..) => steps.push(Step::Mend),
            (_, Some(command), _) => steps.push(Step::Run { command: command.to_owned(), shown: Vec::new() }),
            (_, None, Some(Step::Run { shown, .. })) if in_block => shown.push(line.to_owned()),
            _ => assert!(!in_block, "a block begins with a command: {line}"),
        }
    }
    steps
}

/// Whether a line of the page is the line that was said: `…` stands for anything, and spaces are not
/// counted.
fn is_shown(shown: &str, said: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (shown, said) = (plain(shown), plain(said));
    let mut parts = shown.split('…').map(str::trim);
    let Some(mut rest) = said.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut last = "";
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        (rest, last) = (&rest[at + part.len()..], part);
    }
    rest.is_empty() || (shown.contains('…') && last.is_empty())
}

/// Whether anything is on the message queue.
fn waits(place: &Place) -> bool {
    let queue = &place.json(&["stats"])[0]["queues"][0];
    ["visible", "in_flight", "delayed"].into_iter().any(|count| queue[count] != 0)
}

/// A line of the page where there is only a share of what it speaks of.
fn scaled(line: &str, share: u64) -> String {
    let (orders, trials) = (ORDERS / share, TRIALS / share);
    let bad = orders + trials;
    let counts =
        [("40012", bad + OLD), ("40003", bad + OLD - 9), ("39990", bad - 10), ("24000", orders), ("16000", trials)];
    counts.iter().fold(line.to_owned(), |line, (count, here)| line.replace(count, &here.to_string()))
}

/// Goes through the page, where a share of its dead letters are.
async fn goes_by_the_page(place: &Place, share: u64) {
    let handled = || -> Vec<String> {
        let text = std::fs::read_to_string(place.path("handled")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    let (mut node, mut expected): (Option<Node>, u64) = (None, 0);
    for step in steps() {
        let (command, shown) = match step {
            Step::Mend => {
                node = Some(Node::start(place, "1.6"));
                continue;
            }
            Step::Run { command, shown } => (command, shown),
        };
        let begun = Instant::now();
        let mut args: Vec<&str> = command.split_whitespace().collect();
        let mut replayed = 0;
        if let Some(at) = args.iter().position(|arg| *arg == "--rate") {
            let rate: f64 = args[at + 1].parse().expect("a rate");
            let paced = PACED.to_string();
            let report = place.json(&[&args[..], &["--limit", &paced]].concat());
            assert_eq!(report[0]["replayed"], PACED);
            let least = Duration::from_secs_f64((PACED - 1) as f64 / rate);
            assert!(begun.elapsed() >= least, "{:?} for {PACED} at {rate} a second", begun.elapsed());
            args.drain(at..at + 2);
            replayed = PACED;
        }
        let said = place.run(&args);
        assert_eq!(said.code, Some(0), "{command}: {said:?}");
        if command.starts_with("dead replay") {
            let count: u64 = said.out.split_whitespace().next().and_then(|count| count.parse().ok()).expect("a count");
            expected += count + replayed;
            let shown: Vec<String> = shown.iter().map(|line| scaled(line, share)).collect();
            assert_eq!(shown, [format!("{} replayed, 0 failed", count + replayed)]);
            // All but the one that dies again, in its own time.
            let are_handled = || async { handled().len() as u64 + 1 >= expected && !waits(place) };
            common::until_within(Duration::from_secs(240), "the replayed events are handled", are_handled).await;
            continue;
        }
        let mut lines = said.out.lines();
        for line in shown {
            let line = scaled(&line, share);
            assert!(lines.any(|said| is_shown(&line, said)), "{command}: the page shows\n{line}\nof\n{}", said.out);
        }
    }
    drop(node);

    let events = handled();
    let once: BTreeSet<&str> = events.iter().map(String::as_str).collect();
    assert_eq!(
        (events.len(), once.len() as u64),
        (once.len(), (ORDERS + TRIALS) / share - 1),
        "each once, but the closed account"
    );
    let of = |handler: &str| once.iter().filter(|line| line.starts_with(handler)).count() as u64;
    assert_eq!((of("charge "), of("remind ")), (ORDERS / share, TRIALS / share - 1));
    let old: BTreeSet<String> = (0..OLD).map(id_of).collect();
    assert!(once.iter().all(|line| line.split(' ').nth(1).is_some_and(|id| !old.contains(id))), "what is old stays");
}

#[tokio::test]
async fn forty_thousand_dead_letters_are_looked_at_and_replayed_by_the_page_on_a_local_file() {
    let place = Place::local();
    place.queue().await.put(Lane::Dead, letters(1).await).await;
    goes_by_the_page(&place, 1).await;
}

/// A tenth of them, for each is several requests of a debug build.
#[tokio::test]
async fn four_thousand_dead_letters_are_looked_at_and_replayed_by_the_page_on_sqs() {
    let endpoint = Endpoint::start(Options::default()).expect("an endpoint");
    let place = sqs::place(&endpoint.url());
    place.json(&["init"]);
    sqs::put(&endpoint, "orders-dead", &letters(10).await);
    goes_by_the_page(&place, 10).await;
}

#[test]
fn a_line_of_the_page_is_compared_with_care() {
    assert!(is_shown("  1  a …  c", "1 a b c") && is_shown("a  …", "a b") && is_shown("a", "a "));
    assert!(!is_shown("1 a … c", "1 a b d") && !is_shown("a", "a b") && !is_shown("a … b", "a x b c"));
}
