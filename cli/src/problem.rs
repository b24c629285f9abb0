//! How a command ends when it does not end well: [`Problem`], and the exit code of each.

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};

/// Why a command does not end with 0.
#[derive(Debug)]
pub(crate) enum Problem {
    /// It failed: 1.
    Failed(String),
    /// It was asked for what cannot be: 2.
    Usage(String),
    /// It has found, and shown, that something is wrong: 3.
    Found,
    /// There is nothing of what was asked for: 4.
    Nothing(String),
    /// Nobody reads the output any more: no reason to complain.
    Unread,
}

/// What every command answers.
pub(crate) type Result<T = (), E = Problem> = std::result::Result<T, E>;

impl Problem {
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Problem::Failed(text.into())
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Problem::Usage(text.into())
    }

    pub(crate) fn nothing(text: impl Into<String>) -> Self {
        Problem::Nothing(text.into())
    }

    /// A failed write to standard output.
    pub(crate) fn of_output(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Problem::Unread,
            _ => Problem::failed(format!("the output cannot be written: {error}")),
        }
    }

    /// Says what is the matter, on standard error; the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let (code, text) = match self {
            Problem::Failed(text) => (1, text.as_str()),
            Problem::Usage(text) => (2, text.as_str()),
            Problem::Found => (3, ""),
            Problem::Nothing(text) => (4, text.as_str()),
            Problem::Unread => (0, ""),
        };
        if !text.is_empty() {
            let word = if code == 4 { "nothing" } else { "error" };
            complain(word, text);
        }
        ExitCode::from(code)
    }
}

impl From<dawdle::Error> for Problem {
    fn from(error: dawdle::Error) -> Self {
        Problem::failed(error.to_string())
    }
}

/// Says something on standard error, behind a word that tells what it is.
pub(crate) fn complain(word: &str, text: impl Display) {
    let color = if word == "error" { AnsiColor::Red } else { AnsiColor::Yellow };
    let style = Style::new().bold().fg_color(Some(color.into()));
    // A terminal that has gone away is no reason to break off what is under way.
    let _ = writeln!(anstream::stderr(), "{style}{word}:{style:#} {}", crate::out::clean(&text.to_string()));
}
