//! The job that is under way, or the last one.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use dawdle_workbench::when;
use maud::{Markup, html};

use super::frame::{Frame, Page, token};
use super::shown::{line, number, time};
use crate::dashboard::App;
use crate::guard::Visitor;
use crate::jobs::{Job, What};

/// Every how many seconds the page of one that is under way is loaded anew where there is no script.
const REFRESH: u32 = 2;

pub(crate) async fn job(State(app): State<Arc<App>>, Extension(visitor): Extension<Visitor>) -> Response {
    let running = app.jobs.running().is_some();
    let content = html! {
        h1 { "Job" }
        (part(&app, &visitor))
        p { a href="dead" { "To the dead letters" } }
    };
    let frame = Frame::of(&app, "Job", &visitor, Page::Job).live("job", running.then_some(REFRESH));
    frame.show(content).into_response()
}

fn name(what: What) -> &'static str {
    match what {
        What::Replay => "Replay",
        What::Purge => "Purge",
    }
}

/// What changes by itself.
pub(crate) fn part(app: &App, visitor: &Visitor) -> Markup {
    html! {
        section.card #job aria-labelledby="job-name" {
            @match app.jobs.last() {
                None => { h2 #job-name { "None yet" } p { "Nothing was replayed or purged from this page since the start." } }
                Some(job) => (shown(&job, visitor)),
            }
        }
    }
}

fn shown(job: &Job, visitor: &Visitor) -> Markup {
    let progress = job.progress();
    let swept = &progress.swept;
    let gone_through = swept.done + swept.failed;
    let fact = |name: &str, value: Markup| html! { div { dt { (name) } dd { (value) } } };
    html! {
        h2 #job-name { (name(job.what)) " of " (line(&job.which)) }
        p role="status" {
            strong {
                @match &progress.ended {
                    None if job.is_stopping() => "Stopping",
                    None => "Under way",
                    Some(ended) => @match ended.outcome {
                        "interrupted" => "Stopped",
                        "failed" => "Failed",
                        _ => "Done",
                    },
                }
            }
            @if progress.ended.is_some() { ": " (number(swept.done)) " " (job.what.done()) "." }
        }
        @if progress.ended.is_none() {
            p {
                @match job.at_most {
                    Some(most) => progress max=(most.max(gone_through).max(1)) value=(gone_through) aria-label="Progress" {},
                    None => progress aria-label="Progress" {},
                }
            }
        }
        dl.facts {
            (fact("Letters", html! {
                (number(swept.done)) " " (job.what.done()) ", " (number(swept.failed)) " failed"
                @if let (Some(most), None) = (job.at_most, &progress.ended) { ", of " (number(most)) " at most" }
            }))
            (fact("Rate", html! {
                @match job.rate {
                    Some(rate) => { "at most " (rate) " a second" }
                    None => "as fast as it goes",
                }
            }))
            (fact("Begun", html! { (time(job.begun_at)) " UTC by " (line(&job.who)) }))
            (fact("Took", html! {
                (when::rough(progress.ended.as_ref().map_or_else(|| job.running_for(), |ended| ended.took)))
            }))
        }
        @if let Some(error) = &swept.error {
            p.notice.bad { strong { "Error: " } (line(error)) ". Those that are left are where they were." }
        }
        @if let Some(error) = progress.ended.as_ref().and_then(|ended| ended.unnoted.as_deref()) {
            p.notice.bad { strong { "Its end was not noted: " } (line(error)) }
        }
        @if progress.ended.is_none() {
            p.quiet { "It goes on when this page is closed. Letters that die meanwhile stay." }
            @if visitor.form_token.is_some() && !job.is_stopping() {
                form method="post" action="stop" data-key="stop" {
                    (token(visitor))
                    button #stop type="submit" { "Stop" }
                }
            }
        }
    }
}

/// One line about it, on the other pages.
pub(crate) fn banner(app: &App) -> Markup {
    html! {
        div #banner {
            @if let Some(job) = app.jobs.running() {
                p.notice {
                    strong { (name(job.what)) " under way: " }
                    (number(job.progress().swept.done)) " " (job.what.done()) " so far. "
                    a href="job" { "Watch or stop it" }
                }
            }
        }
    }
}
