//! Looking at dead letters holds them; what was looked at is given back, and a change is made once of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use dawdle::backend::memory::MemoryBackend;
use dawdle::backend::{Backend, Lane, Outgoing};
use dawdle::{Clock, Dawdle, DeadLetter, ErrorKind, Filter};
use dawdle_workbench::{Filters, Groups, Looked, Wanted, fingerprint, for_each, sweep};
use tokio::sync::Semaphore;

/// An instance on a backend with letters of two handlers.
async fn with_letters(count: u64) -> (Arc<MemoryBackend>, Dawdle) {
    let backend = Arc::new(MemoryBackend::new(Clock::system()));
    for number in 0..count {
        let (handler, error) = if number % 3 == 0 { ("charge", "card refused") } else { ("remind", "no account") };
        let body = format!(
            r#"{{"specversion":"1.0","id":"event-{number}","source":"shop","type":"order.paid","time":"2026-01-02T03:04:05Z",
            "handler":"{handler}","attempt":25,"deadreason":"attempts","deaderror":"{error} {number}",
            "deadtime":"2026-01-03T00:00:00Z","data":{{"number":{number}}}}}"#
        );
        backend.send(Lane::Dead, &[Outgoing::new(body)]).await.remove(0).expect("sent");
    }
    let dawdle = Dawdle::builder().backend(Arc::clone(&backend)).discover(false).listener(false).start().await;
    (backend, dawdle.expect("an instance"))
}

async fn all_of(dawdle: &Dawdle) -> Vec<DeadLetter> {
    let mut letters = Vec::new();
    let all = Wanted::new([], Filters::default());
    for_each(
        &dawdle.dead_letters(),
        &all,
        |letter| {
            letters.push(letter);
            Ok::<_, dawdle::Error>(())
        },
        std::future::pending(),
    )
    .await
    .expect("a look");
    letters
}

#[tokio::test]
async fn what_was_looked_at_is_there_for_others_once_it_is_given_back() {
    let (backend, dawdle) = with_letters(12).await;
    let letters = all_of(&dawdle).await;
    assert_eq!(letters.len(), 12);
    let held = backend.inspect(Lane::Dead).await.expect("counts");
    assert_eq!((held.visible, held.in_flight, dawdle.dead_letters().held()), (0, 12, 12));
    dawdle.dead_letters().release_all().await;
    assert_eq!(dawdle.dead_letters().held(), 0);
    let given_back = backend.inspect(Lane::Dead).await.expect("counts");
    assert_eq!((given_back.visible, given_back.in_flight), (12, 0));
    let refused = dawdle.dead_letters().replay(&letters[0]).await.expect_err("it is held no more");
    assert_eq!(refused.kind(), ErrorKind::LeaseLost);
    assert_eq!(dawdle.dead_letters().replay_where(Filter::default()).await.expect("replayed"), 12);
}

#[tokio::test]
async fn letters_that_died_of_the_same_are_one_group() {
    let (_, dawdle) = with_letters(9).await;
    let mut groups = Groups::default();
    all_of(&dawdle).await.iter().for_each(|letter| groups.add(letter));
    let groups = groups.largest_first();
    let counts: Vec<_> = groups.iter().map(|group| (group.handler.as_deref(), group.count)).collect();
    assert_eq!(counts, [(Some("remind"), 6), (Some("charge"), 3)]);
}

