//! What changes by itself.

use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream};
use axum::http::{Request, StatusCode};
use futures_util::StreamExt as _;
use tower::ServiceExt as _;

use common::{Place, failing, request};

mod common;

/// A live page that somebody looks at.
struct Viewer(BodyDataStream);

impl Viewer {
    async fn open(router: &axum::Router, page: &str) -> Viewer {
        let asked: Request<Body> =
            request("GET", &format!("/live?page={page}")).body(Body::empty()).expect("a request");
        let answer = router.clone().oneshot(asked).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Viewer(answer.into_body().into_data_stream())
    }

    /// Waits until what was pushed says this.
    async fn until(&mut self, what: &str) {
        let waiting = async {
            while let Some(pushed) = self.0.next().await {
                if String::from_utf8_lossy(&pushed.expect("an event")).contains(what) {
                    return;
                }
            }
            panic!("it ended before {what:?}");
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("no {what:?}"));
    }

    /// Whether it has ended.
    async fn ends(&mut self) -> bool {
        let rest = async { while self.0.next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(5), rest).await.is_ok()
    }
}

#[tokio::test]
async fn a_failure_is_pushed_within_two_seconds() {
    let place = Place::node().await;
    let mut viewer = Viewer::open(&place.router, "overview").await;
    viewer.until("None since the start.").await;
    let begun = Instant::now();
    place.dawdle.signal(failing(1, "the printer is on fire")).await.expect("signalled");
    viewer.until("the printer is on fire").await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    place.dawdle.shutdown().await;
}

#[tokio::test]
async fn a_job_is_watched_to_its_end() {
    let place = Place::letters(6).await;
    let mut viewer = Viewer::open(&place.router, "job").await;
    viewer.until("None yet").await;
    place.post("/replay", &[("all", "yes"), ("rate", "5")]).await;
    viewer.until("Under way").await;
    viewer.until("<strong>Done</strong>: 6 replayed.").await;
}

#[tokio::test]
async fn only_so_many_pages_are_live_and_the_others_are_told() {
    let place = Place::letters(0).await;
    let mut viewers = Vec::new();
    for _ in 0..32 {
        viewers.push(Viewer::open(&place.router, "job").await);
    }
    let refused = place.get("/live?page=job").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.body.contains("32 pages are live already"), "{}", refused.body);
    viewers.pop();
    Viewer::open(&place.router, "job").await;
    assert_eq!(place.get("/live?page=nothing").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn live_pages_end_with_the_process() {
    let place = Place::letters(0).await;
    let mut viewer = Viewer::open(&place.router, "overview").await;
    viewer.until("Queues").await;
    place.stop.stop().await;
    assert!(viewer.ends().await);
    assert_eq!(place.get("/live?page=overview").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(place.get("/overview").await.status, StatusCode::OK, "what is there can still be read");
}
