//! Who changed what: [`Audit`], a file of JSON lines.

use std::error::Error;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use dawdle::EventId;
use serde_json::{Value, json};

use crate::when;

/// The log of changes. Several programs may write to one file: each line is one write, at its end.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Log>);

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
}

/// A change that is noted as begun. One without an end was broken off.
#[derive(Debug)]
#[must_use = "a change that was begun has an end"]
pub struct Change {
    audit: Audit,
    id: EventId,
    who: String,
    what: &'static str,
    which: Value,
}

/// The log cannot be written. What it was to note is not done.
#[derive(Debug)]
pub struct Unnoted {
    path: PathBuf,
    cause: std::io::Error,
}

impl fmt::Display for Unnoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unnoted { path, cause } = self;
        write!(f, "the audit log {} cannot be written: {cause}; nothing is changed that is not noted", path.display())
    }
}

impl Error for Unnoted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.cause)
    }
}

impl Audit {
    /// Where it is, unless something else is named.
    pub const DEFAULT: &str = ".dawdle/audit.jsonl";

    /// Opens the log at the end of a file, which is made where it is missing, for its owner only.
    ///
    /// # Errors
    /// [`Unnoted`], where it cannot be written.
    pub fn open(path: &Path) -> Result<Audit, Unnoted> {
        let file = open(path).map_err(|cause| Unnoted { path: path.to_owned(), cause })?;
        Ok(Audit(Arc::new(Log { path: path.to_owned(), file })))
    }

    /// Notes that somebody begins a change: nothing is changed where that cannot be noted.
    ///
    /// # Errors
    /// [`Unnoted`].
    pub fn begin(&self, who: &str, what: &'static str, which: Value) -> Result<Change, Unnoted> {
        let change = Change { audit: self.clone(), id: EventId::new(), who: who.to_owned(), what, which };
        change.write("begun", None)?;
        Ok(change)
    }
}

impl Change {
    /// Notes how it ended, and of how many events.
    ///
    /// # Errors
    /// [`Unnoted`]; the change was made.
    pub fn end(self, outcome: &str, count: u64) -> Result<(), Unnoted> {
        self.write(outcome, Some(count))
    }

    /// Notes how it ended, and hands that on.
    ///
    /// # Errors
    /// The change's own, and [`Unnoted`].
    pub fn close<T, E: From<Unnoted>>(self, result: Result<T, E>, count: impl FnOnce(&T) -> u64) -> Result<T, E> {
        match &result {
            Ok(value) => self.end("done", count(value))?,
            Err(_) => self.end("failed", 0)?,
        }
        result
    }

    fn write(&self, outcome: &str, count: Option<u64>) -> Result<(), Unnoted> {
        let line = json!({
            "time": when::exact(SystemTime::now()),
            "who": self.who,
            "change": self.id.as_str(),
            "what": self.what,
            "which": self.which,
            "count": count,
            "outcome": outcome,
        });
        let line = format!("{line}\n");
        let Log { path, file } = &*self.audit.0;
        let mut file = file;
        match file.write(line.as_bytes()) {
            Ok(written) if written == line.len() => Ok(()),
            Ok(_) => Err(Unnoted { path: path.clone(), cause: std::io::ErrorKind::StorageFull.into() }),
            Err(cause) => Err(Unnoted { path: path.clone(), cause }),
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        std::fs::create_dir_all(folder)?;
        if folder.file_name().is_some_and(|name| name == ".dawdle") {
            std::fs::write(folder.join(".gitignore"), "*\n")?;
        }
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
