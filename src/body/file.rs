//! Reading files for the network: quarter megabytes, into pooled buffers, on the async worker itself when
//! the page cache has them (`RWF_NOWAIT`), on a blocking thread when the disk must be asked.
//!
//! Never reads ahead of the consumer and never holds more than one buffer per body.
//!
//! As a [`Body`] it gives bytes, to whoever looks at them; as [`Chunks`] also spans, which the socket sends by itself.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    ops::Range,
    os::unix::fs::FileExt as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    Chunk, Chunks, FileSpan, Taken,
    buffers::{Buffer, CHUNK_BYTES},
};

/// Below this, one `writev` of head and bytes is cheaper than two calls for the head and for a span.
const SMALLEST_SPAN_BYTES: usize = 32 * 1024;

/// How far apart the page cache is probed at first: what Linux reads ahead at once by default, so that a file that was
/// read here and there shows its gaps.
const NARROW_STEP_BYTES: u64 = 128 * 1024;

/// How far apart at most. So much of a gap that no probe fell into is read from the disk by the socket's own call,
/// which holds up the other connections of an event loop for that long.
const WIDE_STEP_BYTES: u64 = 2 * 1024 * 1024;

/// Reads up to `len` bytes at `offset`, at most [`CHUNK_BYTES`] at a time. Fewer may come at any place;
/// none come only at the end of the file.
pub async fn read_at(file: &Arc<File>, offset: u64, len: usize) -> io::Result<Bytes> {
    match read_cached(file, offset, len) {
        Ok(bytes) => Ok(bytes),
        Err(buffer) => joined(read_from_disk(file, buffer, offset, len).await),
    }
}

/// Reads what the page cache has, without waiting; else gives back the buffer.
///
/// Everything but bytes is left to the blocking read: "not cached", "this file system has no `NOWAIT`",
/// errors, and an end of file, which some 5.x kernels report wrongly here.
fn read_cached(file: &File, offset: u64, len: usize) -> Result<Bytes, Buffer> {
    let mut buffer = Buffer::with_room(len);
    let mut room = [IoSliceMut::new(buffer.room(len))];
    loop {
        match preadv2(file, &mut room, offset, ReadWriteFlags::NOWAIT) {
            Ok(0) => return Err(buffer),
            Ok(read) => return Ok(buffer.filled(read)),
            Err(Errno::INTR) => {}
            Err(_) => return Err(buffer),
        }
    }
}

