use dawdle::Event;

#[derive(Event)]
#[event(name = "a")]
struct Unknown;

#[derive(Event)]
#[event(kind = "a", kind = "b")]
struct Twice;

#[derive(Event)]
#[event(kind = "a")]
#[event(kind = "b")]
struct TwiceInTwo;

#[derive(Event)]
#[event]
struct Bare;

#[derive(Event)]
#[event = "a"]
struct Equals;

#[derive(Event)]
#[event(kind)]
struct NoValue;

#[derive(Event)]
#[event(kind = )]
struct EmptyValue;

#[derive(Event)]
#[event(kind = 7)]
struct NoText;

#[derive(Event)]
#[event(kind = "a", aliases = "b")]
struct AliasesAsValue;

#[derive(Event)]
#[event(kind = "a", aliases())]
struct NoAliases;

#[derive(Event)]
#[event(kind = "a", aliases(b))]
struct AliasNotInQuotes;

#[derive(Event)]
#[event(kind = "a", crate = "not a path")]
struct NoPath;

#[derive(Event)]
#[event(kind = "a", pack = "yes")]
struct NoFlag;

fn main() {}
