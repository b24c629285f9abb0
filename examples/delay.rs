//! Later: after a while, at a time, and not at all once it is too late.
//!
//! ```sh
//! cargo run --example delay
//! ```

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use dawdle::testing::Harness;
use dawdle::{Config, Context, Dawdle, Event, EventId, Filter, Outcome, State, reason};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "delay.reminder")]
struct Reminder {
    text: String,
}

impl Reminder {
    fn new(text: &str) -> Self {
        Reminder { text: text.to_owned() }
    }
}

/// What the handler tells `main`: which event it was, and how late it began.
type Done = mpsc::UnboundedSender<(EventId, Duration)>;

#[dawdle::handler]
async fn remind(event: &Reminder, cx: &Context, done: State<Done>) -> Outcome {
    println!("    {:<22} due {:?} ago", event.text, cx.lag());
    done.send((cx.id(), cx.lag()))?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    seconds().await?;
    two_weeks().await
}

/// On the local file, in real time.
async fn seconds() -> anyhow::Result<()> {
    let (done, mut reminded) = mpsc::unbounded_channel();
    let config = Config { local_path: Some(".dawdle/delay.db".into()), ..Config::default() };
    // The listener is started below, once the offer is out of date.
    let dawdle = Dawdle::builder().config(config).state::<Done>(done).listener(false).start().await?;

    let offer = dawdle.signal(Reminder::new("today's offer")).expires_in(Duration::from_millis(500)).await?;
    let mut due = vec![
        dawdle.signal(Reminder::new("at once")).await?,
        dawdle.signal(Reminder::new("after three seconds")).delay(Duration::from_secs(3)).await?,
        dawdle.signal(Reminder::new("at a time")).at(SystemTime::now() + Duration::from_secs(2)).await?,
    ];
    println!("Signalled four events; nobody listens for the first second.");
    tokio::time::sleep(Duration::from_secs(1)).await;
    dawdle.start_listener().await?;

    while !due.is_empty() {
        let (id, _) = timeout(Duration::from_secs(10), reminded.recv())
            .await
            .context("not every reminder came within ten seconds")?
            .context("the listener has ended")?;
        ensure!(id != offer, "the offer ran although it had expired");
        due.retain(|it| *it != id);
    }

    let mut expired = dawdle.dead_letters().scan(Filter::default().reason(reason::EXPIRED));
    let mut found = false;
    while let Some(letter) = expired.next().await {
        let letter = letter?;
        found |= letter.id == offer;
        dawdle.dead_letters().purge(&letter).await?;
    }
    ensure!(found, "the expired offer is not among the dead letters");
    println!("The offer had expired before anybody listened: it went to the dead letters instead.");
    dawdle.shutdown().await;
    Ok(())
}

/// In a test, on a clock of its own.
async fn two_weeks() -> anyhow::Result<()> {
    const TWO_WEEKS: Duration = Duration::from_secs(14 * 86_400);
    let (done, _reminded) = mpsc::unbounded_channel();
    let test = Harness::builder().state::<Done>(done).start().await?;
    test.signal(Reminder::new("after two weeks")).delay(TWO_WEEKS).await?;

    test.advance(TWO_WEEKS - Duration::from_secs(1)).await;
    ensure!(test.runs("remind") == 0, "the reminder came early");
    println!("On a test's clock, a second before two weeks are over, nothing has run.");
    test.advance(Duration::from_secs(1)).await;
    ensure!(test.runs("remind") == 1, "the reminder did not come");
    println!("A second later it has.");
    Ok(())
}
