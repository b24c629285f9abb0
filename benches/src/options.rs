//! The command line.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use lexopt::prelude::*;

pub(crate) const USAGE: &str = "\
Measures Dawdle beside other ways to do the same work.

usage: dawdle-bench COMMAND [OPTIONS]

    all             everything below
    sqs             events/s, CPU, memory and requests, beside other ways to use SQS
    lone            what one signal and one dispatch take, beside the SDK's bare calls
    idle            the requests of a node that has nothing to do
    delay           the requests of a delayed event, beside a chain of 15-minute messages
    local           the local file, beside a bare SQLite loop
    instructions    the instructions of an event, counted by callgrind

    --quick             few events, one round: does it run?
    --peers             other libraries, too; builds and installs them
    --rounds ROUNDS     how often each measurement is made; the median counts; 3
    --events EVENTS     how many events a measurement without added latency takes; 60000
    --seconds SECONDS   for how long `idle` counts; 60
    --out FOLDER        where the results go; target/bench
";

/// What is to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    All,
    Sqs,
    Lone,
    Idle,
    Delay,
    Local,
    Instructions,
}

/// How it is to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) peers: bool,
    pub(crate) rounds: usize,
    pub(crate) events: u64,
    pub(crate) seconds: u64,
    pub(crate) out: PathBuf,
}

/// What is asked for; `None` where that is help.
pub(crate) fn read() -> Result<Option<(Command, Options)>> {
    let (mut command, mut quick, mut peers) = (None, false, false);
    let (mut rounds, mut events, mut seconds) = (None, None, None);
    let mut out = PathBuf::from("target/bench");
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(name) if command.is_none() => command = Some(named(&name.string()?)?),
            Long("quick") => quick = true,
            Long("peers") => peers = true,
            Long("rounds") => rounds = Some(parser.value()?.parse()?),
            Long("events") => events = Some(parser.value()?.parse()?),
            Long("seconds") => seconds = Some(parser.value()?.parse()?),
            Long("out") => out = parser.value()?.into(),
            Long("help") | Short('h') => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    let Some(command) = command else { return Ok(None) };
    let options = Options {
        quick,
        peers,
        rounds: rounds.unwrap_or(if quick { 1 } else { 3 }),
        events: events.unwrap_or(if quick { 2_000 } else { 60_000 }),
        seconds: seconds.unwrap_or(if quick { 3 } else { 60 }),
        out,
    };
    ensure!(options.rounds >= 1 && options.events >= 1_000 && options.seconds >= 1, "too little to measure");
    Ok(Some((command, options)))
}

fn named(name: &str) -> Result<Command> {
    Ok(match name {
        "all" => Command::All,
        "sqs" => Command::Sqs,
        "lone" => Command::Lone,
        "idle" => Command::Idle,
        "delay" => Command::Delay,
        "local" => Command::Local,
        "instructions" => Command::Instructions,
        other => bail!("there is no `{other}`; try --help"),
    })
}
