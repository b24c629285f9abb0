//! A clock for checks that try every order of events: how long a sleep takes is chosen, too.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use shuttle::future::AbortHandle;

use crate::sync::explore;

/// For how many turns of other tasks a sleep may last.
const MOST_TURNS: usize = 4;

/// A clock that shows the end of the latest sleep that has ended. A sleep may outlast a longer
/// one: so does one whose thread is not given the processor.
#[derive(Clone)]
pub(crate) struct ExploredClock(Arc<Shared>);

struct Shared {
    start: Instant,
    ms: AtomicU64,
    /// Whether a sleep ends.
    goes: bool,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl ExploredClock {
    /// One that goes, or one on which no sleep ever ends.
    pub(crate) fn new(goes: bool) -> Self {
        let (start, ms, tasks) = (Instant::now(), AtomicU64::new(0), Mutex::default());
        ExploredClock(Arc::new(Shared { start, ms, goes, tasks }))
    }

    /// Drops all tasks that run now, as a runtime does that ends.
    pub(crate) fn drop_tasks(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap());
        tasks.iter().for_each(AbortHandle::abort);
    }

    fn ms(&self) -> u64 {
        self.0.ms.load(Ordering::SeqCst)
    }

    pub(super) fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.ms())
    }

    pub(super) fn instant(&self) -> Instant {
        self.0.start + Duration::from_millis(self.ms())
    }

    pub(super) async fn sleep(&self, span: Duration) {
        let end = self.ms().saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        if !self.0.goes {
            std::future::pending::<()>().await;
        }
        explore::turns(MOST_TURNS).await;
        self.0.ms.fetch_max(end, Ordering::SeqCst);
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let task = shuttle::future::spawn(work).abort_handle();
        self.0.tasks.lock().unwrap().push(task.clone());
        task
    }
}
