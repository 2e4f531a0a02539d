//! The facts of a commit whose tree is not here: still on its way, or too large to keep.
//!
//! Stored once a file was served by them, so that it is served with upstream gone too. Not a part of the
//! snapshot: nothing in here says what files a commit has.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use serde::{Deserialize, Serialize};

use super::{Facts, Result, Snapshots, json};
use crate::{
    gateway::weights::Weigh,
    hub::{Commit, Repo},
    store::Key,
};

/// What such facts may take of memory, in bytes.
const MEMORY_BYTES: u64 = 8 * 1024 * 1024;

/// How long they are believed without looking: another process may have put a snapshot in their place.
const TTL: Duration = Duration::from_mins(10);

/// As stored, in `early.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stored<F> {
    pub(super) facts: F,
    more_than: Option<usize>,
}

/// A commit's facts without its tree.
#[derive(Debug)]
pub(crate) struct Early {
    pub(crate) facts: Arc<Facts>,
    /// The tree has more nodes than this, where that is why it is not here.
    pub(crate) more_than: Option<usize>,
}

pub(super) fn cache() -> Cache<(Repo, Commit), Arc<Early>> {
    let weight = |_: &_, early: &Arc<Early>| u32::try_from(early.facts.weight()).unwrap_or(u32::MAX);
    Cache::builder().max_capacity(MEMORY_BYTES).weigher(weight).time_to_live(TTL).build()
}

fn key(repo: &Repo, commit: Commit) -> Key {
    Key::snapshot(repo, commit, "early.json")
}

impl Snapshots {
    /// The facts of a commit that has no snapshot, if any are stored.
    pub(crate) async fn early(&self, repo: &Repo, commit: Commit) -> Result<Option<Arc<Early>>> {
        let name = (repo.clone(), commit);
        if let Some(early) = self.early.get(&name).await {
            return Ok(Some(early));
        }
        let Some(Stored { facts, more_than }) = self.read::<Stored<Facts>>(&key(repo, commit)).await? else {
            return Ok(None);
        };
        let early = Arc::new(Early { facts: Arc::new(facts), more_than });
        self.early.insert(name, early.clone()).await;
        Ok(Some(early))
    }

    /// Keeps facts whose tree is not here; `more_than` says of how many nodes it has more, if that is why.
    pub(crate) async fn keep_early(&self, facts: &Arc<Facts>, more_than: Option<usize>) -> Result<()> {
        let name = (facts.repo.clone(), facts.commit);
        if self.early.get(&name).await.is_some_and(|known| known.more_than >= more_than) {
            return Ok(());
        }
        let stored = Stored { facts: &**facts, more_than };
        self.write(&key(&name.0, name.1), json(&stored)?).await?;
        self.early.insert(name, Arc::new(Early { facts: facts.clone(), more_than })).await;
        Ok(())
    }

    /// Drops facts that are not to be believed.
    pub(crate) async fn forget_early(&self, repo: &Repo, commit: Commit) -> Result<()> {
        self.early.invalidate(&(repo.clone(), commit)).await;
        Ok(self.store.delete(&key(repo, commit)).await?)
    }

    /// The snapshot is stored: what this process kept before it is of no use. What stays is never read.
    pub(super) async fn outgrow_early(&self, repo: &Repo, commit: Commit) {
        if self.early.remove(&(repo.clone(), commit)).await.is_some()
            && let Err(error) = self.store.delete(&key(repo, commit)).await
        {
            tracing::debug!(%repo, %commit, %error, "early facts stay beside the snapshot");
        }
    }
}
