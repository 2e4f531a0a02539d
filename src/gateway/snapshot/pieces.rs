//! A tree in pieces: sorted by path, a few thousand nodes to an object, an index of first paths before
//! them. Finding one path reads one piece.

use serde::{Deserialize, Serialize};

use crate::hub::{RepoPath, Sha256, TreeEntry, TreeNode};

/// How many nodes a piece holds.
const PIECE_NODES: usize = 4096;

/// Which piece holds which paths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TreeIndex {
    /// How many files there are.
    pub(crate) files: usize,
    /// How many folders there are.
    pub(crate) folders: usize,
    /// The first path of each piece.
    firsts: Vec<RepoPath>,
}

/// Some consecutive nodes of a tree, sorted by path.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub(crate) nodes: Vec<TreeNode>,
}

/// What a tree's objects are named by: equal trees have equal digests.
pub(super) fn digest(pieces: &[Piece]) -> Sha256 {
    let digests: Vec<u8> = pieces.iter().flat_map(|piece| *Sha256::of(&piece.to_lines()).as_bytes()).collect();
    Sha256::of(&digests)
}

impl TreeIndex {
    /// Sorts nodes and cuts them into pieces.
    pub(super) fn split(mut nodes: Vec<TreeNode>) -> (Self, Vec<Piece>) {
        nodes.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let folders = nodes.iter().filter(|node| node.folder).count();
        let mut index = Self { files: nodes.len() - folders, folders, firsts: Vec::new() };
        let mut pieces = Vec::new();
        let mut nodes = nodes.into_iter();
        loop {
            let piece: Vec<_> = nodes.by_ref().take(PIECE_NODES).collect();
            let Some(first) = piece.first() else { return (index, pieces) };
            index.firsts.push(first.path.clone());
            pieces.push(Piece { nodes: piece });
        }
    }

    /// The name of the index of a tree within its snapshot; `tree` is the tree's [`digest`].
    pub(super) fn name(tree: Option<Sha256>) -> String {
        tree.map_or_else(|| "tree.json".into(), |tree| format!("tree/{tree}.json"))
    }

    /// The name of a piece of that tree.
    pub(super) fn part(tree: Option<Sha256>, number: usize) -> String {
        match tree {
            Some(tree) => format!("tree/{tree}/{number:05}.jsonl"),
            None => format!("tree/{number:05}.jsonl"),
        }
    }

    /// How many pieces there are.
    pub(crate) fn pieces(&self) -> usize {
        self.firsts.len()
    }

    /// The piece that holds `path`, if any does: the last whose first path is not after it.
    pub(crate) fn piece_of(&self, path: &RepoPath) -> Option<usize> {
        self.firsts.partition_point(|first| first <= path).checked_sub(1)
    }

    pub(super) fn weight(&self) -> usize {
        self.firsts.iter().map(|first| first.as_str().len() + 32).sum()
    }
}

impl Piece {
    /// The node of this path.
    pub(super) fn find(&self, path: &RepoPath) -> Option<&TreeNode> {
        self.nodes.binary_search_by(|node| node.path.cmp(path)).ok().map(|at| &self.nodes[at])
    }

    /// The Hub's own tree entries, one a line.
    pub(super) fn to_lines(&self) -> Vec<u8> {
        let mut lines = Vec::with_capacity(self.nodes.len() * 160);
        for node in &self.nodes {
            // Writing a struct of texts and numbers to memory can't fail.
            if serde_json::to_writer(&mut lines, node).is_ok() {
                lines.push(b'\n');
            }
        }
        lines
    }

    /// Reads what `to_lines` wrote.
    pub(super) fn from_lines(lines: &[u8]) -> Result<Self, serde_json::Error> {
        let entries = serde_json::Deserializer::from_slice(lines).into_iter::<TreeEntry>();
        let nodes = entries.map(|entry| entry?.into_node().map_err(serde::de::Error::custom));
        Ok(Self { nodes: nodes.collect::<Result<_, _>>()? })
    }

    pub(crate) fn weight(&self) -> usize {
        self.nodes.iter().map(|node| node.path.as_str().len() + size_of::<TreeNode>() + 16).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(path: &str) -> TreeNode {
        TreeNode {
            path: path.parse().unwrap(),
            size: 3,
            oid: "1".repeat(40).parse().unwrap(),
            lfs: None,
            folder: path.starts_with('d'),
        }
    }

    #[test]
    fn every_path_is_found_in_its_piece_and_no_other() {
        let nodes: Vec<_> = (0..=PIECE_NODES * 2).map(|n| node(&format!("f{n:07}"))).rev().collect();
        let (index, pieces) = TreeIndex::split(nodes);
        assert_eq!((index.files, index.folders, pieces.len()), (PIECE_NODES * 2 + 1, 0, 3));
        for path in ["f0000000", "f0004095", "f0004096", "f0008192"] {
            let path = path.parse().unwrap();
            let piece = &pieces[index.piece_of(&path).unwrap()];
            let piece = Piece::from_lines(&piece.to_lines()).unwrap();
            assert_eq!(piece.find(&path).unwrap().path, path);
        }
        assert_eq!(index.piece_of(&"a".parse().unwrap()), None);
        let beyond = "g".parse().unwrap();
        assert!(pieces[index.piece_of(&beyond).unwrap()].find(&beyond).is_none());
    }

    #[test]
    fn an_empty_tree_has_no_pieces() {
        let (index, pieces) = TreeIndex::split(Vec::new());
        assert!(pieces.is_empty() && index.piece_of(&"a".parse().unwrap()).is_none());
    }
}
