//! Going through dead letters until this program is told to stop.

use std::time::SystemTime;

use dawdle::{DeadLetter, DeadLetters};
use dawdle_workbench::{Looked, Swept, Wanted};

use crate::problem::{Problem, Result, complain};
use crate::{progress, stop};

/// Does something with each wanted letter, at most `rate` a second.
pub(crate) async fn sweep<F: Future<Output = dawdle::Result<()>>>(
    letters: &DeadLetters,
    wanted: &Wanted,
    begun: SystemTime,
    rate: Option<f64>,
    act: impl Fn(DeadLetter) -> F,
    progress: impl Fn(&Swept),
) -> Swept {
    dawdle_workbench::sweep(letters, wanted, begun, rate, act, progress, stop::asked()).await
}

/// Shows the wanted letters to `act`, and leaves them where they are; says how many there were.
pub(crate) async fn for_each(
    letters: &DeadLetters,
    wanted: &Wanted,
    act: impl FnMut(DeadLetter) -> Result,
) -> Result<u64> {
    match dawdle_workbench::for_each(letters, wanted, act, stop::asked()).await? {
        Looked { interrupted: true, .. } => Err(Problem::failed("told to stop; nothing was changed")),
        Looked { letters, full, .. } => {
            if full {
                complain("note", "there are more dead letters than can be held at once, so not all were looked at");
            }
            Ok(letters)
        }
    }
}

/// The same for an `act` that writes nothing: a terminal is shown how many there are so far.
pub(crate) async fn look(
    letters: &DeadLetters,
    wanted: &Wanted,
    mut act: impl FnMut(DeadLetter) -> Result,
) -> Result<u64> {
    let counter = progress::counter();
    let act = |letter| {
        counter.inc(1);
        act(letter)
    };
    progress::shown(&counter, for_each(letters, wanted, act)).await
}

/// Counts the wanted letters, and leaves them where they are.
pub(crate) async fn count(letters: &DeadLetters, wanted: &Wanted) -> Result<u64> {
    look(letters, wanted, |_| Ok(())).await
}
