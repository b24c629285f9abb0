#![doc = include_str!("../README.md")]

mod access;
mod assets;
mod change;
mod dashboard;
mod guard;
mod jobs;
mod live;
mod look;
mod pages;
mod query;
mod sampler;
mod secret;
mod sessions;

pub use access::Access;
pub use dashboard::{Dashboard, Stop};
