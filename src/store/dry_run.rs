//! A store that is read and never written: what is put into it stays in memory and is forgotten with it. For
//! runs that only say what they would do. They may look into small files, so a small blob can be staged.

use std::{
    collections::HashMap,
    fs::File,
    ops::Range,
    os::unix::fs::FileExt as _,
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
    Store, blocking,
};
use crate::hub::Sha256;

/// Some store beneath, or none, and what would have been written to it.
#[derive(Debug)]
pub struct DryRun {
    beneath: Option<Arc<dyn Store>>,
    written: Arc<Mutex<HashMap<Key, Written>>>,
}

/// The largest blob that a dry run brings in to look into it, in bytes.
const LARGEST_STAGE: u64 = 2 * 1024 * 1024;

/// What this run has done to an object.
#[derive(Debug, Clone)]
enum Written {
    Put(Bytes),
    Deleted,
}

impl DryRun {
    /// Over a store; `None` means one that is still to be made.
    pub fn over(beneath: Option<Arc<dyn Store>>) -> Self {
        Self { beneath, written: Arc::default() }
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

    async fn stage(&self, size: u64, _: Option<Sha256>) -> Result<Box<dyn Stage>> {
        if size > LARGEST_STAGE {
            return Err(Error::new(ErrorKind::Misconfigured("a dry run stores nothing".into())));
        }
        let file = blocking(move || {
            let file = tempfile::tempfile()?;
            file.set_len(size)?;
            Ok(file)
        });
        Ok(Box::new(Look { file: Arc::new(file.await?), size, written: self.written.clone() }))
    }

    async fn copy(&self, _: &Sha256, _: &Key, _: &CopyFacts) -> Result<Copied> {
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

    async fn sweep(&self, _: bool) -> Result<u64> {
        Ok(0)
    }
}

/// A small blob on its way into memory.
struct Look {
    file: Arc<File>,
    size: u64,
    written: Arc<Mutex<HashMap<Key, Written>>>,
}

#[async_trait]
impl Stage for Look {
    fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    async fn advance(&mut self, upto: u64) -> Result<u64> {
        Ok(upto)
    }

    async fn commit(self: Box<Self>, sha256: Sha256) -> Result<()> {
        let (file, size) = (self.file.clone(), self.size);
        let content = blocking(move || {
            let mut content = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut content, 0)?;
            Ok(content)
        });
        let content = Written::Put(content.await?.into());
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(Key::blob(&sha256), content);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::testing::MemoryStore;

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
        assert!(dry.stage(LARGEST_STAGE + 1, None).await.is_err());
        let (content, sha256) = ("{}", Sha256::of(b"{}"));
        let mut small = dry.stage(2, None).await.unwrap();
        small.file().write_all_at(content.as_bytes(), 0).unwrap();
        assert_eq!(small.advance(2).await.unwrap(), 2);
        small.commit(sha256).await.unwrap();
        assert_eq!(dry.get(&Key::blob(&sha256), 10).await.unwrap().unwrap(), content);
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
