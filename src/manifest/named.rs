//! Which content something needs: what the index serves, and what the log says of files whose entry a crash prevented.

use std::collections::HashSet;

use futures_util::TryStreamExt as _;

use super::{
    Error, LogItem, Result, index, log,
    newest::{Newest, Writers},
};
use crate::{hub::Sha256, store::Store};

/// The digests of all blobs that an index entry names, or the newest record of a file that may be served. 32 bytes for
/// each, and about 100 for each file.
///
/// # Errors
/// [`Error::Unsure`] where an entry can't be read: nobody knows what it names.
pub async fn named_blobs(store: &dyn Store) -> Result<HashSet<Sha256>> {
    let mut named = HashSet::new();
    let mut entries = index::all_entries(store);
    while let Some((key, entry)) = entries.try_next().await? {
        named.insert(entry.map_err(|problem| Error::Unsure { key, problem })?.sha256);
    }
    drop(entries);
    let (newest, mut writers) = (Newest::read(store).await?, Writers::default());
    let mut items = log(store);
    while let Some(item) = items.try_next().await? {
        if let LogItem::Record(logged) = item
            && let Some(word) = writers.word(&logged.record)
            && newest.is_current(&logged.record, word)
        {
            named.insert(logged.record.fact.sha256);
        }
    }
    Ok(named)
}
