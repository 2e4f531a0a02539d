//! A fill: one fetch of one blob, however many wait on it.
//!
//! Fetching, hashing, storing and serving are separate parts that meet in one set of byte ranges
//! ([`Progress`]) and one staging file: `fetch` writes what arrives, at any offset; `settle` hashes and
//! stores the growing prefix and says how the fill ended; `reader` follows for a client; `table` makes it
//! single-flight. Whether somebody may have the file was decided before; `claims` has policy decide again while the
//! fill runs, since that may take hours.

mod claims;
mod fetch;
mod progress;
mod reader;
mod settle;
mod table;
mod taint;
#[cfg(test)]
mod tests;

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    fmt,
    fs::File,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::{
    sync::{OnceCell, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    gateway::{grant::Grant, tasks::Tasks},
    hub::{BlobId, GitOid, Repo, Sha256},
    manifest::NewRecord,
    policy::{Denial, PolicyHandle},
    store, upstream,
};

use super::Refusal;
use claims::Claim;
pub(crate) use claims::FileName;
use progress::Progress;
pub(crate) use progress::Reading;
pub(crate) use reader::Reader;
pub(crate) use table::{Fills, Joined};
pub(crate) use taint::taint_mark;

pub use table::FillConfig;

/// How long a fill goes on with nobody reading before its origin connection is dropped.
const PAUSE_AFTER: Duration = Duration::from_mins(1);

/// How long a paused fill keeps its ranges.
const DROP_AFTER: Duration = Duration::from_mins(30);

/// How often a job that follows a fill is told how far it is.
const TOLD_EVERY: Duration = Duration::from_millis(200);

/// Where a fill's bytes come from.
#[async_trait]
pub(crate) trait Origin: Send + Sync {
    /// Bytes of a range of the file, which is `total` bytes long. The stream ends with an error rather
    /// than short.
    async fn open(
        &self,
        range: std::ops::Range<u64>,
        total: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, upstream::Error>>, upstream::Error>;

    /// Somebody waits for it now, though it was begun as work that can wait.
    fn hurry(&self) {}

    /// Whether a further request would begin at once.
    fn has_room(&self) -> bool {
        true
    }
}

/// What makes two misses one fill. Git ids are trusted within their repo only (SHA-1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum FillKey {
    /// By content.
    Sha256(Sha256),
    /// By git blob id, within a repo.
    Git(Repo, GitOid),
}

/// What is to be fetched, and what to record when it is there.
pub(crate) struct Order {
    /// What makes it one with other orders.
    pub(crate) key: FillKey,
    /// What the origin announced.
    pub(crate) blob: BlobId,
    /// The announced size in bytes.
    pub(crate) size: u64,
    /// Whether the rule wants nothing unverified to go out.
    pub(crate) verified_only: bool,
    /// By what it was allowed.
    pub(crate) grant: Arc<Grant>,
    /// The manifest record of the file that was asked for; its sha256 is filled in when it is known.
    pub(crate) record: NewRecord,
    /// Where to fetch.
    pub(crate) origin: Arc<dyn Origin>,
    /// Who asked, for the cap per client and the log.
    pub(crate) asked_by: String,
    /// Whether nobody waits for it: it leaves room for clients.
    pub(crate) background: bool,
}

/// How a fill ended.
#[derive(Debug, Clone)]
pub(crate) enum FillEnd {
    /// Verified, stored, recorded.
    Stored(Sha256),
    /// Not what the origin had announced. Nothing was stored.
    Rejected(Sha256),
    /// What it was announced to be, which a deny rule names by its digest or a lock has otherwise. Nothing was stored.
    Denied(Box<Refusal>),
    /// The origin has a file of another size than announced. Nothing was stored.
    WrongSize(upstream::Error),
    /// The origin failed for good; for a reader also: it fails for now, and what is here is kept.
    Origin(upstream::Error),
    /// The store failed.
    Store(Arc<store::Error>),
    /// The manifest could not take the record.
    Manifest(crate::manifest::Error),
    /// Nobody came back for it, or the process is stopping.
    Abandoned,
}

impl FillEnd {
    /// In a word, for metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Stored(_) => "stored",
            Self::Rejected(_) | Self::WrongSize(_) => "rejected",
            Self::Denied(_) => "denied",
            Self::Origin(_) => "origin",
            Self::Store(_) => "store",
            Self::Manifest(_) => "manifest",
            Self::Abandoned => "abandoned",
        }
    }
}

