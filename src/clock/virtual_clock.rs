//! A clock that a test moves.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

/// How long, in real time, a user's code may wait for something outside of the clock without
/// being polled before the clock moves on regardless.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often, in real time, that is looked at.
const TICK: Duration = Duration::from_millis(20);

/// A clock that stands still until it is moved, and then goes from timer to timer.
///
/// Clones are handles of one clock. It does not touch tokio's clock, paused or not, so real
/// databases work beside it.
#[derive(Clone)]
pub struct VirtualClock(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Woken when the last awake task comes to rest, and when a user's task is polled.
    changed: Notify,
    start: (SystemTime, Instant),
}

struct State {
    now: SystemTime,
    timers: Timers,
    next: u64,
    /// Tasks that were woken and have not come to rest.
    awake: usize,
    /// User tasks, by number: they may be waiting for something outside of the clock.
    users: HashMap<u64, User>,
}

type Timers = BTreeMap<(SystemTime, u64), Waker>;

struct User {
    wake: Arc<TaskWake>,
    /// The poll count at which this task was given up as stuck.
    given_up_at: Option<u64>,
}

impl VirtualClock {
    /// A clock that shows `start`.
    pub fn new(start: SystemTime) -> Self {
        VirtualClock(Arc::new(Shared {
            state: Mutex::new(State { now: start, timers: BTreeMap::new(), next: 0, awake: 0, users: HashMap::new() }),
            changed: Notify::new(),
            start: (start, Instant::now()),
        }))
    }

    /// The time it shows.
    pub fn now(&self) -> SystemTime {
        self.lock().now
    }

    pub(super) fn instant(&self) -> Instant {
        let (start, instant) = self.0.start;
        instant + self.now().duration_since(start).unwrap_or_default()
    }

    pub(super) fn sleep_until(&self, time: SystemTime) -> impl Future<Output = ()> + Send + use<> {
        Sleep { clock: self.clone(), time, timer: None }
    }

    /// Moves the clock by `span`, from timer to timer, letting everything come to rest at each.
    pub async fn advance(&self, span: Duration) {
        let target = super::later(self.now(), span);
        while self.step(Some(target)).await {}
        self.lock().now = target;
        self.settle().await;
    }

    /// Lets everything come to rest, then moves to the next timer, if there is one by `limit`.
    /// Returns whether it moved.
    pub async fn step(&self, limit: Option<SystemTime>) -> bool {
        self.settle().await;
        let mut due = Vec::new();
        {
            let mut state = self.lock();
            let Some((&(time, _), _)) = state.timers.first_key_value() else { return false };
            if limit.is_some_and(|limit| time > limit) {
                return false;
            }
            state.now = state.now.max(time);
            while let Some(entry) = state.timers.first_entry() {
                if entry.key().0 > time {
                    break;
                }
                due.push(entry.remove());
            }
        }
        due.into_iter().for_each(Waker::wake);
        true
    }

    /// Waits until nothing more happens at this instant: every task of Dawdle's is at rest, and
    /// every handler has finished, waits for this clock, or has waited two seconds of real time
    /// for something else.
    pub async fn settle(&self) {
        loop {
            self.all_at_rest().await;
            // What was woken from outside of a tracked task gets its turn.
            tokio::task::yield_now().await;
            if self.lock().awake > 0 {
                continue;
            }
            if !self.waits_outside() {
                return;
            }
            if self.outlasts_patience().await {
                let mut state = self.lock();
                let State { users, timers, .. } = &mut *state;
                for user in users.values_mut().filter(|user| user.waits_outside(timers)) {
                    tracing::warn!(
                        "a handler has waited {PATIENCE:?} for something outside of the test's clock; the clock moves on"
                    );
                    user.given_up_at = Some(user.wake.polls());
                }
            }
        }
    }

