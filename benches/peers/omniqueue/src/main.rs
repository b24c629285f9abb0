//! omniqueue on SQS: batches of ten where it has them, one ack by one.
#![forbid(unsafe_code)]

#[path = "../../../src/cue.rs"]
mod cue;
#[path = "../../../src/meter.rs"]
mod meter;
#[allow(dead_code, reason = "shared with the benchmark itself, which uses more of it")]
#[path = "../../../src/task.rs"]
mod task;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use omniqueue::QueueProducer;
use omniqueue::backends::SqsBackend;
use omniqueue::backends::sqs::SqsConfigFull;
use tokio::task::JoinSet;

use meter::Meter;
use task::{Phase, Task};

#[tokio::main]
async fn main() -> Result<()> {
    let task: Task = serde_json::from_str(&std::env::args().nth(1).context("which task?")?)?;
    // Credentials and region come from the environment.
    let queue = format!("{}/000000000000/bench", task.place);
    let (producer, consumer) =
        SqsBackend::builder(SqsConfigFull::from(queue)).override_endpoint(true).build_pair().await?;
    cue::ready().await?;
    let meter = Meter::start();
    match task.phase {
        Phase::Produce => {
            let left = Arc::new(AtomicU64::new(task.events / 10));
            // It asks for what can be borrowed as a String, and a String cannot.
            let (producer, body) = (Arc::new(producer), Arc::new(task.body));
            let mut senders: JoinSet<Result<()>> = JoinSet::new();
            for _ in 0..task.at_once {
                let (producer, left, body) = (producer.clone(), left.clone(), body.clone());
                senders.spawn(async move {
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                        producer.send_raw_batch(std::iter::repeat_n(&body, 10)).await?;
                    }
                    Ok(())
                });
            }
            senders.join_all().await.into_iter().collect::<Result<()>>()?;
        }
        Phase::Consume => {
            let consumer = Arc::new(consumer);
            let mut receivers: JoinSet<Result<()>> = JoinSet::new();
            for _ in 0..task.at_once {
                let consumer = consumer.clone();
                receivers.spawn(async move {
                    loop {
                        for delivery in consumer.receive_all(10, Duration::from_secs(20)).await? {
                            delivery.ack().await.map_err(|(error, _)| anyhow!(error))?;
                        }
                    }
                });
            }
            tokio::select! {
                Some(failed) = receivers.join_next() => failed??,
                stopped = cue::told_to_stop() => stopped?,
            }
        }
    }
    println!("{}", serde_json::to_string(&meter.read()?)?);
    std::process::exit(0);
}
