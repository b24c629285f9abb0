use std::rc::Rc;

use dawdle::{Event, Outcome};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "ending")]
struct Ending;

#[dawdle::handler]
async fn holds_an_rc_across_an_await(_: &Ending) -> Outcome {
    let count = Rc::new(1);
    std::future::ready(()).await;
    drop(count);
    Ok(())
}

fn main() {}
