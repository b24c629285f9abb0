//! Says that the tests on SQS did not run, where they did not.

fn main() {
    // `./test` runs them on their own.
    let beside_engine = std::env::var_os("TEST_SQS_ENDPOINT_URL").is_some();
    if cfg!(not(feature = "engine-tests")) && !beside_engine {
        println!("\nnote: the tests on SQS need an engine and were not run; `./test` runs them\n");
    }
}
