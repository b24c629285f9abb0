//! The dead letters: searched, shown, replayed and purged.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use dawdle::DeadLetter;
use dawdle::backend::Lane;
use dawdle_workbench::text::clean;
use dawdle_workbench::{Group, HANDLERS_OWN, NO_HANDLER, RATES, fingerprint, json, when};
use maud::{Markup, html};

use super::frame::{Frame, Page, token};
use super::job_banner;
use super::shown::{Row, counted, line, number, or_dash, short, table, time};
use crate::dashboard::App;
use crate::guard::Visitor;
use crate::look::{CutShort, Found, MOST_LISTED, NoLook, look, mark_of};
use crate::query::{LOOK, MOST_LOOKED, Query, Wrong};

/// How many letters a second are replayed, where nobody says how many.
const RATE: u32 = 50;

/// How many letters a look through SQS's takes where nobody says how many: ten of them cost two requests.
const LOOK_BILLED: u64 = 200;

/// The longest names that an address or a form names letters by, in bytes. Those of Dawdle's own are shorter.
const LONGEST_NAME: usize = 1_024;

/// How much of a body a page shows, in bytes.
const MOST_SHOWN: usize = 256 * 1024;

pub(crate) async fn dead(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>, uri: Uri) -> Response {
    let query = Query::read(uri.query().unwrap_or_default());
    let each = query.get("view") == Some("each");
    let found = match query.wanted() {
        Err(wrong) => Err(wrong),
        Ok(_) if app.jobs.running().is_some() => Ok(None),
        Ok(wanted) => Ok(Some(look(&app, wanted, look_at(&app, &query)).await)),
    };
    let status = if found.is_err() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    let content = html! {
        h1 { "Dead letters" }
        (job_banner(&app))
        (search(&query, found.as_ref().err()))
        @match &found {
            Err(_) => {}
            Ok(None) => div.card #found {
                p { "Letters can be looked at again once the job has ended." }
            },
            Ok(Some(Err(why))) => div.card #found { (not_looked(why)) },
            Ok(Some(Ok(found))) => (results(&app, &visitor, &query, found, each).await),
        }
        @if app.dawdle.activity().counting_costs {
            p.quiet {
                "Looking is billed: about two requests for ten letters. It hides them from others for as long as it takes, \
                 and gives them back."
            }
        }
    };
    (status, Frame::of(&app, "Dead letters", &visitor, Page::Dead).show(content)).into_response()
}

/// Through how many letters a page looks.
fn look_at(app: &App, query: &Query) -> u64 {
    let usual = if app.dawdle.activity().counting_costs { LOOK_BILLED } else { LOOK };
    query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usual).min(MOST_LOOKED)
}

fn not_looked(why: &NoLook) -> Markup {
    match why {
        NoLook::Busy => html! { p.notice { "Somebody else looks at them. Try again in a moment." } },
        NoLook::Failed(error) => html! { p.notice.bad { strong { "They cannot be looked at: " } (line(error)) } },
    }
}

fn search(query: &Query, wrong: Option<&Wrong>) -> Markup {
    let fields = [
        ("kind", "Kind", "text", ""),
        ("handler", "Handler", "text", "- for none"),
        ("reason", "Reason", "text", "such as attempts, or handler"),
        ("version", "Build", "text", ""),
        ("fingerprint", "Fingerprint", "text", ""),
        ("text", "Part of the id", "text", ""),
        ("since", "Died since", "text", "2h, or 2026-03-01T12:00:00Z"),
        ("limit", "At most", "number", ""),
    ];
    html! {
        section.card aria-labelledby="search-name" {
            h2 #search-name { "Search" }
            @if let Some(wrong) = wrong {
                p.notice.bad #wrong role="alert" { (line(&wrong.why)) }
            }
            form.search method="get" action="dead" role="search" {
                @if query.get("view") == Some("each") { input type="hidden" name="view" value="each"; }
                @for (name, label, kind, hint) in fields {
                    @let is_wrong = wrong.is_some_and(|wrong| wrong.field == name);
                    p.field {
                        label for=(name) { (label) }
                        input #(name) name=(name) type=(kind) value=[query.get(name)] min=[(kind == "number").then_some("1")]
                            placeholder=[(!hint.is_empty()).then_some(hint)]
                            aria-invalid=[is_wrong.then_some("true")] aria-describedby=[is_wrong.then_some("wrong")];
                    }
                }
                p.buttons {
                    button.primary type="submit" { "Search" }
                    a href="dead" { "Clear" }
                }
            }
        }
    }
}

