//! What a node asks of SQS that has nothing to do.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::child::Client;
use crate::contender::own;
use crate::endpoint::Endpoint;
use crate::event::body;
use crate::options::Options;
use crate::results::Part;
use crate::table::{Table, number};
use crate::task::{Phase, Task};

/// For how long the start is left to itself.
const STARTING: Duration = Duration::from_secs(2);

pub(crate) fn measure(options: &Options) -> Result<Part> {
    eprintln!("an idle node, for {} s", options.seconds);
    let mut endpoint = Endpoint::start(0)?;
    let task = Task { phase: Phase::Consume, place: endpoint.url.clone(), events: 0, at_once: 10, body: body()? };
    let mut node = Client::start(own("dawdle")?, &task)?;
    node.begin()?;
    std::thread::sleep(STARTING);
    let before = endpoint.seen()?;
    std::thread::sleep(Duration::from_secs(options.seconds));
    node.check()?;
    let requests = endpoint.seen()?.requests_since(&before);
    let mut table = Table::new(&["request", "a minute"]);
    for (action, count) in &requests {
        table.row(&[action.clone(), number(*count as f64 * 60.0 / options.seconds as f64)]);
    }
    let text = format!(
        "Requests of a listening node without messages, over {} s of real time. A receive waits for 20 s, and the delay queue \
         is looked at every four minutes: a bare loop would ask three times a minute.\n\n{}",
        options.seconds,
        table.text()
    );
    Ok(Part { name: "idle", title: "Idle", text, data: json!({ "seconds": options.seconds, "requests": requests }) })
}
