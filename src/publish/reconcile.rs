//! The look from time to time: what is published is asked of policy again, what was interrupted is taken up, and what
//! has become complete is published.

use std::{sync::PoisonError, time::Duration};

use time::Date;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Error, Outcome, Publisher, Result, catalogue,
    record::{Record, State, Target},
};
use crate::{
    gateway::Publishability,
    hooks::Again,
    hub::{Commit, Repo, Sha256},
    policy::today,
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

/// Under which policy, on which day and at which commit nothing was to be done.
pub(super) type Settled = (Sha256, Date, Commit);

/// What one look did.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// Repos that were published, removed or could not be, each in one line.
    pub lines: Vec<String>,
    /// How many of them failed.
    pub failed: usize,
}

impl Publisher {
    /// Looks at everything once. A failure with one repo does not keep the others from being looked at.
    ///
    /// # Errors
    /// Where not even the list of what is published can be read.
    pub async fn reconcile(&self) -> Result<Reconciled> {
        let place = self.0.place.as_ref().ok_or(Error::NoPlace)?;
        let now = (self.0.policy.current().digest(), today());
        let mut done = Reconciled::default();
        for (target, record) in self.0.records.all().await? {
            let name = Looked::Copies(target.clone());
            if record.state == State::Published && self.is_settled(&name, (now.0, now.1, record.commit)) {
                continue;
            }
            let commit = record.commit;
            match self.review(place, &target, record, &mut done).await {
                Ok(true) => self.settle(name, (now.0, now.1, commit)),
                Ok(false) => {}
                Err(error) => done.fail(&target.repo, &error),
            }
        }
        for wanted in &self.0.wanted {
            let name = Looked::Wanted(wanted.repo.clone());
            let meant = self.0.gateway.last_commit(&wanted.repo, &wanted.revision).await;
            let Ok(Some(meant)) = meant else { continue };
            if self.is_settled(&name, (now.0, now.1, meant)) {
                continue;
            }
            match self.publish(&wanted.repo, &wanted.revision, Again::Later).await {
                Ok(Outcome::Unchanged { .. }) => self.settle(name, (now.0, now.1, meant)),
                Ok(Outcome::Published { commit, .. }) => {
                    done.lines.push(format!("{}: published {commit}", wanted.repo));
                    self.settle(name, (now.0, now.1, meant));
                }
                Ok(Outcome::Incomplete { .. } | Outcome::HookFailed { .. } | Outcome::Busy) => {}
                // Said where it is removed; here there is nothing to remove.
                Err(Error::Gateway(error)) if error.is_refusal() => {}
                Err(error) => done.fail(&wanted.repo, &error),
            }
        }
        if !done.lines.is_empty() {
            catalogue::write(&self.0.records, place).await?;
        }
        Ok(done)
    }

    /// Asks policy again of one set of copies. Returns whether there is nothing more to do.
    async fn review(
        &self,
        place: &PublishPrefix,
        target: &Target,
        record: Record,
        done: &mut Reconciled,
    ) -> Result<bool> {
        if matches!(record.state, State::Unpublishing | State::Unpublished) {
            let is_old = time::OffsetDateTime::now_utc() - record.at > LEFT_WITHIN;
            if record.state == State::Unpublished && (is_old || self.is_gone(target, &record).await?) {
                return Ok(true);
            }
            let reason = record.reason.clone().unwrap_or_default();
            if self.remove(target, record, &reason).await? > 0 {
                done.lines.push(format!("{}: removed what was left", target.repo));
            }
            return Ok(false);
        }
        match self.0.gateway.publishable(&target.repo, &record.revision, Some(record.commit)).await {
            Err(error) if error.is_refusal() => {
                let removed = self.remove(target, record, &error.to_string()).await?;
                done.lines.push(format!("{}: unpublished, {removed} files: {error}", target.repo));
                Ok(false)
            }
            Err(error) => Err(error.into()),
            Ok(Publishability::Incomplete { missing, .. }) => {
                tracing::warn!(repo = %target.repo, commit = %record.commit, missing,
                    "published, and no longer whole in the store");
                Ok(record.state == State::Published)
            }
            Ok(Publishability::Whole(whole)) => {
                let outcome = self.put(place, target.clone(), &record.revision, &whole).await?;
                if let Outcome::Published { commit, .. } = outcome {
                    done.lines.push(format!("{}: published {commit} again", target.repo));
                }
                Ok(!matches!(outcome, Outcome::Busy))
            }
        }
    }

    /// Looks every minute, and at once when the policy or the day is another; begins when the store is open.
    pub async fn watch(self, opened: CancellationToken, stop: CancellationToken) {
        if !self.has_place() || stop.run_until_cancelled(opened.cancelled()).await.is_none() {
            return;
        }
        let (mut last, mut afresh) = (None, Instant::now());
        loop {
            if afresh.elapsed() >= AFRESH_EVERY {
                self.believe_nothing();
                afresh = Instant::now();
            }
            let now = (self.0.policy.current().digest(), today());
            if last.is_none_or(|(at, policy): (Instant, _)| policy != now || at.elapsed() >= LOOK_EVERY) {
                match stop.run_until_cancelled(self.reconcile()).await {
                    None => return,
                    Some(Ok(done)) => done.log(),
                    Some(Err(error)) => {
                        tracing::warn!(error = with_causes(&error), "looking at what is published failed");
                    }
                }
                last = Some((Instant::now(), now));
            }
            if stop.run_until_cancelled(tokio::time::sleep(NOTICE_EVERY)).await.is_none() {
                return;
            }
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
        self.0.settled.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn is_settled(&self, name: &Looked, now: Settled) -> bool {
        self.0.settled.lock().unwrap_or_else(PoisonError::into_inner).get(name) == Some(&now)
    }

    fn settle(&self, name: Looked, now: Settled) {
        self.0.settled.lock().unwrap_or_else(PoisonError::into_inner).insert(name, now);
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
