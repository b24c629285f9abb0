//! A machine whose clock is five minutes off that of SQS: due times, retries, expiry and dead letters go
//! by SQS's clock, whose offset the backend measures.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use dawdle::backend::sqs::{SqsBackend, SqsOptions, create_queues};
use dawdle::{Context, Dawdle, Event, Failure, Filter, Outcome, State};
use serde::{Deserialize, Serialize};
use sqs_model::{Endpoint, Options};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod client;
use client::options;

/// How far off a listener's measure of SQS's clock may be, and that of a process that only sends.
const LISTENERS: Duration = Duration::from_millis(50);
const SENDERS: Duration = Duration::from_secs(1);

/// How late anything may be on a busy machine.
const LATE: Duration = Duration::from_secs(5);

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "skew.timed")]
struct Timed {
    name: String,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "skew.failing")]
struct Failing;

/// When handlers ran, by the clock that nobody sets, and what they took the time to be.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(String, Instant, SystemTime)>>>);

impl Seen {
    fn note(&self, name: &str, cx: &Context) {
        self.0.lock().unwrap().push((name.to_owned(), Instant::now(), cx.now()));
    }

    async fn times(&self, name: &str, count: usize) -> Vec<(Instant, SystemTime)> {
        let start = Instant::now();
        loop {
            let seen = self.0.lock().unwrap().clone();
            let seen: Vec<_> = seen.into_iter().filter(|seen| seen.0 == name).map(|seen| (seen.1, seen.2)).collect();
            if seen.len() >= count {
                return seen;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "`{name}` has not run {count} times: {seen:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[dawdle::handler]
async fn time(event: &Timed, cx: &Context, seen: State<Seen>) -> Outcome {
    seen.note(&event.name, cx);
    Ok(())
}

#[dawdle::handler(attempts = 2, backoff = "2s..2s")]
async fn fail(_: &Failing, cx: &Context, seen: State<Seen>) -> Outcome {
    seen.note("failing", cx);
    if cx.is_last_attempt() { Err(Failure::dead_letter("no use")) } else { Err("again".into()) }
}

/// Signals to run after `delay`, and says when at the earliest and at the latest that is.
async fn delayed(dawdle: &Dawdle, name: &str, delay: Duration) -> (Instant, Instant) {
    let before = Instant::now();
    dawdle.signal(Timed { name: name.to_owned() }).delay(delay).await.unwrap();
    (before + delay, Instant::now() + delay)
}

async fn skewed(clock_ahead_ms: i64) {
    let endpoint = Endpoint::start(Options { clock_ahead_ms, ..Options::default() }).unwrap();
    let queues = options(&endpoint.url());
    create_queues(queues.clone()).await.unwrap();
    let (seen, offset) = (Seen::default(), Duration::from_millis(clock_ahead_ms.unsigned_abs()));
    let backend = SqsBackend::connect(queues.clone()).await.unwrap();
    let listener = Dawdle::builder().backend(backend).state(seen.clone()).start().await.unwrap();
    let name = queues.queue.clone().unwrap();
    let url = |suffix: &str| Some(format!("{}/000000000000/{name}{suffix}", endpoint.url()));
    let by_url = SqsOptions {
        queue: None,
        queue_url: url(""),
        delay_queue_url: url("-delay"),
        dead_letter_queue_url: url("-dead"),
        ..queues
    };
    let sender = |options: SqsOptions| async move {
        let backend = SqsBackend::connect(options).await.unwrap();
        Dawdle::builder().backend(backend).discover(false).listener(false).start().await.unwrap()
    };

    // The first that either process says to SQS at all is a delayed event.
    let (earliest, latest) = delayed(&sender(by_url.clone()).await, "of a sender", Duration::from_secs(3)).await;
    let expiring = sender(by_url).await;
    expiring.signal(Timed { name: "expiring".to_owned() }).expires_in(Duration::from_secs(20)).await.unwrap();
    seen.times("expiring", 1).await;
    let (ran, _) = seen.times("of a sender", 1).await[0];
    assert!(ran + SENDERS >= earliest, "{clock_ahead_ms}: early by {:?}", earliest - ran);
    assert!(ran <= latest + LATE, "{clock_ahead_ms}: late by {:?}", ran - latest);

    for delay in [2_000, 2_300, 3_100] {
        let name = format!("{delay}");
        let (earliest, latest) = delayed(&listener, &name, Duration::from_millis(delay)).await;
        let (ran, told) = seen.times(&name, 1).await[0];
        assert!(ran + LISTENERS >= earliest, "{clock_ahead_ms}: {delay} ms: early by {:?}", earliest - ran);
        assert!(ran <= latest + LATE, "{clock_ahead_ms}: {delay} ms: late by {:?}", ran - latest);
        let true_time = if clock_ahead_ms > 0 { SystemTime::now() + offset } else { SystemTime::now() - offset };
        let off = true_time.duration_since(told).unwrap_or_else(|error| error.duration());
        assert!(off < LATE, "{clock_ahead_ms}: the handler is told a time that is {off:?} off");
    }

    let before = Instant::now();
    listener.signal(Failing).await.unwrap();
    let tries = seen.times("failing", 2).await;
    let after = tries[1].0 - tries[0].0;
    // The jitter takes off up to a fifth.
    assert!(
        after + LISTENERS >= Duration::from_millis(1_600) && after < LATE,
        "{clock_ahead_ms}: again after {after:?}"
    );
    let letter = loop {
        match listener.dead_letters().scan(Filter::default()).next().await {
            Some(letter) => break letter.unwrap(),
            None => assert!(before.elapsed() < Duration::from_secs(20), "no dead letter"),
        }
    };
    let off = letter.died_at.duration_since(tries[1].1).unwrap_or_else(|error| error.duration());
    assert!(letter.kind == "skew.failing" && off < LATE, "{clock_ahead_ms}: the dead letter's time is {off:?} off");
    listener.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_early_or_late_where_the_queues_clock_is_five_minutes_ahead() {
    skewed(300_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_early_or_late_where_the_queues_clock_is_five_minutes_behind() {
    skewed(-300_000).await;
}
