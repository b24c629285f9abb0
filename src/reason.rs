//! Why Dawdle itself dead-letters an event: the values of
//! [`DeadLetter::reason`](crate::DeadLetter::reason). A handler's own
//! [`Failure::dead_letter`](crate::Failure::dead_letter) gives its own text instead.

/// Every attempt has failed.
pub const ATTEMPTS: &str = "attempts";
/// It was taken after it had expired.
pub const EXPIRED: &str = "expired";
/// No node could handle it for as long as `unknown_after` says: an unknown kind, data that does
/// not decode, or no handler of its own.
pub const UNHANDLED: &str = "unhandled";
/// The body is no event.
pub const UNDECODABLE: &str = "undecodable";
/// It was received time and again without being settled.
pub const POISON: &str = "poison";
/// It says nothing of why: the queue itself moved it, by a redrive policy, or it had no room for a reason.
pub const REDRIVEN: &str = "redriven";
/// What was left of it could not be put on a queue, and never could be.
pub const UNSENDABLE: &str = "unsendable";

/// All of them: a reason that is none of these is a handler's own text.
pub const ALL: [&str; 7] = [ATTEMPTS, EXPIRED, UNHANDLED, UNDECODABLE, POISON, REDRIVEN, UNSENDABLE];
