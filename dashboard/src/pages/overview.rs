//! The overview: the queues, this node, its handlers and their failures, and what is spent.

use axum::response::Html;
use dawdle::backend::Lane;
use dawdle::{FailedRun, HandlerActivity, QueueState};
use dawdle_workbench::when;
use maud::{Markup, html};

use super::frame::{Frame, Page, token};
use super::job_banner;
use super::shown::{self, Row, counted, growth, latency, line, number, or_dash, percent, rate, sparkline, table, time};
use crate::dashboard::App;
use crate::guard::Visitor;
use crate::query::Query;
use crate::sampler::{Queue, View};

/// Every how many seconds it is loaded anew where there is no script.
const REFRESH: u32 = 10;

/// How many failures it shows.
const FAILURES: usize = 20;

/// Dollars for a million requests of a standard queue, as in most regions:
/// <https://aws.amazon.com/sqs/pricing/>.
const DOLLARS_A_MILLION: f64 = 0.40;

pub(crate) async fn page(app: &App, visitor: &Visitor, query: &Query) -> Html<String> {
    let view = app.sampler.look().await;
    let refreshes = query.get("refresh") != Some("off");
    let done = query.get("done").and_then(|done| match done {
        "paused" => Some("This node is paused: it begins no more handlers."),
        "resumed" => Some("This node is resumed."),
        "concurrency" => Some("The concurrency was changed."),
        _ => None,
    });
    let content = html! {
        h1 { "Overview" }
        @if let Some(done) = done {
            p.notice.good role="status" { strong { "Done. " } (done) }
        }
        noscript {
            p.quiet {
                @if refreshes {
                    "This page is loaded anew every " (REFRESH) " seconds. " a href="overview?refresh=off" { "Stop that" }
                } @else {
                    "This page stays as it is. " a href="overview" { "Load it anew every " (REFRESH) " seconds" }
                }
            }
        }
        @for part in parts(app, visitor, &view) { (part) }
        @if visitor.form_token.is_some() && view.handlers > 0 {
            (concurrency_form(&view, visitor))
        }
    };
    let frame = Frame::of(app, "Overview", visitor, Page::Overview);
    frame.live("overview", refreshes.then_some(REFRESH)).show(content)
}

/// What changes by itself; each has an id.
pub(crate) fn parts(app: &App, visitor: &Visitor, view: &View) -> Vec<Markup> {
    vec![job_banner(app), queues(view), node(view, visitor), handlers(view), failures(view), spend(view)]
}

fn queues(view: &View) -> Markup {
    let row = |queue: &Queue| {
        let stat = |stat: fn(&dawdle::backend::LaneStats) -> u64| match &queue.stats {
            Some(stats) => html! { (number(stat(stats))) },
            None => or_dash(None),
        };
        let name = shown::lane(queue.lane);
        let of_node = |rate_of: fn(&crate::sampler::Rates) -> f64| match (&view.rates, queue.lane) {
            (Some(rates), Lane::Message) => html! { (rate(rate_of(rates))) },
            _ => or_dash(None),
        };
        let name = html! {
            @match queue.lane {
                Lane::Dead => a href="dead" { (name) },
                _ => (name),
            }
            @if let Some(error) = &queue.error {
                p.notice.bad { strong { "Not counted: " } (line(error)) }
            }
        };
        Row {
            key: shown::lane(queue.lane).to_owned(),
            cells: vec![
                name,
                stat(|stats| stats.visible),
                stat(|stats| stats.in_flight),
                stat(|stats| stats.delayed),
                match queue.stats.and_then(|stats| stats.oldest) {
                    Some(age) => html! { (when::rough(age)) },
                    None => or_dash(None),
                },
                of_node(|rates| rates.signalled),
                of_node(|rates| rates.received),
                queue.growth.map_or_else(|| or_dash(None), |rate| html! { (growth(rate)) }),
                sparkline(&queue.depths, shown::lane(queue.lane)),
            ],
        }
    };
    let caption = html! {
        "Messages by queue. Rates are a second, over the last minute: in and out are what this process signals and receives, \
         growth is of the whole queue."
    };
    let columns =
        ["Queue", ">Waiting", ">In flight", ">Delayed", ">Oldest", ">In /s", ">Out /s", ">Growth /s", "Depth of late"];
    let rows: Vec<Row> = view.queues.iter().map(row).collect();
    html! {
        section.card #queues aria-labelledby="queues-name" {
            h2 #queues-name { "Queues" }
            @if rows.is_empty() {
                p { "The queues have not answered yet." }
            } @else {
                (table(&caption, &columns, &rows))
            }
            p.quiet {
                (line(&view.activity.backend)) ". "
                @if let Some(at) = view.counted_at { "Counted at " (time(at)) " UTC, " } @else { "Counted " }
                "every " (view.count_every.as_secs()) " s while somebody looks"
                @if view.activity.counting_costs {
                    ": each count is a request for each queue, which SQS bills. Its counts are approximate, and up to a minute old"
                }
                "."
            }
        }
    }
}

