//! Reads all chains of the log, in order of writer and number, and says where one is broken.
//!
//! A chain shows a record that was changed or taken out, as long as a later one stands; its head shows the
//! same of its end. What they can't show is that log and head were both written anew: for that keep a copy of
//! the heads where no gateway can write.

mod reading;

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use serde::Serialize;

use super::{
    Error, Record, Result, WriterId,
    chain::BATCH_LIMIT_BYTES,
    heads::{self, Heads},
};
use crate::store::{self, ErrorKind, Key, Prefix, Store};
use reading::ReadChain;

/// Log objects that are read ahead.
const READS_AT_ONCE: usize = 8;

/// What stands in the log at one place.
#[derive(Debug, Clone)]
pub enum LogItem {
    /// A record that this version understands.
    Record(Box<Logged>),
    /// A record of a later version of hubgate; its place in the chain was checked.
    Newer(Bytes),
    /// Something is wrong here; reading goes on behind it.
    Fault(LogFault),
}

/// A record and the very line that holds it, whose sha256 the next record names.
#[derive(Debug, Clone)]
pub struct Logged {
    /// The record.
    pub record: Record,
    /// Its line, without the line break.
    pub line: Bytes,
}

/// A break in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum LogFault {
    /// Records are gone.
    #[error("writer {writer}: records {from} to {to} are missing")]
    Missing {
        /// Whose chain.
        writer: WriterId,
        /// The first that is gone.
        from: u64,
        /// The last that is gone.
        to: u64,
    },
    /// A record is not what the next one, or the chain's head, says it was.
    #[error("writer {writer}: record {seq} was altered, or the link to it in the record that follows or in the head")]
    Altered {
        /// Whose chain.
        writer: WriterId,
        /// The record that does not match the link to it.
        seq: u64,
    },
    /// Text that is no record.
    #[error("{key}, line {line}: not a record: {problem}")]
    Unparsable {
        /// The log object.
        key: String,
        /// Counted from 1.
        line: u64,
        /// Why.
        problem: String,
    },
    /// An object or record that does not belong where it stands.
    #[error("{key}: {problem}")]
    Misplaced {
        /// The log object.
        key: String,
        /// Why.
        problem: String,
    },
}

/// The whole log. The stream ends with an error only when the store fails; whatever is wrong with the log
/// itself is a [`LogItem::Fault`]. Memory is bounded by eight log objects.
pub fn log(store: &dyn Store) -> BoxStream<'_, Result<LogItem>> {
    // Before anything of the log is listed, so that it may only be longer than its heads say.
    stream::once(heads::read(store))
        .map_ok(move |(heads, faults)| {
            let of_heads = stream::iter(faults).map(|fault| Ok(LogItem::Fault(fault)));
            of_heads.chain(chains(store, heads))
        })
        .try_flatten()
        .boxed()
}

fn chains(store: &dyn Store, heads: Heads) -> impl Stream<Item = Result<LogItem>> {
    let objects = store
        .list(&Prefix::log())
        .map_err(|error| Error::Read(Arc::new(error)))
        .map_ok(move |meta| async move {
            let body = object(store, &meta.key).await?;
            Ok((meta.key, body.and_then(|body| body.ok_or_else(|| "listed, but not there".to_owned()))))
        })
        .try_buffered(READS_AT_ONCE)
        .boxed();
    let reading = Reading { store, objects, chain: ReadChain::under(heads), asked: HashSet::new() };
    stream::try_unfold(Some(reading), |reading| async {
        let Some(mut reading) = reading else { return Result::Ok(None) };
        let (items, is_end) = reading.next().await?;
        Ok(Some((stream::iter(items.into_iter().map(Ok)), (!is_end).then_some(reading))))
    })
    .try_flatten()
}

/// What was listed, and how far it has been read.
struct Reading<'a> {
    store: &'a dyn Store,
    objects: BoxStream<'a, Result<(Key, Body)>>,
    chain: ReadChain,
    /// What was read last, and what was asked for since then as it was not listed.
    asked: HashSet<Key>,
}

/// A log object, or why it can't be read.
type Body = std::result::Result<Bytes, String>;

impl Reading<'_> {
    /// What the next object says, and whether it was the last. A writer goes on while its folder is listed: of the
    /// objects that are made meanwhile a listing may have a later one and not an earlier one. So what seems to be
    /// missing is asked for by its name.
    async fn next(&mut self) -> Result<(Vec<LogItem>, bool)> {
        let (listed, mut items) = (self.objects.try_next().await?, Vec::new());
        let to = listed.as_ref().map(|(key, _)| key);
        while let Some(key) = self.chain.lacks_before(to, &self.asked) {
            match object(self.store, &key).await? {
                Ok(None) => {}
                Ok(Some(body)) => items.extend(self.chain.read(&key, Ok(body))),
                Err(problem) => items.extend(self.chain.read(&key, Err(problem))),
            }
            self.asked.insert(key);
        }
        let is_end = listed.is_none();
        match listed {
            Some((key, body)) => {
                items.extend(self.chain.read(&key, body));
                // Read, it has said what it has to say, even if that is not what belongs there.
                self.asked = HashSet::from([key]);
            }
            None => items.extend(self.chain.end()),
        }
        Ok((items, is_end))
    }
}

/// A log object, where there is one, or why it can't be read.
async fn object(store: &dyn Store, key: &Key) -> Result<std::result::Result<Option<Bytes>, String>> {
    match store.get(key, BATCH_LIMIT_BYTES).await {
        Ok(body) => Ok(Ok(body)),
        Err(error) if of_one_object(&error) => Ok(Err(error.to_string())),
        Err(error) => Err(Error::Read(Arc::new(error))),
    }
}

/// Whether a failure concerns this object alone, so that going on with the others makes sense.
pub(super) fn of_one_object(error: &store::Error) -> bool {
    matches!(error.kind, ErrorKind::Corrupt(_) | ErrorKind::TooLarge(_) | ErrorKind::Other(_))
}

#[cfg(test)]
mod tests;
