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
pub(super) const MAX_SKEW: Duration = Duration::from_mins(5);

/// How many stored refs of one repo are looked through.
const MAX_REFS: usize = 10_000;

/// What looks in memory may take, in bytes: some 40,000 of them, fewer where names are long.
const HELD_BYTES: u64 = 16 << 20;

/// The same of repos that are gone or not.
const GONE_BYTES: u64 = 8 << 20;

/// The structs and moka's own nodes, beside the texts.
const ENTRY_BYTES: usize = 350;

/// How long it is believed whether a repo is gone; another replica may have heard otherwise.
const GONE_TTL: Duration = Duration::from_mins(10);

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
    /// When upstream said for certain, after that look, that the repo is gone.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub(crate) gone_at: Option<OffsetDateTime>,
}

impl RefRecord {
    /// How long ago the look was; nothing for one from a clock a little ahead of ours.
    pub(crate) fn age(&self) -> Duration {
        if self.is_of_the_future() {
            return Duration::MAX;
        }
        (OffsetDateTime::now_utc() - self.looked_at).try_into().unwrap_or_default()
    }

    /// When upstream last said something of it.
    fn heard_at(&self) -> OffsetDateTime {
        self.gone_at.map_or(self.looked_at, |gone| gone.max(self.looked_at))
    }

    fn is_of_the_future(&self) -> bool {
        self.heard_at() > OffsetDateTime::now_utc() + MAX_SKEW
    }
}

/// That a repo is gone upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gone {
    /// What was asked for.
    pub(crate) revision: Revision,
    /// When upstream said so.
    pub(crate) at: OffsetDateTime,
}

/// The records of all repos.
pub(crate) struct Refs {
    store: Arc<dyn Store>,
    held: Cache<(Repo, Revision), Arc<RefRecord>>,
    /// Whether repos are gone, as far as it was asked.
    gone: Cache<Repo, Option<Gone>>,
    /// Taken between reading a record and holding or replacing it, or an older one could win.
    turns: Turns,
}

