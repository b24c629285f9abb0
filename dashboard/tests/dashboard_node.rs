//! What the overview says of a node and its handlers, and what it changes.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use dawdle::backend::Lane;
use dawdle::backend::memory::{Action, Fault, MemoryBackend};
use dawdle::{Clock, Config, Dawdle, ErrorKind};
use dawdle_dashboard::Dashboard;
use serde_json::json;

use common::{OrderPaid, Place, ask, failing, fine, request, until};

mod common;

#[tokio::test]
async fn what_handlers_did_and_how_they_failed_is_on_the_overview() {
    let place = Place::node().await;
    for order in 1..=9 {
        place.dawdle.signal(fine(order)).await.expect("signalled");
    }
    place.dawdle.signal(failing(10, "card <b>4242</b> was refused")).await.expect("signalled");
    until("all have run", || async {
        place.dawdle.activity().handlers.iter().map(|handler| handler.runs).sum::<u64>() == 20
    })
    .await;
    let page = place.get("/overview").await.body;
    for shown in [
        "Running",
        "order.paid",
        "charge",
        "receipt",
        "<strong class=\"bad\">10 %</strong> (1)",
        "card &lt;b&gt;4242&lt;/b&gt; was refused",
        "href=\"dead?handler=charge&amp;kind=order.paid&amp;view=each\"",
        "aria-label=\"Permits in use\"",
        "Nothing is billed",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    assert!(!page.contains("<b>4242"));
    place.dawdle.shutdown().await;
}

#[tokio::test]
async fn a_queue_that_cannot_be_written_to_is_on_the_overview() {
    let queue = MemoryBackend::new(Clock::default());
    queue.fail(Fault::error(Action::Send, ErrorKind::Queue).on(Lane::Dead).times(u32::MAX));
    let dawdle = Dawdle::builder().config(Config::default()).backend(queue).start().await.expect("a node");
    let (router, _stop) = Dashboard::new(dawdle.clone()).into_parts();
    dawdle.signal(failing(1, "no use")).await.expect("signalled");
    until("it is held up", || async { !dawdle.health().held_up.is_empty() }).await;
    let request = request("GET", "/overview").body(Body::empty()).expect("a request");
    let page = ask(&router, request).await.body;
    assert!(
        page.contains("The dead-letter queue cannot be written to since") && page.contains("1 message waits"),
        "{page}"
    );
}

#[tokio::test]
async fn a_process_without_handlers_says_so_in_place_of_empty_tables() {
    let place = Place::letters(3).await;
    let page = place.get("/overview").await.body;
    assert!(page.contains("No handlers here") && page.contains("No handlers run in this process"), "{page}");
    assert!(
        !page.contains("action=\"pause\"") && !page.contains("action=\"concurrency\""),
        "there is nothing to pause"
    );
}

#[tokio::test]
async fn a_node_is_paused_resumed_and_resized_and_that_is_noted() {
    let place = Place::node().await;
    let paused = place.post("/pause", &[]).await;
    assert_eq!((paused.status, paused.header("location")), (StatusCode::SEE_OTHER, "overview?done=paused#node"));
    assert!(place.dawdle.is_paused());
    let page = place.get("/overview?done=paused").await.body;
    assert!(page.contains("This node is paused") && page.contains("action=\"resume\""), "{page}");
    place.dawdle.signal(fine(1)).await.expect("signalled");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(place.dawdle.activity().handlers.is_empty(), "nothing runs");
    assert_eq!(place.post("/resume", &[]).await.status, StatusCode::SEE_OTHER);
    until("it runs", || async { place.dawdle.activity().handlers.len() == 2 }).await;
    assert_eq!(place.post("/concurrency", &[("concurrency", "7")]).await.status, StatusCode::SEE_OTHER);
    assert_eq!(place.dawdle.concurrency(), 7);
    let what = |line: &serde_json::Value| json!([line[1], line[2]]);
    let noted: Vec<_> = place.audit().iter().map(what).collect();
    let pairs = ["pause", "resume", "concurrency"].map(|what| [json!([what, "begun"]), json!([what, "done"])]);
    assert_eq!(noted, pairs.concat());
    place.dawdle.shutdown().await;
}

#[tokio::test]
async fn a_concurrency_that_cannot_be_is_refused() {
    let place = Place::node().await;
    let before = place.dawdle.concurrency();
    for wrong in ["0", "-1", "many", "", "1000001", "99999999999999999999"] {
        let answer = place.post("/concurrency", &[("concurrency", wrong)]).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    assert_eq!(place.dawdle.concurrency(), before);
    place.dawdle.shutdown().await;
}

#[tokio::test]
async fn permits_in_use_are_counted_while_handlers_run() {
    let place = Place::node().await;
    place.dawdle.set_concurrency(4).expect("a concurrency");
    for order in 1..=3 {
        place.dawdle.signal(OrderPaid { order, error: None, millis: 3_000 }).await.expect("signalled");
    }
    until("three run", || async { place.dawdle.activity().running == 3 }).await;
    assert!(place.get("/overview").await.body.contains("3 of 4 (75 %)"));
}
