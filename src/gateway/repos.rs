//! Which repos are here: a list made from what is stored, of what policy shows.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use time::{Date, OffsetDateTime};

use super::{
    Asker, Error, Gateway, ListedRepo, Resolved, Result,
    known::{Fresh, Known},
    limits::Fare,
    snapshot::Facts,
    view::Question,
};
use crate::{
    hub::{ListQuery, Repo, RepoKind, Sha256},
    store::{Key, Prefix},
};

/// Repos of one page at most, as on the Hub.
const PAGE_REPOS: usize = 1000;

/// Facts that are read at a time.
const READS_AT_ONCE: usize = 8;

/// How long a list of all repos is held.
pub(super) const LIST_TTL: Duration = Duration::from_secs(5);

/// The kind, and the policy and day that decide who is shown.
pub(super) type ListKey = (RepoKind, Sha256, Date);

impl Gateway {
    /// A page of the repos of a kind that are stored and allowed, as `query` selects and sorts them: without a
    /// sort that we hold the facts for, in the order of their ids. And where the next page starts.
    pub async fn repos(
        &self,
        _asker: &Asker,
        kind: RepoKind,
        query: &ListQuery,
    ) -> Result<(Vec<ListedRepo>, Option<String>)> {
        self.in_time(self.repos_unhurried(kind, query)).await
    }

    async fn repos_unhurried(&self, kind: RepoKind, query: &ListQuery) -> Result<(Vec<ListedRepo>, Option<String>)> {
        let sort = query.sort.as_deref().filter(|sort| SORTS.contains(sort));
        let after = query.cursor.as_deref().map(Place::read);
        let limit = query.limit.map_or(PAGE_REPOS, |limit| PAGE_REPOS.min(limit as usize));
        let has_tags = |facts: &Arc<Facts>| has_tags(&facts.info, &query.filter);
        let mut page = BTreeMap::new();
        if sort.is_some() {
            for facts in self.all_listed(kind).await?.iter() {
                let place = Place::of(facts, sort);
                if after.as_ref().is_none_or(|after| place > *after) && is_wanted(&facts.repo, query) && has_tags(facts)
                {
                    page.insert(place, facts.clone());
                }
                // One more than the page has says that there is another.
                if page.len() > limit + 1 {
                    page.pop_last();
                }
            }
        } else {
            let mut wanted = self.identified(kind).await?;
            wanted.retain(|repo| {
                after.as_ref().is_none_or(|after| repo.id() > after.id.as_str()) && is_wanted(repo, query)
            });
            let mut found = self.stored_facts_of(wanted);
            while page.len() <= limit
                && let Some(facts) = found.try_next().await?
            {
                if has_tags(&facts) {
                    page.insert(Place::of(&facts, sort), facts);
                }
            }
        }
        let more = page.len() > limit;
        if more {
            page.pop_last();
        }
        let next = page.last_key_value().filter(|_| more).map(|(place, _)| place.to_string());
        Ok((page.into_values().map(ListedRepo).collect(), next))
    }

    /// All repos of a kind that policy shows, for lists whose first place may be anybody's. Kept for some seconds, since
    /// each page needs all of them again.
    async fn all_listed(&self, kind: RepoKind) -> Result<Arc<Vec<Arc<Facts>>>> {
        let name: ListKey = (kind, self.policy.current().digest(), OffsetDateTime::now_utc().date());
        if let Some(list) = self.lists.get(&name).await {
            return Ok(list);
        }
        let work = || {
            let gateway = self.clone();
            async move {
                let names = gateway.identified(kind).await?;
                let list = Arc::new(gateway.stored_facts_of(names).try_collect().await?);
                gateway.lists.insert(name, Arc::clone(&list)).await;
                Ok(list)
            }
        };
        self.list_flights.join(name, Fare::free(), work).await
    }

