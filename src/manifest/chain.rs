//! The one writer of this process's log: numbers records, chains them, writes them in batches.
//!
//! A batch is one create-only object named by its first record. Once it has its numbers its bytes never
//! change: when a write fails, the same object is tried again, before anything that comes after it. A write
//! that timed out may have landed, and then the retry is harmless; a new form of it would be a fork, and
//! leaving its numbers out a gap.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use time::OffsetDateTime;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Entry, Error, NewRecord, Record, Result, What, WriterId, index::Index, record::SCHEMA};
use crate::{
    hub::Sha256,
    store::{self, ErrorKind, Key, PutMode, PutOutcome, Store},
};

/// How long the first record of a batch waits for others.
const BATCH_WAIT: Duration = Duration::from_millis(4);
/// A batch ends with the record that fills it.
const BATCH_RECORDS: usize = 512;
/// The largest log object that is read back. The longest record with all fields that policy and the Hub
/// bound is some 20 KiB.
pub(super) const BATCH_LIMIT_BYTES: u64 = 64 << 20;
/// What is waited before each further attempt to write a batch or an index entry.
const RETRY_AFTER: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1)];
/// Batches whose index entries are being written while the log goes on.
const INDEXING_BATCHES: usize = 4;
/// Index entries of a batch that are written at a time.
const INDEXING_ENTRIES: usize = 16;

/// A record on its way, and who waits for it.
pub(super) struct Waiting {
    pub(super) fact: NewRecord,
    pub(super) done: oneshot::Sender<Result<()>>,
}

/// Records that have their numbers: one object, whose bytes are final.
struct Batch {
    key: Key,
    body: Bytes,
    waiting: Vec<Waiting>,
}

pub(super) struct Chain {
    writer: WriterId,
    store: Arc<dyn Store>,
    index: Index,
    tracker: TaskTracker,
    indexing: Arc<Semaphore>,
    /// The number of the next record.
    seq: u64,
    /// The digest of the last line.
    prev: Sha256,
    /// The time of the last record; the clock may be set back, the chain's time does not follow.
    time: OffsetDateTime,
    /// A batch that could not be written. Its waiters know; it goes out before any other.
    stuck: Option<Batch>,
}

impl Chain {
    pub(super) fn new(writer: WriterId, store: Arc<dyn Store>, index: Index, tracker: TaskTracker) -> Self {
        Self {
            writer,
            store,
            index,
            tracker,
            indexing: Arc::new(Semaphore::new(INDEXING_BATCHES)),
            seq: 1,
            prev: Sha256::ZERO,
            time: OffsetDateTime::UNIX_EPOCH,
            stuck: None,
        }
    }

