//! Says that the tests on SQS did not run, where they did not.

fn main() {
    if cfg!(not(feature = "engine-tests")) {
        println!("\nnote: the tests on SQS need an engine and were not run; `./test` runs them\n");
    }
}
