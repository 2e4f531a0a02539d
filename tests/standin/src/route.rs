//! The Hub's URLs, read into what they ask for.
//!
//! Split first, decode after: `%2F` inside a revision belongs to the revision.

use crate::ask::decode;
use crate::counters::Class;
use crate::repo::{Kind, RepoName};

/// What a Hub URL asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Repo {
        name: RepoName,
        call: Call,
        /// Raw path before and after the id, to redirect to another spelling of it.
        around: (String, String),
    },
    List(Kind),
    Whoami,
    Unknown,
}

/// What is asked of a repo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Resolve { revision: String, path: String },
    ResolveCache { commit: String, path: String },
    Raw { revision: String, path: String },
    Info { revision: Option<String> },
    Tree { revision: String, path: String },
    PathsInfo { revision: String },
    Refs,
    Commits { revision: String },
    AuthCheck,
    Scan,
    XetToken { revision: String },
}

impl Route {
    pub(crate) fn class(&self) -> Class {
        match self {
            Self::List(_) => Class::List,
            Self::Whoami => Class::Whoami,
            Self::Unknown => Class::Other,
            Self::Repo { call, .. } => match call {
                Call::Resolve { .. } => Class::Resolve,
                Call::ResolveCache { .. } => Class::ResolveCache,
                Call::Raw { .. } => Class::Raw,
                Call::Info { .. } | Call::Scan => Class::Info,
                Call::Tree { .. } => Class::Tree,
                Call::PathsInfo { .. } => Class::PathsInfo,
                Call::Refs => Class::Refs,
                Call::Commits { .. } => Class::Commits,
                Call::AuthCheck => Class::AuthCheck,
                Call::XetToken { .. } => Class::XetToken,
            },
        }
    }

    /// Repo and path of the file asked for.
    pub(crate) fn file(&self) -> Option<String> {
        let Self::Repo { name, call, .. } = self else {
            return None;
        };
        match call {
            Call::Resolve { path, .. } | Call::ResolveCache { path, .. } | Call::Raw { path, .. } => {
                Some(format!("{name}/{path}"))
            }
            _ => None,
        }
    }

    /// From a raw path with one leading slash.
    pub(crate) fn parse(path: &str) -> Self {
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let found = match segments.as_slice() {
            ["api", "whoami-v2"] => return Self::Whoami,
            ["api", "resolve-cache", kind, ..] => Kind::parse(kind).and_then(|kind| resolve_cache(kind, &segments)),
            ["api", plural, ..] => {
                let Some(kind) = Kind::parse(plural).filter(|kind| kind.plural() == *plural) else {
                    return Self::Unknown;
                };
                if segments.len() == 2 || (segments.len() == 3 && segments[2].is_empty()) {
                    return Self::List(kind);
                }
                api(kind, &segments)
            }
            [kind @ ("datasets" | "spaces"), ..] => Kind::parse(kind).and_then(|kind| web(kind, &segments, 1)),
            _ => web(Kind::Model, &segments, 0),
        };
        found.unwrap_or(Self::Unknown)
    }
}

/// A route of the repo whose id is `segments[at..at + labels]`.
fn repo(kind: Kind, segments: &[&str], at: usize, labels: usize, call: Call) -> Option<Route> {
    let id = segments[at..at + labels].iter().map(|label| decode(label)).collect::<Vec<_>>().join("/");
    if id.split('/').any(str::is_empty) {
        return None;
    }
    let before = format!("/{}", segments[..at].iter().map(|segment| format!("{segment}/")).collect::<String>());
    let after = segments[at + labels..].iter().map(|segment| format!("/{segment}")).collect();
    Some(Route::Repo { name: RepoName::new(kind, id), call, around: (before, after) })
}

fn join(segments: &[&str]) -> String {
    segments.iter().map(|segment| decode(segment)).collect::<Vec<_>>().join("/")
}

