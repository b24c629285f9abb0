//! Which dead letters: [`Filters`] as they are given, [`Wanted`] as they are asked for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use dawdle::{DeadLetter, DeadLetterStream, DeadLetters, EventId, Filter, reason};
use serde_json::{Value, json};

use crate::{fingerprint, when};

/// What stands for no handler where a handler is named.
pub const NO_HANDLER: &str = "-";

/// What stands for every reason that is none of Dawdle's: a handler's own text. The metric has the same label.
pub const HANDLERS_OWN: &str = "handler";

/// Conditions on dead letters. Every one that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Of this kind.
    pub kind: Option<String>,
    /// Of this handler; [`NO_HANDLER`] for those that died of none.
    pub handler: Option<String>,
    /// That died for this reason; [`HANDLERS_OWN`] for those whose handler gave a reason of its own.
    pub reason: Option<String>,
    /// Given up by this build.
    pub version: Option<String>,
    /// Whose error has this [fingerprint](crate::fingerprint).
    pub fingerprint: Option<String>,
    /// Whose id has this in it.
    pub id_part: Option<String>,
    /// Given up at this time or later.
    pub since: Option<SystemTime>,
    /// At most so many.
    pub limit: Option<u64>,
}

impl Filters {
    /// Whether none is given, but perhaps a limit.
    pub fn are_none(&self) -> bool {
        let Filters { kind, handler, reason, version, fingerprint, id_part, since, limit: _ } = self;
        [kind, handler, reason, version, fingerprint, id_part].into_iter().all(Option::is_none) && since.is_none()
    }
}

/// The dead letters that a look or a change is about.
#[derive(Clone, Debug)]
pub struct Wanted {
    ids: BTreeSet<EventId>,
    mark: Option<u64>,
    filters: Filters,
    /// Given up before then.
    before: Option<SystemTime>,
}

impl Wanted {
    /// Those of these events, or of any where none is named, that pass the filters.
    pub fn new(ids: impl IntoIterator<Item = EventId>, filters: Filters) -> Wanted {
        Wanted { ids: ids.into_iter().collect(), mark: None, filters, before: None }
    }

    /// The letter of an event: that of this handler, where one is named, or of [`NO_HANDLER`].
    pub fn one(id: EventId, handler: Option<String>) -> Wanted {
        let filters = Filters { handler, ..Filters::default() };
        Wanted { ids: BTreeSet::from([id]), mark: None, filters, before: None }
    }

    /// The one letter that has this [mark](crate::mark): for what is no event, which may have another id at each
    /// look.
    pub fn marked(mark: u64) -> Wanted {
        Wanted { ids: BTreeSet::new(), mark: Some(mark), filters: Filters::default(), before: None }
    }

    /// The same, but without what died at `time` or later.
    pub fn before(self, time: SystemTime) -> Wanted {
        Wanted { before: Some(time), ..self }
    }

    /// The same, but at most so many.
    pub fn at_most(mut self, limit: u64) -> Wanted {
        self.filters.limit = Some(self.limit().min(limit));
        self
    }

    /// Whether it leaves none out, but perhaps by a limit.
    pub fn is_all(&self) -> bool {
        self.ids.is_empty() && self.mark.is_none() && self.filters.are_none()
    }

    /// How many at most.
    pub fn limit(&self) -> u64 {
        self.filters.limit.unwrap_or(u64::MAX)
    }

    /// The events of which one letter each is wanted, where that is so: once they are found there is no more to
    /// look for. An event alone may have a letter for each of its handlers.
    pub(crate) fn one_each(&self) -> Option<BTreeSet<EventId>> {
        (!self.ids.is_empty() && self.filters.handler.is_some()).then(|| self.ids.clone())
    }

    /// Goes through them. What is not wanted is given back. Once it is stopped it shows the next letter, whichever that
    /// is: it may be long until the next that is wanted.
    pub(crate) fn scan(&self, letters: &DeadLetters, stopped: &Arc<AtomicBool>) -> DeadLetterStream {
        let (wanted, stopped) = (self.clone(), Arc::clone(stopped));
        letters.scan_if(Filter::default(), move |letter| stopped.load(Ordering::Relaxed) || wanted.takes(letter))
    }

    fn takes(&self, letter: &DeadLetter) -> bool {
        let Wanted { ids, mark, filters, before } = self;
        let Filters { kind, handler, reason, version, fingerprint, id_part, since, limit: _ } = filters;
        let is = |wanted: &Option<String>, actual: Option<&str>| wanted.as_deref().is_none_or(|it| Some(it) == actual);
        (ids.is_empty() || ids.contains(&letter.id))
            && mark.is_none_or(|mark| mark == crate::mark(letter))
            && is(kind, Some(&letter.kind))
            && is(version, letter.version.as_deref())
            && since.is_none_or(|since| letter.died_at >= since)
            && before.is_none_or(|before| letter.died_at < before)
            && id_part.as_deref().is_none_or(|part| letter.id.as_str().contains(part))
            && match handler.as_deref() {
                Some(NO_HANDLER) => letter.handler.is_none(),
                _ => is(handler, letter.handler.as_deref()),
            }
            && match reason.as_deref() {
                Some(HANDLERS_OWN) => !reason::ALL.contains(&&*letter.reason),
                _ => is(reason, Some(&letter.reason)),
            }
            && fingerprint.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(&fingerprint::of_letter(letter)))
    }

    /// What the audit log says of it.
    pub fn described(&self) -> Value {
        let Filters { kind, handler, reason, version, fingerprint, id_part, since, limit } = &self.filters;
        let mut which = serde_json::Map::new();
        for (name, value) in [
            ("kind", kind),
            ("handler", handler),
            ("reason", reason),
            ("version", version),
            ("fingerprint", fingerprint),
            ("id_part", id_part),
            ("since", &since.map(when::exact)),
        ] {
            if let Some(value) = value {
                which.insert(name.to_owned(), json!(value));
            }
        }
        if let Some(limit) = limit {
            which.insert("limit".to_owned(), json!(limit));
        }
        if let Some(mark) = self.mark {
            which.insert("letter".to_owned(), json!(format!("{mark:016x}")));
        }
        if !self.ids.is_empty() {
            which.insert("ids".to_owned(), json!(self.ids.iter().map(EventId::as_str).collect::<Vec<_>>()));
        }
        if self.is_all() {
            which.insert("all".to_owned(), json!(true));
        }
        Value::Object(which)
    }
}
