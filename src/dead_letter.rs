//! What could not be handled, to be looked at, replayed or purged: [`DeadLetters`].

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use futures_util::{Stream, StreamExt};

use crate::backend::{Backend, Delivery, Lane, Outgoing, Receipt, Settle, Settlement};
use crate::dawdle::Dawdle;
use crate::envelope::{Death, Envelope};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventId;
use crate::foreign::RawMessage;
use crate::listener::Engine;
use crate::reason;
use crate::sender::Parcel;
use crate::wire::{self, Body};

/// For how long a scan holds what it shows: nobody else sees it meanwhile. On SQS that is a
/// visibility timeout.
pub const HOLD: Duration = Duration::from_secs(300);

/// How many letters one instance holds at most.
const MAX_HELD: usize = 100_000;

/// How many letters are replayed or purged side by side.
const SIDE_BY_SIDE: usize = 10;

/// An event, or what was left of one, that was given up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The event's identity.
    pub id: EventId,
    /// Its kind; `dawdle.undecodable` for a body that was no event, see [`raw`](DeadLetter::raw).
    pub kind: String,
    /// The handler that it died of; `None` where none was involved.
    pub handler: Option<String>,
    /// Why: one of [`reason`](crate::reason)'s, or what a handler said.
    pub reason: String,
    /// The last error's text, at most 4 KiB of it.
    pub error: Option<String>,
    /// How many attempts it had.
    pub attempts: u32,
    /// When it was first signalled.
    pub signalled_at: SystemTime,
    /// When its last attempt was due.
    pub due_at: SystemTime,
    /// When it was given up.
    pub died_at: SystemTime,
    /// The node that gave it up.
    pub node: Option<String>,
    /// The build that gave it up.
    pub version: Option<String>,
    /// The event with everything that travelled beside its data.
    pub envelope: Envelope,
    message_id: String,
    receipt: Receipt,
    /// Body and message attributes of what was no event.
    raw: Option<(String, BTreeMap<String, String>)>,
}

impl DeadLetter {
    /// The message as it came, where it was no event.
    pub fn raw(&self) -> Option<RawMessage<'_>> {
        let (body, attributes) = self.raw.as_ref()?;
        Some(RawMessage::new(&self.message_id, body, attributes, self.signalled_at))
    }
}

/// Which dead letters. Every condition that is given must hold.
///
/// ```
/// use dawdle::Filter;
/// let filter = Filter::default().kind("trial.ending").reason("attempts").limit(100);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this kind.
    pub kind: Option<String>,
    /// Of this handler.
    pub handler: Option<String>,
    /// For this reason.
    pub reason: Option<String>,
    /// Given up by this build.
    pub version: Option<String>,
    /// Given up at this time or later.
    pub since: Option<SystemTime>,
    /// At most so many.
    pub limit: Option<usize>,
}

impl Filter {
    /// Of this kind.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Of this handler.
    #[must_use]
    pub fn handler(mut self, handler: impl Into<String>) -> Self {
        self.handler = Some(handler.into());
        self
    }

    /// For this reason.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Given up by this build.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Given up at this time or later.
    #[must_use]
    pub fn since(mut self, since: SystemTime) -> Self {
        self.since = Some(since);
        self
    }

    /// At most so many.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    fn takes(&self, letter: &DeadLetter) -> bool {
        let is = |wanted: &Option<String>, actual: Option<&str>| wanted.as_deref().is_none_or(|it| Some(it) == actual);
        is(&self.kind, Some(&letter.kind))
            && is(&self.handler, letter.handler.as_deref())
            && is(&self.reason, Some(&letter.reason))
            && is(&self.version, letter.version.as_deref())
            && self.since.is_none_or(|since| letter.died_at >= since)
    }
}

/// The dead letters of an application; from [`Dawdle::dead_letters`].
#[derive(Clone, Debug)]
pub struct DeadLetters {
    dawdle: Dawdle,
}

impl DeadLetters {
    pub(crate) fn new(dawdle: Dawdle) -> Self {
        DeadLetters { dawdle }
    }

