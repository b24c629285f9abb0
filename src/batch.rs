//! Many small calls made as few batched requests: [`Batcher`].
//!
//! An item that comes while nothing is in the air goes out at once, or after the batcher's
//! linger. While requests are in the air the next batch gathers, for a bounded time: one that
//! hangs holds up nobody else. A full batch does not wait. Every item gets the answer to its own
//! entry.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::backend::{BoxFuture, Limits};
use crate::clock::{Clock, catch_panic};
use crate::sync::{Mutex, MutexGuard, Notify};

/// What a [`Batcher`] does with a batch.
pub(crate) trait Work: Send + Sync + 'static {
    type Item: Send + 'static;
    type Answer: Send + 'static;
    /// A batch that is being put together.
    type Load: Send;

    /// One that holds nothing yet.
    fn begin(&self) -> Self::Load;

    /// Puts an item into a batch, if there is room for it; there is for the first.
    fn add(&self, load: &mut Self::Load, item: &Self::Item) -> bool;

    /// Whether a batch need not wait for more.
    fn is_full(&self, load: &Self::Load) -> bool;

    /// Whether an item that nobody waits for any more need not be sent.
    fn skips_abandoned(&self) -> bool;

    /// Makes the request. One answer for each item, in order.
    fn run(&self, items: Vec<Self::Item>) -> BoxFuture<'_, Vec<Self::Answer>>;
}

/// When a batch goes out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// How long an item may wait for company while nothing is in the air.
    pub(crate) linger: Duration,
    /// How long it may wait for company while requests are in the air.
    pub(crate) gather: Duration,
    /// The most requests in the air at once.
    pub(crate) at_once: usize,
    /// An item that is [awaited](Batcher::answer) goes by itself while fewer are: company would save
    /// nothing.
    pub(crate) alone: bool,
}

impl Pace {
    /// Where calls share what they cost, nothing waits for company.
    pub(crate) fn new(limits: &Limits, linger: Duration, gather: Duration, at_once: usize) -> Self {
        match limits.calls_share {
            true => Pace { linger: Duration::ZERO, gather: Duration::ZERO, at_once, alone: true },
            false => Pace { linger, gather, at_once, alone: false },
        }
    }
}

/// Gathers items into batches. Holds at most what its callers are waiting for.
pub(crate) struct Batcher<W: Work> {
    shared: Arc<Shared<W>>,
}

struct Shared<W: Work> {
    work: W,
    clock: Clock,
    pace: Pace,
    queue: Mutex<Queue<W>>,
    /// Woken when the last request has been answered and nothing waits.
    empty: Notify,
}

struct Queue<W: Work> {
    items: VecDeque<Waiting<W>>,
    next: Next<W::Load>,
    in_the_air: usize,
    /// One of those is about to take a batch: what comes until then goes with it.
    starting: bool,
    lingering: bool,
    /// Nothing lingers any more: a drain is on.
    hurry: bool,
}

struct Waiting<W: Work> {
    item: W::Item,
    answer: oneshot::Sender<W::Answer>,
}

/// What the next batch will be, of the items that wait.
struct Next<L> {
    load: L,
    /// More would not go with it.
    full: bool,
}

impl<W: Work> Clone for Batcher<W> {
    fn clone(&self) -> Self {
        Batcher { shared: Arc::clone(&self.shared) }
    }
}

impl<W: Work> Batcher<W> {
    pub(crate) fn new(work: W, clock: Clock, pace: Pace) -> Self {
        let (items, next) = (VecDeque::new(), Next { load: work.begin(), full: false });
        let queue = Queue { items, next, in_the_air: 0, starting: false, lingering: false, hurry: false };
        Batcher { shared: Arc::new(Shared { work, clock, pace, queue: Mutex::new(queue), empty: Notify::new() }) }
    }

    /// Puts an item in line; the receiver yields its answer. Dropping the receiver leaves the
    /// item in line. An answer that never comes (the request panicked) is a closed channel.
    pub(crate) fn submit(&self, item: W::Item) -> oneshot::Receiver<W::Answer> {
        let (answer, receiver) = oneshot::channel();
        let mut queue = self.shared.lock();
        self.shared.push(&mut queue, Waiting { item, answer });
        self.start(queue);
        receiver
    }

    /// Yields the answer to an item; `None` where the request panicked. Dropping it leaves the item in
    /// line, or its request undecided.
    pub(crate) async fn answer(&self, item: W::Item) -> Option<W::Answer> {
        let Some(_alone) = Alone::new(self) else { return self.submit(item).await.ok() };
        match catch_panic(self.shared.work.run(vec![item])).await {
            Ok(answers) => answers.into_iter().next(),
            Err(panic) => {
                tracing::error!("a request panicked: {panic}");
                None
            }
        }
    }

