//! Reading files for the network: quarter megabytes, into pooled buffers, on the async worker itself when
//! the page cache has them (`RWF_NOWAIT`), on a blocking thread when the disk must be asked.
//!
//! Never reads ahead of the consumer and never holds more than one buffer per body.

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
    Error, ErrorKind,
    buffers::{Buffer, CHUNK_BYTES},
};

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
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileBody {
    /// The bytes of `range`, which must lie inside the file.
    pub fn new(file: Arc<File>, range: Range<u64>) -> Self {
        Self { file, offset: range.start, end: range.end.max(range.start), reading: None }
    }

    fn remaining(&self) -> u64 {
        self.end - self.offset
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let len = usize::try_from(self.remaining()).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        if len == 0 {
            return Poll::Ready(None);
        }
        if self.reading.is_none() {
            match read_cached(&self.file, self.offset, len) {
                Ok(bytes) => return Poll::Ready(Some(Ok(self.given(bytes)))),
                Err(buffer) => self.reading = Some(read_from_disk(&self.file, buffer, self.offset, len)),
            }
        }
        let Some(reading) = self.reading.as_mut() else { return Poll::Ready(None) };
        let outcome = joined(ready!(Pin::new(reading).poll(cx)));
        self.reading = None;
        Poll::Ready(Some(match outcome {
            Ok(bytes) if bytes.is_empty() => {
                let problem = format!("the file ends {} bytes early", self.remaining());
                self.offset = self.end;
                Err(Error::new(ErrorKind::Corrupt(problem)))
            }
            Ok(bytes) => Ok(self.given(bytes)),
            Err(error) => {
                self.offset = self.end;
                Err(Error::from(error))
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining())
    }
}

impl FileBody {
    fn given(&mut self, bytes: Bytes) -> Frame<Bytes> {
        self.offset += bytes.len() as u64;
        Frame::data(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

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
        assert_eq!(error.kind, ErrorKind::Corrupt("the file ends 4 bytes early".into()));
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
