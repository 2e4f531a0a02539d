//! Every URL of the Hub's read path as a value: parsed from a request, printed for an upstream URL or a
//! `Location`.
//!
//! [`HubRoute::parse`] and `Display` are inverse, with one exception that the Hub's own grammar forces: see
//! [`HubRoute::other_reading`]. A path is split into segments before anything is decoded, and each segment
//! is decoded once, so `refs%2Fpr%2F1` stays one revision (PROTOCOL section 2).
//!
//! Where a URL can be read in two ways, an id of two labels is tried before one of one label: canonical ids
//! have an owner, and so repos that are named like a verb (`org/refs`, `org/resolve`) can be reached. Each
//! such case is a line of `tests/fixtures/urls.txt`.
//!
//! What never happens here: no status code is chosen and no policy is asked.

mod parse;
mod print;
mod query;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::Method;

pub(super) use query::is_true;
pub use query::{CommitsQuery, InfoQuery, ListQuery, TreeQuery};

use super::{Commit, ParseError, Repo, RepoKind, RepoPath, Revision};

/// What a request asks of the Hub. HEAD is read as GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubRoute {
    /// `/{repo}/resolve/{revision}/{path}`: a file. Its query (`?download=true`) never changes the bytes and
    /// is ignored.
    Resolve {
        /// Which repo.
        repo: Repo,
        /// At which revision.
        revision: Revision,
        /// Which file.
        path: RepoPath,
    },
    /// `/{repo}/raw/{revision}/{path}`: a file as git has it, that is the pointer text of an LFS file.
    Raw {
        /// Which repo.
        repo: Repo,
        /// At which revision.
        revision: Revision,
        /// Which file.
        path: RepoPath,
    },
    /// `/api/resolve-cache/{kind}s/{repo}/{commit}/{path}`: where the Hub sends clients for small files. Its
    /// query is not needed; clients of the 0.x line drop it.
    ResolveCache {
        /// Which repo.
        repo: Repo,
        /// At which commit.
        commit: Commit,
        /// Which file.
        path: RepoPath,
    },
    /// `/api/{kind}s/{repo}[/revision/{revision}]`: a repo's facts.
    RepoInfo {
        /// Which repo.
        repo: Repo,
        /// At which revision; `None` asks for the default branch.
        revision: Option<Revision>,
        /// What to tell.
        query: InfoQuery,
    },
    /// `/api/{kind}s/{repo}/tree/{revision}[/{path}]`: a listing.
    Tree {
        /// Which repo.
        repo: Repo,
        /// At which revision.
        revision: Revision,
        /// Of which folder; `None` is the root.
        path: Option<RepoPath>,
        /// How deep, and which page.
        query: TreeQuery,
    },
    /// `POST /api/{kind}s/{repo}/paths-info/{revision}`: a read by POST; the paths stand in the body, see
    /// [`PathsInfoRequest`](super::PathsInfoRequest).
    PathsInfo {
        /// Which repo.
        repo: Repo,
        /// At which revision.
        revision: Revision,
    },
    /// `/api/{kind}s/{repo}/refs`: branches and tags.
    Refs {
        /// Which repo.
        repo: Repo,
        /// Whether to list pull requests too.
        include_prs: bool,
    },
    /// `/api/{kind}s/{repo}/commits/{revision}`: history.
    Commits {
        /// Which repo.
        repo: Repo,
        /// From which revision backwards.
        revision: Revision,
        /// Which page.
        query: CommitsQuery,
    },
    /// `/api/{kind}s/{repo}/auth-check`: may this caller read the repo?
    AuthCheck {
        /// Which repo.
        repo: Repo,
    },
    /// `/api/{kind}s/{repo}/xet-read-token/{revision}`: asked by clients that saw a Xet hash once.
    XetReadToken {
        /// Which repo.
        repo: Repo,
        /// At which revision.
        revision: Revision,
    },
    /// `/api/whoami-v2`.
    Whoami,
    /// `/api/{kind}s`: search and listing.
    RepoList {
        /// Which kind.
        kind: RepoKind,
        /// Which repos, and what of them.
        query: ListQuery,
    },
    /// `/api/agent-harnesses`: asked once a process by `huggingface_hub` 1.x and 2.x, with a timeout of 3 s.
    AgentHarnesses,
    /// `/api/telemetry/...`.
    Telemetry,
    /// git and git-lfs reads.
    Git {
        /// Which repo.
        repo: Repo,
        /// Which step of the protocol.
        service: GitService,
    },
    /// Every write route of the Hub, and every other request that would change something.
    Write {
        /// What would be done, as a phrase: `commit`, `create a repo`.
        what: &'static str,
        /// The request's method.
        method: Method,
        /// Its path and query, as they came.
        target: Arc<str>,
    },
    /// All else; the Hub's 404.
    Unknown {
        /// The request's method; GET for HEAD.
        method: Method,
        /// Its path, as it came.
        target: Arc<str>,
    },
}

