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
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    CLAIM_HOLDS, CLOCK_STEP, Result,
    candidates::{Candidate, Candidates},
    is_older,
    kept::Kept,
    remove, usage,
    usage::Usage,
};
use crate::{
    gateway::Gateway,
    hub::{Commit, Repo, RepoPath, Sha256},
    manifest::{Manifest, What},
    policy::PolicyHandle,
    store::{Key, Left, MakesRoom, Prefix, Room, Store},
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
            room.made_by(this.clone(), Handle::current());
            Self { store, manifest, gateway, policy, room, origin, turn: tokio::sync::Mutex::default() }
        })
    }

    /// Looks at all blobs, and, if `apply`, removes what is needed least until the bound is kept. Memory: nothing that
    /// grows with the store while it is; else some 200 bytes for each file.
    ///
    /// # Errors
    /// A store or a manifest that fails. What was evicted until then is recorded.
    pub async fn evict(&self, apply: bool) -> Result<Evicted> {
        let _turn = self.turn.lock().await;
        self.look(0, apply).await
    }

    /// Keeps the bound, or only learns how much is stored while what goes could not be fetched again.
    ///
    /// # Errors
    /// As [`Evictor::evict`].
    pub async fn keep_bound(&self) -> Result<()> {
        let apply = self.gateway.upstream_has_answered();
        let end = self.evict(apply).await?;
        if apply || end.fits {
            tell(&end);
        } else {
            let (max, stored) = (ByteSize(end.max_size), ByteSize(end.stored));
            tracing::warn!(%max, %stored, "more than store.max_size is stored; nothing is evicted until the origin answers");
        }
        Ok(())
    }

    /// One look that makes `wanted` bytes more fit. Who calls it has the turn.
    async fn look(&self, wanted: u64, apply: bool) -> Result<Evicted> {
        self.room.look_begins();
        let max_size = self.room.max();
        let mut stored = 0;
        let mut listed = self.store.list(&Prefix::blobs());
        while let Some(meta) = listed.try_next().await? {
            stored += if meta.key.digest().is_some() { meta.size } else { 0 };
        }
        drop(listed);
        let mut end =
            Evicted { applied: apply, max_size, stored, kept: 0, unnamed: 0, blobs: Vec::new(), bytes: 0, fits: true };
        let taken = stored.saturating_add(self.room.reserved());
        let needed = taken.saturating_add(wanted).saturating_sub(max_size);
        let mut left = None;
        if needed > 0 {
            let kept = Kept::read(&*self.store, &self.gateway, &self.policy.current()).await?;
            let served = self.served(apply).await?;
            let all = Candidates::read(&*self.store, &self.manifest, &kept, served).await?;
            (end.kept, end.unnamed) = (all.kept, all.unnamed);
            // Where all that may go would not do for a file, nothing goes for it.
            let over = taken.saturating_sub(max_size);
            let goal = if all.bytes >= needed { needed.saturating_add(max_size / SPARE) } else { over };
            let mut removable = all.bytes;
            for blob in &all.blobs {
                if end.bytes >= goal {
                    break;
                }
                removable -= blob.size;
                if !apply || self.remove(blob, &all).await? {
                    end.bytes += blob.size;
                    end.blobs.push(victim(blob, &all));
                }
            }
            end.fits = end.bytes >= needed;
            left = Some(Left { removable, kept: end.kept, unnamed: end.unnamed }).filter(|_| apply);
        }
        self.room.looked(if apply { stored.saturating_sub(end.bytes) } else { stored }, left);
        Ok(end)
    }

    /// When blobs were served last, as far as anybody has noted it.
    async fn served(&self, tidy: bool) -> Result<HashMap<Sha256, SystemTime>> {
        let mut served = usage::read(&*self.store, tidy).await?;
        for (sha256, then) in self.room.read_last() {
            served.entry(sha256).and_modify(|known| *known = then.max(*known)).or_insert(then);
        }
        Ok(served)
    }

    /// Record and index entry of every file, and the blob last. Whether it went.
    async fn remove(&self, blob: &Candidate, all: &Candidates) -> Result<bool> {
        match standing(&*self.store, &self.room, blob).await? {
            Standing::Gone => return Ok(true),
            Standing::Wanted => return Ok(false),
            Standing::Unused => {}
        }
        let files: Vec<_> = all.files_of(blob).collect();
        stream::iter(files)
            .map(|(repo, commit, path)| self.record(blob.sha256, repo, commit, path))
            .buffer_unordered(RECORDS_AT_ONCE)
            .try_collect::<()>()
            .await?;
        remove(&*self.store, &blob.sha256, blob.modified).await
    }

    /// Records that a file is evicted, if it is still there and of this content.
    async fn record(&self, sha256: Sha256, repo: Repo, commit: Commit, path: RepoPath) -> Result<()> {
        if let Some(entry) = self.manifest.entry(&repo, commit, &path).await?
            && entry.sha256 == sha256
        {
            self.manifest.record(entry.removal(What::Evicted, ASKED_BY, &self.origin)).await?;
        }
        Ok(())
    }

    /// Looks every few minutes and writes down what was served, from the moment the store is `opened` until `stop`.
    pub async fn watch(self: Arc<Self>, opened: CancellationToken, stop: CancellationToken) {
        if stop.run_until_cancelled(opened.cancelled()).await.is_none() {
            return;
        }
        let mut usage = Usage::new(self.store.clone(), self.manifest.writer().clone(), self.room.clone());
        let looks = LOOK_EVERY.as_secs() / NOTE_EVERY.as_secs();
        for minute in 0_u64.. {
            if minute % looks == 0 {
                match stop.run_until_cancelled(self.keep_bound()).await {
                    None => break,
                    Some(Ok(())) => {}
                    Some(Err(error)) => failed(&error),
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(NOTE_EVERY)).await.is_none() {
                break;
            }
            note(&mut usage).await;
        }
        note(&mut usage).await;
    }
}

