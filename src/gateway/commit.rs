//! From what a client asked to a commit it may see: revision to commit, spelling to canonical name.
//!
//! A branch or tag is looked at upstream at most every `ref_ttl`; in between, and while upstream is away,
//! the last look answers. A sha is looked at only where nothing of it is stored: which name its repo has by now must be
//! known before anything is fetched. It is admitted, if an allowed branch or tag leads to it.
//!
//! Whatever name was asked, the one that upstream uses now is put to policy with every question.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    Asker, Error, Gateway, PATIENCE, RETRY, Result, flights::Flight, identity::Identity, names::Names, refs::RefRecord,
};
use crate::{
    hub::{Commit, Repo, Revision},
    policy::{RevisionVerdict, Rule},
    upstream::{self, ErrorKind, OnGone, Purpose},
};

/// How long a job waits for a look, which wants the newest.
const JOB_PATIENCE: Duration = Duration::from_mins(20);

/// How many names in a row a look follows.
const MAX_NAMES: usize = 5;

/// A commit that the asker's revision means.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The repo under its canonical name: the one under which the commit is stored, or would be.
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
    /// The commit that `revision` of `asked` means, for a repo that `rule` allows: so does policy under every name that is
    /// known of it.
    pub(super) async fn resolve(
        &self,
        asker: &Asker,
        rule: &Rule,
        asked: &Repo,
        revision: &Revision,
    ) -> Result<Resolved> {
        let verdict = self.decide_revision(rule, asked, revision).await?;
        let resolved = match (verdict, revision.as_commit()) {
            (RevisionVerdict::PinnedTo(commit), _) | (_, Some(commit)) => {
                self.at_commit(asker, rule, asked, commit).await?
            }
            (_, None) => Box::pin(self.at_ref(asker, asked, revision)).await?,
        };
        if verdict == RevisionVerdict::NeedsHistory {
            self.admit(asker, rule, &resolved).await?;
        }
        let called = self.called(asked).await?;
        if !asked.same_name(&called) || !asked.same_name(&resolved.repo) {
            Box::pin(self.admit_as(asker, &called, (asked, revision, verdict), &resolved)).await?;
        }
        Ok(resolved)
    }

    /// Puts what was asked to policy under the names that were not asked for: the repo under both, the revision under
    /// the one that upstream uses now.
    async fn admit_as(
        &self,
        asker: &Asker,
        called: &Repo,
        (asked, revision, verdict): (&Repo, &Revision, RevisionVerdict),
        resolved: &Resolved,
    ) -> Result<()> {
        self.allow_names(asked, &resolved.repo)?;
        let (policy, today) = (self.policy.current(), OffsetDateTime::now_utc().date());
        let governing = policy.decide_names(asked, called, today).map_err(|denial| self.denied(&denial))?;
        let decided = governing.decide_revision(revision).map_err(|denial| self.denied(&denial))?;
        // A sha that the asked name's rule names was reviewed.
        let is_reviewed = match verdict {
            RevisionVerdict::PinnedTo(_) => true,
            RevisionVerdict::Allowed => revision.as_commit().is_some(),
            RevisionVerdict::NeedsHistory => false,
        };
        if decided == RevisionVerdict::NeedsHistory && !is_reviewed {
            self.admit(asker, &governing, resolved).await?;
        }
        Ok(())
    }

    /// What upstream calls the repo that was asked for, by all that is known here.
    pub(super) async fn called(&self, asked: &Repo) -> Result<Repo> {
        Ok(self.identities.names(asked).await?.map_or_else(|| asked.clone(), |names| names.now))
    }

    /// What policy says of a revision of a repo that `rule` allows under the name that was asked.
    pub(super) async fn decide_revision(
        &self,
        rule: &Rule,
        asked: &Repo,
        revision: &Revision,
    ) -> Result<RevisionVerdict> {
        let locked = self.locked_rule(rule, asked).await?;
        locked.as_deref().unwrap_or(rule).decide_revision(revision).map_err(|denial| self.denied(&denial))
    }

    /// Where the name that was asked is a former one and the lock has the repo under the one that it has now, the lock says
    /// what a revision means: the rule with that lock.
    pub(super) async fn locked_rule(&self, rule: &Rule, asked: &Repo) -> Result<Option<Arc<Rule>>> {
        let policy = self.policy.current();
        if policy.lock().is_none() || rule.is_locked() || rule.pin.is_some() {
            return Ok(None);
        }
        let called = self.called(asked).await?;
        // A name that is refused is refused once the revision is known.
        let governing = policy.decide_names(asked, &called, OffsetDateTime::now_utc().date()).ok();
        Ok(governing.filter(|governing| !called.same_name(asked) && governing.is_locked()))
    }

    /// A full sha: by what is stored of it, else by a look at it, which tells the name that its repo has by now. And
    /// whether the repo is back where one that is gone is to be refused.
    async fn at_commit(&self, asker: &Asker, rule: &Rule, asked: &Repo, commit: Commit) -> Result<Resolved> {
        let names = self.identities.names(asked).await?;
        if self.config.on_gone == OnGone::Refuse
            && let Some(names) = &names
        {
            Box::pin(self.refuse_gone(asker, asked, &names.now)).await?;
        }
        let home = match &names {
            Some(names) => self.home(names, commit).await?,
            None => None,
        };
        let repo = match (home, names) {
            (Some(home), Some(names)) => {
                if let Err(refused) = self.allow_names(asked, &names.now) {
                    // Unless it has an allowed one again.
                    Box::pin(self.look(asker, asked, &commit.into())).await.map_err(|_| refused)?;
                }
                home
            }
            _ => Box::pin(self.look(asker, asked, &commit.into())).await?.repo,
        };
        let revision = self.led_to(rule, &repo, commit).await.unwrap_or_else(|| commit.into());
        Ok(Resolved { repo, commit, revision, stale: false })
    }

    /// The name under which a commit is stored, if it is.
    pub(super) async fn stored_home(&self, names: &Names, commit: Commit) -> Result<Option<Repo>> {
        for repo in names.all() {
            if self.snapshots.find(repo, commit).await?.is_some() || self.snapshots.early(repo, commit).await?.is_some()
            {
                return Ok(Some(repo.clone()));
            }
        }
        Ok(None)
    }

    /// The same, or the newest name if something was learned of the commit under that a moment ago.
    async fn home(&self, names: &Names, commit: Commit) -> Result<Option<Repo>> {
        if let Some(home) = self.stored_home(names, commit).await? {
            return Ok(Some(home));
        }
        let name = (names.now.clone(), commit);
        let was_looked_at = self.fresh.contains_key(&name) || self.infos.contains_key(&name);
        Ok(was_looked_at.then_some(name.0))
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

    /// The newest look at a revision that is known, under whichever of the repo's names it was made.
    pub(super) async fn last_look(&self, names: &Names, revision: &Revision) -> Result<Option<Arc<RefRecord>>> {
        let mut newest: Option<Arc<RefRecord>> = None;
        for name in names.all() {
            let record = self.refs.last(name, revision).await?;
            newest = newest.into_iter().chain(record).max_by_key(|record| record.looked_at);
        }
        Ok(newest)
    }

    /// A branch, a tag, a short sha: by the last look, if that is fresh or the best there is.
    async fn at_ref(&self, asker: &Asker, asked: &Repo, revision: &Revision) -> Result<Resolved> {
        let last = match self.identities.names(asked).await? {
            Some(names) => {
                if self.config.on_gone == OnGone::Refuse {
                    Box::pin(self.refuse_gone(asker, asked, &names.now)).await?;
                }
                let record = self.last_look(&names, revision).await?;
                record.map(|record| Looked { repo: names.now, record })
            }
            None => None,
        };
        let Some(last) = last else {
            let looked = self.look(asker, asked, revision).await?;
            return self.resolved(asked, looked, revision, false).await;
        };
        if last.record.age() < self.config.ref_ttl {
            return self.resolved(asked, last, revision, false).await;
        }
        if self.upstream_is_out(&last.repo) {
            return self.resolved(asked, last, revision, true).await;
        }
        match self.patiently(asker, self.begin_look(asker, asked, revision)).await {
            Some(Ok(looked)) => self.resolved(asked, looked, revision, false).await,
            // Slow: the look goes on behind this answer.
            None => self.resolved(asked, last, revision, true).await,
            Some(Err(error)) if self.stored_stands_in(&error) => {
                if is_gone(&error) {
                    tracing::warn!(repo = %asked, %revision, %error, gone_upstream = true, "gone upstream; stored content is served");
                }
                self.resolved(asked, last, revision, true).await
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

    async fn resolved(&self, asked: &Repo, looked: Looked, revision: &Revision, stale: bool) -> Result<Resolved> {
        let commit = looked.record.commit;
        let repo = match self.identities.names(asked).await? {
            Some(names) if !names.before.is_empty() => self.home(&names, commit).await?.unwrap_or(looked.repo),
            _ => looked.repo,
        };
        // The redirect's target asks for the commit by its sha: it is admitted, having come from here.
        if !revision.may_be_short_sha() {
            self.admitted.insert((repo.clone(), commit), revision.clone()).await;
        }
        Ok(Resolved { repo, commit, revision: revision.clone(), stale })
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
        let mut name = asked.clone();
        let mut names = 0;
        let look = loop {
            match self.upstream.look(&name, &revision, purpose).await {
                // Nothing is asked under a name before policy has allowed it (I1).
                Err(error) if names < MAX_NAMES && error.moved_to().is_some() => {
                    name = error.moved_to().cloned().unwrap_or(name);
                    names += 1;
                    self.allow_new_name(&asked, &name, looked_at).await?;
                }
                look => break look,
            }
        };
        let called = self.called(&asked).await.unwrap_or_else(|_| asked.clone());
        self.note_outage(&called, look.as_ref().err());
        let look = match look {
            Ok(look) => look,
            Err(error) => {
                let error = from_upstream(error, &asked, &revision);
                let is_of_the_revision = matches!(error, Error::RevisionNotFound { .. });
                if let Some(known) = self.identities.names(&asked).await? {
                    match &error {
                        _ if is_of_the_revision => self.refs.note_back(&known.now).await,
                        error if is_gone(error) => self.refs.note_gone(&known.now, &revision, looked_at).await?,
                        _ => {}
                    }
                }
                if is_gone(&error) || is_of_the_revision {
                    self.unknown.insert((asked, revision), error.clone()).await;
                }
                return Err(error);
            }
        };
        self.allow_new_name(&asked, &look.repo, looked_at).await?;
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

    /// Takes note of what upstream calls the repo that was asked for, and puts that name to policy. Of a repo of which nothing
    /// is stored nothing is kept, but for a moment which name policy did not allow.
    pub(super) async fn allow_new_name(&self, asked: &Repo, name: &Repo, looked_at: OffsetDateTime) -> Result<()> {
        if self.identities.note_called(asked, name, looked_at).await? {
            self.views.invalidate_all();
        }
        if let Err(refused) = self.allow_names(asked, name) {
            self.renamed.insert(asked.clone(), name.clone()).await;
            return Err(refused);
        }
        Ok(())
    }

    /// What an error of upstream means for `repo`, asked under the name that was last known. A new one is noted and put to
    /// policy: whoever asks again asks under that.
    pub(super) async fn failed(&self, repo: &Repo, revision: &Revision, error: upstream::Error) -> Error {
        let Some(name) = error.moved_to() else { return from_upstream(error, repo, revision) };
        match self.allow_new_name(repo, name, OffsetDateTime::now_utc()).await {
            Ok(()) => Error::Busy { why: error.public_text() + "; ask again", retry_after: RETRY },
            Err(refused) => refused,
        }
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
