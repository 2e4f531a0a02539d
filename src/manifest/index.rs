//! The index in the store and its part in memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};

use super::{Entry, Error, Result, log::of_one_object};
use crate::{
    hub::{Commit, Repo, RepoPath},
    store::{Key, Prefix, PutMode, Store},
};

/// What entries in memory may take, in bytes: some 80,000 of them.
const CACHE_BYTES: u64 = 32 << 20;
/// How long an entry is believed without looking: another process may evict it.
const CACHE_TTL: Duration = Duration::from_mins(1);
/// An entry is some 500 bytes; its path, the longest part, has at most 1,024, escaped at most six times that.
pub(super) const ENTRY_LIMIT_BYTES: u64 = 64 << 10;
/// Index objects that are read at a time when a whole commit is asked for.
const READS_AT_ONCE: usize = 16;

/// One file of one commit.
type File = (Repo, Commit, RepoPath);

#[derive(Debug, Clone)]
pub(super) struct Index {
    store: Arc<dyn Store>,
    cache: moka::future::Cache<File, Arc<Entry>>,
    /// How many entries were removed, so that who reads one meanwhile notices.
    removals: Arc<AtomicU64>,
}

impl Index {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        let cache = moka::future::Cache::builder()
            .weigher(|(repo, _, path): &File, _| {
                // The texts are shared between key and entry; the rest is the structs and moka's own nodes.
                u32::try_from(repo.id().len() + path.as_str().len() + 350).unwrap_or(u32::MAX)
            })
            .max_capacity(CACHE_BYTES)
            .time_to_live(CACHE_TTL)
            .build();
        Self { store, cache, removals: Arc::default() }
    }

    pub(super) async fn entry(&self, repo: &Repo, commit: Commit, path: &RepoPath) -> Result<Option<Arc<Entry>>> {
        let file = (repo.clone(), commit, path.clone());
        if let Some(entry) = self.cache.get(&file).await {
            return Ok(Some(entry));
        }
        Box::pin(self.read_entry(file)).await
    }

    async fn read_entry(&self, file: (Repo, Commit, RepoPath)) -> Result<Option<Arc<Entry>>> {
        let removals = self.removals.load(Ordering::SeqCst);
        let entry = read(&*self.store, &Key::index(&file.0, file.1, &file.2)).await?;
        if let Some(entry) = &entry {
            self.cache.insert(file.clone(), entry.clone()).await;
            if self.removals.load(Ordering::SeqCst) != removals {
                // It may have been this one, after we read it.
                self.cache.invalidate(&file).await;
            }
        }
        Ok(entry)
    }

    pub(super) async fn remember(&self, entry: Arc<Entry>) {
        self.cache.insert((entry.repo.clone(), entry.commit, entry.path.clone()), entry).await;
    }

    pub(super) async fn forget(&self, repo: &Repo, commit: Commit, path: &RepoPath) {
        self.cache.invalidate(&(repo.clone(), commit, path.clone())).await;
    }

    /// Writes an entry, over whatever stood there: the same bytes, or something broken.
    pub(super) async fn write(&self, entry: &Entry) -> Result<()> {
        let body = Bytes::from(entry.to_bytes()?);
        let put = self.store.put(&entry.key(), body, PutMode::Overwrite).await;
        put.map(|_| ()).map_err(|error| Error::Index(Arc::new(error)))
    }

    pub(super) async fn remove(&self, repo: &Repo, commit: Commit, path: &RepoPath) -> Result<()> {
        let deleted = self.store.delete(&Key::index(repo, commit, path)).await;
        // In this order: who read the entry before it went either remembers it before it is forgotten here, or
        // sees the count.
        self.removals.fetch_add(1, Ordering::SeqCst);
        self.forget(repo, commit, path).await;
        deleted.map_err(|error| Error::Index(Arc::new(error)))
    }
}

/// All entries of one commit.
pub(super) fn entries_of<'a>(store: &'a dyn Store, repo: &Repo, commit: Commit) -> BoxStream<'a, Result<Arc<Entry>>> {
    entries_below(store, &Prefix::index_of(repo, commit))
}

/// All entries below a prefix of the index.
pub(super) fn entries_below<'a>(store: &'a dyn Store, prefix: &Prefix) -> BoxStream<'a, Result<Arc<Entry>>> {
    store
        .list(prefix)
        .map_err(|error| Error::Read(Arc::new(error)))
        .map_ok(move |meta| async move { read(store, &meta.key).await })
        .try_buffered(READS_AT_ONCE)
        .try_filter_map(|entry| async move { Ok(entry) })
        .boxed()
}

