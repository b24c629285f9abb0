//! When a client's work begins and ends: its side of the agreement in `task.rs`.

use std::io::BufRead;

use anyhow::{Result, bail};

/// Says that this client is connected, and waits until the work is to begin.
pub(crate) async fn ready() -> Result<()> {
    println!("ready");
    next_line().await
}

/// Waits until all is consumed.
pub(crate) async fn told_to_stop() -> Result<()> {
    next_line().await
}

async fn next_line() -> Result<()> {
    let read = tokio::task::spawn_blocking(|| std::io::stdin().lock().read_line(&mut String::new())).await??;
    // Whoever measures is gone.
    if read == 0 { bail!("nobody listens any more") } else { Ok(()) }
}
