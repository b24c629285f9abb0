//! Handing handlers to the application's runtime, several at a time: [`Handoff`].
//!
//! To wake a thread for each costs more than many a handler takes. So what comes to be run while
//! Dawdle's own threads have other work to do is passed on together: as many as have permits, at most.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::{AbortHandle, abortable};
use tokio::runtime::Handle;

use super::threads;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A way to the application's runtime. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Handoff(Arc<Shared>);

struct Shared {
    runtime: Handle,
    waiting: Mutex<Vec<Work>>,
}

impl Handoff {
    pub(crate) fn new(runtime: Handle) -> Self {
        Handoff(Arc::new(Shared { runtime, waiting: Mutex::default() }))
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Runs `work` there, soon.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let (work, abort) = abortable(work);
        let work: Work = Box::pin(async move {
            let _ = work.await;
        });
        let Some(threads) = threads::handle() else {
            self.0.runtime.spawn(work);
            return abort;
        };
        let is_first = {
            let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(work);
            waiting.len() == 1
        };
        if is_first {
            let handoff = self.clone();
            threads.spawn(async move {
                // After what else can go on now.
                tokio::task::yield_now().await;
                handoff.pass_on();
            });
        }
        abort
    }

    fn pass_on(&self) {
        let mut waiting = std::mem::take(&mut *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if waiting.len() == 1 {
            waiting.pop().map(|work| self.0.runtime.spawn(work));
            return;
        }
        // From within, so that one thread is woken for all of them; idle ones take their share.
        self.0.runtime.spawn(async move {
            for work in waiting {
                tokio::spawn(work);
            }
        });
    }
}
