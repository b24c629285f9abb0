//! `prove_idempotent` catches a handler that does harm when it runs again, and passes one that does not.
#![cfg(feature = "testing")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dawdle::middleware::dedupe::MemoryStore;
use dawdle::testing::{Counterexample, Harness, Proof, prove_idempotent};
use dawdle::{Context, Dedupe, Event, Failure, Outcome, State, handlers};
use serde::{Deserialize, Serialize};
use tokio::task::yield_now;

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "prove.paid")]
struct Paid {
    invoice: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "prove.booked")]
struct Booked {
    invoice: u64,
}

/// A ledger: how often each invoice was booked, and which are marked as booked; and whose turn it is, for those who take turns.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<Books>>, Arc<tokio::sync::Mutex<()>>);

type Books = (BTreeMap<u64, u32>, BTreeSet<u64>);

impl Ledger {
    /// Takes its time on the way there and on the way back.
    async fn book(&self, invoice: u64) {
        yield_now().await;
        *self.0.lock().unwrap().0.entry(invoice).or_default() += 1;
        yield_now().await;
    }

    async fn is_marked(&self, invoice: u64) -> bool {
        yield_now().await;
        self.0.lock().unwrap().1.contains(&invoice)
    }

    async fn mark(&self, invoice: u64) {
        yield_now().await;
        self.0.lock().unwrap().1.insert(invoice);
    }

    async fn book_once(&self, invoice: u64) {
        yield_now().await;
        self.0.lock().unwrap().0.insert(invoice, 1);
        yield_now().await;
    }
}

#[dawdle::handler]
async fn adds(event: &Paid, ledger: State<Ledger>) -> Outcome {
    ledger.book(event.invoice).await;
    Ok(())
}

#[dawdle::handler]
async fn looks_first(event: &Paid, ledger: State<Ledger>) -> Outcome {
    if !ledger.is_marked(event.invoice).await {
        ledger.book(event.invoice).await;
        ledger.mark(event.invoice).await;
    }
    Ok(())
}

#[dawdle::handler]
async fn sets(event: &Paid, cx: &Context, ledger: State<Ledger>) -> Outcome {
    ledger.book_once(event.invoice).await;
    cx.dawdle().signal(Booked { invoice: event.invoice }).await?;
    Ok(())
}

#[dawdle::handler]
async fn refuses_the_second(event: &Paid, ledger: State<Ledger>) -> Outcome {
    if ledger.is_marked(event.invoice).await {
        return Err(Failure::dead_letter("booked before"));
    }
    ledger.book_once(event.invoice).await;
    ledger.mark(event.invoice).await;
    Ok(())
}

/// Its effect and the end of its run are one: nothing is awaited in between.
#[dawdle::handler]
async fn adds_at_its_end(event: &Paid, ledger: State<Ledger>) -> Outcome {
    yield_now().await;
    *ledger.0.lock().unwrap().0.entry(event.invoice).or_default() += 1;
    Ok(())
}

/// Does harm only when it is dropped at its sixth await: one run waits for the other, so none comes in between.
#[dawdle::handler]
async fn adds_late(event: &Paid, ledger: State<Ledger>) -> Outcome {
    let _turn = ledger.1.lock().await;
    for _ in 0..5 {
        yield_now().await;
    }
    if !ledger.0.lock().unwrap().1.contains(&event.invoice) {
        *ledger.0.lock().unwrap().0.entry(event.invoice).or_default() += 1;
        yield_now().await;
        ledger.0.lock().unwrap().1.insert(event.invoice);
    }
    Ok(())
}

#[dawdle::handler(attempts = 2)]
async fn fails(_: &Paid) -> Outcome {
    Err("no")?
}

fn proof(handlers: Vec<dawdle::Registration>, seeds: impl IntoIterator<Item = u64>) -> Proof {
    prove_idempotent(handlers, seeds)
        .given(|| Harness::builder().state(Ledger::default()))
        .signal(|test| test.signal(Paid { invoice: 1 }))
        .signal(|test| test.signal(Paid { invoice: 2 }).delay(Duration::from_secs(3_600)))
}

async fn booked(test: &Harness) -> BTreeMap<u64, u32> {
    test.state::<Ledger>().0.lock().unwrap().0.clone()
}

async fn proven(proof: Proof) -> Result<(), Counterexample> {
    proof.effects(booked).await
}

#[tokio::test]
async fn one_that_adds_is_caught_and_its_seed_shows_the_same_again() {
    let caught = proven(proof(handlers![adds], 0..20)).await.unwrap_err();
    let text = caught.to_string();
    assert!(text.contains("{1: 1, 2: 1}") && text.contains(&format!("[{}]", caught.seed())), "{text}");
    assert!(!caught.happened().is_empty(), "{text}");
    for _ in 0..5 {
        assert_eq!(proven(proof(handlers![adds], [caught.seed()])).await.unwrap_err(), caught);
    }
}

#[tokio::test]
async fn one_that_looks_before_it_adds_is_caught_between_the_two() {
    let caught = proven(proof(handlers![looks_first], 0..50)).await.unwrap_err();
    for _ in 0..5 {
        assert_eq!(proven(proof(handlers![looks_first], [caught.seed()])).await.unwrap_err(), caught);
    }
}

#[tokio::test]
async fn one_that_does_harm_only_when_dropped_at_a_late_await_is_caught() {
    let caught = proven(proof(handlers![adds_late], 0..50)).await.unwrap_err();
    assert!(caught.to_string().contains("was dropped at await 6"), "{caught}");
    assert_eq!(proven(proof(handlers![adds_late], [caught.seed()])).await.unwrap_err(), caught);
}

#[tokio::test]
async fn one_that_sets_passes() {
    proven(proof(handlers![sets], 0..50)).await.unwrap();
}

#[tokio::test]
async fn one_that_fails_the_second_time_is_caught_by_its_dead_letters() {
    let caught = proven(proof(handlers![refuses_the_second], 0..50)).await.unwrap_err();
    assert!(caught.to_string().contains("booked before"), "{caught}");
}

#[tokio::test]
async fn one_that_always_fails_does_the_same_each_time() {
    proven(proof(handlers![fails], 0..50)).await.unwrap();
}

#[tokio::test]
async fn dedupe_lets_one_pass_whose_effect_ends_its_run() {
    assert!(proven(proof(handlers![adds_at_its_end], 0..20)).await.is_err());
    let given = || Harness::builder().state(Ledger::default()).middleware(Dedupe::new(MemoryStore::new()));
    proven(proof(handlers![adds_at_its_end], 0..50).given(given)).await.unwrap();
}

#[tokio::test]
async fn dedupe_does_not_hide_the_window_between_an_effect_and_the_end_of_its_run() {
    let given = || Harness::builder().state(Ledger::default()).middleware(Dedupe::new(MemoryStore::new()));
    let caught = proven(proof(handlers![adds], 0..50).given(given)).await.unwrap_err();
    assert!(caught.to_string().contains("dropped at await"), "{caught}");
}

#[tokio::test]
#[should_panic(expected = "no handler ran")]
async fn a_proof_in_which_nothing_runs_proves_nothing() {
    let _ = proven(proof(Vec::new(), 0..1)).await;
}

#[tokio::test]
#[should_panic(expected = "nothing is signalled")]
async fn a_proof_without_an_event_proves_nothing() {
    let _ = proven(prove_idempotent(handlers![sets], 0..1)).await;
}
