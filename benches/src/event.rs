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
    use super::*;

    #[test]
    fn an_event_is_200_bytes() {
        assert_eq!(serde_json::to_string(&Order::new()).unwrap().len(), PAYLOAD);
    }
}
