//! Snapshots: a commit's facts and its tree, looked at once upstream and answered from the store for ever.
//!
//! A snapshot is learned whole or not at all (`learn`): masked ids, duplicate or escaping paths, a file
//! set that differs from the info's siblings are refused, not kept. Trees are stored and read in pieces
//! sorted by path (`pieces`), so that a repo of 300,000 files costs no more memory than a small one.
//!
//! A tree's objects are named by its digest, which the facts give, and the facts are written last. So whoever has read
//! facts finds the tree that belongs to them, also while `hubgate snapshot refresh` puts others in their place; and a
//! running gateway looks at the facts again from time to time.
//!
//! The facts of a commit whose tree is not here are kept apart (`early`), never in a snapshot's place.

mod check;
mod early;
mod learn;
mod pieces;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::{Error, Result};
use crate::{
    hub::{Commit, CommitInfo, Repo, RepoPath, Sha256, TreeNode},
    store::{self, Key, PutMode, Store},
};

pub use check::StoredSnapshots;
pub(crate) use early::Early;
pub(crate) use learn::{BadSnapshot, Bounds, gather};
pub(crate) use pieces::{Piece, TreeIndex};

/// A larger facts file is nothing that we wrote.
const MAX_FACTS_BYTES: u64 = 64 * 1024 * 1024;

/// How long a snapshot is believed without looking whether another process has replaced it.
const TTL: Duration = Duration::from_mins(1);

/// How long such a look may keep an answer waiting; a store that is slow or gone does not take away what is held.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// A commit's facts, as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// The repo under its canonical name.
    pub(crate) repo: Repo,
    /// The commit.
    pub(crate) commit: Commit,
    /// When it was looked at, RFC 3339.
    pub(crate) looked_at: String,
    /// Upstream's info object without siblings and without anything of Xet.
    pub(crate) info: serde_json::Value,
    /// What policy keeps of the README at this commit ([`crate::policy::kept_front_matter`]): its front matter, or why
    /// that can't be read; `None` where it has none.
    pub(crate) front_matter: Option<String>,
    /// The digest of the tree, by which its objects are named. `None` where the tree is not here, and in snapshots that
    /// were stored before this was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tree: Option<Sha256>,
}

/// A whole snapshot: facts and the way to its tree.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) facts: Arc<Facts>,
    pub(crate) index: TreeIndex,
}

/// A snapshot in memory, and when the store was last asked whether it still is the one.
struct Held {
    snapshot: Arc<Snapshot>,
    looked: Mutex<Instant>,
}

impl Held {
    fn new(snapshot: Arc<Snapshot>) -> Arc<Self> {
        Arc::new(Self { snapshot, looked: Mutex::new(Instant::now()) })
    }

    /// Whether the caller is to look again. The others go on with what is held meanwhile.
    fn is_due(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = looked.elapsed() >= TTL;
        if is_due {
            *looked = Instant::now();
        }
        is_due
    }
}

/// A piece by its commit, its tree's digest and its number.
type PieceKey = (Repo, Commit, Option<Sha256>, usize);

/// All snapshots of the store, with those in use kept in memory within a bound.
pub(crate) struct Snapshots {
    store: Arc<dyn Store>,
    whole: Cache<(Repo, Commit), Arc<Held>>,
    pieces: Cache<PieceKey, Arc<Piece>>,
    early: Cache<(Repo, Commit), Arc<Early>>,
}

impl Snapshots {
    /// Keeps at most about `memory` bytes.
    pub(crate) fn new(store: Arc<dyn Store>, memory: u64) -> Self {
        let whole = Cache::builder()
            .max_capacity(memory / 4)
            .weigher(|_, held: &Arc<Held>| u32::try_from(held.snapshot.weight()).unwrap_or(u32::MAX))
            .build();
        let pieces = Cache::builder()
            .max_capacity(memory - memory / 4)
            .weigher(|_, piece: &Arc<Piece>| u32::try_from(piece.weight()).unwrap_or(u32::MAX))
            .build();
        Self { store, whole, pieces, early: early::cache() }
    }

    /// The stored snapshot of a commit, if it was learned.
    pub(crate) async fn find(&self, repo: &Repo, commit: Commit) -> Result<Option<Arc<Snapshot>>> {
        let name = (repo.clone(), commit);
        if let Some(held) = self.whole.get(&name).await {
            if held.is_due() {
                return Box::pin(self.look_again(name, &held.snapshot)).await.map(Some);
            }
            return Ok(Some(held.snapshot.clone()));
        }
        // The facts are written last: with them, all is there.
        match self.read::<Facts>(&Key::snapshot(repo, commit, "facts.json")).await? {
            Some(facts) => self.with_tree(name, facts).await.map(Some),
            None => Ok(None),
        }
    }

