//! What the lease table promises, in every order of events.

use std::collections::BTreeMap;
use std::sync::Mutex as Records;
use std::time::SystemTime;

use super::*;
use crate::backend::{BoxFuture, LaneStats, Limits, Outgoing, Role, Settle, Settlement};
use crate::clock::ExploredClock;
use crate::error::{Error, Result};
use crate::sync::explore::{any, explore, panic_quietly, turns};

const LEASE: Duration = Duration::from_secs(30);

/// Notes what is asked of it about each message. A receipt is its message's id.
#[derive(Default)]
struct Watched(Records<HashMap<String, Asked>>);

#[derive(Default)]
struct Asked {
    extending: usize,
    extended: usize,
    settled: bool,
    wrong: Option<&'static str>,
}

impl Watched {
    fn of(&self, receipt: &Receipt, change: impl FnOnce(&mut Asked)) {
        change(self.0.lock().unwrap().entry(receipt.0.clone()).or_default());
    }
}

/// Extensions under way, until they are answered or dropped.
struct Extending<'a>(&'a Watched, &'a [Receipt]);

impl Drop for Extending<'_> {
    fn drop(&mut self) {
        self.1.iter().for_each(|receipt| self.0.of(receipt, |asked| asked.extending -= 1));
    }
}

impl Backend for Watched {
    fn name(&self) -> &str {
        "watched"
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
                self.of(&entry.receipt, |asked| {
                    asked.settled = true;
                    if asked.extending > 0 {
                        asked.wrong = Some("settled while it was being extended");
                    }
                });
            }
            entries.iter().map(|_| Ok(())).collect()
        })
    }

    fn extend<'a>(&'a self, _: Lane, receipts: &'a [Receipt], _: Duration) -> BoxFuture<'a, Vec<Result<()>>> {
        if any(8) == 0 {
            panic_quietly();
        }
        Box::pin(async move {
            for receipt in receipts {
                self.of(receipt, |asked| {
                    asked.extending += 1;
                    asked.extended += 1;
                    if asked.settled {
                        asked.wrong = Some("extended after it was settled");
                    }
                });
            }
            let _extending = Extending(self, receipts);
            turns(3).await;
            let kind = match any(6) {
                0 => panic_quietly(),
                1 => return Vec::new(),
                2 => Some(ErrorKind::LeaseLost),
                3 => Some(ErrorKind::Unavailable),
                _ => None,
            };
            receipts.iter().map(|_| kind.map_or(Ok(()), |kind| Err(Error::new(kind, "as was asked for")))).collect()
        })
    }

    fn inspect(&self, _: Lane) -> BoxFuture<'_, Result<LaneStats>> {
        unreachable!()
    }

    fn browse(&self, _: Lane, _: usize, _: Duration) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        unreachable!()
    }
}

/// One that was received just now, by this receipt.
fn delivery(id: &str, receipt: &str) -> Delivery {
    Delivery {
        message_id: id.to_owned(),
        receipt: Receipt(receipt.to_owned()),
        body: String::new(),
        attributes: BTreeMap::new(),
        receive_count: 1,
        enqueued_at: SystemTime::UNIX_EPOCH,
        lease: LEASE,
    }
}

/// A message that is received, perhaps twice, and settled; and then once more.
async fn worked_on(leases: Leases, backend: Arc<Watched>, id: String) {
    for round in ["first", "second"] {
        let mut newest = format!("{id}, {round}");
        assert!(matches!(leases.insert(Lane::Message, &delivery(&id, &newest)), Inserted::New(_)));
        turns(6).await;
        if any(2) == 0 {
            newest.push_str(", again");
            assert!(matches!(leases.insert(Lane::Message, &delivery(&id, &newest)), Inserted::Known));
            turns(6).await;
        }
        let receipt = leases.remove(&id).await.unwrap();
        assert_eq!(receipt.0, newest);
        backend.settle(Lane::Message, &[Settle { receipt, how: Settlement::Ack }]).await;
        assert!(!leases.is_held(&id));
    }
}

struct Bench {
    clock: ExploredClock,
    backend: Arc<Watched>,
    leases: Leases,
}

impl Bench {
    fn new() -> Self {
        let (clock, backend) = (ExploredClock::new(true), Arc::new(Watched::default()));
        let leases = Leases::new(Arc::clone(&backend) as Arc<dyn Backend>, Clock::from_explored(clock.clone()));
        Bench { clock, backend, leases }
    }

    fn keeper(&self) -> (crate::clock::Task<()>, Latch) {
        let (leases, stop) = (self.leases.clone(), Latch::default());
        let stopped = stop.clone();
        (Clock::from_explored(self.clock.clone()).spawn(async move { leases.keep(stopped).await }), stop)
    }

    fn workers(&self) -> Vec<shuttle::future::JoinHandle<()>> {
        let worker = |n| worked_on(self.leases.clone(), Arc::clone(&self.backend), format!("message {n}"));
        (0..3).map(|n| shuttle::future::spawn(worker(n))).collect()
    }

    fn assert_all_well(&self) {
        for (receipt, asked) in &*self.backend.0.lock().unwrap() {
            assert_eq!(asked.wrong, None, "{receipt}");
        }
        self.leases.assert_empty();
    }
}

impl Leases {
    pub(crate) fn assert_empty(&self) {
        assert!(self.0.lock().is_empty());
    }
}

#[test]
fn a_keeper_at_rest_begins_with_what_comes() {
    explore(150, || async {
        let bench = Bench::new();
        let (_keeper, _stop) = bench.keeper();
        turns(2).await;
        bench.leases.insert(Lane::Message, &delivery("message", "message"));
        // Without end if it is not extended.
        let mut extended = 0;
        while extended == 0 {
            shuttle::future::yield_now().await;
            bench.backend.of(&Receipt("message".to_owned()), |asked| extended = asked.extended);
        }
    });
}

#[test]
fn nothing_is_extended_while_or_after_it_is_settled() {
    explore(150, || async {
        let bench = Bench::new();
        let (keeper, stop) = bench.keeper();
        for worker in bench.workers() {
            worker.await.unwrap();
        }
        stop.raise();
        keeper.await.unwrap();
        bench.assert_all_well();
    });
}

#[test]
fn nor_while_one_keeper_takes_over_from_another() {
    explore(150, || async {
        let bench = Bench::new();
        let (first, stop_first) = bench.keeper();
        let workers = bench.workers();
        turns(10).await;
        let (second, stop_second) = bench.keeper();
        turns(10).await;
        stop_first.raise();
        for worker in workers {
            worker.await.unwrap();
        }
        stop_second.raise();
        first.await.unwrap();
        second.await.unwrap();
        bench.assert_all_well();
    });
}

#[test]
fn a_keeper_whose_runtime_ends_at_any_point_leaves_nobody_waiting() {
    explore(150, || async {
        let bench = Bench::new();
        let (keeper, _) = bench.keeper();
        let workers = bench.workers();
        turns(20).await;
        bench.clock.drop_tasks();
        let _ = keeper.await;
        for worker in workers {
            worker.await.unwrap();
        }
    });
}
