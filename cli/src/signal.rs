//! `dawdle signal`: an event of any kind, whether or not anything here knows it.

use std::io::Read as _;
use std::time::{Duration, SystemTime};

use dawdle::Envelope;
use dawdle_workbench::when;
use serde_json::json;

use crate::audit::Audit;
use crate::out::Out;
use crate::problem::{Problem, Result};
use crate::queue::{Queues, close};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The event's name on the wire
    kind: String,
    /// Its data, or `-` for standard input
    #[arg(value_name = "JSON")]
    data: String,
    /// Due after this span, such as `2h`
    #[arg(long, value_name = "SPAN", value_parser = when::span)]
    delay: Option<Duration>,
    /// Due at this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = when::instant, conflicts_with = "delay")]
    at: Option<SystemTime>,
    /// Only for the handler of this name
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// The tenant, for SQS fair queues
    #[arg(long)]
    group: Option<String>,
    /// The event's id, instead of a new one
    #[arg(long)]
    id: Option<String>,
}

pub(crate) async fn run(args: Args, settings: &Settings, out: Out) -> Result {
    let mut envelope = envelope(&args)?;
    let queues = Queues::open(settings).await?;
    let audit = Audit::open(&queues.config)?;
    let due = match (args.delay, args.at) {
        (Some(delay), _) => Some(
            queues
                .now()
                .await
                .checked_add(delay)
                .filter(|due| *due <= SystemTime::UNIX_EPOCH + LAST)
                .ok_or_else(too_late)?,
        ),
        (None, at) => at,
    };
    if let Some(due) = due {
        envelope = envelope.with_due_at(due);
    }
    let dawdle = queues.dawdle().await?;
    let which = json!({
        "ids": [envelope.id().as_str()],
        "kind": args.kind,
        "handler": args.handler,
        "due": due.map(when::exact),
    });
    let change = audit.begin("signal", which)?;
    let sent = dawdle.send(envelope).await.map_err(|error| match error.maybe_sent() {
        true => Problem::failed(format!("{error}; it may be on the queue all the same")),
        false => error.into(),
    });
    close(&dawdle).await;
    let id = change.close(sent, |_| 1)?;
    match out.is_json() {
        true => out.value(&json!({ "id": id.as_str(), "kind": args.kind, "due": due.map(when::exact) })),
        false => out.line(id),
    }
}

/// The event that is asked for. What is wrong with it is wrong with the command.
fn envelope(args: &Args) -> Result<Envelope> {
    let usage = |error: dawdle::Error| Problem::usage(error.to_string());
    let json = match args.data.as_str() {
        "-" => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|error| Problem::failed(format!("the data on standard input cannot be read: {error}")))?;
            text
        }
        json => json.to_owned(),
    };
    let mut envelope = Envelope::of_kind(&args.kind, json.trim()).map_err(usage)?;
    if let Some(handler) = &args.handler {
        envelope = envelope.with_handler(handler).map_err(usage)?;
    }
    if let Some(group) = &args.group {
        envelope = envelope.with_group(group).map_err(usage)?;
    }
    if let Some(id) = &args.id {
        envelope = envelope.with_id(id.parse().map_err(usage)?);
    }
    Ok(envelope)
}

/// The end of the year 9999, counted from 1970.
const LAST: Duration = Duration::from_secs(253_402_300_799);

fn too_late() -> Problem {
    Problem::usage("the due time is past the year 9999, the last that can be written; is the unit of --delay right?")
}
