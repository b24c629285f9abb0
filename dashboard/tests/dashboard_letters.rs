//! Dead letters on the page: searched, shown, replayed and purged.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use dawdle::backend::Lane;
use serde_json::{Value, json};

use common::{Place, browser, form, id, letter};

mod common;

/// The text of the cells of each row of a page's table.
fn rows(page: &str) -> Vec<Vec<String>> {
    let body = page.split("<tbody").nth(1).unwrap_or_default().split("</tbody>").next().unwrap_or_default();
    let cells = |row: &str| {
        let cells = row.split("data-label=").skip(1);
        cells.map(|cell| text(&cell[cell.find('>').map_or(0, |at| at + 1)..])).collect()
    };
    body.split("<tr").skip(1).map(cells).collect()
}

/// What is left of markup without its tags, up to where a tag was begun.
fn text(markup: &str) -> String {
    let mut parts = markup.split('<');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.split_once('>').map_or("", |(_, text)| text));
    }
    text
}

#[tokio::test]
async fn letters_that_died_of_the_same_are_one_group() {
    let place = Place::letters(30).await;
    let page = place.get("/dead").await.body;
    assert!(page.contains("<strong>30 letters</strong> in 2 groups."), "{page}");
    let groups: Vec<_> = rows(&page).into_iter().map(|row| row[1..4].to_vec()).collect();
    assert_eq!(groups, [["20", "mail.send", "receipt"], ["10", "order.paid", "charge"]]);
}

#[tokio::test]
async fn each_field_of_the_search_leaves_out_what_it_does_not_name() {
    let place = Place::letters(30).await;
    let print = rows(&place.get("/dead").await.body)[1][4].clone();
    for (query, count) in [
        ("kind=order.paid", 10),
        ("handler=receipt", 20),
        ("reason=attempts", 15),
        ("version=1.1", 15),
        (&format!("fingerprint={print}"), 10),
        ("text=-000", 9),
        ("since=2026-01-22T00:00:00Z", 1),
        ("limit=7", 7),
        ("kind=order.paid&reason=attempts&limit=3", 3),
        ("kind=&handler=&since=&limit=", 30),
        ("kind=nobody.knows", 0),
    ] {
        let page = place.get(&format!("/dead?view=each&{query}")).await.body;
        assert_eq!(rows(&page).len(), count, "{query}");
    }
}

