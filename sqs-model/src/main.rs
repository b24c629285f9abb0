//! An [`Endpoint`] as a program: prints its URL and runs until it is ended.

use std::error::Error;
use std::io::Write;
use std::time::Duration;

use lexopt::prelude::*;
use sqs_model::{Action, Aimed, Endpoint, Faults, Options};

const USAGE: &str = "\
An SQS endpoint on loopback that keeps the rules of SQS, and fails by seed and rate.

usage: sqs-model [OPTIONS]

    --port PORT               0: any that is free
    --seed SEED               decides what chance decides; 0
    --latency SPAN            how long a request takes at least, such as 10ms; 0s
    --clock-ahead-ms MILLIS   how far its clock is ahead of the machine's; 0
    --max-in-flight COUNT     the quota of messages in flight; 120000
    --threads COUNT           how many threads answer; 1
    --recreate-after SPAN     for how long a deleted queue's name cannot be used; 60s

faults, by their rates from 0 to 1:
    --refuse --reset-before --reset-after --slow --hang --error-500 --throttle
    --html-404 --html-502     per request
    --slow-by SPAN            by how much slow answers are late; 0s
    --entry-failure RATE      per entry of a batch
    --duplicate --undelete    per message
    --reorder                 messages come in any order
    --expired-credentials     no request is let in
    --only-queue NAME         all of them only for requests about this queue
    --only-action ACTION      all of them only for this action, such as ReceiveMessage
";

fn main() -> Result<(), Box<dyn Error>> {
    let Some((options, faults)) = arguments().map_err(|error| format!("{error}; try --help"))? else {
        print!("{USAGE}");
        return Ok(());
    };
    let endpoint = Endpoint::start(options)?;
    endpoint.set_faults(faults);
    println!("{}", endpoint.url());
    std::io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}

/// What is asked for; `None` where that is help.
fn arguments() -> Result<Option<(Options, Faults)>, Box<dyn Error>> {
    let (mut options, mut faults) = (Options::default(), Faults::default());
    let (mut queue, mut action) = (None, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("port") => options.port = parser.value()?.parse()?,
            Long("seed") => options.seed = parser.value()?.parse()?,
            Long("latency") => options.latency = span(&mut parser)?,
            Long("clock-ahead-ms") => options.clock_ahead_ms = parser.value()?.parse()?,
            Long("max-in-flight") => options.max_in_flight = parser.value()?.parse()?,
            Long("threads") => options.threads = parser.value()?.parse()?,
            Long("recreate-after") => options.recreate_after = span(&mut parser)?,
            Long("refuse") => faults.refuse = rate(&mut parser)?,
            Long("reset-before") => faults.reset_before = rate(&mut parser)?,
            Long("reset-after") => faults.reset_after = rate(&mut parser)?,
            Long("slow") => faults.slow = rate(&mut parser)?,
            Long("slow-by") => faults.slow_by = span(&mut parser)?,
            Long("hang") => faults.hang = rate(&mut parser)?,
            Long("error-500") => faults.error_500 = rate(&mut parser)?,
            Long("throttle") => faults.throttle = rate(&mut parser)?,
            Long("expired-credentials") => faults.expired_credentials = true,
            Long("html-404") => faults.html_404 = rate(&mut parser)?,
            Long("html-502") => faults.html_502 = rate(&mut parser)?,
            Long("entry-failure") => faults.entry_failure = rate(&mut parser)?,
            Long("duplicate") => faults.duplicate = rate(&mut parser)?,
            Long("undelete") => faults.undelete = rate(&mut parser)?,
            Long("reorder") => faults.reorder = true,
            Long("only-queue") => queue = Some(parser.value()?.parse()?),
            Long("only-action") => {
                let name: String = parser.value()?.parse()?;
                action = Some(Action::named(&name).ok_or_else(|| format!("SQS has no action `{name}`"))?);
            }
            Long("help") | Short('h') => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    if queue.is_some() || action.is_some() {
        faults = Faults { aimed: vec![Aimed { queue, action, faults }], ..Faults::default() };
    }
    Ok(Some((options, faults)))
}

fn span(parser: &mut lexopt::Parser) -> Result<Duration, Box<dyn Error>> {
    Ok(parser.value()?.parse_with(humantime::parse_duration)?)
}

fn rate(parser: &mut lexopt::Parser) -> Result<f64, Box<dyn Error>> {
    let rate: f64 = parser.value()?.parse()?;
    if !(0.0..=1.0).contains(&rate) {
        return Err(format!("a rate of {rate} is not between 0 and 1").into());
    }
    Ok(rate)
}
