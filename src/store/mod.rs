//! Where everything is kept: one contract over a directory and a bucket, with the same keys.
//!
//! The store knows keys, bytes and sizes. It never asks upstream, never decides what may be served, and
//! reads nothing from object metadata, which plain copies between stores lose. `aws-sdk-s3` is the named
//! client and its types stay inside `s3`; a small trait of our own, not `object_store`'s, because a fill
//! needs a staging file that readers follow while it grows ([`Stage`]).
//!
//! What every store promises (and `tests/it/store_conformance.rs` holds each of them to):
//! - an object is there whole or not at all, whatever crashes;
//! - what was written is read back at once by everybody;
//! - a stage that is dropped leaves nothing visible.

mod bounded;
mod config;
mod dry_run;
mod key;
mod layout;
mod local;
mod published;
mod s3;
mod staging;
mod watched;

use std::{
    any::Any,
    fs::File,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use http_body::SizeHint;
use http_body_util::combinators::UnsyncBoxBody;

use crate::{
    body::{Chunk, Chunks, FileBody, Taken},
    hub::Sha256,
};

pub use bounded::{Left, MakesRoom, Room, bounded};
pub use config::{
    LocalConfig, S3Config, ServerSideEncryption, SpoolConfig, StoreConfig, StoreKind, build, build_to_read,
};
pub use dry_run::DryRun;
pub use key::{Key, Prefix};
pub use layout::{check_layout, open_layout};
pub use published::{CATALOGUE, Copied, CopyFacts, MARKER, PublishPrefix};
pub use watched::{StoreHealth, watched};

/// The store's answers.
pub type Result<T> = std::result::Result<T, Error>;

/// A directory or a bucket.
#[async_trait]
pub trait Store: std::fmt::Debug + Send + Sync + 'static {
    /// Size and age of an object; `None` where there is none.
    async fn head(&self, key: &Key) -> Result<Option<ObjectMeta>>;

    /// A small object whole. One larger than `limit` bytes is an error, not a truncation.
    async fn get(&self, key: &Key, limit: u64) -> Result<Option<Bytes>>;

    /// Opens an object for reading, or one range of it (which must lie inside the object). The body holds
    /// a bounded buffer, and ends with an error rather than short.
    async fn open(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>>;

    /// Writes a small object. With [`PutMode::Create`] an object that is there already is kept where the
    /// store can tell (S3 servers differ); correctness must not depend on it.
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<PutOutcome>;

    /// Begins a blob of exactly `size` bytes. `sha256` is its announced digest where one is known; a git
    /// file's is known only at the end.
    async fn stage(&self, size: u64, sha256: Option<Sha256>) -> Result<Box<dyn Stage>>;

    /// Whether a blob of `size` bytes fits beside all that is stored. An error where no room can be made for it either.
    fn has_room(&self, _size: u64) -> Result<bool> {
        Ok(true)
    }

    /// Makes room for a blob of `size` bytes, where it has none, by removing what is needed least. For who knows that the
    /// blob can be had: what goes may be worth more.
    async fn make_room(&self, _size: u64) -> Result<()> {
        Ok(())
    }

    /// The largest blob that can ever be staged here, with the configuration key that bounds it.
    fn largest_stage(&self) -> Option<(u64, &'static str)>;

    /// Makes a published copy of a blob without reading it through this process: the whole of it or nothing is
    /// there at any moment, over whatever was there. A blob that is not there is an error.
    async fn copy(&self, blob: &Sha256, to: &Key, facts: &CopyFacts) -> Result<Copied>;

    /// All objects below a prefix, in the order of their keys.
    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ObjectMeta>>;

    /// Removes an object; one that is not there is no error.
    async fn delete(&self, key: &Key) -> Result<()>;

    /// The start-up probe: reads, writes and deletes one object and looks for what would lose data.
    /// An error names what is wrong and the remedy; a [`Probe`] says what is merely worth knowing.
    async fn probe(&self) -> Result<Probe>;

    /// Takes the store for this process alone, until it ends: for removing what others might be about to use. An error
    /// where other processes are in a directory; a bucket knows of no others and says yes.
    async fn take_alone(&self) -> Result<()> {
        Ok(())
    }

    /// Removes what dead writers left behind (staging files, unfinished uploads) longer than 24 h ago,
    /// never a live one's. Without `apply` it removes nothing. Returns how many leftovers went, or would.
    async fn sweep(&self, apply: bool) -> Result<u64>;
}

/// A blob on its way into the store: a file that is written at any offset and read by others while it
/// grows, and that becomes an object at the end or never. Dropped before [`Stage::commit`], it leaves
/// nothing visible and gives back what it reserved.
#[async_trait]
pub trait Stage: Send + Sync {
    /// The staging file, `size` bytes long from the start. Written and read by offset, by anybody.
    fn file(&self) -> Arc<File>;

    /// The room that the file takes, where that is bounded. Who reads the file after the commit holds it as long.
    fn room(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::new(())
    }

    /// Says that bytes `0..upto` are written and final, so that the store can begin to take them (upload
    /// parts, start write-back). Returns how many bytes from the start it has taken; a blob that is taken
    /// in one go at the end counts as taken.
    ///
    /// Waits, for one part at most, only when the store is more than 64 MiB behind. So a caller whose last
    /// byte is written calls it with the whole size until 64 MiB or less are left, then commits. An error
    /// ends the stage.
    async fn advance(&mut self, upto: u64) -> Result<u64>;

    /// Makes the whole file the blob `sha256`, durably. A blob that is there already is written again, so that its
    /// time is new: what nobody recorded may be about to be removed for its age.
    async fn commit(self: Box<Self>, sha256: Sha256) -> Result<()>;
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key.
    pub key: Key,
    /// Length in bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: SystemTime,
}

/// An open object.
pub struct Object {
    /// Length of the whole object in bytes, whatever range was opened.
    pub size: u64,
    /// The bytes of the range that was asked for.
    pub body: ObjectBody,
}

/// A body whose technique the store has chosen. As an [`http_body::Body`] it is for who looks at the bytes.
pub enum ObjectBody {
    /// One range of a file.
    File {
        /// Its bytes.
        body: FileBody,
        /// What it is the file of.
        key: Key,
    },
    /// Bytes that come from elsewhere.
    Stream(UnsyncBoxBody<Bytes, Error>),
}

impl http_body::Body for ObjectBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>>>> {
        match self.get_mut() {
            Self::File { body, key } => Pin::new(body).poll_frame(cx).map_err(|error| Error::from(error).on(key)),
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.size_to_come()
    }
}

impl Chunks for ObjectBody {
    type Error = Error;

    fn poll_chunk(&mut self, cx: &mut Context<'_>, taken: Taken) -> Poll<Option<Result<Chunk>>> {
        match self {
            Self::File { body, key } => body.poll_chunk(cx, taken).map_err(|error| Error::from(error).on(key)),
            Self::Stream(body) => body.poll_chunk(cx, taken),
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::File { body, .. } => body.is_over(),
            Self::Stream(body) => body.is_over(),
        }
    }

    fn size_to_come(&self) -> SizeHint {
        match self {
            Self::File { body, .. } => body.size_to_come(),
            Self::Stream(body) => body.size_to_come(),
        }
    }
}

/// Whether [`Store::put`] may replace what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// Keep what is there.
    Create,
    /// Replace it.
    Overwrite,
}

/// What [`Store::put`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object now has the new body.
    Written,
    /// An object was there and was kept.
    Existed,
}

