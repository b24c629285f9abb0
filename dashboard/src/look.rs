//! Looking at dead letters, and giving them back: [`Looks`].

use std::sync::Arc;
use std::time::Duration;

use dawdle::DeadLetter;
use dawdle_workbench::{Group, Groups, Looked, Wanted, for_each, mark};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::dashboard::App;

/// For how long a page looks.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many letters a page lists.
pub(crate) const MOST_LISTED: usize = 200;

/// How much data the letters have that it keeps while it lists them.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// One look, or one job, at a time: each scan of an instance takes over what an earlier one of it holds.
#[derive(Default)]
pub(crate) struct Looks(Arc<Mutex<()>>);

impl Looks {
    /// The right to look; `None` where somebody else looks for longer than a page would.
    pub(crate) async fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        tokio::time::timeout(PATIENCE, Arc::clone(&self.0).lock_owned()).await.ok()
    }
}

/// What a look has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// How many letters matched.
    pub(crate) matched: u64,
    pub(crate) groups: Vec<Group>,
    /// Some of them.
    pub(crate) letters: Vec<DeadLetter>,
    /// There may be more.
    pub(crate) cut_short: Option<CutShort>,
}

/// Why a look has not seen all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutShort {
    Limit(u64),
    Time(Duration),
    /// More cannot be held.
    Full,
}

/// Why there is no look.
pub(crate) enum NoLook {
    /// Somebody else looks.
    Busy,
    Failed(String),
}

/// Looks through at most `limit` letters that are wanted, and gives all of them back. It comes to its end, however
/// soon whoever asked goes away.
pub(crate) async fn look(app: &Arc<App>, wanted: Wanted, limit: u64) -> Result<Found, NoLook> {
    let Some(turn) = app.looks.turn().await else { return Err(NoLook::Busy) };
    let letters = app.dawdle.dead_letters();
    let looking = tokio::spawn(async move {
        let _turn = turn;
        let (mut found, mut groups, mut bytes) = (Found::default(), Groups::default(), 0);
        let wanted = wanted.at_most(limit);
        let show = |letter: DeadLetter| {
            groups.add(&letter);
            bytes += letter.envelope.data().map_or(0, str::len) + letter.raw().map_or(0, |raw| raw.body().len());
            if found.letters.is_empty() || found.letters.len() < MOST_LISTED && bytes <= MOST_BYTES {
                found.letters.push(letter);
            }
            Ok::<_, dawdle::Error>(())
        };
        let looked = for_each(&letters, &wanted, show, tokio::time::sleep(PATIENCE)).await;
        letters.release_all().await;
        let looked = looked?;
        found.matched = looked.letters;
        found.groups = groups.largest_first();
        found.letters.sort_by_key(|letter| std::cmp::Reverse(letter.died_at));
        found.cut_short = match looked {
            Looked { interrupted: true, .. } => Some(CutShort::Time(PATIENCE)),
            Looked { full: true, .. } => Some(CutShort::Full),
            Looked { letters, .. } if letters >= wanted.limit() => Some(CutShort::Limit(wanted.limit())),
            _ => None,
        };
        Ok(found)
    });
    match looking.await {
        Ok(found) => found.map_err(|error: dawdle::Error| NoLook::Failed(error.to_string())),
        Err(error) => Err(NoLook::Failed(format!("the look was broken off: {error}"))),
    }
}

/// What names a letter of no event in an address.
pub(crate) fn mark_of(letter: &DeadLetter) -> String {
    format!("{:016x}", mark(letter))
}
