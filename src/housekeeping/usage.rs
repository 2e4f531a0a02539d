//! When each blob was served last, by all replicas: one object for each writer and day, written at most once a minute.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use time::{Date, OffsetDateTime};

use super::{Error, Result, is_older};
use crate::{
    hub::Sha256,
    manifest::WriterId,
    store::{self, ErrorKind, Key, Prefix, PutMode, Room, Store},
};

/// The version of an object's form.
const SCHEMA: u32 = 1;

/// A larger object is nothing that we wrote.
const LIMIT_BYTES: u64 = 16 << 20;

/// What was served longer ago than this counts as not served.
const REMEMBERED: Duration = Duration::from_hours(90 * 24);

#[derive(Debug, Serialize, Deserialize)]
struct Batch {
    schema: u32,
    /// Seconds since 1970.
    served: HashMap<Sha256, u64>,
}

/// What this process writes down.
#[derive(Debug)]
pub(super) struct Usage {
    store: Arc<dyn Store>,
    writer: WriterId,
    room: Arc<Room>,
    day: Date,
}

impl Usage {
    pub(super) fn new(store: Arc<dyn Store>, writer: WriterId, room: Arc<Room>) -> Self {
        Self { store, writer, room, day: OffsetDateTime::now_utc().date() }
    }

    /// Writes what was served since midnight, if there is something new.
    pub(super) async fn flush(&mut self) -> Result<()> {
        let today = OffsetDateTime::now_utc().date();
        if let Some(served) = self.room.served() {
            let seconds = |then: SystemTime| then.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let served = served.into_iter().map(|(sha256, then)| (sha256, seconds(then))).collect();
            let text = serde_json::to_vec(&Batch { schema: SCHEMA, served });
            let text = text.map_err(|error| store::Error::new(ErrorKind::Other(error.to_string())))?;
            let key = Key::served(self.writer.as_str(), &self.day.to_string());
            self.store.put(&key, Bytes::from(text), PutMode::Overwrite).await?;
        }
        if today != self.day {
            self.room.forget_served();
            self.day = today;
        }
        Ok(())
    }
}

/// When each blob was served last, by whomever. With `tidy`, what is too old to count is removed.
pub(super) async fn read(store: &dyn Store, tidy: bool) -> Result<HashMap<Sha256, SystemTime>> {
    let now = SystemTime::now();
    let mut last: HashMap<Sha256, SystemTime> = HashMap::new();
    let mut batches = store.list(&Prefix::usage());
    while let Some(meta) = batches.try_next().await? {
        if meta.key == Key::gc_candidates() {
            continue;
        }
        if is_older(meta.modified, now, REMEMBERED) {
            if tidy {
                store.delete(&meta.key).await?;
            }
            continue;
        }
        let text = match store.get(&meta.key, LIMIT_BYTES).await {
            Ok(text) => text.unwrap_or_default(),
            Err(error) if matches!(error.kind, ErrorKind::TooLarge(_)) => Bytes::new(),
            Err(error) => return Err(Error::Store(error)),
        };
        let Some(batch) = serde_json::from_slice::<Batch>(&text).ok().filter(|batch| batch.schema == SCHEMA) else {
            tracing::warn!(key = %meta.key, "not a note of what was served; passed over");
            continue;
        };
        for (sha256, seconds) in batch.served {
            let then = UNIX_EPOCH + Duration::from_secs(seconds.min(u64::from(u32::MAX)));
            last.entry(sha256).and_modify(|known| *known = then.max(*known)).or_insert(then);
        }
    }
    Ok(last)
}