async fn results(app: &App, visitor: &Visitor, query: &Query, found: &Found, each: bool) -> Markup {
    let selection = query.selection();
    let views = html! {
        ul.views aria-label="How they are shown" {
            li { a href=(query.with(&[("view", "")]).to("dead")) aria-current=[(!each).then_some("true")] { "By what they died of" } }
            li { a href=(query.with(&[("view", "each")]).to("dead")) aria-current=[each.then_some("true")] { "Each" } }
        }
    };
    let all = match found.cut_short {
        Some(_) => app.dawdle.inspect(Lane::Dead).await.ok().map(|stats| stats.total()),
        None => None,
    };
    html! {
        section.card #found aria-labelledby="found-name" {
            h2 #found-name { "Found" }
            p role="status" {
                strong { (counted(found.matched, "letter", "letters")) }
                " in " (counted(found.groups.len() as u64, "group", "groups")) "."
                @match found.cut_short {
                    Some(CutShort::Limit(limit)) => {
                        " The look ended at " (number(limit)) ", its limit"
                        @if let Some(all) = all { "; there are " (number(all)) " dead letters in all" }
                        "."
                    },
                    Some(CutShort::Time(patience)) => {
                        " The look ended after " (patience.as_secs()) " s, so there may be more"
                        @if let Some(all) = all { " among the " (number(all)) " in all" }
                        "."
                    },
                    Some(CutShort::Full) => {
                        " The look ended at as many as can be held at once, so there are more"
                        @if let Some(all) = all { " among the " (number(all)) " in all" }
                        "."
                    },
                    None => {}
                }
            }
            @if found.matched == 0 {
                p.quiet { "What somebody else looks at is not found until they give it back." }
            } @else {
                (views)
                @if each { (list(found)) } @else { (groups(visitor, &selection, &found.groups)) }
            }
        }
        @if found.matched > 0 && visitor.form_token.is_some() {
            (all_of_them(visitor, &selection))
        }
    }
}

fn groups(visitor: &Visitor, selection: &Query, groups: &[Group]) -> Markup {
    let may_change = visitor.form_token.is_some();
    let row = |group: &Group| {
        let handler = group.handler.as_deref().unwrap_or_default();
        let these = selection.with(&[
            ("kind", &group.kind),
            ("handler", group.handler.as_deref().unwrap_or(NO_HANDLER)),
            ("fingerprint", &group.fingerprint),
        ]);
        let long = group.kind.len() + handler.len() > LONGEST_NAME;
        let said = match &group.error {
            Some(text) => short(text),
            None => short(&group.reasons.iter().cloned().collect::<Vec<_>>().join(", ")),
        };
        let name = clean(&format!("{} of {} {handler}", counted(group.count, "letter", "letters"), group.kind));
        let mut cells = vec![
            match long {
                true => said,
                false => html! { a href=(these.with(&[("view", "each")]).to("dead")) { (said) } },
            },
            html! { (number(group.count)) },
            short(&group.kind),
            or_dash(group.handler.as_deref()),
            html! { code { (group.fingerprint) } },
            html! { (time(group.first)) br; (time(group.last)) },
            or_dash(
                Some(group.versions.iter().cloned().collect::<Vec<_>>().join(", "))
                    .as_deref()
                    .filter(|all| !all.is_empty()),
            ),
        ];
        if may_change && long {
            cells.push(html! { span.quiet { "Its kind or handler is too long to be chosen by here." } });
        } else if may_change {
            let rate = RATE.to_string();
            cells.push(html! {
                div.buttons {
                    form method="post" action="replay" {
                        (token(visitor)) (hidden(&these.with(&[("rate", &rate)])))
                        button type="submit" aria-label=(format!("Replay {name}")) { "Replay" }
                    }
                    a href=(these.to("purge")) aria-label=(format!("Purge {name}")) { "Purge…" }
                }
            });
        }
        Row { key: group.fingerprint.clone(), cells }
    };
    let mut columns = vec!["Error", ">Count", "Kind", "Handler", "Fingerprint", "First, last (UTC)", "Builds"];
    if may_change {
        columns.push("Do");
    }
    let listed = &groups[..groups.len().min(MOST_LISTED)];
    let caption = html! {
        "Letters by kind, handler and error; errors that differ only in numbers are one."
        @if may_change { " A group is replayed at " (RATE) " letters a second." }
        @if listed.len() < groups.len() { " The " (listed.len()) " largest of " (number(groups.len() as u64)) " groups." }
    };
    table(&caption, &columns, &listed.iter().map(row).collect::<Vec<_>>())
}

