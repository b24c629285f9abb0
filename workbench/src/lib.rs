//! What Dawdle's command line and its dashboard share: dead letters chosen ([`Wanted`]), grouped by what
//! they died of ([`Groups`]) and gone through one by one ([`sweep`], [`for_each`]), and the log of who
//! changed what ([`Audit`]).
//!
//! It knows neither a terminal nor a page.

mod audit;
pub mod fingerprint;
mod group;
pub mod json;
mod select;
mod sweep;
pub mod text;
pub mod when;

pub use audit::{Audit, Change, Unnoted};
pub use group::{Group, Groups};
pub use select::{Filters, HANDLERS_OWN, NO_HANDLER, Wanted};
pub use sweep::{Looked, RATES, Swept, for_each, mark, rate, sweep};
