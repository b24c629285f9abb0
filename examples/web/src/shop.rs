//! What the shop does, whoever asks for it: its events and their handlers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use dawdle::{Context, Event, Outcome, State};
use serde::{Deserialize, Serialize};

/// How long after an order its customer is asked what they think of it.
const REVIEW_AFTER: Duration = Duration::from_secs(14 * 86_400);

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "order.placed")]
pub(crate) struct OrderPlaced {
    pub(crate) item: String,
    pub(crate) email: String,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "review.wanted")]
pub(crate) struct ReviewWanted {
    pub(crate) email: String,
}

/// Stands for the mail provider, which has its bad days.
pub(crate) struct Mailer {
    works: AtomicBool,
    sent: AtomicU64,
}

impl Mailer {
    pub(crate) fn new() -> Self {
        Mailer { works: AtomicBool::new(true), sent: AtomicU64::new(0) }
    }

    pub(crate) fn set_works(&self, works: bool) {
        self.works.store(works, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    async fn send(&self, to: &str, subject: &str) -> Result<()> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        ensure!(self.works.load(Ordering::Relaxed), "the mail provider answers 503");
        self.sent.fetch_add(1, Ordering::Relaxed);
        tracing::info!(to, subject, "sent");
        Ok(())
    }
}

#[dawdle::handler(attempts = 3, backoff = "1s", timeout = "30s")]
async fn confirm(order: &OrderPlaced, cx: &Context, mailer: State<Arc<Mailer>>) -> Outcome {
    mailer.send(&order.email, "Your order").await?;
    cx.dawdle().signal(ReviewWanted { email: order.email.clone() }).delay(REVIEW_AFTER).await?;
    Ok(())
}

/// Runs beside `confirm`, and fails or succeeds without it.
#[dawdle::handler(concurrency = 4)]
async fn pack(order: &OrderPlaced) -> Outcome {
    tokio::time::sleep(Duration::from_millis(50)).await;
    tracing::info!(order.item, "packed");
    Ok(())
}

#[dawdle::handler]
async fn ask_for_review(wanted: &ReviewWanted, mailer: State<Arc<Mailer>>) -> Outcome {
    Ok(mailer.send(&wanted.email, "How was it?").await?)
}
