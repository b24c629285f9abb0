//! Once where it matters: what is delivered twice has one effect, and nothing is lost for it.
#![cfg(feature = "testing")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use dawdle::backend::memory::MemoryBackend;
use dawdle::backend::{Backend, BoxFuture, Lane};
use dawdle::middleware::dedupe::{Begun, Claim, DedupeKey, DedupeStore, MemoryStore};
use dawdle::testing::{Harness, dedupe_conformance};
use dawdle::{
    Clock, Context, Dawdle, Dedupe, Envelope, Error, ErrorKind, Event, Failure, Outcome, State, TypedEvent,
    VirtualClock, handlers,
};
use serde::{Deserialize, Serialize};

const DAY: Duration = Duration::from_secs(86_400);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[derive(Clone, Debug, Serialize, Deserialize, Event)]
#[event(kind = "dedupe.invoice", key = "{account}-{month}")]
struct Invoice {
    account: u64,
    month: u8,
}

#[derive(Clone, Debug, Serialize, Deserialize, Event)]
#[event(kind = "dedupe.refund", key = "{account}-{month}")]
struct Refund {
    account: u64,
    month: u8,
}

#[derive(Clone, Debug, Serialize, Deserialize, Event)]
#[event(kind = "dedupe.way")]
enum Way {
    Fine,
    FailsTwice,
    Panics,
    Hangs,
    Discards,
    DeadLetters,
    Takes(u64),
}

/// How often each effect happened.
#[derive(Clone, Default)]
struct Effects(Arc<Mutex<BTreeMap<String, u32>>>);

impl Effects {
    fn add(&self, effect: impl Into<String>) -> u32 {
        let mut effects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let times = effects.entry(effect.into()).or_default();
        *times += 1;
        *times
    }

    fn of(&self, effect: &str) -> u32 {
        self.0.lock().unwrap().get(effect).copied().unwrap_or(0)
    }

    fn all(&self) -> BTreeMap<String, u32> {
        self.0.lock().unwrap().clone()
    }
}

#[dawdle::handler]
async fn charge(event: &Invoice, effects: State<Effects>) -> Outcome {
    tokio::task::yield_now().await;
    effects.add(format!("charge {} {}", event.account, event.month));
    tokio::task::yield_now().await;
    Ok(())
}

#[dawdle::handler]
async fn mail(event: &Invoice, effects: State<Effects>) -> Outcome {
    tokio::task::yield_now().await;
    effects.add(format!("mail {} {}", event.account, event.month));
    Ok(())
}

#[dawdle::handler]
async fn pay_back(event: &Refund, effects: State<Effects>) -> Outcome {
    effects.add(format!("refund {} {}", event.account, event.month));
    Ok(())
}

#[dawdle::handler(attempts = 3, timeout = "30m")]
async fn go(event: &Way, cx: &Context, effects: State<Effects>, clock: State<Clock>) -> Outcome {
    let run = effects.add("run");
    effects.0.lock().unwrap().insert("last attempt".into(), cx.attempt());
    match event {
        Way::Fine => {}
        Way::FailsTwice if run < 3 => Err("not yet")?,
        Way::Panics if run == 1 => panic!("oh"),
        Way::Hangs if run == 1 => std::future::pending().await,
        Way::Discards => return Err(Failure::discard("no use")),
        Way::DeadLetters if run == 1 => return Err(Failure::dead_letter("no")),
        Way::Takes(time) => {
            clock.sleep(seconds(*time)).await;
            if clock_says_cancelled(cx).await {
                effects.add("cancelled");
            }
        }
        _ => {}
    }
    effects.add("done");
    Ok(())
}

async fn clock_says_cancelled(cx: &Context) -> bool {
    tokio::select! {
        biased;
        () = cx.cancelled() => true,
        () = std::future::ready(()) => false,
    }
}

/// Nodes on one queue, which delivers everything twice and in any order.
struct Fleet {
    time: VirtualClock,
    backend: MemoryBackend,
    nodes: Vec<Dawdle>,
    effects: Effects,
}

