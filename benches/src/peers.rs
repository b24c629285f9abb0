//! Other libraries: built or installed here when they are asked for, and only then.
//!
//! Each lives in a folder of `benches/peers/` with dependencies of its own. What is installed for
//! them goes below `.cache/` in this clone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A program of `peers/`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    /// A crate with a workspace of its own.
    Crate(&'static str),
    /// A Python script, and what it needs from pip.
    Script { folder: &'static str, pins: &'static [&'static str] },
}

pub(crate) const OMNIQUEUE: Peer = Peer::Crate("omniqueue");
pub(crate) const APALIS: Peer = Peer::Crate("apalis");
pub(crate) const BOTO3: Peer = Peer::Script { folder: "boto3", pins: &["boto3==1.44.5"] };

impl Peer {
    /// How it is started; builds or installs it where that is still to be done.
    pub(crate) fn command(&self) -> Result<Command> {
        match self {
            Peer::Crate(folder) => built(folder),
            Peer::Script { folder, pins } => installed(folder, pins),
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn cache() -> Result<PathBuf> {
    let cache = root().join(".cache/bench");
    std::fs::create_dir_all(&cache)?;
    Ok(cache.canonicalize()?)
}

fn built(folder: &str) -> Result<Command> {
    let manifest = root().join("benches/peers").join(folder).join("Cargo.toml");
    // Of its own, so that one that is still being built holds up no other.
    let target = cache()?.join(folder);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]).arg(manifest);
    run(cargo.arg("--target-dir").arg(&target)).with_context(|| format!("building {folder}"))?;
    Ok(Command::new(target.join("release").join(format!("peer-{folder}"))))
}

fn installed(folder: &str, pins: &[&str]) -> Result<Command> {
    let environment = cache()?.join(format!("venv-{}", pins.join("-")));
    let python = environment.join("bin/python");
    let done = environment.join("installed");
    if !done.exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment)).context("python3 -m venv")?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(pins);
        run(&mut pip).with_context(|| format!("installing {}", pins.join(", ")))?;
        std::fs::write(&done, pins.join("\n"))?;
    }
    let mut command = Command::new(python);
    command.arg(root().join("benches/peers").join(folder).join("client.py"));
    Ok(command)
}

/// Runs a program to its end; its last line of errors is the reason where it fails.
fn run(command: &mut Command) -> Result<()> {
    let ran = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    ensure!(ran.status.success(), "{}: {}", ran.status, said.trim().lines().next_back().unwrap_or_default());
    Ok(())
}
