//! Going through dead letters and doing something with each: [`sweep`].

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use dawdle::{DeadLetter, DeadLetters, ErrorKind, EventId};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::select::Wanted;

/// How many are worked on side by side.
const SIDE_BY_SIDE: usize = 50;

/// How many a second may be asked for. Slower than that a letter would no longer be held, after five minutes, when its
/// turn comes.
pub const RATES: RangeInclusive<f64> = 0.01..=100_000.0;

/// Reads a rate.
///
/// # Errors
/// For what is no number, or not within [`RATES`].
pub fn rate(text: &str) -> Result<f64, String> {
    let rate = text.trim().parse().map_err(|_| no_rate(text))?;
    within(rate).map_err(|_| no_rate(text))
}

fn within(rate: f64) -> Result<f64, String> {
    if RATES.contains(&rate) { Ok(rate) } else { Err(no_rate(&rate.to_string())) }
}

fn no_rate(text: &str) -> String {
    let (slowest, fastest) = (*RATES.start(), *RATES.end());
    format!(
        "`{text}` is no rate: it is a number a second, from {slowest} to {fastest}; slower, a letter would no longer be \
         held when its turn comes"
    )
}

/// What became of a sweep.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// Those that were wanted.
    pub matched: u64,
    /// Those that it was done with.
    pub done: u64,
    /// Those that it could not be done with; they are where they were.
    pub failed: u64,
    /// The first error.
    pub error: Option<String>,
    /// It was told to stop.
    pub interrupted: bool,
}

impl Swept {
    /// How it ended, in the words of the audit log.
    pub fn outcome(&self) -> &'static str {
        match self {
            Swept { interrupted: true, .. } => "interrupted",
            Swept { error: Some(_), .. } => "failed",
            _ => "done",
        }
    }
}

/// Does something with each wanted letter, at most `rate` a second. What dies again meanwhile is left
/// where it is. A letter whose hold ran out while it waited for its turn is looked for again, and so is what lies
/// beyond as many as can be held at once.
///
/// Stops early, with what it has done so far, when `stop` comes and where the backend fails, and does nothing at a rate
/// that is not within [`RATES`]. `begun` is the time by the queues' clock.
pub async fn sweep<F: Future<Output = dawdle::Result<()>>>(
    letters: &DeadLetters,
    wanted: &Wanted,
    begun: SystemTime,
    rate: Option<f64>,
    act: impl Fn(DeadLetter) -> F,
    progress: impl Fn(&Swept),
    stop: impl Future<Output = ()>,
) -> Swept {
    let mut swept = Swept::default();
    if let Some(Err(error)) = rate.map(within) {
        swept.error = Some(error);
        return swept;
    }
    let mut seen = HashSet::new();
    let mut missing = Missing::of(wanted);
    let mut turns = rate.map(|rate| {
        let mut turns = interval(Duration::from_secs_f64(1.0 / rate));
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        turns
    });
    let mut stop = std::pin::pin!(stop);
    loop {
        let (done_before, mut lapsed, mut full) = (swept.done, false, None);
        let stopped = Arc::default();
        let mut scan = wanted.scan(letters, &stopped);
        // The one whose turn is next, and those that are worked on.
        let (mut ready, mut acts) = (None::<(u64, DeadLetter)>, FuturesUnordered::new());
        let mut more = swept.matched < wanted.limit() && !missing.is_none();
        while more || !acts.is_empty() {
            tokio::select! {
                biased;
                Some((mark, id, result)) = acts.next() => {
                    match result {
                        Ok(()) => swept.done += 1,
                        Err(error) if dawdle::Error::kind(&error) == ErrorKind::LeaseLost => {
                            lapsed = true;
                            swept.matched -= 1;
                            seen.remove(&mark);
                            missing.missed(id);
                        }
                        Err(error) => {
                            swept.failed += 1;
                            // It would fail for the others, too, each after its time.
                            more &= !error.is_transient() && error.kind() != ErrorKind::Credentials;
                            swept.error.get_or_insert(error.to_string());
                        }
                    }
                    progress(&swept);
                }
                // What is worked on is finished.
                () = &mut stop, if more => {
                    swept.interrupted = true;
                    more = false;
                }
                () = turn(&mut turns), if more && ready.is_some() => {
                    if let Some((mark, letter)) = ready.take() {
                        let id = letter.id;
                        let act = act(letter);
                        acts.push(async move { (mark, id, act.await) });
                        swept.matched += 1;
                        missing.found(&id);
                        more = swept.matched < wanted.limit() && !missing.is_none();
                    }
                }
                found = scan.next(), if more && ready.is_none() && acts.len() < SIDE_BY_SIDE => match found {
                    Some(Ok(letter)) => {
                        let mark = mark(&letter);
                        if seen.insert(mark) || letter.died_at < begun {
                            ready = Some((mark, letter));
                        }
                    }
                    // What is worked on makes room.
                    Some(Err(error)) if error.kind() == ErrorKind::Full => {
                        full = Some(error.to_string());
                        more = false;
                    }
                    Some(Err(error)) => {
                        swept.error.get_or_insert(error.to_string());
                        more = false;
                    }
                    None => more = false,
                },
            }
        }
        if swept.interrupted || swept.error.is_some() {
            // A look that is broken off would hide what it finds.
            stopped.store(true, Ordering::Relaxed);
            scan.next().await;
            return swept;
        }
        let again = lapsed || full.is_some();
        if again && swept.done == done_before {
            let lost = "dead letters were no longer held when their turn came: somebody else has them";
            swept.error.get_or_insert(full.unwrap_or_else(|| lost.to_owned()));
        }
        if !again || swept.error.is_some() || swept.matched >= wanted.limit() {
            return swept;
        }
    }
}

