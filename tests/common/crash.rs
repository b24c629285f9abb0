//! A process is killed at each of Dawdle's crash points, and another takes over from it: what was
//! signalled is handled, never early, and twice only where it was in hand when the process died, or where its lease
//! ended before the process, for want of time, came to extend it.
//!
//! The first life of a run goes through everything that can happen to a message. `CRASH_AT` ends it
//! at one point. Later lives handle what is left. All of them write down what happened in one
//! ledger, which outlives them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use dawdle::backend::{Backend, BoxFuture, Delivery, Lane, Limits, Outgoing, Receipt, Settle, Settlement};
use dawdle::{Config, Context, Dawdle, Envelope, Error, ErrorKind, Event, Failure, Filter, Outcome, State, reason};
use serde::{Deserialize, Serialize};

use crate::common::{child as command, told, until};

mod forward;
use forward::forward;

/// How long a lease lasts, a second of which a handler outlasts.
pub const LEASE: Duration = Duration::from_secs(3);

/// How often a message may be received.
const MAX_RECEIVES: u32 = 10;

/// Runs at once; they sleep more than they work.
const AT_ONCE: usize = 12;

const PATIENCE: Duration = Duration::from_secs(40);

/// An event for three handlers, the second of which fails once.
#[derive(Serialize, Deserialize, Event)]
#[event(kind = "crash.step")]
struct Step {
    number: u64,
    slow: bool,
}

/// An event whose handler gives up.
#[derive(Serialize, Deserialize, Event)]
#[event(kind = "crash.fragile")]
struct Fragile {
    number: u64,
}

/// An event whose handler snoozes once.
#[derive(Serialize, Deserialize, Event)]
#[event(kind = "crash.sleepy")]
struct Sleepy {
    number: u64,
}

/// An event whose handler does not come to an end in the first life.
#[derive(Serialize, Deserialize, Event)]
#[event(kind = "crash.stubborn")]
struct Stubborn {
    number: u64,
}

/// The events of a run, by number; and what is owed to each.
struct Plan {
    name: &'static str,
    number: u64,
    handlers: &'static [&'static str],
    /// The dead letter that it becomes, and ends as.
    letter: Option<&'static str>,
}

const fn plan(
    number: u64,
    name: &'static str,
    handlers: &'static [&'static str],
    letter: Option<&'static str>,
) -> Plan {
    Plan { name, number, handlers, letter }
}

const THREE: &[&str] = &["first", "flaky", "third"];

const PACKED: [u64; 2] = [1, 2];
const UNPACKED: [u64; 2] = [3, 4];
const PARKED: u64 = 5;
const RENEWED: u64 = 6;
const FORWARDED: u64 = 7;
const HELD: u64 = 8;
const HELD_AGAIN: u64 = 9;
const POISON: u64 = 10;
const UNKNOWN: u64 = 11;
const NOW: u64 = 12;
const SLOW: u64 = 13;
const NOT_DELETED: u64 = 14;
const SOON: u64 = 15;
const LATER: u64 = 16;
const DIRECT: u64 = 17;
const BROKEN: u64 = 18;
const JUNK: u64 = 19;
const SLEEPY: u64 = 20;
const STUBBORN: u64 = 21;
const BUFFERED: [u64; 2] = [22, 23];
const SUSPECT: u64 = 24;
const LAST: u64 = 25;

const PLANS: [Plan; 25] = [
    plan(PACKED[0], "one of a pack", THREE, None),
    plan(PACKED[1], "another of the pack", THREE, None),
    plan(UNPACKED[0], "one of a pack that came again", THREE, None),
    plan(UNPACKED[1], "another of that pack", THREE, None),
    plan(PARKED, "parked", THREE, None),
    plan(RENEWED, "renewed", THREE, None),
    plan(FORWARDED, "forwarded", THREE, None),
    plan(HELD, "held until due", THREE, None),
    plan(HELD_AGAIN, "held until due, for the third time", THREE, None),
    plan(POISON, "received too often", &[], Some(reason::POISON)),
    plan(UNKNOWN, "of an unknown kind", &[], Some(reason::UNHANDLED)),
    plan(NOW, "signalled", THREE, None),
    plan(SLOW, "handled slowly", THREE, None),
    plan(NOT_DELETED, "not deleted at first", THREE, None),
    plan(SOON, "due soon", THREE, None),
    plan(LATER, "due later", THREE, None),
    // Its other handlers have run before it is on any queue.
    plan(DIRECT, "signalled directly", &["flaky"], None),
    plan(BROKEN, "dead-lettered and replayed", &["mend"], None),
    plan(JUNK, "dead-lettered and purged", &[], Some("junk")),
    plan(SLEEPY, "snoozed", &["doze"], None),
    plan(STUBBORN, "dropped by a shutdown", &["stay"], None),
    plan(BUFFERED[0], "buffered", THREE, None),
    plan(BUFFERED[1], "another in the buffer", THREE, None),
    plan(SUSPECT, "suspected of having killed its process", THREE, None),
    plan(LAST, "at its last receive beside a suspect", THREE, None),
];

