//! The primitives as they are, with a step before each use at which [`explore`](super::explore)
//! may let another task go on. Outside of an exploration they add nothing.

use std::sync::atomic::Ordering;
use std::sync::{Arc, LockResult, TryLockError};

use tokio::sync::futures::Notified;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, TryAcquireError};

use super::explore::{is_exploring, step};

pub(crate) use std::sync::MutexGuard;

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Mutex(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        if !is_exploring() {
            return self.0.lock();
        }
        loop {
            step();
            match self.0.try_lock() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Err(poisoned),
                Err(TryLockError::WouldBlock) => shuttle::thread::yield_now(),
            }
        }
    }
}

macro_rules! stepped_atomic {
    ($name:ident, $($method:ident($($argument:ident: $type:ty),*) -> $returns:ty;)*) => {
        #[derive(Debug, Default)]
        pub(crate) struct $name(std::sync::atomic::$name);

        impl $name {
            $(pub(crate) fn $method(&self, $($argument: $type),*) -> $returns {
                step();
                self.0.$method($($argument),*)
            })*
        }
    };
}

stepped_atomic! { AtomicBool,
    load(order: Ordering) -> bool;
    store(value: bool, order: Ordering) -> ();
}

stepped_atomic! { AtomicUsize,
    load(order: Ordering) -> usize;
    fetch_add(value: usize, order: Ordering) -> usize;
    fetch_sub(value: usize, order: Ordering) -> usize;
}

impl AtomicUsize {
    pub(crate) const fn new(value: usize) -> Self {
        AtomicUsize(std::sync::atomic::AtomicUsize::new(value))
    }

    pub(crate) fn fetch_update(
        &self,
        set: Ordering,
        fetch: Ordering,
        change: impl FnMut(usize) -> Option<usize>,
    ) -> Result<usize, usize> {
        step();
        self.0.fetch_update(set, fetch, change)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Notify(tokio::sync::Notify);

impl Notify {
    pub(crate) const fn new() -> Self {
        Notify(tokio::sync::Notify::const_new())
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        step();
        self.0.notified()
    }

    pub(crate) fn notify_waiters(&self) {
        step();
        self.0.notify_waiters();
    }
}

#[derive(Debug)]
pub(crate) struct Semaphore(Arc<tokio::sync::Semaphore>);

impl Semaphore {
    pub(crate) const MAX_PERMITS: usize = tokio::sync::Semaphore::MAX_PERMITS;

    pub(crate) fn new(permits: usize) -> Self {
        Semaphore(Arc::new(tokio::sync::Semaphore::new(permits)))
    }

    pub(crate) fn available_permits(&self) -> usize {
        step();
        self.0.available_permits()
    }

    pub(crate) fn add_permits(&self, count: usize) {
        step();
        self.0.add_permits(count);
    }

    pub(crate) fn forget_permits(&self, count: usize) -> usize {
        step();
        self.0.forget_permits(count)
    }

    pub(crate) async fn acquire_owned(self: Arc<Self>) -> Result<OwnedSemaphorePermit, AcquireError> {
        step();
        Arc::clone(&self.0).acquire_owned().await
    }

    pub(crate) async fn acquire_many_owned(self: Arc<Self>, count: u32) -> Result<OwnedSemaphorePermit, AcquireError> {
        step();
        Arc::clone(&self.0).acquire_many_owned(count).await
    }

    pub(crate) fn try_acquire_owned(self: Arc<Self>) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        step();
        Arc::clone(&self.0).try_acquire_owned()
    }
}
