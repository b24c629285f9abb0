//! What one signal and one dispatch take when nothing else goes on, beside the SDK's bare calls.
//!
//! Dawdle and the bare calls have an endpoint each, and take turns.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_sdk_sqs::Client;
use dawdle::backend::sqs::SqsBackend;
use dawdle::{Dawdle, Outcome, State, handlers};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

use crate::endpoint::{self, Endpoint, as_somebody, queue_url};
use crate::event::{Order, body};
use crate::options::Options;
use crate::results::Part;
use crate::stats::median;
use crate::table::{Table, number};
use crate::ways::by_hand::lean_client;

/// The command that makes this program the one that is measured.
pub(crate) const ROLE: &str = "lone-client";

/// Long enough for a receive to be under way again.
const REST: Duration = Duration::from_millis(5);

/// Of the events whose lateness is measured.
const LONGEST_DELAY: Duration = Duration::from_secs(4);

/// What each took, in microseconds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Took {
    signal: Vec<f64>,
    bare_send: Vec<f64>,
    dispatch: Vec<f64>,
    bare_receive: Vec<f64>,
    /// After an event was due until its handler begins.
    late: Vec<f64>,
}

pub(crate) fn measure(options: &Options) -> Result<Part> {
    let times = if options.quick { 50 } else { 500 };
    eprintln!("{times} lone signals and dispatches");
    let (ours, bare) = (Endpoint::start(0)?, Endpoint::start(0)?);
    let mut client = Command::new(std::env::current_exe()?);
    client.args([ROLE, &ours.url, &bare.url, &times.to_string()]).stderr(Stdio::inherit());
    let said = as_somebody(&mut client).output()?;
    ensure!(said.status.success(), "measuring lone signals: {}", said.status);
    let took: Took = serde_json::from_slice(&said.stdout)?;
    let mut table = Table::new(&["", "p50 µs", "p90 µs", "bare p50 µs", "bare p90 µs", "added p50 µs"]);
    let mut row = |what: &str, ours: &[f64], bare: &[f64]| {
        let figures = [at(ours, 0.5), at(ours, 0.9), at(bare, 0.5), at(bare, 0.9), at(ours, 0.5) - at(bare, 0.5)];
        let figures = figures.map(number);
        table.row(&[what, &figures[0], &figures[1], &figures[2], &figures[3], &figures[4]]);
    };
    row("`signal`, beside `SendMessage`", &took.signal, &took.bare_send);
    row("sent until the handler begins, beside until `ReceiveMessage` returns", &took.dispatch, &took.bare_receive);
    let (late, late_p50, late_p99) = (took.late.len(), at(&took.late, 0.5) / 1e3, at(&took.late, 0.99) / 1e3);
    let text = format!(
        "{times} of each, one after the other, the bare call by turns with Dawdle's; no added latency. A dispatch is timed \
         from before the message is sent, by the same bare call for both.\n\n{}\n{late} events with delays of a fraction of a second to \
         four seconds: the handler begins {late_p50:.1} ms after the event is due (p50), {late_p99:.1} ms (p99).\n",
        table.text()
    );
    let added = json!({
        "signal_added_us": median(took.signal.clone()) - median(took.bare_send.clone()),
        "dispatch_added_us": median(took.dispatch.clone()) - median(took.bare_receive.clone()),
        "took_us": took,
    });
    Ok(Part { name: "lone", title: "A lone event", text, data: added })
}

fn at(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share) as usize).copied().unwrap_or(f64::NAN)
}

/// The process that is measured: says what each took.
pub(crate) fn play(mut args: impl Iterator<Item = String>) -> Result<()> {
    let (ours, bare) = (args.next().context("which endpoint?")?, args.next().context("which other?")?);
    let times: usize = args.next().context("how often?")?.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut took = Took::default();
    runtime.block_on(async {
        dispatch(&ours, &bare, times, &mut took).await?;
        signal(&ours, &bare, times, &mut took).await
    })?;
    std::io::stdout().write_all(&serde_json::to_vec(&took)?)?;
    std::process::exit(0);
}

