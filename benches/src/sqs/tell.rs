//! What the comparison says: tables and drawings.

use anyhow::Result;
use serde_json::json;

use super::{Case, Sample, Samples};
use crate::contender::{CONTENDERS, REFERENCE};
use crate::options::Options;
use crate::plot::{Line, Panel, draw};
use crate::results::Part;
use crate::table::{Table, beside, number};
use crate::task::Phase;

pub(super) fn part(options: &Options, latencies: &[u64], samples: &Samples) -> Result<Part> {
    draw(&options.out.join("throughput.svg"), &panels(samples, latencies, "events/s", |sample| sample.events_per_s))?;
    draw(&options.out.join("cpu.svg"), &panels(samples, latencies, "CPU µs an event", |sample| sample.cpu_us))?;
    let all: Vec<_> = samples.of.iter().map(|(case, samples)| json!({ "case": case, "samples": samples })).collect();
    Ok(Part {
        name: "sqs",
        title: "Beside other ways to use SQS",
        text: text(options, latencies, samples),
        data: json!({ "cases": all, "absent": samples.absent }),
    })
}

fn text(options: &Options, latencies: &[u64], samples: &Samples) -> String {
    let mut text = format!(
        "Events of 200 bytes. Medians of {} rounds; in parentheses, times `{REFERENCE}`. CPU is the client's alone. Client \
         and endpoint share the cores, so that events/s without added latency depend on both.\n",
        options.rounds
    );
    for phase in Phase::BOTH {
        text.push_str(&format!("\n### {}\n\n{}", phase.name(), table(phase, latencies, samples)));
    }
    text.push_str("\nThe contenders:\n\n");
    for contender in CONTENDERS {
        let (name, about) = (contender.name, contender.about);
        let absent = samples.absent.get(name).map(|why| format!(" **Did not take part:** {}", why.replace('\n', " ")));
        if absent.is_some() || samples.of.keys().any(|case| case.contender == name) {
            text.push_str(&format!("- `{name}`: {about}.{}\n", absent.unwrap_or_default()));
        }
    }
    let tuned: Vec<String> = samples
        .tuned
        .iter()
        .map(|((phase, latency_ms), at_once)| format!("{} at {latency_ms} ms: {at_once}", phase.name()))
        .collect();
    text.push_str(&format!("\nRequests that `{REFERENCE}` has in the air: {}.\n", tuned.join(", ")));
    text.push_str("\n![events/s](throughput.svg)\n\n![CPU](cpu.svg)\n");
    text
}

fn table(phase: Phase, latencies: &[u64], samples: &Samples) -> String {
    let mut table = Table::new(&[
        "latency, contender",
        "events/s",
        "CPU µs an event",
        "peak MiB",
        "requests an event",
        "billed",
        "of which",
    ]);
    for latency_ms in latencies {
        let of = |contender| samples.median(Case { phase, latency_ms: *latency_ms, contender });
        let reference = of(REFERENCE);
        for contender in CONTENDERS {
            let Some(sample) = of(contender.name) else { continue };
            let figure = |figure: fn(&Sample) -> f64| beside(figure(&sample), reference.as_ref().map(figure));
            table.row(&[
                format!("{latency_ms} ms, `{}`", contender.name),
                figure(|sample| sample.events_per_s),
                figure(|sample| sample.cpu_us),
                figure(|sample| sample.peak_mib),
                figure(Sample::all_requests),
                figure(|sample| sample.billed),
                sample.by_action(),
            ]);
        }
    }
    table.text()
}

impl Sample {
    fn all_requests(&self) -> f64 {
        self.requests.values().sum()
    }

    fn by_action(&self) -> String {
        let told = self.requests.iter().filter(|(_, count)| **count >= 0.000_05);
        let told: Vec<String> = told.map(|(action, count)| format!("{action} {}", number(*count))).collect();
        told.join(", ")
    }
}

fn panels(samples: &Samples, latencies: &[u64], y: &'static str, figure: fn(&Sample) -> f64) -> Vec<Panel> {
    let line = |phase, contender| {
        let of = |latency_ms: &u64| samples.median(Case { phase, latency_ms: *latency_ms, contender });
        let values: Option<Vec<f64>> = latencies.iter().map(|latency_ms| of(latency_ms).as_ref().map(figure)).collect();
        Some(Line { name: contender.to_owned(), values: values? })
    };
    let panel = |phase: Phase| Panel {
        title: format!("{}: {y}", phase.name()),
        x: "latency that the endpoint adds",
        places: latencies.iter().map(|latency_ms| format!("{latency_ms} ms")).collect(),
        y,
        lines: CONTENDERS.iter().filter_map(|contender| line(phase, contender.name)).collect(),
    };
    Phase::BOTH.map(panel).into()
}
