//! Makes a file an object by a rename that survives a power cut, together with every folder on its way.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// How many folders are remembered before all are forgotten, which costs a few more syncs.
const REMEMBERED: usize = 20_000;

/// The folders of a store, and which of them this process has seen to be durable.
///
/// Syncing a file's own folder is not enough: that a folder is there proves nothing of its name in the one
/// above, since whoever made it, another task or another process, may not have synced that yet. So the first
/// object that this process puts into a folder syncs the whole way to it.
#[derive(Debug)]
pub(super) struct Folders {
    root: PathBuf,
    durable: Mutex<HashSet<PathBuf>>,
}

impl Folders {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, durable: Mutex::default() }
    }

    /// Runs a rename onto `path`, makes the folders it lacks, and makes all of it durable.
    pub(super) fn publish(&self, path: &Path, rename: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match rename() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent)?;
                }
                rename()?;
            }
            outcome => outcome?,
        }
        self.settle(path)
    }

    /// Makes the name `path` durable, whoever gave it.
    pub(super) fn settle(&self, path: &Path) -> io::Result<()> {
        sync_parent(path)?;
        let Some(folder) = path.parent() else { return Ok(()) };
        if self.is_durable(folder) {
            return Ok(());
        }
        let below_root = |folder: &&Path| *folder != self.root && folder.starts_with(&self.root);
        let way: Vec<&Path> = folder.ancestors().take_while(below_root).collect();
        for folder in &way {
            sync_parent(folder)?;
        }
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.len() >= REMEMBERED {
            durable.clear();
        }
        durable.extend(way.into_iter().map(Path::to_owned));
        Ok(())
    }

    /// Takes note that a folder was removed: who makes it again must make it durable again.
    pub(super) fn forget(&self, folder: &Path) {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).remove(folder);
    }

    /// Whether the way to this folder is known to survive a power cut.
    pub(super) fn is_durable(&self, folder: &Path) -> bool {
        folder == self.root || self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(folder)
    }
}

/// Makes the store's own directory where there is none, so that it survives a power cut.
pub(super) fn create_root(root: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = root.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(root)?;
    for folder in missing {
        // A relative path ends in the empty one, which means the working directory.
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Syncs the folder in which `path` stands.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_an_object_is_synced_even_where_others_made_the_folders() {
        let root = tempfile::tempdir().unwrap();
        let folders = Folders::new(root.path().to_owned());
        let (staged, path) = (root.path().join("staged"), root.path().join("a/b/c/object"));
        // As another process does it that is killed before it syncs.
        fs::create_dir_all(root.path().join("a/b/c")).unwrap();
        fs::write(&staged, "x").unwrap();
        folders.publish(&path, || fs::rename(&staged, &path)).unwrap();
        for folder in ["a", "a/b", "a/b/c"] {
            assert!(folders.is_durable(&root.path().join(folder)), "{folder}");
        }
        assert!(!folders.is_durable(&root.path().join("a/z")));
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }

    #[test]
    fn folders_that_are_missing_are_made_and_a_failed_rename_makes_nothing_durable() {
        let root = tempfile::tempdir().unwrap();
        let folders = Folders::new(root.path().to_owned());
        let (staged, path) = (root.path().join("staged"), root.path().join("a/b/object"));
        assert!(folders.publish(&path, || fs::rename(&staged, &path)).is_err());
        assert!(!folders.is_durable(&root.path().join("a/b")));
        fs::write(&staged, "x").unwrap();
        folders.publish(&path, || fs::rename(&staged, &path)).unwrap();
        assert!(folders.is_durable(&root.path().join("a/b")));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let root = tempfile::tempdir().unwrap();
        let folders = Folders::new(root.path().to_owned());
        folders.durable.lock().unwrap().extend((0..REMEMBERED).map(|n| PathBuf::from(n.to_string())));
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("a/object"), "x").unwrap();
        folders.settle(&root.path().join("a/object")).unwrap();
        assert_eq!(folders.durable.lock().unwrap().len(), 1);
        assert!(folders.is_durable(&root.path().join("a")));
    }
}
