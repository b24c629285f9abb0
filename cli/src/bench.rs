//! `dawdle bench`: what the queues can do from here, on queues of its own.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dawdle::cost::{Load, estimate};
use dawdle::{BackendKind, Config, Dawdle, Event, EventId, Outcome, State, handlers};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use crate::out::Out;
use crate::problem::{Problem, Result};
use crate::progress;
use crate::queue::{Queues, local_path};
use crate::settings::Settings;
use crate::{ask, stop};

/// How many events are signalled together.
const TOGETHER: u64 = 200;
/// How many are signalled alone, one after the other, to see how long each takes.
const ALONE: u64 = 100;
/// For how long a bench that was told to stop goes on handling what it has signalled.
const CLEANING: Duration = Duration::from_secs(30);
/// Dollars for a million requests, about: <https://aws.amazon.com/sqs/pricing/>.
const DOLLARS: f64 = 0.40;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many events
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    events: u64,
    /// Bytes of data in each
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=200_000))]
    payload: u32,
    /// On SQS: the queues NAME, NAME-delay and NAME-dead, which are nobody else's
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "bench.beat")]
struct Beat {
    run: String,
    /// When it was signalled, in microseconds since the run began.
    micros: u64,
    padding: String,
}

/// What the handler has seen.
struct Seen {
    run: String,
    begun: Instant,
    handled: AtomicU64,
    last_lag: Mutex<u64>,
}

#[dawdle::handler]
async fn bench_beat(event: &Beat, seen: State<Arc<Seen>>) -> Outcome {
    // What another run left is handled all the same, and so it is gone.
    if event.run == seen.run {
        let lag = seen.micros().saturating_sub(event.micros);
        *seen.last_lag.lock().unwrap_or_else(PoisonError::into_inner) = lag;
        seen.handled.fetch_add(1, Ordering::AcqRel);
    }
    Ok(())
}

