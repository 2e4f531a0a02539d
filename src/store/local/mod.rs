//! A directory as a store: an object is a file, its key the path.
//!
//! An object appears by the rename of a synced file and is never written in place; directories are synced
//! after a rename, so what was said to be stored survives a power cut. Files on their way in stand in
//! `.staging`, which no key can name. Links that stand inside the directory are followed: its owner made them.

mod copy;
mod folders;
mod stage;
mod walk;

use std::{
    fs::{self, File},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use moka::future::Cache;
use rustix::{
    fs::{Mode, OFlags, RenameFlags, ResolveFlags},
    io::Errno,
};

use super::{
    Copied, CopyFacts, Error, ErrorKind, Key, LocalConfig, Object, ObjectBody, ObjectMeta, Prefix, Probe, PutMode,
    PutOutcome, Result, Stage, Store, blocking,
    staging::{self, Staging},
};
use crate::{
    body::{FileBody, read_at},
    hub::Sha256,
};
use folders::{Folders, create_root, sync_parent};
use stage::LocalStage;
use walk::Walk;

/// How long an open blob may be handed out again. Blobs never change, so this only bounds how long one
/// that another process removed or replaced is still seen here.
const REUSED_FOR: Duration = Duration::from_secs(10);

/// Most blobs kept open; a quarter of the process's file descriptors where that is less.
const KEPT_OPEN: u64 = 1024;

/// Leftovers of dead processes are removed when they are older than this.
const LEFTOVERS_AFTER: Duration = Duration::from_hours(24);

/// How many objects one trip to the blocking pool lists.
const LISTED_AT_ONCE: usize = 1000;

/// A directory store.
#[derive(Debug)]
pub(super) struct LocalStore {
    root: PathBuf,
    /// The directory itself, so that opening a file need not walk to it.
    directory: File,
    folders: Arc<Folders>,
    /// None in a store that is only read.
    staging: Option<Arc<Staging>>,
    writer: String,
    /// Shows who wants to be alone here that a store is read.
    _visit: Option<File>,
    open_blobs: Cache<Key, OpenFile>,
}

#[derive(Debug, Clone)]
struct OpenFile {
    file: Arc<File>,
    size: u64,
}

impl LocalStore {
    /// Opens the directory, makes it where there is none, and takes a staging folder in it.
    pub(super) async fn create(config: &LocalConfig, writer: &str) -> Result<Self> {
        let (root, name) = (config.path.clone(), writer.to_owned());
        let opened = blocking(move || {
            create_root(&root)?;
            let root = root.canonicalize()?;
            let directory = File::open(&root)?;
            let staging = Staging::take(&root, &name)?;
            Ok((root, directory, staging))
        });
        let (root, directory, staging) = opened.await.map_err(|error| not_opened(config, error))?;
        Ok(Self { staging: Some(Arc::new(staging)), writer: writer.to_owned(), ..Self::of(root, directory) })
    }

    /// Opens a directory that is there, and leaves it as it is: what would write is an error.
    pub(super) async fn open_to_read(config: &LocalConfig) -> Result<Self> {
        let root = config.path.clone();
        let opened = blocking(move || {
            let root = root.canonicalize()?;
            Ok((File::open(&root)?, staging::visit(&root)?, root))
        });
        let (directory, visit, root) = opened.await.map_err(|error| not_opened(config, error))?;
        Ok(Self { _visit: visit, ..Self::of(root, directory) })
    }

    fn of(root: PathBuf, directory: File) -> Self {
        let kept = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX) / 4;
        Self {
            folders: Arc::new(Folders::new(root.clone())),
            root,
            directory,
            staging: None,
            writer: String::new(),
            _visit: None,
            open_blobs: Cache::builder().max_capacity(kept.min(KEPT_OPEN)).time_to_live(REUSED_FOR).build(),
        }
    }

    fn staging(&self) -> Result<Arc<Staging>> {
        self.staging.clone().ok_or_else(staging::only_read)
    }

    fn path(&self, key: &Key) -> Result<PathBuf> {
        let plain = |segment: &str| !matches!(segment, "" | "." | "..") && !segment.contains('\0');
        let relative = relative(key);
        if relative.split('/').all(plain) && !staging::is_hidden(relative) {
            return Ok(self.root.join(relative));
        }
        Err(Error::new(ErrorKind::Other("not a key of this store".into())).on(key))
    }

    /// Opens an object: on this thread where the kernel has the way to it in its caches, else on a
    /// blocking one.
    async fn open_file(&self, key: &Key) -> Result<Option<OpenFile>> {
        let path = self.path(key)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened =
            match rustix::fs::openat2(&self.directory, relative(key), flags, Mode::empty(), ResolveFlags::CACHED) {
                Ok(fd) => Ok(File::from(fd)),
                Err(Errno::NOENT) => return Ok(None),
                // Not cached, or a kernel or sandbox without this call.
                Err(_) => blocking(move || File::open(path)).await,
            };
        let Some(file) = found(opened).map_err(|error| self.failed(key, error))? else { return Ok(None) };
        let metadata = file.metadata().map_err(|error| self.failed(key, error))?;
        Ok(metadata.is_file().then(|| OpenFile { file: Arc::new(file), size: metadata.len() }))
    }

    async fn open_blob(&self, key: &Key) -> Result<Option<OpenFile>> {
        if !key.as_str().starts_with(Prefix::blobs().as_str()) {
            return self.open_file(key).await;
        }
        if let Some(open) = self.open_blobs.get(key).await {
            return Ok(Some(open));
        }
        let open = self.open_file(key).await?;
        if let Some(open) = &open {
            self.open_blobs.insert(key.clone(), open.clone()).await;
        }
        Ok(open)
    }

    fn failed(&self, key: &Key, error: io::Error) -> Error {
        failed(&self.root, error).on(key)
    }
}

