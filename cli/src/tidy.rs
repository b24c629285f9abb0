//! `dawdle reset` and `dawdle vacuum`: what concerns the local file as a whole.

use std::path::PathBuf;

use dawdle::BackendKind;
use dawdle::backend::local::{LocalBackend, LocalOptions};
use serde_json::json;

use crate::ask;
use crate::audit::Audit;
use crate::out::Out;
use crate::problem::{Problem, Result};
use crate::queue::local_path;
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
pub(crate) struct ResetArgs {
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn reset(args: ResetArgs, settings: &Settings, out: Out) -> Result {
    ask::can_ask(args.yes, "reset")?;
    let config = settings.config()?;
    let (path, queue) = open(&config, "reset").await?;
    let audit = Audit::open(&config)?;
    ask::first(args.yes, &format!("Delete all messages of {}, also those being handled?", path.display())).await?;
    let change = audit.begin("reset", json!({ "file": path.display().to_string() }))?;
    let deleted = change.close(queue.clear().await.map_err(Problem::from), |deleted| *deleted)?;
    match out.is_json() {
        true => out.value(&json!({ "file": path.display().to_string(), "deleted": deleted })),
        false => out.line(format_args!("{deleted} messages deleted from {}", path.display())),
    }
}

pub(crate) async fn vacuum(settings: &Settings, out: Out) -> Result {
    let (path, queue) = open(&settings.config()?, "vacuum").await?;
    let freed = queue.vacuum().await?;
    match out.is_json() {
        true => out.value(&json!({ "file": path.display().to_string(), "freed_bytes": freed })),
        false => out.line(format_args!("{} is {freed} bytes smaller", path.display())),
    }
}

async fn open(config: &dawdle::Config, doing: &str) -> Result<(PathBuf, LocalBackend)> {
    let path = local_path(config);
    if config.chosen_backend()? != BackendKind::Local {
        return Err(Problem::usage(format!(
            "{doing} is for the local file, and the configuration names another backend: set DAWDLE_BACKEND=local if \
             you mean {}",
            path.display()
        )));
    }
    if !path.exists() {
        return Err(Problem::nothing(format!(
            "there is no local queue {}: go to the folder of the application, or set DAWDLE_LOCAL_PATH",
            path.display()
        )));
    }
    let queue = LocalBackend::open(&path, LocalOptions::default()).await?;
    Ok((path, queue))
}
