//! The one public error, matched by its kind.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// Any error, boxed: what a handler's `?` takes.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, said once for all of Dawdle.
///
/// Its text names the thing, the limit and the actual value, and how to mend it; it never holds a
/// credential or an event's payload. Match on [`kind`](Error::kind); the cause is kept as
/// [`source`](StdError::source).
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    maybe_sent: bool,
}

/// What an [`Error`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration: a bad value, an unknown variable, a missing setting.
    Config,
    /// The handlers and events linked in: duplicates, a missing state, a name that is not there.
    Registration,
    /// A queue that does not exist, or that would lose or spoil events.
    Queue,
    /// An argument that cannot be honoured, such as a due time that is no date.
    Invalid,
    /// An event that could not be encoded, or a body that could not be decoded.
    Codec,
    /// More bytes than the backend takes.
    TooLarge,
    /// The send buffer is full, and the call was not to wait.
    Overloaded,
    /// The backend's queue has reached its length limit.
    Full,
    /// No Dawdle is installed or in scope for [`dawdle::signal`](crate::signal).
    NotInstalled,
    /// This Dawdle has been shut down.
    ShutDown,
    /// The backend could not be reached, or failed in passing: worth another try.
    Unavailable,
    /// The backend asked for fewer requests: worth another try, later.
    Throttled,
    /// Credentials are missing, expired or do not allow the action.
    Credentials,
    /// The receipt is no longer valid: the lease has run out or the message is gone.
    LeaseLost,
    /// The backend refused, and would refuse again.
    Refused,
}

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), source: None, maybe_sent: false }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// The same error, saying that what was to be sent may have been sent all the same
    /// (the answer was lost).
    #[must_use]
    pub fn with_maybe_sent(mut self, maybe_sent: bool) -> Self {
        self.maybe_sent = maybe_sent;
        self
    }

    /// What the error is about.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether an event whose sending ended in this error may be in the queue all the same.
    ///
    /// `false` is certain: it was not sent.
    pub fn maybe_sent(&self) -> bool {
        self.maybe_sent
    }

    /// Whether the same call may succeed later without anybody mending anything.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Throttled)
    }

    /// Whether the same write would fail the same way for ever, whatever is mended: it is about the message.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self.kind, ErrorKind::TooLarge | ErrorKind::Refused | ErrorKind::Invalid | ErrorKind::Codec)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(f, "\n  caused by: {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
