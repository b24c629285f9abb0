//! What a terminal is shown while something goes on: on standard error, and nothing elsewhere.

use std::fmt::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// What takes no longer than this is not shown under way.
const MOMENT: Duration = Duration::from_secs(1);

const TICK: Duration = Duration::from_millis(200);

/// Where it is drawn. `NO_COLOR` turns it off, as all that only a terminal understands.
pub(crate) fn target() -> ProgressDrawTarget {
    match std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty()) {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    }
}

/// A bar for at most so many.
pub(crate) fn bar(most: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(most), target());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of at most {len}, {rate}, {elapsed}") {
        // Without a fifth decimal.
        let rate = |state: &ProgressState, out: &mut dyn Write| {
            let _ = write!(out, "{:.0}/s", state.per_sec());
        };
        bar.set_style(style.with_key("rate", rate));
    }
    bar.enable_steady_tick(TICK);
    bar
}

/// What counts how much was found, of nobody knows how much.
pub(crate) fn counter() -> ProgressBar {
    let counter = ProgressBar::hidden();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} found, {elapsed}") {
        counter.set_style(style);
    }
    counter
}

/// Shows a counter while something goes on that takes longer than a moment.
pub(crate) async fn shown<T>(counter: &ProgressBar, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = tokio::time::sleep(MOMENT) => {}
    }
    counter.set_draw_target(target());
    counter.enable_steady_tick(TICK);
    let done = work.await;
    wipe(counter);
    done
}

/// Shows where it came to, and takes it away: what is said in the end stands alone.
pub(crate) fn wipe(bar: &ProgressBar) {
    bar.disable_steady_tick();
    bar.force_draw();
    bar.finish_and_clear();
}
