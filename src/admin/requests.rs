//! Requests that wait for an answer: repos that clients asked for and policy refused, and what admins ask for in person.
//!
//! Names come from strangers: they are noted only as a valid [`Repo`], at most 1,000 new ones a day, in memory, and
//! written in batches, one object for each repo, day and writer. Nothing is asked upstream for any of them. They are
//! forgotten after 30 days.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::{
    Actor, Admin, Error, Id, Result,
    audit::{day, unwritten},
};
use crate::{
    hub::{Repo, RepoKind},
    manifest::{WriterId, kind_and_id},
    policy::{APPROVAL, DenialKind, today},
    store::{self, Key, Prefix, PutMode, Store},
};

/// New names that a process notes in a day.
const MAX_NAMES: usize = 1000;
/// Askers that are named for each.
const MAX_ASKERS: usize = 20;
/// Requests that admins make in person, of one admin in a day.
const MAX_IN_PERSON: usize = 200;
/// Days after which requests are forgotten.
const KEPT_DAYS: i64 = 30;
/// Objects that one answer reads, the newest days first.
const MAX_READ: usize = 5000;
/// How the last part of an admin's own request ends.
const IN_PERSON: &str = ".admin";
const AT_ONCE: usize = 16;
const LIMIT_BYTES: u64 = 64 * 1024;
const SCHEMA: u32 = 1;

/// What one writer saw of one repo on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    schema: u32,
    #[serde(flatten, with = "kind_and_id")]
    repo: Repo,
    #[serde(with = "time::serde::rfc3339")]
    first: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    last: OffsetDateTime,
    count: u64,
    /// Who asked, and how often; at most [`MAX_ASKERS`].
    askers: BTreeMap<String, u64>,
    /// The sort of the last refusal.
    refused: String,
    rule: Option<String>,
    /// The refusal's text, as the client saw it.
    text: String,
}

/// What an admin asked for in person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct InPerson {
    schema: u32,
    #[serde(flatten, with = "kind_and_id")]
    repo: Repo,
    by: String,
    #[serde(with = "time::serde::rfc3339")]
    time: OffsetDateTime,
    reason: String,
}

/// An object under `requests/`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Object {
    Seen(Seen),
    InPerson(InPerson),
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

/// One repo that somebody wants.
#[derive(Debug, Clone, Serialize)]
pub struct Request {
    /// In JSON `kind` and `repo`.
    #[serde(flatten, with = "kind_and_id")]
    pub repo: Repo,
    /// What there is to do.
    pub state: State,
    /// The first of the last 30 days' asks.
    #[serde(with = "time::serde::rfc3339")]
    pub first: OffsetDateTime,
    /// And the last.
    #[serde(with = "time::serde::rfc3339")]
    pub last: OffsetDateTime,
    /// How often clients were refused.
    pub count: u64,
    /// Which clients, and how often.
    pub askers: BTreeMap<String, u64>,
    /// The sort of the last refusal.
    pub refused: Option<String>,
    /// The rule that refused.
    pub rule: Option<String>,
    /// What the client was told.
    pub text: Option<String>,
    /// What admins asked for in person.
    pub in_person: Vec<Wish>,
}

/// What an admin said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wish {
    /// Who.
    pub by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// Why.
    pub reason: String,
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody has answered.
    Waiting,
    /// It may come in by now.
    Allowed,
    /// Somebody said no, and nobody has asked since.
    Rejected,
}

/// The requests of an answer.
#[derive(Debug, Serialize)]
pub struct Requests {
    /// The latest first.
    pub requests: Vec<Request>,
    /// Whether there was more to read than one answer reads.
    pub truncated: bool,
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

    /// The keys of the last 30 days, those of admins and the newest days first.
    async fn keys(&self) -> store::Result<Vec<Key>> {
        let oldest = day(OffsetDateTime::now_utc() - Duration::days(KEPT_DAYS));
        let mut keys: Vec<Key> = self.store.list(&Prefix::requests()).map_ok(|meta| meta.key).try_collect().await?;
        keys.retain(|key| key.requested_on().is_some_and(|day| day >= oldest.as_str()));
        keys.sort_by(|a, b| (is_in_person(b), b.requested_on()).cmp(&(is_in_person(a), a.requested_on())));
        Ok(keys)
    }

    async fn read(&self, keys: Vec<Key>) -> store::Result<Vec<Object>> {
        let store = self.store.clone();
        let reading = stream::iter(keys).map(move |key| {
            let store = store.clone();
            async move { read(&*store, &key).await }
        });
        let objects: Vec<Option<Object>> = reading.buffered(AT_ONCE).try_collect().await?;
        Ok(objects.into_iter().flatten().collect())
    }

    /// Removes what is older than 30 days.
    pub(super) async fn forget_old(&self) -> store::Result<()> {
        let oldest = day(OffsetDateTime::now_utc() - Duration::days(KEPT_DAYS));
        let keys: Vec<Key> = self.store.list(&Prefix::requests()).map_ok(|meta| meta.key).try_collect().await?;
        for key in keys.iter().filter(|key| key.requested_on().is_some_and(|day| day < oldest.as_str())) {
            self.store.delete(key).await?;
        }
        Ok(())
    }
}

async fn write(store: &dyn Store, key: &Key, seen: &Seen) -> store::Result<()> {
    let body = serde_json::to_vec(seen).map_err(|error| store::Error::new(unwritten(&error)).on(key))?;
    store.put(key, Bytes::from(body), PutMode::Overwrite).await.map(drop)
}

async fn read(store: &dyn Store, key: &Key) -> store::Result<Option<Object>> {
    let Some(body) = store.get(key, LIMIT_BYTES).await? else { return Ok(None) };
    let object = serde_json::from_slice(&body);
    Ok(object.map_err(|error| tracing::warn!(%key, %error, "not a request")).ok())
}