#[async_trait]
impl MakesRoom for Evictor {
    async fn make_room(&self, bytes: u64) {
        let _turn = self.turn.lock().await;
        // Who had the turn before us may have made it.
        if self.room.fits(bytes) {
            return;
        }
        match self.look(bytes, true).await {
            Ok(end) => tell(&end),
            Err(error) => failed(&error),
        }
    }
}

/// How a blob stands right before it goes.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Unused,
    /// Somebody else has removed it, and its entries before it.
    Gone,
    /// Claimed, written anew or read since it was listed.
    Wanted,
}

/// The list may be minutes old, and other replicas evict and fetch meanwhile.
async fn standing(store: &dyn Store, room: &Room, blob: &Candidate) -> Result<Standing> {
    if let Some(claim) = store.head(&Key::claim(&blob.sha256)).await?
        && !is_older(claim.modified, SystemTime::now(), CLAIM_HOLDS)
    {
        return Ok(Standing::Wanted);
    }
    let Some(there) = store.head(&Key::blob(&blob.sha256)).await? else { return Ok(Standing::Gone) };
    let was_read = room.read_at(&blob.sha256).is_some_and(|then| then > blob.last_used);
    Ok(if was_read || there.modified > blob.modified + CLOCK_STEP { Standing::Wanted } else { Standing::Unused })
}

fn tell(end: &Evicted) {
    let (max, stored) = (ByteSize(end.max_size), ByteSize(end.stored));
    if end.bytes > 0 {
        tracing::info!(blobs = end.blobs.len(), bytes = end.bytes, %max, %stored, "evicted to make room");
    }
    if !end.fits {
        let (kept, unnamed) = (ByteSize(end.kept), ByteSize(end.unnamed));
        tracing::warn!(
            %max, %stored, %kept, %unnamed,
            "not enough room within store.max_size: the rest is pinned, locked, mirrored, published or unrecorded; raise \
             it, or run `hubgate gc`"
        );
    }
}

fn failed(error: &super::Error) {
    tracing::warn!(error = with_causes(error), "making room in the store failed");
}

async fn note(usage: &mut Usage) {
    if let Err(error) = usage.flush().await {
        tracing::warn!(error = with_causes(&error), "what was served could not be noted");
    }
}

fn victim(blob: &Candidate, all: &Candidates) -> Victim {
    let name = |(repo, commit, path)| format!("{repo}@{commit} {path}");
    Victim {
        sha256: blob.sha256,
        size: blob.size,
        last_used: blob.last_used.into(),
        files: all.files_of(blob).map(name).collect(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        manifest::testing::MemoryStore,
        store::{PutMode, bounded},
    };

    #[tokio::test]
    async fn what_came_anew_was_read_or_claimed_since_the_look_is_left_alone_and_what_went_is_gone() {
        let memory = MemoryStore::new();
        let (store, room) = bounded(memory.clone(), ByteSize(100));
        let sha256 = Sha256::of(b"x");
        let key = Key::blob(&sha256);
        memory.plant(key.as_str(), "x");
        let modified = store.head(&key).await.unwrap().unwrap().modified;
        let seen = |before| Candidate::seen(sha256, modified - Duration::from_secs(before));
        assert_eq!(standing(&*store, &room, &seen(0)).await.unwrap(), Standing::Unused);
        assert_eq!(standing(&*store, &room, &seen(2)).await.unwrap(), Standing::Wanted, "evicted and fetched again");
        store.open(&key, None).await.unwrap();
        assert_eq!(standing(&*store, &room, &seen(0)).await.unwrap(), Standing::Wanted, "read");
        room.forget_served();
        store.put(&Key::claim(&sha256), Bytes::new(), PutMode::Overwrite).await.unwrap();
        assert_eq!(standing(&*store, &room, &seen(0)).await.unwrap(), Standing::Wanted, "claimed");
        memory.uproot(Key::claim(&sha256).as_str());
        memory.uproot(key.as_str());
        assert_eq!(standing(&*store, &room, &seen(0)).await.unwrap(), Standing::Gone);
    }
}
