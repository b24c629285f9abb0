//! What becomes of a message on the delay queue that cannot leave it, or that was received there too
//! often: on the memory backend, in virtual time.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, SystemTime};

use dawdle::backend::memory::{Action, Fault, MemoryBackend};
use dawdle::backend::{Backend, BoxFuture, Lane, Outgoing};
use dawdle::{Clock, Config, Context, Dawdle, DeadLetter, Error, ErrorKind, Event, Filter, Outcome, State};
use dawdle::{VirtualClock, reason};
use serde::{Deserialize, Serialize};

#[path = "common/forward.rs"]
mod forward;
use forward::forward;

const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "later")]
struct Later {
    name: String,
}

type Runs = Arc<Mutex<Vec<(String, SystemTime)>>>;

#[dawdle::handler]
async fn note(event: &Later, cx: &Context, runs: State<Runs>) -> Outcome {
    runs.lock().unwrap().push((event.name.clone(), cx.now()));
    Ok(())
}

/// A queue that for good refuses bodies which hold `refused`, on the lanes given.
#[derive(Clone)]
struct Picky {
    queue: MemoryBackend,
    refuses: Arc<Mutex<Vec<Lane>>>,
}

impl Backend for Picky {
    forward!(self.queue => describe, limits, check, receive, settle, extend, inspect, browse);

    fn name(&self) -> &str {
        "picky"
    }

    fn send<'a>(&'a self, lane: Lane, messages: &'a [Outgoing]) -> BoxFuture<'a, Vec<dawdle::Result<()>>> {
        Box::pin(async move {
            let mut answers = Vec::new();
            for message in messages {
                let refuses = message.body.contains("refused") && self.refuses.lock().unwrap().contains(&lane);
                answers.push(match refuses {
                    true => Err(Error::new(ErrorKind::Refused, "this body is refused, as the test asked")),
                    false => self.queue.send(lane, std::slice::from_ref(message)).await.remove(0),
                });
            }
            answers
        })
    }
}

struct World {
    time: VirtualClock,
    backend: Picky,
    runs: Runs,
    sender: Dawdle,
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl World {
    async fn new() -> Self {
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH + seconds(1_700_000_000));
        let queue = MemoryBackend::new(Clock::from_virtual(time.clone()));
        let backend = Picky { queue, refuses: Arc::default() };
        let builder = Dawdle::builder().backend(backend.clone()).clock(Clock::from_virtual(time.clone()));
        let sender = builder.discover(false).start().await.unwrap();
        World { time, backend, runs: Runs::default(), sender }
    }

    async fn node(&self) -> Dawdle {
        let config = Config { ack_linger: Some(Duration::ZERO), ..Config::default() };
        let builder = Dawdle::builder().config(config).backend(self.backend.clone()).state(Arc::clone(&self.runs));
        builder.clock(Clock::from_virtual(self.time.clone())).start().await.unwrap()
    }

    async fn signal(&self, name: &str, delay: Duration) {
        self.sender.signal(Later { name: name.to_owned() }).delay(delay).await.unwrap();
    }

    fn refuse(&self, lanes: &[Lane]) {
        *self.backend.refuses.lock().unwrap() = lanes.to_vec();
    }

    fn runs(&self) -> Vec<(String, SystemTime)> {
        self.runs.lock().unwrap().clone()
    }

    async fn left(&self, lane: Lane) -> u64 {
        self.backend.inspect(lane).await.unwrap().total()
    }

    async fn letters(&self) -> Vec<DeadLetter> {
        let mut letters = Vec::new();
        let mut scan = self.sender.dead_letters().scan(Filter::default());
        while let Some(letter) = scan.next().await {
            letters.push(letter.unwrap());
        }
        letters
    }

    /// Receives what is on the delay queue, and dies with it in hand, so many times.
    async fn receive_and_die(&self, times: u32) {
        for _ in 0..times {
            let found = self.backend.browse(Lane::Delay, 10, seconds(30)).await.unwrap();
            assert!(!found.is_empty());
            self.time.advance(seconds(30)).await;
        }
    }
}

