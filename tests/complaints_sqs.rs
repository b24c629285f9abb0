//! What users of other queue libraries complain of, as far as it needs the network: brought about
//! on an SQS endpoint that fails as it is told. The other complaints are in `complaints.rs`.
#![cfg(feature = "sqs")]

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use dawdle::backend::sqs::{SqsBackend, SqsOptions, create_queues};
use dawdle::backend::{Backend, Lane, Outgoing, Role, Settle, Settlement};
use dawdle::{Config, Context, Dawdle, ErrorKind, Event, Outcome, QueueState, State, handlers};
use serde::{Deserialize, Serialize};
use sqs_model::{Endpoint, Faults, Options, QueueStats};

#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod common;
#[allow(dead_code, unreachable_pub, reason = "each test target uses its own part")]
mod engine;
use common::until;
use engine::Queues;

/// Set in a process that a test has to itself: its folder.
const ALONE: &str = "TEST_ALONE";

/// How long anything may take that is to happen in the end.
const BOUND: Duration = Duration::from_secs(90);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Runs a test in a process of its own, which finds credentials where the AWS default chain looks,
/// and nothing else of this machine's configuration. It is given the folder that its AWS profile
/// is in: the file `config`.
fn alone<F: AsyncFnOnce(&Path) -> Result<()>>(test: F) -> Result<()> {
    if let Some(folder) = std::env::var_os(ALONE) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let test = async { tokio::time::timeout(2 * BOUND, test(Path::new(&folder))).await.context("it hangs")? };
        return runtime.block_on(test);
    }
    let folder = tempfile::tempdir()?;
    let profile = folder.path().join("config");
    std::fs::write(&profile, "[default]\naws_access_key_id = test\naws_secret_access_key = test\n")?;
    // The closure is named after the function it is in.
    let name = std::any::type_name::<F>();
    let name = name.split("::").nth(1).context("no name")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("AWS_") || name.starts_with("DAWDLE_")) {
            command.env_remove(name);
        }
    }
    command.env(ALONE, folder.path()).env("AWS_CONFIG_FILE", profile).env("AWS_EC2_METADATA_DISABLED", "true");
    let ran = command.env("AWS_SHARED_CREDENTIALS_FILE", folder.path().join("none")).output()?;
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    ensure!(ran.status.success() && out.contains("1 passed"), "{name}: {}\n{out}\n{err}", ran.status);
    Ok(())
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "complaint.numbered")]
struct Numbered {
    number: usize,
    #[serde(default)]
    text: String,
}

fn numbered(number: usize) -> Numbered {
    Numbered { number, text: String::new() }
}

/// What was handled: numbers, and by which time of the queue's.
#[derive(Clone, Default)]
struct Handled(Arc<Mutex<Vec<(usize, SystemTime)>>>);

impl Handled {
    fn distinct(&self) -> usize {
        let numbers: std::collections::BTreeSet<usize> = self.0.lock().unwrap().iter().map(|(n, _)| *n).collect();
        numbers.len()
    }

    async fn come_to(&self, count: usize) -> Result<()> {
        until(BOUND, &format!("{count} are handled"), async || Ok(self.distinct() >= count)).await
    }
}

#[dawdle::handler]
async fn note(event: &Numbered, cx: &Context, handled: State<Handled>) -> Outcome {
    handled.0.lock().unwrap().push((event.number, cx.now()));
    Ok(())
}

/// An endpoint with an application's queues on it.
struct Sqs {
    endpoint: Endpoint,
    queues: Queues,
    handled: Handled,
}

impl Sqs {
    async fn new() -> Result<Self> {
        Sqs::of(Options::default()).await
    }

    async fn of(options: Options) -> Result<Self> {
        let endpoint = Endpoint::start(options)?;
        let queues = Queues::at(endpoint.url(), "orders".to_owned());
        create_queues(queues.options()).await?;
        Ok(Sqs { endpoint, queues, handled: Handled::default() })
    }

    /// With time for a busy machine: messages of a receive that is given up hide for a minute.
    fn options(&self) -> SqsOptions {
        SqsOptions { receive_margin: seconds(20), ..self.queues.options() }
    }

    /// With receives of 1.9 s at most, for the tests that wait for one to end.
    async fn hasty(&self) -> Result<SqsBackend> {
        let backend = SqsBackend::connect(self.queues.options()).await?;
        backend.check(Role::Listener).await?;
        Ok(backend)
    }

    async fn backend(&self) -> Result<SqsBackend> {
        let backend = SqsBackend::connect(self.options()).await?;
        backend.check(Role::Listener).await?;
        Ok(backend)
    }

