//! What could not be handled, to be looked at, replayed or purged: [`DeadLetters`].

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use futures_util::{Stream, StreamExt};

use crate::backend::{Backend, BoxFuture, Delivery, Lane, Outgoing, Receipt, Settle, Settlement};
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

/// How many letters one instance holds at most, unless a test says otherwise.
const MAX_HELD: usize = 100_000;

/// How many letters are replayed or purged side by side.
const SIDE_BY_SIDE: usize = 10;

/// The most looks of a scan that are under way at once. It comes to that only while what a look finds is
/// taken within `SOON`: what waits to be shown is held meanwhile.
const LOOKS: usize = 16;
const SOON: Duration = Duration::from_secs(1);

/// How many batches of letters are given back at once.
const RELEASES: usize = 32;

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
    ///
    /// An instance holds at most 100,000 letters. What the filter does not ask for is given back to make room, and
    /// where more are shown the stream ends with an [`ErrorKind::Full`]; so it does where there are more than
    /// that and the backend does not come to the end of them.
    pub fn scan(&self, filter: Filter) -> DeadLetterStream {
        self.scan_if(filter, |_| true)
    }

    /// The same with a condition of one's own: what does not fulfil it is passed over as what the filter does
    /// not ask for.
    ///
    /// ```no_run
    /// # async fn doc(dawdle: dawdle::Dawdle) -> dawdle::Result<()> {
    /// use dawdle::Filter;
    /// let refused = |letter: &dawdle::DeadLetter| letter.error.as_deref().is_some_and(|it| it.contains("refused"));
    /// let mut letters = dawdle.dead_letters().scan_if(Filter::default().kind("order.paid"), refused);
    /// while let Some(letter) = letters.next().await {
    ///     dawdle.dead_letters().replay(&letter?).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn scan_if(
        &self,
        filter: Filter,
        fits: impl Fn(&DeadLetter) -> bool + Send + Sync + 'static,
    ) -> DeadLetterStream {
        self.scan_with(filter, Box::new(fits), None)
    }

    fn scan_with(&self, filter: Filter, fits: Box<Fits>, once: Option<Once>) -> DeadLetterStream {
        let scan = Scan {
            dawdle: self.dawdle.clone(),
            filter,
            fits,
            once,
            begun: false,
            came_across: HashSet::new(),
            found: VecDeque::new(),
            looks: 1,
            looked: None,
            again: 0,
            broken: false,
            passed_over: Vec::new(),
            gave_back: false,
            shown: HashSet::new(),
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
        let mut letters = self.scan_with(filter, Box::new(|_| true), once).chunks(SIDE_BY_SIDE);
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
        crate::crash::point!("remove.before");
        let removed = self.dawdle.engine().settler.remove(receipt).await;
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

    /// How many letters scans of this instance hold.
    pub fn held(&self) -> usize {
        let now = self.dawdle.clock().instant();
        self.dawdle.held().lock().letters.values().filter(|hold| now < hold.until).count()
    }

    /// Gives back what scans of this instance hold: others can see it at once, and it has to be scanned again
    /// before it is replayed or purged. For a process that looks and goes on living; a shutdown does it, too.
    ///
    /// A letter that cannot be given back is visible to others when its hold ends.
    pub async fn release_all(&self) {
        let now = self.dawdle.clock().instant();
        let held = {
            let mut held = self.dawdle.held().lock();
            let receipts = held.receipts(now);
            held.letters.clear();
            receipts
        };
        let_go(self.dawdle.engine(), &held).await;
    }

    /// Lets this instance hold so many letters at most, for a test.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn hold_at_most(&self, letters: usize) {
        self.dawdle.held().lock().most = letters;
    }

    /// The time by the queues' clock, by which letters die.
    pub async fn now(&self) -> SystemTime {
        if let Err(error) = self.dawdle.learn_the_time().await {
            tracing::warn!("{error}");
        }
        self.dawdle.clock().now()
    }
}

/// The dead letters that an instance holds.
#[derive(Default)]
pub(crate) struct Held(Mutex<Holds>);

struct Holds {
    /// By message id.
    letters: HashMap<String, Hold>,
    most: usize,
}

struct Hold {
    /// The newest one.
    receipt: Receipt,
    until: Instant,
}

impl Default for Holds {
    fn default() -> Self {
        Holds { letters: HashMap::new(), most: MAX_HELD }
    }
}

