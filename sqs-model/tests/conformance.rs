//! The conformance suite through the SQS backend: all that it asks for, also where other engines
//! are too lax.

use std::sync::Arc;
use std::time::Duration;

use dawdle::backend::sqs::create_queues;
use dawdle::backend::{Backend, BoxFuture};
use dawdle::testing::conformance::{Features, Subject};
use sqs_model::{Endpoint, Options};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod client;
#[path = "../../tests/engine/handles.rs"]
mod handles;
use client::{Raw, options};

/// In seconds. The suite looks twice while something is hidden, until three quarters of that time
/// have passed, and here looking takes a second, or more on a slow machine.
const VISIBILITY: &str = "20";

/// Queues of its own for each property.
struct Sqs(Endpoint);

impl Subject for Sqs {
    fn open(&self, handles: usize) -> BoxFuture<'_, Vec<Arc<dyn Backend>>> {
        Box::pin(async move {
            let options = options(&self.0.url());
            create_queues(options.clone()).await.expect("queues");
            let raw = Raw::new(&self.0.url());
            let name = options.queue.clone().expect("a name");
            for suffix in ["", "-delay", "-dead"] {
                raw.set(&raw.url(&format!("{name}{suffix}")).await, "VisibilityTimeout", VISIBILITY).await;
            }
            handles::open(&options, handles).await
        })
    }

    fn pass(&self, span: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(span))
    }

    fn features(&self) -> Features {
        Features::default()
    }
}

dawdle::conformance_tests!(Sqs(Endpoint::start(Options::default()).expect("an endpoint")));
