//! What goes wrong: [`Faults`], and which of them strikes a request.

use std::time::Duration;

use crate::counts::{Action, Struck};
use crate::refusal::{self, Code};

/// Which faults strike, and how often: rates from 0 to 1 per request unless said otherwise, none
/// at first.
///
/// At most one of those from `refuse` to `html_502` strikes a request; rates that add up to more
/// than 1 leave nothing to the later ones.
///
/// ```
/// use sqs_model::{Action, Aimed, Faults};
///
/// // Sends to `orders-delay` are throttled. Nothing happens to any other request.
/// let faults = Faults { throttle: 1.0, ..Faults::default() };
/// let aimed = Aimed { queue: Some("orders-delay".to_owned()), action: Some(Action::SendMessageBatch), faults };
/// let faults = Faults { aimed: vec![aimed], ..Faults::default() };
/// # assert_eq!(faults.throttle, 0.0);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// The connection is reset: a new one as soon as it is accepted, an open one by its next request.
    /// Nothing happens.
    pub refuse: f64,
    /// The connection is reset once the request has been read, and nothing has happened.
    pub reset_before: f64,
    /// The connection is reset instead of an answer, and the request has taken effect.
    pub reset_after: f64,
    /// The answer comes late, by [`slow_by`](Faults::slow_by). The request takes effect at once.
    pub slow: f64,
    /// By how much a slow answer is late.
    pub slow_by: Duration,
    /// No answer ever comes: the connection stays open until the client gives up. Half of these
    /// requests take effect.
    pub hang: f64,
    /// The answer is HTTP 500 `InternalFailure`, and nothing has happened.
    pub error_500: f64,
    /// The request is refused for there being too many: in turn HTTP 400 `RequestThrottled`, HTTP
    /// 503 `ServiceUnavailable`, HTTP 400 `ThrottlingException` and HTTP 503 `OverLimit`. Nothing
    /// happens.
    pub throttle: f64,
    /// The answer is a page of HTML with HTTP 404, as from something that is no SQS. Nothing has happened.
    pub html_404: f64,
    /// The answer is a page of HTML with HTTP 502, as from a proxy that reaches nothing. Nothing has happened.
    pub html_502: f64,
    /// Every request is answered by HTTP 403 `ExpiredToken` while this is on, and nothing happens.
    pub expired_credentials: bool,
    /// The rate per entry of a batch at which it fails on its own, without effect: in turn
    /// `InternalError` that is not the sender's fault, and `RequestThrottled` flagged as the
    /// sender's fault.
    pub entry_failure: f64,
    /// The rate per message at which it is received twice: a copy stays visible when it is first
    /// received.
    pub duplicate: f64,
    /// The rate per message at which it comes back, once, after it was deleted.
    pub undelete: f64,
    /// Messages are received in any order, instead of that in which they became visible.
    pub reorder: bool,
    /// What strikes some requests in place of all the above: each goes by the first of these that is
    /// aimed at it. Which connections are let in is not among it: nobody knows yet what they are for.
    pub aimed: Vec<Aimed>,
}

/// Faults for some requests.
///
/// What becomes of a message as it is received ([`duplicate`](Faults::duplicate),
/// [`undelete`](Faults::undelete), [`reorder`](Faults::reorder)) goes by what is aimed at
/// [`Action::ReceiveMessage`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Aimed {
    /// Requests about the queue of this name; about any, and about none, where it is `None`.
    pub queue: Option<String>,
    /// Requests of this action, which is another than its batch; of any where it is `None`.
    pub action: Option<Action>,
    /// What strikes them. What is aimed within it strikes nothing.
    pub faults: Faults,
}

impl Faults {
    /// What strikes a request of this action about this queue.
    pub(crate) fn at(&self, queue: &str, action: Option<Action>) -> &Faults {
        let meant = |aimed: &&Aimed| {
            aimed.queue.as_ref().is_none_or(|it| it == queue) && aimed.action.is_none_or(|it| Some(it) == action)
        };
        self.aimed.iter().find(meant).map_or(self, |aimed| &aimed.faults)
    }
}