fn list(found: &Found) -> Markup {
    let row = |letter: &DeadLetter| Row {
        key: mark_of(letter),
        cells: vec![
            html! { a href=(address(letter)) { (line(letter.id.as_str())) } },
            short(&letter.kind),
            or_dash(letter.handler.as_deref()),
            match &letter.error {
                Some(text) if *text == letter.reason => html! { span.quiet { "the handler’s own" } },
                _ => short(&letter.reason),
            },
            html! { (letter.attempts) },
            time(letter.died_at),
            letter.error.as_deref().map_or_else(|| or_dash(None), short),
        ],
    };
    let shown = found.letters.len() as u64;
    let caption = html! {
        "Letters, the last that died first."
        @if shown < found.matched { " " (number(shown)) " of them; " (number(found.matched - shown)) " more were found." }
    };
    let columns = ["Id", "Kind", "Handler", "Reason", ">Attempts", "Died (UTC)", "Error"];
    table(&caption, &columns, &found.letters.iter().map(row).collect::<Vec<_>>())
}

/// The page of one letter. What is no event may have another id at each look.
fn address(letter: &DeadLetter) -> String {
    selecting(letter).to("letter")
}

fn selecting(letter: &DeadLetter) -> Query {
    let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let long = letter.handler.as_ref().is_some_and(|handler| handler.len() > LONGEST_NAME);
    Query::of(match letter.raw() {
        raw if long || raw.is_some() => vec![named("mark", &mark_of(letter))],
        _ => vec![named("id", letter.id.as_str()), named("of", letter.handler.as_deref().unwrap_or(NO_HANDLER))],
    })
}

fn hidden(query: &Query) -> Markup {
    html! {
        @for (name, value) in query.pairs() {
            input type="hidden" name=(name) value=(value);
        }
    }
}

/// Which letters, in words.
pub(crate) fn in_words(query: &Query) -> String {
    if let Some(id) = query.get("id") {
        return match query.get("of") {
            None => format!("the letter {id}"),
            Some(NO_HANDLER) => format!("the letter {id} of no handler"),
            Some(of) => format!("the letter {id} of {of}"),
        };
    }
    if query.get("mark").is_some() {
        return "one letter that is no event".to_owned();
    }
    let mut said = Vec::new();
    for (name, word) in [
        ("kind", "of the kind"),
        ("handler", "of the handler"),
        ("reason", "with the reason"),
        ("version", "of the build"),
        ("fingerprint", "with the fingerprint"),
        ("text", "whose id has"),
        ("since", "since"),
    ] {
        match (name, query.get(name)) {
            (_, None) => {}
            ("handler", Some(NO_HANDLER)) => said.push("of no handler".to_owned()),
            ("reason", Some(HANDLERS_OWN)) => said.push("with a reason of the handler’s own".to_owned()),
            (_, Some(value)) => said.push(format!("{word} {value}")),
        }
    }
    let all = if said.is_empty() { "all letters".to_owned() } else { format!("letters {}", said.join(", ")) };
    query.get("limit").map_or_else(|| all.clone(), |limit| format!("at most {limit} of {all}"))
}

fn all_of_them(visitor: &Visitor, selection: &Query) -> Markup {
    let words = in_words(selection);
    html! {
        section.card aria-labelledby="all-name" {
            h2 #all-name { "All that match" }
            p { "Also those that were not looked at: " (line(&words)) "." }
            (replay_form(visitor, &selection.with(&[("all", "yes")]), "Replay all that match"))
            p { a.danger href=(selection.to("purge")) { "Purge all that match…" } }
        }
    }
}

