//! The way out: a route as a URL relative to an endpoint, in the spelling of `huggingface_hub`.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{GitService, HubRoute, parse};
use crate::hub::{Commit, Repo, RepoPath, Revision};

/// What Python's `quote(text, safe="")` encodes.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// One encoded segment.
fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

fn path(path: &RepoPath) -> String {
    path.as_str().split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// Encodes a revision so that it is read as one: `refs` alone would take what follows with it, and after an
/// id of one label a verb would make the label before it a part of the id. Encoding its first letter keeps
/// the meaning and takes the verb away.
fn revision(repo: &Repo, revision: &Revision, is_verb: fn(&str) -> bool) -> String {
    let encoded = segment(revision.as_str());
    if encoded == "refs" || (!repo.id().contains('/') && is_verb(&encoded)) { hide(&encoded) } else { encoded }
}

/// The same text, its first byte percent-encoded.
fn hide(text: &str) -> String {
    text.as_bytes()
        .split_first()
        .map_or_else(String::new, |(first, rest)| format!("%{first:02X}{}", String::from_utf8_lossy(rest)))
}

/// The path of `resolve-cache`: as above, with a commit in the verb's place.
fn cached_path(repo: &Repo, file: &RepoPath) -> String {
    let encoded = path(file);
    let looks_like_commit = encoded.split('/').next().is_some_and(|first| first.parse::<Commit>().is_ok());
    if !repo.id().contains('/') && looks_like_commit { hide(&encoded) } else { encoded }
}

/// `/api/models/org/name`.
struct Api<'a>(&'a Repo);

impl fmt::Display for Api<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/api/{}/{}", self.0.kind().plural(), self.0.id())
    }
}

/// Path and query, starting with `/`.
impl fmt::Display for HubRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let web = |repo, rev| revision(repo, rev, parse::is_web_verb);
        let api = |repo, rev| revision(repo, rev, parse::is_api_verb);
        match self {
            Self::Resolve { repo, revision, path: file } => {
                write!(f, "/{repo}/resolve/{}/{}", web(repo, revision), path(file))
            }
            Self::Raw { repo, revision, path: file } => {
                write!(f, "/{repo}/raw/{}/{}", web(repo, revision), path(file))
            }
            Self::ResolveCache { repo, commit, path: file } => {
                let kind = repo.kind().plural();
                write!(f, "/api/resolve-cache/{kind}/{}/{commit}/{}", repo.id(), cached_path(repo, file))
            }
            Self::RepoInfo { repo, revision: None, query } => write!(f, "{}{query}", Api(repo)),
            Self::RepoInfo { repo, revision: Some(revision), query } => {
                write!(f, "{}/revision/{}{query}", Api(repo), api(repo, revision))
            }
            Self::Tree { repo, revision, path: None, query } => {
                write!(f, "{}/tree/{}{query}", Api(repo), api(repo, revision))
            }
            Self::Tree { repo, revision, path: Some(folder), query } => {
                write!(f, "{}/tree/{}/{}{query}", Api(repo), api(repo, revision), path(folder))
            }
            Self::PathsInfo { repo, revision } => {
                write!(f, "{}/paths-info/{}", Api(repo), api(repo, revision))
            }
            Self::Refs { repo, include_prs } => {
                write!(f, "{}/refs{}", Api(repo), if *include_prs { "?include_prs=1" } else { "" })
            }
            Self::Commits { repo, revision, query } => {
                write!(f, "{}/commits/{}{query}", Api(repo), api(repo, revision))
            }
            Self::AuthCheck { repo } => write!(f, "{}/auth-check", Api(repo)),
            Self::XetReadToken { repo, revision } => {
                write!(f, "{}/xet-read-token/{}", Api(repo), api(repo, revision))
            }
            Self::Whoami => f.write_str("/api/whoami-v2"),
            Self::RepoList { kind, query } => write!(f, "/api/{}{query}", kind.plural()),
            Self::AgentHarnesses => f.write_str("/api/agent-harnesses"),
            Self::Telemetry => f.write_str("/api/telemetry"),
            Self::Git { repo, service: GitService::InfoRefs } => {
                write!(f, "/{repo}.git/info/refs?service=git-upload-pack")
            }
            Self::Git { repo, service: GitService::UploadPack } => write!(f, "/{repo}.git/git-upload-pack"),
            Self::Git { repo, service: GitService::Lfs } => write!(f, "/{repo}.git/info/lfs/objects/batch"),
            Self::Write { target, .. } | Self::Unknown { target, .. } => f.write_str(target),
        }
    }
}
