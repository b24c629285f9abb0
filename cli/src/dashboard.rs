//! `dawdle dashboard`: a page about the queues and the dead letters.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dawdle_dashboard::Dashboard;
use serde_json::json;
use tokio::net::TcpListener;

use crate::audit::{self, Audit};
use crate::out::Out;
use crate::problem::{Problem, Result};
use crate::queue::{Queues, close};
use crate::serve::serve;
use crate::settings::Settings;
use crate::stop;

/// The shortest token, in bytes.
const SHORTEST: usize = 16;

/// For how long requests under way may go on once it is to end.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where it is served; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7878")]
    listen: SocketAddr,
    /// Ask for the token that is in this file, of 16 bytes or more
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Change nothing
    #[arg(long)]
    read_only: bool,
    /// Serve others than this machine, too; needs --token-file
    #[arg(long)]
    public: bool,
}

pub(crate) async fn run(args: Args, settings: &Settings, out: Out) -> Result {
    if !args.listen.ip().is_loopback() && !args.public {
        return Err(Problem::usage(format!(
            "{} can be reached from elsewhere: add --public and --token-file if you mean it, or listen on 127.0.0.1",
            args.listen
        )));
    }
    let token = args.token_file.as_deref().map(token).transpose()?;
    if args.public && token.is_none() {
        return Err(Problem::usage("--public needs --token-file: whoever has no token could change the queues"));
    }
    // From here on: whoever sees the address may ask it to end.
    let mut asked = std::pin::pin!(stop::asked());
    let queues = Queues::open(settings).await?;
    let path = Audit::path(&queues.config);
    let dawdle = queues.dawdle().await?;
    let mut dashboard = Dashboard::new(dawdle.clone()).audit_log(path).who(audit::who()).read_only(args.read_only);
    if let Some(token) = token {
        dashboard = dashboard.token(token);
    }
    let (router, ends) = dashboard.into_parts();
    let listener = TcpListener::bind(args.listen).await.map_err(|error| not_served(args.listen, &error))?;
    let address = listener.local_addr().map_err(|error| not_served(args.listen, &error))?;
    say(address, &queues.backend.describe(), out)?;

    let (told, tell) = tokio::sync::oneshot::channel::<()>();
    let ended = async { drop(tell.await) };
    let mut served = std::pin::pin!(serve(listener, router, ended));
    tokio::select! {
        () = &mut served => {}
        () = &mut asked => {
            ends.stop().await;
            drop(told);
            // A connection that does nothing does not hold it.
            drop(tokio::time::timeout(PATIENCE, served).await);
        }
    }
    close(&dawdle).await;
    Ok(())
}

fn say(address: SocketAddr, place: &str, out: Out) -> Result {
    let url = format!("http://{address}/");
    match out.is_json() {
        true => out.value(&json!({ "url": url, "address": address.to_string(), "queues": place })),
        false => out.line(format_args!("{url} shows {}; Ctrl-C ends it", crate::out::clean(place))),
    }
}

fn token(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Problem::failed(format!("the token file {} cannot be read: {error}", path.display())))?;
    let token = text.trim();
    if token.len() < SHORTEST {
        return Err(Problem::usage(format!(
            "the token in {} has {} bytes; it has {SHORTEST} or more: make one with `openssl rand -hex 32`",
            path.display(),
            token.len()
        )));
    }
    Ok(token.to_owned())
}

fn not_served(address: SocketAddr, error: &std::io::Error) -> Problem {
    Problem::failed(format!("the dashboard cannot be served on {address}: {error}"))
}
