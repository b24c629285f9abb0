//! The conformance suite on the SQS backend, against a real engine.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dawdle::backend::sqs::{SqsOptions, create_queues};
use dawdle::backend::{Backend, BoxFuture};
use dawdle::testing::conformance::{Features, Subject};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod engine;
#[path = "engine/handles.rs"]
mod handles;
use engine::Queues;

/// In seconds. The suite looks twice while something is hidden, until three quarters of that time
/// have passed, and here looking takes a second.
const VISIBILITY: &str = "10";

/// Queues of its own for each property, deleted afterwards.
#[derive(Default)]
struct Sqs(Mutex<Vec<String>>);

impl Subject for Sqs {
    fn open(&self, handles: usize) -> BoxFuture<'_, Vec<Arc<dyn Backend>>> {
        Box::pin(async move {
            let queues = Queues::new();
            self.0.lock().expect("unpoisoned").push(queues.name.clone());
            create_queues(queues.options()).await.expect("queues");
            for suffix in ["", "-delay", "-dead"] {
                queues.set(suffix, "VisibilityTimeout", VISIBILITY).await;
            }
            let options = SqsOptions { receive_margin: Duration::from_secs(10), ..queues.options() };
            handles::open(&options, handles).await
        })
    }

    fn pass(&self, span: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(span))
    }

    fn features(&self) -> Features {
        let mut features = Features::default();
        features.lateness = Duration::from_secs(10);
        // SQS promises both; the engine acks by an old receipt, and takes one for a release.
        features.stale_ack_is_harmless = false;
        features.stale_receipt_is_told = false;
        features
    }
}

impl Drop for Sqs {
    fn drop(&mut self) {
        let names = std::mem::take(&mut *self.0.lock().expect("unpoisoned"));
        // On a runtime of its own: the test's is busy dropping this.
        let deleting = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            for name in names {
                runtime.block_on(Queues::named(name).delete());
            }
        });
        deleting.join().expect("deleted");
    }
}

dawdle::conformance_tests!(Sqs::default());
