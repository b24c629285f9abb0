//! Once where it matters: [`Dedupe`] lets each handler finish an event, or a business key, once.
//!
//! ```text
//!             begin(kind, handler, key)
//!   run ──────────────┬─ Fresh ──► the handler, its claim renewed ─┬─ Ok ──► finish: remembered
//!                     ├─ InProgress ──► snooze until that can end  └─ else ► abandon: may run again
//!                     └─ Done ──► Ok, without the handler
//! ```
//!
//! Deliberately absent: a clock (the time comes from the handler's context), and any storage: that
//! is a [`DedupeStore`]'s, [`MemoryStore`] or `SqliteStore`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Latch, Task};
use crate::envelope::MAX_KEY;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::handler::Context;
use crate::middleware::{Middleware, Next};
use crate::outcome::{Failure, Outcome};
use crate::reason;
use crate::retry::Backoff;

mod memory;
#[cfg(feature = "local")]
mod sqlite;
mod store;

pub use memory::MemoryStore;
#[cfg(feature = "local")]
pub use sqlite::SqliteStore;
pub use store::{Begun, Claim, DedupeKey, DedupeStore};

/// For how long one call of a store is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a success is told to the store, and what lies between.
const TELL_TRIES: u32 = 4;
const TELL_AGAIN: Backoff = Backoff::exponential(Duration::from_millis(100), Duration::from_secs(2));

/// So many runs in a row that took their process with them are enough.
const MAX_CRASHES: u32 = 10;

/// Middleware that lets each handler finish an event once, though its message may come twice, and a
/// business event once, though it is signalled twice.
///
/// ```no_run
/// use dawdle::middleware::dedupe::MemoryStore;
/// use dawdle::{Context, Dawdle, Dedupe, Event, Outcome};
///
/// #[derive(serde::Serialize, serde::Deserialize, Event)]
/// #[event(kind = "doc.dedupe.invoice", key = "{account}-{month}")]
/// struct InvoiceDue { account: u64, month: u8 }
///
/// #[dawdle::handler]
/// async fn charge(event: &InvoiceDue, cx: &Context) -> Outcome {
///     println!("charging account {} for {}", event.account, cx.key());
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> dawdle::Result<()> {
/// let store = MemoryStore::new(); // in earnest one that outlives the process, as SqliteStore does
/// let dawdle = Dawdle::builder().middleware(Dedupe::new(store)).start().await?;
/// dawdle.signal(InvoiceDue { account: 7, month: 11 }).await?;
/// dawdle.signal(InvoiceDue { account: 7, month: 11 }).await?; // charges nobody a second time
/// # Ok(())
/// # }
/// ```
///
/// **What is once.** A kind, a handler and a key: that of [`.key(..)`](crate::Signal::key), else
/// what `#[event(key = "..")]` makes of the event, else the event's id. So two kinds may use one
/// key, and all handlers of an event run. It goes by the kind and the handler as they are called:
/// what is renamed begins afresh.
///
/// **Only success is remembered**: a handler that returned `Ok`. What failed, was snoozed, timed out,
/// panicked or was dropped by a shutdown runs again, by retry or replay; so does what was discarded,
/// which had no effect. A replay of what succeeded does not run the handler.
///
/// **While it runs**, another delivery of it does not run the handler: it is snoozed until the claim
/// can have ended, and spends no attempt (one message for each [lease](Dedupe::lease), while the
/// first runs on). The claim is renewed for as long as the handler runs. A
/// node that dies leaves it behind, and others take over when its lease has ended. A node that
/// lost its claim (cut off from the store for longer than the lease) is told by
/// [`Context::cancelled`], and records nothing over the claim of another. A run
/// that has taken its process with it ten times in a row is dead-lettered as
/// [`poison`](crate::reason::POISON).
///
/// **When the store fails** before the run, the handler does not run: it is a retry, with the
/// store's error, and spends an attempt. When it fails after a success, it is tried again for a few
/// seconds; then an error is logged and the outcome stays `Ok`. For the effect is there: a retry
/// would surely have it again, and an ack has it again only if another copy comes.
///
/// **What remains.** A node that dies after the effect and before the store has it on disk leaves an
/// event that was handled and is not remembered: the handler runs again. No store beside the effect
/// can close that window. What closes it is an effect that knows its own name: write it in one
/// transaction with a row that is unique by [`Context::key`] and the handler, or give the service
/// that is called an idempotency key made of them. `testing::prove_idempotent` shows whether a
/// handler has that window.
///
/// Middleware given after it runs only for what is run; that given before it sees the skipped runs
/// as successes. A harness counts them among its `runs`.
pub struct Dedupe {
    store: Arc<dyn DedupeStore>,
    remember_for: Duration,
    lease: Duration,
}

impl Dedupe {
    /// Remembers in this store. Every node that handles an event needs one, on the same store.
    pub fn new(store: impl DedupeStore) -> Self {
        Dedupe {
            store: Arc::new(store),
            remember_for: Duration::from_secs(14 * 86_400),
            lease: Duration::from_secs(60),
        }
    }

    /// For how long a success is remembered. 14 days: as long as SQS keeps a message, so that no
    /// copy outlives the memory of it.
    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-basic-architecture.html>
    ///
    /// Shorter costs less space (a store holds rate x time keys) and is safe where no message waits
    /// that long; longer serves keys that may be signalled again later, a month's invoice for
    /// instance.
    #[must_use]
    pub fn remember_for(mut self, span: Duration) -> Self {
        self.remember_for = span;
        self
    }

    /// For how long a run holds its claim without renewing it: how long another delivery waits for
    /// a node that has died. 60 seconds; less than one second is taken as one. It is renewed after a
    /// third of it.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_secs(1));
        self
    }
}

