//! The Hub's language: repos, revisions, commits, paths, digests, URLs and JSON.
//!
//! Everything here is pure: values in, values out. No I/O, no async, no clock. Text from outside is
//! parsed into these types once, at the edge; from there on the types are trusted.

mod client;
mod conditional;
mod digest;
mod path;
mod range;
mod repo;
mod revision;
mod route;
mod wire;

pub use client::{ClientKind, ClientVersion, SizeRule};
pub use conditional::{Condition, if_range_holds};
pub use digest::{BlobId, GitHasher, GitOid, Sha256, Sha256Hasher};
pub use path::RepoPath;
pub use range::{ByteRange, RangeError, Selected, content_range, unsatisfied_content_range};
pub use repo::{Repo, RepoKind};
pub use revision::{Commit, Revision};
pub use route::{CommitsQuery, GitService, HubRoute, InfoQuery, ListQuery, RouteError, TreeQuery};
pub use wire::{
    CommitAuthor, CommitInfo, EntryKind, Gated, InfoSibling, LfsInfo, LfsPointer, MaskedOid, PathsInfoRequest, RefInfo,
    Refs, RepoInfo, StatedLicense, TreeEntry, TreeNode, cursor_after, info_answer, lfs_pointer, read_cursor, strip_xet,
};

/// Text from outside that is not what it should be: says what it is, what was wrong and what would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?}: {problem}")]
pub struct ParseError {
    /// The thing that was parsed, in the field's words: "repo id", "revision", "path".
    pub what: &'static str,
    /// The text as it came, shortened to 200 characters.
    pub value: String,
    /// What is wrong with it and what would be right.
    pub problem: &'static str,
}

impl ParseError {
    pub(crate) fn new(what: &'static str, value: &str, problem: &'static str) -> Self {
        Self { what, value: value.chars().take(200).collect(), problem }
    }
}
