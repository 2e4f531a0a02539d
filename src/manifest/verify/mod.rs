//! Proves offline that log, index, snapshots and blobs agree: `hubgate verify`.
//!
//! A gateway may go on meanwhile. A store writes blob, log record, index entry, so these are read the other
//! way round: what the index names must be in the log and in the store by the time we look there. Hashing takes
//! hours, in which files come and go: what looks wrong after it is looked at once more, and judged by what the log
//! says by then.
//!
//! Repair completes what a crash left and nothing else: it writes the index entry of a recorded file whose
//! blob is whole, and removes that of a file whose removal is in the log. It never touches a blob or a
//! record, so what was tampered with stays as evidence. Of a file that somebody records meanwhile, the last
//! record counts.

mod blobs;
mod census;
mod read;
mod report;
mod selection;
mod settle;
mod snapshots;

use std::{collections::HashMap, fmt, sync::Arc, time::SystemTime};

use super::{
    Entry, Error, Result,
    index::{ENTRY_LIMIT_BYTES, Index},
    log::of_one_object,
    newest::{FileId, Word},
};
use crate::{
    hub::{Commit, Repo, RepoPath, Sha256},
    store::{self, Key, Store},
};
use census::Census;

pub use report::{Finding, Kind, Report};
pub use selection::State;
pub use snapshots::{SnapshotItem, SnapshotReader};

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
    /// Hash only so many blobs, at random; of the others only presence and size are looked at.
    pub sample: Option<usize>,
    /// What was hashed before and need not be again. Without effect on a sample.
    pub state: Option<Arc<State>>,
}

impl Default for Options {
    fn default() -> Self {
        let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { repair: false, jobs, progress: None, snapshots: None, sample: None, state: None }
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
        repaired: HashMap::new(),
        report: Report::default(),
    };
    verification.read_index().await?;
    verification.read_log().await?;
    verification.read_snapshots().await?;
    verification.hash_blobs().await?;
    verification.look_again().await?;
    verification.settle_log().await?;
    verification.settle_index().await?;
    verification.settle_blobs().await?;
    verification.give_way().await?;
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
    /// The files whose entry was written or removed, with the word by which that was right.
    repaired: HashMap<FileId, Word>,
    report: Report,
}

#[derive(Debug, Clone)]
struct BadBlob {
    kind: Kind,
    detail: String,
    /// Whether a finding names it already, or the file that needed it turned out to be gone.
    named: bool,
}

impl BadBlob {
    fn missing(sha256: &Sha256) -> Self {
        let detail = format!("blob {sha256} is gone; asked for again, the file is fetched again");
        Self { kind: Kind::MissingBlob, detail, named: false }
    }
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

fn finding(kind: Kind, name: String, detail: String) -> Finding {
    Finding { kind, name, detail, repaired: false }
}

fn name(repo: &Repo, commit: Commit, path: &RepoPath) -> String {
    format!("{repo}@{commit} {path}")
}

fn failed(error: store::Error) -> Error {
    Error::Read(Arc::new(error))
}

#[cfg(test)]
mod tests;