impl Holds {
    /// Those of what is still held.
    fn receipts(&mut self, now: Instant) -> Vec<Receipt> {
        self.forget_lapsed(now);
        self.letters.values().map(|hold| hold.receipt.clone()).collect()
    }

    fn forget_lapsed(&mut self, now: Instant) {
        self.letters.retain(|_, hold| now < hold.until);
    }
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

fn hash_of(message_id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    message_id.hash(&mut hasher);
    hasher.finish()
}

type Fits = dyn Fn(&DeadLetter) -> bool + Send + Sync;

/// A scan under way.
struct Scan {
    dawdle: Dawdle,
    filter: Filter,
    fits: Box<Fits>,
    once: Option<Once>,
    begun: bool,
    /// Hashes of the messages that it has seen. One whose hold ran out, or that was given back, comes again, and is
    /// not shown again.
    came_across: HashSet<u64>,
    found: VecDeque<Delivery>,
    /// How many looks are under way at once the next time, and when the last ones were answered.
    looks: usize,
    looked: Option<Instant>,
    /// How many came again since the last new one: their hold ran out while others were shown.
    again: usize,
    /// It ended in an error.
    broken: bool,
    /// Message ids of what is held, but is not what the filter asks for.
    passed_over: Vec<String>,
    /// Some of that was given back, to make room.
    gave_back: bool,
    /// Hashes of the messages that it has shown.
    shown: HashSet<u64>,
}

impl Scan {
    async fn next(&mut self) -> Option<Result<DeadLetter>> {
        if self.broken {
            return None;
        }
        if !self.begun {
            self.begin().await;
        }
        loop {
            if self.filter.limit.is_some_and(|limit| self.shown.len() >= limit) {
                self.give_back().await;
                return None;
            }
            if let Some(delivery) = self.found.pop_front() {
                let letter = letter(delivery);
                let fits = self.filter.takes(&letter) && (self.fits)(&letter);
                if fits && self.once.as_mut().is_none_or(|once| once.takes(&letter)) {
                    self.shown.insert(hash_of(&letter.message_id));
                    return Some(Ok(letter));
                }
                self.passed_over.push(letter.message_id);
                continue;
            }
            match self.browse().await {
                Ok(true) => {}
                Ok(false) => {
                    self.give_back().await;
                    return None;
                }
                Err(error) => {
                    self.broken = true;
                    if error.kind() == ErrorKind::Full {
                        self.give_back().await;
                    }
                    return Some(Err(error));
                }
            }
        }
    }

    async fn begin(&mut self) {
        self.begun = true;
        // What an earlier scan of this instance holds is shown again. It is not forgotten: whoever works on one
        // of them goes on as soon as this scan comes across it.
        let held = self.dawdle.held().lock().receipts(self.dawdle.clock().instant());
        let_go(self.dawdle.engine(), &held).await;
    }

    /// Sees to it that an instance holds no more than it may. Holds that have run out do not count, and what was
    /// passed over is given back where that is half of it at least: it comes again, and is passed over again. Says
    /// for how many there is room.
    async fn make_room(&mut self) -> Result<usize> {
        let now = self.dawdle.clock().instant();
        let most = {
            let mut held = self.dawdle.held().lock();
            if held.letters.len() >= held.most {
                held.forget_lapsed(now);
                self.passed_over.retain(|id| held.letters.contains_key(id));
            }
            if held.letters.len() < held.most {
                return Ok(held.most - held.letters.len());
            }
            held.most
        };
        let passed_over = self.passed_over.len();
        if passed_over >= most.div_ceil(2) {
            self.gave_back = true;
            let ids = std::mem::take(&mut self.passed_over);
            self.let_go_of(ids).await;
            return Ok(passed_over);
        }
        Err(Error::new(
            ErrorKind::Full,
            format!(
                "{most} dead letters are held, which is the most at a time: what lies beyond them was not looked at; replay \
                 or purge some, then scan again"
            ),
        ))
    }

