//! A bucket as a store: any S3 server. The only module that names an AWS type.
//!
//! Files on their way in grow in a spool on the local disk, since S3 cannot be written at any offset nor
//! read before the end; parts go up from there while it grows. Every write of an object is atomic by S3's
//! own rules. Conditional writes save work where the probe found them; nothing depends on them.

mod body;
mod client;
mod copy;
mod error;
mod loops;
mod probe;
mod spool;
mod stage;
pub(super) mod trust;
mod uploads;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    operation::put_object::builders::PutObjectFluentBuilder,
    primitives::{ByteStream, DateTime, SdkBody},
    types,
};
use bytes::{Bytes, BytesMut};
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use http_body_util::{BodyExt as _, Empty};

use super::{
    Copied, CopyFacts, Error, ErrorKind, Key, Object, ObjectBody, ObjectMeta, Prefix, Probe, PutMode, PutOutcome,
    Result, S3Config, ServerSideEncryption, SpoolConfig, Stage, Store,
};
use crate::hub::Sha256;
use body::ContinuedBody;
use error::{code, failed, is_not_found, is_precondition_failed};
use spool::Spool;
use stage::S3Stage;
use uploads::Uploads;

/// Attempts at a create-only write. Ours, not the SDK's: after a lost answer "it exists" may mean us.
const CREATE_ATTEMPTS: u32 = 3;

/// An unfinished upload is a leftover when its intent was not renewed for this long.
const LEFTOVERS_AFTER: Duration = Duration::from_hours(24);

/// A bucket store.
#[derive(Debug)]
pub(super) struct S3Store {
    bucket: Bucket,
    spool: Arc<Spool>,
    uploads: Arc<Uploads>,
    writer: String,
    /// The largest blob that is copied in one request, in bytes.
    whole_copy_max: u64,
    conditional_create: AtomicBool,
}

/// A bucket, the prefix in it, and how objects are written there.
#[derive(Debug, Clone)]
struct Bucket {
    client: Client,
    name: Arc<str>,
    /// Empty, or ending in `/`.
    prefix: Arc<str>,
    /// Whether it is reached without TLS, so that nothing on the way notices a bit that flips.
    is_plain: bool,
    encryption: Option<types::ServerSideEncryption>,
    kms_key_id: Option<String>,
}

impl S3Store {
    /// Prepares the client and the spool. The server is not asked anything before the probe.
    pub(super) async fn create(config: &S3Config, spool: &SpoolConfig, writer: &str) -> Result<Self> {
        Self::with(config, Spool::open(spool, writer).await?, writer).await
    }

    /// The same for a bucket that is only read: the spool's folder is not made.
    pub(super) async fn open_to_read(config: &S3Config, spool: &SpoolConfig) -> Result<Self> {
        Self::with(config, Spool::unmade(spool), "reader").await
    }

    async fn with(config: &S3Config, spool: Spool, writer: &str) -> Result<Self> {
        let bucket = Bucket {
            client: client::client(config).await?,
            name: config.bucket.as_str().into(),
            is_plain: client::is_plain(config),
            prefix: if config.prefix.is_empty() { "".into() } else { format!("{}/", config.prefix).into() },
            encryption: config.sse.map(|sse| match sse {
                ServerSideEncryption::Aes256 => types::ServerSideEncryption::Aes256,
                ServerSideEncryption::AwsKms => types::ServerSideEncryption::AwsKms,
            }),
            kms_key_id: config.kms_key_id.clone(),
        };
        Ok(Self {
            uploads: Arc::new(Uploads::new(bucket.clone(), writer)),
            spool: Arc::new(spool),
            bucket,
            writer: writer.to_owned(),
            whole_copy_max: config.whole_copy_max,
            conditional_create: AtomicBool::new(false),
        })
    }
}

impl Bucket {
    fn path(&self, key: &Key) -> String {
        key.from_top().map_or_else(|| format!("{}{key}", self.prefix), str::to_owned)
    }

    async fn head(&self, key: &Key) -> Result<Option<ObjectMeta>> {
        match self.client.head_object().bucket(&*self.name).key(self.path(key)).send().await {
            Ok(there) => Ok(Some(ObjectMeta {
                key: key.clone(),
                size: size(there.content_length()),
                modified: time(there.last_modified()),
            })),
            Err(failure) if is_not_found(&failure) => Ok(None),
            Err(failure) => Err(failed(failure).on(key)),
        }
    }

    /// Whether an object is there that has this length and says this of itself.
    async fn has(&self, key: &Key, length: u64, metadata: &HashMap<String, String>) -> Result<bool> {
        match self.client.head_object().bucket(&*self.name).key(self.path(key)).send().await {
            Ok(there) => {
                let says = |name: &String| there.metadata().and_then(|metadata| metadata.get(name));
                Ok(size(there.content_length()) == length
                    && metadata.iter().all(|(name, value)| says(name) == Some(value)))
            }
            Err(failure) if is_not_found(&failure) => Ok(false),
            Err(failure) => Err(failed(failure).on(key)),
        }
    }

