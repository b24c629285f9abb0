//! The SQS endpoint: `sqs-model` with the three queues, in a process of its own, so that its CPU is
//! not the client's.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dawdle::backend::sqs::{SqsOptions, create_queues};
use serde::{Deserialize, Serialize};
use sqs_model::Counts;

/// The command that makes this program the endpoint.
pub(crate) const ROLE: &str = "endpoint";

/// The name of the queues.
pub(crate) const QUEUE: &str = "bench";

/// The URL of the message queue.
pub(crate) fn queue_url(endpoint: &str) -> String {
    format!("{endpoint}/000000000000/{QUEUE}")
}

/// How Dawdle reaches the queues.
pub(crate) fn options(url: &str) -> SqsOptions {
    SqsOptions {
        queue: Some(QUEUE.to_owned()),
        region: Some("us-east-1".to_owned()),
        endpoint_url: Some(url.to_owned()),
        ..SqsOptions::default()
    }
}

/// Gives a process what the AWS default chain looks for: the endpoint takes any credentials.
pub(crate) fn as_somebody(command: &mut Command) -> &mut Command {
    command
        .env("AWS_ACCESS_KEY_ID", "bench")
        .env("AWS_SECRET_ACCESS_KEY", "bench")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env_remove("AWS_SESSION_TOKEN")
        .env_remove("AWS_PROFILE")
}

/// What the endpoint has seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) sent: u64,
    pub(crate) deleted: u64,
    /// Messages on the message queue.
    pub(crate) left: u64,
    /// By action.
    pub(crate) requests: BTreeMap<String, u64>,
    /// What SQS bills for them.
    pub(crate) billed: u64,
}

impl Seen {
    fn now(endpoint: &sqs_model::Endpoint) -> Seen {
        let counts = endpoint.counts();
        Seen {
            sent: counts.messages_sent,
            deleted: counts.messages_deleted,
            left: endpoint.queue(QUEUE).unwrap_or_default().total(),
            requests: by_action(&counts),
            billed: counts.billed,
        }
    }

    /// What was asked since `before`.
    pub(crate) fn requests_since(&self, before: &Seen) -> BTreeMap<String, u64> {
        let was = |action: &String| before.requests.get(action).copied().unwrap_or(0);
        self.requests.iter().map(|(action, count)| (action.clone(), count - was(action))).collect()
    }
}

/// The actions that contenders use; whether in batches or not shows in their number.
fn by_action(counts: &Counts) -> BTreeMap<String, u64> {
    let named = [
        ("send", counts.send_message + counts.send_message_batch),
        ("receive", counts.receive_message),
        ("delete", counts.delete_message + counts.delete_message_batch),
        ("visibility", counts.change_message_visibility + counts.change_message_visibility_batch),
    ];
    let other = counts.requests() - named.iter().map(|(_, count)| count).sum::<u64>();
    let all = named.into_iter().chain([("other", other)]);
    all.map(|(action, count)| (action.to_owned(), count)).collect()
}

/// The endpoint's process: says its URL, then what it has seen whenever a line comes; ends with its
/// standard input.
pub(crate) fn keep(mut args: impl Iterator<Item = String>) -> Result<()> {
    let latency = Duration::from_millis(args.next().context("which latency?")?.parse()?);
    let endpoint = sqs_model::Endpoint::start(sqs_model::Options::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(create_queues(options(&endpoint.url())))?;
    endpoint.set_latency(latency);
    endpoint.reset_counts();
    println!("{}", endpoint.url());
    for _ in std::io::stdin().lock().lines() {
        println!("{}", serde_json::to_string(&Seen::now(&endpoint))?);
    }
    Ok(())
}

/// The endpoint, as seen by who started it. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Endpoint {
    child: Child,
    asks: ChildStdin,
    says: BufReader<ChildStdout>,
    pub(crate) url: String,
}

impl Endpoint {
    pub(crate) fn start(latency_ms: u64) -> Result<Endpoint> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([ROLE, &latency_ms.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = as_somebody(&mut command).spawn().context("starting the endpoint")?;
        let asks = child.stdin.take().context("no standard input")?;
        let mut says = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut url = String::new();
        says.read_line(&mut url)?;
        ensure!(url.starts_with("http"), "the endpoint has not started");
        Ok(Endpoint { child, asks, says, url: url.trim_end().to_owned() })
    }

    /// What it has seen.
    pub(crate) fn seen(&mut self) -> Result<Seen> {
        self.asks.write_all(b"\n")?;
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        serde_json::from_str(&line).context("the endpoint has ended")
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