    async fn node(&self, backend: &SqsBackend, config: Config) -> Result<Dawdle> {
        let builder = Dawdle::builder().config(config).backend(backend.clone()).discover(false);
        Ok(builder.handlers(handlers![note]).state(self.handled.clone()).start().await?)
    }

    /// A process that only sends, and for long if need be.
    async fn sender(&self) -> Result<Dawdle> {
        let backend = SqsBackend::connect(self.options()).await?;
        let config = Config { send_timeout: Some(BOUND), ..Config::default() };
        Ok(Dawdle::builder().config(config).backend(backend).discover(false).listener(false).start().await?)
    }

    fn faults(&self, faults: Faults) {
        self.endpoint.set_faults(faults);
    }

    fn heal(&self) {
        self.faults(Faults::default());
    }

    fn on(&self, suffix: &str) -> QueueStats {
        self.endpoint.queue(&format!("orders{suffix}")).unwrap_or_default()
    }

    async fn is_empty(&self) -> Result<()> {
        until(BOUND, "the queues are empty", async || {
            Ok(["", "-delay", "-dead"].iter().all(|suffix| self.on(suffix).total() == 0))
        })
        .await
    }
}

/// aws-sdk-rust #1094, sqs-consumer #130.
#[test]
fn complaint_01_a_receive_that_hangs_for_ever_is_given_up_and_the_loop_goes_on() -> Result<()> {
    alone(async |_| {
        let sqs = Sqs::new().await?;
        let node = sqs.node(&sqs.hasty().await?, Config::default()).await?;
        sqs.faults(Faults { hang: 1.0, ..Faults::default() });
        // The poll that is open now ends within a second; the next ones are never answered.
        until(BOUND, "three receives hung", async || Ok(sqs.endpoint.counts().struck.hang >= 3)).await?;
        let begun = Instant::now();
        let quick = node.signal(numbered(0));
        let error = quick.await.err().context("a send that hangs is answered")?;
        ensure!(error.kind() == ErrorKind::Unavailable && error.maybe_sent(), "{error:?}");
        ensure!(begun.elapsed() < seconds(20), "`send_timeout` is 10 s, and it took {:?}", begun.elapsed());
        sqs.heal();
        node.signal(numbered(1)).await?;
        until(BOUND, "it is handled", async || Ok(sqs.handled.0.lock().unwrap().iter().any(|(number, _)| *number == 1)))
            .await
    })
}

/// sqs-consumer #484.
#[test]
fn complaint_03_a_queue_that_is_deleted_is_asked_for_seldom_and_found_again_within_seconds() -> Result<()> {
    alone(async |_| {
        let sqs = Sqs::of(Options { recreate_after: Duration::ZERO, ..Options::default() }).await?;
        let node = sqs.node(&sqs.backend().await?, Config::default()).await?;
        node.signal(numbered(0)).await?;
        sqs.handled.come_to(1).await?;
        sqs.queues.delete_one("").await;
        until(BOUND, "it is seen", async || Ok(why(&node).is_some())).await?;
        ensure!(why(&node) == Some(ErrorKind::Queue), "{:?}", node.health());
        sqs.endpoint.reset_counts();
        tokio::time::sleep(seconds(6)).await;
        // 0.2 s, 0.4 s, 0.8 s and so on, up to 5 s, and up to a fifth off.
        let asked = sqs.endpoint.counts().receive_message;
        ensure!((1..=6).contains(&asked), "{asked} receives in 6 s");
        create_queues(sqs.queues.options()).await?;
        sqs.sender().await?.signal(numbered(1)).await?;
        let back = Instant::now();
        sqs.handled.come_to(2).await?;
        ensure!(back.elapsed() < seconds(20), "{:?} after it was back", back.elapsed());
        ensure!(node.health().is_running(), "{:?}", node.health());
        Ok(())
    })
}

/// Why a node does not receive messages.
fn why(node: &Dawdle) -> Option<ErrorKind> {
    match &node.health().queue(Lane::Message)?.state {
        QueueState::BackingOff { error, .. } => Some(error.kind()),
        _ => None,
    }
}

