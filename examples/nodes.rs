//! Several processes share the work; one is killed in the middle, and nothing is lost.
//!
//! ```sh
//! cargo run --example nodes
//! ```

use std::collections::HashMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use dawdle::{Config, Context, Dawdle, Event, EventId, Outcome};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

const NODES: usize = 3;
const EVENTS: u64 = 300;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "nodes.job")]
struct Job {
    number: u64,
}

/// Each run takes a while, so that the one that is killed has some in hand.
#[dawdle::handler(timeout = "10s")]
async fn work(_: &Job, cx: &Context) -> Outcome {
    tokio::time::sleep(Duration::from_millis(50)).await;
    println!("{}", cx.id());
    Ok(())
}

fn config() -> Config {
    Config { local_path: Some(".dawdle/nodes.db".into()), concurrency: Some(4), ..Config::default() }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("listen") => listen().await,
        _ => direct().await,
    }
}

/// One node: handles events until its standard input ends, then drains.
async fn listen() -> anyhow::Result<()> {
    let dawdle = Dawdle::builder().config(config()).start().await?;
    let mut input = tokio::io::stdin();
    dawdle.run_until(async { input.read_to_end(&mut Vec::new()).await }).await?;
    Ok(())
}

/// The process that signals, and watches the nodes.
async fn direct() -> anyhow::Result<()> {
    let (says, mut heard) = mpsc::unbounded_channel();
    let mut nodes = Vec::new();
    for node in 0..NODES {
        nodes.push(start_node(node, says.clone())?);
    }
    drop(says);
    let dawdle = Dawdle::builder().config(config()).listener(false).start().await?;

    let start = Instant::now();
    let ids: Vec<EventId> =
        dawdle.signal_all((0..EVENTS).map(|number| Job { number })).await.into_iter().collect::<dawdle::Result<_>>()?;
    println!("Signalled {EVENTS} events to {NODES} nodes within {:?}.", start.elapsed());

    let mut runs: HashMap<String, usize> = ids.iter().map(|id| (id.to_string(), 0)).collect();
    let mut by_node = [0; NODES];
    let mut missing = runs.len();
    while missing > 0 {
        let (node, id) = timeout(Duration::from_secs(20), heard.recv())
            .await
            .with_context(|| format!("{missing} events were not handled"))?
            .context("every node has ended")?;
        // What an earlier run of this example left on the queue is handled too, and not counted.
        let Some(runs) = runs.get_mut(&id) else { continue };
        *runs += 1;
        missing -= usize::from(*runs == 1);
        by_node[node] += 1;
        if by_node.iter().sum::<usize>() == 100 {
            nodes[0].start_kill()?;
            println!("Killed node 0 (SIGKILL) after 100 runs, with up to 4 events in its hands.");
        }
    }
    println!("Every event was handled, within {:?}; runs by node: {by_node:?}.", start.elapsed());

    for mut node in nodes {
        drop(node.stdin.take());
        timeout(Duration::from_secs(10), node.wait()).await.context("a node does not end")??;
    }
    while let Some((_, id)) = heard.recv().await {
        runs.entry(id).and_modify(|runs| *runs += 1);
    }
    let twice = runs.values().filter(|runs| **runs > 1).count();
    println!("Of {EVENTS} events {twice} ran more than once: delivery is at least once.");
    ensure!(by_node.iter().all(|runs| *runs > 0), "the work was not shared: {by_node:?}");
    dawdle.shutdown().await;
    Ok(())
}

/// Starts this program once more, as a node; passes on each line that it prints.
fn start_node(node: usize, says: mpsc::UnboundedSender<(usize, String)>) -> anyhow::Result<Child> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("listen")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            if says.send((node, line)).is_err() {
                break;
            }
        }
    });
    Ok(child)
}
