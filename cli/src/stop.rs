//! Ctrl-C, SIGTERM and SIGHUP: the first asks the program to end, the second ends it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::problem::complain;

/// The exit code of a program that was not given the time to end, as a node's is.
const AT_ONCE: i32 = 130;

/// Whether the first signal has come.
static TOLD: OnceLock<watch::Receiver<bool>> = OnceLock::new();

/// Whether the terminal is somebody else's: what is typed there is not for this program.
static LENT: AtomicBool = AtomicBool::new(false);

/// Comes when the program is asked to end, or has been. From the call on it must be looked at: a first
/// signal does nothing else then. A second one ends the program.
pub(crate) fn asked() -> impl Future<Output = ()> {
    let mut told = TOLD.get_or_init(listen).clone();
    async move {
        // Where signals cannot be listened to they have their usual effect.
        if told.wait_for(|told| *told).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Waits until what is held is given back. Where the program was asked to end, or is asked meanwhile, it says
/// what a second signal does.
pub(crate) async fn giving_back<T>(held: usize, what: &str, hidden: &str, giving: impl Future<Output = T>) -> T {
    let mut giving = std::pin::pin!(giving);
    tokio::select! {
        biased;
        given = &mut giving => return given,
        () = asked() => {}
    }
    if held > 0 {
        let again = format!("again (Ctrl-C) to leave them hidden for up to {hidden}");
        complain("note", format!("giving back {held} {what}; {again}"));
    }
    giving.await
}

/// Runs another program at the terminal. Ctrl-C is for that one.
pub(crate) fn lent<T>(run: impl FnOnce() -> T) -> T {
    LENT.store(true, Ordering::Release);
    let ran = run();
    LENT.store(false, Ordering::Release);
    ran
}

fn listen() -> watch::Receiver<bool> {
    let (tell, told) = watch::channel(false);
    if let Ok(mut signals) = Signals::new() {
        tokio::spawn(async move {
            signals.next().await;
            tell.send_replace(true);
            signals.forget_hangups();
            signals.next().await;
            std::process::exit(AT_ONCE);
        });
    }
    told
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        let hangup = if keeps_hangups_away() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())?, hangup })
    }

    async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => {
                    if !LENT.load(Ordering::Acquire) {
                        return;
                    }
                }
                _ = self.terminate.recv() => return,
                () = next_of(&mut self.hangup) => return,
            }
        }
    }

    /// A terminal that goes away may say so more than once.
    fn forget_hangups(&mut self) {
        self.hangup = None;
    }
}

#[cfg(unix)]
async fn next_of(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether whoever started this program wants it to outlive the terminal, as `nohup` does. Known on Linux only.
#[cfg(unix)]
fn keeps_hangups_away() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() || LENT.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
    }

    fn forget_hangups(&mut self) {}
}
