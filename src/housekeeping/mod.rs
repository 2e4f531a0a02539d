//! What the store no longer needs: leftovers that nobody recorded, and, where room is short, what nobody asked for
//! longest.
//!
//! - [`gc`] removes blobs that no record names. It looks twice, an hour apart, since a blob is there before its record.
//! - [`Evictor`] removes recorded ones, by the manifest's own order: log record, index entry, and the blob last.
//!
//! Whoever records a blob that was there already claims it first; both look for claims just before they remove one. So
//! what they race with finds its blob there, or sees that it went and fetches it again.
//!
//! Published copies are not blobs of the store and are never touched here.

mod candidates;
mod evict;
pub mod gc;
mod kept;
mod usage;

pub use evict::{Evicted, Evictor, Victim};

use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt as _;

use crate::{
    hub::Sha256,
    manifest,
    store::{self, Key, Prefix, Store},
};

/// How long a claim of a blob keeps it from being removed; recording takes seconds.
const CLAIM_HOLDS: Duration = Duration::from_hours(24);

/// S3 says the time of one object in whole seconds, and in a listing more exactly.
const CLOCK_STEP: Duration = Duration::from_secs(1);

/// Why housekeeping did not come to its end. What was removed until then was not needed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The manifest could not be read or written.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// What gc has kept of its last look is not what it writes.
    #[error("{0}: not a look of `hubgate gc` ({1}); remove the object to begin anew")]
    NoLook(Key, String),
}

/// The answers of housekeeping.
pub type Result<T> = std::result::Result<T, Error>;

/// Removes a blob unless it was written again since it was looked at, or somebody is about to record it. Whether it
/// is gone; another process may have removed it too.
async fn remove(store: &dyn Store, sha256: &Sha256, modified: SystemTime) -> Result<bool> {
    let now = SystemTime::now();
    if let Some(claim) = store.head(&Key::claim(sha256)).await?
        && !is_older(claim.modified, now, CLAIM_HOLDS)
    {
        return Ok(false);
    }
    let key = Key::blob(sha256);
    match store.head(&key).await? {
        None => Ok(true),
        Some(there) if there.modified > modified + CLOCK_STEP => Ok(false),
        Some(_) => {
            store.delete(&key).await?;
            Ok(true)
        }
    }
}

/// Removes claims that hold nothing any more. Returns how many.
///
/// # Errors
/// A store that fails.
pub async fn remove_claims(store: &dyn Store) -> Result<usize> {
    let now = SystemTime::now();
    let old: Vec<Key> = store
        .list(&Prefix::claims())
        .try_filter_map(|claim| async move { Ok(is_older(claim.modified, now, CLAIM_HOLDS).then_some(claim.key)) })
        .try_collect()
        .await?;
    let mut removed = 0;
    for claim in old {
        // It may have been made anew since it was listed.
        if store.head(&claim).await?.is_some_and(|claim| is_older(claim.modified, now, CLAIM_HOLDS)) {
            store.delete(&claim).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Whether something of `then` is at least `age` old. What seems to be of the future is new.
fn is_older(then: SystemTime, now: SystemTime, age: Duration) -> bool {
    now.duration_since(then).is_ok_and(|since| since >= age)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{manifest::testing::MemoryStore, store::PutMode};

    #[tokio::test]
    async fn a_blob_that_is_claimed_or_written_again_stays() {
        let store = MemoryStore::new();
        let sha256 = Sha256::of(b"x");
        let key = Key::blob(&sha256);
        store.plant(key.as_str(), "x");
        let seen = store.head(&key).await.unwrap().unwrap().modified;
        let before = seen - Duration::from_secs(2);
        assert!(!remove(&*store, &sha256, before).await.unwrap(), "written again since it was looked at");
        store.put(&Key::claim(&sha256), Bytes::new(), PutMode::Overwrite).await.unwrap();
        assert!(!remove(&*store, &sha256, seen).await.unwrap(), "claimed");
        store.delete(&Key::claim(&sha256)).await.unwrap();
        assert!(remove(&*store, &sha256, seen).await.unwrap());
        assert!(store.keys("blobs/").is_empty());
        assert!(remove(&*store, &sha256, seen).await.unwrap(), "gone, whoever did it");
    }

    #[tokio::test]
    async fn a_claim_goes_once_it_holds_nothing_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = store::StoreConfig::default();
        config.local.path = dir.path().to_owned();
        let store = store::build(&config, &store::SpoolConfig::default(), "w").await.unwrap();
        let [old, new] = [b"old", b"new"].map(|content| Key::claim(&Sha256::of(content)));
        for claim in [&old, &new] {
            store.put(claim, Bytes::from_static(b"{}"), PutMode::Overwrite).await.unwrap();
        }
        let file = std::fs::File::open(dir.path().join(old.as_str())).unwrap();
        file.set_modified(SystemTime::now() - CLAIM_HOLDS).unwrap();
        assert_eq!(remove_claims(&*store).await.unwrap(), 1);
        assert!(store.head(&old).await.unwrap().is_none() && store.head(&new).await.unwrap().is_some());
    }
}
