//! Blobs that no record names: what a crash left between blob and record, and what was withdrawn or evicted and not
//! removed.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Error, Result, is_older, remove, remove_claims};
use crate::{
    hub::Sha256,
    manifest::named_blobs,
    store::{ErrorKind, Key, ObjectMeta, Prefix, PutMode, Store},
};

/// What is younger is left alone, whoever names it.
pub const MIN_AGE: Duration = Duration::from_hours(7 * 24);

/// How long before its removal a blob must have been unnamed already.
pub const BETWEEN_LOOKS: Duration = Duration::from_hours(1);

/// The version of a look's form.
const SCHEMA: u32 = 1;

/// Most blobs that one look keeps; the others are found by a later one. About 110 bytes each.
const MOST_KEPT: usize = 100_000;

/// A larger look is nothing that we wrote.
const LOOK_LIMIT_BYTES: u64 = 32 << 20;

/// What a look found, and what became of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Collected {
    /// Whether something was to be removed.
    pub applied: bool,
    /// Blobs that were unnamed at two looks an hour apart: removed, if applied.
    pub blobs: Vec<Unnamed>,
    /// Their bytes.
    pub bytes: u64,
    /// Of these, blobs that were claimed or written again just before.
    pub spared: u64,
    /// Blobs that are unnamed and old enough, but were not seen so an hour ago.
    pub waiting: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// When the first of those that wait may go.
    #[serde(with = "time::serde::rfc3339::option")]
    pub waiting_until: Option<OffsetDateTime>,
    /// Unnamed blobs that are younger than seven days.
    pub young: u64,
    /// Staging files and uploads of dead writers: removed, if applied.
    pub leftovers: u64,
}

/// A blob that nothing names.
#[derive(Debug, Clone, Serialize)]
pub struct Unnamed {
    /// The blob.
    pub sha256: Sha256,
    /// Length in bytes.
    pub size: u64,
    /// When it was written.
    #[serde(with = "time::serde::rfc3339")]
    pub written: OffsetDateTime,
}

/// What was unnamed at earlier looks, and since when.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Look {
    schema: u32,
    blobs: BTreeMap<Sha256, Seen>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
struct Seen(#[serde(with = "time::serde::rfc3339")] OffsetDateTime);

/// Looks at all blobs, keeps what it saw for the next look, and, if `apply`, removes what is due. The store should be
/// [taken alone](Store::take_alone) then.
///
/// # Errors
/// A store or a manifest that can't be read. Nothing is removed while an index entry can't be.
pub async fn run(store: &dyn Store, apply: bool) -> Result<Collected> {
    let before = read_look(store).await?;
    let now = SystemTime::now();
    // Blobs first: what is recorded after this was there before it.
    let mut blobs: Vec<ObjectMeta> = store.list(&Prefix::blobs()).try_collect().await?;
    let named = named_blobs(store).await?;
    blobs.retain(|meta| meta.key.digest().is_some_and(|digest| !named.contains(&digest)));
    drop(named);

    let mut found = Collected { applied: apply, ..Collected::default() };
    let mut look = Look { schema: SCHEMA, blobs: BTreeMap::new() };
    for meta in blobs {
        let Some(sha256) = meta.key.digest() else { continue };
        if !is_older(meta.modified, now, MIN_AGE) {
            found.young += 1;
            continue;
        }
        let since = before.blobs.get(&sha256).map_or(now, |seen| seen.0.into()).min(now);
        if is_older(since, now, BETWEEN_LOOKS) {
            if apply && !remove(store, &sha256, meta.modified).await? {
                found.spared += 1;
                continue;
            }
            found.bytes += meta.size;
            found.blobs.push(Unnamed { sha256, size: meta.size, written: meta.modified.into() });
            if apply {
                continue;
            }
        } else {
            let until = OffsetDateTime::from(since + BETWEEN_LOOKS);
            found.waiting += 1;
            found.waiting_bytes += meta.size;
            found.waiting_until = Some(found.waiting_until.map_or(until, |first| first.min(until)));
        }
        if look.blobs.len() < MOST_KEPT {
            look.blobs.insert(sha256, Seen(since.into()));
        }
    }
    let text = serde_json::to_vec(&look).map_err(|error| Error::NoLook(Key::gc_candidates(), error.to_string()))?;
    store.put(&Key::gc_candidates(), Bytes::from(text), PutMode::Overwrite).await?;
    if apply {
        remove_claims(store).await?;
    }
    found.leftovers = store.sweep(apply).await?;
    Ok(found)
}

async fn read_look(store: &dyn Store) -> Result<Look> {
    let key = Key::gc_candidates();
    let text = match store.get(&key, LOOK_LIMIT_BYTES).await {
        Ok(None) => return Ok(Look { schema: SCHEMA, blobs: BTreeMap::new() }),
        Ok(Some(text)) => text,
        Err(error) if matches!(error.kind, ErrorKind::TooLarge(_)) => {
            return Err(Error::NoLook(key, error.kind.to_string()));
        }
        Err(error) => return Err(error.into()),
    };
    match serde_json::from_slice::<Look>(&text) {
        Ok(look) if look.schema == SCHEMA => Ok(look),
        Ok(look) => Err(Error::NoLook(key, format!("schema {}, which this version does not know", look.schema))),
        Err(problem) => Err(Error::NoLook(key, problem.to_string())),
    }
}
