#![allow(unused_variables)]

use dawdle::{Event, Outcome};

struct Ending;
struct Heartbeat;

#[dawdle::handler(atempts = 8)]
async fn unknown(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(event = Ending)]
async fn event_on_a_function(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(attempts = 8, timeout = "1s", attempts = 9)]
async fn twice(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(attempts)]
async fn no_value(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(attempts = 8 timeout = "1s")]
async fn no_comma(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(attempts = 0)]
async fn no_attempts(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(attempts = "8")]
async fn attempts_as_text(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(attempts = 5000000000)]
async fn too_many_attempts(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(concurrency = 0)]
async fn no_concurrency(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(concurrency = 1.5)]
async fn broken_concurrency(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(timeout = "0s")]
async fn zero_timeout(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(timeout = "30")]
async fn timeout_without_a_unit(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(timeout = "soon")]
async fn timeout_in_words(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(timeout = 30)]
async fn timeout_as_a_number(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(backoff = "1s..soon")]
async fn unreadable_backoff(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(backoff = "10m..1s")]
async fn reversed_backoff(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(backoff = "0s")]
async fn zero_backoff(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(name = "")]
async fn empty_name(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(name = "re mind")]
async fn name_with_a_space(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(name = remind)]
async fn name_as_a_path(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(aliases("its_own_alias"))]
async fn its_own_alias(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(aliases("a", "a"))]
async fn alias_twice(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(except(Heartbeat))]
async fn except_on_a_typed_handler(event: &Ending) -> Outcome {
    Ok(())
}

#[dawdle::handler(except())]
async fn except_nothing(event: &dyn Event) -> Outcome {
    Ok(())
}

#[dawdle::handler(except = Heartbeat)]
async fn except_as_a_value(event: &dyn Event) -> Outcome {
    Ok(())
}

#[dawdle::handler(crate = "")]
async fn no_path(event: &Ending) -> Outcome {
    Ok(())
}

fn main() {}
