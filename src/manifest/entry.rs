//! The index entry of a file: that it may be served, and by which facts.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::record::{NewRecord, What, kind_and_id};
use crate::{
    hub::{BlobId, Commit, Repo, RepoPath, Sha256},
    store::Key,
};

/// The version of an entry's form. A reader refuses one that it does not know.
const SCHEMA: u32 = 1;

/// What the index says of one file of one commit.
///
/// Deterministic facts only, no time and no writer: two gateways that store the same file write the same
/// bytes, so it doesn't matter which of them is last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    schema: u32,
    /// The repo under its canonical name; in JSON `kind` and `repo`.
    #[serde(flatten, with = "kind_and_id")]
    pub repo: Repo,
    /// The full commit.
    pub commit: Commit,
    /// The path in the commit's tree.
    pub path: RepoPath,
    /// Length in bytes.
    pub size: u64,
    /// The digest of the content: the blob's name in the store.
    pub sha256: Sha256,
    /// The etag that clients see: the sha256 again, or the git blob id of a small file.
    pub etag: BlobId,
}

impl Entry {
    /// The entry that a record of a stored file leads to.
    pub fn of(fact: &NewRecord) -> Self {
        Self {
            schema: SCHEMA,
            repo: fact.repo.clone(),
            commit: fact.commit,
            path: fact.path.clone(),
            size: fact.size,
            sha256: fact.sha256,
            etag: fact.etag,
        }
    }

    /// The record that takes this file away. How it came stands in the record that stored it.
    pub fn removal(&self, what: What, asked_by: impl Into<String>, origin: impl Into<String>) -> NewRecord {
        NewRecord {
            what,
            repo: self.repo.clone(),
            upstream_id: None,
            revision: None,
            commit: self.commit,
            path: self.path.clone(),
            size: self.size,
            sha256: self.sha256,
            etag: self.etag,
            licence: None,
            licence_from: None,
            rule: None,
            approved_by: None,
            ticket: None,
            policy_sha256: None,
            asked_by: Some(asked_by.into()),
            origin: origin.into(),
        }
    }

    /// Where it is kept.
    pub fn key(&self) -> Key {
        Key::index(&self.repo, self.commit, &self.path)
    }

    /// Its one spelling in the store.
    pub(super) fn to_bytes(&self) -> super::Result<Vec<u8>> {
        Ok(serde_json::to_vec(self).map_err(Arc::new)?)
    }

    /// Reads what stands under `key`. Anything but the one spelling of that very file's entry is refused,
    /// with what is wrong.
    pub(super) fn read(key: &Key, bytes: &[u8]) -> Result<Self, String> {
        let entry: Self = serde_json::from_slice(bytes).map_err(|problem| format!("not an index entry: {problem}"))?;
        if entry.schema != SCHEMA {
            return Err(format!("index entry of schema {}, which this version does not know", entry.schema));
        }
        if entry.key() != *key {
            return Err(format!("the index entry of another file: {} {} {}", entry.repo, entry.commit, entry.path));
        }
        if entry.to_bytes().ok().as_deref() != Some(bytes) {
            return Err("an index entry in a spelling that hubgate does not write".into());
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing, *};

    #[test]
    fn an_entry_has_one_spelling_and_one_place() {
        let entry = Entry::of(&testing::fact(7));
        let bytes = entry.to_bytes().unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.starts_with(r#"{"schema":1,"kind":"model","repo":"org/name","commit":""#), "{text}");
        assert_eq!(Entry::read(&entry.key(), &bytes).unwrap(), entry);

        let elsewhere = Entry::of(&testing::fact(8)).key();
        assert!(Entry::read(&elsewhere, &bytes).unwrap_err().contains("another file"));
        let spaced = text.replace(',', ", ");
        assert!(Entry::read(&entry.key(), spaced.as_bytes()).unwrap_err().contains("spelling"));
        let newer = text.replace("\"schema\":1", "\"schema\":2");
        assert!(Entry::read(&entry.key(), newer.as_bytes()).unwrap_err().contains("schema 2"));
        assert!(Entry::read(&entry.key(), b"").unwrap_err().contains("not an index entry"));
    }
}
