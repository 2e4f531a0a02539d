//! The body of a GET, continued where the server cuts it.

use std::{
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};

use super::Bucket;
use crate::store::{Error, ErrorKind, Key, Result};

/// How often in a row a body is asked for again without a byte coming.
const ATTEMPTS: u32 = 4;

/// The pause before the second of these; it doubles.
const PAUSE: Duration = Duration::from_millis(200);

/// The bytes of one range of one object. A cut is continued from where it happened, on the condition that
/// the object is still the same; when that fails too, the body ends with an error.
pub(super) struct ContinuedBody {
    bucket: Bucket,
    key: Key,
    etag: Option<String>,
    /// What has not been given yet.
    range: Range<u64>,
    state: State,
    /// Attempts since a byte came.
    attempts: u32,
}

enum State {
    Reading(SdkBody),
    Asking(BoxFuture<'static, Result<SdkBody>>),
    Ended,
}

impl ContinuedBody {
    pub(super) fn new(bucket: Bucket, key: Key, etag: Option<String>, range: Range<u64>, body: SdkBody) -> Self {
        Self { bucket, key, etag, range, state: State::Reading(body), attempts: 0 }
    }

    /// Asks again for what is left, or gives the error back where that has been tried often enough.
    fn ask_again(&mut self, error: Error) -> Option<Error> {
        if self.attempts >= ATTEMPTS {
            self.state = State::Ended;
            return Some(error);
        }
        let pause = if self.attempts == 0 { Duration::ZERO } else { PAUSE * (1 << (self.attempts - 1)) };
        self.attempts += 1;
        tracing::info!(key = %self.key, offset = self.range.start, attempt = self.attempts, error = %error,
            "the store cut a body; asking for the rest");
        let (bucket, key, etag, range) = (self.bucket.clone(), self.key.clone(), self.etag.clone(), self.range.clone());
        self.state = State::Asking(Box::pin(async move {
            tokio::time::sleep(pause).await;
            bucket.continue_get(&key, etag, range).await
        }));
        None
    }
}

impl Body for ContinuedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        loop {
            if self.range.is_empty() {
                return Poll::Ready(None);
            }
            let cut = match &mut self.state {
                State::Ended => return Poll::Ready(None),
                State::Reading(body) => match ready!(Pin::new(body).poll_frame(cx)) {
                    Some(Ok(frame)) => {
                        let Ok(mut bytes) = frame.into_data() else { continue };
                        if bytes.is_empty() {
                            continue;
                        }
                        let left = self.range.end - self.range.start;
                        if bytes.len() as u64 > left {
                            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                        }
                        self.range.start += bytes.len() as u64;
                        self.attempts = 0;
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    }
                    Some(Err(error)) => Error::new(ErrorKind::Unreachable).on(&self.key).caused_by(error),
                    None => Error::new(ErrorKind::Corrupt(format!(
                        "the body ended {} bytes early",
                        self.range.end - self.range.start
                    )))
                    .on(&self.key),
                },
                State::Asking(asking) => match ready!(asking.as_mut().poll(cx)) {
                    Ok(body) => {
                        self.state = State::Reading(body);
                        continue;
                    }
                    Err(error) if matches!(error.kind, ErrorKind::Unreachable | ErrorKind::Busy) => error,
                    Err(error) => {
                        self.state = State::Ended;
                        return Poll::Ready(Some(Err(error)));
                    }
                },
            };
            if let Some(error) = self.ask_again(cut) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.range.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.range.end - self.range.start)
    }
}
