//! A file of a commit: its content and every identity that the Hub publishes for it.

use std::io;

use crate::content::Content;

/// Files above this size go to LFS, whatever their name.
const LARGEST_REGULAR_BYTES: u64 = 1 << 20;

/// Name endings that the Hub's default `.gitattributes` sends to LFS.
const LFS_ENDINGS: &[&str] = &[
    ".7z",
    ".arrow",
    ".bin",
    ".bz2",
    ".ckpt",
    ".ftz",
    ".gguf",
    ".gz",
    ".h5",
    ".joblib",
    ".mlmodel",
    ".msgpack",
    ".npy",
    ".npz",
    ".onnx",
    ".ot",
    ".parquet",
    ".pb",
    ".pickle",
    ".pkl",
    ".pt",
    ".pth",
    ".rar",
    ".safetensors",
    ".tar",
    ".tflite",
    ".tgz",
    ".wasm",
    ".xz",
    ".zip",
    ".zst",
];

/// How a file is kept in the repo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// LFS when large or named like one, else regular.
    Auto,
    Regular,
    Lfs,
}

/// One version of one file.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) content: Content,
    pub(crate) size: u64,
    /// Git blob id: of the content of a regular file, of the pointer of an LFS file.
    pub(crate) blob_id: String,
    pub(crate) lfs: Option<Lfs>,
}

/// What an LFS file has beside its blob id.
#[derive(Clone, Debug)]
pub(crate) struct Lfs {
    pub(crate) sha256: String,
    pub(crate) pointer: String,
    /// Looks like the Hub's merkle hash: 64 hex digits that are not the sha256.
    pub(crate) xet_hash: Option<String>,
}

impl File {
    pub(crate) fn new(path: &str, content: Content, storage: Storage, xet: bool) -> io::Result<Self> {
        let size = content.size();
        let lfs = match storage {
            Storage::Auto => size > LARGEST_REGULAR_BYTES || LFS_ENDINGS.iter().any(|end| path.ends_with(end)),
            Storage::Regular => false,
            Storage::Lfs => true,
        };
        if !lfs {
            let blob_id = content.blob_id()?;
            return Ok(Self { content, size, blob_id, lfs: None });
        }
        let sha256 = content.sha256()?;
        let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n");
        let xet_hash = if xet { Some(Content::from(format!("xet:{sha256}")).sha256()?) } else { None };
        let blob_id = Content::from(pointer.as_str()).blob_id()?;
        Ok(Self { content, size, blob_id, lfs: Some(Lfs { sha256, pointer, xet_hash }) })
    }

    /// The identity that `/resolve/` publishes as ETag or X-Linked-ETag.
    pub(crate) fn etag(&self) -> &str {
        self.lfs.as_ref().map_or(&self.blob_id, |lfs| &lfs.sha256)
    }

    /// The hash that names this file at the CDN, and is its ETag there.
    pub(crate) fn cdn_hash(&self) -> Option<&str> {
        let lfs = self.lfs.as_ref()?;
        Some(lfs.xet_hash.as_deref().unwrap_or(&lfs.sha256))
    }
}
