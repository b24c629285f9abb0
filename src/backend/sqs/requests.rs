//! Making calls: which actions there are, how many of each were made, and what every answer says
//! about SQS's clock.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_sdk_sqs::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_sqs::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_sqs::error::BoxError;
use aws_sdk_sqs::primitives::{DateTime, DateTimeFormat};

use super::clock_offset::{ClockOffset, Interval};
use crate::backend::usage::{Asked, Meter};

/// How much longer than the quickest call an answer is taken to be under way. One that is under way for longer still
/// contradicts the others, and is put aside.
const JITTER: Duration = Duration::from_millis(25);

/// The quickest call is taken for no longer than that: rather some milliseconds late than early.
const QUICKEST: Duration = Duration::from_millis(25);

/// What is asked of SQS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Send,
    Receive,
    Delete,
    ChangeVisibility,
    GetAttributes,
    GetUrl,
    CreateQueue,
    SetAttributes,
}

impl Action {
    /// As AWS's documentation names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Action::Send => "SendMessageBatch",
            Action::Receive => "ReceiveMessage",
            Action::Delete => "DeleteMessageBatch",
            Action::ChangeVisibility => "ChangeMessageVisibilityBatch",
            Action::GetAttributes => "GetQueueAttributes",
            Action::GetUrl => "GetQueueUrl",
            Action::CreateQueue => "CreateQueue",
            Action::SetAttributes => "SetQueueAttributes",
        }
    }

    /// The permission that it needs: the batch actions go by those of the single ones.
    pub(super) fn permission(self) -> &'static str {
        match self {
            Action::Send => "sqs:SendMessage",
            Action::Receive => "sqs:ReceiveMessage",
            Action::Delete => "sqs:DeleteMessage",
            Action::ChangeVisibility => "sqs:ChangeMessageVisibility",
            Action::GetAttributes => "sqs:GetQueueAttributes",
            Action::GetUrl => "sqs:GetQueueUrl",
            Action::CreateQueue => "sqs:CreateQueue",
            Action::SetAttributes => "sqs:SetQueueAttributes",
        }
    }

    pub(super) fn sends(self) -> bool {
        self == Action::Send
    }

    pub(super) fn takes_receipts(self) -> bool {
        matches!(self, Action::Delete | Action::ChangeVisibility)
    }
}

/// What the calls of one backend share.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) meter: Meter,
    offset: Mutex<ClockOffset>,
    /// How long the quickest call so far was under way, if there was one.
    quickest: Mutex<Option<Duration>>,
}

impl Ledger {
    pub(super) fn count(&self, action: Action) {
        let asked = match action {
            Action::Send => Asked::Send,
            Action::Receive => Asked::Receive,
            Action::Delete => Asked::Delete,
            Action::ChangeVisibility => Asked::ChangeVisibility,
            Action::GetAttributes => Asked::GetAttributes,
            Action::GetUrl => Asked::GetUrl,
            Action::CreateQueue | Action::SetAttributes => return,
        };
        self.meter.count(asked, 1);
    }

    pub(super) fn offset_ms(&self) -> i64 {
        self.offset.lock().unwrap_or_else(PoisonError::into_inner).millis()
    }

    /// Whether an answer has told SQS's time.
    pub(super) fn knows_offset(&self) -> bool {
        self.offset.lock().unwrap_or_else(PoisonError::into_inner).is_known()
    }

    /// How long the quickest call so far was under way, one of `span` included.
    fn quickest(&self, span: Duration) -> Duration {
        let mut quickest = self.quickest.lock().unwrap_or_else(PoisonError::into_inner);
        let known = quickest.map_or(span, |known| known.min(span));
        *quickest = Some(known);
        known
    }

    fn observe(&self, seen: Option<Interval>, now: Instant) {
        if let Some(seen) = seen {
            self.offset.lock().unwrap_or_else(PoisonError::into_inner).observe(seen, now);
        }
    }
}

/// Watches one call: when its request left, when its answer came, and the date in that.
#[derive(Clone, Debug)]
pub(super) struct Watch(Arc<WatchState>);

#[derive(Debug)]
struct WatchState {
    ledger: Arc<Ledger>,
    sent: OnceLock<Instant>,
    answered: OnceLock<(Instant, SystemTime)>,
}

impl Watch {
    pub(super) fn new(ledger: &Arc<Ledger>) -> Watch {
        Watch(Arc::new(WatchState { ledger: ledger.clone(), sent: OnceLock::new(), answered: OnceLock::new() }))
    }

    /// Whether the request may have left this machine.
    pub(super) fn transmitted(&self) -> bool {
        self.0.sent.get().is_some()
    }

    /// Takes in that the answer shows the time `shown`, since 1970 and rounded down to `step`.
    pub(super) fn saw(&self, shown: Duration, step: Duration) {
        if let (Some(sent), Some((at, answered))) = (self.0.sent.get(), self.0.answered.get()) {
            let span = at.saturating_duration_since(*sent);
            self.0.ledger.observe(Interval::of_answer(shown, step, *answered, span), *at);
        }
    }

    /// Takes in that a message was handed out then, in milliseconds since 1970. That was when the answer was made,
    /// however long it was awaited; and an answer alone is under way for hardly longer than the quickest call.
    pub(super) fn saw_handed_out(&self, at_ms: u64) {
        if let (Some(sent), Some((at, answered))) = (self.0.sent.get(), self.0.answered.get()) {
            let quickest = self.0.ledger.quickest(at.saturating_duration_since(*sent));
            let span = quickest.min(QUICKEST) + JITTER;
            let (shown, step) = (Duration::from_millis(at_ms), Duration::from_millis(1));
            self.0.ledger.observe(Interval::of_answer(shown, step, *answered, span), *at);
        }
    }
}

impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "DawdleWatch"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let _ = self.0.sent.set(Instant::now());
        Ok(())
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let (at, answered) = (Instant::now(), SystemTime::now());
        let _ = self.0.answered.set((at, answered));
        if let Some(sent) = self.0.sent.get() {
            self.0.ledger.quickest(at.saturating_duration_since(*sent));
        }
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        let date = date.and_then(|date| SystemTime::try_from(date).ok());
        if let Some(shown) = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok()) {
            self.saw(shown, Duration::from_secs(1));
        }
        Ok(())
    }
}
