//! A small application and its tests: weeks pass in milliseconds, with real encoding and retries.
//!
//! ```sh
//! cargo test --example testing
//! cargo run --example testing
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use dawdle::testing::Harness;
use dawdle::{Context, Event, Failure, Outcome, State};
use serde::{Deserialize, Serialize};

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "testing.trial.started")]
struct TrialStarted {
    account: u64,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "testing.trial.ending")]
struct TrialEnding {
    account: u64,
}

/// A client of the mail service: clones are handles of one. This one keeps the mail, and fails
/// when it is told to.
#[derive(Clone, Default)]
struct Mailer(Arc<Mails>);

#[derive(Default)]
struct Mails {
    down: AtomicBool,
    sent: Mutex<Vec<String>>,
}

impl Mailer {
    async fn send(&self, text: String) -> Result<(), &'static str> {
        if self.0.down.load(Ordering::Relaxed) {
            return Err("the mail service is down");
        }
        self.sent().push(text);
        Ok(())
    }

    fn sent(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[dawdle::handler]
async fn plan_reminder(event: &TrialStarted, cx: &Context) -> Outcome {
    cx.dawdle().signal(TrialEnding { account: event.account }).delay(DAY * 13).await?;
    Ok(())
}

#[dawdle::handler(attempts = 5, backoff = "1m")]
async fn remind(event: &TrialEnding, mailer: State<Mailer>) -> Outcome {
    if event.account == 0 {
        return Err(Failure::dead_letter("there is no account 0"));
    }
    mailer.send(format!("account {}: your trial ends tomorrow", event.account)).await?;
    Ok(())
}

/// The first of the tests below, told in sentences.
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mailer = Mailer::default();
    let test = Harness::builder().state(mailer.clone()).start().await?;
    test.signal(TrialStarted { account: 7 }).await?;
    test.advance(DAY * 13 - Duration::from_secs(1)).await;
    ensure!(test.runs("remind") == 0 && mailer.sent().is_empty(), "the reminder came early");
    println!("A trial has started. Thirteen days less a second later nothing has been sent.");

    test.advance(Duration::from_secs(1)).await;
    ensure!(test.runs("remind") == 1, "the reminder did not come");
    println!("A second later this has been sent: {:?}", *mailer.sent());
    println!("By the test's clock. By yours it took no time.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_reminder_comes_a_day_before_the_trial_ends() {
        let mailer = Mailer::default();
        let test = Harness::builder().state(mailer.clone()).start().await.unwrap();
        test.signal(TrialStarted { account: 7 }).await.unwrap();
        test.advance(DAY * 13 - Duration::from_secs(1)).await;
        assert_eq!(test.runs("remind"), 0);
        test.advance(Duration::from_secs(1)).await;
        assert_eq!(test.runs("remind"), 1);
        assert_eq!(test.handled::<TrialEnding>()[0].account, 7);
        assert_eq!(*mailer.sent(), ["account 7: your trial ends tomorrow"]);
    }

    #[tokio::test]
    async fn a_mail_service_that_is_down_delays_the_mail_and_loses_none() {
        let mailer = Mailer::default();
        let test = Harness::builder().state(mailer.clone()).start().await.unwrap();
        mailer.0.down.store(true, Ordering::Relaxed);
        test.signal(TrialEnding { account: 7 }).await.unwrap();
        test.drain().await;
        assert_eq!((test.runs("remind"), mailer.sent().len()), (1, 0));
        mailer.0.down.store(false, Ordering::Relaxed);
        test.drain_scheduled().await;
        assert_eq!((test.runs("remind"), mailer.sent().len()), (2, 1));
    }

    #[tokio::test]
    async fn a_mail_service_that_stays_down_leaves_a_dead_letter_that_can_be_replayed() {
        let mailer = Mailer::default();
        let test = Harness::builder().state(mailer.clone()).start().await.unwrap();
        mailer.0.down.store(true, Ordering::Relaxed);
        test.signal(TrialEnding { account: 7 }).await.unwrap();
        test.advance(DAY).await;
        let letters = test.dead_letters().await;
        assert_eq!((test.runs("remind"), letters.len()), (5, 1));
        assert_eq!(letters[0].error.as_deref(), Some("the mail service is down"));

        mailer.0.down.store(false, Ordering::Relaxed);
        test.dawdle().dead_letters().replay(&letters[0]).await.unwrap();
        test.drain().await;
        assert_eq!(mailer.sent().len(), 1);
    }

    #[tokio::test]
    async fn an_account_that_cannot_be_is_given_up_at_once() {
        let test = Harness::builder().state(Mailer::default()).start().await.unwrap();
        test.signal(TrialEnding { account: 0 }).await.unwrap();
        test.drain().await;
        assert_eq!(test.dead_letters().await[0].reason, "there is no account 0");
    }

    /// A handler is a function: without a harness, its context records what it signals.
    #[tokio::test]
    async fn a_started_trial_plans_one_reminder() {
        let cx = Context::for_test();
        plan_reminder(&TrialStarted { account: 7 }, &cx).await.unwrap();
        assert_eq!(cx.signalled::<TrialEnding>()[0].account, 7);

        let mailer = Mailer::default();
        remind(&TrialEnding { account: 7 }, State::new(mailer.clone())).await.unwrap();
        assert_eq!(mailer.sent().len(), 1);
    }
}
