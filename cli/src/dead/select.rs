//! Which dead letters: [`Filters`] as they are given, [`Wanted`] as they are asked.

use std::collections::BTreeSet;
use std::time::SystemTime;

use dawdle::{DeadLetter, EventId, Filter};
use serde_json::{Value, json};

use crate::problem::{Problem, Result};
use crate::{fingerprint, when};

#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Filters {
    /// Of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Of this handler
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// That died for this reason, such as `attempts`
    #[arg(long)]
    reason: Option<String>,
    /// Given up by this build
    #[arg(long, value_name = "BUILD")]
    version: Option<String>,
    /// Whose error has this fingerprint, as `dead list` shows it
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
    /// Given up since then: RFC 3339, or a span ago such as `2h`
    #[arg(long, value_name = "TIME", value_parser = when::ago)]
    since: Option<SystemTime>,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl Filters {
    /// Whether none is given, but perhaps a limit.
    pub(crate) fn are_none(&self) -> bool {
        let Filters { kind, handler, reason, version, fingerprint, since, limit: _ } = self;
        [kind, handler, reason, version, fingerprint].into_iter().all(Option::is_none) && since.is_none()
    }
}

/// The dead letters that a command is about.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    ids: BTreeSet<EventId>,
    filters: Filters,
    /// Given up before then.
    before: Option<SystemTime>,
}

impl Wanted {
    pub(crate) fn new(ids: &[String], filters: Filters) -> Result<Wanted> {
        let ids = ids.iter().map(|id| id.parse().map_err(|error| Problem::usage(format!("`{id}`: {error}"))));
        Ok(Wanted { ids: ids.collect::<Result<_>>()?, filters, before: None })
    }

    pub(crate) fn one(id: EventId, handler: Option<String>) -> Wanted {
        let filters = Filters { handler, ..Filters::default() };
        Wanted { ids: BTreeSet::from([id]), filters, before: None }
    }

    /// The same, but for what died at `time` or later.
    pub(crate) fn before(self, time: SystemTime) -> Wanted {
        Wanted { before: Some(time), ..self }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.filters.limit.unwrap_or(u64::MAX)
    }

    /// What the library filters by: what it does not show is visible to others again.
    pub(crate) fn filter(&self) -> Filter {
        let Filters { kind, handler, reason, version, fingerprint: _, since, limit: _ } = self.filters.clone();
        let mut filter = Filter::default();
        (filter.kind, filter.handler, filter.reason, filter.version, filter.since) =
            (kind, handler, reason, version, since);
        filter
    }

    /// Whether the rest holds, too.
    pub(crate) fn takes(&self, letter: &DeadLetter) -> bool {
        (self.ids.is_empty() || self.ids.contains(&letter.id))
            && self
                .filters
                .fingerprint
                .as_ref()
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(&fingerprint_of(letter)))
            && self.before.is_none_or(|before| letter.died_at < before)
    }

    /// What the audit log says of it.
    pub(crate) fn described(&self) -> Value {
        let Filters { kind, handler, reason, version, fingerprint, since, limit } = &self.filters;
        let mut which = serde_json::Map::new();
        for (name, value) in [
            ("kind", kind),
            ("handler", handler),
            ("reason", reason),
            ("version", version),
            ("fingerprint", fingerprint),
            ("since", &since.map(when::exact)),
        ] {
            if let Some(value) = value {
                which.insert(name.to_owned(), json!(value));
            }
        }
        if let Some(limit) = limit {
            which.insert("limit".to_owned(), json!(limit));
        }
        if !self.ids.is_empty() {
            which.insert("ids".to_owned(), json!(self.ids.iter().map(EventId::as_str).collect::<Vec<_>>()));
        }
        if self.ids.is_empty() && self.filters.are_none() {
            which.insert("all".to_owned(), json!(true));
        }
        Value::Object(which)
    }
}

/// The fingerprint of what a letter died of: of its error, or of its reason where it has none.
pub(crate) fn fingerprint_of(letter: &DeadLetter) -> String {
    fingerprint::of(letter.error.as_deref().unwrap_or(&letter.reason))
}
