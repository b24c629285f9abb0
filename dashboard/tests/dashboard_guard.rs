//! Who is let in, and what may change something.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use dawdle_dashboard::{Access, Dashboard};

use common::{Place, ask, browser, form, request, token_in};

mod common;

/// Everything that changes something, with a form that would do it.
const CHANGES: [(&str, &[(&str, &str)]); 6] = [
    ("/replay", &[("all", "yes")]),
    ("/purge", &[("all", "yes"), ("sure", "yes")]),
    ("/pause", &[]),
    ("/resume", &[]),
    ("/concurrency", &[("concurrency", "3")]),
    ("/stop", &[]),
];

const PAGES: [&str; 7] =
    ["/", "/overview", "/dead", "/letter?id=event-0001", "/purge?kind=order.paid", "/job", "/style.css"];

/// Asserts that nothing has come of it.
async fn unchanged(place: &Place) {
    assert_eq!(place.stats(dawdle::backend::Lane::Dead).await.visible, 3);
    assert!(!place.dawdle.is_paused() && place.dawdle.concurrency() != 3);
    assert!(place.audit().is_empty(), "{:?}", place.audit());
}

async fn place(make: impl FnOnce(Dashboard) -> Dashboard) -> Place {
    let place = Place::with(true, make).await;
    place.bury(1..=3).await;
    place
}

#[tokio::test]
async fn without_a_hook_or_a_token_only_this_machine_is_served() {
    let place = place(|dashboard| dashboard).await;
    let from = |peer: &str, host: &str| {
        let peer: SocketAddr = peer.parse().expect("an address");
        Request::builder().uri("/overview").header("host", host.to_owned()).extension(ConnectInfo(peer))
    };
    for (peer, host, status) in [
        ("127.0.0.1:5000", "localhost:7878", 200),
        ("127.0.0.1:5000", "LOCALHOST", 200),
        ("127.0.0.1:5000", "127.0.0.1:7878", 200),
        ("[::1]:5000", "[::1]:7878", 200),
        ("[::ffff:127.0.0.1]:5000", "localhost", 200),
        ("10.0.0.9:5000", "localhost:7878", 403),
        ("[::ffff:10.0.0.9]:5000", "localhost:7878", 403),
        // A name that was made to lead here.
        ("127.0.0.1:5000", "evil.example:7878", 403),
        ("127.0.0.1:5000", "localhost.evil.example", 403),
        ("127.0.0.1:5000", "127.0.0.1.evil.example", 403),
        ("127.0.0.1:5000", "user@localhost@evil.example", 403),
        ("127.0.0.1:5000", "", 403),
    ] {
        let answer = place.ask(from(peer, host), Body::empty()).await;
        assert_eq!(answer.status.as_u16(), status, "{peer} asks {host:?}: {}", answer.body);
        assert_eq!(answer.body.contains("Dashboard::token"), status == 403, "how it is mended");
    }
    for path in PAGES {
        let answer = place.ask(from("10.0.0.9:5000", "localhost").uri(path), Body::empty()).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn a_request_from_nobody_knows_where_is_refused_and_told_why() {
    let place = place(|dashboard| dashboard).await;
    let request = Request::builder().uri("/").header("host", "localhost").body(Body::empty()).expect("a request");
    let answer = ask(&place.router, request).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.body.contains("into_make_service_with_connect_info"), "{}", answer.body);
}

#[tokio::test]
async fn what_a_proxy_passes_on_is_not_from_this_machine() {
    let place = place(|dashboard| dashboard).await;
    for header in ["x-forwarded-for", "forwarded", "via", "x-real-ip"] {
        let answer = place.ask(request("GET", "/").header(header, "for=1.2.3.4"), Body::empty()).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{header}");
    }
}

#[tokio::test]
async fn a_change_without_the_forms_token_is_refused() {
    let place = place(|dashboard| dashboard).await;
    let token = place.form_token().await;
    let wrong = format!("{}{}", &token[..63], if token.ends_with('0') { '1' } else { '0' });
    for (path, fields) in CHANGES {
        for given in [None, Some(""), Some("0"), Some(wrong.as_str()), Some(&token[..32])] {
            let fields = [given.map(|token| ("form_token", token)).as_slice(), fields].concat();
            let answer = place.ask(browser("POST", path), form(&fields)).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} with {given:?}");
        }
    }
    unchanged(&place).await;
}

