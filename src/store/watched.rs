//! A store that remembers how it is doing, for readyz and metrics. All reads and writes go through here.

use std::{
    any::Any,
    fmt,
    fs::File,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};

use super::{
    Copied, CopyFacts, ErrorKind, Key, Object, ObjectMeta, Prefix, Probe, PutMode, PutOutcome, Result, Stage, Store,
};
use crate::{hub::Sha256, telemetry::Family};

/// How a store is doing.
pub struct StoreHealth {
    /// Failures, by whether it was a read or a write and by kind.
    pub errors: Family<2>,
    /// Why the last small object could not be written, if it couldn't.
    object: Mutex<Option<&'static str>>,
    /// The same of the last blob. Apart, since a full disk has room for small objects.
    blob: Mutex<Option<&'static str>>,
}

/// What an operation is part of.
#[derive(Debug, Clone, Copy)]
enum Doing {
    Read,
    WriteObject,
    WriteBlob,
}

impl StoreHealth {
    /// Why the store takes nothing new, in a few words without names; `None` once it does again.
    pub fn refuses_writes(&self) -> Option<&'static str> {
        let last = |slot: &Mutex<_>| *slot.lock().unwrap_or_else(PoisonError::into_inner);
        last(&self.blob).or_else(|| last(&self.object))
    }

    fn note<T>(&self, doing: Doing, outcome: &Result<T>) {
        let failure = outcome.as_ref().err().map(|error| word(&error.kind));
        if let Some(kind) = failure {
            let operation = if matches!(doing, Doing::Read) { "read" } else { "write" };
            self.errors.count([operation, kind]);
        }
        let slot = match doing {
            Doing::Read => return,
            Doing::WriteObject => &self.object,
            Doing::WriteBlob => &self.blob,
        };
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Notes a failure; that a part of the work went well says nothing yet.
    fn note_failure<T>(&self, doing: Doing, outcome: &Result<T>) {
        if outcome.is_err() {
            self.note(doing, outcome);
        }
    }
}

fn word(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Unreachable => "unreachable",
        ErrorKind::Busy => "busy",
        ErrorKind::PermissionDenied => "permission denied",
        ErrorKind::Full(_) => "no room",
        ErrorKind::TooLarge(_) => "too large",
        ErrorKind::Misconfigured(_) => "set up wrongly",
        ErrorKind::Corrupt(_) => "corrupt",
        ErrorKind::Other(_) => "other",
    }
}

impl fmt::Debug for StoreHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreHealth").field("refuses_writes", &self.refuses_writes()).finish_non_exhaustive()
    }
}

/// The same store, and how it is doing.
pub fn watched(store: Arc<dyn Store>) -> (Arc<dyn Store>, Arc<StoreHealth>) {
    let errors = Family::new(["operation", "kind"]);
    let health = Arc::new(StoreHealth { errors, object: Mutex::default(), blob: Mutex::default() });
    (Arc::new(Watched { store, health: health.clone() }), health)
}

#[derive(Debug)]
struct Watched {
    store: Arc<dyn Store>,
    health: Arc<StoreHealth>,
}

impl Watched {
    fn noted<T>(&self, doing: Doing, outcome: Result<T>) -> Result<T> {
        self.health.note(doing, &outcome);
        outcome
    }
}

#[async_trait]
impl Store for Watched {
    async fn head(&self, key: &Key) -> Result<Option<ObjectMeta>> {
        self.noted(Doing::Read, self.store.head(key).await)
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Option<Bytes>> {
        self.noted(Doing::Read, self.store.get(key, limit).await)
    }

    async fn open(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        self.noted(Doing::Read, self.store.open(key, range).await)
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<PutOutcome> {
        self.noted(Doing::WriteObject, self.store.put(key, body, mode).await)
    }

    async fn stage(&self, size: u64, sha256: Option<Sha256>) -> Result<Box<dyn Stage>> {
        let staged = self.store.stage(size, sha256).await;
        self.health.note_failure(Doing::WriteBlob, &staged);
        let stage = staged?;
        Ok(Box::new(WatchedStage { stage, health: self.health.clone() }))
    }

    async fn copy(&self, blob: &Sha256, to: &Key, facts: &CopyFacts) -> Result<Copied> {
        self.noted(Doing::WriteObject, self.store.copy(blob, to, facts).await)
    }

    fn largest_stage(&self) -> Option<(u64, &'static str)> {
        self.store.largest_stage()
    }

    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ObjectMeta>> {
        self.store.list(prefix).inspect(|item| self.health.note(Doing::Read, item)).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.noted(Doing::WriteObject, self.store.delete(key).await)
    }

    async fn probe(&self) -> Result<Probe> {
        self.store.probe().await
    }

    async fn take_alone(&self) -> Result<()> {
        self.store.take_alone().await
    }

    async fn sweep(&self, apply: bool) -> Result<u64> {
        self.store.sweep(apply).await
    }
}

struct WatchedStage {
    stage: Box<dyn Stage>,
    health: Arc<StoreHealth>,
}

#[async_trait]
impl Stage for WatchedStage {
    fn file(&self) -> Arc<File> {
        self.stage.file()
    }

    fn room(&self) -> Arc<dyn Any + Send + Sync> {
        self.stage.room()
    }

    async fn advance(&mut self, upto: u64) -> Result<u64> {
        let taken = self.stage.advance(upto).await;
        self.health.note_failure(Doing::WriteBlob, &taken);
        taken
    }

    async fn commit(self: Box<Self>, sha256: Sha256) -> Result<()> {
        let committed = self.stage.commit(sha256).await;
        self.health.note(Doing::WriteBlob, &committed);
        committed
    }
}
