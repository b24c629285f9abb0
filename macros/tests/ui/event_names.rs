use dawdle::Event;

#[derive(Event)]
struct TrialEnding;

#[derive(Event)]
#[event(aliases("old"))]
enum OnlyAnAlias {}

#[derive(Event)]
#[event(kind = "")]
struct Empty;

#[derive(Event)]
#[event(kind = "trial ending")]
struct Whitespace;

#[derive(Event)]
#[event(kind = "trial\0ending")]
struct Control;

#[derive(Event)]
#[event(kind = "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd")]
struct TooLong;

#[derive(Event)]
#[event(kind = "dawdle.undecodable")]
struct Reserved;

#[derive(Event)]
#[event(kind = "a", aliases("dawdle.a"))]
struct ReservedAlias;

#[derive(Event)]
#[event(kind = "a", aliases("b", "a"))]
struct AliasOfItself;

#[derive(Event)]
#[event(kind = "a", aliases("b", "b"))]
struct AliasTwice;

#[derive(Event)]
#[event(kind = "a", aliases(""))]
struct EmptyAlias;

fn main() {}
