//! A shop on axum: requests signal events, this process or another handles them, the dashboard is at `/dawdle`,
//! Prometheus reads `/metrics`.
//!
//! ```sh
//! cargo run -p dawdle-example-web
//! ```
//!
//! `PORT` is where it listens, on loopback: 3000 by default. Its queue is `.dawdle/queue.db`, or what `DAWDLE_*`
//! says. Ctrl-C or SIGTERM ends it: first the requests under way, then the handlers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use dawdle::Dawdle;
use dawdle_dashboard::Dashboard;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

mod shop;
mod web;

use shop::Mailer;
use web::Shop;

#[tokio::main]
async fn main() -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    // Before Dawdle starts, which finds it then.
    let metrics = record_metrics()?;

    let mailer = Arc::new(Mailer::new());
    let dawdle = Dawdle::builder().state(Arc::clone(&mailer)).start().await?;

    // For this machine only, until it is told whom else to let in.
    let (dashboard, live) = Dashboard::new(dawdle.clone()).title("Shop").into_parts();
    let app = web::routes(Shop { dawdle: dawdle.clone(), mailer, metrics }).nest("/dawdle", dashboard);

    let port: u16 = match std::env::var("PORT") {
        Ok(port) => port.parse().with_context(|| format!("PORT is `{port}`, and no port"))?,
        Err(_) => 3000,
    };
    let listener = TcpListener::bind(("127.0.0.1", port)).await.with_context(|| format!("port {port} is not free"))?;
    println!("listening on http://{}", listener.local_addr()?);
    // The dashboard asks where a request comes from.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let stop = async move {
        stopped().await;
        live.stop().await;
    };
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;

    dawdle.shutdown().await;
    Ok(())
}

/// Keeps what is measured, for `/metrics`.
fn record_metrics() -> Result<PrometheusHandle> {
    let seconds = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 3600.0];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)?
        .install_recorder()?;
    let kept = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            kept.run_upkeep();
        }
    });
    Ok(handle)
}

/// Ctrl-C, or SIGTERM.
async fn stopped() {
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}
