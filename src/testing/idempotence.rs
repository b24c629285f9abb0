//! Whether a handler does no harm when it runs again: [`prove_idempotent`].

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use crate::backend::memory::{Action, Fault, MemoryBackend};
use crate::builder::ELSEWHERE;
use crate::envelope::Envelope;
use crate::event::{Event, EventId};
use crate::handler::{Context, Registration};
use crate::middleware::{Middleware, Next};
use crate::outcome::{Failure, Outcome};
use crate::reason;
use crate::signal::Signal;
use crate::testing::{Harness, HarnessBuilder};

/// Runs handlers under schedules of what at-least-once delivery may do to them, and compares their
/// effects with those of one clean run.
///
/// Each seed stands for one schedule. In it, events arrive in another order; copies of them arrive
/// at the same time, and up to an hour later; the queue delivers messages twice, out of order, and
/// loses acks; runs are dropped at an await, as by a node that dies, and runs that have succeeded
/// are run again, as when their node dies before its ack. A seed makes the same schedule
/// each time under `#[tokio::test]`, so `[17]` in place of `0..100` repeats the one that broke.
///
/// A run can only be dropped where it waits: let the fakes of a test wait where the real thing
/// would, if only for `tokio::task::yield_now()`. Which await it is, chance decides among as many as
/// the handler had in the clean run: give several times more seeds than a handler has awaits.
///
/// ```standalone_crate
/// use std::collections::BTreeSet;
/// use std::sync::Mutex;
///
/// use dawdle::testing::{Harness, prove_idempotent};
/// use dawdle::{Event, Outcome, State, handlers};
///
/// #[derive(serde::Serialize, serde::Deserialize, Event)]
/// #[event(kind = "doc.prove.paid")]
/// struct Paid { invoice: u64 }
///
/// #[dawdle::handler]
/// async fn book(event: &Paid, books: State<Mutex<BTreeSet<u64>>>) -> Outcome {
///     books.lock().unwrap().insert(event.invoice); // a set: once more changes nothing
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), dawdle::testing::Counterexample> {
/// prove_idempotent(handlers![book], 0..20)
///     .given(|| Harness::builder().state(Mutex::new(BTreeSet::<u64>::new())))
///     .signal(|test| test.signal(Paid { invoice: 1 }))
///     .signal(|test| test.signal(Paid { invoice: 2 }))
///     .effects(async |test| test.state::<Mutex<BTreeSet<u64>>>().lock().unwrap().clone())
///     .await
/// # }
/// ```
pub fn prove_idempotent(handlers: Vec<Registration>, seeds: impl IntoIterator<Item = u64>) -> Proof {
    Proof { handlers, seeds: seeds.into_iter().collect(), given: Box::new(Harness::builder), signals: Vec::new() }
}

/// What [`prove_idempotent`] goes by; begun by it, and run by [`effects`](Proof::effects).
#[must_use = "nothing is proven until `.effects(..)` is awaited"]
pub struct Proof {
    handlers: Vec<Registration>,
    seeds: Vec<u64>,
    given: Box<dyn Fn() -> HarnessBuilder>,
    signals: Vec<MakeSignal>,
}

type MakeSignal = Box<dyn Fn(&Harness) -> Signal>;

impl Proof {
    /// A fresh harness for each schedule: states, middleware, handlers that must be constructed.
    /// Handlers that are linked in and not given do not run.
    pub fn given(mut self, given: impl Fn() -> HarnessBuilder + 'static) -> Self {
        self.given = Box::new(given);
        self
    }

    /// An event to be signalled in each schedule, by what it yields: keys, delays and attributes
    /// included. Call it once for each event.
    pub fn signal(mut self, signal: impl Fn(&Harness) -> Signal + 'static) -> Self {
        self.signals.push(Box::new(signal));
        self
    }

    /// Runs the clean run and then the schedules, until one of them shows other effects.
    ///
    /// `effects` looks at what the handlers did, once everything has settled. What does not depend
    /// on what happened twice belongs in it: the rows of a table without their times, the mails that
    /// were sent. Dead letters are compared by themselves, by kind, handler and reason.
    ///
    /// # Errors
    /// The first [`Counterexample`].
    ///
    /// # Panics
    /// When no event or no seed is given, when no handler runs, and as a [`Harness`]: a state that
    /// is missing, an event that cannot be signalled.
    pub async fn effects<T: PartialEq + fmt::Debug>(
        self,
        effects: impl AsyncFn(&Harness) -> T,
    ) -> Result<(), Counterexample> {
        assert!(!self.signals.is_empty(), "nothing is signalled: add `.signal(|test| test.signal(..))`");
        assert!(!self.seeds.is_empty(), "there are no schedules: give seeds, as in `0..100`");
        let calm = Saboteur::default();
        let clean = self.run(&calm, None, &effects).await;
        let awaits = calm.plan().awaits.clone();
        for seed in &self.seeds {
            let saboteur = Saboteur::default();
            saboteur.plan().awaits.clone_from(&awaits);
            let seen = self.run(&saboteur, Some(*seed), &effects).await;
            let shown = if seen.0 == clean.0 {
                (seen.1 != clean.1)
                    .then(|| (format!("dead letters {:?}", clean.1), format!("dead letters {:?}", seen.1)))
            } else {
                Some((format!("{:?}", clean.0), format!("{:?}", seen.0)))
            };
            if let Some((clean, seen)) = shown {
                let happened = saboteur.plan().happened.clone();
                return Err(Counterexample { seed: *seed, happened, clean, seen });
            }
        }
        Ok(())
    }

    /// One schedule, or the clean run; its effects, and its dead letters.
    async fn run<T>(
        &self,
        saboteur: &Saboteur,
        seed: Option<u64>,
        effects: &impl AsyncFn(&Harness) -> T,
    ) -> (T, BTreeSet<(String, Option<String>, String)>) {
        // Jitter and the like are to be the same each time, too.
        fastrand::seed(seed.unwrap_or_default());
        let builder = (self.given)().on_trial(self.handlers.clone(), saboteur.clone());
        let test = builder.start().await.unwrap_or_else(|error| panic!("the harness does not start: {error}"));
        let envelopes = self.signals.iter().map(|signal| signal(&test).into_envelope());
        let envelopes: Vec<Envelope> = envelopes
            .map(|made| made.unwrap_or_else(|error| panic!("an event cannot be signalled: {error}")))
            .collect();
        let later = saboteur.begin(seed, &test, &envelopes);
        let order = saboteur.shuffled(&envelopes);
        let sends = order.into_iter().map(|envelope| test.dawdle().send(envelope));
        for sent in futures_util::future::join_all(sends).await {
            sent.unwrap_or_else(|error| panic!("an event cannot be signalled: {error}"));
        }
        for (after, envelope) in later {
            test.advance(after).await;
            let sent = test.dawdle().send(envelope).await;
            sent.unwrap_or_else(|error| panic!("an event cannot be signalled: {error}"));
        }
        test.drain_scheduled().await;
        assert!(saboteur.plan().runs > 0, "no handler ran: do the handlers given handle the events signalled?");
        let letters = test.dead_letters().await.into_iter();
        let letters = letters.filter(|letter| letter.reason != reason::UNHANDLED);
        let letters = letters.map(|letter| (letter.kind, letter.handler, letter.reason)).collect();
        (effects(&test).await, letters)
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof").field("handlers", &self.handlers).field("seeds", &self.seeds).finish_non_exhaustive()
    }
}

/// A schedule under which handlers showed other effects than in one clean run.
#[derive(Clone, PartialEq, Eq)]
pub struct Counterexample {
    seed: u64,
    happened: Vec<String>,
    clean: String,
    seen: String,
}

impl Counterexample {
    /// The schedule's seed: given alone to [`prove_idempotent`], it shows the same again.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What happened in it, in order.
    pub fn happened(&self) -> &[String] {
        &self.happened
    }
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counterexample { seed, happened, clean, seen } = self;
        writeln!(f, "not idempotent: under schedule {seed} the effects are others than in one clean run")?;
        writeln!(f, "  one clean run: {clean}")?;
        writeln!(f, "  this schedule: {seen}")?;
        writeln!(f, "  what happened in it:")?;
        for event in happened {
            writeln!(f, "    - {event}")?;
        }
        write!(f, "  to see it again: prove_idempotent(.., [{seed}])")
    }
}

