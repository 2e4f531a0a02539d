//! From what a client asked to a commit it may see: revision to commit, spelling to canonical name.
//!
//! A branch or tag is looked at upstream at most every `ref_ttl`; in between, and while upstream is away,
//! the last look answers. A sha is not looked up: it is admitted, if an allowed branch or tag leads to it.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::time::Instant;

use super::{Asker, Error, Gateway, PATIENCE, Result, flights::Flight, history, identity::Identity, refs::RefRecord};
use crate::{
    hub::{Commit, RefInfo, Repo, Revision, Sha256},
    policy::{RevisionVerdict, Rule},
    upstream::{self, ErrorKind, InHistory, OnGone, Purpose},
};

/// How long a job waits for a look, which wants the newest.
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

/// A search for a commit in the histories of the branches and tags that a rule allows: the policy's digest, and where in
/// it the rule stands.
pub(super) type SearchKey = (Repo, Commit, Sha256, String);

impl Gateway {
    /// The commit that `revision` of `asked` means, for a repo that `rule` allows.
    pub(super) async fn resolve(
        &self,
        asker: &Asker,
        rule: &Rule,
        asked: &Repo,
        revision: &Revision,
    ) -> Result<Resolved> {
        match self.decide_revision(rule, asked, revision).await? {
            RevisionVerdict::Allowed => match revision.as_commit() {
                Some(commit) => self.at_commit(asker, rule, asked, commit).await,
                None => Box::pin(self.at_ref(asker, asked, revision)).await,
            },
            RevisionVerdict::PinnedTo(commit) => self.at_commit(asker, rule, asked, commit).await,
            RevisionVerdict::NeedsHistory => {
                let resolved = match revision.as_commit() {
                    Some(commit) => self.at_commit(asker, rule, asked, commit).await?,
                    None => Box::pin(self.at_ref(asker, asked, revision)).await?,
                };
                self.admit(asker, rule, &resolved).await?;
                Ok(resolved)
            }
        }
    }

    /// What policy says of a revision of a repo that `rule` allows under the name that was asked. Where that is a former name
    /// and the lock has the repo under the one that it has now, the lock says what the revision means.
    pub(super) async fn decide_revision(
        &self,
        rule: &Rule,
        asked: &Repo,
        revision: &Revision,
    ) -> Result<RevisionVerdict> {
        let verdict = rule.decide_revision(revision).map_err(|denial| self.denied(&denial))?;
        let policy = self.policy.current();
        if policy.lock().is_none() || rule.is_locked() || rule.pin.is_some() {
            return Ok(verdict);
        }
        let Some(identity) = self.identities.of(asked).await?.filter(|known| !known.canonical.same_name(asked)) else {
            return Ok(verdict);
        };
        match policy.decide_names(asked, &identity.canonical, OffsetDateTime::now_utc().date()) {
            Ok(governing) if governing.is_locked() => {
                governing.decide_revision(revision).map_err(|denial| self.denied(&denial))
            }
            // A name that is refused is refused where the facts are put to policy.
            _ => Ok(verdict),
        }
    }

    /// A full sha needs no look-up, but for the repo's canonical name where none is known, and for whether
    /// the repo is back where one that is gone is to be refused.
    async fn at_commit(&self, asker: &Asker, rule: &Rule, asked: &Repo, commit: Commit) -> Result<Resolved> {
        let repo = match self.identities.of(asked).await? {
            Some(identity) => {
                if self.config.on_gone == OnGone::Refuse {
                    Box::pin(self.refuse_gone(asker, asked, &identity.canonical)).await?;
                }
                identity.canonical.clone()
            }
            None => Box::pin(self.look(asker, asked, &commit.into())).await?.repo,
        };
        let revision = self.led_to(rule, &repo, commit).await.unwrap_or_else(|| commit.into());
        Ok(Resolved { repo, commit, revision, stale: false })
    }

