//! What operators may change while hubgate runs, and the trail that each change leaves.
//!
//! Everything here is an object in the store that is written once and never changed: another replica sees it by
//! listing, and an auditor reads it years later. Nothing here asks upstream, serves a byte, or knows HTTP.
//!
//! - [`Audit`]: who changed what, when and why; written before the change takes effect.
//! - Approvals let single repos in, where `approvals.enabled` is set; withdrawals refuse a repo, a commit or a content.
//!   Both are laid over the policy ([`crate::policy::Overlay`]), so that decisions, manifest and digest show them.
//! - Requests: what clients asked for and policy refused, and what admins ask for in person.
//!
//! [`Admin::watch`] lists the decisions every 3 seconds. It fails closed: approvals that can't be read for a minute do
//! not count any more; withdrawals hold until they are read to be lifted, also where their objects have gone, and until
//! all of them are read for the first time nothing is served ([`Admin::is_read`]).

mod approvals;
mod audit;
pub mod audit_chain;
mod health;
mod id;
mod ledger;
mod line;
mod purge;
mod refusals;
mod requests;
mod searches;
#[cfg(test)]
mod tests;
mod withdrawals;

use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use time::OffsetDateTime;
use tokio::{runtime::Handle, task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    hub::Repo,
    manifest::{self, Manifest},
    policy::{Denial, Overlay, PolicyHandle},
    store::{self, Key, Prefix, Store},
};

pub use approvals::{Approval, ApprovalShown, ApprovalsConfig, Proposal, YesOrNo};
pub use audit::{Audit, AuditEntry, AuditFilter, Change};
pub use id::Id;
pub use ledger::Note;
pub use line::{line, shown};
pub use purge::Purged;
pub use refusals::Refused;
pub use requests::{Request, Requests, State, Wish};
pub use withdrawals::{Target, Withdrawal, WithdrawalShown};

use health::Health;
use ledger::Ledger;
use refusals::Recorder;
use searches::Searches;

/// How often decisions are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How often what was noted of refused clients is written.
const FLUSH_EVERY: Duration = Duration::from_secs(15);
/// How often old requests are looked for.
const FORGET_EVERY: Duration = Duration::from_hours(6);
/// How often purges are looked for that did not come to their end. Each try reads the whole log.
const FINISH_EVERY: Duration = Duration::from_secs(30);
/// How long approvals count that can't be read any more.
const CLOSED_AFTER: Duration = Duration::from_mins(1);

/// This module's answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operator's wish was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `approvals.enabled` is off.
    #[error(
        "approvals are off (approvals.enabled): put the rule that `hubgate approve --as-patch` prints into the reviewed \
         policy folder"
    )]
    Off,
    /// Whoever asks for a repo does not approve it.
    #[error("you asked for {repo} yourself: another admin must approve it")]
    SamePerson {
        /// The repo.
        repo: Repo,
    },
    /// Policy refuses it, and no approval changes that.
    #[error("{0}")]
    Denied(Denial),
    /// A rule of the folder names the repo in full, or the lock has it at other commits.
    #[error("{by} and would speak instead: change it there")]
    Overruled {
        /// What speaks, with file and line.
        by: String,
    },
    /// Nothing of this name.
    #[error("{0}")]
    Unknown(String),
    /// It is so already, or something else is.
    #[error("{0}")]
    Already(String),
    /// It can't be meant.
    #[error("{0}")]
    Invalid(String),
    /// Work goes on behind this answer: ask again.
    #[error("{why}")]
    Busy {
        /// What is going on.
        why: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// The store could not.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The manifest could not.
    #[error(transparent)]
    Manifest(manifest::Error),
}

/// Who makes a change.
#[derive(Debug, Clone)]
pub struct Actor {
    /// The admin's name, or `cli:` and a user.
    pub name: String,
    /// The address it came from.
    pub from: Option<String>,
    /// The id of the HTTP request.
    pub request_id: Option<String>,
}

