use dawdle::{Context, Event, EventHandler, Handler, Outcome};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "ending")]
struct Ending;

struct NoEvent;

#[derive(Default, EventHandler)]
#[handler(event = NoEvent)]
struct OfNoEvent;

impl Handler<NoEvent> for OfNoEvent {
    async fn handle(&self, _: &NoEvent, _: &Context) -> Outcome {
        Ok(())
    }
}

#[derive(EventHandler)]
#[handler(event = dyn Event)]
struct OfOneEventOnly;

impl Handler<Ending> for OfOneEventOnly {
    async fn handle(&self, _: &Ending, _: &Context) -> Outcome {
        Ok(())
    }
}

fn main() {}
