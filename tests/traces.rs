//! What tracing tools see of an event: its signal, each hop, its dispatch and the runs of its handlers, in
//! one trace or by links between traces.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dawdle::testing::Harness;
use dawdle::{Context, Envelope, ErrorKind, Event, Filter, Outcome};
use opentelemetry::trace::{SpanKind, Status, TracerProvider as _};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::SubscriberExt as _;

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "traces.ordered")]
struct Ordered {
    fails: u32,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "traces.invoiced")]
struct Invoiced;

#[dawdle::handler(attempts = 2, backoff = "10s")]
async fn invoice(event: &Ordered, cx: &Context) -> Outcome {
    if cx.attempt() <= event.fails {
        return Err("the printer is on fire".into());
    }
    cx.dawdle().signal(Invoiced).await?;
    Ok(())
}

#[dawdle::handler]
async fn file(_: &Invoiced) -> Outcome {
    Ok(())
}

/// Everything that is exported while it lives, on this thread.
struct Traces {
    exporter: InMemorySpanExporter,
    _provider: SdkTracerProvider,
    _guard: DefaultGuard,
}

impl Traces {
    fn collect() -> Self {
        Traces::filtered("dawdle::trace=debug,traces=info")
    }

    fn filtered(filter: &str) -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let filter = tracing_subscriber::EnvFilter::new(filter);
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(filter).with(layer));
        Traces { exporter, _provider: provider, _guard: guard }
    }

    fn spans(&self) -> Vec<SpanData> {
        self.exporter.get_finished_spans().unwrap()
    }

    fn named(&self, name: &str) -> Vec<SpanData> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    /// The only span of that name.
    fn one(&self, name: &str) -> SpanData {
        let names: Vec<_> = self.spans().into_iter().map(|span| span.name).collect();
        match &mut self.named(name)[..] {
            [span] => span.clone(),
            _ => panic!("not one `{name}` among {names:?}"),
        }
    }
}

fn attribute(span: &SpanData, name: &str) -> Option<String> {
    span.attributes.iter().find(|it| it.key.as_str() == name).map(|it| it.value.to_string())
}

fn is_child(child: &SpanData, parent: &SpanData) -> bool {
    child.parent_span_id == parent.span_context.span_id()
        && child.span_context.trace_id() == parent.span_context.trace_id()
}

/// Whether a span begins a trace, and points to another span.
fn is_linked(span: &SpanData, to: &SpanData) -> bool {
    let is = |link: &opentelemetry::trace::Link| {
        link.span_context.span_id() == to.span_context.span_id()
            && link.span_context.trace_id() == to.span_context.trace_id()
    };
    span.span_context.trace_id() != to.span_context.trace_id() && span.links.iter().any(is)
}

async fn harness() -> Harness {
    Harness::builder().only_handlers(["invoice", "file"]).start().await.unwrap()
}

#[tokio::test]
async fn an_immediate_events_handling_is_a_child_of_its_signal_and_so_is_what_it_signals() {
    let traces = Traces::collect();
    let test = harness().await;
    test.signal(Ordered { fails: 0 }).await.unwrap();
    test.drain().await;
    let (signal, dispatch) = (traces.one("signal traces.ordered"), traces.one("dispatch traces.ordered"));
    let handle = traces.one("handle invoice");
    assert!(is_child(&dispatch, &signal) && is_child(&handle, &dispatch));
    assert!(dispatch.parent_span_is_remote && !handle.parent_span_is_remote);
    let (next, then) = (traces.one("signal traces.invoiced"), traces.one("dispatch traces.invoiced"));
    assert!(is_child(&next, &handle) && is_child(&then, &next) && is_child(&traces.one("handle file"), &then));
    assert_eq!((signal.span_kind, dispatch.span_kind), (SpanKind::Producer, SpanKind::Consumer));
}

