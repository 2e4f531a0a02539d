//! The local disk space in which files on their way into the bucket grow.

use std::{
    fs::{self, File},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytesize::ByteSize;

use crate::store::{
    Error, ErrorKind, Result, SpoolConfig, blocking,
    staging::{self, StagedPath, Staging},
};

/// What a dead process spooled is of no use, so it makes room when the next one starts; the minute is for
/// a process that has made its folder and not yet locked it.
const DEAD_AFTER: Duration = Duration::from_mins(1);

/// The spool of this process.
#[derive(Debug)]
pub(super) struct Spool {
    dir: PathBuf,
    /// None where the bucket is only read.
    staging: Option<Arc<Staging>>,
    max_size: u64,
    reserved: AtomicU64,
}

/// A file in the spool, and the room that was reserved for it. Both are given back on drop.
#[derive(Debug)]
pub(super) struct Spooled {
    pub(super) file: Arc<File>,
    _path: StagedPath,
    _room: Room,
}

#[derive(Debug)]
struct Room {
    spool: Arc<Spool>,
    size: u64,
}

impl Spool {
    pub(super) async fn open(config: &SpoolConfig, writer: &str) -> Result<Self> {
        let (dir, writer) = (config.dir.clone(), writer.to_owned());
        let opened = blocking(move || {
            fs::create_dir_all(&dir)?;
            let staging = Staging::take(&dir, &writer)?;
            staging.sweep(DEAD_AFTER, true)?;
            Ok(staging)
        });
        let staging = opened.await.map_err(|error| {
            let problem = format!("spool.dir {} cannot be used by this user: {error}", config.dir.display());
            Error::new(ErrorKind::Misconfigured(problem)).caused_by(error)
        })?;
        Ok(Self { staging: Some(Arc::new(staging)), ..Self::unmade(config) })
    }

    /// A spool into which nothing will be written: no folder is made.
    pub(super) fn unmade(config: &SpoolConfig) -> Self {
        Self { dir: config.dir.clone(), staging: None, max_size: config.max_size.as_u64(), reserved: AtomicU64::new(0) }
    }

    fn staging(&self) -> Result<Arc<Staging>> {
        self.staging.clone().ok_or_else(staging::only_read)
    }

    pub(super) fn max_size(&self) -> u64 {
        self.max_size
    }

    /// A file of `size` bytes, if the spool and the disk have room for it now.
    pub(super) async fn reserve(self: &Arc<Self>, size: u64) -> Result<Spooled> {
        let staging = self.staging()?;
        let room = self.clone().room(size)?;
        let spooled = blocking(move || {
            let (path, file) = staging.new_file()?;
            staging::reserve(&file, size)?;
            Ok((path, file))
        });
        let (path, file) = spooled.await.map_err(|error| {
            let mut failure = Error::from(error);
            if let ErrorKind::Full(limit) = &mut failure.kind {
                *limit = format!("the file system of spool.dir ({}) is full", self.dir.display());
            }
            failure
        })?;
        Ok(Spooled { file: Arc::new(file), _path: path, _room: room })
    }

    fn room(self: Arc<Self>, size: u64) -> Result<Room> {
        let full = |problem: String| Err(Error::new(ErrorKind::Full(problem)));
        let max = ByteSize::b(self.max_size);
        if size > self.max_size {
            return full(format!("a file of {} is larger than spool.max_size, {max}", ByteSize::b(size)));
        }
        let fits = |reserved: u64| reserved.checked_add(size).filter(|sum| *sum <= self.max_size);
        match self.reserved.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(_) => Ok(Room { spool: self, size }),
            Err(reserved) => full(format!(
                "files on their way in hold {} of spool.max_size, {max}; this one needs {}",
                ByteSize::b(reserved),
                ByteSize::b(size)
            )),
        }
    }

    pub(super) async fn sweep(&self, age: Duration, apply: bool) -> Result<u64> {
        let staging = self.staging()?;
        Ok(blocking(move || staging.sweep(age, apply)).await?)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.spool.reserved.fetch_sub(self.size, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn spool_in(dir: &std::path::Path, max_size: u64) -> Arc<Spool> {
        let config = SpoolConfig { dir: dir.to_owned(), max_size: ByteSize::b(max_size) };
        Arc::new(Spool::open(&config, "test").await.unwrap())
    }

    fn is_full(outcome: Result<Spooled>) -> bool {
        matches!(outcome, Err(Error { kind: ErrorKind::Full(limit), .. }) if limit.contains("spool.max_size"))
    }

    #[tokio::test]
    async fn room_is_reserved_at_the_start_and_given_back_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool_in(dir.path(), 100).await;
        let first = spool.reserve(60).await.unwrap();
        assert!(is_full(spool.reserve(41).await));
        let second = spool.reserve(40).await.unwrap();
        drop(first);
        assert!(is_full(spool.reserve(61).await));
        let third = spool.reserve(60).await.unwrap();
        drop((second, third));
        assert!(is_full(spool.reserve(101).await));
        assert_eq!(spool.reserved.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn what_a_full_disk_refused_holds_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool_in(dir.path(), u64::MAX).await;
        let error = spool.reserve(1 << 60).await.unwrap_err();
        assert!(matches!(&error.kind, ErrorKind::Full(limit) if limit.contains("spool.dir")), "{error:?}");
        assert_eq!(spool.reserved.load(Ordering::Acquire), 0);
    }
}
