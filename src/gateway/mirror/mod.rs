//! Whole commits: what one would take ([`Gateway::plan`]), bringing it in ([`Gateway::fetch`]), and the moment
//! when all of it is here ([`Completed`]). Sync, preseeding, publishing and hooks stand on this.
//!
//! Files come in by the very fills that clients use, each after a decision of its own, and clients go first.
//! Which commits are wanted is decided elsewhere; nothing here serves or removes anything.

mod complete;
mod fetch;
mod plan;

pub use complete::{Completed, CompletedFile, Completions};
pub use fetch::{Fetched, FileProgress};
pub use plan::{FileState, Plan, Planned, PlannedFile, Sum, Sums};

pub(super) use complete::COMPLETED_UNHEARD;
pub(super) use plan::left_out;

use super::Gateway;
