//! Holds the audit log against its chains: `hubgate verify` names an entry that was altered or taken out.
//!
//! A chain vouches for every entry but its last, and its head, which only its writer overwrites, for that. As with the
//! manifest's log, whoever can write to the whole store can write both anew; a kept copy of the heads shows that too.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::audit::{AuditEntry, LIMIT_BYTES, READS_AT_ONCE, day};
use crate::{
    hub::Sha256,
    manifest::{
        WriterId,
        verify::{Finding, Kind, Report},
    },
    store::{ErrorKind, Key, Prefix, Result, Store},
};

/// The version of a head's form.
const SCHEMA: u32 = 1;

/// The end of one chain, as its writer last knew it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    schema: u32,
    writer: WriterId,
    seq: u64,
    sha256: Sha256,
}

impl Head {
    pub(super) fn new(writer: WriterId, seq: u64, sha256: Sha256) -> Self {
        Self { schema: SCHEMA, writer, seq, sha256 }
    }
}

/// The entries of one writer's chain by number, and its head.
#[derive(Default)]
struct Chain {
    keys: BTreeMap<u64, Key>,
    head: Option<Head>,
}

/// Reads the whole audit log and adds to a report how many entries there are and what is wrong with them.
///
/// # Errors
/// The store's: then nothing is proven.
pub async fn verify(store: &Arc<dyn Store>, report: &mut Report) -> Result<()> {
    let mut chains: BTreeMap<String, Chain> = BTreeMap::new();
    // Before the entries, so that a chain that grows meanwhile is never shorter than its head.
    let heads: Vec<Key> = store.list(&Prefix::audit_heads()).map_ok(|meta| meta.key).try_collect().await?;
    for key in heads {
        let Some(body) = store.get(&key, LIMIT_BYTES).await? else { continue };
        match serde_json::from_slice::<Head>(&body) {
            Ok(head) if head.schema > SCHEMA => {}
            Ok(head) if Key::audit_head(head.writer.as_str()) == key => {
                let writer = head.writer.to_string();
                chains.entry(writer).or_default().head = Some(head);
            }
            Ok(head) => report.add(unreadable(&key, format!("the head of another chain, that of {}", head.writer))),
            Err(problem) => report.add(unreadable(&key, format!("not the head of an audit log: {problem}"))),
        }
    }
    let entries: Vec<Key> = store.list(&Prefix::audit()).map_ok(|meta| meta.key).try_collect().await?;
    for key in entries {
        let Some((writer, seq)) = key.audited() else {
            report.add(unreadable(&key, "no name of an audit entry".into()));
            continue;
        };
        let chain = chains.entry(writer.to_owned()).or_default();
        if let Some(other) = chain.keys.get(&seq) {
            report.add(unreadable(&key, format!("the same entry as {other}")));
        } else {
            chain.keys.insert(seq, key);
        }
    }
    for (writer, chain) in chains {
        check(store, &writer, chain, report).await?;
    }
    Ok(())
}

async fn check(store: &Arc<dyn Store>, writer: &str, chain: Chain, report: &mut Report) -> Result<()> {
    let missing = |from: u64, to: u64| {
        let which = if from == to { format!("entry {from} is") } else { format!("entries {from} to {to} are") };
        finding(Kind::MissingAuditEntry, writer, format!("{which} missing"))
    };
    let altered = |seq: u64| {
        let detail = format!("entry {seq} was altered, or the link to it in the one that follows or in the head");
        finding(Kind::AlteredAuditEntry, writer, detail)
    };
    let reads = stream::iter(chain.keys).map(|(seq, key)| async move {
        match store.get(&key, LIMIT_BYTES).await {
            Ok(body) => Ok((seq, key, body.ok_or_else(|| "listed, but not there".to_owned()))),
            Err(error) if matches!(error.kind, ErrorKind::TooLarge(_) | ErrorKind::Corrupt(_)) => {
                Ok((seq, key, Err(error.to_string())))
            }
            Err(error) => Err(error),
        }
    });
    let mut reads = reads.buffered(READS_AT_ONCE);
    // Number and digest of the entry before.
    let (mut last, mut digest) = (0, Some(Sha256::ZERO));
    while let Some((seq, key, body)) = reads.try_next().await? {
        report.audit_entries += 1;
        if seq > last + 1 {
            report.add(missing(last + 1, seq - 1));
            digest = None;
        }
        let entry = body.and_then(|body| {
            let entry = serde_json::from_slice::<AuditEntry>(&body);
            Ok((entry.map_err(|problem| format!("not an audit entry: {problem}"))?, Sha256::of(&body)))
        });
        match entry {
            Ok((entry, own)) => {
                let place = Key::audit(&day(entry.time), entry.writer.as_str(), entry.seq);
                if place != key {
                    report.add(unreadable(&key, format!("the audit entry of another place, {place}")));
                }
                if digest.is_some_and(|digest| digest != entry.prev) {
                    report.add(altered(last));
                }
                digest = Some(own);
            }
            Err(problem) => {
                report.add(unreadable(&key, problem));
                digest = None;
            }
        }
        last = seq;
        if let (Some(head), Some(digest)) = (&chain.head, digest)
            && head.seq == seq
            && head.sha256 != digest
        {
            report.add(altered(seq));
        }
    }
    if let Some(head) = chain.head.filter(|head| head.seq > last) {
        report.add(missing(last + 1, head.seq));
    }
    Ok(())
}

