//! Telling a message that kills its process from those that were only there: [`Suspects`].
//!
//! A crash counts a receive for everything that the node had in hand, and nothing says whose it
//! was. So a message with a third of `max_receives` is a suspect:
//!
//! - Suspects take turns on a node, those with fewer receives first, and else by chance; the first
//!   turn waits a moment for the others to arrive. What is no suspect is begun as ever: a crash counts
//!   a receive for it too, and it has some to spare.
//! - An innocent ends its turn, is acked, and gone: half of them at each crash, and everyone who
//!   joined them later. A turn is over five seconds after its work was begun, too, and after twice
//!   as long at each further receive: who has killed nobody in that time lets the next begin.
//! - At its last receive a message has the next turn, which lasts until its work ends; and one that would
//!   have to wait then, or that another suspect works beside, is put back on the queue instead, unread, as a
//!   fresh copy. That bears a [`MARK`] and is a suspect from its first receive on. So what is received beyond
//!   the limit was alone in the end, but for a killer that nobody suspects.
//! - A long line of suspects is no crash but an incident of the queue: beyond a bound they are put
//!   back as fresh copies, too, which costs two requests each and no turn.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::backend::{Delivery, Outgoing};
use crate::clock::{Clock, Latch};
use crate::shutdown::{Counted, InFlight};
use crate::sync::{Mutex, MutexGuard};

#[cfg(test)]
mod orders;

/// The message attribute of a copy that is a suspect however rarely it was received.
const MARK: &str = "dawdle-suspect";

/// The most attributes of a message:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>
const MAX_ATTRIBUTES: usize = 10;

/// The most that wait for their turns.
const LONGEST_LINE: usize = 20;

/// How long a first suspect waits for the others.
const GATHER: Duration = Duration::from_millis(100);

/// How long a suspect's first turn lasts at most, once its work was begun; the next lasts twice as long.
const TURN: Duration = Duration::from_secs(5);

/// How long a turn lasts at the last receive, and may wait for a permit.
const LAST_TURN: Duration = Duration::from_secs(300);

/// The suspects that a listener has in hand. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Suspects(Arc<Shared>);

struct Shared {
    max_receives: u32,
    line: Mutex<Line>,
    /// Those whose turn is not over.
    present: InFlight,
    /// Those whose work has not ended.
    working: InFlight,
    /// Those that are being put back.
    leaving: InFlight,
}

#[derive(Default)]
struct Line {
    waiting: Vec<Waiting>,
    taken: bool,
}

struct Waiting {
    /// Those at their last receive first, then those with fewer receives, then by chance.
    order: (bool, u32, u64),
    its_turn: oneshot::Sender<Taken>,
}

/// What a receive count makes of a message.
pub(crate) enum Standing {
    /// Like any other.
    Ordinary,
    /// It is begun when its turn comes.
    Suspect(InLine),
    /// It is put back as a fresh copy, unread, which bears a [`MARK`] or does not.
    Leaving { marked: bool, _leaving: Counted },
}

/// A suspect's place in the line.
pub(crate) struct InLine {
    suspects: Suspects,
    its_turn: oneshot::Receiver<Taken>,
    lasts: Duration,
    present: Counted,
}

/// A suspect's turn, until it is dropped.
pub(crate) struct Turn {
    lasts: Duration,
    _taken: Option<Taken>,
    _present: Counted,
}

/// The one turn there is; the next one's when it is dropped.
struct Taken(Suspects);

/// Marks a copy. One that has no room for it, in attributes or bytes, goes without.
pub(crate) fn mark(copy: &mut Outgoing, max_bytes: usize) {
    if copy.attributes.len() < MAX_ATTRIBUTES {
        copy.attributes.insert(MARK.to_owned(), "1".to_owned());
        if copy.bytes() > max_bytes {
            copy.attributes.remove(MARK);
        }
    }
}

/// Takes the mark off a message: it is nobody else's business. Whether there was one.
pub(crate) fn unmark(delivery: &mut Delivery) -> bool {
    delivery.attributes.remove(MARK).is_some()
}

impl Suspects {
    pub(crate) fn new(max_receives: u32) -> Self {
        Suspects(Arc::new(Shared {
            max_receives,
            line: Mutex::default(),
            present: InFlight::default(),
            working: InFlight::default(),
            leaving: InFlight::default(),
        }))
    }

    /// What becomes of a message that was received just now, with a mark or without.
    pub(crate) fn standing(&self, receive_count: u32, marked: bool) -> Standing {
        let shared = &*self.0;
        // With a limit of one every receive is the last, and nobody would wait for a turn.
        let from = if marked && shared.max_receives > 1 { 1 } else { (shared.max_receives / 3).max(2) };
        // Beyond the limit it is dead-lettered, and not begun.
        if !(from..=shared.max_receives).contains(&receive_count) {
            return Standing::Ordinary;
        }
        let mut line = shared.lock();
        let (last, before) = (receive_count == shared.max_receives, shared.present.count());
        let too_many = before >= LONGEST_LINE;
        if too_many || (last && (before > 0 || shared.working.count() > 0)) {
            return Standing::Leaving { marked: !too_many, _leaving: shared.leaving.guard() };
        }
        let (sender, its_turn) = oneshot::channel();
        line.waiting.push(Waiting { order: (!last, receive_count, fastrand::u64(..)), its_turn: sender });
        let longer = 1_u32.checked_shl(receive_count - from).unwrap_or(u32::MAX);
        let lasts = if last { LAST_TURN } else { TURN.saturating_mul(longer).min(LAST_TURN) };
        Standing::Suspect(InLine { suspects: self.clone(), its_turn, lasts, present: shared.present.guard() })
    }