/// The same with the network down.
#[test]
fn complaint_03_while_the_network_is_down_nothing_is_tried_in_a_hot_loop() -> Result<()> {
    alone(async |_| {
        let sqs = Sqs::new().await?;
        let backend = sqs.backend().await?;
        let node = sqs.node(&backend, Config::default()).await?;
        node.signal(numbered(0)).await?;
        sqs.handled.come_to(1).await?;
        sqs.is_empty().await?;
        sqs.endpoint.go_down();
        until(BOUND, "it is seen", async || Ok(why(&node) == Some(ErrorKind::Unavailable))).await?;
        let before = backend.requests();
        tokio::time::sleep(seconds(6)).await;
        let tried = backend.requests().requests() - before.requests();
        // As above, for the message queue and, if its first look was struck, the delay queue.
        ensure!((1..=12).contains(&tried), "{tried} requests in 6 s");
        sqs.endpoint.come_back();
        let back = Instant::now();
        node.signal(numbered(1)).await?;
        sqs.handled.come_to(2).await?;
        ensure!(back.elapsed() < seconds(20), "{:?} after it was back", back.elapsed());
        Ok(())
    })
}

/// aws-sdk-js #2350, celery #8875.
#[test]
fn complaint_04_a_stop_leaves_no_ghost_behind_that_takes_messages_along() -> Result<()> {
    alone(async |_| {
        let sqs = Sqs::new().await?;
        let options = SqsOptions { receive_wait: seconds(20), ..sqs.queues.options() };
        let backend = SqsBackend::connect(options).await?;
        let stopping = sqs.node(&backend, Config::default()).await?;
        let sender = sqs.sender().await?;
        until(BOUND, "both queues are polled", async || Ok(sqs.endpoint.counts().receive_message >= 2)).await?;
        tokio::time::sleep(seconds(1)).await;
        let stopped = tokio::spawn(async move { stopping.shutdown().await });
        tokio::time::sleep(millis(200)).await;
        sender.signal(numbered(0)).await?;
        stopped.await?;
        // It was received by the open poll, which had been waited for.
        ensure!(sqs.endpoint.counts().messages_received == 1);
        ensure!(sqs.on("").visible == 1, "{:?}: it is not given back", sqs.on(""));
        sqs.node(&sqs.backend().await?, Config::default()).await?;
        let begun = Instant::now();
        sqs.handled.come_to(1).await?;
        ensure!(begun.elapsed() < seconds(40), "as late as after a lease: {:?}", begun.elapsed());
        sqs.is_empty().await
    })
}

/// The same when the network takes the answer: nothing can be done but to wait, and nothing is lost.
#[test]
fn complaint_04_messages_whose_answer_was_lost_come_again_when_their_lease_ends() -> Result<()> {
    alone(async |_| {
        let sqs = Sqs::new().await?;
        sqs.queues.set("", "VisibilityTimeout", "4").await;
        sqs.node(&sqs.hasty().await?, Config::default()).await?;
        let sender = sqs.sender().await?;
        for answer in sender.signal_all((0..20).map(numbered)).await {
            answer?;
        }
        sqs.handled.come_to(20).await?;
        sqs.faults(Faults { reset_after: 0.5, ..Faults::default() });
        for answer in sender.signal_all((20..100).map(numbered)).await {
            answer?;
        }
        until(BOUND, "some answers are lost", async || Ok(sqs.endpoint.counts().struck.reset_after > 10)).await?;
        sqs.heal();
        sqs.handled.come_to(100).await?;
        sqs.is_empty().await
    })
}

/// wolverine #3503, sqs-consumer #193, omniqueue.
#[test]
fn complaint_05_no_entry_that_failed_within_a_batch_counts_as_sent_or_deleted() -> Result<()> {
    alone(async |_| {
        let sqs = Sqs::new().await?;
        let sender = sqs.sender().await?;
        sqs.faults(Faults { entry_failure: 0.3, ..Faults::default() });
        for answer in sender.signal_all((0..200).map(numbered)).await {
            answer?;
        }
        let failed = sqs.endpoint.counts().struck.entry_failure;
        ensure!(failed > 20, "only {failed} entries failed");
        ensure!(sqs.on("").total() >= 200, "{:?}", sqs.on(""));
        // Rarer, for an ack that fails five times waits for the end of the lease.
        sqs.faults(Faults { entry_failure: 0.15, ..Faults::default() });
        sqs.node(&sqs.backend().await?, Config::default()).await?;
        sqs.handled.come_to(200).await?;
        sqs.is_empty().await?;
        let counts = sqs.endpoint.counts();
        ensure!(counts.struck.entry_failure > failed + 5, "no ack failed");
        ensure!(counts.messages_deleted == counts.messages_sent, "{counts:?}");
        Ok(())
    })
}

