//! Facts for tests, and a store in memory whose writes can be made to fail.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use http_body_util::{BodyExt as _, Full};
use time::OffsetDateTime;
use tokio::sync::Notify;

use super::{NewRecord, Record, What};
use crate::{
    hub::{BlobId, Repo, RepoKind, Sha256},
    store::{
        Copied, CopyFacts, Error, ErrorKind, Key, Object, ObjectBody, ObjectMeta, Prefix, Probe, PutMode, PutOutcome,
        Result, Stage, Store,
    },
};

/// A fact about file number `n`, whose content is [`content`].
pub(crate) fn fact(n: usize) -> NewRecord {
    let body = content(n);
    let sha256 = Sha256::of(&body);
    NewRecord {
        what: What::Stored,
        repo: Repo::new(RepoKind::Model, "org/name").unwrap(),
        upstream_id: Some("621ffdc036468d709f17434d".into()),
        revision: Some("main".parse().unwrap()),
        commit: "c".repeat(40).parse().unwrap(),
        path: format!("dir/file-{n}.bin").parse().unwrap(),
        size: body.len() as u64,
        sha256,
        etag: BlobId::Sha256(sha256),
        licence: Some("apache-2.0".into()),
        licence_from: Some("readme".into()),
        rule: Some("rule".into()),
        approved_by: Some("legal@example.com".into()),
        ticket: Some("SEC-123".into()),
        policy_sha256: None,
        asked_by: Some("client".into()),
        origin: "huggingface.co".into(),
    }
}

/// The content of file number `n`.
pub(crate) fn content(n: usize) -> Vec<u8> {
    format!("content of file {n}").into_bytes()
}

/// What becomes of a write.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// It is refused and nothing is written.
    Fails(ErrorKind),
    /// It is written, but the writer is told that it failed, as by a time-out.
    LandsAndFails(ErrorKind),
    /// It is written once it is let go.
    Waits(Arc<Notify>),
}

