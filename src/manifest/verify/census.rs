//! What the index, the log and the store say of each file and blob, small enough for a million of them:
//! about 70 bytes a file and 50 a blob, twice that while a table grows.

use std::collections::HashMap;

use super::super::{
    Entry, Record, Result,
    newest::{FileId, Word},
};
use crate::{
    hub::{BlobId, Sha256},
    store::Key,
};

/// What was found of one file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct File {
    pub(super) index: InIndex,
    /// The log's newest word on it.
    pub(super) word: Option<Word>,
    /// Whether the index says what that record says.
    pub(super) agrees: bool,
}

impl File {
    /// Whether the log says that it may be served and the index has no entry by which it is.
    pub(super) fn is_unserved(&self) -> bool {
        self.word.is_some_and(|word| word.may_serve) && !matches!(self.index, InIndex::Entry { .. })
    }

    /// Whether log and index don't say the same of it.
    pub(super) fn is_suspect(&self) -> bool {
        self.is_unserved() || !self.is_borne_out()
    }

    /// Whether what stands in the index, if anything, follows from the log. What is broken there is none of
    /// this when a record says what should stand in its place.
    pub(super) fn is_borne_out(&self) -> bool {
        let may_serve = self.word.is_some_and(|word| word.may_serve);
        match self.index {
            InIndex::Nothing => true,
            InIndex::Broken => may_serve,
            InIndex::Entry { .. } => may_serve && self.agrees,
        }
    }
}

/// What stands in the index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum InIndex {
    #[default]
    Nothing,
    /// Something that is not this file's entry.
    Broken,
    /// An entry.
    Entry {
        /// A digest of all that it says.
        facts: [u8; 16],
        /// A digest of what a snapshot says of a file too: its size and etag.
        tree: [u8; 8],
    },
}

/// What was found of one blob.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Blob {
    /// The size that an entry or record gives; `None` where nothing names the blob.
    pub(super) expected: Option<u64>,
    /// The size in the store; `None` where it is not there.
    pub(super) seen: Option<u64>,
    /// Whether it was written while the verification ran.
    pub(super) recent: bool,
}

/// All files and blobs.
#[derive(Debug, Default)]
pub(super) struct Census {
    pub(super) files: HashMap<FileId, File>,
    pub(super) blobs: HashMap<Sha256, Blob>,
}

impl Census {
    /// Notes an index entry. Returns the size that another entry gives for the same blob, if it differs.
    pub(super) fn entry(&mut self, entry: &Entry) -> Result<Option<u64>> {
        let index = InIndex::Entry { facts: facts(entry)?, tree: tree(entry.size, entry.etag) };
        self.files.entry(FileId::of(&entry.key())).or_default().index = index;
        let expected = *self.blobs.entry(entry.sha256).or_default().expected.get_or_insert(entry.size);
        Ok((expected != entry.size).then_some(expected))
    }

    /// Notes that what stands under an index key is no entry of its file.
    pub(super) fn broken(&mut self, key: &Key) {
        self.files.entry(FileId::of(key)).or_default().index = InIndex::Broken;
    }

    /// Notes a log record, if it is the newest on its file so far, or that one again.
    pub(super) fn record(&mut self, record: &Record, word: Word) -> Result<()> {
        let file = self.files.entry(FileId::of_record(record)).or_default();
        if file.word.is_none_or(|known| word >= known) {
            file.word = Some(word);
            file.agrees = match file.index {
                InIndex::Entry { facts: there, .. } => there == facts(&Entry::of(&record.fact))?,
                InIndex::Nothing | InIndex::Broken => false,
            };
        }
        Ok(())
    }

    /// Whether a snapshot's size and id of a file are those of its entry, if it has one.
    pub(super) fn matches_tree(&self, file: FileId, size: u64, id: BlobId) -> bool {
        match self.files.get(&file).map(|file| file.index) {
            Some(InIndex::Entry { tree: there, .. }) => there == tree(size, id),
            _ => true,
        }
    }
}

fn facts(entry: &Entry) -> Result<[u8; 16]> {
    Ok(start(&entry.to_bytes()?))
}

fn tree(size: u64, id: BlobId) -> [u8; 8] {
    start(format!("{size} {id}").as_bytes())
}

/// The first bytes of the sha256.
fn start<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let digest = Sha256::of(bytes);
    let mut start = [0; N];
    start.copy_from_slice(&digest.as_bytes()[..N]);
    start
}