    /// Whether the scan has seen all there is, when only what it has seen comes again: a backend may go on showing
    /// what it was given back.
    async fn ensure_all_seen(&self) -> Result<()> {
        if !self.gave_back {
            return Ok(());
        }
        let seen = self.came_across.len();
        let all = self.dawdle.inspect(Lane::Dead).await.map_or(u64::MAX, |stats| stats.total());
        if u64::try_from(seen).is_ok_and(|seen| seen >= all) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Full,
            format!(
                "{seen} dead letters were looked at, which is more than are held at a time, and there may be others, which \
                 do not come; replay or purge some, then scan again"
            ),
        ))
    }

    /// Takes in more; `false` when there is no more, or it has come round.
    async fn browse(&mut self) -> Result<bool> {
        let room = self.make_room().await?;
        let engine = self.dawdle.engine();
        let until = engine.clock.instant() + HOLD;
        let max = engine.backend.limits().max_batch_entries;
        let taken_soon = self.looked.is_some_and(|looked| engine.clock.instant() < looked + SOON);
        let looks = if taken_soon { self.looks.min(room.div_ceil(max.max(1))) } else { 1 };
        let look = || engine.ask(move |backend| async move { backend.browse(Lane::Dead, max, HOLD).await });
        let looking: Vec<_> = std::iter::repeat_with(look).take(looks).collect();
        let answers = futures_util::future::join_all(looking).await;
        crate::crash::point!("scan.found");
        self.looked = Some(engine.clock.instant());
        let (before, mut came, mut failed) = (self.found.len(), 0, None);
        {
            let mut held = self.dawdle.held().lock();
            for answer in answers {
                match answer {
                    Err(error) => failed = failed.or(Some(error)),
                    Ok(found) => {
                        for delivery in found {
                            came += 1;
                            let hold = Hold { receipt: delivery.receipt.clone(), until };
                            held.letters.insert(delivery.message_id.clone(), hold);
                            let hash = hash_of(&delivery.message_id);
                            if self.came_across.insert(hash) {
                                self.found.push_back(delivery);
                            } else if !self.shown.contains(&hash) {
                                self.passed_over.push(delivery.message_id);
                            }
                        }
                    }
                }
            }
        }
        // There may be more to come where every look was worth it.
        self.looks = if came >= looks * max / 2 { (looks * 2).min(LOOKS) } else { 1 };
        let new = self.found.len() - before;
        self.again = if new > 0 { 0 } else { self.again + came };
        let come_round = self.again > self.came_across.len();
        match failed {
            // What else was found is shown first; the next look fails, too, or all is well again.
            Some(error) if new == 0 => Err(error),
            _ if come_round => self.ensure_all_seen().await.map(|()| false),
            _ => Ok(came > 0),
        }
    }

    /// Lets go of what the scan came across and did not show.
    async fn give_back(&mut self) {
        let unread = self.found.drain(..).map(|delivery| delivery.message_id);
        let ids = self.passed_over.drain(..).chain(unread).collect();
        self.let_go_of(ids).await;
        crate::crash::point!("scan.given_back");
    }

    /// Lets go of messages, but for those that are shown.
    async fn let_go_of(&self, ids: Vec<String>) {
        let receipts: Vec<Receipt> = {
            let mut held = self.dawdle.held().lock();
            let unshown = ids.iter().filter(|id| !self.shown.contains(&hash_of(id)));
            unshown.filter_map(|id| Some(held.letters.remove(id)?.receipt)).collect()
        };
        release(self.dawdle.engine(), &receipts).await;
    }
}

/// Makes all that an instance holds visible to others.
async fn let_go(engine: &Engine, held: &[Receipt]) {
    crate::crash::point!("release_all.before");
    release(engine, held).await;
    crate::crash::point!("release_all.after");
}

/// Makes letters visible to others. One that fails is visible when its hold ends.
async fn release(engine: &Engine, receipts: &[Receipt]) {
    let how = Settlement::ReleaseAfter(Duration::ZERO);
    let mut batches: Vec<BoxFuture<'_, Result<_>>> = Vec::new();
    for batch in receipts.chunks(engine.backend.limits().max_batch_entries.max(1)) {
        let entries: Vec<Settle> = batch.iter().map(|receipt| Settle { receipt: receipt.clone(), how }).collect();
        batches.push(Box::pin(engine.ask(|backend| async move { Ok(backend.settle(Lane::Dead, &entries).await) })));
    }
    let mut batches = futures_util::stream::iter(batches).buffer_unordered(RELEASES);
    while let Some(released) = batches.next().await {
        if let Err(error) = released {
            tracing::debug!("dead letters were not let go of; they are visible when their hold ends: {error}");
        }
    }
}

/// Reads a message of the dead lane.
fn letter(delivery: Delivery) -> DeadLetter {
    let Delivery { message_id, body, attributes, enqueued_at, .. } = delivery;
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
        raw,
    }
}
