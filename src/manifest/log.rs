//! Reads all chains of the log, in order of writer and number, and says where one is broken.
//!
//! A chain shows a record that was changed or taken out, as long as a later one stands; its head shows the
//! same of its end. What they can't show is that log and head were both written anew: for that keep a copy of
//! the heads where no gateway can write.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt as _, TryStreamExt as _,
    future::ready,
    stream::{self, BoxStream},
};
use serde::{Deserialize, Serialize};

use super::{
    Error, Record, Result, WriterId,
    chain::BATCH_LIMIT_BYTES,
    heads::{self, Heads},
    record::SCHEMA,
};
use crate::{
    hub::Sha256,
    store::{self, ErrorKind, Key, Prefix, Store},
};

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

/// The fields that a record of every version has.
#[derive(Deserialize)]
struct Link {
    schema: u32,
    writer: WriterId,
    seq: u64,
    prev: Sha256,
}

/// Where reading has come to in the chain of one writer.
struct ReadChain {
    writer: Option<WriterId>,
    /// The number that comes next.
    next: u64,
    /// The digest of the last line, where it is known for sure.
    prev: Option<Sha256>,
    /// The ends that chains should have, of those whose end has not been read.
    heads: Heads,
}

impl ReadChain {
    fn under(heads: Heads) -> Self {
        Self { writer: None, next: 1, prev: Some(Sha256::ZERO), heads }
    }

    /// Ends the chain that was read last, if any, and begins another.
    fn begin(&mut self, writer: Option<WriterId>, items: &mut Vec<LogItem>) {
        if let Some(ended) = std::mem::replace(&mut self.writer, writer)
            && let Some(head) = self.heads.remove(&ended)
        {
            self.skip_to(head.seq + 1, &ended, items);
        }
        (self.next, self.prev) = (1, Some(Sha256::ZERO));
    }

    /// Ends the log: what heads speak of must have been there.
    fn end(&mut self) -> Vec<LogItem> {
        let mut items = Vec::new();
        self.begin(None, &mut items);
        let mut gone: Vec<_> = self.heads.drain().collect();
        gone.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (writer, head) in gone {
            self.next = 1;
            self.skip_to(head.seq + 1, &writer, &mut items);
        }
        items
    }

    fn read(&mut self, key: &Key, body: std::result::Result<Bytes, String>) -> Vec<LogItem> {
        let mut items = Vec::new();
        let misplaced = |problem: String| LogItem::Fault(LogFault::Misplaced { key: key.to_string(), problem });
        let Some((writer, first)) = place(key) else {
            items.push(misplaced("not the name of a log object: <writer>/<20 digits>.jsonl".into()));
            return items;
        };
        if self.writer.as_ref() != Some(&writer) {
            self.begin(Some(writer.clone()), &mut items);
        }
        if first < self.next {
            let next = self.next;
            items.push(misplaced(format!("begins with record {first} where {next} was to come: a fork or a copy")));
            return items;
        }
        self.skip_to(first, &writer, &mut items);
        let body = match body {
            Ok(body) => body,
            Err(problem) => {
                items.push(LogItem::Fault(LogFault::Unparsable { key: key.to_string(), line: 1, problem }));
                return items;
            }
        };
        let mut number = 0;
        for line in lines(&body) {
            number += 1;
            let unparsable =
                |problem: String| LogItem::Fault(LogFault::Unparsable { key: key.to_string(), line: number, problem });
            let link: Link = match serde_json::from_slice(&line) {
                Ok(link) => link,
                Err(problem) => {
                    items.push(unparsable(problem.to_string()));
                    (self.next, self.prev) = (self.next + 1, None);
                    continue;
                }
            };
            if link.writer != writer || link.seq < self.next {
                let (other, seq, next) = (link.writer, link.seq, self.next);
                items.push(misplaced(format!("line {number} is record {seq} of {other} where {next} was to come")));
                continue;
            }
            self.skip_to(link.seq, &writer, &mut items);
            if self.prev.is_some_and(|prev| prev != link.prev) {
                let seq = link.seq.saturating_sub(1).max(1);
                items.push(LogItem::Fault(LogFault::Altered { writer: writer.clone(), seq }));
            }
            let digest = Sha256::of(&line);
            (self.next, self.prev) = (link.seq + 1, Some(digest));
            if self.heads.get(&writer).is_some_and(|head| head.seq == link.seq && head.sha256 != digest) {
                items.push(LogItem::Fault(LogFault::Altered { writer: writer.clone(), seq: link.seq }));
                // Said once is enough: what the next record says of it is no news.
                self.prev = None;
            }
            items.push(if link.schema > SCHEMA {
                LogItem::Newer(line)
            } else {
                match serde_json::from_slice(&line) {
                    Ok(record) => LogItem::Record(Box::new(Logged { record, line })),
                    Err(problem) => unparsable(problem.to_string()),
                }
            });
        }
        if number == 0 {
            items.push(misplaced("holds no record".into()));
        }
        items
    }

