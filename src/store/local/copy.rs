//! A published copy in a directory: a reflink where the file system has them, else another name for the read-only
//! file, else a copy of its bytes. None of the first two costs room.

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
};

use super::folders::Folders;
use crate::store::staging::Staging;

/// Makes `to` the content of `from`, whole or not at all.
pub(super) fn copy(from: &Path, to: &Path, staging: &Arc<Staging>, folders: &Folders) -> io::Result<()> {
    let source = File::open(from)?;
    let (staged, file) = staging.new_file()?;
    if rustix::fs::ioctl_ficlone(&file, &source).is_ok() {
        seal(&file)?;
        folders.publish(to, || fs::rename(&*staged, to))?;
        staged.published();
        return Ok(());
    }
    fs::remove_file(&*staged)?;
    match fs::hard_link(from, &*staged) {
        // A rename onto another name of the same file does nothing at all, and leaves what is staged to its own
        // removal.
        Ok(()) => folders.publish(to, || fs::rename(&*staged, to)),
        // Another file system below a link, too many names, or one that has none.
        Err(_) => {
            fs::copy(from, &*staged)?;
            seal(&File::open(&*staged)?)?;
            folders.publish(to, || fs::rename(&*staged, to))?;
            staged.published();
            Ok(())
        }
    }
}

fn seal(file: &File) -> io::Result<()> {
    let mut permissions = file.metadata()?.permissions();
    permissions.set_readonly(true);
    file.set_permissions(permissions)?;
    file.sync_all()
}

/// Removes the folders above `path` that have become empty, so that a later commit can have a file of such a name.
pub(super) fn prune(path: &Path, root: &Path, folders: &Folders) -> io::Result<()> {
    for folder in path.ancestors().skip(1).take_while(|folder| *folder != root && folder.starts_with(root)) {
        match fs::remove_dir(folder) {
            Ok(()) => folders.forget(folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