    /// Writes what comes until `shutdown`, then what is still queued.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Waiting>, shutdown: CancellationToken) {
        loop {
            let mut waiting = Vec::new();
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if !queue.is_closed() => {
                    queue.close();
                    continue;
                }
                count = queue.recv_many(&mut waiting, BATCH_RECORDS) => if count == 0 { return },
            }
            let deadline = Instant::now() + BATCH_WAIT;
            while waiting.len() < BATCH_RECORDS {
                let room = BATCH_RECORDS - waiting.len();
                match tokio::time::timeout_at(deadline, queue.recv_many(&mut waiting, room)).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
            self.append(waiting).await;
        }
    }

    async fn append(&mut self, waiting: Vec<Waiting>) {
        if let Some(stuck) = self.stuck.take() {
            if let Err(error) = self.write(&stuck).await {
                self.stuck = Some(stuck);
                return tell(waiting, &error);
            }
            tracing::info!(key = %stuck.key, "a batch of manifest records that could not be written is in the log now");
            self.complete(stuck.waiting, true).await;
        }
        let mut batch = self.number(waiting);
        if batch.waiting.is_empty() {
            return;
        }
        match self.write(&batch).await {
            Ok(()) => self.complete(batch.waiting, false).await,
            Err(error) => {
                tracing::error!(key = %batch.key, records = batch.waiting.len(), %error, "manifest log not written");
                // What remains of a waiter is its fact; nobody listens on the new channel.
                let facts = batch.waiting.iter().map(|w| Waiting { fact: w.fact.clone(), done: oneshot::channel().0 });
                let unheard = facts.collect();
                tell(std::mem::replace(&mut batch.waiting, unheard), &error);
                self.stuck = Some(batch);
            }
        }
    }

    /// Gives records their places in the chain. From here on they have to be written before any other.
    fn number(&mut self, waiting: Vec<Waiting>) -> Batch {
        let key = Key::log(self.writer.as_str(), self.seq);
        let now = OffsetDateTime::now_utc();
        let micros = now.replace_nanosecond(now.nanosecond() / 1000 * 1000).unwrap_or(now);
        self.time = self.time.max(micros);
        let mut body = Vec::new();
        let mut numbered = Vec::with_capacity(waiting.len());
        for Waiting { fact, done } in waiting {
            let (writer, time) = (self.writer.clone(), self.time);
            let record = Record { schema: SCHEMA, time, writer, seq: self.seq, prev: self.prev, fact };
            match serde_json::to_vec(&record) {
                Ok(line) => {
                    self.seq += 1;
                    self.prev = Sha256::of(&line);
                    body.extend_from_slice(&line);
                    body.push(b'\n');
                    numbered.push(Waiting { fact: record.fact, done });
                }
                Err(error) => drop(done.send(Err(Arc::new(error).into()))),
            }
        }
        Batch { key, body: body.into(), waiting: numbered }
    }

    /// Makes a batch durable, or finds that it is already.
    async fn write(&self, batch: &Batch) -> Result<()> {
        let log = |error| Error::Log(Arc::new(error));
        let put = retried(|| self.store.put(&batch.key, batch.body.clone(), PutMode::Create)).await.map_err(log)?;
        if put == PutOutcome::Existed {
            let there = retried(|| self.store.get(&batch.key, BATCH_LIMIT_BYTES)).await.map_err(log)?;
            if there.as_ref() != Some(&batch.body) {
                return Err(Error::Taken(batch.key.clone()));
            }
        }
        Ok(())
    }

    /// Brings the index up to what the log now says, beside the log's further work, and tells the waiters.
    async fn complete(&self, waiting: Vec<Waiting>, late: bool) {
        // Closed only if somebody closes it, and nobody does.
        let permit = self.indexing.clone().acquire_owned().await.ok();
        let (store, index) = (self.store.clone(), self.index.clone());
        self.tracker.spawn(async move {
            let _permit = permit;
            stream::iter(waiting)
                .for_each_concurrent(INDEXING_ENTRIES, |Waiting { fact, done }| {
                    let (store, index) = (&store, &index);
                    async move {
                        let end = follow(&**store, index, &fact, late).await;
                        if let Err(error) = &end {
                            tracing::error!(repo = %fact.repo, commit = %fact.commit, path = %fact.path, %error,
                                "manifest index not written; the next fill or `hubgate verify --repair` completes it");
                        }
                        // Who no longer waits needs no answer.
                        let _ = done.send(end);
                    }
                })
                .await;
        });
    }
}

/// What a record means for the index.
async fn follow(store: &dyn Store, index: &Index, fact: &NewRecord, late: bool) -> Result<()> {
    match &fact.what {
        What::Stored => {
            // Between the failure and now, somebody may have removed a blob that no entry named.
            if late && !blob_is_there(store, fact).await? {
                return Ok(());
            }
            let entry = Entry::of(fact);
            retried(|| index.write(&entry)).await
        }
        What::Evicted | What::Withdrawn => retried(|| index.remove(&fact.repo, fact.commit, &fact.path)).await,
        What::Other(_) => Ok(()),
    }
}

async fn blob_is_there(store: &dyn Store, fact: &NewRecord) -> Result<bool> {
    let head = store.head(&Key::blob(&fact.sha256)).await.map_err(|error| Error::Index(Arc::new(error)))?;
    Ok(head.is_some_and(|meta| meta.size == fact.size))
}

fn tell(waiting: Vec<Waiting>, error: &Error) {
    for one in waiting {
        let _ = one.done.send(Err(error.clone()));
    }
}

/// Whether trying again may help.
trait Retry {
    fn may_pass(&self) -> bool;
}

impl Retry for store::Error {
    fn may_pass(&self) -> bool {
        use ErrorKind::{Busy, Corrupt, Full, Misconfigured, Other, PermissionDenied, TooLarge, Unreachable};
        match self.kind {
            Unreachable | Busy | Corrupt(_) | Other(_) => true,
            Full(_) | Misconfigured(_) | PermissionDenied | TooLarge(_) => false,
        }
    }
}

impl Retry for Error {
    fn may_pass(&self) -> bool {
        match self {
            Self::Log(cause) | Self::Index(cause) | Self::Read(cause) => cause.may_pass(),
            Self::Taken(_) | Self::Json(_) | Self::Output(_) | Self::Closed => false,
        }
    }
}

