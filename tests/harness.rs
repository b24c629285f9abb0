//! What an application can rely on, seen through the harness.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dawdle::backend::{Backend, Lane, Outgoing};
use dawdle::testing::Harness;
use dawdle::{Context, Event, Failure, Outcome, State};
use serde::{Deserialize, Serialize};

const DAY: u64 = 86_400;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "trial.ending", aliases("trial.ends"))]
struct TrialEnding {
    account: u64,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "reminded")]
struct Reminded {
    account: u64,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "heartbeat")]
struct Heartbeat;

struct Mailer {
    sent: AtomicUsize,
}

impl Mailer {
    fn fake() -> Self {
        Mailer { sent: AtomicUsize::new(0) }
    }
}

#[dawdle::handler(attempts = 8, timeout = "30s", concurrency = 4)]
async fn remind(event: &TrialEnding, cx: &Context, mailer: State<Mailer>) -> Outcome {
    mailer.sent.fetch_add(1, Ordering::Relaxed);
    cx.dawdle().signal(Reminded { account: event.account }).await?;
    Ok(())
}

#[dawdle::handler]
async fn count(_: &Reminded) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn beat(_: &Heartbeat) -> Outcome {
    Ok(())
}

#[dawdle::handler(except(Heartbeat))]
async fn audit(event: &dyn Event, cx: &Context) -> Outcome {
    assert_eq!(event.kind(), cx.kind());
    Ok(())
}

async fn harness() -> Harness {
    Harness::builder().state(Mailer::fake()).start().await.unwrap()
}

#[tokio::test]
async fn an_event_runs_two_weeks_later_and_not_a_second_before() {
    let test = harness().await;
    test.signal(TrialEnding { account: 7 }).delay(seconds(14 * DAY)).await.unwrap();
    test.advance(seconds(14 * DAY - 1)).await;
    assert_eq!(test.runs("remind"), 0);
    test.advance(seconds(1)).await;
    assert_eq!(test.runs("remind"), 1);
    assert_eq!(test.handled::<TrialEnding>()[0].account, 7);
    assert_eq!(test.state::<Mailer>().sent.load(Ordering::Relaxed), 1);
    assert_eq!(test.signalled::<Reminded>().len(), 1);
    assert_eq!(test.runs("count"), 1);
    assert_eq!(test.runs("audit"), 2);
    assert!(test.dead_letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn it_does_the_same_when_tokios_time_is_paused() {
    let test = harness().await;
    test.signal(TrialEnding { account: 7 }).delay(seconds(DAY)).await.unwrap();
    test.advance(seconds(DAY) - Duration::from_millis(1)).await;
    assert_eq!(test.runs("remind"), 0);
    test.advance(Duration::from_millis(1)).await;
    assert_eq!(test.runs("remind"), 1);
}

#[tokio::test]
async fn a_catch_all_sees_every_event_except_those_left_out() {
    let test = harness().await;
    test.signal(Heartbeat).await.unwrap();
    test.signal(Reminded { account: 1 }).await.unwrap();
    test.drain().await;
    assert_eq!((test.runs("beat"), test.runs("count"), test.runs("audit")), (1, 1, 1));
}

#[tokio::test]
async fn drain_scheduled_jumps_to_whatever_is_scheduled() {
    let test = harness().await;
    let start = test.now();
    test.signal(TrialEnding { account: 7 }).delay(seconds(3 * DAY)).await.unwrap();
    test.drain_scheduled().await;
    assert_eq!(test.runs("count"), 1);
    assert_eq!(test.now().duration_since(start).unwrap(), seconds(3 * DAY));
}

#[tokio::test]
async fn a_handler_without_its_state_fails_the_test_that_runs_it_and_no_other() {
    let test = Harness::start().await.unwrap();
    test.signal(Heartbeat).await.unwrap();
    test.drain().await;
    assert_eq!(test.runs("beat"), 1);
    test.signal(TrialEnding { account: 1 }).await.unwrap();
    let failed = tokio::spawn(async move { test.drain().await }).await.unwrap_err();
    let panic = failed.into_panic();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("`remind`") && text.contains("Mailer"), "{text}");
}

#[tokio::test]
async fn a_process_that_only_signals_needs_no_states_and_one_that_listens_does() {
    let builder = || dawdle::Dawdle::builder().backend(dawdle::backend::memory::MemoryBackend::new(Default::default()));
    let sender = builder().listener(false).start().await.unwrap();
    sender.signal(Heartbeat).await.unwrap();
    for refused in [
        builder().start().await.map(drop),
        sender.start_listener().await,
        sender.signal(Heartbeat).direct().await.map(drop),
    ] {
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("State<") && text.contains("tests/harness.rs:"), "{text}");
    }
}

