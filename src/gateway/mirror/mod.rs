//! Whole commits: what one would take ([`Gateway::plan`]), bringing it in ([`Gateway::fetch`]), the moment
//! when all of it is here ([`Completed`]), the repos that it names beyond itself ([`Gateway::references`]), and the commit as it is locked ([`Gateway::lockable`]).
//! Sync, preseeding, publishing, hooks and the lock file stand on this.
//!
//! Files come in by the very fills that clients use, each after a decision of its own, and clients go first.
//! Which commits are wanted is decided elsewhere; nothing here serves or removes anything.

mod complete;
mod fetch;
mod locked;
mod named;
mod plan;
mod references;

pub use complete::{Completed, CompletedFile, Completions};
pub use fetch::{Fetched, FileProgress};
pub use locked::{Lockable, ToBeLocked};
pub use plan::{FileState, Plan, Planned, PlannedFile, Sum, Sums};
pub use references::{NamedBy, Reference, References, Standing};

pub(super) use complete::COMPLETED_UNHEARD;
pub(super) use plan::left_out;

use super::Gateway;
