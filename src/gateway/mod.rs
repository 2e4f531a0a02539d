//! The use cases: what the Hub's questions mean here. Policy, refs, snapshots, manifest, fills.
//!
//! Knows no HTTP server, no status code and no AWS. Every question starts with policy, hits too; what is
//! stored is answered from the store; only what is allowed and missing goes upstream.

mod answer;
mod error;

pub use answer::{Asker, Body, BodyError, Cached, File, Listing, Located, Opened, RepoFacts};
pub use crate::hub::TreeNode;
pub use error::{Error, Refusal};

/// The gateway's answers.
pub type Result<T> = std::result::Result<T, Error>;
