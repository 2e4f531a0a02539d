//! A bound on the bytes of all blobs (`store.max_size`), and the note of which of them were read when, by which room is
//! made.
//!
//! Fills reserve their size at their start. What other processes store is seen at the next look of who makes room, so
//! between two looks the bound can be overstepped by what they fetch. Nothing is removed to make room unless it is asked
//! for by [`Store::make_room`], and never by two looks at once.

use std::{
    any::Any,
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
use tokio::{runtime::Handle, sync::watch};

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
    maker: Mutex<Option<Maker>>,
    /// Closed when the look for room has ended that was begun last.
    look: Mutex<watch::Receiver<()>>,
}

/// Who makes room, and the event loop that outlives those who ask for it.
struct Maker {
    maker: Weak<dyn MakesRoom>,
    runs_on: Handle,
}

#[derive(Debug, Default)]
struct Taken {
    /// Nothing until the first look.
    stored: u64,
    /// Stored since the look under way began.
    since: u64,
    /// On its way.
    reserved: u64,
    /// What the last look for room left; none where the last look was not short of it.
    left: Option<Left>,
}

impl Taken {
    /// How many bytes more than there are a blob of `size` takes.
    fn lacks(&self, size: u64, max: u64) -> u64 {
        self.stored.saturating_add(self.reserved).saturating_add(size).saturating_sub(max)
    }
}

