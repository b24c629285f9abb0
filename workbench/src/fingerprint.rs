//! What makes errors that differ only in their numbers one: [`of`].

use dawdle::DeadLetter;

/// The fingerprint of an error's text: 8 hex digits. Texts that differ only in digits, in hexadecimal
/// numbers or in UUIDs have the same.
pub fn of(text: &str) -> String {
    // FNV-1a: the same in every build, and on every machine.
    let hash =
        plain(text).bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

/// The fingerprint of what a letter died of: of its error, or of its reason where it has none.
pub fn of_letter(letter: &DeadLetter) -> String {
    of(letter.error.as_deref().unwrap_or(&letter.reason))
}

/// The text with `#` in place of every number.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|character: char| !character.is_alphanumeric()).unwrap_or(rest.len());
        let length = match () {
            () if starts_with_uuid(rest) => UUID.len(),
            () if word == 0 => {
                plain.push(first);
                rest = &rest[first.len_utf8()..];
                continue;
            }
            () => word,
        };
        let (word, after) = rest.split_at(length);
        if length == UUID.len() && starts_with_uuid(word) || is_hex(word) {
            plain.push('#');
        } else {
            push_without_digits(&mut plain, word);
        }
        rest = after;
    }
    plain
}

const UUID: &str = "hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh";

/// Whether the text begins with a UUID that is a word of its own.
fn starts_with_uuid(text: &str) -> bool {
    let bytes = text.as_bytes();
    let matches = |(at, form): (usize, u8)| match (form, bytes.get(at)) {
        (b'-', Some(b'-')) => true,
        (b'h', Some(byte)) => byte.is_ascii_hexdigit(),
        _ => false,
    };
    UUID.bytes().enumerate().all(matches)
        && !text[UUID.len()..].chars().next().is_some_and(|character| character.is_alphanumeric())
}

/// Whether a word is a hexadecimal number: one with a digit, or one too long to be a word by chance.
fn is_hex(word: &str) -> bool {
    let digits = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")).unwrap_or(word);
    !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        && (digits.len() >= 8 || word.bytes().any(|byte| byte.is_ascii_digit()))
}

/// Each run of digits as one `#`.
fn push_without_digits(plain: &mut String, word: &str) {
    let mut in_digits = false;
    for character in word.chars() {
        let is_digit = character.is_ascii_digit();
        match is_digit {
            true if !in_digits => plain.push('#'),
            true => {}
            false => plain.push(character),
        }
        in_digits = is_digit;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_differs_from_error_to_error_is_left_out() {
        assert_eq!(
            plain("order 8812 of 6a7d1f3c-9f6a-4f0e-8d5a-0b1c2d3e4f50 at 0x7fFA: bad row"),
            "order # of # at #: bad row"
        );
        assert_eq!(plain("node7 says e3b0c44298fc, not faded"), "node# says #, not faded");
        assert_eq!(plain("timed out after 30s"), "timed out after #s");
    }

    #[test]
    fn a_fingerprint_never_changes_from_version_to_version() {
        assert_eq!(of("connection refused"), "c1cbdef1");
        assert_eq!(of(""), "811c9dc5");
    }

    proptest! {
        #[test]
        fn any_text_has_one_of_eight_hex_digits(text in any::<String>()) {
            let print = of(&text);
            prop_assert_eq!(print.len(), 8);
            prop_assert!(print.bytes().all(|byte| byte.is_ascii_hexdigit()));
            prop_assert_eq!(print, of(&text));
        }

        #[test]
        fn no_digit_has_a_say(text in any::<String>()) {
            let plain = plain(&text);
            prop_assert!(!plain.bytes().any(|byte| byte.is_ascii_digit()));
            prop_assert_eq!(&super::plain(&plain), &plain);
        }

        #[test]
        fn numbers_uuids_and_hex_make_no_difference(
            words in prop::collection::vec("[g-z]{1,9}", 1..6),
            numbers in prop::collection::vec((any::<u64>(), any::<u64>()), 1..6),
            uuids in prop::collection::vec((any::<u128>(), any::<u128>()), 1..6),
        ) {
            let text = |left: bool| {
                let mut text = String::new();
                for ((word, number), uuid) in words.iter().zip(&numbers).zip(&uuids) {
                    let number = if left { number.0 } else { number.1 };
                    let hex = format!("{:032x}", if left { uuid.0 } else { uuid.1 });
                    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
                    text.push_str(&format!("{word} {number} {a}-{b}-{c}-{d}-{e} {hex} 0x{number:x}; "));
                }
                text
            };
            prop_assert_eq!(of(&text(true)), of(&text(false)));
        }

        #[test]
        fn other_words_make_a_difference(left in "[g-z]{3,12}", right in "[g-z]{3,12}") {
            prop_assert_eq!(left == right, of(&left) == of(&right));
        }
    }
}
