//! The suite that every [`DedupeStore`] passes: Dawdle's own, and yours.
//!
//! ```
//! use std::sync::Arc;
//!
//! use dawdle::middleware::dedupe::MemoryStore;
//! use dawdle::testing::dedupe_conformance;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let store = MemoryStore::new();
//! dedupe_conformance::run_all([Arc::new(store.clone()), Arc::new(store)]).await;
//! # }
//! ```
//!
//! The time is passed to the store, never waited for. A store that goes by a clock of its own
//! instead cannot pass.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::ErrorKind;
use crate::middleware::dedupe::{Begun, Claim, DedupeKey, DedupeStore};

const LEASE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// Two handles of one store, as two nodes have them.
type Handles = [Arc<dyn DedupeStore>; 2];

/// Checks every property on a store that is fresh and empty, given as two handles of it.
///
/// # Panics
/// Where a property does not hold, naming it.
pub async fn run_all(handles: [Arc<dyn DedupeStore>; 2]) {
    one_of_all_that_begin_is_fresh(&handles).await;
    what_is_done_is_remembered_and_then_forgotten(&handles).await;
    what_is_abandoned_begins_again_at_once(&handles).await;
    a_claim_ends_with_its_lease_and_is_counted(&handles).await;
    a_renewed_claim_lasts(&handles).await;
    a_claim_that_was_lost_changes_nothing(&handles).await;
    a_claim_whose_lease_ended_may_finish_if_nobody_else_began(&handles).await;
    finishing_twice_is_fine(&handles).await;
    kinds_handlers_and_keys_do_not_meet(&handles).await;
}

fn key(name: &str) -> DedupeKey {
    DedupeKey::new("suite.kind", "suite_handler", name)
}

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

async fn begin(store: &Arc<dyn DedupeStore>, key: &DedupeKey, now: SystemTime) -> Begun {
    store.begin(key, now, LEASE).await.unwrap_or_else(|error| panic!("begin failed: {error}"))
}

async fn fresh(store: &Arc<dyn DedupeStore>, key: &DedupeKey, now: SystemTime) -> Claim {
    match begin(store, key, now).await {
        Begun::Fresh(claim) => claim,
        other => panic!("{key}: nobody runs it and nobody has finished it, and begin answered {other:?}"),
    }
}

fn done<T>(answer: crate::Result<T>, what: &str) {
    if let Err(error) = answer {
        panic!("{what} failed: {error}");
    }
}

fn lost(answer: crate::Result<()>, what: &str) {
    match answer {
        Err(error) if error.kind() == ErrorKind::LeaseLost => {}
        other => panic!("{what} must be answered LeaseLost, not {other:?}"),
    }
}

async fn one_of_all_that_begin_is_fresh([one, other]: &Handles) {
    let key = key("race");
    let begun = (0..20).map(|n| begin(if n % 2 == 0 { one } else { other }, &key, start()));
    let begun = futures_util::future::join_all(begun).await;
    let fresh = begun.iter().filter(|begun| matches!(begun, Begun::Fresh(_))).count();
    assert_eq!(fresh, 1, "of all that begin one key, one is fresh");
    let until = start() + LEASE;
    let waits =
        begun.iter().filter(|begun| matches!(begun, Begun::InProgress { until: told } if *told == until)).count();
    assert_eq!(waits, 19, "the others are told when that claim ends");
}

async fn what_is_done_is_remembered_and_then_forgotten([one, other]: &Handles) {
    let key = key("done");
    let claim = fresh(one, &key, start()).await;
    done(one.finish(&claim, start(), DAY).await, "finish");
    assert_eq!(begin(other, &key, start()).await, Begun::Done, "what is finished is done, for every node");
    assert_eq!(begin(other, &key, start() + DAY - LEASE).await, Begun::Done, "and for as long as was asked for");
    done(one.abandon(&claim).await, "abandon");
    assert_eq!(begin(other, &key, start()).await, Begun::Done, "abandoning what is finished changes nothing");
    let again = fresh(other, &key, start() + DAY + LEASE).await;
    assert_eq!(again.crashes(), 0, "what was finished is no crash");
}