/// What the start-up probe found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probe {
    /// Whether the store honours create-only writes.
    pub conditional_create: bool,
    /// What an operator should know, one sentence each.
    pub warnings: Vec<String>,
}

/// A store's failure: what kind, on which key, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("store: {kind}{}", on_key(key.as_ref()))]
pub struct Error {
    /// What a caller can act on.
    pub kind: ErrorKind,
    /// The key, where one was at hand.
    pub key: Option<Key>,
    /// What the file system or S3 said.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure of this kind.
    pub fn new(kind: ErrorKind) -> Self {
        Self { kind, key: None, source: None }
    }

    /// The same failure, on this key.
    #[must_use]
    pub fn on(mut self, key: &Key) -> Self {
        self.key = Some(key.clone());
        self
    }

    /// The same failure, with what the file system or S3 said.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => {
                ErrorKind::Full("the file system of store.local.path or spool.dir".into())
            }
            Io::UnexpectedEof => ErrorKind::Corrupt(error.to_string()),
            Io::TimedOut | Io::StaleNetworkFileHandle => ErrorKind::Unreachable,
            // Out of file descriptors, in this process or in the machine.
            _ if matches!(error.raw_os_error(), Some(23 | 24)) => ErrorKind::Busy,
            _ => ErrorKind::Other(error.to_string()),
        };
        Self::new(kind).caused_by(error)
    }
}

/// Runs file-system calls where they may wait.
async fn blocking<T: Send + 'static>(
    calls: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(calls).await.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped)))
}

fn on_key(key: Option<&Key>) -> String {
    key.map(|key| format!(" ({key})")).unwrap_or_default()
}

/// The kinds of failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// Not to be reached, or timed out; waiting may help.
    #[error("unreachable")]
    Unreachable,
    /// Asked too fast, or a passing fault; trying again helps.
    #[error("busy")]
    Busy,
    /// Credentials refused or missing rights.
    #[error("permission denied")]
    PermissionDenied,
    /// No room left: which limit, and the configuration key that sets it.
    #[error("no room: {0}")]
    Full(String),
    /// An object that is larger than the reader was prepared for.
    #[error("object larger than {0} bytes")]
    TooLarge(u64),
    /// Set up wrongly: what, and the remedy. Waiting does not help.
    #[error("{0}")]
    Misconfigured(String),
    /// What is stored is not what was written.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}
