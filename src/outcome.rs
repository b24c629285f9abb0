//! How a handler steers what happens next: [`Outcome`] and [`Failure`].

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::error::BoxError;

/// What a handler returns: done, or a [`Failure`] that says what to do instead.
pub type Outcome = Result<(), Failure>;

/// Why a handler did not finish, and what is to become of its event.
///
/// `?` on any standard error, `anyhow::Error`, `&str` or `String` makes a
/// [`retry`](Failure::retry). The failure concerns one handler only: the event's other handlers
/// go their own way.
///
/// Its text, with its causes, is logged (`warn`; `info` when discarded) and kept in the dead
/// letter. Dawdle itself puts neither payloads nor credentials there: leave them out of it, too.
///
/// ```
/// use dawdle::{Failure, Outcome};
/// use std::time::Duration;
///
/// fn charge(open: bool, busy: bool) -> Outcome {
///     if !open { return Err(Failure::dead_letter("account closed")); }
///     if busy { return Err(Failure::snooze(Duration::from_secs(60))); }
///     "12".parse::<u32>()?; // any error: retry with backoff
///     Ok(())
/// }
/// assert!(charge(true, false).is_ok());
/// ```
pub struct Failure {
    directive: Directive,
    error: BoxError,
}

/// What a [`Failure`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Directive {
    /// Spend an attempt and try again, after the handler's backoff or after this time.
    Retry { after: Option<Duration> },
    /// Try again after this time, spending no attempt.
    Snooze(Duration),
    /// Write it to the dead letters.
    DeadLetter,
    /// Drop it for this handler.
    Discard,
}

impl Failure {
    /// Try again with the handler's backoff; spends an attempt. What `?` does.
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Failure::from(error)
    }

    /// Try again after `delay`; spends an attempt.
    pub fn retry_after(delay: Duration, error: impl Into<BoxError>) -> Self {
        Failure { directive: Directive::Retry { after: Some(delay) }, error: error.into() }
    }

    /// Try again after `delay`; spends no attempt, and is no failure.
    pub fn snooze(delay: Duration) -> Self {
        Failure { directive: Directive::Snooze(delay), error: "snoozed".into() }
    }

    /// Give up now: the event goes to the dead letters for this handler, with `reason`.
    pub fn dead_letter(reason: impl Into<BoxError>) -> Self {
        Failure { directive: Directive::DeadLetter, error: reason.into() }
    }

    /// Drop the event for this handler, on purpose. `reason` is logged; nothing is kept.
    pub fn discard(reason: impl Into<BoxError>) -> Self {
        Failure { directive: Directive::Discard, error: reason.into() }
    }

    /// The failure as a standard error, for handlers that return an error of their own.
    ///
    /// Turned back into a [`Failure`], also from under context that `anyhow` or another error
    /// put around it, it asks for the same thing.
    ///
    /// ```
    /// use dawdle::Failure;
    /// async fn handler() -> anyhow::Result<()> {
    ///     Err(Failure::dead_letter("account closed").into_error())?
    /// }
    /// ```
    pub fn into_error(self) -> FailureError {
        FailureError(Marker { directive: self.directive, error: self.error })
    }

    pub(crate) fn directive(&self) -> Directive {
        self.directive
    }

    /// The error with its causes, as one line of text.
    pub(crate) fn message(&self) -> String {
        let mut text = self.error.to_string();
        let mut cause = self.error.source();
        while let Some(error) = cause {
            let next = error.to_string();
            if !text.ends_with(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            cause = error.source();
        }
        text
    }
}

/// A [`Failure`] that travels as a standard error; made by [`Failure::into_error`].
#[derive(Debug)]
pub struct FailureError(Marker);

/// What is found again by walking the causes. The error around it may itself be hidden from
/// downcasting, as `anyhow`'s is; its cause is not.
#[derive(Debug)]
struct Marker {
    directive: Directive,
    error: BoxError,
}

impl fmt::Display for FailureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for FailureError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl StdError for Marker {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}

/// Not an `Error` itself, so that this one conversion covers every error and text.
impl<E: Into<BoxError>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let mut link: Option<&(dyn StdError + 'static)> = Some(&*error);
        while let Some(cause) = link {
            if let Some(marker) = cause.downcast_ref::<Marker>() {
                return Failure { directive: marker.directive, error };
            }
            link = cause.source();
        }
        Failure { directive: Directive::Retry { after: None }, error }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.directive, self.message())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

/// What a handler may return: `Result<(), E>` for any `E` that a [`Failure`] can be made of.
#[diagnostic::on_unimplemented(
    message = "a handler returns `Outcome` or `Result<(), E>`, not `{Self}`",
    label = "this is not a handler's outcome",
    note = "write `-> dawdle::Outcome` and end with `Ok(())`; `E` may be any error, `anyhow::Error`, `&str` or `String`"
)]
pub trait IntoOutcome {
    /// The same as an [`Outcome`].
    fn into_outcome(self) -> Outcome;
}

impl<E: Into<Failure>> IntoOutcome for Result<(), E> {
    fn into_outcome(self) -> Outcome {
        self.map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn question_mark_on_any_error_or_text_is_a_retry() {
        fn text() -> Outcome {
            Err("no")?
        }
        fn owned() -> Outcome {
            Err(String::from("no"))?
        }
        fn std_error() -> Outcome {
            "x".parse::<u8>()?;
            Ok(())
        }
        fn any() -> Outcome {
            Err(anyhow::anyhow!("no"))?
        }
        for outcome in [text(), owned(), std_error(), any()] {
            assert_eq!(outcome.unwrap_err().directive(), Directive::Retry { after: None });
        }
    }

    #[test]
    fn a_failure_survives_a_handlers_own_error_and_its_context() {
        fn inner() -> anyhow::Result<()> {
            Err(Failure::snooze(Duration::from_secs(5)).into_error())?
        }
        let outcome = inner().context("while charging").into_outcome();
        assert_eq!(outcome.unwrap_err().directive(), Directive::Snooze(Duration::from_secs(5)));
        let outcome = inner().into_outcome();
        assert_eq!(outcome.unwrap_err().directive(), Directive::Snooze(Duration::from_secs(5)));
    }

    #[test]
    fn the_message_names_every_cause_once() {
        let error = anyhow::anyhow!("connection refused").context("charging account 7");
        assert_eq!(Failure::retry(error).message(), "charging account 7: connection refused");
    }
}