/// MassTransit #5645.
#[test]
fn complaint_06_a_batch_over_the_total_size_goes_in_several_requests() -> Result<()> {
    alone(async |_| {
        let sqs = Sqs::new().await?;
        let sender = sqs.sender().await?;
        let events = (0..12).map(|number| Numbered { number, text: "x".repeat(300 * 1024) });
        for answer in sender.signal_all(events).await {
            answer?;
        }
        // Those that are as large as an event may be, too.
        let events = (12..14).map(|number| Numbered { number, text: "x".repeat(1024 * 1024 - 17 * 1024) });
        for answer in sender.signal_all(events).await {
            answer?;
        }
        sqs.node(&sqs.backend().await?, Config::default()).await?;
        sqs.handled.come_to(14).await?;
        sqs.is_empty().await?;

        // At the backend itself: three a request, and none that is refused and made again.
        let backend = sqs.backend().await?;
        let large = vec![Outgoing::new("x".repeat(300 * 1024)); 10];
        backend.send(Lane::Dead, &large).await.into_iter().collect::<dawdle::Result<Vec<_>>>()?;
        ensure!(backend.requests().send == 4, "{} requests", backend.requests().send);
        Ok(())
    })
}

/// spring-cloud-aws #1654.
#[test]
fn complaint_07_a_message_that_comes_again_within_an_ack_window_spoils_no_batch() -> Result<()> {
    alone(async |_| {
        let sqs = Sqs::new().await?;
        let sender = sqs.sender().await?;
        sqs.faults(Faults { duplicate: 1.0, ..Faults::default() });
        for answer in sender.signal_all((0..50).map(numbered)).await {
            answer?;
        }
        let config = Config { ack_linger: Some(seconds(1)), ..Config::default() };
        sqs.node(&sqs.backend().await?, config).await?;
        sqs.handled.come_to(50).await?;
        sqs.is_empty().await?;
        ensure!(sqs.endpoint.counts().struck.duplicate == 50);

        // At the backend itself: the same message twice, by two receipts and by one.
        let backend = sqs.backend().await?;
        backend
            .send(Lane::Dead, &[Outgoing::new("a"), Outgoing::new("b")])
            .await
            .into_iter()
            .collect::<dawdle::Result<Vec<_>>>()?;
        let mut receipts = Vec::new();
        while receipts.len() < 4 {
            receipts.extend(backend.receive(Lane::Dead, 10).await?.into_iter().map(|delivery| delivery.receipt));
        }
        receipts.extend(receipts.clone());
        let settle = |how| receipts.iter().map(|receipt| Settle { receipt: receipt.clone(), how }).collect::<Vec<_>>();
        let before = backend.requests().delete;
        for answer in backend.settle(Lane::Dead, &settle(Settlement::Ack)).await {
            answer?;
        }
        ensure!(backend.requests().delete == before + 1, "the batch was refused, and made again entry by entry");
        sqs.is_empty().await
    })
}

