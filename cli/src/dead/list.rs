//! `dawdle dead list` and `dawdle dead show`.

use std::collections::BTreeSet;

use anstyle::Style;
use dawdle::{Dawdle, DeadLetter};
use dawdle_workbench::{Group, Groups, Wanted, fingerprint, json, when};
use serde::Serialize;
use serde_json::value::RawValue;

use super::select::Filters;
use super::sweep::{for_each, look};
use crate::out::{Out, clean};
use crate::problem::{Problem, Result};
use crate::queue::{Queues, close};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filters: Filters,
    /// One line for each letter, with its id
    #[arg(long)]
    each: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// The event's id, as `dead list --each` shows it
    id: String,
    /// The letter of this handler only; `-` for that of none
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
}

#[derive(Serialize)]
struct Listed {
    letters: u64,
    groups: Vec<Group>,
}

/// A letter in a list.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    kind: &'a str,
    handler: Option<&'a str>,
    reason: &'a str,
    error: Option<&'a str>,
    fingerprint: String,
    attempts: u32,
    signalled_at: String,
    due_at: String,
    died_at: String,
    node: Option<&'a str>,
    version: Option<&'a str>,
}

/// Everything of a letter.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    line: Line<'a>,
    key: Option<&'a str>,
    group: Option<&'a str>,
    source: &'a str,
    /// The event's CloudEvents object, its data included.
    event: &'a dawdle::Envelope,
    /// The data; none where it is not JSON.
    data: Option<&'a RawValue>,
    /// The body of what was no event.
    raw: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn of(letter: &'a DeadLetter) -> Self {
        Line {
            id: letter.id.as_str(),
            kind: &letter.kind,
            handler: letter.handler.as_deref(),
            reason: &letter.reason,
            error: letter.error.as_deref(),
            fingerprint: fingerprint::of_letter(letter),
            attempts: letter.attempts,
            signalled_at: when::exact(letter.signalled_at),
            due_at: when::exact(letter.due_at),
            died_at: when::exact(letter.died_at),
            node: letter.node.as_deref(),
            version: letter.version.as_deref(),
        }
    }
}

pub(crate) async fn list(args: ListArgs, settings: &Settings, out: Out) -> Result {
    let queues = Queues::open(settings).await?;
    let dawdle = queues.dawdle().await?;
    let wanted = args.filters.wanted(&[])?;
    let listed = match args.each {
        true => list_each(&dawdle, &wanted, out).await,
        false => list_groups(&dawdle, &wanted, out).await,
    };
    close(&dawdle).await;
    match listed? {
        0 => Err(none_there(&queues).await),
        _ => Ok(()),
    }
}