    /// Lets turns begin, soon after a suspect was received.
    pub(crate) async fn begin_soon(&self, clock: &Clock) {
        clock.sleep(GATHER).await;
        self.begin();
    }

    /// Lets the next suspect have its turn, if nobody has it.
    fn begin(&self) {
        let next = {
            let mut line = self.0.lock();
            let first = (0..line.waiting.len()).min_by_key(|at| line.waiting[*at].order);
            match first {
                Some(first) if !line.taken => {
                    line.taken = true;
                    line.waiting.swap_remove(first)
                }
                _ => return,
            }
        };
        // To one that has gone it passes on: what is not taken is dropped.
        let _ = next.its_turn.send(Taken(self.clone()));
    }

    /// Counts a suspect until its work ends, which may outlast its turn.
    pub(crate) fn work(&self) -> Counted {
        self.0.working.guard()
    }

    /// Whether a suspect waits or has its turn.
    pub(crate) fn any(&self) -> bool {
        self.0.present.count() > 0
    }
}

impl InLine {
    /// Waits for its turn.
    pub(crate) async fn turn(self, clock: &Clock) -> Turn {
        let taken = self.its_turn.await.ok();
        // A queue that takes no copies holds up nobody for long.
        clock.timeout(TURN, self.suspects.0.leaving.none()).await;
        Turn { lasts: self.lasts, _taken: taken, _present: self.present }
    }
}

impl Turn {
    /// Waits until it is over, once its work was begun, although that has not ended.
    pub(crate) async fn over(&self, clock: &Clock, begun: &Latch) {
        clock.timeout(LAST_TURN, begun.raised()).await;
        clock.sleep(self.lasts).await;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.0.lock().taken = false;
        self.0.begin();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn standings(suspects: &Suspects, counts: &[u32]) -> (String, Vec<Standing>) {
        let standings = counts.iter().map(|count| suspects.standing(*count, false)).collect();
        described(standings)
    }

    fn described(standings: Vec<Standing>) -> (String, Vec<Standing>) {
        let letters = standings.iter().map(|standing| match standing {
            Standing::Ordinary => 'o',
            Standing::Suspect(line) if line.lasts == TURN => 's',
            Standing::Suspect(line) if line.lasts == LAST_TURN => 'l',
            Standing::Suspect(_) => 'm',
            Standing::Leaving { marked: true, .. } => 'x',
            Standing::Leaving { marked: false, .. } => 'y',
        });
        (letters.collect(), standings)
    }

    #[test]
    fn from_a_third_of_the_limit_on_a_message_is_a_suspect_and_never_at_its_first_receive() {
        for (max, expected) in [(10, "oosmmmmmllo"), (4, "osmlo"), (2, "olo"), (1, "oo")] {
            let each: String = (1..=max + 1).map(|count| standings(&Suspects::new(max), &[count]).0).collect();
            assert_eq!(each, expected, "of {max}");
        }
    }

    #[test]
    fn a_copy_without_room_for_a_mark_goes_without() {
        let marked = |attributes: usize, max_bytes: usize| {
            let attributes = (0..attributes).map(|number| (number.to_string(), "x".to_owned())).collect();
            let mut copy = Outgoing { attributes, ..Outgoing::new("body") };
            let bytes = copy.bytes();
            mark(&mut copy, max_bytes);
            assert!(copy.bytes() <= max_bytes.max(bytes));
            copy.attributes.contains_key(MARK)
        };
        assert_eq!((marked(0, 25), marked(0, 24), marked(9, 1_000), marked(10, 1_000)), (true, false, true, false));
    }

    #[test]
    fn at_its_last_receive_nobody_waits_for_another() {
        let suspects = Suspects::new(10);
        let (letters, held) = standings(&suspects, &[10, 10, 6, 1]);
        assert_eq!(letters, "lxmo");
        drop(held);
        assert_eq!(standings(&suspects, &[6, 10]).0, "mx");
        // Its turn is over, and its work is not.
        let work = suspects.work();
        assert_eq!(standings(&suspects, &[10]).0, "x");
        drop(work);
        assert_eq!(standings(&suspects, &[10]).0, "l");
    }

    #[test]
    fn a_long_line_is_cut_short() {
        let suspects = Suspects::new(10);
        assert_eq!(standings(&suspects, &[7; 22]).0, "m".repeat(20) + "yy");
    }

    #[test]
    fn a_marked_copy_is_a_suspect_at_its_first_receive() {
        let each: String = (1..=11).map(|count| described(vec![Suspects::new(10).standing(count, true)]).0).collect();
        assert_eq!(each, "smmmmmllllo");
        assert_eq!(described(vec![Suspects::new(1).standing(1, true)]).0, "o");
    }

    #[test]
    fn turns_go_by_receives_and_pass_over_who_has_gone() {
        let (suspects, clock) = (Suspects::new(10), Clock::system());
        let (_, waiting) = standings(&suspects, &[9, 4, 3, 7]);
        suspects.begin();
        let line = |standing| if let Standing::Suspect(line) = standing { Some(line) } else { None };
        let lines: Vec<_> = waiting.into_iter().filter_map(line).collect();
        let [nine, four, three, seven] = <[InLine; 4]>::try_from(lines).ok().unwrap();
        let mut nine = Box::pin(nine.turn(&clock));
        let mut four = Box::pin(four.turn(&clock));
        assert!(nine.as_mut().now_or_never().is_none() && four.as_mut().now_or_never().is_none());
        let turn = three.turn(&clock).now_or_never();
        assert!(turn.is_some() && suspects.any());
        drop(turn);
        drop(four);
        drop(seven);
        let turn = nine.now_or_never();
        assert!(turn.is_some() && suspects.any());
        drop(turn);
        assert!(!suspects.any());
    }
}
