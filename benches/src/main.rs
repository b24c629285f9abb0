//! Dawdle beside other ways to do the same work: see `benches/README.md`.
#![forbid(unsafe_code)]

// What both sides of a measurement know: who measures, and the process that is measured.
mod endpoint;
mod event;
mod task;

// The process that is measured.
mod client;
mod cue;
mod meter;
mod ways;

// Who measures.
mod child;
mod contender;
mod options;
mod peers;
mod plot;
mod results;
mod stats;
mod table;

// What is measured, each with a command of its own.
mod delay;
mod idle;
mod instructions;
mod local;
mod lone;
mod sqs;

use std::process::ExitCode;

use anyhow::Result;

use options::{Command, Options};
use results::{Part, Results};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dawdle-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<()> {
    let mut args = std::env::args().skip(1).peekable();
    let role = args.next_if(|role| role == endpoint::ROLE || role == client::ROLE || role == lone::ROLE);
    match role.as_deref() {
        Some(endpoint::ROLE) => endpoint::keep(args),
        Some(client::ROLE) => client::play(args),
        Some(lone::ROLE) => lone::play(args),
        _ => measure(),
    }
}

/// Measures what the command line asks for, and writes down what came of it.
fn measure() -> Result<()> {
    let Some((command, options)) = options::read()? else {
        print!("{}", options::USAGE);
        return Ok(());
    };
    let parts: &[fn(&Options) -> Result<Part>] = match command {
        // Under callgrind even a quick run is not quick.
        Command::All if options.quick => &[sqs::measure, lone::measure, idle::measure, delay::measure, local::measure],
        Command::All => {
            &[sqs::measure, lone::measure, idle::measure, delay::measure, local::measure, instructions::measure]
        }
        Command::Sqs => &[sqs::measure],
        Command::Lone => &[lone::measure],
        Command::Idle => &[idle::measure],
        Command::Delay => &[delay::measure],
        Command::Local => &[local::measure],
        Command::Instructions => &[instructions::measure],
    };
    std::fs::create_dir_all(&options.out)?;
    let mut results = Results::new(&options);
    for part in parts {
        results.add(part(&options)?);
        // After each: what is measured stays when a later part fails.
        results.write()?;
    }
    println!("the results are in {}", options.out.join("results.md").display());
    Ok(())
}
