//! What an application mounts: [`Dashboard`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::http::request::Parts;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use dawdle::Dawdle;
use dawdle_workbench::Audit;
use tokio::sync::{Semaphore, watch};

use crate::access::{Access, Gate, Hook};
use crate::jobs::Jobs;
use crate::look::Looks;
use crate::sampler::Sampler;
use crate::sessions::{FormTokens, Sessions};
use crate::{assets, change, guard, live, pages, secret};

/// How many pages may be live at once.
pub(crate) const MOST_LIVE: usize = 32;

/// A page about a Dawdle: its queues, this node and its handlers, and the dead letters.
///
/// Without [`token`](Dashboard::token) or [`authorize`](Dashboard::authorize) it is served on this machine only:
/// to peers on loopback that ask for `localhost`, `127.0.0.1` or `[::1]`. For that the server must tell from where a
/// request comes (`into_make_service_with_connect_info::<SocketAddr>()`).
#[must_use = "nothing is served before the router is"]
pub struct Dashboard {
    dawdle: Dawdle,
    gate: Gate,
    read_only: bool,
    audit_log: PathBuf,
    who: String,
    title: String,
}

/// Ends what goes on for a page: live updates, and a replay or a purge.
#[derive(Clone)]
pub struct Stop(Arc<App>);

/// What the routes share.
pub(crate) struct App {
    pub(crate) dawdle: Dawdle,
    pub(crate) gate: Gate,
    pub(crate) read_only: bool,
    pub(crate) audit_log: PathBuf,
    pub(crate) who: String,
    pub(crate) title: String,
    /// The name of the session's cookie: several dashboards of one host have one each.
    pub(crate) cookie: String,
    pub(crate) form_tokens: FormTokens,
    pub(crate) sampler: Sampler,
    pub(crate) jobs: Jobs,
    pub(crate) looks: Looks,
    pub(crate) live: Arc<Semaphore>,
    /// Whether it has come to its end.
    pub(crate) stopped: watch::Sender<bool>,
}

impl Dashboard {
    /// A page about this instance, for this machine only.
    pub fn new(dawdle: Dawdle) -> Self {
        let audit_log = std::env::var_os("DAWDLE_AUDIT_LOG").filter(|path| !path.is_empty());
        Dashboard {
            dawdle,
            gate: Gate::Loopback,
            read_only: false,
            audit_log: audit_log.map_or_else(|| Audit::DEFAULT.into(), PathBuf::from),
            who: "dashboard".to_owned(),
            title: "Dawdle".to_owned(),
        }
    }

    /// Asks the application who somebody is and what they may do, for each request. Takes the place of the check
    /// that they are on this machine, and of a [`token`](Dashboard::token).
    pub fn authorize<F, A>(self, hook: F) -> Self
    where
        F: Fn(Parts) -> A + Send + Sync + 'static,
        A: Future<Output = Access> + Send + 'static,
    {
        let hook: Hook = Arc::new(move |parts| Box::pin(hook(parts)));
        Dashboard { gate: Gate::Hook(hook), ..self }
    }

    /// Serves whoever has this token, from wherever they ask: a page asks for it and begins a session, and a
    /// program sends `Authorization: Bearer`. Takes the place of the check that they are on this machine, and of a
    /// hook.
    ///
    /// It should be long and random; what it travels by should be encrypted (a proxy with TLS). An empty one lets
    /// nobody in.
    pub fn token(self, token: impl Into<String>) -> Self {
        Dashboard { gate: Gate::Token { token: token.into(), sessions: Sessions::default() }, ..self }
    }

    /// Whether nothing can be changed, whoever asks.
    pub fn read_only(self, read_only: bool) -> Self {
        Dashboard { read_only, ..self }
    }

    /// Where changes are noted. Before, `DAWDLE_AUDIT_LOG` is asked; else it is `.dawdle/audit.jsonl`.
    pub fn audit_log(self, path: impl AsRef<Path>) -> Self {
        Dashboard { audit_log: path.as_ref().to_owned(), ..self }
    }

    /// Whom the audit log names where no hook tells people apart. Before: `dashboard`.
    pub fn who(self, who: impl Into<String>) -> Self {
        Dashboard { who: who.into(), ..self }
    }

    /// What stands on top of each page: the application's name.
    pub fn title(self, title: impl Into<String>) -> Self {
        Dashboard { title: title.into(), ..self }
    }

    /// The router, to be served at the root or nested at any path.
    ///
    /// ```no_run
    /// # async fn doc(application: axum::Router) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::net::SocketAddr;
    ///
    /// use dawdle_dashboard::Dashboard;
    ///
    /// let dawdle = dawdle::Dawdle::start().await?;
    /// let router = application.nest("/dawdle", Dashboard::new(dawdle).into_router());
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    /// axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_router(self) -> Router {
        self.into_parts().0
    }

    /// The router, and what ends its live pages: a server that shuts down gracefully would wait for them, for up to
    /// five minutes.
    pub fn into_parts(self) -> (Router, Stop) {
        let Dashboard { dawdle, gate, read_only, audit_log, who, title } = self;
        let instance = secret::random().unwrap_or_default();
        let app = Arc::new(App {
            sampler: Sampler::new(dawdle.clone()),
            dawdle,
            gate,
            read_only,
            audit_log,
            who,
            title,
            cookie: format!("dawdle_{}", instance.get(..8).unwrap_or("session")),
            form_tokens: FormTokens::default(),
            jobs: Jobs::default(),
            looks: Looks::default(),
            live: Arc::new(Semaphore::new(MOST_LIVE)),
            stopped: watch::Sender::new(false),
        });
        let router = Router::new()
            .route("/", get(pages::root))
            .route("/overview", get(pages::overview))
            .route("/dead", get(pages::dead))
            .route("/letter", get(pages::letter))
            .route("/purge", get(pages::purge).post(change::purge))
            .route("/replay", post(change::replay))
            .route("/job", get(pages::job))
            .route("/stop", post(change::stop))
            .route("/pause", post(change::pause))
            .route("/resume", post(change::resume))
            .route("/concurrency", post(change::concurrency))
            .route("/sign-in", get(pages::sign_in_page).post(change::sign_in))
            .route("/sign-out", post(change::sign_out))
            .route("/live", get(live::live))
            .route("/style.css", get(assets::style))
            .route("/live.js", get(assets::script))
            .route("/icon.svg", get(assets::icon))
            .fallback(pages::not_found)
            .layer(from_fn_with_state(Arc::clone(&app), guard::guard))
            .with_state(Arc::clone(&app));
        (router, Stop(app))
    }
}

impl Stop {
    /// Ends the live pages, and stops a replay or a purge that is under way; returns once its end is noted. Pages can
    /// still be read afterwards, and nothing more is begun. To be called when the server is asked to end.
    pub async fn stop(&self) {
        self.0.stopped.send_replace(true);
        self.0.jobs.stop_and_wait().await;
    }
}

impl App {
    pub(crate) fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }
}

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard")
            .field("title", &self.title)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stop(..)")
    }
}
