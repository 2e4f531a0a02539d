//! Turns: one at a time for a name, without a lock for each name that was ever seen.
//!
//! Names share a fixed number of locks; two that happen to share one wait for each other, which costs time
//! and nothing else. For what asks the store in between a look and a write.

use std::hash::{BuildHasher, Hash, RandomState};

use tokio::sync::{Mutex, MutexGuard};

/// How many names may have their turn at the same moment, at most.
const PLACES: usize = 64;

pub(super) struct Turns {
    places: [Mutex<()>; PLACES],
    hasher: RandomState,
}

impl Default for Turns {
    fn default() -> Self {
        Self { places: std::array::from_fn(|_| Mutex::new(())), hasher: RandomState::new() }
    }
}

impl Turns {
    /// Waits for the turn of `name`; it ends when the guard is dropped.
    pub(super) async fn take(&self, name: &impl Hash) -> MutexGuard<'_, ()> {
        let place = usize::try_from(self.hasher.hash_one(name) % PLACES as u64).unwrap_or_default();
        self.places[place].lock().await
    }
}