    /// Goes through the dead letters that pass the filter.
    ///
    /// What it comes across is held for five minutes: nobody else sees it, and it can be replayed
    /// or purged. On SQS looking hides: a letter that is left alone is visible to others again
    /// after that, or when this instance scans again or shuts down. Letters that others hold are
    /// not shown. The stream ends after an error.
    pub fn scan(&self, filter: Filter) -> DeadLetterStream {
        self.scan_with(filter, None)
    }

    fn scan_with(&self, filter: Filter, once: Option<Once>) -> DeadLetterStream {
        let scan = Scan {
            dawdle: self.dawdle.clone(),
            filter,
            once,
            number: None,
            found: VecDeque::new(),
            broken: false,
            passed_over: Vec::new(),
            shown: 0,
        };
        DeadLetterStream {
            stream: Box::pin(futures_util::stream::unfold(scan, |mut scan| async {
                let next = scan.next().await?;
                Some((next, scan))
            })),
        }
    }

    /// Puts a dead letter back on the message queue, for the handler that it died of. Its attempts
    /// start afresh and it no longer expires.
    ///
    /// If the process dies in the middle the event may come twice, and is never lost.
    ///
    /// # Errors
    /// [`ErrorKind::LeaseLost`] when the letter is no longer held: scan again. Otherwise the
    /// backend's.
    pub async fn replay(&self, letter: &DeadLetter) -> Result<()> {
        self.dawdle.ensure_open()?;
        let receipt = self.receipt_of(letter)?;
        let engine = self.dawdle.engine();
        let parcel = match &letter.raw {
            Some((body, attributes)) => {
                let (body, attributes) = (body.clone(), attributes.clone());
                Parcel::alone(Lane::Message, Outgoing { body, attributes, in_place: true, ..Outgoing::default() }, None)
            }
            None => {
                let mut envelope = letter.envelope.clone();
                envelope.death = None;
                envelope.attempt = 1;
                envelope.expires = None;
                envelope.unhandled_since = None;
                envelope.due = Some(engine.clock.now());
                engine.sender.rest_parcel(&envelope, None)?
            }
        };
        crate::crash::point!("replay.before");
        engine.sender.send(parcel).await?;
        crate::crash::point!("replay.sent");
        self.remove(letter, receipt).await
    }

    /// Replays every dead letter that passes the filter; says how many. What dies again meanwhile is
    /// left.
    ///
    /// # Errors
    /// The first letter's that could not be replayed; those before it are.
    pub async fn replay_where(&self, filter: Filter) -> Result<usize> {
        let act = |letter: DeadLetter| async move { self.replay(&letter).await };
        self.each(filter, act).await
    }

    /// Deletes a dead letter for good.
    ///
    /// # Errors
    /// As [`replay`](DeadLetters::replay).
    pub async fn purge(&self, letter: &DeadLetter) -> Result<()> {
        let receipt = self.receipt_of(letter)?;
        crate::crash::point!("purge.before");
        self.remove(letter, receipt).await
    }

    /// Deletes every dead letter that passes the filter; says how many.
    ///
    /// # Errors
    /// The first letter's that could not be deleted; those before it are.
    pub async fn purge_where(&self, filter: Filter) -> Result<usize> {
        let act = |letter: DeadLetter| async move { self.purge(&letter).await };
        self.each(filter, act).await
    }

    async fn each<F: Future<Output = Result<()>>>(
        &self,
        filter: Filter,
        act: impl Fn(DeadLetter) -> F,
    ) -> Result<usize> {
        let once = Some(Once { begun: self.dawdle.clock().now(), seen: HashSet::new() });
        let mut letters = self.scan_with(filter, once).chunks(SIDE_BY_SIDE);
        let mut done = 0;
        while let Some(chunk) = letters.next().await {
            let chunk = chunk.into_iter().map(|letter| async { act(letter?).await });
            for result in futures_util::future::join_all(chunk).await {
                result?;
                done += 1;
            }
        }
        Ok(done)
    }

    async fn remove(&self, letter: &DeadLetter, receipt: Receipt) -> Result<()> {
        let engine = self.dawdle.engine();
        let entry = Settle { receipt, how: Settlement::Ack };
        crate::crash::point!("remove.before");
        let removed = engine
            .ask(|backend| async move { backend.settle(Lane::Dead, &[entry]).await.pop().unwrap_or(Ok(())) })
            .await;
        crate::crash::point!("remove.after");
        self.dawdle.held().lock().letters.remove(&letter.message_id);
        removed
    }

