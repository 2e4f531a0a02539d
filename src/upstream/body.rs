//! An answer's body as it arrives: bounded in silence and, where it is read whole, in size.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep},
};

use super::{Error, ErrorKind, Result};

/// A body, the connection's place among the bounded number, and the clock that limits its silence.
pub(super) struct Body {
    incoming: Incoming,
    silence: Duration,
    alarm: Pin<Box<Sleep>>,
    /// Whether the alarm runs: only while we wait, not while the reader is busy.
    is_waiting: bool,
    bytes_in: Arc<AtomicU64>,
    _permit: OwnedSemaphorePermit,
}

impl Body {
    pub(super) fn new(
        incoming: Incoming,
        silence: Duration,
        bytes_in: Arc<AtomicU64>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let alarm = Box::pin(tokio::time::sleep(silence));
        Self { incoming, silence, alarm, is_waiting: false, bytes_in, _permit: permit }
    }

    /// The next bytes, never empty; `None` at the end. A body of announced length never ends short.
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        loop {
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(frame) => {
                    self.is_waiting = false;
                    let data = match frame {
                        None => return Poll::Ready(None),
                        Some(Err(error)) => {
                            return Poll::Ready(Some(Err(Error::new(ErrorKind::Unreachable).because(error))));
                        }
                        Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                    };
                    if !data.is_empty() {
                        self.bytes_in.fetch_add(data.len() as u64, Ordering::Relaxed);
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Poll::Pending => {
                    if !self.is_waiting {
                        self.is_waiting = true;
                        self.alarm.as_mut().reset(Instant::now() + self.silence);
                    }
                    std::task::ready!(self.alarm.as_mut().poll(cx));
                    let error = Error::new(ErrorKind::Timeout).because("silence within the body");
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    pub(super) async fn data(&mut self) -> Option<Result<Bytes>> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// All of it; more than `limit` bytes are an error.
    pub(super) async fn whole(&mut self, limit: usize) -> Result<Bytes> {
        let (bytes, is_all) = self.start(limit).await?;
        if is_all { Ok(bytes) } else { Err(Error::malformed(format!("more than {limit} bytes"))) }
    }

    /// The first bytes, at most `limit`, and whether that is all there is.
    pub(super) async fn start(&mut self, limit: usize) -> Result<(Bytes, bool)> {
        let mut whole = BytesMut::new();
        while let Some(data) = self.data().await {
            whole.extend_from_slice(&data?);
            if whole.len() > limit {
                whole.truncate(limit);
                return Ok((whole.freeze(), false));
            }
        }
        Ok((whole.freeze(), true))
    }

    pub(super) fn is_end(&self) -> bool {
        self.incoming.is_end_stream()
    }
}