/// The ledger: lines of a life, milliseconds since 1970, a word, a number, and what the word needs.
#[derive(Clone)]
struct Book {
    life: u32,
    file: Arc<File>,
}

impl Book {
    fn open(life: u32, folder: &Path) -> Result<Book> {
        let file = OpenOptions::new().create(true).append(true).open(folder.join("ledger"))?;
        Ok(Book { life, file: Arc::new(file) })
    }

    /// In one write, so that lives and threads share a file.
    fn enter(&self, word: &str, number: u64, rest: impl std::fmt::Display) {
        let line = format!("{} {} {word} {number} {rest}\n", self.life, millis(SystemTime::now()));
        let written = (&*self.file).write(line.as_bytes()).expect("a ledger");
        assert_eq!(written, line.len(), "half a line");
    }

    fn ran(&self, number: u64, cx: &Context) -> Outcome {
        self.enter("ran", number, cx.handler());
        Ok(())
    }
}

fn millis(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).map_or(0, |span| span.as_millis())
}

/// What the handlers of one life know.
#[derive(Clone)]
struct World {
    book: Book,
    mended: Arc<AtomicBool>,
    dozed: Arc<AtomicBool>,
}

#[dawdle::handler]
async fn first(event: &Step, cx: &Context, world: State<World>) -> Outcome {
    world.book.ran(event.number, cx)
}

#[dawdle::handler]
async fn flaky(event: &Step, cx: &Context, world: State<World>) -> Outcome {
    if cx.attempt() == 1 {
        return Err(Failure::retry_after(Duration::from_millis(300), "the first attempt fails"));
    }
    world.book.ran(event.number, cx)
}

#[dawdle::handler]
async fn third(event: &Step, cx: &Context, world: State<World>) -> Outcome {
    if event.slow {
        tokio::time::sleep(LEASE * 3 / 5).await;
    }
    world.book.ran(event.number, cx)
}

#[dawdle::handler]
async fn mend(event: &Fragile, cx: &Context, world: State<World>) -> Outcome {
    match event.number {
        JUNK => Err(Failure::dead_letter("junk")),
        _ if !world.mended.load(Relaxed) => Err(Failure::dead_letter("broken")),
        number => world.book.ran(number, cx),
    }
}

#[dawdle::handler]
async fn doze(event: &Sleepy, cx: &Context, world: State<World>) -> Outcome {
    if !world.dozed.swap(true, Relaxed) {
        return Err(Failure::snooze(Duration::from_millis(400)));
    }
    world.book.ran(event.number, cx)
}

#[dawdle::handler]
async fn stay(event: &Stubborn, cx: &Context, world: State<World>) -> Outcome {
    world.book.enter("stays", event.number, "");
    if world.book.life == 1 {
        std::future::pending::<()>().await;
    }
    world.book.ran(event.number, cx)
}

/// The queue, watched: what passes is entered in the ledger. Its delays are short, so that the delay
/// queue's ways are gone in seconds.
#[derive(Clone)]
struct Watched {
    queue: Arc<dyn Backend>,
    book: Book,
    /// What was received, by receipt.
    received: Arc<Mutex<HashMap<String, Taken>>>,
    /// The messages whose first ack was refused.
    refused: Arc<Mutex<BTreeSet<String>>>,
}

/// A message that was received, and the events in it.
struct Taken {
    message: String,
    numbers: Vec<u64>,
}

impl Watched {
    fn new(queue: Arc<dyn Backend>, book: Book) -> Self {
        Watched { queue, book, received: Arc::default(), refused: Arc::default() }
    }

