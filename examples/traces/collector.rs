//! A collector on loopback that keeps what it is sent: OTLP over HTTP, as a real one takes it on port 4318.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;

#[derive(Clone, Default)]
pub(crate) struct Collector(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// Listens on a free port, for as long as the runtime lives.
    pub(crate) async fn start() -> std::io::Result<(Self, SocketAddr)> {
        let collector = Collector::default();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let routes = axum::Router::new().route("/v1/traces", post(take)).with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok((collector, address))
    }

    /// What has come so far, in the order of beginning.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        spans.sort_by_key(|span| span.start_time_unix_nano);
        spans
    }
}

async fn take(State(Collector(kept)): State<Collector>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    kept.extend(scopes.flat_map(|scope| scope.spans));
    StatusCode::OK
}
