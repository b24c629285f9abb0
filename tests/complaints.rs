//! What users of other queue libraries complain of, each brought about here, and what Dawdle does
//! instead. The complaints that need the network are in `complaints_sqs.rs`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use dawdle::backend::memory::{Action, Fault, MemoryBackend};
use dawdle::backend::{Backend, Lane, Limits};
use dawdle::{
    Builder, Clock, Config, Context, Dawdle, ErrorKind, Event, Failure, Outcome, State, VirtualClock, handlers,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Barrier;

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod common;
#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
#[path = "common/line.rs"]
mod line;
use line::{Does, Line};

const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a task's handler does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Way {
    Succeeds,
    Fails,
    Panics,
    /// Until its timeout of 100 s.
    Hangs,
    /// Until the test lets it end.
    Waits,
    /// Ten seconds, once.
    Snoozes,
    DeadLetters,
    Discards,
    /// Until as many run at once as there are permits.
    Meets,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "complaint.task")]
struct Task {
    number: usize,
    way: Way,
}

/// The same for a handler with a limit of its own.
#[derive(Serialize, Deserialize, Event)]
#[event(kind = "complaint.limited")]
struct Limited {
    way: Way,
}

/// Has one handler that fails, to be tried again in 50 s, and one that hangs for 100 s.
#[derive(Serialize, Deserialize, Event)]
#[event(kind = "complaint.order")]
struct Order;

/// What the handlers share with their test.
#[derive(Clone)]
struct Seen(Arc<Inner>);

struct Inner {
    begun: AtomicUsize,
    /// Of each task that was finished, its number and when.
    done: Mutex<Vec<(usize, SystemTime)>>,
    met: AtomicUsize,
    all: Barrier,
    limited: Barrier,
    end: tokio::sync::Semaphore,
}

/// Handlers at once, on a node and of the handler with a limit.
const AT_ONCE: usize = 10;
const LIMIT: usize = 3;

impl Default for Seen {
    fn default() -> Self {
        Seen(Arc::new(Inner {
            begun: AtomicUsize::new(0),
            done: Mutex::default(),
            met: AtomicUsize::new(0),
            all: Barrier::new(AT_ONCE),
            limited: Barrier::new(LIMIT),
            end: tokio::sync::Semaphore::new(0),
        }))
    }
}

impl Seen {
    fn begun(&self) -> usize {
        self.0.begun.load(Ordering::Relaxed)
    }

    fn done(&self) -> usize {
        self.0.done.lock().unwrap().len()
    }

    fn met(&self) -> usize {
        self.0.met.load(Ordering::Relaxed)
    }

    /// How many distinct tasks were finished.
    fn distinct(&self) -> usize {
        let numbers: std::collections::BTreeSet<usize> = self.0.done.lock().unwrap().iter().map(|(n, _)| *n).collect();
        numbers.len()
    }

