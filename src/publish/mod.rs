//! The publish view: plain copies below `publish.prefix`, for workloads that read the bucket themselves.
//!
//! A set of copies is one commit of one repo: files that policy lets through now, all stored and recorded. It is
//! changed by one publisher at a time in an order that lets readers notice: the marker goes first, files of no later
//! commit go, the others are replaced whole, and the marker comes last. Whatever interrupts this is taken up by the
//! next look ([`Publisher::reconcile`]). Policy is asked again at every look; what it refuses is removed, its marker
//! first.
//!
//! Nothing here fetches: a commit that is not whole is not published.

mod catalogue;
mod config;
mod marker;
mod reconcile;
mod record;
mod remove;
mod run;
mod unnamed;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use config::{PublishConfig, Wanted};

use crate::{
    gateway::{self, Gateway, Publishability, Publishable},
    hooks::{Again, CompleteCommit, CompleteFile, Hooks, Said},
    hub::{Commit, Repo, Revision},
    policy::{EnvLists, PolicyHandle},
    store::{self, PublishPrefix, Store},
};
use record::{Records, Target};
use run::Publication;

/// The publisher's answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something was not published or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no place for copies.
    #[error("publish.prefix is not set: name where the copies should lie, such as \"mirrors/hf\"")]
    NoPlace,
    /// Policy's no, or trouble with what the gateway reads.
    #[error(transparent)]
    Gateway(#[from] gateway::Error),
    /// The store's trouble.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The copies would lie where others do.
    #[error("{0}")]
    Clash(String),
}

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The copies are this commit now.
    Published {
        /// The commit.
        commit: Commit,
        /// Files that were copied.
        copied: usize,
        /// Files that were right already.
        kept: usize,
        /// Files that were removed.
        removed: usize,
        /// The bytes of all files.
        bytes: u64,
    },
    /// They were this commit already.
    Unchanged {
        /// The commit.
        commit: Commit,
    },
    /// Not all of the commit is stored.
    Incomplete {
        /// What is missing.
        missing: String,
    },
    /// The hook failed on it.
    HookFailed {
        /// How.
        why: String,
    },
    /// Another publisher is at work on it, or it was removed meanwhile.
    Busy,
}

/// Publishes and removes. Cheap to clone; all clones are one publisher.
#[derive(Clone)]
pub struct Publisher(Arc<Parts>);

struct Parts {
    place: Option<PublishPrefix>,
    wanted: Vec<Wanted>,
    by_commit: bool,
    store: Arc<dyn Store>,
    records: Records,
    gateway: Gateway,
    policy: Arc<PolicyHandle>,
    hooks: Hooks,
    /// Whether approvals count in the policy in force; where they can't be read, its no may be none.
    approvals_count: ApprovalsCount,
    /// One pass of removals at a time.
    removing: tokio::sync::Mutex<()>,
    gates: Mutex<HashMap<Target, Arc<Gate>>>,
    /// What the last look found settled, so that the next one need not read it all again.
    settled: Mutex<reconcile::AllSettled>,
}

/// Whether approvals count in the policy in force.
pub type ApprovalsCount = Box<dyn Fn() -> bool + Send + Sync>;

/// One at a time within this process; who removes need not wait for who publishes.
#[derive(Default)]
struct Gate {
    turn: tokio::sync::Mutex<()>,
    removal: tokio::sync::Mutex<()>,
    stop: Mutex<CancellationToken>,
}

impl Publisher {
    /// Puts the parts together; nothing is asked of the store yet.
    ///
    /// # Errors
    /// What is wrong with the section.
    pub fn new(
        config: &PublishConfig,
        lists: &EnvLists,
        store: Arc<dyn Store>,
        gateway: Gateway,
        policy: Arc<PolicyHandle>,
        hooks: Hooks,
        approvals_count: ApprovalsCount,
    ) -> std::result::Result<Self, String> {
        Ok(Self(Arc::new(Parts {
            place: config.place()?,
            wanted: config.wanted_or(lists)?,
            by_commit: config.by_commit,
            records: Records(store.clone()),
            store,
            gateway,
            policy,
            hooks,
            approvals_count,
            removing: tokio::sync::Mutex::default(),
            gates: Mutex::default(),
            settled: Mutex::default(),
        })))
    }

    /// Whether there is a place for copies.
    pub fn has_place(&self) -> bool {
        self.0.place.is_some()
    }

    /// `publish.repos`, or `HF_REPOS`.
    pub fn wanted(&self) -> &[Wanted] {
        &self.0.wanted
    }