async fn what_is_abandoned_begins_again_at_once([one, other]: &Handles) {
    let key = key("abandoned");
    let claim = fresh(one, &key, start()).await;
    done(other.abandon(&claim).await, "abandon");
    let again = fresh(one, &key, start()).await;
    assert_eq!(again.crashes(), 0, "what was abandoned is no crash");
    assert_ne!(claim.token(), again.token(), "each claim has a token of its own");
}

async fn a_claim_ends_with_its_lease_and_is_counted([one, other]: &Handles) {
    let (key, mut now) = (key("dead node"), start());
    for crashes in 0..3 {
        let claim = fresh(one, &key, now).await;
        assert_eq!(claim.crashes(), crashes, "claims that ended without a word are counted");
        let before_its_end = begin(other, &key, now + LEASE - Duration::from_secs(1)).await;
        assert!(matches!(before_its_end, Begun::InProgress { .. }), "a claim holds for its lease: {before_its_end:?}");
        now += LEASE;
    }
    let claim = fresh(one, &key, now).await;
    done(one.abandon(&claim).await, "abandon");
    assert_eq!(fresh(one, &key, now).await.crashes(), 0, "a claim that was abandoned ends the count");
}

async fn a_renewed_claim_lasts([one, other]: &Handles) {
    let key = key("renewed");
    let claim = fresh(one, &key, start()).await;
    done(one.renew(&claim, start() + LEASE / 2, LEASE).await, "renew");
    let begun = begin(other, &key, start() + LEASE).await;
    assert_eq!(begun, Begun::InProgress { until: start() + LEASE / 2 + LEASE }, "a renewed claim lasts longer");
}

async fn a_claim_that_was_lost_changes_nothing([one, other]: &Handles) {
    let (key, now) = (key("fenced"), start() + LEASE);
    let old = fresh(one, &key, start()).await;
    let new = fresh(other, &key, now).await;
    lost(one.renew(&old, now, DAY).await, "renewing a claim that is another's");
    lost(one.finish(&old, now, DAY).await, "finishing a claim that is another's");
    done(one.abandon(&old).await, "abandoning a claim that is another's");
    let begun = begin(one, &key, now).await;
    assert_eq!(begun, Begun::InProgress { until: now + LEASE }, "and leaves the newest claim as it is");
    done(other.finish(&new, now, DAY).await, "finishing the newest claim");
    lost(other.renew(&new, now, DAY).await, "renewing what is finished");
    assert_eq!(begin(one, &key, now).await, Begun::Done, "what is finished stays so");
}

async fn a_claim_whose_lease_ended_may_finish_if_nobody_else_began([one, other]: &Handles) {
    let (key, now) = (key("late"), start() + LEASE * 2);
    let claim = fresh(one, &key, start()).await;
    done(one.renew(&claim, now, LEASE).await, "renewing a claim that ended and is nobody else's");
    done(one.finish(&claim, now + LEASE * 2, DAY).await, "finishing a claim that ended and is nobody else's");
    assert_eq!(begin(other, &key, now + LEASE * 3).await, Begun::Done, "late, and remembered");
}

async fn finishing_twice_is_fine([one, other]: &Handles) {
    let key = key("twice");
    let claim = fresh(one, &key, start()).await;
    done(one.finish(&claim, start(), DAY).await, "finish");
    done(other.finish(&claim, start(), DAY).await, "finishing once more, as when the answer was lost,");
    assert_eq!(begin(one, &key, start()).await, Begun::Done);
}

async fn kinds_handlers_and_keys_do_not_meet([one, _]: &Handles) {
    for (kind, handler, key) in [("a", "b", "c"), ("a", "b", "C"), ("a", "c", "b"), ("c", "b", "a"), ("a", "b", "c d")]
    {
        let claim = fresh(one, &DedupeKey::new(kind, handler, key), start()).await;
        done(one.finish(&claim, start(), DAY).await, "finish");
    }
    let longest = "ü".repeat(512);
    fresh(one, &DedupeKey::new("k".repeat(128), "h".repeat(128), longest.clone()), start()).await;
    fresh(one, &DedupeKey::new("k".repeat(128), "h".repeat(128), longest + "u"), start()).await;
}
