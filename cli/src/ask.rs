//! Asking before what cannot be undone.

use std::io::{IsTerminal as _, Write as _};

use crate::out::clean;
use crate::problem::{Problem, Result};
use crate::stop;

/// Refuses, where nobody can be asked and the answer was not given beforehand.
pub(crate) fn can_ask(yes: bool, what: &str) -> Result {
    if yes || (std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Ok(());
    }
    Err(Problem::usage(format!("{what} asks first, and there is no terminal to ask at: add --yes if you mean it")))
}

/// Asks, where the answer was not given beforehand; fails unless it is yes.
pub(crate) async fn first(yes: bool, question: &str) -> Result {
    if yes {
        return Ok(());
    }
    anstream::eprint!("{} [y/N] ", clean(question));
    let _ = anstream::stderr().flush();
    let (sender, answer) = tokio::sync::oneshot::channel();
    // On a thread that nobody waits for: a Ctrl-C ends the question, not the read.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line);
        let _ = sender.send(read.map(|_| line));
    });
    let answer = tokio::select! {
        answer = answer => answer,
        () = stop::asked() => return Err(Problem::failed("not done: told to stop")),
    };
    match answer {
        Ok(Ok(line)) if ["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str()) => Ok(()),
        Ok(Err(error)) => Err(Problem::failed(format!("not done: the answer cannot be read: {error}"))),
        _ => Err(Problem::failed("not done: the answer was not yes")),
    }
}
