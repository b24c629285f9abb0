//! Where the settings of a command come from: [`Settings`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use dawdle::Config;
use serde::Deserialize as _;
use serde_json::{Map, Value};

use crate::problem::{Problem, Result};

/// For how long a command tries to reach the queues, where `DAWDLE_START_TIMEOUT` does not say.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the command line says of the settings. The rest is the environment's.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Settings {
    /// Settings from a TOML or JSON file, or from a table of one; DAWDLE_* variables go before them
    #[arg(long, global = true, value_name = "FILE[#TABLE]")]
    config: Option<String>,

    /// Where changes are noted, before DAWDLE_AUDIT_LOG [default: .dawdle/audit.jsonl]
    #[arg(long, global = true, value_name = "FILE")]
    audit_log: Option<PathBuf>,
}

impl Settings {
    /// All settings, each from where it is said first: the command line, the environment, the file.
    pub(crate) fn config(&self) -> Result<Config> {
        let file = self.config.as_deref().map(from_file).transpose()?;
        let mut config = file.unwrap_or_default().with_environment()?;
        config.start_timeout.get_or_insert(PATIENCE);
        if let Some(log) = &self.audit_log {
            config.audit_log = Some(log.clone());
        }
        Ok(config)
    }
}

/// Reads `FILE`, or the table of it that stands behind `#`, its parts parted by dots.
fn from_file(given: &str) -> Result<Config> {
    let (file, table) = given.rsplit_once('#').map_or((given, None), |(file, table)| (file, Some(table)));
    let path = Path::new(file);
    let parse = match path.extension().and_then(|ending| ending.to_str()) {
        Some("toml") => toml_value,
        Some("json") => json_value,
        _ => {
            return Err(Problem::usage(format!(
                "{file} is no configuration file: its name ends in .toml or .json, which says how it is read"
            )));
        }
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        Problem::failed(format!(
            "the configuration file {file} cannot be read: {error}; is the path after --config right?"
        ))
    })?;
    let whole = parse(&text)
        .map_err(|error| Problem::usage(format!("settings are to be read from {file}, {error}: mend it there")))?;
    let mut settings = &whole;
    for part in table.into_iter().flat_map(|table| table.split('.')) {
        settings = settings.get(part).ok_or_else(|| {
            let there = settings.as_object().map(tables).unwrap_or_default();
            Problem::usage(format!("{file} has no table `{part}`; there is {there}: name it as --config {file}#TABLE"))
        })?;
    }
    let Value::Object(settings) = settings else {
        return Err(Problem::usage(format!("{given} is no table: settings are keys with values, as concurrency = 4")));
    };
    read(file, settings)
}

/// The settings of a table. An error names the key, for which each is read alone first.
fn read(file: &str, settings: &Map<String, Value>) -> Result<Config> {
    for (key, value) in settings {
        let alone = Map::from_iter([(key.clone(), value.clone())]);
        if let Err(error) = Config::deserialize(Value::Object(alone)) {
            let mend = match value {
                Value::Object(_) => format!("; if it is the table of Dawdle's settings, say --config '{file}#{key}'"),
                _ => String::new(),
            };
            return Err(Problem::usage(format!("{file}, key `{key}`: {error}{mend}")));
        }
    }
    Config::deserialize(Value::Object(settings.clone())).map_err(|error| Problem::usage(format!("{file}: {error}")))
}

/// The names of the tables in a table.
fn tables(table: &Map<String, Value>) -> String {
    let names: Vec<String> =
        table.iter().filter(|(_, value)| value.is_object()).map(|(name, _)| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn json_value(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("which is no JSON: {error}"))
}

/// The parser's own error has the line in it, which may hold a password: this one has its number.
fn toml_value(text: &str) -> Result<Value, String> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let line = before.matches('\n').count() + 1;
        format!("which is no TOML: {} at line {line} column {column}", error.message())
    })
}