#[tokio::test]
async fn a_sweep_that_is_told_to_stop_finishes_what_it_has_begun_and_leaves_the_rest_where_it_is() {
    const LETTERS: u64 = 200;
    let (backend, dawdle) = with_letters(LETTERS).await;
    let letters = dawdle.dead_letters();
    // Closed when it shall stop.
    let (begun, stop) = (AtomicU64::new(0), Arc::new(Semaphore::new(0)));
    let act = |letter: DeadLetter| {
        let (letters, stop) = (letters.clone(), Arc::clone(&stop));
        let number = begun.fetch_add(1, Ordering::Relaxed);
        async move {
            // Four are done with; the others that are begun are still at work when the stop comes.
            if number >= 4 {
                stop.acquire().await.expect_err("closed");
            }
            letters.purge(&letter).await
        }
    };
    let end_at_four = |swept: &dawdle_workbench::Swept| {
        if swept.done == 4 {
            stop.close();
        }
    };
    let stopped = async { drop(stop.acquire().await) };
    let all = Wanted::new([], Filters::default());
    let swept = sweep(&letters, &all, SystemTime::now(), Some(1_000.0), act, end_at_four, stopped).await;
    let begun = begun.load(Ordering::Relaxed);
    assert_eq!((swept.done, swept.failed, swept.interrupted, swept.outcome()), (begun, 0, true, "interrupted"));
    assert!((4..LETTERS).contains(&begun), "{begun} were begun");
    letters.release_all().await;
    assert_eq!(backend.inspect(Lane::Dead).await.expect("counts").visible, LETTERS - begun);
}

#[tokio::test]
async fn a_look_that_is_told_to_stop_says_so() {
    let (_, dawdle) = with_letters(3).await;
    let all = Wanted::new([], Filters::default());
    let nothing = |_| Ok::<_, dawdle::Error>(());
    let looked = for_each(&dawdle.dead_letters(), &all, nothing, std::future::ready(())).await.expect("a look");
    assert_eq!(looked, Looked { interrupted: true, ..Looked::default() });
}

/// The letters that are wanted, by their numbers, and how the look came to its end.
async fn look(dawdle: &Dawdle, wanted: &Wanted) -> (Vec<u64>, Looked) {
    let (mut numbers, letters) = (Vec::new(), dawdle.dead_letters());
    let note = |letter: DeadLetter| {
        numbers.push(letter.id.as_str().trim_start_matches("event-").parse().expect("a number"));
        Ok::<_, dawdle::Error>(())
    };
    let looked = for_each(&letters, wanted, note, std::future::pending()).await.expect("a look");
    letters.release_all().await;
    (numbers, looked)
}

fn by(filters: Filters) -> Wanted {
    Wanted::new([], filters)
}

#[tokio::test]
async fn a_look_at_more_than_can_be_held_shows_what_it_found_and_says_that_there_is_more() {
    let (backend, dawdle) = with_letters(60).await;
    dawdle.dead_letters().hold_at_most(30);
    let (numbers, looked) = look(&dawdle, &by(Filters::default())).await;
    assert_eq!((numbers.len(), looked.full), (30, true));
    // What is passed over makes room.
    let charge = by(Filters { handler: Some("charge".to_owned()), ..Filters::default() });
    dawdle.dead_letters().hold_at_most(40);
    let (numbers, looked) = look(&dawdle, &charge).await;
    assert_eq!((numbers.len(), looked), (20, Looked { letters: 20, ..Looked::default() }));
    let print = by(Filters { fingerprint: Some(fingerprint::of("no account 7")), ..Filters::default() });
    dawdle.dead_letters().hold_at_most(35);
    let (numbers, looked) = look(&dawdle, &print).await;
    assert!(numbers.len() >= 30 && looked.full, "{} of 40, {looked:?}", numbers.len());
    assert_eq!(backend.inspect(Lane::Dead).await.expect("counts").visible, 60, "all are given back");
}

#[tokio::test]
async fn a_look_for_named_letters_ends_when_they_are_found() {
    let (backend, dawdle) = with_letters(60).await;
    let id = "event-4".parse().expect("an id");
    let before = backend.requests().receive;
    let (numbers, looked) = look(&dawdle, &Wanted::one(id, Some("remind".to_owned()))).await;
    assert_eq!((numbers, looked), (vec![4], Looked { letters: 1, ..Looked::default() }));
    assert!(backend.requests().receive - before <= 2, "it went on");
    // An event may have a letter for each of its handlers.
    let (numbers, _) = look(&dawdle, &Wanted::new([id], Filters::default())).await;
    assert_eq!(numbers, [4]);
    assert!(backend.requests().receive - before > 4, "it did not look for more");
}