    /// Puts many in line at once, so that the first of them do not go without the others.
    pub(crate) fn submit_all(&self, items: impl IntoIterator<Item = W::Item>) -> Vec<oneshot::Receiver<W::Answer>> {
        let mut receivers = Vec::new();
        let mut queue = self.shared.lock();
        for item in items {
            let (answer, receiver) = oneshot::channel();
            self.shared.push(&mut queue, Waiting { item, answer });
            receivers.push(receiver);
        }
        self.start(queue);
        receivers
    }

    /// Sends everything that waits, without linger, and waits for the answers.
    pub(crate) async fn flush(&self) {
        loop {
            let empty = self.shared.empty.notified();
            {
                let mut queue = self.shared.lock();
                if queue.items.is_empty() && queue.in_the_air == 0 {
                    return;
                }
                queue.hurry = true;
                self.start(queue);
            }
            empty.await;
        }
    }

    /// Starts another full batch beside one that was taken; that does the same in its turn.
    fn start_full(&self) {
        let queue = self.shared.lock();
        if queue.next.full {
            self.start(queue);
        }
    }

    /// Starts what should be in the air and is not.
    fn start(&self, mut queue: MutexGuard<'_, Queue<W>>) {
        let shared = &self.shared;
        if queue.items.is_empty() || queue.starting || queue.in_the_air >= shared.pace.at_once {
            return;
        }
        let wait = if queue.in_the_air == 0 { shared.pace.linger } else { shared.pace.gather };
        let batcher = self.clone();
        if wait.is_zero() || queue.hurry || queue.next.full {
            queue.in_the_air += 1;
            queue.starting = true;
            drop(queue);
            let in_the_air = InTheAir { batcher, due: wait.is_zero(), landed: false };
            let clock = shared.clock.clone();
            shared.clock.spawn(async move {
                // Some of what else can go on now may come along.
                clock.yield_now().await;
                in_the_air.work_off().await;
            });
        } else if !queue.lingering {
            queue.lingering = true;
            drop(queue);
            let mut lingering = Lingering { batcher, over: false };
            shared.clock.spawn(async move {
                lingering.batcher.shared.clock.sleep(wait).await;
                lingering.over = true;
                let batcher = lingering.batcher.clone();
                drop(lingering);
                {
                    let mut queue = batcher.shared.lock();
                    if queue.items.is_empty() || queue.in_the_air >= batcher.shared.pace.at_once {
                        return;
                    }
                    queue.in_the_air += 1;
                }
                InTheAir { batcher, due: true, landed: false }.work_off().await;
            });
        }
    }
}

/// A timer that runs for the next batch; counted so also when its runtime ends under it.
struct Lingering<W: Work> {
    batcher: Batcher<W>,
    over: bool,
}

impl<W: Work> Drop for Lingering<W> {
    fn drop(&mut self) {
        let shared = &self.batcher.shared;
        let mut queue = shared.lock();
        queue.lingering = false;
        shared.leave(queue, self.over);
    }
}

/// One request in the air; counted so until it is dropped, also when its runtime ends under it.
struct InTheAir<W: Work> {
    batcher: Batcher<W>,
    /// It takes what there is, be it ever so little.
    due: bool,
    landed: bool,
}

impl<W: Work> Drop for InTheAir<W> {
    fn drop(&mut self) {
        let shared = &self.batcher.shared;
        let mut queue = shared.lock();
        queue.in_the_air -= 1;
        queue.starting &= self.landed;
        shared.leave(queue, self.landed);
    }
}

/// One request in the air for one item, in the task of who waits for it.
struct Alone<'a, W: Work>(&'a Batcher<W>);

impl<'a, W: Work> Alone<'a, W> {
    /// If that is the pace, and there is room in the air.
    fn new(batcher: &'a Batcher<W>) -> Option<Self> {
        let pace = &batcher.shared.pace;
        let mut queue = batcher.shared.lock();
        if !pace.alone || queue.in_the_air >= pace.at_once {
            return None;
        }
        queue.in_the_air += 1;
        Some(Alone(batcher))
    }
}

impl<W: Work> Drop for Alone<'_, W> {
    fn drop(&mut self) {
        let Alone(batcher) = self;
        {
            let mut queue = batcher.shared.lock();
            queue.in_the_air -= 1;
            // What waits is started here.
            batcher.shared.leave(queue, true);
        }
        batcher.start(batcher.shared.lock());
    }
}