    /// The repos of a kind that were ever seen, in the order of their ids.
    async fn identified(&self, kind: RepoKind) -> Result<Vec<Repo>> {
        let keys: Vec<_> = self.store.list(&Prefix::identities()).map_ok(|meta| meta.key).try_collect().await?;
        let mut names: Vec<Repo> = keys.iter().filter_map(Key::identified).filter(|repo| repo.kind() == kind).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn stored_facts_of(&self, repos: Vec<Repo>) -> impl Stream<Item = Result<Arc<Facts>>> + Send + Unpin {
        let gateway = self.clone();
        let found = futures_util::stream::iter(repos).map(move |repo| {
            let gateway = gateway.clone();
            async move { gateway.stored_facts(&repo).await }
        });
        found.buffered(READS_AT_ONCE).try_filter_map(|facts| std::future::ready(Ok(facts)))
    }

    /// The facts of a repo listed under its own name, at the commit that its default revision was last seen at,
    /// if policy shows it.
    async fn stored_facts(&self, repo: &Repo) -> Result<Option<Arc<Facts>>> {
        let (policy, today) = (self.policy.current(), OffsetDateTime::now_utc().date());
        let Ok(rule) = policy.decide_repo(repo, today) else { return Ok(None) };
        let identity = self.identities.of(repo).await?;
        if identity.is_none_or(|identity| identity.canonical != *repo) || !self.called(repo).await?.same_name(repo) {
            return Ok(None);
        }
        let revision = rule.default_revision();
        let commit = match revision.as_commit() {
            Some(pin) => pin,
            None if rule.allows_ref(revision.as_str()) => match self.refs.last(repo, &revision).await? {
                Some(seen) => seen.commit,
                None => return Ok(None),
            },
            // The rule names revisions by a pattern alone.
            None => {
                let looks = self.refs.all(repo).await?.into_iter();
                let allowed =
                    looks.filter(|look| !look.revision.may_be_short_sha() && rule.shows_ref(look.revision.as_str()));
                match allowed.max_by_key(|look| look.looked_at) {
                    Some(seen) => seen.commit,
                    None => return Ok(None),
                }
            }
        };
        let known = match self.snapshots.find(repo, commit).await? {
            Some(snapshot) => Known::Whole(snapshot),
            None => match self.snapshots.early(repo, commit).await? {
                Some(early) => Known::Facts(Arc::new(Fresh { facts: early.facts.clone(), siblings: None })),
                None => return Ok(None),
            },
        };
        let resolved = Resolved { repo: repo.clone(), commit, revision, stale: false };
        match self.grant(&Question { policy, rule, asked: repo, today }, &resolved, &known).await {
            Ok(_) => Ok(Some(known.facts().clone())),
            Err(Error::Denied(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The properties that lists are sorted by, the highest or latest first, as upstream had them when it was asked.
const SORTS: [&str; 5] = ["lastModified", "createdAt", "downloads", "likes", "trendingScore"];

/// Where a repo stands in a list; as text, the cursor of what comes after it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// What the list is sorted by, as a text that sorts alike; empty without a sort.
    rank: Reverse<String>,
    id: String,
}

impl Place {
    fn of(facts: &Facts, sort: Option<&str>) -> Self {
        let rank = match sort.and_then(|property| facts.info.get(property)) {
            Some(Value::String(date)) => date.replace(' ', "T"),
            Some(Value::Number(number)) => format!("{:020.3}", number.as_f64().unwrap_or_default().max(0.0)),
            _ => String::new(),
        };
        Self { rank: Reverse(rank), id: facts.repo.id().to_owned() }
    }

    fn read(cursor: &str) -> Self {
        let (rank, id) = cursor.split_once(' ').unwrap_or(("", cursor));
        Self { rank: Reverse(rank.to_owned()), id: id.to_owned() }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.rank.0.is_empty() { f.write_str(&self.id) } else { write!(f, "{} {}", self.rank.0, self.id) }
    }
}

fn has_tags(info: &Value, wanted: &[String]) -> bool {
    let tags = info.get("tags").and_then(Value::as_array);
    wanted.iter().all(|wanted| tags.is_some_and(|tags| tags.iter().any(|tag| tag == wanted)))
}

fn is_wanted(repo: &Repo, query: &ListQuery) -> bool {
    let id = repo.id().to_ascii_lowercase();
    let search = query.search.as_ref().is_none_or(|search| id.contains(&search.to_ascii_lowercase()));
    let owner = id.split_once('/').map_or("", |(owner, _)| owner);
    search && query.author.as_ref().is_none_or(|author| owner.eq_ignore_ascii_case(author))
}
