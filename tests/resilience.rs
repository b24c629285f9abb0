//! What one bad message, one slow handler or one full queue must not do to the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dawdle::backend::{Backend, Lane, Limits, Outgoing};
use dawdle::testing::Harness;
use dawdle::{Config, Context, Event, Failure, Filter, Outcome, State, reason};
use serde::{Deserialize, Serialize};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "doomed")]
struct Doomed;

#[dawdle::handler]
async fn give_up(_: &Doomed) -> Outcome {
    Err(Failure::dead_letter("no use"))
}

#[tokio::test]
async fn a_replay_of_many_ends_although_they_die_again_at_once() {
    let test = Harness::start().await.unwrap();
    for _ in 0..50 {
        test.signal(Doomed).await.unwrap();
    }
    test.advance(seconds(1)).await;
    let letters = test.dawdle().dead_letters();
    let replay = tokio::spawn(async move { letters.replay_where(Filter::default()).await });
    while !replay.is_finished() {
        test.advance(Duration::from_millis(10)).await;
        assert!(test.runs("give_up") <= 100, "replayed for ever");
    }
    assert_eq!(replay.await.unwrap().unwrap(), 50);
    test.advance(seconds(1)).await;
    assert_eq!((test.runs("give_up"), test.dead_letters().await.len()), (100, 50));
}

#[tokio::test]
async fn a_replay_takes_what_died_at_this_very_instant() {
    let test = Harness::start().await.unwrap();
    test.signal(Doomed).await.unwrap();
    test.drain().await;
    assert_eq!(test.dawdle().dead_letters().replay_where(Filter::default()).await.unwrap(), 1);
    test.drain().await;
    assert_eq!((test.runs("give_up"), test.dead_letters().await.len()), (2, 1));
}

#[tokio::test]
async fn times_that_are_no_date_are_refused() {
    let test = Harness::start().await.unwrap();
    let year_10000 = std::time::UNIX_EPOCH + Duration::from_secs(253_402_300_800);
    for signal in [
        test.signal(Doomed).delay(Duration::MAX),
        test.signal(Doomed).at(year_10000),
        test.signal(Doomed).expires_in(Duration::from_secs(u64::MAX)),
    ] {
        let error = signal.await.unwrap_err();
        assert!(error.kind() == dawdle::ErrorKind::Invalid && error.to_string().contains("9999"), "{error}");
    }
}

#[test]
fn outside_of_a_runtime_there_is_an_error_and_no_panic() {
    use futures_util::FutureExt;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let backend = dawdle::backend::memory::MemoryBackend::new(Default::default());
    let starts = dawdle::Dawdle::builder().backend(backend).listener(false).start();
    let dawdle = runtime.block_on(starts).unwrap();
    let error = dawdle.signal(Doomed).into_future().now_or_never().unwrap().unwrap_err();
    assert!(error.to_string().contains("tokio runtime"), "{error}");
    let error = dawdle::Dawdle::start().now_or_never().unwrap().unwrap_err();
    assert!(error.to_string().contains("tokio runtime"), "{error}");
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "large")]
struct Large {
    data: String,
}

#[dawdle::handler(attempts = 3)]
async fn fail(_: &Large) -> Outcome {
    Err("not today")?
}

/// A CloudEvent of another producer, which leaves no room for what a retry adds.
fn brimful(limit: usize, data: &str) -> String {
    let event = |padding: &str| {
        format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"large","data":{{"data":"{data}{padding}"}}}}"#)
    };
    event(&"x".repeat(limit - event("").len()))
}

async fn harness_of(limit: usize) -> Harness {
    let mut limits = Limits::sqs();
    limits.max_message_bytes = limit;
    Harness::builder().limits(limits).start().await.unwrap()
}

#[tokio::test]
async fn a_retry_that_does_not_fit_is_compressed() {
    let test = harness_of(20_000).await;
    let sent = test.backend().send(Lane::Message, &[Outgoing::new(brimful(20_000, ""))]).await;
    assert!(sent[0].is_ok());
    test.advance(seconds(10)).await;
    assert_eq!(test.runs("fail"), 3);
    let letters = test.dead_letters().await;
    assert_eq!((letters.len(), letters[0].reason.as_str()), (1, reason::ATTEMPTS));
}