/// How the node is, in a word, a mark and a class.
fn state(view: &View) -> (&'static str, &'static str, &'static str) {
    let backs_off = view.health.queues.iter().any(|queue| matches!(queue.state, QueueState::BackingOff { .. }));
    match () {
        () if view.handlers == 0 => ("No handlers here", "○", "idle"),
        () if view.paused => ("Paused", "❚❚", "idle"),
        () if backs_off => ("Backing off", "▲", "bad"),
        () if view.listening => ("Running", "●", "good"),
        () => ("Stopped", "■", "idle"),
    }
}

fn node(view: &View, visitor: &Visitor) -> Markup {
    let activity = &view.activity;
    let (word, mark, class) = state(view);
    html! {
        section.card #node aria-labelledby="node-name" {
            h2 #node-name { "This node" }
            p.state.(class) { span.mark aria-hidden="true" { (mark) } " " strong { (word) } }
            @for queue in &view.health.queues {
                @if let QueueState::BackingOff { since, failures, error } = &queue.state {
                    p.notice.bad {
                        strong { "The " (queue.lane) " has failed since " (time(*since)) " UTC" }
                        ", " (counted(u64::from(*failures), "time", "times")) ": " (line(&error.to_string()))
                    }
                }
            }
            @for held_up in &view.health.held_up {
                p.notice.bad {
                    strong { "The " (held_up.lane) " cannot be written to since " (time(held_up.since)) " UTC" }
                    ", " (counted(held_up.writes as u64, "message waits", "messages wait")) ": " (line(&held_up.error.to_string()))
                }
            }
            @if view.handlers == 0 {
                p {
                    "No handlers run in this process, so it has no latencies, failures or permits to show. Mount the dashboard in \
                     the application to see those of a node."
                }
            }
            dl.facts {
                (fact("Node", &line(&activity.node)))
                @if let Some(version) = &activity.version { (fact("Build", &line(version))) }
                @if view.handlers > 0 {
                    (fact("Handlers", &html! { (view.handlers) }))
                    (fact("Permits in use", &permits(view)))
                    (fact("Messages in flight", &html! { (number(activity.in_flight as u64)) }))
                    (fact("Runs a second", &view.rates.map_or_else(|| or_dash(None), |rates| html! { (rate(rates.runs)) })))
                    @if let Some(at) = view.health.queue(Lane::Message).and_then(|queue| queue.last_receive) {
                        (fact("Last received", &html! { (time(at)) " UTC" }))
                    }
                }
                (fact("Waiting to be sent", &html! { (number(activity.send_buffer as u64)) }))
                (fact("Signalled here", &html! { (number(activity.signalled)) }))
                (fact("Received here", &html! { (number(activity.received)) }))
            }
            @if visitor.form_token.is_some() && view.handlers > 0 {
                @if view.paused {
                    form method="post" action="resume" data-key="resume" {
                        (token(visitor))
                        button #resume.primary type="submit" { "Resume this node" }
                    }
                } @else {
                    form method="post" action="pause" data-key="pause" {
                        (token(visitor))
                        button #pause type="submit" { "Pause this node" }
                        span.quiet { " It begins no more handlers then; what runs goes on." }
                    }
                }
            }
        }
    }
}

fn fact(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn permits(view: &View) -> Markup {
    let (running, all) = (view.activity.running, view.activity.concurrency);
    html! {
        meter min="0" max=(all) value=(running.min(all)) aria-label="Permits in use" {}
        " " (number(running as u64)) " of " (number(all as u64)) " (" (percent(running as u64, all as u64)) ")"
    }
}

/// Apart from what changes by itself: somebody may be writing in it.
fn concurrency_form(view: &View, visitor: &Visitor) -> Markup {
    html! {
        section.card #controls aria-labelledby="controls-name" {
            h2 #controls-name { "Concurrency" }
            form.line method="post" action="concurrency" {
                (token(visitor))
                label for="concurrency" { "Handlers at once on this node" }
                input #concurrency type="number" name="concurrency" min="1" max="1000000" required inputmode="numeric"
                    value=(view.activity.concurrency) aria-describedby="concurrency-note";
                button type="submit" { "Change" }
            }
            p.quiet #concurrency-note { "Until this process ends. What runs goes on; each handler's own limit stays." }
        }
    }
}

