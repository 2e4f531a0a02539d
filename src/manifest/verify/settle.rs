//! The second look: what seems wrong is looked at once more, named, and repaired where it may be.

use futures_util::{TryStreamExt as _, future::ready};

use super::{
    super::{
        Entry, LogItem, NewRecord, Result,
        index::Index,
        log,
        newest::{FileId, Writers},
    },
    BadBlob, Finding, Kind, Looked, Phase, Progress, SMALL_READS_PER_JOB, Verification, census, failed, finding, look,
    name,
};
use crate::store::{Prefix, Store};

impl Verification {
    /// Reads the log a second time, if need be, for the names of files that miss their entry or their blob,
    /// and for records that came since.
    pub(super) async fn settle_log(&mut self) -> Result<()> {
        let strays = self.census.blobs.values().any(|blob| blob.expected.is_none());
        if self.bad_blobs.is_empty() && !strays && !self.census.files.values().any(census::File::is_unserved) {
            return Ok(());
        }
        let (store, index, repair) = (self.store.clone(), self.index.clone(), self.options.repair);
        let (census, bad_blobs) = (&self.census, &self.bad_blobs);
        let mut writers = Writers::default();
        let mut named_blobs = Vec::new();
        let mut suspects = log(&*store)
            .try_filter_map(|item| {
                let LogItem::Record(logged) = item else { return ready(Ok(None)) };
                let Some(word) = writers.word(&logged.record) else { return ready(Ok(None)) };
                let file = census.files.get(&FileId::of_record(&logged.record)).copied().unwrap_or_default();
                let suspect = word.may_serve
                    && match file.word {
                        Some(newest) if word == newest => {
                            file.is_unserved() || bad_blobs.contains_key(&logged.record.fact.sha256)
                        }
                        newest => Some(word) > newest,
                    };
                ready(Ok(suspect.then_some((logged.record.fact, file, Some(word) > file.word))))
            })
            .map_ok(|(fact, file, came_since)| {
                let (store, index) = (&*store, &index);
                async move {
                    let blob = census.blobs.get(&fact.sha256).and_then(|blob| blob.seen);
                    let found = match bad_blobs.get(&fact.sha256) {
                        _ if came_since => None,
                        Some(bad) => named(store, &fact, bad, file.is_unserved()).await?,
                        None => unindexed(store, index, &fact, blob, repair).await?,
                    };
                    Ok((fact, found))
                }
            })
            .try_buffer_unordered(self.jobs * SMALL_READS_PER_JOB);
        while let Some((fact, found)) = suspects.try_next().await? {
            named_blobs.push((fact.sha256, fact.size));
            if let Some(found) = found {
                self.report.add(found);
                if let Some(tell) = &self.options.progress {
                    let done = self.report.found();
                    tell(Progress { phase: Phase::Findings, done, of: None, bytes: 0, of_bytes: None });
                }
            }
        }
        drop(suspects);
        for (sha256, size) in named_blobs {
            // The log names it, so it is not an unrecorded one.
            self.census.blobs.entry(sha256).or_default().expected.get_or_insert(size);
            if let Some(bad) = self.bad_blobs.get_mut(&sha256) {
                bad.named = true;
            }
        }
        Ok(())
    }

    /// Goes through the index a second time, if need be, for the names of entries that the log does not bear
    /// out.
    pub(super) async fn settle_index(&mut self) -> Result<()> {
        if self.census.files.values().all(census::File::is_borne_out) {
            return Ok(());
        }
        let store = self.store.clone();
        let mut keys = store.list(&Prefix::index());
        while let Some(meta) = keys.try_next().await.map_err(failed)? {
            let Some(file) = self.census.files.get(&FileId::of(&meta.key)).filter(|file| !file.is_borne_out()) else {
                continue;
            };
            let (key, looked) = look(&*store, meta.key).await?;
            let entry = match looked {
                Looked::Gone => continue,
                Looked::Broken(problem) => {
                    self.report.add(finding(Kind::Unreadable, key.to_string(), problem));
                    continue;
                }
                Looked::Entry(entry) => entry,
            };
            let name = name(&entry.repo, entry.commit, &entry.path);
            let (kind, detail) = match file.word {
                None => (Kind::NoLogRecord, format!("its entry {key} was written by nobody who kept a record")),
                Some(word) if word.may_serve => {
                    (Kind::Disagreement, format!("its entry {key} and its log record say different things"))
                }
                Some(_) => (Kind::ServedAfterRemoval, format!("evicted or withdrawn, but its entry {key} stands")),
            };
            let repaired = kind == Kind::ServedAfterRemoval && self.options.repair;
            if repaired {
                self.index.remove(&entry.repo, entry.commit, &entry.path).await?;
            }
            self.report.add(Finding { kind, name, detail, repaired });
            self.at(Phase::Findings, self.report.found());
        }
        Ok(())
    }

    /// Reports the blobs that no file's name could be found for.
    pub(super) fn settle_blobs(&mut self) {
        for (sha256, bad) in &self.bad_blobs {
            if !bad.named {
                self.report.add(finding(bad.kind, sha256.to_string(), bad.detail.clone()));
            }
        }
        for (sha256, blob) in &self.census.blobs {
            let unrecorded = blob.expected.is_none() && !blob.recent && !self.bad_blobs.contains_key(sha256);
            if let (true, Some(size)) = (unrecorded, blob.seen) {
                let detail =
                    format!("{size} bytes that no entry names; a fill that needs them adopts them, gc removes them");
                self.report.add(finding(Kind::UnrecordedBlob, sha256.to_string(), detail));
            }
        }
    }
}

/// The finding of a bad blob with the name of a file that needs it, unless the file was removed meanwhile.
async fn named(store: &dyn Store, fact: &NewRecord, bad: &BadBlob, unserved: bool) -> Result<Option<Finding>> {
    let served = store.head(&Entry::of(fact).key()).await.map_err(failed)?.is_some();
    Ok((served || unserved).then(|| finding(bad.kind, of_fact(fact), bad.detail.clone())))
}

/// The finding of a recorded file that the index lacks; its blob, if there is one, is whole.
async fn unindexed(
    store: &dyn Store,
    index: &Index,
    fact: &NewRecord,
    blob: Option<u64>,
    repair: bool,
) -> Result<Option<Finding>> {
    let entry = Entry::of(fact);
    let broken = match look(store, entry.key()).await?.1 {
        Looked::Entry(_) => return Ok(None),
        Looked::Broken(problem) => Some(problem),
        Looked::Gone => None,
    };
    if blob.is_none() {
        let detail = format!("in the log, but neither its entry nor its blob {} is there", fact.sha256);
        return Ok(Some(finding(Kind::MissingBlob, of_fact(fact), detail)));
    }
    let whole = blob == Some(fact.size);
    if whole && repair {
        index.write(&entry).await?;
    }
    let kind = if broken.is_some() { Kind::Unreadable } else { Kind::NoIndexEntry };
    let detail = match (broken, whole) {
        (_, false) => format!("recorded with {} bytes, its blob has another size", fact.size),
        (Some(problem), true) => format!("its entry {}: {problem}", entry.key()),
        (None, true) => "recorded and whole, but not served; --repair writes its entry".into(),
    };
    Ok(Some(Finding { kind, name: of_fact(fact), detail, repaired: whole && repair }))
}

fn of_fact(fact: &NewRecord) -> String {
    name(&fact.repo, fact.commit, &fact.path)
}