#[tokio::test]
async fn a_delayed_events_handling_is_a_trace_of_its_own_that_links_to_its_signal_through_every_hop() {
    let traces = Traces::collect();
    let test = harness().await;
    test.signal(Ordered { fails: 0 }).delay(Duration::from_secs(86_400)).await.unwrap();
    test.drain_scheduled().await;
    let signal = traces.one("signal traces.ordered");
    assert!(is_linked(&traces.one("dispatch traces.ordered"), &signal));
    let forwarded = traces.one("forward traces.ordered");
    assert!(is_linked(&forwarded, &signal));
    assert_eq!(attribute(&forwarded, "messaging.operation.name").as_deref(), Some("forward"));
    assert!(!traces.named("park traces.ordered").is_empty());
}

#[tokio::test]
async fn retries_dead_letters_and_replays_link_to_the_signal_and_say_what_went_wrong() {
    let traces = Traces::collect();
    let test = harness().await;
    let id = test.signal(Ordered { fails: 2 }).await.unwrap();
    test.drain_scheduled().await;
    test.dawdle().dead_letters().replay_where(Filter::default()).await.unwrap();
    test.drain_scheduled().await;
    let signal = traces.one("signal traces.ordered");
    let runs = traces.named("handle invoice");
    let shown: Vec<_> = runs
        .iter()
        .map(|run| (attribute(run, "dawdle.attempt").unwrap(), attribute(run, "dawdle.outcome").unwrap()))
        .collect();
    let run = |attempt: &str, outcome: &str| (attempt.to_owned(), outcome.to_owned());
    // A replay begins its attempts afresh, and is given up once more.
    assert_eq!(shown, [run("1", "retry"), run("2", "retry"), run("1", "retry"), run("2", "retry")]);
    for run in &runs {
        assert_eq!(attribute(run, "error.type").as_deref(), Some("retry"));
        assert_eq!(attribute(run, "messaging.message.id").as_deref(), Some(id.as_str()));
        assert!(matches!(run.status, Status::Error { .. }));
    }
    let dispatches = traces.named("dispatch traces.ordered");
    assert!(is_child(&dispatches[0], &signal));
    assert!(dispatches.len() == 4 && dispatches[1..].iter().all(|dispatch| is_linked(dispatch, &signal)));
    for hop in ["send_again traces.ordered", "dead_letter traces.ordered"] {
        let hops = traces.named(hop);
        assert!(hops.len() == 2 && hops.iter().all(|hop| is_linked(hop, &signal)), "{hop}");
    }
    let letter = &test.dead_letters().await[0];
    assert!(letter.envelope.attribute("traceparent").unwrap().contains(&signal.span_context.trace_id().to_string()));
}

#[tokio::test]
async fn an_outbox_keeps_the_trace_that_the_event_was_made_in() {
    let traces = Traces::collect();
    let test = harness().await;
    let request = tracing::info_span!("request");
    let envelope = request.in_scope(|| test.signal(Invoiced).into_envelope()).unwrap();
    drop(request);
    let kept = serde_json::to_string(&envelope).unwrap();
    test.dawdle().send(serde_json::from_str(&kept).unwrap()).await.unwrap();
    test.drain().await;
    let (request, sent) = (traces.one("request"), traces.one("signal traces.invoiced"));
    assert!(is_child(&traces.one("dispatch traces.invoiced"), &request));
    assert!(is_linked(&sent, &request), "the sending points to where the event was made");
}

#[tokio::test]
async fn an_event_carries_its_callers_trace_where_dawdles_spans_are_filtered_out() {
    let traces = Traces::filtered("off,traces=info");
    let test = harness().await;
    async { test.signal(Ordered { fails: 9 }).await.unwrap() }.instrument(tracing::info_span!("request")).await;
    test.drain_scheduled().await;
    let request = traces.one("request").span_context;
    let carried = format!("00-{}-{}-01", request.trace_id(), request.span_id());
    assert_eq!(test.dead_letters().await[0].envelope.attribute("traceparent"), Some(carried.as_str()));
}