fn handlers(view: &View) -> Markup {
    let row = |handler: &HandlerActivity| {
        let quantile = |quantile: Option<_>| quantile.map_or_else(|| or_dash(None), |span| html! { (latency(span)) });
        let failed = html! {
            @if handler.failed > 0 {
                strong.bad { (percent(handler.failed, handler.runs)) } " (" (number(handler.failed)) ")"
            } @else {
                (percent(0, handler.runs))
            }
        };
        Row {
            key: format!("{} {}", handler.kind, handler.handler),
            cells: vec![
                line(&handler.handler),
                line(&handler.kind),
                html! { (number(handler.runs)) },
                failed,
                quantile(handler.p50),
                quantile(handler.p95),
                quantile(handler.p99),
                html! { (number(handler.total_runs)) },
            ],
        }
    };
    let minutes = view.activity.window.as_secs() / 60;
    let caption = html! { "Runs on this node in the last " (minutes) " minutes, and since it was started." };
    let columns = ["Handler", "Kind", ">Runs", ">Failed", ">p50", ">p95", ">p99", ">Since start"];
    let rows: Vec<Row> = view.activity.handlers.iter().map(row).collect();
    html! {
        section.card #handlers aria-labelledby="handlers-name" {
            h2 #handlers-name { "Handlers" }
            @if !rows.is_empty() {
                (table(&caption, &columns, &rows))
            } @else if view.handlers == 0 {
                p { "No handlers run in this process." }
            } @else {
                p { "None has run since the start." }
            }
        }
    }
}

fn failures(view: &View) -> Markup {
    let row = |run: &FailedRun| {
        let dead = Query::of([
            ("kind".to_owned(), run.kind.clone()),
            ("handler".to_owned(), run.handler.clone()),
            ("view".to_owned(), "each".to_owned()),
        ]);
        let outcome = match run.outcome {
            "retry" => "failed",
            "timeout" => "timed out",
            "panic" => "panicked",
            "dead_letter" => "gave it up",
            other => other,
        };
        Row {
            key: format!("{} {} {}", run.id, run.handler, run.attempt),
            cells: vec![
                time(run.time),
                line(&run.handler),
                line(&run.kind),
                html! { (run.attempt) },
                html! {
                    (outcome)
                    @if run.dead { ", " a href=(dead.to("dead")) { "dead letter" } }
                },
                shown::short(&run.error),
            ],
        }
    };
    let all = view.activity.failures.len();
    let rows: Vec<Row> = view.activity.failures.iter().take(FAILURES).map(row).collect();
    let caption = html! {
        "Runs that failed on this node, the latest first."
        @if all > rows.len() { " " (rows.len()) " of the last " (all) "." }
    };
    let columns = ["Time (UTC)", "Handler", "Kind", ">Attempt", "Outcome", "Error"];
    html! {
        section.card #failures aria-labelledby="failures-name" {
            h2 #failures-name { "Recent failures" }
            @if !rows.is_empty() {
                (table(&caption, &columns, &rows))
            } @else if view.handlers == 0 {
                p { "No handlers run in this process. What other nodes have given up is among the " a href="dead" { "dead letters" } "." }
            } @else {
                p { "None since the start." }
            }
        }
    }
}

fn spend(view: &View) -> Markup {
    html! {
        section.card #spend aria-labelledby="spend-name" {
            h2 #spend-name { "Spend" }
            @if !view.activity.counting_costs {
                p { "Nothing is billed: these queues are not on SQS." }
            } @else {
                dl.facts {
                    @if let Some(rates) = view.rates {
                        (fact("Requests a minute", &html! { (rate(rates.requests * 60.0)) }))
                        (fact("Billed a minute", &html! { (rate(rates.billed * 60.0)) }))
                        (fact("A month at this rate", &html! { (dollars(rates.billed)) }))
                    } @else {
                        (fact("Requests a minute", &html! { "measured from the second look on" }))
                    }
                    (fact("Requests since the start", &html! { (number(view.usage.requests())) }))
                    (fact("Billed since the start", &html! { (number(view.usage.billed)) }))
                    (fact("Receives that found nothing", &html! { (number(view.usage.empty_receives)) }))
                }
                p.quiet {
                    "Of this process, what the dashboard asks included; rates are of the last minute. A month is 30 days at "
                    (format!("${DOLLARS_A_MILLION:.2}")) " for a million requests, without the free tier."
                }
            }
        }
    }
}

fn dollars(billed_a_second: f64) -> String {
    let dollars = billed_a_second * 30.0 * 86_400.0 / 1e6 * DOLLARS_A_MILLION;
    if dollars > 0.0 && dollars < 0.01 { "less than $0.01".to_owned() } else { format!("${dollars:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_costs_what_it_would() {
        // A request a second: 2,592,000 in 30 days.
        assert_eq!(dollars(1.0), "$1.04");
        assert_eq!([dollars(0.0), dollars(0.001)], ["$0.00", "less than $0.01"]);
    }
}
