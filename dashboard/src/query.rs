//! What a form or an address says: [`Query`].

use std::collections::BTreeMap;
use std::str::FromStr;

use dawdle::EventId;
use dawdle_workbench::{Filters, RATES, Wanted, when};

/// Names and their values; what is empty counts as not there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

/// How many letters a page looks through where nobody says how many.
pub(crate) const LOOK: u64 = 1_000;

/// How many it looks through at most.
pub(crate) const MOST_LOOKED: u64 = 10_000;

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) field: &'static str,
    pub(crate) why: String,
}

impl Query {
    pub(crate) fn read(text: &str) -> Query {
        Query::of(form_urlencoded::parse(text.as_bytes()).into_owned())
    }

    pub(crate) fn of(pairs: impl IntoIterator<Item = (String, String)>) -> Query {
        let trimmed = pairs.into_iter().map(|(name, value)| (name, value.trim().to_owned()));
        Query(trimmed.filter(|(_, value)| !value.is_empty()).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The same with other values; an empty one takes the name out.
    pub(crate) fn with(&self, changes: &[(&str, &str)]) -> Query {
        let mut query = self.clone();
        for (name, value) in changes {
            query.0.remove(*name);
            if !value.is_empty() {
                query.0.insert((*name).to_owned(), (*value).to_owned());
            }
        }
        query
    }

    /// Only what says which letters are meant.
    pub(crate) fn selection(&self) -> Query {
        const NAMES: [&str; 11] =
            ["kind", "handler", "reason", "version", "fingerprint", "text", "since", "limit", "id", "of", "mark"];
        Query(
            self.0
                .iter()
                .filter(|(name, _)| NAMES.contains(&name.as_str()))
                .map(|(a, b)| (a.clone(), b.clone()))
                .collect(),
        )
    }

    /// An address: that of a page with these values.
    pub(crate) fn to(&self, page: &str) -> String {
        if self.0.is_empty() {
            return page.to_owned();
        }
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.0).finish();
        format!("{page}?{query}")
    }

    fn number<N: FromStr>(
        &self,
        field: &'static str,
        what: &str,
        fits: impl Fn(&N) -> bool,
    ) -> Result<Option<N>, Wrong> {
        let Some(text) = self.get(field) else { return Ok(None) };
        match text.parse().ok().filter(fits) {
            Some(number) => Ok(Some(number)),
            None => Err(Wrong { field, why: format!("“{text}” is no {what}") }),
        }
    }

    /// The filters that the search form has.
    pub(crate) fn filters(&self) -> Result<Filters, Wrong> {
        let since = self.get("since").map(|text| when::ago(text).map_err(|why| Wrong { field: "since", why }));
        Ok(Filters {
            kind: self.owned("kind"),
            handler: self.owned("handler"),
            reason: self.owned("reason"),
            version: self.owned("version"),
            fingerprint: self.owned("fingerprint"),
            id_part: self.owned("text"),
            since: since.transpose()?,
            limit: self.number("limit", "number of letters: it is 1 or more", |limit| *limit >= 1)?,
        })
    }

    /// The letters that a change is about: one, or all that pass the filters.
    pub(crate) fn wanted(&self) -> Result<Wanted, Wrong> {
        if let Some(mark) = self.get("mark") {
            let mark = u64::from_str_radix(mark, 16);
            return mark
                .map(Wanted::marked)
                .map_err(|_| Wrong { field: "mark", why: "it is no mark of a letter".into() });
        }
        if let Some(id) = self.get("id") {
            let id: EventId = id.parse().map_err(|error| Wrong { field: "id", why: format!("“{id}”: {error}") })?;
            return Ok(Wanted::one(id, self.owned("of")));
        }
        let wanted = Wanted::new([], self.filters()?);
        let before = self.get("before").map(|text| when::instant(text).map_err(|why| Wrong { field: "before", why }));
        Ok(match before.transpose()? {
            Some(before) => wanted.before(before),
            None => wanted,
        })
    }

    pub(crate) fn rate(&self) -> Result<Option<f64>, Wrong> {
        self.number("rate", "rate: it is a number a second, from 0.01 to 100000", |rate| RATES.contains(rate))
    }

    pub(crate) fn concurrency(&self) -> Result<usize, Wrong> {
        let what = "concurrency: it is 1 or more";
        let given = self.number("concurrency", what, |number| *number >= 1)?;
        given.ok_or_else(|| Wrong { field: "concurrency", why: "no concurrency was given".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_is_not_asked_for() {
        let query = Query::read("kind=order.paid&handler=&reason=+&since=2h&limit=5");
        let filters = query.filters().expect("filters");
        assert_eq!((filters.kind.as_deref(), filters.handler, filters.limit), (Some("order.paid"), None, Some(5)));
        assert!(filters.since.is_some() && filters.reason.is_none());
    }

    #[test]
    fn a_wrong_value_is_said_of_its_field() {
        for (text, field) in [("since=yesterday", "since"), ("limit=0", "limit"), ("limit=many", "limit")] {
            assert_eq!(Query::read(text).filters().expect_err(text).field, field);
        }
        assert_eq!(Query::read("rate=NaN").rate().expect_err("no rate").field, "rate");
        assert_eq!(Query::read("mark=zz").wanted().expect_err("no mark").field, "mark");
        assert_eq!(Query::read("").concurrency().expect_err("none").field, "concurrency");
    }

    #[test]
    fn an_address_says_what_was_asked() {
        let query = Query::read("kind=a%26b&handler=x y").with(&[("view", "each"), ("handler", "")]);
        assert_eq!(query.to("dead"), "dead?kind=a%26b&view=each");
        assert_eq!(query.selection().to("purge"), "purge?kind=a%26b");
        assert_eq!(Query::default().to("dead"), "dead");
    }
}