fn finding(kind: Kind, writer: &str, detail: String) -> Finding {
    Finding { kind, name: format!("audit log of {writer}"), detail, repaired: false }
}

fn unreadable(key: &Key, detail: String) -> Finding {
    Finding { kind: Kind::Unreadable, name: key.to_string(), detail, repaired: false }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::{
        super::audit::{Audit, Change},
        *,
    };
    use crate::manifest::testing::MemoryStore;

    fn change(subject: &str) -> Change {
        Change {
            who: "alice".into(),
            from: None,
            request_id: None,
            what: "withdrawal.withdraw".into(),
            subject: subject.into(),
            why: Some("because".into()),
            details: json!(null),
        }
    }

    /// A store with four entries of one writer; their keys.
    async fn four() -> (Arc<MemoryStore>, Vec<String>) {
        let store = MemoryStore::new();
        let audit = Audit::new(store.clone(), WriterId::new());
        for subject in ["a", "b", "c", "d"] {
            audit.record(change(subject)).await.unwrap();
        }
        let keys = store.keys("audit/");
        (store, keys)
    }

    async fn found(store: &Arc<MemoryStore>) -> Vec<String> {
        let mut report = Report::default();
        let store: Arc<dyn Store> = store.clone();
        verify(&store, &mut report).await.unwrap();
        let named = |finding: &Finding| finding.name.starts_with("audit");
        assert!(report.findings.iter().all(named), "{report:?}");
        report.findings.iter().map(|finding| format!("{}: {}", finding.kind, finding.detail)).collect()
    }

    fn edit(store: &MemoryStore, key: &str) {
        let text = String::from_utf8(store.object(key).to_vec()).unwrap();
        let edited = text.replace("because", "becausE");
        assert_ne!(edited, text);
        store.plant(key, Bytes::from(edited));
    }

    #[tokio::test]
    async fn a_whole_audit_log_has_no_findings_and_a_lagging_head_is_none() {
        let (store, _) = four().await;
        let head = store.keys("audit-heads/").remove(0);
        let audit = Audit::new(store.clone(), WriterId::new());
        audit.record(change("x")).await.unwrap();
        let lagging = store.keys("audit-heads/").into_iter().find(|key| *key != head).unwrap();
        let then = store.object(&lagging);
        audit.record(change("y")).await.unwrap();
        store.plant(&lagging, then);
        assert_eq!(found(&store).await, [""; 0]);
    }

    #[tokio::test]
    async fn every_entry_that_was_altered_is_named_the_last_one_too() {
        for altered in 0..4 {
            let (store, keys) = four().await;
            edit(&store, &keys[altered]);
            let said = format!("altered audit entry: entry {} was altered, or the link", altered + 1);
            let found = found(&store).await;
            assert!(found.len() == 1 && found[0].starts_with(&said), "{found:?}");
        }
    }

    #[tokio::test]
    async fn every_entry_that_was_removed_is_named_the_last_one_too() {
        for removed in 0..4 {
            let (store, keys) = four().await;
            store.delete(&Key::listed(keys[removed].as_str())).await.unwrap();
            assert_eq!(found(&store).await, [format!("missing audit entry: entry {} is missing", removed + 1)]);
        }
        let (store, keys) = four().await;
        for key in &keys {
            store.delete(&Key::listed(key.as_str())).await.unwrap();
        }
        assert_eq!(found(&store).await, ["missing audit entry: entries 1 to 4 are missing"]);
    }

    #[tokio::test]
    async fn what_is_no_entry_or_stands_elsewhere_is_named_by_its_key() {
        let (store, keys) = four().await;
        store.plant(&keys[1], "{");
        store.plant(&keys[3].replace("audit/2", "audit/3"), store.object(&keys[3]));
        store.plant("audit/stray", "x");
        let found = found(&store).await;
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().all(|said| said.starts_with("unreadable object: ")), "{found:?}");
    }
}
