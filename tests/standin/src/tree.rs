//! The files of a commit, and its listing page by page.
//!
//! A tree may hold a crowd: very many small files that exist only as a rule, so that a repo of
//! 300,000 files costs neither memory nor start-up time.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sha1::Digest as _;

use crate::file::{File, Storage};

/// Files in one directory of a crowd.
const CROWD_DIR_FILES: usize = 1000;

/// Very many small files: `part-00000/0000000.txt` and so on, a thousand to a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowd {
    /// How many files.
    pub files: usize,
    /// Makes their contents differ from another crowd's.
    pub seed: u64,
    /// How long the Hub takes over each page of a listing that has them.
    pub page_delay: Duration,
}

impl Crowd {
    /// `files` files, listed without delay.
    pub fn new(files: usize) -> Self {
        Self { files, seed: 0, page_delay: Duration::ZERO }
    }

    fn dirs(self) -> usize {
        self.files.div_ceil(CROWD_DIR_FILES)
    }

    /// The path of file `n`.
    pub fn path(self, n: usize) -> String {
        format!("part-{:05}/{n:07}.txt", n / CROWD_DIR_FILES)
    }

    /// The bytes of file `n`.
    pub fn text(self, n: usize) -> String {
        format!("file {n} of crowd {}\n", self.seed)
    }

    fn entry(self, n: usize) -> io::Result<Entry> {
        let path = self.path(n);
        let file = File::new(&path, self.text(n).into(), Storage::Regular, false)?;
        Ok(Entry { path, node: Node::File(Arc::new(file)) })
    }

    fn dir(self, d: usize) -> Entry {
        let path = format!("part-{d:05}");
        let oid = hex::encode(sha1::Sha1::digest(format!("crowd {} {} {path}", self.files, self.seed)));
        Entry { path, node: Node::Dir(oid) }
    }

    fn find(self, path: &str) -> Option<Entry> {
        let n = path.split_once('/')?.1.strip_suffix(".txt")?.parse().ok()?;
        if n < self.files && self.path(n) == path { self.entry(n).ok() } else { None }
    }

    fn find_dir(self, path: &str) -> Option<usize> {
        let d = path.strip_prefix("part-")?.parse().ok()?;
        (d < self.dirs() && format!("part-{d:05}") == path).then_some(d)
    }
}

/// One line of a listing.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) node: Node,
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// With the id of its git tree.
    Dir(String),
    File(Arc<File>),
}

/// All files of a commit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(crate) files: BTreeMap<String, Arc<File>>,
    pub(crate) crowd: Option<Crowd>,
    /// Every directory with the id of its git tree.
    dirs: BTreeMap<String, String>,
    /// The id of the root git tree.
    pub(crate) oid: String,
}

impl Tree {
    pub(crate) fn new(files: BTreeMap<String, Arc<File>>, crowd: Option<Crowd>) -> Self {
        let mut tree = Self { files, crowd, dirs: BTreeMap::new(), oid: String::new() };
        let all: Vec<(&str, &File)> = tree.files.iter().map(|(path, file)| (path.as_str(), file.as_ref())).collect();
        let mut dirs = BTreeMap::new();
        tree.oid = hex::encode(git_tree("", &all, &mut dirs));
        if let Some(crowd) = crowd {
            tree.oid = hex::encode(sha1::Sha1::digest(format!("{} crowd {} {}", tree.oid, crowd.files, crowd.seed)));
        }
        tree.dirs = dirs;
        tree
    }

    pub(crate) fn file(&self, path: &str) -> Option<Arc<File>> {
        match self.find(path)?.node {
            Node::File(file) => Some(file),
            Node::Dir(_) => None,
        }
    }

    /// The file or directory at `path`.
    pub(crate) fn find(&self, path: &str) -> Option<Entry> {
        let node = if let Some(file) = self.files.get(path) {
            Node::File(file.clone())
        } else if let Some(oid) = self.dirs.get(path) {
            Node::Dir(oid.clone())
        } else {
            let crowd = self.crowd?;
            return crowd.find(path).or_else(|| crowd.find_dir(path).map(|d| crowd.dir(d)));
        };
        Some(Entry { path: path.to_owned(), node })
    }

    /// Entries `from..from + limit` below the directory `under` ("" is the root), and whether more follow.
    /// None when there is no such directory.
    pub(crate) fn page(&self, under: &str, recursive: bool, from: usize, limit: usize) -> Option<(Vec<Entry>, bool)> {
        if let Some(d) = self.crowd.and_then(|crowd| crowd.find_dir(under)) {
            let crowd = self.crowd?;
            let first = d * CROWD_DIR_FILES;
            let count = CROWD_DIR_FILES.min(crowd.files - first);
            let entries =
                (from.min(count)..count.min(from + limit)).filter_map(|n| crowd.entry(first + n).ok()).collect();
            return Some((entries, from + limit < count));
        }
        if !under.is_empty() && !self.dirs.contains_key(under) {
            return None;
        }
        let mut listed = Vec::new();
        self.list(under, recursive, &mut listed);
        let own = listed.len();
        let mut entries: Vec<Entry> = listed.into_iter().skip(from).take(limit).collect();
        let mut total = own;
        if let Some(crowd) = self.crowd.filter(|_| under.is_empty()) {
            let dirs = crowd.dirs();
            total += dirs + if recursive { crowd.files } else { 0 };
            for n in from.max(own)..total.min(from + limit) {
                let n = n - own;
                entries.push(if n < dirs { crowd.dir(n) } else { crowd.entry(n - dirs).ok()? });
            }
        }
        Some((entries, from + limit < total))
    }

