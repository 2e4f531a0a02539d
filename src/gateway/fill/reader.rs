//! One client's view of a fill: follows the staging file, never past what the fill's rules let go.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use tokio::time::Instant;

use super::{FileName, Fill, FillEnd, Presence, Reading, progress::Offer};
use crate::{
    body::read_at,
    gateway::{BodyError, Error},
    store::ErrorKind,
};

/// How many bytes go out at once.
const CHUNK_BYTES: u64 = 256 * 1024;

/// How long a reader is held before a few bytes keep its connection alive; Python clients give up after
/// 10 s of silence (PROTOCOL section 6).
const DRIP_AFTER: Duration = Duration::from_secs(3);

/// A reader of a fill. Counts as present until dropped.
pub(crate) struct Reader {
    fill: Arc<Fill>,
    at: u64,
    end: u64,
    reading: Reading,
    /// For the log, should the fill fail.
    client: String,
    presence: Presence,
}

enum Step {
    Read(Range<u64>),
    Wait { held: bool },
    End(FillEnd),
}

impl Reader {
    /// A reader of a range of `file`, which is one of those that the fill is for, on behalf of `client`.
    pub(crate) fn new(fill: &Arc<Fill>, file: FileName, range: Range<u64>, reading: Reading, client: String) -> Self {
        let presence = Presence::of(fill, file);
        Self { fill: fill.clone(), at: range.start, end: range.end, reading, client, presence }
    }

    /// Waits for the first bytes and makes a body of them and what follows.
    pub(crate) async fn into_body(mut self) -> Result<UnsyncBoxBody<Bytes, BodyError>, Error> {
        let first = self.next().await?;
        let rest = stream::try_unfold(self, |mut reader| async {
            let chunk = reader.next().await.map_err(|error| BodyError(Box::new(error)))?;
            Ok(chunk.map(|chunk| (Frame::data(chunk), reader)))
        });
        let first = stream::iter(first.map(|first| Ok(Frame::data(first))));
        Ok(StreamBody::new(futures_util::StreamExt::chain(first, rest)).boxed_unsync())
    }

    /// The next bytes; `None` after the last.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.at == self.end && self.end > 0 {
            return Ok(None);
        }
        let mut version = self.fill.version.subscribe();
        let mut drip_at = Instant::now() + DRIP_AFTER;
        loop {
            match self.step() {
                Step::Read(range) => return self.read(range).await.map(Some),
                Step::End(FillEnd::Stored(_)) if self.end == 0 => return Ok(None),
                Step::End(end) => return Err(end.into_error()),
                Step::Wait { held: false } => {
                    if self.reading == Reading::Slice {
                        self.fill.fetch_ahead(&(self.at..self.end));
                    }
                    let _ = version.changed().await;
                    drip_at = Instant::now() + DRIP_AFTER;
                }
                Step::Wait { held: true } => {
                    if tokio::time::timeout_at(drip_at, version.changed()).await.is_err() {
                        drip_at = Instant::now() + DRIP_AFTER;
                        if self.reading != Reading::Verified
                            && let Some(range) = self.fill.peek(|state| state.progress.drip(self.at))
                        {
                            let range = range.start..range.end.min(self.end);
                            return self.read(range).await.map(Some);
                        }
                    }
                }
            }
        }
    }

    fn step(&self) -> Step {
        let want = self.at..self.end.min(self.at + CHUNK_BYTES);
        self.fill.peek(|state| match self.presence.end(state) {
            Some(FillEnd::Stored(_)) if !want.is_empty() => Step::Read(want),
            Some(end) => Step::End(end),
            // The mark must stand before anything unverified goes out; see `read`.
            None => match state.progress.offer(want, self.reading) {
                Offer::Give(range) => Step::Read(range),
                Offer::NotThere => Step::Wait { held: false },
                Offer::Held => Step::Wait { held: true },
            },
        })
    }

    async fn read(&mut self, range: Range<u64>) -> Result<Bytes, Error> {
        let end = self.fill.peek(|state| {
            let end = self.presence.end(state);
            if end.is_none() {
                let until = match state.given_to.get_mut(&self.client) {
                    Some(until) => until,
                    None => state.given_to.entry(self.client.clone()).or_default(),
                };
                if range.start <= *until {
                    *until = range.end.max(*until);
                }
            }
            end
        });
        match end {
            None => self.fill.set_taint().await?,
            Some(FillEnd::Stored(_)) => {}
            // It failed since these bytes were offered: they go to nobody.
            Some(end) => return Err(end.into_error()),
        }
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let failed = |problem: String| {
            let kind = ErrorKind::Other(format!("reading a staging file: {problem}"));
            Error::from(crate::store::Error { kind, key: None, source: None })
        };
        let bytes = read_at(&self.fill.file, range.start, length).await.map_err(|error| failed(error.to_string()))?;
        if bytes.is_empty() && !range.is_empty() {
            return Err(failed(format!("it ends at {}", range.start)));
        }
        // Fewer than asked come where the page cache holds only the beginning of them.
        self.at += bytes.len() as u64;
        Ok(bytes)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        tracing::trace!(key = ?self.presence.fill.key, client = self.client, at = self.at, "reader left");
    }
}
