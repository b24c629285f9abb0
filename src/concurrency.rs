//! How many handlers run at once on a node, changeable while they do: [`Concurrency`].

use std::sync::{Arc, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use crate::sync::{Mutex, MutexGuard, Semaphore};

/// The permits of a node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Concurrency(Arc<Shared>);

struct Shared {
    permits: Arc<Semaphore>,
    size: Mutex<Size>,
}

struct Size {
    limit: usize,
    /// Permits that end with their runs, because the limit is lower than it was.
    surplus: usize,
}

/// One handler's permit to run, until it is dropped.
pub(crate) struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    concurrency: Concurrency,
}

impl Concurrency {
    pub(crate) fn new(limit: usize) -> Self {
        let permits = Arc::new(Semaphore::new(limit));
        Concurrency(Arc::new(Shared { permits, size: Mutex::new(Size { limit, surplus: 0 }) }))
    }

    /// Waits for a permit. Cancel-safe.
    pub(crate) async fn permit(&self) -> Option<Permit> {
        let permit = Arc::clone(&self.0.permits).acquire_owned().await.ok()?;
        Some(Permit { permit: Some(permit), concurrency: self.clone() })
    }

    pub(crate) fn limit(&self) -> usize {
        self.0.size().limit
    }

    /// How many more handlers could begin now.
    pub(crate) fn free(&self) -> usize {
        self.0.permits.available_permits()
    }

    /// How many handlers run now.
    pub(crate) fn running(&self) -> usize {
        let size = self.0.size();
        (size.limit + size.surplus).saturating_sub(self.free())
    }

    /// Changes the limit. What runs goes on; above a lower limit nothing begins until enough has ended.
    pub(crate) fn set_limit(&self, new: usize) {
        let permits = &self.0.permits;
        let mut size = self.0.size();
        if new >= size.limit {
            let more = new - size.limit;
            let kept = size.surplus.min(more);
            size.surplus -= kept;
            permits.add_permits(more - kept);
        } else {
            size.surplus += size.limit - new;
            size.surplus -= permits.forget_permits(size.surplus);
        }
        size.limit = new;
    }
}

impl Shared {
    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        // It comes back, or ends, before the limit can change again.
        let mut size = self.concurrency.0.size();
        if size.surplus > 0 {
            size.surplus -= 1;
            permit.forget();
        } else {
            drop(permit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::explore::{any, explore, turns};

    #[tokio::test]
    async fn a_lower_limit_takes_permits_as_they_come_back() {
        let concurrency = Concurrency::new(4);
        let mut running = Vec::new();
        for _ in 0..3 {
            running.push(concurrency.permit().await.unwrap());
        }
        concurrency.set_limit(2);
        assert_eq!((concurrency.free(), concurrency.running()), (0, 3));
        running.pop();
        assert_eq!(concurrency.free(), 0, "two still run");
        running.pop();
        assert_eq!(concurrency.free(), 1);
        concurrency.set_limit(5);
        assert_eq!((concurrency.free(), concurrency.limit()), (4, 5));
    }

    #[test]
    fn the_limit_holds_in_every_order_of_changes_and_runs() {
        explore(300, || async {
            let concurrency = Concurrency::new(3);
            let runs: Vec<_> = (0..4)
                .map(|_| {
                    let concurrency = concurrency.clone();
                    shuttle::future::spawn(async move {
                        let _permit = concurrency.permit().await;
                        turns(3).await;
                    })
                })
                .collect();
            for limit in [1 + any(4), 1 + any(4), 2] {
                turns(3).await;
                concurrency.set_limit(limit);
            }
            for run in runs {
                run.await.unwrap();
            }
            assert_eq!(concurrency.free(), 2);
        });
    }
}