    /// Takes note that all files of a commit are stored and recorded: runs the hook on it, and publishes it where
    /// `publish.repos` names the repo and this is what its revision means.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub async fn completed(&self, repo: &Repo, revision: &Revision, commit: Commit) -> Result<Vec<(Repo, Outcome)>> {
        let mut outcomes = Vec::new();
        let allowed = self.0.gateway.allowed_name(repo).await?;
        match self.0.gateway.publishable(&allowed, revision, Some(commit)).await {
            Ok(Publishability::Whole(whole)) => drop(self.hook(&whole, revision, Again::Later).await?),
            Ok(Publishability::Incomplete { .. }) => return Ok(outcomes),
            // It may be allowed under the former name by which it is published.
            Err(error) if error.is_refusal() => {}
            Err(error) => return Err(error.into()),
        }
        if !self.has_place() {
            return Ok(outcomes);
        }
        for wanted in &self.0.wanted {
            if self.0.gateway.is_called(&wanted.repo, repo).await? {
                let outcome = self.publish(&wanted.repo, &wanted.revision, Again::Later).await?;
                outcomes.push((wanted.repo.clone(), outcome));
            }
        }
        Ok(outcomes)
    }

    /// Publishes what a revision means by the newest look at it that is stored.
    ///
    /// # Errors
    /// [`gateway::Error::Denied`] where policy says no; what was published of the repo is asked of policy again then, each
    /// set of copies under its own revision. The store's trouble, after which the next try goes on where this one stopped.
    pub async fn publish(&self, repo: &Repo, revision: &Revision, again: Again) -> Result<Outcome> {
        let place = self.0.place.as_ref().ok_or(Error::NoPlace)?;
        let judged = self.now();
        let repo = &self.spelt(repo).await?;
        let whole = match self.0.gateway.publishable(repo, revision, None).await {
            Ok(Publishability::Whole(whole)) => whole,
            Ok(Publishability::Incomplete { missing, .. }) => return Ok(Outcome::Incomplete { missing }),
            Err(error) => {
                if error.is_refusal() {
                    self.remove_refused(place, Some(repo)).await?;
                }
                return Err(error.into());
            }
        };
        if let Said::Failed(why) = self.hook(&whole, revision, again).await? {
            return Ok(Outcome::HookFailed { why });
        }
        self.check_place(repo, &whole).await?;
        let target = Target { repo: repo.clone(), commit: None };
        let publication = Publication { place, target: &target, revision, whole: &whole, judged, over: None };
        // Boxed, since it is large.
        let outcome = Box::pin(self.put(publication)).await?;
        if self.0.by_commit && !matches!(outcome, Outcome::Busy) {
            let target = Target { repo: repo.clone(), commit: Some(whole.commit) };
            Box::pin(self.put(Publication { target: &target, ..publication })).await?;
        }
        catalogue::write(&self.0.records, place).await?;
        Ok(outcome)
    }

    /// Removes all copies of a repo, those of single commits too, markers first. Returns how many files went.
    ///
    /// # Errors
    /// The store's trouble; the next look goes on where this one stopped.
    pub async fn unpublish(&self, repo: &Repo, reason: &str) -> Result<usize> {
        let place = self.0.place.as_ref().ok_or(Error::NoPlace)?;
        let (mut removed, mut changed) = (0, false);
        for (target, mut record) in self.0.records.all().await? {
            if !target.repo.same_name(repo) || self.is_gone(&target, &record).await? {
                continue;
            }
            loop {
                match self.remove(&target, &record, reason).await? {
                    Some(files) => break removed += files,
                    None => match self.0.records.read(&target).await? {
                        Some(now) => record = now,
                        None => break,
                    },
                }
            }
            changed = true;
        }
        if changed {
            catalogue::write(&self.0.records, place).await?;
        }
        Ok(removed)
    }

    async fn hook(&self, whole: &Publishable, revision: &Revision, again: Again) -> Result<Said> {
        let files = whole.files.iter();
        let commit = CompleteCommit {
            repo: whole.repo.clone(),
            commit: whole.commit,
            revision: revision.clone(),
            license: whole.license.clone(),
            rule: whole.rule.clone(),
            approved_by: whole.approved_by.clone(),
            ticket: whole.ticket.clone(),
            policy_sha256: whole.policy_sha256,
            files: files
                .map(|file| CompleteFile { path: file.path.clone(), size: file.size, sha256: file.sha256 })
                .collect(),
        };
        Ok(self.0.hooks.on_complete(&commit, again).await?)
    }

    /// A name as the Hub spells it, so that two spellings are one set of copies; a former name stays what it is.
    async fn spelt(&self, repo: &Repo) -> Result<Repo> {
        let canonical = self.0.gateway.canonical_name(repo).await?;
        Ok(canonical.filter(|canonical| canonical.same_name(repo)).unwrap_or_else(|| repo.clone()))
    }

    fn gate(&self, target: &Target) -> Arc<Gate> {
        self.0.gates.lock().unwrap_or_else(PoisonError::into_inner).entry(target.clone()).or_default().clone()
    }
}

impl Gate {
    /// What ends the publication that has the turn now.
    fn stop(&self) -> CancellationToken {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn new_stop(&self) -> CancellationToken {
        let stop = CancellationToken::new();
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = stop.clone();
        stop
    }
}
