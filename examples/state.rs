//! What handlers are given and made of: states, types with fields, middleware around them.
//!
//! ```sh
//! cargo run --example state
//! ```

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use dawdle::{
    Config, Context, Dawdle, Envelope, Event, EventHandler, Handler, Middleware, Next, Outcome, Signal, State,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "state.order.placed")]
struct OrderPlaced {
    order: u64,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "state.parcel.sent")]
struct ParcelSent {
    order: u64,
}

/// A state that is given as it is: `.state(..)`.
#[derive(Default)]
struct Stock {
    reserved: Mutex<Vec<u64>>,
}

/// A state that signals by itself, and so holds the instance: `.state_with(..)`.
struct Warehouse {
    dawdle: Dawdle,
}

impl Warehouse {
    fn send_parcel(&self, order: u64) -> Signal {
        self.dawdle.signal(ParcelSent { order }).delay(Duration::from_millis(500))
    }
}

#[dawdle::handler]
async fn reserve(event: &OrderPlaced, stock: State<Stock>) -> Outcome {
    let mut reserved = stock.reserved.lock().map_err(|_| "the stock is poisoned")?;
    if !reserved.contains(&event.order) {
        reserved.push(event.order);
    }
    println!("    reserve: order {} is reserved", event.order);
    Ok(())
}

#[dawdle::handler]
async fn pack(event: &OrderPlaced, cx: &Context, warehouse: State<Warehouse>) -> Outcome {
    println!("    pack: for {}", cx.attribute("tenant").unwrap_or("nobody"));
    warehouse.send_parcel(event.order).await?;
    Ok(())
}

/// A handler that must be constructed: it is given to the builder by `.handler(..)`.
#[derive(EventHandler)]
#[handler(event = ParcelSent)]
struct Notify {
    from: String,
    done: mpsc::UnboundedSender<u64>,
}

impl Handler<ParcelSent> for Notify {
    async fn handle(&self, event: &ParcelSent, _: &Context) -> Outcome {
        println!("    Notify: mail from {}: order {} is on its way", self.from, event.order);
        self.done.send(event.order)?;
        Ok(())
    }
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "state.point.earned")]
struct PointEarned {
    order: u64,
}

/// A handler with a default: it is found by itself, as functions are.
#[derive(Default, EventHandler)]
#[handler(event = ParcelSent, attempts = 5)]
struct Loyalty;

impl Handler<ParcelSent> for Loyalty {
    async fn handle(&self, event: &ParcelSent, _: &Context) -> Outcome {
        // Through the instance that the handler runs in, also from functions that it calls.
        dawdle::signal(PointEarned { order: event.order }).await?;
        Ok(())
    }
}

#[dawdle::handler]
async fn book_point(event: &PointEarned, cx: &Context, done: State<mpsc::UnboundedSender<u64>>) -> Outcome {
    println!("    book_point: order {}, for {}", event.order, cx.attribute("tenant").unwrap_or("nobody"));
    done.send(event.order)?;
    Ok(())
}

/// Middleware sees every envelope before it is sent, and every run of a handler.
struct Tenant(&'static str);

impl Middleware for Tenant {
    fn before_send(&self, envelope: &mut Envelope) -> dawdle::Result<()> {
        envelope.set_attribute("tenant", self.0)
    }

    async fn handle(&self, cx: &Context, event: &dyn Event, next: Next<'_>) -> Outcome {
        let start = Instant::now();
        let outcome = next.run(cx, event).await;
        println!("    ({} took {:?} for {})", cx.handler(), start.elapsed(), event.kind());
        outcome
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (done, mut finished) = mpsc::unbounded_channel();
    let dawdle = Dawdle::builder()
        .config(Config { local_path: Some(".dawdle/state.db".into()), ..Config::default() })
        .state(Stock::default())
        .state_with(|dawdle| Warehouse { dawdle })
        .state(done.clone())
        .handler(Notify { from: "shop@example.com".into(), done })
        .middleware(Tenant("acme"))
        .start()
        .await?;
    ensure!(dawdle.handler_count() == 5, "five handlers run here, and not {}", dawdle.handler_count());

    let order = u64::from(std::process::id());
    dawdle.signal(OrderPlaced { order }).await?;
    println!("Order {order} is placed:");

    // One answer comes from `Notify`, one from `book_point`.
    let mut answers = 0;
    while answers < 2 {
        let answer = timeout(Duration::from_secs(10), finished.recv()).await.context("not every handler ran")?;
        answers += usize::from(answer.context("the listener has ended")? == order);
    }
    dawdle.shutdown().await;
    println!("One order has run five handlers, two of which signalled more.");
    Ok(())
}