    fn took(&self, deliveries: &mut [Delivery]) {
        for delivery in deliveries {
            let numbers = numbers(&delivery.body);
            for number in &numbers {
                self.book.enter("took", *number, &delivery.message_id);
            }
            delivery.receive_count += match numbers.as_slice() {
                [POISON] => 12,
                [SUSPECT] => 3,
                // As often as it may be, until it is put back as a copy.
                [LAST] if delivery.attributes.is_empty() => MAX_RECEIVES.saturating_sub(delivery.receive_count),
                [HELD_AGAIN] => 2,
                [number, _] if *number == UNPACKED[0] => 1,
                _ => 0,
            };
            let taken = Taken { message: delivery.message_id.clone(), numbers };
            self.received.lock().unwrap().insert(delivery.receipt.0.clone(), taken);
        }
    }

    /// Whether this ack is to be refused.
    fn refuses(&self, entry: &Settle) -> bool {
        let received = self.received.lock().unwrap();
        let Some(Taken { message, numbers }) = received.get(&entry.receipt.0) else { return false };
        entry.how == Settlement::Ack
            && matches!(numbers.as_slice(), [NOT_DELETED | FORWARDED])
            && self.refused.lock().unwrap().insert(message.clone())
    }

    async fn settle_watched(&self, lane: Lane, entries: &[Settle]) -> Vec<dawdle::Result<()>> {
        let refused: Vec<bool> = entries.iter().map(|entry| self.refuses(entry)).collect();
        let asked: Vec<Settle> =
            entries.iter().zip(&refused).filter(|(_, refused)| !**refused).map(|(entry, _)| entry.clone()).collect();
        let mut answers = self.queue.settle(lane, &asked).await.into_iter();
        let received = self.received.lock().unwrap();
        let answer = |(entry, refused): (&Settle, bool)| {
            if refused {
                self.soon_seen_again(lane, entry.receipt.clone());
                return Err(Error::new(ErrorKind::Refused, "this ack is refused, for a test"));
            }
            let answer = answers.next().expect("an answer for each entry");
            if let (Ok(()), Some(Taken { message, numbers })) = (&answer, received.get(&entry.receipt.0)) {
                for number in numbers {
                    self.book.enter("left", *number, message);
                }
            }
            answer
        };
        entries.iter().zip(refused).map(answer).collect()
    }

    /// Ends a lease early, as if its time were up.
    fn soon_seen_again(&self, lane: Lane, receipt: Receipt) {
        let queue = Arc::clone(&self.queue);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let how = Settlement::ReleaseAfter(Duration::ZERO);
            queue.settle(lane, &[Settle { receipt, how }]).await;
        });
    }
}

/// The events in a body.
fn numbers(body: &str) -> Vec<u64> {
    let number = |event: &serde_json::Value| event["data"]["number"].as_u64();
    match serde_json::from_str(body) {
        Ok(serde_json::Value::Array(events)) => events.iter().filter_map(number).collect(),
        Ok(event) => number(&event).into_iter().collect(),
        Err(_) => Vec::new(),
    }
}

/// Why a body is a dead letter.
fn reason_of(body: &str) -> String {
    let event: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    event["deadreason"].as_str().unwrap_or_default().to_owned()
}

impl Backend for Watched {
    forward!(self.queue => describe, clock_offset_ms, learn_clock_offset, check, inspect);

    fn name(&self) -> &str {
        "watched"
    }

    fn limits(&self) -> Limits {
        let mut limits = self.queue.limits();
        limits.delay_lane = true;
        limits.max_delay = Some(Duration::from_secs(2));
        // Half of it is kept free: what would be parked beyond four seconds is sent afresh.
        limits.retention = Some(Duration::from_secs(8));
        limits
    }

    fn send<'a>(&'a self, lane: Lane, messages: &'a [Outgoing]) -> BoxFuture<'a, Vec<dawdle::Result<()>>> {
        Box::pin(async move {
            let answers = self.queue.send(lane, messages).await;
            for (message, answer) in messages.iter().zip(&answers) {
                let word = if lane == Lane::Dead { "letter" } else { "put" };
                for number in numbers(&message.body).into_iter().filter(|_| answer.is_ok()) {
                    self.book.enter(word, number, reason_of(&message.body));
                }
            }
            answers
        })
    }

