//! Room within `store.max_size`: what was served longest ago goes, by the manifest's order, and can be fetched again.
//!
//! Several evictors at once do no harm: a file that two of them evict has two records that say the same.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytesize::ByteSize;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{CLAIM_HOLDS, Result, is_older, kept::Kept, remove, usage, usage::Usage};
use crate::{
    gateway::Gateway,
    hub::Sha256,
    manifest::{Entry, Manifest, NewRecord, What},
    policy::PolicyHandle,
    store::{Key, MakesRoom, Prefix, Room, Store},
    telemetry::with_causes,
};

/// How often `serve` looks whether there is too much.
const LOOK_EVERY: Duration = Duration::from_mins(5);

/// How often what was served is written down.
const NOTE_EVERY: Duration = Duration::from_mins(1);

/// A look that removes something makes this part of the bound free beyond what is needed, so that not every fill has to
/// ask for room.
const SPARE: u64 = 20;

/// Records of one blob's files that are written at a time.
const RECORDS_AT_ONCE: usize = 64;

/// Who asked for an eviction, in the manifest.
const ASKED_BY: &str = "store.max_size";

/// Evicts.
pub struct Evictor {
    store: Arc<dyn Store>,
    manifest: Manifest,
    gateway: Gateway,
    policy: Arc<PolicyHandle>,
    room: Arc<Room>,
    origin: String,
    /// One look at a time.
    turn: tokio::sync::Mutex<()>,
}

/// What a look found, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Evicted {
    /// Whether something was to be removed.
    pub applied: bool,
    /// The bound in bytes.
    pub max_size: u64,
    /// Bytes of all blobs before.
    pub stored: u64,
    /// Bytes of blobs that a pin, the mirror list or published copies keep.
    pub kept: u64,
    /// Bytes of blobs that no entry names: for gc, not for eviction.
    pub unnamed: u64,
    /// What goes, longest unused first.
    pub blobs: Vec<Victim>,
    /// Their bytes.
    pub bytes: u64,
    /// Whether the bound is kept then.
    pub fits: bool,
}

/// A blob that is evicted.
#[derive(Debug, Clone, Serialize)]
pub struct Victim {
    /// The blob.
    pub sha256: Sha256,
    /// Length in bytes.
    pub size: u64,
    /// When it was served last, as far as is known, or written.
    #[serde(with = "time::serde::rfc3339")]
    pub last_used: OffsetDateTime,
    /// The files whose content it is: `org/name@commit path`.
    pub files: Vec<String>,
}

/// A blob that may be evicted.
struct Candidate {
    sha256: Sha256,
    size: u64,
    modified: SystemTime,
    last_used: SystemTime,
    entries: Vec<Entry>,
}