impl Refs {
    /// Keeps records in memory for `ttl`; another replica may have looked since.
    pub(crate) fn new(store: Arc<dyn Store>, ttl: Duration) -> Self {
        // Anybody may ask for any revision, so the texts count.
        let held = Cache::builder()
            .weigher(|(repo, revision): &(Repo, Revision), _: &Arc<RefRecord>| {
                bytes(repo.id().len() + 2 * revision.as_str().len())
            })
            .max_capacity(HELD_BYTES)
            .time_to_live(ttl.max(Duration::from_secs(1)))
            .build();
        let gone = Cache::builder()
            .weigher(|repo: &Repo, gone: &Option<Gone>| {
                bytes(repo.id().len() + gone.as_ref().map_or(0, |gone| gone.revision.as_str().len()))
            })
            .max_capacity(GONE_BYTES)
            .time_to_live(GONE_TTL)
            .build();
        Self { store, held, gone, turns: Turns::default() }
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
            Some(stored) if stored.heard_at() > seen.looked_at && !stored.is_of_the_future() => stored,
            _ => {
                self.store.put(&key, json(&seen)?, PutMode::Overwrite).await?;
                self.note_back(repo).await;
                seen
            }
        };
        let newest = Arc::new(newest);
        self.held.insert(name, newest.clone()).await;
        Ok(newest)
    }

    /// Takes note that upstream, asked for `revision`, said for certain that the repo is gone. Stored with the
    /// last look at that revision, if there is one.
    pub(crate) async fn note_gone(&self, repo: &Repo, revision: &Revision, at: OffsetDateTime) -> Result<()> {
        let (key, name) = (Key::reference(repo, revision), (repo.clone(), revision.clone()));
        let _turn = self.turns.take(&name).await;
        if let Some(last) = self.read(&key).await? {
            if last.heard_at() > at && !last.is_of_the_future() {
                return Ok(());
            }
            let gone = RefRecord { gone_at: Some(at), ..last };
            self.store.put(&key, json(&gone)?, PutMode::Overwrite).await?;
            self.held.insert(name, Arc::new(gone)).await;
        }
        self.gone.insert(repo.clone(), Some(Gone { revision: revision.clone(), at })).await;
        Ok(())
    }

    /// Takes note that upstream has the repo.
    pub(crate) async fn note_back(&self, repo: &Repo) {
        self.gone.insert(repo.clone(), None).await;
    }

    /// Whether the repo is gone upstream, by the newest that was heard of any of its revisions.
    pub(crate) async fn gone(&self, repo: &Repo) -> Result<Option<Gone>> {
        if let Some(known) = self.gone.get(repo).await {
            return Ok(known);
        }
        let newest = self.all(repo).await?.into_iter().max_by_key(RefRecord::heard_at);
        let gone = newest.and_then(|last| Some(Gone { at: last.gone_at?, revision: last.revision }));
        self.gone.insert(repo.clone(), gone.clone()).await;
        Ok(gone)
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
        self.store.put(&Key::ref_list(repo), json(list)?, PutMode::Overwrite).await?;
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

/// What an entry of a cache takes whose texts have this length.
fn bytes(texts: usize) -> u32 {
    u32::try_from(texts + ENTRY_BYTES).unwrap_or(u32::MAX)
}

fn json(value: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| {
        let kind = ErrorKind::Other(format!("writing JSON: {error}"));
        Error { kind, key: None, source: None }.into()
    })
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
            gone_at: None,
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
    async fn what_is_held_is_bounded_in_bytes_however_long_the_names_are() {
        let (repo, refs) =
            (Repo::new(RepoKind::Model, "org/name").unwrap(), Refs::new(MemoryStore::new(), Duration::from_mins(1)));
        for number in 0..40_000 {
            let revision: Revision = format!("{number:x>240}").parse().unwrap();
            let record = RefRecord { revision: revision.clone(), ..seen('a', time::Duration::ZERO) };
            refs.held.insert((repo.clone(), revision), Arc::new(record)).await;
        }
        refs.held.run_pending_tasks().await;
        let texts: usize =
            refs.held.iter().map(|(name, record)| name.1.as_str().len() + record.revision.as_str().len()).sum();
        assert!(texts > 1 << 20, "nothing is held");
        assert!(texts as u64 <= HELD_BYTES, "{texts} bytes of names are held");
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

    #[tokio::test]
    async fn that_a_repo_is_gone_is_known_to_other_processes_until_it_is_back() {
        let repo = Repo::new(RepoKind::Model, "org/name").unwrap();
        let store = MemoryStore::new();
        let refs = || Refs::new(store.clone(), Duration::from_mins(1));
        let (first, main) = (refs(), Revision::main());
        let at = |ago| OffsetDateTime::now_utc() - time::Duration::seconds(ago);
        assert_eq!(first.gone(&repo).await.unwrap(), None);
        first.note(&repo, seen('a', time::Duration::seconds(60))).await.unwrap();
        first.note_gone(&repo, &main, at(30)).await.unwrap();
        let gone = refs().gone(&repo).await.unwrap().unwrap();
        assert_eq!((gone.revision, first.gone(&repo).await.unwrap().is_some()), (main.clone(), true));
        let last = refs().last(&repo, &main).await.unwrap().unwrap();
        assert_eq!(last.commit, seen('a', time::Duration::ZERO).commit, "what it meant is still known");
        // A look that began before that comes late.
        first.note(&repo, seen('b', time::Duration::seconds(40))).await.unwrap();
        assert!(refs().gone(&repo).await.unwrap().is_some());
        // Any revision that is seen again says that the repo is back.
        let dev = RefRecord { revision: "dev".parse().unwrap(), ..seen('c', time::Duration::seconds(10)) };
        first.note(&repo, dev).await.unwrap();
        assert_eq!((first.gone(&repo).await.unwrap(), refs().gone(&repo).await.unwrap()), (None, None));
        // And an old word does not take it away again.
        first.note_gone(&repo, &main, at(20)).await.unwrap();
        assert_eq!(refs().gone(&repo).await.unwrap(), None);
    }
}
