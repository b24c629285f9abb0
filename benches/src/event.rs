//! The event that everything is measured with.

use anyhow::Result;
use dawdle::{Envelope, Event};
use serde::{Deserialize, Serialize};

/// How many bytes of JSON an event is.
const PAYLOAD: usize = 200;

/// An event of 200 bytes.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "bench.order")]
pub(crate) struct Order {
    text: String,
}

impl Order {
    pub(crate) fn new() -> Order {
        Order { text: "x".repeat(PAYLOAD - r#"{"text":""}"#.len()) }
    }
}

/// The message that Dawdle makes of one, for those that send text.
pub(crate) fn body() -> Result<String> {
    Ok(serde_json::to_string(&Envelope::new(Order::new())?)?)
}

#[cfg(test)]
mod tests {
    use dawdle::Clock;
    use dawdle::backend::memory::MemoryBackend;
    use dawdle::backend::{Backend, Lane};

    use super::*;
    use crate::task::{Phase, Task};
    use crate::ways::dawdle::builder;

    #[test]
    fn an_event_is_200_bytes() {
        assert_eq!(serde_json::to_string(&Order::new()).unwrap().len(), PAYLOAD);
    }

    #[tokio::test]
    async fn what_the_others_send_is_as_long_as_what_dawdle_sends() -> Result<()> {
        let text = body()?;
        let queue = MemoryBackend::new(Clock::system());
        let task = Task { phase: Phase::Produce, place: String::new(), events: 1, at_once: 1, body: text.clone() };
        builder(&task, false)?.backend(queue.clone()).start().await?.signal(Order::new()).await?;
        let sent = queue.receive(Lane::Message, 1).await?.remove(0).body;
        // Zeros at the end of a time are left out.
        let without_time = |body: &str| body.len() - body.find("Z\",").unwrap() + body.find("\"time\"").unwrap();
        assert_eq!(without_time(&sent), without_time(&text), "{sent}\n{text}");
        Ok(())
    }
}
