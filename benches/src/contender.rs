//! The ways to use SQS that are compared: [`CONTENDERS`].

use std::process::Command;

use anyhow::Result;

use crate::client;
use crate::peers::{self, Peer};

/// A way to use SQS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) program: Program,
    /// What its at-once means, and how much it is.
    pub(crate) at_once: AtOnce,
    /// It is given one event of so many: those that go one by one would take too long.
    pub(crate) share: u64,
    /// Several events share a message.
    pub(crate) packs: bool,
}

/// What plays it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program {
    /// This program: see `ways`.
    Own,
    /// Another one, of `peers/`.
    Peer(Peer),
}

/// How much a contender has under way at once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AtOnce {
    /// So many requests.
    Requests(usize),
    /// As many requests as suit the loop best at a latency.
    Tuned,
    /// As many handlers as the tuned loop has events in hand.
    Handlers,
}

/// What the others are compared with.
pub(crate) const REFERENCE: &str = "loop";

/// All of them. Those of this program are played by [`client`].
pub(crate) const CONTENDERS: &[Contender] = &[
    Contender {
        name: "dawdle",
        about: "typed events by `signal_all`, a handler; default settings but for `concurrency`",
        program: Program::Own,
        at_once: AtOnce::Handlers,
        share: 1,
        packs: false,
    },
    Contender {
        name: "dawdle-packed",
        about: "the same, with `pack` turned on",
        program: Program::Own,
        at_once: AtOnce::Handlers,
        share: 1,
        packs: true,
    },
    Contender {
        name: REFERENCE,
        about: "the SDK by hand: batches of ten, tuned for each latency, everything turned off that can be",
        program: Program::Own,
        at_once: AtOnce::Tuned,
        share: 1,
        packs: false,
    },
    Contender {
        name: "naive",
        about: "the SDK as it comes: one message by one, in 16 tasks",
        program: Program::Own,
        at_once: AtOnce::Requests(16),
        share: 10,
        packs: false,
    },
    Contender {
        name: "omniqueue",
        about: "omniqueue 0.3: `send_raw_batch` of ten, `receive_all`, one ack by one; in 16 tasks",
        program: Program::Peer(peers::OMNIQUEUE),
        at_once: AtOnce::Requests(16),
        share: 10,
        packs: false,
    },
    Contender {
        name: "boto3",
        about: "boto3: `send_message_batch`, `delete_message_batch`; one process with 16 threads",
        program: Program::Peer(peers::BOTO3),
        at_once: AtOnce::Requests(16),
        share: 10,
        packs: false,
    },
];

impl Contender {
    pub(crate) fn named(name: &str) -> Option<Contender> {
        CONTENDERS.iter().copied().find(|contender| contender.name == name)
    }

    /// What plays it; `Err` says why it cannot be played here.
    pub(crate) fn command(&self) -> Result<Command> {
        match self.program {
            Program::Own => own(self.name),
            Program::Peer(peer) => peer.command(),
        }
    }
}

/// This program, in one of its own ways.
pub(crate) fn own(way: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([client::ROLE, way]);
    Ok(command)
}