/// sqs-consumer #373.
#[test]
fn complaint_16_a_node_whose_credentials_have_expired_goes_on_with_new_ones_without_a_restart() -> Result<()> {
    alone(async |folder| {
        // As a company's own helper does it: a program that prints what is valid now. The SDK asks
        // for new ones ten seconds before the old ones end.
        let (program, log, current) = (folder.join("print.sh"), folder.join("log"), folder.join("current"));
        std::fs::write(folder.join("config"), format!("[default]\ncredential_process = sh {}\n", program.display()))?;
        std::fs::write(&program, format!("echo asked >> {}\ncat {}\n", log.display(), current.display()))?;
        let issue = |span: Duration| {
            let ends = humantime::format_rfc3339_seconds(SystemTime::now() + span);
            let secret = r#""AccessKeyId":"AK","SecretAccessKey":"SK","SessionToken":"T""#;
            std::fs::write(&current, format!(r#"{{"Version":1,{secret},"Expiration":"{ends}"}}"#))
        };
        let asked = || std::fs::read_to_string(&log).map_or(0, |log| log.lines().count());

        issue(seconds(15))?;
        let sqs = Sqs::new().await?;
        let node = sqs.node(&sqs.backend().await?, Config::default()).await?;
        node.signal(numbered(0)).await?;
        sqs.handled.come_to(1).await?;
        // They are revoked before their time, and the queue hears of it first.
        sqs.faults(Faults { expired_credentials: true, ..Faults::default() });
        let before = asked();
        until(BOUND, "it is seen", async || Ok(why(&node) == Some(ErrorKind::Credentials))).await?;
        let error = node.signal(numbered(99)).await.err().context("sent without credentials")?;
        ensure!(error.kind() == ErrorKind::Credentials && !error.maybe_sent(), "{error:?}");
        for secret in ["AK", "SK"] {
            ensure!(!error.to_string().split_whitespace().any(|word| word.contains(secret)), "{error}");
        }
        // Nobody restarts anything: new ones are there, and are asked for when the old ones end.
        issue(seconds(3_600))?;
        until(BOUND, "new ones are asked for", async || Ok(asked() > before)).await?;
        sqs.heal();
        let renewed = Instant::now();
        node.signal(numbered(1)).await?;
        sqs.handled.come_to(2).await?;
        ensure!(renewed.elapsed() < seconds(20), "{:?} after there were new ones", renewed.elapsed());
        ensure!(node.health().is_running(), "{:?}", node.health());
        Ok(())
    })
}

/// NServiceBus.AmazonSQS #210.
#[test]
fn complaint_18_due_times_are_the_queues_however_far_the_nodes_clock_is_off() -> Result<()> {
    alone(async |_| {
        for ahead in [5 * 60_000_i64, -5 * 60_000] {
            let sqs = Sqs::of(Options { clock_ahead_ms: ahead, ..Options::default() }).await?;
            let backend = sqs.backend().await?;
            let node = sqs.node(&backend, Config::default()).await?;
            // Another program whose clock is right, as the queue's is.
            let now = || match ahead {
                0.. => SystemTime::now() + millis(ahead.unsigned_abs()),
                _ => SystemTime::now() - millis(ahead.unsigned_abs()),
            };
            let due = now() + seconds(4);
            let body = format!(
                r#"{{"specversion":"1.0","id":"1","source":"s","type":"complaint.numbered","due":"{}","data":{{"number":0}}}}"#,
                humantime::format_rfc3339_millis(due)
            );
            backend.send(Lane::Message, &[Outgoing::new(body)]).await.remove(0)?;
            // And one by a delay.
            node.signal(numbered(1)).delay(seconds(4)).await?;
            sqs.handled.come_to(2).await?;
            let came = now();
            ensure!(came + millis(50) >= due, "early by {:?}", due.duration_since(came));
            ensure!(came < due + seconds(30), "late by {:?}", came.duration_since(due));
            let handled = sqs.handled.0.lock().unwrap().clone();
            ensure!(handled.len() == 2, "{handled:?}");
            for (number, at) in handled {
                // Handlers are told the queue's time.
                let off = at.duration_since(due).unwrap_or_else(|before| before.duration());
                ensure!(off < seconds(30), "{number} by {off:?}");
            }
            node.shutdown().await;
        }
        Ok(())
    })
}

/// Named by no issue: the queue's own visibility timeout is its owner's to choose.
#[test]
fn complaint_19_a_receive_leaves_the_visibility_timeout_to_the_queue() -> Result<()> {
    alone(async |_| {
        let sqs = Sqs::new().await?;
        for secs in [3_u64, 6] {
            sqs.queues.set("", "VisibilityTimeout", &secs.to_string()).await;
            let backend = sqs.hasty().await?;
            backend.send(Lane::Message, &[Outgoing::new("a")]).await.remove(0)?;
            let first = backend.receive(Lane::Message, 1).await?;
            let received = Instant::now();
            ensure!(first.len() == 1 && first[0].lease == seconds(secs), "{first:?}");
            while sqs.on("").visible == 0 {
                ensure!(received.elapsed() < seconds(secs + 15), "hidden for longer than {secs} s");
                tokio::time::sleep(millis(20)).await;
            }
            ensure!(received.elapsed() > seconds(secs) - millis(500), "hidden for {:?} only", received.elapsed());
            let again = backend.receive(Lane::Message, 1).await?;
            backend.settle(Lane::Message, &[Settle { receipt: again[0].receipt.clone(), how: Settlement::Ack }]).await;
        }
        Ok(())
    })
}

/// async-aws #1227.
#[test]
fn complaint_20_throttling_is_tried_again_in_each_of_its_forms() -> Result<()> {
    alone(async |_| {
        let sqs = Sqs::new().await?;
        let sender = sqs.sender().await?;
        sqs.node(&sqs.backend().await?, Config::default()).await?;
        // Whole calls, by four codes and two statuses.
        sqs.faults(Faults { throttle: 0.3, ..Faults::default() });
        for answer in sender.signal_all((0..100).map(numbered)).await {
            answer?;
        }
        sqs.handled.come_to(100).await?;
        until(BOUND, "all forms came up often", async || Ok(sqs.endpoint.counts().struck.throttle >= 8)).await?;
        // Single entries, every other one flagged as the sender's fault.
        sqs.faults(Faults { entry_failure: 0.3, ..Faults::default() });
        for answer in sender.signal_all((100..200).map(numbered)).await {
            answer?;
        }
        sqs.handled.come_to(200).await?;
        sqs.heal();
        sqs.is_empty().await
    })
}