/// Comes when the next may be begun: at once, where there is no rate.
async fn turn(turns: &mut Option<Interval>) {
    if let Some(turns) = turns {
        turns.tick().await;
    }
}

/// The letters that are still to be found, where it is known which these are.
struct Missing(Option<BTreeSet<EventId>>);

impl Missing {
    fn of(wanted: &Wanted) -> Missing {
        Missing(wanted.one_each())
    }

    fn found(&mut self, id: &EventId) {
        if let Missing(Some(ids)) = self {
            ids.remove(id);
        }
    }

    fn missed(&mut self, id: EventId) {
        if let Missing(Some(ids)) = self {
            ids.insert(id);
        }
    }

    fn is_none(&self) -> bool {
        self.0.as_ref().is_some_and(BTreeSet::is_empty)
    }
}

/// What a look came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// How many letters were shown.
    pub letters: u64,
    /// It was told to stop.
    pub interrupted: bool,
    /// There are more letters than can be held at once: not all were looked at.
    pub full: bool,
}

/// Shows the wanted letters to `act`, and leaves them where they are. Broken off when `stop` comes: what it
/// holds can then be given back. Ends where no more can be held.
///
/// # Errors
/// The backend's, and `act`'s.
pub async fn for_each<E: From<dawdle::Error>>(
    letters: &DeadLetters,
    wanted: &Wanted,
    mut act: impl FnMut(DeadLetter) -> Result<(), E>,
    stop: impl Future<Output = ()>,
) -> Result<Looked, E> {
    let mut stop = std::pin::pin!(stop);
    let stopped = Arc::default();
    let mut scan = wanted.scan(letters, &stopped);
    let (mut looked, mut missing) = (Looked::default(), Missing::of(wanted));
    while looked.letters < wanted.limit() && !missing.is_none() {
        let mut next = std::pin::pin!(scan.next());
        let letter = tokio::select! {
            biased;
            () = &mut stop => {
                looked.interrupted = true;
                stopped.store(true, Ordering::Relaxed);
                // A look that is broken off would hide what it finds.
                next.await;
                break;
            }
            letter = &mut next => letter,
        };
        let Some(letter) = letter else { break };
        let letter = match letter {
            Err(error) if error.kind() == ErrorKind::Full => {
                looked.full = true;
                break;
            }
            letter => letter?,
        };
        looked.letters += 1;
        missing.found(&letter.id);
        act(letter)?;
    }
    Ok(looked)
}

/// What tells a letter from others: its event and handler; the body of what is no event, which has
/// another id each time it dies. The same in each program that one compiler has built.
pub fn mark(letter: &DeadLetter) -> u64 {
    let mut hasher = DefaultHasher::new();
    match letter.raw() {
        Some(raw) => raw.body().hash(&mut hasher),
        None => (letter.id, &letter.handler).hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_at_which_letters_would_outlast_their_hold_is_refused() {
        for (text, rate) in [("0.01", 0.01), ("5", 5.0), ("100000", 100_000.0)] {
            assert_eq!(super::rate(text), Ok(rate));
        }
        for text in ["0.0099", "0", "-1", "100001", "NaN", "inf", "", "five"] {
            let error = rate(text).unwrap_err();
            assert!(error.contains(&format!("`{text}`")) && error.contains("0.01 to 100000"), "{error}");
        }
    }
}
