//! Secrets: made of the system's randomness, and compared without telling by the time how much of them is
//! right.

use subtle::ConstantTimeEq as _;

/// 64 hex digits that nobody can guess; `None` where the system has no randomness.
pub(crate) fn random() -> Option<String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether a guess is the secret. An empty secret is none.
pub(crate) fn is(guess: &str, secret: &str) -> bool {
    !secret.is_empty() && bool::from(guess.as_bytes().ct_eq(secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_secret_is_the_secret() {
        assert!(is("secret", "secret"));
        assert!(!is("secre", "secret") && !is("secrets", "secret") && !is("", "secret") && !is("", ""));
    }
}
