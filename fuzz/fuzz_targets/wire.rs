//! Any bytes as a message body: an event that survives being written, a retry and a death, or kept whole.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dawdle::fuzzing::wire(bytes));
