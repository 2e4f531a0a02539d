//! From what a client asked to a commit it may see: revision to commit, spelling to canonical name.
//!
//! A branch or tag is looked at upstream at most every `ref_ttl`; in between, and while upstream is away,
//! the last look answers. A sha is not looked up: it is admitted, if an allowed branch or tag leads to it.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;

use super::{Asker, Error, Gateway, Result, identity::Identity, listing, refs::RefRecord};
use crate::{
    hub::{Commit, RefInfo, Repo, Revision},
    policy::{RevisionVerdict, Rule},
    upstream::{self, ErrorKind, InHistory, OnGone, Purpose},
};

/// How long a client waits for a look at a revision whose last commit is known.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a job does, which wants the newest.
const JOB_PATIENCE: Duration = Duration::from_mins(20);

/// How many refs' histories are searched for a commit.
const MAX_HISTORIES: usize = 20;

/// A commit that the asker's revision means.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The repo under its canonical name.
    pub repo: Repo,
    /// The commit.
    pub commit: Commit,
    /// The revision that led here.
    pub revision: Revision,
    /// Whether upstream could not be asked and an older look answers.
    pub stale: bool,
}

/// A look at a revision upstream.
#[derive(Debug, Clone)]
pub(super) struct Looked {
    repo: Repo,
    record: Arc<RefRecord>,
}

impl Gateway {
    /// The commit that `revision` of `asked` means, for a repo that `rule` allows.
    pub(super) async fn resolve(
        &self,
        asker: &Asker,
        rule: &Rule,
        asked: &Repo,
        revision: &Revision,
    ) -> Result<Resolved> {
        match rule.decide_revision(revision).map_err(|denial| self.denied(&denial))? {
            RevisionVerdict::Allowed => match revision.as_commit() {
                Some(commit) => self.at_commit(asker, asked, commit).await,
                None => self.at_ref(asker, asked, revision).await,
            },
            RevisionVerdict::PinnedTo(commit) => self.at_commit(asker, asked, commit).await,
            RevisionVerdict::NeedsHistory => {
                let resolved = match revision.as_commit() {
                    Some(commit) => self.at_commit(asker, asked, commit).await?,
                    None => self.at_ref(asker, asked, revision).await?,
                };
                self.admit(asker, rule, &resolved).await?;
                Ok(resolved)
            }
        }
    }

    /// A full sha needs no look-up, but for the repo's canonical name where none is known, and for whether
    /// the repo is back where one that is gone is to be refused.
    async fn at_commit(&self, asker: &Asker, asked: &Repo, commit: Commit) -> Result<Resolved> {
        if self.config.on_gone == OnGone::Refuse
            && let Some(revision) = self.gone.get(asked).await
        {
            match self.look(asker, asked, &revision).await {
                Err(error) if is_gone(&error) => return Err(error),
                // Not known to be back: it stays gone.
                Err(Error::Upstream(error)) if error.is_outage() => return Err(Error::RepoNotFound(asked.clone())),
                _ => {}
            }
        }
        let repo = match self.identities.of(asked).await? {
            Some(identity) => identity.canonical.clone(),
            None => self.look(asker, asked, &commit.into()).await?.repo,
        };
        let revision = self.admitted.get(&(repo.clone(), commit)).await.unwrap_or_else(|| commit.into());
        Ok(Resolved { repo, commit, revision, stale: false })
    }

    /// A branch, a tag, a short sha: by the last look, if that is fresh or the best there is.
    async fn at_ref(&self, asker: &Asker, asked: &Repo, revision: &Revision) -> Result<Resolved> {
        let last = match self.identities.of(asked).await? {
            Some(identity) => {
                let record = self.refs.last(&identity.canonical, revision).await?;
                record.map(|record| Looked { repo: identity.canonical.clone(), record })
            }
            None => None,
        };
        let Some(last) = last else {
            let looked = self.look(asker, asked, revision).await?;
            return Ok(self.resolved(looked, revision, false).await);
        };
        if last.record.age() < self.config.ref_ttl {
            return Ok(self.resolved(last, revision, false).await);
        }
        if self.upstream_is_out() {
            return Ok(self.resolved(last, revision, true).await);
        }
        let patience = if asker.background { JOB_PATIENCE } else { PATIENCE };
        let error = match tokio::time::timeout(patience, self.look(asker, asked, revision)).await {
            Ok(Ok(looked)) => return Ok(self.resolved(looked, revision, false).await),
            // Slow: the look goes on behind this answer.
            Err(_) => {
                self.note_slow();
                return Ok(self.resolved(last, revision, true).await);
            }
            Ok(Err(error)) => error,
        };
        match &error {
            Error::Upstream(cause) if cause.is_outage() => Ok(self.resolved(last, revision, true).await),
            Error::Busy { .. } => Ok(self.resolved(last, revision, true).await),
            error if is_gone(error) && self.config.on_gone == OnGone::Serve => {
                tracing::warn!(repo = %asked, %revision, %error, gone_upstream = true, "gone upstream; stored content is served");
                Ok(self.resolved(last, revision, true).await)
            }
            _ => Err(error),
        }
    }

    async fn resolved(&self, looked: Looked, revision: &Revision, stale: bool) -> Resolved {
        let commit = looked.record.commit;
        // The redirect's target asks for the commit by its sha: it is admitted, having come from here.
        if !revision.may_be_short_sha() {
            self.admitted.insert((looked.repo.clone(), commit), revision.clone()).await;
        }
        Resolved { repo: looked.repo, commit, revision: revision.clone(), stale }
    }

