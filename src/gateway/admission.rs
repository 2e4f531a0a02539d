//! Whether a commit may be asked for by its sha: it is stored here, or in the history of a branch or tag that the rule
//! allows. Anyone can open a pull request on an approved repo; its commits are reached by no allowed ref.

use std::time::Duration;

use super::{Asker, Gateway, Result, commit::Resolved, history, refs::RefRecord};
use crate::{
    hub::{Commit, RefInfo, Repo, Revision, Sha256},
    policy::Rule,
    upstream::InHistory,
};

/// How many refs' histories are searched for a commit.
const MAX_HISTORIES: usize = 20;

/// How long one history's pages may make the search wait for the asker's allowance.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// A search for a commit in the histories of the branches and tags that a rule allows: the policy's digest, and where in
/// it the rule stands.
pub(super) type SearchKey = (Repo, Commit, Sha256, String);

impl Gateway {
    /// The branch or tag that led to a commit lately, if the rule allows it: under another rule, or an earlier policy,
    /// one that it doesn't allow may have.
    pub(super) async fn led_to(&self, rule: &Rule, repo: &Repo, commit: Commit) -> Option<Revision> {
        let revision = self.admitted.get(&(repo.clone(), commit)).await?;
        rule.allows_ref(revision.as_str()).then_some(revision)
    }

    /// Lets a sha pass that is stored here or that an allowed branch or tag leads to.
    pub(super) async fn admit(&self, asker: &Asker, rule: &Rule, resolved: &Resolved) -> Result<()> {
        let (repo, commit) = (&resolved.repo, resolved.commit);
        if self.led_to(rule, repo, commit).await.is_some()
            || self.snapshots.find(repo, commit).await?.is_some()
            || self.snapshots.early(repo, commit).await?.is_some()
        {
            return Ok(());
        }
        Box::pin(self.admit_by_ref(asker, rule, repo, commit)).await
    }

    async fn admit_by_ref(&self, asker: &Asker, rule: &Rule, repo: &Repo, commit: Commit) -> Result<()> {
        // By which rule, too: what another one finds, or doesn't, is no answer here.
        let name = (repo.clone(), commit, rule.policy_sha256, rule.source.clone());
        if self.outside.contains_key(&name) {
            return Err(self.denied(&rule.outside_history(&commit.into())));
        }
        let allowed = |record: &RefRecord| {
            record.commit == commit && !record.revision.may_be_short_sha() && rule.allows_ref(record.revision.as_str())
        };
        let found = match self.refs.all(repo).await?.iter().find(|record| allowed(record)) {
            Some(record) => Some(record.revision.clone()),
            None => {
                let work = || {
                    let (gateway, asker, rule, repo) = (self.clone(), asker.clone(), rule.clone(), repo.clone());
                    async move { gateway.search_histories(&asker, &rule, &repo, commit).await }
                };
                self.histories.join(name.clone(), self.limits.fare(asker, 1), work).await?
            }
        };
        match found {
            Some(revision) => {
                self.admitted.insert((repo.clone(), commit), revision).await;
                Ok(())
            }
            None => {
                self.outside.insert(name, ()).await;
                Err(self.denied(&rule.outside_history(&commit.into())))
            }
        }
    }

    /// The allowed branch or tag whose history has the commit. Goes on as fast as the asker's allowance lets it: each page
    /// of a history costs a request.
    async fn search_histories(
        self,
        asker: &Asker,
        rule: &Rule,
        repo: &Repo,
        commit: Commit,
    ) -> Result<Option<Revision>> {
        let purpose = asker.purpose();
        let called = self.called(repo).await?;
        let refs = match self.upstream.refs(&called, history::names_requests(rule), purpose).await {
            Ok(refs) => refs,
            Err(error) => return Err(self.failed(repo, &commit.into(), error).await),
        };
        let special = refs.converts.iter().chain(refs.pull_requests.iter().flatten());
        let all = refs.branches.iter().chain(&refs.tags).chain(special);
        let mut allowed: Vec<&RefInfo> = all.filter(|found| rule.allows_ref(history::asked_as(found))).collect();
        if let Some(head) = allowed.iter().find(|found| found.target_commit == commit) {
            return Ok(history::asked_as(head).parse().ok());
        }
        allowed.sort_by_key(|found| found.name != "main");
        for found in allowed.into_iter().take(MAX_HISTORIES) {
            let Ok(revision) = history::asked_as(found).parse::<Revision>() else { continue };
            let contains = match self.upstream.history_contains(&called, &revision, commit, purpose).await {
                Ok((contains, pages)) => {
                    // Others may wait for this search, and not for longer than an allowance takes at most.
                    let paid = self.limits.settle(asker, pages);
                    let _ = tokio::time::timeout(MAX_DELAY, paid).await;
                    contains
                }
                Err(error) => return Err(self.failed(repo, &commit.into(), error).await),
            };
            match contains {
                InHistory::Yes => return Ok(Some(revision)),
                InHistory::No => {}
                InHistory::NotAmong(newest) => {
                    tracing::warn!(%repo, %revision, %commit, newest, "the history is longer than what is searched");
                }
            }
        }
        Ok(None)
    }
}
