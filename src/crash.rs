//! Points at which a test may end the process, as `kill -9` would: [`point`].
//!
//! A point stands before and after each step that changes something outside of the process. With
//! the feature `crash-points`, `CRASH_AT=send.before:2` in the environment ends the process when
//! it passes `send.before` for the second time. Without the feature a point is nothing at all.

/// Passes a point, named as by `format!`.
macro_rules! point {
    ($($name:tt)*) => {
        #[cfg(feature = "crash-points")]
        $crate::crash::pass(&format!($($name)*));
    };
}

pub(crate) use point;

#[cfg(feature = "crash-points")]
pub(crate) use passed::pass;
#[cfg(feature = "crash-points")]
pub use passed::{POINTS, passages};

#[cfg(feature = "crash-points")]
mod passed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Where to crash: a point's name, a colon, and at which passage.
    const VARIABLE: &str = "CRASH_AT";

    /// Every point there is. Those of a backend begin with its name.
    pub const POINTS: &[&str] = &[
        // Signals and sends.
        "signal.sent",
        "buffer.before",
        "buffer.after",
        "direct.before",
        "direct.left",
        "direct.written",
        "direct.ran",
        "batch.taken",
        "batch.answered",
        "send.before",
        "send.after",
        // Receives, and what becomes of a delivery.
        "receive.answered",
        "receive.leased",
        "decide.before",
        "decide.pass_on",
        "decide.unpack",
        "decide.poison",
        "decide.dead",
        "handler.before",
        "handler.after",
        "handler.again",
        "verdict.finish",
        "verdict.give_back",
        "write.before",
        "write.after",
        "finish.written",
        "finish.unleased",
        "finish.settled",
        "finished.unleased",
        "finished.acked",
        "give_back.unleased",
        "give_back.copied",
        "give_back.after",
        "put_back.before",
        "put_back.copied",
        "put_back.unleased",
        "put_back.acked",
        // Settling and leases.
        "settle.before",
        "settle.after",
        "ack.answered",
        "release.answered",
        "extend.before",
        "extend.after",
        // The delay queue.
        "look.found",
        "hop.finished",
        "hop.park.before",
        "hop.park.after",
        "hop.Message.before",
        "hop.Message.sent",
        "hop.Message.acked",
        "hop.Delay.before",
        "hop.Delay.sent",
        "hop.Delay.acked",
        // Dead letters.
        "scan.found",
        "scan.given_back",
        "replay.before",
        "replay.sent",
        "purge.before",
        "remove.before",
        "remove.after",
        "release_all.before",
        "release_all.after",
        // The end.
        "stop.before",
        "stop.drained",
        "close.before",
        "close.drained",
        "close.sent",
        "close.released",
        "close.settled",
        // The local backend's writer.
        "local.join.before",
        "local.join.after",
        "local.bell.hung",
        "local.bell.told",
        "local.begin",
        "local.commit.before",
        "local.commit.after",
        "local.answered",
        "local.take_over.before",
        "local.take_over.after",
        "local.take_over.removed",
        "local.close.before",
        "local.close.left",
        "local.close.after",
        // The requests of the SQS backend.
        "sqs.send.before",
        "sqs.send.after",
        "sqs.receive.before",
        "sqs.receive.after",
        "sqs.delete.before",
        "sqs.delete.after",
        "sqs.change_visibility.before",
        "sqs.change_visibility.after",
    ];

    static PASSED: [AtomicU32; POINTS.len()] = [const { AtomicU32::new(0) }; POINTS.len()];

    static CRASH_AT: LazyLock<Option<(String, u32)>> = LazyLock::new(|| {
        let at = std::env::var(VARIABLE).ok()?;
        let parsed = at.rsplit_once(':').and_then(|(name, passage)| Some((name.to_owned(), passage.parse().ok()?)));
        Some(parsed.unwrap_or_else(|| end(&format!("{VARIABLE} is `{at}`, and must be such as `send.before:1`"))))
    });

    /// Counts a passage, and ends the process where it is the one to crash at.
    pub(crate) fn pass(name: &str) {
        let Some((_, passed)) = POINTS.iter().zip(&PASSED).find(|(point, _)| **point == name) else {
            end(&format!("there is no crash point `{name}`"))
        };
        let passage = passed.fetch_add(1, Ordering::Relaxed) + 1;
        if CRASH_AT.as_ref().is_some_and(|(point, at)| point == name && *at == passage) {
            end(&format!("crash point {name}:{passage}"));
        }
    }

    /// How many times this process has passed each point.
    pub fn passages() -> Vec<(&'static str, u32)> {
        POINTS.iter().zip(&PASSED).map(|(point, passed)| (*point, passed.load(Ordering::Relaxed))).collect()
    }

    /// Like SIGKILL, an abort runs nothing more of this process: no destructor, no flush.
    fn end(why: &str) -> ! {
        eprintln!("{why}");
        std::process::abort()
    }
}
