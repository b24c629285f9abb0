#![allow(unused_variables)]

use dawdle::{Context, Event, Outcome, State};

struct Ending;

#[dawdle::handler]
fn not_async(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async unsafe fn not_safe(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn no_event() -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn by_value(event: Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn by_mutable_reference(event: &mut Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn event_not_first(cx: State<u8>, event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn boxed_event(event: Box<dyn Event>) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn impl_event(event: &impl Event) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn another_trait(event: &dyn Send) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn more_bounds(event: &(dyn Event + Send)) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn two_references(event: &&Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn generic<E: Event>(event: &E) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn constant<const N: usize>(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn mutable_context(event: &Ending, cx: &mut Context) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn impl_argument(event: &Ending, mailer: impl Send) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn no_outcome(_: &Ending) {}

struct Service;

impl Service {
    #[dawdle::handler]
    async fn method(&self, event: &Ending) -> Outcome {
        Ok(())
    }
}

#[dawdle::handler(event = Ending)]
struct NotAFunction;

fn main() {}
