//! The way in: method, raw path and raw query to a [`HubRoute`].

use http::Method;
use percent_encoding::percent_decode_str;

use super::{
    GitService, HubRoute, RouteError,
    query::{self, CommitsQuery, InfoQuery, ListQuery, TreeQuery},
};
use crate::hub::{Commit, ParseError, Repo, RepoKind, RepoPath, Revision};

/// `Ok(None)`: these segments mean nothing here; another reading may fit.
type Reading = Result<Option<HubRoute>, RouteError>;

/// What may stand behind a repo id in a web URL. Compared undecoded, so that an encoded letter makes a verb
/// plain text.
pub(super) fn is_web_verb(segment: &str) -> bool {
    matches!(segment, "resolve" | "raw" | "info" | "git-upload-pack" | "git-receive-pack")
}

/// What may stand behind a repo id in an API URL.
pub(super) fn is_api_verb(segment: &str) -> bool {
    matches!(
        segment,
        "revision" | "tree" | "paths-info" | "refs" | "commits" | "auth-check" | "xet-read-token" | "xet-write-token"
    )
}

pub(super) fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<HubRoute, RouteError> {
    let target =
        if path.starts_with('/') { &path[path.len() - path.trim_start_matches('/').len() - 1..] } else { path };
    let request = Request { method, target, query };
    let Some(inside) = target.strip_prefix('/') else { return Ok(request.unknown()) };
    let segments: Vec<&str> = inside.split('/').collect();
    let read = match segments.as_slice() {
        // A trailing slash means nothing in the API.
        ["api", rest @ .., ""] | ["api", rest @ ..] => request.api(rest)?,
        ["datasets", rest @ ..] => request.web(RepoKind::Dataset, rest)?,
        ["spaces", rest @ ..] => request.web(RepoKind::Space, rest)?,
        ["kernels" | "buckets", ..] => None,
        rest => request.web(RepoKind::Model, rest)?,
    };
    Ok(read.unwrap_or_else(|| if request.may_write() { request.write("change something") } else { request.unknown() }))
}

struct Request<'a> {
    method: &'a Method,
    target: &'a str,
    query: Option<&'a str>,
}

