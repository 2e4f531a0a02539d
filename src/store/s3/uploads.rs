//! Multipart uploads and the intents that tell of them.
//!
//! An intent object is written before an upload begins and removed after its end, so that whatever a dead
//! process left can be found and aborted, also on servers that cannot list uploads. A live process renews
//! its intents; one that is a day old is a leftover. An intent stays until it is known that nothing is left of
//! its upload: where the answer to the beginning of one was lost, only the server's list can tell.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{
    Bucket,
    client::{UPLOAD_WITHIN, once, within},
    error::{failed, is_not_found, is_not_offered, is_refused},
};
use crate::store::{Error, ErrorKind, Key, Prefix, Result};

/// How often the intent of a long upload is renewed; far below the age of a leftover.
const RENEW_AFTER: Duration = Duration::from_hours(1);

/// Attempts to begin an upload. Ours, not the SDK's, so that each has an intent.
const BEGIN_ATTEMPTS: u32 = 4;

/// The pause before the second of these; it doubles.
const PAUSE: Duration = Duration::from_millis(200);

/// An intent is a few hundred bytes.
const INTENT_LIMIT_BYTES: u64 = 64 * 1024;

/// The multipart uploads of this process.
#[derive(Debug)]
pub(super) struct Uploads {
    bucket: Bucket,
    writer: String,
    /// Upload ids by intent.
    live: Mutex<HashMap<Key, String>>,
    aborts: TaskTracker,
}

/// One upload that has begun.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) key: Key,
    pub(super) id: String,
    /// What the object will say of itself.
    metadata: HashMap<String, String>,
    intent: Key,
    renewed: Instant,
}

#[derive(Debug, Serialize, Deserialize)]
struct Intent {
    /// The object that is to be.
    key: String,
    /// Set once the server has given one.
    upload_id: Option<String>,
}

impl Uploads {
    pub(super) fn new(bucket: Bucket, writer: &str) -> Self {
        Self { bucket, writer: writer.to_owned(), live: Mutex::default(), aborts: TaskTracker::new() }
    }

    /// Begins an upload of `key`. By its `metadata` the object is known again as the one that this upload has made.
    pub(super) async fn begin(&self, key: &Key, metadata: HashMap<String, String>) -> Result<Upload> {
        for attempt in 0..BEGIN_ATTEMPTS - 1 {
            match self.begin_once(key, metadata.clone()).await {
                Err(error) if matches!(error.kind, ErrorKind::Busy | ErrorKind::Unreachable) => {
                    tokio::time::sleep(PAUSE * (1 << attempt)).await;
                }
                end => return end,
            }
        }
        self.begin_once(key, metadata).await
    }

    /// One attempt: the intent first.
    async fn begin_once(&self, key: &Key, metadata: HashMap<String, String>) -> Result<Upload> {
        let intent = Key::upload(&self.writer, &Uuid::now_v7().simple().to_string());
        if let Err(error) = self.tell(&intent, key, None).await {
            // It may be there all the same, and speaks of nothing.
            self.forget(&intent).await;
            return Err(error);
        }
        let begun = self
            .bucket
            .client
            .create_multipart_upload()
            .bucket(&*self.bucket.name)
            .key(self.bucket.path(key))
            .set_metadata(Some(metadata.clone()))
            .set_server_side_encryption(self.bucket.encryption.clone())
            .set_ssekms_key_id(self.bucket.kms_key_id.clone())
            .customize()
            .config_override(once())
            .send();
        let begun = match begun.await {
            Ok(begun) => begun,
            Err(failure) if is_refused(&failure) => {
                self.forget(&intent).await;
                return Err(failed(failure).on(key));
            }
            Err(failure) => {
                let error = failed(failure).on(key);
                tracing::warn!(%key, %intent, %error, "an upload may have begun, its id is lost; the sweep looks for it");
                return Err(error);
            }
        };
        let Some(id) = begun.upload_id.filter(|id| !id.is_empty()) else {
            return Err(Error::new(ErrorKind::Corrupt("the server began an upload without an id".into())).on(key));
        };
        self.live().insert(intent.clone(), id.clone());
        let upload = Upload { key: key.clone(), id, metadata, intent, renewed: Instant::now() };
        if let Err(error) = self.tell(&upload.intent, key, Some(&upload.id)).await {
            self.abort(upload).await;
            return Err(error);
        }
        Ok(upload)
    }

