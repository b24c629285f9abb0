//! A backend of one's own: three lists behind a mutex, passing the suite that every backend
//! passes, and an application that runs on it.
//!
//! ```sh
//! cargo run --example own_backend
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use dawdle::backend::{
    Backend, BoxFuture, Delivery, Lane, LaneStats, Limits, Outgoing, Receipt, Role, Settle, Settlement,
};
use dawdle::testing::conformance::{self, Subject};
use dawdle::{Clock, Context, Dawdle, Error, ErrorKind, Event, Outcome, Result, State, VirtualClock};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

/// Messages in three lists. Clones are handles of the same ones.
///
/// A real one keeps what `send` has answered through the death of the process; this one does not.
#[derive(Clone)]
struct Lists(Arc<Shared>);

struct Shared {
    clock: Clock,
    lanes: Mutex<Lanes>,
    changed: Notify,
}

#[derive(Default)]
struct Lanes {
    messages: [Vec<Message>; 3],
    next_id: u64,
}

struct Message {
    id: u64,
    content: Outgoing,
    enqueued_at: SystemTime,
    receives: u32,
    hidden_until: SystemTime,
}

impl Message {
    /// Names this receive of this message: the next receive's is another.
    fn receipt(&self) -> Receipt {
        Receipt(format!("{}/{}", self.id, self.receives))
    }
}

impl Lists {
    fn new(clock: Clock) -> Self {
        Lists(Arc::new(Shared { clock, lanes: Mutex::default(), changed: Notify::new() }))
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, lane: Lane, message: &Outgoing) -> Result<()> {
        let (bytes, most) = (message.bytes(), self.limits().max_message_bytes);
        if bytes > most {
            let text = format!("a message takes at most {most} bytes, and this one has {bytes}");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        let now = self.0.clock.now();
        let mut lanes = self.lanes();
        lanes.next_id += 1;
        let id = lanes.next_id;
        lanes.messages[lane as usize].push(Message {
            id,
            content: message.clone(),
            enqueued_at: now,
            receives: 0,
            hidden_until: now + message.delay,
        });
        Ok(())
    }

    /// Leases up to `max` messages that can be received now.
    fn take(&self, lane: Lane, max: usize, lease: Duration) -> Vec<Delivery> {
        let now = self.0.clock.now();
        let mut lanes = self.lanes();
        let visible = lanes.messages[lane as usize].iter_mut().filter(|message| message.hidden_until <= now);
        let deliveries = visible.take(max).map(|message| {
            message.receives += 1;
            message.hidden_until = now + lease;
            Delivery {
                message_id: message.id.to_string(),
                receipt: message.receipt(),
                body: message.content.body.clone(),
                attributes: message.content.attributes.clone(),
                receive_count: message.receives,
                enqueued_at: message.enqueued_at,
                lease,
            }
        });
        deliveries.collect()
    }

    fn next_visible(&self, lane: Lane) -> Option<SystemTime> {
        self.lanes().messages[lane as usize].iter().map(|message| message.hidden_until).min()
    }

    /// Removes what a receipt names. One that is stale names nothing, and does nothing.
    fn ack(&self, lane: Lane, receipt: &Receipt) {
        self.lanes().messages[lane as usize].retain(|message| message.receipt() != *receipt);
    }

    /// Hides a leased message for `span` from now.
    fn hide(&self, lane: Lane, receipt: &Receipt, span: Duration) -> Result<()> {
        let now = self.0.clock.now();
        let mut lanes = self.lanes();
        let mut messages = lanes.messages[lane as usize].iter_mut();
        let leased = messages.find(|message| message.receipt() == *receipt && message.hidden_until > now);
        let message = leased.ok_or_else(|| Error::new(ErrorKind::LeaseLost, "the lease has ended"))?;
        message.hidden_until = now + span;
        Ok(())
    }
}

impl Backend for Lists {
    fn name(&self) -> &str {
        "lists"
    }

    fn describe(&self) -> String {
        "three lists in the memory of this process".to_owned()
    }

    fn limits(&self) -> Limits {
        Limits::unlimited()
    }

