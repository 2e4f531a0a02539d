//! The audit log: one create-only object for each change, written before the change takes effect.
//!
//! Each process writes a chain of its own, as in the manifest's log: `seq` counts from 1 without a gap and `prev` is
//! the sha256 of the object before, so a changed or removed entry shows ([`super::audit_chain`]); the head does the same
//! for the last one. An entry says what was asked for; whether it
//! came to be is for the object it speaks of (a process may die between the two). Entries are never deleted here.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{OffsetDateTime, macros::format_description};
use tokio::sync::Mutex;

use super::audit_chain::Head;
use crate::{
    hub::Sha256,
    manifest::WriterId,
    store::{Error, ErrorKind, Key, Prefix, PutMode, PutOutcome, Result, Store},
};

/// The version of an entry's form.
const SCHEMA: u32 = 1;
/// A larger entry is nothing that we wrote.
pub(super) const LIMIT_BYTES: u64 = 256 * 1024;
/// Entries that are read at a time.
pub(super) const READS_AT_ONCE: usize = 16;

/// A change, as somebody asked for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Whose token it was, or `cli:` and the user of the command line.
    pub who: String,
    /// The address it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The id of the HTTP request; the access log has it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What was done: `policy.reload`, `approval.approve`, `withdrawal.withdraw`, ...
    pub what: String,
    /// To what: a repo, an id.
    pub subject: String,
    /// The reason that was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// All else that was asked for.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

/// One entry: a change, and its place in its writer's chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// The version of the form.
    pub schema: u32,
    /// When, in UTC.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// Whose chain it stands in.
    pub writer: WriterId,
    /// Its place in the chain, from 1.
    pub seq: u64,
    /// The sha256 of the object before; zeros for the first.
    pub prev: Sha256,
    /// What was asked for.
    #[serde(flatten)]
    pub change: Change,
}

/// Which entries to list.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Not before.
    pub since: Option<OffsetDateTime>,
    /// Before.
    pub until: Option<OffsetDateTime>,
    /// By this operator.
    pub who: Option<String>,
    /// What was done begins so: `approval`.
    pub what: Option<String>,
    /// At most so many, the newest first.
    pub limit: usize,
}

impl AuditFilter {
    fn takes(&self, entry: &AuditEntry) -> bool {
        self.since.is_none_or(|since| entry.time >= since)
            && self.until.is_none_or(|until| entry.time < until)
            && self.who.as_ref().is_none_or(|who| entry.change.who == *who)
            && self.what.as_ref().is_none_or(|what| entry.change.what.starts_with(what))
    }
}

/// The trail of this process, and the reader of all.
#[derive(Debug)]
pub struct Audit {
    store: Arc<dyn Store>,
    writer: WriterId,
    chain: Mutex<Chain>,
}

#[derive(Debug)]
struct Chain {
    seq: u64,
    prev: Sha256,
    /// An object that could not be written, or so it seemed. Its bytes are final: it goes out before any other.
    stuck: Option<(Key, Bytes)>,
}

impl Audit {
    pub(super) fn new(store: Arc<dyn Store>, writer: WriterId) -> Self {
        Self { store, writer, chain: Mutex::new(Chain { seq: 1, prev: Sha256::ZERO, stuck: None }) }
    }

    /// Writes down a change. Make it only after this has returned.
    ///
    /// # Errors
    /// The store's: then the change must not be made.
    pub async fn record(&self, change: Change) -> Result<AuditEntry> {
        let mut chain = self.chain.lock().await;
        if let Some((key, body)) = chain.stuck.clone() {
            self.write(&key, &body).await?;
            chain.stuck = None;
        }
        let time = OffsetDateTime::now_utc();
        let entry =
            AuditEntry { schema: SCHEMA, time, writer: self.writer.clone(), seq: chain.seq, prev: chain.prev, change };
        let body = Bytes::from(serde_json::to_vec(&entry).map_err(|error| Error::new(unwritten(&error)))?);
        let key = Key::audit(&day(time), self.writer.as_str(), chain.seq);
        chain.seq += 1;
        chain.prev = Sha256::of(&body);
        tracing::info!(who = entry.change.who, what = entry.change.what, subject = entry.change.subject, "audit");
        // Held as stuck until it is known to be written: whoever stops waiting for this leaves no gap.
        chain.stuck = Some((key.clone(), body.clone()));
        self.write(&key, &body).await?;
        chain.stuck = None;
        self.tell_head(entry.seq, chain.prev).await;
        Ok(entry)
    }

    /// Says where the chain ends now. The entry is written by then, so a failure is no reason to stop the change.
    async fn tell_head(&self, seq: u64, sha256: Sha256) {
        let key = Key::audit_head(self.writer.as_str());
        let Ok(body) = serde_json::to_vec(&Head::new(self.writer.clone(), seq, sha256)) else { return };
        if let Err(error) = self.store.put(&key, Bytes::from(body), PutMode::Overwrite).await {
            tracing::warn!(%key, %error, "the head of the audit log not written; the next entry writes it anew");
        }
    }

    async fn write(&self, key: &Key, body: &Bytes) -> Result<()> {
        if self.store.put(key, body.clone(), PutMode::Create).await? == PutOutcome::Existed
            && self.store.get(key, LIMIT_BYTES).await?.as_ref() != Some(body)
        {
            let problem = "holds an audit entry that this process did not write; restart hubgate to begin a new chain";
            return Err(Error::new(ErrorKind::Other(problem.into())).on(key));
        }
        Ok(())
    }

