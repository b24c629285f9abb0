//! What a delayed event costs in requests, in virtual time, against its delay: parked on the delay
//! queue, or by messages of 15 minutes, the most that SQS delays a message.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use dawdle::backend::memory::MemoryBackend;
use dawdle::backend::{Backend, Lane, Limits};
use dawdle::{Clock, Config, Dawdle, VirtualClock};
use serde_json::json;

use crate::event::Order;
use crate::options::Options;
use crate::plot::{Line, Panel, draw};
use crate::results::Part;
use crate::table::{Table, number};
use crate::ways::dawdle::handle;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

const DELAYS: [(&str, u64); 11] = [
    ("1 s", 1),
    ("1 min", MINUTE),
    ("15 min", 15 * MINUTE),
    ("20 min", 20 * MINUTE),
    ("1 h", HOUR),
    ("3 h", 3 * HOUR),
    ("12 h", 12 * HOUR),
    ("1 d", DAY),
    ("3 d", 3 * DAY),
    ("10 d", 10 * DAY),
    ("30 d", 30 * DAY),
];

pub(crate) fn measure(options: &Options) -> Result<Part> {
    let delays = if options.quick { &DELAYS[..6] } else { &DELAYS[..] };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut chain = Limits::sqs();
    chain.delay_lane = false;
    let mut table = Table::new(&["delay", "`dawdle`", "chain"]);
    let (mut parked, mut chained) = (Vec::new(), Vec::new());
    for (name, seconds) in delays {
        eprintln!("a delay of {name}");
        let delay = Duration::from_secs(*seconds);
        let here = runtime.block_on(requests(delay, Limits::sqs()))?;
        let there = runtime.block_on(requests(delay, chain.clone()))?;
        table.row(&[(*name).to_owned(), number(here as f64), number(there as f64)]);
        parked.push(here as f64);
        chained.push(there as f64);
    }
    let data = json!({
        "delay_s": delays.iter().map(|(_, seconds)| seconds).collect::<Vec<_>>(),
        "dawdle": parked,
        "chain": chained,
    });
    let panel = Panel {
        title: "requests of one delayed event".to_owned(),
        x: "delay",
        places: delays.iter().map(|(name, _)| (*name).to_owned()).collect(),
        y: "requests",
        lines: vec![
            Line { name: "dawdle".to_owned(), values: parked },
            Line { name: "chain of 15-minute messages".to_owned(), values: chained },
        ],
    };
    draw(&options.out.join("delay.svg"), &[panel])?;
    let text = format!(
        "Requests of one event from `signal` to its handler's end, in virtual time, one message to a request. Where many \
         events share batches of ten it is up to a tenth of that. Polls that find nothing are not counted: see \"Idle\". \
         The chain is Dawdle without a delay queue.\n\n{}\n![requests](delay.svg)\n",
        table.text()
    );
    Ok(Part { name: "delay", title: "Delays", text, data })
}

/// How many requests one event takes with this delay, on queues with these limits.
async fn requests(delay: Duration, limits: Limits) -> Result<u64> {
    let time = VirtualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let clock = Clock::from_virtual(time.clone());
    let queue = MemoryBackend::with_limits(clock.clone(), limits.clone());
    let config = Config { ack_linger: Some(Duration::ZERO), ..Config::default() };
    let builder = Dawdle::builder().config(config).backend(queue.clone()).clock(clock).discover(false);
    let dawdle = builder.handlers(dawdle::handlers![handle]).start().await?;
    queue.reset_requests();
    dawdle.signal(Order::new()).delay(delay).await?;
    time.advance(delay + limits.lease * 3).await;
    let requests = queue.requests();
    let left = queue.inspect(Lane::Message).await?.total();
    ensure!(left == 0, "after {delay:?} the event is still on the queue");
    Ok(requests.requests() - requests.empty_receives)
}