    async fn all_at_rest(&self) {
        loop {
            let changed = self.0.changed.notified();
            if self.lock().awake == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Whether `PATIENCE` passes, in real time, while user tasks wait for something else and
    /// nothing is woken. Real time is kept by a thread: tokio's clock may be paused.
    async fn outlasts_patience(&self) -> bool {
        let (_cancel, cancelled) = mpsc::channel::<()>();
        let expired = Arc::new(AtomicBool::new(false));
        let (flag, clock) = (Arc::clone(&expired), self.clone());
        std::thread::spawn(move || {
            let start = Instant::now();
            while cancelled.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                flag.store(start.elapsed() >= PATIENCE, Ordering::Release);
                clock.0.changed.notify_waiters();
            }
        });
        loop {
            let changed = self.0.changed.notified();
            if self.lock().awake > 0 || !self.waits_outside() {
                return false;
            }
            if expired.load(Ordering::Acquire) {
                return true;
            }
            changed.await;
        }
    }

    fn waits_outside(&self) -> bool {
        let state = self.lock();
        state.users.values().any(|user| user.waits_outside(&state.timers))
    }

    /// Wraps a task so that the clock knows when it is awake.
    pub(super) fn track<F>(&self, future: F, user: bool) -> impl Future<Output = F::Output> + Send + use<F>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let mut state = self.lock();
        state.awake += 1;
        state.next += 1;
        let id = state.next;
        let wake = Arc::new(TaskWake {
            clock: self.clone(),
            state: AtomicU8::new(WOKEN),
            inner: Mutex::new(None),
            polls: AtomicU64::new(0),
        });
        if user {
            state.users.insert(id, User { wake: Arc::clone(&wake), given_up_at: None });
        }
        // Without tokio's budget: a task that has used it up is woken later, behind the clock's back.
        tokio::task::unconstrained(Tracked { id, wake, future: Some(Box::pin(future)) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rouse(&self) {
        self.lock().awake += 1;
        self.0.changed.notify_waiters();
    }

    fn rest(&self) {
        let idle = {
            let mut state = self.lock();
            state.awake -= 1;
            state.awake == 0
        };
        if idle {
            self.0.changed.notify_waiters();
        }
    }
}

impl fmt::Debug for VirtualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VirtualClock").field(&self.now()).finish()
    }
}

impl User {
    /// At rest, with somebody other than the clock holding its waker, so that it may yet be woken;
    /// the clock has not given it up since it was last polled. A future that nobody can wake is
    /// stuck for good.
    fn waits_outside(&self, timers: &Timers) -> bool {
        let own_handles = 2;
        let held = Arc::strong_count(&self.wake) - own_handles;
        if held == 0 || self.given_up_at == Some(self.wake.polls()) {
            return false;
        }
        let waker = Waker::from(Arc::clone(&self.wake));
        held > timers.values().filter(|timer| timer.will_wake(&waker)).count()
    }
}

struct Sleep {
    clock: VirtualClock,
    time: SystemTime,
    timer: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock.clone();
        let mut state = clock.lock();
        if state.now >= self.time {
            return Poll::Ready(());
        }
        let timer = *self.timer.get_or_insert_with(|| {
            state.next += 1;
            state.next
        });
        state.timers.insert((self.time, timer), cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            self.clock.lock().timers.remove(&(self.time, timer));
        }
    }
}

const AT_REST: u8 = 0;
const WOKEN: u8 = 1;
const RUNNING: u8 = 2;
const RUNNING_WOKEN: u8 = 3;
const DONE: u8 = 4;

/// The waker of a tracked task: counts it as awake, then wakes it.
struct TaskWake {
    clock: VirtualClock,
    state: AtomicU8,
    inner: Mutex<Option<Waker>>,
    polls: AtomicU64,
}

impl TaskWake {
    fn polls(&self) -> u64 {
        self.polls.load(Ordering::Acquire)
    }

    fn move_on(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        loop {
            match self.state.load(Ordering::Acquire) {
                AT_REST => {
                    // Counted before anyone can see it woken, so that it is never missed.
                    self.clock.rouse();
                    if self.move_on(AT_REST, WOKEN) {
                        break;
                    }
                    self.clock.rest();
                }
                RUNNING => {
                    if self.move_on(RUNNING, RUNNING_WOKEN) {
                        break;
                    }
                }
                _ => break,
            }
        }
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = inner {
            waker.wake();
        }
    }
}

struct Tracked<F> {
    id: u64,
    wake: Arc<TaskWake>,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Tracked<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let wake = Arc::clone(&self.wake);
        if wake.move_on(AT_REST, RUNNING) {
            wake.clock.rouse();
        } else {
            wake.state.store(RUNNING, Ordering::Release);
        }
        *wake.inner.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        wake.polls.fetch_add(1, Ordering::AcqRel);
        let waker = Waker::from(Arc::clone(&wake));
        let Some(future) = self.future.as_mut() else { return Poll::Pending };
        let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
        drop(waker);
        if poll.is_pending() {
            if wake.move_on(RUNNING, AT_REST) {
                let clock = wake.clock.clone();
                drop(wake);
                clock.rest();
            } else {
                wake.state.store(WOKEN, Ordering::Release);
            }
        }
        poll
    }
}

impl<F> Drop for Tracked<F> {
    fn drop(&mut self) {
        // What the future holds is dropped, and wakes others, while this task still counts.
        self.future = None;
        self.wake.clock.lock().users.remove(&self.id);
        match self.wake.state.swap(DONE, Ordering::AcqRel) {
            AT_REST | DONE => {}
            _ => self.wake.clock.rest(),
        }
    }
}
