//! What all parts of a running stand-in share.

use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sha2::Digest as _;

use crate::counters::{Class, Counting, Origin};
use crate::faults::Faults;
use crate::pace::Pacer;
use crate::world::World;

/// Length of the Hub's rate limit window.
const WINDOW: Duration = Duration::from_secs(300);

/// When text answers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gzip {
    /// As the Hub does: when the client accepts it and the text is over 1 KiB.
    WhenAccepted,
    /// A trap: always, unless the client asks for identity alone.
    UnlessIdentity,
    /// Never.
    Never,
}

/// How the stand-in behaves throughout.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) gzip: Gzip,
    /// How long a CDN URL holds.
    pub(crate) signed_for: Duration,
    /// Requests a window: api, resolvers. Only counted down unless `enforced`.
    pub(crate) quota: (u64, u64),
    pub(crate) enforced: bool,
    /// Entries of a page of a listing, and of one with `expand`.
    pub(crate) page: (usize, usize),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            gzip: Gzip::WhenAccepted,
            signed_for: Duration::from_secs(3600),
            quota: (500, 3000),
            enforced: false,
            page: (1000, 100),
        }
    }
}

/// The URLs that clients reach the listeners by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Urls {
    pub(crate) hub: String,
    pub(crate) cdn: String,
}

pub(crate) struct State {
    world: RwLock<World>,
    urls: RwLock<Urls>,
    pub(crate) faults: Faults,
    pub(crate) counting: Counting,
    pub(crate) settings: Settings,
    hub_pacer: Pacer,
    cdn_pacer: Pacer,
    windows: Mutex<[(Instant, u64); 2]>,
    secret: String,
}

impl State {
    pub(crate) fn new(world: World, settings: Settings, keep: usize) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let secret = hex::encode(sha2::Sha256::digest(format!("{now:?} {}", std::process::id())));
        Self {
            world: RwLock::new(world),
            urls: RwLock::default(),
            faults: Faults::default(),
            counting: Counting::new(keep),
            settings,
            hub_pacer: Pacer::new(0),
            cdn_pacer: Pacer::new(0),
            windows: Mutex::new([(Instant::now(), 0); 2]),
            secret,
        }
    }

    pub(crate) fn world(&self) -> RwLockReadGuard<'_, World> {
        self.world.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn world_mut(&self) -> RwLockWriteGuard<'_, World> {
        self.world.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn urls(&self) -> Urls {
        self.urls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_urls(&self, urls: Urls) {
        *self.urls.write().unwrap_or_else(PoisonError::into_inner) = urls;
    }

    pub(crate) fn pacer(&self, origin: Origin) -> &Pacer {
        match origin {
            Origin::Hub => &self.hub_pacer,
            Origin::Cdn => &self.cdn_pacer,
        }
    }

    /// What a CDN URL must carry to be answered.
    pub(crate) fn signature(&self, path: &str, expires: u64) -> String {
        hex::encode(sha2::Sha256::digest(format!("{} {path} {expires}", self.secret)))
    }

    /// Counts a request against its window: the window's name, its quota, what remains, seconds to its end.
    pub(crate) fn count_against_limit(&self, class: Class) -> Window {
        let resolvers = matches!(class, Class::Resolve | Class::ResolveCache | Class::Raw);
        let (name, quota) =
            if resolvers { ("resolvers", self.settings.quota.1) } else { ("api", self.settings.quota.0) };
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, used) = &mut windows[usize::from(resolvers)];
        if start.elapsed() >= WINDOW {
            (*start, *used) = (Instant::now(), 0);
        }
        *used += 1;
        let over = *used > quota;
        // Not enforced, the count stops at half, so that long tests do not look like a client near its limit.
        let shown = if self.settings.enforced { *used } else { (*used).min(quota / 2) };
        let left = quota.saturating_sub(shown);
        let reset = WINDOW.saturating_sub(start.elapsed()).as_secs().max(1);
        Window { name, quota, left, reset, refuse: self.settings.enforced && over }
    }
}

/// A rate limit window as it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) name: &'static str,
    pub(crate) quota: u64,
    pub(crate) left: u64,
    pub(crate) reset: u64,
    pub(crate) refuse: bool,
}
