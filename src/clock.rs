//! Reading the time, sleeping on it, and running tasks beside it.
//!
//! Everything in Dawdle that waits does so on a [`Clock`]. In production that is the system's
//! clock. In a test it is a [`VirtualClock`] that stands still until the test moves it: it goes
//! from timer to timer, and between two timers it lets everything that was woken come to rest.
//! To know when that is, it runs Dawdle's tasks itself (see [`Clock::spawn`]) and counts the ones
//! that have been woken and have not come to rest again. On the system's clock, Dawdle's tasks and
//! timers are apart from the application's runtime, on [`threads`] of their own.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

#[cfg(test)]
mod explored;
mod handoff;
mod threads;
mod virtual_clock;

#[cfg(test)]
pub(crate) use explored::ExploredClock;
pub(crate) use handoff::Handoff;
pub use virtual_clock::VirtualClock;

/// The longest that a sleep on the system's clock trusts the clock before looking again: a wall
/// clock may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Time, as Dawdle sees it: the system's, or a test's.
///
/// Within Dawdle it follows the clock of the queue: due times are the queue's, and a node whose
/// own clock is off must not run events early.
#[derive(Clone, Default)]
pub struct Clock {
    source: Source,
    offset_ms: Option<Arc<dyn Fn() -> i64 + Send + Sync>>,
}

#[derive(Clone, Default)]
enum Source {
    #[default]
    System,
    Virtual(VirtualClock),
    #[cfg(test)]
    Explored(ExploredClock),
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            Source::System => f.write_str("Clock::system()"),
            Source::Virtual(clock) => clock.fmt(f),
            #[cfg(test)]
            Source::Explored(_) => f.write_str("Clock::explored()"),
        }
    }
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Clock::default()
    }

    /// A clock that a test moves.
    pub fn from_virtual(clock: VirtualClock) -> Self {
        Clock { source: Source::Virtual(clock), offset_ms: None }
    }

    /// The same clock, ahead by as many milliseconds as `offset_ms` says at each reading.
    pub(crate) fn following(self, offset_ms: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        let before = self.offset_ms;
        let offset_ms = move || before.as_ref().map_or(0, |before| before()) + offset_ms();
        Clock { offset_ms: Some(Arc::new(offset_ms)), ..self }
    }

    /// The clock of a machine that is off by so many milliseconds.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    #[must_use]
    pub fn ahead_by_ms(self, ahead_ms: i64) -> Self {
        self.following(move || ahead_ms)
    }

    #[cfg(test)]
    pub(crate) fn from_explored(clock: ExploredClock) -> Self {
        Clock { source: Source::Explored(clock), offset_ms: None }
    }

    /// Whether it is a test's.
    pub(crate) fn is_virtual(&self) -> bool {
        !matches!(self.source, Source::System)
    }

    /// The wall time.
    pub fn now(&self) -> SystemTime {
        let now = match &self.source {
            Source::System => SystemTime::now(),
            Source::Virtual(clock) => clock.now(),
            #[cfg(test)]
            Source::Explored(clock) => clock.now(),
        };
        let offset = self.offset_ms.as_ref().map_or(0, |offset| offset());
        let span = Duration::from_millis(offset.unsigned_abs());
        if offset < 0 { now.checked_sub(span).unwrap_or(now) } else { later(now, span) }
    }

    /// The time that only goes forward, for measuring spans.
    pub fn instant(&self) -> Instant {
        match &self.source {
            Source::System => Instant::now(),
            Source::Virtual(clock) => clock.instant(),
            #[cfg(test)]
            Source::Explored(clock) => clock.instant(),
        }
    }

    /// Waits for `span`. Cancel-safe.
    pub async fn sleep(&self, span: Duration) {
        match &self.source {
            Source::System => system_sleep(span).await,
            Source::Virtual(clock) => clock.sleep_until(later(clock.now(), span)).await,
            #[cfg(test)]
            Source::Explored(clock) => clock.sleep(span).await,
        }
    }

    /// Waits until the wall clock shows `time`. Cancel-safe.
    pub async fn sleep_until(&self, time: SystemTime) {
        while let Ok(left) = time.duration_since(self.now()) {
            if left.is_zero() {
                break;
            }
            match &self.source {
                Source::System => system_sleep(left.min(LOOK_AGAIN)).await,
                Source::Virtual(clock) => clock.sleep_until(later(clock.now(), left)).await,
                #[cfg(test)]
                Source::Explored(clock) => clock.sleep(left).await,
            }
        }
    }

    /// Runs `future` for at most `span`; `None` when the time was up first.
    pub async fn timeout<F: Future>(&self, span: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut limit = pin!(self.sleep(span));
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            limit.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    /// Lets what else can go on now go first. Tokio wakes a task that yields only later, when a virtual clock
    /// may have moved on.
    pub(crate) async fn yield_now(&self) {
        if !self.is_virtual() {
            return tokio::task::yield_now().await;
        }
        let mut yielded = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Runs Dawdle's own work as a task: work that waits for nothing but this clock and other
    /// such tasks. On a virtual clock it must be called within a tokio runtime.
    pub(crate) fn spawn<F>(&self, future: F) -> Task<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (work, receiver) = answering(future);
        let handle = match &self.source {
            Source::System => spawn_on(threads::handle(), work),
            Source::Virtual(clock) => tokio::spawn(clock.track(work, false)),
            #[cfg(test)]
            Source::Explored(clock) => return Task { receiver, abort: Abort::Explored(clock.spawn(work)) },
        };
        Task { receiver, abort: Abort::Tokio(handle.abort_handle()) }
    }

    /// Runs a user's code as a task, of the user's runtime or on Dawdle's own threads: it may wait
    /// for anything, a real database included, and a virtual clock lets it.
    pub(crate) fn spawn_user<F>(&self, runtime: Option<&Handoff>, future: F) -> Task<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (work, receiver) = answering(future);
        let handle = match &self.source {
            Source::System => match runtime {
                None => spawn_on(threads::handle(), work),
                Some(runtime) => return Task { receiver, abort: Abort::Handed(runtime.spawn(work)) },
            },
            Source::Virtual(clock) => spawn_on(runtime.map(Handoff::runtime), clock.track(work, true)),
            #[cfg(test)]
            Source::Explored(clock) => return Task { receiver, abort: Abort::Explored(clock.spawn(work)) },
        };
        Task { receiver, abort: Abort::Tokio(handle.abort_handle()) }
    }
}

