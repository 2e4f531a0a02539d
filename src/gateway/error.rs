//! Why a question was not answered, in domain words. Status codes are `http/error.rs`'s business.

use std::{sync::Arc, time::Duration};

use crate::{
    hub::{Commit, Repo, RepoPath, Revision, Sha256},
    policy::{Denial, DenialKind},
};

/// A policy's no, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One ASCII line: the reason, the remedy, whom to ask. The same text everywhere.
    pub text: String,
    /// The rule that refused, where one did.
    pub rule: Option<String>,
    /// The sort of refusal, where it is policy's.
    pub kind: Option<DenialKind>,
    /// The decision itself, where it is policy's.
    pub denial: Option<Arc<Denial>>,
}

impl Refusal {
    /// Policy's, with whom to ask.
    pub(super) fn of_policy(denial: &Denial, contact: Option<&str>) -> Self {
        Self {
            text: denial.message(contact),
            rule: denial.rule().map(ToOwned::to_owned),
            kind: Some(denial.kind()),
            denial: Some(Arc::new(denial.clone())),
        }
    }

    /// One that is no rule's.
    pub fn of_ours(text: String) -> Self {
        Self { text, rule: None, kind: None, denial: None }
    }
}

/// Why there is no answer. Cheap to clone: one look-up's failure is told to everybody who waits for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Policy says no.
    #[error("{}", .0.text)]
    Denied(Refusal),
    /// The file is there, but policy hides it: the Hub's "entry not found", without a commit, so that
    /// clients don't remember it for ever.
    #[error("{path} is withheld by policy: {}", refusal.text)]
    Hidden {
        /// The path.
        path: RepoPath,
        /// Why.
        refusal: Refusal,
    },
    /// No such repo, or the origin doesn't show it to us.
    #[error("{0}: repository not found")]
    RepoNotFound(Repo),
    /// No such revision.
    #[error("{repo}: invalid rev id: {revision}")]
    RevisionNotFound {
        /// The repo.
        repo: Repo,
        /// The revision as asked.
        revision: Revision,
    },
    /// The commit has no such file or folder. A fact of the commit, remembered for ever.
    #[error("{repo}@{commit}: entry not found")]
    EntryNotFound {
        /// The repo.
        repo: Repo,
        /// The commit.
        commit: Commit,
    },
    /// The file can never be served by this gateway as it is set up: which size, which key bounds it.
    #[error("{size} bytes are more than {key} allows ({limit} bytes); ask the operator to raise it")]
    NeverFits {
        /// The file's size in bytes.
        size: u64,
        /// The bound in bytes.
        limit: u64,
        /// The configuration key.
        key: &'static str,
    },
    /// The origin is the cause. A definite no has a variant above; this is an outage, a refused token, a
    /// proxy in the way, an answer that makes no sense.
    #[error(transparent)]
    Upstream(#[from] crate::upstream::Error),
    /// The store is the cause.
    #[error(transparent)]
    Store(Arc<crate::store::Error>),
    /// The manifest is the cause.
    #[error(transparent)]
    Manifest(#[from] crate::manifest::Error),
    /// What the origin says of a commit makes no sense, and so nothing of it is kept.
    #[error("{0}")]
    Insane(String),
    /// Fetched content was not what the origin had announced. Nothing was stored.
    #[error("{sha256}: fetched content does not match; not stored")]
    Integrity {
        /// The announced digest, or what was computed for a git file.
        sha256: Sha256,
    },
    /// What the client has of the file may be of a fill that failed, and it would take the whole file for the rest.
    #[error(
        "{path} cannot be resumed: bytes of a failed transfer of it went out, and the part read so far may be of them; \
         read it again from its start, or download it (hf download, or load_dataset without streaming)"
    )]
    Spoiled {
        /// The path.
        path: RepoPath,
    },
    /// Work goes on behind this answer, or a limit is reached: try again.
    #[error("{why}")]
    Busy {
        /// What is going on.
        why: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// A listing longer than this gateway makes.
    #[error("{0}")]
    TooMany(String),
}

impl From<crate::store::Error> for Error {
    fn from(error: crate::store::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}
