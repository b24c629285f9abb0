//! Dawdle under faults: see `chaos/README.md`.
#![forbid(unsafe_code)]

mod args;
mod events;
mod ledger;
mod memory;
mod node;
mod outage;
mod plan;
mod process;
mod queue;
mod run;
mod verdict;
mod witness;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "usage: dawdle-chaos [run] [--seed S] [--minutes M] [--events N] [--rate R] [--nodes K] \
                     [--backend model|local] [--calm] [--no-poison] [--short] [--quiet] [--keep FOLDER] [--visibility SECS] \
                     [--max-delay SECS] [--skew SECS]\n       dawdle-chaos outage [--scale R] [--minutes M] [--before M] [--nodes K] \
                     [--real] [--short]\n       dawdle-chaos memory [--messages N] [--seconds S] [--rate R] [--svg FILE] [--short]";

fn main() -> ExitCode {
    match start() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("dawdle-chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything that was checked held.
fn start() -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Some(told) = process::told()? {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
        process::follow_parent();
        runtime.block_on(node::play(told))?;
        return Ok(true);
    }
    as_somebody()?;
    let mut args = std::env::args().skip(1).peekable();
    let command = args.next_if(|arg| !arg.starts_with("--"));
    match command.as_deref() {
        None | Some("run") => runtime.block_on(run::run(&run::options(args)?)),
        Some("outage") => runtime.block_on(outage::run(&outage::options(args)?)),
        Some("memory") => runtime.block_on(memory::run(&memory::options(args)?)),
        Some(other) => bail!("there is no `{other}`\n{USAGE}"),
    }
}

/// Starts this program over with credentials for the endpoint, which takes any: the AWS SDK finds
/// them in the environment only, and a process's own cannot be changed safely.
fn as_somebody() -> Result<()> {
    use std::os::unix::process::CommandExt;
    const MARK: &str = "dawdle-chaos";
    if std::env::var("AWS_ACCESS_KEY_ID").as_deref() == Ok(MARK) {
        return Ok(());
    }
    let error = std::process::Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env("AWS_ACCESS_KEY_ID", MARK)
        .env("AWS_SECRET_ACCESS_KEY", MARK)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env_remove("AWS_SESSION_TOKEN")
        .env_remove("AWS_PROFILE")
        .exec();
    bail!("starting over: {error}")
}
