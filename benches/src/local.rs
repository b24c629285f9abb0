//! Dawdle's local file beside SQLite by hand, at the same durability: throughput from many tasks,
//! with one process and with several; and, in `local/lone.rs`, what one signal takes.

mod lone;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;
use serde_json::json;

use crate::child::Client;
use crate::contender::own;
use crate::event::body;
use crate::options::Options;
use crate::peers;
use crate::results::Part;
use crate::stats::median;
use crate::table::{Table, beside};
use crate::task::{Measured, Phase, Task};

/// Tasks that signal, handlers, and rows of a bare transaction.
const AT_ONCE: usize = 64;

/// How often is looked whether all is consumed.
const LOOK: Duration = Duration::from_millis(10);

/// A way to keep events in a SQLite file.
struct Keeper {
    name: &'static str,
    processes: u64,
    command: fn() -> Result<Command>,
    /// Whether there is anything left to be done in its file.
    any_left: &'static str,
}

const REFERENCE: &str = "bare";
const ANY_MESSAGES: &str = "SELECT EXISTS (SELECT 1 FROM messages)";

const KEEPERS: &[Keeper] = &[
    Keeper { name: "dawdle", processes: 1, command: || own("dawdle-local"), any_left: ANY_MESSAGES },
    Keeper { name: "dawdle, 4 processes", processes: 4, command: || own("dawdle-local"), any_left: ANY_MESSAGES },
    Keeper { name: REFERENCE, processes: 1, command: || own("bare"), any_left: ANY_MESSAGES },
    Keeper {
        name: "apalis-sqlite",
        processes: 1,
        command: || peers::APALIS.command(),
        any_left: "SELECT EXISTS (SELECT 1 FROM Jobs WHERE status <> 'Done')",
    },
];

/// What came of one measurement.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    events_per_s: f64,
    cpu_us: f64,
    peak_mib: f64,
}

pub(crate) fn measure(options: &Options) -> Result<Part> {
    let events = options.events / 3;
    let mut samples: Vec<[Vec<Sample>; 2]> = vec![Default::default(); KEEPERS.len()];
    let mut absent = Vec::new();
    for round in 1..=options.rounds {
        for (keeper, samples) in KEEPERS.iter().zip(&mut samples) {
            let is_peer = keeper.name == "apalis-sqlite";
            if is_peer && (!options.peers || !absent.is_empty()) {
                continue;
            }
            eprintln!("round {round} of {}, a local file: {}", options.rounds, keeper.name);
            match produce_and_consume(options, keeper, events) {
                Ok(both) => samples.iter_mut().zip(both).for_each(|(samples, sample)| samples.push(sample)),
                Err(error) if is_peer => absent.push(format!("`{}` did not take part: {error:#}", keeper.name)),
                Err(error) => return Err(error.context(keeper.name)),
            }
        }
    }
    let lone = lone::measure(options)?;
    let mut text = format!(
        "{events} events of 200 bytes, signalled from {AT_ONCE} tasks and handled by {AT_ONCE} handlers at once. `{REFERENCE}` \
         puts and takes {AT_ONCE} rows in each transaction, with nothing around it. All of them in WAL mode with \
         `synchronous = FULL`: what is confirmed is on the disk. Medians of {} rounds; in parentheses, times `{REFERENCE}`. CPU \
         and memory are those of all processes together.\n",
        options.rounds
    );
    for (at, phase) in Phase::BOTH.into_iter().enumerate() {
        text.push_str(&format!("\n### {} on a local file\n\n{}", phase.name(), table(&samples, at)));
    }
    absent.iter().for_each(|why| text.push_str(&format!("\n{why}\n")));
    text.push_str(&lone.text);
    let data: Vec<_> = KEEPERS
        .iter()
        .zip(&samples)
        .map(|(keeper, [produce, consume])| json!({ "name": keeper.name, "produce": produce, "consume": consume }))
        .collect();
    Ok(Part {
        name: "local",
        title: "The local file",
        text,
        data: json!({ "keepers": data, "absent": absent, "lone": lone.data }),
    })
}

fn table(samples: &[[Vec<Sample>; 2]], at: usize) -> String {
    let of = |samples: &[Vec<Sample>; 2], figure: fn(&Sample) -> f64| median(samples[at].iter().map(figure));
    let reference =
        KEEPERS.iter().zip(samples).find(|(keeper, _)| keeper.name == REFERENCE).map(|(_, samples)| samples);
    let mut table = Table::new(&["", "events/s", "CPU µs an event", "peak MiB"]);
    for (keeper, samples) in KEEPERS.iter().zip(samples).filter(|(_, samples)| !samples[at].is_empty()) {
        let beside = |figure| beside(of(samples, figure), reference.map(|reference| of(reference, figure)));
        table.row(&[
            format!("`{}`", keeper.name),
            beside(|sample| sample.events_per_s),
            beside(|sample| sample.cpu_us),
            beside(|sample| sample.peak_mib),
        ]);
    }
    table.text()
}

/// Both halves of the work on one new file.
fn produce_and_consume(options: &Options, keeper: &Keeper, events: u64) -> Result<[Sample; 2]> {
    let folder = tempfile::tempdir_in(&options.out)?;
    let file = folder.path().join("queue.db");
    Ok([one(keeper, Phase::Produce, &file, events)?, one(keeper, Phase::Consume, &file, events)?])
}

fn one(keeper: &Keeper, phase: Phase, file: &Path, events: u64) -> Result<Sample> {
    let (place, body) = (file.display().to_string(), body()?);
    let task = Task { phase, place, events: events / keeper.processes, at_once: AT_ONCE, body };
    let start = |_| Client::start((keeper.command)()?, &task);
    let mut clients: Vec<Client> = (0..keeper.processes).map(start).collect::<Result<_>>()?;
    clients.iter_mut().try_for_each(Client::begin)?;
    if phase == Phase::Consume {
        // Reading waits for nobody and holds up nobody.
        let reader = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        while reader.query_row(keeper.any_left, [], |row| row.get(0))? {
            clients.iter_mut().try_for_each(Client::check)?;
            std::thread::sleep(LOOK);
        }
        clients.iter_mut().try_for_each(Client::stop)?;
    }
    let measured: Vec<Measured> = clients.into_iter().map(Client::measured).collect::<Result<_>>()?;
    ensure!(!measured.is_empty(), "no process took part");
    let events = events as f64;
    Ok(Sample {
        events_per_s: events / measured.iter().map(|measured| measured.wall_s).fold(0.0, f64::max),
        cpu_us: measured.iter().map(|measured| measured.cpu_s).sum::<f64>() * 1e6 / events,
        peak_mib: measured.iter().map(|measured| measured.peak_kib as f64).sum::<f64>() / 1024.0,
    })
}
