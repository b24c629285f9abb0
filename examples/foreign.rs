//! Messages that another program puts on the queue: made into events, or kept as dead letters.
//!
//! ```sh
//! cargo run --example foreign
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use dawdle::backend::local::{LocalBackend, LocalOptions};
use dawdle::backend::{Backend, Lane, Outgoing};
use dawdle::{Config, Context, Dawdle, Envelope, Event, Filter, Outcome, RawMessage, State, reason};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

const FILE: &str = ".dawdle/foreign.db";

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "foreign.order.placed")]
struct OrderPlaced {
    order: u64,
}

#[dawdle::handler]
async fn ship(event: &OrderPlaced, cx: &Context, done: State<mpsc::UnboundedSender<u64>>) -> Outcome {
    println!("    ship: order {}, from the shop in {}", event.order, cx.attribute("shop").unwrap_or("nowhere"));
    done.send(event.order)?;
    Ok(())
}

/// Makes an event of the old shop's messages, which say what they are beside their body.
fn adopt(message: &RawMessage<'_>) -> Option<Envelope> {
    if message.attribute("Type")? != "order-placed" {
        return None;
    }
    let order = message.body().strip_prefix("order=")?.parse().ok()?;
    let envelope = Envelope::new(OrderPlaced { order }).ok()?;
    // A message may come twice: an id made of what it is about makes it the same event.
    let envelope = envelope.with_id(format!("old-shop-{order}").parse().ok()?);
    envelope.with_attribute("shop", message.attribute("Shop")?).ok()
}

/// The other program: it knows the queue, and nothing of Dawdle's events.
async fn old_shop(messages: [(&str, &str); 2]) -> anyhow::Result<()> {
    let queue = LocalBackend::open(FILE, LocalOptions::default()).await?;
    let messages = messages.map(|(kind, body)| Outgoing {
        attributes: BTreeMap::from([("Type".into(), kind.into()), ("Shop".into(), "Delft".into())]),
        ..Outgoing::new(body)
    });
    for answer in queue.send(Lane::Message, &messages).await {
        answer?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let order = u64::from(std::process::id());
    let noise = format!("<stocktaking run=\"{order}\"/>");
    old_shop([("order-placed", &format!("order={order}")), ("stocktaking", &noise)]).await?;
    println!("Another program has put two messages of its own on the queue.");

    let (done, mut shipped) = mpsc::unbounded_channel();
    let config = Config { local_path: Some(FILE.into()), ..Config::default() };
    let dawdle = Dawdle::builder().config(config).state(done).foreign(adopt).start().await?;
    while timeout(Duration::from_secs(10), shipped.recv()).await.context("the order was not shipped")? != Some(order) {}
    println!("One has become an event. The other is none, and is among the dead letters:");

    let dead = dawdle.dead_letters();
    let start = Instant::now();
    'found: loop {
        ensure!(start.elapsed() < Duration::from_secs(10), "the other message is not among the dead letters");
        let mut letters = dead.scan(Filter::default().kind("dawdle.undecodable").reason(reason::UNDECODABLE));
        while let Some(letter) = letters.next().await {
            let letter = letter?;
            let Some(message) = letter.raw() else { bail!("a message that was no event has no body") };
            if message.body() != noise {
                continue;
            }
            println!(
                "    {} (Type: {:?}): {}",
                message.body(),
                message.attribute("Type"),
                letter.error.as_deref().unwrap_or_default()
            );
            dead.purge(&letter).await?;
            break 'found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    dawdle.shutdown().await;
    println!("Its body and attributes are as they were sent.");
    Ok(())
}
