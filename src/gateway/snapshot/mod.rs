//! Snapshots: a commit's facts and its tree, looked at once upstream and answered from the store for ever.
//!
//! A snapshot is learned whole or not at all (`learn`): masked ids, duplicate or escaping paths, a file
//! set that differs from the info's siblings are refused, not kept. Trees are stored and read in pieces
//! sorted by path (`pieces`), so that a repo of 300,000 files costs no more memory than a small one.
//!
//! The facts of a commit whose tree is not here are kept apart (`early`), never in a snapshot's place.

mod check;
mod early;
mod learn;
mod pieces;

use std::sync::Arc;

use bytes::Bytes;
use moka::future::Cache;
use serde::{Deserialize, Serialize};

use super::{Error, Result};
use crate::{
    hub::{Commit, CommitInfo, Repo, RepoPath, TreeNode},
    store::{self, Key, PutMode, Store},
};

pub use check::StoredSnapshots;
pub(crate) use early::Early;
pub(crate) use learn::{BadSnapshot, Bounds, gather};
pub(crate) use pieces::{Piece, TreeIndex};

/// A larger facts file is nothing that we wrote.
const MAX_FACTS_BYTES: u64 = 64 * 1024 * 1024;

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
}

/// A whole snapshot: facts and the way to its tree.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) facts: Arc<Facts>,
    pub(crate) index: TreeIndex,
}

/// All snapshots of the store, with those in use kept in memory within a bound.
pub(crate) struct Snapshots {
    store: Arc<dyn Store>,
    whole: Cache<(Repo, Commit), Arc<Snapshot>>,
    pieces: Cache<(Repo, Commit, usize), Arc<Piece>>,
    early: Cache<(Repo, Commit), Arc<Early>>,
}

impl Snapshots {
    /// Keeps at most about `memory` bytes.
    pub(crate) fn new(store: Arc<dyn Store>, memory: u64) -> Self {
        let whole = Cache::builder()
            .max_capacity(memory / 4)
            .weigher(|_, snapshot: &Arc<Snapshot>| u32::try_from(snapshot.weight()).unwrap_or(u32::MAX))
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
        if let Some(snapshot) = self.whole.get(&name).await {
            return Ok(Some(snapshot));
        }
        // The facts are written last: with them, all is there.
        let Some(facts) = self.read::<Facts>(&Key::snapshot(repo, commit, "facts.json")).await? else {
            return Ok(None);
        };
        let Some(index) = self.read::<TreeIndex>(&Key::snapshot(repo, commit, "tree.json")).await? else {
            return Err(corrupt(Key::snapshot(repo, commit, "tree.json"), "missing although facts.json is there"));
        };
        let snapshot = Arc::new(Snapshot { facts: Arc::new(facts), index });
        self.whole.insert(name, snapshot.clone()).await;
        Ok(Some(snapshot))
    }

    /// Writes a snapshot: the pieces, the index, and last the facts.
    pub(crate) async fn keep(&self, facts: Arc<Facts>, nodes: Vec<TreeNode>) -> Result<Arc<Snapshot>> {
        let (repo, commit) = (facts.repo.clone(), facts.commit);
        let (index, pieces) = TreeIndex::split(nodes);
        for (number, piece) in pieces.into_iter().enumerate() {
            self.write(&Key::snapshot(&repo, commit, &TreeIndex::part(number)), Bytes::from(piece.to_lines())).await?;
        }
        self.write(&Key::snapshot(&repo, commit, "tree.json"), json(&index)?).await?;
        self.write(&Key::snapshot(&repo, commit, "facts.json"), json(&*facts)?).await?;
        let snapshot = Arc::new(Snapshot { facts, index });
        // A refresh replaces what was cached.
        for number in 0..snapshot.index.pieces() {
            self.pieces.invalidate(&(repo.clone(), commit, number)).await;
        }
        self.whole.insert((repo.clone(), commit), snapshot.clone()).await;
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
        let name = (repo.clone(), commit, number);
        if let Some(piece) = self.pieces.get(&name).await {
            return Ok(piece);
        }
        Box::pin(self.read_piece(name)).await
    }

    async fn read_piece(&self, name: (Repo, Commit, usize)) -> Result<Arc<Piece>> {
        let (repo, commit, number) = &name;
        let key = Key::snapshot(repo, *commit, &TreeIndex::part(*number));
        let Some(body) = self.store.get(&key, MAX_FACTS_BYTES).await? else {
            return Err(corrupt(key, "missing although tree.json names it"));
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
