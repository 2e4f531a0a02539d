//! Removing withdrawn files from the store, in the order that every removal has: log record, index entry, blob.
//!
//! A blob goes only when no entry of another file names it. A crash in between leaves what the next run, by any
//! replica, completes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use super::{Admin, Result, Target, Withdrawal};
use crate::{
    hub::{Repo, Sha256},
    manifest::{self, Entry, NewRecord, What, holders},
    policy::WITHDRAWAL,
    store::{Key, Prefix},
};

/// Files that are removed at a time.
const AT_ONCE: usize = 16;
/// A larger identity is nothing that we wrote.
const IDENTITY_BYTES: u64 = 64 * 1024;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Purged {
    /// Index entries.
    pub files: u64,
    /// Blobs that nothing else named.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Admin {
    pub(super) async fn remove_files(&self, withdrawal: &Withdrawal) -> Result<Purged> {
        let entries = self.entries_of(&withdrawal.target).await?;
        let policy = self.policy.current();
        self.manifest.remember_policy(policy.digest(), policy.text()).await?;
        let records: Vec<NewRecord> =
            entries.iter().map(|entry| self.withdrawn(entry, withdrawal, policy.digest())).collect();
        let manifest = self.manifest.clone();
        let recording = stream::iter(records).map(move |record| {
            let manifest = manifest.clone();
            async move { manifest.record(record).await }
        });
        recording.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let sizes: BTreeMap<Sha256, u64> = entries.iter().map(|entry| (entry.sha256, entry.size)).collect();
        let named: BTreeSet<Sha256> = holders(&*self.store, &sizes.keys().copied().collect())
            .await?
            .into_iter()
            .map(|record| record.fact.sha256)
            .collect();
        let mut purged = Purged { files: entries.len() as u64, ..Purged::default() };
        for (sha256, size) in sizes.into_iter().filter(|(sha256, _)| !named.contains(sha256)) {
            self.store.delete(&Key::blob(&sha256)).await?;
            purged.blobs += 1;
            purged.bytes += size;
        }
        Ok(purged)
    }

    async fn entries_of(&self, target: &Target) -> Result<Vec<Arc<Entry>>> {
        let mut entries = Vec::new();
        match target {
            Target::Repo { repo } => {
                for name in self.stored_names(repo).await? {
                    let of_name: Vec<_> = self.manifest.entries_of_repo(&name).try_collect().await?;
                    entries.extend(of_name);
                }
            }
            Target::Commit { repo, commit } => {
                for name in self.stored_names(repo).await? {
                    let of_name: Vec<_> = self.manifest.entries_of(&name, *commit).try_collect().await?;
                    entries.extend(of_name);
                }
            }
            Target::Sha256 { sha256 } => {
                let records = holders(&*self.store, &BTreeSet::from([*sha256])).await?;
                entries.extend(records.iter().map(|record| Arc::new(Entry::of(&record.fact))));
            }
        }
        Ok(entries)
    }

    /// The names under which a repo's files are stored: its own in any spelling, and what upstream called it.
    async fn stored_names(&self, repo: &Repo) -> Result<BTreeSet<Repo>> {
        #[derive(serde::Deserialize)]
        struct Identity {
            canonical: Repo,
        }
        let keys: Vec<Key> = self.store.list(&Prefix::identities()).map_ok(|meta| meta.key).try_collect().await?;
        let mut names = BTreeSet::from([repo.clone()]);
        for key in keys {
            if !key.identified().is_some_and(|name| name.same_name(repo)) {
                continue;
            }
            let Some(body) = self.store.get(&key, IDENTITY_BYTES).await? else { continue };
            match serde_json::from_slice::<Identity>(&body) {
                // `Display` of a repo has its kind, and so has what was stored.
                Ok(identity) => drop(names.insert(identity.canonical)),
                Err(error) => tracing::error!(%key, %error, "an identity is unreadable"),
            }
        }
        Ok(names)
    }

    fn withdrawn(&self, entry: &Entry, withdrawal: &Withdrawal, policy: Sha256) -> NewRecord {
        NewRecord {
            what: What::Withdrawn,
            repo: entry.repo.clone(),
            upstream_id: None,
            revision: None,
            commit: entry.commit,
            path: entry.path.clone(),
            size: entry.size,
            sha256: entry.sha256,
            etag: entry.etag,
            licence: None,
            licence_from: None,
            rule: Some(format!("{WITHDRAWAL}{}", withdrawal.id)),
            approved_by: None,
            ticket: None,
            policy_sha256: Some(policy),
            asked_by: Some(withdrawal.by.clone()),
            origin: self.origin.clone(),
        }
    }
}

impl From<manifest::Error> for super::Error {
    fn from(error: manifest::Error) -> Self {
        Self::Manifest(error)
    }
}