impl Fleet {
    async fn of(stores: Vec<Option<Arc<dyn DedupeStore>>>) -> Fleet {
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH + seconds(1_800_000_000));
        let clock = Clock::from_virtual(time.clone());
        let backend = MemoryBackend::new(clock.clone());
        backend.duplicate(1.0);
        backend.reorder(true);
        let effects = Effects::default();
        let mut nodes = Vec::new();
        for store in stores {
            let mut builder = Dawdle::builder()
                .clock(clock.clone())
                .backend(backend.clone())
                .discover(false)
                .handlers(handlers![charge, mail])
                .state(effects.clone());
            if let Some(store) = store {
                builder = builder.middleware(Dedupe::new(store));
            }
            nodes.push(builder.start().await.unwrap());
        }
        Fleet { time, backend, nodes, effects }
    }

    /// Signals 100 invoices, 40 of them a second time, and yields what came of it.
    async fn run(self) -> BTreeMap<String, u32> {
        let invoices = (0..140).map(|n| Invoice { account: n % 100, month: 1 });
        for answer in self.nodes[0].signal_all(invoices).await {
            answer.unwrap();
        }
        for _ in 0..60 {
            self.time.advance(seconds(60)).await;
        }
        assert_eq!(self.backend.inspect(Lane::Message).await.unwrap().total(), 0, "the queue is empty");
        assert_eq!(self.backend.inspect(Lane::Dead).await.unwrap().total(), 0, "nothing is dead-lettered");
        for node in &self.nodes {
            let (node, time) = (node.clone(), self.time.clone());
            let stopped = tokio::spawn(async move { node.shutdown().await });
            while !stopped.is_finished() {
                time.advance(seconds(1)).await;
            }
        }
        self.effects.all()
    }
}

fn each_once(effects: &BTreeMap<String, u32>) {
    assert_eq!(effects.len(), 200, "each of 100 invoices is charged and mailed");
    let more: Vec<_> = effects.iter().filter(|(_, times)| **times != 1).collect();
    assert!(more.is_empty(), "more than once: {more:?}");
}

#[tokio::test]
async fn without_a_store_what_is_delivered_twice_has_its_effect_more_than_once() {
    let effects = Fleet::of(vec![None, None]).await.run().await;
    assert_eq!(effects.len(), 200);
    assert!(effects.values().sum::<u32>() >= 400, "the queue delivers everything twice: {effects:?}");
}

#[tokio::test]
async fn what_two_nodes_are_given_twice_has_its_effect_once() {
    let store: Arc<dyn DedupeStore> = Arc::new(MemoryStore::new());
    each_once(&Fleet::of(vec![Some(Arc::clone(&store)), Some(store)]).await.run().await);
}

#[cfg(feature = "local")]
#[tokio::test]
async fn what_two_nodes_are_given_twice_has_its_effect_once_by_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dedupe.db");
    let mut stores: Vec<Option<Arc<dyn DedupeStore>>> = Vec::new();
    for _ in 0..2 {
        stores.push(Some(Arc::new(dawdle::middleware::dedupe::SqliteStore::open(&path).await.unwrap())));
    }
    each_once(&Fleet::of(stores).await.run().await);
}

#[tokio::test]
async fn the_store_in_memory_passes_the_suite() {
    let store = MemoryStore::new();
    dedupe_conformance::run_all([Arc::new(store.clone()), Arc::new(store)]).await;
}

/// One node, on a clock that its handlers share.
struct Node {
    time: VirtualClock,
    backend: MemoryBackend,
    dawdle: Dawdle,
    effects: Effects,
}

impl Node {
    async fn with(dedupe: Dedupe) -> Node {
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH + seconds(1_800_000_000));
        let clock = Clock::from_virtual(time.clone());
        let (backend, effects) = (MemoryBackend::new(clock.clone()), Effects::default());
        // Acks wait for no company: with the clock standing still, none would come.
        let config = dawdle::Config { ack_linger: Some(Duration::ZERO), ..dawdle::Config::default() };
        let dawdle = Dawdle::builder()
            .config(config)
            .clock(clock.clone())
            .backend(backend.clone())
            .discover(false)
            .handlers(handlers![charge, mail, pay_back, go])
            .state(effects.clone())
            .state(clock)
            .middleware(dedupe)
            .start()
            .await
            .unwrap();
        Node { time, backend, dawdle, effects }
    }

    async fn signal<E: TypedEvent>(&self, event: E) -> Envelope {
        let envelope = self.dawdle.signal(event).into_envelope().unwrap();
        self.send(&envelope).await;
        envelope
    }

    /// Sends one more copy of an event.
    async fn send(&self, envelope: &Envelope) {
        self.dawdle.send(envelope.clone()).await.unwrap();
        self.time.settle().await;
    }

    async fn advance(&self, span: Duration) {
        self.time.advance(span).await;
    }

    fn runs(&self) -> u32 {
        self.effects.of("run")
    }

    fn done(&self) -> u32 {
        self.effects.of("done")
    }

    async fn messages(&self) -> u64 {
        self.backend.inspect(Lane::Message).await.unwrap().total()
    }

    async fn dead_letters(&self) -> Vec<dawdle::DeadLetter> {
        let mut scan = self.dawdle.dead_letters().scan(dawdle::Filter::default());
        let mut letters = Vec::new();
        while let Some(letter) = scan.next().await {
            letters.push(letter.unwrap());
        }
        letters
    }
}