    /// The newest receipt of a letter, if it is still held.
    fn receipt_of(&self, letter: &DeadLetter) -> Result<Receipt> {
        let now = self.dawdle.clock().instant();
        let held = self.dawdle.held().lock();
        match held.letters.get(&letter.message_id) {
            Some(hold) if now < hold.until => Ok(hold.receipt.clone()),
            _ => Err(Error::new(
                ErrorKind::LeaseLost,
                format!("dead letter {} is no longer held (a scan holds for {HOLD:?}); scan again", letter.id),
            )),
        }
    }

    /// Makes everything that this instance holds visible to others again.
    pub(crate) async fn let_go(&self) {
        let engine = self.dawdle.engine();
        let now = engine.clock.instant();
        let held: Vec<Receipt> = {
            let mut held = self.dawdle.held().lock();
            held.letters.retain(|_, hold| now < hold.until);
            held.letters.values().map(|hold| hold.receipt.clone()).collect()
        };
        crate::crash::point!("let_go.before");
        release(engine, &held).await;
        crate::crash::point!("let_go.after");
    }
}

/// The dead letters that an instance holds.
#[derive(Default)]
pub(crate) struct Held(Mutex<Holds>);

#[derive(Default)]
struct Holds {
    letters: HashMap<String, Hold>,
    scans: u64,
}

struct Hold {
    /// The newest one.
    receipt: Receipt,
    until: Instant,
    /// The scan that came across it last.
    scan: u64,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Holds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`DeadLetters::scan`] yields: a stream, with a `next` of its own for callers that have no
/// stream library at hand.
pub struct DeadLetterStream {
    stream: Pin<Box<dyn Stream<Item = Result<DeadLetter>> + Send>>,
}

impl DeadLetterStream {
    /// The next dead letter; `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<DeadLetter>> {
        self.stream.next().await
    }
}

impl Stream for DeadLetterStream {
    type Item = Result<DeadLetter>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for DeadLetterStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeadLetterStream(..)")
    }
}

/// Shows each event's letter once: what was replayed and has died again since the scan began is left
/// where it is, or a handler that gives up at once would keep a replay going for ever.
struct Once {
    begun: SystemTime,
    /// Hashes of what was shown: by event and handler, and by the body of what is no event, which has
    /// another id each time it dies.
    seen: HashSet<u64>,
}

impl Once {
    fn takes(&mut self, letter: &DeadLetter) -> bool {
        let mut hasher = DefaultHasher::new();
        match &letter.raw {
            Some((body, _)) => body.hash(&mut hasher),
            None => (letter.id, &letter.handler).hash(&mut hasher),
        }
        self.seen.insert(hasher.finish()) || letter.died_at < self.begun
    }
}

/// A scan under way.
struct Scan {
    dawdle: Dawdle,
    filter: Filter,
    once: Option<Once>,
    /// Its number, once it has begun.
    number: Option<u64>,
    found: VecDeque<Delivery>,
    /// It ended in an error.
    broken: bool,
    /// Held, but not what the filter asks for.
    passed_over: Vec<Receipt>,
    shown: usize,
}

impl Scan {
    async fn next(&mut self) -> Option<Result<DeadLetter>> {
        if self.broken {
            return None;
        }
        let number = match self.number {
            Some(number) => number,
            None => self.begin().await,
        };
        loop {
            if self.filter.limit.is_some_and(|limit| self.shown >= limit) {
                self.give_back().await;
                return None;
            }
            if let Some(delivery) = self.found.pop_front() {
                let letter = letter(delivery);
                if self.filter.takes(&letter) && self.once.as_mut().is_none_or(|once| once.takes(&letter)) {
                    self.shown += 1;
                    return Some(Ok(letter));
                }
                self.passed_over.push(letter.receipt);
                continue;
            }
            match self.browse(number).await {
                Ok(true) => {}
                Ok(false) => {
                    self.give_back().await;
                    return None;
                }
                Err(error) => {
                    self.broken = true;
                    return Some(Err(error));
                }
            }
        }
    }