#[async_trait]
impl Store for LocalStore {
    async fn head(&self, key: &Key) -> Result<Option<ObjectMeta>> {
        let Some(open) = self.open_file(key).await? else { return Ok(None) };
        let modified =
            open.file.metadata().and_then(|metadata| metadata.modified()).map_err(|error| self.failed(key, error))?;
        Ok(Some(ObjectMeta { key: key.clone(), size: open.size, modified }))
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Option<Bytes>> {
        let Some(OpenFile { file, size }) = self.open_file(key).await? else { return Ok(None) };
        let too_large = || Error::new(ErrorKind::TooLarge(limit)).on(key);
        if size > limit {
            return Err(too_large());
        }
        let mut left = usize::try_from(size).map_err(|_| too_large())?;
        let mut whole = BytesMut::new();
        while left > 0 {
            let bytes = read_at(&file, size - left as u64, left).await.map_err(|error| self.failed(key, error))?;
            if bytes.is_empty() {
                return Err(Error::new(ErrorKind::Corrupt(format!("the file ends {left} bytes early"))).on(key));
            }
            if bytes.len() as u64 == size {
                // A copy, since callers keep these and a read buffer is much larger.
                return Ok(Some(Bytes::copy_from_slice(&bytes)));
            }
            left -= bytes.len();
            whole.extend_from_slice(&bytes);
        }
        Ok(Some(whole.freeze()))
    }

    async fn open(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        let Some(OpenFile { file, size }) = self.open_blob(key).await? else { return Ok(None) };
        let range = range.unwrap_or(0..size);
        if range.start > range.end || range.end > size {
            let problem = format!("bytes {}..{} of an object of {size} bytes", range.start, range.end);
            return Err(Error::new(ErrorKind::Other(problem)).on(key));
        }
        let body = ObjectBody::File { body: FileBody::new(file, range), key: key.clone() };
        Ok(Some(Object { size, body }))
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<PutOutcome> {
        let (path, staging, folders) = (self.path(key)?, self.staging()?, self.folders.clone());
        let written = blocking(move || {
            if mode == PutMode::Create && path.exists() {
                folders.settle(&path)?;
                return Ok(PutOutcome::Existed);
            }
            let (staged, file) = staging.new_file()?;
            io::Write::write_all(&mut &file, &body)?;
            file.sync_all()?;
            match mode {
                PutMode::Overwrite => folders.publish(&path, || fs::rename(&*staged, &path))?,
                PutMode::Create => match folders.publish(&path, || rename_new(&staged, &path)) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        folders.settle(&path)?;
                        return Ok(PutOutcome::Existed);
                    }
                    outcome => outcome?,
                },
            }
            staged.published();
            Ok(PutOutcome::Written)
        });
        let outcome = written.await.map_err(|error| self.failed(key, error))?;
        self.open_blobs.invalidate(key).await;
        Ok(outcome)
    }

    async fn stage(&self, size: u64, _sha256: Option<Sha256>) -> Result<Box<dyn Stage>> {
        let staging = self.staging()?;
        let staged = blocking(move || {
            let (staged, file) = staging.new_file()?;
            staging::reserve(&file, size)?;
            Ok((staged, file))
        });
        let (staged, file) = staged.await.map_err(|error| failed(&self.root, error))?;
        Ok(Box::new(LocalStage::new(
            self.root.clone(),
            self.folders.clone(),
            staged,
            file,
            size,
            self.open_blobs.clone(),
        )))
    }

