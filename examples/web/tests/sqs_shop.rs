//! A bad day of the shop on an SQS engine.

use std::time::{SystemTime, UNIX_EPOCH};

use common::{Place, a_bad_day};

mod common;

#[tokio::test]
async fn a_handler_that_broke_is_seen_mended_and_its_letters_replayed_from_the_page_and_by_the_command_line() {
    let endpoint = std::env::var("TEST_SQS_ENDPOINT_URL").unwrap_or_else(|_| {
        panic!(
            "TEST_SQS_ENDPOINT_URL is not set: run `./test`, or `localstack/engine run -- cargo test --all-features`"
        )
    });
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_nanos();
    let place = Place::with(vec![
        ("DAWDLE_SQS_QUEUE", format!("shop-{since}")),
        ("DAWDLE_SQS_ENDPOINT_URL", endpoint),
        ("DAWDLE_SQS_REGION", "us-east-1".to_owned()),
    ]);
    place.dawdle(&["init"]);
    a_bad_day(&place).await;
}