#[tokio::test]
async fn a_change_from_a_page_of_somewhere_else_is_refused() {
    let place = place(|dashboard| dashboard).await;
    let token = place.form_token().await;
    for (path, fields) in CHANGES {
        let fields = [&[("form_token", token.as_str())], fields].concat();
        for (origin, site) in [
            (Some("http://evil.example"), None),
            (Some("http://localhost:9999"), None),
            (Some("null"), None),
            (Some("http://evil.example"), Some("same-origin")),
            (Some("http://localhost:7878"), Some("cross-site")),
            (Some("http://localhost:7878"), Some("same-site")),
            (None, Some("cross-site")),
            (None, Some("none")),
            (None, None),
        ] {
            let mut asked = request("POST", path);
            if let Some(origin) = origin {
                asked = asked.header("origin", origin);
            }
            if let Some(site) = site {
                asked = asked.header("sec-fetch-site", site);
            }
            let answer = place.ask(asked, form(&fields)).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} from {origin:?} {site:?}");
        }
    }
    unchanged(&place).await;
}

#[tokio::test]
async fn a_page_of_somewhere_else_cannot_have_this_one_look() {
    let place = place(|dashboard| dashboard).await;
    for (site, mode, dest, status) in [
        ("cross-site", "no-cors", "image", 403),
        ("cross-site", "navigate", "iframe", 403),
        ("same-site", "cors", "empty", 403),
        // A link that somebody follows.
        ("cross-site", "navigate", "document", 200),
        ("none", "navigate", "document", 200),
        ("same-origin", "cors", "empty", 200),
    ] {
        let asked = request("GET", "/dead").header("sec-fetch-site", site);
        let asked = asked.header("sec-fetch-mode", mode).header("sec-fetch-dest", dest);
        assert_eq!(place.ask(asked, Body::empty()).await.status.as_u16(), status, "{site} {mode} {dest}");
    }
}

#[tokio::test]
async fn nothing_is_changed_by_looking() {
    let place = place(|dashboard| dashboard).await;
    let token = place.form_token().await;
    for (path, fields) in CHANGES {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("form_token", &token)
            .extend_pairs(fields)
            .finish();
        let answer = place.ask(browser("GET", &format!("{path}?{query}")), Body::empty()).await;
        assert!([200, 405].contains(&answer.status.as_u16()), "{path}: {}", answer.status);
    }
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = place.ask(browser(method, "/pause"), form(&[("form_token", &token)])).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
    unchanged(&place).await;
}

