//! A stop loses nothing, runs nothing twice and keeps to its time.
#![cfg(feature = "local")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use dawdle::backend::local::{LocalBackend, LocalOptions};
use dawdle::backend::memory::{Action, Fault, MemoryBackend};
use dawdle::backend::{Backend, Lane, LaneStats};
use dawdle::{BackendKind, Clock, Config, Context, Dawdle, ErrorKind, Event, Failure, Outcome, State, VirtualClock};
use serde::{Deserialize, Serialize};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod common;
use common::{Ledger, Process, counts, say, told, until};

const BOUND: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "stop.job")]
struct Job {
    number: u64,
}

/// A handler that takes a while, for the tests under load.
#[dawdle::handler]
async fn work(event: &Job, ledger: State<Ledger>) -> Outcome {
    tokio::time::sleep(Duration::from_millis(20)).await;
    ledger.write(&[event.number])?;
    Ok(())
}

/// How `hold` behaves on this node.
enum Manner {
    IgnoresEverything,
    HeedsCancellation,
    Ends,
}

struct Holding {
    manner: Manner,
    ledger: Ledger,
}

impl Holding {
    fn new(manner: Manner, ledger: &Path) -> Result<Self> {
        Ok(Holding { manner, ledger: Ledger::open(ledger)? })
    }
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "stop.long")]
struct Long {
    number: u64,
}

#[dawdle::handler]
async fn hold(event: &Long, cx: &Context, holding: State<Holding>) -> Outcome {
    say("begun");
    holding.ledger.write(&[event.number])?;
    match holding.manner {
        Manner::IgnoresEverything => std::future::pending().await,
        Manner::HeedsCancellation => {
            cx.cancelled().await;
            return Err(Failure::retry_after(Duration::ZERO, "told to stop"));
        }
        Manner::Ends => assert_eq!(cx.attempt(), 1, "a stop spends no attempt"),
    }
    Ok(())
}

/// Not a test: what the other processes run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() -> Result<()> {
    let Some(told) = told()? else { return Ok(()) };
    let builder = Dawdle::builder().config(told.config).discover(false);
    let builder = match told.role.as_str() {
        "work" => builder.handlers(dawdle::handlers![work]).state(Ledger::open(&told.place)?),
        "ignore" => {
            builder.handlers(dawdle::handlers![hold]).state(Holding::new(Manner::IgnoresEverything, &told.place)?)
        }
        other => anyhow::bail!("no role {other}"),
    };
    let dawdle = builder.start().await?;
    say("listens");
    dawdle.run().await?;
    Ok(())
}

/// A queue of a test's own, and a ledger.
struct Scene {
    folder: tempfile::TempDir,
    config: Config,
    backend: Arc<LocalBackend>,
    sender: Dawdle,
}

