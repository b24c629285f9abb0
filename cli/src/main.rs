//! `dawdle`: what is on an application's queues, what died there and why, and what to do about it.
//!
//! It reads the same `DAWDLE_*` variables as the application, and needs none of its code. What it
//! finds goes to standard output, for people or, with `--json`, for programs; what goes wrong goes to
//! standard error. The README beside it shows each command.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

mod ask;
mod audit;
mod dead;
mod doctor;
mod fingerprint;
mod init;
mod json;
mod out;
mod peek;
mod policy;
mod problem;
mod queue;
mod signal;
mod stats;
mod stop;
mod tidy;
mod when;

use out::Out;
use problem::{Problem, Result};

const EXIT_CODES: &str = "\
Exit codes:
  0  it is done
  1  it failed
  2  it was asked for what cannot be
  3  doctor has found something wrong
  4  nothing matched

The queues are those that DAWDLE_* names, as for the application; with none set, .dawdle/queue.db.";

/// Looks at an application's queues, and mends what died on them
#[derive(Debug, Parser)]
#[command(name = "dawdle", version, after_help = EXIT_CODES)]
struct Args {
    /// Write JSON instead of tables: one document, or one a line
    #[arg(long, global = true)]
    json: bool,

    /// Where changes are noted, before DAWDLE_AUDIT_LOG [default: .dawdle/audit.jsonl]
    #[arg(long, global = true, value_name = "FILE")]
    audit_log: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Count what is on each queue
    Stats(stats::Args),
    /// Look at dead letters, replay, edit or purge them
    #[command(subcommand)]
    Dead(dead::Command),
    /// Signal an event of any kind
    Signal(signal::Args),
    /// Show the first messages of a queue
    Peek(peek::Args),
    /// Create the queues, or print what creates them
    Init(init::Args),
    /// Print the least IAM policy of a role
    Policy(policy::Args),
    /// Find what is wrong with the queues, and say how to mend it
    Doctor,
    /// Delete all messages of the local file
    Reset(tidy::ResetArgs),
    /// Give what is free in the local file back to the disk
    Vacuum,
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => problem.report(),
    }
}

async fn run(args: Args) -> Result {
    let out = Out::new(args.json);
    let log = args.audit_log.as_deref();
    match args.command {
        Command::Stats(args) => stats::run(args, out).await,
        Command::Dead(command) => dead::run(command, log, out).await,
        Command::Signal(args) => signal::run(args, log, out).await,
        Command::Peek(args) => peek::run(args, out).await,
        Command::Init(args) => init::run(args, out).await,
        Command::Policy(args) => policy::run(args, out),
        Command::Doctor => doctor::run(out).await,
        Command::Reset(args) => tidy::reset(args, log, out).await,
        Command::Vacuum => tidy::vacuum(out).await,
        Command::Completions { shell } => completions(shell, out),
    }
}

fn completions(shell: clap_complete::Shell, out: Out) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "dawdle", &mut script);
    let script = String::from_utf8(script).map_err(|_| Problem::failed("the completions are no text"))?;
    match out.is_json() {
        true => out.value(&serde_json::json!({ "shell": shell.to_string(), "script": script })),
        false => out.line(script.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }
}