#[tokio::test]
async fn what_can_never_be_forwarded_is_dead_lettered_and_holds_up_nobody() {
    let world = World::new().await;
    world.signal("refused", seconds(HOUR)).await;
    world.signal("fine", seconds(HOUR)).await;
    world.refuse(&[Lane::Message]);
    let _node = world.node().await;
    world.time.advance(seconds(2 * HOUR)).await;
    assert_eq!(world.runs().len(), 1);
    let letters = world.letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].kind.as_str(), letters[0].reason.as_str()), ("later", reason::UNSENDABLE));
    assert!(letters[0].error.as_ref().unwrap().contains("as the test asked"), "{:?}", letters[0].error);
    assert_eq!((world.left(Lane::Delay).await, world.left(Lane::Message).await), (0, 0));

    world.refuse(&[]);
    world.sender.dead_letters().replay(&letters[0]).await.unwrap();
    world.time.advance(seconds(1)).await;
    assert_eq!(world.runs().len(), 2);
}

#[tokio::test]
async fn what_can_never_be_sent_afresh_is_dead_lettered_before_its_retention_ends() {
    let world = World::new().await;
    world.signal("refused", seconds(30 * DAY)).await;
    world.refuse(&[Lane::Delay]);
    let _node = world.node().await;
    world.time.advance(seconds(14 * DAY)).await;
    let letters = world.letters().await;
    assert_eq!((letters.len(), letters[0].reason.as_str()), (1, reason::UNSENDABLE));
    assert_eq!(world.left(Lane::Delay).await, 0);
}

#[tokio::test]
async fn what_fits_nowhere_stays_on_the_delay_queue_and_is_reported() {
    let log = Log::listen();
    let world = World::new().await;
    world.signal("refused", seconds(HOUR)).await;
    world.refuse(&[Lane::Message, Lane::Dead]);
    let _node = world.node().await;
    world.time.advance(seconds(2 * HOUR)).await;
    assert_eq!((world.left(Lane::Delay).await, world.letters().await.len()), (1, 0));
    assert!(log.text().contains("cannot be moved, and stays on the queue"), "{}", log.text());
    world.refuse(&[]);
    world.time.advance(seconds(600)).await;
    assert_eq!((world.runs().len(), world.left(Lane::Delay).await), (1, 0));
}

#[tokio::test]
async fn a_body_that_is_no_event_is_forwarded_and_dead_lettered_as_undecodable() {
    let world = World::new().await;
    world.backend.send(Lane::Delay, &[Outgoing::new("no event")]).await.remove(0).unwrap();
    let _node = world.node().await;
    world.time.advance(seconds(300)).await;
    let letters = world.letters().await;
    assert_eq!((letters.len(), letters[0].reason.as_str()), (1, reason::UNDECODABLE));
    assert_eq!(world.left(Lane::Delay).await, 0);
}

#[tokio::test]
async fn an_outage_of_sends_for_half_a_day_makes_nothing_poison() {
    let world = World::new().await;
    let due = world.time.now() + seconds(HOUR);
    for number in 0..20 {
        world.signal(&number.to_string(), seconds(HOUR)).await;
    }
    let _node = world.node().await;
    world.time.advance(seconds(HOUR / 2)).await;
    world.backend.queue.fail(Fault::unavailable(Action::Send).times(u32::MAX));
    world.time.advance(seconds(12 * HOUR)).await;
    assert_eq!(world.runs().len(), 0);
    world.backend.queue.heal();
    world.time.advance(seconds(900)).await;
    assert_eq!((world.runs().len(), world.letters().await.len()), (20, 0));
    assert!(world.runs().iter().all(|(_, at)| *at >= due));
    assert_eq!((world.left(Lane::Delay).await, world.left(Lane::Message).await), (0, 0));
}

