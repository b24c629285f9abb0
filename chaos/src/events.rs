//! The kinds of events and their handlers, which behave as the plan says and write down that they
//! did.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use dawdle::{Context, Dawdle, Event, EventId, Failure, Outcome, State};
use serde::{Deserialize, Serialize};

use crate::ledger::{Ledger, Record, What, time_of};
use crate::plan::{Behaviour, GIVEN_UP, Plan};

macro_rules! kinds {
    ($($type:ident: $kind:literal $(, $pack:ident)?;)*) => {
        $(#[derive(Serialize, Deserialize, Event)]
        #[event(kind = $kind $(, $pack)?)]
        pub(crate) struct $type {
            pub(crate) n: u64,
            /// Microseconds since 1970.
            pub(crate) due: u64,
        })*

        /// Number and due time of an event of any kind.
        fn number_of(event: &dyn Event) -> Option<(u64, u64)> {
            let event: &dyn Any = event;
            $(if let Some(event) = event.downcast_ref::<$type>() {
                return Some((event.n, event.due));
            })*
            None
        }

        /// Signals the event of a number: at its due time, or now; through the send buffer, or not.
        pub(crate) async fn signal(dawdle: &Dawdle, kind: u8, it: &Signalled) -> dawdle::Result<EventId> {
            let Signalled { n, due, delayed, buffered } = *it;
            let kinds: &[fn(&Dawdle, u64, u64) -> dawdle::Signal] =
                &[$(|dawdle, n, due| dawdle.signal($type { n, due })),*];
            let signal = match kinds.get(usize::from(kind)) {
                Some(signal) => signal(dawdle, n, due),
                None => unreachable!("the plan knows these kinds only"),
            };
            let signal = if delayed { signal.at(time_of(due)) } else { signal };
            if buffered { signal.buffered().await } else { signal.await }
        }
    };
}

/// How an event is signalled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signalled {
    pub(crate) n: u64,
    /// Microseconds since 1970.
    pub(crate) due: u64,
    pub(crate) delayed: bool,
    pub(crate) buffered: bool,
}

kinds! {
    Plain: "chaos.plain";
    Pair: "chaos.pair";
    Trio: "chaos.trio";
    Narrow: "chaos.narrow";
    Long: "chaos.long";
    Watched: "chaos.watched";
    Packed: "chaos.packed", pack;
}

/// What handlers work with.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) plan: Arc<Plan>,
    pub(crate) ledger: Arc<Ledger>,
}

macro_rules! handlers {
    ($($number:literal $name:ident($type:ident) [$($options:tt)*];)*) => {
        $(#[dawdle::handler($($options)*)]
        async fn $name(event: &$type, cx: &Context, stage: State<Stage>) -> Outcome {
            act(&stage, $number, event.n, event.due, cx).await
        })*
    };
}

handlers! {
    0 plain(Plain) [attempts = 5, timeout = "2s", backoff = "200ms..2s"];
    1 pair_left(Pair) [attempts = 5, timeout = "2s", backoff = "200ms..2s"];
    2 pair_right(Pair) [attempts = 5, timeout = "2s", backoff = "1s..4s"];
    3 trio_one(Trio) [attempts = 5, timeout = "2s", backoff = "200ms..2s"];
    4 trio_two(Trio) [attempts = 5, timeout = "2s", backoff = "50ms..1s"];
    5 trio_three(Trio) [attempts = 3, timeout = "2s", backoff = "1s..1s"];
    6 narrow(Narrow) [attempts = 5, timeout = "2s", backoff = "200ms..2s", concurrency = 4];
    7 long_keep(Long) [attempts = 5, timeout = "90s", backoff = "200ms..2s"];
    8 long_note(Long) [attempts = 5, timeout = "2s", backoff = "200ms..2s"];
    9 watched(Watched) [attempts = 5, timeout = "2s", backoff = "200ms..2s"];
    11 packed(Packed) [attempts = 5, timeout = "2s", backoff = "200ms..2s"];
}

/// Of every event but those that the others have to themselves.
#[dawdle::handler(attempts = 5, timeout = "2s", backoff = "200ms..2s", except(Plain, Pair, Trio, Narrow, Long, Packed))]
async fn audit(event: &dyn Event, cx: &Context, stage: State<Stage>) -> Outcome {
    match number_of(event) {
        Some((n, due)) => act(&stage, 10, n, due, cx).await,
        None => Err(Failure::dead_letter("not one of this program's events")),
    }
}

/// All of them, for a node: this program has other handlers, too.
pub(crate) fn handlers() -> Vec<dawdle::Registration> {
    dawdle::handlers![
        plain, pair_left, pair_right, trio_one, trio_two, trio_three, narrow, long_keep, long_note, watched, audit,
        packed
    ]
}

/// Behaves as planned; the end is on file before it is answered.
async fn act(stage: &Stage, handler: u8, n: u64, due: u64, cx: &Context) -> Outcome {
    let ledger = &stage.ledger;
    let begun = ledger.now();
    let attempt = u16::try_from(cx.attempt()).unwrap_or(u16::MAX);
    let behaviour = stage.plan.behaviour(n, usize::from(handler));
    let record = |what, extra| Record { what, handler: Some(handler), attempt, event: n, at: begun, extra };
    if behaviour.is_begun_on_file() {
        ledger.write(&[record(What::Begun, 0)]);
    }
    match behaviour {
        Behaviour::Slow(span) | Behaviour::Outlive(span) => tokio::time::sleep(Duration::from_millis(span)).await,
        Behaviour::Hang if attempt == 1 => std::future::pending().await,
        Behaviour::Block(span) => std::thread::sleep(Duration::from_millis(span)),
        Behaviour::Abort => std::process::abort(),
        _ => {}
    }
    let ended = |what| ledger.write(&[record(what, ledger.now())]);
    let failing = |times: u32| u32::from(attempt) <= times;
    match behaviour {
        Behaviour::Fail(times) if failing(times) => {
            ended(What::Failed);
            Err("fails for a while")?
        }
        Behaviour::FailForEver => {
            ended(What::Failed);
            Err("fails for ever")?
        }
        Behaviour::Panic(times) if failing(times) => {
            ended(What::Failed);
            panic!("as planned")
        }
        Behaviour::Snooze if begun < due + 2_000_000 => {
            ended(What::Snoozed);
            Err(Failure::snooze(Duration::from_millis(1_200)))
        }
        Behaviour::GiveUp => {
            ended(What::GaveUp);
            Err(Failure::dead_letter(GIVEN_UP))
        }
        Behaviour::Discard => {
            ended(What::Discarded);
            Err(Failure::discard("of no use"))
        }
        _ => {
            ended(What::Succeeded);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::HANDLERS;
    use dawdle::TypedEvent;

    #[tokio::test]
    async fn the_verdict_knows_the_handlers_as_they_are() {
        let backend = dawdle::backend::memory::MemoryBackend::new(dawdle::Clock::system());
        let dawdle = Dawdle::builder()
            .backend(backend)
            .discover(false)
            .handlers(handlers())
            .listener(false)
            .start()
            .await
            .unwrap();
        let handlers = dawdle.handlers();
        for (number, spec) in HANDLERS.iter().enumerate() {
            let info = handlers.iter().find(|info| info.name == spec.name).unwrap();
            assert_eq!(info.attempts, spec.attempts, "{}", spec.name);
            let kinds = [Plain::KIND, Pair::KIND, Trio::KIND, Narrow::KIND, Long::KIND, Watched::KIND, Packed::KIND];
            assert!(info.kind == Some(kinds[usize::from(spec.kind)]) || number == 10, "{}", spec.name);
        }
    }
}