impl<W: Work> InTheAir<W> {
    /// Sends batch after batch until nothing is left that should not wait.
    async fn work_off(mut self) {
        let shared = &*self.batcher.shared;
        loop {
            let (items, answers) = shared.take(self.due);
            self.batcher.start_full();
            if !items.is_empty() {
                crate::crash::point!("batch.taken");
                match catch_panic(shared.work.run(items)).await {
                    Ok(results) => {
                        for (answer, result) in answers.into_iter().zip(results) {
                            let _ = answer.send(result);
                        }
                    }
                    Err(panic) => tracing::error!("a batched request panicked: {panic}"),
                }
                crate::crash::point!("batch.answered");
            }
            let queue = shared.lock();
            let alone = queue.in_the_air == 1 && !queue.items.is_empty();
            self.due = alone && (shared.pace.linger.is_zero() || queue.hurry);
            if !queue.next.full && !self.due {
                break;
            }
        }
        let batcher = self.batcher.clone();
        self.landed = true;
        drop(self);
        batcher.start(batcher.shared.lock());
    }
}

impl<W: Work> Shared<W> {
    fn lock(&self) -> MutexGuard<'_, Queue<W>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of a timer or a request. After one that did not come to its end nobody sends what
    /// waits: a closed channel is the answer to it.
    fn leave(&self, mut queue: MutexGuard<'_, Queue<W>>, came_to_its_end: bool) {
        if queue.in_the_air > 0 {
            return;
        }
        let mut left = VecDeque::new();
        if !came_to_its_end {
            left = std::mem::take(&mut queue.items);
            queue.next = self.nothing();
        }
        if queue.items.is_empty() {
            queue.hurry = false;
            drop(queue);
            drop(left);
            self.empty.notify_waiters();
        }
    }

    fn nothing(&self) -> Next<W::Load> {
        Next { load: self.work.begin(), full: false }
    }

    fn push(&self, queue: &mut Queue<W>, waiting: Waiting<W>) {
        self.count_in(&mut queue.next, &waiting.item);
        queue.items.push_back(waiting);
    }

    /// Puts an item into the next batch, unless that is full.
    fn count_in(&self, next: &mut Next<W::Load>, item: &W::Item) {
        next.full = next.full || !self.work.add(&mut next.load, item) || self.work.is_full(&next.load);
    }

    /// The next batch, as many as fit; none where another request has taken what made it full, and what
    /// is left is not due.
    fn take(&self, due: bool) -> (Vec<W::Item>, Vec<oneshot::Sender<W::Answer>>) {
        let mut queue = self.lock();
        queue.starting = false;
        if !due && !queue.hurry && !queue.next.full {
            return Default::default();
        }
        let (mut items, mut answers, mut load) = (Vec::new(), Vec::new(), self.work.begin());
        while let Some(waiting) = queue.items.pop_front() {
            if self.work.skips_abandoned() && waiting.answer.is_closed() {
                continue;
            }
            if !self.work.add(&mut load, &waiting.item) {
                queue.items.push_front(waiting);
                break;
            }
            items.push(waiting.item);
            answers.push(waiting.answer);
        }
        let mut next = self.nothing();
        for waiting in &queue.items {
            if next.full {
                break;
            }
            self.count_in(&mut next, &waiting.item);
        }
        queue.next = next;
        (items, answers)
    }
}

