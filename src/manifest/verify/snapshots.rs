//! Holds the stored snapshots against the entries.

use futures_util::stream::BoxStream;

use super::super::newest::FileId;
use super::{Finding, Kind, census::Census};
use crate::{
    hub::{BlobId, Commit, Repo, RepoKind, RepoPath},
    store::{self, Key, Prefix, Store},
};

/// Reads a commit's snapshot back. The gateway knows its form; here it is only compared.
pub trait SnapshotReader: Send + Sync {
    /// All files of the commit, as stored, and whatever is wrong with the snapshot itself: a piece that is
    /// missing, cannot be parsed, or contradicts another.
    fn read<'a>(
        &'a self,
        store: &'a dyn Store,
        repo: &'a Repo,
        commit: Commit,
    ) -> BoxStream<'a, store::Result<SnapshotItem>>;
}

/// What a [`SnapshotReader`] finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotItem {
    /// A file of the tree.
    File {
        /// Its path.
        path: RepoPath,
        /// Its size in bytes.
        size: u64,
        /// Its id, which clients see as etag.
        id: BlobId,
    },
    /// Something that is wrong with the snapshot.
    Problem(String),
}

/// The commit that a key below `snapshots/` belongs to.
pub(super) fn commit_of(key: &Key) -> Option<(Repo, Commit)> {
    let mut parts = key.as_str().strip_prefix(Prefix::snapshots(None).as_str())?.split('/');
    let (plural, segment, commit) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = RepoKind::ALL.into_iter().find(|kind| kind.plural() == plural)?;
    let repo = Repo::new(kind, &segment.replacen("--", "/", 1)).ok()?;
    parts.next()?;
    Some((repo, commit.parse().ok()?))
}

/// What is wrong about one item.
pub(super) fn judge(census: &Census, repo: &Repo, commit: Commit, item: SnapshotItem) -> Option<Finding> {
    let detail = match item {
        SnapshotItem::Problem(problem) => problem,
        SnapshotItem::File { path, size, id } => {
            if census.matches_tree(FileId::of(&Key::index(repo, commit, &path)), size, id) {
                return None;
            }
            format!("names {path} with {size} bytes and id {id}, its index entry has another size or etag")
        }
    };
    Some(Finding { kind: Kind::Snapshot, name: format!("{repo}@{commit}"), detail, repaired: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshots_key_names_its_commit() {
        let commit: Commit = "a".repeat(40).parse().unwrap();
        for (kind, id) in [(RepoKind::Model, "gpt2"), (RepoKind::Space, "org/na-me")] {
            let repo = Repo::new(kind, id).unwrap();
            let key = Key::snapshot(&repo, commit, "tree/00000.jsonl");
            assert_eq!(commit_of(&key), Some((repo, commit)));
        }
        for stray in ["snapshots/models/org--name/main/facts.json", "snapshots/x", "snapshots/models/a/b"] {
            assert_eq!(commit_of(&Key::listed(stray)), None, "{stray}");
        }
    }
}
