//! The program, run in a folder of its own, and what it says.

// Each test binary uses its part.
#![allow(dead_code, reason = "shared by several test binaries")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use dawdle::backend::local::{LocalBackend, LocalOptions};
use dawdle::backend::{Backend, Delivery, Lane, LaneStats, Outgoing};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) mod replay;
pub(crate) mod sqs;

/// A folder, and the environment of what runs in it.
pub(crate) struct Place {
    folder: TempDir,
    env: Vec<(String, String)>,
}

/// What a run of the program came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Place {
    /// One whose local file is `queue.db`.
    pub(crate) fn local() -> Place {
        Place::with(&[("DAWDLE_LOCAL_PATH", "queue.db")])
    }

    pub(crate) fn with(env: &[(&str, &str)]) -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Place { folder, env }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.dress(Command::new(env!("CARGO_BIN_EXE_dawdle")));
        command.args(args);
        command
    }

    /// Lets a program run here, with this environment.
    pub(crate) fn dress(&self, mut command: Command) -> Command {
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            let inherited = ["DAWDLE_", "AWS_"].iter().any(|prefix| name.starts_with(prefix));
            if inherited || ["VISUAL", "EDITOR"].contains(&name.as_str()) {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env("USER", "ann")
            .env("HOSTNAME", "desk")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Said {
        said(self.command(args).output().expect("the program"))
    }

    pub(crate) fn start(&self, args: &[&str]) -> Child {
        self.command(args).spawn().expect("the program")
    }

    /// Runs it with `--json`; it must succeed.
    pub(crate) fn json(&self, args: &[&str]) -> Vec<Value> {
        let said = self.run(&[args, &["--json"]].concat());
        assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
        said.lines()
    }

    /// The lines of the audit log; none where there is none.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(".dawdle/audit.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    pub(crate) async fn queue(&self) -> Queue {
        Queue(LocalBackend::open(self.path("queue.db"), LocalOptions::default()).await.expect("a queue"))
    }

    /// Dead letters of numbers, on a queue that nobody has open.
    pub(crate) async fn bury(&self, numbers: impl IntoIterator<Item = u64>) {
        self.queue().await.put(Lane::Dead, numbers.into_iter().map(|number| letter(number).to_string())).await;
    }
}

impl Said {
    /// Each line of the output, which is JSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.out.lines().map(parse).collect()
    }
}

pub(crate) fn said(output: Output) -> Said {
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Sends a signal to the program.
pub(crate) fn tell(program: &Child, signal: &str) {
    let told = Command::new("kill").args([signal, &program.id().to_string()]).status().expect("kill");
    assert!(told.success(), "{signal}");
}

/// The id of the letter of a number.
pub(crate) fn id(number: u64) -> String {
    format!("event-{number:04}")
}

/// A dead letter as it is on the queue. Every third died of another handler's error.
pub(crate) fn letter(number: u64) -> Value {
    let (handler, error) = match number % 3 {
        0 => ("charge", format!("card {number} was refused")),
        _ => ("remind", format!("no account {number} in shard 0x{number:x}")),
    };
    json!({
        "specversion": "1.0",
        "id": id(number),
        "source": "shop",
        "type": if number.is_multiple_of(3) { "order.placed" } else { "trial.ending" },
        "time": "2026-01-02T03:04:05.000Z",
        "datacontenttype": "application/json",
        "handler": handler,
        "attempt": 25,
        "deadreason": if number.is_multiple_of(2) { "attempts" } else { "gone" },
        "deaderror": error,
        "deadtime": format!("2026-01-{:02}T00:00:00.000Z", 3 + number % 20),
        "deadversion": format!("1.{}", number % 2),
        "data": { "number": number },
    })
}

/// The local file, beside the program.
pub(crate) struct Queue(pub(crate) LocalBackend);

impl Queue {
    pub(crate) async fn put(&self, lane: Lane, bodies: impl IntoIterator<Item = String>) {
        let messages: Vec<Outgoing> = bodies.into_iter().map(Outgoing::new).collect();
        for batch in messages.chunks(100) {
            for sent in self.0.send(lane, batch).await {
                sent.expect("sent");
            }
        }
    }

    pub(crate) async fn stats(&self, lane: Lane) -> LaneStats {
        self.0.inspect(lane).await.expect("counts")
    }

    /// Takes all that can be received.
    pub(crate) async fn take(&self, lane: Lane) -> Vec<Delivery> {
        let mut taken = Vec::new();
        loop {
            let more = self.0.browse(lane, 100, Duration::from_secs(60)).await.expect("a look");
            if more.is_empty() {
                return taken;
            }
            taken.extend(more);
        }
    }

    /// The events that can be received, as JSON.
    pub(crate) async fn events(&self, lane: Lane) -> Vec<Value> {
        let taken = self.take(lane).await;
        taken.iter().map(|delivery| serde_json::from_str(&delivery.body).expect("an event")).collect()
    }
}

/// Waits for what must come, and looks often.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, is: impl FnMut() -> F) {
    until_within(Duration::from_secs(30), what, is).await;
}

/// Waits for what must come within a time, and looks often.
pub(crate) async fn until_within<F: Future<Output = bool>>(time: Duration, what: &str, mut is: impl FnMut() -> F) {
    let start = Instant::now();
    while !is().await {
        assert!(start.elapsed() < time, "not within {time:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A script that may stand for an editor.
pub(crate) fn script(path: &Path, text: &str) -> String {
    std::fs::write(path, text).expect("a script");
    format!("sh {}", path.display())
}
