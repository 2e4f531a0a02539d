//! Learning a commit: gathers what upstream says of it and refuses what is not whole and sane.

use std::collections::HashSet;

use futures_util::{StreamExt, stream::BoxStream};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    hub::{Commit, Repo, TreeEntry, TreeNode},
    upstream,
};

/// A tree of more nodes than this counts as large: only few are gathered in memory at once.
const LARGE_TREE_NODES: usize = 50_000;

/// Why a commit was not learned.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum BadSnapshot {
    /// The origin failed us.
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// What it said makes no sense: what, and of which commit.
    #[error("{repo}@{commit}: the origin's tree is not kept: {problem}")]
    Insane { repo: Repo, commit: Commit, problem: String },
    /// More than [`Bounds::nodes`].
    #[error(
        "{repo}@{commit} has more than {limit} files and folders (limits.tree_nodes), so there is no listing of it: ask \
         for its files by name"
    )]
    TooLarge { repo: Repo, commit: Commit, limit: usize },
}

/// What gathering a tree may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds<'a> {
    /// How many nodes a tree may have to be kept. Past it files are looked up one by one.
    pub(crate) nodes: usize,
    /// A place for each large tree that is in memory.
    pub(crate) large: &'a Semaphore,
}

/// Gathers a tree page by page and checks it against `siblings`, the file list of the info, where that
/// came whole. A large tree comes with its place among [`Bounds::large`], to be given back with its memory.
pub(crate) async fn gather<'b>(
    repo: &Repo,
    commit: Commit,
    mut pages: BoxStream<'_, upstream::Result<Vec<TreeEntry>>>,
    siblings: Option<&[String]>,
    bounds: Bounds<'b>,
) -> Result<(Vec<TreeNode>, Option<SemaphorePermit<'b>>), BadSnapshot> {
    let insane = |problem: String| BadSnapshot::Insane { repo: repo.clone(), commit, problem };
    let mut nodes: Vec<TreeNode> = Vec::new();
    let mut place = None;
    while let Some(page) = pages.next().await {
        for entry in page? {
            nodes.push(entry.into_node().map_err(|masked| insane(masked.to_string()))?);
        }
        if nodes.len() > bounds.nodes {
            return Err(BadSnapshot::TooLarge { repo: repo.clone(), commit, limit: bounds.nodes });
        }
        if nodes.len() > LARGE_TREE_NODES && place.is_none() {
            // Never closed.
            place = bounds.large.acquire().await.ok();
        }
    }
    check(&nodes, siblings).map_err(insane)?;
    Ok((nodes, place))
}

/// No path twice, no file that is a folder too, and the very files that the siblings name.
fn check(nodes: &[TreeNode], siblings: Option<&[String]>) -> Result<(), String> {
    let mut files = HashSet::with_capacity(nodes.len());
    let mut folders = HashSet::new();
    for node in nodes {
        let set = if node.folder { &mut folders } else { &mut files };
        if !set.insert(node.path.as_str()) {
            return Err(format!("{} is listed twice", node.path));
        }
    }
    for path in files.iter().chain(&folders) {
        for (at, _) in path.match_indices('/') {
            if files.contains(&path[..at]) {
                return Err(format!("{} is a file and a folder", &path[..at]));
            }
        }
    }
    if let Some(path) = files.intersection(&folders).next() {
        return Err(format!("{path} is a file and a folder"));
    }
    let Some(siblings) = siblings else { return Ok(()) };
    let siblings: HashSet<&str> = siblings.iter().map(String::as_str).collect();
    if let Some(path) = siblings.difference(&files).next() {
        return Err(format!("the info names {path}, the tree does not"));
    }
    if let Some(path) = files.difference(&siblings).next() {
        return Err(format!("the tree names {path}, the info does not"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> TreeNode {
        TreeNode {
            path: path.parse().unwrap(),
            size: 1,
            oid: "1".repeat(40).parse().unwrap(),
            lfs: None,
            folder: false,
        }
    }

    fn folder(path: &str) -> TreeNode {
        TreeNode { folder: true, ..file(path) }
    }

    #[test]
    fn trees_that_are_not_sane_are_refused() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(check(&[file("a"), folder("d"), file("d/b")], Some(&names(&["a", "d/b"]))), Ok(()));
        assert!(check(&[file("a"), file("a")], None).unwrap_err().contains("twice"));
        assert!(check(&[file("a"), folder("a")], None).unwrap_err().contains("a file and a folder"));
        assert!(check(&[file("a"), file("a/b")], None).unwrap_err().contains("a file and a folder"));
        assert!(check(&[file("a")], Some(&names(&["a", "b"]))).unwrap_err().contains("the info names b"));
        assert!(check(&[file("a"), file("c")], Some(&names(&["a"]))).unwrap_err().contains("the tree names c"));
    }
}
