//! What is asked of a queue, counted as Amazon SQS bills it: [`Usage`].

use std::sync::atomic::{AtomicU64, Ordering};

/// The unit that SQS bills a request's payload by, in bytes.
pub const BILLING_UNIT: usize = 64 * 1024;

/// How many requests were made, failed ones included.
///
/// SQS bills each, and one more for each further 64 KiB of the messages that it carries:
/// <https://aws.amazon.com/sqs/pricing/>. A backend that is not SQS counts what SQS would have been
/// asked, or nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// `SendMessageBatch`.
    pub send: u64,
    /// `ReceiveMessage` that answered messages, or failed.
    pub receive: u64,
    /// `ReceiveMessage` that answered none.
    pub empty_receives: u64,
    /// `DeleteMessageBatch`: acks.
    pub delete: u64,
    /// `ChangeMessageVisibilityBatch`: releases and extensions.
    pub change_visibility: u64,
    /// `GetQueueAttributes`: checks and counts.
    pub get_attributes: u64,
    /// `GetQueueUrl`.
    pub get_url: u64,
    /// What is billed: requests, and further units of 64 KiB.
    pub billed: u64,
}

impl Usage {
    /// All requests.
    pub fn requests(&self) -> u64 {
        let Usage { send, receive, empty_receives, delete, change_visibility, get_attributes, get_url, billed: _ } =
            *self;
        send + receive + empty_receives + delete + change_visibility + get_attributes + get_url
    }

    /// What was asked since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Usage) -> Usage {
        let (mut since, mut earlier) = (*self, *earlier);
        for (count, before) in since.counts().into_iter().zip(earlier.counts()) {
            *count = count.saturating_sub(*before);
        }
        since
    }

    fn counts(&mut self) -> [&mut u64; 8] {
        [
            &mut self.send,
            &mut self.receive,
            &mut self.empty_receives,
            &mut self.delete,
            &mut self.change_visibility,
            &mut self.get_attributes,
            &mut self.get_url,
            &mut self.billed,
        ]
    }
}

/// Counts requests, from any thread.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    counts: [AtomicU64; 7],
    further_units: AtomicU64,
}

/// What a [`Meter`] counts apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Send,
    Receive,
    Empty,
    Delete,
    ChangeVisibility,
    GetAttributes,
    GetUrl,
}

impl Meter {
    pub(crate) fn count(&self, asked: Asked, requests: u64) {
        if let Some(count) = self.counts.get(asked as usize) {
            count.fetch_add(requests, Ordering::Relaxed);
        }
    }

    /// A receive that was counted has answered no message.
    #[cfg(feature = "sqs")]
    pub(crate) fn was_empty(&self) {
        let [_, receives, empty, ..] = &self.counts;
        receives.fetch_sub(1, Ordering::Relaxed);
        empty.fetch_add(1, Ordering::Relaxed);
    }

    /// Bills what a request's messages add to it.
    pub(crate) fn bill(&self, payload_bytes: usize) {
        let further = payload_bytes.div_ceil(BILLING_UNIT).saturating_sub(1);
        self.further_units.fetch_add(further as u64, Ordering::Relaxed);
    }

    pub(crate) fn usage(&self) -> Usage {
        let of = |asked: Asked| self.counts.get(asked as usize).map_or(0, |count| count.load(Ordering::Relaxed));
        let mut usage = Usage {
            send: of(Asked::Send),
            receive: of(Asked::Receive),
            empty_receives: of(Asked::Empty),
            delete: of(Asked::Delete),
            change_visibility: of(Asked::ChangeVisibility),
            get_attributes: of(Asked::GetAttributes),
            get_url: of(Asked::GetUrl),
            billed: 0,
        };
        usage.billed = usage.requests() + self.further_units.load(Ordering::Relaxed);
        usage
    }

    pub(crate) fn reset(&self) {
        for count in self.counts.iter().chain([&self.further_units]) {
            count.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_billed_once_and_once_more_for_each_further_64_kib() {
        let meter = Meter::default();
        for bytes in [0, 1, BILLING_UNIT, BILLING_UNIT + 1, 3 * BILLING_UNIT] {
            meter.count(Asked::Send, 1);
            meter.bill(bytes);
        }
        let usage = meter.usage();
        assert_eq!((usage.send, usage.requests(), usage.billed), (5, 5, 1 + 1 + 1 + 2 + 3));
        meter.count(Asked::Delete, 2);
        let since = meter.usage().since(&usage);
        assert_eq!((since.send, since.delete, since.billed), (0, 2, 2));
    }
}
