//! The look from time to time: what is published is asked of policy again, what was interrupted is taken up, and what
//! has become complete is published.

use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
    time::Duration,
};

use time::Date;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Error, Outcome, Publisher, Result, Said, catalogue,
    record::{Record, State, Target},
    run::Publication,
};
use crate::{
    gateway::{self, Publishability, Publishable, Refusal},
    hooks::Again,
    hub::{Commit, Repo, Sha256},
    policy::{DenialKind, today},
    store::PublishPrefix,
    telemetry::with_causes,
};

/// How often all is looked at, whether something is known to have changed or not.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// How often it is noticed that the policy or the day is another: what it refuses now is removed within that.
const NOTICE_EVERY: Duration = Duration::from_secs(2);

/// How often nothing is believed settled: somebody may have taken away copies, or what they are copies of.
const AFRESH_EVERY: Duration = Duration::from_hours(1);

/// How long what was removed is looked at for leftovers: a publisher that was stopped may have had a copy on its way.
const LEFT_WITHIN: Duration = Duration::from_hours(1);

/// What was looked at: a set of copies, or one of `publish.repos`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Looked {
    Copies(Target),
    Wanted(Repo),
}

/// The policy and the day by which a look decides.
pub(super) type Now = (Sha256, Date);

/// At which commits nothing was to be done, under one policy on one day.
#[derive(Debug, Default)]
pub(super) struct AllSettled {
    under: Option<Now>,
    commits: HashMap<Looked, Commit>,
}

/// What policy and the store say of a set of copies now.
enum Judged {
    Refused(gateway::Error),
    /// Refused by a policy in which approvals don't count for now.
    Unsure,
    /// Policy means another commit by now, and that one is not here yet.
    Superseded,
    Incomplete,
    Whole(Publishable),
}

/// What one look did.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// Repos that were published, removed or could not be, each in one line.
    pub lines: Vec<String>,
    /// How many of them failed.
    pub failed: usize,
}

impl Publisher {
    /// Looks at everything once: removes what policy refuses, then publishes what has become whole. A failure with one
    /// repo does not keep the others from being looked at.
    ///
    /// # Errors
    /// Where not even the list of what is published can be read.
    pub async fn reconcile(&self) -> Result<Reconciled> {
        let place = self.0.place.as_ref().ok_or(Error::NoPlace)?;
        let mut done = self.remove_refused(place, None).await?;
        self.look_at_all(place, &mut done).await?;
        Ok(done)
    }

    /// Removes what policy refuses now, of one repo or of all, and nothing else: no publication is waited for.
    pub(super) async fn remove_refused(&self, place: &PublishPrefix, of: Option<&Repo>) -> Result<Reconciled> {
        let _one_at_a_time = self.0.removing.lock().await;
        let now = self.now();
        let mut done = Reconciled::default();
        for (target, record) in self.0.records.all().await? {
            let is_there = matches!(record.state, State::Publishing | State::Published);
            let is_meant = of.is_none_or(|repo| target.repo.same_name(repo));
            let is_settled = || {
                record.state == State::Published && self.is_settled(&Looked::Copies(target.clone()), now, record.commit)
            };
            if !is_there || !is_meant || is_settled() {
                continue;
            }
            if let Err(error) = self.remove_if_refused(&target, record, &mut done).await {
                done.fail(&target.repo, &error);
            }
        }
        if !done.lines.is_empty() {
            catalogue::write(&self.0.records, place).await?;
        }
        Ok(done)
    }

    /// Removes a set of copies if policy refuses it. Where it becomes another one meanwhile, that one is asked about.
    async fn remove_if_refused(&self, target: &Target, mut record: Record, done: &mut Reconciled) -> Result<()> {
        while let Judged::Refused(error) = self.judge(target, &record).await? {
            if self.remove_as_refused(target, &record, &error, done).await? {
                break;
            }
            match self.0.records.read(target).await? {
                Some(now) if matches!(now.state, State::Publishing | State::Published) => record = now,
                _ => break,
            }
        }
        Ok(())
    }

