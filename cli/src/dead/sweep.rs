//! Going through dead letters and doing something with each: [`sweep`].

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, SystemTime};

use dawdle::{DeadLetter, DeadLetters, ErrorKind};
use futures_util::FutureExt as _;
use tokio::time::{MissedTickBehavior, interval};

use super::select::Wanted;
use crate::problem::{Problem, Result};
use crate::stop;

/// How many are worked on side by side, where there is no rate.
const SIDE_BY_SIDE: usize = 50;

/// What became of a sweep.
#[derive(Clone, Debug, Default)]
pub(crate) struct Swept {
    pub(crate) matched: u64,
    pub(crate) done: u64,
    /// Those that it could not be done with; they are where they were.
    pub(crate) failed: u64,
    /// The first error.
    pub(crate) error: Option<String>,
    /// It was told to stop.
    pub(crate) interrupted: bool,
}

/// Does something with each wanted letter, at most `rate` a second. What dies again meanwhile is left
/// where it is. A letter whose hold ran out while it waited for its turn is looked for again.
///
/// Stops early, with what it has done so far, when the program is asked to end and where the backend
/// fails.
pub(crate) async fn sweep<F: Future<Output = dawdle::Result<()>>>(
    letters: &DeadLetters,
    wanted: &Wanted,
    begun: SystemTime,
    rate: Option<f64>,
    act: impl Fn(DeadLetter) -> F,
    progress: impl Fn(&Swept),
) -> Result<Swept> {
    let mut swept = Swept::default();
    let mut seen = HashSet::new();
    let at_once = if rate.is_some() { 1 } else { SIDE_BY_SIDE };
    let mut turns = rate.map(|rate| {
        let mut turns = interval(Duration::from_secs_f64(1.0 / rate));
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        turns
    });
    let mut stop = std::pin::pin!(stop::asked());
    loop {
        let (done_before, mut lapsed) = (swept.done, false);
        let mut scan = letters.scan(wanted.filter());
        let mut more = true;
        while more {
            let mut chunk = Vec::new();
            while more && chunk.len() < at_once {
                if swept.matched >= wanted.limit() {
                    more = false;
                    break;
                }
                // Between two looks: one that is broken off would hide what it finds.
                if stop.as_mut().now_or_never().is_some() {
                    swept.matched -= chunk.len() as u64;
                    swept.interrupted = true;
                    return Ok(swept);
                }
                match scan.next().await {
                    Some(Ok(letter)) if wanted.takes(&letter) => {
                        let mark = mark(&letter);
                        if seen.insert(mark) || letter.died_at < begun {
                            swept.matched += 1;
                            chunk.push((mark, letter));
                        }
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        swept.error.get_or_insert(error.to_string());
                        more = false;
                    }
                    None => more = false,
                }
            }
            if let Some(turns) = &mut turns {
                tokio::select! {
                    _ = turns.tick() => {}
                    () = &mut stop => {
                        swept.matched -= chunk.len() as u64;
                        swept.interrupted = true;
                        return Ok(swept);
                    }
                }
            }
            let acts = chunk.into_iter().map(|(mark, letter)| {
                let act = act(letter);
                async move { (mark, act.await) }
            });
            for (mark, result) in futures_util::future::join_all(acts).await {
                match result {
                    Ok(()) => swept.done += 1,
                    Err(error) if error.kind() == ErrorKind::LeaseLost => {
                        lapsed = true;
                        swept.matched -= 1;
                        seen.remove(&mark);
                    }
                    Err(error) => {
                        swept.failed += 1;
                        // It would fail for the others, too, each after its time.
                        more &= !error.is_transient() && error.kind() != ErrorKind::Credentials;
                        swept.error.get_or_insert(error.to_string());
                    }
                }
            }
            progress(&swept);
        }
        if lapsed && swept.done == done_before {
            let why = "dead letters were no longer held when their turn came: somebody else has them";
            swept.error.get_or_insert(why.to_owned());
        }
        if !lapsed || swept.error.is_some() || swept.matched >= wanted.limit() {
            return Ok(swept);
        }
    }
}

/// Shows the wanted letters to `act`, and leaves them where they are; says how many there were. Broken
/// off when the program is asked to end: what it holds can then be given back.
pub(crate) async fn for_each(
    letters: &DeadLetters,
    wanted: &Wanted,
    mut act: impl FnMut(DeadLetter) -> Result,
) -> Result<u64> {
    let mut stop = std::pin::pin!(stop::asked());
    let mut scan = letters.scan(wanted.filter());
    let mut count = 0;
    while count < wanted.limit() {
        let Some(letter) = scan.next().await else { break };
        if stop.as_mut().now_or_never().is_some() {
            return Err(Problem::failed("told to stop; nothing was changed"));
        }
        let letter = letter?;
        if wanted.takes(&letter) {
            count += 1;
            act(letter)?;
        }
    }
    Ok(count)
}

/// Counts the wanted letters, and leaves them where they are.
pub(crate) async fn count(letters: &DeadLetters, wanted: &Wanted) -> Result<u64> {
    for_each(letters, wanted, |_| Ok(())).await
}

/// What tells a letter from others: its event and handler; the body of what is no event, which has
/// another id each time it dies.
fn mark(letter: &DeadLetter) -> u64 {
    let mut hasher = DefaultHasher::new();
    match letter.raw() {
        Some(raw) => raw.body().hash(&mut hasher),
        None => (letter.id, &letter.handler).hash(&mut hasher),
    }
    hasher.finish()
}
