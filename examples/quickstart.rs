//! Nothing configured: the queue is one SQLite file, `.dawdle/queue.db`.
//!
//! ```sh
//! cargo run --example quickstart
//! ```

use std::time::{Duration, Instant};

use dawdle::{Context, Dawdle, Event, Outcome, State};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "quickstart.greeting")]
struct Greeting {
    name: String,
}

#[dawdle::handler]
async fn greet(event: &Greeting, cx: &Context, done: State<mpsc::UnboundedSender<String>>) -> Outcome {
    done.send(format!("hello, {} (late by {:?})", event.name, cx.lag()))?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (done, mut greeted) = mpsc::unbounded_channel::<String>();
    let dawdle = Dawdle::builder().state(done).start().await?;

    let start = Instant::now();
    dawdle.signal(Greeting { name: "now".into() }).await?;
    dawdle.signal(Greeting { name: "in three seconds".into() }).delay(Duration::from_secs(3)).await?;
    println!("{:>5.2?}  signalled twice; both are in .dawdle/queue.db", start.elapsed());

    for _ in 0..2 {
        let text = greeted.recv().await.unwrap_or_default();
        println!("{:>5.2?}  {text}", start.elapsed());
    }
    dawdle.shutdown().await;
    println!("{:>5.2?}  shut down; nothing is left on the queue", start.elapsed());
    Ok(())
}
