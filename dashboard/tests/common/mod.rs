//! A node on a local file of its own, with handlers that do as events tell them, and its dashboard.

// Each test binary uses its part.
#![allow(dead_code, reason = "shared by several test binaries")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request, StatusCode};
use dawdle::backend::local::{LocalBackend, LocalOptions};
use dawdle::backend::{Backend, Lane, LaneStats, Outgoing};
use dawdle::{Config, Dawdle, Event, Failure, Outcome, handlers};
use dawdle_dashboard::{Dashboard, Stop};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

/// An event, and what its handlers are to do.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "order.paid")]
pub(crate) struct OrderPaid {
    pub(crate) order: u64,
    /// What the charge says.
    pub(crate) error: Option<String>,
    /// For how long the receipt takes.
    pub(crate) millis: u64,
}

#[dawdle::handler]
async fn charge(event: &OrderPaid) -> Outcome {
    match &event.error {
        Some(error) => Err(Failure::dead_letter(error.clone())),
        None => Ok(()),
    }
}

#[dawdle::handler]
async fn receipt(event: &OrderPaid) -> Outcome {
    tokio::time::sleep(Duration::from_millis(event.millis)).await;
    Ok(())
}

pub(crate) fn fine(order: u64) -> OrderPaid {
    OrderPaid { order, error: None, millis: 0 }
}

pub(crate) fn failing(order: u64, error: &str) -> OrderPaid {
    OrderPaid { order, error: Some(error.to_owned()), millis: 0 }
}

/// A folder with a queue, a node on it, and the node's dashboard.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) queue: Arc<LocalBackend>,
    pub(crate) dawdle: Dawdle,
    pub(crate) router: Router,
    pub(crate) stop: Stop,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// Where somebody on this machine asks from.
pub(crate) const HERE: &str = "127.0.0.1:50000";

impl Place {
    /// One whose node runs the handlers.
    pub(crate) async fn node() -> Place {
        Place::with(true, |dashboard| dashboard).await
    }

    /// One without handlers, and with this many dead letters.
    pub(crate) async fn letters(count: u64) -> Place {
        let place = Place::with(false, |dashboard| dashboard).await;
        place.bury(1..=count).await;
        place
    }

    pub(crate) async fn with(handles: bool, make: impl FnOnce(Dashboard) -> Dashboard) -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        let queue = LocalBackend::open(folder.path().join("queue.db"), LocalOptions::default()).await;
        let queue = Arc::new(queue.expect("a queue"));
        let builder = Dawdle::builder().config(Config::default()).backend(Arc::clone(&queue)).discover(false);
        let dawdle = match handles {
            true => builder.handlers(handlers![charge, receipt]).start().await,
            false => builder.listener(false).start().await,
        };
        let dawdle = dawdle.expect("a node");
        let dashboard = Dashboard::new(dawdle.clone()).audit_log(folder.path().join("audit.jsonl")).who("ann@desk");
        let (router, stop) = make(dashboard).into_parts();
        Place { folder, queue, dawdle, router, stop }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts dead letters of numbers on the queue.
    pub(crate) async fn bury(&self, numbers: impl IntoIterator<Item = u64>) {
        let bodies: Vec<Value> = numbers.into_iter().map(letter).collect();
        self.put(bodies.iter().map(Value::to_string)).await;
    }

    /// Puts bodies among the dead letters.
    pub(crate) async fn put(&self, bodies: impl IntoIterator<Item = String>) {
        let messages: Vec<Outgoing> = bodies.into_iter().map(Outgoing::new).collect();
        for batch in messages.chunks(100) {
            for sent in self.queue.send(Lane::Dead, batch).await {
                sent.expect("sent");
            }
        }
    }

    pub(crate) async fn stats(&self, lane: Lane) -> LaneStats {
        self.queue.inspect(lane).await.expect("counts")
    }

    /// The bodies that can be received from a queue, as JSON.
    pub(crate) async fn events(&self, lane: Lane) -> Vec<Value> {
        let taken = self.queue.browse(lane, 100, Duration::from_secs(1)).await.expect("a look");
        taken.iter().map(|delivery| serde_json::from_str(&delivery.body).expect("an event")).collect()
    }

