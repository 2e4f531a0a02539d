//! Proves offline that log, index, snapshots and blobs agree: `hubgate verify`.
//!
//! A gateway may go on meanwhile. A store writes blob, log record, index entry, so these are read the other
//! way round: what the index names must be in the log and in the store by the time we look there. What
//! still looks wrong is looked at once more before it is reported.
//!
//! Repair completes what a crash left and nothing else: it writes the index entry of a recorded file whose
//! blob is whole, and removes that of a file whose removal is in the log. It never touches a blob or a
//! record, so what was tampered with stays as evidence.

mod blobs;
mod census;
mod report;
mod snapshots;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    future::ready,
    sync::Arc,
    time::SystemTime,
};

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::{
    Entry, Error, LogFault, LogItem, NewRecord, Result,
    index::{ENTRY_LIMIT_BYTES, Index},
    log,
    log::of_one_object,
    newest::{FileId, Writers},
};
use crate::{
    hub::Sha256,
    store::{self, Key, Prefix, Store},
};
use census::{Census, InIndex};

pub use report::{Finding, Kind, Report};
pub use snapshots::{SnapshotItem, SnapshotReader};

/// No policy is larger.
const POLICY_LIMIT_BYTES: u64 = 64 << 20;
/// Small objects that are read at a time for each blob that is hashed at a time.
const SMALL_READS_PER_JOB: usize = 4;

/// How to verify.
#[derive(Clone)]
pub struct Options {
    /// Complete what a crash left.
    pub repair: bool,
    /// Blobs hashed at a time; at least one.
    pub jobs: usize,
    /// Told after every object; it should return at once.
    pub progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
    /// Reads snapshots; without it they are only counted.
    pub snapshots: Option<Arc<dyn SnapshotReader>>,
}

impl Default for Options {
    fn default() -> Self {
        let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { repair: false, jobs, progress: None, snapshots: None }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("repair", &self.repair).field("jobs", &self.jobs).finish_non_exhaustive()
    }
}

/// How far a verification has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Objects (of the log: records) read in this phase.
    pub done: u64,
    /// Of how many, where that is known.
    pub of: Option<u64>,
    /// Bytes hashed in this phase.
    pub bytes: u64,
    /// Of how many, where that is known.
    pub of_bytes: Option<u64>,
}

/// The phases, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading the index.
    Index,
    /// Reading the log.
    Log,
    /// Reading snapshots.
    Snapshots,
    /// Hashing blobs.
    Blobs,
    /// Looking again at what seems wrong.
    Findings,
}

/// Verifies the whole store.
///
/// An error means that the store failed and nothing is proven; what is wrong with the content is in the
/// report. Memory: about 250 bytes for every file and its blob, whatever their sizes; one read buffer for
/// every job.
pub async fn verify(store: Arc<dyn Store>, options: Options) -> Result<Report> {
    let mut verification = Verification {
        index: Index::new(store.clone()),
        jobs: options.jobs.max(1),
        started: SystemTime::now(),
        store,
        options,
        census: Census::default(),
        bad_blobs: HashMap::new(),
        report: Report::default(),
    };
    verification.read_index().await?;
    verification.read_log().await?;
    verification.read_snapshots().await?;
    verification.hash_blobs().await?;
    verification.settle_log().await?;
    verification.settle_index().await?;
    verification.settle_blobs();
    Ok(verification.report)
}

struct Verification {
    store: Arc<dyn Store>,
    index: Index,
    options: Options,
    jobs: usize,
    started: SystemTime,
    census: Census,
    /// Blobs that are not what they should be, and what they are; removed as files are found that need them.
    bad_blobs: HashMap<Sha256, BadBlob>,
    report: Report,
}

#[derive(Debug, Clone)]
struct BadBlob {
    kind: Kind,
    detail: String,
    /// Whether a finding names it already.
    named: bool,
}

impl Verification {
    fn small_reads(&self) -> usize {
        self.jobs * SMALL_READS_PER_JOB
    }

    fn progress(&self, progress: Progress) {
        if let Some(tell) = &self.options.progress {
            tell(progress);
        }
    }

    fn at(&self, phase: Phase, done: u64) {
        self.progress(Progress { phase, done, of: None, bytes: 0, of_bytes: None });
    }