#[tokio::test]
async fn a_field_that_cannot_be_read_is_told_beside_it() {
    let place = Place::letters(3).await;
    for (field, value) in [("since", "yesterday"), ("limit", "0"), ("limit", "many")] {
        let answer = place.get(&format!("/dead?{field}={value}&kind=order.paid")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{field}");
        let input = answer.body.split(&format!(r#"<input id="{field}""#)).nth(1).expect("the field");
        let input = input.split('>').next().expect("its end");
        assert!(input.contains(r#"aria-invalid="true""#) && input.contains(r#"aria-describedby="wrong""#), "{input}");
        assert!(answer.body.contains(r#"value="order.paid""#), "what was right is kept");
    }
}

#[tokio::test]
async fn a_page_lists_so_many_and_says_how_many_more_there_are() {
    let place = Place::letters(1_234).await;
    let page = place.get("/dead?view=each").await.body;
    assert_eq!(rows(&page).len(), 200);
    assert!(page.contains("1,000 letters") && page.contains("there are 1,234 dead letters in all"), "the look's end");
    assert!(page.contains("200 of them; 800 more were found."), "the list's end");
    let page = place.get("/dead?view=each&limit=5000").await.body;
    assert!(page.contains("1,234 letters") && page.contains("200 of them; 1,034 more were found."));
}

#[tokio::test]
async fn a_look_leaves_every_letter_where_it_is() {
    let place = Place::letters(12).await;
    for path in ["/dead", "/dead?view=each", "/dead?kind=order.paid", "/letter?id=event-0003", "/purge?kind=order.paid"]
    {
        assert_eq!(place.get(path).await.status, StatusCode::OK);
        let stats = place.stats(Lane::Dead).await;
        assert_eq!((stats.visible, stats.in_flight), (12, 0), "{path}");
    }
    assert!(place.audit().is_empty());
}

#[tokio::test]
async fn a_letter_is_shown_with_everything_of_it() {
    let place = Place::letters(3).await;
    let page = place.get(&format!("/letter?id={}&of=charge", id(3))).await.body;
    for shown in [
        id(3).as_str(),
        "order.paid",
        "charge",
        "gone",
        "card 3 was refused",
        "2026-01-02 03:04:05",
        "2026-01-06 00:00:00",
        "shop",
        "&quot;order&quot;: 3",
        "deadversion",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    let gone = place.get("/letter?id=event-9999").await;
    assert!(gone.status == StatusCode::NOT_FOUND && gone.body.contains("no such dead letter"));
    assert_eq!(place.get("/letter?mark=nonsense").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn hostile_text_is_text() {
    let place = Place::letters(0).await;
    let hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u{202e}\u{1b}[2J";
    let mut body = letter(3);
    for field in ["deaderror", "deadreason", "deadversion", "type", "source", "handler", "dedupkey", "group"] {
        body[field] = json!(hostile);
    }
    body["data"] = json!({ "note": hostile });
    place.put([body.to_string(), format!("no event {hostile}")]).await;
    let handler: String = form_urlencoded::byte_serialize(hostile.as_bytes()).collect();
    let mark = place.get("/dead?view=each").await.body;
    let mark =
        mark.split("letter?mark=").nth(1).expect("what is no event").split('"').next().expect("its end").to_owned();
    for path in [
        "/dead".to_owned(),
        "/dead?view=each".to_owned(),
        format!("/dead?kind={handler}&since={handler}"),
        format!("/dead?kind={handler}&handler={handler}"),
        format!("/letter?id={}&of={handler}", id(3)),
        format!("/letter?mark={mark}"),
        format!("/letter?id={handler}"),
        format!("/purge?kind={handler}"),
        format!("/overview?done={handler}"),
    ] {
        let page = place.get(&path).await.body;
        for bad in ["<script>alert", "<img"] {
            assert!(!page.contains(bad), "{path}: {bad}: {page}");
        }
        // What a form brings back is to the letter.
        let seen = page.split(r#" value=""#).map(|part| part.split_once('"').map_or(part, |(_, seen)| seen));
        let seen: Vec<&str> = page.split(r#" value=""#).take(1).chain(seen.skip(1)).collect();
        for bad in ["\u{202e}", "\u{1b}"] {
            assert!(!seen.concat().contains(bad), "{path}: {bad:?}: {page}");
        }
    }
    let page = place.get("/dead").await.body;
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "it is shown all the same: {page}");
}

#[tokio::test]
async fn names_of_any_length_make_no_page_large() {
    let place = Place::letters(0).await;
    let long = "k".repeat(100_000);
    let bodies = (1..=20).map(|number| {
        let mut body = letter(number);
        for field in ["type", "handler", "deadreason", "deaderror", "deadversion", "source"] {
            body[field] = json!(format!("{number}{long}"));
        }
        body.to_string()
    });
    place.put(bodies).await;
    for path in ["/dead", "/dead?view=each", "/purge"] {
        let page = place.get(path).await;
        assert_eq!(page.status, StatusCode::OK);
        assert!(page.body.len() < 100_000, "{path}: {} bytes", page.body.len());
    }
    let page = place.get("/dead?view=each").await.body;
    let mark = page.split("letter?mark=").nth(1).expect("a link").split('"').next().expect("its end").to_owned();
    assert_eq!(place.get(&format!("/letter?mark={mark}")).await.status, StatusCode::OK);
    place.post("/replay", &[("mark", &mark)]).await;
    assert!(place.job().await.contains("1 replayed"));
}

#[tokio::test]
async fn what_is_no_event_is_shown_and_replayed_as_it_came() {
    let place = Place::letters(3).await;
    place.put(["from another program".to_owned()]).await;
    let page = place.get("/dead?view=each&kind=dawdle.undecodable").await.body;
    let address =
        page.split("href=\"letter?mark=").nth(1).expect("a link").split('"').next().expect("its end").to_owned();
    for _ in 0..2 {
        assert!(place.get(&format!("/letter?mark={address}")).await.body.contains("from another program"));
    }
    let begun = place.post("/replay", &[("mark", &address)]).await;
    assert_eq!((begun.status, begun.header("location")), (StatusCode::SEE_OTHER, "job"));
    assert!(place.job().await.contains("<strong>Done</strong>: 1 replayed."));
    let taken = dawdle::backend::Backend::browse(&*place.queue, Lane::Message, 10, Duration::from_secs(1)).await;
    assert_eq!(taken.expect("a look")[0].body, "from another program");
    assert_eq!(place.stats(Lane::Dead).await.visible, 3);
}

#[tokio::test]
async fn a_group_is_replayed_each_for_the_handler_that_failed() {
    let place = Place::letters(30).await;
    let begun = place.post("/replay", &[("kind", "order.paid"), ("handler", "charge"), ("rate", "1000")]).await;
    assert_eq!(begun.status, StatusCode::SEE_OTHER, "{}", begun.body);
    let page = place.job().await;
    assert!(page.contains("<strong>Done</strong>: 10 replayed.") && page.contains("at most 1000 a second"), "{page}");
    assert_eq!(place.stats(Lane::Dead).await.visible, 20);
    let events = place.events(Lane::Message).await;
    assert!(events.len() == 10 && events.iter().all(|event| event["handler"] == "charge"), "{events:?}");
    let noted = json!([["ann@desk", "replay", "begun", null], ["ann@desk", "replay", "done", 10]]);
    assert_eq!(json!(place.audit()), noted);
}

#[tokio::test]
async fn one_letter_is_replayed_alone() {
    let place = Place::letters(3).await;
    place.post("/replay", &[("id", &id(2)), ("of", "receipt")]).await;
    assert!(place.job().await.contains("1 replayed"));
    assert_eq!(place.events(Lane::Message).await[0]["id"], json!(id(2)));
    assert_eq!(place.stats(Lane::Dead).await.visible, 2);
}

/// Two letters of one event and error: one of a handler, and one of none.
async fn with_and_without_a_handler() -> Place {
    let place = Place::letters(0).await;
    let mut of_none = letter(3);
    of_none.as_object_mut().expect("an object").remove("handler");
    place.put([letter(3).to_string(), of_none.to_string()]).await;
    place
}

/// The fields that a form of a page would send, given what is in front of it.
fn fields_after(page: &str, mark: &str) -> Vec<(String, String)> {
    let form = page.split(mark).nth(1).expect(mark).split("</form>").next().expect("its end");
    let value = |input: &str, name: &str| {
        let value = input.split(&format!("{name}=\"")).nth(1)?.split('"').next()?;
        Some(value.to_owned())
    };
    let fields = form.split("<input").skip(1).filter_map(|input| Some((value(input, "name")?, value(input, "value")?)));
    fields.filter(|(name, _)| name != "form_token").collect()
}

#[tokio::test]
async fn a_group_of_no_handler_is_replayed_and_no_other() {
    let place = with_and_without_a_handler().await;
    let page = place.get("/dead").await.body;
    let groups = page.split("<tr").find(|row| row.contains("<form") && row.contains(r#"name="handler" value="-""#));
    let fields = fields_after(groups.expect("the group of no handler"), "<form");
    let fields: Vec<_> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    place.post("/replay", &fields).await;
    let job = place.job().await;
    assert!(job.contains("1 replayed") && job.contains("of no handler"), "{job}");
    let events = place.events(Lane::Message).await;
    assert!(events.len() == 1 && events[0].get("handler").is_none(), "{events:?}");
    assert_eq!(rows(&place.get("/dead?view=each").await.body)[0][2], "charge", "it is where it was");
}

#[tokio::test]
async fn a_letter_of_no_handler_is_purged_and_no_other() {
    let place = with_and_without_a_handler().await;
    let page = place.get("/dead?view=each&handler=-").await.body;
    assert_eq!(rows(&page).len(), 1);
    let address = page.split("href=\"letter?").nth(1).expect("a link").split('"').next().expect("its end");
    let address = address.replace("&amp;", "&");
    let shown = place.get(&format!("/letter?{address}")).await.body;
    assert_eq!(shown.matches("Replay or purge").count(), 1, "one letter");
    let question = place.get(&format!("/purge?{address}")).await.body;
    assert!(question.contains("Delete 1 letter for good?"), "{question}");
    let fields = fields_after(&question, r#"action="purge""#);
    let fields: Vec<_> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    place.post("/purge", &fields).await;
    assert!(place.job().await.contains("1 purged"));
    assert_eq!(rows(&place.get("/dead?view=each").await.body)[0][2], "charge");
}

#[tokio::test]
async fn reasons_of_the_handlers_own_can_be_searched_for() {
    let place = Place::letters(30).await;
    let page = place.get("/dead?view=each&reason=handler").await.body;
    assert_eq!(rows(&page).len(), 15);
    assert!(rows(&page).iter().all(|row| row[3] == "gone"), "{page}");
}

#[tokio::test]
async fn a_page_says_when_there_are_more_letters_than_can_be_held() {
    let place = Place::letters(600).await;
    let letters = place.dawdle.dead_letters();
    letters.hold_at_most(401);
    let page = place.get("/dead?view=each&handler=receipt").await.body;
    assert!(page.contains("as many as can be held at once, so there are more among the 600 in all"));
    // What is not asked for makes room.
    let page = place.get("/dead?view=each&handler=charge").await.body;
    assert!(page.contains("<strong>200 letters</strong>") && !page.contains("The look ended"));
    place.post("/replay", &[("handler", "receipt"), ("rate", "100000")]).await;
    let job = place.job().await;
    assert!(job.contains("<strong>Done</strong>: 400 replayed."), "{job}");
    assert_eq!(place.stats(Lane::Dead).await.visible, 200);
}

#[tokio::test]
async fn which_letters_must_be_said() {
    let place = Place::letters(3).await;
    for (path, fields) in [
        ("/replay", &[][..]),
        ("/replay", &[("rate", "5")]),
        ("/replay", &[("limit", "2")]),
        ("/purge", &[("sure", "yes")]),
        ("/replay", &[("kind", "order.paid"), ("rate", "0")]),
        ("/replay", &[("kind", "order.paid"), ("rate", "inf")]),
        ("/replay", &[("id", "")]),
    ] {
        assert_eq!(place.post(path, fields).await.status, StatusCode::BAD_REQUEST, "{path} {fields:?}");
    }
    assert_eq!((place.stats(Lane::Dead).await.visible, place.audit().len()), (3, 0));
    place.post("/replay", &[("all", "yes")]).await;
    assert!(place.job().await.contains("3 replayed"));
}

#[tokio::test]
async fn a_purge_asks_first_and_leaves_what_died_since() {
    let place = Place::letters(30).await;
    let asked = place.post("/purge", &[("kind", "order.paid")]).await;
    assert_eq!((asked.status, asked.header("location")), (StatusCode::SEE_OTHER, "purge?kind=order.paid"));
    assert_eq!(place.stats(Lane::Dead).await.visible, 30, "nobody was sure");
    let question = place.get("/purge?kind=order.paid").await.body;
    assert!(question.contains("Delete 10 letters for good?"), "{question}");
    let before = question.split(r#"name="before" value=""#).nth(1).expect("a time").split('"').next().expect("its end");
    let mut late = letter(33);
    late["deadtime"] = json!("2099-01-01T00:00:00.000Z");
    place.put([late.to_string()]).await;
    let begun = place.post("/purge", &[("kind", "order.paid"), ("before", before), ("sure", "yes")]).await;
    assert_eq!(begun.status, StatusCode::SEE_OTHER, "{}", begun.body);
    assert!(place.job().await.contains("<strong>Done</strong>: 10 purged."));
    assert_eq!(place.stats(Lane::Dead).await.visible, 21);
    assert!(place.events(Lane::Message).await.is_empty());
    assert_eq!(place.audit()[1], json!(["ann@desk", "purge", "done", 10]));
}

#[tokio::test]
async fn what_cannot_be_noted_is_not_done() {
    let place = Place::with(true, |dashboard| dashboard.audit_log("/proc/nowhere/audit.jsonl")).await;
    place.bury(1..=3).await;
    for (path, fields) in [
        ("/replay", &[("all", "yes")][..]),
        ("/purge", &[("all", "yes"), ("sure", "yes")]),
        ("/pause", &[]),
        ("/concurrency", &[("concurrency", "3")]),
    ] {
        let answer = place.post(path, fields).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(answer.body.contains("/proc/nowhere/audit.jsonl"), "{}", answer.body);
    }
    assert_eq!(place.stats(Lane::Dead).await.visible, 3);
    assert!(!place.dawdle.is_paused() && place.dawdle.concurrency() != 3);
}

#[tokio::test]
async fn a_job_goes_on_alone_and_can_be_stopped() {
    let place = Place::letters(30).await;
    // The request is long over.
    assert_eq!(place.post("/replay", &[("all", "yes"), ("rate", "20")]).await.status, StatusCode::SEE_OTHER);
    let page = place.get("/job").await.body;
    assert!(page.contains("Under way") && page.contains("of 30 at most") && page.contains("http-equiv=\"refresh\""));
    let token = common::token_in(&page).expect("a form");
    let second = form(&[("form_token", &token), ("all", "yes")]);
    let post = |path: &str, body: Body| place.ask(browser("POST", path), body);
    assert_eq!(post("/replay", second).await.status, StatusCode::CONFLICT, "one at a time");
    assert!(place.get("/dead").await.body.contains("once the job has ended"));
    assert!(place.get("/overview").await.body.contains("Replay under way"));
    let stopped = post("/stop", form(&[("form_token", &token)])).await;
    assert_eq!(stopped.header("location"), "job");
    let page = place.job().await;
    assert!(page.contains("<strong>Stopped</strong>"), "{page}");
    let (stops, audit): (Vec<_>, Vec<_>) = place.audit().into_iter().partition(|line| line[1] == "stop");
    let done = audit[1][3].as_u64().expect("a count");
    assert_eq!((audit.len(), &audit[1][2]), (2, &json!("interrupted")));
    assert!(done < 30, "{done}");
    assert_eq!(json!(stops), json!([["ann@desk", "stop", "begun", null], ["ann@desk", "stop", "done", 0]]));
    let left = place.stats(Lane::Dead).await;
    assert_eq!((left.visible, left.in_flight), (30 - done, 0), "given back");
}

#[tokio::test]
async fn a_process_that_ends_stops_its_job_and_notes_it() {
    let place = Place::letters(30).await;
    place.post("/replay", &[("all", "yes"), ("rate", "10")]).await;
    place.stop.stop().await;
    let audit: Vec<Value> = place.audit();
    assert_eq!((audit.len(), &audit[1][2]), (2, &json!("interrupted")));
    let stats = place.stats(Lane::Dead).await;
    assert_eq!(stats.in_flight, 0);
    let refused = place.post("/replay", &[("all", "yes")]).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "nothing more is begun");
}

#[tokio::test]
async fn a_look_that_nobody_waits_for_gives_back_what_it_holds() {
    let place = Place::letters(500).await;
    for _ in 0..20 {
        let _ = tokio::time::timeout(Duration::from_millis(3), place.get("/dead")).await;
    }
    common::until("given back", || async {
        let stats = place.stats(Lane::Dead).await;
        (stats.visible, stats.in_flight) == (500, 0)
    })
    .await;
}
