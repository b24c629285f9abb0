//! The log of changes, as this program keeps it: [`Audit`].

use std::path::Path;

use dawdle::Config;
use dawdle_workbench::{Change, Unnoted};
use serde_json::Value;

use crate::problem::{Problem, Result};

/// The log of changes.
pub(crate) struct Audit(dawdle_workbench::Audit);

impl Audit {
    /// Opens the log for a change.
    pub(crate) fn open(config: &Config) -> Result<Audit> {
        Ok(Audit(dawdle_workbench::Audit::open(Audit::path(config))?))
    }

    /// Where it is.
    pub(crate) fn path(config: &Config) -> &Path {
        config.audit_log.as_deref().unwrap_or(dawdle_workbench::Audit::DEFAULT.as_ref())
    }

    /// Notes that a change begins: nothing is changed where that cannot be noted.
    pub(crate) fn begin(&self, what: &'static str, which: Value) -> Result<Change> {
        Ok(self.0.begin(&who(), what, which)?)
    }
}

impl From<Unnoted> for Problem {
    fn from(error: Unnoted) -> Self {
        Problem::failed(format!("{error}: make it writable, or name another file with --audit-log or DAWDLE_AUDIT_LOG"))
    }
}

/// The user and the machine.
pub(crate) fn who() -> String {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = variable("USER").or_else(|| variable("LOGNAME")).unwrap_or_else(|| "unknown".to_owned());
    let host = variable("HOSTNAME").or_else(|| {
        let text = std::fs::read_to_string("/etc/hostname").ok()?;
        Some(text.trim().to_owned())
    });
    format!("{user}@{}", host.unwrap_or_else(|| "localhost".to_owned()))
}
