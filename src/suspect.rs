//! Telling a message that kills its process from those that were only there: [`Suspects`].
//!
//! A crash counts a receive for everything that the node had in hand, and nothing says whose it
//! was. So a message with more than half of `max_receives` is a suspect:
//!
//! - Suspects take turns on a node. While one has its turn nothing else is begun there, so that
//!   what it was received together with cannot kill it, nor it what was begun before.
//! - An innocent ends its turn, is acked, and gone. A turn is over after ten seconds, too: who has
//!   killed nobody in that time lets others begin.
//! - With two receives left a turn lasts until its work ends, and whoever would wait then is put
//!   back on the queue instead, unread and as a fresh copy, before that turn begins. So whatever
//!   is received beyond the limit had its last turns alone.
//! - A long line of suspects is no crash but an incident of the queue: beyond a bound they are put
//!   back as fresh copies, too, which costs two requests each and no turn.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::Clock;
use crate::delay::HOLD;
use crate::shutdown::{Counted, InFlight};

/// The most that wait for their turns.
const LONGEST_LINE: usize = 20;

/// How long a turn lasts at most: the time until due that is held here, and five seconds more.
const TURN: Duration = HOLD.saturating_add(Duration::from_secs(5));

/// How long a turn lasts with two receives left, and what is no suspect waits for those who are.
const LAST_TURN: Duration = Duration::from_secs(300);

/// The suspects that a listener has in hand. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Suspects(Arc<Shared>);

struct Shared {
    max_receives: u32,
    turn: Arc<Semaphore>,
    /// Those whose turn is not over.
    line: InFlight,
    /// Those that are being put back.
    leaving: InFlight,
    entering: Mutex<()>,
}

/// What a receive count makes of a message.
pub(crate) enum Standing {
    /// Like any other.
    Ordinary,
    /// It is begun when its turn comes.
    Suspect(InLine),
    /// It is put back as a fresh copy, unread.
    Leaving(Counted),
}

/// A suspect's place in the line, until it is dropped.
pub(crate) struct InLine {
    suspects: Suspects,
    last: bool,
    _counted: Counted,
}

/// A suspect's turn, until it is dropped.
pub(crate) struct Turn {
    /// For how long, at most.
    pub(crate) lasts: Duration,
    _turn: Option<OwnedSemaphorePermit>,
    _line: InLine,
}

impl Suspects {
    pub(crate) fn new(max_receives: u32) -> Self {
        Suspects(Arc::new(Shared {
            max_receives,
            turn: Arc::new(Semaphore::new(1)),
            line: InFlight::default(),
            leaving: InFlight::default(),
            entering: Mutex::default(),
        }))
    }

    /// What becomes of a message that was received just now. Asked for all messages of a receive
    /// before any of them is begun.
    pub(crate) fn standing(&self, receive_count: u32) -> Standing {
        let shared = &*self.0;
        let from = (shared.max_receives / 2 + 1).max(2);
        // Beyond the limit it is dead-lettered, and not begun.
        if !(from..=shared.max_receives).contains(&receive_count) {
            return Standing::Ordinary;
        }
        let last = receive_count >= shared.max_receives - 1;
        let _one_at_a_time = shared.entering.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shared.line.count();
        if before >= LONGEST_LINE || (last && before > 0) {
            return Standing::Leaving(shared.leaving.guard());
        }
        Standing::Suspect(InLine { suspects: self.clone(), last, _counted: shared.line.guard() })
    }

    /// Whether a suspect waits or has its turn.
    pub(crate) fn any(&self) -> bool {
        self.0.line.count() > 0
    }

    /// Waits until none does; `false` if this takes longer than anything has to wait. Cancel-safe.
    pub(crate) async fn none(&self, clock: &Clock) -> bool {
        clock.timeout(LAST_TURN, self.0.line.none()).await.is_some()
    }
}

impl InLine {
    /// Waits for its turn. Cancel-safe.
    pub(crate) async fn turn(self, clock: &Clock) -> Turn {
        let shared = &*self.suspects.0;
        let turn = Arc::clone(&shared.turn).acquire_owned().await.ok();
        // A queue that takes no copies holds up nobody for long.
        clock.timeout(TURN, shared.leaving.none()).await;
        Turn { lasts: if self.last { LAST_TURN } else { TURN }, _turn: turn, _line: self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(suspects: &Suspects, counts: &[u32]) -> (String, Vec<Standing>) {
        let standings: Vec<_> = counts.iter().map(|count| suspects.standing(*count)).collect();
        let letters = standings.iter().map(|standing| match standing {
            Standing::Ordinary => 'o',
            Standing::Suspect(InLine { last: false, .. }) => 's',
            Standing::Suspect(InLine { last: true, .. }) => 'l',
            Standing::Leaving(_) => 'x',
        });
        (letters.collect(), standings)
    }

    #[test]
    fn from_half_the_limit_on_a_message_is_a_suspect_and_never_at_its_first_receive() {
        for (max, expected) in [(10, "ooooosssllo"), (3, "ollo"), (2, "olo"), (1, "oo")] {
            let each: String = (1..=max + 1).map(|count| kinds(&Suspects::new(max), &[count]).0).collect();
            assert_eq!(each, expected, "of {max}");
        }
    }

    #[test]
    fn with_two_receives_left_nobody_waits_for_another() {
        let suspects = Suspects::new(10);
        let (standings, held) = kinds(&suspects, &[9, 10, 6, 1]);
        assert_eq!(standings, "lxso");
        drop(held);
        assert_eq!(kinds(&suspects, &[6, 9]).0, "sx");
    }

    #[test]
    fn a_long_line_is_cut_short() {
        let suspects = Suspects::new(10);
        let (standings, _held) = kinds(&suspects, &[7; 22]);
        assert_eq!(standings, "s".repeat(20) + "xx");
    }
}