/// A step of git's or git-lfs's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitService {
    /// `info/refs`.
    InfoRefs,
    /// `git-upload-pack`.
    UploadPack,
    /// Everything below `info/lfs`.
    Lfs,
}

/// A URL that means a read of the Hub and has a malformed part. Carries what was well formed before it, so
/// that policy can be asked about the repo first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No repo can have this id. The Hub says that there is no such repo.
    #[error(transparent)]
    Repo(ParseError),
    /// No revision can be named so. The Hub: 404 `RevisionNotFound`.
    #[error("{error}")]
    Revision {
        /// Which repo.
        repo: Repo,
        /// What is wrong.
        error: ParseError,
    },
    /// No file can have this path. The Hub: 404 `EntryNotFound`.
    #[error("{error}")]
    Path {
        /// Which repo.
        repo: Repo,
        /// At which revision.
        revision: Revision,
        /// What is wrong.
        error: ParseError,
    },
}

impl HubRoute {
    /// Reads a request. `path` is the raw, undecoded path without the prefix of `server.public_url`; leading
    /// slashes beyond the first are ignored, as clients send them when their endpoint ends in one. `query` is
    /// what follows the `?`, undecoded.
    ///
    /// # Errors
    /// The URL means a read of a repo, and its repo id, revision or path is malformed.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Self, RouteError> {
        parse::parse(method, path, query)
    }

    /// A stable label for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "resolve",
            Self::Raw { .. } => "raw",
            Self::ResolveCache { .. } => "resolve_cache",
            Self::RepoInfo { .. } => "repo_info",
            Self::Tree { .. } => "tree",
            Self::PathsInfo { .. } => "paths_info",
            Self::Refs { .. } => "refs",
            Self::Commits { .. } => "commits",
            Self::AuthCheck { .. } => "auth_check",
            Self::XetReadToken { .. } => "xet_read_token",
            Self::Whoami => "whoami",
            Self::RepoList { .. } => "repo_list",
            Self::AgentHarnesses => "agent_harnesses",
            Self::Telemetry => "telemetry",
            Self::Git { .. } => "git",
            Self::Write { .. } => "write",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// The method with which [`Display`](std::fmt::Display)'s URL means this route.
    pub fn method(&self) -> Method {
        match self {
            Self::PathsInfo { .. } | Self::Git { service: GitService::UploadPack | GitService::Lfs, .. } => {
                Method::POST
            }
            Self::Write { method, .. } | Self::Unknown { method, .. } => method.clone(),
            _ => Method::GET,
        }
    }

    /// The repo that is asked about, if one is.
    pub fn repo(&self) -> Option<&Repo> {
        match self {
            Self::Resolve { repo, .. }
            | Self::Raw { repo, .. }
            | Self::ResolveCache { repo, .. }
            | Self::RepoInfo { repo, .. }
            | Self::Tree { repo, .. }
            | Self::PathsInfo { repo, .. }
            | Self::Refs { repo, .. }
            | Self::Commits { repo, .. }
            | Self::AuthCheck { repo }
            | Self::XetReadToken { repo, .. }
            | Self::Git { repo, .. } => Some(repo),
            Self::Whoami
            | Self::RepoList { .. }
            | Self::AgentHarnesses
            | Self::Telemetry
            | Self::Write { .. }
            | Self::Unknown { .. } => None,
        }
    }

    /// The second meaning of the one kind of URL that has two: `/api/models/gpt2/refs` is the info of the
    /// repo `gpt2/refs`, and also how the refs (`auth-check` likewise) of the legacy repo `gpt2` are asked.
    /// [`parse`](Self::parse) gives the first; where there is no such repo, ask this one.
    ///
    /// So `parse(print(r))` is `r`, or has `r` as its other reading.
    pub fn other_reading(&self) -> Option<Self> {
        let Self::RepoInfo { repo, revision: None, .. } = self else { return None };
        let (owner, verb) = repo.id().split_once('/')?;
        let repo = Repo::new(repo.kind(), owner).ok()?;
        match verb {
            // The query of refs was read as one of info, which has nothing in common with it.
            "refs" => Some(Self::Refs { repo, include_prs: false }),
            "auth-check" => Some(Self::AuthCheck { repo }),
            _ => None,
        }
    }
}