fn way_key(envelope: &Envelope) -> DedupeKey {
    DedupeKey::new("dedupe.way", "go", envelope.id().as_str())
}

async fn claim(store: &impl DedupeStore, key: &DedupeKey, now: SystemTime) -> Claim {
    match store.begin(key, now, seconds(60)).await.unwrap() {
        Begun::Fresh(claim) => claim,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_copy_of_what_succeeded_does_not_run_until_it_is_forgotten() {
    let node = Node::with(Dedupe::new(MemoryStore::new()).remember_for(DAY)).await;
    let event = node.signal(Way::Fine).await;
    node.send(&event).await;
    node.advance(DAY - seconds(1)).await;
    node.send(&event).await;
    assert_eq!((node.runs(), node.messages().await), (1, 0));
    node.advance(seconds(1)).await;
    node.send(&event).await;
    assert_eq!(node.runs(), 2, "a day later it is forgotten");
}

#[tokio::test]
async fn retries_of_what_failed_still_run() {
    let node = Node::with(Dedupe::new(MemoryStore::new())).await;
    let event = node.signal(Way::FailsTwice).await;
    node.advance(seconds(3)).await;
    assert_eq!((node.runs(), node.done(), node.effects.of("last attempt")), (3, 1, 3));
    node.send(&event).await;
    assert_eq!(node.runs(), 3);
}

#[tokio::test]
async fn a_replay_of_what_failed_still_runs() {
    let node = Node::with(Dedupe::new(MemoryStore::new())).await;
    node.signal(Way::DeadLetters).await;
    let letters = node.dead_letters().await;
    assert_eq!((node.runs(), letters.len()), (1, 1));
    node.dawdle.dead_letters().replay(&letters[0]).await.unwrap();
    node.time.settle().await;
    assert_eq!((node.runs(), node.done()), (2, 1));
}

#[tokio::test]
async fn what_was_discarded_had_no_effect_and_is_not_remembered() {
    let node = Node::with(Dedupe::new(MemoryStore::new())).await;
    let event = node.signal(Way::Discards).await;
    node.send(&event).await;
    assert_eq!(node.runs(), 2);
}

#[tokio::test]
async fn a_panic_a_timeout_or_an_abort_gives_the_claim_back() {
    for (way, within) in [(Way::Panics, seconds(2)), (Way::Hangs, seconds(30 * 60 + 2))] {
        let node = Node::with(Dedupe::new(MemoryStore::new())).await;
        node.signal(way.clone()).await;
        assert_eq!((node.runs(), node.done()), (1, 0));
        node.advance(within).await;
        assert_eq!((node.runs(), node.done()), (2, 1), "{way:?}: its retry did not wait for the lease");
    }
    let store = MemoryStore::new();
    let node = Node::with(Dedupe::new(store.clone())).await;
    node.signal(Way::Hangs).await;
    assert_eq!(store.len(), 1);
    let dawdle = node.dawdle.clone();
    let stopped = tokio::spawn(async move { dawdle.shutdown().await });
    while !stopped.is_finished() {
        node.advance(seconds(1)).await;
    }
    assert_eq!((node.done(), store.len()), (0, 0), "a run that a shutdown dropped has given its claim back");
}

#[tokio::test]
async fn events_of_one_key_have_one_effect_for_each_handler_and_kind() {
    let node = Node::with(Dedupe::new(MemoryStore::new())).await;
    node.signal(Invoice { account: 7, month: 11 }).await;
    node.signal(Invoice { account: 7, month: 11 }).await;
    node.signal(Invoice { account: 7, month: 12 }).await;
    node.signal(Refund { account: 7, month: 11 }).await;
    let expected = ["charge 7 11", "charge 7 12", "mail 7 11", "mail 7 12", "refund 7 11"];
    node.advance(seconds(120)).await;
    let effects = node.effects.all();
    assert_eq!(effects.keys().collect::<Vec<_>>(), expected);
    assert!(effects.values().all(|times| *times == 1), "{effects:?}");

    for account in [1, 2] {
        node.dawdle.signal(Invoice { account, month: 1 }).key("the same").await.unwrap();
        node.advance(seconds(120)).await;
    }
    assert_eq!((node.effects.of("charge 1 1"), node.effects.of("charge 2 1")), (1, 0), "`.key(..)` goes first");
}

#[tokio::test]
async fn a_second_delivery_waits_for_a_dead_nodes_claim_to_end_and_spends_no_attempt() {
    let store = MemoryStore::new();
    let node = Node::with(Dedupe::new(store.clone())).await;
    let envelope = node.dawdle.signal(Way::Fine).into_envelope().unwrap();
    claim(&store, &way_key(&envelope), node.time.now()).await;
    node.send(&envelope).await;
    node.advance(seconds(59)).await;
    assert_eq!((node.runs(), node.messages().await), (0, 1), "the claim of the dead node still holds");
    node.advance(seconds(1)).await;
    assert_eq!((node.done(), node.effects.of("last attempt"), node.messages().await), (1, 1, 0));
}

#[tokio::test]
async fn a_claim_is_renewed_while_the_handler_runs_and_copies_wait() {
    let node = Node::with(Dedupe::new(MemoryStore::new())).await;
    let event = node.signal(Way::Takes(1_000)).await;
    node.send(&event).await;
    node.advance(seconds(999)).await;
    assert_eq!((node.runs(), node.messages().await), (1, 2));
    node.advance(seconds(120)).await;
    assert_eq!((node.runs(), node.done(), node.messages().await), (1, 1, 0));
    assert_eq!(node.effects.of("cancelled"), 0);
}

#[tokio::test]
async fn what_takes_its_process_with_it_time_and_again_is_dead_lettered_and_can_be_replayed() {
    let store = MemoryStore::new();
    let node = Node::with(Dedupe::new(store.clone())).await;
    let envelope = node.dawdle.signal(Way::Fine).into_envelope().unwrap();
    for _ in 0..10 {
        claim(&store, &way_key(&envelope), node.time.now()).await;
        node.advance(seconds(60)).await;
    }
    node.send(&envelope).await;
    let letters = node.dead_letters().await;
    assert_eq!((node.runs(), letters.len()), (0, 1));
    assert_eq!(letters[0].reason, dawdle::reason::POISON);
    node.dawdle.dead_letters().replay(&letters[0]).await.unwrap();
    node.time.settle().await;
    assert_eq!(node.done(), 1);
}

/// A store that can be cut off.
#[derive(Clone, Default)]
struct Flaky {
    inner: MemoryStore,
    begin_fails: Arc<AtomicBool>,
    renew_fails: Arc<AtomicBool>,
    finish_failures: Arc<AtomicU32>,
}

fn down<T>() -> dawdle::Result<T> {
    Err(Error::new(ErrorKind::Unavailable, "the dedupe store db.example is down"))
}

impl DedupeStore for Flaky {
    fn begin<'a>(
        &'a self,
        key: &'a DedupeKey,
        now: SystemTime,
        lease: Duration,
    ) -> BoxFuture<'a, dawdle::Result<Begun>> {
        if self.begin_fails.load(Ordering::Relaxed) {
            return Box::pin(async { down() });
        }
        self.inner.begin(key, now, lease)
    }

    fn renew<'a>(&'a self, claim: &'a Claim, now: SystemTime, lease: Duration) -> BoxFuture<'a, dawdle::Result<()>> {
        if self.renew_fails.load(Ordering::Relaxed) {
            return Box::pin(async { down() });
        }
        self.inner.renew(claim, now, lease)
    }

    fn finish<'a>(&'a self, claim: &'a Claim, now: SystemTime, span: Duration) -> BoxFuture<'a, dawdle::Result<()>> {
        let left = self.finish_failures.load(Ordering::Relaxed);
        if left > 0 {
            self.finish_failures.store(left - 1, Ordering::Relaxed);
            return Box::pin(async { down() });
        }
        self.inner.finish(claim, now, span)
    }

    fn abandon<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, dawdle::Result<()>> {
        self.inner.abandon(claim)
    }
}

