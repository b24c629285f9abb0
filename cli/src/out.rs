//! What is written to standard output: tables for people, JSON for programs.

use std::fmt::Display;
use std::io::Write as _;

use anstyle::Style;
use comfy_table::{CellAlignment, Table, presets};
pub(crate) use dawdle_workbench::text::clean;
use dawdle_workbench::text::first_line;
use serde::Serialize;

use crate::problem::{Problem, Result};

/// How much of a cell a table shows, in characters: the longest id.
const WIDTH: usize = 64;

/// How much of a line is shown that is no cell, in characters.
const LINE: usize = 400;

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

/// One line of what came from anywhere.
pub(crate) fn line(text: &str) -> String {
    clean(&first_line(text, LINE))
}

/// Rows under their headings, as text. A cell is one line, however many there are in what it shows: what came from
/// outside makes no rows of its own.
pub(crate) fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
    for row in rows {
        // Cut again where what a terminal does not take is written out.
        table.add_row(row.iter().map(|cell| first_line(&clean(&first_line(cell, WIDTH)), WIDTH)));
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
