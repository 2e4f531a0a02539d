//! Whether the origin can be asked. For a moment after it could not, what is stored answers at once (I10).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::Gateway;
use crate::{
    hub::Repo,
    upstream::{self, ErrorKind},
};

/// How long upstream is not asked for what is stored after it could not be reached.
pub(super) const OUTAGE_MEMORY: Duration = Duration::from_secs(10);

/// What the last questions came to.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// When it could not be asked at all.
    all: Option<Instant>,
    /// The repo of which it answered with an error of its own last.
    one: Option<(Repo, Instant)>,
}

impl Outage {
    /// Takes note of an answer about a repo, or of its absence. The origin's own error for one repo says nothing of the
    /// others, until another has one too; nonsense says nothing at all.
    pub(super) fn note(&self, repo: &Repo, error: Option<&upstream::Error>) {
        let mut seen = self.seen();
        match error.map(|error| (&error.kind, error.is_outage())) {
            Some((
                ErrorKind::Malformed(_)
                | ErrorKind::WrongSize(_)
                | ErrorKind::HostNotAllowed(_)
                | ErrorKind::PrivateAddress(_)
                // Of work that can wait. Clients may ask.
                | ErrorKind::BudgetSpent { .. },
                _,
            )) => {}
            Some((ErrorKind::Server(_) | ErrorKind::ProxyRefused { .. }, _)) => {
                if seen.one.as_ref().is_some_and(|(other, at)| !other.same_name(repo) && is_fresh(*at)) {
                    seen.all = Some(Instant::now());
                }
                seen.one = Some((repo.clone(), Instant::now()));
            }
            Some((_, true)) => seen.all = Some(Instant::now()),
            Some((_, false)) | None => {
                seen.all = None;
                if seen.one.as_ref().is_some_and(|(known, _)| known.same_name(repo)) {
                    seen.one = None;
                }
            }
        }
    }

    /// Takes note that upstream is too slow to be waited for where something is stored.
    pub(super) fn note_slow(&self) {
        self.seen().all = Some(Instant::now());
    }

    /// Whether upstream could not be asked a moment ago, about whatever repo.
    pub(super) fn is_of_all(&self) -> bool {
        self.seen().all.is_some_and(is_fresh)
    }

    /// Whether upstream could not be asked about this repo a moment ago.
    pub(super) fn is_of(&self, repo: &Repo) -> bool {
        let seen = self.seen();
        seen.all.is_some_and(is_fresh)
            || seen.one.as_ref().is_some_and(|(known, at)| known.same_name(repo) && is_fresh(*at))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_fresh(at: Instant) -> bool {
    at.elapsed() < OUTAGE_MEMORY
}

impl Gateway {
    /// Takes note of whether upstream could be asked about a repo.
    pub(super) fn note_outage(&self, repo: &Repo, error: Option<&upstream::Error>) {
        self.outage.note(repo, error);
    }

    /// Whether what is removed now could be fetched again, by all that is known: upstream has answered this process, and
    /// did so last.
    pub(crate) fn upstream_has_answered(&self) -> bool {
        let status = self.upstream.status();
        status.last_success.is_some() && !status.is_degraded() && !self.outage.is_of_all()
    }

    /// Whether upstream could not be asked a moment ago: then what is stored answers at once.
    pub(super) fn upstream_is_out(&self, repo: &Repo) -> bool {
        self.outage.is_of(repo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(name: &str) -> Repo {
        Repo::new(crate::hub::RepoKind::Model, name).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_for_one_repo_is_no_outage_for_the_others_until_another_has_one() {
        let (outage, error) = (Outage::default(), upstream::Error::new(ErrorKind::Server(500)));
        let (a, b, c) = (repo("acme/a"), repo("acme/b"), repo("acme/c"));
        outage.note(&a, Some(&error));
        outage.note(&a, Some(&error));
        assert!(outage.is_of(&a) && !outage.is_of(&b) && !outage.is_of_all());
        outage.note(&b, Some(&error));
        assert!(outage.is_of(&c) && outage.is_of_all());
        outage.note(&c, None);
        assert!(!outage.is_of(&c), "it answers again");
        outage.note(&a, Some(&error));
        tokio::time::advance(OUTAGE_MEMORY).await;
        outage.note(&b, Some(&error));
        assert!(!outage.is_of(&c) && !outage.is_of(&a), "that was long ago");
    }

    #[test]
    fn what_cannot_be_reached_is_an_outage_for_all_and_a_jobs_budget_is_none() {
        let (outage, a) = (Outage::default(), repo("acme/a"));
        let spent = ErrorKind::BudgetSpent { retry_after: OUTAGE_MEMORY };
        outage.note(&a, Some(&upstream::Error::new(spent)));
        assert!(!outage.is_of(&a));
        outage.note(&a, Some(&upstream::Error::new(ErrorKind::Unreachable)));
        assert!(outage.is_of(&repo("acme/b")));
    }
}
