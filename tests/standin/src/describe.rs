//! How tests describe repos: what is in them, and their history in the order in which it happened.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::content::Content;
use crate::file::Storage;
use crate::repo::{Gated, Kind, Repo, RepoName, full_ref};
use crate::tree::Crowd;

/// What a commit changes, on top of the one before.
#[derive(Clone, Debug, Default)]
pub struct NewCommit {
    pub(crate) title: String,
    pub(crate) changes: Vec<(String, Option<(Content, Storage)>)>,
    pub(crate) crowd: Option<Crowd>,
}

impl NewCommit {
    /// A commit with this title and no changes yet.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// Adds or replaces a file; LFS when it is over 1 MiB or has the ending of a weights format.
    pub fn file(mut self, path: impl Into<String>, content: impl Into<Content>) -> Self {
        self.changes.push((path.into(), Some((content.into(), Storage::Auto))));
        self
    }

    /// Adds or replaces a file that git keeps itself.
    pub fn regular(mut self, path: impl Into<String>, content: impl Into<Content>) -> Self {
        self.changes.push((path.into(), Some((content.into(), Storage::Regular))));
        self
    }

    /// Adds or replaces a file that LFS keeps.
    pub fn lfs(mut self, path: impl Into<String>, content: impl Into<Content>) -> Self {
        self.changes.push((path.into(), Some((content.into(), Storage::Lfs))));
        self
    }

    /// Removes a file.
    pub fn remove(mut self, path: impl Into<String>) -> Self {
        self.changes.push((path.into(), None));
        self
    }

    /// Adds very many small files that are never held.
    pub fn crowd(mut self, crowd: Crowd) -> Self {
        self.crowd = Some(crowd);
        self
    }

    /// Adds every file below `dir`, streamed from there. `.git` and `.cache` are left out.
    pub fn directory(mut self, dir: impl AsRef<Path>) -> io::Result<Self> {
        let mut found = Vec::new();
        walk(dir.as_ref(), "", &mut found)?;
        for (path, content) in found {
            self.changes.push((path, Some((content, Storage::Auto))));
        }
        Ok(self)
    }
}

fn walk(dir: &Path, at: &str, found: &mut Vec<(String, Content)>) -> io::Result<()> {
    let mut entries = std::fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| io::Error::other(format!("{} is not UTF-8", entry.path().display())))?;
        if matches!(name, ".git" | ".cache" | "__pycache__") {
            continue;
        }
        let path = format!("{at}{name}");
        if std::fs::metadata(entry.path())?.is_dir() {
            walk(&entry.path(), &format!("{path}/"), found)?;
        } else {
            found.push((path, Content::disk(entry.path())?));
        }
    }
    Ok(())
}

/// Describes a repo: settings, and its history in the order in which it happened.
#[derive(Clone, Debug)]
pub struct RepoBuilder {
    repo: Repo,
    steps: Vec<Step>,
    aliases: BTreeSet<String>,
}

#[derive(Clone, Debug)]
enum Step {
    On(String),
    Commit(NewCommit),
    Mark(String),
}

impl RepoBuilder {
    /// A repo by its path: `acme/tiny`, `datasets/acme/table`, `spaces/acme/demo`.
    pub fn new(name: impl Into<RepoName>) -> Self {
        Self { repo: Repo::empty(name.into()), steps: Vec::new(), aliases: BTreeSet::new() }
    }

    /// A model.
    pub fn model(id: impl Into<String>) -> Self {
        Self::new(RepoName::new(Kind::Model, id))
    }

    /// A dataset.
    pub fn dataset(id: impl Into<String>) -> Self {
        Self::new(RepoName::new(Kind::Dataset, id))
    }

    /// A space.
    pub fn space(id: impl Into<String>) -> Self {
        Self::new(RepoName::new(Kind::Space, id))
    }

    /// A repo of one commit with all files below a directory.
    pub fn from_directory(name: impl Into<RepoName>, dir: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::new(name).commit(NewCommit::new("Upload folder").directory(dir)?))
    }

    /// Commits to the current ref: `main` unless `on` said otherwise.
    pub fn commit(mut self, commit: NewCommit) -> Self {
        self.steps.push(Step::Commit(commit));
        self
    }

    /// The following commits go to this ref (branch name, or full name like `refs/pr/1`).
    pub fn on(mut self, reference: impl AsRef<str>) -> Self {
        self.steps.push(Step::On(full_ref(reference.as_ref())));
        self
    }

    /// A tag at the current commit.
    pub fn tag(mut self, name: impl AsRef<str>) -> Self {
        self.steps.push(Step::Mark(format!("refs/tags/{}", name.as_ref())));
        self
    }

    /// A branch, or a ref given by its full name, at the current commit.
    pub fn branch(mut self, name: impl AsRef<str>) -> Self {
        self.steps.push(Step::Mark(full_ref(name.as_ref())));
        self
    }

    /// Any setting of the repo.
    pub fn with(mut self, change: impl FnOnce(&mut Repo)) -> Self {
        change(&mut self.repo);
        self
    }

    /// Files need access.
    pub fn gated(self, gated: Gated) -> Self {
        self.with(|repo| repo.gated = gated)
    }

    /// Everything needs access.
    pub fn private(self) -> Self {
        self.with(|repo| repo.private = true)
    }

    /// Taken down by the Hub.
    pub fn disabled(self) -> Self {
        self.with(|repo| repo.disabled = true)
    }

    /// The good token has no access to it either.
    pub fn without_access(self) -> Self {
        self.with(|repo| repo.access = false)
    }

    /// LFS files as before Xet: other CDN paths, no Xet headers, no `xetHash`.
    pub fn without_xet(self) -> Self {
        self.with(|repo| repo.xet = false)
    }

    /// An older or legacy id that redirects to this repo.
    pub fn alias(mut self, id: impl Into<String>) -> Self {
        self.aliases.insert(id.into());
        self
    }

    pub(crate) fn build(self) -> io::Result<(Repo, BTreeSet<String>)> {
        let mut repo = self.repo;
        let mut current = full_ref("main");
        for step in self.steps {
            match step {
                Step::On(reference) => current = reference,
                Step::Commit(commit) => drop(repo.push(&current, commit)?),
                Step::Mark(reference) => {
                    let head = repo.refs.get(&current).cloned();
                    let head = head
                        .ok_or_else(|| io::Error::other(format!("{reference} before any commit of {}", repo.name)))?;
                    repo.refs.insert(reference, head);
                }
            }
        }
        if !repo.refs.contains_key("refs/heads/main") {
            repo.push("refs/heads/main", NewCommit::new("initial commit"))?;
        }
        Ok((repo, self.aliases))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_starts_from_main_and_leaves_it_alone() {
        let builder = RepoBuilder::model("a/b").commit(NewCommit::new("one").file("x", "1"));
        let (repo, _) = builder.tag("v1").on("dev").commit(NewCommit::new("two").file("y", "2")).build().unwrap();
        assert_eq!(repo.resolve("main").unwrap().id, repo.resolve("v1").unwrap().id);
        let dev = repo.resolve("dev").unwrap();
        assert_eq!(dev.tree.files.len(), 2);
        assert_eq!(repo.history(&dev).len(), 2);
        assert_eq!(repo.resolve(&dev.id[..7]).unwrap().id, dev.id);
        assert!(repo.resolve("v2").is_none());
    }
}
