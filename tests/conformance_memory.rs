//! The memory backend passes the suite that every backend passes, on a clock that the suite moves.
#![cfg(feature = "testing")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dawdle::backend::memory::MemoryBackend;
use dawdle::backend::{Backend, BoxFuture, Limits};
use dawdle::testing::conformance::{self, Features, Subject, run_all};
use dawdle::{Clock, VirtualClock};

/// The memory backend with these limits.
struct Memory {
    time: VirtualClock,
    limits: Limits,
    reorder: bool,
}

impl Memory {
    fn new(limits: Limits) -> Self {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Memory { time: VirtualClock::new(start), limits, reorder: false }
    }
}

impl Subject for Memory {
    fn open(&self, handles: usize) -> BoxFuture<'_, Vec<Arc<dyn Backend>>> {
        Box::pin(async move {
            let backend = MemoryBackend::with_limits(Clock::from_virtual(self.time.clone()), self.limits.clone());
            backend.reorder(self.reorder);
            (0..handles).map(|_| Arc::new(backend.clone()) as Arc<dyn Backend>).collect()
        })
    }

    fn pass(&self, span: Duration) -> BoxFuture<'_, ()> {
        Box::pin(self.time.advance(span))
    }

    fn features(&self) -> Features {
        let mut features = Features::default();
        features.lateness = Duration::ZERO;
        features
    }
}

mod with_the_limits_of_sqs {
    use super::*;

    dawdle::conformance_tests!(Memory::new(Limits::sqs()));
}

mod without_limits {
    use super::*;

    dawdle::conformance_tests!(Memory::new(Limits::unlimited()));
}

#[tokio::test]
async fn whatever_the_order() {
    run_all(&Memory { reorder: true, ..Memory::new(Limits::sqs()) }).await;
}

/// A subject on which nothing ever becomes due.
struct Frozen(Memory);

impl Subject for Frozen {
    fn open(&self, handles: usize) -> BoxFuture<'_, Vec<Arc<dyn Backend>>> {
        self.0.open(handles)
    }

    fn pass(&self, _span: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

#[tokio::test]
#[should_panic(expected = "a_delay_hides_for_its_length (memory): only 0 of 1 messages came from the message queue")]
async fn a_property_that_does_not_hold_is_named() {
    conformance::a_delay_hides_for_its_length(&Frozen(Memory::new(Limits::sqs()))).await;
}