    fn largest_stage(&self) -> Option<(u64, &'static str)> {
        None
    }

    async fn copy(&self, blob: &Sha256, to: &Key, _facts: &CopyFacts) -> Result<Copied> {
        let (from, path) = (self.path(&Key::blob(blob))?, self.path(to)?);
        let (staging, folders) = (self.staging()?, self.folders.clone());
        let copied = blocking(move || copy::copy(&from, &path, &staging, &folders));
        copied.await.map_err(|error| self.failed(to, error))?;
        Ok(Copied::Made)
    }

    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ObjectMeta>> {
        let walk = Walk::below(&self.root, prefix);
        let batches = stream::try_unfold(walk, |mut walk| async {
            let (batch, walk) = blocking(move || {
                let batch: Vec<_> = walk.by_ref().take(LISTED_AT_ONCE).collect::<io::Result<_>>()?;
                Ok((batch, walk))
            })
            .await
            .map_err(|error| failed(&self.root, error))?;
            Ok::<_, Error>((!batch.is_empty()).then(|| (stream::iter(batch).map(Ok), walk)))
        });
        batches.try_flatten().boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.staging()?;
        let path = self.path(key)?;
        // Only the Hub's own names can have a file where a folder was.
        let pruned = key.from_top().map(|_| (self.root.clone(), self.folders.clone()));
        let removed = blocking(move || {
            if found(fs::remove_file(&path))?.is_some() {
                // A folder that another process has emptied and removed meanwhile needs no sync.
                found(sync_parent(&path))?;
            }
            pruned.map_or(Ok(()), |(root, folders)| copy::prune(&path, &root, &folders))
        });
        removed.await.map_err(|error| self.failed(key, error))?;
        self.open_blobs.invalidate(key).await;
        Ok(())
    }

    async fn probe(&self) -> Result<Probe> {
        let key = Key::probe(&self.writer);
        let tried = async {
            let body = Bytes::from_static(b"hubgate was here\n");
            self.put(&key, body.clone(), PutMode::Overwrite).await?;
            let read = self.get(&key, 1024).await?;
            let again = self.put(&key, body.clone(), PutMode::Create).await?;
            self.delete(&key).await?;
            Ok((read == Some(body), again == PutOutcome::Existed))
        };
        let (is_read_back, conditional_create) = tried.await.map_err(|error: Error| {
            let problem =
                format!("store.local.path {} cannot be written and read: {}", self.root.display(), error.kind);
            Error::new(ErrorKind::Misconfigured(problem)).caused_by(error)
        })?;
        if !is_read_back {
            let problem = format!("store.local.path {} does not give back what was written", self.root.display());
            return Err(Error::new(ErrorKind::Misconfigured(problem)));
        }
        Ok(Probe { conditional_create, warnings: Vec::new() })
    }

    async fn take_alone(&self) -> Result<()> {
        let staging = self.staging()?;
        blocking(move || staging.take_alone()).await.map_err(|error| {
            if error.kind() != io::ErrorKind::ResourceBusy {
                return failed(&self.root, error);
            }
            let problem = format!(
                "other hubgate processes use {} (store.local.path): stop them first, or do this without --apply",
                self.root.display()
            );
            Error::new(ErrorKind::Other(problem))
        })
    }

    async fn sweep(&self, apply: bool) -> Result<u64> {
        let staging = self.staging()?;
        blocking(move || staging.sweep(LEFTOVERS_AFTER, apply)).await.map_err(|error| failed(&self.root, error))
    }
}

fn not_opened(config: &LocalConfig, error: io::Error) -> Error {
    let path = config.path.display();
    if error.kind() == io::ErrorKind::ResourceBusy {
        let problem = format!("hubgate gc has {path} (store.local.path) for itself; start again when it has ended");
        return Error::new(ErrorKind::Other(problem));
    }
    let problem = format!("store.local.path {path} cannot be used by this user: {error}");
    Error::new(ErrorKind::Misconfigured(problem)).caused_by(error)
}

/// A key's way from the store's directory.
fn relative(key: &Key) -> &str {
    key.from_top().unwrap_or(key.as_str())
}

/// Nothing there is an answer, not a failure.
fn found<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(there) => Ok(Some(there)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(root: &Path, error: io::Error) -> Error {
    let mut failure = Error::from(error);
    if let ErrorKind::Full(limit) = &mut failure.kind {
        *limit = format!("the file system of store.local.path ({}) is full", root.display());
    }
    failure
}

/// A rename that replaces nothing. File systems without it (NFS, some FUSE) have hard links, which do not
/// replace either.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        outcome => Ok(outcome?),
    }
}

#[cfg(test)]
mod tests;
