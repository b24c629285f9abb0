//! The command line.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// Flags by name, each with its value; those that take none have an empty one.
#[derive(Debug, Default)]
pub(crate) struct Args(BTreeMap<String, String>);

impl Args {
    /// Reads `--name value` and, for those in `switches`, `--name`.
    pub(crate) fn read(args: impl Iterator<Item = String>, known: &[&str], switches: &[&str]) -> Result<Args> {
        let mut args = args.peekable();
        let mut found = BTreeMap::new();
        while let Some(arg) = args.next() {
            let name = arg.strip_prefix("--").with_context(|| format!("`{arg}` is no flag"))?;
            let value = if switches.contains(&name) {
                String::new()
            } else if known.contains(&name) {
                args.next().with_context(|| format!("--{name} takes a value"))?
            } else {
                bail!("there is no flag --{name}; there are {known:?} and {switches:?}");
            };
            found.insert(name.to_owned(), value);
        }
        Ok(Args(found))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The number given for a flag, if it was.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.0.get(name) else { return Ok(None) };
        let number = text.parse().ok().with_context(|| format!("--{name} is `{text}`, which is no such number"))?;
        Ok(Some(number))
    }
}
