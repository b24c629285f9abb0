//! Asking before what cannot be undone.

use std::io::{IsTerminal as _, Write as _};

use crate::out::clean;
use crate::problem::{Problem, Result};

/// Refuses, where nobody can be asked and the answer was not given beforehand.
pub(crate) fn can_ask(yes: bool, what: &str) -> Result {
    if yes || (std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Ok(());
    }
    Err(Problem::usage(format!("{what} asks first, and there is no terminal to ask at: add --yes if you mean it")))
}

/// Asks, where the answer was not given beforehand; fails unless it is yes.
pub(crate) fn first(yes: bool, question: &str) -> Result {
    if yes {
        return Ok(());
    }
    anstream::eprint!("{} [y/N] ", clean(question));
    let _ = anstream::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    match read.map(|_| answer.trim().to_ascii_lowercase()) {
        Ok(answer) if answer == "y" || answer == "yes" => Ok(()),
        Ok(_) => Err(Problem::failed("not done: the answer was not yes")),
        Err(error) => Err(Problem::failed(format!("not done: the answer cannot be read: {error}"))),
    }
}
