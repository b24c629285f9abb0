use dawdle::Outcome;

async fn plain_function() -> Outcome {
    Ok(())
}

struct Unit;

fn main() {
    let _functions = dawdle::handlers![plain_function];
    let _types = dawdle::handlers![Unit];
}