fn read_from_disk(file: &Arc<File>, mut buffer: Buffer, offset: u64, len: usize) -> JoinHandle<io::Result<Bytes>> {
    let file = file.clone();
    spawn_blocking(move || {
        loop {
            match file.read_at(buffer.room(len), offset) {
                Ok(read) => return Ok(buffer.filled(read)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    })
}

fn joined<T>(outcome: Result<io::Result<T>, tokio::task::JoinError>) -> io::Result<T> {
    outcome.unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
}

/// One range of a file as an HTTP body of exactly known size. A file that ends early is an error.
#[derive(Debug)]
pub struct FileBody {
    file: Arc<File>,
    offset: u64,
    end: u64,
    cached: Cached,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

/// How far the page cache was seen to have a file that is read in order. Each probe costs a system call, all of them a
/// twentieth of what sending the file does; so the longer they all hit, the fewer there are.
#[derive(Debug)]
struct Cached {
    until: u64,
    step: u64,
}

impl Default for Cached {
    fn default() -> Self {
        Self { until: 0, step: NARROW_STEP_BYTES }
    }
}

impl Cached {
    /// Whether all of a range that is not empty is there, by what `has` says of single bytes before `end`, where
    /// reading stops.
    fn covers(&mut self, range: Range<u64>, end: u64, has: impl Fn(u64) -> bool) -> bool {
        if self.until <= range.start {
            if !has(range.start) {
                *self = Self::default();
                return false;
            }
            self.until = range.start + 1;
        }
        while self.until < range.end {
            let at = (self.until - 1 + self.step).min(end - 1);
            if !has(at) {
                *self = Self::default();
                return false;
            }
            *self = Self { until: at + 1, step: (2 * self.step).min(WIDE_STEP_BYTES) };
        }
        true
    }
}

impl FileBody {
    /// The bytes of `range`, which must lie inside the file.
    pub fn new(file: Arc<File>, range: Range<u64>) -> Self {
        Self { file, offset: range.start, end: range.end.max(range.start), cached: Cached::default(), reading: None }
    }

    fn remaining(&self) -> u64 {
        self.end - self.offset
    }

    /// How many bytes the next piece has.
    fn next_len(&self) -> usize {
        usize::try_from(self.remaining()).unwrap_or(usize::MAX).min(CHUNK_BYTES)
    }

    /// Whether the page cache has what is next, as far as probes tell. Where it has not, or can't tell, a blocking
    /// read brings it in.
    fn is_cached(&mut self, len: usize) -> bool {
        let file = &*self.file;
        let has = |at| {
            let mut byte = [0];
            preadv2(file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT) == Ok(1)
        };
        self.cached.covers(self.offset..self.offset + len as u64, self.end, has)
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let len = self.next_len();
        if len == 0 {
            return Poll::Ready(None);
        }
        if self.reading.is_none() {
            match read_cached(&self.file, self.offset, len) {
                Ok(bytes) => {
                    self.offset += bytes.len() as u64;
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Err(buffer) => self.reading = Some(read_from_disk(&self.file, buffer, self.offset, len)),
            }
        }
        let Some(reading) = self.reading.as_mut() else { return Poll::Ready(None) };
        let read = joined(ready!(Pin::new(reading).poll(cx)));
        self.reading = None;
        let read = read.and_then(|bytes| {
            if bytes.is_empty() {
                let problem = format!("the file ends {} bytes early", self.remaining());
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem));
            }
            Ok(bytes)
        });
        match &read {
            Ok(bytes) => self.offset += bytes.len() as u64,
            Err(_) => self.offset = self.end,
        }
        Poll::Ready(Some(read))
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.poll_bytes(cx).map(|bytes| bytes.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.size_to_come()
    }
}

/// The same in spans, where that pays and the page cache seems to have them; else in bytes.
impl Chunks for FileBody {
    type Error = io::Error;

    fn poll_chunk(&mut self, cx: &mut Context<'_>, taken: Taken) -> Poll<Option<io::Result<Chunk>>> {
        let len = self.next_len();
        let can_be_span = taken == Taken::Spans && len >= SMALLEST_SPAN_BYTES && self.reading.is_none();
        if can_be_span && self.is_cached(len) {
            let span = FileSpan { file: self.file.clone(), offset: self.offset, len };
            self.offset += len as u64;
            return Poll::Ready(Some(Ok(Chunk::Span(span))));
        }
        self.poll_bytes(cx).map(|bytes| bytes.map(|bytes| bytes.map(Chunk::Bytes)))
    }

    fn is_over(&self) -> bool {
        self.remaining() == 0
    }

    fn size_to_come(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining())
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, io::Write as _};

    use http_body_util::BodyExt as _;

    use super::*;

    fn file_of(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    fn noise(len: usize) -> Vec<u8> {
        (0..len).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[5]).collect()
    }

    #[tokio::test]
    async fn a_body_gives_exactly_its_range_and_announces_exactly_what_it_gives() {
        let bytes = noise(3 * CHUNK_BYTES + 17);
        let file = file_of(&bytes);
        for range in [0..bytes.len(), 0..0, 5..6, CHUNK_BYTES - 1..2 * CHUNK_BYTES + 2, bytes.len() - 3..bytes.len()] {
            let body = FileBody::new(file.clone(), range.start as u64..range.end as u64);
            assert_eq!(body.size_hint().exact(), Some(range.len() as u64));
            assert_eq!(body.is_end_stream(), range.is_empty());
            assert_eq!(body.collect().await.unwrap().to_bytes(), bytes[range]);
        }
    }

    #[tokio::test]
    async fn a_file_shorter_than_promised_is_an_error_not_a_short_body() {
        let file = file_of(b"short");
        let error = FileBody::new(file, 0..9).collect().await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (io::ErrorKind::UnexpectedEof, "the file ends 4 bytes early".into())
        );
    }

    #[tokio::test]
    async fn spans_are_exactly_the_range_whatever_their_pieces_are_made_of() {
        let bytes = noise(3 * CHUNK_BYTES + 17);
        let file = file_of(&bytes);
        for range in [0..bytes.len(), 0..0, 5..6, CHUNK_BYTES - 1..2 * CHUNK_BYTES + 2, 7..SMALLEST_SPAN_BYTES + 6] {
            let mut body = FileBody::new(file.clone(), range.start as u64..range.end as u64);
            assert_eq!(body.size_to_come().exact(), Some(range.len() as u64));
            let mut read = Vec::new();
            while let Some(chunk) = std::future::poll_fn(|cx| body.poll_chunk(cx, Taken::Spans)).await {
                let chunk = chunk.unwrap();
                assert!(!matches!(chunk, Chunk::Span(_)) || chunk.len() >= SMALLEST_SPAN_BYTES);
                let len = chunk.len();
                let part = chunk.into_bytes().unwrap();
                assert_eq!(part.len(), len);
                read.extend_from_slice(&part);
            }
            assert!(body.is_over() && read == bytes[range.clone()], "{range:?}");
        }
    }

    #[tokio::test]
    async fn what_was_just_written_is_given_as_spans_to_who_takes_them() {
        let file = file_of(&noise(2 * CHUNK_BYTES));
        let mut byte = [0];
        let Ok(1) = preadv2(&*file, &mut [IoSliceMut::new(&mut byte)], 0, ReadWriteFlags::NOWAIT) else {
            return eprintln!("this file system can't tell what is cached: nothing is given as a span on it");
        };
        for (taken, are_spans) in [(Taken::Spans, true), (Taken::Bytes, false)] {
            let mut body = FileBody::new(file.clone(), 0..2 * CHUNK_BYTES as u64);
            while let Some(chunk) = std::future::poll_fn(|cx| body.poll_chunk(cx, taken)).await {
                assert_eq!(matches!(chunk.unwrap(), Chunk::Span(_)), are_spans, "{taken:?}");
            }
        }
    }

    /// Reads `cached..end` in order by pieces; which pieces were taken for cached, and how many probes that took.
    fn probed(end: u64, is_cached: impl Fn(u64) -> bool) -> (Vec<bool>, usize) {
        let (mut cached, probes, piece) = (Cached::default(), Cell::new(0), CHUNK_BYTES as u64);
        let has = |at| {
            probes.set(probes.get() + 1);
            assert!(at < end);
            is_cached(at)
        };
        let pieces = (0..end).step_by(CHUNK_BYTES);
        let covered = pieces.map(|at| cached.covers(at..end.min(at + piece), end, has)).collect();
        (covered, probes.get())
    }

    #[test]
    fn a_file_that_is_all_cached_is_probed_less_and_less() {
        let (covered, probes) = probed(1 << 30, |_| true);
        assert!(covered.iter().all(|covered| *covered));
        assert!(probes < 600, "{probes}");
        assert_eq!(probed(1, |_| true), (vec![true], 1));
    }

    #[test]
    fn the_first_gap_is_seen_within_a_read_ahead_and_no_later_one_is_overlooked_for_longer_than_the_widest_step() {
        let gap = NARROW_STEP_BYTES..2 * NARROW_STEP_BYTES;
        assert!(!probed(1 << 20, |at| !gap.contains(&at)).0[0]);
        // Cached for long, then not at all.
        let (gone, piece) = (1024 * CHUNK_BYTES as u64, CHUNK_BYTES as u64);
        let (covered, _) = probed(2 * gone, |at| at < gone);
        let overlooked = covered.iter().skip(1024).filter(|covered| **covered).count() as u64;
        assert!(overlooked * piece <= WIDE_STEP_BYTES, "{overlooked}");
        // And after a miss all is narrow again.
        let mut cached = Cached { until: gone, step: WIDE_STEP_BYTES };
        assert!(!cached.covers(gone..gone + piece, 1 << 30, |_| false));
        assert_eq!((cached.until, cached.step), (0, NARROW_STEP_BYTES));
    }

    #[tokio::test]
    async fn a_span_of_a_file_that_was_cut_is_an_error() {
        let file = file_of(&noise(CHUNK_BYTES));
        let span = FileSpan { file, offset: CHUNK_BYTES as u64 - 9, len: 10 };
        assert_eq!(Chunk::Span(span).into_bytes().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn read_at_reads_what_is_there_and_nothing_at_the_end() {
        let file = file_of(b"0123456789");
        assert_eq!(read_at(&file, 3, 4).await.unwrap(), &b"3456"[..]);
        assert_eq!(read_at(&file, 8, 100).await.unwrap(), &b"89"[..]);
        assert!(read_at(&file, 10, 100).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_chunk_that_is_still_held_is_not_written_over_by_the_next_read() {
        let bytes = noise(4 * CHUNK_BYTES);
        let file = file_of(&bytes);
        let mut held = Vec::new();
        for i in 0..4 {
            held.push(read_at(&file, (i * CHUNK_BYTES) as u64, CHUNK_BYTES).await.unwrap());
        }
        assert_eq!(held.concat(), bytes);
    }
}