#[tokio::test]
async fn without_its_store_no_handler_runs_and_nothing_is_lost() {
    let store = Flaky::default();
    let node = Node::with(Dedupe::new(store.clone())).await;
    store.begin_fails.store(true, Ordering::Relaxed);
    node.signal(Way::Fine).await;
    assert_eq!((node.runs(), node.messages().await), (0, 1));
    node.advance(seconds(10)).await;
    let letters = node.dead_letters().await;
    assert_eq!((node.runs(), letters.len()), (0, 1), "three attempts, none of which ran");
    assert_eq!(letters[0].error.as_deref(), Some("the dedupe store db.example is down"));

    node.signal(Way::Fine).await;
    store.begin_fails.store(false, Ordering::Relaxed);
    node.advance(seconds(10)).await;
    assert_eq!(node.done(), 1, "once the store is back it runs");
}

#[tokio::test]
async fn a_success_is_told_to_the_store_again_until_it_is_remembered() {
    let store = Flaky::default();
    let node = Node::with(Dedupe::new(store.clone())).await;
    store.finish_failures.store(3, Ordering::Relaxed);
    let event = node.signal(Way::Fine).await;
    node.advance(seconds(5)).await;
    node.send(&event).await;
    assert_eq!((node.runs(), node.messages().await), (1, 0));
}

