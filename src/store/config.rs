//! The `[store]` and `[spool]` sections of the configuration, and how a store is built from them.

use std::{fmt, path::PathBuf, sync::Arc};

use bytesize::ByteSize;
use secrecy::SecretString;
use serde::Deserialize;

use super::{
    Error, ErrorKind, Result, Store,
    local::LocalStore,
    s3::{S3Store, trust},
};

/// `[store]`: where everything is kept.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `local`, a directory, or `s3`, a bucket of any S3 server.
    pub kind: StoreKind,
    /// Most bytes that all blobs may take; without it, no bound. What was served longest ago is evicted, never what a
    /// pin, the policy's `[[mirror]]` list or published copies name. Published copies are not counted.
    pub max_size: Option<ByteSize>,
    /// For `kind = "local"`.
    pub local: LocalConfig,
    /// For `kind = "s3"`.
    pub s3: S3Config,
}

/// Where it is, for people: a path, or a bucket at its server.
impl fmt::Display for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            StoreKind::Local => write!(f, "{}", self.local.path.display()),
            StoreKind::S3 => {
                let S3Config { endpoint, bucket, prefix, .. } = &self.s3;
                write!(f, "s3://{bucket}/{prefix} at {}", endpoint.as_deref().unwrap_or("AWS"))
            }
        }
    }
}

/// The kinds of store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// A directory.
    #[default]
    Local,
    /// A bucket.
    S3,
}

/// `[store.local]`: a directory.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalConfig {
    /// The directory; made when absent. Files on their way in are staged inside it, so that a commit is a
    /// rename: it must be one file system.
    pub path: PathBuf,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self { path: "./hubgate-data".into() }
    }
}

/// `[store.s3]`: a bucket. It is reached directly, never through the egress proxy.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Config {
    /// URL of the server, `http://minio:9000`; without it, AWS.
    pub endpoint: Option<String>,
    /// The bucket; it must exist.
    pub bucket: String,
    /// What stands before all keys, without slashes at its ends; may be empty.
    pub prefix: String,
    /// The region that requests are signed for. Without it, what the AWS SDK's usual chain says where
    /// `access_key` is not set, else `us-east-1`.
    pub region: Option<String>,
    /// Static access key. Without it, the AWS SDK's usual chain: environment, profile, web identity,
    /// container and instance roles.
    pub access_key: Option<String>,
    /// The secret of `access_key`.
    pub secret_key: Option<SecretString>,
    /// A file that holds the secret of `access_key`; read again when it changes.
    pub secret_key_file: Option<PathBuf>,
    /// `http://server/bucket/key` rather than `http://bucket.server/key`.
    pub path_style: bool,
    /// PEM file of certificate authorities to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// Server-side encryption to ask for with every write.
    pub sse: Option<ServerSideEncryption>,
    /// Key for `sse = "aws:kms"`; without it, the bucket's default key.
    pub kms_key_id: Option<String>,
    /// The largest object that is copied in one request, in bytes; S3's own limit, and no key of the configuration.
    #[serde(skip)]
    pub whole_copy_max: u64,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            bucket: String::new(),
            prefix: String::new(),
            region: None,
            access_key: None,
            secret_key: None,
            secret_key_file: None,
            path_style: true,
            ca_file: None,
            sse: None,
            kms_key_id: None,
            whole_copy_max: 5 << 30,
        }
    }
}

/// The kinds of server-side encryption that the bucket's owner can demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum ServerSideEncryption {
    /// Keys of the store.
    #[serde(rename = "AES256")]
    Aes256,
    /// Keys of a key management service.
    #[serde(rename = "aws:kms")]
    AwsKms,
}

/// `[spool]`: where files on their way into a bucket grow. A local store has no use for it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    /// The directory; made when absent.
    pub dir: PathBuf,
    /// Most bytes that all files in it may take. Each file reserves its announced size at its start, so
    /// this also bounds the largest file that can be fetched.
    pub max_size: ByteSize,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self { dir: "./hubgate-spool".into(), max_size: ByteSize::gb(100) }
    }
}

impl StoreConfig {
    /// What is worth saying before the store is asked: it could not be used, and nothing here is set wrongly.
    pub fn warning(&self) -> Option<String> {
        match self.kind {
            StoreKind::Local => None,
            StoreKind::S3 => trust::warning(&self.s3),
        }
    }
}

/// Builds the store that is configured. `writer` names this process in keys and staging folders, so it
/// holds only letters, digits, `-`, `_` and `.`.
pub async fn build(config: &StoreConfig, spool: &SpoolConfig, writer: &str) -> Result<Arc<dyn Store>> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if writer.is_empty() || writer.starts_with('.') || !writer.bytes().all(plain) {
        return Err(Error::new(ErrorKind::Misconfigured(format!(
            "the writer's name {writer:?} may hold only letters, digits, '-', '_' and '.', and not start with '.'"
        ))));
    }
    match config.kind {
        StoreKind::Local => Ok(Arc::new(LocalStore::create(&config.local, writer).await?)),
        StoreKind::S3 => Ok(Arc::new(S3Store::create(&config.s3, spool, writer).await?)),
    }
}

/// Builds the store that is configured for who only reads it: nothing is made, neither in a directory, which must be
/// there, nor beside a bucket. What would write to a directory is an error.
pub async fn build_to_read(config: &StoreConfig, spool: &SpoolConfig) -> Result<Arc<dyn Store>> {
    match config.kind {
        StoreKind::Local => Ok(Arc::new(LocalStore::open_to_read(&config.local).await?)),
        StoreKind::S3 => Ok(Arc::new(S3Store::open_to_read(&config.s3, spool).await?)),
    }
}