    async fn go(&self, way: Way, number: usize, all: &Barrier, cx: &Context) -> Outcome {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        match way {
            Way::Succeeds => {}
            Way::Fails => return Err("it fails")?,
            Way::Panics => panic!("it panics"),
            Way::Hangs => std::future::pending().await,
            Way::Waits => self.0.end.acquire().await?.forget(),
            Way::Snoozes if cx.now() < cx.signalled_at() + seconds(10) => return Err(Failure::snooze(seconds(10))),
            Way::Snoozes => {}
            Way::DeadLetters => return Err(Failure::dead_letter("no use")),
            Way::Discards => return Err(Failure::discard("no use")),
            Way::Meets => {
                all.wait().await;
                self.0.met.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.0.done.lock().unwrap().push((number, cx.now()));
        Ok(())
    }
}

#[dawdle::handler(attempts = 1, timeout = "100s")]
async fn work(task: &Task, cx: &Context, seen: State<Seen>) -> Outcome {
    seen.go(task.way, task.number, &seen.0.all, cx).await
}

#[dawdle::handler(attempts = 1, timeout = "100s", concurrency = LIMIT)]
async fn work_few(task: &Limited, cx: &Context, seen: State<Seen>) -> Outcome {
    seen.go(task.way, 0, &seen.0.limited, cx).await
}

#[dawdle::handler(backoff = "50s..50s")]
async fn charge(_: &Order, seen: State<Seen>) -> Outcome {
    seen.0.begun.fetch_add(1, Ordering::Relaxed);
    Err("the bank is closed")?
}

#[dawdle::handler(attempts = 1, timeout = "100s")]
async fn pack(_: &Order) -> Outcome {
    std::future::pending().await
}

/// A queue like SQS's, in memory, and nodes on it.
struct Stage {
    time: VirtualClock,
    clock: Clock,
    queue: MemoryBackend,
    seen: Seen,
}

impl Stage {
    fn new() -> Self {
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH + seconds(1_700_000_000));
        let clock = Clock::from_virtual(time.clone());
        let queue = MemoryBackend::new(clock.clone());
        Stage { time, clock, queue, seen: Seen::default() }
    }

    fn line(&self) -> Line {
        Line::new(&self.queue, &self.clock)
    }

    /// A node on a line to the queue.
    fn node(&self, line: &Line) -> Builder {
        let config = Config { concurrency: Some(AT_ONCE), ..Config::default() };
        let builder = Dawdle::builder().config(config).backend(line.clone()).clock(self.clock.clone());
        builder.discover(false).handlers(handlers![work, work_few, charge, pack]).state(self.seen.clone())
    }

    async fn start(&self, line: &Line) -> Dawdle {
        self.node(line).start().await.unwrap()
    }

    /// A process that only sends, on a line of its own.
    async fn sender(&self) -> Dawdle {
        self.node(&self.line()).listener(false).start().await.unwrap()
    }

    async fn advance(&self, span: Duration) {
        self.time.advance(span).await;
    }

    /// Runs a call of the node's while the clock goes on.
    async fn during<F>(&self, call: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let call = tokio::spawn(call);
        while !call.is_finished() {
            self.advance(millis(100)).await;
        }
        call.await.unwrap()
    }

    async fn signal_all(&self, node: &Dawdle, tasks: impl IntoIterator<Item = Task>) {
        let (node, tasks): (_, Vec<Task>) = (node.clone(), tasks.into_iter().collect());
        let answers = self.during(async move { node.signal_all(tasks).await }).await;
        answers.into_iter().for_each(|answer| assert!(answer.is_ok()));
    }

    async fn stats(&self, lane: Lane) -> dawdle::backend::LaneStats {
        self.queue.inspect(lane).await.unwrap()
    }

    async fn on(&self, lane: Lane) -> u64 {
        self.stats(lane).await.total()
    }
}

fn tasks(count: usize, way: Way) -> impl Iterator<Item = Task> {
    (0..count).map(move |number| Task { number, way })
}

fn task(way: Way) -> Task {
    Task { number: 0, way }
}

/// sqs-consumer, pull request 151.
#[tokio::test]
async fn complaint_02_no_odd_error_ends_the_loop() {
    use ErrorKind::*;
    let kinds = [
        Config,
        Registration,
        Queue,
        Invalid,
        Codec,
        TooLarge,
        Overloaded,
        Full,
        NotInstalled,
        ShutDown,
        Unavailable,
        Throttled,
        Credentials,
        LeaseLost,
        Refused,
    ];
    let odd = kinds.map(Does::Fail).into_iter().chain([Does::Panic]);
    let stage = Stage::new();
    let line = stage.line();
    let node = stage.start(&line).await;
    let sender = stage.sender().await;
    for (round, odd) in odd.enumerate() {
        for action in [Action::Receive, Action::Browse, Action::Settle, Action::Extend, Action::Send] {
            let (struck, mut times) = (Arc::new(AtomicUsize::new(0)), 1);
            let strikes = Arc::clone(&struck);
            line.script(move |of, _| {
                if of != action || times == 0 {
                    return Does::Work;
                }
                times -= 1;
                strikes.fetch_add(1, Ordering::Relaxed);
                odd
            });
            // One to be handled, one long enough for an extension, one whose end is written down.
            for way in [Way::Succeeds, Way::Hangs, Way::DeadLetters] {
                sender.signal(task(way)).await.unwrap();
            }
            stage.advance(seconds(5 * MINUTE)).await;
            assert_eq!(struck.load(Ordering::Relaxed), 1, "{odd:?} never came to {action:?}");
            let done = stage.seen.done();
            sender.signal(task(Way::Succeeds)).await.unwrap();
            sender.signal(task(Way::Succeeds)).delay(seconds(HOUR)).await.unwrap();
            stage.advance(seconds(5)).await;
            assert_eq!(stage.seen.done(), done + 1, "no message came after {odd:?} of {action:?} (round {round})");
            stage.advance(seconds(HOUR)).await;
            assert_eq!(stage.seen.done(), done + 2, "no delayed one came after {odd:?} of {action:?}");
            assert_eq!((stage.on(Lane::Message).await, stage.on(Lane::Delay).await), (0, 0));
        }
    }
    drop(node);
}

/// sqs-consumer #484.
#[tokio::test]
async fn complaint_03_a_queue_that_is_missing_or_out_of_reach_is_asked_ever_less_often_and_never_in_step() {
    for kind in [ErrorKind::Queue, ErrorKind::Unavailable] {
        let stage = Stage::new();
        let lines = [stage.line(), stage.line()];
        for line in &lines {
            stage.start(line).await;
            line.script(move |action, _| match action {
                Action::Receive | Action::Browse => Does::Fail(kind),
                _ => Does::Work,
            });
        }
        stage.advance(seconds(30)).await;
        lines.iter().for_each(Line::reset);
        stage.advance(seconds(HOUR)).await;
        let mut pauses = Vec::new();
        for (line, lane, action) in
            lines.iter().flat_map(|line| [(line, Lane::Message, Action::Receive), (line, Lane::Delay, Action::Browse)])
        {
            let calls = line.calls(action, lane);
            // From 4 to 5 seconds apart, once they have backed off that far.
            assert!((700..=905).contains(&calls.len()), "{} calls of {action:?} in an hour", calls.len());
            pauses.extend(calls.windows(2).map(|two| two[1].duration_since(two[0]).unwrap()));
        }
        assert!(pauses.iter().all(|pause| (seconds(4)..=seconds(5)).contains(pause)), "{:?}", pauses.iter().min());
        pauses.sort_unstable();
        pauses.dedup();
        assert!(pauses.len() > 1_000, "no jitter: {} different pauses", pauses.len());

        let sender = stage.sender().await;
        sender.signal(task(Way::Succeeds)).await.unwrap();
        lines.iter().for_each(|line| line.script(|_, _| Does::Work));
        stage.advance(seconds(5)).await;
        assert_eq!(stage.seen.done(), 1, "within seconds of its return");
    }
}

/// aws-sdk-js #2350, celery #8875.
#[tokio::test]
async fn complaint_04_a_stop_awaits_its_open_poll_and_gives_back_what_that_brings() {
    let stage = Stage::new();
    // One for all: a poll that is given up is between the queue and whoever sends.
    let line = stage.line();
    let sender = stage.node(&line).listener(false).start().await.unwrap();
    let stopping = stage.start(&line).await;
    stage.advance(seconds(5)).await;
    let stopped = tokio::spawn(async move { stopping.shutdown().await });
    stage.advance(seconds(1)).await;
    sender.signal(task(Way::Succeeds)).await.unwrap();
    stage.advance(seconds(2)).await;
    stopped.await.unwrap();
    assert_eq!((stage.seen.begun(), stage.stats(Lane::Message).await.visible), (0, 1), "it is given back");
    let next = stage.start(&line).await;
    stage.advance(seconds(1)).await;
    assert_eq!(stage.seen.done(), 1, "at once, and not when a lease of 30 s has ended");

    // A poll that outlasts the stop may take a message with it: until its lease ends, and no longer.
    stage.during(async move { next.shutdown().await }).await;
    sender.signal(task(Way::Succeeds)).await.unwrap();
    stage.start(&line).await;
    stage.advance(seconds(29)).await;
    assert_eq!((stage.seen.done(), stage.stats(Lane::Message).await.in_flight), (1, 1), "the ghost has it");
    stage.advance(seconds(2)).await;
    assert_eq!((stage.seen.done(), stage.on(Lane::Message).await), (2, 0));
}

/// The same while handlers run: their time is used to wait for the poll.
#[tokio::test]
async fn complaint_04_no_poll_is_given_up_while_handlers_are_waited_for() {
    let stage = Stage::new();
    let (sender, stopping) = (stage.sender().await, stage.start(&stage.line()).await);
    sender.signal(task(Way::Waits)).await.unwrap();
    stage.advance(seconds(1)).await;
    let stopped = tokio::spawn(async move { stopping.shutdown().await });
    stage.advance(seconds(15)).await;
    sender.signal(task(Way::Succeeds)).await.unwrap();
    stage.advance(seconds(1)).await;
    assert_eq!(stage.stats(Lane::Message).await.visible, 1, "taken by the open poll, and given back");
    stage.seen.0.end.add_permits(1);
    stage.advance(seconds(10)).await;
    stopped.await.unwrap();
    assert_eq!((stage.seen.done(), stage.on(Lane::Message).await), (1, 1));
}

/// wolverine #3503, sqs-consumer #193, omniqueue.
#[tokio::test]
async fn complaint_05_an_entry_that_fails_within_a_batch_is_sent_and_acked_again_and_it_alone() {
    let stage = Stage::new();
    let line = stage.line();
    let sender = stage.sender().await;
    for failing in [Fault::unavailable(Action::Send), Fault::throttled(Action::Send)] {
        stage.queue.fail(failing.entry(3));
    }
    stage.signal_all(&sender, tasks(50, Way::Succeeds)).await;
    assert_eq!(stage.on(Lane::Message).await, 50, "what was answered ok is there, once");

    for failing in [Fault::unavailable(Action::Settle), Fault::throttled(Action::Settle)] {
        stage.queue.fail(failing.entry(3));
    }
    stage.start(&line).await;
    stage.advance(millis(99)).await;
    assert_eq!((stage.seen.done(), stage.on(Lane::Message).await), (50, 2), "two acks failed");
    stage.advance(seconds(3)).await;
    assert_eq!(stage.on(Lane::Message).await, 0, "and were made again");
    stage.advance(seconds(HOUR)).await;
    assert_eq!((stage.seen.begun(), stage.seen.distinct()), (50, 50));
}

/// spring-cloud-aws #1554.
#[tokio::test]
async fn complaint_08_messages_that_wait_for_a_handler_are_extended_like_those_that_run() {
    let stage = Stage::new();
    let line = stage.line();
    let sender = stage.sender().await;
    stage.signal_all(&sender, tasks(5, Way::Hangs)).await;
    let one = Config { concurrency: Some(1), ..Config::default() };
    let _slow = stage.node(&line).config(one).start().await.unwrap();
    stage.advance(seconds(1)).await;
    assert_eq!(line.received(), [5], "one runs, and four wait");
    // A node with nothing to do takes whatever shows.
    let idle = stage.line();
    stage.start(&idle).await;
    for begun in 1..=5 {
        stage.advance(seconds(98)).await;
        assert_eq!((stage.seen.begun(), idle.received().len()), (begun, 0));
        assert_eq!(stage.stats(Lane::Message).await.visible, 0);
        stage.advance(seconds(2)).await;
    }
    assert_eq!((stage.seen.begun(), stage.on(Lane::Message).await, stage.on(Lane::Dead).await), (5, 0, 5));
}

/// MassTransit #6179.
#[tokio::test]
async fn complaint_09_however_a_handler_ends_nothing_extends_its_message_any_more() {
    let stage = Stage::new();
    let line = stage.line();
    let ways =
        [Way::Succeeds, Way::Fails, Way::Panics, Way::Hangs, Way::Waits, Way::Snoozes, Way::DeadLetters, Way::Discards];
    let sender = stage.sender().await;
    let short = Config { shutdown_timeout: Some(seconds(6)), ..Config::default() };
    let node = stage.node(&line).config(short).start().await.unwrap();
    for way in ways {
        sender.signal(task(way)).await.unwrap();
    }
    stage.advance(seconds(60)).await;
    assert!(line.count(Action::Extend, Lane::Message) > 3, "those that run long are extended");
    stage.seen.0.end.add_permits(1);
    stage.advance(seconds(41)).await;
    line.reset();
    stage.advance(seconds(12 * HOUR)).await;
    assert_eq!(line.count(Action::Extend, Lane::Message), 0, "all have ended");
    assert_eq!((stage.on(Lane::Message).await, stage.on(Lane::Dead).await), (0, 4));

    // One whose lease was lost, and one that a stop has dropped.
    sender.signal(task(Way::Hangs)).await.unwrap();
    line.script(|action, _| if action == Action::Extend { Does::Fail(ErrorKind::LeaseLost) } else { Does::Work });
    stage.advance(seconds(20)).await;
    line.script(|_, _| Does::Work);
    stage.advance(seconds(200)).await;
    sender.signal(task(Way::Hangs)).await.unwrap();
    stage.advance(seconds(50)).await;
    stage.during(async move { node.shutdown().await }).await;
    line.reset();
    stage.advance(seconds(12 * HOUR)).await;
    assert_eq!(line.count(Action::Extend, Lane::Message), 0);
    assert_eq!(stage.stats(Lane::Message).await.in_flight, 0, "no message is pinned");
}

/// sqs-consumer #86.
#[tokio::test]
async fn complaint_10_a_slow_message_holds_up_neither_its_batch_mates_nor_their_acks() {
    let stage = Stage::new();
    let line = stage.line();
    let sender = stage.sender().await;
    stage
        .signal_all(
            &sender,
            tasks(10, Way::Succeeds)
                .map(|task| Task { way: if task.number == 4 { Way::Hangs } else { task.way }, ..task }),
        )
        .await;
    stage.start(&line).await;
    stage.advance(seconds(1)).await;
    assert_eq!(line.received(), [10], "they came in one batch");
    assert_eq!((stage.seen.done(), stage.on(Lane::Message).await), (9, 1), "only the slow one is left");
    // Nor what comes after them.
    stage.signal_all(&sender, tasks(100, Way::Succeeds)).await;
    stage.advance(seconds(1)).await;
    assert_eq!((stage.seen.done(), stage.on(Lane::Message).await), (109, 1));
}

/// spring-cloud-aws #719, #1051, #1187.
#[tokio::test]
async fn complaint_11_after_thousands_of_runs_that_went_wrong_every_permit_is_back_and_polling_goes_on() {
    let stage = Stage::new();
    let line = stage.line();
    let sender = stage.sender().await;
    let short = Config { concurrency: Some(AT_ONCE), shutdown_timeout: Some(seconds(6)), ..Config::default() };
    let node = stage.node(&line).config(short).start().await.unwrap();
    let ways = [Way::Fails, Way::Panics, Way::Hangs, Way::Snoozes, Way::DeadLetters, Way::Discards];
    for round in 0..10 {
        stage.signal_all(&sender, (0..300).map(|number| Task { number, way: ways[number % ways.len()] })).await;
        for number in 0..60 {
            sender.signal(Limited { way: ways[number % ways.len()] }).await.unwrap();
        }
        // Leases are lost under it, calls fail and panic, and it is stopped with handlers running.
        let mut random = fastrand::Rng::with_seed(round);
        line.script(move |action, _| match (action, random.u8(0..10)) {
            (Action::Extend, 0..6) => Does::Fail(ErrorKind::LeaseLost),
            (Action::Send | Action::Settle | Action::Receive | Action::Extend, 8) => Does::Fail(ErrorKind::Unavailable),
            (Action::Send | Action::Settle | Action::Receive | Action::Extend, 9) => Does::Panic,
            _ => Does::Work,
        });
        stage.advance(seconds(150)).await;
        let stopping = node.clone();
        stage.during(async move { stopping.stop_listener().await }).await;
        node.start_listener().await.unwrap();
    }
    line.script(|_, _| Does::Work);
    stage.advance(seconds(6 * HOUR)).await;
    assert!(stage.seen.begun() > 3_000, "{} runs", stage.seen.begun());
    assert_eq!(stage.on(Lane::Message).await, 0);

    stage.signal_all(&sender, tasks(AT_ONCE, Way::Meets)).await;
    stage.advance(seconds(1)).await;
    assert_eq!(stage.seen.met(), AT_ONCE, "as many run at once as there are permits");
    for _ in 0..LIMIT {
        sender.signal(Limited { way: Way::Meets }).await.unwrap();
    }
    stage.advance(seconds(1)).await;
    assert_eq!(stage.seen.met(), AT_ONCE + LIMIT, "as many of one handler as it has of its own");
    assert_eq!(stage.on(Lane::Message).await, 0);
}

/// celery #3270, #4766.
#[tokio::test]
async fn complaint_12_a_delay_of_three_days_runs_once_and_not_once_per_visibility_timeout() {
    let stage = Stage::new();
    for _ in 0..3 {
        stage.start(&stage.line()).await;
    }
    stage.sender().await.signal(task(Way::Succeeds)).delay(seconds(3 * DAY)).await.unwrap();
    stage.advance(seconds(3 * DAY) - millis(1)).await;
    assert_eq!(stage.seen.begun(), 0);
    stage.advance(seconds(1)).await;
    assert_eq!(stage.seen.done(), 1);
    stage.advance(seconds(10 * DAY)).await;
    assert_eq!((stage.seen.begun(), stage.on(Lane::Message).await, stage.on(Lane::Delay).await), (1, 0, 0));
}

/// NServiceBus.AmazonSQS #519.
#[tokio::test]
async fn complaint_13_twenty_thousand_events_due_at_one_time_all_come_through_in_time() {
    const EVENTS: usize = 20_000;
    let stage = Stage::new();
    let line = stage.line();
    // A request takes as long as one does between an instance and SQS.
    line.script(|action, _| if action == Action::Receive { Does::Work } else { Does::Slow(millis(20)) });
    let _node = stage.start(&line).await;
    let sender = stage.sender().await;
    let due = stage.time.now() + seconds(HOUR);
    let sending = sender.clone();
    let sent = stage.during(async move {
        let signals = tasks(EVENTS, Way::Succeeds).map(|task| sending.signal(task).at(due).into_future());
        futures_util::future::join_all(signals).await
    });
    assert_eq!(sent.await.into_iter().filter(Result::is_ok).count(), EVENTS);
    stage.advance(due.duration_since(stage.time.now()).unwrap() - millis(1)).await;
    assert_eq!((stage.seen.begun(), stage.on(Lane::Delay).await), (0, 0), "all are on the message queue");
    stage.advance(seconds(30)).await;
    assert_eq!((stage.seen.begun(), stage.seen.distinct()), (EVENTS, EVENTS));
}

/// A node's calls of one action in a day without events.
async fn calls_of_an_idle_day(stage: &Stage, action: Action, lane: Lane) -> usize {
    let line = stage.line();
    stage.start(&line).await;
    stage.advance(seconds(MINUTE)).await;
    line.reset();
    stage.advance(seconds(DAY)).await;
    for (of, on) in [(Action::Send, Lane::Message), (Action::Extend, Lane::Message), (Action::Inspect, Lane::Delay)] {
        assert_eq!(line.count(of, on), 0, "{of:?} on an idle day");
    }
    line.count(action, lane)
}

/// NServiceBus.AmazonSQS #2161.
#[tokio::test]
async fn complaint_14_an_unused_delay_queue_costs_one_look_every_few_minutes_and_none_where_there_is_none() {
    let looks = calls_of_an_idle_day(&Stage::new(), Action::Browse, Lane::Delay).await;
    // Four minutes, less up to a quarter of jitter; with one long poll after another it is 4,320.
    assert!((360..=480).contains(&looks), "{looks} looks a day");
    let mut stage = Stage::new();
    let mut limits = Limits::sqs();
    limits.delay_lane = false;
    stage.queue = MemoryBackend::with_limits(stage.clock.clone(), limits);
    assert_eq!(calls_of_an_idle_day(&stage, Action::Browse, Lane::Delay).await, 0);
}

/// kombu #96.
#[tokio::test]
async fn complaint_15_an_idle_node_makes_one_long_poll_after_another_and_nothing_else() {
    let stage = Stage::new();
    let polls = calls_of_an_idle_day(&stage, Action::Receive, Lane::Message).await;
    assert!((4_319..=4_321).contains(&polls), "{polls} polls a day");
}

/// The same after a burst, for which a node receives side by side.
#[tokio::test]
async fn complaint_15_a_node_that_was_busy_comes_back_to_one_poll_at_a_time() {
    let stage = Stage::new();
    let line = stage.line();
    line.script(|_, _| Does::Slow(millis(20)));
    stage.start(&line).await;
    let sender = stage.sender().await;
    stage.signal_all(&sender, tasks(5_000, Way::Succeeds)).await;
    stage.advance(seconds(MINUTE)).await;
    assert_eq!(stage.seen.done(), 5_000);
    line.reset();
    stage.advance(seconds(HOUR)).await;
    let polls = line.count(Action::Receive, Lane::Message);
    assert!((178..=182).contains(&polls), "{polls} polls an hour");
}

/// amazon-sqs-java-messaging-lib #113.
#[tokio::test]
async fn complaint_17_what_a_node_holds_unacked_is_bounded_whatever_waits_on_the_queue() {
    const PREFETCH: usize = 50;
    const HELD: usize = 20;
    let config =
        || Config { concurrency: Some(AT_ONCE), prefetch: Some(PREFETCH), max_held: Some(HELD), ..Config::default() };
    // What runs, waits, is held, and is being settled.
    let bound = AT_ONCE + PREFETCH + HELD + PREFETCH;

    let stage = Stage::new();
    let line = stage.line();
    let sender = stage.sender().await;
    stage.signal_all(&sender, tasks(5_000, Way::Hangs)).await;
    for _ in 0..200 {
        sender.signal(Limited { way: Way::Hangs }).await.unwrap();
    }
    stage.node(&line).config(config()).start().await.unwrap();
    for _ in 0..60 {
        stage.advance(seconds(10)).await;
        let held = stage.stats(Lane::Message).await.in_flight as usize;
        assert!((AT_ONCE..=bound).contains(&held), "{held} held, and {bound} is the bound");
    }

    // Nor where handlers are fast and acks hang.
    let stage = Stage::new();
    let line = stage.line();
    stage.signal_all(&stage.sender().await, tasks(5_000, Way::Succeeds)).await;
    line.script(|action, _| if action == Action::Settle { Does::Hang } else { Does::Work });
    stage.node(&line).config(config()).start().await.unwrap();
    stage.advance(seconds(5 * MINUTE)).await;
    let received: usize = line.received().iter().sum();
    assert!((AT_ONCE..=bound).contains(&received), "{received} received, and {bound} is the bound");
}

/// NServiceBus.AmazonSQS #210.
#[tokio::test]
async fn complaint_18_a_node_whose_clock_is_off_by_minutes_runs_nothing_early_or_late() {
    for ahead in [-5 * 60_000_i64, 5 * 60_000] {
        let stage = Stage::new();
        // The node's own clock; the queue's is the stage's.
        let span = millis(ahead.unsigned_abs());
        let shown = if ahead < 0 { stage.time.now() - span } else { stage.time.now() + span };
        let off = VirtualClock::new(shown);
        let line = Line::of_a_clock_behind_by(&stage.queue, &stage.clock, -ahead);
        let node = stage.node(&line).clock(Clock::from_virtual(off.clone())).start().await.unwrap();
        let sender = stage.sender().await;
        let begun = stage.time.now();
        // By a sender whose clock is right, by one whose clock is off, and by a date.
        sender.signal(Task { number: 0, way: Way::Succeeds }).delay(seconds(20)).await.unwrap();
        node.signal(Task { number: 1, way: Way::Succeeds }).delay(seconds(20)).await.unwrap();
        node.signal(Task { number: 2, way: Way::Succeeds }).at(begun + seconds(20)).await.unwrap();
        for step in 1..=250 {
            stage.advance(millis(100)).await;
            off.advance(millis(100)).await;
            let ran = stage.seen.done();
            match step {
                ..200 => assert_eq!(ran, 0, "early, after {:?}", millis(100) * step),
                200 => {}
                _ => assert_eq!(ran, 3, "late, after {:?}", millis(100) * step),
            }
        }
    }
}

/// apalis #503, #497.
#[tokio::test]
async fn complaint_21_a_retry_that_waits_holds_no_worker_no_message_and_no_place() {
    let stage = Stage::new();
    let line = stage.line();
    let sender = stage.sender().await;
    let two = Config { concurrency: Some(2), prefetch: Some(1), ..Config::default() };
    stage.node(&line).config(two).start().await.unwrap();
    // One snooze for each worker, place and more.
    stage.signal_all(&sender, tasks(50, Way::Snoozes)).await;
    stage.advance(seconds(1)).await;
    assert_eq!((stage.seen.begun(), stage.stats(Lane::Message).await.in_flight), (50, 0), "they wait on the queue");
    sender.signal(task(Way::Succeeds)).await.unwrap();
    stage.advance(seconds(1)).await;
    assert_eq!(stage.seen.done(), 1);
    stage.advance(seconds(20)).await;
    assert_eq!(stage.seen.done(), 51);

    // A handler that is tried again under its message's lease, for a sibling still runs.
    let begun = stage.seen.begun();
    sender.signal(Order).await.unwrap();
    stage.advance(seconds(1)).await;
    assert_eq!(stage.seen.begun(), begun + 1, "`charge` has failed, and `pack` runs");
    for _ in 0..20 {
        sender.signal(task(Way::Succeeds)).await.unwrap();
        stage.advance(seconds(1)).await;
    }
    assert_eq!(stage.seen.done(), 71, "the second worker is free");
}

#[cfg(feature = "local")]
mod on_a_file {
    use anyhow::{Result, ensure};
    use dawdle::BackendKind;
    use dawdle::backend::local::{LocalBackend, LocalOptions};

