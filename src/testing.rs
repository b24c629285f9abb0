//! For tests: a [`Harness`] on a clock that the test moves, and the suites that every backend
//! ([`conformance`]) and every store of finished work ([`dedupe_conformance`]) passes. Whether a
//! handler does no harm when it runs again, [`prove_idempotent`] tells.

pub mod conformance;
pub mod dedupe_conformance;
mod harness;
mod idempotence;
mod recorder;

pub use harness::{Harness, HarnessBuilder};
pub use idempotence::{Counterexample, Proof, prove_idempotent};
