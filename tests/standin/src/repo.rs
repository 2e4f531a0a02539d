//! A repo with its history and refs.
//!
//! Ids are real git ids: of blobs, trees and commits. Nothing here knows of HTTP.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::Value;
use sha1::Digest as _;

use crate::describe::NewCommit;
use crate::file::File;
use crate::tree::Tree;

/// The commits of every repo start at this second, one an hour: 2026-01-05 08:00 UTC.
const FIRST_COMMIT_EPOCH: i64 = 1_767_600_000;

/// What a repo holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `/org/name`
    Model,
    /// `/datasets/org/name`
    Dataset,
    /// `/spaces/org/name`
    Space,
}

impl Kind {
    /// As in `/api/models/`.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
            Self::Space => "spaces",
        }
    }

    /// As in error messages.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
            Self::Space => "space",
        }
    }

    /// From either form.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Model, Self::Dataset, Self::Space]
            .into_iter()
            .find(|kind| word == kind.plural() || word == kind.singular())
    }
}

/// A kind and an id. Written like the path of its page: `acme/tiny`, `datasets/acme/table`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoName {
    /// Model, dataset or space.
    pub kind: Kind,
    /// One or two labels.
    pub id: String,
}

impl RepoName {
    pub(crate) fn new(kind: Kind, id: impl Into<String>) -> Self {
        Self { kind, id: id.into() }
    }
}

impl From<&str> for RepoName {
    fn from(text: &str) -> Self {
        let kind = text.split_once(['/', ':']).and_then(|(word, rest)| {
            let kind = Kind::parse(word)?;
            // `models/x` and `model:a/b` name a kind; a model may still have an owner called "model".
            (word == kind.plural() || text.contains(':')).then_some((kind, rest))
        });
        let (kind, id) = kind.unwrap_or((Kind::Model, text));
        Self::new(kind, id)
    }
}

impl FromStr for RepoName {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.into())
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Model => f.write_str(&self.id),
            kind => write!(f, "{}/{}", kind.plural(), self.id),
        }
    }
}

/// Whether the files of a repo need an accepted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gated {
    /// Open to everyone.
    No,
    /// Granted at once on asking.
    Auto,
    /// Granted by the owner.
    Manual,
}

impl Gated {
    pub(crate) fn json(self) -> Value {
        match self {
            Self::No => Value::Bool(false),
            Self::Auto => "auto".into(),
            Self::Manual => "manual".into(),
        }
    }
}

/// One commit of a repo.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) id: String,
    pub(crate) parent: Option<String>,
    pub(crate) title: String,
    pub(crate) author: String,
    /// Seconds since 1970.
    pub(crate) when: i64,
    pub(crate) tree: Tree,
}

/// A repo with all that the Hub knows of it.
#[derive(Clone, Debug)]
pub struct Repo {
    pub(crate) name: RepoName,
    /// The Hub's own id of the repo, 24 hex digits; another one means another repo under the same name.
    pub object_id: String,
    /// The owner; "" for one-label ids.
    pub author: String,
    /// Whether files need access.
    pub gated: Gated,
    /// Whether anything needs access.
    pub private: bool,
    /// Whether the Hub took it down.
    pub disabled: bool,
    /// Whether the stand-in's good token has access to it where that matters.
    pub access: bool,
    /// `cardData` as the API tells it, where it should differ from the README.
    pub card: Option<Value>,
    /// `tags` as the API tells them, where they should differ from the README.
    pub tags: Option<Vec<String>>,
    /// `securityRepoStatus.filesWithIssues`: path and level.
    pub security_issues: Vec<(String, String)>,
    /// Download count, as listed.
    pub downloads: u64,
    pub(crate) xet: bool,
    pub(crate) commits: HashMap<String, Arc<Commit>>,
    /// Full ref name to commit id.
    pub(crate) refs: BTreeMap<String, String>,
    /// CDN hash to path and file.
    pub(crate) blobs: HashMap<String, (String, Arc<File>)>,
}

