//! What logs and errors may repeat of what came from outside: names, shortened; never values,
//! never a password.

use std::fmt;

/// The most of a name that is shown, in characters.
const SHOWN: usize = 100;

/// A name from the wire for a log line or an error: shortened, and without characters that would
/// break the line.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for c in self.0.chars().take(SHOWN) {
            f.write_char(if c.is_control() { '\u{FFFD}' } else { c })?;
        }
        if self.0.chars().nth(SHOWN).is_some() {
            write!(f, "… ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

/// Why something does not become JSON, or JSON something, and where, without anything that the JSON holds. Messages that are
/// not of serde's own making are left out, for a type's own may quote what it refuses.
pub(crate) fn codec_error(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let place = format!(" at line {line} column {column}");
    let text = text.strip_suffix(&place).unwrap_or(&text);
    let what = if error.is_data() { without_values(text) } else { text.to_owned() };
    if line == 0 { what } else { what + &place }
}

/// What serde_json says of text that is no JSON, or goes beyond what it reads. On the way through
/// typetag an error keeps its words and loses its class.
const OF_SYNTAX: [&str; 22] = [
    "EOF while parsing a list",
    "EOF while parsing a string",
    "EOF while parsing a value",
    "EOF while parsing an object",
    "control character (\\u0000-\\u001F) found while parsing a string",
    "expected `,` or `]`",
    "expected `,` or `}`",
    "expected `:`",
    "expected `\"`",
    "expected ident",
    "expected value",
    "float key must be finite (got NaN or +/-inf)",
    "invalid escape",
    "invalid number",
    "invalid unicode code point",
    "key must be a string",
    "lone leading surrogate in hex escape",
    "number out of range",
    "recursion limit exceeded",
    "trailing characters",
    "trailing comma",
    "unexpected end of hex escape",
];

/// One of serde's messages without the value in it. What was expected comes last, and from the
/// program.
fn without_values(text: &str) -> String {
    let expected = || match text.rsplit_once(", expected ") {
        Some((_, expected)) if !text.ends_with(", there are no fields") => format!(", expected {expected}"),
        _ => String::new(),
    };
    let what = |prefix: &str| text.starts_with(prefix);
    if OF_SYNTAX.contains(&text) || what("missing field `") || what("duplicate field `") || what("invalid length ") {
        return text.to_owned();
    }
    for (prefix, value) in [
        ("invalid type: ", "(a value)"),
        ("invalid value: ", "(a value)"),
        ("unknown variant ", "(a name)"),
        ("unknown field ", "(a name)"),
    ] {
        if what(prefix) {
            return format!("{prefix}{value}{}", expected());
        }
    }
    "its type refuses it".to_owned()
}

/// A URL without a user and password.
pub(crate) fn without_userinfo(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde::de::Error as _;

    fn why<'de, T: Deserialize<'de>>(json: &'de str) -> String {
        let text = codec_error(&serde_json::from_str::<T>(json).err().expect("refused"));
        assert!(!text.contains("sec") && !text.contains("ret") && !text.contains("4711"), "{text}");
        text
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        #[expect(dead_code, reason = "decoded only")]
        one: u32,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Empty {}

    #[derive(Debug, Deserialize)]
    enum Choice {
        One,
    }

    #[derive(Debug)]
    struct Picky;

    impl<'de> Deserialize<'de> for Picky {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Err(D::Error::custom(format!("`{}` is no colour", String::deserialize(deserializer)?)))
        }
    }

    #[test]
    fn a_decode_error_names_the_place_and_what_was_expected_and_quotes_nothing() {
        assert_eq!(why::<u32>(r#""sec\"ret""#), "invalid type: (a value), expected u32 at line 1 column 10");
        assert_eq!(why::<u8>("4711"), "invalid value: (a value), expected u8 at line 1 column 4");
        assert_eq!(why::<Strict>("{}"), "missing field `one` at line 1 column 2");
        assert_eq!(why::<Strict>(r#"{"sec`ret": 1}"#), "unknown field (a name), expected `one` at line 1 column 10");
        assert_eq!(why::<Empty>(r#"{"a, expected secret": 1}"#), "unknown field (a name) at line 1 column 21");
        assert_eq!(why::<Choice>(r#""sec`ret""#), "unknown variant (a name), expected `One` at line 1 column 9");
        assert_eq!(why::<Picky>(r#""secret""#), "its type refuses it");
        assert!(why::<u32>(r#"{"secret": "#).starts_with("invalid type: (a value), expected u32"));
        assert!(why::<String>(r#""\ud800secret""#).contains("hex escape"));
        let Choice::One = serde_json::from_str(r#""One""#).unwrap();
    }

    #[test]
    fn a_name_is_shown_on_one_line_and_shortened() {
        assert_eq!(Shown("trial.ending").to_string(), "trial.ending");
        assert_eq!(Shown("a\nERROR b\u{1b}[2J").to_string(), "a\u{FFFD}ERROR b\u{FFFD}[2J");
        let long = Shown(&"x".repeat(1_000_000)).to_string();
        assert!(long.len() < 200 && long.ends_with("… (1000000 bytes)"), "{long}");
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        assert_eq!(without_userinfo("http://me:secret@sqs.test:1/a@b"), "http://sqs.test:1/a@b");
        assert_eq!(without_userinfo("http://sqs.test?x=1@2"), "http://sqs.test?x=1@2");
        assert_eq!(without_userinfo("no URL"), "no URL");
    }
}
