//! What the tests with several processes share: children in a role, and what they tell.
//!
//! A child is the test binary itself, started to run its test `child`, which does nothing unless
//! it is told a role.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dawdle::Config;

const ROLE: &str = "TEST_CHILD_ROLE";
const CONFIG: &str = "TEST_CHILD_CONFIG";
const PLACE: &str = "TEST_CHILD_PLACE";

/// What a child is told.
pub struct Told {
    pub role: String,
    pub config: Config,
    /// A file or folder that the role needs.
    pub place: PathBuf,
}

/// The role of this process; `None` in one that is no child.
pub fn told() -> Result<Option<Told>> {
    let Ok(role) = std::env::var(ROLE) else { return Ok(None) };
    let config = serde_json::from_str(&std::env::var(CONFIG)?)?;
    let place = PathBuf::from(std::env::var_os(PLACE).context("no place")?);
    Ok(Some(Told { role, config, place }))
}

/// A command for a child in a role.
pub fn child(role: &str, config: &Config, place: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(CONFIG, serde_json::to_string(config)?)
        .env(PLACE, place);
    Ok(command)
}

/// A child that runs; killed with SIGKILL when dropped, by a failed test too.
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Process {
    pub fn start(role: &str, config: &Config, place: &Path) -> Result<Process> {
        let mut child = child(role, config, place)?.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The first line shares its line with the name of the test.
                if let Some((_, said)) = line.split_once("> ") {
                    let _ = sender.send(said.to_owned());
                }
            }
        });
        Ok(Process { child, lines })
    }

    /// Waits until it has said this.
    pub fn wait_for(&self, said: &str) -> Result<()> {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(60));
            if line.with_context(|| format!("the child did not say `{said}`"))? == said {
                return Ok(());
            }
        }
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends it SIGTERM.
    pub fn terminate(&self) -> Result<()> {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        ensure!(sent.success(), "kill: {sent}");
        Ok(())
    }

    /// Waits for its end.
    pub fn end_within(&mut self, span: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < span {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("the child has not ended within {span:?}")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Tells the parent a line.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "> {line}");
    let _ = out.flush();
}

/// A file of numbers that outlives the process which writes it, however that ends.
pub struct Ledger(File);

impl Ledger {
    pub fn open(path: &Path) -> Result<Ledger> {
        Ok(Ledger(OpenOptions::new().create(true).append(true).open(path)?))
    }

    /// Writes numbers, a line each, in one write.
    pub fn write(&self, numbers: &[u64]) -> std::io::Result<()> {
        let lines: String = numbers.iter().map(|number| format!("{number}\n")).collect();
        let written = (&self.0).write(lines.as_bytes())?;
        if written == lines.len() { Ok(()) } else { Err(std::io::ErrorKind::WriteZero.into()) }
    }
}

/// How many times each number is in a ledger.
pub fn counts(path: &Path) -> Result<BTreeMap<u64, u32>> {
    let mut counts = BTreeMap::new();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(counts),
        Err(error) => return Err(error.into()),
    };
    for line in text.lines() {
        *counts.entry(line.parse()?).or_default() += 1;
    }
    Ok(counts)
}

/// Looks again and again until it is so; an error when it is not within `span`.
pub async fn until(span: Duration, what: &str, mut is: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is().await? {
        ensure!(start.elapsed() < span, "not within {span:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