    /// The entries of all writers that the filter takes, the newest first. Days are read from the newest back until
    /// there are enough.
    ///
    /// # Errors
    /// The store's. Entries that can't be read are left out, loudly.
    pub async fn list(&self, filter: &AuditFilter) -> Result<Vec<AuditEntry>> {
        let keys: Vec<Key> = self.store.list(&Prefix::audit()).map_ok(|meta| meta.key).try_collect().await?;
        let mut found = Vec::new();
        for keys in keys.chunk_by(|a, b| day_of(a) == day_of(b)).rev() {
            let Some(day) = keys.first().and_then(day_of) else { continue };
            let past = |end: Option<OffsetDateTime>| end.map(self::day);
            if past(filter.until).is_some_and(|until| day > until.as_str()) {
                continue;
            }
            if past(filter.since).is_some_and(|since| day < since.as_str()) || found.len() >= filter.limit {
                break;
            }
            let entries = stream::iter(keys.to_vec()).map(|key| async move { self.read(&key).await });
            let entries = entries.buffered(READS_AT_ONCE);
            let mut entries: Vec<AuditEntry> =
                entries.try_filter_map(|entry| async { Ok(entry) }).try_collect().await?;
            entries.retain(|entry| filter.takes(entry));
            entries.sort_by(|a, b| b.time.cmp(&a.time).then(b.seq.cmp(&a.seq)));
            found.append(&mut entries);
        }
        found.truncate(filter.limit);
        Ok(found)
    }

    async fn read(&self, key: &Key) -> Result<Option<AuditEntry>> {
        let Some(body) = self.store.get(key, LIMIT_BYTES).await? else { return Ok(None) };
        match serde_json::from_slice(&body) {
            Ok(entry) => Ok(Some(entry)),
            Err(error) => {
                tracing::error!(%key, %error, "an audit entry is unreadable");
                Ok(None)
            }
        }
    }
}

/// The day of an entry's key, `audit/<day>/...`.
fn day_of(key: &Key) -> Option<&str> {
    key.as_str().split('/').nth(1)
}

/// A time's day in UTC, as it stands in keys.
pub(super) fn day(time: OffsetDateTime) -> String {
    let form = format_description!("[year]-[month]-[day]");
    time.to_offset(time::UtcOffset::UTC).format(form).unwrap_or_default()
}

pub(super) fn unwritten(error: &serde_json::Error) -> ErrorKind {
    ErrorKind::Other(format!("no form as JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{SpoolConfig, StoreConfig};

    async fn store(dir: &std::path::Path) -> Arc<dyn Store> {
        let mut config = StoreConfig::default();
        config.local.path = dir.join("store");
        crate::store::build(&config, &SpoolConfig::default(), "test").await.unwrap()
    }

    fn change(who: &str, what: &str) -> Change {
        Change {
            who: who.into(),
            from: None,
            request_id: None,
            what: what.into(),
            subject: "acme/tiny".into(),
            why: Some("because".into()),
            details: json!({"pin": null}),
        }
    }

    #[tokio::test]
    async fn entries_are_chained_and_listed_with_the_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        let audit = Audit::new(store.clone(), WriterId::new());
        let first = audit.record(change("alice", "approval.approve")).await.unwrap();
        let second = audit.record(change("bob", "withdrawal.withdraw")).await.unwrap();
        let other = Audit::new(store.clone(), WriterId::new()).record(change("alice", "policy.reload")).await.unwrap();

        let key = Key::audit(&day(first.time), first.writer.as_str(), 1);
        let bytes = store.get(&key, LIMIT_BYTES).await.unwrap().unwrap();
        assert_eq!((first.seq, first.prev, second.seq), (1, Sha256::ZERO, 2));
        assert_eq!(second.prev, Sha256::of(&bytes), "a changed entry shows in the next one");
        assert_eq!((other.seq, other.prev), (1, Sha256::ZERO), "each process has a chain of its own");

        let all = AuditFilter { limit: 10, ..AuditFilter::default() };
        assert_eq!(audit.list(&all).await.unwrap(), [other.clone(), second.clone(), first.clone()]);
        let alice = AuditFilter { who: Some("alice".into()), ..all.clone() };
        assert_eq!(audit.list(&alice).await.unwrap(), [other.clone(), first.clone()]);
        let approvals = AuditFilter { what: Some("approval".into()), ..all.clone() };
        assert_eq!(audit.list(&approvals).await.unwrap(), [first]);
        let newest = AuditFilter { limit: 1, ..all.clone() };
        assert_eq!(audit.list(&newest).await.unwrap(), std::slice::from_ref(&other));
        let later = AuditFilter { since: Some(other.time), ..all };
        assert_eq!(audit.list(&later).await.unwrap(), [other]);
    }

    #[tokio::test]
    async fn an_entry_of_somebody_else_in_our_place_is_an_error_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        let audit = Audit::new(store.clone(), WriterId::new());
        let key = Key::audit(&day(OffsetDateTime::now_utc()), audit.writer.as_str(), 1);
        store.put(&key, Bytes::from_static(b"{}"), PutMode::Create).await.unwrap();
        assert!(audit.record(change("alice", "policy.reload")).await.is_err());
        assert_eq!(store.get(&key, 10).await.unwrap().unwrap(), "{}");
    }
}