#[tokio::test]
#[should_panic(expected = "no handler is called `remnid`")]
async fn an_unknown_handlers_runs_are_a_mistake() {
    harness().await.runs("remnid");
}

#[tokio::test]
async fn signal_goes_through_the_harness_it_is_called_in() {
    assert_eq!(dawdle::signal(Heartbeat).await.unwrap_err().kind(), dawdle::ErrorKind::NotInstalled);
    let test = harness().await;
    test.scope(async { dawdle::signal(Heartbeat).await }).await.unwrap();
    test.drain().await;
    assert_eq!(test.runs("beat"), 1);
}

mod steps {
    use super::*;

    #[derive(Debug, Serialize, Deserialize, Event)]
    #[event(kind = "job")]
    struct Job;

    #[derive(Default)]
    struct Counts {
        fail: AtomicUsize,
    }

    #[dawdle::handler(attempts = 3)]
    async fn fails_twice(_: &Job, cx: &Context, counts: State<Counts>) -> Outcome {
        assert_eq!(cx.attempt() as usize, counts.fail.fetch_add(1, Ordering::Relaxed) + 1);
        if cx.attempt() < 3 {
            Err("not yet")?
        }
        assert!(cx.is_last_attempt());
        Ok(())
    }

    #[dawdle::handler]
    async fn fine(_: &Job) -> Outcome {
        Ok(())
    }

    #[dawdle::handler]
    async fn also_fine(_: &Job) -> anyhow::Result<()> {
        Ok(())
    }

    #[tokio::test]
    async fn of_three_handlers_only_the_one_that_failed_runs_again() {
        let test = Harness::builder().state(Counts::default()).start().await.unwrap();
        test.signal(Job).await.unwrap();
        test.drain().await;
        assert_eq!((test.runs("fails_twice"), test.runs("fine"), test.runs("also_fine")), (1, 1, 1));
        test.advance(seconds(3)).await;
        assert_eq!((test.runs("fails_twice"), test.runs("fine"), test.runs("also_fine")), (3, 1, 1));
        assert!(test.dead_letters().await.is_empty());
    }

    #[derive(Debug, Serialize, Deserialize, Event)]
    #[event(kind = "ways")]
    enum Ways {
        Panic,
        Hang,
        Snooze,
        DeadLetter,
        Discard,
        Error,
        RetryAfter,
    }

    #[dawdle::handler(attempts = 2, timeout = "30s", backoff = "10s")]
    async fn go(event: &Ways, cx: &Context) -> Outcome {
        match event {
            Ways::Panic => panic!("oh"),
            Ways::Hang => std::future::pending().await,
            Ways::Snooze if cx.lag() == Duration::ZERO && cx.now() < cx.signalled_at() + seconds(3600) => {
                Err(Failure::snooze(seconds(3600)))
            }
            Ways::Snooze => Ok(()),
            Ways::DeadLetter => Err(Failure::dead_letter("account closed")),
            Ways::Discard => Err(Failure::discard("no use")),
            Ways::Error => Err("no")?,
            Ways::RetryAfter => Err(Failure::retry_after(seconds(60), "busy")),
        }
    }