    use super::*;
    use crate::common::{Ledger, Process, counts, say, told, until};

    #[derive(Serialize, Deserialize, Event)]
    #[event(kind = "complaint.job")]
    struct Job {
        number: u64,
    }

    /// Writes its number when it begins, and takes long.
    #[dawdle::handler]
    async fn enter(job: &Job, ledger: State<Ledger>) -> Outcome {
        ledger.write(&[job.number])?;
        say("begun");
        tokio::time::sleep(seconds(4)).await;
        say("ended");
        Ok(())
    }

    fn config(folder: &tempfile::TempDir) -> Config {
        let path = folder.path().join("queue.db");
        Config { backend: Some(BackendKind::Local), local_path: Some(path), ..Config::default() }
    }

    /// Continuum.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn complaint_22_a_second_process_that_starts_steals_nothing_that_is_alive() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (config, ledger) = (config(&folder), folder.path().join("ledger"));
        let sender = Dawdle::builder().config(config.clone()).discover(false).listener(false).start().await?;
        let first = Process::start("listen", &config, &ledger)?;
        first.wait_for("listens")?;
        for number in 0..3 {
            sender.signal(Job { number }).await?;
        }
        (0..3).try_for_each(|_| first.wait_for("begun"))?;
        // Twice over, as when a deployment restarts; one of them dies.
        let mut second = Process::start("listen", &config, &ledger)?;
        second.wait_for("listens")?;
        second.kill()?;
        let third = Process::start("listen", &config, &ledger)?;
        third.wait_for("listens")?;
        (0..3).try_for_each(|_| first.wait_for("ended"))?;
        let backend = LocalBackend::open(folder.path().join("queue.db"), LocalOptions::default()).await?;
        until(seconds(10), "the queue is empty", async || Ok(backend.inspect(Lane::Message).await?.total() == 0))
            .await?;
        ensure!(counts(&ledger)? == [(0, 1), (1, 1), (2, 1)].into(), "{:?}", counts(&ledger)?);
        Ok(())
    }

