use dawdle::{Context, Event, Outcome, State};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "ending")]
struct Ending;

struct NoEvent;
struct Mailer;

#[dawdle::handler]
async fn not_an_event(_: &NoEvent) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn not_a_state(_: &Ending, _: &Context, _: Option<Mailer>) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn not_the_context(_: &Ending, _: &Mailer) -> Outcome {
    Ok(())
}

#[dawdle::handler]
async fn no_outcome(_: &Ending) -> Option<u32> {
    None
}

#[dawdle::handler]
async fn another_ok(_: &Ending) -> Result<u32, std::io::Error> {
    Ok(7)
}

#[dawdle::handler(except(NoEvent))]
async fn except_no_event(_: &dyn Event) -> Outcome {
    Ok(())
}

#[dawdle::handler(attempts = "8".len(), timeout = NoEvent)]
async fn options_of_another_type(_: &Ending, _: State<Mailer>) -> Outcome {
    Ok(())
}

fn main() {}