    /// Where repos that are gone are to be refused: whether this one is back.
    async fn refuse_gone(&self, asker: &Asker, asked: &Repo, canonical: &Repo) -> Result<()> {
        let Some(gone) = self.refs.gone(canonical).await? else { return Ok(()) };
        match self.look(asker, asked, &gone.revision).await {
            Err(error) if is_gone(&error) => Err(error),
            // Not known to be back: it stays gone.
            Err(error) if self.stored_stands_in(&error) => Err(Error::RepoNotFound(asked.clone())),
            _ => Ok(()),
        }
    }

    /// A branch, a tag, a short sha: by the last look, if that is fresh or the best there is.
    async fn at_ref(&self, asker: &Asker, asked: &Repo, revision: &Revision) -> Result<Resolved> {
        let last = match self.identities.of(asked).await? {
            Some(identity) => {
                if self.config.on_gone == OnGone::Refuse {
                    Box::pin(self.refuse_gone(asker, asked, &identity.canonical)).await?;
                }
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
        if self.upstream_is_out(&last.repo) {
            return Ok(self.resolved(last, revision, true).await);
        }
        match self.patiently(asker, self.begin_look(asker, asked, revision)).await {
            Some(Ok(looked)) => Ok(self.resolved(looked, revision, false).await),
            // Slow: the look goes on behind this answer.
            None => Ok(self.resolved(last, revision, true).await),
            Some(Err(error)) if self.stored_stands_in(&error) => {
                if is_gone(&error) {
                    tracing::warn!(repo = %asked, %revision, %error, gone_upstream = true, "gone upstream; stored content is served");
                }
                Ok(self.resolved(last, revision, true).await)
            }
            Some(Err(error)) => Err(error),
        }
    }

    /// What a look-up comes to, where something is stored that can answer too; `None` when the asker has waited long
    /// enough, and the look-up goes on behind the answer.
    pub(super) async fn patiently<V: Clone>(
        &self,
        asker: &Asker,
        begun: impl Future<Output = Result<Flight<V>>>,
    ) -> Option<Result<V>> {
        let until = Instant::now() + asker.patience();
        let flight = match tokio::time::timeout_at(until, begun).await.ok()? {
            Ok(flight) => flight,
            Err(error) => return Some(Err(error)),
        };
        let asked_at = Instant::now();
        let looked = tokio::time::timeout_at(until, flight).await.ok();
        // Who waited for its own allowance before says nothing of the origin.
        if looked.is_none() && asked_at.elapsed() > asker.patience() / 2 {
            self.outage.note_slow();
        }
        looked
    }

    /// Whether what is stored is served in spite of this error (I10): nothing definite was learned, or that the
    /// repo is gone, and such are served.
    pub(super) fn stored_stands_in(&self, error: &Error) -> bool {
        match error {
            Error::Upstream(cause) if cause.is_outage() => true,
            Error::Busy { .. } => true,
            error => is_gone(error) && self.config.on_gone == OnGone::Serve,
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
    pub(super) async fn look(&self, asker: &Asker, asked: &Repo, revision: &Revision) -> Result<Looked> {
        self.begin_look(asker, asked, revision).await?.await
    }

    async fn begin_look(&self, asker: &Asker, asked: &Repo, revision: &Revision) -> Result<Flight<Looked>> {
        let name = (asked.clone(), revision.clone());
        if let Some(error) = self.unknown.get(&name).await {
            return Err(error);
        }
        if let Some(canonical) = self.renamed.get(asked).await {
            self.allow_names(asked, &canonical)?;
        }
        let purpose = asker.purpose();
        let work = || {
            let (gateway, (asked, revision)) = (self.clone(), name.clone());
            async move { gateway.look_now(asked, revision, purpose).await }
        };
        // A job's look may wait for the rest of the budget, and no client with it.
        let flight = (asked.clone(), revision.clone(), purpose);
        self.looks.board(flight, self.limits.fare(asker, 1), work).await
    }

    async fn look_now(self, asked: Repo, revision: Revision, purpose: Purpose) -> Result<Looked> {
        let looked_at = OffsetDateTime::now_utc();
        let look = self.upstream.look(&asked, &revision, purpose).await;
        self.note_outage(&asked, look.as_ref().err());
        let look = match look {
            Ok(look) => look,
            Err(error) => {
                let error = from_upstream(error, &asked, &revision);
                let is_of_the_revision = matches!(error, Error::RevisionNotFound { .. });
                if let Some(identity) = self.identities.of(&asked).await? {
                    match &error {
                        _ if is_of_the_revision => self.refs.note_back(&identity.canonical).await,
                        error if is_gone(error) => {
                            self.refs.note_gone(&identity.canonical, &revision, looked_at).await?;
                        }
                        _ => {}
                    }
                }
                if is_gone(&error) || is_of_the_revision {
                    self.unknown.insert((asked, revision), error.clone()).await;
                }
                return Err(error);
            }
        };
        if let Err(refused) = self.allow_names(&asked, &look.repo) {
            // Nothing is kept under a name that policy does not allow, but for a moment which name it is.
            self.renamed.insert(asked, look.repo).await;
            return Err(refused);
        }
        self.identities.first_seen(&asked, &Identity::of(&look.repo, &look.info)).await?;
        let record = RefRecord { revision: revision.clone(), commit: look.commit, looked_at, gone_at: None };
        let record = match revision.as_commit() {
            Some(_) => {
                self.refs.note_back(&look.repo).await;
                Arc::new(record)
            }
            None => self.refs.note(&look.repo, record).await?,
        };
        let repo = look.repo.clone();
        self.remember_info(look).await;
        Ok(Looked { repo, record })
    }

    /// The branch or tag that led to a commit lately, if the rule allows it: under another rule, or an earlier policy,
    /// one that it doesn't allow may have.
    pub(super) async fn led_to(&self, rule: &Rule, repo: &Repo, commit: Commit) -> Option<Revision> {
        let revision = self.admitted.get(&(repo.clone(), commit)).await?;
        rule.allows_ref(revision.as_str()).then_some(revision)
    }

    /// Lets a sha pass that is stored here or that an allowed branch or tag leads to. Anyone can open a pull
    /// request on an approved repo; its commits are reached by no allowed ref.
    async fn admit(&self, asker: &Asker, rule: &Rule, resolved: &Resolved) -> Result<()> {
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
        let allowed = |record: &RefRecord| {
            record.commit == commit && !record.revision.may_be_short_sha() && rule.allows_ref(record.revision.as_str())
        };
        let found = match self.refs.all(repo).await?.iter().find(|record| allowed(record)) {
            Some(record) => Some(record.revision.clone()),
            None => {
                let purpose = asker.purpose();
                // By which rule, too: what another one finds, or doesn't, is no answer here.
                let name = (repo.clone(), commit, rule.policy_sha256, rule.source.clone());
                let work = || {
                    let (gateway, rule, repo) = (self.clone(), rule.clone(), repo.clone());
                    async move { gateway.search_histories(&rule, &repo, commit, purpose).await }
                };
                self.histories.join(name, self.limits.fare(asker, 1), work).await?
            }
        };
        match found {
            Some(revision) => {
                self.admitted.insert((repo.clone(), commit), revision).await;
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
        let refs = self.upstream.refs(repo, history::names_requests(rule), purpose).await.map_err(asked)?;
        let special = refs.converts.iter().chain(refs.pull_requests.iter().flatten());
        let all = refs.branches.iter().chain(&refs.tags).chain(special);
        let mut allowed: Vec<&RefInfo> = all.filter(|found| rule.allows_ref(history::asked_as(found))).collect();
        if let Some(head) = allowed.iter().find(|found| found.target_commit == commit) {
            return Ok(history::asked_as(head).parse().ok());
        }
        allowed.sort_by_key(|found| found.name != "main");
        for found in allowed.into_iter().take(MAX_HISTORIES) {
            let Ok(revision) = history::asked_as(found).parse::<Revision>() else { continue };
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

    /// How long this asker waits for upstream where something is stored that can answer.
    pub(super) fn patience(&self) -> Duration {
        if self.background { JOB_PATIENCE } else { PATIENCE }
    }
}

/// Whether upstream says for certain that the repo is not to be had.
pub(super) fn is_gone(error: &Error) -> bool {
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
