//! `dawdle dead edit`: another try with other data.

use std::io::{Read as _, Write as _};
use std::process::Command;

use dawdle::{Dawdle, DeadLetter};
use dawdle_workbench::Wanted;
use dawdle_workbench::json::{compact, pretty};
use serde_json::json;

use super::list::none_there;
use super::sweep::look;
use crate::audit::Audit;
use crate::out::Out;
use crate::problem::{Problem, Result};
use crate::queue::{Queues, close};
use crate::settings::Settings;
use crate::stop;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The event's id, as `dead list --each` shows it
    id: String,
    /// Its letter of this handler, where several handlers have given it up
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// The new data, or `-` for standard input, instead of opening $VISUAL or $EDITOR
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
}

pub(crate) async fn run(args: Args, settings: &Settings, out: Out) -> Result {
    let queues = Queues::open(settings).await?;
    let audit = Audit::open(&queues.config)?;
    let dawdle = queues.dawdle().await?;
    let edited = edit(&queues, &dawdle, args, &audit).await;
    close(&dawdle).await;
    let letter = edited?;
    match out.is_json() {
        true => out.value(&json!({
            "id": letter.id.as_str(), "kind": letter.kind, "handler": letter.handler, "replayed": 1
        })),
        false => out.line(format_args!("replayed {} with its new data", letter.id)),
    }
}

async fn edit(queues: &Queues, dawdle: &Dawdle, args: Args, audit: &Audit) -> Result<DeadLetter> {
    let given = match args.data.as_deref() {
        Some("-") => Some(stdin()?),
        data => data.map(str::to_owned),
    };
    let letter = find(queues, dawdle, &args).await?;
    let Some(old) = letter.envelope.data().filter(|_| letter.raw().is_none()) else {
        return Err(Problem::failed(format!(
            "{} has no JSON data to edit: it can only be replayed as it is, or purged",
            letter.id
        )));
    };
    let new = match given {
        Some(data) => data,
        None => in_editor(&pretty(old))?,
    };
    if compact(old) == compact(&new) {
        return Err(Problem::failed(format!(
            "the data of {} was not changed, so nothing was done: `dawdle dead replay {}` replays it as it is",
            letter.id, letter.id
        )));
    }
    let changed = letter.envelope.clone().with_data(new.trim());
    let envelope = match (changed, &args.data) {
        (Ok(envelope), _) => envelope,
        (Err(error), Some(_)) => return Err(Problem::usage(error.to_string())),
        (Err(error), None) => return Err(kept(&error.to_string(), &new)),
    };
    // An editor may be open for longer than a letter is held.
    let mut found = find(queues, dawdle, &args).await.map_err(|problem| match problem {
        Problem::Nothing(text) | Problem::Failed(text) => kept(&text, &new),
        other => other,
    })?;
    if found.envelope.data() != Some(old) {
        return Err(kept("the letter was changed by somebody else meanwhile", &new));
    }
    found.envelope = envelope;
    let which = json!({ "ids": [found.id.as_str()], "handler": found.handler });
    let change = audit.begin("edit", which)?;
    // The new event is on the queue before the letter goes.
    change.close(dawdle.dead_letters().replay(&found).await.map_err(Problem::from), |()| 1)?;
    Ok(found)
}

/// The one letter that is meant, held.
async fn find(queues: &Queues, dawdle: &Dawdle, args: &Args) -> Result<DeadLetter> {
    let id = args.id.parse().map_err(|error| Problem::usage(format!("`{}`: {error}", args.id)))?;
    let wanted = Wanted::one(id, args.handler.clone());
    let mut found: Vec<DeadLetter> = Vec::new();
    look(&dawdle.dead_letters(), &wanted, |letter| {
        found.push(letter);
        Ok(())
    })
    .await?;
    let handlers: Vec<&str> = found.iter().filter_map(|letter| letter.handler.as_deref()).collect();
    if found.len() > 1 {
        return Err(Problem::usage(format!(
            "{} letters have the id {id}, of the handlers {}: say which by --handler",
            found.len(),
            handlers.join(", ")
        )));
    }
    match found.pop() {
        Some(letter) => Ok(letter),
        None => Err(none_there(queues).await),
    }
}

fn stdin() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map(|_| text).map_err(|error| Problem::failed(format!("the data on standard input cannot be read: {error}")))
}

/// What somebody makes of the text in their editor.
fn in_editor(text: &str) -> Result<String> {
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.trim().is_empty());
    let Some(editor) = variable("VISUAL").or_else(|| variable("EDITOR")) else {
        return Err(Problem::failed("no editor is set: set VISUAL or EDITOR, or give the new data by --data"));
    };
    let failed = |error: std::io::Error| Problem::failed(format!("a file for the editor cannot be used: {error}"));
    let mut file = tempfile::Builder::new().prefix("dawdle-").suffix(".json").tempfile().map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
    // It may have arguments, as `code --wait` has.
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(file.path());
    let status = stop::lent(|| command.status());
    match status {
        Ok(status) if status.success() => std::fs::read_to_string(file.path()).map_err(failed),
        Ok(status) => Err(Problem::failed(format!("the editor ended with {status}, so nothing was done"))),
        Err(error) => Err(Problem::failed(format!("the editor `{editor}` cannot be started: {error}"))),
    }
}

/// Nothing was done, and what somebody has written is kept.
fn kept(why: &str, text: &str) -> Problem {
    let keep = || -> std::io::Result<_> {
        let mut file = tempfile::Builder::new().prefix("dawdle-edited-").suffix(".json").tempfile()?;
        file.write_all(text.as_bytes())?;
        Ok(file.keep()?.1)
    };
    Problem::failed(match keep() {
        Ok(path) => format!("nothing was done: {why}. What you wrote is in {}", path.display()),
        Err(error) => format!("nothing was done: {why}. What you wrote could not be kept: {error}"),
    })
}