async fn signal(ours: &str, bare: &str, times: usize, took: &mut Took) -> Result<()> {
    let backend = SqsBackend::connect(endpoint::options(ours)).await?;
    let dawdle = Dawdle::builder().backend(backend).discover(false).listener(false).start().await?;
    let bare = Bare::new(bare)?;
    for _ in 0..times {
        let start = Instant::now();
        dawdle.signal(Order::new()).await?;
        took.signal.push(micros(start.elapsed()));
        let start = Instant::now();
        bare.send().await?;
        took.bare_send.push(micros(start.elapsed()));
    }
    Ok(())
}

type Moments = UnboundedSender<Instant>;
type Lags = UnboundedSender<Duration>;

#[dawdle::handler]
async fn note(_: &Order, cx: &dawdle::Context, moments: State<Moments>, lags: State<Lags>) -> Outcome {
    moments.send(Instant::now())?;
    lags.send(cx.lag())?;
    Ok(())
}

async fn dispatch(ours: &str, bare: &str, times: usize, took: &mut Took) -> Result<()> {
    let (moments, mut begun) = mpsc::unbounded_channel();
    let backend = SqsBackend::connect(endpoint::options(ours)).await?;
    let builder = Dawdle::builder().backend(backend).discover(false).handlers(handlers![note]);
    let (lags, mut late) = mpsc::unbounded_channel();
    let dawdle = builder.state::<Moments>(moments).state::<Lags>(lags).start().await?;
    let (moments, mut received) = mpsc::unbounded_channel();
    let receiving = tokio::spawn(receive(lean_client(bare), queue_url(bare), moments));
    let (to_ours, to_bare) = (Bare::new(ours)?, Bare::new(bare)?);
    for _ in 0..times {
        took.dispatch.push(to_ours.until(&mut begun).await?);
        took.bare_receive.push(to_bare.until(&mut received).await?);
    }
    receiving.abort();
    // What came before was due at once.
    while late.try_recv().is_ok() {}
    let delays = (1..=times as u32).map(|n| LONGEST_DELAY * n / times as u32);
    let signals: JoinSet<_> = delays.map(|delay| dawdle.signal(Order::new()).delay(delay).into_future()).collect();
    signals.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    for _ in 0..times {
        took.late.push(micros(late.recv().await.context("no handler any more")?));
    }
    dawdle.shutdown().await;
    Ok(())
}

/// A way to send by the SDK's bare call.
struct Bare {
    client: Client,
    queue: String,
    body: String,
}

impl Bare {
    fn new(url: &str) -> Result<Bare> {
        Ok(Bare { client: lean_client(url), queue: queue_url(url), body: body()? })
    }

    async fn send(&self) -> Result<()> {
        self.client.send_message().queue_url(&self.queue).message_body(&self.body).send().await?;
        Ok(())
    }

    /// Sends a message, and says how long that was before the moment that came of it.
    async fn until(&self, moments: &mut UnboundedReceiver<Instant>) -> Result<f64> {
        tokio::time::sleep(REST).await;
        let start = Instant::now();
        self.send().await?;
        let moment = moments.recv().await.context("nobody receives any more")?;
        Ok(micros(moment.saturating_duration_since(start)))
    }
}

/// Receives by bare calls.
async fn receive(client: Client, queue: String, moments: Moments) -> Result<()> {
    loop {
        let receive = client.receive_message().queue_url(&queue).max_number_of_messages(10).wait_time_seconds(20);
        for message in receive.send().await?.messages.unwrap_or_default() {
            moments.send(Instant::now())?;
            let receipt = message.receipt_handle.context("no receipt")?;
            client.delete_message().queue_url(&queue).receipt_handle(receipt).send().await?;
        }
    }
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}