#[tokio::test]
async fn what_fits_nowhere_is_moved_to_the_dead_letters_as_it_came() {
    let mut random = fastrand::Rng::with_seed(7);
    let noise: String = std::iter::repeat_with(|| random.alphanumeric()).take(1_800).collect();
    let body = brimful(2_000, &noise);
    let test = harness_of(2_000).await;
    test.backend().send(Lane::Message, &[Outgoing::new(body.as_str())]).await;
    test.advance(seconds(60)).await;
    assert_eq!(test.runs("fail"), 1);
    let letters = test.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(
        letters[0].envelope.data(),
        Some(format!(r#"{{"data":"{}"}}"#, &body[body.find(&noise).unwrap()..body.len() - 3]).as_str())
    );
    assert_eq!(test.backend().inspect(Lane::Message).await.unwrap().total(), 0, "it does not stay on the queue");
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "slow")]
struct Slow;

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "fast")]
struct Fast;

#[dawdle::handler(concurrency = 1, timeout = "10m", attempts = 1)]
async fn crawl(_: &Slow) -> Outcome {
    std::future::pending().await
}

#[dawdle::handler]
async fn dash(_: &Fast) -> Outcome {
    Ok(())
}

#[tokio::test]
async fn a_backlog_of_a_handler_with_a_limit_of_its_own_keeps_nobody_else_waiting() {
    let test = Harness::start().await.unwrap();
    for _ in 0..60 {
        test.signal(Slow).await.unwrap();
    }
    test.drain().await;
    for _ in 0..60 {
        test.signal(Fast).await.unwrap();
    }
    test.drain().await;
    assert_eq!(test.runs("dash"), 60);
}

#[tokio::test]
async fn counts_and_spans_set_in_code_are_checked_like_any_other() {
    let bad = [
        Config { concurrency: Some(0), ..Config::default() },
        Config { max_receives: Some(0), ..Config::default() },
        Config { send_buffer: Some(usize::MAX), ..Config::default() },
        Config { send_timeout: Some(Duration::MAX), ..Config::default() },
        Config { delay_poll: Some(Duration::from_secs(3_600)), ..Config::default() },
    ];
    for config in bad {
        let error = Harness::builder().config(config).start().await.unwrap_err();
        assert_eq!(error.kind(), dawdle::ErrorKind::Config, "{error}");
    }
}

#[cfg(feature = "local")]
mod full {
    use super::*;
    use dawdle::Dawdle;
    use dawdle::backend::local::{LocalBackend, LocalOptions};

    #[derive(Serialize, Deserialize, Event)]
    #[event(kind = "work")]
    struct Work;

    #[derive(Clone, Default)]
    struct Downstream {
        up: Arc<AtomicBool>,
        failed: Arc<AtomicUsize>,
        done: Arc<AtomicUsize>,
    }

    #[dawdle::handler(backoff = "200ms..200ms")]
    async fn work(_: &Work, _: &Context, downstream: State<Downstream>) -> Outcome {
        if !downstream.up.load(Ordering::Relaxed) {
            downstream.failed.fetch_add(1, Ordering::Relaxed);
            Err("down")?
        }
        downstream.done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_file_takes_retries_and_empties_when_the_downstream_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = LocalOptions::default();
        options.max_messages = 60;
        let backend = LocalBackend::open(folder.path().join("q.db"), options).await.unwrap();
        let downstream = Downstream::default();
        let builder = Dawdle::builder().backend(backend).only_handlers(["work"]).state(downstream.clone());
        let dawdle = builder.start().await.unwrap();
        let mut accepted = 0;
        let full = loop {
            match dawdle.signal(Work).await {
                Ok(_) => accepted += 1,
                Err(error) => break error,
            }
            assert!(accepted < 1_000, "never full");
        };
        assert_eq!(full.kind(), dawdle::ErrorKind::Full);
        // Every message has been tried, and its retry has found room.
        wait_for(|| downstream.failed.load(Ordering::Relaxed) > 3 * accepted).await;
        downstream.up.store(true, Ordering::Relaxed);
        wait_for(|| downstream.done.load(Ordering::Relaxed) >= accepted).await;
        dawdle.signal(Work).await.expect("there is room again");
        dawdle.shutdown().await;
    }

    async fn wait_for(condition: impl Fn() -> bool) {
        let patience = tokio::time::timeout(Duration::from_secs(30), async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        patience.await.expect("within 30 s");
    }
}
