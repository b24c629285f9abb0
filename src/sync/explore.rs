//! Checks that hold in every order in which tasks can get their turns: [`explore`], [`exhaust`].
//!
//! A check runs some hundred times, each time in another order: its tasks run one at a time, and
//! at every await, lock, counter and wake-up it is chosen anew which goes on. A task that nothing
//! can wake any more fails the check, so does one that goes on for ever. The orders are the same
//! in each run of the tests; `SHUTTLE_RANDOM_SEED` chooses others, `DAWDLE_SCHEDULES=10` takes ten times as many.
//!
//! What is not tried is what the processor's memory model allows beyond such orders.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use shuttle::rand::Rng;
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

/// More steps than any check takes that comes to its end.
const MOST_STEPS: usize = 50_000;

/// How many changes of mind the schedules have that otherwise follow fixed priorities.
const CHANGES: usize = 3;

/// Whether this is within a check.
pub(crate) fn is_exploring() -> bool {
    shuttle::current::try_get_current_task().is_some()
}

/// Lets another task go on, perhaps.
pub(crate) fn step() {
    // A panic that unwinds belongs to its task: no other may go on meanwhile.
    if is_exploring() && !std::thread::panicking() {
        shuttle::sync::atomic::AtomicBool::new(false).load(Ordering::SeqCst);
    }
}

/// Runs `check` under so many random schedules, and so many that change their mind little.
pub(crate) fn explore<F: Future<Output = ()>>(schedules: usize, check: impl Fn() -> F + Send + Sync + 'static) {
    let times: usize = std::env::var("DAWDLE_SCHEDULES").map_or(1, |times| times.parse().expect("a number"));
    let (schedules, check) = (schedules * times, Arc::new(check));
    run(RandomScheduler::new_from_seed(1, schedules), Arc::clone(&check));
    run(PctScheduler::new_from_seed(1, CHANGES, schedules), check);
}

/// Runs `check` under every schedule there is; yields how many that were. It must be small, and
/// leave nothing to chance.
pub(crate) fn exhaust<F: Future<Output = ()>>(check: impl Fn() -> F + Send + Sync + 'static) -> usize {
    run(DfsScheduler::new(None, false), Arc::new(check))
}

fn run<F: Future<Output = ()>>(
    scheduler: impl Scheduler + 'static,
    check: Arc<impl Fn() -> F + Send + Sync + 'static>,
) -> usize {
    let mut config = Config::new();
    config.stack_size = 1024 * 1024;
    config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
    Runner::new(scheduler, config).run(move || {
        fastrand::seed(1);
        shuttle::future::block_on(check());
    })
}

/// A number below `limit`, chosen anew in each schedule.
pub(crate) fn any(limit: usize) -> usize {
    shuttle::rand::thread_rng().gen_range(0..limit)
}

/// Lets others go on for up to `limit` turns.
pub(crate) async fn turns(limit: usize) {
    for _ in 0..any(limit + 1) {
        shuttle::future::yield_now().await;
    }
}

/// Panics, without the noise of a test that fails.
pub(crate) fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new("on purpose"))
}
