//! A small, fast SQS endpoint on loopback, for tests and benchmarks: it keeps the rules of SQS,
//! and fails by seed and rate: everywhere, or for one queue or one action ([`Aimed`]).
//!
//! It speaks the SQS JSON protocol over HTTP/1.1, as the SDKs of AWS do, and keeps standard queues
//! in memory, by the model of SQS that Dawdle's memory backend is made of. `RULES.md` beside it says
//! which rules it keeps, by which page of AWS's, and where other engines depart from them.
//!
//! ```
//! use sqs_model::{Endpoint, Faults, Options};
//!
//! # fn main() -> std::io::Result<()> {
//! let endpoint = Endpoint::start(Options { seed: 7, ..Options::default() })?;
//! endpoint.set_faults(Faults { reset_after: 0.01, duplicate: 0.01, ..Faults::default() });
//! println!("an SQS client can be pointed at {}", endpoint.url());
//! # Ok(())
//! # }
//! ```
//!
//! Where it departs from SQS:
//! - There are no FIFO queues, no permissions, no encryption and no tags; credentials are not looked
//!   at, and there is one account, `000000000000`, in one region, `us-east-1`.
//! - What is asked is what happens: counts are exact, queues and attributes change at once, and a
//!   short poll finds every message.
//! - Visibility is exact, where SQS may be late.
//! - A long poll whose client has gone takes no message, where SQS may still hand some out.

mod attributes;
mod content;
mod counts;
mod engine;
mod faults;
mod moves;
mod refusal;
mod server;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use counts::{Action, Counts, QueueStats, Struck};
pub use faults::{Aimed, Faults};

use server::Server;

/// How an [`Endpoint`] is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The port on 127.0.0.1 to listen on; 0, as at first, is any that is free.
    pub port: u16,
    /// Decides everything that chance decides. The same requests in the same order meet the same
    /// faults.
    pub seed: u64,
    /// How long a request takes at least: half of it goes by before it takes effect. Zero at first.
    pub latency: Duration,
    /// By how many milliseconds its clock is ahead of the machine's, or behind where negative: the
    /// header `Date`, and every time that it tells. 0 at first.
    pub clock_ahead_ms: i64,
    /// How many messages of a queue may be in flight: 120,000 at first, as on SQS:
    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>
    pub max_in_flight: u64,
    /// How many threads answer requests: 1 at first.
    pub threads: usize,
    /// For how long the name of a deleted queue cannot be used again: 60 seconds at first, as on SQS:
    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html>
    pub recreate_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            port: 0,
            seed: 0,
            latency: Duration::ZERO,
            clock_ahead_ms: 0,
            max_in_flight: 120_000,
            threads: 1,
            recreate_after: Duration::from_secs(60),
        }
    }
}

/// An SQS on loopback, which stops when it is dropped. What it kept is gone then.
#[derive(Debug)]
pub struct Endpoint(Server);

impl Endpoint {
    /// Starts one, on threads of its own; it answers requests when this returns.
    ///
    /// Blocks for a moment. May be called inside of a tokio runtime and outside.
    ///
    /// # Errors
    /// When the port is taken, or a thread cannot be started.
    pub fn start(options: Options) -> io::Result<Endpoint> {
        Server::start(options).map(Endpoint)
    }

    /// Where it is: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.0.port()
    }

    /// Lets these faults strike from here on, instead of those before.
    pub fn set_faults(&self, faults: Faults) {
        self.0.engine().lock().chance.faults = faults;
    }

    /// The faults that strike now.
    pub fn faults(&self) -> Faults {
        self.0.engine().lock().chance.faults.clone()
    }

    /// What was asked and done since it started, or since the last reset.
    pub fn counts(&self) -> Counts {
        self.0.engine().lock().counts.clone()
    }

    /// Counts from 0 again.
    pub fn reset_counts(&self) {
        self.0.engine().lock().counts = Counts::default();
    }

    /// The ids of the messages that [`Faults::duplicate`] and [`Faults::undelete`] have let somebody
    /// receive once more than they should have been, since it started.
    pub fn delivered_twice(&self) -> Vec<String> {
        self.0.engine().lock().twice.iter().map(|id| id.as_str().to_owned()).collect()
    }

    /// What is on the queue of this name now; `None` where there is no such queue.
    pub fn queue(&self, name: &str) -> Option<QueueStats> {
        self.0.engine().stats(name)
    }

    /// Lets requests that come from here on take this long at least.
    pub fn set_latency(&self, latency: Duration) {
        self.0.set_latency(latency);
    }

    /// Sets its clock to this many milliseconds ahead of the machine's: what is hidden becomes
    /// visible, and what is old enough is dropped, by that clock. So a test need not wait.
    pub fn set_clock_ahead_ms(&self, ahead_ms: i64) {
        self.0.engine().set_clock_ahead_ms(ahead_ms);
    }

    /// By how many milliseconds its clock is ahead of the machine's.
    pub fn clock_ahead_ms(&self) -> i64 {
        self.0.engine().clock_ahead_ms()
    }

    /// Refuses connections, and resets those that are open: requests under way are not answered,
    /// and may or may not have taken effect. Nothing is forgotten. Does nothing where it is down.
    ///
    /// Connections are refused when this returns.
    pub fn go_down(&self) {
        self.0.go_down();
    }

    /// Listens again on the same port. Does nothing where it is up.
    ///
    /// # Panics
    /// When somebody else has taken the port.
    pub fn come_back(&self) {
        self.0.come_back();
    }
}

/// What is shared between the parts of the server.
pub(crate) type SharedEngine = Arc<engine::Engine>;
