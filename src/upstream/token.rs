//! Our own token, and whether the Hub knows it.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::MutexGuard, time::Instant};

use super::secret::Secret;

/// How long the Hub's word about a token is believed.
const VERDICT_FOR: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct OwnToken {
    secret: Secret,
    /// Locked while the Hub is asked, so that it is asked once.
    verdict: tokio::sync::Mutex<Option<Verdict>>,
}

#[derive(Debug)]
struct Verdict {
    token: SecretString,
    is_good: bool,
    at: Instant,
}

impl OwnToken {
    pub(super) fn new(secret: Secret) -> Self {
        Self { secret, verdict: tokio::sync::Mutex::default() }
    }

    pub(super) fn current(&self) -> Option<SecretString> {
        self.secret.current()
    }

    /// What is known of this token, waiting for whoever is asking just now.
    pub(super) async fn checked<'a>(&'a self, token: &'a SecretString) -> Checked<'a> {
        Checked { token, verdict: self.verdict.lock().await }
    }
}

pub(super) struct Checked<'a> {
    token: &'a SecretString,
    verdict: MutexGuard<'a, Option<Verdict>>,
}

impl Checked<'_> {
    pub(super) fn verdict(&self) -> Option<bool> {
        let known = self.verdict.as_ref()?;
        let is_current = known.at.elapsed() < VERDICT_FOR && known.token.expose_secret() == self.token.expose_secret();
        is_current.then_some(known.is_good)
    }

    pub(super) fn note(&mut self, is_good: bool) {
        *self.verdict = Some(Verdict { token: self.token.clone(), is_good, at: Instant::now() });
    }
}
