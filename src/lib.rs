//! Typed events, handled later and somewhere else.
//!
//! An application defines an event, attaches handlers to it, and signals it: now, or in thirty
//! days. Any node that runs the listener handles it, whichever node signalled it and whichever
//! nodes have died since. In production the queue is Amazon SQS; with nothing configured it is one
//! SQLite file; in a test it is memory on a clock that the test moves.
//!
//! **The guarantee**: at least once, unordered, never lossy. A message leaves the queue only when
//! every handler of it has finished, or when what is left of it has been safely written somewhere
//! else: a retry, a hop, the dead letters. A handler may run twice for one event; it should do no
//! harm then.
//!
//! **One queue serves one application.** The nodes on it are versions of the same program, and an
//! event runs the handlers of the version that takes it.
//!
//! # The first handler
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use dawdle::{Context, Dawdle, Event, Outcome};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, Serialize, Deserialize, Event)]
//! #[event(kind = "trial.ending")] // the name on the wire: types get renamed, queued events do not
//! struct TrialEnding {
//!     account: u64,
//! }
//!
//! // Registers itself. Any error is a retry with backoff; a panic is one, too.
//! #[dawdle::handler(attempts = 8, timeout = "30s")]
//! async fn remind(event: &TrialEnding, cx: &Context) -> Outcome {
//!     println!("account {}: attempt {}", event.account, cx.attempt());
//!     Ok(())
//! }
//!
//! #[tokio::main]
//! async fn main() -> dawdle::Result<()> {
//!     let dawdle = Dawdle::start().await?; // configured by DAWDLE_*; with none, the file .dawdle/queue.db
//!     dawdle.signal(TrialEnding { account: 7 }).await?; // Ok: it is durable
//!     dawdle.signal(TrialEnding { account: 7 }).delay(Duration::from_secs(14 * 86_400)).await?;
//!     dawdle.run().await // until Ctrl-C or SIGTERM, then drain
//! }
//! ```
//!
//! # Where to look
//!
//! | for | see |
//! | --- | --- |
//! | defining events | [`Event`](macro@Event), [`EventId`] |
//! | handling them | [`macro@handler`], [`Handler`], [`Context`], [`State`], [`Outcome`], [`Failure`], [`Backoff`] |
//! | starting, signalling, stopping | [`Dawdle`], [`Builder`], [`Config`], [`Signal`], [`signal()`] |
//! | how a node is, what it does and did | [`Dawdle::health`], [`Dawdle::activity`], [`metrics`], [`trace`] |
//! | what was given up | [`DeadLetters`], [`DeadLetter`], [`Filter`], [`reason`] |
//! | testing | `testing::Harness`, `Context::for_test` (feature `testing`) |
//! | code around every signal and run | [`Middleware`] |
//! | handling once what comes twice | [`Dedupe`], [`Signal::key`], `testing::prove_idempotent` |
//! | messages of other programs, outboxes | [`Builder::foreign`], [`Envelope`] |
//! | where messages are kept | [`backend`] |
//!
//! # Features
//!
//! `sqs`, `local` and `testing` are on by default; `otel` lets events carry [traces](trace). A crate that only defines events needs none of
//! them: `dawdle = { version = "..", default-features = false }`. The memory backend is always
//! there. A crate of handlers that nothing else refers to must be linked in by hand:
//! `use my_handlers as _;` (a crate that is only named in Cargo.toml is dropped by the linker, and
//! its handlers with it; [`Builder::expect_handler`] notices).
#![forbid(unsafe_code)]

// Vocabulary: values, no I/O.
mod clock;
mod envelope;
mod error;
mod event;
mod outcome;
pub mod reason;
mod redact;
mod retry;
mod settings;
mod sync;
mod wire;

// Seams: traits, with their guarantees written on them. Backends are rooms of `backend`.
pub mod backend;
mod foreign;
mod handler;
pub mod middleware;

// Machinery: knows the seams, and no implementation.
mod activity;
mod batch;
mod buffer;
mod concurrency;
mod crash;
mod delay;
mod dispatcher;
mod health;
mod lease;
mod listener;
pub mod metrics;
mod pack;
mod registry;
mod room;
mod sender;
mod settle;
mod shutdown;
mod suspect;
pub mod trace;

// Front: the only part that knows everything.
mod builder;
mod config;
pub mod cost;
mod dawdle;
mod dead_letter;
mod signal;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

pub use dawdle_macros::{Event, EventHandler, handler};

pub use activity::{Activity, FailedRun, HandlerActivity};
pub use builder::Builder;
pub use clock::{Clock, VirtualClock};
pub use config::{BackendKind, Config};
pub use dawdle::{Dawdle, signal};
pub use dead_letter::{DeadLetter, DeadLetterStream, DeadLetters, Filter, HOLD as DEAD_LETTER_HOLD};
pub use envelope::Envelope;
pub use error::{BoxError, Error, ErrorKind, Result};
pub use event::{Event, EventId, Place, TypedEvent};
pub use foreign::RawMessage;
pub use handler::{Context, EventHandler, Handler, Registration, State};
pub use health::{Health, HeldUp, QueueHealth, QueueState};
pub use middleware::dedupe::Dedupe;
pub use middleware::{Middleware, Next};
pub use outcome::{Failure, FailureError, IntoOutcome, Outcome};
pub use registry::HandlerInfo;
pub use retry::Backoff;
pub use signal::Signal;

/// The README's examples, compiled.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// What the macros' output calls. Not for use by hand: it may change in any release.
#[doc(hidden)]
pub mod __private {
    pub use crate::event::EventRegistration;
    pub use crate::handler::{
        Argument, Borrowed, ErasedHandler, HandlerFn, LinkedHandler, MakeDefault, MakeNone, Maker, downcast,
    };
    pub use {inventory, typetag};
}

/// Where a test may end the process. Not for use by hand.
#[cfg(feature = "crash-points")]
#[doc(hidden)]
pub mod __crash {
    pub use crate::crash::{POINTS, passages};
}
