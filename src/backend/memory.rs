//! Messages in memory.
