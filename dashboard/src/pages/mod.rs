//! The pages. Everything that they show is escaped by the templates; what came from outside is cleaned of control
//! characters besides.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{OriginalUri, State};
use axum::http::Uri;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use maud::html;

use crate::access::Gate;
use crate::dashboard::App;
use crate::guard::Visitor;
use crate::query::Query;

mod dead;
mod frame;
mod job;
mod overview;
mod shown;

pub(crate) use dead::{dead, in_words, letter, purge};
pub(crate) use job::{banner as job_banner, job, part as job_part};
pub(crate) use overview::parts as overview_parts;

use frame::{Frame, Page};

/// The overview, with a name of its own: addresses on the pages are relative, and where this router is nested nothing
/// says whether its root ends with a slash.
pub(crate) async fn root(OriginalUri(asked): OriginalUri) -> Response {
    let name = asked.path().rsplit('/').next().filter(|name| !name.is_empty());
    let to = name.map_or_else(|| "overview".to_owned(), |name| format!("{name}/overview"));
    match HeaderValue::from_str(&to) {
        Ok(to) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

/// What this machine, its handlers and its queues do.
pub(crate) async fn overview(
    State(app): State<Arc<App>>,
    Extension(visitor): Extension<Visitor>,
    uri: Uri,
) -> Response {
    let query = Query::read(uri.query().unwrap_or_default());
    overview::page(&app, &visitor, &query).await.into_response()
}

/// A page that asks for the token.
pub(crate) fn sign_in(app: &App, wrong: Option<&str>) -> Html<String> {
    let content = html! {
        div.card.narrow {
            h1 { "Sign in" }
            @if let Some(wrong) = wrong {
                p.notice.bad #wrong role="alert" { strong { "Not signed in. " } (wrong) }
            }
            form method="post" action="sign-in" {
                // For programs that keep passwords.
                input type="text" name="name" value="dashboard" autocomplete="username" hidden;
                p.field {
                    label for="token" { "Token" }
                    input #token type="password" name="token" required autocomplete="current-password" autofocus
                        aria-describedby=[wrong.map(|_| "wrong")] aria-invalid=[wrong.map(|_| "true")];
                }
                p { button.primary type="submit" { "Sign in" } }
            }
            p.quiet { "It is what this dashboard was started with. A session lasts twelve hours." }
        }
    };
    Frame::new(app, "Sign in").show(content)
}

pub(crate) async fn sign_in_page(State(app): State<Arc<App>>) -> Response {
    match &app.gate {
        Gate::Token { .. } => sign_in(&app, None).into_response(),
        _ => (StatusCode::NOT_FOUND, message(&app, "Not found", "There is no signing in here.")).into_response(),
    }
}

/// A page that says one thing.
pub(crate) fn message(app: &App, title: &str, text: &str) -> Html<String> {
    let content = html! {
        div.card.narrow {
            h1 { (title) }
            p { (text) }
            p { a href="overview" { "To the overview" } }
        }
    };
    Frame::new(app, title).show(content)
}

pub(crate) async fn not_found(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>) -> Response {
    let content = html! {
        div.card.narrow {
            h1 { "Not found" }
            p { "There is no such page." }
            p { a href="overview" { "To the overview" } }
        }
    };
    (StatusCode::NOT_FOUND, Frame::of(&app, "Not found", &visitor, Page::Other).show(content)).into_response()
}