fn replay_form(visitor: &Visitor, selection: &Query, name: &str) -> Markup {
    html! {
        form.line method="post" action="replay" {
            (token(visitor)) (hidden(selection))
            label for="rate" { "At most so many a second" }
            input #rate type="number" name="rate" min=(RATES.start()) max=(RATES.end()) step="any" value=(RATE) inputmode="decimal";
            button #replay.primary type="submit" { (name) }
        }
    }
}

/// Everything of one letter.
pub(crate) async fn letter(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>, uri: Uri) -> Response {
    let query = Query::read(uri.query().unwrap_or_default());
    let (status, content) = match query.wanted() {
        _ if app.jobs.running().is_some() => (
            StatusCode::OK,
            html! {
                (job_banner(&app))
                div.card { p { "Letters can be looked at again once the job has ended." } }
            },
        ),
        Err(wrong) => (StatusCode::BAD_REQUEST, html! { div.card { p.notice.bad { (line(&wrong.why)) } } }),
        Ok(wanted) => match look(&app, wanted, MOST_LISTED as u64).await {
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, html! { div.card { (not_looked(&why)) } }),
            Ok(found) if found.letters.is_empty() => (
                StatusCode::NOT_FOUND,
                html! {
                    div.card {
                        p { "There is no such dead letter: it was replayed or purged, or somebody else looks at it." }
                        @match found.cut_short {
                            Some(CutShort::Time(patience)) => {
                                p { "Not all of them were looked at within " (patience.as_secs()) " s." }
                            },
                            Some(CutShort::Full) => p { "Not all of them were looked at: there are more than can be held at once." },
                            Some(CutShort::Limit(_)) | None => {}
                        }
                    }
                },
            ),
            Ok(found) => (
                StatusCode::OK,
                html! { @for (index, letter) in found.letters.iter().enumerate() { (whole(&visitor, letter, index)) } },
            ),
        },
    };
    let content = html! {
        h1 { "Dead letter" }
        (content)
        p { a href="dead" { "To all dead letters" } }
    };
    (status, Frame::of(&app, "Dead letter", &visitor, Page::Dead).show(content)).into_response()
}

fn whole(visitor: &Visitor, letter: &DeadLetter, index: usize) -> Markup {
    let fact = |name: &str, value: Markup| html! { div { dt { (name) } dd { (value) } } };
    let envelope = &letter.envelope;
    let print = fingerprint::of_letter(letter);
    let event = serde_json::to_string(envelope).map(|text| json::pretty(&text)).unwrap_or_default();
    let these = selecting(letter);
    html! {
        section.card aria-labelledby=(format!("letter-{index}")) {
            h2 id=(format!("letter-{index}")) { (line(&letter.kind)) }
            dl.facts {
                (fact("Id", html! { code { (line(letter.id.as_str())) } }))
                (fact("Handler", all_of(letter.handler.as_deref())))
                (fact("Reason", line(&letter.reason)))
                (fact("Fingerprint", html! { a href=(Query::default().with(&[("fingerprint", &print)]).to("dead")) { (print) } }))
                (fact("Attempts", html! { (letter.attempts) }))
                (fact("Signalled", html! { (time(letter.signalled_at)) " UTC" }))
                (fact("Due", html! { (time(letter.due_at)) " UTC" }))
                (fact("Died", html! { (time(letter.died_at)) " UTC" }))
                (fact("Node", all_of(letter.node.as_deref())))
                (fact("Build", all_of(letter.version.as_deref())))
                (fact("Source", line(envelope.source())))
                (fact("Key", all_of(envelope.key())))
                (fact("Group", all_of(envelope.group())))
            }
            h3 { "Error" }
            @match &letter.error {
                Some(text) => (block("Error", text)),
                None => p.quiet { "It has none." },
            }
            @if let Some(raw) = letter.raw() {
                h3 { "Body" }
                (block("Body", raw.body()))
                p.quiet { "It is no event. A replay puts it back as it came." }
            } @else {
                h3 { "Data" }
                @match envelope.data() {
                    Some(data) => (block("Data", &json::pretty(data))),
                    None => p.quiet { "None, or none that is JSON." },
                }
            }
            details {
                summary { "The whole event, with its attributes" }
                (block("The whole event", &event))
            }
        }
        @if visitor.form_token.is_some() {
            section.card aria-labelledby=(format!("do-{index}")) {
                h2 id=(format!("do-{index}")) { "Replay or purge" }
                p {
                    "A replay puts it back on the message queue"
                    @if let Some(handler) = &letter.handler { ", for " (line(handler)) " only" }
                    ", its attempts starting afresh."
                }
                form.line method="post" action="replay" {
                    (token(visitor)) (hidden(&these))
                    button.primary id=(format!("replay-{index}")) type="submit" { "Replay" }
                    a.danger href=(these.to("purge")) { "Purge…" }
                }
            }
        }
    }
}

