//! Single records out of the log, for people who ask: the newest that a filter takes, and who names a content.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::TryStreamExt as _;
use time::OffsetDateTime;

use super::{Filter, LogItem, Record, Result, WriterId, log, newest::Newest};
use crate::{hub::Sha256, store::Store};

/// What a search found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The records, the newest first.
    pub records: Vec<Record>,
    /// Whether there are more.
    pub more: bool,
    /// How many faults the log has; `hubgate verify` says which.
    pub faults: u64,
}

/// The newest `limit` records that the filter takes. Reads the whole log, and twice without [`Filter::history`].
pub async fn search(store: &dyn Store, filter: &Filter, limit: usize) -> Result<Found> {
    let mut newest_first: BTreeMap<(OffsetDateTime, WriterId, u64), Record> = BTreeMap::new();
    let (mut more, mut faults) = (false, 0);
    walk(store, !filter.history, |item| {
        match item {
            LogItem::Record(logged) if filter.takes(&logged.record) => {
                let record = logged.record;
                newest_first.insert((record.time, record.writer.clone(), record.seq), record);
                if newest_first.len() > limit {
                    newest_first.pop_first();
                    more = true;
                }
            }
            LogItem::Record(_) | LogItem::Newer(_) => {}
            LogItem::Fault(_) => faults += 1,
        }
        Ok(())
    })
    .await?;
    Ok(Found { records: newest_first.into_values().rev().collect(), more, faults })
}

/// The records by which files of these contents are served now. Reads the whole log twice.
pub async fn holders(store: &dyn Store, contents: &BTreeSet<Sha256>) -> Result<Vec<Record>> {
    let mut found = Vec::new();
    walk(store, true, |item| {
        if let LogItem::Record(logged) = item
            && contents.contains(&logged.record.fact.sha256)
        {
            found.push(logged.record);
        }
        Ok(())
    })
    .await?;
    Ok(found)
}

/// Hands over what stands in the log; of its records all, or only those by which a file is served now, for which the log
/// is read twice and about 100 bytes are held for every file.
pub(super) async fn walk(
    store: &dyn Store,
    current_only: bool,
    mut take: impl FnMut(LogItem) -> Result<()>,
) -> Result<()> {
    let newest = if current_only { Some(Newest::read(store).await?) } else { None };
    let mut items = log(store);
    while let Some(item) = items.try_next().await? {
        if let (LogItem::Record(logged), Some(newest)) = (&item, &newest)
            && !newest.is_current(&logged.record)
        {
            continue;
        }
        take(item)?;
    }
    Ok(())
}