impl Request<'_> {
    fn is_read(&self) -> bool {
        matches!(*self.method, Method::GET | Method::HEAD)
    }

    fn may_write(&self) -> bool {
        !self.is_read() && !matches!(*self.method, Method::OPTIONS | Method::TRACE | Method::CONNECT)
    }

    fn unknown(&self) -> HubRoute {
        let method = if *self.method == Method::HEAD { Method::GET } else { self.method.clone() };
        HubRoute::Unknown { method, target: self.target.into() }
    }

    fn write(&self, what: &'static str) -> HubRoute {
        let query = self.query.map_or_else(String::new, |query| format!("?{query}"));
        let method = if *self.method == Method::HEAD { Method::GET } else { self.method.clone() };
        HubRoute::Write { what, method, target: format!("{}{query}", self.target).into() }
    }

    /// What stands below `/`, `/datasets/` or `/spaces/`.
    fn web(&self, kind: RepoKind, segments: &[&str]) -> Reading {
        for (id, rest) in readings(segments) {
            match rest {
                ["resolve" | "raw", of @ ..] if of.len() >= 2 && self.is_read() => {
                    return file(repo(kind, id)?, rest[0] == "raw", of).map(Some);
                }
                ["info", "refs"] if query::is_push(self.query) => return Ok(Some(self.write("push by git"))),
                ["git-receive-pack"] => return Ok(Some(self.write("push by git"))),
                ["info", "refs"] if self.is_read() => return git(kind, id, GitService::InfoRefs),
                ["git-upload-pack"] if *self.method == Method::POST => return git(kind, id, GitService::UploadPack),
                ["info", "lfs", ..] => return git(kind, id, GitService::Lfs),
                _ => {}
            }
        }
        Ok(None)
    }

    /// What stands below `/api/`.
    fn api(&self, segments: &[&str]) -> Reading {
        match segments {
            ["whoami-v2" | "whoami"] if self.is_read() => Ok(Some(HubRoute::Whoami)),
            ["agent-harnesses"] if self.is_read() => Ok(Some(HubRoute::AgentHarnesses)),
            ["telemetry", ..] => Ok(Some(HubRoute::Telemetry)),
            ["repos", verb] if self.may_write() => Ok(Some(self.write(match *verb {
                "create" => "create a repo",
                "delete" => "delete a repo",
                "move" => "move a repo",
                _ => "change a repo",
            }))),
            ["resolve-cache", kind, rest @ ..] if self.is_read() => match kind_of(kind) {
                Some(kind) => resolve_cache(kind, rest),
                None => Ok(None),
            },
            [kind, rest @ ..] => match (kind_of(kind), rest) {
                (None, _) => Ok(None),
                (Some(kind), []) if self.is_read() => {
                    Ok(Some(HubRoute::RepoList { kind, query: ListQuery::parse(self.query) }))
                }
                (Some(kind), rest) if self.may_write() => self.api_by_post(kind, rest),
                (Some(kind), rest) => self.api_by_get(kind, rest),
            },
            [] => Ok(None),
        }
    }

    fn api_by_get(&self, kind: RepoKind, segments: &[&str]) -> Reading {
        if !self.is_read() {
            return Ok(None);
        }
        for (id, rest) in readings(segments) {
            // Only refs has this query, so here the label before it can't be an owner.
            if matches!(id, [_, "refs"]) && rest.is_empty() && query::includes_prs(self.query) {
                continue;
            }
            match rest {
                [] => {
                    let query = InfoQuery::parse(self.query);
                    return Ok(Some(HubRoute::RepoInfo { repo: repo(kind, id)?, revision: None, query }));
                }
                ["refs"] => {
                    let include_prs = query::includes_prs(self.query);
                    return Ok(Some(HubRoute::Refs { repo: repo(kind, id)?, include_prs }));
                }
                ["auth-check"] => return Ok(Some(HubRoute::AuthCheck { repo: repo(kind, id)? })),
                ["revision", rev @ ..] if !rev.is_empty() => {
                    let repo = repo(kind, id)?;
                    let revision = Some(whole_revision(&repo, rev)?);
                    return Ok(Some(HubRoute::RepoInfo { repo, revision, query: InfoQuery::parse(self.query) }));
                }
                ["tree", rev @ ..] if !rev.is_empty() => return self.tree(repo(kind, id)?, rev).map(Some),
                ["commits", rev @ ..] if !rev.is_empty() => {
                    let repo = repo(kind, id)?;
                    let revision = whole_revision(&repo, rev)?;
                    return Ok(Some(HubRoute::Commits { repo, revision, query: CommitsQuery::parse(self.query) }));
                }
                ["xet-read-token", rev @ ..] if !rev.is_empty() => {
                    let repo = repo(kind, id)?;
                    let revision = whole_revision(&repo, rev)?;
                    return Ok(Some(HubRoute::XetReadToken { repo, revision }));
                }
                ["xet-write-token", ..] => return Ok(Some(self.write("upload files"))),
                _ => {}
            }
        }
        Ok(None)
    }

    fn tree(&self, repo: Repo, segments: &[&str]) -> Result<HubRoute, RouteError> {
        let (revision, folder) = split_revision(&repo, segments)?;
        let path = if folder.is_empty() {
            None
        } else {
            match decode("path", folder).and_then(|text| text.parse::<RepoPath>()) {
                Ok(path) => Some(path),
                Err(error) => return Err(RouteError::Path { repo, revision, error }),
            }
        };
        Ok(HubRoute::Tree { repo, revision, path, query: TreeQuery::parse(self.query) })
    }

    fn api_by_post(&self, kind: RepoKind, segments: &[&str]) -> Reading {
        for (id, rest) in readings(segments) {
            let what = match rest {
                ["paths-info", rev @ ..] if *self.method == Method::POST && !rev.is_empty() => {
                    let repo = repo(kind, id)?;
                    let revision = whole_revision(&repo, rev)?;
                    return Ok(Some(HubRoute::PathsInfo { repo, revision }));
                }
                ["commit", ..] => "commit",
                ["preupload" | "lfs-files", ..] => "upload files",
                ["settings", ..] => "change settings",
                ["branch", ..] => "change a branch",
                ["tag", ..] => "change a tag",
                ["super-squash", ..] => "rewrite history",
                ["discussions", ..] => "change a discussion",
                ["like"] => "like a repo",
                ["duplicate"] => "duplicate a repo",
                _ => continue,
            };
            return Ok(Some(self.write(what)));
        }
        Ok(None)
    }
}

