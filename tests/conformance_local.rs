//! The local backend passes the suite that every backend passes, in real time, with leases of 4
//! seconds, which leave a slow disk its time. Two handles are two openings of one file, as two
//! processes would have it.
#![cfg(all(feature = "local", feature = "testing"))]

use std::sync::Arc;
use std::time::Duration;

use dawdle::backend::local::{LocalBackend, LocalOptions};
use dawdle::backend::{Backend, BoxFuture};
use dawdle::testing::conformance::Subject;

struct Local(tempfile::TempDir);

impl Local {
    fn new() -> Self {
        Local(tempfile::tempdir().unwrap())
    }
}

impl Subject for Local {
    fn open(&self, handles: usize) -> BoxFuture<'_, Vec<Arc<dyn Backend>>> {
        Box::pin(async move {
            let path = tempfile::tempdir_in(self.0.path()).unwrap().keep().join("queue.db");
            let mut options = LocalOptions::default();
            options.lease = Duration::from_secs(4);
            let mut backends: Vec<Arc<dyn Backend>> = Vec::new();
            for _ in 0..handles {
                backends.push(Arc::new(LocalBackend::open(&path, options.clone()).await.unwrap()));
            }
            backends
        })
    }

    fn pass(&self, span: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(span))
    }
}

dawdle::conformance_tests!(Local::new());
