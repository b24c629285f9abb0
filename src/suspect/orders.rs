//! That turns are taken one at a time, and come to everybody, in every order of events.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::clock::ExploredClock;
use crate::sync::explore::{any, explore, panic_quietly, turns};

const MAX_RECEIVES: u32 = 10;

/// How many turns there are now, and the most that there were at once.
#[derive(Default)]
struct Turns {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// A suspect from its receive on: it may go before its turn comes, or end its turn in any way.
async fn suspected(suspects: Suspects, clock: Clock, line: InLine, taken: Arc<Turns>) {
    let _working = suspects.work();
    if any(4) == 0 {
        turns(3).await;
        return;
    }
    let turn = line.turn(&clock).await;
    taken.most.fetch_max(taken.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    turns(3).await;
    taken.now.fetch_sub(1, Ordering::SeqCst);
    match any(4) {
        0 => panic_quietly(),
        // Its work goes on.
        1 => drop(turn),
        _ => turns(2).await,
    }
    turns(2).await;
}

#[test]
fn turns_are_taken_one_at_a_time_and_come_to_everybody() {
    explore(300, || async {
        let (clock, suspects) = (Clock::from_explored(ExploredClock::new(true)), Suspects::new(MAX_RECEIVES));
        let taken = Arc::new(Turns::default());
        let mut tasks = Vec::new();
        for _ in 0..4 {
            turns(4).await;
            // One that is put back leaves when its copy is written.
            match suspects.standing(3 + any(8) as u32, false) {
                Standing::Ordinary => unreachable!("from a third of the limit on"),
                leaving @ Standing::Leaving { .. } => tasks.push(clock.spawn(async move {
                    turns(3).await;
                    drop(leaving);
                })),
                Standing::Suspect(line) => {
                    let (soon, goes_by) = (suspects.clone(), clock.clone());
                    clock.spawn(async move { soon.begin_soon(&goes_by).await });
                    tasks.push(clock.spawn(suspected(suspects.clone(), clock.clone(), line, Arc::clone(&taken))));
                }
            }
        }
        for task in tasks {
            // Some of them panic.
            let _ = task.await;
        }
        assert!(taken.most.load(Ordering::SeqCst) <= 1, "two turns at once");
        assert!(!suspects.any() && suspects.0.working.count() == 0 && suspects.0.leaving.count() == 0);
        // Who has gone is passed over by whoever begins next.
        suspects.begin();
        let line = suspects.0.lock();
        assert!(line.waiting.is_empty() && !line.taken);
    });
}

#[test]
fn beside_another_suspect_nobody_is_begun_at_its_last_receive() {
    explore(200, || async {
        let (clock, suspects) = (Clock::from_explored(ExploredClock::new(true)), Suspects::new(MAX_RECEIVES));
        let in_hand = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let (suspects, clock, in_hand) = (suspects.clone(), clock.clone(), Arc::clone(&in_hand));
                clock.clone().spawn(async move {
                    turns(4).await;
                    let Standing::Suspect(line) = suspects.standing(MAX_RECEIVES, false) else { return };
                    assert_eq!(in_hand.fetch_add(1, Ordering::SeqCst), 0, "two at their last receives");
                    let _working = suspects.work();
                    suspects.begin_soon(&clock).await;
                    let turn = line.turn(&clock).await;
                    turns(2).await;
                    drop(turn);
                    turns(2).await;
                    in_hand.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(!suspects.any());
    });
}