#[tokio::test]
async fn a_success_that_cannot_be_remembered_is_a_success_all_the_same() {
    let store = Flaky::default();
    let node = Node::with(Dedupe::new(store.clone())).await;
    store.finish_failures.store(u32::MAX, Ordering::Relaxed);
    node.signal(Way::Fine).await;
    node.advance(seconds(600)).await;
    assert_eq!((node.runs(), node.messages().await, node.dead_letters().await.len()), (1, 0, 0));
}

#[tokio::test]
async fn a_node_that_lost_its_claim_is_told_and_records_nothing_over_anothers() {
    let store = Flaky::default();
    let node = Node::with(Dedupe::new(store.clone())).await;
    store.renew_fails.store(true, Ordering::Relaxed);
    let event = node.signal(Way::Takes(100)).await;
    node.advance(seconds(60)).await;
    let another = claim(&store.inner, &way_key(&event), node.time.now()).await;
    store.renew_fails.store(false, Ordering::Relaxed);
    node.advance(seconds(40)).await;
    assert_eq!((node.done(), node.effects.of("cancelled")), (1, 1), "it was told at its next renewal");
    let begun = store.inner.begin(&way_key(&event), node.time.now(), seconds(60)).await.unwrap();
    assert!(matches!(begun, Begun::InProgress { .. }), "the claim of the other node stands: {begun:?}");
    store.inner.finish(&another, node.time.now(), DAY).await.unwrap();
}

#[tokio::test]
async fn a_store_in_memory_forgets_the_oldest_finished_and_refuses_when_all_are_running() {
    let (store, now) = (MemoryStore::with_capacity(2), SystemTime::UNIX_EPOCH);
    let key = |key: &str| DedupeKey::new("kind", "handler", key);
    for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
        let claim = claim(&store, &key(name), now).await;
        store.finish(&claim, now + seconds(n as u64), DAY).await.unwrap();
    }
    assert_eq!(store.len(), 2);
    assert_eq!(store.begin(&key("b"), now, DAY).await.unwrap(), Begun::Done);
    claim(&store, &key("a"), now).await;
    claim(&store, &key("d"), now).await;
    let full = store.begin(&key("e"), now, seconds(60)).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Overloaded);
    assert!(full.to_string().contains("2 keys") && full.to_string().contains("with_capacity"), "{full}");
    claim(&store, &key("e"), now + seconds(60)).await;
    assert_eq!(store.len(), 2, "a claim whose lease has ended makes room");
}

