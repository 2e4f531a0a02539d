//! Requests that wait for an answer: repos that clients asked for and policy refused ([`super::refusals`]), and what admins
//! ask for in person. Nothing is asked upstream for any of them. They are forgotten after 30 days.

use std::{cmp::Reverse, collections::BTreeMap};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::{
    Actor, Admin, Error, Id, Result,
    audit::{day, unwritten},
    refusals::Seen,
};
use crate::{
    hub::{Repo, RepoKind},
    manifest::kind_and_id,
    policy::{APPROVAL, DenialKind, today},
    store::{self, Key, Prefix, PutMode, Store},
};

/// Requests that admins make in person, of one admin in a day.
const MAX_IN_PERSON: usize = 200;
/// Days after which requests are forgotten.
const KEPT_DAYS: i64 = 30;
/// Objects that one answer reads, the newest days first.
const MAX_READ: usize = 5000;
/// How the last part of an admin's own request ends.
const IN_PERSON: &str = ".admin";
/// Objects that are read or written at once.
pub(super) const AT_ONCE: usize = 16;
const LIMIT_BYTES: u64 = 64 * 1024;
pub(super) const SCHEMA: u32 = 1;

/// What an admin asked for in person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InPerson {
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
pub(super) enum Object {
    Seen(Seen),
    InPerson(InPerson),
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

/// The keys of the last 30 days, those of admins and the newest days first.
pub(super) async fn keys(store: &dyn Store) -> store::Result<Vec<Key>> {
    let oldest = day(OffsetDateTime::now_utc() - Duration::days(KEPT_DAYS));
    let mut keys: Vec<Key> = store.list(&Prefix::requests()).map_ok(|meta| meta.key).try_collect().await?;
    keys.retain(|key| key.requested_on().is_some_and(|day| day >= oldest.as_str()));
    keys.sort_by(|a, b| (is_in_person(b), b.requested_on()).cmp(&(is_in_person(a), a.requested_on())));
    Ok(keys)
}

pub(super) async fn read(store: &dyn Store, keys: Vec<Key>) -> store::Result<Vec<Object>> {
    let reading = stream::iter(keys).map(|key| async move { read_one(store, &key).await });
    let objects: Vec<Option<Object>> = reading.buffered(AT_ONCE).try_collect().await?;
    Ok(objects.into_iter().flatten().collect())
}

/// Removes what is older than 30 days.
pub(super) async fn forget_old(store: &dyn Store) -> store::Result<()> {
    let oldest = day(OffsetDateTime::now_utc() - Duration::days(KEPT_DAYS));
    let keys: Vec<Key> = store.list(&Prefix::requests()).map_ok(|meta| meta.key).try_collect().await?;
    for key in keys.iter().filter(|key| key.requested_on().is_some_and(|day| day < oldest.as_str())) {
        store.delete(key).await?;
    }
    Ok(())
}

async fn read_one(store: &dyn Store, key: &Key) -> store::Result<Option<Object>> {
    let Some(body) = store.get(key, LIMIT_BYTES).await? else { return Ok(None) };
    let object = serde_json::from_slice(&body);
    Ok(object.map_err(|error| tracing::warn!(%key, %error, "not a request")).ok())
}

/// Whether an admin asked for it in person; no flood of clients can push such a request out of an answer.
fn is_in_person(key: &Key) -> bool {
    key.requested().is_some_and(|(_, part)| part.ends_with(IN_PERSON))
}

impl Admin {
    /// Asks for a repo in person.
    pub async fn request(&self, repo: &Repo, reason: &str, actor: &Actor) -> Result<()> {
        let denied = self.policy.current().decide_repo(repo, today()).err();
        if let Some(denial) = denied.filter(|denial| denial.kind() == DenialKind::DenyRule) {
            return Err(Error::Denied(denial));
        }
        let now = OffsetDateTime::now_utc();
        let today = day(now);
        let of_today = keys(&*self.store)
            .await?
            .into_iter()
            .filter(|key| is_in_person(key) && key.requested_on() == Some(today.as_str()));
        let made = read(&*self.store, of_today.collect()).await?;
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
        let keys = keys(&*self.store).await?.into_iter().filter(is_of_repo).collect();
        let wishes = read(&*self.store, keys).await?.into_iter();
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
        self.refusals.flush().await?;
        self.approvals.refresh().await?;
        let mut keys = keys(&*self.store).await?;
        let truncated = keys.len() > MAX_READ;
        keys.truncate(MAX_READ);
        let objects = read(&*self.store, keys).await?;
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
