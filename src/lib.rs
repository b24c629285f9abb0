//! Typed events, handled later and somewhere else.
#![forbid(unsafe_code)]

pub mod backend;
mod batch;
mod clock;
mod config;
mod dawdle;
mod dead_letter;
mod delay;
mod dispatcher;
mod envelope;
mod error;
mod event;
mod foreign;
mod handler;
mod lease;
mod listener;
mod middleware;
mod outcome;
pub mod reason;
mod registry;
mod retry;
mod room;
mod sender;
mod settings;
mod settle;
mod shutdown;
mod signal;
#[cfg(feature = "testing")]
pub mod testing;
mod wire;

pub use dawdle_macros::{Event, EventHandler, handler};

pub use clock::{Clock, VirtualClock};
pub use config::{BackendKind, Config};
pub use dawdle::{Builder, Dawdle, signal};
pub use dead_letter::{DeadLetter, DeadLetterStream, DeadLetters, Filter, HOLD as DEAD_LETTER_HOLD};
pub use envelope::Envelope;
pub use error::{BoxError, Error, ErrorKind, Result};
pub use event::{Event, EventId, Place, TypedEvent};
pub use foreign::RawMessage;
pub use handler::{Context, EventHandler, Handler, Registration, State};
pub use middleware::{Middleware, Next};
pub use outcome::{Failure, FailureError, IntoOutcome, Outcome};
pub use registry::HandlerInfo;
pub use retry::Backoff;
pub use signal::Signal;

/// What the macros' output calls. Not for use by hand: it may change in any release.
#[doc(hidden)]
pub mod __private {
    pub use crate::event::EventRegistration;
    pub use crate::handler::{
        Argument, Borrowed, ErasedHandler, HandlerFn, LinkedHandler, MakeDefault, MakeNone, Maker, downcast,
    };
    pub use {inventory, typetag};
}