    async fn letters_after(way: Ways, span: Duration) -> (usize, Vec<dawdle::DeadLetter>) {
        let test = Harness::start().await.unwrap();
        test.signal(way).await.unwrap();
        test.advance(span).await;
        (test.runs("go"), test.dead_letters().await)
    }

    #[tokio::test]
    async fn a_panic_is_a_failed_attempt_and_harms_nobody_else() {
        let (runs, letters) = letters_after(Ways::Panic, seconds(10)).await;
        assert_eq!((runs, letters.len()), (2, 1));
        assert_eq!(letters[0].reason, dawdle::reason::ATTEMPTS);
        assert_eq!(letters[0].error.as_deref(), Some("panicked: oh"));
        assert_eq!(letters[0].attempts, 2);
        assert_eq!(letters[0].handler.as_deref(), Some("go"));
    }

    #[tokio::test]
    async fn a_handler_that_hangs_is_dropped_at_its_timeout() {
        let (runs, letters) = letters_after(Ways::Hang, seconds(29)).await;
        assert_eq!((runs, letters.len()), (0, 0));
        let (runs, letters) = letters_after(Ways::Hang, seconds(71)).await;
        assert_eq!((runs, letters.len()), (2, 1));
        assert!(letters[0].error.as_deref().unwrap().contains("timed out after 30s"));
    }

    #[tokio::test]
    async fn a_snooze_spends_no_attempt() {
        let test = Harness::start().await.unwrap();
        test.signal(Ways::Snooze).await.unwrap();
        test.advance(seconds(3599)).await;
        assert_eq!(test.runs("go"), 1);
        test.advance(seconds(1)).await;
        assert_eq!(test.runs("go"), 2);
        test.advance(seconds(DAY)).await;
        assert_eq!((test.runs("go"), test.dead_letters().await.len()), (2, 0));
    }

    #[tokio::test]
    async fn a_handler_dead_letters_and_discards_at_its_word() {
        let (runs, letters) = letters_after(Ways::DeadLetter, seconds(1)).await;
        assert_eq!((runs, letters.len()), (1, 1));
        assert_eq!(letters[0].reason, "account closed");
        let (runs, letters) = letters_after(Ways::Discard, seconds(1000)).await;
        assert_eq!((runs, letters.len()), (1, 0));
    }

    #[tokio::test]
    async fn an_error_is_tried_again_after_its_backoff_or_the_time_it_names() {
        let (runs, letters) = letters_after(Ways::Error, seconds(10)).await;
        assert_eq!((runs, letters.len()), (2, 1));
        let (runs, _) = letters_after(Ways::RetryAfter, seconds(59)).await;
        assert_eq!(runs, 1);
        let (runs, _) = letters_after(Ways::RetryAfter, seconds(60)).await;
        assert_eq!(runs, 2);
    }

    #[tokio::test]
    async fn a_replay_goes_to_the_failed_handler_with_fresh_attempts() {
        let test = Harness::start().await.unwrap();
        test.signal(Ways::Error).await.unwrap();
        test.advance(seconds(10)).await;
        let letters = test.dead_letters().await;
        test.dawdle().dead_letters().replay(&letters[0]).await.unwrap();
        test.drain().await;
        assert_eq!(test.runs("go"), 3);
        assert!(test.dead_letters().await.is_empty());
        test.advance(seconds(10)).await;
        let letters = test.dead_letters().await;
        assert_eq!((test.runs("go"), letters.len(), letters[0].attempts), (4, 1, 2));
        assert_eq!(test.dawdle().dead_letters().purge_where(dawdle::Filter::default().kind("ways")).await.unwrap(), 1);
        assert!(test.dead_letters().await.is_empty());
    }