    async fn read_index(&mut self) -> Result<()> {
        let store = self.store.clone();
        let mut objects = store
            .list(&Prefix::index())
            .map_err(failed)
            .map_ok(|meta| look(&*store, meta.key))
            .try_buffer_unordered(self.small_reads());
        while let Some((key, looked)) = objects.try_next().await? {
            match looked {
                Looked::Gone => continue,
                Looked::Broken(_) => self.census.files.entry(FileId::of(&key)).or_default().index = InIndex::Broken,
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

    async fn read_log(&mut self) -> Result<()> {
        let store = self.store.clone();
        let (mut writers, mut policies) = (Writers::default(), HashSet::new());
        let mut items = log(&*store);
        while let Some(item) = items.try_next().await? {
            match item {
                LogItem::Record(logged) => {
                    policies.extend(logged.record.fact.policy_sha256);
                    if let Some(word) = writers.word(&logged.record) {
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

    async fn read_snapshots(&mut self) -> Result<()> {
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

    async fn hash_blobs(&mut self) -> Result<()> {
        let store = self.store.clone();
        let of = self.census.blobs.len() as u64;
        let of_bytes = self.census.blobs.values().filter_map(|blob| blob.expected).sum();
        let mut hashed = blobs::hash_all(&store, self.jobs);
        while let Some(hashed) = hashed.try_next().await? {
            self.report.blobs += 1;
            self.report.blob_bytes += hashed.size;
            let (done, bytes) = (self.report.blobs, self.report.blob_bytes);
            self.progress(Progress { phase: Phase::Blobs, done, of: Some(of), bytes, of_bytes: Some(of_bytes) });
            let Some(promised) = hashed.promised() else {
                let detail = "not the name of a blob".into();
                self.report.add(finding(Kind::Unreadable, hashed.key.to_string(), detail));
                continue;
            };
            let blob = self.census.blobs.entry(promised).or_default();
            blob.seen = Some(hashed.size);
            blob.recent = hashed.modified >= self.started;
            let (kind, detail) = match (&hashed.digest, blob.expected) {
                (Ok(digest), _) if *digest != promised => {
                    let remedy = "moved away and the gateways restarted, it is fetched again";
                    (Kind::AlteredBlob, format!("blob {promised} hashes to {digest}; {remedy}"))
                }
                (Err(problem), _) => (Kind::AlteredBlob, format!("blob {promised} cannot be read: {problem}")),
                (Ok(_), Some(expected)) if expected != hashed.size => {
                    let detail = format!("blob {promised} has {} bytes, the entry says {expected}", hashed.size);
                    (Kind::Disagreement, detail)
                }
                (Ok(_), _) => continue,
            };
            self.bad_blobs.insert(promised, BadBlob { kind, detail, named: false });
        }
        drop(hashed);
        for (sha256, blob) in self.census.blobs.iter().filter(|(_, blob)| blob.seen.is_none()) {
            // Once more: it may have come or its entry gone while we read.
            if blob.expected.is_some() && store.head(&Key::blob(sha256)).await.map_err(failed)?.is_none() {
                let detail = format!("blob {sha256} is gone; asked for again, the file is fetched again");
                self.bad_blobs.insert(*sha256, BadBlob { kind: Kind::MissingBlob, detail, named: false });
            }
        }
        Ok(())
    }

    /// Reads the log a second time, if need be, for the names of files that miss their entry or their blob,
    /// and for records that came since.
    async fn settle_log(&mut self) -> Result<()> {
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
    async fn settle_index(&mut self) -> Result<()> {
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
    fn settle_blobs(&mut self) {
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

/// What stands under an index key.
enum Looked {
    Entry(Entry),
    Broken(String),
    Gone,
}

async fn look(store: &dyn Store, key: Key) -> Result<(Key, Looked)> {
    let looked = match store.get(&key, ENTRY_LIMIT_BYTES).await {
        Ok(None) => Looked::Gone,
        Ok(Some(bytes)) => Entry::read(&key, &bytes).map_or_else(Looked::Broken, Looked::Entry),
        Err(error) if of_one_object(&error) => Looked::Broken(blobs::described(&error)),
        Err(error) => return Err(failed(error)),
    };
    Ok((key, looked))
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
        LogFault::Altered { seq, .. } => format!("record {seq} was altered, or the link to it in the one that follows"),
        LogFault::Unparsable { line, problem, .. } => format!("line {line}: not a record: {problem}"),
        LogFault::Misplaced { problem, .. } => problem.clone(),
    };
    finding(kind, name, detail)
}

fn finding(kind: Kind, name: String, detail: String) -> Finding {
    Finding { kind, name, detail, repaired: false }
}

fn of_fact(fact: &NewRecord) -> String {
    name(&fact.repo, fact.commit, &fact.path)
}

fn name(repo: &crate::hub::Repo, commit: crate::hub::Commit, path: &crate::hub::RepoPath) -> String {
    format!("{repo}@{commit} {path}")
}

fn failed(error: store::Error) -> Error {
    Error::Read(Arc::new(error))
}

#[cfg(test)]
mod tests;
