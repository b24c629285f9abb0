//! For tests: of backends, by the suite that every backend passes.

pub mod conformance;
