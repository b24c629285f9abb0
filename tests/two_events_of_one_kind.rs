//! Two events of one kind are refused at start. In a program of its own: every other would refuse
//! to start, too.
#![cfg(feature = "testing")]

use dawdle::{ErrorKind, Event};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "order.placed")]
struct Placed;

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "order.accepted", aliases("order.placed"))]
struct Accepted;

#[tokio::test]
async fn two_events_of_one_kind_are_refused_with_both_places() {
    let memory = dawdle::backend::memory::MemoryBackend::new(dawdle::Clock::system());
    let error = dawdle::Dawdle::builder().backend(memory).start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Registration);
    let text = error.to_string();
    assert!(text.contains("`order.placed`"), "{text}");
    assert!(text.contains("::Placed") && text.contains("::Accepted"), "{text}");
    assert_eq!(text.matches("tests/two_events_of_one_kind.rs:").count(), 2, "{text}");
    assert!(text.contains("#[event(kind = \"..\")]"), "{text}");
}
