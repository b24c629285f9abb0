//! How many messages a listener may hold at once: [`Room`].
//!
//! Permits count running handlers; beyond those, messages are received ahead so that no handler
//! waits for the network: twice as many as the node finishes during one receive, within bounds. A
//! message that is held until it is due, that waits for its one handler's own limit, or whose
//! handlers have ended, leaves its place to another, within bounds. As many are held as the node
//! finishes within two seconds: beyond that another node would begin them sooner.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use crate::sync::{Mutex, Semaphore};

use crate::clock::Latch;

/// The least that is received ahead.
const LEAST_AHEAD: usize = 10;

/// The most bytes that are received ahead, and that are held, by the size that messages had of late.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// The most that wait for their one handler's own limit; and as many are always held until they are due. Of large
/// messages, as many as there are bytes for.
const FEW: usize = 200;

/// For how long what is held would keep the node busy: longer than an event is asked for early, so that a
/// node that finishes nothing else takes in ever more.
const HELD_AHEAD: Duration = Duration::from_secs(2);

/// Over how long the rate is measured.
const WINDOW: Duration = Duration::from_millis(100);

/// The places for received messages.
pub(crate) struct Room {
    places: Arc<Semaphore>,
    held: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    ending: Arc<Semaphore>,
    max_ahead: usize,
    max_held: usize,
    pace: Mutex<Pace>,
}

/// What the sizes are worked out from.
struct Pace {
    size: usize,
    held: usize,
    waiting: usize,
    concurrency: usize,
    window: Option<Instant>,
    finished: u32,
    per_second: f64,
    /// The same, over about a second.
    lately: f64,
    latency: Duration,
    /// Of a message, on average.
    bytes: usize,
}

impl Room {
    /// Room for `concurrency` running handlers, up to `max_ahead` messages beyond them, as many
    /// again that are being settled, `max_held` that are not due yet, and some that wait for their handlers.
    pub(crate) fn new(concurrency: usize, max_ahead: usize, max_held: usize) -> Self {
        let size = concurrency + LEAST_AHEAD.min(max_ahead);
        let few = FEW.min(max_held);
        Room {
            places: Arc::new(Semaphore::new(size)),
            held: Arc::new(Semaphore::new(few)),
            waiting: Arc::new(Semaphore::new(few)),
            ending: Arc::new(Semaphore::new(max_ahead)),
            max_ahead,
            max_held,
            pace: Mutex::new(Pace {
                size,
                held: few,
                waiting: few,
                concurrency,
                window: None,
                finished: 0,
                per_second: 0.0,
                lately: 0.0,
                latency: Duration::ZERO,
                bytes: 0,
            }),
        }
    }

    /// Waits for as many places as are always ahead of the handlers, and takes up to `max`: a receive
    /// for fewer would be one more request for the same messages. While there are fewer, no handler
    /// lacks work. Cancel-safe.
    pub(crate) async fn places(&self, max: usize) -> Option<Vec<Place>> {
        let least = max.min(self.least_ahead()).max(1);
        let mut several = Arc::clone(&self.places).acquire_many_owned(u32::try_from(least).ok()?).await.ok()?;
        let each = std::iter::from_fn(|| several.split(1));
        let more = std::iter::from_fn(|| Arc::clone(&self.places).try_acquire_owned().ok());
        Some(each.chain(more.take(max.saturating_sub(least))).map(|place| self.as_place(place)).collect())
    }

    /// Whether one more receive would find room now.
    pub(crate) fn has_places(&self, max: usize) -> bool {
        self.places.available_permits() >= max.min(self.least_ahead())
    }

    fn least_ahead(&self) -> usize {
        LEAST_AHEAD.min(self.max_ahead)
    }

    fn as_place(&self, place: OwnedSemaphorePermit) -> Place {
        Place {
            taken: Mutex::new(place),
            held: Arc::clone(&self.held),
            waiting: Arc::clone(&self.waiting),
            ending: Arc::clone(&self.ending),
            leased_until: None,
            begun: Latch::default(),
        }
    }

