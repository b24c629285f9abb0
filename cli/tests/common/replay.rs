//! 10,000 dead letters replayed, the program killed in the middle and run again.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::Value;

use super::{Place, id, letter, said, until};

const LETTERS: u64 = 10_000;
/// How many a replay has in hand at most: those may come twice.
const IN_HAND: u64 = 50;

/// The queues, asked beside the program.
pub(crate) trait Queues {
    /// Puts dead letters there.
    async fn bury(&self, bodies: Vec<String>);
    /// How many messages are on the message queue and on the dead-letter queue, hidden ones too.
    async fn totals(&self) -> (u64, u64);
    /// The events on the message queue.
    async fn events(&self) -> Vec<Value>;
    /// Lets time go by until what a killed program held is visible, where that can be.
    async fn outlast_the_hold(&self);
}

/// Replays them all, with a kill in the middle: each is on the message queue at the end, or, where the
/// hold could not be outlasted, where it was.
pub(crate) async fn loses_none(place: &Place, queues: &impl Queues) {
    let began = Instant::now();
    queues.bury((0..LETTERS).map(|number| letter(number).to_string()).collect()).await;
    println!("{:?} until the letters were there", began.elapsed());
    let began = Instant::now();
    let mut replay = place.start(&["dead", "replay", "--all"]);
    until("a part of the replay", || async { queues.totals().await.0 >= LETTERS / 5 }).await;
    replay.kill().expect("killed");
    let killed = said(replay.wait_with_output().expect("ended"));
    assert_eq!(killed.code, None, "it was killed, and had not ended: {killed:?}");
    println!("{:?} until the kill", began.elapsed());
    let (moved, left) = queues.totals().await;
    assert!(left > 0 && moved < LETTERS, "{moved} moved, {left} left");
    assert!((LETTERS..=LETTERS + IN_HAND).contains(&(moved + left)), "{moved} moved, {left} left");

    queues.outlast_the_hold().await;
    let began = Instant::now();
    let again = place.run(&["dead", "replay", "--all"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.out.contains(" replayed, 0 failed"), "{again:?}");
    let (moved, held) = queues.totals().await;
    println!("{:?} for the rest; {moved} are replayed, {held} still held", began.elapsed());
    assert_eq!(again.err.contains("are held"), held > 0, "{again:?}");
    let events = queues.events().await;
    assert_eq!(events.len() as u64, moved);
    let ids: BTreeSet<&str> = events.iter().filter_map(|event| event["id"].as_str()).collect();
    let missing = (0..LETTERS).filter(|number| !ids.contains(id(*number).as_str())).count() as u64;
    assert!(missing <= held, "{missing} are not replayed, and {held} are held");
    let doubles = moved - ids.len() as u64 + held - missing;
    assert!(doubles <= IN_HAND, "{doubles} came twice");
}