/// Whether an admin asked for it in person; no flood of clients can push such a request out of an answer.
fn is_in_person(key: &Key) -> bool {
    key.requested().is_some_and(|(_, part)| part.ends_with(IN_PERSON))
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
            self.requests.note(refused, OffsetDateTime::now_utc());
        }
    }

    /// Asks for a repo in person.
    pub async fn request(&self, repo: &Repo, reason: &str, actor: &Actor) -> Result<()> {
        let denied = self.policy.current().decide_repo(repo, today()).err();
        if let Some(denial) = denied.filter(|denial| denial.kind() == DenialKind::DenyRule) {
            return Err(Error::Denied(denial));
        }
        let now = OffsetDateTime::now_utc();
        let today = day(now);
        let of_today = self
            .requests
            .keys()
            .await?
            .into_iter()
            .filter(|key| is_in_person(key) && key.requested_on() == Some(today.as_str()));
        let made = self.requests.read(of_today.collect()).await?;
        let own = made.iter().filter(|object| matches!(object, Object::InPerson(wish) if wish.by == actor.name));
        if own.count() >= MAX_IN_PERSON {
            return Err(Error::Invalid(format!("{} has asked for {MAX_IN_PERSON} repos today", actor.name)));
        }
        self.audit.record(actor.change("request.ask", repo, Some(reason), json!(null))).await?;
        let wish =
            InPerson { schema: SCHEMA, repo: repo.clone(), by: actor.name.clone(), time: now, reason: reason.into() };
        let key = Key::request(&today, repo, &format!("{}{IN_PERSON}", Id::new(now)));
        let body = serde_json::to_vec(&wish).map_err(|error| store::Error::new(unwritten(&error)).on(&key))?;
        self.store.put(&key, Bytes::from(body), PutMode::Create).await?;
        Ok(())
    }

    /// The admins who asked for a repo in person.
    pub(super) async fn requesters(&self, repo: &Repo) -> Result<Vec<String>> {
        let is_of_repo = |key: &Key| key.requested().is_some_and(|(name, _)| name.same_name(repo)) && is_in_person(key);
        let keys = self.requests.keys().await?.into_iter().filter(is_of_repo).collect();
        let wishes = self.requests.read(keys).await?.into_iter();
        let mut names: Vec<String> = wishes
            .filter_map(|object| match object {
                Object::InPerson(wish) => Some(wish.by),
                Object::Seen(_) => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// What was asked for in the last 30 days, the latest first.
    pub async fn list_requests(&self) -> Result<Requests> {
        self.requests.flush().await?;
        self.approvals.refresh().await?;
        let mut keys = self.requests.keys().await?;
        let truncated = keys.len() > MAX_READ;
        keys.truncate(MAX_READ);
        let objects = self.requests.read(keys).await?;
        let mut found: BTreeMap<(RepoKind, String), Request> = BTreeMap::new();
        for object in objects {
            let (repo, first, last) = match &object {
                Object::Seen(seen) => (&seen.repo, seen.first, seen.last),
                Object::InPerson(wish) => (&wish.repo, wish.time, wish.time),
            };
            let request = found.entry((repo.kind(), repo.id().to_ascii_lowercase())).or_insert_with(|| Request {
                repo: repo.clone(),
                state: State::Waiting,
                first,
                last,
                count: 0,
                askers: BTreeMap::new(),
                refused: None,
                rule: None,
                text: None,
                in_person: Vec::new(),
            });
            request.first = request.first.min(first);
            let is_latest = last >= request.last;
            request.last = request.last.max(last);
            match object {
                Object::Seen(seen) => {
                    request.count += seen.count;
                    for (who, count) in seen.askers {
                        *request.askers.entry(who).or_default() += count;
                    }
                    if is_latest || request.refused.is_none() {
                        (request.refused, request.rule, request.text) =
                            (Some(seen.refused), seen.rule, Some(seen.text));
                    }
                }
                Object::InPerson(InPerson { by, time, reason, .. }) => {
                    request.in_person.push(Wish { by, time, reason });
                }
            }
        }
        let mut requests: Vec<Request> = found.into_values().collect();
        for request in &mut requests {
            request.state = self.state_of(request);
            request.in_person.sort_by_key(|wish| Reverse(wish.time));
        }
        requests.sort_by_key(|request| Reverse(request.last));
        Ok(Requests { requests, truncated })
    }

    fn state_of(&self, request: &Request) -> State {
        let is_named = request.refused.as_deref().is_none_or(|kind| kind == DenialKind::NoRule.as_str());
        match self.policy.current().decide_repo(&request.repo, today()) {
            // Refused for another reason than its name, it is only known to be allowed once somebody approved it.
            Ok(rule) if is_named || rule.name.starts_with(APPROVAL) => State::Allowed,
            _ if self.rejected_at(&request.repo).is_some_and(|at| at >= request.last) => State::Rejected,
            _ => State::Waiting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{SpoolConfig, StoreConfig};

    async fn recorder(dir: &std::path::Path) -> Recorder {
        let mut config = StoreConfig::default();
        config.local.path = dir.join("store");
        let store = crate::store::build(&config, &SpoolConfig::default(), "test").await.unwrap();
        Recorder::new(store, WriterId::new())
    }

    async fn all(recorder: &Recorder) -> Vec<Object> {
        recorder.read(recorder.keys().await.unwrap()).await.unwrap()
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
        recorder.forget_old().await.unwrap();
        let keys: Vec<_> = recorder.store.list(&Prefix::requests()).try_collect().await.unwrap();
        assert_eq!(keys.len(), 2, "{keys:?}");
    }
}