    /// Asks as somebody on this machine.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(request("GET", path), Body::empty()).await
    }

    pub(crate) async fn ask(&self, request: axum::http::request::Builder, body: Body) -> Answer {
        ask(&self.router, request.body(body).expect("a request")).await
    }

    /// Sends a form as a browser does that has got the page before.
    pub(crate) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let token = self.form_token().await;
        let fields = [&[("form_token", token.as_str())], fields].concat();
        self.ask(browser("POST", path), form(&fields)).await
    }

    /// What the forms of a page have.
    pub(crate) async fn form_token(&self) -> String {
        let page = self.get("/dead").await.body;
        let page = if page.contains("form_token") { page } else { self.get("/overview").await.body };
        token_in(&page).unwrap_or_else(|| panic!("no form: {page}"))
    }

    /// Waits until the job has ended; its page.
    pub(crate) async fn job(&self) -> String {
        for _ in 0..2_000 {
            let page = self.get("/job").await.body;
            if !page.contains("Under way") && !page.contains("Stopping") {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the job has not ended within 10 s");
    }

    /// The lines of the audit log: who, what, outcome and count.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("audit.jsonl")).unwrap_or_default();
        let line = |line: &str| -> Value {
            let line: Value = serde_json::from_str(line).expect("a line of JSON");
            json!([line["who"], line["what"], line["outcome"], line["count"]])
        };
        text.lines().map(line).collect()
    }
}

/// The token of the forms of a page.
pub(crate) fn token_in(page: &str) -> Option<String> {
    let (_, rest) = page.split_once(r#"name="form_token" value=""#)?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// A request from this machine, as a program makes it.
pub(crate) fn request(method: &str, path: &str) -> axum::http::request::Builder {
    let here: SocketAddr = HERE.parse().expect("an address");
    Request::builder().method(method).uri(path).header("host", "localhost:7878").extension(ConnectInfo(here))
}

/// The same as a browser makes it, from a page of the dashboard.
pub(crate) fn browser(method: &str, path: &str) -> axum::http::request::Builder {
    request(method, path).header("origin", "http://localhost:7878").header("sec-fetch-site", "same-origin")
}

pub(crate) fn form(fields: &[(&str, &str)]) -> Body {
    let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    Body::from(text)
}

pub(crate) async fn ask(router: &Router, request: Request<Body>) -> Answer {
    let (parts, body) = router.clone().oneshot(request).await.expect("an answer").into_parts();
    let body = to_bytes(body, 16 * 1024 * 1024).await.expect("a body");
    let body = String::from_utf8(body.to_vec()).expect("text");
    Answer { status: parts.status, headers: parts.headers, body }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

/// The id of the letter of a number.
pub(crate) fn id(number: u64) -> String {
    format!("event-{number:04}")
}

/// A dead letter as it is on the queue. Every third died of another handler's error.
pub(crate) fn letter(number: u64) -> Value {
    let (handler, error) = match number % 3 {
        0 => ("charge", format!("card {number} was refused")),
        _ => ("receipt", format!("no account {number} in shard 0x{number:x}")),
    };
    json!({
        "specversion": "1.0",
        "id": id(number),
        "source": "shop",
        "type": if number.is_multiple_of(3) { "order.paid" } else { "mail.send" },
        "time": "2026-01-02T03:04:05.000Z",
        "datacontenttype": "application/json",
        "handler": handler,
        "attempt": 25,
        "deadreason": if number.is_multiple_of(2) { "attempts" } else { "gone" },
        "deaderror": error,
        "deadtime": format!("2026-01-{:02}T00:00:00.000Z", 3 + number % 20),
        "deadversion": format!("1.{}", number % 2),
        "data": { "order": number, "error": null, "millis": 0 },
    })
}

/// Waits for what must come, and looks often.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is: impl FnMut() -> F) {
    for _ in 0..6_000 {
        if is().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 30 s: {what}");
}

/// Serves a router on loopback for as long as the test lives; where.
pub(crate) async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(
        async move { axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await },
    );
    format!("http://{address}")
}
