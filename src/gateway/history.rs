//! A repo's branches, tags and commits: asked for once a minute, stored, filtered by the same decisions as its
//! files.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use time::OffsetDateTime;

use super::{Asker, Gateway, Result, refs::RefRecord};
use crate::{
    hub::{Commit, CommitInfo, RefInfo, Refs, Repo, Revision},
    policy::Rule,
    upstream::Purpose,
};

/// How long refs and commits from upstream are held.
pub(super) const REFS_TTL: Duration = Duration::from_mins(1);

/// How many pages of a history are read, of 1,000 commits each. What is older is left out.
const HISTORY_PAGES: usize = 10;

impl Gateway {
    /// Branches, tags and special refs that the rule allows: upstream's, else those that were looked at.
    pub async fn refs(&self, asker: &Asker, asked: &Repo) -> Result<Refs> {
        self.in_time(async {
            let (rule, repo) = self.authorised(asker, asked).await?;
            let mut refs = self.held_refs(asker, &repo, names_requests(&rule)).await?;
            let requests = refs.pull_requests.iter_mut();
            for list in [&mut refs.branches, &mut refs.tags, &mut refs.converts].into_iter().chain(requests) {
                list.retain(|found| rule.shows_ref(asked_as(found)));
                // llama.cpp takes from here which commit to ask for.
                for found in list {
                    found.target_commit = rule.fixes(asked_as(found)).unwrap_or(found.target_commit);
                }
            }
            Ok(refs)
        })
        .await
    }

    /// The commits of an allowed revision, newest first: all of them, or the newest 10,000.
    pub async fn commits(
        &self,
        asker: &Asker,
        asked: &Repo,
        revision: &Revision,
    ) -> Result<(Commit, Arc<Vec<CommitInfo>>)> {
        self.in_time(async {
            let view = self.view(asker, asked, revision).await?;
            let commit = view.resolved.commit;
            let commits = match self.held_commits(asker, &view.resolved.repo, commit).await? {
                Some(commits) => commits,
                // The one commit that is known for certain.
                None => Arc::new(vec![lone_commit(commit, &view.known.facts().info)]),
            };
            Ok((commit, commits))
        })
        .await
    }