async fn retried<T, E: Retry, F: Future<Output = std::result::Result<T, E>>>(
    mut attempt: impl FnMut() -> F,
) -> std::result::Result<T, E> {
    for pause in RETRY_AFTER {
        match attempt().await {
            Err(error) if error.may_pass() => tokio::time::sleep(pause).await,
            end => return end,
        }
    }
    attempt().await
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{
        super::{
            Manifest,
            testing::{Fate, MemoryStore, content, fact},
        },
        *,
    };

    /// A manifest, and what ends it.
    struct Running {
        store: Arc<MemoryStore>,
        manifest: Manifest,
        tracker: TaskTracker,
        shutdown: CancellationToken,
    }

    fn start() -> Running {
        let (store, tracker, shutdown) = (MemoryStore::new(), TaskTracker::new(), CancellationToken::new());
        let manifest = Manifest::start(store.clone(), WriterId::new(), &tracker, shutdown.clone());
        Running { store, manifest, tracker, shutdown }
    }

    impl Running {
        async fn stop(self) -> Arc<MemoryStore> {
            self.shutdown.cancel();
            self.tracker.close();
            self.tracker.wait().await;
            self.store
        }
    }

    /// All lines of the only chain, in order, checked to be one.
    fn chain(store: &Arc<MemoryStore>) -> Vec<Record> {
        let (mut prev, mut seq, mut records) = (Sha256::ZERO, 1, Vec::new());
        for key in store.keys("manifest/log/") {
            let body = store.object(&key);
            assert_eq!(key, Key::log(key.split('/').nth(2).unwrap(), seq).as_str());
            for line in std::str::from_utf8(&body).unwrap().lines() {
                let record: Record = serde_json::from_str(line).unwrap();
                assert_eq!((record.seq, record.prev), (seq, prev));
                (prev, seq) = (Sha256::of(line.as_bytes()), seq + 1);
                records.push(record);
            }
        }
        records
    }

    #[tokio::test]
    async fn a_hundred_concurrent_records_make_one_chain_in_few_objects() {
        let running = start();
        let tasks: Vec<_> = (0..100)
            .map(|n| {
                let manifest = running.manifest.clone();
                tokio::spawn(async move { manifest.record_stored(fact(n)).await.unwrap() })
            })
            .collect();
        for task in tasks {
            let entry = task.await.unwrap();
            // Whoever has the answer finds log and index in the store.
            assert_eq!(running.store.object(entry.key().as_str()), entry.to_bytes().unwrap());
        }
        let store = running.stop().await;
        let records = chain(&store);
        assert_eq!(records.len(), 100);
        assert!(records.is_sorted_by_key(|record| record.time));
        let paths: HashSet<_> = records.into_iter().map(|record| record.fact.path).collect();
        assert_eq!(paths.len(), 100);
        assert!(store.keys("manifest/log/").len() < 50, "records were not batched");
    }

    #[tokio::test]
    async fn a_passing_fault_is_not_seen_by_the_caller() {
        let running = start();
        running.store.next_write("manifest/log/", Fate::Fails(ErrorKind::Busy));
        running.store.next_write("manifest/index/", Fate::Fails(ErrorKind::Unreachable));
        running.manifest.record_stored(fact(1)).await.unwrap();
        assert_eq!(chain(&running.stop().await).len(), 1);
    }

    #[tokio::test]
    async fn a_write_that_landed_though_it_timed_out_is_not_written_twice() {
        let running = start();
        running.store.next_write("manifest/log/", Fate::LandsAndFails(ErrorKind::Unreachable));
        running.manifest.record_stored(fact(1)).await.unwrap();
        running.manifest.record_stored(fact(2)).await.unwrap();
        assert_eq!(chain(&running.stop().await).len(), 2);
    }

    #[tokio::test]
    async fn a_batch_that_fails_for_good_tells_its_waiters_and_leaves_neither_gap_nor_fork() {
        for fate in [Fate::Fails, Fate::LandsAndFails] {
            let running = start();
            running.manifest.record_stored(fact(1)).await.unwrap();
            running.store.plant(Key::blob(&fact(2).sha256).as_str(), content(2));
            running.store.next_write("manifest/log/", fate(ErrorKind::PermissionDenied));
            assert!(matches!(running.manifest.record_stored(fact(2)).await, Err(Error::Log(_))));
            assert_eq!(running.manifest.entry(&fact(2).repo, fact(2).commit, &fact(2).path).await.unwrap(), None);

            // While the store still refuses, the next one fails too and takes no number.
            running.store.next_write("manifest/log/", Fate::Fails(ErrorKind::PermissionDenied));
            assert!(matches!(running.manifest.record_stored(fact(3)).await, Err(Error::Log(_))));

            running.manifest.record_stored(fact(4)).await.unwrap();
            let store = running.stop().await;
            let paths: Vec<_> = chain(&store).into_iter().map(|record| record.fact.path).collect();
            assert_eq!(paths, [1, 2, 4].map(|n| fact(n).path));
            // The record that came late has its index entry too, since its blob is there.
            assert_eq!(store.keys("manifest/index/").len(), 3);
        }
    }

    #[tokio::test]
    async fn a_late_record_whose_blob_is_gone_gets_no_index_entry() {
        let running = start();
        running.store.next_write("manifest/log/", Fate::Fails(ErrorKind::PermissionDenied));
        assert!(running.manifest.record_stored(fact(1)).await.is_err());
        running.manifest.record_stored(fact(2)).await.unwrap();
        let store = running.stop().await;
        assert_eq!(chain(&store).len(), 2);
        assert_eq!(store.keys("manifest/index/"), [Entry::of(&fact(2)).key().as_str()]);
    }

    #[tokio::test]
    async fn an_index_that_fails_is_an_error_with_the_record_in_the_log() {
        let running = start();
        running.store.next_write("manifest/index/", Fate::Fails(ErrorKind::Full("store.path".into())));
        assert!(matches!(running.manifest.record_stored(fact(1)).await, Err(Error::Index(_))));
        let (repo, commit, path) = (fact(1).repo, fact(1).commit, fact(1).path);
        assert_eq!(running.manifest.entry(&repo, commit, &path).await.unwrap(), None);
        // The next fill of the file completes it.
        running.manifest.record_stored(fact(1)).await.unwrap();
        assert!(running.manifest.entry(&repo, commit, &path).await.unwrap().is_some());
        assert_eq!(chain(&running.stop().await).len(), 2);
    }

    #[tokio::test]
    async fn another_ones_records_in_this_chain_are_an_error_and_stay() {
        let running = start();
        let key = Key::log(running.manifest.writer().as_str(), 1);
        running.store.plant(key.as_str(), "not ours\n");
        assert!(matches!(running.manifest.record_stored(fact(1)).await, Err(Error::Taken(at)) if at == key));
        assert_eq!(running.stop().await.object(key.as_str()), "not ours\n");
    }

    #[tokio::test]
    async fn what_was_handed_in_before_the_stop_is_written_and_later_records_are_refused() {
        let running = start();
        let mut waiting: Vec<_> = Vec::new();
        for n in 0..20 {
            let manifest = running.manifest.clone();
            let mut record = Box::pin(async move { manifest.record_stored(fact(n)).await });
            // Polled once, it stands in the queue.
            assert!(futures_util::poll!(record.as_mut()).is_pending());
            waiting.push(record);
        }
        running.shutdown.cancel();
        for record in waiting {
            record.await.unwrap();
        }
        assert!(matches!(running.manifest.record_stored(fact(99)).await, Err(Error::Closed)));
        assert_eq!(chain(&running.stop().await).len(), 20);
    }

    #[tokio::test]
    async fn a_caller_that_leaves_does_not_stop_its_record() {
        let running = start();
        let manifest = running.manifest.clone();
        let mut record = Box::pin(async move { manifest.record_stored(fact(1)).await });
        assert!(futures_util::poll!(record.as_mut()).is_pending());
        drop(record);
        let store = running.stop().await;
        assert_eq!((chain(&store).len(), store.keys("manifest/index/").len()), (1, 1));
    }

    #[tokio::test]
    async fn an_evicted_file_is_in_the_log_and_no_longer_in_the_index() {
        let running = start();
        running.manifest.record_stored(fact(1)).await.unwrap();
        running.manifest.record(NewRecord { what: What::Evicted, ..fact(1) }).await.unwrap();
        assert_eq!(running.manifest.entry(&fact(1).repo, fact(1).commit, &fact(1).path).await.unwrap(), None);
        let store = running.stop().await;
        assert_eq!(chain(&store)[1].fact.what, What::Evicted);
        assert!(store.keys("manifest/index/").is_empty());
    }
}
