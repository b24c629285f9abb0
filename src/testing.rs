//! For tests: a [`Harness`] on a clock that the test moves, and the suites that every backend
//! ([`conformance`]) and every store of finished work ([`dedupe_conformance`]) passes.

pub mod conformance;
pub mod dedupe_conformance;
mod harness;
mod recorder;

pub use harness::{Harness, HarnessBuilder};