    /// Notes that what lies before `seq` is missing, if anything is.
    fn skip_to(&mut self, seq: u64, writer: &WriterId, items: &mut Vec<LogItem>) {
        if seq > self.next {
            let (writer, from, to) = (writer.clone(), self.next, seq - 1);
            items.push(LogItem::Fault(LogFault::Missing { writer, from, to }));
            (self.next, self.prev) = (seq, None);
        }
    }
}

fn place(key: &Key) -> Option<(WriterId, u64)> {
    let (writer, object) = key.as_str().strip_prefix(Prefix::log().as_str())?.split_once('/')?;
    let writer: WriterId = writer.parse().ok()?;
    let seq = object.strip_suffix(".jsonl")?.parse().ok()?;
    (Key::log(writer.as_str(), seq) == *key && seq > 0).then_some((writer, seq))
}

fn lines(body: &Bytes) -> impl Iterator<Item = Bytes> {
    let text = body.strip_suffix(b"\n").unwrap_or(body);
    let whole = (!text.is_empty()).then_some(text);
    whole.into_iter().flat_map(|text| text.split(|byte| *byte == b'\n')).map(|line| body.slice_ref(line))
}

#[cfg(test)]
mod tests {
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::{
        super::{
            Manifest,
            testing::{MemoryStore, fact},
        },
        *,
    };

    /// A log of nine records in three objects of three.
    async fn three_batches() -> (Arc<MemoryStore>, WriterId, Vec<String>) {
        let store = MemoryStore::new();
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let manifest = Manifest::start(store.clone(), WriterId::new(), &tracker, shutdown.clone());
        for batch in 0..3 {
            let three = (0..3).map(|n| manifest.record_stored(fact(batch * 3 + n)));
            futures_util::future::try_join_all(three).await.unwrap();
        }
        // Its head is written.
        shutdown.cancel();
        tracker.close();
        tracker.wait().await;
        let keys = store.keys("manifest/log/");
        assert_eq!(keys.len(), 3, "{keys:?}");
        (store, manifest.writer().clone(), keys)
    }

    async fn read(store: &MemoryStore) -> (Vec<u64>, Vec<LogFault>) {
        let (mut seqs, mut faults) = (Vec::new(), Vec::new());
        let mut items = log(store);
        while let Some(item) = items.next().await {
            match item.unwrap() {
                LogItem::Record(logged) => seqs.push(logged.record.seq),
                LogItem::Newer(_) => seqs.push(0),
                LogItem::Fault(fault) => faults.push(fault),
            }
        }
        (seqs, faults)
    }

    fn edit(store: &MemoryStore, key: &str, edit: impl Fn(String) -> String) {
        let text = String::from_utf8(store.object(key).to_vec()).unwrap();
        let edited = edit(text.clone());
        assert_ne!(text, edited);
        store.plant(key, edited);
    }

