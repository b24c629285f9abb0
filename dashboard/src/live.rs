//! Pages that change by themselves: parts of them, pushed as they change.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::Stream;
use maud::Markup;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::dashboard::{App, MOST_LIVE};
use crate::guard::Visitor;
use crate::pages;
use crate::query::Query;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);

/// For how long one stream lives. The browser asks again then, and is asked again who it is.
const LIFE: Duration = Duration::from_secs(300);

/// After what a browser asks again.
const RETRY: Duration = Duration::from_secs(2);

/// What a page wants to be told of.
#[derive(Clone, Copy, Debug)]
enum Which {
    Overview,
    Job,
}

pub(crate) async fn live(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>, uri: Uri) -> Response {
    let which = match Query::read(uri.query().unwrap_or_default()).get("page") {
        Some("overview") => Which::Overview,
        Some("job") => Which::Job,
        _ => return (StatusCode::NOT_FOUND, "There is no such live page.\n").into_response(),
    };
    if app.is_stopped() {
        return (StatusCode::SERVICE_UNAVAILABLE, "This process is about to end.\n").into_response();
    }
    let Ok(place) = Arc::clone(&app.live).try_acquire_owned() else {
        let text = format!(
            "{MOST_LIVE} pages are live already, which is the most. Close one, or load this one anew by hand.\n"
        );
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let mut response = Sse::new(stream(app, visitor, which, place)).keep_alive(KeepAlive::default()).into_response();
    // A proxy that gathers what is pushed would keep it from the page.
    response.headers_mut().insert("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
    response
}

struct Viewer {
    app: Arc<App>,
    visitor: Visitor,
    which: Which,
    ticks: tokio::time::Interval,
    ends: Instant,
    stopped: watch::Receiver<bool>,
    /// What the page has, part by part.
    has: Vec<String>,
    waiting: VecDeque<Event>,
    _place: OwnedSemaphorePermit,
}

fn stream(
    app: Arc<App>,
    visitor: Visitor,
    which: Which,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let viewer = Viewer {
        stopped: app.stopped.subscribe(),
        app,
        visitor,
        which,
        ticks,
        ends: Instant::now() + LIFE,
        has: Vec::new(),
        waiting: VecDeque::from([Event::default().event("hello").retry(RETRY).data("live")]),
        _place: place,
    };
    futures_util::stream::unfold(viewer, |mut viewer| async {
        let event = viewer.next().await?;
        Some((Ok(event), viewer))
    })
}

impl Viewer {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            let viewer = async {
                self.ticks.tick().await;
                match self.which {
                    Which::Overview => {
                        let view = self.app.sampler.look().await;
                        pages::overview_parts(&self.app, &self.visitor, &view)
                    }
                    Which::Job => vec![pages::job_part(&self.app, &self.visitor)],
                }
            };
            let parts = tokio::select! {
                parts = viewer => parts,
                () = tokio::time::sleep_until(self.ends) => return None,
                _ = self.stopped.wait_for(|stopped| *stopped) => return None,
            };
            self.push(parts);
        }
    }

    fn push(&mut self, parts: Vec<Markup>) {
        self.has.resize(parts.len(), String::new());
        for (part, has) in parts.into_iter().zip(&mut self.has) {
            let part = part.into_string();
            if part != *has {
                self.waiting.push_back(Event::default().event("part").data(part.replace('\r', "")));
                *has = part;
            }
        }
    }
}