#[tokio::test]
async fn events_that_are_signalled_together_share_one_span() {
    let traces = Traces::collect();
    let test = harness().await;
    let answers = test.dawdle().signal_all((0..3).map(|_| Invoiced)).await;
    assert!(answers.iter().all(Result::is_ok));
    test.drain().await;
    let signal = traces.one("signal traces.invoiced");
    assert_eq!(attribute(&signal, "messaging.batch.message_count").as_deref(), Some("3"));
    let dispatches = traces.named("dispatch traces.invoiced");
    assert!(dispatches.len() == 3 && dispatches.iter().all(|dispatch| is_child(dispatch, &signal)));
}

#[tokio::test]
async fn a_trace_of_another_program_goes_on_and_what_is_none_does_no_harm() {
    let traces = Traces::collect();
    let test = harness().await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut envelope = Envelope::new(Invoiced).unwrap();
    envelope.set_trace_context(parent, Some("vendor=1")).unwrap();
    test.dawdle().send(envelope.clone()).await.unwrap();
    test.drain().await;
    let dispatch = traces.one("dispatch traces.invoiced");
    assert_eq!(dispatch.span_context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(dispatch.parent_span_id.to_string(), "00f067aa0ba902b7");
    assert_eq!(dispatch.span_context.trace_state().header(), "vendor=1");

    let broken =
        serde_json::to_string(&envelope.with_id(dawdle::EventId::new())).unwrap().replace(parent, "00-nonsense");
    test.dawdle().send(serde_json::from_str(&broken).unwrap()).await.unwrap();
    test.drain().await;
    assert_eq!(test.runs("file"), 2);
}

#[tokio::test]
async fn what_is_no_trace_context_is_refused() {
    let mut envelope = Envelope::new(Invoiced).unwrap();
    let error = envelope.set_trace_context("00-nonsense", None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("`00-nonsense` is no traceparent"), "{error}");
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert!(envelope.set_trace_context(parent, Some(&"a".repeat(513))).is_err());
}

#[tokio::test]
async fn a_signal_that_fails_says_so_in_its_span() {
    let traces = Traces::collect();
    let test = harness().await;
    test.signal(Invoiced).at(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40)).await.unwrap_err();
    let signal = traces.one("signal traces.invoiced");
    assert_eq!(attribute(&signal, "error.type").as_deref(), Some("Invalid"));
    assert!(matches!(signal.status, Status::Error { .. }));
}

/// The names of the fields are what dashboards and alerts are made of.
#[tokio::test]
async fn the_spans_and_their_fields_are_those_of_the_documentation() {
    let traces = Traces::collect();
    let test = harness().await;
    test.signal(Ordered { fails: 9 }).delay(Duration::from_secs(3_600)).await.unwrap();
    test.dawdle().signal_all([Invoiced, Invoiced]).await;
    test.signal(Invoiced).at(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40)).await.unwrap_err();
    test.drain_scheduled().await;
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // Of the exporter's own making.
    let own = |name: &str| {
        name.starts_with("code.") || name.starts_with("thread.") || matches!(name, "busy_ns" | "idle_ns" | "target")
    };
    for span in traces.spans() {
        let fields: BTreeSet<String> = span.attributes.iter().map(|it| it.key.to_string()).collect();
        let operation = attribute(&span, "messaging.operation.name").unwrap();
        let name = match operation.as_str() {
            "signal" | "receive" | "dispatch" => operation,
            "handle" => "handler".to_owned(),
            _ => "hop".to_owned(),
        };
        seen.entry(name).or_default().extend(fields.into_iter().filter(|name| !own(name)));
    }
    let mut documented: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let page = include_str!("../src/trace.md");
    for row in page.lines().filter(|line| {
        line.starts_with("| `messaging.")
            || line.starts_with("| `dawdle.")
            || line.starts_with("| `error.")
            || line.starts_with("| `traceparent`")
    }) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let spans = match cells[2] {
            "all" => "signal, receive, hop, dispatch, handler",
            spans => spans,
        };
        for span in spans.split(", ") {
            documented
                .entry(span.trim_matches('`').to_owned())
                .or_default()
                .insert(cells[1].trim_matches('`').to_owned());
        }
    }
    assert_eq!(seen, documented);
}
