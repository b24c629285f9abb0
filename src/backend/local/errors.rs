//! What SQLite says, in Dawdle's words.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::error::{Error, ErrorKind};

/// What a file is, in errors.
#[derive(Debug)]
pub(crate) struct Called {
    /// With its article.
    pub(crate) name: &'static str,
    /// Where another file can be named.
    pub(crate) at: &'static str,
}

/// The local queue.
pub(crate) const QUEUE: Called = Called { name: "the local queue", at: "with DAWDLE_LOCAL_PATH" };

/// The error of `doing` something to the local queue at `path`.
pub(super) fn failed(path: &Path, doing: &str, error: rusqlite::Error) -> Error {
    failed_in(&QUEUE, path, doing, error)
}

/// The error of `doing` something to the file at `path`.
pub(crate) fn failed_in(called: &Called, path: &Path, doing: &str, error: rusqlite::Error) -> Error {
    let Called { name, at } = called;
    let path = path.display();
    let code = error.sqlite_error_code();
    let another;
    let (kind, mend) = match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            ErrorKind::Unavailable,
            "another program has held its lock for 5 s: end the open transaction, perhaps of a sqlite3 shell",
        ),
        Some(ErrorCode::DiskFull) => (ErrorKind::Unavailable, "no room is left for it: free some disk space"),
        Some(ErrorCode::SystemIoFailure) => (ErrorKind::Unavailable, "the disk failed: see the system's log"),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => (
            ErrorKind::Unavailable,
            "this process may not write it, or it was removed: check the permissions of the file and its folder",
        ),
        Some(ErrorCode::NotADatabase) => {
            another = format!("it is no SQLite database: name another file {at}, or move this one away");
            (ErrorKind::Queue, &*another)
        }
        Some(ErrorCode::DatabaseCorrupt) => (
            ErrorKind::Queue,
            "it is damaged: stop every process that uses it, then save what `sqlite3 FILE .recover` gives",
        ),
        _ => (ErrorKind::Unavailable, "see the cause"),
    };
    Error::new(kind, format!("{doing} {name} {path} failed: {mend} ({error})")).with_source(error)
}

/// The answer to a caller whose command ended without one.
pub(super) fn lost(path: &Path) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "the answer of the local queue {} was lost: its writer failed at this command; see the log",
            path.display()
        ),
    )
}

/// The answer to a receipt that names no current lease.
pub(super) fn lease_lost() -> Error {
    Error::new(
        ErrorKind::LeaseLost,
        "the lease of this delivery is over: the message was acked, released or received again since",
    )
}
