//! The processes of a run: this program, started again in a role.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use dawdle::backend::Backend;
use dawdle::backend::local::{LocalBackend, LocalOptions};
use dawdle::backend::sqs::{SqsBackend, SqsOptions};
use serde::{Deserialize, Serialize};

use crate::plan::Plan;

const TOLD: &str = "CHAOS_TOLD";

/// What a process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) role: Role,
    pub(crate) plan: Plan,
    pub(crate) place: Place,
    pub(crate) ledger: PathBuf,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Listens.
    Node,
    /// Signals the events from this one on; the first was to be signalled at `began`.
    Sender { from: u64, began: SystemTime },
    /// Keeps the endpoint.
    Endpoint,
    /// Listens, for the measuring of its memory, with a handler that takes so long.
    Drip { pause_ms: u64 },
}

/// Where the messages are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Place {
    Local(PathBuf),
    Sqs { url: String },
}

/// The name of the queues on SQS.
pub(crate) const QUEUE: &str = "chaos";

impl Place {
    /// How the queues on SQS are reached; receives are short, so that a visibility timeout of a few
    /// seconds is above them.
    pub(crate) fn sqs_options(url: &str) -> SqsOptions {
        SqsOptions {
            queue: Some(QUEUE.to_owned()),
            region: Some("us-east-1".to_owned()),
            endpoint_url: Some(url.to_owned()),
            request_timeout: Duration::from_secs(2),
            receive_wait: Duration::from_secs(1),
            receive_margin: Duration::from_secs(2),
            ..SqsOptions::default()
        }
    }

    pub(crate) async fn open(&self, plan: &Plan) -> dawdle::Result<Arc<dyn Backend>> {
        match self {
            Place::Local(path) => {
                let mut options = LocalOptions::default();
                options.lease = Duration::from_secs(plan.visibility_secs);
                options.max_messages = 5_000_000;
                Ok(Arc::new(LocalBackend::open(path, options).await?))
            }
            Place::Sqs { url } => Ok(Arc::new(SqsBackend::connect(Place::sqs_options(url)).await?)),
        }
    }
}

/// What this process was told, if it is one of a run's.
pub(crate) fn told() -> Result<Option<Told>> {
    let Ok(told) = std::env::var(TOLD) else { return Ok(None) };
    Ok(Some(serde_json::from_str(&told)?))
}

/// Ends this process when the one that started it has ended.
pub(crate) fn follow_parent() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
}

/// How a process came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Killed,
    Aborted,
    Exited,
}

/// A process that was started; its number names its ledger.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) number: u32,
    child: Child,
}

impl Process {
    /// Starts one; what it says on stderr goes to a file beside its ledger.
    pub(crate) fn start(number: u32, told: &Told) -> Result<Process> {
        let log = std::fs::File::create(told.ledger.with_extension("log"))?;
        let child = Command::new(std::env::current_exe()?)
            .env(TOLD, serde_json::to_string(told)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("starting a process")?;
        Ok(Process { number, child })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it SIGTERM.
    pub(crate) fn stop(&self) -> Result<()> {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).stderr(Stdio::null()).status()?;
        ensure!(sent.success(), "kill: {sent}");
        Ok(())
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end; `None` when it has not come within `span`.
    pub(crate) fn ends_within(&mut self, span: Duration) -> Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            match self.child.try_wait()? {
                None if start.elapsed() < span => std::thread::sleep(Duration::from_millis(10)),
                ended => return Ok(ended),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The last line of what a process said on stderr.
pub(crate) fn last_words(ledger: &Path) -> String {
    let text = std::fs::read(ledger.with_extension("log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.trim_end().lines().next_back().unwrap_or_default().chars().take(300).collect()
}
