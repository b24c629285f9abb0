#![doc = include_str!("trace.md")]

use std::sync::Arc;

use tracing::field::{Empty, debug};
use tracing::{Instrument, Level, Span, debug_span, span};

use crate::backend::{Backend, Lane};
use crate::envelope::Envelope;
use crate::error::Result;
use crate::event::EventId;
use crate::redact::Shown;

/// Of the spans that a trace is made of. Where no trace is exported they would only make the lines of a log long.
const LEVEL: Level = if cfg!(feature = "otel") { Level::INFO } else { Level::DEBUG };

/// Makes spans. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Tracer(Arc<Names>);

/// What OpenTelemetry calls the backend and its queues.
#[derive(Default)]
struct Names {
    system: String,
    queues: [String; Lane::ALL.len()],
}

impl Tracer {
    pub(crate) fn new(backend: &dyn Backend) -> Self {
        let system = match backend.name() {
            "sqs" => "aws_sqs",
            other => other,
        };
        Tracer(Arc::new(Names { system: system.to_owned(), queues: Lane::ALL.map(|lane| backend.queue_name(lane)) }))
    }

    fn queue(&self, lane: Lane) -> &str {
        &self.0.queues[lane as usize]
    }

    /// Of events of one kind that are signalled, within what the caller is in.
    pub(crate) fn signal(&self, kind: &str) -> Span {
        span!(
            LEVEL,
            "signal",
            otel.name = %format_args!("signal {}", Shown(kind)),
            otel.kind = "producer",
            otel.status_code = Empty,
            messaging.system = self.0.system,
            messaging.operation.name = "signal",
            messaging.operation.type = "send",
            messaging.destination.name = self.queue(Lane::Message),
            messaging.message.id = Empty,
            messaging.batch.message_count = Empty,
            dawdle.kind = %Shown(kind),
            error.type = Empty,
        )
    }

    /// Of one request for messages.
    pub(crate) fn receive(&self, lane: Lane) -> Span {
        debug_span!(
            parent: None,
            "receive",
            otel.name = %format_args!("receive {}", self.queue(lane)),
            otel.kind = "client",
            messaging.system = self.0.system,
            messaging.operation.name = "receive",
            messaging.operation.type = "receive",
            messaging.destination.name = self.queue(lane),
            messaging.batch.message_count = Empty,
        )
    }

    /// Of an event that goes on to another queue, or back to its own.
    pub(crate) fn hop(&self, what: &'static str, to: Lane, envelope: &Envelope) -> Span {
        let span = debug_span!(
            parent: None,
            "hop",
            otel.name = %format_args!("{what} {}", Shown(&envelope.kind)),
            otel.kind = "internal",
            messaging.system = self.0.system,
            messaging.operation.name = what,
            messaging.destination.name = self.queue(to),
            messaging.message.id = %Shown(envelope.id.as_str()),
            dawdle.kind = %Shown(&envelope.kind),
            traceparent = envelope.traceparent.as_deref().map(|text| tracing::field::display(Shown(text))),
        );
        join(&span, envelope);
        span
    }

    /// Of an event that is due: of all its handlers.
    pub(crate) fn dispatch(&self, envelope: &Envelope) -> Span {
        let span = span!(
            parent: None,
            LEVEL,
            "dispatch",
            otel.name = %format_args!("dispatch {}", Shown(&envelope.kind)),
            otel.kind = "consumer",
            messaging.system = self.0.system,
            messaging.operation.name = "dispatch",
            messaging.operation.type = "process",
            messaging.destination.name = self.queue(Lane::Message),
            messaging.message.id = %Shown(envelope.id.as_str()),
            dawdle.kind = %Shown(&envelope.kind),
            traceparent = envelope.traceparent.as_deref().map(|text| tracing::field::display(Shown(text))),
        );
        join(&span, envelope);
        span
    }

    /// Of one run of a handler, within the dispatch of its event.
    pub(crate) fn handler(&self, handler: &str, attempt: u32, envelope: &Envelope) -> Span {
        span!(
            LEVEL,
            "handler",
            otel.name = %format_args!("handle {handler}"),
            otel.kind = "internal",
            otel.status_code = Empty,
            messaging.system = self.0.system,
            messaging.operation.name = "handle",
            messaging.operation.type = "process",
            messaging.destination.name = self.queue(Lane::Message),
            messaging.message.id = %Shown(envelope.id.as_str()),
            dawdle.kind = %Shown(&envelope.kind),
            dawdle.handler = handler,
            dawdle.attempt = attempt,
            dawdle.outcome = Empty,
            error.type = Empty,
        )
    }
}

/// Notes that what a span is about has failed, in a word.
pub(crate) fn failed(span: &Span, why: impl tracing::Value) {
    span.record("otel.status_code", "ERROR").record("error.type", why);
}

/// Sends one event within its span, and notes there what went wrong.
pub(crate) async fn sending(span: Span, send: impl Future<Output = Result<EventId>>) -> Result<EventId> {
    let sent = send.instrument(span.clone()).await;
    if let Err(error) = &sent {
        failed(&span, debug(error.kind()));
    }
    sent
}

/// Lets an envelope carry a span's context, unless it carries one already.
#[cfg(feature = "otel")]
pub(crate) fn carry(span: &Span, envelope: &mut Envelope) {
    use opentelemetry::trace::TraceContextExt as _;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;
    if envelope.traceparent.is_some() {
        if let Some(made_in) = carried(envelope) {
            span.add_link(made_in);
        }
        return;
    }
    // Where Dawdle's spans are filtered out, the caller's is next.
    let context = if span.is_disabled() { Span::current().context() } else { span.context() };
    let context = context.span().span_context().clone();
    if context.is_valid() {
        let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags().to_u8());
        let state = context.trace_state().header();
        envelope.traceparent = Some(format!("00-{trace}-{span}-{flags:02x}"));
        envelope.tracestate = (!state.is_empty()).then_some(state);
    }
}

#[cfg(not(feature = "otel"))]
pub(crate) fn carry(_: &Span, _: &mut Envelope) {}

/// Puts the handling of an event into the trace that it was signalled in: as a child, where it was due at
/// once; by a link from a trace of its own, where that trace may be long over.
#[cfg(feature = "otel")]
fn join(span: &Span, envelope: &Envelope) {
    use opentelemetry::Context;
    use opentelemetry::trace::TraceContextExt as _;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;
    if span.is_disabled() {
        return;
    }
    let Some(context) = carried(envelope) else { return };
    if envelope.due.is_some_and(|due| due > envelope.time) {
        span.add_link(context);
    } else if let Err(error) = span.set_parent(Context::new().with_remote_span_context(context)) {
        tracing::debug!("event {} is not put into its trace: {error}", envelope.id);
    }
}

#[cfg(not(feature = "otel"))]
fn join(_: &Span, _: &Envelope) {}

/// The context that an envelope carries, where it is one.
#[cfg(feature = "otel")]
fn carried(envelope: &Envelope) -> Option<opentelemetry::trace::SpanContext> {
    use crate::envelope::is_traceparent;
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
    let parent = envelope.traceparent.as_deref().filter(|text| is_traceparent(text))?;
    let mut parts = parent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()? & TraceFlags::SAMPLED.to_u8());
    let state: TraceState = envelope.tracestate.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default();
    Some(SpanContext::new(trace, span, flags, true, state))
}
