//! The fetching part of a fill: writes what the origin sends into the staging file, until nothing is
//! missing. Cuts are resumed where they happened, behind the open client connection; a fill that nobody
//! reads drops its connection and goes on when somebody does. Where the origin stays away, the readers are told and
//! what is here is kept for those who come back.

use std::{ops::Range, os::unix::fs::FileExt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use tokio::{task::JoinHandle, time::Instant};

use super::{DROP_AFTER, Fill, FillEnd, PAUSE_AFTER, progress::Fetcher};
use crate::{
    store,
    upstream::{self, ErrorKind},
};

/// Openings and cuts in a row, without a byte between them, before a fill's readers are told.
const MAX_FAILURES: u32 = 8;

/// The wait after the first failure; it doubles up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// What may gather while the last write is under way, in bytes.
const MAX_BATCH: usize = 2 * 1024 * 1024;

/// How many extra range requests a fill makes at once.
const MAX_EXTRA: usize = 4;

/// Extra range requests that fail in a row before a fill makes no more: the origin doesn't want them, and
/// the main fetch gets there too.
const MAX_EXTRA_FAILURES: u32 = 3;

/// The longest wait that the origin may impose on a fill before the fill fails.
const MAX_IMPOSED_WAIT: Duration = Duration::from_mins(10);

type Chunks = BoxStream<'static, Result<Bytes, upstream::Error>>;

/// Why pouring a body stopped before its range was full.
enum Stop {
    Origin(upstream::Error),
    Disk(std::io::Error),
    Unread,
}

impl Fill {
    /// Fetches all that is missing.
    pub(super) async fn fetch(&self) -> Result<(), FillEnd> {
        let mut failures = 0;
        loop {
            let mut version = self.version.subscribe();
            let Some(gap) = self.peek(|state| state.progress.next_gap()) else {
                if self.peek(|state| state.progress.is_whole()) {
                    return Ok(());
                }
                // Extra requests fetch the rest; one that fails leaves a gap for us.
                let _ = version.changed().await;
                continue;
            };
            let before = gap.start;
            let mut at = before;
            let origin = self.origin();
            let outcome = match self.while_read(origin.open(gap.clone(), self.size)).await {
                Some(Ok(chunks)) => self.pour(chunks, gap, &mut at, Fetcher::Main).await,
                Some(Err(error)) => Err(Stop::Origin(error)),
                None => Err(Stop::Unread),
            };
            if at > before {
                failures = 0;
            }
            match outcome {
                Ok(()) => {}
                Err(Stop::Disk(error)) => return Err(FillEnd::Store(Arc::new(disk_error(&error)))),
                Err(Stop::Unread) => self.pause().await?,
                Err(Stop::Origin(error)) => {
                    failures += 1;
                    // A rate limit is waited out: what is here already would be lost, and its readers with it.
                    let imposed = error.retry_after().filter(|wait| *wait <= MAX_IMPOSED_WAIT);
                    if failures > MAX_FAILURES || !(error.is_worth_retrying() || imposed.is_some()) {
                        self.stall(error).await?;
                        failures = 0;
                        continue;
                    }
                    let wait = imposed.unwrap_or_else(|| backoff(failures));
                    tracing::warn!(%error, at, size = self.size, failures, ?wait, "origin broke off; the fill goes on");
                    if self.while_read(tokio::time::sleep(wait)).await.is_none() {
                        self.pause().await?;
                    }
                }
            }
        }
    }

    /// Does what may take long, for as long as somebody reads.
    async fn while_read<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.unread_for(PAUSE_AFTER) => None,
        }
    }

    /// The origin fails, for now at least. The readers are told; what is here is kept for a while, and the fetch goes on
    /// when somebody new comes. An error ends the fill: it says that there is no such content, or nothing is here yet.
    async fn stall(&self, error: upstream::Error) -> Result<(), FillEnd> {
        let has_none = self.peek(|state| state.progress.is_empty());
        if matches!(error.kind, ErrorKind::WrongSize(_)) && has_none {
            return Err(FillEnd::WrongSize(error));
        }
        if has_none || error.is_definite() {
            return Err(FillEnd::Origin(error));
        }
        tracing::warn!(key = ?self.key, %error, "the origin fails; what is here of the file waits for the next reader");
        let mut readers = self.readers.subscribe();
        // Before anybody can see the stall, so that whoever comes after it counts.
        let before = readers.borrow().arrived;
        self.change(|state| {
            state.stalls += 1;
            state.stalled_by = Some(error);
            state.stalled_since = Some(Instant::now());
        });
        tokio::select! {
            _ = readers.wait_for(|readers| readers.arrived > before) => {}
            () = tokio::time::sleep(DROP_AFTER) => return Err(FillEnd::Abandoned),
            () = self.give_up.cancelled() => return Err(FillEnd::Abandoned),
        }
        self.peek(|state| state.stalled_since = None);
        Ok(())
    }

    /// Waits for a reader, with the origin's connection dropped and the ranges kept.
    async fn pause(&self) -> Result<(), FillEnd> {
        tracing::info!(key = ?self.key, "nobody reads; fill paused");
        tokio::select! {
            () = self.read_again() => Ok(()),
            () = self.unread_for(DROP_AFTER) => Err(FillEnd::Abandoned),
            () = self.give_up.cancelled() => Err(FillEnd::Abandoned),
        }
    }

    /// Begins an extra request for `want`, if it is missing and no fetch will be there soon.
    pub(super) fn fetch_ahead(self: &Arc<Self>, want: &Range<u64>) {
        if !self.origin().has_room() {
            return;
        }
        let claimed = self.peek(|state| {
            if state.extra >= MAX_EXTRA || state.extra_failures >= MAX_EXTRA_FAILURES || state.end.is_some() {
                return None;
            }
            let range = state.progress.claim_ahead(want)?;
            state.extra += 1;
            Some(range)
        });
        let Some(range) = claimed else { return };
        let fill = self.clone();
        // Ends by itself: with its range, with the origin's error, or when nobody reads.
        self.tasks.spawn(async move {
            let (start, mut at) = (range.start, range.start);
            let fetched = async {
                match fill.origin().open(range.clone(), fill.size).await {
                    Ok(chunks) => fill.pour(chunks, range, &mut at, Fetcher::Extra(start)).await,
                    Err(error) => Err(Stop::Origin(error)),
                }
            };
            let outcome = tokio::select! {
                outcome = fetched => outcome,
                // Nothing of it has come, so that nothing is half written.
                () = fill.claim_lost(start) => Ok(()),
                // Nobody needs the rest of a fill that failed.
                _ = fill.ended() => Ok(()),
            };
            let failed = matches!(&outcome, Err(Stop::Origin(_) | Stop::Disk(_)));
            if let Err(Stop::Origin(error)) = outcome {
                tracing::debug!(%error, start, "an extra range request broke off; the main fetch will do it");
            }
            fill.change(|state| {
                state.extra -= 1;
                state.extra_failures = if failed { state.extra_failures + 1 } else { 0 };
                state.progress.unclaim(start);
            });
        });
    }

    /// Resolves when the claim that begins there stands no more.
    async fn claim_lost(&self, start: u64) {
        let mut version = self.version.subscribe();
        while self.peek(|state| state.progress.is_claimed(start)) && version.changed().await.is_ok() {}
    }

    /// Writes a body for `range` into the file, counting `at` on. Stops where others have been or are. Writing and
    /// receiving overlap.
    async fn pour(&self, mut chunks: Chunks, range: Range<u64>, at: &mut u64, fetcher: Fetcher) -> Result<(), Stop> {
        let mut received = range.start;
        let mut batch: Vec<Bytes> = Vec::new();
        let mut batched = 0;
        let mut writing: Option<JoinHandle<std::io::Result<u64>>> = None;
        let mut open = true;
        let mut stop = None;
        let unread = self.unread_for(PAUSE_AFTER);
        tokio::pin!(unread);
        while open || writing.is_some() || batched > 0 {
            if writing.is_none() && batched > 0 {
                let (file, offset, bytes) = (self.file.clone(), received - batched as u64, std::mem::take(&mut batch));
                batched = 0;
                writing = Some(tokio::task::spawn_blocking(move || write_all(&file, offset, &bytes)));
            }
            tokio::select! {
                biased;
                Some(done) = async { Some(writing.as_mut()?.await) }, if writing.is_some() => {
                    writing = None;
                    let end = done.map_err(std::io::Error::other).and_then(|end| end).map_err(Stop::Disk)?;
                    self.change(|state| state.progress.arrived(*at..end));
                    *at = end;
                }
                () = &mut unread, if open => {
                    open = false;
                    stop = Some(Stop::Unread);
                }
                chunk = chunks.next(), if open && batched < MAX_BATCH => match chunk {
                    Some(Ok(mut chunk)) => {
                        let length = (range.end - received).min(chunk.len() as u64);
                        let room = self.peek(|state| state.progress.room(received, length, fetcher));
                        if room < chunk.len() as u64 || received + room == range.end {
                            chunk.truncate(usize::try_from(room).unwrap_or(usize::MAX));
                            open = false;
                        }
                        received += chunk.len() as u64;
                        batched += chunk.len();
                        batch.push(chunk);
                    }
                    Some(Err(error)) => {
                        open = false;
                        stop = Some(Stop::Origin(error));
                    }
                    None => open = false,
                },
            }
        }
        stop.map_or(Ok(()), Err)
    }
}

fn write_all(file: &std::fs::File, mut offset: u64, bytes: &[Bytes]) -> std::io::Result<u64> {
    for bytes in bytes {
        file.write_all_at(bytes, offset)?;
        offset += bytes.len() as u64;
    }
    Ok(offset)
}

fn backoff(failures: u32) -> Duration {
    MAX_BACKOFF.min(FIRST_BACKOFF * 2_u32.saturating_pow(failures - 1))
}

fn disk_error(error: &std::io::Error) -> store::Error {
    let kind = if error.kind() == std::io::ErrorKind::StorageFull {
        store::ErrorKind::Full("the disk of the staging files is full".into())
    } else {
        store::ErrorKind::Other(format!("writing a staging file: {error}"))
    };
    store::Error { kind, key: None, source: None }
}
