//! A client's process, as seen by who measures: [`Client`].

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::endpoint::as_somebody;
use crate::task::{Measured, Task};

/// A client that is connected. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Client {
    child: Child,
    asks: ChildStdin,
    says: BufReader<ChildStdout>,
}

impl Client {
    /// Starts a program with a task, and waits until it is connected.
    pub(crate) fn start(mut program: Command, task: &Task) -> Result<Client> {
        program.arg(serde_json::to_string(task)?).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = as_somebody(&mut program).spawn().context("starting a client")?;
        let asks = child.stdin.take().context("no standard input")?;
        let says = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut client = Client { child, asks, says };
        let line = client.line()?;
        ensure!(line.trim_end() == "ready", "the client is not ready, it says `{line}`");
        Ok(client)
    }

    /// Lets the work begin.
    pub(crate) fn begin(&mut self) -> Result<()> {
        Ok(self.asks.write_all(b"begin\n")?)
    }

    /// Lets one that consumes stop.
    pub(crate) fn stop(&mut self) -> Result<()> {
        Ok(self.asks.write_all(b"stop\n")?)
    }

    /// Fails when the client has ended before its answer.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => anyhow::bail!("the client has ended: {status}"),
            None => Ok(()),
        }
    }

    /// Waits for its answer and its end.
    pub(crate) fn measured(mut self) -> Result<Measured> {
        let line = self.line()?;
        let measured = serde_json::from_str(&line).with_context(|| format!("the client answers `{line}`"))?;
        self.child.wait()?;
        Ok(measured)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        Ok(line)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