fn spawn_on(runtime: Option<&Handle>, work: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
    match runtime {
        Some(runtime) => runtime.spawn(work),
        None => tokio::spawn(work),
    }
}

/// Work that sends its result through a channel of ours, while it still counts as awake: tokio
/// wakes a join handle only after that, when a virtual clock may have moved on.
fn answering<F>(future: F) -> (impl Future<Output = ()> + Send + 'static, oneshot::Receiver<Result<F::Output, String>>)
where
    F: Future<Output: Send> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let ended = catch_panic(future);
    let work = async move {
        let _ = sender.send(ended.await);
    };
    (work, receiver)
}

/// Sleeps by the timers of Dawdle's own threads, whoever waits: the caller's runtime may be
/// blocked, or have its time paused.
async fn system_sleep(span: Duration) {
    let sleep = {
        let _entered = threads::handle().map(Handle::enter);
        tokio::time::sleep(span)
    };
    sleep.await;
}

/// `time + span`, held within what a timestamp can say (the year 9999).
pub(crate) fn later(time: SystemTime, span: Duration) -> SystemTime {
    let last = last_instant();
    time.checked_add(span).filter(|sum| *sum <= last).unwrap_or(last)
}

/// The end of the year 9999.
pub(crate) fn last_instant() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799)
}

/// How a [`Task`] ended without a result.
#[derive(Debug)]
pub(crate) enum TaskError {
    /// It panicked, with this message.
    Panicked(String),
    /// It was aborted, or its runtime is going down.
    Aborted,
}