#[tokio::test]
async fn one_that_was_received_too_often_is_forwarded_unread_and_is_still_not_early() {
    let world = World::new().await;
    let due = world.time.now() + seconds(3 * DAY);
    world.signal("innocent", seconds(3 * DAY)).await;
    world.time.advance(seconds(900)).await;
    world.receive_and_die(12).await;
    let log = Log::listen();
    let _node = world.node().await;
    world.time.advance(seconds(1)).await;
    assert!(log.text().contains("forwarded unread"), "{}", log.text());
    assert_eq!((world.runs().len(), world.left(Lane::Delay).await), (0, 1), "sent back by the message queue");
    world.time.advance(seconds(3 * DAY)).await;
    let runs = world.runs();
    assert!(runs.len() == 1 && runs[0].1 >= due && runs[0].1 < due + seconds(1), "{runs:?}");
    assert_eq!(world.letters().await.len(), 0);
}

#[tokio::test]
async fn what_cannot_be_sent_afresh_outlives_its_retention_as_long_as_one_queue_takes_it() {
    let world = World::new().await;
    world.signal("late", seconds(30 * DAY)).await;
    let _node = world.node().await;
    world.time.advance(seconds(6 * DAY)).await;
    world.backend.queue.fail(Fault::unavailable(Action::Send).on(Lane::Delay).times(u32::MAX));
    world.time.advance(seconds(9 * DAY)).await;
    world.backend.queue.heal();
    world.time.advance(seconds(16 * DAY)).await;
    assert_eq!((world.runs().len(), world.letters().await.len()), (1, 0));
}

#[tokio::test]
async fn a_fleet_that_is_off_for_six_days_at_any_time_loses_nothing() {
    for stopped_after in [1, 7 * DAY, 13 * DAY + 12 * HOUR, 20 * DAY] {
        let world = World::new().await;
        let due = world.time.now() + seconds(30 * DAY);
        world.signal("late", seconds(30 * DAY)).await;
        let node = world.node().await;
        world.time.advance(seconds(stopped_after)).await;
        let stopping = tokio::spawn(async move { node.shutdown().await });
        world.time.advance(seconds(60)).await;
        stopping.await.unwrap();
        world.time.advance(seconds(6 * DAY)).await;
        let _node = world.node().await;
        world.time.advance(seconds(30 * DAY)).await;
        let runs = world.runs();
        assert!(runs.len() == 1 && runs[0].1 >= due && runs[0].1 < due + seconds(1), "{stopped_after}: {runs:?}");
    }
}

#[tokio::test]
async fn a_count_that_fails_costs_no_look() {
    let world = World::new().await;
    let due = world.time.now() + seconds(HOUR);
    for number in 0..250 {
        world.signal(&number.to_string(), seconds(HOUR)).await;
    }
    let node = world.node().await;
    world.backend.queue.fail(Fault::throttled(Action::Inspect).times(u32::MAX));
    world.time.advance(seconds(2 * HOUR)).await;
    let runs = world.runs();
    assert!(runs.len() == 250 && runs.iter().all(|(_, at)| *at >= due && *at < due + seconds(1)), "{}", runs.len());
    assert!(node.health().is_running());
}

#[tokio::test]
async fn somebody_learns_of_a_message_that_cannot_be_sent_afresh_before_its_retention_ends() {
    let log = Log::listen();
    let world = World::new().await;
    world.signal("lost", seconds(30 * DAY)).await;
    let _node = world.node().await;
    world.time.advance(seconds(6 * DAY)).await;
    world.backend.queue.fail(Fault::unavailable(Action::Send).times(u32::MAX));
    world.time.advance(seconds(7 * DAY + HOUR)).await;
    let log = log.text();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(!errors.is_empty() && errors.iter().all(|line| line.contains("LOST when its retention ends")), "{log}");
    world.backend.queue.heal();
    world.time.advance(seconds(18 * DAY)).await;
    assert_eq!((world.runs().len(), world.letters().await.len()), (1, 0));
}

thread_local! {
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What is logged on this thread, which is all that its test does.
#[derive(Clone, Copy)]
struct Log;

impl Log {
    fn listen() -> Log {
        // For all tests at once: which levels are wanted is kept for the whole process.
        static ONCE: Once = Once::new();
        ONCE.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| Log).init());
        Log
    }

    fn text(self) -> String {
        LOG.with_borrow(|log| String::from_utf8_lossy(log).into_owned())
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.with_borrow_mut(|log| log.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