#[cfg(test)]
mod orders;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::VirtualClock;
    use std::time::SystemTime;

    /// An item whose request takes ten seconds.
    const HANGS: usize = 99;

    /// Takes 100 ms a request; answers each item with itself; remembers the batches.
    struct Echo {
        clock: Clock,
        batches: Arc<Mutex<Vec<Vec<usize>>>>,
    }

    impl Work for Echo {
        type Item = usize;
        type Answer = usize;

        /// Items and their sum.
        type Load = (usize, usize);

        fn begin(&self) -> (usize, usize) {
            (0, 0)
        }

        fn add(&self, load: &mut (usize, usize), item: &usize) -> bool {
            let fits = load.0 == 0 || (load.0 < 10 && load.1 + item <= 100);
            *load = if fits { (load.0 + 1, load.1 + item) } else { *load };
            fits
        }

        fn is_full(&self, load: &(usize, usize)) -> bool {
            load.0 >= 10 || load.1 >= 100
        }

        fn skips_abandoned(&self) -> bool {
            false
        }

        fn run(&self, items: Vec<usize>) -> BoxFuture<'_, Vec<usize>> {
            Box::pin(async move {
                let hangs = items.contains(&HANGS);
                self.clock.sleep(Duration::from_millis(if hangs { 10_000 } else { 100 })).await;
                self.batches.lock().unwrap().push(items.clone());
                items
            })
        }
    }

    type Batches = Arc<Mutex<Vec<Vec<usize>>>>;

    fn batcher(linger: u64, at_once: usize) -> (Batcher<Echo>, VirtualClock, Batches) {
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH);
        let clock = Clock::from_virtual(time.clone());
        let batches = Batches::default();
        let work = Echo { clock: clock.clone(), batches: Arc::clone(&batches) };
        (
            Batcher::new(
                work,
                clock,
                Pace {
                    linger: Duration::from_millis(linger),
                    gather: Duration::from_millis(200),
                    at_once,
                    alone: false,
                },
            ),
            time,
            batches,
        )
    }

    #[tokio::test]
    async fn an_idle_caller_goes_out_at_once_and_the_next_batch_gathers_meanwhile() {
        let (batcher, time, batches) = batcher(0, 4);
        let answers: Vec<_> = (0..6).map(|_| batcher.submit(1)).collect();
        time.advance(Duration::from_millis(100)).await;
        // One request per submit would have made six.
        assert!(batches.lock().unwrap().len() == 1);
        time.advance(Duration::from_millis(100)).await;
        for answer in answers {
            assert_eq!(answer.await.unwrap(), 1);
        }
        assert_eq!(batches.lock().unwrap().iter().map(Vec::len).sum::<usize>(), 6);
    }

    #[tokio::test]
    async fn full_batches_go_out_side_by_side_within_entries_and_bytes() {
        let (batcher, time, batches) = batcher(0, 8);
        for item in [60, 60, 60, 30, 10] {
            drop(batcher.submit(item));
        }
        for _ in 0..30 {
            drop(batcher.submit(0));
        }
        time.advance(Duration::from_millis(400)).await;
        let batches = batches.lock().unwrap();
        assert!(batches.iter().all(|batch| batch.len() <= 10 && batch.iter().sum::<usize>() <= 100), "{batches:?}");
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 35);
    }

    #[tokio::test]
    async fn with_a_linger_lone_items_share_a_request_and_a_flush_does_not_wait() {
        let (batcher, time, batches) = batcher(50, 1);
        drop(batcher.submit(1));
        time.advance(Duration::from_millis(49)).await;
        drop(batcher.submit(1));
        time.advance(Duration::from_millis(101)).await;
        assert_eq!(*batches.lock().unwrap(), [[1, 1]]);
        drop(batcher.submit(2));
        let flushing = batcher.clone();
        let clock = Clock::from_virtual(time.clone());
        let flush = clock.spawn(async move { flushing.flush().await });
        time.advance(Duration::from_millis(100)).await;
        flush.await.unwrap();
        assert_eq!(batches.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_request_that_hangs_holds_up_nobody_else() {
        let (batcher, time, _) = batcher(0, 2);
        let hung = batcher.submit(HANGS);
        time.advance(Duration::from_millis(1)).await;
        let mut next = batcher.submit(1);
        time.advance(Duration::from_millis(300)).await;
        assert_eq!(next.try_recv().unwrap(), 1);
        time.advance(Duration::from_secs(10)).await;
        assert_eq!(hung.await.unwrap(), HANGS);
    }

    #[test]
    fn a_runtime_that_ends_with_a_request_in_the_air_blocks_nobody_after_it() {
        let batches = Batches::default();
        let clock = Clock::system();
        let work = Echo { clock: clock.clone(), batches };
        let pace = Pace { linger: Duration::ZERO, gather: Duration::from_secs(60), at_once: 1, alone: false };
        let batcher = Batcher::new(work, clock, pace);
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let first = runtime();
        first.block_on(async {
            drop(batcher.submit(1));
            tokio::task::yield_now().await;
        });
        drop(first);
        let answer = runtime().block_on(async { batcher.submit(2).await });
        assert_eq!(answer.unwrap(), 2);
    }

    #[test]
    fn a_runtime_that_ends_answers_what_waits_for_a_request_of_it() {
        let (batcher, _, _) = batcher(0, 1);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut waits = {
            let _entered = runtime.enter();
            drop(batcher.submit(1));
            batcher.submit(2)
        };
        // The first goes out.
        runtime.block_on(tokio::task::yield_now());
        assert_eq!(waits.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        drop(runtime);
        assert_eq!(waits.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
