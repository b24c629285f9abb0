//! Scans of many dead letters: what is held while others are shown, and given back.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use dawdle::backend::memory::MemoryBackend;
use dawdle::backend::{Backend, Lane, Outgoing};
use dawdle::{Clock, Dawdle, Filter, VirtualClock};
use serde_json::json;

struct World {
    time: VirtualClock,
    queue: MemoryBackend,
    dawdle: Dawdle,
}

impl World {
    /// Dead letters, of which every eighth is of the kind `wanted`.
    async fn with(letters: u64) -> World {
        let time = VirtualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let clock = Clock::from_virtual(time.clone());
        let queue = MemoryBackend::new(clock.clone());
        for number in 0..letters {
            let kind = if number % 8 == 0 { "wanted" } else { "other" };
            let letter = json!({
                "specversion": "1.0", "id": format!("{number}"), "source": "test", "type": kind, "data": {},
                "handler": "remind", "deadreason": "attempts", "deadtime": "2026-01-02T03:04:05.000Z",
            });
            queue.send(Lane::Dead, &[Outgoing::new(letter.to_string())]).await.remove(0).unwrap();
        }
        let builder = Dawdle::builder().backend(queue.clone()).clock(clock).discover(false).listener(false);
        World { time, queue, dawdle: builder.start().await.unwrap() }
    }

    /// How many letters are visible, and how many are held.
    async fn counts(&self) -> (u64, u64) {
        let stats = self.queue.inspect(Lane::Dead).await.unwrap();
        (stats.visible, stats.in_flight)
    }
}

#[tokio::test]
async fn a_scan_that_outlasts_the_hold_of_what_it_passes_over_shows_the_rest_all_the_same() {
    let world = World::with(400).await;
    world.queue.reorder(true);
    let letters = world.dawdle.dead_letters();
    let mut scan = letters.scan(Filter::default().kind("wanted"));
    let mut replayed = BTreeSet::new();
    while let Some(letter) = scan.next().await {
        let letter = letter.unwrap();
        letters.replay(&letter).await.unwrap();
        replayed.insert(letter.id.to_string());
        // The holds of the others run out again and again.
        world.time.advance(Duration::from_secs(13)).await;
    }
    assert_eq!(replayed, (0..400).step_by(8).map(|number| format!("{number}")).collect());
}

#[tokio::test]
async fn many_letters_are_shown_once_each_and_all_given_back() {
    let world = World::with(3_000).await;
    let mut scan = world.dawdle.dead_letters().scan(Filter::default());
    let mut shown = BTreeSet::new();
    while let Some(letter) = scan.next().await {
        assert!(shown.insert(letter.unwrap().id.to_string()));
    }
    assert_eq!((shown.len(), world.counts().await), (3_000, (0, 3_000)));
    world.dawdle.shutdown().await;
    assert_eq!(world.counts().await, (3_000, 0));
}

#[tokio::test]
async fn a_scan_whose_letters_are_taken_slowly_holds_few() {
    let world = World::with(2_000).await;
    let mut scan = world.dawdle.dead_letters().scan(Filter::default());
    for _ in 0..100 {
        scan.next().await.unwrap().unwrap();
        world.time.advance(Duration::from_secs(1)).await;
    }
    assert_eq!(world.counts().await, (1_900, 100), "ten at a time");
}