impl Scene {
    async fn new(shutdown_timeout: Duration) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("queue.db");
        let config = Config {
            backend: Some(BackendKind::Local),
            local_path: Some(path.clone()),
            shutdown_timeout: Some(shutdown_timeout),
            // Few, so that at any time others are in hand that have not begun.
            concurrency: Some(2),
            ..Config::default()
        };
        let backend = Arc::new(LocalBackend::open(path, LocalOptions::default()).await?);
        let sender = Dawdle::builder().config(config.clone()).discover(false).start().await?;
        Ok(Scene { folder, config, backend, sender })
    }

    fn ledger(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    async fn signal_jobs(&self, jobs: u64) -> Result<()> {
        let answers = self.sender.signal_all((0..jobs).map(|number| Job { number })).await;
        answers.into_iter().collect::<dawdle::Result<Vec<_>>>()?;
        Ok(())
    }

    async fn worker(&self, ledger: &str) -> Result<Dawdle> {
        let builder = Dawdle::builder().config(self.config.clone()).discover(false);
        let ledger = Ledger::open(&self.ledger(ledger))?;
        Ok(builder.handlers(dawdle::handlers![work]).state(ledger).start().await?)
    }

    async fn holder(&self, manner: Manner, ledger: &str) -> Result<Dawdle> {
        let builder = Dawdle::builder().config(self.config.clone()).discover(false);
        let holding = Holding::new(manner, &self.ledger(ledger))?;
        Ok(builder.handlers(dawdle::handlers![hold]).state(holding).start().await?)
    }

    fn handled(&self, ledger: &str) -> Result<usize> {
        Ok(counts(&self.ledger(ledger))?.values().sum::<u32>() as usize)
    }

    async fn on(&self, lane: Lane) -> Result<u64> {
        Ok(self.backend.inspect(lane).await?.total())
    }

    /// Waits until the queue is empty; then each of the jobs was handled once, by one of these.
    async fn each_was_handled_once(&self, jobs: u64, ledgers: [&str; 2]) -> Result<()> {
        until(BOUND, "the queue is empty", async || Ok(self.on(Lane::Message).await? == 0)).await?;
        let [first, second] = ledgers.map(|ledger| counts(&self.ledger(ledger)));
        let (first, second) = (first?, second?);
        println!("handled by the one that was stopped: {}, by the other: {}", first.len(), second.len());
        ensure!(!first.is_empty() && !second.is_empty());
        for number in 0..jobs {
            let times = first.get(&number).unwrap_or(&0) + second.get(&number).unwrap_or(&0);
            ensure!(times == 1, "{number} was handled {times} times");
        }
        ensure!(self.on(Lane::Dead).await? == 0);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_loses_nothing_and_runs_nothing_twice() -> Result<()> {
    let scene = Scene::new(Duration::from_secs(20)).await?;
    let mut stopped = Process::start("work", &scene.config, &scene.ledger("stopped"))?;
    stopped.wait_for("listens")?;
    scene.signal_jobs(600).await?;
    until(BOUND, "100 are handled", async || Ok(scene.handled("stopped")? >= 100)).await?;
    let mut other = Process::start("work", &scene.config, &scene.ledger("other"))?;
    stopped.terminate()?;
    let begun = Instant::now();
    let status = stopped.end_within(Duration::from_secs(20))?;
    ensure!(status.success(), "{status}");
    println!("stopped in {:?}", begun.elapsed());
    scene.each_was_handled_once(600, ["stopped", "other"]).await?;
    other.terminate()?;
    ensure!(other.end_within(Duration::from_secs(20))?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_listener_under_load_loses_nothing_and_runs_nothing_twice() -> Result<()> {
    let scene = Scene::new(Duration::from_secs(20)).await?;
    let stopped = scene.worker("stopped").await?;
    scene.signal_jobs(600).await?;
    until(BOUND, "100 are handled", async || Ok(scene.handled("stopped")? >= 100)).await?;
    stopped.stop_listener().await;
    ensure!(!stopped.listener_running());
    let so_far = scene.handled("stopped")?;
    ensure!(scene.backend.inspect(Lane::Message).await?.in_flight == 0, "what was in hand was given back");
    // It can still signal, and runs nothing.
    stopped.signal(Job { number: 600 }).await?;
    let other = scene.worker("other").await?;
    scene.each_was_handled_once(601, ["stopped", "other"]).await?;
    ensure!(scene.handled("stopped")? == so_far, "it went on after its stop");

    // It can listen again.
    other.shutdown().await;
    stopped.start_listener().await?;
    stopped.signal(Job { number: 601 }).await?;
    until(BOUND, "the stopped one listens again", async || Ok(scene.handled("stopped")? == so_far + 1)).await?;
    stopped.shutdown().await;
    ensure!(stopped.signal(Job { number: 0 }).await.unwrap_err().kind() == ErrorKind::ShutDown);
    ensure!(stopped.start_listener().await.unwrap_err().kind() == ErrorKind::ShutDown);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_ignores_cancellation_is_dropped_in_time_and_its_event_goes_elsewhere() -> Result<()> {
    let timeout = Duration::from_secs(3);
    let scene = Scene::new(timeout).await?;
    let mut stopped = Process::start("ignore", &scene.config, &scene.ledger("stopped"))?;
    stopped.wait_for("listens")?;
    scene.sender.signal(Long { number: 7 }).await?;
    stopped.wait_for("begun")?;
    stopped.terminate()?;
    let begun = Instant::now();
    let status = stopped.end_within(Duration::from_secs(20))?;
    let took = begun.elapsed();
    println!("shut down in {took:?} of {timeout:?}");
    ensure!(status.success(), "{status}");
    ensure!(took < timeout + Duration::from_millis(500), "{took:?}");
    ensure!(took > timeout / 2, "handlers have until five seconds (or half) before the end: {took:?}");

    let other = scene.holder(Manner::Ends, "other").await?;
    until(Duration::from_secs(5), "another node handles it", async || Ok(scene.handled("other")? == 1)).await?;
    until(BOUND, "the queue is empty", async || Ok(scene.on(Lane::Message).await? == 0)).await?;
    other.shutdown().await;
    ensure!(scene.on(Lane::Dead).await? == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_exits_at_once_and_its_event_is_still_on_the_queue() -> Result<()> {
    let scene = Scene::new(Duration::from_secs(60)).await?;
    let mut stopped = Process::start("ignore", &scene.config, &scene.ledger("stopped"))?;
    stopped.wait_for("listens")?;
    scene.sender.signal(Long { number: 7 }).await?;
    stopped.wait_for("begun")?;
    stopped.terminate()?;
    ensure!(stopped.end_within(Duration::from_millis(700)).is_err(), "the first signal drains");
    stopped.terminate()?;
    let begun = Instant::now();
    let status = stopped.end_within(Duration::from_secs(5))?;
    println!("exited {:?} after the second signal", begun.elapsed());
    ensure!(status.code() == Some(130), "{status}");

    let other = scene.holder(Manner::Ends, "other").await?;
    until(Duration::from_secs(10), "another node handles it", async || Ok(scene.handled("other")? == 1)).await?;
    other.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_heeds_cancellation_ends_by_itself_and_what_it_asks_for_is_done() -> Result<()> {
    let scene = Scene::new(Duration::from_secs(2)).await?;
    let stopped = scene.holder(Manner::HeedsCancellation, "stopped").await?;
    scene.sender.signal(Long { number: 7 }).await?;
    until(BOUND, "it has begun", async || Ok(scene.handled("stopped")? == 1)).await?;
    let begun = Instant::now();
    stopped.shutdown().await;
    ensure!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let stats = scene.backend.inspect(Lane::Message).await?;
    ensure!((stats.total(), stats.in_flight) == (1, 0), "its retry: {stats:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_goes_on_when_its_caller_gives_up_and_can_be_waited_for_again() -> Result<()> {
    let scene = Scene::new(Duration::from_secs(3)).await?;
    let dawdle = scene.holder(Manner::IgnoresEverything, "stopped").await?;
    scene.sender.signal(Long { number: 7 }).await?;
    until(BOUND, "it has begun", async || Ok(scene.handled("stopped")? == 1)).await?;
    let begun = Instant::now();
    ensure!(tokio::time::timeout(Duration::from_millis(100), dawdle.shutdown()).await.is_err());
    let again = tokio::time::timeout(Duration::from_secs(10), dawdle.shutdown()).await;
    ensure!(again.is_ok(), "the second call waits for ever");
    ensure!(begun.elapsed() < Duration::from_millis(3_500), "{:?}", begun.elapsed());
    let stats = scene.backend.inspect(Lane::Message).await?;
    ensure!((stats.total(), stats.in_flight) == (1, 0), "given back: {stats:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_waits_for_a_stop_that_is_under_way() -> Result<()> {
    let scene = Scene::new(Duration::from_secs(20)).await?;
    let worker = scene.worker("worker").await?;
    scene.signal_jobs(200).await?;
    until(BOUND, "some are handled", async || Ok(scene.handled("worker")? >= 20)).await?;
    let stopping = {
        let worker = worker.clone();
        tokio::spawn(async move { worker.stop_listener().await })
    };
    until(BOUND, "the stop has begun", async || Ok(!worker.listener_running())).await?;
    worker.shutdown().await;
    ensure!(scene.backend.inspect(Lane::Message).await?.in_flight == 0, "something is still in hand");
    let handled = scene.handled("worker")?;
    stopping.await?;
    ensure!(scene.handled("worker")? == handled, "a handler ran on after the shutdown");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_shutdown_nothing_of_it_is_left() -> Result<()> {
    let scene = Scene::new(Duration::from_secs(5)).await?;
    let nodes = || -> Result<usize> {
        let locks = std::fs::read_dir(scene.folder.path().join("queue.db.nodes"))?;
        Ok(locks
            .filter(|entry| entry.as_ref().is_ok_and(|it| it.path().extension().is_some_and(|e| e == "lock")))
            .count())
    };
    let before = nodes()?;
    let worker = scene.worker("worker").await?;
    scene.signal_jobs(20).await?;
    until(BOUND, "all are handled", async || Ok(scene.handled("worker")? == 20)).await?;
    ensure!(nodes()? == before + 1);
    worker.shutdown().await;
    drop(worker);
    until(Duration::from_secs(5), "its backend is closed", async || Ok(nodes()? == before)).await
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "stop.two")]
struct Two;

/// Attempts of `stumble`, and whether what goes on goes on for ever.
#[derive(Default)]
struct Steps {
    attempts: Mutex<Vec<u32>>,
    hangs: AtomicBool,
}

impl Steps {
    async fn hang(&self) {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

#[dawdle::handler]
async fn stumble(_: &Two, cx: &Context, steps: State<Arc<Steps>>) -> Outcome {
    steps.attempts.lock().unwrap().push(cx.attempt());
    if cx.attempt() == 1 {
        return Err(Failure::retry_after(Duration::ZERO, "the first time"));
    }
    steps.hang().await;
    Ok(())
}

#[dawdle::handler]
async fn plod(_: &Two, steps: State<Arc<Steps>>) -> Outcome {
    steps.hang().await;
    Ok(())
}

/// A queue in memory on a clock that the test moves.
struct Desk {
    time: VirtualClock,
    queue: MemoryBackend,
    steps: Arc<Steps>,
}

impl Desk {
    fn new() -> Self {
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let queue = MemoryBackend::new(Clock::from_virtual(time.clone()));
        Desk { time, queue, steps: Arc::new(Steps { hangs: AtomicBool::new(true), ..Steps::default() }) }
    }

    async fn node(&self) -> Dawdle {
        let builder = Dawdle::builder().backend(self.queue.clone()).clock(Clock::from_virtual(self.time.clone()));
        let builder = builder.discover(false).handlers(dawdle::handlers![stumble, plod, put_off]);
        builder.state(Arc::clone(&self.steps)).start().await.unwrap()
    }

    async fn advance(&self, seconds: u64) {
        self.time.advance(Duration::from_secs(seconds)).await;
    }

    async fn stop(&self, node: Dawdle) {
        let stopping = tokio::spawn(async move { node.shutdown().await });
        self.advance(60).await;
        stopping.await.unwrap();
    }

    fn attempts(&self) -> Vec<u32> {
        self.steps.attempts.lock().unwrap().clone()
    }

    async fn on(&self, lane: Lane) -> LaneStats {
        self.queue.inspect(lane).await.unwrap()
    }
}

#[tokio::test]
async fn an_attempt_that_was_spent_before_a_stop_is_not_spent_again_after_it() {
    let desk = Desk::new();
    let first = desk.node().await;
    first.signal(Two).await.unwrap();
    desk.advance(5).await;
    assert_eq!(desk.attempts(), [1, 2]);
    desk.stop(first).await;

    desk.steps.hangs.store(false, Ordering::Relaxed);
    let _second = desk.node().await;
    desk.advance(60).await;
    assert_eq!(desk.attempts(), [1, 2, 2]);
    assert_eq!(desk.on(Lane::Message).await.total(), 0);
}

#[tokio::test]
async fn a_direct_signals_first_failure_is_on_the_queue_while_its_other_handler_runs_on() {
    let desk = Desk::new();
    let sender = Dawdle::builder().backend(desk.queue.clone()).clock(Clock::from_virtual(desk.time.clone()));
    let sender = sender.discover(false).handlers(dawdle::handlers![stumble, plod]).listener(false);
    let sender = sender.state(Arc::clone(&desk.steps)).start().await.unwrap();
    sender.signal(Two).direct().await.unwrap();
    desk.advance(1).await;
    assert_eq!((desk.attempts(), desk.on(Lane::Message).await.total()), (vec![1], 1));
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "stop.put_off")]
struct PutOff;

#[dawdle::handler]
async fn put_off(_: &PutOff) -> Outcome {
    Err(Failure::retry_after(Duration::from_secs(3_600), "not now"))
}

#[tokio::test]
async fn what_cannot_be_written_when_a_stop_ends_is_given_back_at_once() {
    let desk = Desk::new();
    let node = desk.node().await;
    desk.queue.fail(Fault::unavailable(Action::Send).on(Lane::Delay).times(u32::MAX));
    node.signal(PutOff).await.unwrap();
    desk.advance(5).await;
    assert_eq!(desk.on(Lane::Message).await.in_flight, 1);
    desk.stop(node).await;
    let stats = desk.on(Lane::Message).await;
    assert_eq!((stats.visible, stats.in_flight), (1, 0), "{stats:?}");
}
