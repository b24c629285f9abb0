//! What one signal takes on the local file, beside one commit of one row by hand.

use std::time::Instant;

use anyhow::Result;
use dawdle::Dawdle;
use dawdle::backend::local::{LocalBackend, LocalOptions};
use serde_json::{Value, json};

use crate::event::{Order, body};
use crate::options::Options;
use crate::stats::median;
use crate::ways::bare;

/// What came of it.
pub(super) struct Lone {
    pub(super) text: String,
    pub(super) data: Value,
}

pub(super) fn measure(options: &Options) -> Result<Lone> {
    let times = if options.quick { 30 } else { 300 };
    eprintln!("{times} lone signals on a local file");
    let folder = tempfile::tempdir_in(&options.out)?;
    let mut connection = bare::open(&folder.path().join("bare.db"))?;
    let body = body()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (mut signals, mut commits) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let backend = LocalBackend::open(folder.path().join("queue.db"), LocalOptions::default()).await?;
        let dawdle = Dawdle::builder().backend(backend).discover(false).listener(false).start().await?;
        for _ in 0..times {
            let start = Instant::now();
            dawdle.signal(Order::new()).await?;
            signals.push(start.elapsed().as_secs_f64() * 1e6);
            let start = Instant::now();
            bare::put(&mut connection, &body, 1)?;
            commits.push(start.elapsed().as_secs_f64() * 1e6);
        }
        dawdle.shutdown().await;
        anyhow::Ok(())
    })?;
    let (signal, commit) = (median(signals), median(commits));
    let text = format!(
        "\nA lone `signal` takes {signal:.0} µs, a bare commit of one row {commit:.0} µs: {:.2} times that (p50 of {times}, by \
         turns).\n",
        signal / commit
    );
    Ok(Lone { text, data: json!({ "signal_us": signal, "commit_us": commit }) })
}
