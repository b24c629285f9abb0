//! What Dawdle counts, as a recorder of the `metrics` facade gets it; and that the dashboards and alerts in
//! `ops/` ask for nothing else.
#![cfg(feature = "testing")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use dawdle::backend::memory::{Action, Fault, MemoryBackend};
use dawdle::backend::{Backend as _, Lane, Limits, Outgoing};
use dawdle::metrics::{ALL, Metric, Type};
use dawdle::testing::Harness;
use dawdle::{Clock, Config, Context, Dawdle, Event, Failure, Outcome, VirtualClock, handlers};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "metrics.step")]
struct Step {
    number: u32,
}

#[dawdle::handler(attempts = 2)]
async fn count(event: &Step) -> Outcome {
    match event.number {
        1 => Err(Failure::retry("again")),
        2 => Err(Failure::dead_letter("never")),
        3 => Err(Failure::discard("no longer")),
        4 => panic!("on purpose"),
        _ => Ok(()),
    }
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(kind = "metrics.long")]
struct Long;

#[dawdle::handler(attempts = 1, timeout = "60s")]
async fn hold(_: &Long, cx: &Context) -> Outcome {
    cx.cancelled().await;
    Ok(())
}

/// The recorder of this process, which what Dawdle does on its own threads comes to. Whoever reads gauges has it
/// alone.
async fn of_the_process() -> (PrometheusHandle, tokio::sync::MutexGuard<'static, ()>) {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let alone = ALONE.lock().await;
    let install = || PrometheusBuilder::new().install_recorder().expect("no other recorder");
    (HANDLE.get_or_init(install).clone(), alone)
}

fn recorder() -> (metrics_exporter_prometheus::PrometheusRecorder, PrometheusHandle) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    (recorder, handle)
}

