//! Once where it matters: what is signalled twice, or delivered twice, charges an account once.
//!
//! ```sh
//! cargo run --example once
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use dawdle::middleware::dedupe::{MemoryStore, SqliteStore};
use dawdle::testing::{Harness, prove_idempotent};
use dawdle::{Config, Context, Dawdle, Dedupe, Event, Outcome, State, handlers};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// What makes two of these the same to the business is the order; what Dawdle goes by without a
/// key is the event's id, which each signal makes anew.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "once.order.placed", key = "{order}")]
struct OrderPlaced {
    order: String,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "once.done")]
struct Done;

/// A bank that books whatever it is told, as often as it is told.
#[derive(Clone, Default)]
struct Bank(Arc<Mutex<Vec<String>>>);

impl Bank {
    async fn charge(&self, for_what: &str) {
        tokio::task::yield_now().await;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(for_what.to_owned());
    }

    /// What it has booked, in no particular order.
    fn charges(&self) -> Vec<String> {
        let mut charges = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        charges.sort();
        charges
    }
}

/// `cx.key()` is what Dawdle goes by: here the order. A bank that takes an idempotency key of its
/// own would be given it, too.
#[dawdle::handler]
async fn charge(_: &OrderPlaced, cx: &Context, bank: State<Bank>) -> Outcome {
    bank.charge(cx.key()).await;
    Ok(())
}

#[dawdle::handler]
async fn tell(_: &Done, done: State<mpsc::UnboundedSender<()>>) -> Outcome {
    done.send(())?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let bank = Bank::default();
    let (done, mut told) = mpsc::unbounded_channel::<()>();
    let config = Config { local_path: Some(".dawdle/once.db".into()), ..Config::default() };
    // Every process on this machine that opens the file goes by it, also after a restart.
    let store = SqliteStore::open(".dawdle/once-dedupe.db").await?;
    let dawdle = Dawdle::builder()
        .config(config)
        .middleware(Dedupe::new(store).remember_for(Duration::from_secs(86_400)))
        .state(bank.clone())
        .state(done)
        .start()
        .await?;

    let order = format!("order {}", dawdle::EventId::new());
    println!("The same order is signalled three times, by a client that was not sure:");
    for _ in 0..3 {
        dawdle.signal(OrderPlaced { order: order.clone() }).await?;
    }
    dawdle.signal(Done).delay(Duration::from_secs(1)).await?;
    timeout(Duration::from_secs(10), told.recv()).await.context("the last event was not handled")?;
    dawdle.shutdown().await;
    ensure!(bank.charges() == [order], "charged for {:?}", bank.charges());
    println!("The bank was charged once, for {:?}.", bank.charges());

    println!("Without the store, schedules of crashes and duplicates soon find what is wrong with the handler:");
    let trial = || {
        prove_idempotent(handlers![charge], 0..20)
            .signal(|test| test.signal(OrderPlaced { order: "order 1".into() }))
            .signal(|test| test.signal(OrderPlaced { order: "order 2".into() }))
    };
    let charges = async |test: &Harness| test.state::<Bank>().charges();
    let proof = trial().given(|| Harness::builder().state(Bank::default()));
    let caught = proof.effects(charges).await.err().context("a handler that charges twice was not caught")?;
    println!("{caught}");

    println!("With it, they find nothing:");
    let guarded = || Harness::builder().state(Bank::default()).middleware(Dedupe::new(MemoryStore::new()));
    trial().given(guarded).effects(charges).await?;
    println!("    each order is charged once, in 20 schedules. For the charge is the last that the handler does:");
    println!("    a node that dies between its effect and its end leaves an effect that nobody remembers.");
    Ok(())
}
