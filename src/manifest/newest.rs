//! The newest word of the log on each file, small enough for a million of them.
//!
//! Between chains the clock decides which of two records is newer, within a chain the number; so the clocks
//! of gateways on one store should agree to seconds, the pace at which a file can be evicted and come back.

use std::collections::HashMap;

use futures_util::TryStreamExt as _;

use super::{LogItem, Record, Result, log};
use crate::{
    hub::Sha256,
    store::{Key, Store},
};

/// A file of a commit, as the beginning of its index key's digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId([u8; 16]);

impl FileId {
    pub(super) fn of(index: &Key) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&Sha256::of(index.as_str().as_bytes()).as_bytes()[..16]);
        Self(id)
    }

    /// One of `lanes`, the same for the same file.
    pub(super) fn lane(self, lanes: usize) -> usize {
        usize::from(u16::from_le_bytes([self.0[0], self.0[1]])) % lanes
    }

    pub(super) fn of_record(record: &Record) -> Self {
        Self::of(&Key::index(&record.fact.repo, record.fact.commit, &record.fact.path))
    }
}

/// One record's place in time, and whether the file may be served after it. Words compare by age, and those of one
/// record are the same at every reading of the log, whoever wrote to it meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Word {
    micros: i64,
    /// The beginning of the digest of the writer's name: an order of writers that no newcomer changes.
    writer: u32,
    seq: u64,
    pub(super) may_serve: bool,
}

impl Word {
    /// The word of a record, unless it says nothing on whether the file may be served.
    pub(super) fn of(record: &Record) -> Option<Self> {
        let may_serve = record.fact.what.may_serve()?;
        let micros = i64::try_from(record.time.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX);
        let [a, b, c, d, ..] = *Sha256::of(record.writer.as_str().as_bytes()).as_bytes();
        Some(Self { micros, writer: u32::from_be_bytes([a, b, c, d]), seq: record.seq, may_serve })
    }
}

/// What the log says of every file. About 100 bytes a file.
#[derive(Debug, Default)]
pub(super) struct Newest(HashMap<FileId, Word>);

impl Newest {
    /// Reads the whole log once.
    pub(super) async fn read(store: &dyn Store) -> Result<Self> {
        let mut newest = HashMap::new();
        let mut items = log(store);
        while let Some(item) = items.try_next().await? {
            if let LogItem::Record(logged) = item
                && let Some(word) = Word::of(&logged.record)
            {
                let known = newest.entry(FileId::of_record(&logged.record)).or_insert(word);
                *known = word.max(*known);
            }
        }
        Ok(Self(newest))
    }

    /// Whether this very record is the one by which its file is served.
    pub(super) fn is_current(&self, record: &Record) -> bool {
        let newest = self.0.get(&FileId::of_record(record));
        newest.is_some_and(|newest| newest.may_serve && Word::of(record) == Some(*newest))
    }
}
