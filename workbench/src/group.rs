//! Letters that died of the same: [`Groups`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use dawdle::DeadLetter;
use serde::{Serialize, Serializer};

use crate::{fingerprint, when};

/// Letters of one kind and handler that died of the same.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// Their kind.
    pub kind: String,
    /// The handler that they died of.
    pub handler: Option<String>,
    /// What makes their errors one.
    pub fingerprint: String,
    /// How many there are.
    pub count: u64,
    /// Their reasons.
    pub reasons: BTreeSet<String>,
    /// The error of the one that died last.
    pub error: Option<String>,
    /// When the first of them died.
    #[serde(serialize_with = "exact")]
    pub first: SystemTime,
    /// When the last of them died.
    #[serde(serialize_with = "exact")]
    pub last: SystemTime,
    /// The builds that gave them up.
    pub versions: BTreeSet<String>,
}

/// Letters, grouped.
#[derive(Clone, Debug, Default)]
pub struct Groups(BTreeMap<(String, Option<String>, String), Group>);

fn exact<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&when::exact(*time))
}

impl Groups {
    /// Takes in a letter.
    pub fn add(&mut self, letter: &DeadLetter) {
        let key = (letter.kind.clone(), letter.handler.clone(), fingerprint::of_letter(letter));
        let group = self.0.entry(key).or_insert_with_key(|(kind, handler, fingerprint)| Group {
            kind: kind.clone(),
            handler: handler.clone(),
            fingerprint: fingerprint.clone(),
            count: 0,
            reasons: BTreeSet::new(),
            error: None,
            first: letter.died_at,
            last: letter.died_at,
            versions: BTreeSet::new(),
        });
        group.add(letter);
    }

    /// The groups, the largest first.
    pub fn largest_first(self) -> Vec<Group> {
        let mut groups: Vec<Group> = self.0.into_values().collect();
        groups.sort_by_key(|group| Reverse(group.count));
        groups
    }
}

impl Group {
    fn add(&mut self, letter: &DeadLetter) {
        self.count += 1;
        self.reasons.insert(letter.reason.clone());
        self.versions.extend(letter.version.clone());
        if self.count == 1 || letter.died_at >= self.last {
            self.error.clone_from(&letter.error);
        }
        (self.first, self.last) = (self.first.min(letter.died_at), self.last.max(letter.died_at));
    }
}
