//! Reads all chains of the log, in order of writer and number, and says where one is broken.
//!
//! A chain shows a record that was changed or taken out, as long as a later one stands; its head shows the
//! same of its end. What they can't show is that log and head were both written anew: for that keep a copy of
//! the heads where no gateway can write.

mod reading;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt as _, TryStreamExt as _,
    future::ready,
    stream::{self, BoxStream},
};
use serde::Serialize;

use super::{
    Error, Record, Result, WriterId,
    chain::BATCH_LIMIT_BYTES,
    heads::{self, Heads},
};
use crate::store::{self, ErrorKind, Prefix, Store};
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
    let mut chain = ReadChain::under(heads);
    let objects = store
        .list(&Prefix::log())
        .map_err(|error| Error::Read(Arc::new(error)))
        .map_ok(move |meta| async move {
            match store.get(&meta.key, BATCH_LIMIT_BYTES).await {
                Ok(body) => Ok((meta.key, body.ok_or_else(|| "listed, but not there".to_owned()))),
                Err(error) if of_one_object(&error) => Ok((meta.key, Err(error.to_string()))),
                Err(error) => Err(Error::Read(Arc::new(error))),
            }
        })
        .try_buffered(READS_AT_ONCE);
    let and_the_end = objects.map_ok(Some).chain(stream::once(ready(Ok(None))));
    and_the_end
        .map_ok(move |object| {
            let items = match object {
                Some((key, body)) => chain.read(&key, body),
                None => chain.end(),
            };
            stream::iter(items.into_iter().map(Ok))
        })
        .try_flatten()
}

/// Whether a failure concerns this object alone, so that going on with the others makes sense.
pub(super) fn of_one_object(error: &store::Error) -> bool {
    matches!(error.kind, ErrorKind::Corrupt(_) | ErrorKind::TooLarge(_) | ErrorKind::Other(_))
}

#[cfg(test)]
mod tests;