/// As it displays, so that `unwrap` shows it readably.
impl fmt::Debug for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Counterexample {}

/// Middleware that decides, by a seed, what becomes of each run.
#[derive(Clone, Default)]
pub(crate) struct Saboteur(Arc<Mutex<Plan>>);

/// One schedule. Without a source of chance nothing happens in it.
#[derive(Default)]
struct Plan {
    random: Option<fastrand::Rng>,
    backend: Option<MemoryBackend>,
    /// The events, by the order in which they were given.
    numbers: HashMap<EventId, usize>,
    runs: usize,
    /// At how many awaits a run waited, at most, by kind and handler: in the clean run, then in this one.
    awaits: HashMap<(String, String), usize>,
    /// How many runs yet may be dropped or run again.
    crashes_left: usize,
    happened: Vec<String>,
}

/// What a node's death does to a run.
enum Blow {
    /// It is dropped when it waits, after as many awaits.
    AtAwait(usize),
    /// It succeeds, and is not acked.
    BeforeAck,
}

impl Saboteur {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans a schedule. Yields the copies that come later, and how long after what comes before.
    fn begin(&self, seed: Option<u64>, test: &Harness, envelopes: &[Envelope]) -> Vec<(Duration, Envelope)> {
        let mut plan = self.plan();
        plan.numbers = envelopes.iter().enumerate().map(|(number, envelope)| (envelope.id, number + 1)).collect();
        let Some(seed) = seed else { return Vec::new() };
        let mut random = fastrand::Rng::with_seed(seed);
        let backend = test.backend();
        backend.seed(seed);
        backend.reorder(random.bool());
        let rate = [0.0, 0.5, 1.0][random.usize(0..3)];
        backend.duplicate(rate);
        if rate > 0.0 {
            plan.happened.push(format!("the queue delivered messages twice, at a rate of {rate}"));
        }
        let lost = random.u32(0..3);
        if lost > 0 {
            let answer_only = random.bool();
            let fault = if answer_only { Fault::answer_lost } else { Fault::unavailable };
            backend.fail(fault(Action::Settle).times(lost));
            let what = if answer_only { "the answers of acks" } else { "acks" };
            plan.happened.push(format!("{what} were lost, {lost} times"));
        }
        let mut later = Vec::new();
        for (index, envelope) in envelopes.iter().enumerate() {
            if random.bool() {
                let after = Duration::from_secs(random.u64(0..3_600));
                plan.happened.push(format!("a copy of event {} was sent {after:?} after what came before", index + 1));
                later.push((after, envelope.clone()));
            }
        }
        plan.crashes_left = random.usize(0..2 * envelopes.len() + 2);
        plan.backend = Some(backend.clone());
        plan.random = Some(random);
        later
    }

