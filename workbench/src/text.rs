//! Text that came from anywhere, made fit to be shown.

/// The text without what a terminal would take for a command, or a reader for something else: it may come from
/// anywhere.
pub fn clean(text: &str) -> String {
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
pub fn first_line(text: &str, most: usize) -> String {
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
