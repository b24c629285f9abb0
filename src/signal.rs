//! Signalling one event: [`Signal`].

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use tracing::Span;

use crate::clock::last_instant;
use crate::dawdle::Dawdle;
use crate::envelope::{Envelope, whole_milliseconds};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventId, TypedEvent};
use crate::sender::{Parcel, WhenFull};
use crate::trace;

/// An event about to be signalled. Sent when it is awaited, which yields its [`EventId`].
///
/// When awaiting returns `Ok`, the event is durable in the backend. Failures that may pass are
/// tried again for `send_timeout` (10 seconds). An error's
/// [`maybe_sent`](Error::maybe_sent) says whether the event may be in the queue all the same;
/// dropping the future may or may not have sent it.
///
/// # Errors
/// [`ErrorKind::TooLarge`], [`ErrorKind::Overloaded`], [`ErrorKind::Full`], [`ErrorKind::Invalid`],
/// [`ErrorKind::Codec`], [`ErrorKind::ShutDown`], [`ErrorKind::NotInstalled`], and the backend's.
#[must_use = "a signal is sent when it is awaited"]
pub struct Signal {
    prepared: Result<Prepared>,
    when_full: WhenFull,
}

struct Prepared {
    dawdle: Dawdle,
    envelope: Envelope,
    /// What the event's type makes of it, should it be signalled without a key.
    own_key: Option<String>,
    due: Due,
    expires_in: Option<Duration>,
    how: How,
}

/// What is done with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Put on the queue, and waited for.
    Queued,
    /// Put into the buffer.
    Buffered,
    /// Run on this node.
    Direct,
}

/// When an event is to be handled.
enum Due {
    Now,
    After(Duration),
    At(SystemTime),
}

impl Signal {
    pub(crate) fn new<E: TypedEvent>(dawdle: Result<Dawdle>, event: &E, when_full: WhenFull) -> Self {
        let prepared = dawdle.and_then(|dawdle| {
            let engine = dawdle.engine();
            let envelope = Envelope::of(event, &engine.settings.source, engine.clock.now())?;
            let own_key = event.dedup_key();
            Ok(Prepared { dawdle, envelope, own_key, due: Due::Now, expires_in: None, how: How::Queued })
        });
        Signal { prepared, when_full }
    }

    fn with(mut self, change: impl FnOnce(&mut Prepared) -> Result<()>) -> Self {
        self.prepared = self.prepared.and_then(|mut prepared| {
            change(&mut prepared)?;
            Ok(prepared)
        });
        self
    }

    /// Due after this time, counted from when it is awaited.
    pub fn delay(self, delay: Duration) -> Self {
        self.with(|signal| {
            signal.due = Due::After(delay);
            Ok(())
        })
    }

    /// Due at this time; a time that has passed is now.
    pub fn at(self, time: SystemTime) -> Self {
        self.with(|signal| {
            signal.due = Due::At(time);
            Ok(())
        })
    }

    /// Dead-lettered as `expired` instead of handled when it is taken later than this after it was
    /// due.
    pub fn expires_in(self, span: Duration) -> Self {
        self.with(|signal| {
            signal.expires_in = Some(span);
            Ok(())
        })
    }

    /// What deduplication goes by, 1 to 1024 bytes: of all events of one kind that have one key,
    /// each handler finishes one, for as long as the store remembers. It takes the place of the key
    /// that the event's type makes of it by `#[event(key = "..")]`; without either, the event's id
    /// is its key, which only copies of the event itself share.
    ///
    /// **Without a dedupe store it does nothing**: the key travels with the event, handlers may read
    /// it ([`Context::key`](crate::Context::key)), and every event is handled. Give the builder a
    /// [`Dedupe`](crate::Dedupe) on every node that listens.
    pub fn key(self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.with(|signal| signal.envelope.set_key(key))
    }

    /// The tenant it belongs to, for SQS fair queues: at most 128 letters, digits and punctuation.
    /// AWS charges extra for it. Other backends carry it along.
    pub fn group(self, group: impl Into<String>) -> Self {
        let group = group.into();
        self.with(|signal| signal.envelope.set_group(&group))
    }

    /// An attribute that travels with the event, also through retries, dead letters and replays;
    /// handlers read it with [`Context::attribute`](crate::Context::attribute). Its name is 1 to
    /// 64 lower-case letters and digits.
    pub fn attribute(self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        let value = value.into();
        self.with(|signal| signal.envelope.set_attribute(name.as_ref(), value))
    }

    /// An identity of the application's own making.
    pub fn id(self, id: EventId) -> Self {
        self.with(|signal| {
            signal.envelope.id = id;
            Ok(())
        })
    }

    /// Runs the handlers on this node at once, each in a task of its own, bypassing the queue.
    ///
    /// Nothing is durable until a first failure puts it on the queue: an event whose process dies
    /// first is lost. Refused with a delay, and where no handler of the event runs on this node.
    pub fn direct(self) -> Self {
        self.with(|signal| signal.be(How::Direct))
    }

