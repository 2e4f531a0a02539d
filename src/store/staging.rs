//! Files on their way in, in `.staging`: one folder for each process that writes, owned by a lock that the kernel gives up when the
//! process ends, so that what the dead left behind can be told from what the living write. Beside them stands one lock that all
//! processes share, for who must be alone.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{FallocateFlags, FlockOperation, fallocate, flock},
    io::Errno,
};
use uuid::Uuid;

use super::{Error, ErrorKind};

/// The folder of all staging folders, below the store's or the spool's own.
const FOLDER: &str = ".staging";

/// The lock that all processes share, beside that folder.
const IN_USE: &str = ".in-use";

/// The lock inside a staging folder.
const LOCK: &str = "lock";

/// Whether a key or a name at the top of the store is the store's own business.
pub(super) fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

/// Takes part in the lock that all processes share, where there is one, and makes nothing: for who only reads.
/// [`io::ErrorKind::ResourceBusy`] while another process is alone here.
pub(super) fn visit(root: &Path) -> io::Result<Option<File>> {
    match File::open(root.join(IN_USE)) {
        Ok(in_use) => {
            lock(&in_use, FlockOperation::NonBlockingLockShared)?;
            Ok(Some(in_use))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says no to who would write to a store that was opened to be read.
pub(super) fn only_read() -> Error {
    Error::new(ErrorKind::Other("the store was opened to be read only".into()))
}

/// The staging folder of this process.
#[derive(Debug)]
pub(super) struct Staging {
    all: PathBuf,
    own: PathBuf,
    /// Held as long as this lives.
    _lock: File,
    /// Shared with all processes that use the folder.
    in_use: File,
}

/// A file in the staging folder; removed when dropped, unless it was published.
#[derive(Debug)]
pub(super) struct StagedPath {
    path: PathBuf,
    is_published: bool,
    /// The folder stays while a file in it is in use.
    _staging: Arc<Staging>,
}

impl Staging {
    /// Makes and locks a staging folder for this process. [`io::ErrorKind::ResourceBusy`] while another process is
    /// alone here.
    pub(super) fn take(root: &Path, writer: &str) -> io::Result<Self> {
        let all = root.join(FOLDER);
        fs::create_dir_all(root)?;
        let in_use = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(root.join(IN_USE))?;
        lock(&in_use, FlockOperation::NonBlockingLockShared)?;
        let own = all.join(format!("{writer}.{}", Uuid::now_v7().simple()));
        fs::create_dir_all(&own)?;
        let lock = File::create(own.join(LOCK))?;
        // Waits only for a sweep that has just found the new folder and looks whether it is in use.
        lock.lock()?;
        Ok(Self { all, own, _lock: lock, in_use })
    }

    /// Keeps all other processes out from now on. [`io::ErrorKind::ResourceBusy`] where there are any.
    pub(super) fn take_alone(&self) -> io::Result<()> {
        let alone = lock(&self.in_use, FlockOperation::NonBlockingLockExclusive);
        if alone.is_err() {
            // Asking for more gave up what we had.
            lock(&self.in_use, FlockOperation::NonBlockingLockShared)?;
        }
        alone
    }

    /// An empty file to write.
    pub(super) fn new_file(self: &Arc<Self>) -> io::Result<(StagedPath, File)> {
        let path = self.own.join(Uuid::now_v7().simple().to_string());
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok((StagedPath { path, is_published: false, _staging: self.clone() }, file))
    }

    /// Removes the folders whose process is gone and in which nothing happened for `age`; without `apply`, only looks
    /// for them. Returns how many files they hold.
    pub(super) fn sweep(&self, age: Duration, apply: bool) -> io::Result<u64> {
        let mut found = 0;
        for folder in fs::read_dir(&self.all)? {
            let folder = folder?.path();
            if folder == self.own || !folder.is_dir() {
                continue;
            }
            match sweep_folder(&folder, age, apply) {
                Ok(files) => found += files,
                // Another process sweeps too.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is swept later.
        let _ = fs::remove_dir_all(&self.own);
    }
}

fn lock(file: &File, operation: FlockOperation) -> io::Result<()> {
    match flock(file, operation) {
        Err(Errno::WOULDBLOCK) => Err(io::ErrorKind::ResourceBusy.into()),
        outcome => Ok(outcome?),
    }
}

fn sweep_folder(folder: &Path, age: Duration, apply: bool) -> io::Result<u64> {
    let lock = match OpenOptions::new().write(true).create(apply).truncate(false).open(folder.join(LOCK)) {
        Ok(lock) => Some(lock),
        // Nobody can hold what is not there.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !apply => None,
        Err(error) => return Err(error),
    };
    match lock.as_ref().map_or(Ok(()), File::try_lock) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(0),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let mut newest = SystemTime::UNIX_EPOCH;
    let mut files = 0;
    for file in fs::read_dir(folder)? {
        let file = file?;
        newest = newest.max(file.metadata()?.modified()?);
        files += u64::from(file.file_name() != LOCK);
    }
    if SystemTime::now().duration_since(newest).unwrap_or_default() < age {
        return Ok(0);
    }
    if apply {
        fs::remove_dir_all(folder)?;
    }
    Ok(files)
}

impl StagedPath {
    /// Says that the file has become an object under another name.
    pub(super) fn published(mut self) {
        self.is_published = true;
    }
}

impl Deref for StagedPath {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.path
    }
}

impl Drop for StagedPath {
    fn drop(&mut self) {
        if !self.is_published {
            // What cannot be removed now is swept later.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Gives the file its size and its room on the disk, so that a full disk shows now, not in the middle.
/// Where the file system cannot reserve, the file is sparse and a full disk shows at a write.
pub(super) fn reserve(file: &File, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, size) {
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return file.set_len(size),
            outcome => return Ok(outcome?),
        }
    }
}
