//! What clients were refused: repos that somebody may have to review.
//!
//! Names come from strangers: they are noted only as a valid [`Repo`], at most 1,000 new ones a day, in memory, and
//! written in batches, one object for each repo, day and writer.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    Admin,
    audit::{day, unwritten},
    requests::{AT_ONCE, SCHEMA},
};
use crate::{
    hub::{Repo, RepoKind},
    manifest::{WriterId, kind_and_id},
    policy::DenialKind,
    store::{self, Key, PutMode, Store},
};

/// New names that a process notes in a day.
const MAX_NAMES: usize = 1000;
/// Askers that are named for each.
const MAX_ASKERS: usize = 20;

/// What one writer saw of one repo on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) schema: u32,
    #[serde(flatten, with = "kind_and_id")]
    pub(super) repo: Repo,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) first: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) last: OffsetDateTime,
    pub(super) count: u64,
    /// Who asked, and how often; at most [`MAX_ASKERS`].
    pub(super) askers: BTreeMap<String, u64>,
    /// The sort of the last refusal.
    pub(super) refused: String,
    pub(super) rule: Option<String>,
    /// The refusal's text, as the client saw it.
    pub(super) text: String,
}

/// A refusal to be noted.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// The repo as it was asked.
    pub repo: &'a Repo,
    /// The client's name or address.
    pub who: &'a str,
    /// The sort of refusal.
    pub kind: DenialKind,
    /// The rule that refused, where one did.
    pub rule: Option<&'a str>,
    /// The text that the client saw.
    pub text: &'a str,
}

/// What this process has seen.
#[derive(Debug)]
pub(super) struct Recorder {
    store: Arc<dyn Store>,
    writer: WriterId,
    seen: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    day: String,
    names: HashMap<(RepoKind, String), Noted>,
    /// Of days before, not written yet.
    leftover: Vec<(Key, Seen)>,
    /// Names past the cap.
    dropped: u64,
}

#[derive(Debug)]
struct Noted {
    seen: Seen,
    dirty: bool,
}

impl Recorder {
    pub(super) fn new(store: Arc<dyn Store>, writer: WriterId) -> Self {
        Self { store, writer, seen: Mutex::default() }
    }

    /// Takes note of a refusal; written by the next [`Recorder::flush`].
    pub(super) fn note(&self, refused: &Refused<'_>, now: OffsetDateTime) {
        let today = day(now);
        let mut table = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if table.day != today {
            let over: Vec<Seen> = table.names.drain().filter(|(_, n)| n.dirty).map(|(_, noted)| noted.seen).collect();
            let over_day = std::mem::replace(&mut table.day, today);
            let keyed = over.into_iter().map(|seen| (Key::request(&over_day, &seen.repo, self.writer.as_str()), seen));
            let keyed: Vec<_> = keyed.collect();
            table.leftover.extend(keyed);
            table.dropped = 0;
        }
        let name = (refused.repo.kind(), refused.repo.id().to_ascii_lowercase());
        let is_full = table.names.len() >= MAX_NAMES;
        if is_full && !table.names.contains_key(&name) {
            table.dropped += 1;
            if table.dropped == 1 {
                tracing::warn!(names = MAX_NAMES, "more refused repos today than are noted as requests");
            }
            return;
        }
        let noted = table.names.entry(name).or_insert_with(|| Noted {
            seen: Seen {
                schema: SCHEMA,
                repo: refused.repo.clone(),
                first: now,
                last: now,
                count: 0,
                askers: BTreeMap::new(),
                refused: String::new(),
                rule: None,
                text: String::new(),
            },
            dirty: true,
        });
        let seen = &mut noted.seen;
        seen.last = now;
        seen.count += 1;
        if seen.askers.len() < MAX_ASKERS || seen.askers.contains_key(refused.who) {
            *seen.askers.entry(refused.who.to_owned()).or_default() += 1;
        }
        refused.kind.as_str().clone_into(&mut seen.refused);
        seen.rule = refused.rule.map(ToOwned::to_owned);
        seen.text = refused.text.chars().take(1000).collect();
        noted.dirty = true;
    }

