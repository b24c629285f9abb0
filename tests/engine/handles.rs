//! What the conformance suite opens on SQS, whatever the engine.

use std::sync::Arc;

use dawdle::backend::sqs::{SqsBackend, SqsOptions};
use dawdle::backend::{Backend, Lane};

/// Opens this many handles of queues whose visibility may be too short for a check.
pub(crate) async fn open(options: &SqsOptions, count: usize) -> Vec<Arc<dyn Backend>> {
    let mut handles: Vec<Arc<dyn Backend>> = Vec::new();
    for _ in 0..count {
        let backend = SqsBackend::connect(options.clone()).await.expect("connected");
        // A check would refuse so short a visibility. A receive reads it, too.
        assert!(backend.receive(Lane::Message, 1).await.expect("an answer").is_empty());
        handles.push(Arc::new(backend));
    }
    handles
}
