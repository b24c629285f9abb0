//! What becomes of a delivery that is ended, in every order of events.

use std::collections::HashMap;
use std::sync::Mutex as Records;

use super::*;
use crate::backend::{Delivery, LaneStats, Limits, Outgoing, Role};
use crate::clock::ExploredClock;
use crate::sync::explore::{any, explore, panic_quietly, turns};

/// Ends any entry in any way, and notes what it did. A receipt is its message's id.
#[derive(Default)]
struct Erratic(Records<HashMap<String, Ended>>);

#[derive(Clone, Copy, Default)]
struct Ended {
    asked: u32,
    confirmed: bool,
}

impl Erratic {
    fn of(&self, id: &str) -> Ended {
        self.0.lock().unwrap().get(id).copied().unwrap_or_default()
    }

    fn end(&self, entry: &Settle) -> Result<()> {
        let error = |kind| Err(Error::new(kind, "as was asked for"));
        match any(4) {
            0 => error(ErrorKind::Unavailable),
            1 => error(ErrorKind::LeaseLost),
            _ => {
                self.0.lock().unwrap().entry(entry.receipt.0.clone()).or_default().confirmed = true;
                Ok(())
            }
        }
    }
}

impl Backend for Erratic {
    fn name(&self) -> &str {
        "erratic"
    }

    fn describe(&self) -> String {
        String::new()
    }

    fn limits(&self) -> Limits {
        Limits { max_batch_entries: 2, ..Limits::unlimited() }
    }

    fn check(&self, _: Role) -> BoxFuture<'_, Result<()>> {
        unreachable!()
    }

    fn send<'a>(&'a self, _: Lane, _: &'a [Outgoing]) -> BoxFuture<'a, Vec<Result<()>>> {
        unreachable!()
    }

    fn receive(&self, _: Lane, _: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        unreachable!()
    }

    fn settle<'a>(&'a self, _: Lane, entries: &'a [Settle]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move {
            for entry in entries {
                self.0.lock().unwrap().entry(entry.receipt.0.clone()).or_default().asked += 1;
            }
            turns(3).await;
            match any(8) {
                0 => panic_quietly(),
                1 => Vec::new(),
                _ => entries.iter().map(|entry| self.end(entry)).collect(),
            }
        })
    }

    fn extend<'a>(&'a self, _: Lane, _: &'a [Receipt], _: Duration) -> BoxFuture<'a, Vec<Result<()>>> {
        unreachable!()
    }

    fn inspect(&self, _: Lane) -> BoxFuture<'_, Result<LaneStats>> {
        unreachable!()
    }

    fn browse(&self, _: Lane, _: usize, _: Duration) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        unreachable!()
    }
}

fn settler(remembered_ids: usize) -> (Settler, Arc<Erratic>, Clock) {
    let (backend, clock) = (Arc::new(Erratic::default()), Clock::from_explored(ExploredClock::new(true)));
    let settings = Settings { remembered_ids, ..Settings::default() };
    (Settler::new(Arc::clone(&backend) as Arc<dyn Backend>, clock.clone(), &settings), backend, clock)
}

fn receipt(id: &str) -> Receipt {
    Receipt(id.to_owned())
}

#[test]
fn what_is_acked_is_remembered_until_that_is_confirmed() {
    explore(200, || async {
        let (settler, backend, clock) = settler(100);
        let ids: Vec<String> = (0..4).map(|number| number.to_string()).collect();
        let acks: Vec<_> = ids
            .iter()
            .map(|id| {
                let (settler, id) = (settler.clone(), id.clone());
                clock.spawn(async move {
                    turns(3).await;
                    settler.ack(Lane::Message, &id, receipt(&id)).await;
                })
            })
            .collect();
        for ack in acks {
            ack.await.unwrap();
        }
        for id in &ids {
            let ended = backend.of(id);
            assert!((1..=TRIES).contains(&ended.asked), "{} tries", ended.asked);
            assert_eq!(settler.is_finished(id), !ended.confirmed);
        }
    });
}

#[test]
fn a_flush_waits_for_what_was_asked_for_before_it_also_by_those_who_have_gone() {
    explore(200, || async {
        let (settler, backend, clock) = settler(100);
        let ids: Vec<String> = (0..3).map(|number| number.to_string()).collect();
        let mut asked = Vec::new();
        for id in &ids {
            let (settler, id) = (settler.clone(), id.clone());
            let mut ends = Box::pin(async move {
                let lane = Lane::Message;
                match any(2) {
                    0 => settler.ack(lane, &id, receipt(&id)).await,
                    _ => settler.release(lane, &id, receipt(&id), Duration::ZERO).await,
                }
            });
            if futures_util::poll!(ends.as_mut()).is_pending() && any(2) == 0 {
                asked.push(clock.spawn(ends));
            }
        }
        settler.flush().await;
        assert!(ids.iter().all(|id| backend.of(id).asked > 0));
        for ended in asked {
            ended.await.unwrap();
        }
    });
}

#[test]
fn what_is_remembered_is_bounded_and_the_newest_is_there() {
    const LIMIT: usize = 3;
    explore(200, || async {
        let (settler, _, clock) = settler(LIMIT);
        let tasks: Vec<_> = (0..3)
            .map(|task| {
                let settler = settler.clone();
                clock.spawn(async move {
                    for number in 0..3 {
                        settler.remember(&format!("{task}.{number}"));
                        turns(2).await;
                        assert!(settler.finished().ids.len() <= LIMIT);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        settler.remember("newest");
        assert!(settler.is_finished("newest"));
        let finished = settler.finished();
        assert_eq!((finished.ids.len(), finished.order.len()), (LIMIT, LIMIT));
    });
}