impl Repo {
    pub(crate) fn empty(name: RepoName) -> Self {
        let author = name.id.split_once('/').map_or("", |(owner, _)| owner).to_owned();
        let object_id = hex::encode(&sha1::Sha1::digest(name.to_string())[..12]);
        Self {
            name,
            object_id,
            author,
            gated: Gated::No,
            private: false,
            disabled: false,
            access: true,
            card: None,
            tags: None,
            security_issues: Vec::new(),
            downloads: 0,
            xet: true,
            commits: HashMap::new(),
            refs: BTreeMap::new(),
            blobs: HashMap::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &RepoName {
        &self.name
    }

    /// Adds a commit on top of a ref (created when missing, from `main` if there is one) and moves the ref to it.
    pub(crate) fn push(&mut self, reference: &str, new: NewCommit) -> io::Result<Arc<Commit>> {
        let parent = self.refs.get(reference).or_else(|| self.refs.get("refs/heads/main"));
        let parent = parent.and_then(|id| self.commits.get(id)).cloned();
        let mut files = parent.as_ref().map(|parent| parent.tree.files.clone()).unwrap_or_default();
        for (path, change) in new.changes {
            let Some((content, storage)) = change else {
                files.remove(&path);
                continue;
            };
            let file = Arc::new(File::new(&path, content, storage, self.xet)?);
            if let Some(hash) = file.cdn_hash() {
                self.blobs.insert(hash.to_owned(), (path.clone(), file.clone()));
            }
            files.insert(path, file);
        }
        let crowd = new.crowd.or(parent.as_ref().and_then(|parent| parent.tree.crowd));
        let tree = Tree::new(files, crowd);
        let when = FIRST_COMMIT_EPOCH + 3600 * i64::try_from(self.commits.len()).unwrap_or(0);
        let author = if self.author.is_empty() { "hub" } else { &self.author }.to_owned();
        let parent = parent.map(|parent| parent.id.clone());
        let id = commit_id(&tree.oid, parent.as_deref(), &author, when, &new.title);
        let commit = Arc::new(Commit { id: id.clone(), parent, title: new.title, author, when, tree });
        self.commits.insert(id.clone(), commit.clone());
        self.refs.insert(reference.to_owned(), id);
        Ok(commit)
    }

    /// Points a ref at a commit that exists.
    pub(crate) fn point(&mut self, reference: &str, commit: &str) -> Result<(), String> {
        if !self.commits.contains_key(commit) {
            return Err(format!("{} has no commit {commit}", self.name));
        }
        self.refs.insert(full_ref(reference), commit.to_owned());
        Ok(())
    }

    /// The commit a revision means: branch, tag, ref, HEAD, full or short commit id.
    pub(crate) fn resolve(&self, revision: &str) -> Option<Arc<Commit>> {
        let named = |name: String| self.refs.get(&name);
        let id = if revision == "HEAD" {
            named("refs/heads/main".to_owned())
        } else {
            named(format!("refs/heads/{revision}"))
                .or_else(|| named(format!("refs/tags/{revision}")))
                .or_else(|| named(revision.to_owned()))
        };
        if let Some(commit) = id.and_then(|id| self.commits.get(id)) {
            return Some(commit.clone());
        }
        let hexadecimal = revision.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if revision.len() < 7 || !hexadecimal {
            return None;
        }
        let mut found = self.commits.iter().filter(|(id, _)| id.starts_with(revision));
        let (_, commit) = found.next()?;
        found.next().is_none().then(|| commit.clone())
    }

    /// A commit and all before it, newest first.
    pub(crate) fn history(&self, from: &Arc<Commit>) -> Vec<Arc<Commit>> {
        let mut history = vec![from.clone()];
        while let Some(parent) =
            history.last().and_then(|last| last.parent.as_ref()).and_then(|id| self.commits.get(id))
        {
            history.push(parent.clone());
        }
        history
    }
}

/// `main` to `refs/heads/main`; what has `refs/` already stays.
pub(crate) fn full_ref(name: &str) -> String {
    if name.starts_with("refs/") { name.to_owned() } else { format!("refs/heads/{name}") }
}

fn commit_id(tree: &str, parent: Option<&str>, author: &str, when: i64, title: &str) -> String {
    let parent = parent.map(|parent| format!("parent {parent}\n")).unwrap_or_default();
    let who = format!("{author} <{author}@users.noreply.huggingface.co> {when} +0000");
    let text = format!("tree {tree}\n{parent}author {who}\ncommitter {who}\n\n{title}\n");
    let mut hasher = sha1::Sha1::new();
    hasher.update(format!("commit {}\0{text}", text.len()));
    hex::encode(hasher.finalize())
}

/// Seconds since 1970 as the Hub's JSON writes them.
pub(crate) fn iso_date(epoch: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(epoch).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.000Z", at.hour(), at.minute(), at.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_every_spelling() {
        for (text, kind, id) in [
            ("acme/tiny", Kind::Model, "acme/tiny"),
            ("gpt2", Kind::Model, "gpt2"),
            ("models/gpt2", Kind::Model, "gpt2"),
            ("model:acme/tiny", Kind::Model, "acme/tiny"),
            ("model/tiny", Kind::Model, "model/tiny"),
            ("datasets/acme/table", Kind::Dataset, "acme/table"),
            ("dataset:squad", Kind::Dataset, "squad"),
            ("spaces/acme/demo", Kind::Space, "acme/demo"),
        ] {
            assert_eq!(RepoName::from(text), RepoName::new(kind, id), "{text}");
        }
    }

    #[test]
    fn dates_are_written_as_the_hub_does() {
        assert_eq!(iso_date(FIRST_COMMIT_EPOCH), "2026-01-05T08:00:00.000Z");
    }
}
