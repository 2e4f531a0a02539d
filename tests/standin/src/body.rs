//! The bytes of an answer on their way out: read piece by piece, paced, spoiled when a fault says so.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::task::JoinHandle;

use crate::content::{Content, Reader};
use crate::counters::Origin;
use crate::faults::{FaultKind, Struck};
use crate::pace::Pacer;
use crate::server::Connection;
use crate::state::State;

/// Large enough that the cost of a piece is nothing beside its bytes.
const PIECE_BYTES: u64 = 1 << 20;

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// All that decides what goes out.
pub(crate) struct Outgoing {
    pub(crate) content: Content,
    pub(crate) range: Range<u64>,
    /// Zero bytes after the content, where its size was lied about.
    pub(crate) padding: u64,
    pub(crate) faults: Vec<Struck>,
    pub(crate) state: Arc<State>,
    pub(crate) connection: Arc<Connection>,
    pub(crate) origin: Origin,
    pub(crate) seq: u64,
    pub(crate) file: Option<String>,
}

pub(crate) fn empty() -> Body {
    StreamBody::new(stream::empty()).boxed_unsync()
}

/// A body that is there already.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that sends what `outgoing` says.
pub(crate) fn stream(outgoing: Outgoing) -> io::Result<Body> {
    let sender = Sender::new(outgoing)?;
    let frames = stream::unfold(sender, |mut sender| async move {
        let frame = sender.next().await?;
        Some((frame.map(Frame::data), sender))
    });
    Ok(StreamBody::new(frames).boxed_unsync())
}

struct Sender {
    reader: Reader,
    /// The piece after this one, already being read from disk.
    ahead: Option<JoinHandle<io::Result<Bytes>>>,
    at: u64,
    end: u64,
    padding: u64,
    sent: u64,
    flips: Vec<u64>,
    cut: Option<u64>,
    stalls: Vec<(u64, Option<u64>, Struck)>,
    slow: Option<Pacer>,
    state: Arc<State>,
    connection: Arc<Connection>,
    origin: Origin,
    seq: u64,
    file: Option<String>,
}

impl Sender {
    fn new(outgoing: Outgoing) -> io::Result<Self> {
        let mut sender = Self {
            reader: outgoing.content.open()?,
            ahead: None,
            at: outgoing.range.start,
            end: outgoing.range.end,
            padding: outgoing.padding,
            sent: 0,
            flips: Vec::new(),
            cut: None,
            stalls: Vec::new(),
            slow: None,
            state: outgoing.state,
            connection: outgoing.connection,
            origin: outgoing.origin,
            seq: outgoing.seq,
            file: outgoing.file,
        };
        for struck in outgoing.faults {
            match struck.kind {
                FaultKind::FlipByte { at } => sender.flips.push(at),
                FaultKind::CutAfter { bytes } => sender.cut = Some(sender.cut.map_or(bytes, |cut| cut.min(bytes))),
                FaultKind::StallAfter { bytes, ms } => sender.stalls.push((bytes, ms, struck)),
                FaultKind::Slow { bytes_per_second } => sender.slow = Some(Pacer::new(bytes_per_second)),
                _ => {}
            }
        }
        Ok(sender)
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.cut.is_some_and(|cut| self.sent >= cut) {
            return Some(Err(Break(self.connection.clone()).await));
        }
        if let Some(due) = self.stalls.iter().position(|(bytes, ..)| self.sent >= *bytes) {
            let (_, ms, struck) = self.stalls.swap_remove(due);
            struck.stall(ms).await;
        }
        if self.at >= self.end && self.padding == 0 {
            return None;
        }
        let piece = match self.read().await {
            Ok(piece) => piece,
            Err(error) => return Some(Err(error)),
        };
        let len = piece.len() as u64;
        self.state.pacer(self.origin).wait(len).await;
        if let Some(slow) = &self.slow {
            slow.wait(len).await;
        }
        self.sent += len;
        self.state.counting.sent(self.seq, self.origin, self.file.as_deref(), len);
        Some(Ok(piece))
    }

    /// The next piece, no longer than the next event allows.
    async fn read(&mut self) -> io::Result<Bytes> {
        let mut max = PIECE_BYTES;
        for event in self.stalls.iter().map(|(bytes, ..)| *bytes).chain(self.cut) {
            max = max.min(event.saturating_sub(self.sent).max(1));
        }
        for pacer in [Some(self.state.pacer(self.origin)), self.slow.as_ref()].into_iter().flatten() {
            max = max.min(pacer.piece());
        }
        if self.at >= self.end {
            let len = self.padding.min(max);
            self.padding -= len;
            return Ok(BytesMut::zeroed(usize::try_from(len).unwrap_or(1)).freeze());
        }
        let mut piece = self.fetch(max.min(self.end - self.at)).await?;
        let start = self.at;
        self.at += piece.len() as u64;
        for flip in &self.flips {
            if (start..self.at).contains(flip) {
                let mut copy = BytesMut::from(&piece[..]);
                copy[usize::try_from(flip - start).unwrap_or(0)] ^= 0xFF;
                piece = copy.freeze();
            }
        }
        Ok(piece)
    }

    async fn fetch(&mut self, max: u64) -> io::Result<Bytes> {
        if !self.reader.blocks() {
            return self.reader.piece(self.at, max);
        }
        let full = match self.ahead.take() {
            Some(ahead) => ahead.await.map_err(io::Error::other)??,
            None => read_ahead(&self.reader, self.at, max).await.map_err(io::Error::other)??,
        };
        let mut piece = full;
        piece.truncate(usize::try_from(max).unwrap_or(usize::MAX));
        let next = self.at + piece.len() as u64;
        if next < self.end {
            self.ahead = Some(read_ahead(&self.reader, next, PIECE_BYTES.min(self.end - next).min(max.max(4096))));
        }
        Ok(piece)
    }
}

fn read_ahead(reader: &Reader, at: u64, max: u64) -> JoinHandle<io::Result<Bytes>> {
    let reader = reader.clone();
    tokio::task::spawn_blocking(move || reader.piece(at, max))
}

/// Lets hyper write out what it holds, then breaks the connection.
///
/// An error from a body makes hyper drop the connection with its buffer, so it would be chance how much
/// arrives. Waiting here makes hyper flush; the connection breaks itself once that is done.
struct Break(Arc<Connection>);

impl Future for Break {
    type Output = io::Error;
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Error> {
        self.0.break_when_flushed();
        Poll::Pending
    }
}

/// The whole of a request body, at most `limit` bytes.
pub(crate) async fn collect(body: hyper::body::Incoming, limit: usize) -> Option<Vec<u8>> {
    let collected = http_body_util::Limited::new(body, limit).collect();
    let bytes = tokio::time::timeout(Duration::from_secs(10), collected).await.ok()?.ok()?.to_bytes();
    Some(bytes.to_vec())
}