    /// Renews the intent of an upload that goes on for long.
    pub(super) async fn renew(&self, upload: &mut Upload) -> Result<()> {
        if upload.renewed.elapsed() >= RENEW_AFTER {
            self.tell(&upload.intent, &upload.key, Some(&upload.id)).await?;
            upload.renewed = Instant::now();
        }
        Ok(())
    }

    /// Makes the parts an object of `size` bytes.
    pub(super) async fn complete(&self, upload: Upload, etags: Vec<(i32, String)>, size: u64) -> Result<()> {
        let parts =
            etags.into_iter().map(|(number, etag)| CompletedPart::builder().part_number(number).e_tag(etag).build());
        let completed = self
            .bucket
            .client
            .complete_multipart_upload()
            .bucket(&*self.bucket.name)
            .key(self.bucket.path(&upload.key))
            .upload_id(&upload.id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build())
            .customize()
            .config_override(aws_sdk_s3::config::Builder::new().timeout_config(within(UPLOAD_WITHIN)))
            .send();
        match completed.await {
            Ok(_) => {}
            // "No such upload" after a lost answer means that it was completed, if what is there says so: another object
            // may have been there before, and the upload may have been aborted by somebody.
            Err(failure) if is_not_found(&failure) => {
                self.forget(&upload.intent).await;
                if !self.bucket.has(&upload.key, size, &upload.metadata).await? {
                    return Err(failed(failure).on(&upload.key));
                }
            }
            Err(failure) => {
                let error = failed(failure).on(&upload.key);
                self.abort(upload).await;
                return Err(error);
            }
        }
        self.forget(&upload.intent).await;
        Ok(())
    }

