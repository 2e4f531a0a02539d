//! Trying again what may pass.

use std::time::Duration;

use super::Error;
use crate::store::{self, ErrorKind};

/// What is waited before each further attempt to write a batch, an index entry or a head.
const RETRY_AFTER: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1)];

/// Whether trying again may help.
pub(super) trait Retry {
    fn may_pass(&self) -> bool;
}

impl Retry for store::Error {
    fn may_pass(&self) -> bool {
        use ErrorKind::{Busy, Corrupt, Full, Misconfigured, Other, PermissionDenied, TooLarge, Unreachable};
        match self.kind {
            Unreachable | Busy | Corrupt(_) | Other(_) => true,
            Full(_) | Misconfigured(_) | PermissionDenied | TooLarge(_) => false,
        }
    }
}

impl Retry for Error {
    fn may_pass(&self) -> bool {
        match self {
            Self::Log(cause) | Self::Index(cause) | Self::Read(cause) => cause.may_pass(),
            Self::Taken(_) | Self::Unsure { .. } | Self::Json(_) | Self::Output(_) | Self::Closed => false,
        }
    }
}

/// Makes up to four attempts, over a second and a half.
pub(super) async fn retried<T, E: Retry, F: Future<Output = Result<T, E>>>(
    mut attempt: impl FnMut() -> F,
) -> Result<T, E> {
    for pause in RETRY_AFTER {
        match attempt().await {
            Err(error) if error.may_pass() => tokio::time::sleep(pause).await,
            end => return end,
        }
    }
    attempt().await
}
