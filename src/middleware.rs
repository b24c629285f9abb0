//! The seam around sending and handling: [`Middleware`]. In [`dedupe`] is one that lets each handler
//! finish an event once.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::backend::BoxFuture;
use crate::envelope::Envelope;
use crate::error::Result;
use crate::event::Event;
use crate::handler::{Context, ErasedHandler};
use crate::outcome::Outcome;

pub mod dedupe;

/// Code around every signal and every run of a handler; given to the builder by `.middleware(..)`.
///
/// Those given first are outermost. Both methods have a default that changes nothing.
///
/// ```
/// use dawdle::{Context, Event, Middleware, Next, Outcome};
///
/// struct Timed;
/// impl Middleware for Timed {
///     async fn handle(&self, cx: &Context, event: &dyn Event, next: Next<'_>) -> Outcome {
///         let start = std::time::Instant::now();
///         let outcome = next.run(cx, event).await;
///         println!("{} took {:?}", cx.handler(), start.elapsed());
///         outcome
///     }
/// }
/// ```
pub trait Middleware: Send + Sync + 'static {
    /// Sees, and may change, an envelope before it is first sent. Retries, hops and replays do not
    /// come by again. An error refuses the signal.
    fn before_send(&self, envelope: &mut Envelope) -> Result<()> {
        let _ = envelope;
        Ok(())
    }

    /// Wraps one run of one handler. It runs in the handler's task, within its timeout; a panic
    /// is the handler's.
    fn handle(&self, cx: &Context, event: &dyn Event, next: Next<'_>) -> impl Future<Output = Outcome> + Send {
        next.run(cx, event)
    }
}

/// The rest of the way to the handler.
pub struct Next<'a> {
    rest: &'a [Arc<dyn ErasedMiddleware>],
    handler: &'a dyn ErasedHandler,
}

impl<'a> Next<'a> {
    pub(crate) fn new(chain: &'a [Arc<dyn ErasedMiddleware>], handler: &'a dyn ErasedHandler) -> Self {
        Next { rest: chain, handler }
    }

    /// Runs the middleware that is further in, then the handler.
    pub async fn run(self, cx: &Context, event: &dyn Event) -> Outcome {
        match self.rest.split_first() {
            Some((first, rest)) => first.handle(cx, event, Next { rest, handler: self.handler }).await,
            None => self.handler.call(event, cx).await,
        }
    }
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("further_in", &self.rest.len()).finish_non_exhaustive()
    }
}

/// A [`Middleware`] as a trait object.
pub(crate) trait ErasedMiddleware: Send + Sync {
    fn before_send(&self, envelope: &mut Envelope) -> Result<()>;
    fn handle<'a>(&'a self, cx: &'a Context, event: &'a dyn Event, next: Next<'a>) -> BoxFuture<'a, Outcome>;
}

impl<M: Middleware> ErasedMiddleware for M {
    fn before_send(&self, envelope: &mut Envelope) -> Result<()> {
        Middleware::before_send(self, envelope)
    }

    fn handle<'a>(&'a self, cx: &'a Context, event: &'a dyn Event, next: Next<'a>) -> BoxFuture<'a, Outcome> {
        Box::pin(Middleware::handle(self, cx, event, next))
    }
}