#[tokio::test]
async fn a_sweep_works_through_more_than_can_be_held() {
    let (backend, dawdle) = with_letters(120).await;
    let letters = dawdle.dead_letters();
    letters.hold_at_most(50);
    let purge = |letter: DeadLetter| {
        let letters = letters.clone();
        async move { letters.purge(&letter).await }
    };
    let remind = by(Filters { handler: Some("remind".to_owned()), ..Filters::default() });
    let never = std::future::pending();
    let swept = sweep(&letters, &remind, SystemTime::now(), None, purge, |_| (), never).await;
    assert_eq!((swept.matched, swept.done, swept.failed, swept.error), (80, 80, 0, None));
    letters.release_all().await;
    assert_eq!(backend.inspect(Lane::Dead).await.expect("counts").visible, 40);
    // Nothing is what is asked for, and all of it is looked at.
    letters.hold_at_most(20);
    let never = std::future::pending();
    let none = by(Filters { handler: Some("nobody".to_owned()), ..Filters::default() });
    let swept = sweep(&letters, &none, SystemTime::now(), None, purge, |_| (), never).await;
    assert_eq!((swept.done, swept.outcome()), (0, "done"));
}

#[tokio::test]
async fn a_sweep_finishes_what_it_works_on_where_no_more_can_be_held() {
    let (backend, dawdle) = with_letters(120).await;
    let letters = dawdle.dead_letters();
    letters.hold_at_most(50);
    let remind = by(Filters { handler: Some("remind".to_owned()), ..Filters::default() });
    // The look goes on meanwhile, until there is no room.
    let purge = |letter: DeadLetter| {
        let letters = letters.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            letters.purge(&letter).await
        }
    };
    let never = std::future::pending();
    let swept = sweep(&letters, &remind, SystemTime::now(), None, purge, |_| (), never).await;
    assert_eq!((swept.matched, swept.done, swept.failed, swept.error), (80, 80, 0, None));
    letters.release_all().await;
    assert_eq!(backend.inspect(Lane::Dead).await.expect("counts").visible, 40);
}

#[tokio::test]
async fn the_handlers_own_reasons_and_letters_of_no_handler_can_be_asked_for() {
    let (backend, dawdle) = with_letters(3).await;
    for (number, handler, reason) in
        [(3, r#""handler":"charge","#, "account closed"), (4, "", "unhandled"), (5, "", "account closed")]
    {
        let body = format!(
            r#"{{"specversion":"1.0","id":"event-{number}","source":"shop","type":"order.paid","time":"2026-01-02T03:04:05Z",
            {handler}"deadreason":"{reason}","deadtime":"2026-01-03T00:00:00Z","data":{{}}}}"#
        );
        backend.send(Lane::Dead, &[Outgoing::new(body)]).await.remove(0).expect("sent");
    }
    let found = async |filters| {
        let (mut numbers, _) = look(&dawdle, &by(filters)).await;
        numbers.sort_unstable();
        numbers
    };
    let own = || Some("handler".to_owned());
    let none = || Some("-".to_owned());
    assert_eq!(found(Filters { reason: own(), ..Filters::default() }).await, [3, 5]);
    assert_eq!(found(Filters { handler: none(), ..Filters::default() }).await, [4, 5]);
    assert_eq!(found(Filters { handler: none(), reason: own(), ..Filters::default() }).await, [5]);
    assert_eq!(found(Filters { reason: Some("attempts".to_owned()), ..Filters::default() }).await, [0, 1, 2]);
    let one = Wanted::one("event-5".parse().expect("an id"), none());
    assert_eq!(look(&dawdle, &one).await.0, [5]);
    let other = Wanted::one("event-3".parse().expect("an id"), none());
    assert_eq!(look(&dawdle, &other).await.0, [0; 0]);
}