#[tokio::test]
async fn a_full_store_in_memory_puts_runs_off_and_loses_none() {
    let node = Node::with(Dedupe::new(MemoryStore::with_capacity(1))).await;
    node.signal(Way::Takes(2)).await;
    node.signal(Way::Takes(1)).await;
    assert_eq!(node.runs(), 1);
    node.advance(seconds(20)).await;
    assert_eq!((node.done(), node.messages().await, node.dead_letters().await.len()), (2, 0, 0));
}

#[tokio::test]
async fn under_a_harness_a_second_invoice_charges_nobody() {
    let effects = Effects::default();
    let dedupe = Dedupe::new(MemoryStore::new());
    let test = Harness::builder().state(effects.clone()).middleware(dedupe).start().await.unwrap();
    test.signal(Invoice { account: 7, month: 11 }).await.unwrap();
    test.signal(Invoice { account: 7, month: 11 }).delay(DAY).await.unwrap();
    test.drain_scheduled().await;
    assert_eq!((effects.of("charge 7 11"), test.runs("charge")), (1, 2));
}

mod keys {
    use super::*;

    #[derive(Serialize, Deserialize, Event)]
    #[event(kind = "dedupe.pair", key = "{1}{{{0}}}")]
    struct Pair(u8, String);

    #[derive(Serialize, Deserialize, Event)]
    #[event(kind = "dedupe.raw", key = "type")]
    struct Raw {
        r#type: String,
    }

