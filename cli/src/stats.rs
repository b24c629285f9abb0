//! `dawdle stats`: how much is on each queue.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant, SystemTime};

use dawdle::backend::{Lane, LaneStats};
use dawdle_workbench::when;
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use crate::out::{Out, table};
use crate::problem::{Problem, Result, complain};
use crate::queue::Queues;
use crate::settings::Settings;
use crate::stop;

/// How many looks a sparkline shows.
const LOOKS: usize = 40;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Look again every so many seconds, until Ctrl-C; on a terminal with rates and a line of depths
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
}

#[derive(Serialize)]
struct Stats {
    time: String,
    backend: String,
    queues: Vec<Queue>,
}

#[derive(Serialize)]
struct Queue {
    queue: &'static str,
    visible: u64,
    in_flight: u64,
    delayed: u64,
    oldest_seconds: Option<u64>,
}

impl Queue {
    fn cells(&self) -> Vec<String> {
        let age = self.oldest_seconds.map_or_else(|| "-".to_owned(), |secs| when::rough(Duration::from_secs(secs)));
        vec![self.queue.to_owned(), self.visible.to_string(), self.in_flight.to_string(), self.delayed.to_string(), age]
    }

    fn total(&self) -> u64 {
        self.visible + self.in_flight + self.delayed
    }
}

const HEADINGS: [&str; 5] = ["QUEUE", ">VISIBLE", ">IN FLIGHT", ">DELAYED", ">OLDEST"];

pub(crate) async fn run(args: Args, settings: &Settings, out: Out) -> Result {
    let queues = Queues::open(settings).await?;
    match args.watch {
        None => show(out, &look(&queues).await?),
        Some(secs) => watch(&queues, out, Duration::from_secs(secs)).await,
    }
}

async fn look(queues: &Queues) -> Result<Stats> {
    // Which queues there are is known once they have been asked for.
    let mut counts = vec![(Lane::Message, queues.backend.inspect(Lane::Message).await?)];
    queues.backend.check(dawdle::backend::Role::Sender).await?;
    for lane in queues.lanes().into_iter().skip(1) {
        counts.push((lane, queues.backend.inspect(lane).await?));
    }
    let queue = |(lane, stats): (Lane, LaneStats)| Queue {
        queue: lane.name(),
        visible: stats.visible,
        in_flight: stats.in_flight,
        delayed: stats.delayed,
        oldest_seconds: stats.oldest.map(|age| age.as_secs()),
    };
    Ok(Stats {
        time: when::exact(SystemTime::now()),
        backend: queues.backend.name().to_owned(),
        queues: counts.into_iter().map(queue).collect(),
    })
}

fn show(out: Out, stats: &Stats) -> Result {
    match out.is_json() {
        true => out.value(stats),
        false => out.table(&HEADINGS, stats.queues.iter().map(Queue::cells).collect()),
    }
}

async fn watch(queues: &Queues, out: Out, every: Duration) -> Result {
    // Before the screen is another: it is the terminal's again however this ends.
    let mut stop = std::pin::pin!(stop::asked());
    let redraws = !out.is_json() && std::io::stdout().is_terminal();
    let screen = if redraws { Some(Screen::enter(out)?) } else { None };
    let mut view: Option<View> = None;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut stop => return Ok(()),
        }
        let looked = tokio::select! {
            looked = look(queues) => looked,
            () = &mut stop => return Ok(()),
        };
        let trouble = match (looked, &mut view) {
            (Ok(stats), view) => {
                if screen.is_none() {
                    show(out, &stats)?;
                }
                view.get_or_insert_default().take(&stats);
                None
            }
            // What has worked may work again.
            (Err(Problem::Failed(text)), Some(_)) => Some(text),
            (Err(problem), _) => return Err(problem),
        };
        match (&screen, &view) {
            (Some(screen), Some(view)) => {
                let place = crate::out::clean(&queues.backend.describe());
                screen.draw(&format!("{place}\n{}", view.text(every, trouble.as_deref())))?;
            }
            _ => trouble.iter().for_each(|text| complain("error", text)),
        }
    }
}

/// What a watch has seen so far.
#[derive(Default)]
struct View {
    /// The last look that was answered.
    time: String,
    rows: Vec<Vec<String>>,
    last: Option<(Instant, Vec<u64>)>,
    history: Vec<VecDeque<u64>>,
}

impl View {
    /// Takes in a look.
    fn take(&mut self, stats: &Stats) {
        let depths: Vec<u64> = stats.queues.iter().map(Queue::total).collect();
        self.history.resize_with(depths.len(), VecDeque::new);
        self.rows.clear();
        for (index, queue) in stats.queues.iter().enumerate() {
            let rate = self.last.as_ref().and_then(|(then, before)| {
                let secs = then.elapsed().as_secs_f64();
                before.get(index).map(|before| (depths[index] as f64 - *before as f64) / secs)
            });
            let history = &mut self.history[index];
            history.push_back(depths[index]);
            if history.len() > LOOKS {
                history.pop_front();
            }
            let mut cells = queue.cells();
            cells.push(rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:+.1}")));
            cells.push(sparkline(history));
            self.rows.push(cells);
        }
        self.last = Some((Instant::now(), depths));
        self.time.clone_from(&stats.time);
    }

    /// The rows of the last look that was answered, and what is the matter since.
    fn text(&self, every: Duration, trouble: Option<&str>) -> String {
        let headings = [&HEADINGS[..], &[">PER SECOND", "DEPTH"]].concat();
        let trouble = trouble.map_or_else(String::new, |text| format!("no answer since: {}", crate::out::line(text)));
        let rows = table(&headings, self.rows.clone());
        format!("{}, every {every:?}; Ctrl-C ends\n{trouble}\n{rows}", self.time)
    }
}

/// A line of bars, the highest of which is the most.
fn sparkline(depths: &VecDeque<u64>) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = depths.iter().copied().max().unwrap_or(0).max(1);
    let bar = |depth: &u64| BARS[usize::try_from(depth * 7 / most).unwrap_or(0).min(7)];
    depths.iter().map(bar).collect()
}

/// The terminal's other screen, until it is dropped.
struct Screen(Out);

impl Screen {
    fn enter(out: Out) -> Result<Screen> {
        out.line("\x1b[?1049h\x1b[?25l")?;
        Ok(Screen(out))
    }

    fn draw(&self, text: &str) -> Result {
        self.0.line(format_args!("\x1b[H\x1b[2J{text}"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Where nobody reads it there is nothing to restore.
        let _ = self.0.line("\x1b[?25h\x1b[?1049l");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_goes_from_nothing_to_the_most() {
        assert_eq!(sparkline(&VecDeque::from([0, 50, 100])), "▁▄█");
        assert_eq!(sparkline(&VecDeque::from([0, 0])), "▁▁");
    }
}