    /// As the Hub orders it: directories, then files, then (recursive) what is in the directories.
    fn list(&self, under: &str, recursive: bool, out: &mut Vec<Entry>) {
        let prefix = if under.is_empty() { String::new() } else { format!("{under}/") };
        let child = |path: &str| path.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('/'));
        let dirs: Vec<_> = self.dirs.iter().filter(|(path, _)| child(path)).collect();
        out.extend(dirs.iter().map(|&(path, oid)| Entry { path: path.clone(), node: Node::Dir(oid.clone()) }));
        let files = self.files.iter().filter(|(path, _)| child(path));
        out.extend(files.map(|(path, file)| Entry { path: path.clone(), node: Node::File(file.clone()) }));
        if recursive {
            for (path, _) in dirs {
                self.list(path, true, out);
            }
        }
    }

    /// The paths of all files, at most `limit`.
    pub(crate) fn paths(&self, limit: usize) -> Vec<(String, Arc<File>)> {
        let mut all: Vec<_> = self.files.iter().map(|(path, file)| (path.clone(), file.clone())).collect();
        if let Some(crowd) = self.crowd {
            let room = limit.saturating_sub(all.len());
            all.extend((0..crowd.files.min(room)).filter_map(|n| match crowd.entry(n).ok()? {
                Entry { path, node: Node::File(file) } => Some((path, file)),
                Entry { .. } => None,
            }));
        }
        all.truncate(limit);
        all
    }
}

/// The id of the git tree object that holds `files` (paths below `at`), noting its directories.
fn git_tree(at: &str, files: &[(&str, &File)], dirs: &mut BTreeMap<String, String>) -> Vec<u8> {
    let mut children: BTreeMap<String, (&str, String, Vec<u8>)> = BTreeMap::new();
    let mut rest = files;
    while let Some(&(path, file)) = rest.first() {
        let Some((name, _)) = path.split_once('/') else {
            children
                .insert(path.to_owned(), ("100644", path.to_owned(), hex::decode(&file.blob_id).unwrap_or_default()));
            rest = &rest[1..];
            continue;
        };
        let full = if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
        if !dirs.contains_key(&full) {
            let prefix = format!("{name}/");
            let inside = files.iter().filter_map(|&(path, file)| Some((path.strip_prefix(&prefix)?, file)));
            let id = git_tree(&full, &inside.collect::<Vec<_>>(), dirs);
            dirs.insert(full, hex::encode(&id));
            // Git sorts a directory as if its name ended in a slash.
            children.insert(prefix, ("40000", name.to_owned(), id));
        }
        rest = &rest[1..];
    }
    let mut object = Vec::new();
    for (mode, name, id) in children.values() {
        object.extend_from_slice(format!("{mode} {name}\0").as_bytes());
        object.extend_from_slice(id);
    }
    let mut hasher = sha1::Sha1::new();
    hasher.update(format!("tree {}\0", object.len()));
    hasher.update(&object);
    hasher.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str], crowd: Option<Crowd>) -> Tree {
        let file = |path: &&str| {
            ((*path).to_owned(), Arc::new(File::new(path, "hello\n".into(), Storage::Regular, false).unwrap()))
        };
        Tree::new(paths.iter().map(file).collect(), crowd)
    }

    #[test]
    fn tree_id_is_the_one_git_gives() {
        // git init; echo hello > a.txt; mkdir a; echo hello > a/b; git add .; git write-tree
        assert_eq!(tree(&["a.txt", "a/b"], None).oid, "165480a8ee00d9b2e7f603ad75e7357811d78720");
    }

    #[test]
    fn pages_of_a_crowd_join_to_the_whole_listing() {
        let tree = tree(&["README.md", "x/y"], Some(Crowd::new(2500)));
        let mut paths = Vec::new();
        let mut more = true;
        while more {
            let (entries, again) = tree.page("", true, paths.len(), 1000).unwrap();
            paths.extend(entries.into_iter().map(|entry| entry.path));
            more = again;
        }
        assert_eq!(paths.len(), 3 + 3 + 2500);
        let mut unique = paths.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), paths.len());
        assert_eq!(tree.page("part-00002", false, 0, 1000).unwrap().0.len(), 500);
        assert!(tree.file("part-00002/0002499.txt").is_some());
        assert!(tree.file("part-00002/0002500.txt").is_none());
        assert!(tree.page("nowhere", false, 0, 10).is_none());
    }
}
