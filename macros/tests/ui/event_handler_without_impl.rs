use dawdle::{Event, EventHandler};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "ending")]
struct Ending;

#[derive(Default, EventHandler)]
#[handler(event = Ending)]
struct HandlesNothing;

fn main() {}
