//! The lock file where it lies: read when it has changed, understood once.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::Lock;
use crate::{
    hub::Sha256,
    policy::{load_error::LoadError, source::Source},
};

/// A larger file is no lock: some 300,000 files.
const MAX_LOCK_BYTES: u64 = 64 * 1024 * 1024;

/// How long ago a file must have changed for its stamp to be believed: a file system's clock has coarse ticks, and one that
/// changes twice within a tick looks the same.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// The text of a lock file, and what it says.
#[derive(Debug)]
pub(in crate::policy) struct LockFile {
    pub(in crate::policy) source: Source,
    /// The text's digest.
    pub(in crate::policy) sha256: Sha256,
    /// As whose contents it was read; `None` where that had changed only just before.
    stamp: Option<Stamp>,
    /// Made when it is asked for first; all policies of this text share it.
    lock: OnceLock<Arc<Lock>>,
}

/// What changes with a file's contents, whether it is written, replaced, or a link to it is swung to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let second = u64::try_from(self.changed.0.max(self.modified.0)).unwrap_or_default();
        let end_of_it = Duration::from_secs(second.saturating_add(1));
        now.duration_since(UNIX_EPOCH).is_ok_and(|now| now >= end_of_it.saturating_add(SETTLED_AFTER))
    }
}

impl LockFile {
    /// The lock file; `None` where there is none. `before` is what was read the last time: it is given back where the file
    /// is the same by its inode, times and length.
    pub(in crate::policy) fn read(path: &Path, before: Option<&Arc<Self>>) -> Result<Option<Arc<Self>>, LoadError> {
        Self::read_at(path, before, SystemTime::now())
    }

    fn read_at(path: &Path, before: Option<&Arc<Self>>, now: SystemTime) -> Result<Option<Arc<Self>>, LoadError> {
        let unreadable =
            |error: &io::Error| LoadError::of_file(path, format!("can't be read: {error}"), "let hubgate read it");
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata.map_err(|error| unreadable(&error))?,
        };
        if !metadata.is_file() {
            return Err(LoadError::of_file(path, "is not a file", "name the file that `hubgate lock` writes"));
        }
        if metadata.len() > MAX_LOCK_BYTES {
            let problem = format!("more than {MAX_LOCK_BYTES} bytes");
            return Err(LoadError::of_file(path, problem, "lock fewer repos"));
        }
        let stamp = Stamp::of(&metadata);
        if let Some(before) = before.filter(|before| before.stamp == Some(stamp) && before.source.path == path) {
            return Ok(Some(Arc::clone(before)));
        }
        let text = fs::read(path).map_err(|error| unreadable(&error))?;
        let text = String::from_utf8(text).map_err(|error| {
            LoadError::of_file(path, format!("not UTF-8: {error}"), "write it anew with `hubgate lock`")
        })?;
        let sha256 = Sha256::of(text.as_bytes());
        // Written again with the same contents, or read a second time: it is understood already.
        let lock = before.filter(|before| before.sha256 == sha256).map_or_else(OnceLock::new, |same| same.lock.clone());
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("models.lock").to_owned();
        let source = Source { name, path: path.into(), text };
        let stamp = Some(stamp).filter(|stamp| stamp.is_settled(now));
        Ok(Some(Arc::new(Self { source, sha256, stamp, lock })))
    }

    /// What it says.
    ///
    /// # Errors
    /// Where it is no lock.
    pub(in crate::policy) fn lock(&self) -> Result<Arc<Lock>, LoadError> {
        if let Some(lock) = self.lock.get() {
            return Ok(Arc::clone(lock));
        }
        let lock = Arc::new(Lock::parse(&self.source)?);
        Ok(Arc::clone(self.lock.get_or_init(|| lock)))
    }
}

/// Two readings of one text.
impl PartialEq for LockFile {
    fn eq(&self, other: &Self) -> bool {
        self.sha256 == other.sha256 && self.source.path == other.source.path
    }
}

impl Eq for LockFile {}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_read_when_it_has_changed_and_understood_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("models.lock");
        let later = SystemTime::now() + Duration::from_mins(1);
        let read = |before: Option<&Arc<LockFile>>, now| LockFile::read_at(&path, before, now).unwrap().unwrap();
        for (folder, text) in [("one", "version = 1\n#1\n"), ("two", "version = 1\n#2\n")] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join("models.lock"), text).unwrap();
        }
        // As a ConfigMap: the name stays, what it leads to is another file.
        symlink("one", dir.path().join("..data")).unwrap();
        symlink("..data/models.lock", &path).unwrap();
        let first = read(None, later);
        assert!(Arc::ptr_eq(&first, &read(Some(&first), later)), "not read again");
        let swing = |to: &str| {
            symlink(to, dir.path().join("..tmp")).unwrap();
            fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
        };
        swing("two");
        let second = read(Some(&first), later);
        assert_eq!(second.source.text, "version = 1\n#2\n");

        // One that has only just changed may change again within the clock's tick.
        let now = SystemTime::now();
        let young = read(None, now);
        let again = read(Some(&young), now);
        assert!(!Arc::ptr_eq(&young, &again) && young == again);
        let lock = young.lock().unwrap();
        assert!(Arc::ptr_eq(&lock, &read(Some(&young), now).lock().unwrap()), "the same text is understood once");
        fs::write(dir.path().join("two/models.lock"), "version = 1\n#3\n").unwrap();
        assert_eq!(read(Some(&again), now).source.text, "version = 1\n#3\n");
    }
}
