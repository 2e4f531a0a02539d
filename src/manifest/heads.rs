//! Where each chain ends: one small object for each writer, which it alone overwrites.
//!
//! A chain vouches for every record but its last, and not for its own length. Its head does: the number and
//! the digest of the last line. It is written behind the log, at most once a second, and nobody waits for
//! it; a process that is killed leaves one that lags, which is no fault. Readers take the heads before the
//! log, so that a log that grows meanwhile is never shorter than its head.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future::ready};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Error, LogFault, Result, WriterId, log::of_one_object, retry::retried};
use crate::{
    hub::Sha256,
    store::{self, Key, Prefix, PutMode, Store},
};

/// The version of a head's form.
const SCHEMA: u32 = 1;
/// What is waited between two writes of a head.
const PACE: Duration = Duration::from_secs(1);
/// A head is some 200 bytes.
const LIMIT_BYTES: u64 = 64 << 10;
/// How many writers' heads a new chain looks at.
const LAST_WRITERS: usize = 16;
/// Heads that are read at a time.
const READS_AT_ONCE: usize = 8;

/// The end of one chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    schema: u32,
    writer: WriterId,
    /// The number of the last record.
    pub(super) seq: u64,
    /// The digest of its line.
    pub(super) sha256: Sha256,
    /// When it was written, by its writer's clock.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    time: Option<OffsetDateTime>,
}

/// The heads of all writers.
pub(super) type Heads = HashMap<WriterId, Head>;

/// What a chain tells its head. When it is dropped, the head is written for the last time.
pub(super) struct Teller {
    writer: WriterId,
    last: watch::Sender<Option<Head>>,
    _ended: DropGuard,
}

impl Teller {
    /// The teller, and the work that writes what it tells.
    pub(super) fn new(store: Arc<dyn Store>, writer: WriterId) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let ((last, told), ended) = (watch::channel(None), CancellationToken::new());
        let key = Key::head(writer.as_str());
        let keeping = keep(store, key, told, ended.clone());
        (Self { writer, last, _ended: ended.drop_guard() }, keeping)
    }

    /// Says what the last record is, once it is durable. Never waits.
    pub(super) fn tell(&self, seq: u64, sha256: Sha256, time: OffsetDateTime) {
        let (writer, time) = (self.writer.clone(), Some(time));
        self.last.send_replace(Some(Head { schema: SCHEMA, writer, seq, sha256, time }));
    }
}

async fn keep(store: Arc<dyn Store>, key: Key, mut told: watch::Receiver<Option<Head>>, ended: CancellationToken) {
    // What was told last is still seen when the teller is gone.
    while told.changed().await.is_ok() {
        let body = told.borrow_and_update().as_ref().map(serde_json::to_vec);
        let Some(Ok(body)) = body else { continue };
        let body = Bytes::from(body);
        if let Err(error) = retried(|| store.put(&key, body.clone(), PutMode::Overwrite)).await {
            tracing::warn!(%key, %error, "the head of the manifest's log not written; the next record writes it anew");
        }
        let _ = tokio::time::timeout(PACE, ended.cancelled()).await;
    }
}

/// The time of the newest record that the heads of the last writers tell of: those whose heads the store wrote last.
pub(super) async fn newest_time(store: &dyn Store) -> store::Result<Option<OffsetDateTime>> {
    let mut heads: Vec<_> = store.list(&Prefix::heads()).map_ok(|meta| (meta.modified, meta.key)).try_collect().await?;
    heads.sort_unstable_by(|a, b| b.cmp(a));
    let mut newest = None;
    for (_, key) in heads.into_iter().take(LAST_WRITERS) {
        let body = match store.get(&key, LIMIT_BYTES).await {
            Err(error) if !of_one_object(&error) => return Err(error),
            body => body.ok().flatten(),
        };
        // What can't be read is for `verify` to say.
        let head = body.and_then(|body| parse(&key, &body).ok().flatten());
        newest = newest.max(head.and_then(|head| head.time));
    }
    Ok(newest)
}

/// All heads, and what is wrong with any.
pub(super) async fn read(store: &dyn Store) -> Result<(Heads, Vec<LogFault>)> {
    let read = store
        .list(&Prefix::heads())
        .map_ok(|meta| async move {
            match store.get(&meta.key, LIMIT_BYTES).await {
                Ok(body) => Ok(body.map(|body| (parse(&meta.key, &body), meta.key))),
                Err(error) if of_one_object(&error) => Ok(Some((Err(error.to_string()), meta.key))),
                Err(error) => Err(error),
            }
        })
        .try_buffered(READS_AT_ONCE)
        .try_filter_map(|read| ready(Ok(read)));
    let (mut heads, mut faults) = (Heads::new(), Vec::new());
    let mut read = read.map_err(|error| Error::Read(Arc::new(error))).boxed();
    while let Some((head, key)) = read.try_next().await? {
        match head {
            Ok(Some(head)) => drop(heads.insert(head.writer.clone(), head)),
            // Of a later version, which knows how to check it.
            Ok(None) => {}
            Err(problem) => faults.push(LogFault::Misplaced { key: key.to_string(), problem }),
        }
    }
    Ok((heads, faults))
}

/// The head that stands under `key`; `None` for one of a later version.
fn parse(key: &Key, body: &[u8]) -> std::result::Result<Option<Head>, String> {
    let head: Head = serde_json::from_slice(body).map_err(|problem| format!("not the head of a log: {problem}"))?;
    if head.schema > SCHEMA {
        return Ok(None);
    }
    if Key::head(head.writer.as_str()) != *key {
        return Err(format!("the head of another log, that of {}", head.writer));
    }
    Ok(Some(head))
}
