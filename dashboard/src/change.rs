//! What changes something. Each is noted before it is done, and not done where that cannot be noted; the
//! [guard](crate::guard) has let it pass.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use dawdle_workbench::{Audit, Unnoted};
use serde_json::{Value, json};

use crate::access::Gate;
use crate::dashboard::App;
use crate::guard::{Form, Visitor};
use crate::jobs::{self, NotBegun, What};
use crate::pages;
use crate::query::Wrong;
use crate::secret;
use crate::sessions::LIFE;

/// To another page, once something is done.
fn to(page: &str) -> Response {
    match HeaderValue::from_str(page) {
        Ok(page) => (StatusCode::SEE_OTHER, [(header::LOCATION, page)]).into_response(),
        Err(_) => StatusCode::SEE_OTHER.into_response(),
    }
}

fn wrong(app: &App, wrong: &Wrong) -> Response {
    let text = format!("{} (in the field “{}”) Nothing was done.", sentence(&wrong.why), wrong.field);
    (StatusCode::BAD_REQUEST, pages::message(app, "That cannot be", &text)).into_response()
}

fn sentence(text: &str) -> String {
    let mut text = text.to_owned();
    if let Some(first) = text.get(..1) {
        let first = first.to_ascii_uppercase();
        text.replace_range(..1, &first);
    }
    if !text.ends_with('.') {
        text.push('.');
    }
    text
}

fn unnoted(app: &App, error: &str) -> Response {
    let text = format!(
        "{} Make it writable, or name another file with DAWDLE_AUDIT_LOG (--audit-log on the command line).",
        sentence(error)
    );
    (StatusCode::SERVICE_UNAVAILABLE, pages::message(app, "Not done", &text)).into_response()
}

pub(crate) async fn replay(app: State<Arc<App>>, visitor: Extension<Visitor>, form: Extension<Form>) -> Response {
    begin(What::Replay, &app, &visitor, &form).await
}

pub(crate) async fn purge(app: State<Arc<App>>, visitor: Extension<Visitor>, form: Extension<Form>) -> Response {
    if form.0.0.get("sure") != Some("yes") {
        return to(&form.0.0.selection().to("purge"));
    }
    begin(What::Purge, &app, &visitor, &form).await
}

async fn begin(what: What, app: &Arc<App>, visitor: &Visitor, Form(form): &Form) -> Response {
    let asked = form.wanted().and_then(|wanted| Ok((wanted, form.rate()?)));
    let (wanted, rate) = match asked {
        Ok(asked) => asked,
        Err(error) => return wrong(app, &error),
    };
    if wanted.is_all() && form.get("all") != Some("yes") {
        let why = "which dead letters are meant is not said".to_owned();
        return wrong(app, &Wrong { field: "all", why });
    }
    let which = pages::in_words(form);
    match jobs::begin(app, what, wanted, which, rate, &visitor.who).await {
        Ok(()) => to("job"),
        Err(NotBegun::Busy) => {
            let text = "A replay or a purge is under way already, or somebody looks at the dead letters. One thing is done \
                        at a time: try again once it has ended.";
            (StatusCode::CONFLICT, pages::message(app, "Not begun", text)).into_response()
        }
        Err(NotBegun::Ending) => {
            let text = "This process is about to end, so nothing was begun.";
            (StatusCode::SERVICE_UNAVAILABLE, pages::message(app, "Not begun", text)).into_response()
        }
        Err(NotBegun::Unnoted(error)) => unnoted(app, &error),
    }
}

pub(crate) async fn stop(State(app): State<Arc<App>>, visitor: Extension<Visitor>) -> Response {
    let Some(job) = app.jobs.running() else { return to("job") };
    let with = json!({ "job": job.what.name(), "of": job.who, "which": job.which });
    change(&app, &visitor, "stop", with, "job", || {
        job.stop();
        Ok(())
    })
}

/// Why a change in this process did not come to be.
enum Undone {
    Unnoted(String),
    Failed(String),
}

impl From<Unnoted> for Undone {
    fn from(error: Unnoted) -> Self {
        Undone::Unnoted(error.to_string())
    }
}

/// Changes something in this process, notes it, and goes to the page `then`.
fn change(
    app: &App,
    visitor: &Visitor,
    what: &'static str,
    with: Value,
    then: &str,
    act: impl FnOnce() -> dawdle::Result<()>,
) -> Response {
    let changed = || -> Result<(), Undone> {
        let noted = Audit::open(&app.audit_log)?.begin(&visitor.who, what, with)?;
        noted.close(act().map_err(|error| Undone::Failed(error.to_string())), |()| 0)
    };
    match changed() {
        Ok(()) => to(then),
        Err(Undone::Unnoted(error)) => unnoted(app, &error),
        Err(Undone::Failed(error)) => {
            (StatusCode::BAD_REQUEST, pages::message(app, "Not done", &sentence(&error))).into_response()
        }
    }
}

pub(crate) async fn pause(State(app): State<Arc<App>>, visitor: Extension<Visitor>) -> Response {
    let node = json!({ "node": app.dawdle.activity().node });
    change(&app, &visitor, "pause", node, "overview?done=paused#node", || {
        app.dawdle.pause();
        Ok(())
    })
}

pub(crate) async fn resume(State(app): State<Arc<App>>, visitor: Extension<Visitor>) -> Response {
    let node = json!({ "node": app.dawdle.activity().node });
    change(&app, &visitor, "resume", node, "overview?done=resumed#node", || app.dawdle.resume())
}

pub(crate) async fn concurrency(
    State(app): State<Arc<App>>,
    visitor: Extension<Visitor>,
    Extension(Form(form)): Extension<Form>,
) -> Response {
    let concurrency = match form.concurrency() {
        Ok(concurrency) => concurrency,
        Err(error) => return wrong(&app, &error),
    };
    let with = json!({ "node": app.dawdle.activity().node, "concurrency": concurrency });
    change(&app, &visitor, "concurrency", with, "overview?done=concurrency#node", || {
        app.dawdle.set_concurrency(concurrency)
    })
}

pub(crate) async fn sign_in(
    State(app): State<Arc<App>>,
    Extension(Form(form)): Extension<Form>,
    headers: axum::http::HeaderMap,
) -> Response {
    let Gate::Token { token, sessions } = &app.gate else { return to("overview") };
    if !form.get("token").is_some_and(|given| secret::is(given, token)) {
        return (StatusCode::UNAUTHORIZED, pages::sign_in(&app, Some("That is not the token."))).into_response();
    }
    let Some(session) = sessions.begin() else {
        let text = "This machine has no randomness to make secrets of.";
        return (StatusCode::INTERNAL_SERVER_ERROR, pages::message(&app, "Not done", text)).into_response();
    };
    // Without a path it is for where the dashboard is mounted, wherever that is.
    let encrypted = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let secure = if encrypted { "; Secure" } else { "" };
    let cookie = format!("{}={session}; HttpOnly; SameSite=Strict; Max-Age={}{secure}", app.cookie, LIFE.as_secs());
    with_cookie(&cookie)
}

pub(crate) async fn sign_out(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>) -> Response {
    if let (Gate::Token { sessions, .. }, Some(session)) = (&app.gate, &visitor.session) {
        sessions.end(session);
    }
    with_cookie(&format!("{}=; HttpOnly; SameSite=Strict; Max-Age=0", app.cookie))
}

fn with_cookie(cookie: &str) -> Response {
    let mut response = to("overview");
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}
