//! Brings the index to what the log says, behind the log and beside its further work.
//!
//! Changes of different files go side by side. Those of one file go one after the other, in the order of
//! their records: an eviction and a store of it leave what the later record says, in the index and in
//! memory. Between processes there is no such order; there `verify --repair` settles what a race leaves.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt as _, stream};
use tokio::sync::{
    Semaphore,
    oneshot::{self, error::TryRecvError},
};
use tokio_util::task::TaskTracker;

use super::{
    super::{Entry, Error, NewRecord, Result, What, index::Index, retry::retried},
    Waiting,
};
use crate::store::{Key, Store};

/// Batches whose index entries are being written while the log goes on.
const BATCHES: usize = 4;
/// Index entries of a batch that are written at a time.
const ENTRIES: usize = 16;

pub(super) struct Follower {
    store: Arc<dyn Store>,
    index: Index,
    tracker: TaskTracker,
    batches: Arc<Semaphore>,
    /// The last change of each file that is under way; it ends when the sender is dropped.
    under_way: HashMap<Key, oneshot::Receiver<()>>,
}

/// One record, what has to end before it, and what waits for its end.
struct Change {
    waiting: Waiting,
    before: Option<oneshot::Receiver<()>>,
    under_way: oneshot::Sender<()>,
}

impl Follower {
    pub(super) fn new(store: Arc<dyn Store>, index: Index, tracker: TaskTracker) -> Self {
        Self { store, index, tracker, batches: Arc::new(Semaphore::new(BATCHES)), under_way: HashMap::new() }
    }

    /// Follows records that the log has, and tells their waiters. `late` says that they were written after
    /// somebody was told that they could not be.
    pub(super) async fn follow(&mut self, records: Vec<Waiting>, late: bool) {
        // Closed only if somebody closes it, and nobody does.
        let permit = self.batches.clone().acquire_owned().await.ok();
        self.under_way.retain(|_, end| matches!(end.try_recv(), Err(TryRecvError::Empty)));
        // A change waits only for earlier ones, which begin before it, so none waits for ever.
        let changes: Vec<_> = records.into_iter().map(|waiting| self.next(waiting)).collect();
        let (store, index) = (self.store.clone(), self.index.clone());
        self.tracker.spawn(async move {
            let _permit = permit;
            stream::iter(changes).for_each_concurrent(ENTRIES, |change| change.make(&*store, &index, late)).await;
        });
    }

    fn next(&mut self, waiting: Waiting) -> Change {
        let (under_way, end) = oneshot::channel();
        let fact = &waiting.fact;
        let before = self.under_way.insert(Key::index(&fact.repo, fact.commit, &fact.path), end);
        Change { waiting, before, under_way }
    }
}

impl Change {
    async fn make(self, store: &dyn Store, index: &Index, late: bool) {
        let Self { waiting: Waiting { fact, done }, before, under_way } = self;
        if let Some(before) = before {
            // Nothing is ever sent; it ends.
            let _ = before.await;
        }
        let end = made(store, index, &fact, late).await;
        drop(under_way);
        if let Err(error) = &end {
            tracing::error!(repo = %fact.repo, commit = %fact.commit, path = %fact.path, %error,
                "manifest index not written; the next fill or `hubgate verify --repair` completes it");
        }
        // Who no longer waits needs no answer.
        let _ = done.send(end);
    }
}

/// What a record means for the index.
async fn made(store: &dyn Store, index: &Index, fact: &NewRecord, late: bool) -> Result<()> {
    match &fact.what {
        What::Stored => {
            // Between the failure and now, somebody may have removed a blob that no entry named.
            if late && !blob_is_there(store, fact).await? {
                return Ok(());
            }
            let entry = Arc::new(Entry::of(fact));
            retried(|| index.write(&entry)).await?;
            index.remember(entry).await;
            Ok(())
        }
        What::Evicted | What::Withdrawn => retried(|| index.remove(&fact.repo, fact.commit, &fact.path)).await,
        What::Other(_) => Ok(()),
    }
}

async fn blob_is_there(store: &dyn Store, fact: &NewRecord) -> Result<bool> {
    let head = store.head(&Key::blob(&fact.sha256)).await.map_err(|error| Error::Index(Arc::new(error)))?;
    Ok(head.is_some_and(|meta| meta.size == fact.size))
}