    async fn open(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        let outside = |size: u64| {
            let range = range.clone().unwrap_or_default();
            let problem = format!("bytes {}..{} of an object of {size} bytes", range.start, range.end);
            Error::new(ErrorKind::Other(problem)).on(key)
        };
        if let Some(empty) = range.as_ref().filter(|range| range.is_empty()) {
            // S3 has no way to ask for no bytes.
            let Some(there) = self.head(key).await? else { return Ok(None) };
            if empty.start > there.size || empty.start > empty.end {
                return Err(outside(there.size));
            }
            let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
            return Ok(Some(Object { size: there.size, body: ObjectBody::Stream(body) }));
        }
        let request = self.client.get_object().bucket(&*self.name).key(self.path(key));
        let answer = match request.set_range(range.as_ref().map(http_range)).send().await {
            Ok(answer) => answer,
            Err(failure) if is_not_found(&failure) => return Ok(None),
            Err(failure) if code(&failure) == Some("InvalidRange") => {
                return match self.head(key).await? {
                    Some(there) => Err(outside(there.size)),
                    None => Ok(None),
                };
            }
            Err(failure) => return Err(failed(failure).on(key)),
        };
        let length = size(answer.content_length());
        let (size, given) = match &range {
            None => (length, 0..length),
            Some(range) => {
                let size = whole_size(answer.content_range(), range.start).ok_or_else(|| {
                    Error::new(ErrorKind::Corrupt("the server answered a range with something else".into())).on(key)
                })?;
                if range.end > size {
                    return Err(outside(size));
                }
                (size, range.clone())
            }
        };
        let etag = answer.e_tag().map(str::to_owned);
        let body = ContinuedBody::new(self.clone(), key.clone(), etag, given, answer.body.into_inner());
        Ok(Some(Object { size, body: ObjectBody::Stream(body.boxed_unsync()) }))
    }

    /// Asks for what is left of a body that was cut.
    async fn continue_get(&self, key: &Key, etag: Option<String>, range: Range<u64>) -> Result<SdkBody> {
        let request = self.client.get_object().bucket(&*self.name).key(self.path(key));
        let changed = || Error::new(ErrorKind::Corrupt("the object changed while it was read".into())).on(key);
        match request.range(http_range(&range)).set_if_match(etag).send().await {
            Ok(answer) if whole_size(answer.content_range(), range.start).is_some() => Ok(answer.body.into_inner()),
            Ok(_) => Err(changed()),
            Err(failure) if is_not_found(&failure) || is_precondition_failed(&failure) => {
                Err(changed().caused_by(failed(failure)))
            }
            Err(failure) => Err(failed(failure).on(key)),
        }
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Option<Bytes>> {
        let Some(Object { size, mut body }) = self.open(key, None).await? else { return Ok(None) };
        if size > limit {
            return Err(Error::new(ErrorKind::TooLarge(limit)).on(key));
        }
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                whole.extend_from_slice(&bytes);
            }
        }
        Ok(Some(whole.freeze()))
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        let written = self.put_request(key, body.into()).send().await;
        written.map(drop).map_err(|failure| failed(failure).on(key))
    }

    /// A write of an object, encrypted as configured.
    fn put_request(&self, key: &Key, body: ByteStream) -> PutObjectFluentBuilder {
        let request = self.client.put_object().bucket(&*self.name).key(self.path(key)).body(body);
        request.set_server_side_encryption(self.encryption.clone()).set_ssekms_key_id(self.kms_key_id.clone())
    }

    /// Writes only where nothing is, by the server's own judgement.
    async fn put_new(&self, key: &Key, body: &Bytes) -> Result<PutOutcome> {
        let mut attempt = 1;
        loop {
            let written = self
                .put_request(key, body.clone().into())
                .if_none_match("*")
                .customize()
                .config_override(client::once())
                .send();
            let error = match written.await {
                Ok(_) => return Ok(PutOutcome::Written),
                Err(failure) if is_precondition_failed(&failure) && attempt == 1 => return Ok(PutOutcome::Existed),
                // An earlier attempt of ours, whose answer was lost, may be what is there.
                Err(failure) if is_precondition_failed(&failure) => {
                    let limit = body.len() as u64;
                    return match self.get(key, limit).await {
                        Ok(Some(there)) if there == *body => Ok(PutOutcome::Written),
                        Ok(_) => Ok(PutOutcome::Existed),
                        Err(error) if error.kind == ErrorKind::TooLarge(limit) => Ok(PutOutcome::Existed),
                        Err(error) => Err(error),
                    };
                }
                Err(failure) => failed(failure).on(key),
            };
            if attempt == CREATE_ATTEMPTS || !matches!(error.kind, ErrorKind::Busy | ErrorKind::Unreachable) {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(100) * attempt).await;
            attempt += 1;
        }
    }

    fn list(&self, prefix: &Prefix) -> BoxStream<'static, Result<ObjectMeta>> {
        let first = Some(None::<String>);
        let published = prefix.from_top().map(str::to_owned);
        let is_published = published.is_some();
        let below = published.unwrap_or_else(|| format!("{}{}", self.prefix, prefix.as_str()));
        let bucket = self.clone();
        let pages = stream::try_unfold(first, move |page| {
            let (bucket, below) = (bucket.clone(), below.clone());
            async move {
                let Some(token) = page else { return Ok::<_, Error>(None) };
                let request = bucket.client.list_objects_v2().bucket(&*bucket.name).prefix(below);
                let answer = request.set_continuation_token(token).send().await.map_err(failed)?;
                let objects: Vec<_> =
                    answer.contents().iter().filter_map(|object| bucket.listed(object, is_published)).collect();
                let next = answer.next_continuation_token().map(|token| Some(token.to_owned()));
                if answer.is_truncated() == Some(true) && next.is_none() {
                    let problem = "the server cut a listing and did not say how to go on";
                    return Err(Error::new(ErrorKind::Corrupt(problem.into())));
                }
                Ok(Some((stream::iter(objects).map(Ok), next)))
            }
        });
        pages.try_flatten().boxed()
    }

    fn listed(&self, object: &types::Object, is_published: bool) -> Option<ObjectMeta> {
        // A folder that somebody's console made is no object of ours.
        let path = object.key().filter(|path| !path.ends_with('/'))?;
        let key = if is_published {
            Key::listed(format!("/{path}"))
        } else {
            Key::listed(path.strip_prefix(&*self.prefix).filter(|key| !key.is_empty())?)
        };
        Some(ObjectMeta { key, size: size(object.size()), modified: time(object.last_modified()) })
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        match self.client.delete_object().bucket(&*self.name).key(self.path(key)).send().await {
            Ok(_) => Ok(()),
            Err(failure) if is_not_found(&failure) => Ok(()),
            Err(failure) => Err(failed(failure).on(key)),
        }
    }
}

