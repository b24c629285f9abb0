//! A message that kills its process ends in the dead letters, and takes nobody along: on the memory
//! backend, where a node "dies" when it is no longer answered, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use dawdle::backend::memory::MemoryBackend;
use dawdle::backend::{Backend, BoxFuture, Delivery, Lane, Outgoing, Receipt, Settle};
use dawdle::{Clock, Config, Dawdle, Event, Filter, Outcome, Result, State, VirtualClock, reason};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

#[path = "common/forward.rs"]
mod forward;
use forward::forward;

/// Kills its process, some time after it was begun.
#[derive(Serialize, Deserialize, Event)]
#[event(kind = "killer")]
struct Killer {
    after: Duration,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "innocent")]
struct Innocent {
    number: u32,
    takes: Duration,
}

/// A process: from its death on nothing of it is answered, or takes effect.
#[derive(Clone)]
struct Life {
    clock: Clock,
    died: watch::Sender<bool>,
    /// It dies at its send of this number, before or after the effect.
    dies_at: Option<(usize, bool)>,
    sends: Arc<AtomicUsize>,
    handled: Arc<Mutex<BTreeMap<u32, u32>>>,
}

impl Life {
    /// A call, for as long as there is anybody to make it.
    async fn call<T>(&self, call: impl Future<Output = T>) -> T {
        let mut died = self.died.subscribe();
        let death = async {
            let _ = died.wait_for(|died| *died).await;
        };
        tokio::select! {
            biased;
            () = death => std::future::pending().await,
            answer = call => answer,
        }
    }
}

#[dawdle::handler(attempts = 1, timeout = "1h")]
async fn kill(event: &Killer, life: State<Life>) -> Outcome {
    life.clock.sleep(event.after).await;
    life.died.send_replace(true);
    std::future::pending().await
}

#[dawdle::handler(attempts = 1, timeout = "1h")]
async fn handle(event: &Innocent, life: State<Life>) -> Outcome {
    life.clock.sleep(event.takes).await;
    if *life.died.borrow() {
        return std::future::pending().await;
    }
    *life.handled.lock().unwrap().entry(event.number).or_default() += 1;
    Ok(())
}

/// A process's way to the queue.
struct Way {
    queue: MemoryBackend,
    life: Life,
}

impl Backend for Way {
    forward!(self.queue => describe, limits, check, inspect);

    fn name(&self) -> &str {
        "way"
    }

    fn send<'a>(&'a self, lane: Lane, messages: &'a [Outgoing]) -> BoxFuture<'a, Vec<Result<()>>> {
        let life = &self.life;
        Box::pin(async move {
            let number = life.sends.fetch_add(1, Ordering::Relaxed) + 1;
            if life.dies_at == Some((number, false)) {
                life.died.send_replace(true);
            }
            let answers = life.call(self.queue.send(lane, messages)).await;
            if life.dies_at == Some((number, true)) {
                life.died.send_replace(true);
                std::future::pending::<()>().await;
            }
            answers
        })
    }

    fn receive(&self, lane: Lane, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(self.life.call(self.queue.receive(lane, max)))
    }

    fn settle<'a>(&'a self, lane: Lane, entries: &'a [Settle]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(self.life.call(self.queue.settle(lane, entries)))
    }

    fn extend<'a>(&'a self, lane: Lane, receipts: &'a [Receipt], lease: Duration) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(self.life.call(self.queue.extend(lane, receipts, lease)))
    }

    fn browse(&self, lane: Lane, max: usize, hold: Duration) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(self.life.call(self.queue.browse(lane, max, hold)))
    }
}

/// One queue, and processes on it that are started again when they have died.
struct World {
    time: VirtualClock,
    queue: MemoryBackend,
    handled: Arc<Mutex<BTreeMap<u32, u32>>>,
    sender: Dawdle,
}

impl World {
    async fn new() -> Self {
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let queue = MemoryBackend::new(Clock::from_virtual(time.clone()));
        let clock = Clock::from_virtual(time.clone());
        let sender = Dawdle::builder().backend(queue.clone()).clock(clock).discover(false).start().await.unwrap();
        World { time, queue, handled: Arc::default(), sender }
    }

    async fn start(&self, config: Config, dies_at: Option<(usize, bool)>) -> (Life, Dawdle) {
        let clock = Clock::from_virtual(self.time.clone());
        let life = Life {
            clock: clock.clone(),
            died: watch::Sender::new(false),
            dies_at,
            sends: Arc::default(),
            handled: Arc::clone(&self.handled),
        };
        let way = Way { queue: self.queue.clone(), life: life.clone() };
        let config = Config { ack_linger: Some(Duration::ZERO), ..config };
        let builder = Dawdle::builder().config(config).backend(way).clock(clock).state(life.clone());
        (life, builder.start().await.unwrap())
    }