    /// Notes that a message has come to its end.
    pub(crate) fn finished(&self, now: Instant) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.finished += 1;
        let start = *pace.window.get_or_insert(now);
        let span = now.saturating_duration_since(start);
        if span >= WINDOW {
            pace.per_second = f64::from(pace.finished) / span.as_secs_f64();
            pace.lately += (pace.per_second - pace.lately) * span.as_secs_f64().min(1.0);
            pace.finished = 0;
            pace.window = Some(now);
            self.resize(&mut pace);
        }
    }

    /// Notes how long a receive took that found as many messages as it asked for, so that none of
    /// it was waiting, and how many bytes each of them has.
    pub(crate) fn received(&self, took: Duration, bytes: usize) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.latency = if pace.latency.is_zero() { took } else { (pace.latency * 7 + took) / 8 };
        pace.bytes = if pace.bytes == 0 { bytes } else { (pace.bytes * 7 + bytes) / 8 };
        self.resize(&mut pace);
    }

    /// Goes by another number of running handlers from now on.
    pub(crate) fn set_concurrency(&self, concurrency: usize) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.concurrency = concurrency;
        self.resize(&mut pace);
    }

    fn resize(&self, pace: &mut Pace) {
        let ahead = (2.0 * pace.per_second * pace.latency.as_secs_f64()).ceil() as usize;
        let fit = MOST_BYTES / pace.bytes.max(1);
        let wanted = pace.concurrency + ahead.clamp(self.least_ahead(), fit.clamp(self.least_ahead(), self.max_ahead));
        resize(&self.places, &mut pace.size, wanted);
        let few = FEW.min(self.max_held).min(fit.max(LEAST_AHEAD));
        let held = (pace.lately * HELD_AHEAD.as_secs_f64()).ceil() as usize;
        resize(&self.held, &mut pace.held, held.clamp(few, fit.clamp(few, self.max_held.max(few))));
        resize(&self.waiting, &mut pace.waiting, few);
    }
}

/// Lets a semaphore of `size` permits have so many, as soon as they are free.
fn resize(semaphore: &Semaphore, size: &mut usize, wanted: usize) {
    if wanted > *size {
        semaphore.add_permits(wanted - *size);
        *size = wanted;
    } else {
        *size -= semaphore.forget_permits(*size - wanted);
    }
}

#[cfg(test)]
impl Room {
    pub(crate) async fn place(&self) -> Place {
        self.as_place(Arc::clone(&self.places).acquire_owned().await.unwrap())
    }

    fn try_place(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(|place| self.as_place(place))
    }

    pub(crate) fn assert_all_back(&self) {
        let pace = self.pace.lock().unwrap();
        assert_eq!(self.places.available_permits(), pace.size);
        assert_eq!(self.held.available_permits(), pace.held);
        assert_eq!(self.waiting.available_permits(), pace.waiting);
        assert_eq!(self.ending.available_permits(), self.max_ahead);
    }
}

/// One received message's place, until it is dropped.
pub(crate) struct Place {
    taken: Mutex<OwnedSemaphorePermit>,
    held: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    ending: Arc<Semaphore>,
    /// Until when its lease can be extended.
    leased_until: Option<Instant>,
    /// Raised when a handler of its message begins.
    begun: Latch,
}

impl Place {
    /// The same place, for a message whose lease can be extended until then.
    pub(crate) fn leased_until(self, end: Option<Instant>) -> Self {
        Place { leased_until: end, ..self }
    }

    /// Raised when a handler of its message begins.
    pub(crate) fn begun(&self) -> &Latch {
        &self.begun
    }

    /// Whether the lease of its message cannot be held for so long.
    pub(crate) fn lease_ends_within(&self, span: Duration, now: Instant) -> bool {
        self.leased_until.is_some_and(|end| now + span > end)
    }

    /// Leaves the place to another while this message is not due yet. If too many are held already,
    /// it keeps it.
    pub(crate) fn hold(&self) {
        self.change_for(&self.held);
    }

    /// Leaves the place to another while this message waits for its turn, or the limit of its one
    /// handler. If too many do already, it keeps it.
    pub(crate) fn step_aside(&self) {
        self.change_for(&self.waiting);
    }

    /// Leaves the place to another while this message is settled: no handler waits for an ack. If
    /// too many are being settled already, it keeps it.
    pub(crate) fn end(&self) {
        self.change_for(&self.ending);
    }