    /// Returns whether it is gone; it is not where the copies are others by now.
    async fn remove_as_refused(
        &self,
        target: &Target,
        record: &Record,
        error: &gateway::Error,
        done: &mut Reconciled,
    ) -> Result<bool> {
        let removed = self.remove(target, record, &error.to_string()).await?;
        if let Some(files) = removed {
            done.lines.push(format!("{}: unpublished, {files} files: {error}", target.repo));
        }
        Ok(removed.is_some())
    }

    async fn look_at_all(&self, place: &PublishPrefix, done: &mut Reconciled) -> Result<()> {
        let now = self.now();
        let before = done.lines.len();
        let mut published = HashSet::new();
        for (target, record) in self.0.records.all().await? {
            let name = Looked::Copies(target.clone());
            let commit = record.commit;
            if record.state == State::Published {
                published.insert((target.clone(), commit));
                if self.is_settled(&name, now, commit) {
                    continue;
                }
            }
            match self.review(place, &target, record, now, done).await {
                Ok(true) => self.settle(name, now, commit),
                Ok(false) => {}
                Err(error) => done.fail(&target.repo, &error),
            }
        }
        for wanted in &self.0.wanted {
            let name = Looked::Wanted(wanted.repo.clone());
            let meant = self.0.gateway.last_commit(&wanted.repo, &wanted.revision).await;
            let Ok(Some(meant)) = meant else { continue };
            // What was removed meanwhile, by whomever, is published again.
            let is_there = published.iter().any(|(target, commit)| {
                target.repo.same_name(&wanted.repo) && target.commit.is_none() && *commit == meant
            });
            if is_there && self.is_settled(&name, now, meant) {
                continue;
            }
            match self.publish(&wanted.repo, &wanted.revision, Again::Later).await {
                Ok(Outcome::Unchanged { .. }) => self.settle(name, now, meant),
                Ok(Outcome::Published { commit, .. }) => {
                    done.lines.push(format!("{}: published {commit}", wanted.repo));
                    self.settle(name, now, meant);
                }
                Ok(Outcome::Incomplete { .. } | Outcome::HookFailed { .. } | Outcome::Busy) => {}
                // Said where it is removed; here there is nothing to remove.
                Err(Error::Gateway(error)) if error.is_refusal() => {}
                Err(error) => done.fail(&wanted.repo, &error),
            }
        }
        if done.lines.len() > before {
            catalogue::write(&self.0.records, place).await?;
        }
        Ok(())
    }

    /// What policy and the store say of a set of copies now. Where its commit is not whole any more, as after its
    /// withdrawal, the copies themselves are asked about.
    async fn judge(&self, target: &Target, record: &Record) -> Result<Judged> {
        let counted = (self.0.approvals_count)();
        let refused = match self.0.gateway.publishable(&target.repo, &record.revision, Some(record.commit)).await {
            Ok(Publishability::Whole(whole)) => return Ok(Judged::Whole(whole)),
            Err(error) if error.is_refusal() => error,
            other => match self.copies_refused(target, record).await? {
                Some(error) => error,
                None => {
                    if let Publishability::Incomplete { missing, .. } = other? {
                        tracing::warn!(repo = %target.repo, commit = %record.commit, missing,
                            "published, and no longer whole in the store");
                    }
                    return Ok(Judged::Incomplete);
                }
            },
        };
        if self.is_superseded(target, record, &refused).await? {
            return Ok(Judged::Superseded);
        }
        if counted && (self.0.approvals_count)() {
            return Ok(Judged::Refused(refused));
        }
        // A deny rule, such as a withdrawal, refuses whatever was approved.
        let copies = self.copies(target, record).await?;
        match self.0.gateway.copies_not_denied(&target.repo, record.commit, &copies).await {
            Ok(()) => {}
            Err(error) if error.is_refusal() => return Ok(Judged::Refused(error)),
            Err(error) => return Err(error.into()),
        }
        tracing::warn!(repo = %target.repo, %refused, "not unpublished: approvals can't be read, it may be approved");
        Ok(Judged::Unsure)
    }

