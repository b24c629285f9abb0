//! Numbers, times and tables, as the pages show them.

use std::time::{Duration, SystemTime};

use dawdle::backend::Lane;
use dawdle_workbench::text::{clean, first_line};
use dawdle_workbench::when;
use maud::{Markup, html};

/// How much of a text a table shows, in characters.
const WIDTH: usize = 160;

pub(crate) fn lane(lane: Lane) -> &'static str {
    match lane {
        Lane::Message => "Messages",
        Lane::Delay => "Delay queue",
        Lane::Dead => "Dead letters",
    }
}

/// A number with its thousands apart.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// `1 letter`, `2 letters`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

/// So many a second, with as many digits as say something.
pub(crate) fn rate(rate: f64) -> String {
    match rate.abs() {
        0.0 => "0".to_owned(),
        small if small < 0.01 => format!("{}0.01", if rate < 0.0 { ">−" } else { "<" }),
        small if small < 10.0 => signed(format!("{rate:.2}")),
        large if large < 100.0 => signed(format!("{rate:.1}")),
        _ => signed(format!("{rate:.0}")),
    }
}

fn signed(text: String) -> String {
    text.replacen('-', "−", 1)
}

/// A rate of growth: with its sign.
pub(crate) fn growth(growth: f64) -> String {
    if growth > 0.0 { format!("+{}", rate(growth)) } else { rate(growth) }
}

/// How long a run took.
pub(crate) fn latency(span: Duration) -> String {
    let millis = span.as_secs_f64() * 1_000.0;
    match millis {
        _ if millis < 1.0 => format!("{millis:.2} ms"),
        _ if millis < 10.0 => format!("{millis:.1} ms"),
        _ if millis < 1_000.0 => format!("{millis:.0} ms"),
        _ if millis < 60_000.0 => format!("{:.1} s", millis / 1_000.0),
        _ => when::rough(span),
    }
}

pub(crate) fn percent(part: u64, of: u64) -> String {
    match of {
        0 => "–".to_owned(),
        _ => {
            let percent = part as f64 * 100.0 / of as f64;
            if percent > 0.0 && percent < 10.0 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
        }
    }
}

/// A point in time.
pub(crate) fn time(time: SystemTime) -> Markup {
    let exact = when::exact(time);
    let short = when::shown(time).replace('T', " ").replace('Z', "");
    html! { time datetime=(exact) { (short) } }
}

/// Text from outside, on one line.
pub(crate) fn line(text: &str) -> Markup {
    html! { bdi { (clean(text)) } }
}

/// The beginning of a text's first line: it may be of any length.
pub(crate) fn short(text: &str) -> Markup {
    html! { bdi { (clean(&first_line(text, WIDTH))) } }
}

/// What may not be there.
pub(crate) fn or_dash(text: Option<&str>) -> Markup {
    match text {
        Some(text) => short(text),
        None => html! { span.quiet { "–" } },
    }
}

/// One row of a table.
pub(crate) struct Row {
    /// What tells it from others, however they change places.
    pub(crate) key: String,
    pub(crate) cells: Vec<Markup>,
}

/// A table; the columns whose name begins with `>` are numbers. The roles are said once more, because on a narrow
/// screen its rows are no longer laid out as a table.
pub(crate) fn table(caption: &Markup, columns: &[&str], rows: &[Row]) -> Markup {
    let name = |column: &str| column.trim_start_matches('>').to_owned();
    let class = |column: &str| column.starts_with('>').then_some("number");
    html! {
        table role="table" {
            caption { (caption) }
            thead role="rowgroup" {
                tr role="row" {
                    @for column in columns {
                        th scope="col" role="columnheader" class=[class(column)] { (name(column)) }
                    }
                }
            }
            tbody role="rowgroup" {
                @for row in rows {
                    tr role="row" data-key=(clean(&row.key)) {
                        @for (index, (cell, column)) in row.cells.iter().zip(columns).enumerate() {
                            @if index == 0 {
                                th scope="row" role="rowheader" class=[class(column)] data-label=(name(column)) { (cell) }
                            } @else {
                                td role="cell" class=[class(column)] data-label=(name(column)) { div { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A line of how a number went.
pub(crate) fn sparkline(depths: &[u64], what: &str) -> Markup {
    const WIDTH: f64 = 120.0;
    const HEIGHT: f64 = 28.0;
    let most = depths.iter().copied().max().unwrap_or(0);
    let [first, .., last] = depths else {
        return html! { span.quiet { "not yet" } };
    };
    let step = WIDTH / (depths.len() - 1) as f64;
    let points: Vec<String> = depths
        .iter()
        .enumerate()
        .map(|(index, depth)| {
            let height = *depth as f64 / most.max(1) as f64 * (HEIGHT - 4.0);
            format!("{:.1},{:.1}", index as f64 * step, HEIGHT - 2.0 - height)
        })
        .collect();
    let label = format!("{what}: from {} to {}, {} at most", number(*first), number(*last), number(most));
    html! {
        svg.spark viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(label) {
            polyline points=(points.join(" ")) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!([number(0), number(999), number(1_000), number(12_345_678)], ["0", "999", "1,000", "12,345,678"]);
        assert_eq!(
            [rate(0.0), rate(0.004), rate(1.5), rate(12.34), rate(1234.5)],
            ["0", "<0.01", "1.50", "12.3", "1234"]
        );
        assert_eq!([growth(2.0), growth(-2.0), growth(0.0)], ["+2.00", "−2.00", "0"]);
        assert_eq!([percent(0, 0), percent(0, 5), percent(1, 40), percent(1, 2)], ["–", "0 %", "2.5 %", "50 %"]);
    }

    #[test]
    fn spans_have_the_unit_that_fits() {
        let micros = Duration::from_micros;
        assert_eq!(
            [latency(micros(420)), latency(micros(4_200)), latency(micros(42_000))],
            ["0.42 ms", "4.2 ms", "42 ms"]
        );
        assert_eq!([latency(micros(4_200_000)), latency(Duration::from_secs(90))], ["4.2 s", "1m 30s"]);
    }

    #[test]
    fn a_sparkline_says_in_words_what_it_draws() {
        let markup = sparkline(&[0, 50, 1_000], "Messages").into_string();
        assert!(markup.contains(r#"aria-label="Messages: from 0 to 1,000, 1,000 at most""#), "{markup}");
        assert!(markup.contains("0.0,26.0 60.0,24.8 120.0,2.0"), "{markup}");
        assert!(sparkline(&[1], "x").into_string().contains("not yet"));
    }
}
