//! Spans as a collector gets them: real threads, a real exporter, OTLP over HTTP on loopback. One test, for
//! a process has one subscriber.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dawdle::backend::local::{LocalBackend, LocalOptions};
use dawdle::{Dawdle, Event, Outcome};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

#[path = "../examples/traces/collector.rs"]
mod collector;

use collector::Collector;

static RUNS: AtomicU32 = AtomicU32::new(0);

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "otlp.paid")]
struct Paid;

#[dawdle::handler(backoff = "100ms")]
async fn ship(_: &Paid) -> Outcome {
    async {}.instrument(tracing::info_span!("own work")).await;
    match RUNS.fetch_add(1, Ordering::SeqCst) {
        0 => Err("no van".into()),
        _ => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_sent_the_trace_of_an_event_and_of_its_retry() {
    let (collector, address) = Collector::start().await.unwrap();
    let exporter = SpanExporter::builder().with_http().with_endpoint(format!("http://{address}/v1/traces"));
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter.build().unwrap()).build();
    let filter = tracing_subscriber::EnvFilter::new("dawdle=info,traces_otlp=info");
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing_subscriber::registry().with(filter).with(layer).init();

    let folder = tempfile::tempdir().unwrap();
    let backend = LocalBackend::open(folder.path().join("queue.db"), LocalOptions::default()).await.unwrap();
    let dawdle = Dawdle::builder().backend(backend).only_handlers(["ship"]).start().await.unwrap();
    async { dawdle.signal(Paid).await.unwrap() }.instrument(tracing::info_span!("request")).await;
    while RUNS.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    dawdle.shutdown().await;
    tokio::task::spawn_blocking(move || provider.shutdown()).await.unwrap().unwrap();

    let spans = collector.spans();
    let named = |name: &str| -> Vec<&Span> { spans.iter().filter(|span| span.name == name).collect() };
    let one = |name: &str| match &named(name)[..] {
        [span] => *span,
        found => panic!("{} spans `{name}` among {spans:#?}", found.len()),
    };
    let is_child =
        |child: &Span, parent: &Span| child.parent_span_id == parent.span_id && child.trace_id == parent.trace_id;
    let (request, signal) = (one("request"), one("signal otlp.paid"));
    assert!(is_child(signal, request));
    let [first, again] = named("dispatch otlp.paid")[..] else { panic!("{spans:#?}") };
    assert!(is_child(first, signal));
    assert!(again.trace_id != first.trace_id && again.links.iter().any(|link| link.span_id == signal.span_id));
    let runs = named("handle ship");
    assert!(is_child(runs[0], first) && is_child(runs[1], again));
    // What a handler does is within its span, and what is logged of a failure, too.
    assert!(named("own work").iter().zip(&runs).all(|(work, run)| is_child(work, run)));
    assert!(runs[0].events.iter().any(|event| event.name.starts_with("failed, again in")), "{:#?}", runs[0].events);
}