    /// Aborts in the background: for drop, which cannot wait. The sweep stands behind it.
    pub(super) fn abort_later(self: Arc<Self>, upload: Upload, after: impl Future<Output = ()> + Send + 'static) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let aborts = self.aborts.clone();
            aborts.spawn_on(
                async move {
                    after.await;
                    self.abort(upload).await;
                },
                &runtime,
            );
        }
    }

    async fn abort(&self, upload: Upload) {
        match self.abort_id(&self.bucket.path(&upload.key), &upload.id).await {
            Ok(()) => self.forget(&upload.intent).await,
            Err(error) => {
                self.live().remove(&upload.intent);
                tracing::warn!(key = %upload.key, error = %error, cause = ?error.source,
                    "an upload could not be aborted; the sweep will try again");
            }
        }
    }

    async fn abort_id(&self, path: &str, id: &str) -> Result<()> {
        let abort = self.bucket.client.abort_multipart_upload().bucket(&*self.bucket.name).key(path).upload_id(id);
        match abort.send().await {
            Ok(_) => Ok(()),
            Err(failure) if is_not_found(&failure) => Ok(()),
            Err(failure) => Err(failed(failure)),
        }
    }

    async fn tell(&self, intent: &Key, key: &Key, upload_id: Option<&str>) -> Result<()> {
        let text = Intent { key: key.to_string(), upload_id: upload_id.map(str::to_owned) };
        let text = serde_json::to_vec(&text).map_err(|error| Error::new(ErrorKind::Other(error.to_string())))?;
        self.bucket.put(intent, Bytes::from(text)).await
    }

    async fn forget(&self, intent: &Key) {
        self.live().remove(intent);
        if let Err(error) = self.bucket.delete(intent).await {
            tracing::warn!(key = %intent, error = %error, cause = ?error.source,
                "the intent of an upload that has ended could not be removed; the sweep will");
        }
    }

    fn live(&self) -> std::sync::MutexGuard<'_, HashMap<Key, String>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Aborts what dead processes left `age` ago or longer; without `apply`, only looks for it. Returns how many
    /// leftovers there are.
    pub(super) async fn sweep(&self, age: Duration, apply: bool) -> Result<u64> {
        // Aborts of our own that are under way would be counted as leftovers.
        self.aborts.close();
        self.aborts.wait().await;
        self.aborts.reopen();

        let before = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut known: HashSet<String> = self.live().values().cloned().collect();
        let mut leftovers = Vec::new();
        let mut intents = self.bucket.list(&Prefix::uploads());
        while let Some(there) = intents.try_next().await? {
            let is_ours = self.live().contains_key(&there.key);
            let intent = self.bucket.get(&there.key, INTENT_LIMIT_BYTES).await?;
            let intent: Option<Intent> = intent.and_then(|text| serde_json::from_slice(&text).ok());
            if is_ours || there.modified >= before {
                known.extend(intent.and_then(|intent| intent.upload_id));
            } else {
                leftovers.push((there.key, intent));
            }
        }
        let (mut found, mut unknown) = (0, 0_u64);
        for (key, intent) in leftovers {
            let Some(left) = self.left_of(intent, before, &known).await? else {
                unknown += 1;
                continue;
            };
            if apply {
                self.abort_all(&left).await?;
                self.bucket.delete(&key).await?;
            }
            known.extend(left.into_iter().map(|(_, id)| id));
            found += 1;
        }
        if unknown > 0 {
            tracing::warn!(
                unknown,
                "uploads may have been left behind whose ids are not known, and this server does not list uploads: let \
                 a lifecycle rule of the bucket abort incomplete ones"
            );
        }
        let blobs = format!("{}{}", self.bucket.prefix, Prefix::blobs().as_str());
        let listed = self.listed(&blobs, before, &known).await?.unwrap_or_default();
        if apply {
            self.abort_all(&listed).await?;
        }
        Ok(found + listed.len() as u64)
    }

    /// The uploads of which a leftover intent speaks, path and id of each; `None` where that can't be known.
    async fn left_of(
        &self,
        intent: Option<Intent>,
        before: SystemTime,
        known: &HashSet<String>,
    ) -> Result<Option<Vec<(String, String)>>> {
        // What is no intent speaks of nothing.
        let Some(Intent { key, upload_id }) = intent else { return Ok(Some(Vec::new())) };
        let path = self.bucket.path(&Key::listed(key));
        match upload_id {
            Some(id) => Ok(Some(vec![(path, id)])),
            // The server's answer with the id was lost, or its process died before.
            None => self.listed(&path, before, known).await,
        }
    }

    async fn abort_all(&self, uploads: &[(String, String)]) -> Result<()> {
        for (path, id) in uploads {
            self.abort_id(path, id).await?;
        }
        Ok(())
    }

    /// Path and id of the uploads that the server lists below `path`, began before `before` and are not `known`.
    /// `None` where it does not list uploads.
    async fn listed(
        &self,
        path: &str,
        before: SystemTime,
        known: &HashSet<String>,
    ) -> Result<Option<Vec<(String, String)>>> {
        let mut found = Vec::new();
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let listing = self.bucket.client.list_multipart_uploads().bucket(&*self.bucket.name).prefix(path);
            let listing = listing.set_key_marker(key_marker).set_upload_id_marker(id_marker);
            let page = match listing.send().await {
                Ok(page) => page,
                Err(failure) if is_not_offered(&failure) => return Ok(None),
                Err(failure) => return Err(failed(failure)),
            };
            for upload in page.uploads() {
                let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                let is_old = upload.initiated().is_some_and(|begun| super::time(Some(begun)) < before);
                if is_old && !known.contains(id) {
                    found.push((key.to_owned(), id.to_owned()));
                }
            }
            (key_marker, id_marker) =
                (page.next_key_marker().map(str::to_owned), page.next_upload_id_marker().map(str::to_owned));
            if page.is_truncated() != Some(true) || key_marker.is_none() {
                return Ok(Some(found));
            }
        }
    }
}
