//! The proof of what came in: a log that only grows, and an index that says what may be served.
//!
//! The order of a store is blob, log record, index entry, release to readers; whatever a crash leaves in
//! between is completed by the next fill of that file or by `hubgate verify --repair`, and doing it twice is
//! harmless. Removal goes the same way: log record, index entry, and the blob last.
//!
//! - [`Manifest`] writes: one chain of records per process, batched, and the index behind it.
//! - [`log()`] reads all chains and checks them; [`export()`] shows what they say.
//! - [`verify`] holds log, index, snapshots and blobs against each other, and completes what a crash left.
//!
//! Nothing here asks upstream, decides what may be served, or deletes a blob.

mod chain;
mod entry;
mod export;
mod heads;
mod index;
mod log;
mod named;
mod newest;
mod record;
mod retry;
mod search;
#[cfg(test)]
pub(crate) mod testing;
pub mod verify;

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use tokio::sync::{Mutex, broadcast, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    hub::{Commit, Repo, RepoPath, Revision, Sha256},
    store::{self, Key, Prefix, PutMode, Store},
};

use newest::FileId;

pub use entry::Entry;
pub use export::{COLUMNS, Exported, Filter, Format, TEXT_COLUMNS, export};
pub use log::{LogFault, LogItem, Logged, log};
pub use named::named_blobs;
pub(crate) use record::kind_and_id;
pub use record::{NewRecord, Record, What, WriterId};
pub use search::{Found, holders, search};

/// The manifest's answers.
pub type Result<T> = std::result::Result<T, Error>;

/// How many records may wait to be written; a caller beyond them waits its turn.
const QUEUED_RECORDS: usize = 1024;

/// How many stored files a listener may lag behind before it misses some.
const STORED_UNHEARD: usize = 4096;

/// Files that are adopted at once; those of one lane wait for each other.
const ADOPTING_LANES: usize = 256;

