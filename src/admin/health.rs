//! How the reading of decisions is doing, and what of it an operator must know.

use std::{sync::PoisonError, time::Duration};

use tokio::time::Instant;

use super::{Admin, CLOSED_AFTER};
use crate::store;

/// How long decisions may not have been read before it is said; a look that hangs says nothing of itself.
const LATE_AFTER: Duration = Duration::from_secs(30);
/// Objects that are named of each sort.
const NAMED: usize = 5;

#[derive(Debug, Default)]
pub(super) struct Health {
    /// When withdrawals, and approvals where they count, were last read.
    read: Option<Instant>,
    /// When approvals were last read.
    approvals_read: Option<Instant>,
    /// Why decisions can't be read, or not be laid over the policy.
    pub(super) problem: Option<String>,
    /// Whether approvals don't count for now.
    pub(super) closed: bool,
}

impl Health {
    /// Notes what a look came to.
    pub(super) fn looked(&mut self, withdrawals: &store::Result<()>, approvals: &store::Result<()>) {
        let now = Instant::now();
        let before = self.approvals_read;
        if approvals.is_ok() {
            self.approvals_read = Some(now);
        }
        let closed = approvals.is_err() && before.is_none_or(|read| read.elapsed() >= CLOSED_AFTER);
        if closed && !self.closed {
            tracing::error!("approvals can't be read: repos that are allowed by approval alone are refused");
        }
        self.closed = closed;
        let problem = withdrawals.as_ref().err().or(approvals.as_ref().err());
        if problem.is_none() {
            self.read = Some(now);
        }
        self.problem =
            problem.map(|error| format!("what admins decided can't be read ({error}); what was known holds"));
    }
}

impl Admin {
    /// What health checks say is degraded, one sentence each.
    pub fn degraded(&self) -> Vec<String> {
        let mut degraded = Vec::new();
        {
            let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
            let is_late = health.read.is_some_and(|read| read.elapsed() >= LATE_AFTER);
            let late = || "what admins decided has not been read for a while; what was known holds".to_owned();
            degraded.extend(health.problem.clone().or_else(|| is_late.then(late)));
            if health.closed {
                degraded.push("approvals can't be read and don't count for now".into());
            }
        }
        let unreadable = self.withdrawals.unreadable();
        if !unreadable.is_empty() {
            let meanwhile = if self.is_read() {
                "what it withdraws may still be served"
            } else {
                "nothing is served, since it may have been withdrawn"
            };
            let which = some(unreadable.iter().map(|(key, problem)| format!("{key} ({problem})")));
            degraded.push(format!("can't be read: {which}; {meanwhile}: mend or remove it"));
        }
        let unreadable = self.approvals.unreadable();
        if !unreadable.is_empty() {
            let which = some(unreadable.iter().map(|(key, problem)| format!("{key} ({problem})")));
            degraded.push(format!("can't be read: {which}; no approval counts for it: mend or remove it"));
        }
        let vanished = self.vanished_withdrawals();
        if !vanished.is_empty() {
            let which = some(vanished.iter().map(ToString::to_string));
            degraded.push(format!(
                "gone from the store: the withdrawals {which}; they hold until this process ends: withdraw anew, then lift \
                 them"
            ));
        }
        degraded
    }
}

/// The first few, and how many more there are.
fn some(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(NAMED);
    let named = all.take(NAMED).collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}
