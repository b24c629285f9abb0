//! Traces in a collector: a signal, its handling, and what a handler signals in turn are one trace; what is
//! handled later is another that links to the first.
//!
//! ```sh
//! cargo run --example traces --features otel
//! OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 cargo run --example traces --features otel
//! ```
//!
//! Without an endpoint it starts a collector of its own, and prints what that was sent.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dawdle::{Context, Dawdle, Event, Outcome};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

mod collector;

use collector::Collector;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "example.traces.paid")]
struct Paid {
    order: u64,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "example.traces.thank")]
struct Thank {
    order: u64,
}

#[dawdle::handler]
async fn ship(paid: &Paid, cx: &Context) -> Outcome {
    let thanks = || Thank { order: paid.order };
    cx.dawdle().signal(thanks()).await?;
    cx.dawdle().signal(thanks()).delay(Duration::from_millis(300)).await?;
    Ok(())
}

#[dawdle::handler]
async fn thank(thanks: &Thank) -> Outcome {
    async { tracing::info!(thanks.order, "thanked") }.instrument(tracing::info_span!("smtp")).await;
    Ok(())
}

/// What an application does at its start.
fn install(endpoint: &str) -> Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder().with_http().with_endpoint(format!("{endpoint}/v1/traces")).build()?;
    let provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name("shop").build())
        .with_batch_exporter(exporter)
        .build();
    tracing_subscriber::registry()
        .with(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,dawdle::trace=info,traces=info")),
        )
        .with(tracing_opentelemetry::layer().with_tracer(provider.tracer("shop")))
        .init();
    Ok(provider)
}

#[tokio::main]
async fn main() -> Result<()> {
    let (own, address) = Collector::start().await?;
    let endpoint = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok();
    let provider = install(endpoint.as_deref().unwrap_or(&format!("http://{address}")))?;

    let dawdle = Dawdle::start().await?;
    let checkout = tracing::info_span!("POST /checkout");
    async { dawdle.signal(Paid { order: 7 }).await }.instrument(checkout).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    dawdle.shutdown().await;

    // The exporter's threads block.
    tokio::task::spawn_blocking(move || provider.shutdown()).await??;
    if let Some(endpoint) = endpoint {
        println!("exported to {endpoint}: look for the service `shop`");
        return Ok(());
    }
    let spans = own.spans();
    let root = named(&spans, "POST /checkout")?;
    print(&spans, root, 0);
    let later = spans.iter().find(|span| span.trace_id != root.trace_id).context("no second trace")?;
    println!("and, {} ms later, linked to it:", (later.start_time_unix_nano - root.start_time_unix_nano) / 1_000_000);
    print(&spans, later, 0);
    let signals: Vec<_> = spans.iter().filter(|span| span.name == "signal example.traces.thank").collect();
    ensure!(later.links.iter().any(|link| signals.iter().any(|signal| signal.span_id == link.span_id)), "no link");
    ensure!(spans.iter().filter(|span| span.name == "smtp").count() == 2, "not both were thanked: {spans:#?}");
    Ok(())
}

fn named<'a>(spans: &'a [Span], name: &str) -> Result<&'a Span> {
    spans.iter().find(|span| span.name == name).with_context(|| format!("no span `{name}`"))
}

fn print(spans: &[Span], span: &Span, depth: usize) {
    let micros = (span.end_time_unix_nano - span.start_time_unix_nano) / 1_000;
    println!("{:indent$}{} ({micros} µs)", "", span.name, indent = 2 * depth + 2);
    for child in spans.iter().filter(|child| child.parent_span_id == span.span_id) {
        print(spans, child, depth + 1);
    }
}
