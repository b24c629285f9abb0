//! JSON laid out anew, to the letter: keys keep their order, and numbers every digit.

/// Valid JSON over several lines.
pub fn pretty(json: &str) -> String {
    let mut pretty = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut opened = false;
    for token in tokens(json) {
        let closes = matches!(token, "}" | "]");
        depth -= usize::from(closes && depth > 0);
        if (closes && !opened) || (opened && !closes) || pretty.ends_with(',') {
            pretty.push('\n');
            pretty.extend(std::iter::repeat_n("  ", depth));
        }
        pretty.push_str(if token == ":" { ": " } else { token });
        opened = matches!(token, "{" | "[");
        depth += usize::from(opened);
    }
    pretty
}

/// Valid JSON without what may be left out.
pub fn compact(json: &str) -> String {
    tokens(json).collect()
}

/// The tokens of valid JSON: strings, numbers and words, and each mark between them.
fn tokens(json: &str) -> impl Iterator<Item = &str> {
    let mut rest = json.trim_ascii_start();
    std::iter::from_fn(move || {
        let length = match rest.bytes().next()? {
            b'"' => string(rest),
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            _ => rest
                .find(|character: char| character.is_ascii_whitespace() || "{}[],:\"".contains(character))
                .unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(length);
        rest = after.trim_ascii_start();
        Some(token)
    })
}

/// How long the string is that the text begins with.
fn string(text: &str) -> usize {
    let mut escaped = false;
    let ends = |(_, byte): &(usize, u8)| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    };
    text.bytes().enumerate().skip(1).find(ends).map_or(text.len(), |(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn keys_keep_their_order_and_numbers_their_digits() {
        let json = r#"{"b":12345678901234567890.10,"a":[1e400,[],{}],"c":"x, \"y\": {"}"#;
        let expected = "{\n  \"b\": 12345678901234567890.10,\n  \"a\": [\n    1e400,\n    [],\n    {}\n  ],\n  \
                        \"c\": \"x, \\\"y\\\": {\"\n}";
        assert_eq!(pretty(json), expected);
        assert_eq!(compact(expected), json);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_layout_changes_nothing_else(value in value()) {
            let text = value.to_string();
            let laid_out = pretty(&text);
            prop_assert_eq!(&laid_out, &serde_json::to_string_pretty(&value).expect("JSON"));
            prop_assert_eq!(compact(&laid_out), text);
        }

        #[test]
        fn what_is_no_json_comes_to_an_end(text in any::<String>()) {
            pretty(&text);
            compact(&text);
        }
    }
}
