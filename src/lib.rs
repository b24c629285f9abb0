//! Typed events, handled later and somewhere else.
#![forbid(unsafe_code)]

pub mod backend;
mod clock;
mod envelope;
mod error;
mod event;
mod handler;
mod middleware;
mod outcome;
mod retry;
#[cfg(feature = "testing")]
pub mod testing;
mod wire;

pub use clock::{Clock, VirtualClock};
pub use envelope::Envelope;
pub use error::{BoxError, Error, ErrorKind, Result};
pub use event::{Event, EventId, Place, TypedEvent};
pub use handler::{Context, EventHandler, Handler, Registration, State};
pub use middleware::{Middleware, Next};
pub use outcome::{Failure, FailureError, IntoOutcome, Outcome};
pub use retry::Backoff;

/// What the macros' output calls. Not for use by hand: it may change in any release.
#[doc(hidden)]
pub mod __private {
    pub use crate::event::EventRegistration;
    pub use crate::handler::{
        Argument, ErasedHandler, HandlerFn, LinkedHandler, MakeDefault, MakeNone, Maker, wrong_type,
    };
    pub use {inventory, typetag};
}