/// A revision at the front, and what follows it. `refs/pr/1` and `refs/convert/x` may come unencoded.
fn revision<'a>(segments: &'a [&'a str]) -> Option<(String, &'a [&'a str])> {
    match segments {
        ["refs", "pr" | "convert", _, rest @ ..] => Some((join(&segments[..3]), rest)),
        ["", ..] | [] => None,
        [first, rest @ ..] => Some((decode(first), rest)),
    }
}

fn web(kind: Kind, segments: &[&str], at: usize) -> Option<Route> {
    let labels = (1..=2).find(|&labels| matches!(segments.get(at + labels), Some(&("resolve" | "raw"))))?;
    let (revision, rest) = revision(&segments[at + labels + 1..])?;
    if rest.is_empty() {
        return None;
    }
    let path = join(rest);
    let raw = segments[at + labels] == "raw";
    let call = if raw { Call::Raw { revision, path } } else { Call::Resolve { revision, path } };
    repo(kind, segments, at, labels, call)
}

fn resolve_cache(kind: Kind, segments: &[&str]) -> Option<Route> {
    let commit = |labels: usize| segments.get(3 + labels).filter(|text| text.len() == 40);
    let labels = (1..=2).find(|&labels| commit(labels).is_some())?;
    let path = join(segments.get(4 + labels..)?);
    let call = Call::ResolveCache { commit: segments[3 + labels].to_owned(), path };
    repo(kind, segments, 3, labels, call)
}

fn api(kind: Kind, segments: &[&str]) -> Option<Route> {
    let call_at = |labels: usize| -> Option<Call> {
        let rest = segments.get(2 + labels..)?;
        let with_revision = |rest: &[&str]| revision(rest).map(|(revision, rest)| (revision, join(rest)));
        Some(match rest {
            [] => Call::Info { revision: None },
            ["revision", rest @ ..] => Call::Info { revision: Some(join(rest)) },
            ["tree", rest @ ..] => {
                let (revision, path) = with_revision(rest)?;
                Call::Tree { revision, path: path.trim_end_matches('/').to_owned() }
            }
            ["paths-info", rest @ ..] => Call::PathsInfo { revision: join(rest) },
            ["refs"] => Call::Refs,
            ["commits", rest @ ..] => Call::Commits { revision: join(rest) },
            ["auth-check"] => Call::AuthCheck,
            ["scan"] => Call::Scan,
            ["xet-read-token", rest @ ..] => Call::XetToken { revision: join(rest) },
            _ => return None,
        })
    };
    // One label first, where a verb follows it: no owner is called "tree".
    let verb = segments.len() > 3 && call_at(1).is_some();
    let labels = if verb || segments.len() == 3 { 1 } else { 2 };
    repo(kind, segments, 2, labels, call_at(labels)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(path: &str) -> (String, Call) {
        match Route::parse(path) {
            Route::Repo { name, call, .. } => (name.to_string(), call),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn file_urls_of_every_client_are_understood() {
        let resolve = |revision: &str, path: &str| Call::Resolve { revision: revision.into(), path: path.into() };
        for (url, name, expected) in [
            ("/acme/tiny/resolve/main/a/b.txt", "acme/tiny", resolve("main", "a/b.txt")),
            ("/gpt2/resolve/main/resolve/x", "gpt2", resolve("main", "resolve/x")),
            ("/datasets/acme/t/resolve/refs%2Fpr%2F1/x", "datasets/acme/t", resolve("refs/pr/1", "x")),
            ("/acme/tiny/resolve/refs/pr/1/x", "acme/tiny", resolve("refs/pr/1", "x")),
            ("/a/b/resolve/main/fil%C3%A9%20%231%20100%25.txt", "a/b", resolve("main", "filé #1 100%.txt")),
        ] {
            assert_eq!(call(url), (name.to_owned(), expected), "{url}");
        }
    }

    #[test]
    fn api_urls_of_every_client_are_understood() {
        let tree = |revision: &str, path: &str| Call::Tree { revision: revision.into(), path: path.into() };
        for (url, name, expected) in [
            ("/api/models/gpt2", "gpt2", Call::Info { revision: None }),
            ("/api/models/acme/tiny", "acme/tiny", Call::Info { revision: None }),
            ("/api/models/gpt2/revision/HEAD", "gpt2", Call::Info { revision: Some("HEAD".into()) }),
            ("/api/models/a/b/tree/main/sub%2Fdir", "a/b", tree("main", "sub/dir")),
            ("/api/models/a/b/tree/refs/pr/1", "a/b", tree("refs/pr/1", "")),
            ("/api/datasets/a/b/tree/main/sub/dir", "datasets/a/b", tree("main", "sub/dir")),
            ("/api/spaces/a/b/refs", "spaces/a/b", Call::Refs),
        ] {
            assert_eq!(call(url), (name.to_owned(), expected), "{url}");
        }
        assert_eq!(Route::parse("/api/models"), Route::List(Kind::Model));
        assert_eq!(Route::parse("/api/agent-harnesses"), Route::Unknown);
    }
}
