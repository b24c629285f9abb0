//! Waking who waits for messages, in this process and in the others.
//!
//! A process that waits hangs up a bell: a datagram socket, whose path stands in its row of
//! `nodes`. Whoever commits something that can be received soon reads the bells in the same
//! transaction and rings them after the commit. A bell that was hung up too late for that was hung
//! up by a transaction that comes after it, and its process looks at the queue after that. Rings
//! may get lost (a full socket is one that has rings unread); everyone who waits looks by himself
//! once a second.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::backend::Lane;

/// How often who waits looks at the queue without being woken.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The same where there is no bell.
const LOOK_AGAIN_WITHOUT_BELL: Duration = Duration::from_millis(25);

/// A set of lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lanes(u8);

impl Lanes {
    pub(super) const ALL: Lanes = Lanes(0b111);

    pub(super) fn add(&mut self, lane: Lane) {
        self.0 |= 1 << index(lane);
    }

    pub(super) fn has(self, lane: Lane) -> bool {
        self.0 & (1 << index(lane)) != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

fn index(lane: Lane) -> usize {
    match lane {
        Lane::Message => 0,
        Lane::Delay => 1,
        Lane::Dead => 2,
    }
}

/// The receivers of this process that wait, by lane.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    lanes: [Notify; 3],
    has_bell: AtomicBool,
}

impl Waiters {
    pub(super) fn lane(&self, lane: Lane) -> &Notify {
        &self.lanes[index(lane)]
    }

    pub(super) fn wake(&self, lanes: Lanes) {
        for lane in Lane::ALL.into_iter().filter(|lane| lanes.has(*lane)) {
            self.lane(lane).notify_waiters();
        }
    }

    /// The longest to wait without a look at the queue.
    pub(super) fn look_again(&self) -> Duration {
        if self.has_bell.load(Ordering::Relaxed) { LOOK_AGAIN } else { LOOK_AGAIN_WITHOUT_BELL }
    }
}

#[cfg(unix)]
pub(super) use unix::{Bell, Ringer};

#[cfg(unix)]
mod unix {
    use std::io;
    use std::os::unix::net::UnixDatagram;
    use std::path::PathBuf;
    use std::sync::{Arc, Weak};

    use super::*;
    use crate::backend::local::place::Place;

    /// This process's bell, and the thread that listens to it.
    #[derive(Debug)]
    pub(in super::super) struct Bell {
        path: PathBuf,
        stopped: Arc<AtomicBool>,
    }

    impl Bell {
        /// Hangs it up beside the queue, or in the system's folder for temporary files where that
        /// path is too long for a socket.
        pub(in super::super) fn hang(place: &Place, node: &str, waiters: &Arc<Waiters>) -> io::Result<Bell> {
            let name = format!("{node}.bell");
            let beside = place.side_file(&name);
            let (path, socket) = match UnixDatagram::bind(&beside) {
                Ok(socket) => (beside, socket),
                Err(_) => {
                    let elsewhere = std::env::temp_dir().join(format!("dawdle-{name}"));
                    let socket = UnixDatagram::bind(&elsewhere)?;
                    (elsewhere, socket)
                }
            };
            let stopped = Arc::new(AtomicBool::new(false));
            let bell = Bell { path, stopped: Arc::clone(&stopped) };
            let listener = Arc::downgrade(waiters);
            std::thread::Builder::new()
                .name("dawdle-local-bell".to_owned())
                .spawn(move || listen(&socket, &stopped, &listener))?;
            waiters.has_bell.store(true, Ordering::Relaxed);
            Ok(bell)
        }

        pub(in super::super) fn path(&self) -> &Path {
            &self.path
        }
    }

    impl Drop for Bell {
        fn drop(&mut self) {
            self.stopped.store(true, Ordering::Release);
            if let Ok(ringer) = Ringer::new() {
                ringer.ring(&self.path, Lanes::ALL);
            }
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn listen(socket: &UnixDatagram, stopped: &AtomicBool, waiters: &Weak<Waiters>) {
        let mut ring = [0_u8; 1];
        while let Ok(length) = socket.recv(&mut ring).or_else(|error| match error.kind() {
            io::ErrorKind::Interrupted => Ok(0),
            _ => Err(error),
        }) {
            let Some(waiters) = waiters.upgrade() else { return };
            if stopped.load(Ordering::Acquire) {
                return;
            }
            waiters.wake(if length == 1 { Lanes(ring[0]) } else { Lanes::ALL });
        }
        if let Some(waiters) = waiters.upgrade() {
            waiters.has_bell.store(false, Ordering::Relaxed);
        }
    }

    /// Rings other processes' bells, without ever waiting.
    #[derive(Debug)]
    pub(in super::super) struct Ringer(UnixDatagram);

    impl Ringer {
        pub(in super::super) fn new() -> io::Result<Ringer> {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok(Ringer(socket))
        }

        pub(in super::super) fn ring(&self, bell: &Path, lanes: Lanes) {
            let _ = self.0.send_to(&[lanes.0], bell);
        }
    }
}

#[cfg(not(unix))]
pub(super) use elsewhere::{Bell, Ringer};

#[cfg(not(unix))]
mod elsewhere {
    use std::io;
    use std::sync::Arc;

    use super::*;
    use crate::backend::local::place::Place;

    /// No bell: who waits looks by himself, often.
    #[derive(Debug)]
    pub(in super::super) struct Bell(std::convert::Infallible);

    impl Bell {
        pub(in super::super) fn hang(_: &Place, _: &str, _: &Arc<Waiters>) -> io::Result<Bell> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(in super::super) fn path(&self) -> &Path {
            match self.0 {}
        }
    }

    #[derive(Debug)]
    pub(in super::super) struct Ringer;

    impl Ringer {
        pub(in super::super) fn new() -> io::Result<Ringer> {
            Ok(Ringer)
        }

        pub(in super::super) fn ring(&self, _: &Path, _: Lanes) {}
    }
}