    /// The history of a commit, if it is stored or upstream can be asked.
    async fn held_commits(&self, asker: &Asker, repo: &Repo, commit: Commit) -> Result<Option<Arc<Vec<CommitInfo>>>> {
        let name = (repo.clone(), commit);
        if let Some(commits) = self.commit_lists.get(&name).await {
            return Ok(Some(commits));
        }
        if let Some(commits) = self.snapshots.history(repo, commit).await? {
            let commits = Arc::new(commits);
            self.commit_lists.insert(name, commits.clone()).await;
            return Ok(Some(commits));
        }
        if self.upstream_is_out(repo) {
            return Ok(None);
        }
        let purpose = asker.purpose();
        let work = || {
            let (gateway, (repo, commit)) = (self.clone(), name.clone());
            async move { gateway.learn_commits(repo, commit, purpose).await }
        };
        // A long history takes long; that says nothing of the origin.
        let learned = self.commit_flights.join(name.clone(), self.limits.fare(asker, 1), work);
        match tokio::time::timeout(asker.patience(), learned).await {
            Ok(Ok(commits)) => Ok(Some(commits)),
            Ok(Err(error)) if !self.stored_stands_in(&error) => Err(error),
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    async fn learn_commits(self, repo: Repo, commit: Commit, purpose: Purpose) -> Result<Arc<Vec<CommitInfo>>> {
        let called = self.called(&repo).await?;
        let pages = self.upstream.commits(&called, &commit.into(), purpose).take(HISTORY_PAGES);
        let commits = pages.try_concat().await;
        self.note_outage(&repo, commits.as_ref().err());
        let commits = match commits {
            Ok(commits) => Arc::new(commits),
            Err(error) => return Err(self.failed(&repo, &commit.into(), error).await),
        };
        self.snapshots.keep_history(&repo, commit, &commits).await?;
        self.commit_lists.insert((repo, commit), commits.clone()).await;
        Ok(commits)
    }

    /// Whether the asker may read the repo at all.
    pub async fn authorise(&self, asker: &Asker, asked: &Repo) -> Result<()> {
        self.in_time(async { self.authorised(asker, asked).await.map(drop) }).await
    }

    /// The rule that speaks for a repo and the repo's canonical name.
    async fn authorised(&self, asker: &Asker, asked: &Repo) -> Result<(Arc<Rule>, Repo)> {
        let rule = self.policy.current().decide_repo(asked, OffsetDateTime::now_utc().date());
        let rule = rule.map_err(|denial| self.denied(&denial))?;
        let revision = self.default_revision(asker, asked, &rule).await?;
        let view = self.view(asker, asked, &revision).await?;
        Ok((view.grant.approved.rule.clone(), self.called(asked).await?))
    }

    /// A revision under which to ask about the repo as such. A rule that names no revision but by a pattern, such as `v*`,
    /// and not `main`, allows what the origin has of those.
    async fn default_revision(&self, asker: &Asker, asked: &Repo, rule: &Rule) -> Result<Revision> {
        let named = rule.default_revision();
        if named.as_commit().is_some() || rule.allows_ref(named.as_str()) {
            return Ok(named);
        }
        let refs = self.held_refs(asker, &self.called(asked).await?, names_requests(rule)).await?;
        let special = refs.converts.iter().chain(refs.pull_requests.iter().flatten());
        let mut all = refs.branches.iter().chain(&refs.tags).chain(special).map(asked_as);
        let allowed = all.find(|name| rule.shows_ref(name)).and_then(|name| name.parse().ok());
        Ok(allowed.unwrap_or(named))
    }

    /// All refs: upstream's, else as it last listed them, else those that were looked at.
    async fn held_refs(&self, asker: &Asker, repo: &Repo, requests: bool) -> Result<Refs> {
        let name = (repo.clone(), requests);
        if let Some(refs) = self.ref_lists.get(&name).await {
            return Ok((*refs).clone());
        }
        if !self.upstream_is_out(repo) {
            let purpose = asker.purpose();
            let work = || {
                let (gateway, (repo, requests)) = (self.clone(), name.clone());
                async move { gateway.learn_refs(repo, requests, purpose).await }
            };
            let flight = self.ref_flights.board(name.clone(), self.limits.fare(asker, 1), work);
            match self.patiently(asker, flight).await {
                Some(Ok(refs)) => return Ok((*refs).clone()),
                Some(Err(error)) if !self.stored_stands_in(&error) => return Err(error),
                Some(Err(_)) | None => {}
            }
        }
        if let Some(refs) = self.refs.last_list(repo).await? {
            return Ok(refs);
        }
        let mut refs = Refs::default();
        for record in self.refs.all(repo).await? {
            if record.revision.may_be_short_sha() || record.revision.as_str() == "HEAD" {
                continue;
            }
            add_ref(&mut refs, &record);
        }
        Ok(refs)
    }

    async fn learn_refs(self, repo: Repo, requests: bool, purpose: Purpose) -> Result<Arc<Refs>> {
        let refs = self.upstream.refs(&self.called(&repo).await?, requests, purpose).await;
        self.note_outage(&repo, refs.as_ref().err());
        let refs = match refs {
            Ok(refs) => Arc::new(refs),
            Err(error) => return Err(self.failed(&repo, &Revision::main(), error).await),
        };
        self.refs.keep_list(&repo, &refs).await?;
        self.ref_lists.insert((repo, requests), refs.clone()).await;
        Ok(refs)
    }
}

/// A ref that was looked at, among those of its sort. Whether a name is a branch or a tag was not asked; a
/// branch is what clients look for.
fn add_ref(refs: &mut Refs, record: &RefRecord) {
    let (name, target_commit) = (record.revision.as_str(), record.commit);
    let info = |name: &str, full_name: String| RefInfo { name: name.to_owned(), full_name, target_commit };
    if let Some(short) = name.strip_prefix("refs/convert/") {
        refs.converts.push(info(short, name.to_owned()));
    } else if let Some(number) = name.strip_prefix("refs/pr/") {
        refs.pull_requests.get_or_insert_default().push(info(number, name.to_owned()));
    } else {
        refs.branches.push(info(name, format!("refs/heads/{name}")));
    }
}

/// The name by which clients ask for a ref, and rules allow it: short for a branch or tag, full for the others.
/// `refs/convert/parquet` has the short name `parquet`, which may be a branch's too.
pub(super) fn asked_as(found: &RefInfo) -> &str {
    if found.full_name.starts_with("refs/heads/") || found.full_name.starts_with("refs/tags/") {
        &found.name
    } else {
        &found.full_name
    }
}

/// Whether a rule names pull requests, of which a repo may have thousands.
pub(super) fn names_requests(rule: &Rule) -> bool {
    const OTHERS: [&str; 3] = ["refs/heads/", "refs/tags/", "refs/convert/"];
    let is_special = |name: &&String| name.starts_with("refs/") || name.starts_with("pr/");
    let names = rule.revisions().unwrap_or_default().iter();
    names.filter(is_special).any(|name| !OTHERS.iter().any(|prefix| name.starts_with(prefix)))
}

fn lone_commit(commit: Commit, info: &Value) -> CommitInfo {
    let date = info.get("lastModified").and_then(Value::as_str).unwrap_or_default().to_owned();
    CommitInfo { id: commit, title: String::new(), message: String::new(), authors: Vec::new(), date, formatted: None }
}