    async fn begin(&mut self) -> u64 {
        let number = {
            let mut held = self.dawdle.held().lock();
            held.scans += 1;
            held.scans
        };
        self.number = Some(number);
        // What an earlier scan of this instance holds is shown again.
        DeadLetters::new(self.dawdle.clone()).let_go().await;
        number
    }

    /// Takes in more; `false` when there is no more, or it has come round.
    async fn browse(&mut self, number: u64) -> Result<bool> {
        let engine = self.dawdle.engine();
        if self.dawdle.held().lock().letters.len() >= MAX_HELD {
            return Err(Error::new(
                ErrorKind::Full,
                format!("{MAX_HELD} dead letters are held, which is the limit; replay or purge some, then scan again"),
            ));
        }
        let until = engine.clock.instant() + HOLD;
        let max = engine.backend.limits().max_batch_entries;
        let found = engine.ask(move |backend| async move { backend.browse(Lane::Dead, max, HOLD).await }).await?;
        crate::crash::point!("scan.found");
        let before = self.found.len();
        let mut held = self.dawdle.held().lock();
        for delivery in found {
            let hold = Hold { receipt: delivery.receipt.clone(), until, scan: number };
            let known = held.letters.insert(delivery.message_id.clone(), hold);
            if known.is_none_or(|known| known.scan != number) {
                self.found.push_back(delivery);
            }
        }
        Ok(self.found.len() > before)
    }

    /// Lets go of what the scan came across and did not show.
    async fn give_back(&mut self) {
        let engine = self.dawdle.engine();
        let unread = self.found.drain(..).map(|delivery| delivery.receipt);
        let receipts: Vec<Receipt> = self.passed_over.drain(..).chain(unread).collect();
        let given_back: HashSet<&Receipt> = receipts.iter().collect();
        self.dawdle.held().lock().letters.retain(|_, hold| !given_back.contains(&hold.receipt));
        release(engine, &receipts).await;
        crate::crash::point!("scan.given_back");
    }
}

/// Makes letters visible to others. One that fails is visible when its hold ends.
async fn release(engine: &Engine, receipts: &[Receipt]) {
    let how = Settlement::ReleaseAfter(Duration::ZERO);
    for batch in receipts.chunks(engine.backend.limits().max_batch_entries.max(1)) {
        let entries: Vec<Settle> = batch.iter().map(|receipt| Settle { receipt: receipt.clone(), how }).collect();
        let released = engine.ask(|backend| async move { Ok(backend.settle(Lane::Dead, &entries).await) }).await;
        if let Err(error) = released {
            tracing::debug!("dead letters were not let go of; they are visible when their hold ends: {error}");
        }
    }
}

/// Reads a message of the dead lane.
fn letter(delivery: Delivery) -> DeadLetter {
    let Delivery { message_id, receipt, body, attributes, enqueued_at, .. } = delivery;
    let death =
        |reason: &str| Death { reason: reason.to_owned(), error: None, time: enqueued_at, node: None, version: None };
    let (envelope, raw) = match wire::read(&body, enqueued_at) {
        Body::One(envelope) => {
            let raw = wire::unwrap_undecodable(&envelope).map(|body| (body, attributes));
            (*envelope, raw)
        }
        Body::Pack(_) | Body::Unreadable(_) => {
            // Moved as it came, for want of room to wrap it.
            let mut envelope = wire::wrap_undecodable(&body, "dawdle", EventId::new(), enqueued_at);
            envelope.death = Some(death(reason::UNDECODABLE));
            (envelope, Some((body, attributes)))
        }
    };
    let Death { reason, error, time, node, version } =
        envelope.death.clone().unwrap_or_else(|| death(reason::REDRIVEN));
    DeadLetter {
        id: envelope.id,
        kind: envelope.kind.clone(),
        handler: envelope.handler.clone(),
        reason,
        error,
        attempts: envelope.attempt,
        signalled_at: envelope.time,
        due_at: envelope.due_at(),
        died_at: time,
        node,
        version,
        envelope,
        message_id,
        receipt,
        raw,
    }
}