    fn change_for(&self, other: &Arc<Semaphore>) {
        if let Ok(permit) = Arc::clone(other).try_acquire_owned() {
            *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = permit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::explore::{any, explore, turns};

    #[tokio::test]
    async fn prefetch_follows_rate_times_latency_within_its_bounds() {
        let room = Room::new(4, 100, 1);
        let start = Instant::now();
        assert_eq!(room.places.available_permits(), 14);
        room.received(Duration::from_millis(50), 200);
        for n in 0..=1000u32 {
            room.finished(start + Duration::from_micros(500) * n);
        }
        // About 2,000 a second x 50 ms x 2 would be 200.
        assert_eq!(room.places.available_permits(), 104);
        for _ in 0..100 {
            room.received(Duration::from_millis(50), 1024 * 1024);
        }
        for n in 0..=1000u32 {
            room.finished(start + Duration::from_secs(1) + Duration::from_micros(500) * n);
        }
        assert!((66..=72).contains(&room.places.available_permits()), "64 MiB of messages of 1 MiB");
        for n in 0..=10u32 {
            room.finished(start + Duration::from_secs(1) * (n + 2));
        }
        assert_eq!(room.places.available_permits(), 14);
    }

    #[tokio::test]
    async fn messages_that_wait_or_are_held_leave_their_places_to_others_up_to_a_bound() {
        for leave in [Place::hold, Place::step_aside] {
            let room = Room::new(1, 0, 1);
            let first = room.place().await;
            leave(&first);
            let second = room.try_place().unwrap();
            leave(&second);
            assert!(room.try_place().is_none());
            drop(first);
            leave(&second);
            assert!(room.try_place().is_some());
        }
    }

    #[tokio::test]
    async fn as_many_are_held_as_the_node_finishes_within_two_seconds() {
        let room = Room::new(1, 0, 5_000);
        let held = || room.held.available_permits();
        let mut now = Instant::now();
        let mut finish = |per_second: u32, seconds: u32, bytes: usize| {
            for _ in 0..per_second * seconds {
                now += Duration::from_secs(1) / per_second;
                room.received(Duration::ZERO, bytes);
                room.finished(now);
            }
        };
        assert_eq!(held(), FEW);
        finish(50, 10, 200);
        assert_eq!(held(), FEW, "slow handlers leave what is due to other nodes");
        finish(1_000, 10, 200);
        assert!((1_900..=2_020).contains(&held()), "{}", held());
        finish(1_000, 5, 64 * 1024);
        assert!((1_020..=1_030).contains(&held()), "64 MiB of messages of 64 KiB, not {}", held());
        finish(5_000, 10, 200);
        assert_eq!(held(), 5_000);
        assert_eq!(room.waiting.available_permits(), FEW);
        finish(10, 10, 200);
        assert_eq!(held(), FEW);
    }

    #[tokio::test]
    async fn of_large_messages_as_many_are_held_and_wait_as_there_are_bytes_for() {
        let room = Room::new(1, 100, 5_000);
        for _ in 0..100 {
            room.received(Duration::from_millis(50), 1024 * 1024);
        }
        assert_eq!((room.held.available_permits(), room.waiting.available_permits()), (64, 64));
        for _ in 0..200 {
            room.received(Duration::from_millis(50), 200);
        }
        assert_eq!((room.held.available_permits(), room.waiting.available_permits()), (FEW, FEW));
    }

    #[tokio::test]
    async fn messages_that_are_being_settled_leave_their_places_to_others_up_to_a_bound() {
        let room = Room::new(1, 1, 0);
        let places = [room.place().await, room.place().await];
        places.iter().for_each(Place::end);
        let third = room.try_place();
        assert!(third.is_some() && room.try_place().is_none());
    }

    #[test]
    fn every_place_comes_back_however_a_message_ends() {
        explore(300, || async {
            let room = Arc::new(Room::new(1, 1, 1));
            let start = Instant::now();
            let message = |n: u32| {
                let room = Arc::clone(&room);
                let task = shuttle::future::spawn(async move {
                    let place = room.place().await;
                    turns(2).await;
                    if n.is_multiple_of(2) {
                        place.step_aside()
                    } else {
                        place.hold()
                    }
                    turns(2).await;
                    place.end();
                    turns(2).await;
                    drop(place);
                    room.received(Duration::from_secs(1), 200);
                    room.finished(start + WINDOW * n);
                });
                (task, any(2) == 0)
            };
            let messages: Vec<_> = (0..5).map(message).collect();
            for (message, dropped) in messages {
                if dropped {
                    turns(6).await;
                    message.abort();
                }
                let _ = message.await;
            }
            room.assert_all_back();
        });
    }
}