    fn check(&self, _: Role) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn send<'a>(&'a self, lane: Lane, messages: &'a [Outgoing]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move {
            let answers = messages.iter().map(|message| self.put(lane, message)).collect();
            self.0.changed.notify_waiters();
            answers
        })
    }

    fn receive(&self, lane: Lane, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(async move {
            loop {
                // Listening begins before looking, so that no change falls in between.
                let mut changed = std::pin::pin!(self.0.changed.notified());
                changed.as_mut().enable();
                let deliveries = self.take(lane, max, self.limits().lease);
                if !deliveries.is_empty() {
                    return Ok(deliveries);
                }
                match self.next_visible(lane) {
                    Some(time) => tokio::select! {
                        () = changed => {}
                        () = self.0.clock.sleep_until(time) => {}
                    },
                    None => changed.await,
                }
            }
        })
    }

    fn settle<'a>(&'a self, lane: Lane, entries: &'a [Settle]) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move {
            let settle = |entry: &Settle| match entry.how {
                Settlement::Ack => {
                    self.ack(lane, &entry.receipt);
                    Ok(())
                }
                Settlement::ReleaseAfter(delay) => self.hide(lane, &entry.receipt, delay),
            };
            let answers = entries.iter().map(settle).collect();
            self.0.changed.notify_waiters();
            answers
        })
    }

    fn extend<'a>(&'a self, lane: Lane, receipts: &'a [Receipt], lease: Duration) -> BoxFuture<'a, Vec<Result<()>>> {
        Box::pin(async move { receipts.iter().map(|receipt| self.hide(lane, receipt, lease)).collect() })
    }

    fn inspect(&self, lane: Lane) -> BoxFuture<'_, Result<LaneStats>> {
        Box::pin(async move {
            let now = self.0.clock.now();
            let mut stats = LaneStats::default();
            for message in &self.lanes().messages[lane as usize] {
                match message.hidden_until > now {
                    true if message.receives > 0 => stats.in_flight += 1,
                    true => stats.delayed += 1,
                    false => {
                        stats.visible += 1;
                        let waited = now.duration_since(message.hidden_until).unwrap_or_default();
                        stats.oldest = stats.oldest.max(Some(waited));
                    }
                }
            }
            Ok(stats)
        })
    }

    fn browse(&self, lane: Lane, max: usize, hold: Duration) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(async move { Ok(self.take(lane, max, hold)) })
    }
}

/// Tells the suite how to open the lists, and how to let time pass: on a clock that it moves.
struct ListsUnderTest(VirtualClock);

impl Subject for ListsUnderTest {
    fn open(&self, handles: usize) -> BoxFuture<'_, Vec<Arc<dyn Backend>>> {
        Box::pin(async move {
            let lists = Lists::new(Clock::from_virtual(self.0.clone()));
            (0..handles).map(|_| Arc::new(lists.clone()) as Arc<dyn Backend>).collect()
        })
    }

    fn pass(&self, span: Duration) -> BoxFuture<'_, ()> {
        Box::pin(self.0.advance(span))
    }
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "own.backend.greeting")]
struct Greeting {
    name: String,
}

#[dawdle::handler(attempts = 3, backoff = "100ms")]
async fn greet(event: &Greeting, cx: &Context, done: State<mpsc::UnboundedSender<String>>) -> Outcome {
    if cx.attempt() == 1 {
        Err("not in the mood")?
    }
    done.send(format!("hello, {}, at attempt {}", event.name, cx.attempt()))?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    conformance::run_all(&ListsUnderTest(VirtualClock::new(SystemTime::now()))).await;
    println!("The lists do what Dawdle asks of a backend. An application on them:");

    let (done, mut greeted) = mpsc::unbounded_channel::<String>();
    let lists = Lists::new(Clock::system());
    let dawdle = Dawdle::builder().backend(lists.clone()).state(done).start().await?;
    dawdle.signal(Greeting { name: "now".into() }).await?;
    dawdle.signal(Greeting { name: "in a second".into() }).delay(Duration::from_secs(1)).await?;
    for _ in 0..2 {
        let text = timeout(Duration::from_secs(10), greeted.recv()).await.context("nobody was greeted")?;
        println!("    {}", text.context("the listener has ended")?);
    }
    dawdle.shutdown().await;
    let left = lists.inspect(Lane::Message).await?.total();
    ensure!(left == 0, "{left} messages are left");
    println!("Both came through, at their second attempts, and nothing is left on the lists.");
    Ok(())
}
