//! `dawdle doctor`: what is wrong, and how to mend it.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use dawdle::backend::sqs::{SqsBackend, SqsOptions};
use dawdle::backend::{Lane, Limits, Role, Settle, Settlement};
use dawdle::{BackendKind, Error, ErrorKind};
use dawdle_workbench::when;
use serde::Serialize;

use crate::out::{Out, clean};
use crate::problem::{Problem, Result};
use crate::queue::Queues;
use crate::settings::Settings;

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

pub(crate) async fn run(settings: &Settings, out: Out) -> Result {
    let findings = examine(settings).await;
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

async fn examine(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let kind = match settings.config().and_then(|config| Ok(config.chosen_backend()?)) {
        Ok(kind) => kind,
        Err(problem) => {
            let mend = "correct the DAWDLE_* variable, or the key of the file of --config, that is named";
            findings.push(of_problem("configuration", problem, mend));
            return findings;
        }
    };
    let (word, mend) = match kind {
        BackendKind::Local => {
            ("local", "make the file with `dawdle init`, or name the application's by DAWDLE_LOCAL_PATH")
        }
        BackendKind::Memory => ("memory", "set DAWDLE_BACKEND to `local` or `sqs`"),
        BackendKind::Sqs => ("sqs", "set DAWDLE_SQS_QUEUE, and the region by AWS_REGION or DAWDLE_SQS_REGION"),
    };
    findings.push(ok("configuration", format!("the backend is {word}")));
    let queues = match Queues::open(settings).await {
        Ok(queues) => queues,
        Err(problem) => {
            findings.push(of_problem("connection", problem, mend));
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
        let check = format!("{} queue", lane.name());
        findings.push(match queues.backend.inspect(lane).await {
            Ok(stats) => ok(&check, format!("{} messages", stats.total())),
            Err(error) => wrong(&check, &error),
        });
    }
    if kind == BackendKind::Sqs {
        findings.extend([untried(), message_size(&queues), retention(&queues).await]);
    }
    findings.push(clock(&queues).await);
    findings
}

/// What is allowed is known of what was done, and this program changes nothing.
fn untried() -> Finding {
    let text = "not tried, for it would change something: sqs:SendMessage and sqs:DeleteMessage on each queue, \
                sqs:ReceiveMessage and sqs:ChangeMessageVisibility on the message and the delay queue";
    note(
        "permissions",
        text.to_owned(),
        "compare the role's policy with `dawdle policy --role sender|listener|operator`",
    )
}

fn message_size(queues: &Queues) -> Finding {
    let (smallest, most) = (queues.backend.limits().max_message_bytes, Limits::sqs().max_message_bytes);
    if smallest >= most {
        return ok("message size", format!("every queue takes messages of {most} bytes, the most that SQS takes"));
    }
    let text =
        format!("a queue takes messages of {smallest} bytes only (MaximumMessageSize), and larger events are refused");
    note("message size", text, &format!("set MaximumMessageSize={most} on each queue, if there are larger events"))
}

/// That of the message queue. The others' is the listener's matter.
async fn retention(queues: &Queues) -> Finding {
    let asked = async { SqsBackend::connect(SqsOptions::from(&queues.config)).await?.retention(Lane::Message).await };
    let longest = Limits::sqs().retention;
    match asked.await {
        Ok(kept) if kept == longest => {
            ok("retention", "the message queue keeps messages for 14 days, the longest that SQS does".to_owned())
        }
        Ok(kept) => {
            let kept = kept.map_or_else(|| "a time that it does not say".to_owned(), when::rough);
            let text = format!("the message queue drops, without a word, what no node has handled within {kept}");
            note("retention", text, "set MessageRetentionPeriod=1209600 (14 days) on it")
        }
        Err(error) => wrong("retention", &error),
    }
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
        let mend = "set DAWDLE_SQS_DEAD_LETTER_QUEUE_URL, which a listener needs too";
        return note("operator", "there is no dead-letter queue to look at".to_owned(), mend);
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
    if let Err(error) = queues.backend.learn_clock_offset().await {
        return wrong("clock", &error);
    }
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

fn note(check: &str, text: String, mend: &str) -> Finding {
    Finding { check: check.to_owned(), state: State::Note, text, mend: Some(mend.to_owned()) }
}

fn of_problem(check: &str, problem: Problem, mend: &str) -> Finding {
    let text = match problem {
        Problem::Failed(text) | Problem::Usage(text) | Problem::Nothing(text) => text,
        Problem::Found | Problem::Unread => String::new(),
    };
    Finding { check: check.to_owned(), state: State::Wrong, text, mend: Some(mend.to_owned()) }
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
