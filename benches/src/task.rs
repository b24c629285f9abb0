//! What a client is told, and what it answers: the agreement that every contender keeps, those in
//! `peers/` too.
//!
//! A client gets its [`Task`] as JSON, connects, and says `ready` in a line on its standard
//! output. A line on its standard input begins the work. One that produces answers when every
//! event is confirmed; one that consumes goes on until the next line comes. Its answer is a
//! [`Measured`] as JSON in a line; then it ends. One that waits for a line ends, too, when its
//! standard input does.

use serde::{Deserialize, Serialize};

/// What a client does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) phase: Phase,
    /// Where the queue is: the URL of an SQS endpoint, or a file.
    pub(crate) place: String,
    pub(crate) events: u64,
    /// How much is under way at once; each contender says of what.
    pub(crate) at_once: usize,
    /// An event as the text of a message.
    pub(crate) body: String,
}

/// Which half of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    Produce,
    Consume,
}

impl Phase {
    pub(crate) const BOTH: [Phase; 2] = [Phase::Produce, Phase::Consume];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Produce => "produce",
            Phase::Consume => "consume",
        }
    }
}

/// What the work took, from `ready` on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) wall_s: f64,
    /// User and system time of the whole process.
    pub(crate) cpu_s: f64,
    /// The most memory that was ever resident.
    pub(crate) peak_kib: u64,
}
