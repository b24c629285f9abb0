//! What is written to standard output: tables for people, JSON for programs.

use std::fmt::Display;
use std::io::Write as _;

use anstyle::Style;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::problem::{Problem, Result};

/// Where a command's results go. Colours and control codes are left out where it is no terminal, and
/// where `NO_COLOR` is set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    json: bool,
}

impl Out {
    pub(crate) fn new(json: bool) -> Self {
        Out { json }
    }

    /// Whether it is read by a program.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Writes a line for people, which may hold styles.
    pub(crate) fn line(self, text: impl Display) -> Result {
        let mut out = anstream::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| Problem::of_output(&error))
    }

    /// Writes a value as one line of JSON.
    pub(crate) fn value(self, value: &impl Serialize) -> Result {
        let text = serde_json::to_string(value)
            .map_err(|error| Problem::failed(format!("a result cannot be written as JSON: {error}")))?;
        self.line(text)
    }

    /// Writes rows under their headings. The columns whose heading begins with `>` are set to the right.
    pub(crate) fn table(self, headings: &[&str], rows: Vec<Vec<String>>) -> Result {
        self.line(table(headings, rows))
    }
}

/// Rows under their headings, as text.
pub(crate) fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell)));
    }
    for (index, heading) in headings.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let text = table.trim_fmt();
    let bold = Style::new().bold();
    match text.split_once('\n') {
        Some((head, rest)) => format!("{bold}{head}{bold:#}\n{rest}"),
        None => format!("{bold}{text}{bold:#}"),
    }
}

/// The text without what a terminal would take for a command: it may come from anywhere.
pub(crate) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => clean.push('\n'),
            '\t' => clean.push(' '),
            _ if character.is_control() || is_invisible(character) => clean.extend(character.escape_unicode()),
            _ => clean.push(character),
        }
    }
    clean
}

/// Marks that turn the direction of what is shown after them.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// The first line of a text, and at most so many characters of it.
pub(crate) fn first_line(text: &str, most: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= most && line.len() == text.len() {
        return line.to_owned();
    }
    let mut short: String = line.chars().take(most).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_gives_the_terminal_no_commands() {
        assert_eq!(clean("a\u{1b}[2Jb\u{9b}c\u{202e}d"), "a\\u{1b}[2Jb\\u{9b}c\\u{202e}d");
        assert_eq!(clean("two\nlines, ünïcode"), "two\nlines, ünïcode");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(first_line("ünï", 3), "ünï");
        assert_eq!(first_line("ünïcode", 3), "ünï…");
        assert_eq!(first_line("one\ntwo", 9), "one…");
    }
}
