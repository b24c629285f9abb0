//! `dawdle dead list` and `dawdle dead show`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use anstyle::Style;
use dawdle::{Dawdle, DeadLetter};
use serde::Serialize;
use serde_json::value::RawValue;

use super::select::{Filters, Wanted, fingerprint_of};
use super::sweep::for_each;
use crate::out::{Out, clean, first_line};
use crate::problem::{Problem, Result};
use crate::queue::Queues;
use crate::{json, when};

/// How much of an error a table shows.
const ERROR_WIDTH: usize = 60;

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
    /// The letter of this handler only
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
}

/// Letters that died of the same.
#[derive(Serialize)]
struct Group {
    kind: String,
    handler: Option<String>,
    fingerprint: String,
    count: u64,
    reasons: BTreeSet<String>,
    /// That of the one that died last.
    error: Option<String>,
    first: String,
    last: String,
    versions: BTreeSet<String>,
    #[serde(skip)]
    span: (SystemTime, SystemTime),
}

#[derive(Serialize)]
struct Groups {
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
            fingerprint: fingerprint_of(letter),
            attempts: letter.attempts,
            signalled_at: when::exact(letter.signalled_at),
            due_at: when::exact(letter.due_at),
            died_at: when::exact(letter.died_at),
            node: letter.node.as_deref(),
            version: letter.version.as_deref(),
        }
    }
}

pub(crate) async fn list(args: ListArgs, out: Out) -> Result {
    let queues = Queues::open().await?;
    let dawdle = queues.dawdle().await?;
    let wanted = Wanted::new(&[], args.filters)?;
    let listed = match args.each {
        true => list_each(&dawdle, &wanted, out).await,
        false => list_groups(&dawdle, &wanted, out).await,
    };
    dawdle.shutdown().await;
    match listed? {
        0 => Err(none_there(&queues).await),
        _ => Ok(()),
    }
}

async fn list_each(dawdle: &Dawdle, wanted: &Wanted, out: Out) -> Result<u64> {
    let mut rows = Vec::new();
    let count = for_each(&dawdle.dead_letters(), wanted, |letter| {
        if out.is_json() {
            return out.value(&Line::of(&letter));
        }
        rows.push(vec![
            letter.id.to_string(),
            letter.kind.clone(),
            letter.handler.clone().unwrap_or_else(|| "-".to_owned()),
            letter.reason.clone(),
            fingerprint_of(&letter),
            when::shown(letter.died_at),
            first_line(letter.error.as_deref().unwrap_or("-"), ERROR_WIDTH),
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
    let mut groups: BTreeMap<(String, Option<String>, String), Group> = BTreeMap::new();
    let letters = for_each(&dawdle.dead_letters(), wanted, |letter| {
        let key = (letter.kind.clone(), letter.handler.clone(), fingerprint_of(&letter));
        groups.entry(key).and_modify(|group| group.add(&letter)).or_insert_with_key(|(kind, handler, fingerprint)| {
            let mut group = Group {
                kind: kind.clone(),
                handler: handler.clone(),
                fingerprint: fingerprint.clone(),
                count: 0,
                reasons: BTreeSet::new(),
                error: None,
                first: String::new(),
                last: String::new(),
                versions: BTreeSet::new(),
                span: (letter.died_at, letter.died_at),
            };
            group.add(&letter);
            group
        });
        Ok(())
    })
    .await?;
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    if out.is_json() {
        out.value(&Groups { letters, groups })?;
        return Ok(letters);
    }
    let row = |group: Group| {
        let joined = |words: BTreeSet<String>| words.into_iter().collect::<Vec<_>>().join(", ");
        let said = group.error.unwrap_or_else(|| joined(group.reasons));
        vec![
            group.count.to_string(),
            group.kind,
            group.handler.unwrap_or_else(|| "-".to_owned()),
            group.fingerprint,
            when::shown(group.span.0),
            when::shown(group.span.1),
            joined(group.versions),
            first_line(&said, ERROR_WIDTH),
        ]
    };
    if letters > 0 {
        let headings = [">COUNT", "KIND", "HANDLER", "FINGERPRINT", "FIRST", "LAST", "VERSIONS", "ERROR"];
        out.table(&headings, groups.into_iter().map(row).collect())?;
    }
    Ok(letters)
}

impl Group {
    fn add(&mut self, letter: &DeadLetter) {
        self.count += 1;
        self.reasons.insert(letter.reason.clone());
        self.versions.extend(letter.version.clone());
        if self.count == 1 || letter.died_at >= self.span.1 {
            self.error.clone_from(&letter.error);
        }
        self.span = (self.span.0.min(letter.died_at), self.span.1.max(letter.died_at));
        (self.first, self.last) = (when::exact(self.span.0), when::exact(self.span.1));
    }
}

pub(crate) async fn show(args: ShowArgs, out: Out) -> Result {
    let queues = Queues::open().await?;
    let dawdle = queues.dawdle().await?;
    let shown = match Wanted::new(&[args.id], Filters::default()) {
        Ok(wanted) => {
            for_each(&dawdle.dead_letters(), &wanted, |letter| match &args.handler {
                Some(handler) if letter.handler.as_ref() != Some(handler) => Ok(()),
                _ => show_one(&letter, out),
            })
            .await
        }
        Err(problem) => Err(problem),
    };
    dawdle.shutdown().await;
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
            out.line(format_args!("{bold}{name:<12}{bold:#}{}", clean(value)))?;
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