    #[test]
    fn a_key_is_made_of_named_numbered_and_raw_fields() {
        assert_eq!(Pair(1, "x".into()).dedup_key().unwrap(), "x{1}");
        assert_eq!(Raw { r#type: "t".into() }.dedup_key().unwrap(), "t");
        assert_eq!(Way::Fine.dedup_key(), None);
        assert_eq!(Envelope::new(Invoice { account: 7, month: 11 }).unwrap().key(), Some("7-11"));
        assert_eq!(Envelope::new(Way::Fine).unwrap().key(), None);
    }

    #[tokio::test]
    async fn a_key_without_a_byte_or_with_too_many_is_refused_and_a_signals_own_key_goes_first() {
        let node = Node::with(Dedupe::new(MemoryStore::new())).await;
        let raw = |length| Raw { r#type: "t".repeat(length) };
        for length in [0, 1_025] {
            let error = node.dawdle.signal(raw(length)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let text = error.to_string();
            assert!(text.contains(&format!("{length} bytes")) && text.contains("1 to 1024"), "{text}");
            assert!(text.contains("dedupe.raw"), "{text}");
            assert!(Envelope::new(raw(length)).is_err());
            let own = node.dawdle.signal(raw(length)).key("own").into_envelope().unwrap();
            assert_eq!(own.key(), Some("own"));
            let error = node.dawdle.signal(Way::Fine).key("k".repeat(length)).await.unwrap_err();
            assert!(error.to_string().contains(&format!("{length}")), "{error}");
            assert!(Envelope::new(Way::Fine).unwrap().with_key("k".repeat(length)).is_err());
        }
        assert_eq!(node.dawdle.signal(raw(1_024)).into_envelope().unwrap().key().unwrap().len(), 1_024);
    }

    #[tokio::test]
    async fn another_producers_key_that_is_too_long_is_a_dead_letter_and_an_empty_one_is_none() {
        let node = Node::with(Dedupe::new(MemoryStore::new())).await;
        let event = |id: &str, key: &str| {
            format!(
                r#"{{"specversion":"1.0","id":"{id}","source":"x","type":"dedupe.way","dedupkey":"{key}","data":"Fine"}}"#
            )
        };
        for body in [event("a", ""), event("b", ""), event("c", &"k".repeat(1_025))] {
            let message = dawdle::backend::Outgoing::new(body);
            node.backend.send(Lane::Message, &[message]).await.remove(0).unwrap();
        }
        node.time.settle().await;
        let letters = node.dead_letters().await;
        assert_eq!((node.done(), letters.len()), (2, 1));
        assert!(
            letters[0].reason.contains("1025 bytes") && letters[0].reason.contains("1024"),
            "{}",
            letters[0].reason
        );
    }
}

#[cfg(feature = "local")]
mod file {
    use super::*;
    use dawdle::middleware::dedupe::SqliteStore;

    async fn open(folder: &tempfile::TempDir) -> SqliteStore {
        SqliteStore::open(folder.path().join("new/dedupe.db")).await.unwrap()
    }

    fn key(key: impl ToString) -> DedupeKey {
        DedupeKey::new("kind", "handler", key.to_string())
    }

    #[tokio::test]
    async fn the_store_in_a_file_passes_the_suite() {
        let folder = tempfile::tempdir().unwrap();
        dedupe_conformance::run_all([Arc::new(open(&folder).await), Arc::new(open(&folder).await)]).await;
    }

    #[tokio::test]
    async fn what_is_done_outlives_the_process_and_is_there_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let store = open(&folder).await;
        let held = claim(&store, &key("a"), now).await;
        store.finish(&held, now, DAY).await.unwrap();
        drop(store);
        assert_eq!(open(&folder).await.begin(&key("a"), now, DAY).await.unwrap(), Begun::Done);
        let connection = rusqlite::Connection::open(folder.path().join("new/dedupe.db")).unwrap();
        let row: (String, String, String, Option<i64>) = connection
            .query_row("SELECT kind, handler, key, lease_until FROM dedupe", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .unwrap();
        assert_eq!(row, ("kind".into(), "handler".into(), "a".into(), None));
    }

    #[tokio::test]
    async fn what_is_over_is_deleted_as_others_come() {
        let folder = tempfile::tempdir().unwrap();
        let (store, now) = (open(&folder).await, SystemTime::now());
        for n in 0..300 {
            let held = claim(&store, &key(n), now).await;
            store.finish(&held, now, DAY).await.unwrap();
        }
        let connection = rusqlite::Connection::open(folder.path().join("new/dedupe.db")).unwrap();
        let rows = || connection.query_row("SELECT count(*) FROM dedupe", [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(rows(), 300);
        for n in 300..302 {
            claim(&store, &key(n), now + DAY).await;
        }
        assert_eq!(rows(), 2, "200 at a time");
    }

    #[tokio::test]
    async fn a_dropped_begin_gives_its_claim_back() {
        let folder = tempfile::tempdir().unwrap();
        let (store, now) = (open(&folder).await, SystemTime::now());
        for n in 0..50 {
            let key = key(n);
            let mut begin = store.begin(&key, now, DAY);
            // Polled once, so that it is asked, and then dropped.
            let answered = polled(&mut begin).await;
            drop(begin);
            if let Some(Ok(Begun::Fresh(claim))) = answered {
                store.abandon(&claim).await.unwrap();
            }
        }
        for n in 0..50 {
            // Its answer may have crossed the drop; then the claim comes back with the next group.
            let mut begun = store.begin(&key(n), now, DAY).await.unwrap();
            for _ in 0..100 {
                if matches!(begun, Begun::Fresh(_)) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
                begun = store.begin(&key(n), now, DAY).await.unwrap();
            }
            assert!(matches!(begun, Begun::Fresh(_)), "{n}: {begun:?}");
        }
    }

    async fn polled<T>(future: &mut BoxFuture<'_, T>) -> Option<T> {
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }

    #[tokio::test]
    async fn a_deleted_file_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (store, now) = (open(&folder).await, SystemTime::now());
        claim(&store, &key("a"), now).await;
        std::fs::remove_dir_all(folder.path().join("new")).unwrap();
        claim(&store, &key("a"), now).await;
        assert!(folder.path().join("new/dedupe.db").exists());
    }

    #[tokio::test]
    async fn a_file_of_another_kind_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let queue = folder.path().join("queue.db");
        drop(dawdle::backend::local::LocalBackend::open(&queue, Default::default()).await.unwrap());
        let error = SqliteStore::open(&queue).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Queue);
        let text = error.to_string();
        assert!(text.contains("queue.db") && text.contains("SqliteStore::open"), "{text}");
        std::fs::write(folder.path().join("text"), "no database at all, but longer than a header of SQLite has it")
            .unwrap();
        let error = SqliteStore::open(folder.path().join("text")).await.unwrap_err();
        assert!(error.to_string().contains("the dedupe store") && error.kind() == ErrorKind::Queue, "{error}");
        assert_eq!(SqliteStore::open(folder.path()).await.unwrap_err().kind(), ErrorKind::Config);
    }
}