    /// The events as they are sent first: in any order, some of them twice.
    fn shuffled(&self, envelopes: &[Envelope]) -> Vec<Envelope> {
        let mut plan = self.plan();
        let mut order: Vec<usize> = (0..envelopes.len()).collect();
        let Plan { random: Some(random), happened, .. } = &mut *plan else { return envelopes.to_vec() };
        for index in 0..envelopes.len() {
            if random.bool() {
                happened.push(format!("event {} was sent twice at once", index + 1));
                order.push(index);
            }
        }
        random.shuffle(&mut order);
        if order.len() > 1 {
            let numbers: Vec<String> = order.iter().map(|index| (index + 1).to_string()).collect();
            happened.push(format!("events were sent in the order {}", numbers.join(", ")));
        }
        order.into_iter().map(|index| envelopes[index].clone()).collect()
    }

    /// Counts a run, and decides what becomes of it.
    fn strike(&self, cx: &Context) -> Option<Blow> {
        let mut plan = self.plan();
        plan.runs += 1;
        // Handlers that fail again and again would else be doubled at each retry.
        let enough = plan.runs > 20 * plan.numbers.len() + 100;
        let Plan { random: Some(random), backend, crashes_left, awaits, .. } = &mut *plan else { return None };
        if enough && let Some(backend) = backend.take() {
            backend.duplicate(0.0);
        }
        if *crashes_left == 0 || random.bool() {
            return None;
        }
        *crashes_left -= 1;
        let awaits = awaits.get(&whose(cx)).map_or(1, |awaits| (*awaits).max(1));
        Some(if random.bool() { Blow::AtAwait(random.usize(0..awaits)) } else { Blow::BeforeAck })
    }

    /// Notes at how many awaits a run waited.
    fn waited(&self, cx: &Context, awaits: usize) {
        let mut plan = self.plan();
        let most = plan.awaits.entry(whose(cx)).or_default();
        *most = awaits.max(*most);
    }

    fn note(&self, cx: &Context, what: &str) {
        let mut plan = self.plan();
        let event = match plan.numbers.get(&cx.id()) {
            Some(number) => format!("event {number}"),
            None => format!("an event of kind `{}`", cx.kind()),
        };
        let text = format!("a run of `{}` for {event}, attempt {}, {what}", cx.handler(), cx.attempt());
        plan.happened.push(text);
    }

    /// What a run comes to whose node has died: it runs again, when its lease has ended.
    fn dead(&self) -> Outcome {
        let after = self.plan().random.as_mut().map_or(1, |random| random.u64(1..90));
        Err(Failure::snooze(Duration::from_secs(after)))
    }
}

impl Middleware for Saboteur {
    async fn handle(&self, cx: &Context, event: &dyn Event, next: Next<'_>) -> Outcome {
        if cx.handler() == ELSEWHERE {
            return next.run(cx, event).await;
        }
        let blow = self.strike(cx);
        let awaits = match blow {
            Some(Blow::AtAwait(awaits)) => awaits,
            Some(Blow::BeforeAck) | None => usize::MAX,
        };
        let (outcome, waited) = dropped_after(awaits, next.run(cx, event)).await;
        self.waited(cx, waited);
        let Some(outcome) = outcome else {
            self.note(cx, &format!("was dropped at await {}, and ran again", awaits + 1));
            return self.dead();
        };
        if blow.is_none() {
            return outcome;
        }
        // One that never waited so often is over.
        outcome?;
        self.note(cx, "succeeded, was not acked, and ran again");
        self.dead()
    }
}

/// Whose awaits are counted together: the runs of one handler with one kind.
fn whose(cx: &Context) -> (String, String) {
    (cx.kind().to_owned(), cx.handler().to_owned())
}

/// Runs `future`, and drops it when it waits after having waited `awaits` times: then it yields
/// `None`. How often it waited comes with it.
async fn dropped_after<F: Future>(awaits: usize, future: F) -> (Option<F::Output>, usize) {
    let mut future = pin!(future);
    let mut waited = 0;
    let output = poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => {
            waited += 1;
            if waited > awaits { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await;
    (output, waited)
}