    #[tokio::test]
    async fn an_event_that_is_taken_after_its_expiry_is_dead_lettered_and_a_replay_ignores_it() {
        let test = Harness::builder().listener(false).start().await.unwrap();
        test.signal(Ways::Snooze).expires_in(seconds(60)).await.unwrap();
        test.advance(seconds(61)).await;
        test.dawdle().start_listener().await.unwrap();
        test.drain().await;
        let letters = test.dead_letters().await;
        assert_eq!((test.runs("go"), letters.len()), (0, 1));
        assert_eq!(letters[0].reason, dawdle::reason::EXPIRED);
        test.dawdle().dead_letters().replay(&letters[0]).await.unwrap();
        test.drain().await;
        assert_eq!(test.runs("go"), 1);
    }

    #[tokio::test]
    async fn a_direct_signal_runs_here_and_its_failures_go_to_the_queue() {
        let test = Harness::builder().state(Counts::default()).start().await.unwrap();
        test.signal(Job).direct().await.unwrap();
        test.drain().await;
        assert_eq!((test.runs("fails_twice"), test.runs("fine")), (1, 1));
        assert_eq!(test.backend().requests().send, 1, "only the retry is sent");
        test.advance(seconds(3)).await;
        assert_eq!((test.runs("fails_twice"), test.runs("fine")), (3, 1));
        let error = test.signal(Job).direct().delay(seconds(1)).await.unwrap_err();
        assert_eq!(error.kind(), dawdle::ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn an_event_that_comes_by_an_alias_is_of_its_types_kind_to_a_handler() {
    let test = harness().await;
    let body = serde_json::json!({
        "specversion": "1.0", "id": "1", "source": "elsewhere", "type": "trial.ends", "data": { "account": 7 },
    });
    test.backend().send(Lane::Message, &[Outgoing::new(body.to_string())]).await.remove(0).unwrap();
    test.drain().await;
    assert_eq!((test.runs("remind"), test.runs("audit")), (1, 2), "which asserts that");
    assert!(test.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_handler_that_is_not_selected_has_run_no_time() {
    let test = Harness::builder().only_handlers(["count"]).start().await.unwrap();
    assert_eq!(test.runs("remind"), 0);
}

#[tokio::test]
async fn a_state_can_hold_the_dawdle_it_is_part_of() {
    let seen: Arc<std::sync::Mutex<Option<dawdle::Dawdle>>> = Arc::default();
    let keep = Arc::clone(&seen);
    let test = Harness::builder()
        .state(Mailer::fake())
        .state_with(move |dawdle| {
            *keep.lock().unwrap() = Some(dawdle.clone());
            dawdle
        })
        .start()
        .await
        .unwrap();
    let dawdle = seen.lock().unwrap().take().unwrap();
    dawdle.signal(Heartbeat).await.unwrap();
    test.drain().await;
    assert_eq!(test.runs("beat"), 1);
}

#[tokio::test]
async fn middleware_sets_attributes_that_handlers_read() {
    struct Tenant;
    impl dawdle::Middleware for Tenant {
        fn before_send(&self, envelope: &mut dawdle::Envelope) -> dawdle::Result<()> {
            envelope.set_attribute("tenant", "acme")
        }

        async fn handle(&self, cx: &Context, event: &dyn Event, next: dawdle::Next<'_>) -> Outcome {
            assert_eq!(cx.attribute("tenant"), Some("acme"));
            next.run(cx, event).await
        }
    }
    let test = Harness::builder().middleware(Tenant).start().await.unwrap();
    test.signal(Heartbeat).await.unwrap();
    test.drain().await;
    assert_eq!(test.handled::<Heartbeat>().len(), 1);
}

mod messages_of_other_programs {
    use super::*;
    use dawdle::Envelope;
    use dawdle::backend::{Backend, Lane, Outgoing};

    async fn put(test: &Harness, body: &str) {
        let attributes = [("Type".to_owned(), "beat".to_owned())].into();
        let message = Outgoing { attributes, ..Outgoing::new(body) };
        test.backend().send(Lane::Message, &[message]).await.remove(0).unwrap();
        test.drain().await;
    }

    #[tokio::test]
    async fn what_nobody_wants_is_a_dead_letter_that_shows_the_message_as_it_came() {
        let test = harness().await;
        put(&test, "<beat/>").await;
        let letters = test.dead_letters().await;
        assert_eq!((letters.len(), &*letters[0].kind), (1, "dawdle.undecodable"));
        let raw = letters[0].raw().unwrap();
        assert_eq!((raw.body(), raw.attribute("Type")), ("<beat/>", Some("beat")));

        test.signal(TrialEnding { account: 7 }).expires_in(Duration::ZERO).delay(seconds(1)).await.unwrap();
        test.dawdle().stop_listener().await;
        test.advance(seconds(2)).await;
        test.dawdle().start_listener().await.unwrap();
        test.drain().await;
        let letters = test.dead_letters().await;
        assert!(letters.iter().any(|letter| letter.kind == "trial.ending" && letter.raw().is_none()));
    }

    #[tokio::test]
    async fn an_array_without_an_event_stays_whole() {
        let test = harness().await;
        put(&test, "[1, {}]").await;
        let letters = test.dead_letters().await;
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].raw().unwrap().body(), "[1, {}]");

        let adopt = |raw: &dawdle::RawMessage<'_>| (raw.body() == "[1, {}]").then(|| Envelope::new(Heartbeat).ok())?;
        let test = Harness::builder().foreign(adopt).start().await.unwrap();
        put(&test, "[1, {}]").await;
        assert_eq!(test.handled::<Heartbeat>().len(), 1);
        assert!(test.dead_letters().await.is_empty());
    }
}

mod runtimes {
    use super::*;

    #[derive(Serialize, Deserialize, Event)]
    #[event(kind = "errand")]
    struct Errand {
        number: u32,
    }

    /// Waits for things that the harness's clock knows nothing of, and succeeds the third time.
    #[dawdle::handler(attempts = 5, backoff = "10s")]
    async fn run_errand(event: &Errand, cx: &Context) -> Outcome {
        match event.number % 3 {
            0 => tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(3))).await?,
            1 => tokio::time::sleep(Duration::from_millis(2)).await,
            _ => {
                for _ in 0..300 {
                    tokio::task::yield_now().await;
                }
            }
        }
        if cx.attempt() < 3 { Err("again")? } else { Ok(()) }
    }

    async fn twenty_errands_an_hour_later() {
        let test = harness().await;
        for number in 0..20 {
            test.signal(Errand { number }).delay(seconds(3_600)).await.unwrap();
        }
        test.advance(seconds(3_599)).await;
        assert_eq!(test.runs("run_errand"), 0);
        test.advance(seconds(1)).await;
        assert_eq!(test.runs("run_errand"), 20);
        test.advance(seconds(30)).await;
        assert_eq!((test.runs("run_errand"), test.dead_letters().await.len()), (60, 0));
    }

    #[tokio::test]
    async fn handlers_that_wait_for_something_else_are_waited_for() {
        twenty_errands_an_hour_later().await;
    }

    #[tokio::test(start_paused = true)]
    async fn also_when_tokios_time_is_paused() {
        twenty_errands_an_hour_later().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn also_on_several_threads() {
        tokio::spawn(twenty_errands_an_hour_later()).await.unwrap();
    }
}

/// Where tasks run on several threads, one that has stepped back for others is waited for all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_waits_for_every_task_on_a_runtime_of_several_threads() {
    for round in 0..20 {
        let test = Harness::builder().state(Mailer::fake()).start().await.unwrap();
        test.signal(TrialEnding { account: round }).delay(seconds(14 * DAY)).await.unwrap();
        test.advance(seconds(14 * DAY - 1)).await;
        assert_eq!(test.runs("remind"), 0);
        test.advance(seconds(1)).await;
        assert_eq!(test.runs("remind"), 1, "round {round}");
    }
}