    fn receive(&self, lane: Lane, max: usize) -> BoxFuture<'_, dawdle::Result<Vec<Delivery>>> {
        Box::pin(async move {
            let mut found = self.queue.receive(lane, max).await?;
            self.took(&mut found);
            Ok(found)
        })
    }

    fn settle<'a>(&'a self, lane: Lane, entries: &'a [Settle]) -> BoxFuture<'a, Vec<dawdle::Result<()>>> {
        Box::pin(self.settle_watched(lane, entries))
    }

    fn extend<'a>(
        &'a self,
        lane: Lane,
        receipts: &'a [Receipt],
        lease: Duration,
    ) -> BoxFuture<'a, Vec<dawdle::Result<()>>> {
        Box::pin(async move {
            let asked = millis(SystemTime::now());
            let answers = self.queue.extend(lane, receipts, lease).await;
            let received = self.received.lock().unwrap();
            let extended = receipts.iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
            for Taken { message, numbers } in extended.filter_map(|(receipt, _)| received.get(&receipt.0)) {
                numbers.iter().for_each(|number| self.book.enter("kept", *number, format_args!("{message} {asked}")));
            }
            answers
        })
    }

    /// What a dead process was looking at is seen again soon.
    fn browse(&self, lane: Lane, max: usize, hold: Duration) -> BoxFuture<'_, dawdle::Result<Vec<Delivery>>> {
        Box::pin(async move {
            let mut found = self.queue.browse(lane, max, hold.min(LEASE)).await?;
            self.took(&mut found);
            Ok(found)
        })
    }
}

/// What a child does, on the queue that `open` opens.
pub async fn child<B: Backend>(open: impl AsyncFn(&Config) -> Result<B>) -> Result<()> {
    let Some(told) = told()? else { return Ok(()) };
    let book = Book::open(told.role.parse()?, &told.place)?;
    let queue: Arc<dyn Backend> = Arc::new(open(&told.config).await?);
    let (mended, dozed) = (Arc::new(AtomicBool::new(book.life > 1)), Arc::default());
    let life = Life {
        queue: Watched::new(Arc::clone(&queue), book.clone()),
        folder: told.place,
        world: World { book, mended, dozed },
    };
    let world = life.world.clone();
    if world.book.life == 1 {
        life.first(told.config).await?
    } else {
        life.later(told.config).await?
    }
    until(PATIENCE, "the queue is let go of", async || Ok(Arc::strong_count(&queue) == 1)).await?;
    drop(queue);
    for (point, passed) in dawdle::__crash::passages() {
        world.book.enter("passed", passed.into(), point);
    }
    Ok(())
}

struct Life {
    queue: Watched,
    folder: PathBuf,
    world: World,
}

impl Life {
    async fn dawdle(&self, config: Config) -> Result<Dawdle> {
        let builder = Dawdle::builder().config(config).backend(self.queue.clone()).state(self.world.clone());
        Ok(builder.listener(false).start().await?)
    }

    async fn put(&self, lane: Lane, body: String) -> Result<()> {
        self.queue.send(lane, &[Outgoing::new(body)]).await.remove(0)?;
        Ok(())
    }

