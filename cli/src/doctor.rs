//! `dawdle doctor`: what is wrong, and how to mend it.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use dawdle::backend::{Lane, Role, Settle, Settlement};
use dawdle::{BackendKind, Error, ErrorKind};
use serde::Serialize;

use crate::out::{Out, clean};
use crate::problem::{Problem, Result};
use crate::queue::{Queues, config, name};

/// A clock that is off by this much is worth a word; by more than that, AWS refuses what it signs
/// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html>).
const OFF: Duration = Duration::from_secs(1);
const REFUSED: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    Note,
    Wrong,
}

#[derive(Serialize)]
struct Finding {
    check: String,
    state: State,
    text: String,
    mend: Option<String>,
}

#[derive(Serialize)]
struct Findings {
    ok: bool,
    findings: Vec<Finding>,
}

pub(crate) async fn run(out: Out) -> Result {
    let findings = examine().await;
    let ok = findings.iter().all(|finding| finding.state != State::Wrong);
    if out.is_json() {
        out.value(&Findings { ok, findings })?;
    } else {
        for finding in &findings {
            show(finding, out)?;
        }
    }
    if ok { Ok(()) } else { Err(Problem::Found) }
}

fn show(finding: &Finding, out: Out) -> Result {
    let (word, color) = match finding.state {
        State::Ok => ("ok", AnsiColor::Green),
        State::Note => ("note", AnsiColor::Yellow),
        State::Wrong => ("wrong", AnsiColor::Red),
    };
    let style = Style::new().bold().fg_color(Some(color.into()));
    out.line(format_args!("{style}{word:<6}{style:#}{:<15}{}", finding.check, clean(&finding.text)))?;
    match &finding.mend {
        Some(mend) => out.line(format_args!("{:21}mend it: {}", "", clean(mend))),
        None => Ok(()),
    }
}

async fn examine() -> Vec<Finding> {
    let mut findings = Vec::new();
    let config = match config().and_then(|config| Ok((config.chosen_backend()?, config))) {
        Ok((kind, config)) => {
            let word = match kind {
                BackendKind::Local => "local",
                BackendKind::Memory => "memory",
                BackendKind::Sqs => "sqs",
            };
            findings.push(ok("configuration", format!("the backend is {word}")));
            config
        }
        Err(problem) => {
            findings.push(of_problem("configuration", problem));
            return findings;
        }
    };
    let queues = match config.chosen_backend() {
        Ok(BackendKind::Sqs) => Queues::open_or_create(config).await,
        _ => Queues::open().await,
    };
    let queues = match queues {
        Ok(queues) => queues,
        Err(problem) => {
            findings.push(of_problem("connection", problem));
            return findings;
        }
    };
    for (check, role) in [("sender", Role::Sender), ("listener", Role::Listener)] {
        let answer = queues.backend.check(role).await;
        let broken = answer.as_ref().err().is_some_and(|error| error.is_transient());
        findings.push(match answer {
            Ok(()) => ok(check, said(role)),
            Err(error) => wrong(check, &error),
        });
        if broken {
            // What else would be asked would only fail the same way, each after its time.
            return findings;
        }
    }
    findings.push(operator(&queues).await);
    for lane in queues.lanes() {
        let check = format!("{} queue", name(lane));
        findings.push(match queues.backend.inspect(lane).await {
            Ok(stats) => ok(&check, format!("{} messages", stats.total())),
            Err(error) => wrong(&check, &error),
        });
    }
    findings.push(clock(&queues).await);
    findings
}

fn said(role: Role) -> String {
    match role {
        Role::Sender => "the queues to send to are there".to_owned(),
        Role::Listener => "the queues are there, and their attributes keep and spoil no event".to_owned(),
    }
}

/// Looks at a dead letter, and gives it back.
async fn operator(queues: &Queues) -> Finding {
    if !queues.lanes().contains(&Lane::Dead) {
        return Finding {
            check: "operator".to_owned(),
            state: State::Note,
            text: "there is no dead-letter queue to look at".to_owned(),
            mend: Some("set DAWDLE_SQS_DEAD_LETTER_QUEUE_URL, which a listener needs too".to_owned()),
        };
    }
    let look = async {
        let found = queues.backend.browse(Lane::Dead, 1, OFF).await?;
        let how = Settlement::ReleaseAfter(Duration::ZERO);
        let entries: Vec<Settle> = found.into_iter().map(|found| Settle { receipt: found.receipt, how }).collect();
        if !entries.is_empty() {
            queues.backend.settle(Lane::Dead, &entries).await.into_iter().collect::<dawdle::Result<()>>()?;
        }
        Ok::<(), Error>(())
    };
    match look.await {
        Ok(()) => ok("operator", "dead letters can be looked at".to_owned()),
        Err(error) => wrong("operator", &error),
    }
}

async fn clock(queues: &Queues) -> Finding {
    queues.backend.learn_clock_offset().await;
    let ahead = queues.backend.clock_offset_ms();
    let off = Duration::from_millis(ahead.unsigned_abs());
    let text = match ahead {
        0 => "this machine's clock agrees with the queues'".to_owned(),
        1.. => format!("this machine's clock is {off:?} behind the queues'"),
        _ => format!("this machine's clock is {off:?} ahead of the queues'"),
    };
    let mend = || Some("set the clock, and keep it right with NTP".to_owned());
    let (state, mend) = match off {
        _ if off > REFUSED => (State::Wrong, mend()),
        _ if off > OFF => (State::Note, mend()),
        _ => (State::Ok, None),
    };
    Finding { check: "clock".to_owned(), state, text, mend }
}

fn ok(check: &str, text: String) -> Finding {
    Finding { check: check.to_owned(), state: State::Ok, text, mend: None }
}

fn of_problem(check: &str, problem: Problem) -> Finding {
    let text = match problem {
        Problem::Failed(text) | Problem::Usage(text) | Problem::Nothing(text) => text,
        Problem::Found | Problem::Unread => String::new(),
    };
    Finding { check: check.to_owned(), state: State::Wrong, text, mend: None }
}

/// What is wrong. The library's errors say how to mend what they name; this adds which command helps.
fn wrong(check: &str, error: &Error) -> Finding {
    let mend = match error.kind() {
        ErrorKind::Credentials => {
            "give this process credentials (AWS_PROFILE, a role), and the role what `dawdle policy --role \
             sender|listener|operator` prints"
        }
        ErrorKind::Queue => "`dawdle init` creates the queues by name and gives them the attributes that they need",
        ErrorKind::Unavailable | ErrorKind::Throttled => {
            "see that the endpoint (DAWDLE_SQS_ENDPOINT_URL, AWS_ENDPOINT_URL) and the region are right and can be \
             reached from here"
        }
        _ => "set the DAWDLE_* variable that is named",
    };
    Finding { check: check.to_owned(), state: State::Wrong, text: error.to_string(), mend: Some(mend.to_owned()) }
}