#[async_trait]
impl Store for S3Store {
    async fn head(&self, key: &Key) -> Result<Option<ObjectMeta>> {
        self.bucket.head(key).await
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Option<Bytes>> {
        self.bucket.get(key, limit).await
    }

    async fn open(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        self.bucket.open(key, range).await
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<PutOutcome> {
        if mode == PutMode::Create {
            if self.conditional_create.load(Ordering::Relaxed) {
                return self.bucket.put_new(key, &body).await;
            }
            if self.bucket.head(key).await?.is_some() {
                return Ok(PutOutcome::Existed);
            }
        }
        self.bucket.put(key, body).await?;
        Ok(PutOutcome::Written)
    }

    async fn stage(&self, size: u64, sha256: Option<Sha256>) -> Result<Box<dyn Stage>> {
        let spooled = self.spool.reserve(size).await?;
        Ok(Box::new(S3Stage::new(self.bucket.clone(), self.uploads.clone(), spooled, size, sha256)))
    }

    fn largest_stage(&self) -> Option<(u64, &'static str)> {
        Some((self.spool.max_size(), "spool.max_size"))
    }

    async fn copy(&self, blob: &Sha256, to: &Key, facts: &CopyFacts) -> Result<Copied> {
        copy::copy(&self.bucket, &self.uploads, self.whole_copy_max, blob, to, facts).await
    }

    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ObjectMeta>> {
        self.bucket.list(prefix)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.bucket.delete(key).await
    }

    async fn probe(&self) -> Result<Probe> {
        let probe = probe::probe(&self.bucket, &self.writer).await?;
        self.conditional_create.store(probe.conditional_create, Ordering::Relaxed);
        Ok(probe)
    }

    async fn sweep(&self, apply: bool) -> Result<u64> {
        let spooled = self.spool.sweep(LEFTOVERS_AFTER, apply).await?;
        Ok(spooled + self.uploads.sweep(LEFTOVERS_AFTER, apply).await?)
    }
}

fn size(length: Option<i64>) -> u64 {
    length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0)
}

fn time(modified: Option<&DateTime>) -> SystemTime {
    modified.and_then(|modified| SystemTime::try_from(*modified).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A range as the header names it. Not for empty ones.
fn http_range(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end - 1)
}

/// The size of the whole object from `Content-Range: bytes 0-9/20`, if it begins where it should.
fn whole_size(content_range: Option<&str>, start: u64) -> Option<u64> {
    let (range, size) = content_range?.strip_prefix("bytes ")?.split_once('/')?;
    let begins = range.split_once('-')?.0.parse() == Ok(start);
    size.parse().ok().filter(|_| begins)
}
