//! A blob on its way into a directory: the staging file, and at the end a rename.

use std::{fs::File, io, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use moka::future::Cache;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{OpenFile, failed, folders::Folders};
use crate::{
    hub::Sha256,
    store::{Error, ErrorKind, Key, Result, Stage, blocking, staging::StagedPath},
};

/// How much is written before its write-back is started.
const WRITE_BACK_BYTES: u64 = 16 * 1024 * 1024;

/// How far the disk may fall behind before [`Stage::advance`] waits for it.
const BEHIND_BYTES: u64 = 64 * 1024 * 1024;

/// A staged blob of a directory store.
pub(super) struct LocalStage {
    root: PathBuf,
    folders: Arc<Folders>,
    staged: StagedPath,
    file: Arc<File>,
    size: u64,
    /// Bytes from the start that are on the disk.
    taken: u64,
    /// The write-back under way. `fdatasync`, as no safe binding has `sync_file_range`; on a blocking
    /// thread, so that it overlaps with the download, and in steps, so that the last one is short.
    syncing: Option<(u64, JoinHandle<io::Result<()>>)>,
    open_blobs: Cache<Key, OpenFile>,
}

impl LocalStage {
    pub(super) fn new(
        root: PathBuf,
        folders: Arc<Folders>,
        staged: StagedPath,
        file: File,
        size: u64,
        open_blobs: Cache<Key, OpenFile>,
    ) -> Self {
        Self { root, folders, staged, file: Arc::new(file), size, taken: 0, syncing: None, open_blobs }
    }

    /// Waits for the write-back under way, if there is one. A failure is told once by the kernel, so it
    /// must end the stage: the caller drops it.
    async fn synced(&mut self) -> Result<()> {
        if let Some((upto, sync)) = self.syncing.take() {
            sync.await
                .unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
                .map_err(|error| failed(&self.root, error))?;
            self.taken = self.taken.max(upto);
        }
        Ok(())
    }
}

#[async_trait]
impl Stage for LocalStage {
    fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    async fn advance(&mut self, upto: u64) -> Result<u64> {
        if self.syncing.as_ref().is_some_and(|(_, sync)| sync.is_finished()) || upto > self.taken + BEHIND_BYTES {
            self.synced().await?;
        }
        if self.syncing.is_none() && upto >= self.taken + WRITE_BACK_BYTES {
            let file = self.file.clone();
            self.syncing = Some((upto, spawn_blocking(move || file.sync_data())));
        }
        Ok(self.taken)
    }

    async fn commit(mut self: Box<Self>, sha256: Sha256) -> Result<()> {
        self.synced().await?;
        let Self { root, folders, staged, file, size, open_blobs, .. } = *self;
        let key = Key::blob(&sha256);
        let path = root.join(key.as_str());
        let committed = blocking(move || {
            let metadata = file.metadata()?;
            if metadata.len() != size {
                return Ok(Err(metadata.len()));
            }
            let mut permissions = metadata.permissions();
            permissions.set_readonly(true);
            file.set_permissions(permissions)?;
            file.sync_all()?;
            folders.publish(&path, || std::fs::rename(&*staged, &path))?;
            staged.published();
            Ok(Ok(()))
        });
        match committed.await.map_err(|error| failed(&root, error).on(&key))? {
            Ok(()) => {
                open_blobs.invalidate(&key).await;
                Ok(())
            }
            Err(len) => {
                let problem = format!("the staging file has {len} bytes, {size} were announced");
                Err(Error::new(ErrorKind::Corrupt(problem)).on(&key))
            }
        }
    }
}
