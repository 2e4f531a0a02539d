//! Which content something needs: what the index serves, and what the log says of files whose entry a crash prevented.

use std::collections::HashSet;

use futures_util::TryStreamExt as _;

use super::{Error, LogItem, Result, index, log, newest::Newest};
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
    let newest = Newest::read(store).await?;
    let mut items = log(store);
    while let Some(item) = items.try_next().await? {
        if let LogItem::Record(logged) = item
            && newest.is_current(&logged.record)
        {
            named.insert(logged.record.fact.sha256);
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{MemoryStore, fact},
        *,
    };

    #[tokio::test]
    async fn a_new_writer_that_sorts_before_the_others_hides_no_content() {
        let store = MemoryStore::new();
        store.plant_record("b", 0, fact(1));
        let hold = store.hold_read("manifest/log/");
        let mut naming = Box::pin(named_blobs(&*store));
        assert!(futures_util::poll!(naming.as_mut()).is_pending());
        // Between the two readings of the log.
        store.plant_record("a", 0, fact(2));
        hold.notify_one();
        assert!(naming.await.unwrap().contains(&fact(1).sha256));
    }
}
