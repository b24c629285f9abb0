//! The process that is measured: it plays one contender.

use anyhow::{Context, Result, bail};

use crate::task::Task;
use crate::ways;

/// The command that makes this program a client.
pub(crate) const ROLE: &str = "client";

/// Does a task in one of this program's own ways.
pub(crate) fn play(mut args: impl Iterator<Item = String>) -> Result<()> {
    let (way, task) = (args.next().context("which contender?")?, args.next().context("which task?")?);
    let task: Task = serde_json::from_str(&task)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        match way.as_str() {
            "dawdle" => ways::dawdle::play(&task, false).await,
            "dawdle-packed" => ways::dawdle::play(&task, true).await,
            "loop" => ways::by_hand::play(&task).await,
            "naive" => ways::naive::play(&task).await,
            "dawdle-local" => ways::dawdle_local::play(&task).await,
            "bare" => ways::bare::play(&task).await,
            other => bail!("there is no contender `{other}`"),
        }
    })?;
    println!("{}", serde_json::to_string(&measured)?);
    // A long poll may be under way, and what it answers is of no interest.
    std::process::exit(0);
}
