//! What the bodies of stored files are made of: bytes, or a span of a file that the socket sends by itself.
//!
//! A span saves both copies of a large answer: the kernel hands the page cache to the socket (`sendfile`). A body gives
//! one only to who can use it ([`Taken`]), and only where the page cache seems to have it, so that no event loop waits for
//! a disk. Knows files, never what is in them.

mod buffers;
mod file;

use std::{
    fs::File,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;

pub use buffers::CHUNK_BYTES;
pub use file::{FileBody, read_at};

/// A body in pieces that a socket may send by itself. (An [`http_body::Body`]'s pieces must have their bytes at hand.)
pub trait Chunks {
    /// Why it breaks off.
    type Error;

    /// The next piece; `None` after the last.
    fn poll_chunk(&mut self, cx: &mut Context<'_>, taken: Taken) -> Poll<Option<Result<Chunk, Self::Error>>>;

    /// Whether it is known that nothing more comes.
    fn is_over(&self) -> bool;

    /// How many bytes are to come.
    fn size_to_come(&self) -> SizeHint;
}

impl<E> Chunks for UnsyncBoxBody<Bytes, E> {
    type Error = E;

    fn poll_chunk(&mut self, cx: &mut Context<'_>, _: Taken) -> Poll<Option<Result<Chunk, E>>> {
        // No body of ours has trailers.
        let bytes = |frame: http_body::Frame<Bytes>| frame.into_data().unwrap_or_default().into();
        Pin::new(self).poll_frame(cx).map(|frame| frame.map(|frame| frame.map(bytes)))
    }

    fn is_over(&self) -> bool {
        self.is_end_stream()
    }

    fn size_to_come(&self) -> SizeHint {
        self.size_hint()
    }
}

/// What whoever asks for the next piece can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Bytes alone.
    Bytes,
    /// Spans too.
    Spans,
}

/// A piece of a body.
#[derive(Debug, Clone)]
pub enum Chunk {
    /// These bytes.
    Bytes(Bytes),
    /// The bytes that a file has there.
    Span(FileSpan),
}

impl Chunk {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Span(span) => span.len,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes. Those of a span are read, which may wait for a disk if the page cache has let go of them meanwhile.
    ///
    /// # Errors
    /// What reading the file said; `UnexpectedEof` where it ends inside the span.
    pub fn into_bytes(self) -> io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Span(span) => span.read(),
        }
    }
}

impl From<Bytes> for Chunk {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

/// Bytes of a file that doesn't change, at most [`CHUNK_BYTES`] of them.
#[derive(Debug, Clone)]
pub struct FileSpan {
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

impl FileSpan {
    fn read(self) -> io::Result<Bytes> {
        let Self { file, offset, len } = self;
        let mut buffer = buffers::Buffer::with_room(len);
        std::os::unix::fs::FileExt::read_exact_at(&*file, buffer.room(len), offset)?;
        Ok(buffer.filled(len))
    }
}
