//! The first look: all of the index, the log, the snapshots and the blobs, into the census.

use std::{collections::HashSet, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::{
    super::{Error, LogFault, LogItem, Result, log, log::of_one_object, newest::Word},
    BadBlob, Finding, Kind, Looked, Phase, Progress, SnapshotItem, Verification, blobs, failed, finding, look,
    selection::Selection,
    snapshots,
};
use crate::{
    hub::Sha256,
    store::{Key, Prefix},
};

/// No policy is larger.
const POLICY_LIMIT_BYTES: u64 = 64 << 20;

impl Verification {
    pub(super) async fn read_index(&mut self) -> Result<()> {
        let store = self.store.clone();
        let mut objects = store
            .list(&Prefix::index())
            .map_err(failed)
            .map_ok(|meta| look(&*store, meta.key))
            .try_buffer_unordered(self.small_reads());
        while let Some((key, looked)) = objects.try_next().await? {
            match looked {
                Looked::Gone => continue,
                Looked::Broken(_) => self.census.broken(&key),
                Looked::Entry(entry) => {
                    if let Some(other) = self.census.entry(&entry)? {
                        let detail = format!("{} bytes by its entry, {other} by that of another file", entry.size);
                        self.report.add(finding(Kind::Disagreement, format!("blob {}", entry.sha256), detail));
                    }
                }
            }
            self.report.entries += 1;
            self.at(Phase::Index, self.report.entries);
        }
        Ok(())
    }

    pub(super) async fn read_log(&mut self) -> Result<()> {
        let store = self.store.clone();
        let mut policies = HashSet::new();
        let mut items = log(&*store);
        while let Some(item) = items.try_next().await? {
            match item {
                LogItem::Record(logged) => {
                    policies.extend(logged.record.fact.policy_sha256);
                    if let Some(word) = Word::of(&logged.record) {
                        self.census.record(&logged.record, word)?;
                    }
                    self.report.records += 1;
                    self.at(Phase::Log, self.report.records);
                }
                LogItem::Newer(_) => self.report.newer_records += 1,
                LogItem::Fault(fault) => self.report.add(of_log(&fault)),
            }
        }
        for policy in policies {
            let key = Key::policy(&policy);
            match store.get(&key, POLICY_LIMIT_BYTES).await {
                Ok(Some(text)) if Sha256::of(&text) == policy => {}
                Ok(Some(_)) => {
                    let detail = "this policy's text does not hash to its name".into();
                    self.report.add(finding(Kind::Unreadable, key.to_string(), detail));
                }
                Ok(None) => {
                    let detail = "records refer to this policy and its text is not in the store".into();
                    self.report.add(finding(Kind::MissingPolicy, policy.to_string(), detail));
                }
                Err(error) if of_one_object(&error) => {
                    self.report.add(finding(Kind::Unreadable, key.to_string(), blobs::described(&error)));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    pub(super) async fn read_snapshots(&mut self) -> Result<()> {
        let (store, reader) = (self.store.clone(), self.options.snapshots.clone());
        self.report.snapshots_checked = reader.is_some();
        let mut parts = store.list(&Prefix::snapshots(None));
        let mut last = None;
        while let Some(meta) = parts.try_next().await.map_err(failed)? {
            let Some((repo, commit)) = snapshots::commit_of(&meta.key) else {
                let detail = "not the name of a snapshot's part".into();
                self.report.add(finding(Kind::Unreadable, meta.key.to_string(), detail));
                continue;
            };
            // The parts of one commit are listed together.
            if last.as_ref() == Some(&(repo.clone(), commit)) {
                continue;
            }
            last = Some((repo.clone(), commit));
            self.report.snapshots += 1;
            self.at(Phase::Snapshots, self.report.snapshots);
            let Some(reader) = &reader else { continue };
            let mut items = reader.read(&*store, &repo, commit);
            while let Some(item) = items.next().await {
                let item = match item {
                    Ok(item) => item,
                    Err(error) if of_one_object(&error) => SnapshotItem::Problem(blobs::described(&error)),
                    Err(error) => return Err(failed(error)),
                };
                if let Some(finding) = snapshots::judge(&self.census, &repo, commit, item) {
                    self.report.add(finding);
                }
            }
        }
        Ok(())
    }

    pub(super) async fn hash_blobs(&mut self) -> Result<()> {
        let store = self.store.clone();
        let of = self.census.blobs.len() as u64;
        let of_bytes = self.census.blobs.values().filter_map(|blob| blob.expected).sum();
        let state = self.options.state.clone();
        let selection = Selection::new(&*store, self.options.sample, state.as_deref()).await?;
        let (mut done, mut bytes) = (0, 0);
        let mut hashed = blobs::hash_all(&store, self.jobs, &selection);
        while let Some(hashed) = hashed.try_next().await? {
            let size = hashed.meta.size;
            if hashed.digest.is_some() {
                self.report.blobs += 1;
                self.report.blob_bytes += size;
            } else {
                self.report.blobs_not_hashed += 1;
            }
            (done, bytes) = (done + 1, bytes + size);
            self.progress(Progress { phase: Phase::Blobs, done, of: Some(of), bytes, of_bytes: Some(of_bytes) });
            let Some(promised) = hashed.promised() else {
                let detail = "not the name of a blob".into();
                self.report.add(finding(Kind::Unreadable, hashed.meta.key.to_string(), detail));
                continue;
            };
            let blob = self.census.blobs.entry(promised).or_default();
            blob.seen = Some(size);
            blob.recent = hashed.meta.modified >= self.started;
            match (hashed.judged(&promised, blob.expected), &state) {
                (Some(bad), _) => drop(self.bad_blobs.insert(promised, bad)),
                (None, Some(state)) if hashed.digest.is_some() => {
                    state.add(&hashed.meta).map_err(|error| Error::Output(Arc::new(error)))?;
                }
                (None, _) => {}
            }
        }
        drop(hashed);
        for (sha256, blob) in self.census.blobs.iter().filter(|(_, blob)| blob.seen.is_none()) {
            // Once more: it may have come or its entry gone while we read.
            if blob.expected.is_some() && store.head(&Key::blob(sha256)).await.map_err(failed)?.is_none() {
                self.bad_blobs.insert(*sha256, BadBlob::missing(sha256));
            }
        }
        Ok(())
    }
}

fn of_log(fault: &LogFault) -> Finding {
    let (kind, name) = match fault {
        LogFault::Missing { writer, .. } => (Kind::MissingRecord, format!("log of {writer}")),
        LogFault::Altered { writer, .. } => (Kind::AlteredRecord, format!("log of {writer}")),
        LogFault::Unparsable { key, .. } | LogFault::Misplaced { key, .. } => (Kind::Unreadable, key.clone()),
    };
    let detail = match fault {
        LogFault::Missing { from, to, .. } => {
            let which = if from == to { format!("record {from} is") } else { format!("records {from} to {to} are") };
            format!("{which} missing; only a backup of the store has the lost text")
        }
        LogFault::Altered { seq, .. } => {
            format!("record {seq} was altered, or what the next record or the head says of it")
        }
        LogFault::Unparsable { line, problem, .. } => format!("line {line}: not a record: {problem}"),
        LogFault::Misplaced { problem, .. } => problem.clone(),
    };
    finding(kind, name, detail)
}
