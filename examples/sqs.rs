//! On SQS, or an emulator of it, at the endpoint that the environment names.
//!
//! ```sh
//! localstack/engine run -- cargo run --example sqs
//! ```

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use dawdle::backend::sqs::{SqsBackend, SqsOptions, create_queues};
use dawdle::{Context, Dawdle, Event, EventId, Outcome, State};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Gives three queues: this one, `dawdle-example-delay` and `dawdle-example-dead`.
const QUEUE: &str = "dawdle-example";

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "sqs.greeting")]
struct Greeting {
    name: String,
}

type Done = mpsc::UnboundedSender<EventId>;

#[dawdle::handler]
async fn greet(event: &Greeting, cx: &Context, done: State<Done>) -> Outcome {
    println!("    hello, {} (late by {:?})", event.name, cx.lag());
    done.send(cx.id())?;
    Ok(())
}

fn endpoint() -> Option<String> {
    let names = ["DAWDLE_SQS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL"];
    names.iter().find_map(|name| std::env::var(name).ok()).filter(|url| !url.is_empty())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Some(endpoint) = endpoint() else {
        println!("No SQS endpoint is configured, so there is nothing to show. Beside an emulator:");
        println!("    localstack/engine run -- cargo run --example sqs");
        println!("Or name one, with credentials for it: AWS_ENDPOINT_URL_SQS=http://localhost:4566");
        return Ok(());
    };
    // A deployed application writes none of this: it sets DAWDLE_SQS_QUEUE, and its queues are
    // made by what makes the rest of its infrastructure.
    let options = SqsOptions {
        queue: Some(QUEUE.into()),
        endpoint_url: Some(endpoint),
        // Short, as is the life of this program: a long poll that outlives its process may still
        // take a message, which is then hidden from the next process for a minute.
        receive_wait: Duration::from_secs(1),
        ..SqsOptions::default()
    };
    create_queues(options.clone()).await?;
    println!("The queues {QUEUE}, {QUEUE}-delay and {QUEUE}-dead are there.");

    let (done, mut greeted) = mpsc::unbounded_channel();
    let backend = SqsBackend::connect(options).await?;
    let dawdle = Dawdle::builder().backend(backend).state::<Done>(done).start().await?;
    println!("Signalling twice:");
    let start = Instant::now();
    let now = dawdle.signal(Greeting { name: "now".into() }).await?;
    let later = dawdle.signal(Greeting { name: "in three seconds".into() }).delay(Duration::from_secs(3)).await?;

    let mut waiting = vec![now, later];
    while !waiting.is_empty() {
        let id = timeout(Duration::from_secs(20), greeted.recv())
            .await
            .context("not every greeting came within twenty seconds")?
            .context("the listener has ended")?;
        ensure!(id != later || start.elapsed() >= Duration::from_secs(3), "the second came early");
        waiting.retain(|it| *it != id);
    }
    println!("Both were handled, the second after {:?}.", start.elapsed());
    dawdle.shutdown().await;
    println!("The queues are left in place.");
    Ok(())
}
