//! What every request passes before a page sees it: who it is from, whether it may change anything, and whether
//! a page of this dashboard has sent it.
//!
//! ```text
//! request ── who? ── a change? ── may they? ── from a page of here? ── with its token? ── page
//!             │                      │                 │                    │
//!          sign in, 403             403               403                  403
//! ```
//!
//! No page can forget to ask: all of it is before the routes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::time::timeout;

use crate::access::{Access, Gate};
use crate::dashboard::App;
use crate::pages;
use crate::query::Query;
use crate::secret;

/// The largest form, in bytes.
const MAX_FORM: usize = 64 * 1024;

/// How long a form may take to come: who sends it may not be let in yet.
const PATIENCE: Duration = Duration::from_secs(30);

/// The field of a form that holds its token.
pub(crate) const TOKEN_FIELD: &str = "form_token";

/// What stands in front of every answer.
const HEADERS: [(HeaderName, &str); 8] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    // Not `no-referrer`: a browser would then send no origin along with a form.
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// Whoever a request is from.
#[derive(Clone, Debug)]
pub(crate) struct Visitor {
    pub(crate) who: String,
    /// What their forms bring along; `None` for who may only look.
    pub(crate) form_token: Option<String>,
    /// The secret of the session that they are signed in by.
    pub(crate) session: Option<String>,
}

/// The form that a change came with, its token apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form(pub(crate) Query);

/// Why a request is not served.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It is not known who it is from.
    SignIn,
    /// It has the wrong token.
    WrongToken,
    Forbidden(String),
    Unfit(StatusCode, String),
}

impl Refusal {
    fn forbidden(why: impl Into<String>) -> Self {
        Refusal::Forbidden(why.into())
    }
}

/// Lets a request pass, or refuses it; the headers are on either answer.
pub(crate) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = match admit(&app, request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refused(&app, refusal),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn refused(app: &App, refusal: Refusal) -> Response {
    let (status, page) = match refusal {
        Refusal::SignIn => (StatusCode::UNAUTHORIZED, pages::sign_in(app, None)),
        Refusal::WrongToken => (StatusCode::UNAUTHORIZED, pages::sign_in(app, Some("That is not the token."))),
        Refusal::Forbidden(why) => (StatusCode::FORBIDDEN, pages::message(app, "Not allowed", &why)),
        Refusal::Unfit(status, why) => (status, pages::message(app, "That cannot be", &why)),
    };
    (status, page).into_response()
}

async fn admit(app: &Arc<App>, request: Request) -> Result<Request, Refusal> {
    let (mut parts, body) = request.into_parts();
    let is_change = match parts.method {
        Method::GET | Method::HEAD => false,
        Method::POST => true,
        _ => return Err(Refusal::Unfit(StatusCode::METHOD_NOT_ALLOWED, "Only GET and POST are served.".into())),
    };
    match is_change {
        true => same_origin(&parts)?,
        false => not_from_within_another_page(&parts)?,
    }
    let signs_in = matches!(&app.gate, Gate::Token { .. }) && parts.uri.path() == "/sign-in";
    let is_open = matches!(&app.gate, Gate::Token { .. } | Gate::Hook(_)) && crate::assets::is(parts.uri.path());
    if is_open {
        return Ok(Request::from_parts(parts, body));
    }
    if signs_in {
        let form = if is_change { read(body).await? } else { Query::default() };
        parts.extensions.insert(Form(form));
        return Ok(Request::from_parts(parts, Body::empty()));
    }
    let visitor = visitor(app, &parts).await?;
    let mut body = body;
    // Whoever may only look can end their session.
    if is_change && parts.uri.path() != "/sign-out" {
        let Some(token) = &visitor.form_token else {
            let why = "This is for reading only: nothing can be changed by it.";
            return Err(Refusal::forbidden(match app.read_only {
                true => format!("{why} Whoever serves the dashboard has turned changes off."),
                false => why.to_owned(),
            }));
        };
        let form = read(body).await?;
        if !form.get(TOKEN_FIELD).is_some_and(|given| secret::is(given, token)) {
            return Err(Refusal::forbidden(
                "The form does not have this process's token: it is of another node, or from before a restart. Nothing was \
                 done. Go back, load the page anew and try again.",
            ));
        }
        parts.extensions.insert(Form(form.with(&[(TOKEN_FIELD, "")])));
        body = Body::empty();
    }
    parts.extensions.insert(visitor);
    Ok(Request::from_parts(parts, body))
}

async fn read(body: Body) -> Result<Query, Refusal> {
    match timeout(PATIENCE, to_bytes(body, MAX_FORM)).await {
        Ok(Ok(bytes)) => Ok(Query::of(form_urlencoded::parse(&bytes).into_owned())),
        Ok(Err(_)) => {
            Err(Refusal::Unfit(StatusCode::PAYLOAD_TOO_LARGE, format!("A form has at most {MAX_FORM} bytes here.")))
        }
        Err(_) => {
            Err(Refusal::Unfit(StatusCode::REQUEST_TIMEOUT, format!("The form has not come within {PATIENCE:?}.")))
        }
    }
}

async fn visitor(app: &App, parts: &Parts) -> Result<Visitor, Refusal> {
    let mut session = None;
    let access = match &app.gate {
        Gate::Loopback => {
            from_this_machine(parts)?;
            Access::Full { who: app.who.clone() }
        }
        Gate::Token { token, sessions } => {
            session = cookie(&parts.headers, &app.cookie).filter(|secret| sessions.has(secret));
            match (bearer(&parts.headers), &session) {
                (Some(given), _) if secret::is(given, token) => {}
                (Some(_), _) => return Err(Refusal::WrongToken),
                (None, Some(_)) => {}
                (None, None) => return Err(Refusal::SignIn),
            }
            Access::Full { who: app.who.clone() }
        }
        Gate::Hook(hook) => hook(parts.clone()).await,
    };
    let (who, may_change) = match access {
        Access::Full { who } => (who, !app.read_only),
        Access::ReadOnly { who } => (who, false),
        Access::Denied => return Err(Refusal::forbidden("The application does not let you see this.")),
    };
    let form_token = match may_change {
        true => Some(app.form_tokens.of(&who).ok_or_else(no_randomness)?),
        false => None,
    };
    Ok(Visitor { who, form_token, session })
}

pub(crate) fn no_randomness() -> Refusal {
    Refusal::Unfit(StatusCode::INTERNAL_SERVER_ERROR, "This machine has no randomness to make secrets of.".into())
}

/// Whether somebody at this machine has asked for this machine: not a browser that was told that some
/// other name is this machine, and no proxy that asks for somebody else.
fn from_this_machine(parts: &Parts) -> Result<(), Refusal> {
    const MEND: &str = "Give the dashboard a token (Dashboard::token, or --token-file with --public), or a hook for the \
                        application's own authorization (Dashboard::authorize).";
    let Some(ConnectInfo(peer)) = parts.extensions.get::<ConnectInfo<SocketAddr>>() else {
        return Err(Refusal::forbidden(format!(
            "It is not known from where this was asked, so it is not served: serve the router with \
             into_make_service_with_connect_info::<SocketAddr>(). {MEND}"
        )));
    };
    if !peer.ip().to_canonical().is_loopback() {
        return Err(Refusal::forbidden(format!("Without a token this is served on this machine only. {MEND}")));
    }
    let forwards = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];
    if let Some(name) = forwards.iter().find(|name| parts.headers.contains_key(**name)) {
        return Err(Refusal::forbidden(format!(
            "A proxy has passed this on ({name}), so it may be from anywhere. Without a token this is served on this machine \
             only. {MEND}"
        )));
    }
    let here = |host: &str| ["localhost", "127.0.0.1", "[::1]"].contains(&host.to_ascii_lowercase().as_str());
    match host(parts) {
        Some(asked) if here(asked.host()) => Ok(()),
        _ => Err(Refusal::forbidden(format!(
            "It was asked for by a name that is not this machine's own: go to http://localhost or http://127.0.0.1, and the \
             port. {MEND}"
        ))),
    }
}

