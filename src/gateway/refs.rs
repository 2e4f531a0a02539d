//! Which commit a branch or tag means: the last look at it, held, stored, never stepping back.
//!
//! A record says what upstream said and when. Whether it is fresh enough, and what to do when upstream
//! can't be asked, is decided in `commit`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Result, turns::Turns};
use crate::{
    hub::{self, Commit, Repo, Revision},
    store::{Error, ErrorKind, Key, Prefix, PutMode, Store},
};

/// A larger record is nothing that we wrote.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// A larger list of refs is nothing that we wrote.
const MAX_LIST_BYTES: u64 = 16 * 1024 * 1024;

/// How far a clock may be ahead of ours before what it wrote counts as of long ago: or one bad clock would
/// hold a branch for ever.
const MAX_SKEW: Duration = Duration::from_mins(5);

/// How many stored refs of one repo are looked through.
const MAX_REFS: usize = 10_000;

/// Records that are read at a time where all are wanted.
const READS_AT_ONCE: usize = 16;

/// A look at a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefRecord {
    /// What was asked for.
    pub(crate) revision: Revision,
    /// What it meant.
    pub(crate) commit: Commit,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) looked_at: OffsetDateTime,
}

impl RefRecord {
    /// How long ago the look was; nothing for one from a clock a little ahead of ours.
    pub(crate) fn age(&self) -> Duration {
        if self.is_of_the_future() {
            return Duration::MAX;
        }
        (OffsetDateTime::now_utc() - self.looked_at).try_into().unwrap_or_default()
    }

    fn is_of_the_future(&self) -> bool {
        self.looked_at > OffsetDateTime::now_utc() + MAX_SKEW
    }
}

/// The records of all repos.
pub(crate) struct Refs {
    store: Arc<dyn Store>,
    held: Cache<(Repo, Revision), Arc<RefRecord>>,
    /// Taken between reading a record and holding or replacing it, or an older one could win.
    turns: Turns,
}

impl Refs {
    /// Keeps records in memory for `ttl`; another replica may have looked since.
    pub(crate) fn new(store: Arc<dyn Store>, ttl: Duration) -> Self {
        Self {
            store,
            held: Cache::builder().max_capacity(50_000).time_to_live(ttl.max(Duration::from_secs(1))).build(),
            turns: Turns::default(),
        }
    }

    /// The newest look that is known.
    pub(crate) async fn last(&self, repo: &Repo, revision: &Revision) -> Result<Option<Arc<RefRecord>>> {
        let name = (repo.clone(), revision.clone());
        if let Some(record) = self.held.get(&name).await {
            return Ok(Some(record));
        }
        let _turn = self.turns.take(&name).await;
        if let Some(record) = self.held.get(&name).await {
            return Ok(Some(record));
        }
        let Some(record) = self.read(&Key::reference(repo, revision)).await? else { return Ok(None) };
        let record = Arc::new(record);
        self.held.insert(name, record.clone()).await;
        Ok(Some(record))
    }

    /// Takes note of a look, unless a newer one is known; returns the newest.
    pub(crate) async fn note(&self, repo: &Repo, seen: RefRecord) -> Result<Arc<RefRecord>> {
        let key = Key::reference(repo, &seen.revision);
        let name = (repo.clone(), seen.revision.clone());
        let _turn = self.turns.take(&name).await;
        let newest = match self.read(&key).await? {
            Some(stored) if stored.looked_at > seen.looked_at && !stored.is_of_the_future() => stored,
            _ => {
                let body = serde_json::to_vec(&seen).map_err(|error| Error {
                    kind: ErrorKind::Other(format!("writing JSON: {error}")),
                    key: None,
                    source: None,
                })?;
                self.store.put(&key, Bytes::from(body), PutMode::Overwrite).await?;
                seen
            }
        };
        let newest = Arc::new(newest);
        self.held.insert(name, newest.clone()).await;
        Ok(newest)
    }

    /// All stored looks at a repo's revisions.
    pub(crate) async fn all(&self, repo: &Repo) -> Result<Vec<RefRecord>> {
        let prefix = Prefix::references(repo);
        let keys: Vec<Key> = self.store.list(&prefix).map_ok(|meta| meta.key).take(MAX_REFS).try_collect().await?;
        let keys: Vec<Key> = keys.into_iter().filter(Key::is_reference).collect();
        let records = stream::iter(keys).map(|key| async move { self.read(&key).await }).buffered(READS_AT_ONCE);
        records.try_filter_map(|record| async move { Ok(record) }).try_collect().await
    }

    /// Keeps upstream's list of a repo's refs, for when it can't be asked.
    pub(crate) async fn keep_list(&self, repo: &Repo, list: &hub::Refs) -> Result<()> {
        let body = serde_json::to_vec(list).map_err(|error| Error {
            kind: ErrorKind::Other(format!("writing JSON: {error}")),
            key: None,
            source: None,
        })?;
        self.store.put(&Key::ref_list(repo), Bytes::from(body), PutMode::Overwrite).await?;
        Ok(())
    }

    /// Upstream's last list of a repo's refs.
    pub(crate) async fn last_list(&self, repo: &Repo) -> Result<Option<hub::Refs>> {
        let body = self.store.get(&Key::ref_list(repo), MAX_LIST_BYTES).await?;
        Ok(body.and_then(|body| serde_json::from_slice(&body).ok()))
    }

    async fn read(&self, key: &Key) -> Result<Option<RefRecord>> {
        let Some(body) = self.store.get(key, MAX_RECORD_BYTES).await? else { return Ok(None) };
        match serde_json::from_slice(&body) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                // The next look overwrites it; until then it is as if there had been none.
                tracing::error!(%key, %error, "not a ref record");
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hub::RepoKind, manifest::testing::MemoryStore};

    fn seen(commit: char, ago: time::Duration) -> RefRecord {
        RefRecord {
            revision: Revision::main(),
            commit: commit.to_string().repeat(40).parse().unwrap(),
            looked_at: OffsetDateTime::now_utc() - ago,
        }
    }

    #[tokio::test]
    async fn a_ref_never_steps_back_to_an_older_look_whoever_comes_last() {
        let repo = Repo::new(RepoKind::Model, "org/name").unwrap();
        let store = MemoryStore::new();
        let (one, two) =
            (Refs::new(store.clone(), Duration::from_mins(1)), Refs::new(store.clone(), Duration::from_mins(1)));
        let (older, newer) = (seen('a', time::Duration::seconds(20)), seen('b', time::Duration::seconds(10)));
        assert_eq!(*one.note(&repo, newer.clone()).await.unwrap(), newer);
        // A slow look of another replica arrives after it.
        assert_eq!(*two.note(&repo, older).await.unwrap(), newer);
        for refs in [one, two, Refs::new(store, Duration::from_mins(1))] {
            assert_eq!(*refs.last(&repo, &Revision::main()).await.unwrap().unwrap(), newer);
        }
    }

    #[tokio::test]
    async fn a_clock_far_ahead_does_not_hold_a_branch_for_ever() {
        let repo = Repo::new(RepoKind::Model, "org/name").unwrap();
        let refs = Refs::new(MemoryStore::new(), Duration::from_mins(1));
        let wrong = seen('a', time::Duration::days(-400));
        assert_eq!(refs.note(&repo, wrong).await.unwrap().age(), Duration::MAX, "it would never be looked at again");
        let right = seen('b', time::Duration::ZERO);
        assert_eq!(*refs.note(&repo, right.clone()).await.unwrap(), right);
        assert!(seen('c', time::Duration::seconds(-30)).age() < Duration::from_secs(1), "a little ahead is no matter");
    }
}
