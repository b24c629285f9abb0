//! `dawdle peek`: the first messages of a queue.

use std::collections::HashSet;
use std::time::Duration;

use clap::ValueEnum;
use dawdle::Envelope;
use dawdle::backend::{Delivery, Lane, Settle, Settlement};
use dawdle_workbench::when;
use futures_util::FutureExt as _;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::out::Out;
use crate::problem::{Problem, Result, complain};
use crate::queue::Queues;
use crate::settings::Settings;
use crate::stop;

/// For how long what is looked at is hidden, should this process die before it gives it back.
const HOLD: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which queue
    #[arg(long, value_enum, default_value_t = Which::Message)]
    queue: Which,
    /// At most so many messages
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    limit: u16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    Message,
    Delay,
    Dead,
}

/// An event on a queue, or a message that is none.
#[derive(Serialize)]
struct Seen<'a> {
    queue: &'static str,
    message_id: &'a str,
    enqueued_at: String,
    receives: u32,
    bytes: usize,
    id: Option<&'a str>,
    kind: Option<&'a str>,
    handler: Option<&'a str>,
    attempt: Option<u32>,
    due_at: Option<String>,
    data: Option<&'a RawValue>,
    /// Why it is no event.
    unreadable: Option<&'a str>,
}

pub(crate) async fn run(args: Args, settings: &Settings, out: Out) -> Result {
    let queues = Queues::open(settings).await?;
    queues.backend.check(dawdle::backend::Role::Sender).await?;
    let lane = match args.queue {
        Which::Message => Lane::Message,
        Which::Delay => Lane::Delay,
        Which::Dead => Lane::Dead,
    };
    if !queues.lanes().contains(&lane) {
        return Err(Problem::nothing(format!(
            "the {} backend has no {lane} here: what is due later waits on the message queue",
            queues.backend.name()
        )));
    }
    let looked = look(&queues, lane, usize::from(args.limit)).await?;
    let shown = show(lane, &looked, out);
    let giving = give_back(&queues, lane, &looked);
    let released = stop::giving_back(looked.len(), "messages", "30 seconds", giving).await;
    shown?;
    if looked.is_empty() {
        return Err(Problem::nothing(format!("nothing can be received from the {lane} now")));
    }
    let hidden = match queues.backend.name() {
        "sqs" => format!("looking hid these from the listeners for a moment, {HOLD:?} at most, and"),
        _ => "looking".to_owned(),
    };
    let rest = match released {
        Ok(()) => "they were given back at once".to_owned(),
        Err(error) => format!("not all were given back, and those stay hidden for up to {HOLD:?}: {error}"),
    };
    complain("note", format!("{hidden} counts as one receive of each; {rest}"));
    Ok(())
}

/// Takes what there is, up to so many, each once.
async fn look(queues: &Queues, lane: Lane, limit: usize) -> Result<Vec<Delivery>> {
    let mut stop = std::pin::pin!(stop::asked());
    let (mut looked, mut known) = (Vec::new(), HashSet::new());
    while looked.len() < limit {
        let max = (limit - looked.len()).min(queues.backend.limits().max_batch_entries);
        // Not broken off in the middle: that would hide what it finds.
        let found = match queues.backend.browse(lane, max, HOLD).await {
            Ok(found) => found,
            Err(error) => {
                let _ = give_back(queues, lane, &looked).await;
                return Err(error.into());
            }
        };
        let before = looked.len();
        looked.extend(found.into_iter().filter(|delivery| known.insert(delivery.message_id.clone())));
        if looked.len() == before || stop.as_mut().now_or_never().is_some() {
            break;
        }
    }
    Ok(looked)
}

async fn give_back(queues: &Queues, lane: Lane, looked: &[Delivery]) -> dawdle::Result<()> {
    let mut ended = Ok(());
    for batch in looked.chunks(queues.backend.limits().max_batch_entries.max(1)) {
        let how = Settlement::ReleaseAfter(Duration::ZERO);
        let entries: Vec<Settle> =
            batch.iter().map(|delivery| Settle { receipt: delivery.receipt.clone(), how }).collect();
        for answer in queues.backend.settle(lane, &entries).await {
            ended = ended.and(answer);
        }
    }
    ended
}

fn show(lane: Lane, looked: &[Delivery], out: Out) -> Result {
    let mut rows = Vec::new();
    for delivery in looked {
        let events = Envelope::read_all(&delivery.body, delivery.enqueued_at).map_err(|error| error.to_string());
        let whole = Seen {
            queue: lane.name(),
            message_id: &delivery.message_id,
            enqueued_at: when::exact(delivery.enqueued_at),
            receives: delivery.receive_count,
            bytes: delivery.bytes(),
            id: None,
            kind: None,
            handler: None,
            attempt: None,
            due_at: None,
            data: None,
            unreadable: None,
        };
        match &events {
            Err(why) => rows.push(one(&Seen { unreadable: Some(why), ..whole }, out)?),
            Ok(events) => {
                for event in events {
                    let id = event.id();
                    let seen = Seen {
                        enqueued_at: whole.enqueued_at.clone(),
                        id: Some(id.as_str()),
                        kind: Some(event.kind()),
                        handler: event.handler(),
                        attempt: Some(event.attempt()),
                        due_at: Some(when::exact(event.due_at())),
                        data: event.data().and_then(|data| serde_json::from_str(data).ok()),
                        ..whole
                    };
                    rows.push(one(&seen, out)?);
                }
            }
        }
    }
    if out.is_json() || rows.is_empty() {
        return Ok(());
    }
    out.table(&["ID", "KIND", "HANDLER", ">ATTEMPT", "DUE", "ENQUEUED", ">RECEIVES", ">BYTES"], rows)
}

/// Writes one as JSON, or makes a row of it.
fn one(seen: &Seen<'_>, out: Out) -> Result<Vec<String>> {
    if out.is_json() {
        out.value(seen)?;
        return Ok(Vec::new());
    }
    let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let kind = match seen.unreadable {
        Some(why) => format!("no event: {why}"),
        None => or_dash(seen.kind),
    };
    Ok(vec![
        or_dash(seen.id),
        kind,
        or_dash(seen.handler),
        seen.attempt.map_or_else(|| "-".to_owned(), |attempt| attempt.to_string()),
        or_dash(seen.due_at.as_deref()),
        seen.enqueued_at.clone(),
        seen.receives.to_string(),
        seen.bytes.to_string(),
    ])
}