    #[tokio::test]
    async fn chains_of_several_writers_are_read_in_order() {
        let (store, _, _) = three_batches().await;
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let other = Manifest::start(store.clone(), "zz".parse().unwrap(), &tracker, shutdown);
        other.record_stored(fact(1)).await.unwrap();
        assert_eq!(read(&store).await, (vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 1], vec![]));
    }

    #[tokio::test]
    async fn an_altered_record_is_named() {
        let (store, writer, keys) = three_batches().await;
        edit(&store, &keys[1], |text| text.replace("file-4.bin", "file-X.bin"));
        let (seqs, faults) = read(&store).await;
        assert_eq!(seqs.len(), 9);
        assert_eq!(faults, [LogFault::Altered { writer, seq: 5 }]);
    }

    #[tokio::test]
    async fn a_removed_batch_and_a_removed_record_are_named() {
        let (store, writer, keys) = three_batches().await;
        store.uproot(&keys[1]);
        edit(&store, &keys[2], |text| {
            text.split_inclusive('\n').enumerate().filter(|(n, _)| *n != 1).map(|l| l.1).collect()
        });
        let (seqs, faults) = read(&store).await;
        assert_eq!(seqs, [1, 2, 3, 7, 9]);
        let missing = |from, to| LogFault::Missing { writer: writer.clone(), from, to };
        assert_eq!(faults, [missing(4, 6), missing(8, 8)]);

        let (store, writer, keys) = three_batches().await;
        store.uproot(&keys[0]);
        assert_eq!(read(&store).await.1, [LogFault::Missing { writer, from: 1, to: 3 }]);
    }

    #[tokio::test]
    async fn an_altered_last_record_is_named() {
        let (store, writer, keys) = three_batches().await;
        edit(&store, &keys[2], |text| text.replace("file-8.bin", "file-X.bin"));
        assert_eq!(read(&store).await.1, [LogFault::Altered { writer, seq: 9 }]);
    }

    #[tokio::test]
    async fn an_end_that_was_cut_off_is_named() {
        let missing = |writer: &WriterId, from| LogFault::Missing { writer: writer.clone(), from, to: 9 };
        let (store, writer, keys) = three_batches().await;
        edit(&store, &keys[2], |text| text.split_inclusive('\n').take(2).collect());
        assert_eq!(read(&store).await, ((1..=8).collect(), vec![missing(&writer, 9)]));

        store.uproot(&keys[2]);
        assert_eq!(read(&store).await, ((1..=6).collect(), vec![missing(&writer, 7)]));

        store.uproot(&keys[1]);
        store.uproot(&keys[0]);
        // Beside a chain that is whole.
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let other = Manifest::start(store.clone(), "zz".parse().unwrap(), &tracker, shutdown);
        other.record_stored(fact(1)).await.unwrap();
        assert_eq!(read(&store).await, (vec![1], vec![missing(&writer, 1)]));
    }

    #[tokio::test]
    async fn a_head_that_lags_is_no_fault_and_one_that_is_none_is_named() {
        let (store, writer, keys) = three_batches().await;
        let head = Key::head(writer.as_str());
        let sixth = store.object(&keys[1]);
        let digest = Sha256::of(sixth.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap());
        store.plant(head.as_str(), format!(r#"{{"schema":1,"writer":"{writer}","seq":6,"sha256":"{digest}"}}"#));
        assert_eq!(read(&store).await, ((1..=9).collect(), vec![]));
        store.plant(head.as_str(), format!(r#"{{"schema":2,"writer":"{writer}","seq":7,"sha256":"{digest}"}}"#));
        assert_eq!(read(&store).await.1, []);

        for broken in ["", "{}", &format!(r#"{{"schema":1,"writer":"zz","seq":6,"sha256":"{digest}"}}"#)] {
            store.plant(head.as_str(), broken.to_owned());
            let (seqs, faults) = read(&store).await;
            assert_eq!(seqs.len(), 9);
            let [LogFault::Misplaced { key, .. }] = &faults[..] else { panic!("{broken}: {faults:?}") };
            assert_eq!(key, head.as_str());
        }
    }

    #[tokio::test]
    async fn records_in_another_order_or_place_are_named() {
        let (store, _, keys) = three_batches().await;
        edit(&store, &keys[0], |text| text.split_inclusive('\n').rev().collect());
        assert!(!read(&store).await.1.is_empty());

        let (store, writer, keys) = three_batches().await;
        store.plant(&format!("manifest/log/{writer}/00000000000000000010.jsonl"), store.object(&keys[2]));
        store.plant("manifest/log/stray", "");
        store.plant("manifest/log/other/00000000000000000001.jsonl", store.object(&keys[0]));
        let (seqs, faults) = read(&store).await;
        assert_eq!(seqs.len(), 9);
        assert!(faults.iter().all(|fault| matches!(fault, LogFault::Misplaced { .. })), "{faults:?}");
        assert_eq!(faults.len(), 3 + 1 + 3);
    }

    #[tokio::test]
    async fn text_that_is_no_record_is_named_by_line_and_the_rest_is_read() {
        let (store, _, keys) = three_batches().await;
        edit(&store, &keys[1], |text| text.replacen("{\"schema\"", "\"schema\"", 1));
        store.plant(&keys[2], "");
        let (seqs, faults) = read(&store).await;
        assert_eq!(seqs, [1, 2, 3, 5, 6]);
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(matches!(&faults[0], LogFault::Unparsable { key, line: 1, .. } if *key == keys[1]), "{faults:?}");
        assert!(matches!(&faults[1], LogFault::Misplaced { key, .. } if *key == keys[2]), "{faults:?}");
    }

    #[tokio::test]
    async fn records_of_a_later_version_are_kept_in_their_chain() {
        let (store, _, keys) = three_batches().await;
        edit(&store, &keys[2], |text| text.replace("{\"schema\":1", "{\"schema\":2,\"mood\":true"));
        let (seqs, faults) = read(&store).await;
        assert_eq!(seqs, [1, 2, 3, 4, 5, 6, 0, 0, 0]);
        // Changed by this test, so the links within the object and that of the head are broken.
        assert_eq!(faults.len(), 3, "{faults:?}");
    }
}