impl Evictor {
    /// For a store that `room` bounds. It is asked for room as long as it lives.
    pub fn new(
        store: Arc<dyn Store>,
        manifest: Manifest,
        gateway: Gateway,
        policy: Arc<PolicyHandle>,
        room: Arc<Room>,
        origin: String,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| {
            room.made_by(this.clone());
            Self { store, manifest, gateway, policy, room, origin, turn: tokio::sync::Mutex::default() }
        })
    }

    /// Looks at all blobs, and, if `apply`, removes what is needed least until `wanted` bytes more would fit. Memory:
    /// some 300 bytes for each file.
    ///
    /// # Errors
    /// A store or a manifest that fails. What was evicted until then is recorded.
    pub async fn evict(&self, wanted: u64, apply: bool) -> Result<Evicted> {
        let _turn = self.turn.lock().await;
        self.room.look_begins();
        let max_size = self.room.max();
        let mut blobs = HashMap::new();
        let mut listed = self.store.list(&Prefix::blobs());
        while let Some(meta) = listed.try_next().await? {
            if let Some(sha256) = meta.key.digest() {
                blobs.insert(sha256, (meta.size, meta.modified));
            }
        }
        drop(listed);
        let stored: u64 = blobs.values().map(|(size, _)| size).sum();
        let mut end =
            Evicted { applied: apply, max_size, stored, kept: 0, unnamed: 0, blobs: Vec::new(), bytes: 0, fits: true };
        let taken = stored.saturating_add(self.room.reserved()).saturating_add(wanted);
        let needed = taken.saturating_sub(max_size);
        if needed > 0 {
            let goal = needed.saturating_add(max_size / SPARE);
            for candidate in self.candidates(blobs, apply, &mut end).await? {
                if end.bytes >= goal {
                    break;
                }
                if apply && !self.remove(&candidate).await? {
                    continue;
                }
                end.bytes += candidate.size;
                end.blobs.push(candidate.into_victim());
            }
            end.fits = end.bytes >= needed;
        }
        let left = if apply { stored - end.bytes } else { stored };
        self.room.looked(left, !end.fits);
        Ok(end)
    }

    /// What may be evicted, longest unused first.
    async fn candidates(
        &self,
        blobs: HashMap<Sha256, (u64, SystemTime)>,
        apply: bool,
        end: &mut Evicted,
    ) -> Result<Vec<Candidate>> {
        let kept = Kept::read(&*self.store, &self.gateway, &self.policy.current()).await?;
        let mut served = usage::read(&*self.store, apply).await?;
        for (sha256, then) in self.room.read_last() {
            served.entry(sha256).and_modify(|known| *known = then.max(*known)).or_insert(then);
        }
        // No entries: kept.
        let mut named: HashMap<Sha256, Option<Vec<Entry>>> = HashMap::new();
        let mut entries = self.manifest.all_entries();
        while let Some(entry) = entries.try_next().await? {
            let of_blob = named.entry(entry.sha256).or_insert_with(|| Some(Vec::new()));
            if kept.keeps(&entry) {
                *of_blob = None;
            }
            if let Some(of_blob) = of_blob {
                of_blob.push(entry);
            }
        }
        drop(entries);
        let mut candidates = Vec::new();
        for (sha256, (size, modified)) in blobs {
            match named.remove(&sha256) {
                None => end.unnamed += size,
                Some(None) => end.kept += size,
                Some(Some(entries)) => {
                    let last_used = served.get(&sha256).map_or(modified, |then| modified.max(*then));
                    candidates.push(Candidate { sha256, size, modified, last_used, entries });
                }
            }
        }
        candidates.sort_by_key(|candidate| (candidate.last_used, candidate.sha256));
        Ok(candidates)
    }

    /// Record and index entry of every file, and the blob last. Whether it went.
    async fn remove(&self, candidate: &Candidate) -> Result<bool> {
        let Candidate { sha256, modified, .. } = candidate;
        if let Some(claim) = self.store.head(&Key::claim(sha256)).await?
            && !is_older(claim.modified, SystemTime::now(), CLAIM_HOLDS)
        {
            return Ok(false);
        }
        let evicted = |entry: &Entry| entry.removal(What::Evicted, ASKED_BY, &self.origin);
        let records: Vec<NewRecord> = candidate.entries.iter().map(evicted).collect();
        stream::iter(records)
            .map(|record| self.manifest.record(record))
            .buffer_unordered(RECORDS_AT_ONCE)
            .try_collect::<()>()
            .await?;
        remove(&*self.store, sha256, *modified).await
    }

    /// Looks every few minutes and writes down what was served, from the moment the store is `opened` until `stop`.
    pub async fn watch(self: Arc<Self>, opened: CancellationToken, stop: CancellationToken) {
        if stop.run_until_cancelled(opened.cancelled()).await.is_none() {
            return;
        }
        let mut usage = Usage::new(self.store.clone(), self.manifest.writer().clone(), self.room.clone());
        let looks = LOOK_EVERY.as_secs() / NOTE_EVERY.as_secs();
        for minute in 0_u64.. {
            if minute % looks == 0 && stop.run_until_cancelled(self.look(0)).await.is_none() {
                break;
            }
            if stop.run_until_cancelled(tokio::time::sleep(NOTE_EVERY)).await.is_none() {
                break;
            }
            note(&mut usage).await;
        }
        note(&mut usage).await;
    }

    async fn look(&self, wanted: u64) {
        match self.evict(wanted, true).await {
            Ok(end) => {
                let (max, stored) = (ByteSize(end.max_size), ByteSize(end.stored));
                if end.bytes > 0 {
                    tracing::info!(blobs = end.blobs.len(), bytes = end.bytes, %max, %stored, "evicted to make room");
                }
                if !end.fits {
                    let (kept, unnamed) = (ByteSize(end.kept), ByteSize(end.unnamed));
                    tracing::warn!(
                        %max, %stored, %kept, %unnamed,
                        "store.max_size can't be kept: the rest is pinned, locked, mirrored, published or unrecorded; raise it, \
                         or run `hubgate gc`"
                    );
                }
            }
            Err(error) => tracing::warn!(error = with_causes(&error), "making room in the store failed"),
        }
    }
}

#[async_trait]
impl MakesRoom for Evictor {
    async fn make_room(&self, bytes: u64) {
        self.look(bytes).await;
    }
}

async fn note(usage: &mut Usage) {
    if let Err(error) = usage.flush().await {
        tracing::warn!(error = with_causes(&error), "what was served could not be noted");
    }
}

impl Candidate {
    fn into_victim(self) -> Victim {
        let name = |entry: &Entry| format!("{}@{} {}", entry.repo, entry.commit, entry.path);
        Victim {
            sha256: self.sha256,
            size: self.size,
            last_used: self.last_used.into(),
            files: self.entries.iter().map(name).collect(),
        }
    }
}
