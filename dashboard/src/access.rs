//! Who may do what: [`Access`], and the three ways to find out ([`Gate`]).

use std::sync::Arc;

use axum::http::request::Parts;
use futures_util::future::BoxFuture;

use crate::sessions::Sessions;

/// What somebody may do; the answer of the hook that [`Dashboard::authorize`](crate::Dashboard::authorize)
/// takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Look, and change.
    Full {
        /// Whom the audit log names.
        who: String,
    },
    /// Look.
    ReadOnly {
        /// Who looks.
        who: String,
    },
    /// Neither.
    Denied,
}

/// Asks the application.
pub(crate) type Hook = Arc<dyn Fn(Parts) -> BoxFuture<'static, Access> + Send + Sync>;

/// How it is found out who somebody is.
pub(crate) enum Gate {
    /// Whoever is on this machine, and nobody else.
    Loopback,
    /// Whoever has the token, or a session that was begun with it.
    Token { token: String, sessions: Sessions },
    /// Whom the application knows.
    Hook(Hook),
}
