//! `dawdle`: what is on an application's queues, what died there and why, and what to do about it.
//!
//! It reads the same `DAWDLE_*` variables and the same settings in a file as the application, and needs none of its
//! code. What it
//! finds goes to standard output, for people or, with `--json`, for programs; what goes wrong goes to
//! standard error. The README beside it shows each command.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

mod ask;
mod audit;
mod bench;
mod dashboard;
mod dead;
mod doctor;
mod init;
mod out;
mod peek;
mod policy;
mod problem;
mod progress;
mod queue;
mod serve;
mod settings;
mod signal;
mod stats;
mod stop;
mod tidy;

use out::Out;
use problem::{Problem, Result};
use settings::Settings;

const EXIT_CODES: &str = "\
Exit codes:
  0    it is done
  1    it failed, or was told to stop in the middle
  2    it was asked for what cannot be
  3    doctor has found something wrong
  4    nothing matched
  130  it was told to stop twice

The queues are those that DAWDLE_* and --config name, as for the application; with none named, .dawdle/queue.db.";

/// Looks at an application's queues, and mends what died on them
#[derive(Debug, Parser)]
#[command(name = "dawdle", version, after_help = EXIT_CODES)]
struct Args {
    /// Write JSON instead of tables: one document, or one a line
    #[arg(long, global = true)]
    json: bool,

    #[command(flatten)]
    settings: Settings,

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
    /// Serve a page about the queues and the dead letters, until Ctrl-C
    Dashboard(dashboard::Args),
    /// Measure what the queues can do from here, on queues of its own
    Bench(bench::Args),
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
    let settings = &args.settings;
    match args.command {
        Command::Stats(args) => stats::run(args, settings, out).await,
        Command::Dead(command) => dead::run(command, settings, out).await,
        Command::Signal(args) => signal::run(args, settings, out).await,
        Command::Peek(args) => peek::run(args, settings, out).await,
        Command::Init(args) => init::run(args, settings, out).await,
        Command::Policy(args) => policy::run(args, settings, out),
        Command::Doctor => doctor::run(settings, out).await,
        Command::Dashboard(args) => dashboard::run(args, settings, out).await,
        Command::Bench(args) => bench::run(args, settings, out).await,
        Command::Reset(args) => tidy::reset(args, settings, out).await,
        Command::Vacuum => tidy::vacuum(settings, out).await,
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
