//! Nothing configured: the queue is one SQLite file, `.dawdle/queue.db`.
//!
//! ```sh
//! cargo run --example quickstart
//! ```
//!
//! Interrupt it while it waits, and run it again: the greeting that was left is still delivered.

use std::time::{Duration, Instant};

use dawdle::{Context, Dawdle, Event, EventId, Outcome, State};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "quickstart.greeting")]
struct Greeting {
    name: String,
}

#[dawdle::handler]
async fn greet(event: &Greeting, cx: &Context, greeted: State<mpsc::UnboundedSender<(EventId, String)>>) -> Outcome {
    greeted.send((cx.id(), format!("hello, {} (late by {:?})", event.name, cx.lag())))?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (sender, mut greeted) = mpsc::unbounded_channel::<(EventId, String)>();
    let dawdle = Dawdle::builder().state(sender).start().await?;

    let start = Instant::now();
    let mut awaited = vec![
        dawdle.signal(Greeting { name: "now".into() }).await?,
        dawdle.signal(Greeting { name: "in three seconds".into() }).delay(Duration::from_secs(3)).await?,
    ];
    println!("{:>5.2?}  signalled twice; both are in .dawdle/queue.db", start.elapsed());

    while !awaited.is_empty() {
        let Some((id, text)) = greeted.recv().await else { break };
        let whose = if awaited.contains(&id) { "" } else { ", left by an earlier run" };
        println!("{:>5.2?}  {text}{whose}", start.elapsed());
        awaited.retain(|other| *other != id);
    }
    dawdle.shutdown().await;
    println!("{:>5.2?}  shut down; both have been handled", start.elapsed());
    Ok(())
}
