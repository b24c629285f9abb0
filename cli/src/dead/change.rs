//! `dawdle dead replay` and `dawdle dead purge`.

use std::path::Path;
use std::time::Duration;

use dawdle::backend::Lane;
use dawdle::{Dawdle, DeadLetter};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::list::{held_elsewhere, none_there};
use super::select::{Filters, Wanted};
use super::sweep::{Swept, count, sweep};
use crate::ask;
use crate::audit::Audit;
use crate::out::Out;
use crate::problem::{Problem, Result, complain};
use crate::queue::Queues;

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
}

impl Selection {
    fn wanted(self, doing: &str) -> Result<Wanted> {
        if self.ids.is_empty() && self.filters.are_none() && !self.all {
            return Err(Problem::usage(format!(
                "which dead letters to {doing} is not said: give ids, filters such as --kind, or --all"
            )));
        }
        Wanted::new(&self.ids, self.filters)
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    which: Selection,
    /// Only say how many there are
    #[arg(long)]
    dry_run: bool,
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

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| (0.001..=100_000.0).contains(rate));
    rate.ok_or_else(|| format!("`{text}` is no rate: it is a number a second, from 0.001 to 100000"))
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

#[derive(Serialize)]
struct DryRun {
    matched: u64,
    replayed: u64,
    dry_run: bool,
}

pub(crate) async fn replay(args: ReplayArgs, log: Option<&Path>, out: Out) -> Result {
    let wanted = args.which.wanted("replay")?;
    let queues = Queues::open().await?;
    if args.dry_run {
        return dry_run(&queues, &wanted, out).await;
    }
    let audit = Audit::open(log, &queues.config)?;
    let dawdle = queues.dawdle().await?;
    let change = audit.begin("replay", wanted.described())?;
    let letters = dawdle.dead_letters();
    let act = |letter: DeadLetter| {
        let letters = letters.clone();
        async move { letters.replay(&letter).await }
    };
    let begun = queues.now().await;
    let bar = progress(&queues, &wanted).await;
    let swept = sweep(&letters, &wanted, begun, args.rate, act, |swept| bar.set_position(swept.done)).await;
    bar.finish_and_clear();
    dawdle.shutdown().await;
    match &swept {
        Ok(swept) => change.end(outcome(swept), swept.done)?,
        Err(_) => change.end("failed", 0)?,
    }
    let swept = swept?;
    report(&queues, &swept, Done::Replayed(swept.done), out).await
}

async fn dry_run(queues: &Queues, wanted: &Wanted, out: Out) -> Result {
    let dawdle = queues.dawdle().await?;
    let counted = count(&dawdle.dead_letters(), wanted).await;
    dawdle.shutdown().await;
    let matched = counted?;
    match out.is_json() {
        true => out.value(&DryRun { matched, replayed: 0, dry_run: true })?,
        false if matched > 0 => out.line(format_args!("{matched} would be replayed"))?,
        false => {}
    }
    if matched == 0 { Err(none_there(queues).await) } else { Ok(()) }
}

pub(crate) async fn purge(args: PurgeArgs, log: Option<&Path>, out: Out) -> Result {
    let wanted = args.which.wanted("purge")?;
    ask::can_ask(args.yes, "purge")?;
    let queues = Queues::open().await?;
    let audit = Audit::open(log, &queues.config)?;
    let dawdle = queues.dawdle().await?;
    let swept = purge_as_asked(&queues, &dawdle, wanted, args.yes, &audit).await;
    dawdle.shutdown().await;
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
    let bar = progress(queues, &wanted).await;
    let swept = sweep(&letters, &wanted, begun, None, act, |swept| bar.set_position(swept.done)).await;
    bar.finish_and_clear();
    match &swept {
        Ok(swept) => change.end(outcome(swept), swept.done)?,
        Err(_) => change.end("failed", 0)?,
    }
    swept
}

/// A bar on a terminal, and nothing elsewhere.
async fn progress(queues: &Queues, wanted: &Wanted) -> ProgressBar {
    // Which of them match is not known beforehand: it is at most all of them.
    let all = queues.backend.inspect(Lane::Dead).await.map_or(0, |stats| stats.total());
    let bar = ProgressBar::with_draw_target(Some(all.min(wanted.limit())), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of at most {len}, {per_sec}, {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn outcome(swept: &Swept) -> &'static str {
    match swept {
        Swept { interrupted: true, .. } => "interrupted",
        Swept { error: Some(_), .. } => "failed",
        _ => "done",
    }
}

async fn report(queues: &Queues, swept: &Swept, done: Done, out: Out) -> Result {
    let held = held_elsewhere(queues).await;
    let Swept { matched, failed, interrupted, .. } = *swept;
    let error = swept.error.as_deref();
    let (word, count) = match done {
        Done::Replayed(count) => ("replayed", count),
        Done::Purged(count) => ("purged", count),
    };
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