    /// What another process has put in the place of a snapshot, if it has.
    async fn look_again(&self, name: (Repo, Commit), held: &Arc<Snapshot>) -> Result<Arc<Snapshot>> {
        let key = Key::snapshot(&name.0, name.1, "facts.json");
        match timeout(LOOK_PATIENCE, self.read::<Facts>(&key)).await {
            Ok(Ok(Some(facts))) if facts.looked_at != held.facts.looked_at || facts.tree != held.facts.tree => {
                self.with_tree(name, facts).await
            }
            Ok(Ok(_)) | Err(_) => Ok(held.clone()),
            Ok(Err(error)) => {
                tracing::debug!(%key, %error, "a snapshot was not looked at again; what is held holds");
                Ok(held.clone())
            }
        }
    }

    async fn with_tree(&self, name: (Repo, Commit), facts: Facts) -> Result<Arc<Snapshot>> {
        let key = Key::snapshot(&name.0, name.1, &TreeIndex::name(facts.tree));
        let Some(index) = self.read::<TreeIndex>(&key).await? else {
            return Err(corrupt(key, "missing although facts.json is there"));
        };
        let snapshot = Arc::new(Snapshot { facts: Arc::new(facts), index });
        self.whole.insert(name, Held::new(snapshot.clone())).await;
        Ok(snapshot)
    }

    /// Writes a snapshot: the pieces, the index, and last the facts.
    pub(crate) async fn keep(&self, facts: Arc<Facts>, nodes: Vec<TreeNode>) -> Result<Arc<Snapshot>> {
        let (repo, commit) = (facts.repo.clone(), facts.commit);
        let (index, pieces) = TreeIndex::split(nodes);
        let tree = Some(pieces::digest(&pieces));
        for (number, piece) in pieces.into_iter().enumerate() {
            let key = Key::snapshot(&repo, commit, &TreeIndex::part(tree, number));
            self.write(&key, Bytes::from(piece.to_lines())).await?;
        }
        self.write(&Key::snapshot(&repo, commit, &TreeIndex::name(tree)), json(&index)?).await?;
        let facts = Arc::new(Facts { tree, ..Arc::unwrap_or_clone(facts) });
        self.write(&Key::snapshot(&repo, commit, "facts.json"), json(&*facts)?).await?;
        let snapshot = Arc::new(Snapshot { facts, index });
        self.whole.insert((repo.clone(), commit), Held::new(snapshot.clone())).await;
        self.outgrow_early(&repo, commit).await;
        Ok(snapshot)
    }

    /// One node of a snapshot's tree.
    pub(crate) async fn node(&self, snapshot: &Snapshot, path: &RepoPath) -> Result<Option<TreeNode>> {
        let Some(number) = snapshot.index.piece_of(path) else { return Ok(None) };
        Ok(self.piece(snapshot, number).await?.find(path).cloned())
    }

    /// One piece of a snapshot's tree.
    pub(crate) async fn piece(&self, snapshot: &Snapshot, number: usize) -> Result<Arc<Piece>> {
        let (repo, commit) = (&snapshot.facts.repo, snapshot.facts.commit);
        let name = (repo.clone(), commit, snapshot.facts.tree, number);
        if let Some(piece) = self.pieces.get(&name).await {
            return Ok(piece);
        }
        Box::pin(self.read_piece(name)).await
    }

    async fn read_piece(&self, name: PieceKey) -> Result<Arc<Piece>> {
        let (repo, commit, tree, number) = &name;
        let key = Key::snapshot(repo, *commit, &TreeIndex::part(*tree, *number));
        let Some(body) = self.store.get(&key, MAX_FACTS_BYTES).await? else {
            return Err(corrupt(key, "missing although the tree's index names it"));
        };
        let piece = Arc::new(Piece::from_lines(&body).map_err(|error| corrupt(key, &error.to_string()))?);
        self.pieces.insert(name, piece.clone()).await;
        Ok(piece)
    }

    /// The newest commits up to this one, as upstream listed them.
    pub(crate) async fn history(&self, repo: &Repo, commit: Commit) -> Result<Option<Vec<CommitInfo>>> {
        self.read(&Key::snapshot(repo, commit, "commits.json")).await
    }

    /// Keeps a list of the newest commits up to this one.
    pub(crate) async fn keep_history(&self, repo: &Repo, commit: Commit, commits: &[CommitInfo]) -> Result<()> {
        self.write(&Key::snapshot(repo, commit, "commits.json"), json(&commits)?).await
    }

