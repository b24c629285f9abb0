use dawdle::EventHandler;

struct Ending;
struct Heartbeat;

#[derive(EventHandler)]
struct NoAttribute;

#[derive(EventHandler)]
#[handler(attempts = 8)]
struct NoEvent;

#[derive(EventHandler)]
#[handler(event = Ending)]
struct Generic<T>(T);

#[derive(EventHandler)]
#[handler(event = Ending)]
struct Borrowed<'a>(&'a str);

#[derive(EventHandler)]
#[handler(event = &Ending)]
struct ByReference;

#[derive(EventHandler)]
#[handler(event = dyn Send)]
struct AnotherTrait;

#[derive(EventHandler)]
#[handler(event = Ending, except(Heartbeat))]
struct ExceptOnATypedHandler;

#[derive(EventHandler)]
#[handler(event = Ending, retries = 8)]
struct Unknown;

#[derive(EventHandler)]
#[handler(event = Ending, attempts = 0)]
struct NoAttempts;

fn main() {}
