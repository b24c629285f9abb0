//! `dawdle dead replay` and `dawdle dead purge`.

use dawdle::backend::Lane;
use dawdle::{Dawdle, DeadLetter};
use dawdle_workbench::{Swept, Wanted, rate};
use indicatif::ProgressBar;
use serde::Serialize;

use super::list::{held_elsewhere, none_there};
use super::select::Filters;
use super::sweep::{count, sweep};
use crate::ask;
use crate::audit::Audit;
use crate::out::Out;
use crate::problem::{Problem, Result, complain};
use crate::progress;
use crate::queue::{Queues, close};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
pub(crate) struct Selection {
    /// The events' ids, as `dead list --each` shows them
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    filters: Filters,
    /// All of them
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Only say how many there are
    #[arg(long)]
    dry_run: bool,
}

impl Selection {
    fn wanted(self, doing: &str) -> Result<Wanted> {
        let wanted = self.filters.wanted(&self.ids)?;
        if wanted.is_all() && !self.all {
            return Err(Problem::usage(format!(
                "which dead letters to {doing} is not said: give ids, filters such as --kind, or --all"
            )));
        }
        Ok(wanted)
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    which: Selection,
    /// At most so many a second
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PurgeArgs {
    #[command(flatten)]
    which: Selection,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What a replay or a purge came to.
#[derive(Serialize)]
struct Report<'a> {
    matched: u64,
    #[serde(flatten)]
    done: Done,
    failed: u64,
    error: Option<&'a str>,
    interrupted: bool,
    /// Letters that somebody else looked at meanwhile; not known where this role may not count.
    held_elsewhere: Option<u64>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Done {
    Replayed(u64),
    Purged(u64),
}

impl Done {
    fn word(self) -> &'static str {
        match self {
            Done::Replayed(_) => "replayed",
            Done::Purged(_) => "purged",
        }
    }
}

#[derive(Serialize)]
struct DryRun {
    matched: u64,
    #[serde(flatten)]
    done: Done,
    dry_run: bool,
}

pub(crate) async fn replay(args: ReplayArgs, settings: &Settings, out: Out) -> Result {
    let only_count = args.which.dry_run;
    let wanted = args.which.wanted("replay")?;
    let queues = Queues::open(settings).await?;
    if only_count {
        return dry_run(&queues, &wanted, Done::Replayed(0), out).await;
    }
    let audit = Audit::open(&queues.config)?;
    let dawdle = queues.dawdle().await?;
    let change = audit.begin("replay", wanted.described())?;
    let letters = dawdle.dead_letters();
    let act = |letter: DeadLetter| {
        let letters = letters.clone();
        async move { letters.replay(&letter).await }
    };
    let begun = queues.now().await;
    let bar = bar(&queues, &wanted).await;
    let swept = sweep(&letters, &wanted, begun, args.rate, act, |swept| bar.set_position(swept.done)).await;
    progress::wipe(&bar);
    close(&dawdle).await;
    change.end(swept.outcome(), swept.done)?;
    report(&queues, &swept, Done::Replayed(swept.done), out).await
}

async fn dry_run(queues: &Queues, wanted: &Wanted, done: Done, out: Out) -> Result {
    let dawdle = queues.dawdle().await?;
    let counted = count(&dawdle.dead_letters(), wanted).await;
    close(&dawdle).await;
    let matched = counted?;
    match out.is_json() {
        true => out.value(&DryRun { matched, done, dry_run: true })?,
        false if matched > 0 => out.line(format_args!("{matched} would be {}", done.word()))?,
        false => {}
    }
    if matched == 0 { Err(none_there(queues).await) } else { Ok(()) }
}

pub(crate) async fn purge(args: PurgeArgs, settings: &Settings, out: Out) -> Result {
    let only_count = args.which.dry_run;
    let wanted = args.which.wanted("purge")?;
    if only_count {
        return dry_run(&Queues::open(settings).await?, &wanted, Done::Purged(0), out).await;
    }
    ask::can_ask(args.yes, "purge")?;
    let queues = Queues::open(settings).await?;
    let audit = Audit::open(&queues.config)?;
    let dawdle = queues.dawdle().await?;
    let swept = purge_as_asked(&queues, &dawdle, wanted, args.yes, &audit).await;
    close(&dawdle).await;
    let swept = swept?;
    report(&queues, &swept, Done::Purged(swept.done), out).await
}

async fn purge_as_asked(queues: &Queues, dawdle: &Dawdle, wanted: Wanted, yes: bool, audit: &Audit) -> Result<Swept> {
    // What dies while the question stands was not asked about.
    let begun = queues.now().await;
    let wanted = if yes { wanted } else { wanted.before(begun) };
    let letters = dawdle.dead_letters();
    if !yes {
        let count = count(&letters, &wanted).await?;
        if count == 0 {
            return Ok(Swept::default());
        }
        ask::first(yes, &format!("Delete {count} dead letters of {} for good?", queues.backend.describe())).await?;
    }
    let change = audit.begin("purge", wanted.described())?;
    let act = |letter: DeadLetter| {
        let letters = letters.clone();
        async move { letters.purge(&letter).await }
    };
    let bar = bar(queues, &wanted).await;
    let swept = sweep(&letters, &wanted, begun, None, act, |swept| bar.set_position(swept.done)).await;
    progress::wipe(&bar);
    change.end(swept.outcome(), swept.done)?;
    Ok(swept)
}

/// Which of them match is not known beforehand: it is at most all of them.
async fn bar(queues: &Queues, wanted: &Wanted) -> ProgressBar {
    let all = queues.backend.inspect(Lane::Dead).await.map_or(0, |stats| stats.total());
    progress::bar(all.min(wanted.limit()))
}

async fn report(queues: &Queues, swept: &Swept, done: Done, out: Out) -> Result {
    let held = held_elsewhere(queues).await;
    let Swept { matched, failed, interrupted, .. } = *swept;
    let error = swept.error.as_deref();
    let word = done.word();
    let (Done::Replayed(count) | Done::Purged(count)) = done;
    match out.is_json() {
        true => out.value(&Report { matched, done, failed, error, interrupted, held_elsewhere: held })?,
        false if matched > 0 => out.line(format_args!("{count} {word}, {failed} failed"))?,
        false => {}
    }
    let rest = "those that are left are where they were: run it again";
    match (error, interrupted) {
        (Some(error), _) => return Err(Problem::failed(format!("{count} {word}, then: {error}; {rest}"))),
        (None, true) => return Err(Problem::failed(format!("{count} {word}, then told to stop; {rest}"))),
        (None, false) if matched == 0 => return Err(none_there(queues).await),
        (None, false) => {}
    }
    if let Some(held @ 1..) = held {
        complain("note", format!("{held} dead letters are held by somebody else, for up to five minutes"));
    }
    Ok(())
}
