//! The macros of [dawdle](https://docs.rs/dawdle); use them through that crate.
//!
//! They emit calls, not logic: what an event or a handler is and does stands in dawdle itself.

mod attribute;
mod event;
mod event_handler;
mod handler;
mod options;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, Result, parse_macro_input};

/// Makes a struct or an enum an event: something that can be signalled, and is decoded by its kind
/// on every node that links it in.
///
/// ```
/// use dawdle::{Event, TypedEvent};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(kind = "trial.ending", aliases("trial.ends"))]
/// struct TrialEnding {
///     account: u64,
/// }
///
/// assert_eq!(TrialEnding { account: 7 }.kind(), "trial.ending");
/// assert_eq!(TrialEnding::ALIASES, ["trial.ends"]);
/// ```
///
/// It has no generics and no lifetimes, since its kind alone says what to decode.
///
/// # `#[event(..)]`
///
/// | option | meaning |
/// | --- | --- |
/// | `kind = "trial.ending"` | its name on the wire; required, because types get renamed and queued events do not |
/// | `aliases("trial.ends", ..)` | names it had before: still read, no longer written |
/// | `key = "{account}-{month}"` | what deduplication goes by, made of fields that implement `Display`; `"account"` is a field alone |
/// | `pack` | many of it share a message; `pack = false`: never, whatever the configuration says |
/// | `crate = "path"` | where dawdle is found, when the dependency is renamed or re-exported |
///
/// A kind has 1 to 128 bytes without whitespace. Kinds that begin with `dawdle.` are Dawdle's own.
///
/// To rename an event without losing what is queued, give it the new kind and move the old one to
/// the aliases. During a rolling deploy, old nodes do not know the new kind and leave such events
/// to new nodes. To have them all work on, add the new kind as an alias in one release and swap the
/// two in the next.
///
/// # Packing
///
/// Events that are signalled at about the same time share a message, up to 64 KiB (SQS's billing unit) and
/// 1,000 events, if they have one kind, group and due second. Each keeps its own id, handlers, retries and
/// dead letter, and runs under a permit of its own. What fails travels on singly. A node that dies with a
/// pack in hand has all of its events run once more, also those that were done: for cheap events whose
/// handlers do no harm twice. What could not be begun within half a minute goes on singly, too.
///
/// # The key
///
/// Of all events of the kind that make one key, each handler finishes one, where a `Dedupe` is
/// given to the builder, and for as long as that remembers. `.key(..)` on a signal takes its place.
/// Fields are named between braces, those of a tuple by number (`"{0}"`). Put something between two
/// of them, as in `"{account}-{month}"`: `1` and `12` would else read as `11` and `2` do. A key has
/// 1 to 1024 bytes; where an event makes another, awaiting its signal is an error.
///
/// ```
/// use dawdle::{Event, TypedEvent};
/// # use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(kind = "invoice.due", key = "{account}-{month}")]
/// struct InvoiceDue {
///     account: u64,
///     month: u8,
/// }
///
/// assert_eq!(InvoiceDue { account: 7, month: 11 }.dedup_key().as_deref(), Some("7-11"));
/// ```
///
/// # Beware of the linker
///
/// An event, like a handler, makes itself known when its crate is linked in. A crate that is only
/// named in `Cargo.toml` is dropped by the linker: mention it, as in `use my_events as _;`.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    or_error(event::expand(&input))
}