    /// Goes through everything that can happen to a message.
    async fn first(self, config: Config) -> Result<()> {
        let book = &self.world.book;
        let dawdle = self.dawdle(config).await?;
        let begun = SystemTime::now();
        let due = |secs: f64| begun + Duration::from_secs_f64(secs);
        let sends = |number, due| book.enter("sends", number, millis(due));
        let sent = |number| book.enter("sent", number, "");

        let step = |number, due| {
            sends(number, due);
            let envelope: Envelope = dawdle.signal(Step { number, slow: false }).at(due).into_envelope()?;
            anyhow::Ok(serde_json::to_string(&envelope)?)
        };
        let pack = |[one, two]: [u64; 2]| anyhow::Ok(format!("[{},{}]", step(one, begun)?, step(two, begun)?));
        self.put(Lane::Message, pack(PACKED)?).await?;
        self.put(Lane::Message, pack(UNPACKED)?).await?;
        self.put(Lane::Message, step(POISON, begun)?).await?;
        self.put(Lane::Message, step(UNKNOWN, begun)?.replace("crash.step", "crash.unknown")).await?;
        self.put(Lane::Delay, step(FORWARDED, due(1.0))?).await?;
        self.put(Lane::Delay, step(RENEWED, due(7.0))?).await?;
        self.put(Lane::Delay, step(PARKED, due(4.2))?).await?;

        dawdle.start_listener().await?;
        for (number, slow) in [(NOW, false), (SLOW, true), (NOT_DELETED, false)] {
            sends(number, begun);
            dawdle.signal(Step { number, slow }).await?;
            sent(number);
        }
        for (number, slow) in [(SUSPECT, true), (LAST, false)] {
            sends(number, begun);
            dawdle.signal(Step { number, slow }).await?;
            sent(number);
            self.wait_for("a suspect", |so_far| so_far.all("took").any(|line| line.number == number)).await?;
        }
        for number in BUFFERED {
            sends(number, begun);
            dawdle.signal(Step { number, slow: false }).buffered().await?;
        }
        dawdle.flush().await?;
        BUFFERED.into_iter().for_each(sent);
        for (number, due) in [(SOON, due(0.6)), (LATER, due(3.0))] {
            sends(number, due);
            dawdle.signal(Step { number, slow: false }).at(due).await?;
            sent(number);
        }
        sends(DIRECT, begun);
        dawdle.signal(Step { number: DIRECT, slow: false }).direct().await?;
        for number in [BROKEN, JUNK] {
            sends(number, begun);
            dawdle.signal(Fragile { number }).await?;
            sent(number);
        }
        sends(SLEEPY, begun);
        dawdle.signal(Sleepy { number: SLEEPY }).await?;
        sent(SLEEPY);

        self.wait_for("the dead letters", |so_far| {
            [BROKEN, JUNK, POISON].iter().all(|number| so_far.all("letter").any(|line| line.number == *number))
        })
        .await?;
        self.world.mended.store(true, Relaxed);
        self.end_letters(&dawdle).await?;
        let done = [
            (PARKED, "flaky"),
            (SLOW, "third"),
            (SUSPECT, "third"),
            (LAST, "flaky"),
            (NOT_DELETED, "flaky"),
            (SLEEPY, "doze"),
            (BROKEN, "mend"),
        ];
        self.wait_for("everything but what is held", |so_far| {
            let ran = so_far.runs();
            done.iter().all(|(number, handler)| ran.contains_key(&(*number, *handler)))
        })
        .await?;
        for number in [HELD, HELD_AGAIN] {
            self.put(Lane::Message, step(number, SystemTime::now() + Duration::from_secs(4))?).await?;
        }
        sends(STUBBORN, begun);
        dawdle.signal(Stubborn { number: STUBBORN }).await?;
        sent(STUBBORN);
        self.wait_for("what a shutdown drops and gives back", |so_far| {
            let is_taken = |number: &u64| so_far.all("took").any(|line| line.number == *number);
            so_far.all("stays").next().is_some() && [HELD, HELD_AGAIN].iter().all(is_taken)
        })
        .await?;
        dawdle.shutdown().await;
        Ok(())
    }

    /// Replays one letter and purges another.
    async fn end_letters(&self, dawdle: &Dawdle) -> Result<()> {
        let letters = dawdle.dead_letters();
        let (mut left, mut unsure) = (BTreeSet::from(["broken", "junk"]), BTreeSet::new());
        // A queue need not show everything at the first look, nor answer each time.
        while !left.is_empty() {
            let mut found = 0;
            let mut scan = letters.scan(Filter::default().kind("crash.fragile"));
            while let Some(letter) = scan.next().await {
                let Some(letter) = unless_transient(letter)? else { continue };
                let ended =
                    if letter.reason == "junk" { letters.purge(&letter).await } else { letters.replay(&letter).await };
                found += 1;
                if unless_transient(ended)?.is_none() {
                    unsure.insert(letter.reason);
                } else {
                    ensure!(left.remove(letter.reason.as_str()), "dead-lettered: {}", letter.reason);
                }
            }
            if found == 0 {
                left.retain(|reason| !unsure.contains(*reason));
            }
        }
        Ok(())
    }

    async fn wait_for(&self, what: &str, is: impl Fn(&Account) -> bool) -> Result<()> {
        until(PATIENCE, what, async || Ok(is(&Account::read(&self.folder)?))).await
    }

