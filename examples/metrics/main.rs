//! Metrics for Prometheus: what a scrape of `http://127.0.0.1:PORT/metrics` answers.
//!
//! ```sh
//! cargo run --example metrics
//! ```

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dawdle::{Dawdle, Event, Failure, Outcome};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "example.metrics.order")]
struct Order {
    number: u64,
}

#[dawdle::handler(attempts = 3)]
async fn charge(order: &Order) -> Outcome {
    match order.number {
        7 => Err(Failure::dead_letter("the card has expired")),
        n if n % 5 == 0 => Err(Failure::retry_after(Duration::from_secs(3600), "the bank is closed")),
        _ => Ok(()),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // The recorder comes first. A fixed port is what a real program would take, such as 9000.
    let free = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let seconds = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 3600.0];
    let builder = PrometheusBuilder::new().with_http_listener(free);
    builder
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)?
        .install()
        .context("no recorder")?;
    let dawdle = Dawdle::start().await?;
    for number in 0..20 {
        dawdle.signal(Order { number }).await?;
    }

    // Gauges are brought up to date every five seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let mut connection = TcpStream::connect(free).await?;
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    for line in answer
        .lines()
        .filter(|line| line.starts_with("dawdle_") && !line.contains("_bucket") && !line.contains("quantile="))
    {
        println!("{line}");
    }
    ensure!(
        answer.contains(r#"dawdle_signalled_total{kind="example.metrics.order",due="now"} 20"#),
        "not counted: {answer}"
    );
    dawdle.shutdown().await;
    Ok(())
}
