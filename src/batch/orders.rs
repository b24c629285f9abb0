//! What a batcher promises, in every order of events.

use std::collections::HashSet;
use std::sync::Mutex as Records;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::clock::ExploredClock;
use crate::sync::explore::{any, explore, panic_quietly, turns};

/// The entries of one request.
const ENTRIES: usize = 2;

/// An item whose request panics.
const PANICS: usize = 98;

/// An item whose request answers none of its entries.
const UNANSWERED: usize = 99;

/// Answers each item with itself, after a while.
#[derive(Default)]
struct Echo {
    at_once: AtomicUsize,
    most_at_once: Arc<AtomicUsize>,
    /// The items of requests that went wrong.
    broken: Records<HashSet<usize>>,
}

/// Whatever becomes of the request.
struct Landing<'a>(&'a AtomicUsize);

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Work for Echo {
    type Item = usize;
    type Answer = usize;

    type Load = usize;

    fn begin(&self) -> usize {
        0
    }

    fn add(&self, load: &mut usize, _: &usize) -> bool {
        *load += 1;
        *load <= ENTRIES
    }

    fn is_full(&self, load: &usize) -> bool {
        *load >= ENTRIES
    }

    fn skips_abandoned(&self) -> bool {
        true
    }

    fn run(&self, items: Vec<usize>) -> BoxFuture<'_, Vec<usize>> {
        Box::pin(async move {
            self.most_at_once.fetch_max(self.at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let _landing = Landing(&self.at_once);
            turns(3).await;
            if items.contains(&PANICS) || items.contains(&UNANSWERED) {
                self.broken.lock().unwrap().extend(&items);
            }
            if items.contains(&PANICS) {
                panic_quietly();
            }
            if items.contains(&UNANSWERED) { Vec::new() } else { items }
        })
    }
}

/// The longest wait there is: on a clock that stands, for ever.
const WAIT: Duration = Duration::from_secs(1);

fn batcher(clock: &ExploredClock, linger: Duration, at_once: usize) -> (Batcher<Echo>, Arc<AtomicUsize>) {
    paced(clock, Pace { linger, gather: WAIT, at_once, alone: false })
}

fn paced(clock: &ExploredClock, pace: Pace) -> (Batcher<Echo>, Arc<AtomicUsize>) {
    let work = Echo::default();
    let most = Arc::clone(&work.most_at_once);
    (Batcher::new(work, Clock::from_explored(clock.clone()), pace), most)
}

/// Submits one item from a task of its own, and yields its answer.
fn submitted(batcher: &Batcher<Echo>, item: usize) -> shuttle::future::JoinHandle<Option<usize>> {
    let batcher = batcher.clone();
    shuttle::future::spawn(async move {
        turns(4).await;
        batcher.submit(item).await.ok()
    })
}

fn assert_at_rest(batcher: &Batcher<Echo>) {
    let queue = batcher.shared.lock();
    assert!(queue.items.is_empty() && queue.next.load == 0 && queue.in_the_air == 0);
}

#[test]
fn every_item_is_answered_in_no_more_requests_at_once_than_allowed() {
    explore(300, || async {
        let (linger, at_once) = (WAIT * any(2) as u32, 1 + any(2));
        let (batcher, most) = batcher(&ExploredClock::new(true), linger, at_once);
        let answers: Vec<_> = (0..5).map(|item| submitted(&batcher, item)).collect();
        for (item, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.await.unwrap(), Some(item));
        }
        assert!(most.load(Ordering::SeqCst) <= at_once);
        batcher.flush().await;
        assert_at_rest(&batcher);
    });
}

#[test]
fn an_item_is_not_left_waiting_for_a_timer_when_nothing_is_in_the_air() {
    explore(300, || async {
        let (batcher, _) = batcher(&ExploredClock::new(false), Duration::ZERO, 1 + any(2));
        let answers: Vec<_> = (0..5).map(|item| submitted(&batcher, item)).collect();
        for (item, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.await.unwrap(), Some(item));
        }
    });
}

