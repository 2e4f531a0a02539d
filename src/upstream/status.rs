//! How the way out is doing, for readyz and metrics.

use std::{
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use super::{BudgetStatus, Error, ErrorKind};

/// A snapshot.
#[derive(Debug, Clone)]
pub struct Status {
    /// `upstream.offline` is set.
    pub offline: bool,
    /// When the origin last answered, whatever it said.
    pub last_success: Option<SystemTime>,
    /// When it, or the way to it, last failed, and how. Outages and a refused token count, a "no such repo"
    /// does not.
    pub last_failure: Option<(SystemTime, Error)>,
    /// The Hub's request budget, each class.
    pub budget: Vec<BudgetStatus>,
    /// Requests sent since the start, redirects counted, by class (`elsewhere` is past a redirect to another host) and
    /// by what came back.
    pub requests: Vec<(String, u64)>,
    /// Body bytes received since the start.
    pub bytes: u64,
}

impl Status {
    /// Whether the last thing that is known is a failure.
    pub fn is_degraded(&self) -> bool {
        let failed = self.last_failure.as_ref().map(|(at, _)| *at);
        self.offline || failed.is_some_and(|failed| self.last_success.is_none_or(|succeeded| failed > succeeded))
    }
}

#[derive(Debug, Default)]
pub(super) struct Record {
    success: Mutex<Option<SystemTime>>,
    failure: Mutex<Option<(SystemTime, Error)>>,
}

impl Record {
    pub(super) fn note<T>(&self, result: &Result<T, Error>) {
        match result {
            Err(error) if error.is_outage() || error.kind == ErrorKind::TokenRefused => {
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some((SystemTime::now(), error.clone()));
            }
            _ => *self.success.lock().unwrap_or_else(PoisonError::into_inner) = Some(SystemTime::now()),
        }
    }

    pub(super) fn last_success(&self) -> Option<SystemTime> {
        *self.success.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn last_failure(&self) -> Option<(SystemTime, Error)> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
