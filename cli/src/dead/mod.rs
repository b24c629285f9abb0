//! `dawdle dead`: what could not be handled.

use clap::Subcommand;

use crate::out::Out;
use crate::problem::Result;
use crate::settings::Settings;

mod change;
mod edit;
mod list;
mod select;
mod sweep;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Group dead letters by kind, handler and error
    List(list::ListArgs),
    /// Show everything of one
    Show(list::ShowArgs),
    /// Put dead letters back on the message queue, each for the handler that it died of
    Replay(change::ReplayArgs),
    /// Change the data of one, and replay it
    Edit(edit::Args),
    /// Delete dead letters for good
    Purge(change::PurgeArgs),
}

pub(crate) async fn run(command: Command, settings: &Settings, out: Out) -> Result {
    match command {
        Command::List(args) => list::list(args, settings, out).await,
        Command::Show(args) => list::show(args, settings, out).await,
        Command::Replay(args) => change::replay(args, settings, out).await,
        Command::Edit(args) => edit::run(args, settings, out).await,
        Command::Purge(args) => change::purge(args, settings, out).await,
    }
}
