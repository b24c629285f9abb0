//! What is remembered of people: [`Sessions`] that were begun with the token, and the [`FormTokens`] that a
//! change must bring along.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::secret;

/// For how long a session lasts.
pub(crate) const LIFE: Duration = Duration::from_secs(12 * 3_600);

/// How many are remembered; the oldest is forgotten for one more.
const MOST: usize = 1_000;

/// The sessions that were begun with the token, oldest first.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<VecDeque<(String, Instant)>>);

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(String, Instant)>> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while sessions.front().is_some_and(|(_, begun)| begun.elapsed() >= LIFE) {
            sessions.pop_front();
        }
        sessions
    }

    /// Begins one; its secret.
    pub(crate) fn begin(&self) -> Option<String> {
        let secret = secret::random()?;
        let mut sessions = self.lock();
        if sessions.len() >= MOST {
            sessions.pop_front();
        }
        sessions.push_back((secret.clone(), Instant::now()));
        Some(secret)
    }

    pub(crate) fn has(&self, secret: &str) -> bool {
        // To the end, so that the time does not tell which.
        self.lock().iter().fold(false, |found, (known, _)| found | secret::is(secret, known))
    }

    pub(crate) fn end(&self, secret: &str) {
        self.lock().retain(|(known, _)| !secret::is(secret, known));
    }
}

/// For each who may change something, what proves that a form was got from here: a page of somebody else's
/// cannot read it.
#[derive(Default)]
pub(crate) struct FormTokens(Mutex<VecDeque<(String, String)>>);

impl FormTokens {
    /// Somebody's token; made when it is first asked for.
    pub(crate) fn of(&self, who: &str) -> Option<String> {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, token)) = tokens.iter().find(|(known, _)| known == who) {
            return Some(token.clone());
        }
        let token = secret::random()?;
        if tokens.len() >= MOST {
            tokens.pop_front();
        }
        tokens.push_back((who.to_owned(), token.clone()));
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_until_it_is_ended() {
        let sessions = Sessions::default();
        let one = sessions.begin().expect("randomness");
        let other = sessions.begin().expect("randomness");
        assert!(one != other && sessions.has(&one) && sessions.has(&other) && !sessions.has(""));
        sessions.end(&one);
        assert!(!sessions.has(&one) && sessions.has(&other));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (sessions, tokens) = (Sessions::default(), FormTokens::default());
        let first = sessions.begin().expect("randomness");
        for number in 0..MOST {
            sessions.begin();
            tokens.of(&number.to_string());
        }
        tokens.of("one more");
        assert!(!sessions.has(&first));
        assert_eq!((sessions.lock().len(), tokens.0.lock().expect("no panic").len()), (MOST, MOST));
    }

    #[test]
    fn everybody_has_a_token_of_their_own() {
        let tokens = FormTokens::default();
        let ann = tokens.of("ann").expect("randomness");
        assert_eq!(tokens.of("ann").as_ref(), Some(&ann));
        assert_ne!(tokens.of("bob").as_ref(), Some(&ann));
    }
}
