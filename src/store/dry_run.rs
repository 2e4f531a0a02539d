//! A store that is read and never written: what is put into it stays in memory and is forgotten with it. For
//! runs that only say what they would do.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};

use super::{
    Copied, CopyFacts, Error, ErrorKind, Key, Object, ObjectMeta, Prefix, Probe, PutMode, PutOutcome, Result, Stage,
    Store,
};

/// Some store beneath, or none, and what would have been written to it.
#[derive(Debug)]
pub struct DryRun {
    beneath: Option<Arc<dyn Store>>,
    written: Mutex<HashMap<Key, Written>>,
}

/// What this run has done to an object.
#[derive(Debug, Clone)]
enum Written {
    Put(Bytes),
    Deleted,
}

impl DryRun {
    /// Over a store; `None` means one that is still to be made.
    pub fn over(beneath: Option<Arc<dyn Store>>) -> Self {
        Self { beneath, written: Mutex::default() }
    }

    fn written(&self, key: &Key) -> Option<Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn write(&self, key: &Key, written: Written) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), written);
    }
}

#[async_trait]
impl Store for DryRun {
    async fn head(&self, key: &Key) -> Result<Option<ObjectMeta>> {
        match (self.written(key), &self.beneath) {
            (Some(Written::Put(body)), _) => {
                let (size, modified) = (body.len() as u64, SystemTime::now());
                Ok(Some(ObjectMeta { key: key.clone(), size, modified }))
            }
            (None, Some(beneath)) => beneath.head(key).await,
            (Some(Written::Deleted), _) | (None, None) => Ok(None),
        }
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Option<Bytes>> {
        match (self.written(key), &self.beneath) {
            (Some(Written::Put(body)), _) if body.len() as u64 > limit => {
                Err(Error::new(ErrorKind::TooLarge(limit)).on(key))
            }
            (Some(Written::Put(body)), _) => Ok(Some(body)),
            (None, Some(beneath)) => beneath.get(key, limit).await,
            (Some(Written::Deleted), _) | (None, None) => Ok(None),
        }
    }

    /// What was written in this run is small and read by [`Store::get`]; only what lies beneath is opened.
    async fn open(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        match &self.beneath {
            Some(beneath) => beneath.open(key, range).await,
            None => Ok(None),
        }
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<PutOutcome> {
        if mode == PutMode::Create && self.head(key).await?.is_some() {
            return Ok(PutOutcome::Existed);
        }
        self.write(key, Written::Put(body));
        Ok(PutOutcome::Written)
    }

    async fn stage(&self, _: u64, _: Option<crate::hub::Sha256>) -> Result<Box<dyn Stage>> {
        Err(Error::new(ErrorKind::Misconfigured("a dry run stores nothing".into())))
    }

    async fn copy(&self, _: &crate::hub::Sha256, _: &Key, _: &CopyFacts) -> Result<Copied> {
        Err(Error::new(ErrorKind::Misconfigured("a dry run publishes nothing".into())))
    }

    fn largest_stage(&self) -> Option<(u64, &'static str)> {
        self.beneath.as_ref()?.largest_stage()
    }

    /// Lists what lies beneath; what was written in this run is found by its key only.
    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ObjectMeta>> {
        match &self.beneath {
            Some(beneath) => beneath.list(prefix),
            None => stream::empty().boxed(),
        }
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.write(key, Written::Deleted);
        Ok(())
    }

    async fn probe(&self) -> Result<Probe> {
        Ok(Probe::default())
    }

    async fn sweep(&self) -> Result<u64> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hub::Sha256, manifest::testing::MemoryStore};

    #[tokio::test]
    async fn what_is_written_is_read_back_and_never_reaches_the_store_beneath() {
        let beneath = MemoryStore::new();
        let (old, new) = (Key::policy(&Sha256::of(b"old")), Key::policy(&Sha256::of(b"new")));
        beneath.plant(old.as_str(), "old");
        let before = beneath.keys("");
        let dry = DryRun::over(Some(beneath.clone()));
        assert_eq!(dry.put(&old, Bytes::from("other"), PutMode::Create).await.unwrap(), PutOutcome::Existed);
        assert_eq!(dry.put(&old, Bytes::from("other"), PutMode::Overwrite).await.unwrap(), PutOutcome::Written);
        assert_eq!(dry.put(&new, Bytes::from("new"), PutMode::Create).await.unwrap(), PutOutcome::Written);
        assert_eq!(dry.get(&old, 10).await.unwrap().unwrap(), "other");
        assert!(dry.get(&new, 2).await.is_err(), "the limit holds");
        dry.delete(&old).await.unwrap();
        assert!(dry.head(&old).await.unwrap().is_none() && dry.head(&new).await.unwrap().is_some());
        assert!(dry.stage(1, None).await.is_err());
        assert_eq!((beneath.keys(""), beneath.object(old.as_str())), (before, Bytes::from("old")));
    }

    #[tokio::test]
    async fn a_store_that_is_still_to_be_made_is_empty() {
        let dry = DryRun::over(None);
        let key = Key::layout();
        assert!(dry.head(&key).await.unwrap().is_none() && dry.open(&key, None).await.unwrap().is_none());
        assert!(dry.list(&Prefix::all()).next().await.is_none());
    }
}