/// The host and port that were asked for.
fn host(parts: &Parts) -> Option<Authority> {
    let mut named = parts.headers.get_all(header::HOST).iter();
    match (named.next(), named.next()) {
        (Some(host), None) => host.to_str().ok()?.parse().ok(),
        (None, _) => parts.uri.authority().cloned(),
        _ => None,
    }
}

/// Whether a page of this place has sent a change, as far as the browser says: every browser says it.
fn same_origin(parts: &Parts) -> Result<(), Refusal> {
    let text = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let (site, origin) = (text("sec-fetch-site"), text("origin"));
    let site_fits = site.is_none_or(|site| site == "same-origin");
    let origin_fits = origin.is_none_or(|origin| {
        let theirs = ["http", "https"].iter().find_map(|scheme| origin.strip_prefix(&format!("{scheme}://")));
        let ours = host(parts);
        theirs.zip(ours.as_ref()).is_some_and(|(theirs, ours)| theirs.eq_ignore_ascii_case(ours.as_str()))
    });
    if site_fits && origin_fits && (site.is_some() || origin.is_some()) {
        return Ok(());
    }
    Err(Refusal::forbidden(
        "A change is made from a page of this dashboard only, and this did not come from one (by its Origin and \
         Sec-Fetch-Site). Behind a proxy, pass the Host header on as it is.",
    ))
}

/// Whether it is not what a page of somewhere else loads by itself: a look is work, and may be billed. A link
/// that somebody follows is served.
fn not_from_within_another_page(parts: &Parts) -> Result<(), Refusal> {
    let is = |name: &str, value: &str| parts.headers.get(name).is_none_or(|given| given == value);
    let from_here = is("sec-fetch-site", "same-origin") || is("sec-fetch-site", "none");
    if from_here || (is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document")) {
        return Ok(());
    }
    Err(Refusal::forbidden("This is not served to pages of somewhere else."))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut cookies = lines.flat_map(|line| line.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    cookies.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_form_that_never_comes_to_its_end_is_not_waited_for() {
        let form = futures_util::stream::pending::<std::io::Result<Vec<u8>>>();
        let refused = read(Body::from_stream(form)).await;
        assert!(matches!(refused, Err(Refusal::Unfit(StatusCode::REQUEST_TIMEOUT, _))));
    }
}
