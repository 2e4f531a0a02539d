//! A directory read in the order of keys.

use std::{
    fs, io,
    path::{Path, PathBuf},
    vec,
};

use super::found;
use crate::store::{Key, ObjectMeta, Prefix, staging::is_hidden};

/// All objects below a prefix, ordered by key. Holds the names of one folder for each level.
#[derive(Debug)]
pub(super) struct Walk {
    root: PathBuf,
    /// Whether these are published copies: they have the Hub's own names, and their keys begin with `/`.
    published: bool,
    /// What is left of each folder on the way down: keys of files, and prefixes, which end in `/`.
    left: Vec<vec::IntoIter<String>>,
}

impl Walk {
    pub(super) fn below(root: &Path, prefix: &Prefix) -> Self {
        let from_top = prefix.from_top();
        let begin = from_top.unwrap_or(prefix.as_str()).to_owned();
        Self { root: root.to_owned(), published: from_top.is_some(), left: vec![vec![begin].into_iter()] }
    }

    /// The names in a folder, sorted as keys are: a folder counts with its slash, since `a-b` stands before
    /// `a/b` there.
    fn names_in(&self, prefix: &str) -> io::Result<Vec<String>> {
        let Some(folder) = found(fs::read_dir(self.root.join(prefix)))? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in folder {
            // Reading a folder that was removed since it was opened says NotFound.
            let Some(entry) = found(entry)? else { break };
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !(self.published || is_of_keys(&name)) || (prefix.is_empty() && is_hidden(&name)) {
                continue;
            }
            let kind = entry.file_type()?;
            let is_folder = kind.is_dir() || (kind.is_symlink() && entry.path().is_dir());
            names.push(format!("{prefix}{name}{}", if is_folder { "/" } else { "" }));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn object(&self, key: String) -> io::Result<Option<ObjectMeta>> {
        let Some(metadata) = found(fs::metadata(self.root.join(&key)))? else { return Ok(None) };
        let key = if self.published { Key::listed(format!("/{key}")) } else { Key::listed(key) };
        Ok(Some(ObjectMeta { size: metadata.len(), modified: metadata.modified()?, key }))
    }
}

/// Whether a key can have this segment; what else stands in the directory (`lost+found`) is not ours.
fn is_of_keys(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

impl Iterator for Walk {
    type Item = io::Result<ObjectMeta>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(name) = self.left.last_mut()?.next() else {
                self.left.pop();
                continue;
            };
            let step = if name.is_empty() || name.ends_with('/') {
                self.names_in(&name).map(|names| {
                    self.left.push(names.into_iter());
                    None
                })
            } else {
                self.object(name)
            };
            // A file or folder that went away since its name was read is not there.
            if let Some(item) = step.transpose() {
                return Some(item);
            }
        }
    }
}
