//! What the gateway is asked by and what it answers with; the types between it and `http`.

use std::{
    net::IpAddr,
    ops::Range,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::SizeHint;
use http_body_util::combinators::UnsyncBoxBody;
use serde_json::Value;

use super::{
    grant::Grant,
    snapshot::{Facts, Piece},
};
use crate::{
    body::{Chunk, Chunks, Taken},
    hub::{BlobId, Commit, GitOid, Repo, RepoPath, Revision, TreeNode},
    store::ObjectBody,
};

/// Who asks. Resolved once at the edge.
#[derive(Debug, Clone)]
pub struct Asker {
    /// The client's address, as `server.trusted_proxies` allow us to believe it.
    pub address: IpAddr,
    /// Its configured name, where its token is one of `auth.clients`; else `None`: anonymous.
    pub name: Option<Arc<str>>,
    /// Whether client traffic waits for the answer, or a job that can wait.
    pub background: bool,
}

impl Asker {
    /// The text for logs, the manifest and limits: the name, else the address.
    pub fn label(&self) -> String {
        self.name.as_deref().map_or_else(|| self.address.to_string(), ToOwned::to_owned)
    }
}

/// A file that policy lets this asker have: all that HEAD says of it. Nothing has been fetched for it.
#[derive(Debug, Clone)]
pub struct File {
    /// The repo under its canonical name.
    pub repo: Repo,
    /// The commit.
    pub commit: Commit,
    /// The path at that commit.
    pub path: RepoPath,
    /// Length in bytes.
    pub size: u64,
    /// How the Hub names the content; clients see it as the etag.
    pub blob: BlobId,
    /// The git id under which the tree lists it: of the content, or of the LFS pointer that `/raw/` shows.
    pub oid: GitOid,
    /// One ASCII line for `X-HF-Warning`.
    pub warning: Option<Arc<str>>,
    /// Whether an older look at the revision answered, upstream not being there.
    pub stale: bool,
    /// The revision that led to the commit; the sha itself if it was asked for by that.
    pub(crate) revision: Revision,
    /// What the fill and the manifest need to know of the decision.
    pub(crate) grant: Arc<Grant>,
}

impl File {
    /// What it is known by.
    pub(crate) fn name(&self) -> (Repo, Commit, RepoPath) {
        (self.repo.clone(), self.commit, self.path.clone())
    }
}

/// Where a file is.
#[derive(Debug, Clone)]
pub enum Located {
    /// At the commit and under the name that were asked for.
    Here(File),
    /// The asker used a branch, a tag, a short sha or another spelling: answered with a relative 307 to
    /// the same file at its commit, with the same metadata.
    Elsewhere(File),
}

/// What a request wants of a file.
#[derive(Debug, Clone)]
pub struct Opening {
    /// A range that lies inside; all of it, if `None`.
    pub range: Option<Range<u64>>,
    /// Where it asks for all from the range's start on, as one that resumes does: what it makes of the whole file.
    pub rest: Option<OnWhole>,
    /// When the request came, from which the time to its answer counts (I9).
    pub asked_at: std::time::Instant,
}

/// What a client does that asked for the rest of a file and gets all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnWhole {
    /// Begins anew, or shows an error.
    StartsOver,
    /// Puts it behind what it has, without a look at the status.
    TakesItForTheRest,
}

/// An open file.
pub struct Opened {
    /// The bytes that follow. The whole file, though the rest was asked for, while a failed fill's prefix may be
    /// about (taint, DESIGN section 5): then the answer is 200, not 206.
    pub range: Range<u64>,
    /// The bytes. Ends with an error, never short, when they turn out not to be what they should.
    pub body: Body,
    /// Where they come from, for the access log.
    pub cached: Cached,
}

/// The bytes of an answer.
pub enum Body {
    /// From the store.
    Stored(ObjectBody),
    /// From a fill under way.
    Filling(UnsyncBoxBody<Bytes, BodyError>),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stored(_) => "Stored",
            Self::Filling(_) => "Filling",
        })
    }
}

impl Chunks for Body {
    type Error = BodyError;

    fn poll_chunk(&mut self, cx: &mut Context<'_>, taken: Taken) -> Poll<Option<Result<Chunk, BodyError>>> {
        match self {
            Self::Stored(body) => body.poll_chunk(cx, taken).map_err(|error| BodyError(Box::new(error))),
            Self::Filling(body) => body.poll_chunk(cx, taken),
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Stored(body) => body.is_over(),
            Self::Filling(body) => body.is_over(),
        }
    }

    fn size_to_come(&self) -> SizeHint {
        match self {
            Self::Stored(body) => body.size_to_come(),
            Self::Filling(body) => body.size_to_come(),
        }
    }
}

/// Why a body broke off: the connection is broken so that the client sees it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(pub Box<dyn std::error::Error + Send + Sync>);

/// Where an answer came from, as the access log names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cached {
    /// From the store.
    Hit,
    /// From a fill that this request began.
    Fill,
    /// From a fill that was under way.
    Joined,
}

/// A repo's facts at a commit, for `/api/{kind}s/{id}[/revision/{rev}]`.
#[derive(Debug, Clone)]
pub struct RepoFacts {
    /// The repo under its canonical name.
    pub repo: Repo,
    /// The commit the facts are of.
    pub commit: Commit,
    /// Whether an older look at the revision answered, upstream not being there.
    pub stale: bool,
    pub(super) facts: Arc<Facts>,
    pub(super) pieces: Vec<Arc<Piece>>,
    pub(super) grant: Arc<Grant>,
}

impl RepoFacts {
    /// Upstream's own JSON object, without siblings and without anything of Xet.
    pub fn info(&self) -> &Value {
        &self.facts.info
    }

    /// All files that policy shows, in the order of their paths.
    pub fn files(&self) -> impl Iterator<Item = &TreeNode> + Clone {
        let is_shown = |node: &&TreeNode| !node.folder && !self.grant.approved.rule.hides(&node.path);
        self.pieces.iter().flat_map(|piece| &piece.nodes).filter(is_shown)
    }

    /// One ASCII line for `X-HF-Warning`: what is withheld, and the rule's age.
    pub fn warning(&self) -> Option<&Arc<str>> {
        self.grant.warning.as_ref()
    }
}

/// A repo in a list of them.
#[derive(Debug, Clone)]
pub struct ListedRepo(pub(super) Arc<Facts>);

impl ListedRepo {
    /// Upstream's own JSON object, without siblings and without anything of Xet.
    pub fn info(&self) -> &Value {
        &self.0.info
    }
}

/// A page of a tree, or the answer to paths-info.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The repo under its canonical name.
    pub repo: Repo,
    /// The commit.
    pub commit: Commit,
    /// The nodes, in the order of their paths.
    pub nodes: Vec<TreeNode>,
    /// Where the next page starts, if there is one.
    pub next: Option<String>,
    /// One ASCII line for `X-HF-Warning`.
    pub warning: Option<Arc<str>>,
    /// Whether an older look at the revision answered, upstream not being there.
    pub stale: bool,
}
