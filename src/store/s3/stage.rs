//! A blob on its way into the bucket: parts go up from the spool while it grows, small ones whole at the
//! end.
//!
//! What goes without TLS carries a checksum, by which the server refuses what was altered on the way: it would be found by
//! `verify` only, and served until then.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    fs::File,
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_s3::{
    config::Builder,
    primitives::{ByteStream, SdkBody},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use md5::{Digest as _, Md5};
use tokio::task::{JoinError, JoinSet};
use uuid::Uuid;

use super::{
    Bucket,
    client::{UPLOAD_WITHIN, within},
    error::{code, failed},
    spool::Spooled,
    uploads::{Upload, Uploads},
};
use crate::{
    body::FileBody,
    hub::Sha256,
    store::{Error, ErrorKind, Key, Result, Stage, blocking},
};

/// The smallest part, and the largest blob that goes up whole.
const PART_BYTES: u64 = 16 * 1024 * 1024;

/// S3 takes 10,000 parts; some room is left.
const PARTS: u64 = 9_000;

/// Parts on their way at once.
const AT_ONCE: usize = 4;

/// How long the abort of an upload waits for the parts on their way.
const LAST_PARTS_WITHIN: Duration = Duration::from_mins(2);

/// How far the upload may fall behind the spool before [`Stage::advance`] waits for a part.
const BEHIND_BYTES: u64 = 64 * 1024 * 1024;

/// Attempts at a part that the server says was altered on its way, beside the SDK's own at what fails otherwise.
const SPOILED_ATTEMPTS: u32 = 3;

/// How much of a part is read at once for its checksum, in bytes.
const MD5_BUFFER: usize = 512 * 1024;

type Sent = Result<(i32, String)>;

/// A staged blob of a bucket store.
pub(super) struct S3Stage {
    bucket: Bucket,
    uploads: Arc<Uploads>,
    /// Held by the parts on their way too: the room is taken until the last of them has ended.
    spooled: Arc<Spooled>,
    size: u64,
    part_bytes: u64,
    /// The object that parts go to; none while the digest is unknown or where there are no parts.
    target: Option<Key>,
    upload: Option<Upload>,
    /// The next part to send, counted from 0.
    next: u64,
    sending: JoinSet<Sent>,
    /// Etags of the parts that the server has, by part number.
    sent: BTreeMap<i32, String>,
}

impl S3Stage {
    pub(super) fn new(
        bucket: Bucket,
        uploads: Arc<Uploads>,
        spooled: Spooled,
        size: u64,
        sha256: Option<Sha256>,
    ) -> Self {
        Self {
            bucket,
            uploads,
            spooled: Arc::new(spooled),
            size,
            part_bytes: part_bytes(size),
            target: sha256.filter(|_| size > PART_BYTES).map(|sha256| Key::blob(&sha256)),
            upload: None,
            next: 0,
            sending: JoinSet::new(),
            sent: BTreeMap::new(),
        }
    }

    /// Sends the parts that lie before `upto`, as many as may go at once.
    async fn send_parts(&mut self, target: &Key, upto: u64) -> Result<()> {
        while self.sending.len() < AT_ONCE {
            let start = self.next * self.part_bytes;
            let end = (start + self.part_bytes).min(self.size);
            if start >= self.size || end > upto {
                break;
            }
            let upload = match &mut self.upload {
                Some(upload) => upload,
                none => none.insert(self.uploads.begin(target, named()).await?),
            };
            self.uploads.renew(upload).await?;
            self.next += 1;
            let number = i32::try_from(self.next).unwrap_or(i32::MAX);
            let (bucket, key, id) = (self.bucket.clone(), upload.key.clone(), upload.id.clone());
            self.sending.spawn(send_part(bucket, key, id, number, self.spooled.clone(), start..end));
        }
        Ok(())
    }

    fn note(&mut self, sent: std::result::Result<Sent, JoinError>) -> Result<()> {
        let (number, etag) = sent.map_err(|stopped| Error::new(ErrorKind::Other(stopped.to_string())))??;
        self.sent.insert(number, etag);
        Ok(())
    }

    /// How many bytes from the start the server has.
    fn taken(&self) -> u64 {
        let in_a_row = (1..).zip(self.sent.keys()).take_while(|(expected, number)| expected == *number).count();
        (in_a_row as u64 * self.part_bytes).min(self.size)
    }

    async fn put_whole(&self, key: &Key, sha256: Sha256) -> Result<()> {
        let put = self
            .bucket
            .put_request(key, file_range(&self.spooled.file, 0..self.size))
            .checksum_sha256(STANDARD.encode(sha256.as_bytes()))
            .customize()
            .config_override(Builder::new().timeout_config(within(UPLOAD_WITHIN)));
        put.send().await.map(drop).map_err(|failure| failed(failure).on(key))
    }
}

#[async_trait]
impl Stage for S3Stage {
    fn file(&self) -> Arc<File> {
        self.spooled.file.clone()
    }

    fn room(&self) -> Arc<dyn Any + Send + Sync> {
        self.spooled.clone()
    }

    async fn advance(&mut self, upto: u64) -> Result<u64> {
        let Some(target) = self.target.clone() else { return Ok(upto) };
        while let Some(sent) = self.sending.try_join_next() {
            self.note(sent)?;
        }
        self.send_parts(&target, upto).await?;
        if upto > self.taken() + BEHIND_BYTES
            && let Some(sent) = self.sending.join_next().await
        {
            self.note(sent)?;
            self.send_parts(&target, upto).await?;
        }
        Ok(self.taken())
    }

    async fn commit(mut self: Box<Self>, sha256: Sha256) -> Result<()> {
        let key = Key::blob(&sha256);
        let len = self.spooled.file.metadata()?.len();
        if len != self.size {
            let problem = format!("the spool file has {len} bytes, {} were announced", self.size);
            return Err(Error::new(ErrorKind::Corrupt(problem)).on(&key));
        }
        if self.size <= PART_BYTES {
            return self.put_whole(&key, sha256).await;
        }
        let target = self.target.get_or_insert_with(|| key.clone()).clone();
        if target != key {
            let problem = format!("announced as {target}");
            return Err(Error::new(ErrorKind::Corrupt(problem)).on(&key));
        }
        self.send_parts(&target, self.size).await?;
        while let Some(sent) = self.sending.join_next().await {
            self.note(sent)?;
            self.send_parts(&target, self.size).await?;
        }
        let Some(upload) = self.upload.take() else {
            return Err(Error::new(ErrorKind::Other("no part was sent".into())).on(&key));
        };
        let etags = std::mem::take(&mut self.sent).into_iter().collect();
        self.uploads.complete(upload, etags, self.size).await
    }
}

impl Drop for S3Stage {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            // A part that the server still writes when the abort comes stays for ever on some servers
            // (VersityGW), also one that we broke off. So those on their way may end first.
            let mut sending = std::mem::take(&mut self.sending);
            self.uploads.clone().abort_later(upload, async move {
                let ended = async { while sending.join_next().await.is_some() {} };
                if tokio::time::timeout(LAST_PARTS_WITHIN, ended).await.is_err() {
                    sending.shutdown().await;
                }
            });
        }
    }
}

