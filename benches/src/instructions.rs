//! How many instructions an event takes, counted by callgrind: the same on any machine, but for the
//! order in which things happen.
//!
//! Each client runs twice, with few events and with more. What both have in common, starting and
//! connecting, is not in the difference.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::child::Client;
use crate::contender::{REFERENCE, own};
use crate::endpoint::Endpoint;
use crate::event::body;
use crate::options::Options;
use crate::results::Part;
use crate::table::{Table, beside};
use crate::task::{Phase, Task};

const COUNTED: [&str; 2] = ["dawdle", REFERENCE];

/// Requests that the loop has in the air; Dawdle has as many events in hand.
const AT_ONCE: usize = 16;

pub(crate) fn measure(options: &Options) -> Result<Part> {
    let part = |text, data| Part { name: "instructions", title: "Instructions", text, data };
    if !has_callgrind() {
        return Ok(part(
            "Not counted: valgrind is missing. On Debian: `apt-get install valgrind`.\n".to_owned(),
            json!(null),
        ));
    }
    let sizes = if options.quick { [500, 1_500] } else { [5_000, 15_000] };
    let mut table = Table::new(&["", "produce", "consume"]);
    let mut counted = Vec::new();
    for name in COUNTED {
        let [produce, consume] = Phase::BOTH.map(|phase| each(options, name, phase, sizes));
        counted.push((name, [produce?, consume?]));
    }
    let reference = counted.iter().find(|(name, _)| *name == REFERENCE).map(|(_, counts)| *counts);
    for (name, counts) in &counted {
        let beside = |at: usize| beside(counts[at], reference.map(|reference| reference[at]));
        table.row(&[format!("`{name}`"), beside(0), beside(1)]);
    }
    let text = format!(
        "Instructions of the client an event, in user space: the slope between {} and {} events. In parentheses, times \
         `{REFERENCE}`.\n\n{}\nWhere they go: `callgrind_annotate {}/callgrind.dawdle.produce`.\n",
        sizes[0],
        sizes[1],
        table.text(),
        options.out.display()
    );
    Ok(part(text, json!({ "sizes": sizes, "per_event": counted })))
}

fn has_callgrind() -> bool {
    let asked = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// The instructions of one event.
fn each(options: &Options, name: &str, phase: Phase, [few, many]: [u64; 2]) -> Result<f64> {
    let out = options.out.join(format!("callgrind.{name}.{}", phase.name()));
    let less = count(&out, name, phase, few)?;
    let more = count(&out, name, phase, many)?;
    ensure!(more > less, "{many} events took no more instructions than {few}");
    Ok((more - less) as f64 / (many - few) as f64)
}

/// The instructions of a client; where they went is then in the file `out`.
fn count(out: &Path, name: &str, phase: Phase, events: u64) -> Result<u64> {
    eprintln!("instructions of {name}, {} {events}", phase.name());
    let endpoint = &mut Endpoint::start(0)?;
    let at_once = if name == REFERENCE { AT_ONCE } else { 10 * AT_ONCE };
    let task = |phase, at_once| -> Result<Task> {
        Ok(Task { phase, place: endpoint.url.clone(), events, at_once, body: body()? })
    };
    if phase == Phase::Consume {
        let mut producer = Client::start(own(REFERENCE)?, &task(Phase::Produce, AT_ONCE)?)?;
        producer.begin()?;
        producer.measured()?;
    }
    let mut client = Client::start(under_callgrind(out, name)?, &task(phase, at_once)?)?;
    client.begin()?;
    if phase == Phase::Consume {
        while endpoint.seen()?.deleted < events {
            client.check()?;
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        client.stop()?;
    }
    client.measured()?;
    total(out)
}

fn under_callgrind(out: &Path, name: &str) -> Result<Command> {
    let plain = own(name)?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet", &format!("--callgrind-out-file={}", out.display())]);
    command.arg(plain.get_program()).args(plain.get_args()).stderr(Stdio::null());
    Ok(command)
}

/// The instructions that a file of callgrind's tells of.
fn total(file: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(file).context("callgrind has written nothing")?;
    let line = text.lines().find_map(|line| line.strip_prefix("summary:").or(line.strip_prefix("totals:")));
    Ok(line.context("callgrind has written no total")?.trim().parse()?)
}