/// What strikes one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Strike {
    Nothing,
    Refuse,
    ResetBefore,
    ResetAfter,
    Slow(Duration),
    Hang {
        takes_effect: bool,
    },
    Answer(&'static Code),
    /// A page of HTML, with this HTTP status.
    Html(u16),
}

impl PartialEq for Code {
    fn eq(&self, other: &Code) -> bool {
        std::ptr::eq(self, other)
    }
}

/// Faults, and the chance that decides on them.
#[derive(Debug)]
pub(crate) struct Chance {
    pub(crate) faults: Faults,
    pub(crate) random: fastrand::Rng,
    throttled: u64,
    failed_entries: u64,
}

impl Chance {
    pub(crate) fn new(seed: u64) -> Chance {
        Chance { faults: Faults::default(), random: fastrand::Rng::with_seed(seed), throttled: 0, failed_entries: 0 }
    }

    /// Decides on a connection that was just accepted.
    pub(crate) fn accept(&mut self, struck: &mut Struck) -> bool {
        let refused = self.faults.refuse > 0.0 && self.random.f64() < self.faults.refuse;
        struck.refuse += u64::from(refused);
        !refused
    }

    /// Decides on a request. The first of a connection was decided on, as far as refusing goes,
    /// when that was accepted, unless something is aimed at it.
    pub(crate) fn strike(&mut self, queue: &str, action: Option<Action>, first: bool, struck: &mut Struck) -> Strike {
        let faults = self.faults.at(queue, action);
        let let_in = first && std::ptr::eq(faults, &self.faults);
        let mut left = self.random.f64();
        let mut hits = |rate: f64| {
            left -= rate;
            left < 0.0
        };
        if hits(if let_in { 0.0 } else { faults.refuse }) {
            struck.refuse += 1;
            return Strike::Refuse;
        }
        if faults.expired_credentials {
            struck.expired_credentials += 1;
            return Strike::Answer(&refusal::EXPIRED_TOKEN);
        }
        if hits(faults.reset_before) {
            struck.reset_before += 1;
            Strike::ResetBefore
        } else if hits(faults.reset_after) {
            struck.reset_after += 1;
            Strike::ResetAfter
        } else if hits(faults.slow) {
            struck.slow += 1;
            Strike::Slow(faults.slow_by)
        } else if hits(faults.hang) {
            struck.hang += 1;
            Strike::Hang { takes_effect: self.random.bool() }
        } else if hits(faults.error_500) {
            struck.error_500 += 1;
            Strike::Answer(&refusal::INTERNAL)
        } else if hits(faults.throttle) {
            struck.throttle += 1;
            self.throttled += 1;
            Strike::Answer(match self.throttled % 4 {
                1 => &refusal::REQUEST_THROTTLED,
                2 => &refusal::SERVICE_UNAVAILABLE,
                3 => &refusal::THROTTLING,
                _ => &refusal::OVER_LIMIT_503,
            })
        } else if hits(faults.html_404) {
            struck.html_404 += 1;
            Strike::Html(404)
        } else if hits(faults.html_502) {
            struck.html_502 += 1;
            Strike::Html(502)
        } else {
            Strike::Nothing
        }
    }

    /// Decides on an entry of a batch: the code by which it fails, and whether the sender is
    /// blamed.
    pub(crate) fn entry(&mut self, queue: &str, action: Action, struck: &mut Struck) -> Option<(&'static str, bool)> {
        let rate = self.faults.at(queue, Some(action)).entry_failure;
        if rate <= 0.0 || self.random.f64() >= rate {
            return None;
        }
        struck.entry_failure += 1;
        self.failed_entries += 1;
        Some(if self.failed_entries % 2 == 1 { ("InternalError", false) } else { ("RequestThrottled", true) })
    }
}
