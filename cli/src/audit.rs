//! Who changed what: [`Audit`], a file of JSON lines.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dawdle::{Config, EventId};
use serde_json::{Value, json};

use crate::problem::{Problem, Result};
use crate::when;

/// The log of changes. Several programs may write to one file: each line is one write, at its end.
pub(crate) struct Audit {
    path: PathBuf,
    file: File,
}

/// A change that is noted as begun. One without an end was broken off.
#[must_use = "a change that was begun has an end"]
pub(crate) struct Change<'a> {
    audit: &'a Audit,
    id: EventId,
    what: &'static str,
    which: Value,
}

impl Audit {
    /// Opens the log for a change: the one that the command line names, else the environment's.
    pub(crate) fn open(given: Option<&Path>, config: &Config) -> Result<Audit> {
        let named = given.map(Path::to_owned).or_else(|| config.audit_log.clone());
        let path = named.unwrap_or_else(|| ".dawdle/audit.jsonl".into());
        let file = open(&path).map_err(|error| refused(&path, &error))?;
        Ok(Audit { path, file })
    }

    /// Notes that a change begins: nothing is changed where that cannot be noted.
    pub(crate) fn begin(&self, what: &'static str, which: Value) -> Result<Change<'_>> {
        let change = Change { audit: self, id: EventId::new(), what, which };
        change.write("begun", None)?;
        Ok(change)
    }
}

impl Change<'_> {
    /// Notes how it ended, and of how many events.
    pub(crate) fn end(self, outcome: &str, count: u64) -> Result {
        self.write(outcome, Some(count))
    }

    /// Notes how it ended, and hands that on.
    pub(crate) fn close<T>(self, result: Result<T>, count: impl FnOnce(&T) -> u64) -> Result<T> {
        match &result {
            Ok(value) => self.end("done", count(value))?,
            Err(_) => self.end("failed", 0)?,
        }
        result
    }

    fn write(&self, outcome: &str, count: Option<u64>) -> Result {
        let line = json!({
            "time": when::exact(SystemTime::now()),
            "who": who(),
            "change": self.id.as_str(),
            "what": self.what,
            "which": self.which,
            "count": count,
            "outcome": outcome,
        });
        let line = format!("{line}\n");
        let Audit { path, file } = self.audit;
        let mut file = file;
        match file.write(line.as_bytes()) {
            Ok(written) if written == line.len() => Ok(()),
            Ok(_) => Err(refused(path, &std::io::ErrorKind::StorageFull.into())),
            Err(error) => Err(refused(path, &error)),
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

fn refused(path: &Path, error: &std::io::Error) -> Problem {
    Problem::failed(format!(
        "the audit log {} cannot be written: {error}; nothing is changed that is not noted: make it writable, or name \
         another file with --audit-log or DAWDLE_AUDIT_LOG",
        path.display()
    ))
}

/// The user and the machine.
fn who() -> String {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = variable("USER").or_else(|| variable("LOGNAME")).unwrap_or_else(|| "unknown".to_owned());
    let host = variable("HOSTNAME").or_else(|| {
        let text = std::fs::read_to_string("/etc/hostname").ok()?;
        Some(text.trim().to_owned())
    });
    format!("{user}@{}", host.unwrap_or_else(|| "localhost".to_owned()))
}
