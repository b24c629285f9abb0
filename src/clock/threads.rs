//! The threads that Dawdle's own work runs on.
//!
//! Handlers run on the runtime of the application; receiving, settling, sending and their timers
//! do not, so that a handler that blocks its thread, or a runtime that is all blocked, holds up no
//! ack, no retry and no other handler's timeout. One set of threads serves every instance of a
//! process, and lives as long as that.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};

/// The most threads: Dawdle's own work is short, and much of it waits for the network. They are for half
/// of the cores: more would wake each other up for little.
const MOST_THREADS: usize = 4;

static THREADS: OnceLock<Option<Runtime>> = OnceLock::new();

/// Where Dawdle's own work runs. `None` where no threads could be started: it then runs wherever
/// it is called from.
pub(super) fn handle() -> Option<&'static Handle> {
    let start = || {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / 2).clamp(1, MOST_THREADS);
        let runtime = Builder::new_multi_thread().worker_threads(threads).thread_name("dawdle").enable_all().build();
        runtime
            .inspect_err(|error| tracing::error!("Dawdle has no threads of its own, and runs on the caller's: {error}"))
            .ok()
    };
    THREADS.get_or_init(start).as_ref().map(Runtime::handle)
}