/// All entries of all commits, with what is wrong with those that can't be read.
pub(super) fn all_entries(store: &dyn Store) -> BoxStream<'_, Result<(Key, std::result::Result<Entry, String>)>> {
    let failed = |error| Error::Read(Arc::new(error));
    store
        .list(&Prefix::index())
        .map_err(failed)
        .map_ok(move |meta| async move {
            let entry = match store.get(&meta.key, ENTRY_LIMIT_BYTES).await {
                Ok(None) => return Ok(None),
                Ok(Some(bytes)) => Entry::read(&meta.key, &bytes),
                Err(error) if of_one_object(&error) => Err(error.to_string()),
                Err(error) => return Err(failed(error)),
            };
            Ok(Some((meta.key, entry)))
        })
        .try_buffer_unordered(READS_AT_ONCE)
        .try_filter_map(|read| async move { Ok(read) })
        .boxed()
}

async fn read(store: &dyn Store, key: &Key) -> Result<Option<Arc<Entry>>> {
    let Some(bytes) = store.get(key, ENTRY_LIMIT_BYTES).await.map_err(|error| Error::Read(Arc::new(error)))? else {
        return Ok(None);
    };
    match Entry::read(key, &bytes) {
        Ok(entry) => Ok(Some(Arc::new(entry))),
        Err(problem) => {
            tracing::error!(%key, problem, "index entry unreadable, treated as not there; hubgate verify --repair");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            NewRecord,
            testing::{MemoryStore, fact},
        },
        *,
    };

    #[tokio::test]
    async fn what_another_process_stores_is_seen_at_once() {
        let store = MemoryStore::new();
        let (here, there) = (Index::new(store.clone()), Index::new(store.clone()));
        let entry = Entry::of(&fact(1));
        assert_eq!(here.entry(&entry.repo, entry.commit, &entry.path).await.unwrap(), None);
        there.write(&entry).await.unwrap();
        let found = here.entry(&entry.repo, entry.commit, &entry.path).await.unwrap();
        assert_eq!(found.as_deref(), Some(&entry));
    }

    #[tokio::test]
    async fn a_known_entry_costs_no_look_at_the_store_until_it_is_forgotten() {
        let store = MemoryStore::new();
        let index = Index::new(store.clone());
        let entry = Entry::of(&fact(1));
        index.write(&entry).await.unwrap();
        assert!(index.entry(&entry.repo, entry.commit, &entry.path).await.unwrap().is_some());
        store.uproot(entry.key().as_str());
        assert!(index.entry(&entry.repo, entry.commit, &entry.path).await.unwrap().is_some());
        index.forget(&entry.repo, entry.commit, &entry.path).await;
        assert_eq!(index.entry(&entry.repo, entry.commit, &entry.path).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_entry_that_is_removed_while_it_is_read_is_not_remembered() {
        let store = MemoryStore::new();
        let index = Index::new(store.clone());
        let entry = Entry::of(&fact(1));
        index.write(&entry).await.unwrap();
        let hold = store.hold_read("manifest/index/");
        let mut reading = Box::pin(index.entry(&entry.repo, entry.commit, &entry.path));
        assert!(futures_util::poll!(reading.as_mut()).is_pending());
        index.remove(&entry.repo, entry.commit, &entry.path).await.unwrap();
        hold.notify_one();
        assert!(reading.await.unwrap().is_some());
        assert_eq!(index.entry(&entry.repo, entry.commit, &entry.path).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_entry_that_cannot_be_read_is_not_there_and_not_an_error() {
        let store = MemoryStore::new();
        let index = Index::new(store.clone());
        let entry = Entry::of(&fact(1));
        for broken in [Vec::new(), b"{}".to_vec(), Entry::of(&fact(2)).to_bytes().unwrap()] {
            store.plant(entry.key().as_str(), broken);
            assert_eq!(index.entry(&entry.repo, entry.commit, &entry.path).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn the_entries_of_a_commit_are_its_own() {
        let store = MemoryStore::new();
        let index = Index::new(store.clone());
        for n in 0..40 {
            index.write(&Entry::of(&fact(n))).await.unwrap();
        }
        let other = Entry::of(&NewRecord { commit: "d".repeat(40).parse().unwrap(), ..fact(0) });
        index.write(&other).await.unwrap();
        let all: Vec<_> = entries_of(&*store, &other.repo, fact(0).commit).try_collect().await.unwrap();
        assert_eq!(all.len(), 40);
        assert!(all.iter().all(|entry| entry.commit != other.commit));
    }
}
