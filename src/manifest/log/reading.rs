//! One chain after another, object by object: what stands in each, and where the links between its records are broken.
//! Pure: keys and bodies in, records and faults out.

use std::collections::HashSet;

use bytes::Bytes;
use serde::Deserialize;

use super::{LogFault, LogItem, Logged};
use crate::{
    hub::Sha256,
    manifest::{WriterId, heads::Heads, record::SCHEMA},
    store::{Key, Prefix},
};

/// The fields that a record of every version has.
#[derive(Deserialize)]
struct Link {
    schema: u32,
    writer: WriterId,
    seq: u64,
    prev: Sha256,
}

/// Where reading has come to in the chain of one writer.
pub(super) struct ReadChain {
    writer: Option<WriterId>,
    /// The number that comes next.
    next: u64,
    /// The digest of the last line, where it is known for sure.
    prev: Option<Sha256>,
    /// The ends that chains should have, of those whose end has not been read.
    heads: Heads,
}

impl ReadChain {
    pub(super) fn under(heads: Heads) -> Self {
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

    /// The next object that should stand before `to`, or before the end of the log, of those that were not `asked`
    /// for yet.
    pub(super) fn lacks_before(&self, to: Option<&Key>, asked: &HashSet<Key>) -> Option<Key> {
        let to = match to {
            Some(to) => Some(place(to)?),
            None => None,
        };
        let is_lacking = |writer: &WriterId, next: u64| match &to {
            Some((listed, first)) if listed == writer => next < *first,
            _ => self.heads.get(writer).is_some_and(|head| next <= head.seq),
        };
        let present = self.writer.as_ref().map(|writer| (writer, self.next));
        let is_present = |writer: &&WriterId| self.writer.as_ref() == Some(*writer);
        // Chains come in the order of their writers, but for those that were not listed at all, at the end.
        let (next, unlisted) = match &to {
            Some((writer, _)) => (Some(writer).filter(|writer| !is_present(writer)), None),
            None => (None, Some(self.heads.keys().filter(|writer| !is_present(writer)))),
        };
        let from_the_first = next.into_iter().chain(unlisted.into_iter().flatten()).map(|writer| (writer, 1));
        present
            .into_iter()
            .chain(from_the_first)
            .filter(|(writer, next)| is_lacking(writer, *next))
            .map(|(writer, next)| Key::log(writer.as_str(), next))
            .find(|key| !asked.contains(key))
    }

    /// Ends the log: what heads speak of must have been there.
    pub(super) fn end(&mut self) -> Vec<LogItem> {
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

    pub(super) fn read(&mut self, key: &Key, body: std::result::Result<Bytes, String>) -> Vec<LogItem> {
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
