//! Tables in Markdown.

/// A table, row by row; the first column is text, the others are numbers.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: usize,
    text: String,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Table {
        let rule: Vec<&str> = head.iter().enumerate().map(|(at, _)| if at == 0 { "---" } else { "---:" }).collect();
        let mut table = Table { columns: head.len(), text: String::new() };
        table.row(head);
        table.row(&rule);
        table
    }

    pub(crate) fn row(&mut self, cells: &[impl AsRef<str>]) {
        debug_assert_eq!(cells.len(), self.columns);
        let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
        self.text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }

    pub(crate) fn text(self) -> String {
        self.text
    }
}

/// A number with as many digits as are of interest.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "-".to_owned(),
        size if size < 100.0 && value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 100.0 => thousands(value),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size < 0.1 => format!("{value:.4}"),
        _ => format!("{value:.2}"),
    }
}

/// A number, and beside it how many times the reference it is.
pub(crate) fn beside(value: f64, reference: Option<f64>) -> String {
    match reference {
        Some(reference) if reference > 0.0 => format!("{} ({:.2} x)", number(value), value / reference),
        _ => number(value),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    format!("{}{}", if value < 0.0 { "-" } else { "" }, groups.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_as_many_digits_as_are_of_interest() {
        let written = [1_234_567.8, 123.4, 12.34, 1.234, 0.0104, 3.0, f64::NAN].map(number);
        assert_eq!(written, ["1,234,568", "123", "12.3", "1.23", "0.0104", "3", "-"]);
    }

    #[test]
    fn a_table_has_a_rule_below_its_head() {
        let mut table = Table::new(&["what", "how much"]);
        table.row(&["it", &beside(3.0, Some(2.0))]);
        assert_eq!(table.text(), "| what | how much |\n| --- | ---: |\n| it | 3 (1.50 x) |\n");
    }
}
