//! The ways to do the work, one file each: what a client's process does between its task and its
//! answer.

pub(crate) mod bare;
pub(crate) mod by_hand;
pub(crate) mod dawdle;
pub(crate) mod dawdle_local;
pub(crate) mod naive;