    /// Runs a process for as long as it lives, and `span` at most; says whether it has died.
    async fn live(&self, config: Config, span: Duration) -> bool {
        self.live_until(config, span, None).await
    }

    async fn live_until(&self, config: Config, span: Duration, dies_at: Option<(usize, bool)>) -> bool {
        let (life, node) = self.start(config, dies_at).await;
        let end = self.time.now() + span;
        while !*life.died.borrow() && self.time.step(Some(end)).await {}
        let died = *life.died.borrow();
        life.died.send_replace(true);
        drop(node);
        died
    }

    async fn left(&self, lane: Lane) -> u64 {
        self.queue.inspect(lane).await.unwrap().total()
    }

    /// Of the dead letters: kinds and reasons.
    async fn letters(&self) -> Vec<(String, String)> {
        let mut letters = Vec::new();
        let mut scan = self.sender.dead_letters().scan(Filter::default());
        while let Some(letter) = scan.next().await {
            let letter = letter.unwrap();
            letters.push((letter.kind, letter.reason));
        }
        letters
    }
}

fn poison() -> (String, String) {
    ("killer".to_owned(), reason::POISON.to_owned())
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[tokio::test]
async fn a_message_that_kills_its_process_is_dead_lettered_after_its_limit() {
    let world = World::new().await;
    world.sender.signal(Killer { after: ms(0) }).await.unwrap();
    let mut deaths = 0;
    while world.live(Config::default(), Duration::from_secs(120)).await {
        deaths += 1;
    }
    assert_eq!((deaths, world.letters().await), (10, vec![poison()]));
}

struct Fate {
    innocents: usize,
    /// Innocents that ended in the dead letters.
    spoilt: usize,
    deaths: u32,
}

/// One fate: innocents and killers together, on one process after the other.
async fn fate(seed: u64, killers: usize, takes: &[Duration]) -> Fate {
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new().await;
    world.queue.seed(seed);
    world.queue.reorder(random.bool());
    let config = Config { concurrency: Some(random.choice([1, 4, 10]).unwrap()), ..Config::default() };
    let takes = *random.choice(takes).unwrap();
    let mut innocents = 0;
    let mut messages: Vec<Option<u32>> = vec![None; killers];
    for _ in 0..random.usize(1..=30) {
        messages.push(Some(innocents));
        innocents += 1;
    }
    random.shuffle(&mut messages);
    let after: Vec<Duration> =
        (0..killers).map(|_| random.choice([ms(0), ms(30), ms(2_000), ms(8_000), ms(60_000)]).unwrap()).collect();
    let mut after = after.into_iter();
    for message in messages {
        match message {
            Some(number) => world.sender.signal(Innocent { number, takes }).await.unwrap(),
            None => world.sender.signal(Killer { after: after.next().unwrap() }).await.unwrap(),
        };
    }
    let mut deaths = 0;
    while world.live(config.clone(), Duration::from_secs(7_200)).await {
        deaths += 1;
        assert!(deaths < 500, "seed {seed}: no end of it");
        world.time.advance(Duration::from_secs(random.u64(0..40))).await;
        // Life goes on.
        for _ in 0..random.usize(0..=2) {
            if innocents < 60 {
                world.sender.signal(Innocent { number: innocents, takes }).await.unwrap();
                innocents += 1;
            }
        }
    }
    let letters = world.letters().await;
    let handled: BTreeSet<u32> = world.handled.lock().unwrap().keys().copied().collect();
    let spoilt = letters.iter().filter(|letter| **letter != poison()).count();
    // One that is put back when its process dies may be there twice, and kill as often.
    assert!(letters.len() - spoilt >= killers, "seed {seed}: {letters:?}");
    let missing = innocents as usize - handled.len();
    assert!(missing <= spoilt, "seed {seed}: {missing} lost, of {innocents}");
    assert_eq!((world.left(Lane::Message).await, world.left(Lane::Delay).await), (0, 0), "seed {seed}");
    Fate { innocents: innocents as usize, spoilt, deaths }
}

/// Some fates; those of the seeds `POISON_SEEDS=from..to` where that is set. Yields innocents and lost ones.
async fn fates(killers: usize, takes: &[Duration]) -> (usize, usize) {
    let (from, to) = match std::env::var("POISON_SEEDS") {
        Ok(seeds) => seeds.split_once("..").map(|(from, to)| (from.parse().unwrap(), to.parse().unwrap())).unwrap(),
        Err(_) => (0, 40),
    };
    let (mut innocents, mut spoilt, mut most) = (0, 0, 0);
    for seed in from..to {
        let fate = fate(seed, killers, takes).await;
        innocents += fate.innocents;
        spoilt += fate.spoilt;
        most = most.max(fate.deaths);
    }
    println!("{killers} killers, {takes:?}: {spoilt} of {innocents} innocents dead-lettered, {most} deaths at most");
    (innocents, spoilt)
}

#[tokio::test]
async fn whoever_was_in_hand_beside_a_killer_is_handled_and_not_dead_lettered() {
    let (innocents, spoilt) = fates(1, &[ms(0), ms(100), ms(1_000)]).await;
    assert_eq!(spoilt, 0, "of {innocents}");
}

#[tokio::test]
async fn beside_two_killers_or_when_they_are_slow_hardly_an_innocent_is_dead_lettered() {
    for (killers, takes) in [(1, [ms(8_000), ms(60_000)]), (2, [ms(0), ms(1_000)])] {
        let (innocents, spoilt) = fates(killers, &takes).await;
        // One that nobody suspects yet may strike at another's last receive.
        let allowed = if killers > 1 { innocents / 200 } else { 0 };
        assert!(spoilt <= allowed, "{spoilt} of {innocents}: {killers} killers, {takes:?}");
    }
}

const SIBLINGS: u32 = 14;

/// A pack of innocents with a killer among them, that strikes when they have been handled. The process
/// that comes second, and rewrites it, dies as told.
async fn packed(dies_at: Option<(usize, bool)>) -> (World, u32) {
    let event = |id: u32, kind: &str, data: String| {
        format!(r#"{{"specversion":"1.0","id":"{id}","source":"s","type":"{kind}","data":{data}}}"#)
    };
    let mut pack = vec![event(99, "killer", r#"{"after":{"secs":0,"nanos":50000000}}"#.to_owned())];
    for number in 0..SIBLINGS {
        let data = format!(r#"{{"number":{number},"takes":{{"secs":0,"nanos":0}}}}"#);
        pack.push(event(number, "innocent", data));
    }
    let world = World::new().await;
    world.queue.send(Lane::Message, &[Outgoing::new(format!("[{}]", pack.join(",")))]).await.remove(0).unwrap();
    let span = Duration::from_secs(600);
    assert!(world.live(Config::default(), span).await);
    assert!(world.live_until(Config::default(), span, dies_at).await);
    let mut deaths = 2;
    while world.live(Config::default(), span).await {
        deaths += 1;
        assert!(deaths < 100, "no end of it");
    }
    assert_eq!((world.left(Lane::Message).await, world.left(Lane::Delay).await), (0, 0));
    (world, deaths)
}

#[tokio::test]
async fn one_killer_in_a_pack_costs_its_siblings_one_repeat() {
    let (world, deaths) = packed(None).await;
    let handled = world.handled.lock().unwrap().clone();
    assert_eq!(handled, (0..SIBLINGS).map(|number| (number, 2)).collect(), "once packed and once singly");
    assert_eq!((deaths, world.letters().await), (11, vec![poison()]));
}

#[tokio::test]
async fn a_process_that_dies_while_it_rewrites_a_pack_costs_one_repeat_more_and_loses_nothing() {
    for number in 1..=4 {
        for after_effect in [false, true] {
            let (world, deaths) = packed(Some((number, after_effect))).await;
            let handled = world.handled.lock().unwrap().clone();
            println!("at send {number} ({after_effect}): {deaths} deaths, handled {handled:?}");
            assert_eq!(handled.len(), SIBLINGS as usize, "at send {number}: {handled:?}");
            assert!(handled.values().all(|times| (1..=3).contains(times)), "at send {number}: {handled:?}");
            // The killer's two copies may take a copy of a sibling with them, which is handled all the same.
            assert!(world.letters().await.contains(&poison()));
        }
    }
}

#[tokio::test]
async fn an_incident_that_raises_the_receives_of_everything_does_not_make_a_node_work_one_by_one() {
    const EVENTS: u32 = 300;
    for receives in [3, 7, 9] {
        let world = World::new().await;
        for number in 0..EVENTS {
            world.sender.signal(Innocent { number, takes: ms(1_000) }).await.unwrap();
        }
        for _ in 0..receives {
            while !world.queue.browse(Lane::Message, 10, Duration::from_secs(30)).await.unwrap().is_empty() {}
            world.time.advance(Duration::from_secs(30)).await;
        }
        let start = world.time.now();
        let (life, _node) = world.start(Config { concurrency: Some(10), ..Config::default() }, None).await;
        while world.left(Lane::Message).await > 0 {
            assert!(world.time.step(None).await);
        }
        let took = world.time.now().duration_since(start).unwrap();
        println!("{EVENTS} events of a second, each received {receives} times before: {took:?}, 10 at a time");
        assert_eq!(world.handled.lock().unwrap().len(), EVENTS as usize);
        // 30 s at least, and 300 s one by one.
        assert!(took < Duration::from_secs(75), "{took:?}");
        assert!(!*life.died.borrow() && world.letters().await.is_empty());
    }
}