/// Makes an `async fn` a handler, which registers itself.
///
/// ```
/// use dawdle::{Context, Event, Failure, Outcome, State};
/// use serde::{Deserialize, Serialize};
/// # struct Account { closed: bool }
/// # struct Mailer;
/// # impl Mailer {
/// #     async fn account(&self, _: u64) -> std::io::Result<Account> { Ok(Account { closed: false }) }
/// # }
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(kind = "trial.ending")]
/// struct TrialEnding {
///     account: u64,
/// }
///
/// #[dawdle::handler(attempts = 8, timeout = "30s", concurrency = 4)]
/// async fn remind(event: &TrialEnding, cx: &Context, mailer: State<Mailer>) -> Outcome {
///     let account = mailer.account(event.account).await?; // any error: retry with backoff
///     if account.closed {
///         return Err(Failure::dead_letter("account closed"));
///     }
///     println!("{}: attempt {}", cx.id(), cx.attempt());
///     Ok(())
/// }
/// ```
///
/// The event comes first, by reference, because its other handlers share it. Then, in any order and
/// as far as they are needed, come `&Context` and any number of `State<T>`. The function returns
/// `Outcome`, or a `Result<(), E>` of any error, `anyhow::Result<()>` included.
///
/// It stays a function, which tests and other functions may call.
///
/// A handler of `&dyn Event` runs beside the handlers of every event, whatever its type. An event that
/// has no handler of its own is left to other nodes (a newer build may have one), not to it:
///
/// ```
/// use dawdle::{Event, Outcome};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, Event)]
/// # #[event(kind = "heartbeat")]
/// # struct Heartbeat;
///
/// #[dawdle::handler(except(Heartbeat))]
/// async fn audit(event: &dyn Event) -> Outcome {
///     println!("{}", event.kind());
///     Ok(())
/// }
/// ```
///
/// # Options
///
/// | option | meaning | default |
/// | --- | --- | --- |
/// | `attempts = 8` | how often it is tried before the event goes to the dead letters | 25 |
/// | `timeout = "30s"` | how long one run may take | 5 minutes |
/// | `concurrency = 4` | how many runs of it one node has at once | the node's own limit |
/// | `backoff = "1s..10m"` | the delay before the second attempt, doubling up to the longest; `"1s"` doubles up to 6 hours | `"1s"` |
/// | `name = "remind"` | its name, on the wire in retries and dead letters | the function's |
/// | `aliases("old_name", ..)` | names it had before, whose retries it takes over | none |
/// | `except(Heartbeat, ..)` | events that a handler of every event leaves out | none |
/// | `crate = "path"` | where dawdle is found, when the dependency is renamed or re-exported | `::dawdle` |
///
/// The values of `attempts`, `timeout`, `concurrency` and `backoff` may also be expressions, of
/// type `u32`, `Duration`, `usize` and `Backoff`:
///
/// ```
/// use std::time::Duration;
///
/// use dawdle::{Backoff, Event, Outcome};
///
/// const PATIENCE: Duration = Duration::from_secs(90);
///
/// #[dawdle::handler(timeout = PATIENCE, backoff = Backoff::fixed(PATIENCE))]
/// async fn archive(event: &dyn Event) -> Outcome {
///     println!("{}", event.kind());
///     Ok(())
/// }
/// ```
///
/// # Names
///
/// Beside the function stands a hidden type of its name, for `handlers![remind]`. So a module or a
/// type called like the function cannot stand beside it: call one of them otherwise.
///
/// A renamed function is a renamed handler: keep its name with `name = ".."`, or name the old one
/// in `aliases(..)`, or else retries that are under way find nobody.
///
/// A handler's crate must be linked in, as an event's: see the derive macro `Event`.
#[proc_macro_attribute]
pub fn handler(args: TokenStream, item: TokenStream) -> TokenStream {
    // The function stands also where something is wrong, so that its callers add no errors.
    let mut output = item.clone();
    output.extend(or_error(handler::expand(args.into(), item.into())));
    output
}

/// Makes a type a handler: names the event that it handles and its options.
///
/// ```
/// use dawdle::{Context, Event, EventHandler, Handler, Outcome};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(kind = "trial.ending")]
/// struct TrialEnding {
///     account: u64,
/// }
///
/// #[derive(Default, EventHandler)]
/// #[handler(event = TrialEnding, attempts = 8)]
/// struct Remind;
///
/// impl Handler<TrialEnding> for Remind {
///     async fn handle(&self, event: &TrialEnding, cx: &Context) -> Outcome {
///         println!("{}: account {}", cx.id(), event.account);
///         Ok(())
///     }
/// }
/// ```
///
/// A type with a `Default` registers itself. One that must be constructed is given to the builder,
/// `.handler(Remind { .. })`.
///
/// With `event = dyn Event` it runs beside the handlers of every event, and is a `Handler<dyn Event>`:
///
/// ```
/// use dawdle::{Context, Event, EventHandler, Handler, Outcome};
///
/// #[derive(EventHandler)]
/// #[handler(event = dyn Event, timeout = "10s")]
/// struct Audit {
///     prefix: String,
/// }
///
/// impl Handler<dyn Event> for Audit {
///     async fn handle(&self, event: &dyn Event, _: &Context) -> Outcome {
///         println!("{}{}", self.prefix, event.kind());
///         Ok(())
///     }
/// }
/// ```
///
/// # `#[handler(..)]`
///
/// `event` is required. The others are those of the attribute macro `handler`; the name is the
/// type's unless it is given.
#[proc_macro_derive(EventHandler, attributes(handler))]
pub fn derive_event_handler(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    or_error(event_handler::expand(&input))
}

fn or_error(output: Result<proc_macro2::TokenStream>) -> TokenStream {
    output.unwrap_or_else(Error::into_compile_error).into()
}
