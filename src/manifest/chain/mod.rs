//! The one writer of this process's log: numbers records, chains them, writes them in batches.
//!
//! A batch is one create-only object named by its first record. Once it has its numbers its bytes never
//! change: when a write fails, the same object is tried again, before anything that comes after it. A write
//! that timed out may have landed, and then the retry is harmless; a new form of it would be a fork, and
//! leaving its numbers out a gap.

mod follow;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Error, NewRecord, Record, Result, WriterId,
    heads::{self, Teller},
    index::Index,
    record::SCHEMA,
    retry::retried,
};
use crate::{
    hub::Sha256,
    store::{Key, PutMode, PutOutcome, Store},
};
use follow::Follower;

/// How long the first record of a batch waits for others.
const BATCH_WAIT: Duration = Duration::from_millis(4);
/// A batch ends with the record that fills it.
const BATCH_RECORDS: usize = 512;
/// The largest log object that is read back. The longest record with all fields that policy and the Hub
/// bound is some 20 KiB.
pub(super) const BATCH_LIMIT_BYTES: u64 = 64 << 20;

/// How far other chains may be ahead of the clock without a word: what the clocks of gateways may differ by.
const WARNED_AHEAD: time::Duration = time::Duration::seconds(5);
/// Times further ahead are not followed: they would make all times to come useless to an auditor.
const MOST_AHEAD: time::Duration = time::Duration::hours(2);

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
    /// The number, the digest and the time of the last one.
    last: (u64, Sha256, OffsetDateTime),
}

pub(super) struct Chain {
    writer: WriterId,
    store: Arc<dyn Store>,
    follower: Follower,
    head: Teller,
    /// The number of the next record.
    seq: u64,
    /// The digest of the last line.
    prev: Sha256,
    /// The time of the last record; the clock may be set back, the chain's time does not follow. Before the first, that
    /// of the newest record of other chains, once it is known.
    time: Option<OffsetDateTime>,
    /// A batch that could not be written. Its waiters know; it goes out before any other.
    stuck: Option<Batch>,
}

impl Chain {
    pub(super) fn new(writer: WriterId, store: Arc<dyn Store>, index: Index, tracker: TaskTracker) -> Self {
        let (head, keeping) = Teller::new(store.clone(), writer.clone());
        tracker.spawn(keeping);
        Self {
            writer,
            follower: Follower::new(store.clone(), index, tracker),
            store,
            head,
            seq: 1,
            prev: Sha256::ZERO,
            time: None,
            stuck: None,
        }
    }

    /// Writes what comes until `shutdown`, then what is still queued or stuck.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Waiting>, shutdown: CancellationToken) {
        loop {
            let mut waiting = Vec::new();
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if !queue.is_closed() => {
                    queue.close();
                    continue;
                }
                count = queue.recv_many(&mut waiting, BATCH_RECORDS) => if count == 0 { break },
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
        if let Err(error) = self.write_stuck().await {
            tracing::error!(%error, "a batch of manifest records is lost: it could not be written up to the stop");
        }
    }

    async fn append(&mut self, waiting: Vec<Waiting>) {
        if let Err(error) = self.write_stuck().await {
            return tell(waiting, &error);
        }
        if self.time.is_none() {
            self.time = self.newest_of_others().await;
        }
        let mut batch = self.number(waiting);
        if batch.waiting.is_empty() {
            return;
        }
        match self.write(&batch).await {
            Ok(()) => self.follower.follow(batch.waiting, false).await,
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

    /// Writes the batch that could not be written before, if there is one.
    async fn write_stuck(&mut self) -> Result<()> {
        let Some(stuck) = self.stuck.take() else { return Ok(()) };
        if let Err(error) = self.write(&stuck).await {
            self.stuck = Some(stuck);
            return Err(error);
        }
        tracing::info!(key = %stuck.key, "a batch of manifest records that could not be written is in the log now");
        self.follower.follow(stuck.waiting, true).await;
        Ok(())
    }

    /// A time right behind the newest record of others. This machine's clock may have been set back since they wrote, and
    /// what is recorded now is newer all the same.
    async fn newest_of_others(&self) -> Option<OffsetDateTime> {
        let newest = match heads::newest_time(&*self.store).await {
            Ok(newest) => newest?,
            Err(error) => {
                tracing::warn!(%error, "the heads of the manifest's log not read: if the clock was set back since \
                    others wrote, what is recorded now may count as older");
                return None;
            }
        };
        let ahead = newest - OffsetDateTime::now_utc();
        if ahead > MOST_AHEAD {
            tracing::error!(%newest, "the manifest has a record from the future, by more than two hours, which counts as the \
                newest on its file until then; is this machine's clock right, and was another's wrong?");
            return None;
        }
        if ahead > WARNED_AHEAD {
            tracing::warn!(%newest, "the manifest has a record from the future; what is recorded until then gets that \
                time; is this machine's clock right, and was another's wrong?");
        }
        Some(newest + time::Duration::MICROSECOND)
    }

    /// Gives records their places in the chain. From here on they have to be written before any other.
    fn number(&mut self, waiting: Vec<Waiting>) -> Batch {
        let key = Key::log(self.writer.as_str(), self.seq);
        let now = OffsetDateTime::now_utc();
        let micros = now.replace_nanosecond(now.nanosecond() / 1000 * 1000).unwrap_or(now);
        let time = self.time.map_or(micros, |last| last.max(micros));
        self.time = Some(time);
        let mut body = Vec::new();
        let mut numbered = Vec::with_capacity(waiting.len());
        for Waiting { fact, done } in waiting {
            let writer = self.writer.clone();
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
        Batch { key, body: body.into(), waiting: numbered, last: (self.seq - 1, self.prev, time) }
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
        let (seq, sha256, time) = batch.last;
        self.head.tell(seq, sha256, time);
        Ok(())
    }
}

fn tell(waiting: Vec<Waiting>, error: &Error) {
    for one in waiting {
        let _ = one.done.send(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests;