    /// Continuum.
    #[tokio::test]
    async fn complaint_23_what_a_full_queue_or_a_limit_of_size_refuses_is_an_error_and_is_not_there() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let small = Config { local_max_messages: Some(3), local_max_message_bytes: Some(20_000), ..config(&folder) };
        let sender = Dawdle::builder().config(small).discover(false).listener(false).start().await?;
        let kind = |sent: dawdle::Result<dawdle::EventId>| sent.err().map(|error| error.kind());
        let large = || sender.signal(Job { number: 1 }).attribute("note", "x".repeat(20_000));
        ensure!(kind(large().await) == Some(ErrorKind::TooLarge));
        let mut answers = sender.signal_all((0..5).map(|number| Job { number })).await;
        let full = answers.split_off(3);
        ensure!(answers.into_iter().all(|answer| answer.is_ok()));
        ensure!(full.into_iter().all(|answer| kind(answer) == Some(ErrorKind::Full)));
        ensure!(kind(sender.signal(Job { number: 5 }).delay(seconds(HOUR)).await) == Some(ErrorKind::Full));
        let backend = LocalBackend::open(folder.path().join("queue.db"), LocalOptions::default()).await?;
        for (lane, there) in [(Lane::Message, 3), (Lane::Delay, 0), (Lane::Dead, 0)] {
            ensure!(backend.inspect(lane).await?.total() == there, "{lane}");
        }
        Ok(())
    }

    /// What the other processes run.
    pub(super) async fn child() -> Result<()> {
        let Some(told) = told()? else { return Ok(()) };
        let builder = Dawdle::builder().config(told.config).discover(false).handlers(handlers![enter]);
        let dawdle = builder.state(Ledger::open(&told.place)?).start().await?;
        say("listens");
        dawdle.run().await?;
        Ok(())
    }
}

/// Not a test: what the other processes run.
#[cfg(feature = "local")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() -> anyhow::Result<()> {
    on_a_file::child().await
}