/// The value of a line of the exposition format, by everything before it.
fn value(text: &str, line: &str) -> Option<f64> {
    text.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn what_happens_to_events_is_counted_by_kind_handler_and_outcome() {
    let (recorder, handle) = recorder();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let test = Harness::builder().discover(false).handlers(handlers![count]).start().await.unwrap();
            for number in 0..6 {
                test.signal(Step { number }).await.unwrap();
            }
            test.drain().await;
            test.advance(Duration::from_secs(60)).await;
        });
    });
    let text = handle.render();
    let of = |outcome: &str| {
        value(&text, &format!(r#"dawdle_handled_total{{kind="metrics.step",handler="count",outcome="{outcome}"}}"#))
    };
    let by_outcome = ["ok", "retry", "dead_letter", "discard", "panic", "timeout"].map(of);
    assert_eq!(by_outcome, [Some(2.0), Some(2.0), Some(1.0), Some(1.0), Some(2.0), Some(0.0)], "{text}");
    for (line, expected) in [
        (r#"dawdle_signalled_total{kind="metrics.step",due="now"}"#, 6.0),
        (r#"dawdle_retried_total{kind="metrics.step",handler="count"}"#, 2.0),
        (r#"dawdle_dead_lettered_total{kind="metrics.step",handler="count",reason="handler"}"#, 1.0),
        (r#"dawdle_dead_lettered_total{kind="metrics.step",handler="count",reason="attempts"}"#, 2.0),
        (r#"dawdle_handler_seconds_count{kind="metrics.step",handler="count"}"#, 8.0),
        (r#"dawdle_start_lag_seconds_count{kind="metrics.step",handler="count"}"#, 8.0),
        (r#"dawdle_end_to_end_seconds_count{kind="metrics.step",handler="count"}"#, 2.0),
        ("dawdle_handlers_running", 0.0),
    ] {
        assert_eq!(value(&text, line), Some(expected), "{line}\n{text}");
    }
}

/// Nobody can see a counter grow whose first reading comes after the first event.
#[test]
fn what_alerts_watch_is_there_at_zero_once_a_listener_has_started() {
    let (recorder, handle) = recorder();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            Harness::builder().discover(false).handlers(handlers![count]).start().await.unwrap();
        });
    });
    let text = handle.render();
    for line in [
        r#"dawdle_dead_lettered_total{kind="metrics.step",handler="count",reason="attempts"}"#,
        r#"dawdle_dead_lettered_total{kind="metrics.step",handler="count",reason="handler"}"#,
        r#"dawdle_dead_lettered_total{kind="metrics.step",handler="count",reason="poison"}"#,
        r#"dawdle_dead_lettered_total{kind="metrics.step",handler="",reason="unhandled"}"#,
        r#"dawdle_dead_lettered_total{kind="unknown",handler="",reason="undecodable"}"#,
        r#"dawdle_retried_total{kind="metrics.step",handler="count"}"#,
        r#"dawdle_handled_total{kind="metrics.step",handler="count",outcome="ok"}"#,
        r#"dawdle_leases_lost_total{queue="message"}"#,
        r#"dawdle_leases_lost_total{queue="delay"}"#,
        r#"dawdle_ack_failures_total{queue="message"}"#,
    ] {
        assert_eq!(value(&text, line), Some(0.0), "{line}\n{text}");
    }
    let series = text.lines().filter(|line| line.starts_with("dawdle_dead_lettered_total{")).count();
    assert!(series <= 20, "{series} of one handler");
}

/// The label keys of each series of a scrape, in order, by the metric's name; without those that a histogram adds.
fn exported(text: &str) -> BTreeMap<String, BTreeSet<Vec<String>>> {
    let mut exported: BTreeMap<String, BTreeSet<Vec<String>>> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("dawdle_")) {
        let (series, _) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let keys = labels.split("\",").filter_map(|label| label.split_once('=')).map(|(key, _)| key.to_owned());
        let mut keys: Vec<_> = keys.filter(|key| key != "quantile" && key != "le").collect();
        keys.sort();
        exported.entry(names(name).pop_first().expect("a name")).or_default().insert(keys);
    }
    exported
}

#[tokio::test]
async fn every_metric_is_exported_with_the_labels_of_the_table() {
    let (handle, _alone) = of_the_process().await;
    let before = handle.render();
    let grown = |line: &str| {
        let text = handle.render();
        value(&text, line).unwrap_or_default() - value(&before, line).unwrap_or_default()
    };
    let seconds = Duration::from_secs;
    // On a clock that is moved: what goes wrong.
    let time = VirtualClock::new(SystemTime::UNIX_EPOCH + seconds(1_700_000_000));
    let clock = Clock::from_virtual(time.clone());
    let queue = MemoryBackend::new(clock.clone());
    let config = Config { ack_linger: Some(Duration::ZERO), unknown_after: Some(seconds(60)), ..Config::default() };
    let builder = Dawdle::builder().config(config).backend(queue.clone()).clock(clock.clone()).discover(false);
    let node = builder.handlers(handlers![count]).start().await.unwrap();
    queue.fail(Fault::refused(Action::Settle).on(Lane::Message));
    node.signal(Step { number: 0 }).await.unwrap();
    time.advance(seconds(1)).await;
    assert_eq!(grown(r#"dawdle_ack_failures_total{queue="message"}"#), 1.0);
    node.signal(Step { number: 1 }).await.unwrap();
    node.signal(Step { number: 9 }).delay(seconds(30)).await.unwrap();
    time.advance(seconds(60)).await;
    assert_eq!(grown(r#"dawdle_retried_total{kind="metrics.step",handler="count"}"#), 1.0);
    assert_eq!(grown(r#"dawdle_signalled_total{kind="metrics.step",due="later"}"#), 1.0);
    let unlinked = r#"{"specversion":"1.0","id":"x","source":"other","type":"nobody.knows","time":"2023-11-14T00:00:00Z","data":{}}"#;
    queue.send(Lane::Message, &[Outgoing::new(unlinked)]).await.remove(0).unwrap();
    time.advance(seconds(600)).await;
    assert_eq!(grown(r#"dawdle_dead_lettered_total{kind="unknown",handler="",reason="unhandled"}"#), 1.0);
    assert!(!handle.render().contains("nobody.knows"), "a kind that is not linked in is no label");
    node.shutdown().await;
    // One event runs and one waits: there is no room to receive either again once their leases have ended.
    let queue = MemoryBackend::new(clock.clone());
    let config = Config { concurrency: Some(1), prefetch: Some(1), ..Config::default() };
    let builder = Dawdle::builder().config(config).backend(queue.clone()).clock(clock).discover(false);
    let node = builder.handlers(handlers![hold]).start().await.unwrap();
    node.signal(Long).await.unwrap();
    node.signal(Long).await.unwrap();
    time.advance(seconds(1)).await;
    queue.fail(Fault::unavailable(Action::Extend).times(u32::MAX));
    time.advance(seconds(40)).await;
    assert!(grown(r#"dawdle_leases_lost_total{queue="message"}"#) >= 1.0);
    queue.heal();
    time.advance(seconds(60)).await;
    assert!(grown(r#"dawdle_lease_extensions_total{queue="message"}"#) >= 1.0);
    node.shutdown().await;
    // On the machine's: what is sampled.
    let mut limits = Limits::unlimited();
    limits.calls_share = true;
    let queue = MemoryBackend::with_limits(Clock::system(), limits);
    let builder = Dawdle::builder().config(Config::default()).backend(queue).discover(false);
    let node = builder.handlers(handlers![count]).start().await.unwrap();
    let keys = |metric: &Metric| {
        let mut keys: Vec<_> = metric.labels.iter().map(|label| (*label).to_owned()).collect();
        keys.sort();
        (metric.name.to_owned(), BTreeSet::from([keys]))
    };
    let expected: BTreeMap<_, _> = ALL.iter().map(keys).collect();
    let begun = std::time::Instant::now();
    loop {
        let found = exported(&handle.render());
        if found == expected {
            break;
        }
        assert!(begun.elapsed() < seconds(30), "exported: {found:?}\nin the table: {expected:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    node.shutdown().await;
}

/// An expression of `ops/`, and the labels that are shown beside it.
struct Asked {
    place: String,
    expr: String,
    shown: Vec<String>,
}

/// What stands between two marks, each time.
fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).filter_map(move |rest| Some(rest.split_once(close)?.0.trim()))
}

fn alerts() -> Vec<Asked> {
    let text = std::fs::read_to_string("ops/prometheus/alerts.yml").unwrap();
    let alert = |text: &str| {
        let (_, rest) = text.split_once("expr:").expect("an expression");
        let (expr, rest) = rest.split_once("labels:").expect("labels");
        let expr = expr.split("\n        for:").next().unwrap_or_default().trim().trim_start_matches('|');
        let labels = between(rest, "{{", "}}").filter_map(|label| label.strip_prefix("$labels."));
        Asked {
            place: text.lines().next().unwrap_or_default().to_owned(),
            expr: expr.to_owned(),
            shown: labels.map(str::to_owned).collect(),
        }
    };
    text.split("- alert: ").skip(1).map(alert).collect()
}

fn panels(value: &serde_json::Value, title: &str, into: &mut Vec<Asked>) {
    match value {
        serde_json::Value::Object(fields) => {
            let title = fields.get("title").and_then(|title| title.as_str()).unwrap_or(title);
            if let Some(expr) = fields.get("expr").and_then(|expr| expr.as_str()) {
                let legend = fields.get("legendFormat").and_then(|legend| legend.as_str()).unwrap_or_default();
                let shown = between(legend, "{{", "}}").map(str::to_owned).collect();
                into.push(Asked { place: title.to_owned(), expr: expr.to_owned(), shown });
            }
            fields.values().for_each(|field| panels(field, title, into));
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| panels(value, title, into)),
        _ => {}
    }
}

fn asked_in_ops() -> Vec<Asked> {
    let mut asked = alerts();
    let grafana = std::fs::read_to_string("ops/grafana/dawdle.json").unwrap();
    panels(&serde_json::from_str(&grafana).unwrap(), "", &mut asked);
    assert!(asked.len() > 25, "{} expressions", asked.len());
    asked
}

#[test]
fn dashboards_and_alerts_ask_for_labels_that_there_are() {
    for Asked { place, expr, shown } in asked_in_ops() {
        let named = names(&expr);
        let metrics: Vec<&Metric> = ALL.iter().filter(|metric| named.contains(metric.name)).collect();
        assert!(!metrics.is_empty(), "{place}: {expr}");
        // A scrape adds the first two, and a histogram the third.
        let has = |metric: &Metric, label: &str| {
            metric.labels.contains(&label)
                || ["instance", "job"].contains(&label)
                || label == "le" && metric.kind == Type::Histogram
        };
        let by: Vec<&str> = between(&expr, "by (", ")").flat_map(|labels| labels.split(',')).map(str::trim).collect();
        for label in &by {
            assert!(metrics.iter().all(|metric| has(metric, label)), "{place} groups by `{label}`: {expr}");
        }
        for label in &shown {
            let there = if by.is_empty() { has(metrics[0], label) } else { by.contains(&label.as_str()) };
            assert!(there, "{place} shows `{label}`, which `{expr}` does not yield");
        }
        for metric in &metrics {
            for selector in between(&expr, &format!("{}{{", metric.name), "}") {
                for label in selector.split(',').filter_map(|label| label.split('=').next()).map(str::trim) {
                    assert!(has(metric, label), "{place} asks `{}` for `{label}`", metric.name);
                }
            }
        }
    }
}

/// `increase` is 0 for a series whose first reading is its only change.
#[test]
fn an_alert_on_a_single_event_fires_on_the_first_reading_of_a_series_too() {
    let mut checked = 0;
    for Asked { place, expr, .. } in alerts() {
        // One that compares two flows watches for what goes on.
        if expr.contains(" and ") {
            continue;
        }
        for counted in between(&expr, "(increase(", "))") {
            let (metric, span) = counted.split_once('[').expect("a span");
            let new = format!("{metric} unless max_over_time({metric}[1h] offset {})", span.trim_end_matches(']'));
            assert!(expr.contains(&new), "{place}: {expr}\nhas no `{new}`");
            checked += 1;
        }
    }
    assert_eq!(checked, 2);
}

/// The names in a text that look like metrics of ours, without what Prometheus appends.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|word| word.starts_with("dawdle_"));
    let base =
        |word: &str| ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end)).map(str::to_owned);
    ours.map(|word| base(word).unwrap_or_else(|| word.to_owned())).collect()
}

#[cfg(feature = "local")]
#[tokio::test]
async fn gauges_and_requests_are_brought_up_to_date_while_a_node_lives() {
    let (handle, _alone) = of_the_process().await;
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        local_path: Some(folder.path().join("queue.db")),
        backend: Some(dawdle::BackendKind::Local),
        concurrency: Some(7),
        ..Config::default()
    };
    let builder = Dawdle::builder().config(config).discover(false).handlers(handlers![count]);
    let dawdle = builder.start().await.unwrap();
    dawdle.signal(Step { number: 9 }).delay(Duration::from_secs(3600)).await.unwrap();
    dawdle.set_concurrency(3).unwrap();
    let begun = std::time::Instant::now();
    let wanted = [
        ("dawdle_concurrency", 3.0),
        ("dawdle_permits_free", 3.0),
        (r#"dawdle_queue_messages{queue="message",state="delayed"}"#, 1.0),
    ];
    loop {
        let text = handle.render();
        if wanted.iter().all(|(line, expected)| value(&text, line) == Some(*expected)) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    dawdle.shutdown().await;
    let known: BTreeSet<String> = ALL.iter().map(|metric| metric.name.to_owned()).collect();
    let unknown: Vec<String> = names(&handle.render()).difference(&known).cloned().collect();
    assert!(unknown.is_empty(), "exported, and in no table: {unknown:?}");
}

#[test]
fn dashboards_and_alerts_ask_for_metrics_that_there_are() {
    let known: BTreeSet<String> = ALL.iter().map(|metric| metric.name.to_owned()).collect();
    for path in ["ops/prometheus/alerts.yml", "ops/grafana/dawdle.json"] {
        let text = std::fs::read_to_string(path).unwrap();
        let asked = names(&text);
        assert!(asked.len() > 5, "{path} asks for {asked:?}");
        let unknown: Vec<&String> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{path} asks for {unknown:?}");
        for metric in ALL.iter().filter(|metric| metric.kind != Type::Histogram) {
            let wrong = format!("{}_bucket", metric.name);
            assert!(!text.contains(&wrong), "{path}: {wrong} is no histogram");
        }
    }
}

/// Every alert has its page, and every page its alert.
#[test]
fn every_alert_has_a_page_in_the_runbook() {
    let alerts = std::fs::read_to_string("ops/prometheus/alerts.yml").unwrap();
    let alerts: BTreeSet<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let runbook = std::fs::read_to_string("ops/runbook.md").unwrap();
    let pages: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(alerts, pages);
}
