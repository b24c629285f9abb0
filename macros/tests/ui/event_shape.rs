use dawdle::Event;

#[derive(Event)]
#[event(kind = "generic")]
struct Generic<T> {
    value: T,
}

#[derive(Event)]
#[event(kind = "borrowed")]
struct Borrowed<'a> {
    text: &'a str,
}

#[derive(Event)]
#[event(kind = "union")]
union Union {
    a: u8,
    b: i8,
}

fn main() {}