impl fmt::Display for FillEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored(sha256) => write!(f, "stored as {sha256}"),
            Self::Rejected(sha256) => write!(f, "the origin sent other content: its sha256 is {sha256}"),
            Self::Denied(refusal) => f.write_str(&refusal.text),
            Self::WrongSize(error) | Self::Origin(error) => write!(f, "{error}"),
            Self::Store(error) => write!(f, "{error}"),
            Self::Manifest(error) => write!(f, "{error}"),
            Self::Abandoned => f.write_str("given up"),
        }
    }
}

/// A fill in progress, shared by its task and its readers.
pub(crate) struct Fill {
    key: FillKey,
    blob: BlobId,
    size: u64,
    asked_by: String,
    origin: Mutex<Arc<dyn Origin>>,
    store: Arc<dyn store::Store>,
    policy: Arc<PolicyHandle>,
    /// Whom to ask where policy refuses what came.
    contact: Option<String>,
    file: Arc<File>,
    /// The room that the file takes, which readers still need when it is stored.
    _room: Arc<dyn Any + Send + Sync>,
    state: Mutex<State>,
    /// Counts up whenever `state` changes in a way that somebody may wait for.
    version: watch::Sender<u64>,
    /// How many read, and since when nobody does.
    readers: watch::Sender<Readers>,
    /// Set once the taint mark stands; holds it where it is ours to remove.
    taint: OnceCell<Option<Bytes>>,
    /// Cancelled when a paused fill's place is wanted by another.
    give_up: CancellationToken,
    /// Cancelled when the job that began it is over and nobody else reads.
    deserted: CancellationToken,
    /// Where its work runs.
    tasks: Tasks,
}

struct State {
    progress: Progress,
    /// Extra range requests under way.
    extra: usize,
    /// Those that failed in a row.
    extra_failures: u32,
    /// Records to write before anybody gets the last byte; `None` once they are being written.
    claims: Option<Vec<Claim>>,
    /// Files that policy has refused since they were asked for.
    refused: HashMap<FileName, Denial>,
    /// How often the fetch has stopped to wait for a new reader, since the origin failed.
    stalls: u64,
    /// Why it did so last.
    stalled_by: Option<upstream::Error>,
    /// Since when it waits.
    stalled_since: Option<Instant>,
    end: Option<FillEnd>,
    /// Clients that were given unverified bytes, for the log should the fill fail.
    /// And up to where each was given all of it, from the start.
    given_to: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Readers {
    count: usize,
    since: Instant,
    /// How many have ever come.
    arrived: u64,
}

impl Fill {
    /// Looks at or changes the state; wakes those who wait when `f` says that something changed.
    fn with<T>(&self, f: impl FnOnce(&mut State) -> (T, bool)) -> T {
        let (value, changed) = f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        if changed {
            self.version.send_modify(|version| *version += 1);
        }
        value
    }

    fn peek<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        self.with(|state| (f(state), false))
    }

    fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        self.with(|state| (f(state), true))
    }

    /// Where it is fetched from now.
    fn origin(&self) -> Arc<dyn Origin> {
        self.origin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How it ended, once it has.
    pub(crate) fn end(&self) -> Option<FillEnd> {
        self.peek(|state| state.end.clone())
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self) -> FillEnd {
        let mut version = self.version.subscribe();
        loop {
            if let Some(end) = self.end() {
                return end;
            }
            if version.changed().await.is_err() {
                return FillEnd::Abandoned;
            }
        }
    }

    /// Resolves when nobody has read for `time`.
    async fn unread_for(&self, time: Duration) {
        let mut readers = self.readers.subscribe();
        loop {
            let now = *readers.borrow_and_update();
            if now.count > 0 {
                if readers.changed().await.is_err() {
                    return;
                }
            } else if tokio::time::timeout_at(now.since + time, readers.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Since when it is paused, if it is: nobody reads, or the origin failed, and its origin connection is dropped.
    fn paused_since(&self) -> Option<Instant> {
        let (is_whole, stalled_since) = self.peek(|state| (state.progress.is_whole(), state.stalled_since));
        let readers = *self.readers.borrow();
        let unread = readers.count == 0 && readers.since.elapsed() >= PAUSE_AFTER;
        // One that is whole fetches nothing, and ends by itself.
        stalled_since.or(unread.then_some(readers.since)).filter(|_| !is_whole)
    }

    /// Resolves when somebody reads.
    async fn read_again(&self) {
        let mut readers = self.readers.subscribe();
        // An error means that the sender is gone, which `self` holds.
        let _ = readers.wait_for(|readers| readers.count > 0).await;
    }
}

/// Counts a reader of a file for as long as it lives.
struct Presence {
    fill: Arc<Fill>,
    file: FileName,
    /// The fill's stalls when it came: a later one is its end.
    stalls: u64,
}

impl Presence {
    fn of(fill: &Arc<Fill>, file: FileName) -> Self {
        // In this order: a stall is over when somebody arrives who has not seen it.
        let stalls = fill.peek(|state| state.stalls);
        fill.readers.send_modify(|readers| {
            readers.count += 1;
            readers.arrived += 1;
        });
        Self { fill: fill.clone(), file, stalls }
    }

    /// How it ended for this reader, once it has.
    fn end(&self, state: &State) -> Option<FillEnd> {
        let denied = state.refused.get(&self.file).map(|denial| self.fill.denied(denial));
        let stalled = || state.stalled_by.clone().filter(|_| state.stalls > self.stalls).map(FillEnd::Origin);
        denied.or_else(|| state.end.clone()).or_else(stalled)
    }

    /// Waits for the end.
    async fn ended(&self) -> FillEnd {
        let mut version = self.fill.version.subscribe();
        loop {
            if let Some(end) = self.fill.peek(|state| self.end(state)) {
                return end;
            }
            if version.changed().await.is_err() {
                return FillEnd::Abandoned;
            }
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.fill.readers.send_modify(|readers| {
            readers.count -= 1;
            readers.since = Instant::now();
        });
    }
}

/// A job that waits for a fill to end and takes no bytes. Counts as a reader until dropped.
pub(crate) struct Follower {
    presence: Presence,
}

impl Follower {
    /// One who waits for this file of those that will have the content.
    pub(crate) fn of(fill: &Arc<Fill>, file: FileName) -> Self {
        Self { presence: Presence::of(fill, file) }
    }

    /// Waits for the end; meanwhile says how much has come in from the start, a few times a second.
    pub(crate) async fn follow(&self, mut on_bytes: impl FnMut(u64)) -> FillEnd {
        let fill = &self.presence.fill;
        let ended = self.presence.ended();
        tokio::pin!(ended);
        let mut told = 0;
        let mut looks = tokio::time::interval(TOLD_EVERY);
        loop {
            tokio::select! {
                end = &mut ended => return end,
                _ = looks.tick() => {
                    let come = fill.peek(|state| state.progress.prefix());
                    if come > told {
                        told = come;
                        on_bytes(come);
                    }
                }
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let fill = &self.presence.fill;
        // A job that is cancelled takes its transfer with it, unless a client has joined.
        if fill.readers.borrow().count <= 1 && fill.peek(|state| self.presence.end(state)).is_none() {
            fill.deserted.cancel();
        }
    }
}

impl FillEnd {
    /// The error that a reader of the fill sees.
    pub(crate) fn into_error(self) -> super::Error {
        match self {
            Self::Stored(sha256) | Self::Rejected(sha256) => super::Error::Integrity { sha256 },
            Self::Denied(refusal) => super::Error::Denied(*refusal),
            Self::WrongSize(error) | Self::Origin(error) => super::Error::Upstream(error),
            Self::Store(error) => super::Error::Store(error),
            Self::Manifest(error) => super::Error::Manifest(error),
            Self::Abandoned => super::Error::Busy {
                why: "the transfer was given up; ask again".into(),
                retry_after: Duration::from_secs(5),
            },
        }
    }
}