/// What can go wrong with the manifest. It can be cloned since a failed batch has many waiters.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The log could not be written: nothing was recorded, as far as the store has told. The blob stays:
    /// the next fill of the file finds it.
    #[error("the manifest's log could not be written")]
    Log(#[source] Arc<store::Error>),
    /// Something else stands where this writer's next record belongs.
    #[error(
        "the log object {0} holds records that this process did not write; find out who writes under this \
         writer's name, then restart hubgate to begin a new chain"
    )]
    Taken(Key),
    /// The log has the record, the index does not: the file is not served until the next fill of it, or
    /// `hubgate verify --repair`.
    #[error("the manifest's index could not be written")]
    Index(#[source] Arc<store::Error>),
    /// Log, index or policies could not be read or written.
    #[error("the manifest could not be read")]
    Read(#[source] Arc<store::Error>),
    /// An entry can't be read, so nobody knows which content it needs.
    #[error(
        "the index entry {key} can't be read ({problem}), so nothing can be called unneeded; `hubgate verify --repair` \
         mends it where the log says what became of its file; where it stands after that, move the object away: if its \
         file is asked for again, it is fetched again"
    )]
    Unsure {
        /// Where it stands.
        key: Key,
        /// What is wrong with it.
        problem: String,
    },
    /// A record has no form as JSON.
    #[error("a manifest record could not be put in JSON")]
    Json(#[from] Arc<serde_json::Error>),
    /// The output of an export, or the state of a verification, could not be written.
    #[error("the output could not be written")]
    Output(#[source] Arc<std::io::Error>),
    /// hubgate is stopping.
    #[error("the manifest takes no more records: hubgate is stopping")]
    Closed,
}

/// The manifest of this process. Cheap to clone; all clones write one chain.
#[derive(Debug, Clone)]
pub struct Manifest {
    writer: WriterId,
    queue: mpsc::Sender<chain::Waiting>,
    index: index::Index,
    store: Arc<dyn Store>,
    policies: Arc<Mutex<HashSet<Sha256>>>,
    /// Held by who adopts content for a file of that lane.
    adopting: Arc<[Mutex<()>]>,
    stored: broadcast::Sender<StoredFile>,
}

/// A file of this commit was recorded as stored.
#[derive(Debug, Clone)]
pub struct StoredFile {
    /// The repo under its canonical name.
    pub repo: Repo,
    /// The commit.
    pub commit: Commit,
    /// The revision under which it was asked for, where somebody asked.
    pub revision: Option<Revision>,
}

impl Manifest {
    /// Starts the task that owns this writer's chain. When `shutdown` is cancelled it writes what has been
    /// handed in and ends; cancel it after the last fill has ended, and wait for `tracker`.
    pub fn start(store: Arc<dyn Store>, writer: WriterId, tracker: &TaskTracker, shutdown: CancellationToken) -> Self {
        let index = index::Index::new(store.clone());
        let (queue, waiting) = mpsc::channel(QUEUED_RECORDS);
        let chain = chain::Chain::new(writer.clone(), store.clone(), index.clone(), tracker.clone());
        tracker.spawn(chain.run(waiting, shutdown));
        let adopting = (0..ADOPTING_LANES).map(|_| Mutex::default()).collect();
        let stored = broadcast::Sender::new(STORED_UNHEARD);
        Self { writer, queue, index, store, policies: Arc::default(), adopting, stored }
    }

    /// The name of this process's chain.
    pub fn writer(&self) -> &WriterId {
        &self.writer
    }

    /// Records that a file was stored. Its blob must be committed before. Returns when the log record is
    /// durable and the index entry is written: from then on it may be released to readers.
    ///
    /// A caller that stops waiting does not stop the record. On an error leave the blob: the record may have
    /// arrived all the same.
    pub async fn record_stored(&self, mut fact: NewRecord) -> Result<Arc<Entry>> {
        fact.what = What::Stored;
        let entry = Arc::new(Entry::of(&fact));
        let heard = (self.stored.receiver_count() > 0).then(|| StoredFile {
            repo: fact.repo.clone(),
            commit: fact.commit,
            revision: fact.revision.clone(),
        });
        self.append(fact).await?;
        if let Some(heard) = heard {
            // An error means that nobody listens any more.
            let _ = self.stored.send(heard);
        }
        Ok(entry)
    }

    /// The same for content that was there already, under another name. Of those who adopt it for one file at
    /// once, one records it: one record is the proof of all.
    pub async fn record_adopted(&self, fact: NewRecord) -> Result<Arc<Entry>> {
        let lane = FileId::of(&Entry::of(&fact).key()).lane(ADOPTING_LANES);
        let _alone = self.adopting[lane].lock().await;
        match self.entry(&fact.repo, fact.commit, &fact.path).await? {
            Some(entry) if *entry == Entry::of(&fact) => Ok(entry),
            _ => self.record_stored(fact).await,
        }
    }

    /// Every file that this process records as stored from now on.
    pub fn stored_files(&self) -> broadcast::Receiver<StoredFile> {
        self.stored.subscribe()
    }

    /// Records that a file was evicted or withdrawn, and removes its index entry. Delete the blob after this
    /// has returned, never before. A record of another kind is logged and leaves the index alone.
    ///
    /// Against a store of the same file by this process the later record wins, in the index too. Another
    /// process that stores it within the same moment may leave an entry behind, which `verify --repair` removes.
    pub async fn record(&self, fact: NewRecord) -> Result<()> {
        self.append(fact).await
    }

    async fn append(&self, fact: NewRecord) -> Result<()> {
        let (done, end) = oneshot::channel();
        self.queue.send(chain::Waiting { fact, done }).await.map_err(|_| Error::Closed)?;
        end.await.map_err(|_| Error::Closed)?
    }

    /// The entry of a file, if it may be served. Found ones are kept in memory (bounded in bytes, for a
    /// minute, since another process may evict); "not there" is asked anew each time, since another process
    /// may store it at any moment. An entry that can't be read counts as not there, loudly: the next fill
    /// writes it anew.
    pub async fn entry(&self, repo: &Repo, commit: Commit, path: &RepoPath) -> Result<Option<Arc<Entry>>> {
        self.index.entry(repo, commit, path).await
    }

    /// All entries of a commit, in no order that means anything.
    pub fn entries_of(&self, repo: &Repo, commit: Commit) -> BoxStream<'_, Result<Arc<Entry>>> {
        index::entries_of(&*self.store, repo, commit)
    }

    /// All entries of all commits of a repo, under this spelling of its name.
    pub fn entries_of_repo(&self, repo: &Repo) -> BoxStream<'_, Result<Arc<Entry>>> {
        index::entries_below(&*self.store, &Prefix::index_of_repo(repo))
    }

    /// All entries of all commits, in no order that means anything. [`Error::Unsure`] at one that can't be read.
    pub fn all_entries(&self) -> BoxStream<'_, Result<Entry>> {
        index::all_entries(&*self.store)
            .and_then(|(key, entry)| async { entry.map_err(|problem| Error::Unsure { key, problem }) })
            .boxed()
    }

    /// Drops what memory holds of a file, as when its blob turns out to be gone.
    pub async fn forget(&self, repo: &Repo, commit: Commit, path: &RepoPath) {
        self.index.forget(repo, commit, path).await;
    }

    /// Keeps the text of the policy that decisions refer to, once per process. To be called before the first
    /// record that names the digest.
    pub async fn remember_policy(&self, digest: Sha256, text: &str) -> Result<()> {
        let mut known = self.policies.lock().await;
        if !known.contains(&digest) {
            let body = Bytes::copy_from_slice(text.as_bytes());
            let put = self.store.put(&Key::policy(&digest), body, PutMode::Create).await;
            put.map_err(|error| Error::Log(Arc::new(error)))?;
            known.insert(digest);
        }
        Ok(())
    }
}
