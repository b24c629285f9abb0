//! The dashboard in a real browser: live, by the keyboard alone, without scripts, on a phone, dark and light.

use std::time::Duration;

use serde_json::json;

use browser::{Browser, ENTER, TAB};
use common::{Place, failing, fine, serve};

#[path = "common/browser.rs"]
mod browser;
mod common;

/// A node that has handled some events, with dead letters, its dashboard served under a path.
async fn shop() -> (Place, String) {
    let place = Place::node().await;
    for order in 1..=5 {
        place.dawdle.signal(fine(order)).await.expect("signalled");
    }
    place.dawdle.signal(failing(6, "card 6 was refused by the bank")).await.expect("signalled");
    place.bury(1..=12).await;
    common::until("all have run", || async {
        place.dawdle.activity().handlers.iter().map(|handler| handler.runs).sum::<u64>() == 12
    })
    .await;
    let url = serve(axum::Router::new().nest("/ops/dawdle", place.router.clone())).await;
    (place, format!("{url}/ops/dawdle"))
}

/// Every page, by its address.
const PAGES: [&str; 7] = [
    "overview",
    "dead",
    "dead?view=each",
    "dead?since=yesterday",
    "letter?id=event-0003&of=charge",
    "purge?kind=mail.send",
    "job",
];

