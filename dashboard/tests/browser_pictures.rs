//! Pictures of the dashboard of a busy shop, at the width of a phone and of a desk, in the light and in the dark.
//! `HOSTNAME=shop-1 KEEP_PICTURES=docs/pictures cargo test -p dawdle-dashboard --test browser_pictures` keeps them in
//! that folder of the workspace.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dawdle::backend::local::{LocalBackend, LocalOptions};
use dawdle::{Config, Dawdle, Event, Failure, Outcome, handlers};
use dawdle_dashboard::Dashboard;
use serde::{Deserialize, Serialize};

use browser::Browser;

#[path = "common/browser.rs"]
mod browser;
mod common;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "order.placed")]
struct OrderPlaced {
    order: u64,
    cents: u64,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "mail.send")]
struct MailSend {
    account: u64,
    template: String,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "trial.ending")]
struct TrialEnding {
    account: u64,
}

/// As long as other work takes: between these milliseconds, by the number.
async fn work(number: u64, from: u64, to: u64) {
    tokio::time::sleep(Duration::from_millis(from + number * 7_919 % (to - from))).await;
}

#[dawdle::handler]
async fn charge_card(event: &OrderPlaced) -> Outcome {
    work(event.order, 8, 90).await;
    match event.order % 29 {
        0 => Err(Failure::dead_letter(format!("card of order {} was refused: insufficient funds", event.order))),
        1 => Err(Failure::retry_after(Duration::from_secs(600), "the bank answered 503 Service Unavailable")),
        _ => Ok(()),
    }
}

#[dawdle::handler]
async fn reserve_stock(event: &OrderPlaced) -> Outcome {
    work(event.order, 1, 6).await;
    Ok(())
}

#[dawdle::handler]
async fn deliver(event: &MailSend) -> Outcome {
    work(event.account, 40, 400).await;
    match event.account % 13 {
        5 => Err(Failure::dead_letter(format!("550 5.1.1 no mailbox of account {} here", event.account))),
        _ => Ok(()),
    }
}

#[dawdle::handler]
async fn remind(event: &TrialEnding) -> Outcome {
    work(event.account, 2, 20).await;
    Ok(())
}

/// A shop that is at it for some seconds, and goes on for as long as it is held.
async fn busy(folder: &Path) -> (Dawdle, String) {
    let queue = LocalBackend::open(folder.join("queue.db"), LocalOptions::default()).await.expect("a queue");
    let (version, source) = (Some("2026.11.3".to_owned()), Some("shop".to_owned()));
    let config = Config { version, source, concurrency: Some(24), ..Config::default() };
    let builder = Dawdle::builder().config(config).backend(Arc::new(queue)).discover(false);
    let handlers = handlers![charge_card, reserve_stock, deliver, remind];
    let dawdle = builder.handlers(handlers).start().await.expect("a node");
    for account in 0..64 {
        let later = Duration::from_secs(86_400 * (1 + account % 14));
        dawdle.signal(TrialEnding { account }).delay(later).await.expect("signalled");
    }
    let shop = dawdle.clone();
    tokio::spawn(async move {
        for number in 1.. {
            let wave = 2 + number * 31 % 7;
            for index in 0..wave {
                let order = number * 10 + index;
                let sent = shop.signal(OrderPlaced { order, cents: 990 + order * 10 }).await;
                if sent.is_err() || shop.signal(MailSend { account: order, template: "receipt".into() }).await.is_err()
                {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    });
    let router = Dashboard::new(dawdle.clone()).title("Shop").audit_log(folder.join("audit.jsonl")).into_router();
    let url = common::serve(router).await;
    (dawdle, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_shop_fits_a_phone_and_a_desk() {
    let folder = tempfile::Builder::new().prefix("shop-").tempdir().expect("a folder");
    let (dawdle, url) = busy(folder.path()).await;
    let browser = Browser::start();
    browser.go(&format!("{url}/overview"));
    browser.until("document.querySelectorAll('#failures tbody tr').length > 6");
    browser.until("document.querySelector('.spark polyline').points.length > 12");
    let keep = std::env::var_os("KEEP_PICTURES").map(|folder| Path::new("..").join(folder));
    for scheme in ["light", "dark"] {
        browser.colors(scheme);
        for (size, width, height) in [("desk", 1280, 900), ("phone", 390, 844)] {
            browser.size(width, height);
            for (name, page) in [
                ("overview", "overview"),
                ("failures", "overview#failures"),
                ("dead", "dead"),
                ("each", "dead?view=each&limit=20"),
                ("letter", ""),
            ] {
                match page {
                    "" => {
                        let letter = browser.text_of("document.querySelector('#found tbody a').getAttribute('href')");
                        browser.go(&format!("{url}/{letter}"));
                    }
                    page => browser.go(&format!("{url}/{page}")),
                }
                browser.until("document.readyState === 'complete'");
                if page.starts_with("overview") {
                    browser.until("document.getElementById('connection').textContent === 'Live'");
                    browser.until("document.querySelector('meter').value > 4");
                }
                let picture = browser.picture();
                let side =
                    |at: usize| u32::from_be_bytes([picture[at], picture[at + 1], picture[at + 2], picture[at + 3]]);
                assert_eq!((&picture[1..4], side(16), side(20)), (&b"PNG"[..], width, height), "{name}");
                if let Some(folder) = &keep {
                    std::fs::create_dir_all(folder).expect("a folder");
                    std::fs::write(folder.join(format!("{name}-{size}-{scheme}.png")), picture).expect("a file");
                }
            }
        }
    }
    dawdle.shutdown().await;
}
