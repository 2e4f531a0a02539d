//! How often, and how soon, a question that failed is put again.

use std::time::Duration;

use super::Error;

/// Tries after the first. With the waits between them this stays well below the 8 s of I9.
const RETRIES: u32 = 3;

const FIRST_WAIT: Duration = Duration::from_millis(250);

/// The retries of one question.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    retries: u32,
}

impl Backoff {
    /// Waits, a little longer each time and never as long as the neighbour; false when the error stands.
    pub(super) async fn wait_after(&mut self, error: &Error) -> bool {
        if !error.is_worth_retrying() || self.retries >= RETRIES {
            return false;
        }
        let longest = FIRST_WAIT * 2_u32.pow(self.retries);
        self.retries += 1;
        tracing::debug!(%error, retry = self.retries, "asking the origin again");
        tokio::time::sleep(longest.mul_f64(fastrand::f64().mul_add(0.5, 0.5))).await;
        true
    }
}