/// A text however long it is, or a dash.
fn all_of(text: Option<&str>) -> Markup {
    text.map_or_else(|| or_dash(None), line)
}

fn block(name: &str, text: &str) -> Markup {
    let mut end = text.len().min(MOST_SHOWN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    html! {
        // It scrolls, so it can be reached by the keyboard.
        pre tabindex="0" role="region" aria-label=(name) { (clean(&text[..end])) }
        @if end < text.len() { p.quiet { "The first " (number(end as u64)) " of " (number(text.len() as u64)) " bytes." } }
    }
}

/// Asks before letters are deleted.
pub(crate) async fn purge(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>, uri: Uri) -> Response {
    let query = Query::read(uri.query().unwrap_or_default());
    let selection = query.selection();
    if visitor.form_token.is_none() {
        let text = "This is for reading only: nothing can be purged.";
        return (StatusCode::FORBIDDEN, super::message(&app, "Not allowed", text)).into_response();
    }
    let wanted = match selection.wanted() {
        Ok(wanted) => wanted,
        Err(wrong) => {
            return (StatusCode::BAD_REQUEST, super::message(&app, "That cannot be", &wrong.why)).into_response();
        }
    };
    if app.jobs.running().is_some() {
        let text = "A replay or a purge is under way. One thing is done at a time: try again once it has ended.";
        return (StatusCode::CONFLICT, super::message(&app, "Not now", text)).into_response();
    }
    let is_all = wanted.is_all();
    // What dies while the question stands was not asked about.
    let asked_at = when::exact(app.dawdle.dead_letters().now().await);
    let asked = selection.with(&[("before", &asked_at)]);
    let found = look(&app, asked.wanted().unwrap_or(wanted), look_at(&app, &selection)).await;
    let content = match &found {
        Err(why) => not_looked(why),
        Ok(found) if found.matched == 0 => html! {
            p { "No dead letter matches: " (line(&in_words(&selection))) "." }
        },
        Ok(found) => {
            let count = counted(found.matched, "letter", "letters");
            let at_least = if found.cut_short.is_some() && selection.get("limit").is_none() { "at least " } else { "" };
            let mut form = asked.with(&[("sure", "yes")]);
            if is_all {
                form = form.with(&[("all", "yes")]);
            }
            html! {
                p {
                    strong { "Delete " (at_least) (count) " for good?" }
                    " These are " (line(&in_words(&selection))) ". What dies from now on stays."
                }
                ul {
                    @for group in found.groups.iter().take(10) {
                        li {
                            (number(group.count)) " of " (short(&group.kind))
                            @if let Some(handler) = &group.handler { ", " (short(handler)) }
                            @if let Some(text) = &group.error { ": " (short(text)) }
                        }
                    }
                    @if found.groups.len() > 10 { li { "and " (found.groups.len() - 10) " groups more" } }
                }
                form.line method="post" action="purge" {
                    (token(&visitor)) (hidden(&form))
                    button #purge.danger type="submit" { "Delete " (at_least) (count) " for good" }
                    a href=(selection.to(if selection.get("id").or(selection.get("mark")).is_some() { "letter" } else { "dead" })) { "Leave them" }
                }
            }
        }
    };
    let content = html! {
        h1 { "Purge" }
        section.card aria-label="Purge" { (content) }
        p { a href="dead" { "To all dead letters" } }
    };
    Frame::of(&app, "Purge", &visitor, Page::Dead).show(content).into_response()
}