impl Actor {
    /// Whoever sits at the command line and has the store's credentials.
    pub fn at_the_command_line(user: Option<&str>) -> Self {
        Self { name: format!("cli:{}", user.unwrap_or("?")), from: None, request_id: None }
    }

    /// A change of this actor's, for the audit log.
    pub fn change(
        &self,
        what: &str,
        subject: &(impl std::fmt::Display + ?Sized),
        why: Option<&str>,
        details: Value,
    ) -> Change {
        Change {
            who: self.name.clone(),
            from: self.from.clone(),
            request_id: self.request_id.clone(),
            what: what.to_owned(),
            subject: subject.to_string(),
            why: why.map(ToOwned::to_owned),
            details,
        }
    }

    fn note(&self, reason: &str) -> Note {
        let time = OffsetDateTime::now_utc();
        Note { time, by: self.name.clone(), reason: reason.to_owned(), details: Value::Null }
    }
}

/// The operators' side of one gateway. Cheap to clone.
#[derive(Clone)]
pub struct Admin(Arc<Parts>);

/// What it is made of. Private, but `Deref` must name it.
#[doc(hidden)]
pub struct Parts {
    store: Arc<dyn Store>,
    manifest: Manifest,
    policy: Arc<PolicyHandle>,
    approvals_enabled: bool,
    /// The host of the origin, for the manifest's records.
    origin: String,
    audit: Audit,
    refusals: Recorder,
    approvals: Ledger<Approval>,
    withdrawals: Ledger<Withdrawal>,
    is_read: AtomicBool,
    /// Whether approvals are part of the policy in force.
    approvals_laid: AtomicBool,
    /// Held from reading the ledgers to laying them over the policy, so that an older state can't replace a newer one.
    applying: tokio::sync::Mutex<()>,
    health: Mutex<Health>,
    /// Held while withdrawn files are removed.
    purging: tokio::sync::Mutex<()>,
    searches: Searches,
    tasks: TaskTracker,
    /// The process's own runtime: the threads that serve connections are not for work that reads the whole log.
    runtime: Handle,
}

impl Deref for Admin {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Admin {
    /// Puts it together; nothing is read yet. `origin` is the upstream host that the manifest's records name;
    /// files are removed as `tasks`, which the caller waits for at the end, on the runtime that this is called on.
    pub fn new(
        config: &ApprovalsConfig,
        store: Arc<dyn Store>,
        policy: Arc<PolicyHandle>,
        manifest: Manifest,
        origin: &str,
        tasks: &TaskTracker,
    ) -> Self {
        let writer = manifest.writer().clone();
        Self(Arc::new(Parts {
            approvals_enabled: config.enabled,
            origin: origin.to_owned(),
            audit: Audit::new(store.clone(), writer.clone()),
            refusals: Recorder::new(store.clone(), writer),
            approvals: Ledger::new(store.clone(), Prefix::approvals(), Key::approval),
            withdrawals: Ledger::new(store.clone(), Prefix::withdrawals(), Key::withdrawal),
            is_read: AtomicBool::new(false),
            approvals_laid: AtomicBool::new(false),
            applying: tokio::sync::Mutex::default(),
            health: Mutex::default(),
            purging: tokio::sync::Mutex::default(),
            searches: Searches::default(),
            tasks: tasks.clone(),
            runtime: Handle::current(),
            store,
            manifest,
            policy,
        }))
    }

    /// The trail of changes.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Whether withdrawals were read. Before that nothing may be served: this process might not know of one.
    pub fn is_read(&self) -> bool {
        self.is_read.load(Ordering::Acquire)
    }

    /// Refuses to go on where [`Admin::is_read`] says no after all was read.
    ///
    /// # Errors
    /// Names the withdrawals that can't be read.
    pub fn check_read(&self) -> store::Result<()> {
        if self.is_read() {
            return Ok(());
        }
        Err(store::Error::new(store::ErrorKind::Other(self.degraded().join("; "))))
    }