impl Seen {
    fn micros(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Comes when so many are handled.
    async fn handled(&self, count: u64) {
        while self.handled.load(Ordering::Acquire) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// What was measured.
#[derive(Serialize)]
struct Measured {
    backend: String,
    queue: String,
    events: u64,
    payload_bytes: u32,
    in_per_second: f64,
    out_per_second: f64,
    /// On SQS only, as the two after it.
    requests_per_event: Option<f64>,
    billed_per_event: Option<f64>,
    dollars: Option<f64>,
    /// From a lone signal to the begin of its handler, in milliseconds.
    latency_ms: Latency,
}

#[derive(Serialize)]
struct Latency {
    p50: f64,
    p95: f64,
    p99: f64,
}

pub(crate) async fn run(args: Args, settings: &Settings, out: Out) -> Result {
    let config = settings.config()?;
    match config.chosen_backend()? {
        BackendKind::Sqs => on_sqs(&args, config, out).await,
        BackendKind::Local => on_local(&args, config, out).await,
        BackendKind::Memory => {
            Err(Problem::failed("DAWDLE_BACKEND is `memory`, which has nothing to measure from here"))
        }
    }
}

/// In a folder of its own beside the application's file, so on the same disk.
async fn on_local(args: &Args, mut config: Config, out: Out) -> Result {
    if args.queue.is_some() {
        return Err(Problem::usage("--queue is for SQS: the local file is measured on a file of its own beside it"));
    }
    let path = local_path(&config);
    let beside = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = tempfile::Builder::new().prefix(".dawdle-bench-").tempdir_in(beside).map_err(|error| {
        Problem::failed(format!("no folder for the bench can be made in {} ({error}): go to the folder of the application, or make its queue with \
             `dawdle init`", beside.display()))
    })?;
    config.local_path = Some(folder.path().join("queue.db"));
    let measured = measure(args, config).await;
    folder.close().map_err(|error| Problem::failed(format!("the folder of the bench is still there: {error}")))?;
    show(&measured?, out)
}

async fn on_sqs(args: &Args, mut config: Config, out: Out) -> Result {
    let Some(name) = &args.queue else {
        return Err(Problem::usage(
            "the bench needs queues of its own, or the application would be handed its events: make some with \
             `DAWDLE_SQS_QUEUE=NAME dawdle init`, and give their name with --queue NAME",
        ));
    };
    let urls = [&config.sqs_queue_url, &config.sqs_delay_queue_url, &config.sqs_dead_letter_queue_url];
    let ours = |suffix: &str| {
        let queue = format!("{name}{suffix}");
        let is_configured = |end: &str| config.sqs_queue.as_ref().is_some_and(|name| format!("{name}{end}") == queue);
        ["", "-delay", "-dead"].into_iter().any(is_configured)
            || urls
                .iter()
                .any(|url| url.as_deref().is_some_and(|url| url.trim_end_matches('/').ends_with(&format!("/{queue}"))))
    };
    if ["", "-delay", "-dead"].into_iter().any(ours) {
        return Err(Problem::usage(format!(
            "{name} is the application's: its nodes would be handed the events of the bench; give queues that are \
             nobody's"
        )));
    }
    ask::can_ask(args.yes, "bench")?;
    config.sqs_queue = Some(name.clone());
    (config.sqs_queue_url, config.sqs_delay_queue_url, config.sqs_dead_letter_queue_url) = (None, None, None);
    let queues = Queues::open_or_create(config.clone()).await?;
    for lane in queues.lanes() {
        let there = queues.backend.inspect(lane).await?.total();
        if there > 0 {
            return Err(Problem::failed(format!(
                "the {lane} of {name} is not empty ({there} messages): the bench would handle what is somebody's"
            )));
        }
    }
    let load = |together| {
        let together = Load { payload_bytes: args.payload as usize, together, ..Load::default() };
        estimate(&together).billed_per_event
    };
    let billed = load(u32::try_from(TOGETHER).unwrap_or(1)) * args.events as f64 + load(1) * ALONE as f64;
    let question = format!(
        "SQS bills about {billed:.0} requests for this, which is {:.4} dollars. Go on?",
        billed * DOLLARS / 1e6
    );
    ask::first(args.yes, &question).await?;
    show(&measure(args, config).await?, out)
}

async fn measure(args: &Args, config: Config) -> Result<Measured> {
    let mut stop = std::pin::pin!(stop::asked());
    let queues = Queues::open_or_create(config.clone()).await?;
    let seen = Arc::new(Seen {
        run: EventId::new().to_string(),
        begun: Instant::now(),
        handled: AtomicU64::new(0),
        last_lag: Mutex::new(0),
    });
    let builder = Dawdle::builder().config(config).backend(queues.backend.clone()).state(Arc::clone(&seen));
    let dawdle = builder.discover(false).handlers(handlers![bench_beat]).start().await?;
    let before = dawdle.usage();
    let bar = ProgressBar::with_draw_target(Some(args.events + ALONE), progress::target());
    let stopped = AtomicBool::new(false);
    let mut beats = std::pin::pin!(beat(args, &dawdle, &seen, &stopped, &bar));
    let measured = tokio::select! {
        measured = &mut beats => measured,
        () = &mut stop => {
            // Whatever was signalled is handled, and so it is gone.
            stopped.store(true, Ordering::Release);
            let rest = "told to stop; some events are still on the queue of the bench";
            tokio::time::timeout(CLEANING, &mut beats).await.unwrap_or_else(|_| Err(Problem::failed(rest)))
        }
    };
    bar.finish_and_clear();
    let usage = dawdle.usage().since(&before);
    dawdle.shutdown().await;
    let Some((into, through, mut lags)) = measured? else {
        return Err(Problem::failed("told to stop; all that was signalled is handled"));
    };
    lags.sort_unstable();
    let at = |part: usize| lags[(lags.len() * part / 100).min(lags.len() - 1)] as f64 / 1e3;
    let all = (args.events + ALONE) as f64;
    let on_sqs = |value: f64| (queues.backend.name() == "sqs").then_some(value);
    Ok(Measured {
        backend: queues.backend.name().to_owned(),
        queue: queues.backend.describe(),
        events: args.events,
        payload_bytes: args.payload,
        in_per_second: args.events as f64 / into.as_secs_f64(),
        out_per_second: args.events as f64 / through.as_secs_f64(),
        requests_per_event: on_sqs(usage.requests() as f64 / all),
        billed_per_event: on_sqs(usage.billed as f64 / all),
        dollars: on_sqs(usage.billed as f64 * DOLLARS / 1e6),
        latency_ms: Latency { p50: at(50), p95: at(95), p99: at(99) },
    })
}

/// Signals many together, then some alone. How long it took until all were sent and until all were handled,
/// and the lags of the lone ones; `None` where it was stopped, once what was sent is handled.
async fn beat(
    args: &Args,
    dawdle: &Dawdle,
    seen: &Seen,
    stopped: &AtomicBool,
    bar: &ProgressBar,
) -> Result<Option<(Duration, Duration, Vec<u64>)>> {
    let event = || Beat { run: seen.run.clone(), micros: seen.micros(), padding: "x".repeat(args.payload as usize) };
    let begun = Instant::now();
    let mut sent = 0;
    while sent < args.events && !stopped.load(Ordering::Acquire) {
        let now = (args.events - sent).min(TOGETHER);
        for answer in dawdle.signal_all((0..now).map(|_| event())).await {
            answer?;
        }
        sent += now;
        bar.set_position(seen.handled.load(Ordering::Acquire));
    }
    let into = begun.elapsed();
    while seen.handled.load(Ordering::Acquire) < sent {
        bar.set_position(seen.handled.load(Ordering::Acquire));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let through = begun.elapsed();
    let mut lags = Vec::new();
    for number in 1..=ALONE {
        if stopped.load(Ordering::Acquire) {
            return Ok(None);
        }
        dawdle.signal(event()).await?;
        seen.handled(args.events + number).await;
        lags.push(*seen.last_lag.lock().unwrap_or_else(PoisonError::into_inner));
        bar.set_position(args.events + number);
    }
    Ok(Some((into, through, lags)))
}

fn show(measured: &Measured, out: Out) -> Result {
    if out.is_json() {
        return out.value(measured);
    }
    let Measured { events, payload_bytes, latency_ms: Latency { p50, p95, p99 }, .. } = measured;
    out.line(format_args!("{events} events of {payload_bytes} bytes on {}", crate::out::clean(&measured.queue)))?;
    out.line(format_args!("in        {:.0} events a second", measured.in_per_second))?;
    out.line(format_args!("out       {:.0} events a second", measured.out_per_second))?;
    if let (Some(requests), Some(billed), Some(dollars)) =
        (measured.requests_per_event, measured.billed_per_event, measured.dollars)
    {
        out.line(format_args!("requests  {requests:.2} an event, {billed:.2} billed, {dollars:.4} dollars in all"))?;
    }
    out.line(format_args!("latency   {p50:.1} ms (p50), {p95:.1} ms (p95), {p99:.1} ms (p99), each alone"))
}