    /// Handles what is left, whatever it is.
    async fn later(self, config: Config) -> Result<()> {
        let dawdle = self.dawdle(config).await?;
        dawdle.start_listener().await?;
        let (begun, mut empty) = (Instant::now(), 0);
        while empty < 2 {
            let mut left = Vec::new();
            for lane in Lane::ALL {
                left.push(unless_transient(self.queue.inspect(lane).await)?.map_or(1, |stats| stats.total()));
            }
            ensure!(begun.elapsed() < PATIENCE, "left on the queues: {left:?}");
            empty = if left.iter().all(|left| *left == 0) { empty + 1 } else { 0 };
            if left[Lane::Dead as usize] > 0 {
                let letters = dawdle.dead_letters();
                unless_transient(letters.replay_where(Filter::default().reason("broken")).await)?;
                for reason in PLANS.iter().filter_map(|plan| plan.letter) {
                    unless_transient(letters.purge_where(Filter::default().reason(reason)).await)?;
                }
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        dawdle.shutdown().await;
        Ok(())
    }
}

/// `None` where another try may go well.
fn unless_transient<T>(answer: dawdle::Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_transient() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

struct Line {
    life: u32,
    at: u128,
    word: String,
    number: u64,
    rest: String,
}

/// What a ledger says.
struct Account(Vec<Line>);

impl Account {
    fn read(folder: &Path) -> Result<Account> {
        let text = std::fs::read_to_string(folder.join("ledger"))?;
        let line = |text: &str| {
            let mut words = text.splitn(5, ' ');
            let mut next = || words.next().map(str::to_owned);
            let (life, at, word, number, rest) = (next()?, next()?, next()?, next()?, next()?);
            Some(Line { life: life.parse().ok()?, at: at.parse().ok()?, word, number: number.parse().ok()?, rest })
        };
        let lines = text.lines().map(|text| line(text).with_context(|| format!("in the ledger: {text}")));
        Ok(Account(lines.collect::<Result<_>>()?))
    }

    fn all<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a Line> {
        self.0.iter().filter(move |line| line.word == word)
    }

    /// How many times each handler has succeeded, by event.
    fn runs(&self) -> BTreeMap<(u64, &str), u32> {
        let mut runs = BTreeMap::new();
        for line in self.all("ran") {
            *runs.entry((line.number, line.rest.as_str())).or_default() += 1;
        }
        runs
    }

    /// How many times a life passed each point.
    fn passages(&self, life: u32) -> BTreeMap<&str, u32> {
        let passed = self.all("passed").filter(|line| line.life == life);
        passed.map(|line| (line.rest.as_str(), line.number as u32)).collect()
    }

    /// How often messages of an event came again because their leases had ended, by event: with the life that
    /// had them in hand, or by themselves, as on a machine that has no time for a process.
    fn come_again(&self, crashes: u32) -> Result<BTreeMap<u64, u32>> {
        let mut held: HashMap<(u64, &str), (u32, u128)> = HashMap::new();
        let mut again = BTreeMap::new();
        for line in &self.0 {
            let (message, asked) = line.rest.split_once(' ').unwrap_or((&line.rest, ""));
            let message = (line.number, message);
            match line.word.as_str() {
                "took" => {
                    let Some((life, since)) = held.insert(message, (line.life, line.at)) else { continue };
                    let is_over = line.at >= since + LEASE.as_millis();
                    if is_over && (life > crashes || life == line.life) {
                        *again.entry(line.number).or_default() += 1;
                    }
                }
                "kept" => drop(held.insert(message, (line.life, asked.parse()?))),
                "left" => drop(held.remove(&message)),
                _ => {}
            }
        }
        Ok(again)
    }

    /// How many messages of an event the killed lives had received and not settled when they died.
    fn in_hand(&self, crashes: u32) -> BTreeMap<u64, u32> {
        let mut held = BTreeSet::new();
        for line in self.0.iter().filter(|line| line.life <= crashes) {
            let message = (line.life, line.number, line.rest.as_str());
            match line.word.as_str() {
                "took" => drop(held.insert(message)),
                "left" => drop(held.remove(&message)),
                _ => {}
            }
        }
        let mut messages = BTreeMap::new();
        for (_, number, _) in held {
            *messages.entry(number).or_default() += 1;
        }
        messages
    }

    /// Checks every promise, after `crashes` lives that were killed; says how many runs were repeated.
    fn check(&self, crashes: u32) -> Result<u32> {
        let runs = self.runs();
        let mut wrong = Vec::new();
        for Plan { number, name, handlers, letter } in &PLANS {
            let owed = self.all("sent").chain(self.all("put")).any(|line| line.number == *number);
            for handler in handlers.iter().filter(|handler| owed && !runs.contains_key(&(*number, **handler))) {
                wrong.push(format!("lost: {number} ({name}), for `{handler}`"));
            }
            let letters: BTreeSet<&str> =
                self.all("letter").filter(|line| line.number == *number).map(|line| line.rest.as_str()).collect();
            let allowed = if *number == BROKEN { Some("broken") } else { *letter };
            if letters.iter().any(|reason| Some(*reason) != allowed) {
                wrong.push(format!("dead-lettered: {number} ({name}): {letters:?}"));
            }
            if owed && letter.is_some() && letters.is_empty() {
                wrong.push(format!("lost: {number} ({name}), for the dead letters"));
            }
        }
        let (in_hand, come_again) = (self.in_hand(crashes), self.come_again(crashes)?);
        let mut repeated = 0;
        for ((number, handler), times) in runs {
            repeated += times - 1;
            let in_hand = in_hand.get(&number).copied().unwrap_or_default();
            let come_again = come_again.get(&number).copied().unwrap_or_default();
            if times > 1 + in_hand + come_again {
                wrong.push(format!(
                    "{number} ran {times} times for `{handler}`, with {in_hand} messages in hand, and {come_again} that came again when \
                     their leases had ended"
                ));
            }
        }
        for line in self.all("ran") {
            let due = self.all("sends").find(|sends| sends.number == line.number).context("never sent")?;
            let due: u128 = due.rest.parse()?;
            if line.at < due {
                wrong.push(format!("early: {} by {} ms, for {}", line.number, due - line.at, line.rest));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(repeated)
    }
}

/// What came of a run.
struct Lived {
    account: Account,
    /// How many lives were killed.
    crashes: u32,
    /// How often a handler ran again.
    repeated: u32,
}

/// One run: a life for each point to crash at, and one that comes to an end.
///
/// How often a point is passed is up to what runs in parallel. A life that comes to its end before is an
/// uncrashed one.
fn run(crash_at: &[(&str, u32)], config: &Config, folder: &Path) -> Result<Lived> {
    let mut crashes = 0;
    for (point, passage) in crash_at {
        let (life, at) = (crashes + 1, format!("{point}:{passage}"));
        let (status, said) = live(life, config, folder, Some(&at))?;
        let died = status.signal() == Some(SIGABRT) && said.contains(&format!("crash point {at}\n"));
        if died {
            crashes += 1;
            continue;
        }
        ensure!(status.success(), "life {life} did not die at {at}, but ended with {status}: {said}");
    }
    // A first life that comes to its end leaves some work.
    for life in crashes + 1..=(crashes + 1).max(2) {
        let has_lived = crashes == 0 && life == 1 && !crash_at.is_empty();
        if !has_lived {
            let (status, said) = live(life, config, folder, None)?;
            ensure!(status.success(), "life {life} ended with {status}: {said}");
        }
    }
    let account = Account::read(folder)?;
    let repeated = account.check(crashes)?;
    Ok(Lived { account, crashes, repeated })
}

const SIGABRT: i32 = 6;

/// What an SQS engine is told, and nothing else is looked up.
const CREDENTIALS: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_EC2_METADATA_DISABLED", "true")];

/// One life; how it ended, and what it said of that.
fn live(life: u32, config: &Config, folder: &Path, at: Option<&str>) -> Result<(std::process::ExitStatus, String)> {
    let said = folder.join(format!("stderr-{life}"));
    let mut command = command(&life.to_string(), config, folder)?;
    command.stdout(Stdio::null()).stderr(File::create(&said)?);
    for (name, value) in CREDENTIALS {
        command.env(name, value);
    }
    if let Some(at) = at {
        command.env("CRASH_AT", at);
    }
    let mut child = command.spawn()?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > PATIENCE * 2 {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    Ok((status, std::fs::read_to_string(said)?))
}

/// Runs again, a few times, while the first life comes to its end without a first passage: on a slow
/// machine a message may be due before it is looked at.
fn killed_at(crash_at: &[(&str, u32)], run_at: impl Fn(&[(&str, u32)]) -> Result<Lived>) -> Result<Lived> {
    for _ in 0..5 {
        let lived = run_at(crash_at)?;
        let is_optional = crash_at.iter().all(|(_, passage)| *passage > 1);
        if is_optional || lived.crashes as usize == crash_at.len() {
            return Ok(lived);
        }
    }
    bail!("five lives came to their ends without a crash at {crash_at:?}")
}

/// The points that only a life after a crash passes, and a crash that leads there.
const AFTER_A_CRASH: [&str; 3] = ["local.take_over.before", "local.take_over.after", "local.take_over.removed"];
const A_CRASH: (&str, u32) = ("handler.after", 2);

/// Kills a process at each point that `is_here` keeps, at its first passage and at a later one, on
/// queues that `prepare` makes for each run in a folder of its own.
pub fn survives_a_crash_at_every_point(
    is_here: impl Fn(&str) -> bool,
    prepare: impl Fn(&Path) -> Result<Config> + Sync,
) -> Result<()> {
    let begun = Instant::now();
    let run_at = |crash_at: &[(&str, u32)]| -> Result<Lived> {
        let folder = tempfile::tempdir()?;
        let config = Config {
            delay_poll: Some(Duration::from_secs(1)),
            unknown_after: Some(Duration::from_secs(1)),
            max_receives: Some(MAX_RECEIVES),
            ack_linger: Some(Duration::from_millis(20)),
            shutdown_timeout: Some(Duration::from_secs(1)),
            ..prepare(folder.path())?
        };
        run(crash_at, &config, folder.path()).map_err(|error| {
            let ledger = std::fs::read_to_string(folder.path().join("ledger")).unwrap_or_default();
            anyhow!("with crashes at {crash_at:?}: {error:#}\nThe ledger:\n{ledger}")
        })
    };
    // Without a crash, twice, for the least number of passages.
    let calm: Vec<Lived> =
        std::thread::scope(|scope| [(); 2].map(|()| scope.spawn(|| run_at(&[]))).map(|run| run.join().unwrap()))
            .into_iter()
            .collect::<Result<_>>()?;
    let mut passages: BTreeMap<&str, u32> = BTreeMap::new();
    for Lived { account, .. } in &calm {
        let owed = PLANS.iter().all(|plan| account.all("put").any(|line| line.number == plan.number));
        ensure!(owed, "a run without a crash left something out");
        for (point, passed) in account.passages(1) {
            passages.entry(point).and_modify(|least| *least = passed.min(*least)).or_insert(passed);
        }
    }
    let mut runs = Vec::new();
    let points: Vec<&str> = dawdle::__crash::POINTS.iter().copied().filter(|point| is_here(point)).collect();
    for point in &points {
        if AFTER_A_CRASH.contains(point) {
            runs.push(vec![A_CRASH, (*point, 1)]);
            continue;
        }
        let passed = passages.get(point).copied().unwrap_or_default();
        ensure!(passed > 0, "no run passes the crash point {point}");
        runs.push(vec![(*point, 1)]);
        if passed > 1 {
            runs.push(vec![(*point, 1 + passed / 2)]);
        }
    }
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(crash_at) = runs.get(next.fetch_add(1, Relaxed)) {
                    let result = killed_at(crash_at, run_at);
                    results.lock().unwrap().push(result);
                }
            });
        }
    });
    let (mut lived, mut failed) = (Vec::new(), Vec::new());
    for result in results.into_inner().unwrap() {
        match result {
            Ok(run) => lived.push(run),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    let calm = lived.iter().filter(|run| run.crashes == 0).count();
    println!(
        "{} points, {} runs in {:.1?}: {} processes killed, {} handlers ran again; {calm} runs came to their end before \
         a later passage, {} failed",
        points.len(),
        runs.len(),
        begun.elapsed(),
        lived.iter().map(|run| run.crashes).sum::<u32>(),
        lived.iter().map(|run| run.repeated).sum::<u32>(),
        failed.len()
    );
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    ensure!(calm * 10 < runs.len(), "{calm} of {} runs were not killed", runs.len());
    Ok(())
}