/// A running task; awaiting it yields its result. Dropping it leaves the task running.
#[derive(Debug)]
pub(crate) struct Task<T> {
    receiver: oneshot::Receiver<Result<T, String>>,
    abort: Abort,
}

#[derive(Clone, Debug)]
enum Abort {
    Tokio(tokio::task::AbortHandle),
    Handed(futures_util::future::AbortHandle),
    #[cfg(test)]
    Explored(shuttle::future::AbortHandle),
}

impl Abort {
    fn abort(&self) {
        match self {
            Abort::Tokio(handle) => handle.abort(),
            Abort::Handed(handle) => handle.abort(),
            #[cfg(test)]
            Abort::Explored(handle) => handle.abort(),
        }
    }
}

/// Aborts its task when it is dropped.
#[derive(Debug)]
pub(crate) struct Attended(Abort);

impl Drop for Attended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Task<T> {
    /// Stops the task at its next await.
    pub(crate) fn abort(&self) {
        self.abort.abort();
    }

    /// Stops the task when what this yields is dropped: for one that nobody else would stop, were
    /// it to hang.
    pub(crate) fn attended(&self) -> Attended {
        Attended(self.abort.clone())
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(cx).map(|answer| match answer {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(panic)) => Err(TaskError::Panicked(panic)),
            Err(_) => Err(TaskError::Aborted),
        })
    }
}

/// Runs `future`, turning a panic into its message. What it yields is small, however large `future` is.
pub(crate) fn catch_panic<F: Future>(future: F) -> impl Future<Output = Result<F::Output, String>> {
    let mut future = Box::pin(future);
    poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic_text(&*panic))),
    })
}

/// Runs `future`; a panic is logged, and `None`: it ends one piece of work, not the loop around it.
pub(crate) fn guarded<F: Future>(what: &str, future: F) -> impl Future<Output = Option<F::Output>> {
    let caught = catch_panic(future);
    async move {
        match caught.await {
            Ok(output) => Some(output),
            Err(panic) => {
                tracing::error!("{what} panicked: {panic}");
                None
            }
        }
    }
}

/// The same for what does not wait.
#[cfg(feature = "local")]
pub(crate) fn guarded_now<T>(what: &str, work: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(output) => Some(output),
        Err(panic) => {
            tracing::error!("{what} panicked: {}", panic_text(&*panic));
            None
        }
    }
}

/// The text of a panic's payload.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic whose payload is no text".to_owned())
}

/// A wait that many nodes make: up to a quarter shorter than `span`, never longer.
pub(crate) fn jittered(span: Duration) -> Duration {
    span.mul_f64(1.0 - 0.25 * fastrand::f64())
}

/// Something that happens once and stays happened: a shutdown, a lost lease.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latch(Arc<LatchState>);

#[derive(Debug, Default)]
struct LatchState {
    raised: crate::sync::AtomicBool,
    notify: crate::sync::Notify,
}

impl Latch {
    /// Makes it happen.
    pub(crate) fn raise(&self) {
        self.0.raised.store(true, std::sync::atomic::Ordering::Release);
        self.0.notify.notify_waiters();
    }

    /// Whether it has happened.
    pub(crate) fn is_raised(&self) -> bool {
        self.0.raised.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Waits until it happens. Cancel-safe.
    pub(crate) async fn raised(&self) {
        let mut notified = pin!(self.0.notify.notified());
        notified.as_mut().enable();
        if !self.is_raised() {
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::explore::exhaust;

    #[test]
    fn whoever_waits_for_a_latch_is_woken_in_every_order() {
        let schedules = exhaust(|| async {
            let latch = Latch::default();
            let waiting = (0..2).map(|_| {
                let latch = latch.clone();
                shuttle::future::spawn(async move { latch.raised().await })
            });
            let waiting: Vec<_> = waiting.collect();
            latch.raise();
            for waits in waiting {
                waits.await.unwrap();
            }
            assert!(latch.is_raised());
        });
        assert!(schedules > 100, "{schedules}");
    }
}
