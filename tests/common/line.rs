//! A node's line to a queue in memory: slow, broken or lying as a test wants it, and every call
//! on it written down.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use dawdle::backend::memory::{Action, MemoryBackend};
use dawdle::backend::{Backend, BoxFuture, Delivery, Lane, LaneStats, Limits, Outgoing, Receipt, Role, Settle};
use dawdle::{Clock, Error, ErrorKind, Result};

/// The longest poll of SQS, which the memory backend does not end by itself.
const LONG_POLL: Duration = Duration::from_secs(20);

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Does {
    Work,
    Fail(ErrorKind),
    Panic,
    Hang,
    /// It takes that long, and then works.
    Slow(Duration),
}

type Script = Box<dyn FnMut(Action, Lane) -> Does + Send>;

/// Clones are the same line.
#[derive(Clone)]
pub struct Line(Arc<State>);

struct State {
    queue: MemoryBackend,
    /// The queue's clock.
    clock: Clock,
    /// What the backend says that the queue's clock is ahead of the node's.
    offset_ms: i64,
    script: Mutex<Script>,
    calls: Mutex<Vec<(SystemTime, Action, Lane)>>,
    received: Mutex<Vec<usize>>,
    /// Polls that the node gave up, and when each would have ended: the queue does not know.
    ghosts: Mutex<Vec<SystemTime>>,
}

impl Line {
    pub fn new(queue: &MemoryBackend, clock: &Clock) -> Self {
        Line::of_a_clock_behind_by(queue, clock, 0)
    }

    /// For a node whose own clock is behind the queue's by so much, and that knows it.
    pub fn of_a_clock_behind_by(queue: &MemoryBackend, clock: &Clock, offset_ms: i64) -> Self {
        Line(Arc::new(State {
            queue: queue.clone(),
            clock: clock.clone(),
            offset_ms,
            script: Mutex::new(Box::new(|_, _| Does::Work)),
            calls: Mutex::default(),
            received: Mutex::default(),
            ghosts: Mutex::default(),
        }))
    }

    /// What every call from here on does.
    pub fn script(&self, script: impl FnMut(Action, Lane) -> Does + Send + 'static) {
        *self.0.script.lock().unwrap() = Box::new(script);
    }

    /// When the calls of an action were made.
    pub fn calls(&self, action: Action, lane: Lane) -> Vec<SystemTime> {
        let calls = self.0.calls.lock().unwrap();
        calls.iter().filter(|(_, of, on)| (*of, *on) == (action, lane)).map(|(at, ..)| *at).collect()
    }

    pub fn count(&self, action: Action, lane: Lane) -> usize {
        self.calls(action, lane).len()
    }

    /// How many messages each receive on the message queue has yielded that yielded any.
    pub fn received(&self) -> Vec<usize> {
        self.0.received.lock().unwrap().clone()
    }

    /// Forgets what was written down.
    pub fn reset(&self) {
        self.0.calls.lock().unwrap().clear();
        self.0.received.lock().unwrap().clear();
    }

    async fn pass(&self, action: Action, lane: Lane) -> Result<()> {
        self.0.calls.lock().unwrap().push((self.0.clock.now(), action, lane));
        let does = (self.0.script.lock().unwrap())(action, lane);
        match does {
            Does::Work => {}
            Does::Fail(kind) => return Err(Error::new(kind, format!("{action:?} fails, as the test asked"))),
            Does::Panic => panic!("{action:?} panics, as the test asked"),
            Does::Hang => std::future::pending().await,
            Does::Slow(span) => self.0.clock.sleep(span).await,
        }
        Ok(())
    }

    async fn pass_all(&self, action: Action, lane: Lane, entries: usize) -> Option<Vec<Result<()>>> {
        self.pass(action, lane).await.err().map(|error| vec![Err(error); entries])
    }

    async fn poll(&self, lane: Lane, max: usize) -> Result<Vec<Delivery>> {
        self.pass(Action::Receive, lane).await?;
        let mut open = Open { line: self, ends: self.0.clock.now() + LONG_POLL, answered: false };
        let found = tokio::select! {
            biased;
            found = self.0.queue.receive(lane, max) => found,
            () = self.0.clock.sleep_until(open.ends) => Ok(Vec::new()),
        };
        open.answered = true;
        if let Ok(found) = &found
            && !found.is_empty()
        {
            self.0.received.lock().unwrap().push(found.len());
        }
        found
    }

    /// A poll that was given up still takes what comes while it would have lasted.
    async fn haunt(&self, lane: Lane) {
        let now = self.0.clock.now();
        let haunted = {
            let mut ghosts = self.0.ghosts.lock().unwrap();
            ghosts.retain(|ends| *ends > now);
            lane == Lane::Message && ghosts.pop().is_some()
        };
        if haunted {
            let _ = self.0.queue.receive(lane, 1).await;
        }
    }
}

/// A poll that has not been answered yet.
struct Open<'a> {
    line: &'a Line,
    ends: SystemTime,
    answered: bool,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.line.0.ghosts.lock().unwrap().push(self.ends);
        }
    }
}

impl Backend for Line {
    fn name(&self) -> &str {
        "line"
    }

    fn describe(&self) -> String {
        self.0.queue.describe()
    }

    fn limits(&self) -> Limits {
        let mut limits = self.0.queue.limits();
        limits.receive_cancels = false;
        limits
    }

    fn clock_offset_ms(&self) -> i64 {
        self.0.offset_ms
    }

    fn check(&self, role: Role) -> BoxFuture<'_, Result<()>> {
        self.0.queue.check(role)
    }

    fn send<'a>(&'a self, lane: Lane, messages: &'a [Outgoing]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move {
            if let Some(failed) = self.pass_all(Action::Send, lane, messages.len()).await {
                return failed;
            }
            let answers = self.0.queue.send(lane, messages).await;
            self.haunt(lane).await;
            answers
        })
    }

    fn receive(&self, lane: Lane, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(self.poll(lane, max))
    }

    fn settle<'a>(&'a self, lane: Lane, entries: &'a [Settle]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move {
            match self.pass_all(Action::Settle, lane, entries.len()).await {
                Some(failed) => failed,
                None => self.0.queue.settle(lane, entries).await,
            }
        })
    }

    fn extend<'a>(&'a self, lane: Lane, receipts: &'a [Receipt], lease: Duration) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move {
            match self.pass_all(Action::Extend, lane, receipts.len()).await {
                Some(failed) => failed,
                None => self.0.queue.extend(lane, receipts, lease).await,
            }
        })
    }

    fn inspect(&self, lane: Lane) -> BoxFuture<'_, Result<LaneStats>> {
        Box::pin(async move {
            self.pass(Action::Inspect, lane).await?;
            self.0.queue.inspect(lane).await
        })
    }

    fn browse(&self, lane: Lane, max: usize, hold: Duration) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(async move {
            self.pass(Action::Browse, lane).await?;
            self.0.queue.browse(lane, max, hold).await
        })
    }
}