async fn list_each(dawdle: &Dawdle, wanted: &Wanted, out: Out) -> Result<u64> {
    if out.is_json() {
        return for_each(&dawdle.dead_letters(), wanted, |letter| out.value(&Line::of(&letter))).await;
    }
    let mut rows = Vec::new();
    let count = look(&dawdle.dead_letters(), wanted, |letter| {
        rows.push(vec![
            letter.id.to_string(),
            letter.kind.clone(),
            letter.handler.clone().unwrap_or_else(|| "-".to_owned()),
            letter.reason.clone(),
            fingerprint::of_letter(&letter),
            when::shown(letter.died_at),
            letter.error.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
        Ok(())
    })
    .await?;
    if !rows.is_empty() {
        out.table(&["ID", "KIND", "HANDLER", "REASON", "FINGERPRINT", "DIED", "ERROR"], rows)?;
    }
    Ok(count)
}

async fn list_groups(dawdle: &Dawdle, wanted: &Wanted, out: Out) -> Result<u64> {
    let mut groups = Groups::default();
    let letters = look(&dawdle.dead_letters(), wanted, |letter| {
        groups.add(&letter);
        Ok(())
    })
    .await?;
    let groups = groups.largest_first();
    if out.is_json() {
        out.value(&Listed { letters, groups })?;
        return Ok(letters);
    }
    let row = |group: Group| {
        let joined = |words: BTreeSet<String>| words.into_iter().collect::<Vec<_>>().join(", ");
        vec![
            group.count.to_string(),
            group.kind,
            group.handler.unwrap_or_else(|| "-".to_owned()),
            group.fingerprint,
            when::shown(group.first),
            when::shown(group.last),
            joined(group.versions),
            group.error.unwrap_or_else(|| joined(group.reasons)),
        ]
    };
    if letters > 0 {
        let headings = [">COUNT", "KIND", "HANDLER", "FINGERPRINT", "FIRST", "LAST", "VERSIONS", "ERROR"];
        out.table(&headings, groups.into_iter().map(row).collect())?;
    }
    Ok(letters)
}

pub(crate) async fn show(args: ShowArgs, settings: &Settings, out: Out) -> Result {
    let queues = Queues::open(settings).await?;
    let dawdle = queues.dawdle().await?;
    let shown = match Filters::of_handler(args.handler).wanted(&[args.id]) {
        Ok(wanted) => for_each(&dawdle.dead_letters(), &wanted, |letter| show_one(&letter, out)).await,
        Err(problem) => Err(problem),
    };
    close(&dawdle).await;
    match shown? {
        0 => Err(none_there(&queues).await),
        _ => Ok(()),
    }
}

fn show_one(letter: &DeadLetter, out: Out) -> Result {
    let data = letter.envelope.data();
    let raw = letter.raw().map(|raw| raw.body());
    if out.is_json() {
        return out.value(&Whole {
            line: Line::of(letter),
            key: letter.envelope.key(),
            group: letter.envelope.group(),
            source: letter.envelope.source(),
            event: &letter.envelope,
            data: data.and_then(|data| serde_json::from_str(data).ok()),
            raw,
        });
    }
    let bold = Style::new().bold();
    let line = Line::of(letter);
    let attempts = letter.attempts.to_string();
    for (name, value) in [
        ("id", Some(line.id)),
        ("kind", Some(line.kind)),
        ("handler", line.handler),
        ("reason", Some(line.reason)),
        ("fingerprint", Some(&line.fingerprint)),
        ("attempts", Some(&attempts)),
        ("signalled", Some(&line.signalled_at)),
        ("due", Some(&line.due_at)),
        ("died", Some(&line.died_at)),
        ("node", line.node),
        ("version", line.version),
        ("source", Some(letter.envelope.source())),
        ("key", letter.envelope.key()),
        ("group", letter.envelope.group()),
        ("error", line.error),
    ] {
        if let Some(value) = value {
            // A further line of it stands under the first, so that it is not taken for another field.
            let value = clean(value).replace('\n', &format!("\n{:12}", ""));
            out.line(format_args!("{bold}{name:<12}{bold:#}{value}"))?;
        }
    }
    match (raw, data) {
        (Some(raw), _) => out.line(format_args!("{bold}body{bold:#}\n{}", clean(raw)))?,
        (None, Some(data)) => out.line(format_args!("{bold}data{bold:#}\n{}", clean(&json::pretty(data))))?,
        (None, None) => out.line(format_args!("{bold}data{bold:#}        none, or not JSON"))?,
    }
    out.line("")
}

/// Why there is nothing, as far as can be told. Asked once nothing is held by this process.
pub(crate) async fn none_there(queues: &Queues) -> Problem {
    Problem::nothing(match held_elsewhere(queues).await {
        Some(held @ 1..) => format!("no dead letter matched; {held} are held by somebody else, for up to five minutes"),
        _ => "no dead letter matched".to_owned(),
    })
}

/// How many letters somebody else holds, where this process may ask that and holds none itself.
pub(crate) async fn held_elsewhere(queues: &Queues) -> Option<u64> {
    Some(queues.backend.inspect(dawdle::backend::Lane::Dead).await.ok()?.in_flight)
}