/// What a blob says of the upload that made it, so that it can be told from one that lay there before. Read in
/// [`Uploads::complete`] alone: a blob that came whole says nothing, and neither does one that was copied from another
/// bucket.
fn named() -> HashMap<String, String> {
    HashMap::from([("upload".to_owned(), Uuid::now_v7().simple().to_string())])
}

/// The length of all parts but the last.
fn part_bytes(size: u64) -> u64 {
    size.div_ceil(PARTS).max(PART_BYTES)
}

async fn send_part(
    bucket: Bucket,
    key: Key,
    id: String,
    number: i32,
    spooled: Arc<Spooled>,
    range: Range<u64>,
) -> Sent {
    let digest = if bucket.is_plain { Some(md5(&spooled.file, range.clone()).await?) } else { None };
    let mut attempt = 1;
    let part = loop {
        let part = bucket
            .client
            .upload_part()
            .bucket(&*bucket.name)
            .key(bucket.path(&key))
            .upload_id(&id)
            .part_number(number)
            .set_content_md5(digest.clone())
            .body(file_range(&spooled.file, range.clone()))
            .customize()
            .config_override(Builder::new().timeout_config(within(UPLOAD_WITHIN)));
        match part.send().await {
            Ok(part) => break part,
            Err(failure) if code(&failure) == Some("BadDigest") && attempt < SPOILED_ATTEMPTS => {
                attempt += 1;
                tracing::warn!(%key, number, "a part was altered on its way to the bucket; sending it again");
            }
            Err(failure) => return Err(failed(failure).on(&key)),
        }
    };
    let etag = part.e_tag.ok_or_else(|| {
        Error::new(ErrorKind::Corrupt(format!("the server took part {number} and gave no etag"))).on(&key)
    })?;
    Ok((number, etag))
}

/// The checksum of a part, in the header's form (RFC 1864). Read anew, from the page cache: the file's own digest is
/// computed in other steps. A part costs some 20 ms, near the CPU of fetching it, so only what has no TLS pays for it.
async fn md5(file: &Arc<File>, range: Range<u64>) -> Result<String> {
    let file = file.clone();
    let digest = blocking(move || {
        let (mut md5, mut buffer, mut at) = (Md5::new(), vec![0; MD5_BUFFER], range.start);
        while at < range.end {
            let length = usize::try_from(range.end - at).unwrap_or(MD5_BUFFER).min(MD5_BUFFER);
            file.read_exact_at(&mut buffer[..length], at)?;
            md5.update(&buffer[..length]);
            at += length as u64;
        }
        Ok(md5.finalize())
    });
    Ok(STANDARD.encode(digest.await?))
}

/// A body that the SDK can send again when an attempt fails.
fn file_range(file: &Arc<File>, range: Range<u64>) -> ByteStream {
    let file = file.clone();
    ByteStream::new(SdkBody::retryable(move || SdkBody::from_body_1_x(FileBody::new(file.clone(), range.clone()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_few_enough_and_large_enough() {
        for size in [0, 1, PART_BYTES, PART_BYTES + 1, PARTS * PART_BYTES, PARTS * PART_BYTES + 1, 5 << 40] {
            let part = part_bytes(size);
            assert!(part >= PART_BYTES && size.div_ceil(part) <= PARTS, "{size}: {part}");
        }
    }
}