    /// Whether all approvals that were decided count in the policy in force. Where they don't, since they can't be read,
    /// a repo that policy refuses may be one that was approved.
    pub fn approvals_count(&self) -> bool {
        let closed = self.health.lock().unwrap_or_else(PoisonError::into_inner).closed;
        !self.approvals_enabled || (!closed && self.approvals_laid.load(Ordering::Acquire))
    }

    /// Reads what was decided, by whatever replica, and lays it over the policy.
    ///
    /// # Errors
    /// The store's. What was known holds on; approvals for a minute.
    pub async fn refresh(&self) -> store::Result<()> {
        let withdrawals = self.withdrawals.refresh().await;
        let approvals = if self.approvals_enabled { self.approvals.refresh().await } else { Ok(()) };
        self.health.lock().unwrap_or_else(PoisonError::into_inner).looked(&withdrawals, &approvals);
        self.apply().await;
        withdrawals?;
        // A process begins to serve once it knows all that was withdrawn; one that serves goes on with what it knows.
        if !self.withdrawals.has_unreadable_decisions() {
            self.is_read.store(true, Ordering::Release);
        }
        approvals
    }

    /// Lays what is known over the policy.
    async fn apply(&self) {
        let _one_at_a_time = self.applying.lock().await;
        let closed = self.health.lock().unwrap_or_else(PoisonError::into_inner).closed;
        let (policy, overlay) = (self.policy.clone(), self.overlay(!closed));
        // It reads the whole policy anew, where something changed.
        let applied = tokio::task::spawn_blocking(move || policy.set_overlay(overlay)).await;
        let problem = match applied {
            Ok(Ok(_)) => return self.approvals_laid.store(!closed, Ordering::Release),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(problem, "what admins decided can't be laid over the policy; what was before holds");
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.problem = Some(format!("what admins decided can't be laid over the policy: {problem}"));
    }

    fn overlay(&self, with_approvals: bool) -> Overlay {
        let approvals = if self.approvals_enabled && with_approvals { self.approved_rules() } else { Vec::new() };
        Overlay { approvals, denials: self.withdrawn_rules() }
    }

    /// Looks every 3 seconds until `stop`: what commands need that run for long.
    pub async fn follow(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            if let Err(error) = self.refresh().await {
                tracing::warn!(%error, "looking for what admins decided failed");
            }
        }
    }

    /// Looks every 3 seconds from when the store was `opened` until `stop`, and writes what was noted of refused clients
    /// from time to time and at the end. Purges that a process left unfinished are finished.
    pub async fn watch(self, opened: CancellationToken, stop: CancellationToken) {
        if stop.run_until_cancelled(opened.cancelled()).await.is_none() {
            return;
        }
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut flushed, mut forgot): (Instant, Option<Instant>) = (Instant::now(), None);
        let (mut finished, mut finishing): (Option<Instant>, Option<JoinHandle<()>>) = (None, None);
        while stop.run_until_cancelled(looks.tick()).await.is_some() {
            if let Err(error) = self.refresh().await {
                tracing::debug!(%error, "looking for decisions failed");
                continue;
            }
            if finishing.as_ref().is_none_or(JoinHandle::is_finished)
                && finished.is_none_or(|at| at.elapsed() >= FINISH_EVERY)
            {
                finished = Some(Instant::now());
                let admin = self.clone();
                finishing = Some(self.tasks.spawn_on(async move { admin.finish_purges().await }, &self.runtime));
            }
            if flushed.elapsed() >= FLUSH_EVERY {
                flushed = Instant::now();
                self.flush().await;
            }
            if forgot.is_none_or(|at| at.elapsed() >= FORGET_EVERY) {
                forgot = Some(Instant::now());
                if let Err(error) = requests::forget_old(&*self.store).await {
                    tracing::warn!(%error, "forgetting old requests failed");
                }
            }
        }
        self.flush().await;
    }

    async fn flush(&self) {
        if let Err(error) = self.refusals.flush().await {
            tracing::warn!(%error, "noting refused repos failed; tried again later");
        }
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("approvals_enabled", &self.approvals_enabled).finish_non_exhaustive()
    }
}