#[tokio::test]
async fn for_reading_only_no_page_has_a_form_and_no_form_is_taken() {
    let place = place(|dashboard| dashboard.read_only(true)).await;
    for path in ["/overview", "/dead", "/dead?view=each", "/letter?id=event-0001", "/job"] {
        let page = place.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert!(!page.body.contains(r#"method="post""#) && page.body.contains("Read only"), "{path}: {}", page.body);
    }
    for (path, fields) in CHANGES {
        let fields = [&[("form_token", "")], fields].concat();
        let answer = place.ask(browser("POST", path), form(&fields)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(place.get("/purge?kind=order.paid").await.status, StatusCode::FORBIDDEN);
    unchanged(&place).await;
}

#[tokio::test]
async fn the_applications_hook_decides_and_the_log_names_whom_it_names() {
    let hook = |parts: axum::http::request::Parts| async move {
        let who = parts.headers.get("x-user").map_or("", |user| user.to_str().expect("text")).to_owned();
        match who.as_str() {
            "" | "mallory" => Access::Denied,
            "bob" => Access::ReadOnly { who },
            _ => Access::Full { who },
        }
    };
    let place = place(|dashboard| dashboard.authorize(hook)).await;
    // From anywhere: it is for the hook to say.
    let as_user = |method: &str, path: &str, user: &str| {
        let asked = Request::builder().method(method).uri(path).header("host", "ops.example").header("x-user", user);
        asked.header("origin", "https://ops.example")
    };
    for (user, status) in [("", 403), ("mallory", 403), ("bob", 200), ("carol", 200)] {
        for path in ["/overview", "/dead", "/job", "/live?page=none"] {
            let status = if status == 200 && path.starts_with("/live") { 404 } else { status };
            let answer = place.ask(as_user("GET", path, user), Body::empty()).await;
            assert_eq!(answer.status.as_u16(), status, "{user} {path}");
        }
    }
    let page = |user: &'static str| place.ask(as_user("GET", "/dead", user), Body::empty());
    assert_eq!(token_in(&page("bob").await.body), None);
    let carols = token_in(&page("carol").await.body).expect("a form");
    let daves = token_in(&page("dave").await.body).expect("a form");
    assert_ne!(carols, daves);
    for (user, token) in [("bob", &carols), ("dave", &carols), ("carol", &daves), ("mallory", &carols)] {
        let answer = place.ask(as_user("POST", "/pause", user), form(&[("form_token", token)])).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{user} with somebody else's token");
    }
    unchanged(&place).await;
    let answer = place.ask(as_user("POST", "/pause", "carol"), form(&[("form_token", &carols)])).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.body);
    assert!(place.dawdle.is_paused());
    let noted = serde_json::json!([["carol", "pause", "begun", null], ["carol", "pause", "done", 0]]);
    assert_eq!(serde_json::json!(place.audit()), noted);
}

#[tokio::test]
async fn with_a_token_one_signs_in_and_out() {
    let place = place(|dashboard| dashboard.token("correct horse battery")).await;
    let outside = |method: &str, path: &str| {
        let asked = Request::builder().method(method).uri(path).header("host", "ops.example:7878");
        asked.header("origin", "http://ops.example:7878")
    };
    for path in ["/", "/dead", "/letter?id=event-0001", "/purge", "/job", "/live?page=overview", "/nowhere"] {
        let answer = place.ask(outside("GET", path), Body::empty()).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(answer.body.contains("Sign in") && !answer.body.contains("event-0001"), "{path}");
    }
    for (path, fields) in CHANGES {
        assert_eq!(place.ask(outside("POST", path), form(fields)).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    for wrong in ["", "correct horse batterx", "correct horse batter", "correct horse battery!"] {
        let answer = place.ask(outside("POST", "/sign-in"), form(&[("token", wrong)])).await;
        assert_eq!((answer.status, answer.header("set-cookie")), (StatusCode::UNAUTHORIZED, ""), "{wrong}");
    }
    let foreign = Request::builder().method("POST").uri("/sign-in").header("host", "ops.example:7878");
    let foreign = foreign.header("origin", "http://evil.example");
    let answer = place.ask(foreign, form(&[("token", "correct horse battery")])).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "nobody is signed in by somebody else's page");

    let answer = place.ask(outside("POST", "/sign-in"), form(&[("token", "correct horse battery")])).await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "overview"));
    let cookie = answer.header("set-cookie").to_owned();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains("battery"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().expect("a cookie").to_owned();
    let signed_in = |method: &str, path: &str| outside(method, path).header("cookie", format!("other=1; {cookie}"));
    let page = place.ask(signed_in("GET", "/dead"), Body::empty()).await;
    assert_eq!(page.status, StatusCode::OK);
    let token = token_in(&page.body).expect("a form");
    let forged = place.ask(signed_in("POST", "/pause"), form(&[])).await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN, "a session alone changes nothing");
    unchanged(&place).await;
    let paused = place.ask(signed_in("POST", "/pause"), form(&[("form_token", &token)])).await;
    assert_eq!((paused.status, place.dawdle.is_paused()), (StatusCode::SEE_OTHER, true));
    let out = place.ask(signed_in("POST", "/sign-out"), form(&[("form_token", &token)])).await;
    assert!(out.header("set-cookie").contains("Max-Age=0"), "{out:?}");
    assert_eq!(place.ask(signed_in("GET", "/"), Body::empty()).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_program_brings_the_token_along() {
    let place = place(|dashboard| dashboard.token("correct horse battery")).await;
    for (value, status) in [
        ("Bearer correct horse battery", 200),
        ("bearer correct horse battery", 200),
        ("Bearer correct horse", 401),
        ("Bearer ", 401),
        ("Basic correct horse battery", 401),
    ] {
        let asked = Request::builder().uri("/overview").header("host", "ops.example").header("authorization", value);
        assert_eq!(place.ask(asked, Body::empty()).await.status.as_u16(), status, "{value}");
    }
}

#[tokio::test]
async fn an_empty_token_lets_nobody_in() {
    let place = place(|dashboard| dashboard.token("")).await;
    let bearer = place.ask(request("GET", "/").header("authorization", "Bearer "), Body::empty()).await;
    let form = place.ask(browser("POST", "/sign-in"), form(&[("token", "")])).await;
    assert_eq!((bearer.status, form.status), (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED));
}

#[tokio::test]
async fn who_may_only_look_can_sign_out() {
    let place = place(|dashboard| dashboard.read_only(true).token("correct horse battery")).await;
    let answer = place.ask(browser("POST", "/sign-in"), form(&[("token", "correct horse battery")])).await;
    let cookie = answer.header("set-cookie").split(';').next().expect("a cookie").to_owned();
    let out = place.ask(browser("POST", "/sign-out").header("cookie", &cookie), form(&[])).await;
    assert_eq!(out.status, StatusCode::SEE_OTHER);
    let asked = place.ask(request("GET", "/overview").header("cookie", &cookie), Body::empty()).await;
    assert_eq!(asked.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn every_answer_tells_the_browser_what_it_may_not_do() {
    let place = place(|dashboard| dashboard).await;
    let foreign = request("GET", "/").header("via", "a proxy");
    let answers = [
        place.get("/overview").await,
        place.get("/dead").await,
        place.get("/nowhere").await,
        place.get("/style.css").await,
        place.get("/live?page=none").await,
        place.ask(foreign, Body::empty()).await,
        place.post("/pause", &[]).await,
    ];
    for answer in answers {
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{answer:?}");
        assert!(!policy.contains("unsafe-inline") && !policy.contains('*'), "{policy}");
        assert_eq!(answer.header("x-frame-options"), "DENY");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("referrer-policy"), "same-origin");
        assert!(
            !answer.body.contains("<style") && !answer.body.contains(" style=") && !answer.body.contains(" onclick")
        );
    }
}

#[tokio::test]
async fn a_form_of_any_size_is_not_read() {
    let place = place(|dashboard| dashboard).await;
    let large = "x".repeat(100_000);
    assert_eq!(place.post("/replay", &[("kind", &large)]).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    unchanged(&place).await;
}

/// Where the links, forms and files of a page lead.
fn links(page: &str) -> Vec<String> {
    let mut links = Vec::new();
    for name in ["href=\"", "src=\"", "action=\""] {
        links.extend(page.split(name).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.replace("&amp;", "&"))));
    }
    links
}

#[tokio::test]
async fn it_can_be_mounted_anywhere() {
    let place = place(|dashboard| dashboard).await;
    for mount in ["/dawdle", "/ops/queues/dawdle"] {
        let router = Router::new().nest(mount, place.router.clone());
        let get = |path: String| {
            let (router, request) = (router.clone(), request("GET", &path).body(Body::empty()).expect("a request"));
            async move { ask(&router, request).await }
        };
        let moved = get(mount.to_owned()).await;
        let name = mount.rsplit('/').next().expect("a name");
        assert_eq!((moved.status.as_u16(), moved.header("location")), (307, format!("{name}/overview").as_str()));
        for page in
            ["overview", "dead", "dead?view=each", "letter?id=event-0001", "purge?kind=order.paid", "job", "nowhere"]
        {
            let answer = get(format!("{mount}/{page}")).await;
            assert_eq!(answer.status.as_u16(), if page == "nowhere" { 404 } else { 200 }, "{mount}/{page}: {answer:?}");
            let links = links(&answer.body);
            assert!(links.len() > 4, "{links:?}");
            for link in links.iter().filter(|link| !link.starts_with('#')) {
                assert!(!link.starts_with('/') && !link.contains("//"), "{page} leads to {link}");
                let led = get(format!("{mount}/{}", link)).await;
                assert!([200, 405].contains(&led.status.as_u16()), "{page} leads to {link}: {}", led.status);
            }
        }
        let paused = browser("POST", &format!("{mount}/pause"));
        let token = token_in(&get(format!("{mount}/overview")).await.body).expect("a form");
        let answer = ask(&router, paused.body(form(&[("form_token", &token)])).expect("a request")).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "overview?done=paused#node"));
    }
}
