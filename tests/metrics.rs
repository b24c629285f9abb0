//! What Dawdle counts, as a recorder of the `metrics` facade gets it; and that the dashboards and alerts in
//! `ops/` ask for nothing else.
#![cfg(feature = "testing")]

use std::collections::BTreeSet;
use std::time::Duration;

use dawdle::metrics::{ALL, Type};
use dawdle::testing::Harness;
use dawdle::{Config, Dawdle, Event, Failure, Outcome, handlers};
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
    assert_eq!(by_outcome, [Some(2.0), Some(2.0), Some(1.0), Some(1.0), Some(2.0), None], "{text}");
    for (line, expected) in [
        (r#"dawdle_signalled_total{kind="metrics.step"}"#, 6.0),
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
    let handle = PrometheusBuilder::new().install_recorder().unwrap();
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
