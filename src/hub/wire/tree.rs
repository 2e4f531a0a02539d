//! Entries of a tree, in `/tree` and `/paths-info` (PROTOCOL 4.2, 4.3).

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct as _};

use crate::hub::{BlobId, GitHasher, GitOid, RepoPath, Sha256};

/// An entry as the origin lists it. Reading fails on a path that would leave the tree. Keys not named here
/// are dropped: `xetHash`, and the `lastCommit` and `securityFileStatus` of expanded listings, which clients
/// accept being absent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct TreeEntry {
    /// A file or a folder.
    #[serde(rename = "type")]
    pub kind: EntryKind,
    /// Its path from the root.
    pub path: RepoPath,
    /// Its size in bytes; 0 for a folder.
    #[serde(default)]
    pub size: u64,
    /// The git object id of the folder, the file, or the LFS pointer file. Never masked.
    pub oid: GitOid,
    /// For LFS files: the content.
    #[serde(default)]
    pub lfs: Option<LfsPointer>,
}

/// What a tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A file.
    File,
    /// A folder.
    Directory,
}

/// What an LFS pointer file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LfsPointer {
    /// The content's sha256; `None` where the Hub masks it from callers without access.
    #[serde(deserialize_with = "unmasked")]
    pub oid: Option<Sha256>,
    /// The content's size in bytes.
    pub size: u64,
    /// The pointer file's size in bytes.
    pub pointer_size: u64,
}

fn unmasked<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Sha256>, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    if !text.is_empty() && text.bytes().all(|byte| byte == b'*') {
        return Ok(None);
    }
    text.parse().map(Some).map_err(de::Error::custom)
}

/// The origin does not tell us what this file's content is: gated, and our token has no access.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the origin masks the sha256 of {0}: hubgate's own upstream token has no access to this gated repo")]
pub struct MaskedOid(pub RepoPath);

impl TreeEntry {
    /// How the content is named, for a file. For a folder it is the folder's own git id, which names no blob.
    ///
    /// # Errors
    /// The Hub masks it.
    pub fn blob_id(&self) -> Result<BlobId, MaskedOid> {
        match &self.lfs {
            None => Ok(BlobId::Git(self.oid)),
            Some(lfs) => lfs.oid.map(BlobId::Sha256).ok_or_else(|| MaskedOid(self.path.clone())),
        }
    }

    /// The entry as we keep it and send it on.
    ///
    /// # Errors
    /// The Hub masks its hash.
    pub fn into_node(self) -> Result<TreeNode, MaskedOid> {
        let lfs = match self.lfs {
            None => None,
            Some(LfsPointer { oid: Some(sha256), pointer_size, .. }) => Some((sha256, pointer_size)),
            Some(LfsPointer { oid: None, .. }) => return Err(MaskedOid(self.path)),
        };
        let size = self.lfs.map_or(self.size, |lfs| lfs.size);
        Ok(TreeNode { path: self.path, size, oid: self.oid, lfs, folder: self.kind == EntryKind::Directory })
    }
}

/// A file or a folder in a tree, as we know it for good. Serialises to the Hub's tree entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeNode {
    /// Its path from the root.
    pub path: RepoPath,
    /// Its size in bytes; 0 for a folder.
    pub size: u64,
    /// The git object id that the Hub lists: of the tree, the file, or the LFS pointer file.
    pub oid: GitOid,
    /// For LFS files: the content's sha256 and the pointer file's size in bytes.
    pub lfs: Option<(Sha256, u64)>,
    /// Whether this is a folder.
    pub folder: bool,
}

/// The text of an LFS file's pointer, as git-lfs writes it.
pub fn lfs_pointer(sha256: &Sha256, size: u64) -> String {
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n")
}

impl TreeNode {
    /// The node of a file that is known by its content alone; an LFS pointer's id is that of its usual text.
    /// `None` where that text were one half of a SHA-1 collision.
    pub fn of_blob(path: RepoPath, size: u64, blob: BlobId) -> Option<Self> {
        let (oid, lfs) = match blob {
            BlobId::Git(oid) => (oid, None),
            BlobId::Sha256(sha256) => {
                let pointer = lfs_pointer(&sha256, size);
                let length = pointer.len() as u64;
                let mut hasher = GitHasher::new(length);
                hasher.update(pointer.as_bytes());
                (hasher.finish()?, Some((sha256, length)))
            }
        };
        Some(Self { path, size, oid, lfs, folder: false })
    }

    /// How the content of a file is named; `None` for a folder.
    pub fn blob_id(&self) -> Option<BlobId> {
        match self.lfs {
            _ if self.folder => None,
            Some((sha256, _)) => Some(BlobId::Sha256(sha256)),
            None => Some(BlobId::Git(self.oid)),
        }
    }