/// What a look that was short of room left in the store, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// What may still be removed.
    pub removable: u64,
    /// What is pinned, locked, mirrored or published.
    pub kept: u64,
    /// What no entry names: for gc.
    pub unnamed: u64,
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

    /// Who is asked when something doesn't fit. It works on the event loop that `runs_on`.
    pub fn made_by(&self, maker: Weak<dyn MakesRoom>, runs_on: Handle) {
        *self.maker.lock().unwrap_or_else(PoisonError::into_inner) = Some(Maker { maker, runs_on });
    }

    /// Bytes on their way.
    pub fn reserved(&self) -> u64 {
        self.taken().reserved
    }

    /// A look at all blobs begins.
    pub fn look_begins(&self) {
        self.taken().since = 0;
    }

    /// How many bytes the look found and left in the store, and what these are, if it was short of room and has made what
    /// it could.
    pub fn looked(&self, stored: u64, left: Option<Left>) {
        let mut taken = self.taken();
        // What came meanwhile may be counted twice until the next look, which is better than not at all.
        taken.stored = stored + taken.since;
        taken.left = left;
    }

    /// Whether a blob of `size` bytes fits as it is.
    pub fn fits(&self, size: u64) -> bool {
        self.taken().lacks(size, self.max) == 0
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

    /// When this process read a blob last, as far as it remembers.
    pub fn read_at(&self, sha256: &Sha256) -> Option<SystemTime> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner).last.get(sha256).copied()
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

    fn reserve(self: &Arc<Self>, size: u64) -> Result<Reserved> {
        let mut taken = self.taken();
        if taken.lacks(size, self.max) > 0 {
            return Err(self.full(&taken, size));
        }
        taken.reserved += size;
        drop(taken);
        Ok(Reserved { room: self.clone(), size })
    }

    /// Whether it fits; an error where no look could change that. What is stuck is told so until the next look from time
    /// to time, since a look reads the whole index.
    fn has(&self, size: u64) -> Result<bool> {
        let taken = self.taken();
        match taken.lacks(size, self.max) {
            0 => Ok(true),
            lacks if taken.left.is_some_and(|left| lacks > left.removable) => Err(self.full(&taken, size)),
            _ => Ok(false),
        }
    }

    async fn make(&self, size: u64) -> Result<()> {
        // The look that is under way may be for less than we need; the one after it is for us, or for more than us.
        for _ in 0..2 {
            if self.has(size)? {
                return Ok(());
            }
            let Some(mut look) = self.look(size) else { break };
            // Closed at its end, however it ends.
            while look.changed().await.is_ok() {}
        }
        if self.has(size)? { Ok(()) } else { Err(self.full(&self.taken(), size)) }
    }

    /// The look for room that is under way, or a new one for `size` bytes; none where nobody makes room.
    fn look(&self, size: u64) -> Option<watch::Receiver<()>> {
        let mut under_way = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.has_changed().is_ok() {
            return Some(under_way.clone());
        }
        let maker = self.maker.lock().unwrap_or_else(PoisonError::into_inner);
        let Maker { maker, runs_on } = maker.as_ref()?;
        let maker = maker.upgrade()?;
        let (ends, look) = watch::channel(());
        under_way.clone_from(&look);
        // In a task of its own: who waits may go, and half an eviction would leave a blob that counts and that nobody
        // finds.
        runs_on.spawn(async move {
            maker.make_room(size).await;
            drop(ends);
        });
        Some(look)
    }

    /// What an operator must know of why `size` bytes don't fit.
    fn full(&self, taken: &Taken, size: u64) -> Error {
        let (max, stored, reserved) = (ByteSize(self.max), ByteSize(taken.stored), ByteSize(taken.reserved));
        let why = match taken.left {
            Some(Left { removable, kept, unnamed }) if taken.lacks(size, self.max) > removable => format!(
                "what is pinned, locked, mirrored or published ({}) or has no record ({}; see `hubgate gc`) stays, so {} do \
                 not fit; raise it",
                ByteSize(kept),
                ByteSize(unnamed),
                ByteSize(size)
            ),
            _ => "room is being made".to_owned(),
        };
        Error::new(ErrorKind::Full(format!("{BOUND} is {max}; {stored} are stored and {reserved} on their way; {why}")))
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
        if let Some(left) = &mut taken.left {
            left.removable += self.size;
        }
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
        // None is under way: its sender is gone.
        look: Mutex::new(watch::channel(()).1),
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
        let reserved = self.room.reserve(size)?;
        Ok(Box::new(BoundedStage { stage: self.store.stage(size, sha256).await?, reserved }))
    }

    fn has_room(&self, size: u64) -> Result<bool> {
        self.room.has(size)
    }

    async fn make_room(&self, size: u64) -> Result<()> {
        self.room.make(size).await
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

    fn room(&self) -> Arc<dyn Any + Send + Sync> {
        self.stage.room()
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;
    use crate::manifest::testing::MemoryStore;

    const STUCK: Option<Left> = Some(Left { removable: 0, kept: 60, unnamed: 20 });

    #[test]
    fn what_is_on_its_way_takes_room_until_it_ends() {
        let (_, room) = bounded(MemoryStore::new(), ByteSize(100));
        let first = room.reserve(60).unwrap();
        assert!(room.reserve(50).is_err());
        drop(first);
        room.reserve(50).unwrap().stored();
        assert!(room.reserve(51).is_err() && room.reserve(50).is_ok());
        room.look_begins();
        room.reserve(10).unwrap().stored();
        room.looked(80, None);
        assert!(room.reserve(11).is_err() && room.reserve(10).is_ok(), "what came during the look counts");
    }

    #[test]
    fn who_does_not_fit_is_told_what_holds_the_room_and_which_key_bounds_it() {
        let (_, room) = bounded(MemoryStore::new(), ByteSize(100));
        room.looked(80, STUCK);
        assert_eq!(
            room.has(30).unwrap_err().kind.to_string(),
            "no room: store.max_size is 100 B; 80 B are stored and 0 B on their way; what is pinned, locked, mirrored or \
             published (60 B) or has no record (20 B; see `hubgate gc`) stays, so 30 B do not fit; raise it"
        );
        assert!(room.has(20).unwrap());
        room.reserve(20).unwrap().stored();
        assert!(!room.has(20).unwrap(), "what came since may go");
        room.looked(80, None);
        assert!(!room.has(30).unwrap(), "a look may find something");
    }

    /// Counts its looks, and makes room in each once it is let.
    struct Counts {
        room: Arc<Room>,
        looks: AtomicUsize,
        may_end: Semaphore,
        left: Option<Left>,
        stored: u64,
    }

    #[async_trait]
    impl MakesRoom for Counts {
        async fn make_room(&self, _: u64) {
            self.looks.fetch_add(1, Ordering::SeqCst);
            self.may_end.acquire().await.unwrap().forget();
            self.room.looked(self.stored, self.left);
        }
    }

    fn counting(stored: u64, left: Option<Left>) -> (Arc<dyn Store>, Arc<Counts>) {
        let (store, room) = bounded(MemoryStore::new(), ByteSize(100));
        room.looked(100, None);
        let (looks, may_end) = (AtomicUsize::new(0), Semaphore::new(0));
        let counts = Arc::new(Counts { room: room.clone(), looks, may_end, left, stored });
        let maker: Weak<dyn MakesRoom> = Arc::downgrade(&(counts.clone() as Arc<dyn MakesRoom>));
        room.made_by(maker, Handle::current());
        (store, counts)
    }

    #[tokio::test]
    async fn all_who_lack_room_wait_for_one_look_and_those_who_go_leave_it_under_way() {
        let (store, counts) = counting(50, None);
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                tokio::spawn({
                    let store = store.clone();
                    async move { store.make_room(10).await }
                })
            })
            .collect();
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let (gone, waiting) = {
            let mut waiting = waiting;
            let rest = waiting.split_off(10);
            (waiting, rest)
        };
        gone.iter().for_each(tokio::task::JoinHandle::abort);
        counts.may_end.add_permits(1);
        for waiter in waiting {
            waiter.await.unwrap().unwrap();
        }
        assert_eq!(counts.looks.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn where_nothing_can_go_nobody_looks_again() {
        let (store, counts) = counting(80, STUCK);
        counts.may_end.add_permits(9);
        for _ in 0..5 {
            let error = store.make_room(30).await.unwrap_err();
            assert!(matches!(&error.kind, ErrorKind::Full(why) if why.ends_with("raise it")), "{error}");
        }
        assert_eq!(counts.looks.load(Ordering::SeqCst), 1);
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