impl fmt::Debug for Dedupe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dedupe")
            .field("remember_for", &self.remember_for)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

impl Middleware for Dedupe {
    async fn handle(&self, cx: &Context, event: &dyn Event, next: Next<'_>) -> Outcome {
        let key = cx.key();
        if key.len() > MAX_KEY {
            return Err(Failure::dead_letter(format!(
                "its dedup key has {} bytes, and a key has at most {MAX_KEY}: its producer must send a shorter one",
                key.len()
            )));
        }
        let key = DedupeKey::new(cx.kind(), cx.handler(), key);
        let begun = asked(&cx.clock, self.store.begin(&key, cx.now(), self.lease)).await;
        let claim = match begun.map_err(Failure::retry)? {
            Begun::Fresh(claim) => claim,
            Begun::Done => {
                tracing::debug!(id = %cx.id(), kind = cx.kind(), handler = cx.handler(), "finished before: not run again");
                return Ok(());
            }
            Begun::InProgress { until } => {
                let left = until.duration_since(cx.now()).unwrap_or_default();
                return Err(Failure::snooze(left.max(Duration::from_millis(1))));
            }
        };
        let crashes = claim.crashes();
        let held = Held::new(self, claim, cx);
        if crashes >= MAX_CRASHES {
            tracing::warn!(
                id = %cx.id(), kind = cx.kind(), handler = cx.handler(),
                "{crashes} runs in a row ended without a word; most likely each took its process with it"
            );
            held.abandon().await;
            return Err(Failure::dead_letter(reason::POISON));
        }
        let outcome = next.run(cx, event).await;
        match outcome {
            Ok(()) => held.finish().await,
            Err(_) => held.abandon().await,
        }
        outcome
    }
}

/// A claim of a run, which ends with it however it ends.
struct Held {
    /// What is left to tell the store, and the claim to tell it of.
    last: Option<(Last, Teller)>,
    renewal: Task<()>,
}

/// What the store is told last.
#[derive(Clone, Copy)]
enum Last {
    Abandon,
    Finish,
}

/// A claim and where it is kept.
#[derive(Clone)]
struct Teller {
    store: Arc<dyn DedupeStore>,
    clock: Clock,
    claim: Claim,
    lease: Duration,
    remember_for: Duration,
}