    /// Whether a listing of `folder` (`None`: the root) shows this: what is in it, and with `recursive` what
    /// is anywhere below it. A folder does not list itself.
    pub fn is_listed(&self, folder: Option<&RepoPath>, recursive: bool) -> bool {
        let inside = match folder {
            None => Some(self.path.as_str()),
            Some(folder) => self.path.as_str().strip_prefix(folder.as_str()).and_then(|rest| rest.strip_prefix('/')),
        };
        inside.is_some_and(|inside| recursive || !inside.contains('/'))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LfsOut {
    oid: Sha256,
    size: u64,
    pointer_size: u64,
}

impl Serialize for TreeNode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entry = serializer.serialize_struct("TreeNode", 4 + usize::from(self.lfs.is_some()))?;
        entry.serialize_field("type", if self.folder { "directory" } else { "file" })?;
        entry.serialize_field("oid", &self.oid)?;
        entry.serialize_field("size", &self.size)?;
        if let Some((oid, pointer_size)) = self.lfs {
            entry.serialize_field("lfs", &LfsOut { oid, size: self.size, pointer_size })?;
        }
        entry.serialize_field("path", &self.path)?;
        entry.end()
    }
}

impl<'de> Deserialize<'de> for TreeNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        TreeEntry::deserialize(deserializer)?.into_node().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Entries as recorded from the Hub.
    fn gpt2() -> Value {
        json!([
            {"type": "directory", "oid": "d03ec5ec179df58241d27d55f92a674f5f44197f", "size": 0, "path": "onnx"},
            {"type": "file", "oid": "10c66461e4c109db5a2196bff4bb59be30396ed8", "size": 665, "path": "config.json"},
            {"type": "file", "oid": "44b36d6e32d13c8fb28b0feab0ac8bfefa7efeda", "size": 548_105_171,
             "lfs": {"oid": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
                     "size": 548_105_171, "pointerSize": 134},
             "xetHash": "63bed80836ee0758c8fd4f8975d59bb0b864263ee2753547c358e8a37cde8758",
             "path": "model.safetensors"}
        ])
    }

    #[test]
    fn a_recorded_tree_goes_out_as_it_came_but_for_xet() {
        let nodes: Vec<TreeNode> = serde_json::from_value(gpt2()).unwrap();
        assert_eq!(nodes[0].blob_id(), None);
        assert_eq!(nodes[1].blob_id().unwrap().to_string(), "10c66461e4c109db5a2196bff4bb59be30396ed8");
        assert!(matches!(nodes[2].blob_id(), Some(BlobId::Sha256(_))));
        let mut expected = gpt2();
        super::super::strip_xet(&mut expected);
        assert_eq!(serde_json::to_value(&nodes).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Vec<TreeNode>>(expected).unwrap(), nodes);
    }

    #[test]
    fn a_file_known_by_its_content_is_the_node_that_the_hub_lists() {
        // The pointer of gpt2's weights has the id that the Hub lists for it.
        for entry in &gpt2().as_array().unwrap()[1..] {
            let listed: TreeNode = serde_json::from_value(entry.clone()).unwrap();
            let known = TreeNode::of_blob(listed.path.clone(), listed.size, listed.blob_id().unwrap());
            assert_eq!(known, Some(listed));
        }
    }

    #[test]
    fn a_masked_hash_is_refused_and_says_why() {
        let mut masked = gpt2()[2].take();
        masked["lfs"]["oid"] = "*".repeat(64).into();
        let entry: TreeEntry = serde_json::from_value(masked.clone()).unwrap();
        assert!(entry.blob_id().unwrap_err().to_string().contains("model.safetensors"));
        assert!(entry.into_node().is_err());
        assert!(serde_json::from_value::<TreeNode>(masked.clone()).is_err());
        masked["lfs"]["oid"] = "nonsense".into();
        assert!(serde_json::from_value::<TreeEntry>(masked).is_err());
    }

    #[test]
    fn a_path_that_would_leave_the_tree_is_refused() {
        for bad in ["../x", "/x", "a//b", "a/../../b", "a\\b", ""] {
            let mut entry = gpt2()[1].take();
            entry["path"] = bad.into();
            assert!(serde_json::from_value::<TreeEntry>(entry).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_listing_shows_what_is_in_the_folder_and_only_that() {
        let oid = "10c66461e4c109db5a2196bff4bb59be30396ed8".parse().unwrap();
        let nodes = ["a", "a/b", "a/b/c", "ab", "ab/c"].map(|path| TreeNode {
            path: path.parse().unwrap(),
            size: 0,
            oid,
            lfs: None,
            folder: false,
        });
        let list = |folder: Option<&str>, recursive| {
            let folder = folder.map(|folder| folder.parse::<RepoPath>().unwrap());
            let listed = nodes.iter().filter(|node| node.is_listed(folder.as_ref(), recursive));
            listed.map(|node| node.path.as_str()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(list(None, false), "a ab");
        assert_eq!(list(None, true), "a a/b a/b/c ab ab/c");
        assert_eq!(list(Some("a"), false), "a/b");
        assert_eq!(list(Some("a"), true), "a/b a/b/c");
        assert_eq!(list(Some("nope"), true), "");
    }
}