fn kind_of(plural: &str) -> Option<RepoKind> {
    RepoKind::ALL.into_iter().find(|kind| kind.plural() == plural)
}

/// The ways to cut segments into a repo id and the rest: two labels before one.
fn readings<'a, 'b>(segments: &'b [&'a str]) -> impl Iterator<Item = (&'b [&'a str], &'b [&'a str])> {
    // `org%2Frepo` has both labels in one segment.
    let first_holds_both = segments.first().is_some_and(|first| first.to_ascii_uppercase().contains("%2F"));
    [2, 1].into_iter().filter(move |n| !(first_holds_both && *n == 2)).filter_map(|n| segments.split_at_checked(n))
}

/// Decodes each segment once and joins them: where a file or a repo is named, `%2F` is `/`.
fn decode(what: &'static str, segments: &[&str]) -> Result<String, ParseError> {
    let mut text = String::new();
    for (i, segment) in segments.iter().enumerate() {
        if i > 0 {
            text.push('/');
        }
        let decoded = percent_decode_str(segment)
            .decode_utf8()
            .map_err(|_| ParseError::new(what, segment, "percent-encoded text is UTF-8"))?;
        text.push_str(&decoded);
    }
    Ok(text)
}

fn repo(kind: RepoKind, id: &[&str]) -> Result<Repo, RouteError> {
    decode("repo id", id).and_then(|id| Repo::new(kind, &id)).map_err(RouteError::Repo)
}

/// A repo as git spells it: with `.git` behind, or without.
fn git(kind: RepoKind, id: &[&str], service: GitService) -> Reading {
    let id = decode("repo id", id).map_err(RouteError::Repo)?;
    let repo = Repo::new(kind, id.strip_suffix(".git").unwrap_or(&id)).map_err(RouteError::Repo)?;
    Ok(Some(HubRoute::Git { repo, service }))
}

/// A revision that nothing follows, encoded or raw.
fn whole_revision(repo: &Repo, segments: &[&str]) -> Result<Revision, RouteError> {
    decode("revision", segments)
        .and_then(|text| text.parse())
        .map_err(|error| RouteError::Revision { repo: repo.clone(), error })
}

/// A revision and what follows it: one segment, or raw `refs/pr/N` and `refs/convert/NAME`.
fn split_revision<'a, 'b>(repo: &Repo, segments: &'b [&'a str]) -> Result<(Revision, &'b [&'a str]), RouteError> {
    let length = if matches!(segments, ["refs", "pr" | "convert", _, ..]) { 3 } else { 1 };
    let (revision, rest) = segments.split_at_checked(length).unwrap_or((segments, &[]));
    Ok((whole_revision(repo, revision)?, rest))
}

fn file(repo: Repo, raw: bool, segments: &[&str]) -> Result<HubRoute, RouteError> {
    let (revision, path) = split_revision(&repo, segments)?;
    let path = match decode("path", path).and_then(|text| text.parse()) {
        Ok(path) => path,
        Err(error) => return Err(RouteError::Path { repo, revision, error }),
    };
    Ok(if raw { HubRoute::Raw { repo, revision, path } } else { HubRoute::Resolve { repo, revision, path } })
}

fn resolve_cache(kind: RepoKind, segments: &[&str]) -> Reading {
    for (id, rest) in readings(segments) {
        let [commit, file @ ..] = rest else { continue };
        let Ok(commit) = commit.parse::<Commit>() else { continue };
        if file.is_empty() {
            continue;
        }
        let repo = repo(kind, id)?;
        return match decode("path", file).and_then(|text| text.parse()) {
            Ok(path) => Ok(Some(HubRoute::ResolveCache { repo, commit, path })),
            Err(error) => Err(RouteError::Path { repo, revision: commit.into(), error }),
        };
    }
    Ok(None)
}
