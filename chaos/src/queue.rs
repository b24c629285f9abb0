//! Where the messages of a run are, and this process's own way to them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use dawdle::backend::sqs::create_queues;
use dawdle::backend::{Backend, Lane, LaneStats};
use sqs_model::{Aimed, Counts, Endpoint, Faults};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::plan::{Plan, Weather};
use crate::process::{Place, QUEUE};

/// Which queue a run is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The fault-injecting endpoint.
    Model,
    /// One SQLite file.
    Local,
}

/// The queues of a run.
pub(crate) struct Queue {
    pub(crate) place: Place,
    pub(crate) backend: Arc<dyn Backend>,
    endpoint: Option<Endpoint>,
}

impl Queue {
    pub(crate) async fn start(kind: Kind, plan: &Plan, folder: &Path) -> Result<Queue> {
        let (place, endpoint) = match kind {
            Kind::Local => (Place::Local(folder.join("queue.db")), None),
            Kind::Model => {
                let options =
                    sqs_model::Options { seed: plan.seed, clock_ahead_ms: plan.clock_ahead_ms, ..Default::default() };
                let endpoint = Endpoint::start(options).context("starting the endpoint")?;
                let url = endpoint.url();
                create(&url, plan.visibility_secs).await?;
                (Place::Sqs { url }, Some(endpoint))
            }
        };
        let backend = place.open(plan).await?;
        Ok(Queue { place, backend, endpoint })
    }

    /// What is on a lane. Of the endpoint this asks directly: it may be answering nothing.
    pub(crate) async fn stats(&self, lane: Lane) -> Result<LaneStats> {
        let Some(endpoint) = &self.endpoint else {
            return self.backend.inspect(lane).await.with_context(|| format!("counting the {lane}"));
        };
        let suffix = match lane {
            Lane::Message => "",
            Lane::Delay => "-delay",
            Lane::Dead => "-dead",
        };
        let queue = endpoint.queue(&format!("{QUEUE}{suffix}")).context("a queue is gone")?;
        let mut stats = LaneStats::default();
        (stats.visible, stats.in_flight, stats.delayed) = (queue.visible, queue.in_flight, queue.delayed);
        Ok(stats)
    }

    /// Changes the weather over the endpoint.
    pub(crate) fn weather(&self, before: Weather, weather: Weather) {
        let Some(endpoint) = &self.endpoint else { return };
        match (before, weather) {
            (Weather::Down, Weather::Down) => {}
            (Weather::Down, _) => endpoint.come_back(),
            (_, Weather::Down) => endpoint.go_down(),
            _ => {}
        }
        endpoint.set_faults(faults(weather));
    }

    /// The messages that the endpoint has delivered twice on purpose, by its own word.
    pub(crate) fn delivered_twice(&self) -> Vec<String> {
        self.endpoint.as_ref().map(Endpoint::delivered_twice).unwrap_or_default()
    }

    /// What was asked of the endpoint.
    pub(crate) fn counts(&self) -> Option<Counts> {
        self.endpoint.as_ref().map(Endpoint::counts)
    }
}

/// What strikes in a weather.
fn faults(weather: Weather) -> Faults {
    let slow_by = std::time::Duration::from_millis(400);
    let none = Faults { slow_by, ..Faults::default() };
    match weather {
        Weather::Calm | Weather::Down => none,
        Weather::Mixed => Faults {
            refuse: 0.005,
            reset_before: 0.01,
            reset_after: 0.01,
            slow: 0.02,
            hang: 0.002,
            error_500: 0.01,
            throttle: 0.01,
            entry_failure: 0.01,
            duplicate: 0.002,
            undelete: 0.002,
            ..none
        },
        Weather::Burst(seed) => {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut rate = |most: f64| if rng.bool() { rng.f64() * most } else { 0.0 };
            Faults {
                refuse: rate(0.3),
                reset_before: rate(0.3),
                reset_after: rate(0.3),
                slow: rate(0.5),
                error_500: rate(0.3),
                entry_failure: rate(0.3),
                ..none
            }
        }
        Weather::ExpiredCredentials => Faults { expired_credentials: true, ..none },
        Weather::Throttled => Faults { throttle: 0.5, ..none },
        Weather::Duplicates => Faults { duplicate: 0.2, ..none },
        Weather::Undeletes => Faults { undelete: 0.1, ..none },
        Weather::Reordered => Faults { reorder: true, ..none },
        Weather::Hangs => Faults { hang: 0.05, slow: 0.1, ..none },
        Weather::DelayQueue => {
            let faults = Faults { error_500: 0.2, reset_after: 0.2, html_502: 0.1, ..none.clone() };
            let aimed = Aimed { queue: Some(format!("{QUEUE}-delay")), action: None, faults };
            Faults { aimed: vec![aimed], ..none }
        }
    }
}

/// Makes the three queues, with a visibility timeout short enough that the messages of a killed node
/// are soon somebody else's.
pub(crate) async fn create(url: &str, visibility_secs: u64) -> Result<()> {
    create_queues(Place::sqs_options(url)).await?;
    for name in [QUEUE.to_owned(), format!("{QUEUE}-delay")] {
        let body = serde_json::json!({
            "QueueUrl": format!("{url}/000000000000/{name}"),
            "Attributes": { "VisibilityTimeout": visibility_secs.to_string() },
        });
        let answer = call(url, "SetQueueAttributes", &body.to_string()).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "setting the visibility timeout of {name}: {answer}");
    }
    Ok(())
}

/// One call of the SQS JSON protocol, which the endpoint takes unsigned; the answer as it came.
async fn call(url: &str, action: &str, body: &str) -> Result<String> {
    let host = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).await?;
    let request = format!(
        "POST / HTTP/1.1\r\nhost: {host}\r\nx-amz-target: AmazonSQS.{action}\r\n\
         content-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
