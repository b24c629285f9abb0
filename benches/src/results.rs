//! What was measured, written down: `results.md` and `results.json`.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::options::Options;

/// What came of one command.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Its text, in Markdown.
    pub(crate) text: String,
    pub(crate) data: Value,
}

/// All parts of one run.
#[derive(Debug)]
pub(crate) struct Results {
    folder: PathBuf,
    quick: bool,
    parts: Vec<Part>,
}

impl Results {
    pub(crate) fn new(options: &Options) -> Results {
        Results { folder: options.out.clone(), quick: options.quick, parts: Vec::new() }
    }

    pub(crate) fn add(&mut self, part: Part) {
        println!("\n## {}\n\n{}", part.title, part.text);
        self.parts.push(part);
    }

    pub(crate) fn write(&self) -> Result<()> {
        let machine = machine();
        let mut text = format!("# Dawdle, measured\n\n{machine}\n");
        let mut data = Map::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        data.insert("machine".to_owned(), json!(machine));
        data.insert("unix_time".to_owned(), json!(now));
        data.insert("quick".to_owned(), json!(self.quick));
        if self.quick {
            text.push_str("\nA quick run: it shows that everything runs; its figures mean nothing.\n");
        }
        for part in &self.parts {
            text.push_str(&format!("\n## {}\n\n{}", part.title, part.text));
            data.insert(part.name.to_owned(), part.data.clone());
        }
        std::fs::write(self.folder.join("results.md"), text)?;
        std::fs::write(self.folder.join("results.json"), serde_json::to_string_pretty(&data)?)?;
        Ok(())
    }
}

/// What all this was measured on.
fn machine() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = told
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kind = if cfg!(debug_assertions) { ", a debug build" } else { "" };
    format!("{}, {cores} cores, Linux {}{kind}.", model.unwrap_or("An unknown processor"), kernel.trim())
}
