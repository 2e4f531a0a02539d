//! Which repos are here, and how much of them, for the admin API. Read from the store; asks nobody.

use std::collections::{BTreeMap, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use time::OffsetDateTime;

use super::{Gateway, Result};
use crate::{
    hub::{Commit, Repo, RepoKind, Sha256},
    store::{Key, Prefix},
};

/// Index entries of a repo that are read to count its bytes.
const MAX_ENTRIES: usize = 50_000;
/// Repos that are counted at a time.
const AT_ONCE: usize = 4;

/// Which repos to list.
#[derive(Debug, Clone, Default)]
pub struct StoredQuery {
    /// Of this kind only.
    pub kind: Option<RepoKind>,
    /// Whose id has this text, in any case.
    pub search: Option<String>,
    /// After this one, as the last page's `next` says.
    pub after: Option<Repo>,
    /// At most so many.
    pub limit: usize,
}

/// What is stored of a repo.
#[derive(Debug, Clone, Serialize)]
pub struct StoredRepo {
    /// Its canonical name, with its kind as in a web URL.
    pub repo: Repo,
    /// Its kind.
    pub kind: RepoKind,
    /// Upstream's own id of it, as first seen.
    pub upstream_id: Option<String>,
    /// Its owner, as first seen.
    pub author: Option<String>,
    /// What policy says of the name now: the rule, or why not.
    pub policy: String,
    /// Whether that is a yes.
    pub allowed: bool,
    /// Commits of which files are stored.
    pub commits: Vec<StoredCommit>,
    /// Files, over all commits.
    pub files: u64,
    /// Bytes of their contents, each counted once.
    pub bytes: u64,
    /// Whether all files were counted; past 50,000 counting stops.
    pub whole: bool,
}

/// What is stored of a commit.
#[derive(Debug, Clone, Serialize)]
pub struct StoredCommit {
    /// The commit.
    pub commit: Commit,
    /// Branches and tags that meant it when they were last looked at.
    pub refs: Vec<String>,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Gateway {
    /// A page of the repos that are known here, in the order of their names, and where the next one starts.
    pub async fn stored_repos(&self, query: &StoredQuery) -> Result<(Vec<StoredRepo>, Option<Repo>)> {
        let search = query.search.as_ref().map(|text| text.to_ascii_lowercase());
        let keys: Vec<Key> = self.store.list(&Prefix::identities()).map_ok(|meta| meta.key).try_collect().await?;
        let mut names: Vec<Repo> = keys
            .iter()
            .filter_map(Key::identified)
            .filter(|repo| {
                query.kind.is_none_or(|kind| repo.kind() == kind)
                    && search.as_ref().is_none_or(|text| repo.id().to_ascii_lowercase().contains(text))
                    && query.after.as_ref().is_none_or(|after| repo > after)
            })
            .collect();
        names.sort_unstable();
        let mut found: Vec<StoredRepo> = stream::iter(names)
            .map(|name| async move { self.stored_repo(&name).await })
            .buffered(AT_ONCE)
            // Another spelling of a repo stands in the list under its own name.
            .try_filter_map(|found| async { Ok(found.filter(|found| !found.1).map(|found| found.0)) })
            .take(query.limit + 1)
            .try_collect()
            .await?;
        let more = found.len() > query.limit;
        found.truncate(query.limit);
        let next = found.last().filter(|_| more).map(|last| last.repo.clone());
        Ok((found, next))
    }

    /// What is stored of one repo, under its canonical name; `None` where nothing is known of it.
    pub async fn stored(&self, asked: &Repo) -> Result<Option<StoredRepo>> {
        Ok(self.stored_repo(asked).await?.map(|(found, _)| found))
    }

    /// And whether `name` is another spelling of it.
    async fn stored_repo(&self, name: &Repo) -> Result<Option<(StoredRepo, bool)>> {
        let Some(identity) = self.identities.of(name).await? else { return Ok(None) };
        let repo = identity.canonical.clone();
        let (called, today) = (self.called(&repo).await?, OffsetDateTime::now_utc().date());
        let decided = self.policy.current().decide_names(&repo, &called, today);
        let mut found = StoredRepo {
            kind: repo.kind(),
            upstream_id: identity.upstream_id.clone(),
            author: identity.author.clone(),
            allowed: decided.is_ok(),
            policy: decided.map_or_else(|denial| denial.to_string(), |rule| rule.name.clone()),
            commits: Vec::new(),
            files: 0,
            bytes: 0,
            whole: true,
            repo: repo.clone(),
        };
        if *name != repo {
            return Ok(Some((found, true)));
        }
        let mut commits: BTreeMap<Commit, StoredCommit> = BTreeMap::new();
        let mut contents: HashSet<Sha256> = HashSet::new();
        let mut entries = self.manifest.entries_of_repo(&repo);
        while let Some(entry) = entries.try_next().await? {
            let of_commit = commits.entry(entry.commit).or_insert_with(|| StoredCommit {
                commit: entry.commit,
                refs: Vec::new(),
                files: 0,
                bytes: 0,
            });
            of_commit.files += 1;
            of_commit.bytes += entry.size;
            found.files += 1;
            if contents.insert(entry.sha256) {
                found.bytes += entry.size;
            }
            if contents.len() >= MAX_ENTRIES {
                found.whole = false;
                break;
            }
        }
        for record in self.refs.all(&repo).await? {
            if let Some(commit) = commits.get_mut(&record.commit) {
                commit.refs.push(record.revision.to_string());
            }
        }
        found.commits = commits.into_values().collect();
        Ok(Some((found, false)))
    }
}
