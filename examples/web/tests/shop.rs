//! A bad day of the shop on the local file.

use common::{Place, a_bad_day};

mod common;

#[tokio::test]
async fn a_handler_that_broke_is_seen_mended_and_its_letters_replayed_from_the_page_and_by_the_command_line() {
    let local = [("DAWDLE_BACKEND", "local"), ("DAWDLE_LOCAL_PATH", "queue.db")];
    a_bad_day(&Place::with(local.map(|(name, value)| (name, value.to_owned())).to_vec())).await;
}