    /// Writes what was noted since the last time.
    pub(super) async fn flush(&self) -> store::Result<()> {
        let batch: Vec<(Key, Seen)> = {
            let mut table = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let mut batch = std::mem::take(&mut table.leftover);
            let day = table.day.clone();
            for noted in table.names.values_mut().filter(|noted| noted.dirty) {
                noted.dirty = false;
                batch.push((Key::request(&day, &noted.seen.repo, self.writer.as_str()), noted.seen.clone()));
            }
            batch
        };
        let mut failed = None;
        let store = self.store.clone();
        let writing = stream::iter(batch).map(move |(key, seen)| {
            let store = store.clone();
            async move { (write(&*store, &key, &seen).await, key, seen) }
        });
        let mut written = writing.buffer_unordered(AT_ONCE);
        while let Some((end, key, seen)) = written.next().await {
            if let Err(error) = end {
                let mut table = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let name = (seen.repo.kind(), seen.repo.id().to_ascii_lowercase());
                let of_today = key.requested_on() == Some(table.day.as_str());
                match table.names.get_mut(&name) {
                    Some(noted) if of_today => noted.dirty = true,
                    _ => table.leftover.push((key, seen)),
                }
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

async fn write(store: &dyn Store, key: &Key, seen: &Seen) -> store::Result<()> {
    let body = serde_json::to_vec(seen).map_err(|error| store::Error::new(unwritten(&error)).on(key))?;
    store.put(key, Bytes::from(body), PutMode::Overwrite).await.map(drop)
}

/// Whether a review could change the answer.
fn is_for_review(kind: DenialKind) -> bool {
    use DenialKind::{
        Expired, Gated, License, LicenseDisagrees, LicenseUnknown, LicenseUnreadable, NoRule, OwnerChanged, Renamed,
    };
    matches!(
        kind,
        NoRule
            | Expired
            | Gated
            | License
            | LicenseUnknown
            | LicenseUnreadable
            | LicenseDisagrees
            | OwnerChanged
            | Renamed
    )
}

impl Admin {
    /// Takes note of a refused client, where a review could change the answer.
    pub fn note_refusal(&self, refused: &Refused<'_>) {
        if is_for_review(refused.kind) {
            self.refusals.note(refused, OffsetDateTime::now_utc());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;
    use time::Duration;

    use super::{
        super::requests::{Object, forget_old, keys, read},
        *,
    };
    use crate::store::{Prefix, SpoolConfig, StoreConfig};

    async fn recorder(dir: &std::path::Path) -> Recorder {
        let mut config = StoreConfig::default();
        config.local.path = dir.join("store");
        let store = crate::store::build(&config, &SpoolConfig::default(), "test").await.unwrap();
        Recorder::new(store, WriterId::new())
    }

    async fn all(recorder: &Recorder) -> Vec<Object> {
        read(&*recorder.store, keys(&*recorder.store).await.unwrap()).await.unwrap()
    }

    fn refused<'a>(repo: &'a Repo, who: &'a str) -> Refused<'a> {
        Refused { repo, who, kind: DenialKind::NoRule, rule: None, text: "no rule" }
    }

    #[tokio::test]
    async fn a_flood_of_names_is_bounded_for_a_day_and_known_ones_still_count() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = recorder(dir.path()).await;
        let now = OffsetDateTime::now_utc();
        let first: Repo = "org/name-0".parse().unwrap();
        for number in 0..MAX_NAMES + 50 {
            recorder.note(&refused(&format!("org/name-{number}").parse().unwrap(), "10.0.0.1"), now);
        }
        for number in 0..100 {
            recorder.note(&refused(&"Org/Name-0".parse().unwrap(), &format!("10.0.1.{number}")), now);
        }
        recorder.flush().await.unwrap();
        let objects = all(&recorder).await;
        assert_eq!(objects.len(), MAX_NAMES);
        let of_first = objects.iter().find_map(|object| match object {
            Object::Seen(seen) if seen.repo == first => Some(seen),
            _ => None,
        });
        let seen = of_first.unwrap();
        assert_eq!((seen.count, seen.askers.len()), (101, MAX_ASKERS));

        let tomorrow = now + Duration::days(1);
        recorder.note(&refused(&"org/other".parse().unwrap(), "10.0.0.1"), tomorrow);
        recorder.flush().await.unwrap();
        assert_eq!(all(&recorder).await.len(), MAX_NAMES + 1, "the cap is a day's");
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_later_even_after_midnight() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = recorder(dir.path()).await;
        let now = OffsetDateTime::now_utc();
        recorder.note(&refused(&"org/yesterday".parse().unwrap(), "ci"), now - Duration::days(1));
        recorder.note(&refused(&"org/today".parse().unwrap(), "ci"), now);
        recorder.flush().await.unwrap();
        assert_eq!(all(&recorder).await.len(), 2);
        recorder.note(&refused(&"org/old".parse().unwrap(), "ci"), now - Duration::days(40));
        recorder.flush().await.unwrap();
        forget_old(&*recorder.store).await.unwrap();
        let keys: Vec<_> = recorder.store.list(&Prefix::requests()).try_collect().await.unwrap();
        assert_eq!(keys.len(), 2, "{keys:?}");
    }
}
