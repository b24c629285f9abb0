use dawdle::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "a", key = "acount")]
struct Misspelt {
    account: u64,
    month: u8,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "b", key = "{account}-{mnth}")]
struct MisspeltInBraces {
    account: u64,
    month: u8,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "c", key = "{1}")]
struct NoSuchNumber(u64);

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "d", key = "x")]
struct NoFields;

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "e", key = "{{account}}")]
struct NothingOfTheEvent {
    account: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "f", key = "{account")]
struct NoPartner {
    account: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "g", key = "{account:>8}")]
struct Formatted {
    account: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "h", key = "{account.id}")]
struct Dotted {
    account: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "i", key = "account")]
enum NoStruct {
    A { account: u64 },
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "j", key = account)]
struct NotInQuotes {
    account: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "k", key = "")]
struct Empty {
    account: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "l", key = "account")]
struct NoText {
    account: Option<u64>,
}

fn main() {}
