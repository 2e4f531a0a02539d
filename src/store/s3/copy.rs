//! A published copy in a bucket, made by the server itself: whole, and in parts above S3's limit for it.

use std::{collections::HashMap, ops::Range, sync::Arc};

use aws_sdk_s3::{config::Builder, types::MetadataDirective};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    Bucket,
    client::{UPLOAD_WITHIN, within},
    error::failed,
    http_range,
    uploads::{Upload, Uploads},
};
use crate::{
    hub::Sha256,
    store::{Copied, CopyFacts, Error, ErrorKind, Key, Result},
};

/// The smallest part that S3 takes, in bytes.
const SMALLEST_PART: u64 = 5 * 1024 * 1024;

/// A part of a copy, in bytes, unless there would be too many.
const PART: u64 = 512 * 1024 * 1024;

/// S3 takes 10,000 parts; some room is left.
const PARTS: u64 = 9_000;

/// Parts that are copied at once.
const AT_ONCE: usize = 4;

/// What needs no escape in the source's header.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

pub(super) async fn copy(
    bucket: &Bucket,
    uploads: &Arc<Uploads>,
    whole_max: u64,
    blob: &Sha256,
    to: &Key,
    facts: &CopyFacts,
) -> Result<Copied> {
    let metadata: HashMap<String, String> =
        facts.metadata(blob).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let source = format!("{}/{}", bucket.name, bucket.path(&Key::blob(blob)));
    let source = utf8_percent_encode(&source, PLAIN).to_string();
    if facts.size <= whole_max {
        copy_whole(bucket, source, to, metadata).await?;
        return Ok(Copied::Made);
    }
    // Worth a question, since the server moves gigabytes. That an interrupted publication has made this copy already is
    // said by its metadata, which is written with the object and by hubgate alone.
    if bucket.has(to, facts.size, &HashMap::from([("sha256".to_owned(), blob.to_string())])).await? {
        return Ok(Copied::Kept);
    }
    copy_in_parts(bucket, uploads, source, to, metadata, facts.size, whole_max.min(PART)).await?;
    Ok(Copied::Made)
}

async fn copy_whole(bucket: &Bucket, source: String, to: &Key, metadata: HashMap<String, String>) -> Result<()> {
    let copied = bucket
        .client
        .copy_object()
        .bucket(&*bucket.name)
        .key(bucket.path(to))
        .copy_source(source)
        .metadata_directive(MetadataDirective::Replace)
        .set_metadata(Some(metadata))
        .set_server_side_encryption(bucket.encryption.clone())
        .set_ssekms_key_id(bucket.kms_key_id.clone())
        .customize()
        .config_override(Builder::new().timeout_config(within(UPLOAD_WITHIN)))
        .send();
    copied.await.map(drop).map_err(|failure| failed(failure).on(to))
}

async fn copy_in_parts(
    bucket: &Bucket,
    uploads: &Arc<Uploads>,
    source: String,
    to: &Key,
    metadata: HashMap<String, String>,
    length: u64,
    part: u64,
) -> Result<()> {
    let part = part.max(SMALLEST_PART).max(length.div_ceil(PARTS));
    let upload = uploads.begin(to, metadata).await?;
    let id = upload.id.clone();
    let mut unfinished = Unfinished { uploads, upload: Some(upload) };
    let ranges = (0..length.div_ceil(part)).map(|index| index * part..((index + 1) * part).min(length));
    let copies = stream::iter((1..).zip(ranges)).map(|(number, range)| {
        let (source, id) = (source.clone(), id.clone());
        copy_part(bucket, source, to, id, number, range)
    });
    let etags: Vec<_> = copies.buffered(AT_ONCE).try_collect().await?;
    match unfinished.upload.take() {
        Some(upload) => uploads.complete(upload, etags, length).await,
        None => Ok(()),
    }
}

/// Aborts an upload that fails or whose caller goes away.
struct Unfinished<'a> {
    uploads: &'a Arc<Uploads>,
    upload: Option<Upload>,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            self.uploads.clone().abort_later(upload, std::future::ready(()));
        }
    }
}

async fn copy_part(
    bucket: &Bucket,
    source: String,
    to: &Key,
    id: String,
    number: i32,
    range: Range<u64>,
) -> Result<(i32, String)> {
    let part = bucket
        .client
        .upload_part_copy()
        .bucket(&*bucket.name)
        .key(bucket.path(to))
        .upload_id(id)
        .part_number(number)
        .copy_source(source)
        .copy_source_range(http_range(&range))
        .customize()
        .config_override(Builder::new().timeout_config(within(UPLOAD_WITHIN)));
    let part = part.send().await.map_err(|failure| failed(failure).on(to))?;
    let etag = part.copy_part_result.and_then(|part| part.e_tag).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt(format!("the server copied part {number} and gave no etag"))).on(to)
    })?;
    Ok((number, etag))
}