/// The address of the page, without where it is served.
fn at(browser: &Browser, base: &str) -> String {
    browser.url().trim_start_matches(base).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_appears_within_two_seconds_and_leads_to_its_dead_letter() {
    let (place, url) = shop().await;
    let browser = Browser::start();
    browser.go(&url);
    assert_eq!(at(&browser, &url), "/overview");
    browser.until("document.getElementById('connection').textContent === 'Live'");
    let id = place.dawdle.signal(failing(4711, "the printer is on fire")).await.expect("signalled");
    let took = browser.until_text("the printer is on fire");
    assert!(took < Duration::from_secs(2), "{took:?}");
    browser.click("#failures tbody tr:first-child a");
    browser.until_text("Died (UTC)");
    assert!(browser.text().contains("the printer is on fire"));
    browser.click(&format!("a[href^='letter?id={id}']"));
    browser.until_text("Attempts");
    let page = browser.text();
    assert!(page.contains("the printer is on fire") && page.contains("\"order\": 4711"), "{page}");
    place.dawdle.shutdown().await;
}

/// Presses Tab until the focus is on what a script says; what it is on can be seen to be.
fn tab_to(browser: &Browser, what: &str) {
    for _ in 0..60 {
        browser.press(&TAB.to_string());
        let seen = browser.text_of("getComputedStyle(document.activeElement).outlineStyle");
        let where_to = browser.text_of("document.activeElement.outerHTML.slice(0, 200)");
        assert!(seen != "none" || where_to.starts_with("<body"), "the focus cannot be seen on {where_to}");
        if browser.eval(&format!("const it = document.activeElement; return Boolean({what})")) == json!(true) {
            return;
        }
    }
    panic!("no Tab leads there: {what}\n{}", browser.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_found_and_replayed_by_the_keyboard_alone() {
    let place = Place::letters(12).await;
    let url = serve(place.router.clone()).await;
    let browser = Browser::start();
    browser.go(&format!("{url}/overview"));
    browser.press(&TAB.to_string());
    assert_eq!(browser.text_of("document.activeElement.textContent"), "Skip to the content");
    browser.press(&ENTER.to_string());
    browser.until("document.activeElement.id === 'main'");
    browser.go(&format!("{url}/overview"));
    tab_to(&browser, "it.textContent === 'Dead letters'");
    browser.press(&ENTER.to_string());
    browser.until("location.pathname === '/dead'");
    tab_to(&browser, "it.id === 'kind'");
    browser.press("order.paid");
    browser.press(&ENTER.to_string());
    browser.until("location.search.includes('kind=order.paid')");
    browser.until_text("4 letters in 1 group");
    tab_to(&browser, "it.textContent === 'Each'");
    browser.press(&ENTER.to_string());
    browser.until("location.search.includes('view=each')");
    tab_to(&browser, "it.textContent === 'event-0006'");
    browser.press(&ENTER.to_string());
    browser.until("location.pathname === '/letter'");
    tab_to(&browser, "it.tagName === 'BUTTON' && it.textContent === 'Replay'");
    browser.press(&ENTER.to_string());
    browser.until("location.pathname === '/job'");
    browser.until_text("Done: 1 replayed.");
    let events = place.events(dawdle::backend::Lane::Message).await;
    assert_eq!((events.len(), &events[0]["id"], &events[0]["handler"]), (1, &json!("event-0006"), &json!("charge")));
    assert_eq!(place.audit()[1], json!(["ann@desk", "replay", "done", 1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_paused_and_resumed_and_resized() {
    let (place, url) = shop().await;
    let browser = Browser::start();
    browser.go(&url);
    browser.click("#pause");
    browser.until_text("Done. This node is paused");
    browser.until("document.querySelector('#node .state').innerText.includes('Paused')");
    assert!(place.dawdle.is_paused());
    browser.click("#resume");
    browser.until("document.querySelector('#node .state').innerText.includes('Running')");
    assert!(!place.dawdle.is_paused());
    browser.eval("document.getElementById('concurrency').value = 9");
    browser.click("#controls button");
    browser.until_text("The concurrency was changed");
    assert_eq!(place.dawdle.concurrency(), 9);
    place.dawdle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_purged_once_somebody_is_sure() {
    let place = Place::letters(12).await;
    let url = serve(place.router.clone()).await;
    let browser = Browser::start();
    browser.go(&format!("{url}/dead"));
    browser.click("a[aria-label^='Purge 4 letters of order.paid']");
    browser.until_text("Delete 4 letters for good?");
    browser.click("#purge");
    browser.until_text("Done: 4 purged.");
    assert_eq!(place.stats(dawdle::backend::Lane::Dead).await.visible, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_scripts_everything_can_be_read_and_done() {
    let (place, url) = shop().await;
    let browser = Browser::start();
    browser.scripts(false);
    for (page, shown) in [
        ("overview", "card 6 was refused by the bank"),
        ("dead", "13 letters"),
        ("dead?view=each", "event-0007"),
        ("letter?id=event-0003", "card 3 was refused"),
        ("job", "None yet"),
    ] {
        browser.go(&format!("{url}/{page}"));
        let source = browser.source();
        assert!(source.contains(shown), "{page}: {source}");
    }
    browser.go(&format!("{url}/overview"));
    assert_eq!(browser.text_of("document.querySelector('meta[http-equiv]').content"), "10", "it is loaded anew");
    assert!(browser.text().contains("loaded anew every 10 seconds"), "{}", browser.text());
    assert_eq!(browser.text_of("document.getElementById('updates').hidden"), "true", "nothing that does nothing");
    browser.go(&format!("{url}/letter?id=event-0003"));
    browser.click("button[id^='replay']");
    browser.until("document.body.innerText.includes('replayed.')");
    place.dawdle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_scrolls_sideways_on_a_phone_or_a_desk() {
    let (place, url) = shop().await;
    let mut body = common::letter(3);
    body["id"] = json!("x".repeat(64));
    body["deaderror"] = json!(format!("{} {}", "long".repeat(200), "words ".repeat(100)));
    body["type"] = json!("a.very.long.kind.without.any.space.in.it.that.goes.on.and.on.and.on");
    place.put([body.to_string()]).await;
    let browser = Browser::start();
    for width in [360, 390, 768, 1000, 1100, 1280] {
        browser.size(width, 844);
        for page in PAGES {
            browser.go(&format!("{url}/{page}"));
            let wide = "[...document.querySelectorAll('body *')].filter((it) => it.getBoundingClientRect().right > innerWidth + 1 \
                        && !it.closest('.skip') && !it.closest('thead')).map((it) => it.outerHTML.slice(0, 120)).slice(0, 3)";
            let script = format!("return [document.documentElement.scrollWidth, innerWidth, {wide}]");
            let measured = browser.eval(&script);
            assert!(measured[0].as_u64() <= Some(width.into()), "{page} at {width}: {measured}");
            assert_eq!(measured[1], json!(width));
            assert_eq!(measured[2], json!([]), "{page} at {width}");
        }
    }
    place.dawdle.shutdown().await;
}

/// The contrast of all text with what is behind it, where it is less than 4.5.
const FAINT: &str = r"
    const parse = (color) => { const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number); return { r, g, b, a }; };
    const light = ({ r, g, b }) => {
        const [x, y, z] = [r, g, b].map((c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = (it) => {
        for (; it; it = it.parentElement) {
            const color = parse(getComputedStyle(it).backgroundColor);
            if (color.a === 1) return color;
        }
        return parse('rgb(255, 255, 255)');
    };
    const faint = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const it = walk.currentNode.parentElement;
        if (!walk.currentNode.nodeValue.trim() || it.closest('noscript, script')) continue;
        const [one, other] = [light(parse(getComputedStyle(it).color)), light(behind(it))].sort((a, b) => b - a);
        const contrast = (one + 0.05) / (other + 0.05);
        if (contrast < 4.5) faint.push(walk.currentNode.nodeValue.trim().slice(0, 40) + ': ' + contrast.toFixed(2));
    }
    return faint;
";

#[tokio::test(flavor = "multi_thread")]
async fn text_can_be_read_in_the_dark_and_in_the_light() {
    let (place, url) = shop().await;
    let browser = Browser::start();
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.colors(scheme);
        for page in PAGES {
            browser.go(&format!("{url}/{page}"));
            assert_eq!(browser.eval(FAINT), json!([]), "{page} in {scheme}");
        }
        grounds.push(browser.text_of("getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(grounds[0], grounds[1]);
    place.dawdle.shutdown().await;
}

/// What a reader that cannot see the page would miss.
const MISSING: &str = r"
    const missing = [];
    const say = (what, it) => missing.push(what + ': ' + it.outerHTML.slice(0, 120));
    const name = (it) => (it.getAttribute('aria-label') || it.textContent || '').trim();
    for (const it of document.querySelectorAll('input:not([type=hidden]):not([hidden]), select, textarea'))
        if (!it.labels.length && !it.getAttribute('aria-label')) say('no label', it);
    for (const it of document.querySelectorAll('svg, img, meter, progress'))
        if (!it.getAttribute('aria-label') && !it.closest('[aria-hidden=true]')) say('no name', it);
    for (const it of document.querySelectorAll('a, button, summary')) if (!name(it)) say('nothing to say', it);
    for (const it of document.querySelectorAll('table')) {
        if (!it.caption || !it.caption.textContent.trim()) say('no caption', it);
        for (const th of it.querySelectorAll('th')) if (!th.scope) say('no scope', th);
    }
    for (const it of document.querySelectorAll('[tabindex]')) if (it.tabIndex > 0) say('out of order', it);
    for (const it of document.querySelectorAll('section, [role=region]'))
        if (!it.getAttribute('aria-label') && !document.getElementById(it.getAttribute('aria-labelledby'))) say('no name', it);
    const ids = [...document.querySelectorAll('[id]')].map((it) => it.id);
    for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) missing.push('twice: ' + id);
    for (const it of document.querySelectorAll('[aria-describedby]'))
        if (!document.getElementById(it.getAttribute('aria-describedby'))) say('describes nothing', it);
    const levels = [...document.querySelectorAll('h1, h2, h3, h4')].map((it) => Number(it.tagName[1]));
    if (levels.filter((level) => level === 1).length !== 1) missing.push('headings of the first level: ' + levels);
    levels.forEach((level, index) => { if (level > (levels[index - 1] || 0) + 1) missing.push('a level is left out: ' + levels); });
    for (const [what, count] of [['main', 1], ['header', 1]])
        if (document.querySelectorAll('body > ' + what).length !== count) missing.push('landmarks: ' + what);
    if (document.documentElement.lang !== 'en' || !document.title) missing.push('no language or title');
    const small = [...document.querySelectorAll('button')].filter((it) => it.offsetHeight && it.offsetHeight < 24);
    small.forEach((it) => say('too small to touch', it));
    return missing;
";

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_cannot_see_the_page_misses_nothing() {
    let (place, url) = shop().await;
    place.post("/replay", &[("id", "event-0006"), ("of", "charge")]).await;
    place.job().await;
    let browser = Browser::start();
    for page in PAGES {
        browser.go(&format!("{url}/{page}"));
        assert_eq!(browser.eval(MISSING), json!([]), "{page}");
    }
    // Laid out as lists, the tables are still tables to who is read the page.
    browser.size(390, 844);
    browser.go(&format!("{url}/overview"));
    let tree = browser.devtools("Accessibility.getFullAXTree", &json!({}));
    let roles: Vec<&str> =
        tree["nodes"].as_array().expect("nodes").iter().filter_map(|node| node["role"]["value"].as_str()).collect();
    for role in ["table", "row", "rowheader", "columnheader", "cell", "navigation", "main", "heading"] {
        assert!(roles.contains(&role), "{role}");
    }
    place.dawdle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_by_itself_leaves_the_focus_where_it_is_and_can_be_stopped() {
    let (place, url) = shop().await;
    let browser = Browser::start();
    browser.go(&url);
    browser.until("document.getElementById('connection').textContent === 'Live'");
    browser.eval("document.querySelector('#failures tbody a').focus()");
    browser.eval("window.focused = document.activeElement");
    for order in 0..3 {
        place.dawdle.signal(failing(order, &format!("failure number {order}"))).await.expect("signalled");
        browser.until_text(&format!("failure number {order}"));
        assert_eq!(
            browser.eval("return document.activeElement === window.focused && window.focused.isConnected"),
            json!(true)
        );
    }
    let rows = browser.eval("return document.querySelectorAll('#failures tbody tr').length");
    assert_eq!(rows, json!(4));
    // Until what has the focus is no longer among those that are shown.
    for order in 0..25 {
        place.dawdle.signal(failing(order, &format!("later failure {order}"))).await.expect("signalled");
    }
    browser.until("!window.focused.isConnected");
    assert_eq!(browser.text_of("document.activeElement.id"), "failures-name");
    browser.click("#updates");
    browser.until_text("Updates stopped");
    place.dawdle.signal(failing(9, "nobody is told of this")).await.expect("signalled");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(!browser.text().contains("nobody is told of this"));
    browser.click("#updates");
    browser.until_text("nobody is told of this");
    place.dawdle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_signs_in_with_the_token() {
    let place = Place::with(true, |dashboard| dashboard.token("correct horse battery staple")).await;
    let url = serve(axum::Router::new().nest("/dawdle", place.router.clone())).await;
    let browser = Browser::start();
    browser.go(&format!("{url}/dawdle/dead"));
    browser.until_text("Sign in");
    assert_eq!(browser.eval(MISSING), json!([]));
    assert_eq!(browser.text_of("document.activeElement.id"), "token");
    browser.press("wrong");
    browser.press(&ENTER.to_string());
    browser.until_text("That is not the token.");
    browser.press("correct horse battery staple");
    browser.press(&ENTER.to_string());
    browser.until("location.pathname === '/dawdle/overview'");
    browser.click("#pause");
    browser.until_text("This node is paused");
    browser.click("header form button");
    browser.until_text("Sign in");
    browser.go(&format!("{url}/dawdle/dead"));
    browser.until_text("Sign in");
    place.dawdle.shutdown().await;
}