#[test]
fn a_full_batch_waits_for_no_timer() {
    explore(300, || async {
        let (batcher, _) = batcher(&ExploredClock::new(false), WAIT, 1 + any(2));
        let submitting: Vec<_> = (0..3)
            .map(|_| {
                let batcher = batcher.clone();
                shuttle::future::spawn(async move {
                    for item in 0..ENTRIES {
                        drop(batcher.submit(item));
                        turns(2).await;
                    }
                })
            })
            .collect();
        for submits in submitting {
            submits.await.unwrap();
        }
        // Without end if it waits.
        while batcher.shared.lock().items.len() >= ENTRIES {
            shuttle::future::yield_now().await;
        }
    });
}

#[test]
fn a_flush_waits_for_no_timer_and_ends() {
    explore(300, || async {
        let (batcher, _) = batcher(&ExploredClock::new(false), WAIT, 1 + any(2));
        let flushes: Vec<_> = (0..2)
            .map(|item| {
                let batcher = batcher.clone();
                shuttle::future::spawn(async move {
                    turns(4).await;
                    let answer = batcher.submit(item);
                    batcher.flush().await;
                    assert_eq!(answer.await.unwrap(), item);
                })
            })
            .collect();
        drop(batcher.submit(2));
        for flush in flushes {
            flush.await.unwrap();
        }
        batcher.flush().await;
        assert_at_rest(&batcher);
        assert!(!batcher.shared.lock().hurry, "the next item would not linger");
    });
}

#[test]
fn requests_that_panic_or_answer_too_little_are_answered_and_spoil_no_others() {
    explore(300, || async {
        let (linger, at_once) = (WAIT * any(2) as u32, 1 + any(2));
        let (batcher, most) = batcher(&ExploredClock::new(true), linger, at_once);
        let answers: Vec<_> =
            [0, PANICS, 1, UNANSWERED, 2].into_iter().map(|item| (item, submitted(&batcher, item))).collect();
        for (item, answer) in answers {
            let answer = answer.await.unwrap();
            let broken = batcher.shared.work.broken.lock().unwrap().contains(&item);
            assert_eq!(answer, (!broken).then_some(item));
        }
        batcher.flush().await;
        assert_at_rest(&batcher);
        assert!(most.load(Ordering::SeqCst) <= at_once);
    });
}

/// Some in line, some by themselves, one of which panics and one of which nobody waits for any more.
#[test]
fn items_that_go_by_themselves_hold_up_nobody_and_are_flushed() {
    explore(300, || async {
        let pace = Pace { linger: Duration::ZERO, gather: Duration::ZERO, at_once: 1 + any(2), alone: true };
        let (batcher, _) = paced(&ExploredClock::new(false), pace);
        let alone = |item: usize| {
            let batcher = batcher.clone();
            shuttle::future::spawn(async move {
                turns(2).await;
                batcher.answer(item).await
            })
        };
        let (dropped, panics, answered) = (alone(0), alone(PANICS), alone(1));
        let in_line: Vec<_> = (2..5).map(|item| submitted(&batcher, item)).collect();
        turns(3).await;
        dropped.abort();
        assert_eq!(panics.await.unwrap(), None);
        // One for whom there is no room in the air is in line, maybe with the one that panics.
        for (item, answer) in std::iter::once((1, answered)).chain((2..5).zip(in_line)) {
            let answer = answer.await.unwrap();
            let broken = batcher.shared.work.broken.lock().unwrap().contains(&item);
            assert_eq!(answer, (!broken).then_some(item));
        }
        let _ = dropped.await;
        batcher.flush().await;
        assert_at_rest(&batcher);
    });
}

#[test]
fn a_runtime_that_ends_at_any_point_leaves_nobody_waiting() {
    explore(300, || async {
        let clock = ExploredClock::new(true);
        let (linger, at_once) = (WAIT * any(2) as u32, 1 + any(2));
        let (batcher, _) = batcher(&clock, linger, at_once);
        let answers: Vec<_> = (0..5).map(|item| submitted(&batcher, item)).collect();
        turns(20).await;
        clock.drop_tasks();
        for answer in answers {
            answer.await.unwrap();
        }
        batcher.flush().await;
        assert_at_rest(&batcher);
    });
}
