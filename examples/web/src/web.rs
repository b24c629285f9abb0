//! The shop's routes.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use dawdle::Dawdle;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};

use crate::shop::{Mailer, OrderPlaced};

/// What the routes work with.
#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) dawdle: Dawdle,
    pub(crate) mailer: Arc<Mailer>,
    pub(crate) metrics: PrometheusHandle,
}

pub(crate) fn routes(shop: Shop) -> Router {
    Router::new()
        .route("/", get(home))
        .route("/orders", post(place_order))
        .route("/mailer", put(set_mailer).get(show_mailer))
        .route("/healthz", get(health))
        .route("/metrics", get(metrics))
        .with_state(shop)
}

async fn home() -> &'static str {
    include_str!("home.txt")
}

#[derive(Serialize)]
struct Accepted {
    event: String,
}

/// The answer is given once the event is safe on the queue; its handlers run later, perhaps elsewhere.
async fn place_order(State(shop): State<Shop>, Json(order): Json<OrderPlaced>) -> Response {
    match shop.dawdle.signal(order).await {
        Ok(id) => (StatusCode::ACCEPTED, Json(Accepted { event: id.to_string() })).into_response(),
        Err(error) => {
            // It may have been sent all the same, as its `maybe_sent` says: a client that tries again may order twice,
            // which a dedupe key of the client's making would prevent.
            tracing::error!("an order was not accepted: {error}");
            (StatusCode::SERVICE_UNAVAILABLE, "try again later\n").into_response()
        }
    }
}

#[derive(Serialize, Deserialize)]
struct MailerState {
    works: bool,
}

/// The switch that breaks the handler `confirm`, and mends it.
async fn set_mailer(State(shop): State<Shop>, Json(state): Json<MailerState>) -> StatusCode {
    shop.mailer.set_works(state.works);
    StatusCode::NO_CONTENT
}

#[derive(Serialize)]
struct Sent {
    sent: u64,
}

async fn show_mailer(State(shop): State<Shop>) -> Json<Sent> {
    Json(Sent { sent: shop.mailer.sent() })
}

/// For people and load balancers. A queue that fails is no reason to restart: Dawdle resumes by itself.
async fn health(State(shop): State<Shop>) -> Response {
    let health = shop.dawdle.health();
    let status = if health.is_running() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{health:#?}\n")).into_response()
}

async fn metrics(State(shop): State<Shop>) -> String {
    shop.metrics.render()
}