    /// Whether a pin or a lock has moved on from these copies and nothing else speaks against them. They stay then, as
    /// after any other move of a branch, until the next commit is whole; that is published over them where it is wanted.
    async fn is_superseded(&self, target: &Target, record: &Record, refused: &gateway::Error) -> Result<bool> {
        let gateway::Error::Denied(Refusal { kind: Some(DenialKind::NotLocked | DenialKind::Pinned), .. }) = refused
        else {
            return Ok(false);
        };
        if target.commit.is_some() {
            return Ok(false);
        }
        let (gateway, repo) = (&self.0.gateway, &target.repo);
        let is_next = |next: Commit| next != record.commit;
        let waits = match gateway.publishable(repo, &record.revision, None).await {
            Ok(Publishability::Incomplete { .. }) => {
                gateway.last_commit(repo, &record.revision).await?.is_some_and(is_next)
            }
            Ok(Publishability::Whole(next)) => {
                is_next(next.commit) && self.0.wanted.iter().any(|wanted| wanted.repo.same_name(repo))
            }
            Err(error) if error.is_refusal() => false,
            Err(error) => return Err(error.into()),
        };
        if !waits {
            return Ok(false);
        }
        let copies = self.copies(target, record).await?;
        match gateway.copies_may_wait(repo, record.commit, &copies).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_refusal() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Why policy refuses any of the copies that lie there.
    async fn copies_refused(&self, target: &Target, record: &Record) -> Result<Option<gateway::Error>> {
        let copies = self.copies(target, record).await?;
        match self.0.gateway.copies_may_stay(&target.repo, record.commit, &copies).await {
            Ok(()) => Ok(None),
            Err(error) if error.is_refusal() => Ok(Some(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks policy again of one set of copies. Returns whether there is nothing more to do.
    async fn review(
        &self,
        place: &PublishPrefix,
        target: &Target,
        record: Record,
        now: Now,
        done: &mut Reconciled,
    ) -> Result<bool> {
        if matches!(record.state, State::Unpublishing | State::Unpublished) {
            let is_old = time::OffsetDateTime::now_utc() - record.at > LEFT_WITHIN;
            if record.state == State::Unpublished && (is_old || self.is_gone(target, &record).await?) {
                return Ok(true);
            }
            let reason = record.reason.clone().unwrap_or_default();
            if self.remove(target, &record, &reason).await? > Some(0) {
                done.lines.push(format!("{}: removed what was left", target.repo));
            }
            return Ok(false);
        }
        let whole = match self.judge(target, &record).await? {
            Judged::Refused(error) => {
                self.remove_as_refused(target, &record, &error, done).await?;
                return Ok(false);
            }
            Judged::Unsure | Judged::Superseded => return Ok(false),
            Judged::Incomplete => return Ok(record.state == State::Published),
            Judged::Whole(whole) => whole,
        };
        // The policy of today may make another set of files of the commit, which the hook has not seen.
        if let Said::Failed(why) = self.hook(&whole, &record.revision, Again::Later).await? {
            tracing::warn!(repo = %target.repo, commit = %record.commit, why, "published, and the hook fails on it now");
            if let Some(error) = self.copies_refused(target, &record).await? {
                self.remove_as_refused(target, &record, &error, done).await?;
            }
            return Ok(false);
        }
        // Over this record alone: what others have published meanwhile is newer.
        let (revision, over) = (&record.revision, Some(&record));
        let outcome =
            Box::pin(self.put(Publication { place, target, revision, whole: &whole, judged: now, over })).await?;
        if let Outcome::Published { commit, .. } = outcome {
            done.lines.push(format!("{}: published {commit} again", target.repo));
        }
        Ok(!matches!(outcome, Outcome::Busy))
    }

    /// Looks every minute, and at once when the policy or the day is another; begins when the store is open. What is
    /// refused is removed beside that, since a publication or a hook takes its time.
    pub async fn watch(self, opened: CancellationToken, stop: CancellationToken) {
        let Some(place) = self.0.place.as_ref() else { return };
        if stop.run_until_cancelled(opened.cancelled()).await.is_none() {
            return;
        }
        // Boxed, since it is large.
        let both = Box::pin(async { tokio::join!(self.keep_removing(place), self.keep_looking(place)) });
        stop.run_until_cancelled(both).await;
    }

    async fn keep_removing(&self, place: &PublishPrefix) {
        let mut last = None;
        loop {
            let now = self.now();
            if last != Some(now) {
                match self.remove_refused(place, None).await {
                    Ok(done) => {
                        done.log();
                        last = (done.failed == 0).then_some(now);
                    }
                    Err(error) => tracing::warn!(error = with_causes(&error), "looking for what is refused failed"),
                }
            }
            tokio::time::sleep(NOTICE_EVERY).await;
        }
    }

    async fn keep_looking(&self, place: &PublishPrefix) {
        let (mut last, mut afresh) = (None, Instant::now());
        loop {
            if afresh.elapsed() >= AFRESH_EVERY {
                self.believe_nothing();
                afresh = Instant::now();
            }
            let now = self.now();
            if last.is_none_or(|(at, policy): (Instant, _)| policy != now || at.elapsed() >= LOOK_EVERY) {
                let mut done = Reconciled::default();
                if let Err(error) = self.look_at_all(place, &mut done).await {
                    tracing::warn!(error = with_causes(&error), "looking at what is published failed");
                }
                done.log();
                last = Some((Instant::now(), now));
            }
            tokio::time::sleep(NOTICE_EVERY).await;
        }
    }

    /// Runs the hook on each commit that becomes whole from now on, and publishes it where it is wanted.
    pub async fn listen(self, stop: CancellationToken) {
        let mut completions = self.0.gateway.completions();
        while let Some(completed) = stop.run_until_cancelled(completions.next()).await {
            let (repo, revision, commit) = (&completed.repo, &completed.revision, completed.commit);
            match stop.run_until_cancelled(self.completed(repo, revision, commit)).await {
                None => return,
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::warn!(%repo, %commit, error = with_causes(&error), "a whole commit was not published");
                }
            }
        }
    }

    /// Forgets what was found settled, so that the next look asks everything again: to be called where something
    /// other than the policy has changed what may be published, such as a withdrawal.
    pub fn believe_nothing(&self) {
        *self.0.settled.lock().unwrap_or_else(PoisonError::into_inner) = AllSettled::default();
    }

    pub(super) fn now(&self) -> Now {
        (self.0.policy.current().digest(), today())
    }

    fn is_settled(&self, name: &Looked, now: Now, commit: Commit) -> bool {
        let mut settled = self.0.settled.lock().unwrap_or_else(PoisonError::into_inner);
        // A policy that comes back, as when a withdrawal is lifted, finds nothing settled that another has undone.
        if settled.under != Some(now) {
            *settled = AllSettled { under: Some(now), commits: HashMap::new() };
        }
        settled.commits.get(name) == Some(&commit)
    }

    fn settle(&self, name: Looked, now: Now, commit: Commit) {
        let mut settled = self.0.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if settled.under == Some(now) {
            settled.commits.insert(name, commit);
        }
    }
}

impl Reconciled {
    fn fail(&mut self, repo: &Repo, error: &Error) {
        self.failed += 1;
        self.lines.push(format!("{repo}: {error}"));
    }

    fn log(&self) {
        for line in &self.lines {
            tracing::info!(line, failed = self.failed, "looked at what is published");
        }
    }
}
