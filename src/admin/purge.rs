//! Removing withdrawn files from the store, in the order that every removal has: log record, index entry, blob.
//!
//! A blob goes only when no entry of another file names it. A crash in between leaves what the next run, by any
//! replica, completes: it begins with what is stored and with what the log says of earlier runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use super::{Admin, Result, Target, Withdrawal, withdrawals::rule_of};
use crate::{
    hub::{Repo, Sha256},
    manifest::{self, Entry, LogItem, NewRecord, What, holders, log},
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

/// Files by the keys of their index entries.
type Files = BTreeMap<Key, Arc<Entry>>;

impl Admin {
    /// Removes them; what an earlier run has removed already counts again.
    pub(super) async fn remove_files(&self, withdrawal: &Withdrawal) -> Result<Purged> {
        let stored = self.entries_of(withdrawal).await?;
        let mut files: Files = stored.into_iter().map(|entry| (entry.key(), entry)).collect();
        let recorded = self.recorded(withdrawal).await?;
        // Served again since then, as by a replica that had not read the withdrawal.
        let again: BTreeSet<Key> = if recorded.is_empty() {
            BTreeSet::new()
        } else {
            let now = holders(&*self.store, &contents(&recorded)).await?;
            now.iter().map(|record| Entry::of(&record.fact).key()).collect()
        };
        files.extend(recorded.iter().map(|(key, entry)| (key.clone(), entry.clone())));
        let mut due = Vec::new();
        for (key, entry) in &files {
            if recorded.contains_key(key) && !again.contains(key) {
                self.store.delete(key).await?;
                self.manifest.forget(&entry.repo, entry.commit, &entry.path).await;
            } else {
                due.push(entry.clone());
            }
        }
        self.record_all(What::Withdrawn, due, withdrawal).await?;
        if files.is_empty() {
            return Ok(Purged::default());
        }
        let all = contents(&files);
        let named: BTreeSet<Sha256> =
            holders(&*self.store, &all).await?.into_iter().map(|record| record.fact.sha256).collect();
        let sizes: BTreeMap<Sha256, u64> = files.values().map(|entry| (entry.sha256, entry.size)).collect();
        let mut purged = Purged { files: files.len() as u64, ..Purged::default() };
        for (sha256, size) in sizes.into_iter().filter(|(sha256, _)| !named.contains(sha256)) {
            self.store.delete(&Key::blob(&sha256)).await?;
            purged.blobs += 1;
            purged.bytes += size;
        }
        self.let_go(&all, withdrawal).await?;
        Ok(purged)
    }

    /// Somebody may have adopted a content for another file between the look at who names it and its removal: such a
    /// file is evicted, so that it is fetched anew rather than missing.
    async fn let_go(&self, contents: &BTreeSet<Sha256>, withdrawal: &Withdrawal) -> Result<()> {
        let mut of_content: BTreeMap<Sha256, Vec<Arc<Entry>>> = BTreeMap::new();
        for record in holders(&*self.store, contents).await? {
            of_content.entry(record.fact.sha256).or_default().push(Arc::new(Entry::of(&record.fact)));
        }
        let mut dangling = Vec::new();
        for (sha256, entries) in of_content {
            if self.store.head(&Key::blob(&sha256)).await?.is_none() {
                dangling.extend(entries);
            }
        }
        self.record_all(What::Evicted, dangling, withdrawal).await
    }

    /// Records what became of files; their index entries go with it.
    async fn record_all(&self, what: What, files: Vec<Arc<Entry>>, withdrawal: &Withdrawal) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let policy = self.policy.current();
        if let Some((sha256, text)) = policy.lock_text() {
            self.manifest.remember_policy(sha256, text).await?;
        }
        self.manifest.remember_policy(policy.digest(), policy.text()).await?;
        let records: Vec<NewRecord> =
            files.iter().map(|entry| self.removal(what.clone(), entry, withdrawal, policy.digest())).collect();
        let manifest = self.manifest.clone();
        let recording = stream::iter(records).map(move |record| {
            let manifest = manifest.clone();
            async move { manifest.record(record).await }
        });
        Ok(recording.buffer_unordered(AT_ONCE).try_collect::<()>().await?)
    }

    /// The files whose removal the log has already, from a run that may not have come to its end.
    async fn recorded(&self, withdrawal: &Withdrawal) -> Result<Files> {
        let rule = rule_of(withdrawal);
        let mut files = Files::new();
        let mut items = log(&*self.store);
        while let Some(item) = items.try_next().await? {
            if let LogItem::Record(logged) = item
                && logged.record.fact.what == What::Withdrawn
                && logged.record.fact.rule.as_deref() == Some(rule.as_str())
            {
                let entry = Entry::of(&logged.record.fact);
                files.insert(entry.key(), Arc::new(entry));
            }
        }
        Ok(files)
    }

    async fn entries_of(&self, withdrawal: &Withdrawal) -> Result<Vec<Arc<Entry>>> {
        let mut entries = Vec::new();
        match &withdrawal.target {
            Target::Repo { repo } => {
                for name in self.all_names(repo, withdrawal).await? {
                    let of_name: Vec<_> = self.manifest.entries_of_repo(&name).try_collect().await?;
                    entries.extend(of_name);
                }
            }
            Target::Commit { repo, commit } => {
                for name in self.all_names(repo, withdrawal).await? {
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

    async fn all_names(&self, repo: &Repo, withdrawal: &Withdrawal) -> Result<BTreeSet<Repo>> {
        let mut names = self.stored_names(repo).await?;
        names.extend(withdrawal.stored_as.iter().cloned());
        Ok(names)
    }

    /// The names under which a repo's files are stored: its own in any spelling, and what upstream called it.
    pub(super) async fn stored_names(&self, repo: &Repo) -> Result<BTreeSet<Repo>> {
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

    pub(super) fn removal(&self, what: What, entry: &Entry, withdrawal: &Withdrawal, policy: Sha256) -> NewRecord {
        NewRecord {
            rule: Some(rule_of(withdrawal)),
            policy_sha256: Some(policy),
            ..entry.removal(what, withdrawal.by.clone(), self.origin.clone())
        }
    }
}

fn contents(files: &Files) -> BTreeSet<Sha256> {
    files.values().map(|entry| entry.sha256).collect()
}

impl From<manifest::Error> for super::Error {
    fn from(error: manifest::Error) -> Self {
        Self::Manifest(error)
    }
}
