//! The locks, counters and wake-ups that Dawdle's tasks share, from one place: its unit tests put
//! others there, with which every order of events can be tried (see `explore`).

#[cfg(test)]
pub(crate) mod explore;
#[cfg(test)]
mod stepped;

#[cfg(not(test))]
pub(crate) use {
    std::sync::atomic::{AtomicBool, AtomicUsize},
    std::sync::{Mutex, MutexGuard},
    tokio::sync::{Notify, Semaphore},
};

#[cfg(test)]
pub(crate) use stepped::{AtomicBool, AtomicUsize, Mutex, MutexGuard, Notify, Semaphore};