    /// Asks upstream what a revision means now. One task for all who ask; what it learns is kept.
    async fn look(&self, asker: &Asker, asked: &Repo, revision: &Revision) -> Result<Looked> {
        let name = (asked.clone(), revision.clone());
        if let Some(error) = self.unknown.get(&name).await {
            return Err(error);
        }
        self.limits.admit(asker).await?;
        let purpose = asker.purpose();
        let work = || {
            let (gateway, (asked, revision)) = (self.clone(), name.clone());
            async move { gateway.look_now(asked, revision, purpose).await }
        };
        self.looks.join(name.clone(), work).await
    }

    async fn look_now(self, asked: Repo, revision: Revision, purpose: Purpose) -> Result<Looked> {
        let looked_at = OffsetDateTime::now_utc();
        let look = self.upstream.look(&asked, &revision, purpose).await;
        self.note_outage(look.as_ref().err());
        let look = match look {
            Ok(look) => look,
            Err(error) => {
                let error = from_upstream(error, &asked, &revision);
                if is_gone(&error) {
                    self.gone.insert(asked.clone(), revision.clone()).await;
                }
                if is_gone(&error) || matches!(error, Error::RevisionNotFound { .. }) {
                    self.unknown.insert((asked, revision), error.clone()).await;
                }
                return Err(error);
            }
        };
        self.gone.invalidate(&asked).await;
        self.gone.invalidate(&look.repo).await;
        self.identities.first_seen(&asked, &Identity::of(&look.repo, &look.info)).await?;
        let record = RefRecord { revision: revision.clone(), commit: look.commit, looked_at };
        let record = match revision.as_commit() {
            Some(_) => Arc::new(record),
            None => self.refs.note(&look.repo, record).await?,
        };
        let repo = look.repo.clone();
        self.remember_info(look).await;
        Ok(Looked { repo, record })
    }

    /// Lets a sha pass that is stored here or that an allowed branch or tag leads to. Anyone can open a pull
    /// request on an approved repo; its commits are reached by no allowed ref.
    async fn admit(&self, asker: &Asker, rule: &Rule, resolved: &Resolved) -> Result<()> {
        let (repo, commit) = (&resolved.repo, resolved.commit);
        let name = (repo.clone(), commit);
        if self.admitted.contains_key(&name) || self.snapshots.find(repo, commit).await?.is_some() {
            return Ok(());
        }
        let allowed = |record: &RefRecord| {
            record.commit == commit && !record.revision.may_be_short_sha() && rule.allows_ref(record.revision.as_str())
        };
        let found = match self.refs.all(repo).await?.iter().find(|record| allowed(record)) {
            Some(record) => Some(record.revision.clone()),
            None => {
                self.limits.admit(asker).await?;
                let purpose = asker.purpose();
                let rule = Arc::new(rule.clone());
                let work = || {
                    let (gateway, rule, (repo, commit)) = (self.clone(), rule.clone(), name.clone());
                    async move { gateway.search_histories(&rule, &repo, commit, purpose).await }
                };
                self.histories.join(name.clone(), work).await?
            }
        };
        match found {
            Some(revision) => {
                self.admitted.insert(name, revision).await;
                Ok(())
            }
            None => Err(self.denied(&rule.outside_history(&commit.into()))),
        }
    }

    /// The allowed branch or tag whose history has the commit.
    async fn search_histories(
        self,
        rule: &Rule,
        repo: &Repo,
        commit: Commit,
        purpose: Purpose,
    ) -> Result<Option<Revision>> {
        let asked = |error| from_upstream(error, repo, &commit.into());
        let refs = self.upstream.refs(repo, listing::names_requests(rule), purpose).await.map_err(asked)?;
        let special = refs.converts.iter().chain(refs.pull_requests.iter().flatten());
        let all = refs.branches.iter().chain(&refs.tags).chain(special);
        let mut allowed: Vec<&RefInfo> = all.filter(|found| rule.allows_ref(listing::asked_as(found))).collect();
        if let Some(head) = allowed.iter().find(|found| found.target_commit == commit) {
            return Ok(listing::asked_as(head).parse().ok());
        }
        allowed.sort_by_key(|found| found.name != "main");
        for found in allowed.into_iter().take(MAX_HISTORIES) {
            let Ok(revision) = listing::asked_as(found).parse::<Revision>() else { continue };
            match self.upstream.history_contains(repo, &revision, commit, purpose).await.map_err(asked)? {
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

impl Asker {
    /// Which part of upstream's budget this asker may use.
    pub(super) fn purpose(&self) -> Purpose {
        if self.background { Purpose::Background } else { Purpose::Client }
    }
}

/// Whether upstream says for certain that the repo is not to be had.
fn is_gone(error: &Error) -> bool {
    match error {
        Error::RepoNotFound(_) => true,
        Error::Upstream(error) => error.is_gone(),
        _ => false,
    }
}

/// An upstream failure in the gateway's words.
pub(super) fn from_upstream(error: upstream::Error, repo: &Repo, revision: &Revision) -> Error {
    match (&error.kind, revision.as_commit()) {
        (ErrorKind::RepoNotFound, _) => Error::RepoNotFound(repo.clone()),
        (ErrorKind::EntryNotFound, Some(commit)) => Error::EntryNotFound { repo: repo.clone(), commit },
        (ErrorKind::RevisionNotFound | ErrorKind::EntryNotFound, _) => {
            Error::RevisionNotFound { repo: repo.clone(), revision: revision.clone() }
        }
        _ => Error::Upstream(error),
    }
}