    /// Answers as soon as the event is in this process's send buffer, and sends it soon, together with
    /// others: the cheapest way to signal many, for events that may be lost with the process.
    ///
    /// **Durable once [`flush`](Dawdle::flush) has returned `Ok`**: a process that dies first loses what is in
    /// the buffer. What cannot be sent for now, whatever the reason, is tried until it can; what never can be (the
    /// backend refuses the event itself) is logged, with its id, and is an error of the next `flush`.
    /// [`shutdown`](Dawdle::shutdown) sends it all, too, and logs what it could not within its time.
    ///
    /// A full buffer (`send_buffer`, 10,000 events) is [`ErrorKind::Overloaded`] at once.
    pub fn buffered(self) -> Self {
        self.with(|signal| signal.be(How::Buffered))
    }

    /// The envelope, to be kept elsewhere and sent later by [`Dawdle::send`]. It carries the trace that this
    /// is called in (feature `otel`).
    ///
    /// A delay counts from now, by the queue's clock as far as it is known: this asks the queue nothing. A process
    /// that has not heard from it yet goes by its machine's clock.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], [`ErrorKind::Codec`], [`ErrorKind::NotInstalled`], and
    /// [`ErrorKind::TooLarge`] for one that could never be sent.
    pub fn into_envelope(self) -> Result<Envelope> {
        let (dawdle, mut envelope) = self.prepared?.finish()?;
        trace::carry(&Span::current(), &mut envelope);
        let sender = &dawdle.engine().sender;
        sender.check_size(&sender.parcel(&envelope, envelope.due)?)?;
        Ok(envelope)
    }

    /// What is sent of an event that is due now.
    pub(crate) fn prepared(self, within: &Span) -> Result<(EventId, Parcel)> {
        let (dawdle, mut envelope) = self.prepared?.finish()?;
        trace::carry(within, &mut envelope);
        dawdle.parcel(envelope)
    }

    async fn send(self) -> Result<EventId> {
        let (prepared, when_full) = (self.prepared?, self.when_full);
        let span = prepared.dawdle.engine().tracer.signal(&prepared.envelope.kind);
        let sent = trace::sending(span.clone(), prepared.send(when_full, &span)).await;
        if let Ok(id) = &sent {
            span.record("messaging.message.id", id.as_str());
        }
        sent
    }
}

impl Prepared {
    async fn send(self, when_full: WhenFull, span: &Span) -> Result<EventId> {
        let (how, delayed) = (self.how, !matches!(self.due, Due::Now));
        if delayed || self.expires_in.is_some() {
            self.dawdle.learn_the_time().await?;
        }
        let (dawdle, mut envelope) = self.finish()?;
        trace::carry(span, &mut envelope);
        match (how, delayed) {
            (How::Direct, true) => Err(Error::new(
                ErrorKind::Invalid,
                "a direct signal runs at once and cannot be delayed; leave out `.direct()` or the delay",
            )),
            (How::Direct, false) => dawdle.run_directly(envelope, when_full).await,
            (How::Buffered, _) => dawdle.buffer(envelope).await,
            (How::Queued, _) => dawdle.send_envelope(envelope, when_full).await,
        }
    }

    fn be(&mut self, how: How) -> Result<()> {
        if self.how != How::Queued && self.how != how {
            let text = "a signal is direct or buffered, not both; leave one of them out";
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        self.how = how;
        Ok(())
    }

    /// Works the times out, from now.
    fn finish(self) -> Result<(Dawdle, Envelope)> {
        let now = self.dawdle.clock().now();
        let mut envelope = self.envelope;
        if let (None, Some(key)) = (&envelope.dedup_key, self.own_key) {
            envelope.set_own_key(key)?;
        }
        envelope.due = match self.due {
            Due::Now => None,
            Due::After(delay) => Some(within_time("due", now.checked_add(delay))?),
            Due::At(time) => Some(within_time("due", Some(time))?),
        };
        envelope.expires = match self.expires_in {
            Some(span) => Some(within_time("expiry", envelope.due.unwrap_or(now).checked_add(span))?),
            None => None,
        };
        Ok((self.dawdle, envelope))
    }
}

/// Refuses a time that is no date; rounds it as the wire does.
fn within_time(what: &str, time: Option<SystemTime>) -> Result<SystemTime> {
    let last = last_instant();
    match time.filter(|time| *time <= last) {
        Some(time) => Ok(whole_milliseconds(time)),
        None => Err(Error::new(
            ErrorKind::Invalid,
            format!("the {what} time is past the year 9999, the last that can be written; is its unit right?"),
        )),
    }
}

impl IntoFuture for Signal {
    type Output = Result<EventId>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<EventId>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.prepared.as_ref().map(|prepared| prepared.envelope.kind());
        f.debug_struct("Signal").field("kind", &kind).finish_non_exhaustive()
    }
}