/// Takes the first that is meant for this key.
fn next_for<T>(waiting: &mut VecDeque<(&'static str, T)>, key: &Key) -> Option<T> {
    let place = waiting.iter().position(|(prefix, _)| key.as_str().starts_with(prefix))?;
    waiting.remove(place).map(|(_, next)| next)
}

/// A store in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    objects: Mutex<BTreeMap<String, (Bytes, SystemTime)>>,
    /// The fates of the next writes whose keys begin so, used up one by one.
    fates: Mutex<VecDeque<(&'static str, Fate)>>,
    /// Keys that listings leave out, as they may what is made while they run.
    unlisted: Mutex<Vec<String>>,
    /// What holds the answers of the next reads whose keys begin so.
    holds: Mutex<VecDeque<(&'static str, Arc<Notify>)>>,
}

impl MemoryStore {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Decides over the next write below `prefix` that is not decided yet.
    pub(crate) fn next_write(&self, prefix: &'static str, fate: Fate) {
        self.fates.lock().unwrap().push_back((prefix, fate));
    }

    /// Holds the next write below `prefix` until the answer is notified.
    pub(crate) fn hold_write(&self, prefix: &'static str) -> Arc<Notify> {
        let hold = Arc::new(Notify::new());
        self.next_write(prefix, Fate::Waits(hold.clone()));
        hold
    }

    /// Holds what the next read below `prefix` has read until the answer is notified.
    pub(crate) fn hold_read(&self, prefix: &'static str) -> Arc<Notify> {
        let hold = Arc::new(Notify::new());
        self.holds.lock().unwrap().push_back((prefix, hold.clone()));
        hold
    }

    /// Leaves a key out of listings.
    pub(crate) fn leave_out(&self, key: &str) {
        self.unlisted.lock().unwrap().push(key.into());
    }

    /// Waits until there are so many objects below a prefix.
    pub(crate) async fn until(&self, prefix: &str, count: usize) {
        while self.keys(prefix).len() != count {
            tokio::task::yield_now().await;
        }
    }

    /// All keys below a prefix.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        self.objects.lock().unwrap().keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    /// An object's bytes.
    pub(crate) fn object(&self, key: &str) -> Bytes {
        self.objects.lock().unwrap()[key].0.clone()
    }

    /// Puts an object, whatever fates there are.
    pub(crate) fn plant(&self, key: &str, body: impl Into<Bytes>) {
        self.objects.lock().unwrap().insert(key.into(), (body.into(), SystemTime::now()));
    }

    /// Puts the only record of a log of another process, `later` seconds from now.
    pub(crate) fn plant_record(&self, writer: &str, later: i64, fact: NewRecord) {
        let time = OffsetDateTime::now_utc() + time::Duration::seconds(later);
        let record = Record { schema: 1, time, writer: writer.parse().unwrap(), seq: 1, prev: Sha256::ZERO, fact };
        self.plant(Key::log(writer, 1).as_str(), serde_json::to_vec(&record).unwrap());
    }

    /// Removes an object.
    pub(crate) fn uproot(&self, key: &str) {
        self.objects.lock().unwrap().remove(key).expect("the object is there");
    }

    fn failure(kind: ErrorKind, key: &Key) -> Error {
        Error { kind, key: Some(key.clone()), source: None }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn head(&self, key: &Key) -> Result<Option<ObjectMeta>> {
        let objects = self.objects.lock().unwrap();
        Ok(objects.get(key.as_str()).map(|(body, modified)| ObjectMeta {
            key: key.clone(),
            size: body.len() as u64,
            modified: *modified,
        }))
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Option<Bytes>> {
        let body = self.objects.lock().unwrap().get(key.as_str()).map(|(body, _)| body.clone());
        let hold = next_for(&mut self.holds.lock().unwrap(), key);
        if let Some(hold) = hold {
            hold.notified().await;
        }
        match body {
            Some(body) if body.len() as u64 > limit => Err(Self::failure(ErrorKind::TooLarge(limit), key)),
            body => Ok(body),
        }
    }

    async fn open(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        assert!(range.is_none(), "the manifest reads blobs whole");
        let body = self.objects.lock().unwrap().get(key.as_str()).map(|(body, _)| body.clone());
        Ok(body.map(|body| Object {
            size: body.len() as u64,
            body: ObjectBody::Stream(Full::new(body).map_err(|never| match never {}).boxed_unsync()),
        }))
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<PutOutcome> {
        tokio::task::yield_now().await;
        let fate = next_for(&mut self.fates.lock().unwrap(), key);
        match &fate {
            Some(Fate::Fails(kind)) => return Err(Self::failure(kind.clone(), key)),
            Some(Fate::Waits(hold)) => hold.notified().await,
            _ => {}
        }
        {
            let mut objects = self.objects.lock().unwrap();
            if mode == PutMode::Create && objects.contains_key(key.as_str()) {
                return Ok(PutOutcome::Existed);
            }
            objects.insert(key.as_str().into(), (body, SystemTime::now()));
        }
        match fate {
            Some(Fate::LandsAndFails(kind)) => Err(Self::failure(kind, key)),
            _ => Ok(PutOutcome::Written),
        }
    }

    async fn stage(&self, _: u64, _: Option<Sha256>) -> Result<Box<dyn Stage>> {
        unreachable!("the manifest stages nothing")
    }

    fn largest_stage(&self) -> Option<(u64, &'static str)> {
        None
    }

    async fn copy(&self, blob: &Sha256, to: &Key, _facts: &CopyFacts) -> Result<Copied> {
        let body = self.objects.lock().unwrap().get(Key::blob(blob).as_str()).map(|(body, _)| body.clone());
        let body = body.ok_or_else(|| Self::failure(ErrorKind::Other("no such blob".into()), to))?;
        self.put(to, body, PutMode::Overwrite).await.map(|_| Copied::Made)
    }

    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ObjectMeta>> {
        let (objects, unlisted) = (self.objects.lock().unwrap(), self.unlisted.lock().unwrap());
        let found: Vec<_> = objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix.as_str()) && !unlisted.contains(key))
            .map(|(key, (body, modified))| {
                Ok(ObjectMeta { key: Key::listed(key.clone()), size: body.len() as u64, modified: *modified })
            })
            .collect();
        stream::iter(found).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.objects.lock().unwrap().remove(key.as_str());
        Ok(())
    }

    async fn probe(&self) -> Result<Probe> {
        Ok(Probe::default())
    }

    async fn sweep(&self, _: bool) -> Result<u64> {
        Ok(0)
    }
}
