//! A bound on the bytes of all blobs (`store.max_size`), and the note of which of them were read when, by which room is
//! made.
//!
//! Fills reserve their size at their start. What other processes store is seen at the next look of who makes room, so
//! between two looks the bound can be overstepped by what they fetch.

use std::{
    collections::HashMap,
    fs::File,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use bytesize::ByteSize;
use futures_util::stream::BoxStream;

use super::{
    Copied, CopyFacts, Error, ErrorKind, Key, Object, ObjectMeta, Prefix, Probe, PutMode, PutOutcome, Result, Stage,
    Store,
};
use crate::hub::Sha256;

/// The configuration key of the bound.
const BOUND: &str = "store.max_size";

/// A blob that is read again within this is not noted again.
const NOTED_EVERY: Duration = Duration::from_mins(10);

/// Most blobs that are noted; of others the time they were written counts.
const MOST_NOTED: usize = 50_000;

/// Removes what is needed least.
#[async_trait]
pub trait MakesRoom: Send + Sync {
    /// Tries to make `bytes` fit. Says nothing: [`Room`] knows.
    async fn make_room(&self, bytes: u64);
}

/// How much there may be, how much there is, and what of it was read.
pub struct Room {
    max: u64,
    taken: Mutex<Taken>,
    served: Mutex<Served>,
    maker: Mutex<Option<Weak<dyn MakesRoom>>>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Nothing until the first look.
    stored: u64,
    /// Stored since the look under way began.
    since: u64,
    /// On its way.
    reserved: u64,
    /// Whether the last look found nothing more to remove.
    stuck: bool,
}

#[derive(Debug, Default)]
struct Served {
    last: HashMap<Sha256, SystemTime>,
    changed: bool,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("max", &self.max).field("taken", &*self.taken()).finish_non_exhaustive()
    }
}

impl Room {
    /// The bound in bytes.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// What is asked when something doesn't fit.
    pub fn made_by(&self, maker: Weak<dyn MakesRoom>) {
        *self.maker.lock().unwrap_or_else(PoisonError::into_inner) = Some(maker);
    }

    /// Bytes on their way.
    pub fn reserved(&self) -> u64 {
        self.taken().reserved
    }

    /// A look at all blobs begins.
    pub fn look_begins(&self) {
        self.taken().since = 0;
    }

    /// What the look found and left; `stuck` if it could not remove as much as it wanted.
    pub fn looked(&self, stored: u64, stuck: bool) {
        let mut taken = self.taken();
        // What came meanwhile may be counted twice until the next look, which is better than not at all.
        taken.stored = stored + taken.since;
        taken.stuck = stuck;
    }

