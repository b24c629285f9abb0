//! For tests: a [`Harness`] on a clock that the test moves, and the [`conformance`] suite that
//! every backend passes.

pub mod conformance;
mod harness;
mod recorder;

pub use harness::{Harness, HarnessBuilder};