impl Held {
    fn new(dedupe: &Dedupe, claim: Claim, cx: &Context) -> Self {
        let teller = Teller {
            store: Arc::clone(&dedupe.store),
            clock: cx.clock.clone(),
            claim,
            lease: dedupe.lease,
            remember_for: dedupe.remember_for,
        };
        // In a task of its own: a handler that blocks its thread must not lose its claim.
        let renewal = cx.clock.spawn_user(None, teller.clone().keep_renewing(cx.cancelled.clone()));
        Held { last: Some((Last::Abandon, teller)), renewal }
    }

    /// The handler has succeeded. Dropped, as by the handler's timeout, it goes on in the background.
    async fn finish(mut self) {
        self.renewal.abort();
        if let Some((last, teller)) = &mut self.last {
            *last = Last::Finish;
            teller.finish().await;
        }
        self.last = None;
    }

    /// The handler has not. Dropped, it goes on in the background.
    async fn abandon(mut self) {
        self.renewal.abort();
        if let Some((_, teller)) = &self.last {
            teller.abandon().await;
        }
        self.last = None;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewal.abort();
        let Some((last, teller)) = self.last.take() else { return };
        // Without a runtime nobody is left to tell the store: the lease ends by itself.
        if tokio::runtime::Handle::try_current().is_ok() {
            let clock = teller.clock.clone();
            clock.spawn_user(None, async move {
                match last {
                    Last::Abandon => teller.abandon().await,
                    Last::Finish => teller.finish().await,
                }
            });
        }
    }
}

impl Teller {
    /// Renews the claim until it is dropped or the claim is lost. What fails is tried again twice
    /// before the lease ends.
    async fn keep_renewing(self, cancelled: Latch) {
        let key = self.claim.key();
        loop {
            self.clock.sleep(self.lease / 3).await;
            let renewed = self.store.renew(&self.claim, self.clock.now(), self.lease);
            match self.clock.timeout(self.lease / 3, renewed).await {
                Some(Ok(())) => {}
                Some(Err(error)) if error.kind() == ErrorKind::LeaseLost => {
                    tracing::warn!(
                        kind = key.kind(),
                        handler = key.handler(),
                        "a run goes on without its claim: {error}"
                    );
                    cancelled.raise();
                    return;
                }
                Some(Err(error)) => {
                    tracing::warn!(kind = key.kind(), handler = key.handler(), "a claim was not renewed: {error}");
                }
                None => {
                    tracing::warn!(kind = key.kind(), handler = key.handler(), "a claim was not renewed: no answer");
                }
            }
        }
    }

    async fn finish(&self) {
        let key = self.claim.key();
        for tries in 1.. {
            let told = asked(&self.clock, self.store.finish(&self.claim, self.clock.now(), self.remember_for)).await;
            let Err(error) = told else { return };
            if error.kind() == ErrorKind::LeaseLost {
                tracing::warn!(
                    kind = key.kind(),
                    handler = key.handler(),
                    "finished, perhaps beside another run: {error}"
                );
                return;
            }
            if tries == TELL_TRIES {
                tracing::error!(
                    kind = key.kind(),
                    handler = key.handler(),
                    "finished, and could not be remembered ({tries} tries): a further copy would run it again: {error}"
                );
                return;
            }
            self.clock.sleep(TELL_AGAIN.delay(tries, fastrand::f64())).await;
        }
    }

    async fn abandon(&self) {
        if let Err(error) = asked(&self.clock, self.store.abandon(&self.claim)).await {
            let key = self.claim.key();
            tracing::warn!(
                kind = key.kind(),
                handler = key.handler(),
                "a claim was not given back, and holds up its retry for {:?} at most: {error}",
                self.lease
            );
        }
    }
}

/// A store's answer, waited for so long.
async fn asked<T>(clock: &Clock, answer: impl Future<Output = Result<T>>) -> Result<T> {
    match clock.timeout(PATIENCE, answer).await {
        Some(answer) => answer,
        None => {
            Err(Error::new(ErrorKind::Unavailable, format!("the dedupe store has not answered within {PATIENCE:?}")))
        }
    }
}
