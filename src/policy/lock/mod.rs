//! The lock file: at which commit each revision of a repo was reviewed, and the digest of every file that it has there.
//!
//! `hubgate lock` writes it, people review it as text, and with `policy.lock` it is part of the policy: its digest is in
//! the policy's. It never allows anything: rules, deny rules, withdrawals and licences decide as without it, and what they
//! let through must then be what was locked (DESIGN I11). Repos that it does not name go on by policy alone.

mod compare;
mod enforce;
mod file;
mod read;
mod write;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::Path,
    sync::Arc,
};

pub use compare::{Change, FileChange, LockChange};
pub(super) use enforce::LockedRepo;
pub(super) use file::LockFile;

use super::{facts::Identity, load_error::LoadError, pattern::ref_name};
use crate::hub::{BlobId, Commit, Repo, RepoKind, RepoPath, Revision, Sha256};

/// A lock file, read and understood.
#[derive(Debug, Clone, Default)]
pub struct Lock {
    /// In the order in which they are written.
    entries: Vec<Arc<Locked>>,
    /// Under the name that policy knows, and under upstream's where that is another.
    by_name: HashMap<(RepoKind, String), Arc<[Arc<Locked>]>>,
}

/// One revision of one repo, as it was reviewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    /// The repo under the name that policy allows.
    pub repo: Repo,
    /// Upstream's name for it, where that is another.
    pub canonical: Option<Repo>,
    /// The branch, tag or sha.
    pub revision: Revision,
    /// The commit that it means.
    pub commit: Commit,
    /// Whose repo it was.
    pub identity: Identity,
    /// The licence, as the manifest has it.
    pub license: String,
    /// The rule that allowed it when it was locked.
    pub rule: String,
    /// All files of the commit, those too that policy withholds.
    pub files: BTreeMap<RepoPath, LockedFile>,
    /// Where it stands: `models.lock:12`. Empty for one that is not written yet.
    pub source: String,
}

/// A file of a locked commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockedFile {
    /// Its length in bytes.
    pub size: u64,
    /// How the Hub names its content.
    pub blob: BlobId,
    /// The digest of its content, where it is known: of files that the Hub names by a git id, once they were fetched.
    pub sha256: Option<Sha256>,
}

impl LockedFile {
    /// Whether both have the same content, as far as they tell.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = self.blob == other.blob || (self.sha256.is_some() && self.sha256 == other.sha256);
        self.size == other.size && same
    }
}

impl serde::Serialize for LockedFile {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Shown<'a> {
            size: u64,
            git: Option<&'a BlobId>,
            sha256: Option<Sha256>,
        }
        let git = matches!(self.blob, BlobId::Git(_)).then_some(&self.blob);
        Shown { size: self.size, git, sha256: self.sha256 }.serialize(serializer)
    }
}

impl fmt::Display for LockedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.sha256, self.blob) {
            (Some(sha256), _) | (None, BlobId::Sha256(sha256)) => write!(f, "sha256 {sha256}"),
            (None, BlobId::Git(oid)) => write!(f, "git id {oid}"),
        }
    }
}

impl fmt::Display for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repo, self.revision)
    }
}

impl Lock {
    /// Reads a lock file; `None` where there is none.
    ///
    /// # Errors
    /// A file that can't be read or is no lock.
    pub fn read(path: &Path) -> Result<Option<Arc<Self>>, LoadError> {
        LockFile::read(path, None)?.map(|file| file.lock()).transpose()
    }

    /// These entries, of which no two are of one revision.
    pub fn new(mut entries: Vec<Arc<Locked>>) -> Self {
        entries.sort_by(|a, b| (&a.repo, &a.revision.as_str()).cmp(&(&b.repo, &b.revision.as_str())));
        let mut by_name: HashMap<(RepoKind, String), Vec<Arc<Locked>>> = HashMap::new();
        // A repo's own entries stand before those of others that lead to it.
        let own = entries.iter().map(|entry| (&entry.repo, entry));
        let led = entries.iter().filter_map(|entry| Some((entry.canonical.as_ref()?, entry)));
        for (repo, entry) in own.chain(led) {
            by_name.entry(name_of(repo)).or_default().push(entry.clone());
        }
        let by_name = by_name.into_iter().map(|(name, entries)| (name, entries.into())).collect();
        Self { entries, by_name }
    }

    /// All entries, in the order in which they are written: by repo, then by revision.
    pub fn entries(&self) -> &[Arc<Locked>] {
        &self.entries
    }

    /// What is locked of a repo, under the name that policy allows or upstream's.
    pub fn of(&self, repo: &Repo) -> Option<&Arc<[Arc<Locked>]>> {
        self.by_name.get(&name_of(repo))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = (&(RepoKind, String), &Arc<[Arc<Locked>]>)> {
        self.by_name.iter()
    }
}

/// Whether two revisions are one: `refs/heads/main`, `HEAD` and `main` are.
pub fn is_same_ref(one: &Revision, other: &Revision) -> bool {
    ref_name(one.as_str()) == ref_name(other.as_str())
}

impl Locked {
    /// Whether this is the entry of a revision of a repo.
    pub fn is_of(&self, repo: &Repo, revision: &Revision) -> bool {
        self.repo.same_name(repo) && is_same_ref(&self.revision, revision)
    }
}

fn name_of(repo: &Repo) -> (RepoKind, String) {
    (repo.kind(), repo.id().to_ascii_lowercase())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::policy) const ONE: &str = "1111111111111111111111111111111111111111";
    pub(in crate::policy) const TWO: &str = "2222222222222222222222222222222222222222";

    /// A file of so many bytes with a digest of one digit, repeated: 40 of them for a git id, else 64.
    pub(in crate::policy) fn file(size: u64, digit: char, git: bool) -> LockedFile {
        let sha256 = digit.to_string().repeat(64).parse().unwrap();
        if git {
            return LockedFile { size, blob: BlobId::Git(digit.to_string().repeat(40).parse().unwrap()), sha256: None };
        }
        LockedFile { size, blob: BlobId::Sha256(sha256), sha256: Some(sha256) }
    }

    /// An entry with a configuration and a model.
    pub(in crate::policy) fn locked(repo: &str, revision: &str, commit: &str) -> Locked {
        let files = [("config.json", file(2, 'a', true)), ("model.safetensors", file(10, 'b', false))];
        Locked {
            repo: repo.parse().unwrap(),
            canonical: None,
            revision: revision.parse().unwrap(),
            commit: commit.parse().unwrap(),
            identity: Identity { id: Some("id1".into()), author: Some("acme".into()) },
            license: "mit".into(),
            rule: "r".into(),
            files: files.into_iter().map(|(path, file)| (path.parse().unwrap(), file)).collect(),
            source: String::new(),
        }
    }

    pub(in crate::policy) fn lock(entries: Vec<Locked>) -> Lock {
        Lock::new(entries.into_iter().map(Arc::new).collect())
    }
}
