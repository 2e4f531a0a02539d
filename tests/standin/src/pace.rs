//! Holding a stream of bytes to a rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What a timer that fires late may catch up on, so that the average stays exact.
const SLACK: Duration = Duration::from_millis(20);

/// Bytes a second, shared by all who wait on it. 0 is no limit.
#[derive(Debug)]
pub(crate) struct Pacer {
    rate: AtomicU64,
    /// When all bytes granted so far will have been paid for.
    paid: Mutex<Option<Instant>>,
}

impl Pacer {
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate: AtomicU64::new(rate), paid: Mutex::new(None) }
    }

    pub(crate) fn set(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// The most bytes to send at once: some ten milliseconds' worth.
    pub(crate) fn piece(&self) -> u64 {
        match self.rate.load(Ordering::Relaxed) {
            0 => u64::MAX,
            rate => (rate / 100).clamp(1, 1 << 20),
        }
    }

    /// Returns when `bytes` more may go out.
    pub(crate) async fn wait(&self, bytes: u64) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let due = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let from = paid.map_or(now, |paid| paid.max(now.checked_sub(SLACK).unwrap_or(now)));
            *paid.insert(from + cost)
        };
        tokio::time::sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_by_all_together() {
        let pacer = Pacer::new(1_000_000);
        let start = Instant::now();
        let one = async {
            for _ in 0..50 {
                pacer.wait(10_000).await;
            }
        };
        let other = async {
            for _ in 0..50 {
                pacer.wait(10_000).await;
            }
        };
        tokio::join!(one, other);
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(1000) && took < Duration::from_millis(1110), "{took:?}");
    }
}
