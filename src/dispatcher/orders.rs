//! That permits come back, in every order of events and however a run ends.

use std::collections::HashSet;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::*;
use crate::backend::Receipt;
use crate::clock::ExploredClock;
use crate::event::Place as Declared;
use crate::handler::{Handler, Registration};
use crate::registry::Selection;
use crate::retry::Backoff;
use crate::room::Room;
use crate::sync::explore::{any, explore, panic_quietly, turns};

pub(crate) const HANDLERS: usize = 2;

/// The runs that this node has at once, and those of its limited handler.
const AT_ONCE: usize = 2;
const LIMITED: usize = 1;

#[derive(Debug, Serialize, Deserialize, crate::Event)]
#[event(kind = "orders.step", crate = "crate")]
pub(crate) struct Step {
    pub(crate) number: usize,
}

/// Which handlers have handled which events, and how many runs there were at once.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) handled: Mutex<HashSet<(String, usize)>>,
    running: AtomicRuns,
}

#[derive(Default)]
struct AtomicRuns {
    all: std::sync::atomic::AtomicUsize,
    most: std::sync::atomic::AtomicUsize,
}

/// Ends in any way that a handler can.
struct Erratic {
    log: Arc<Log>,
    limit: usize,
    runs: AtomicRuns,
}

/// Counted as running, until it is dropped.
struct Running<'a>(&'a AtomicRuns);

impl<'a> Running<'a> {
    fn new(runs: &'a AtomicRuns) -> Self {
        let now = runs.all.fetch_add(1, Ordering::SeqCst) + 1;
        runs.most.fetch_max(now, Ordering::SeqCst);
        Running(runs)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.all.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler<Step> for Erratic {
    async fn handle(&self, event: &Step, cx: &Context) -> Outcome {
        let _running = (Running::new(&self.runs), Running::new(&self.log.running));
        turns(3).await;
        match any(8) {
            0 => panic_quietly(),
            1 => return Err(Failure::retry("as was asked for")),
            2 => cx.cancelled().await,
            3 => std::future::pending().await,
            _ => {}
        }
        self.log.handled.lock().unwrap().insert((cx.handler().to_owned(), event.number));
        Ok(())
    }
}

impl Drop for Erratic {
    fn drop(&mut self) {
        let most = self.runs.most.load(Ordering::SeqCst);
        assert!(most <= self.limit || std::thread::panicking(), "{most} runs of a handler at once");
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        concurrency: AT_ONCE,
        prefetch: 2,
        max_held: 1,
        // However wild the clock goes, nothing is given up.
        attempts: 1_000_000,
        max_receives: 1_000_000,
        backoff: Backoff::exponential(Duration::from_secs(1), Duration::from_secs(2)),
        ..Settings::default()
    }
}

/// A dispatcher with two handlers, one of them with a limit of its own.
pub(crate) fn dispatcher(clock: Clock) -> (Dispatcher, Arc<Log>) {
    struct Free;
    struct Limited;
    let (log, settings) = (Arc::new(Log::default()), settings());
    let erratic = |limit| Erratic { log: Arc::clone(&log), limit, runs: AtomicRuns::default() };
    let declared = Declared { file: file!(), line: line!() };
    let given = vec![
        Registration::of::<Free, Step>("free", declared).run_typed::<_, Step>(erratic(AT_ONCE)),
        Registration::of::<Limited, Step>("limited", declared)
            .concurrency(LIMITED)
            .run_typed::<_, Step>(erratic(LIMITED)),
    ];
    let registry = Registry::build(given, &Selection::default(), &States::default(), &settings, None).unwrap();
    let dispatcher = Dispatcher::new(clock, Tracer::default(), settings, Vec::new(), registry, None, None);
    dispatcher.set_instance(Box::new(|| Some(Arc::new(()))));
    (dispatcher, log)
}

pub(crate) fn body(number: usize) -> String {
    wire::write(&Envelope::of(&Step { number }, "orders", SystemTime::UNIX_EPOCH).unwrap(), None).unwrap()
}

impl Dispatcher {
    /// Waits, without end if one is lost, until every permit is back.
    pub(crate) async fn all_permits_back(&self) {
        let limited = self.registry().wanting("orders.step").into_iter().filter_map(|entry| entry.limiter.clone());
        let limited: Vec<_> = limited.collect();
        while self.0.concurrency.free() < AT_ONCE || limited.iter().any(|limiter| limiter.available_permits() < LIMITED)
        {
            shuttle::future::yield_now().await;
        }
    }
}

impl Log {
    pub(crate) fn assert_at_most_as_allowed(&self) {
        assert!(self.running.most.load(Ordering::SeqCst) <= AT_ONCE);
    }
}

#[test]
fn permits_come_back_however_a_run_ends() {
    explore(150, || async {
        let clock = Clock::from_explored(ExploredClock::new(true));
        let (dispatcher, log) = dispatcher(clock.clone());
        let (stops, room) = (Stops::default(), Arc::new(Room::new(AT_ONCE, 2, 1)));
        let messages: Vec<_> = (0..4)
            .map(|number| {
                let (dispatcher, stops, room) = (dispatcher.clone(), stops.clone(), Arc::clone(&room));
                let lost = Latch::default();
                let (losing, packed) = (lost.clone(), any(3) == 0);
                let deciding = shuttle::future::spawn(async move {
                    let delivery = Delivery {
                        message_id: number.to_string(),
                        receipt: Receipt(number.to_string()),
                        body: if packed {
                            wire::pack([body(number), body(number + 4)].iter().map(String::as_str))
                        } else {
                            body(number)
                        },
                        attributes: BTreeMap::new(),
                        receive_count: 1,
                        enqueued_at: SystemTime::UNIX_EPOCH,
                        lease: Duration::from_secs(30),
                    };
                    let place = room.place().await;
                    if let Verdict::Split { rest, .. } = dispatcher.decide(&delivery, &place, &losing, &stops).await {
                        pack_ended(rest).await;
                    }
                });
                (deciding, lost)
            })
            .collect();
        for (deciding, lost) in &messages {
            turns(8).await;
            match any(4) {
                0 => deciding.abort(),
                1 => lost.raise(),
                _ => {}
            }
        }
        turns(8).await;
        stops.raise_all();
        for (deciding, _) in messages {
            let _ = deciding.await;
        }
        dispatcher.all_permits_back().await;
        room.assert_all_back();
        log.assert_at_most_as_allowed();
    });
}
