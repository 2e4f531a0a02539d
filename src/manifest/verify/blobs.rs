//! Hashes the blobs of the store.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use http_body_util::BodyExt as _;
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::{Error, Result, log::of_one_object},
    BadBlob, Kind, failed,
    selection::Selection,
};
use crate::{
    hub::{Sha256, Sha256Hasher},
    store::{self, ErrorKind, Key, ObjectMeta, Prefix, Store},
};

/// What became of one object below `blobs/`.
pub(super) struct Hashed {
    pub(super) meta: ObjectMeta,
    /// The digest of its content, or why it could not be read; `None` where it was not to be hashed.
    pub(super) digest: Option<std::result::Result<Sha256, String>>,
}

impl Hashed {
    /// The digest that the key promises.
    pub(super) fn promised(&self) -> Option<Sha256> {
        self.meta.key.digest()
    }

    /// What is wrong with it, as the blob `promised` whose entry says that it has `expected` bytes.
    pub(super) fn judged(&self, promised: &Sha256, expected: Option<u64>) -> Option<BadBlob> {
        let size = self.meta.size;
        let (kind, detail) = match (&self.digest, expected) {
            (Some(Ok(digest)), _) if digest != promised => {
                let remedy = "move it away and restart the gateways: it is then fetched again";
                (Kind::AlteredBlob, format!("blob {promised} hashes to {digest}; {remedy}"))
            }
            (Some(Err(problem)), _) => (Kind::AlteredBlob, format!("blob {promised} cannot be read: {problem}")),
            (_, Some(expected)) if expected != size => {
                (Kind::Disagreement, format!("blob {promised} has {size} bytes, the entry says {expected}"))
            }
            _ => return None,
        };
        Some(BadBlob { kind, detail, named: false })
    }
}

/// All blobs, those that are selected hashed, `jobs` at a time, each in a task of its own.
pub(super) fn hash_all<'a>(
    store: &'a Arc<dyn Store>,
    jobs: usize,
    selection: &'a Selection<'a>,
) -> BoxStream<'a, Result<Hashed>> {
    store
        .list(&Prefix::blobs())
        .map_err(|error| Error::Read(Arc::new(error)))
        .map_ok(move |meta| {
            let is_selected = selection.takes(&meta);
            let task = is_selected.then(|| AbortOnDropHandle::new(tokio::spawn(hash(store.clone(), meta.clone()))));
            async move {
                let Some(task) = task else { return Ok(Some(Hashed { meta, digest: None })) };
                task.await.unwrap_or_else(|ended| Err(broken_task(&ended)))
            }
        })
        .try_buffer_unordered(jobs)
        .try_filter_map(|hashed| async move { Ok(hashed) })
        .boxed()
}

/// A blob as it is now, hashed; `None` where there is none.
pub(super) async fn hash_now(store: &Arc<dyn Store>, sha256: &Sha256) -> Result<Option<Hashed>> {
    let meta = store.head(&Key::blob(sha256)).await.map_err(failed)?;
    match meta {
        Some(meta) => hash(store.clone(), meta).await,
        None => Ok(None),
    }
}

/// `None` where the blob went away meanwhile.
async fn hash(store: Arc<dyn Store>, meta: ObjectMeta) -> Result<Option<Hashed>> {
    let digest = match digest(&*store, &meta.key).await {
        Ok(None) => return Ok(None),
        Ok(Some(digest)) => Ok(digest),
        Err(error) if of_one_object(&error) => Err(described(&error)),
        Err(error) => return Err(Error::Read(Arc::new(error))),
    };
    Ok(Some(Hashed { meta, digest: Some(digest) }))
}

async fn digest(store: &dyn Store, key: &Key) -> store::Result<Option<Sha256>> {
    let Some(mut object) = store.open(key, None).await? else { return Ok(None) };
    let mut hasher = Sha256Hasher::default();
    while let Some(frame) = object.body.frame().await {
        if let Ok(data) = frame?.into_data() {
            hasher.update(&data);
        }
    }
    Ok(Some(hasher.finish()))
}

fn broken_task(ended: &tokio::task::JoinError) -> Error {
    let kind = ErrorKind::Other(format!("hashing a blob ended early: {ended}"));
    Error::Read(Arc::new(store::Error { kind, key: None, source: None }))
}

/// An error with its causes, in one line.
pub(super) fn described(error: &store::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
