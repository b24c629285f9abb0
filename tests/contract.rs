//! The public names, used as the documentation shows them: this file compiles, or an upgrade breaks
//! somebody.

use std::time::{Duration, SystemTime};

use dawdle::testing::Harness;
use dawdle::{
    Config, Context, Dawdle, Envelope, ErrorKind, Event, EventId, Failure, Filter, Middleware, Next, Outcome, State,
};
use serde::{Deserialize, Serialize};

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

struct Account {
    closed: bool,
    asleep: bool,
}

struct Mailer;

impl Mailer {
    fn fake() -> Self {
        Mailer
    }

    async fn account(&self, account: u64) -> Result<Account, std::io::Error> {
        Ok(Account { closed: account == 13, asleep: account == 14 })
    }
}

#[dawdle::handler(attempts = 8, timeout = "30s", concurrency = 4)]
async fn remind(event: &TrialEnding, cx: &Context, mailer: State<Mailer>) -> Outcome {
    let account = mailer.account(event.account).await?;
    if account.closed {
        return Err(Failure::dead_letter("account closed"));
    }
    if account.asleep {
        return Err(Failure::snooze(Duration::from_secs(3600)));
    }
    cx.dawdle().signal(Reminded { account: event.account }).await?;
    Ok(())
}

#[derive(Default, dawdle::EventHandler)]
#[handler(event = TrialEnding, attempts = 8)]
struct Remind;

impl dawdle::Handler<TrialEnding> for Remind {
    async fn handle(&self, _event: &TrialEnding, _cx: &Context) -> Outcome {
        Ok(())
    }
}

#[dawdle::handler(except(Heartbeat))]
async fn audit(event: &dyn Event, cx: &Context) -> Outcome {
    assert!(event.kind() == cx.kind() && event.downcast_ref::<Heartbeat>().is_none());
    Ok(())
}

#[dawdle::handler(name = "confirm", aliases("confirmed"), backoff = "1s..1m")]
async fn confirms(_: &Reminded, clock: State<Instants>, cx: &Context) -> anyhow::Result<()> {
    assert!(cx.lag() < clock.limit && !cx.is_last_attempt() && cx.handler() == "confirm");
    if cx.attribute("again") == Some("later") && cx.attempt() == 1 {
        Err(Failure::retry_after(Duration::from_secs(5), "later").into_error())?;
    }
    Ok(())
}

#[dawdle::handler]
async fn beat(_: &Heartbeat) -> Outcome {
    Ok(())
}

struct Instants {
    limit: Duration,
}

struct Stamped;

impl Middleware for Stamped {
    fn before_send(&self, envelope: &mut Envelope) -> dawdle::Result<()> {
        envelope.set_attribute("stamped", "yes")
    }

    async fn handle(&self, cx: &Context, event: &dyn Event, next: Next<'_>) -> Outcome {
        assert_eq!(cx.attribute("stamped"), Some("yes"));
        next.run(cx, event).await
    }
}

fn instants() -> Instants {
    Instants { limit: Duration::from_secs(1) }
}

#[tokio::test]
async fn reminds_two_weeks_later() -> dawdle::Result<()> {
    let test = Harness::builder().state(Mailer::fake()).state(instants()).start().await?;
    test.signal(TrialEnding { account: 7 }).delay(Duration::from_secs(14 * 86_400)).await?;
    test.advance(Duration::from_secs(14 * 86_400 - 1)).await;
    assert_eq!(test.runs("remind"), 0);
    test.advance(Duration::from_secs(1)).await;
    assert_eq!(test.runs("remind"), 1);
    assert_eq!((test.runs("Remind"), test.runs("confirm"), test.runs("audit")), (1, 1, 2));
    Ok(())
}

#[tokio::test]
async fn a_handler_is_a_function_still() {
    let cx = Context::for_test();
    remind(&TrialEnding { account: 7 }, &cx, State::new(Mailer)).await.unwrap();
    assert_eq!(cx.signalled::<Reminded>()[0].account, 7);
    assert!(remind(&TrialEnding { account: 13 }, &cx, State::new(Mailer)).await.is_err());
    let _: EventId = cx.id();
    let _: (SystemTime, SystemTime, SystemTime) = (cx.signalled_at(), cx.due_at(), cx.now());
}

#[tokio::test]
async fn every_way_to_signal() -> dawdle::Result<()> {
    let test = Harness::builder()
        .state_with(|_dawdle| Mailer)
        .state(instants())
        .middleware(Stamped)
        .handlers(dawdle::handlers![beat])
        .handler(Remind)
        .expect_handler("remind")
        .foreign(|raw| (raw.body() == "beat").then(|| Envelope::new(Heartbeat).ok()).flatten())
        .start()
        .await?;
    let dawdle: Dawdle = test.dawdle().clone();
    dawdle.signal(Reminded { account: 1 }).attribute("again", "later").await?;
    dawdle.signal(Heartbeat).at(test.now() + Duration::from_secs(2)).expires_in(Duration::from_secs(60)).await?;
    dawdle.signal(Heartbeat).key("k").group("g").id(EventId::new()).await?;
    dawdle.try_signal(Heartbeat).await?;
    dawdle.signal(Heartbeat).direct().await?;
    let results = dawdle.signal_all((0..3).map(|_| Heartbeat)).await;
    assert!(results.into_iter().all(|result| result.is_ok()));
    let envelope = dawdle.signal(Heartbeat).into_envelope()?;
    let kept = serde_json::to_string(&envelope).unwrap();
    dawdle.send(serde_json::from_str(&kept).unwrap()).await?;
    test.scope(async { dawdle::signal(Heartbeat).await }).await?;
    test.drain_scheduled().await;
    assert_eq!((test.runs("beat"), test.runs("confirm")), (9, 2));
    assert!(test.dead_letters().await.is_empty());
    Ok(())
}

#[tokio::test]
async fn every_way_to_start_and_stop() -> dawdle::Result<()> {
    let queue = || dawdle::backend::memory::MemoryBackend::new(dawdle::Clock::system());
    let config: Config = serde_json::from_str(r#"{ "concurrency": 4, "shutdown_timeout": "2s" }"#).unwrap();
    let dawdle = Dawdle::builder()
        .config(config)
        .backend(queue())
        .discover(false)
        .handlers(dawdle::handlers![beat])
        .listener(true)
        .install()
        .start()
        .await?;
    assert!(dawdle.listener_running());
    assert_eq!((dawdle.handler_count(), dawdle.handlers().len(), dawdle.handler_count_for::<Heartbeat>()), (1, 1, 1));
    dawdle.register(dawdle::handlers![Remind])?;
    dawdle.unregister("Remind")?;
    assert_eq!(dawdle.handler_count_for::<TrialEnding>(), 0);
    dawdle::signal(Heartbeat).await?;
    dawdle.stop_listener().await;
    assert!(!dawdle.listener_running());
    dawdle.start_listener().await?;
    let letters = dawdle.dead_letters();
    let mut scan = letters.scan(Filter::default().kind("heartbeat").limit(10));
    assert!(scan.next().await.is_none());
    assert_eq!(letters.replay_where(Filter::default()).await? + letters.purge_where(Filter::default()).await?, 0);
    dawdle.run_until(std::future::ready(())).await?;
    dawdle.shutdown().await;
    assert_eq!(dawdle.signal(Heartbeat).await.unwrap_err().kind(), ErrorKind::ShutDown);
    let only = Dawdle::builder().backend(queue()).only_handlers(["no_such"]).start().await;
    assert!(only.unwrap_err().to_string().contains("use that_crate as _;"));
    Ok(())
}