    async fn read<T: for<'de> Deserialize<'de>>(&self, key: &Key) -> Result<Option<T>> {
        let Some(body) = self.store.get(key, MAX_FACTS_BYTES).await? else { return Ok(None) };
        serde_json::from_slice(&body).map(Some).map_err(|error| corrupt(key.clone(), &error.to_string()))
    }

    async fn write(&self, key: &Key, body: Bytes) -> Result<()> {
        self.store.put(key, body, PutMode::Overwrite).await?;
        Ok(())
    }
}

impl Snapshot {
    fn weight(&self) -> usize {
        // Counting the JSON exactly would cost more than it is worth; its text is about half of it.
        4096 + self.facts.front_matter.as_ref().map_or(0, String::len) + self.index.weight()
    }
}

fn json<T: Serialize>(value: &T) -> Result<Bytes> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| {
        let kind = store::ErrorKind::Other(format!("writing JSON: {error}"));
        Error::from(store::Error { kind, key: None, source: None })
    })
}

fn corrupt(key: Key, problem: &str) -> Error {
    let kind = store::ErrorKind::Corrupt(format!("not a snapshot: {problem}; `hubgate snapshot refresh` replaces it"));
    Error::from(store::Error { kind, key: Some(key), source: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hub::RepoKind, manifest::testing::MemoryStore};

    const NODES: usize = 5000;

    fn name() -> (Repo, Commit) {
        (Repo::new(RepoKind::Model, "org/name").unwrap(), "a".repeat(40).parse().unwrap())
    }

    fn facts(looked_at: &str) -> Arc<Facts> {
        let ((repo, commit), info) = (name(), serde_json::json!({}));
        Arc::new(Facts { repo, commit, looked_at: looked_at.into(), info, front_matter: None, tree: None })
    }

    /// Two pieces of files that have this many bytes each.
    fn nodes(size: u64) -> Vec<TreeNode> {
        let oid: crate::hub::GitOid = "1".repeat(40).parse().unwrap();
        let node = |n| TreeNode { path: format!("{n:05}").parse().unwrap(), size, oid, lfs: None, folder: false };
        (0..NODES).map(node).collect()
    }

    async fn size_of_last(snapshots: &Snapshots, snapshot: &Snapshot) -> u64 {
        let path = format!("{:05}", NODES - 1).parse().unwrap();
        snapshots.node(snapshot, &path).await.unwrap().unwrap().size
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_that_another_process_replaced_is_seen_within_the_minute_and_its_tree_is_never_mixed() {
        let store = MemoryStore::new();
        let (running, command) = (Snapshots::new(store.clone(), 1 << 20), Snapshots::new(store.clone(), 1 << 20));
        command.keep(facts("first"), nodes(1)).await.unwrap();
        let (repo, commit) = name();
        let before = running.find(&repo, commit).await.unwrap().unwrap();
        command.keep(facts("second"), nodes(2)).await.unwrap();
        assert_eq!(size_of_last(&running, &before).await, 1, "a piece of the new tree under the old index");
        assert_eq!(running.find(&repo, commit).await.unwrap().unwrap().facts.looked_at, "first");
        tokio::time::advance(TTL).await;
        let after = running.find(&repo, commit).await.unwrap().unwrap();
        assert_eq!((&*after.facts.looked_at, size_of_last(&running, &after).await), ("second", 2));
        // What is held outlives the store's.
        for key in store.keys("snapshots/") {
            store.uproot(&key);
        }
        tokio::time::advance(TTL).await;
        assert_eq!(running.find(&repo, commit).await.unwrap().unwrap().facts.looked_at, "second");
    }

    #[tokio::test]
    async fn a_snapshot_whose_tree_has_no_digest_is_read() {
        let (store, (repo, commit)) = (MemoryStore::new(), name());
        let (index, pieces) = TreeIndex::split(nodes(3));
        let plant = |part: &str, body: Vec<u8>| store.plant(Key::snapshot(&repo, commit, part).as_str(), body);
        for (number, piece) in pieces.iter().enumerate() {
            plant(&format!("tree/{number:05}.jsonl"), piece.to_lines());
        }
        plant("tree.json", serde_json::to_vec(&index).unwrap());
        let old =
            format!(r#"{{"repo":"org/name","commit":"{commit}","looked_at":"then","info":{{}},"front_matter":null}}"#);
        let mut old: serde_json::Value = serde_json::from_str(&old).unwrap();
        old["repo"] = serde_json::to_value(&repo).unwrap();
        plant("facts.json", serde_json::to_vec(&old).unwrap());
        let snapshots = Snapshots::new(store.clone(), 1 << 20);
        let snapshot = snapshots.find(&repo, commit).await.unwrap().unwrap();
        assert_eq!(size_of_last(&snapshots, &snapshot).await, 3);
    }
}