    /// Which blobs were read and when last, if there is anything new since the last time.
    pub fn served(&self) -> Option<HashMap<Sha256, SystemTime>> {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut served.changed).then(|| served.last.clone())
    }

    /// Which blobs this process read and when last, as far as it remembers.
    pub fn read_last(&self) -> HashMap<Sha256, SystemTime> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }

    /// Forgets what was read, as when it has been written down for good.
    pub fn forget_served(&self) {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = Served::default();
    }

    fn note(&self, sha256: Sha256) {
        let now = SystemTime::now();
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let Served { last, changed } = &mut *served;
        let is_new = |then: &SystemTime| now.duration_since(*then).is_ok_and(|since| since >= NOTED_EVERY);
        if last.get(&sha256).map_or(last.len() < MOST_NOTED, is_new) {
            last.insert(sha256, now);
            *changed = true;
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(self: &Arc<Self>, size: u64) -> Option<Reserved> {
        let mut taken = self.taken();
        let fits = taken.stored.saturating_add(taken.reserved).saturating_add(size) <= self.max;
        fits.then(|| {
            taken.reserved += size;
            Reserved { room: self.clone(), size }
        })
    }

    async fn reserve_or_make_room(self: &Arc<Self>, size: u64) -> Result<Reserved> {
        if let Some(reserved) = self.reserve(size) {
            return Ok(reserved);
        }
        let maker = self.maker.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(Weak::upgrade);
        if let Some(maker) = maker {
            // In a task of its own: who waits may go, and half an eviction would leave a blob that counts and that
            // nobody finds.
            let made = tokio::spawn(async move { maker.make_room(size).await });
            if let Err(error) = made.await {
                tracing::error!(%error, "making room ended early");
            }
        }
        self.reserve(size).ok_or_else(|| Error::new(ErrorKind::Full(self.why_full())))
    }

    fn why_full(&self) -> String {
        let taken = self.taken();
        let (max, used) = (ByteSize(self.max), ByteSize(taken.stored + taken.reserved));
        let why = if taken.stuck {
            "the rest is pinned, locked, mirrored, published or not recorded and stays; raise it"
        } else {
            "it is being made"
        };
        format!("{BOUND} is {max} and {used} are taken; {why}")
    }
}

/// Room for a blob on its way.
struct Reserved {
    room: Arc<Room>,
    size: u64,
}

impl Reserved {
    fn stored(self) {
        let mut taken = self.room.taken();
        taken.stored += self.size;
        taken.since += self.size;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        taken.reserved = taken.reserved.saturating_sub(self.size);
    }
}

/// The same store, with at most `max` bytes of blobs.
pub fn bounded(store: Arc<dyn Store>, max: ByteSize) -> (Arc<dyn Store>, Arc<Room>) {
    let room = Arc::new(Room {
        max: max.as_u64(),
        taken: Mutex::default(),
        served: Mutex::default(),
        maker: Mutex::default(),
    });
    (Arc::new(Bounded { store, room: room.clone() }), room)
}

#[derive(Debug)]
struct Bounded {
    store: Arc<dyn Store>,
    room: Arc<Room>,
}

#[async_trait]
impl Store for Bounded {
    async fn head(&self, key: &Key) -> Result<Option<ObjectMeta>> {
        self.store.head(key).await
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Option<Bytes>> {
        self.store.get(key, limit).await
    }

    async fn open(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        let opened = self.store.open(key, range).await?;
        if let (Some(_), Some(sha256)) = (&opened, key.digest()) {
            self.room.note(sha256);
        }
        Ok(opened)
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<PutOutcome> {
        self.store.put(key, body, mode).await
    }

    async fn stage(&self, size: u64, sha256: Option<Sha256>) -> Result<Box<dyn Stage>> {
        let reserved = self.room.reserve_or_make_room(size).await?;
        Ok(Box::new(BoundedStage { stage: self.store.stage(size, sha256).await?, reserved }))
    }

    fn largest_stage(&self) -> Option<(u64, &'static str)> {
        let bound = (self.room.max, BOUND);
        Some(self.store.largest_stage().map_or(bound, |other| if other.0 < bound.0 { other } else { bound }))
    }

    async fn copy(&self, blob: &Sha256, to: &Key, facts: &CopyFacts) -> Result<Copied> {
        self.store.copy(blob, to, facts).await
    }

    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.store.delete(key).await
    }

    async fn probe(&self) -> Result<Probe> {
        self.store.probe().await
    }

    async fn take_alone(&self) -> Result<()> {
        self.store.take_alone().await
    }

    async fn sweep(&self, apply: bool) -> Result<u64> {
        self.store.sweep(apply).await
    }
}

struct BoundedStage {
    stage: Box<dyn Stage>,
    reserved: Reserved,
}

#[async_trait]
impl Stage for BoundedStage {
    fn file(&self) -> Arc<File> {
        self.stage.file()
    }

    async fn advance(&mut self, upto: u64) -> Result<u64> {
        self.stage.advance(upto).await
    }

    async fn commit(self: Box<Self>, sha256: Sha256) -> Result<()> {
        let Self { stage, reserved } = *self;
        stage.commit(sha256).await?;
        reserved.stored();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::testing::MemoryStore;

    #[test]
    fn what_is_on_its_way_takes_room_until_it_ends() {
        let (_, room) = bounded(MemoryStore::new(), ByteSize(100));
        let first = room.reserve(60).unwrap();
        assert!(room.reserve(50).is_none());
        drop(first);
        room.reserve(50).unwrap().stored();
        assert!(room.reserve(51).is_none() && room.reserve(50).is_some());
        room.look_begins();
        room.reserve(10).unwrap().stored();
        room.looked(80, true);
        assert!(room.reserve(11).is_none() && room.reserve(10).is_some(), "what came during the look counts");
        assert!(room.why_full().ends_with("raise it"), "{}", room.why_full());
    }

    #[tokio::test]
    async fn the_bound_is_the_largest_that_ever_fits_and_reading_a_blob_is_noted() {
        let inner = MemoryStore::new();
        let sha256 = Sha256::of(b"x");
        inner.plant(Key::blob(&sha256).as_str(), "x");
        let (store, room) = bounded(inner, ByteSize(100));
        assert_eq!(store.largest_stage(), Some((100, "store.max_size")));
        assert!(room.served().is_none());
        store.open(&Key::blob(&sha256), None).await.unwrap();
        store.open(&Key::blob(&sha256), None).await.unwrap();
        assert!(room.served().unwrap().contains_key(&sha256));
        assert!(room.served().is_none(), "nothing new since");
    }
}
