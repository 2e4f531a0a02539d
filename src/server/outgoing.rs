//! How a span of a file gets from an answer's body to the socket, past hyper, which knows only bytes.
//!
//! hyper queues a body's pieces and asks them for slices to write ([`Buf::chunks_vectored`]). A span gives an empty
//! slice, as a mark of its place, and lays itself in the connection's [`Offer`]; the socket writes what stands before
//! the mark, or, where nothing does, has the kernel send the span (`sendfile`) and tells hyper how many bytes went. So
//! the order of bytes, partial writes and back-pressure stay hyper's business.
//!
//! It can't send wrong bytes: who overlooks a mark writes nothing for it, which hyper takes for the end of the
//! connection. Only HTTP/1 without TLS has an offer; everywhere else bodies are asked for bytes.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use rustix::{io::Errno, net::SendFlags};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::body::{Chunk, FileSpan};

/// Where a span waits for the socket; one for each connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Offer(Arc<Mutex<Option<FileSpan>>>);

impl Offer {
    /// Of several spans in one write the first counts, as it is the one that the first mark stands for.
    fn lay(&self, span: &FileSpan) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| span.clone());
    }

    fn take(&self) -> Option<FileSpan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A piece of an answer on its way through hyper.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// These bytes.
    Bytes(Bytes),
    /// What the socket sends by itself.
    Span(FileSpan, Offer),
}

impl Outgoing {
    /// A span stays one where there is an offer to lay it in; else, where none should have come, it is read.
    pub(super) fn new(chunk: Chunk, offer: Option<&Offer>) -> io::Result<Self> {
        match (chunk, offer) {
            (Chunk::Span(span), Some(offer)) => Ok(Self::Span(span, offer.clone())),
            (chunk, _) => chunk.into_bytes().map(Self::Bytes),
        }
    }
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Span(span, _) => span.len,
        }
    }

    /// Nothing for a span: there are no bytes of it here.
    fn chunk(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Span(..) => &[],
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let Some(first) = slices.first_mut() else { return 0 };
        match self {
            // What is spent has no place among what is still to go.
            piece if piece.remaining() == 0 => return 0,
            Self::Bytes(bytes) => *first = IoSlice::new(bytes),
            Self::Span(span, offer) => {
                *first = IoSlice::new(&[]);
                offer.lay(span);
            }
        }
        1
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Bytes(bytes) => bytes.advance(count),
            Self::Span(span, _) => {
                span.len = span.len.checked_sub(count).unwrap_or_else(|| unreachable!("more than a span was sent"));
                span.offset += count as u64;
            }
        }
    }
}

/// What a connection is written to.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether it can send spans.
    const SENDS_FILES: bool;

    /// Sends some of a span, and says how much.
    fn poll_send_file(&mut self, cx: &mut Context<'_>, span: &FileSpan) -> Poll<io::Result<usize>>;

    /// Writes some of what a span follows at once.
    fn poll_write_before_file(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
}

impl Wire for TcpStream {
    const SENDS_FILES: bool = true;

    fn poll_send_file(&mut self, cx: &mut Context<'_>, span: &FileSpan) -> Poll<io::Result<usize>> {
        poll_socket(self, cx, |socket| {
            let mut offset = span.offset;
            match rustix::fs::sendfile(socket, &span.file, Some(&mut offset), span.len)? {
                0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file is shorter than it was")),
                sent => Ok(sent),
            }
        })
    }

    fn poll_write_before_file(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // They go out in one packet with the span's first bytes.
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        poll_socket(self, cx, |socket| Ok(rustix::net::send(socket, bytes, flags)?))
    }
}

/// Calls the socket when it is ready to take bytes.
fn poll_socket(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    mut call: impl FnMut(&TcpStream) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        match socket.try_io(Interest::WRITABLE, || call(socket)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
            outcome => return Poll::Ready(outcome),
        }
    }
}

impl Wire for TlsStream<TcpStream> {
    const SENDS_FILES: bool = false;

    fn poll_send_file(&mut self, _: &mut Context<'_>, _: &FileSpan) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn poll_write_before_file(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write(cx, bytes)
    }
}

/// One write of hyper's: what stands before the first mark, else what the mark stands for.
pub(super) fn poll_write<W: Wire>(
    wire: &mut W,
    offer: &Offer,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let Some(span) = offer.take() else { return Pin::new(wire).poll_write_vectored(cx, slices) };
    let before = slices.iter().position(|slice| slice.is_empty()).unwrap_or(slices.len());
    match slices.get(..before) {
        Some([]) | None => wire.poll_send_file(cx, &span),
        Some([one]) => wire.poll_write_before_file(cx, one),
        Some(several) => Pin::new(wire).poll_write_vectored(cx, several),
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::Write as _};

    use tokio::io::ReadBuf;

    use super::*;

    /// Takes at most `room` bytes a call, and notes which call brought them.
    struct Taken {
        room: usize,
        calls: Vec<(&'static str, usize)>,
        bytes: Vec<u8>,
    }

    impl Taken {
        fn take(&mut self, call: &'static str, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let bytes = &bytes[..bytes.len().min(self.room)];
            self.calls.push((call, bytes.len()));
            self.bytes.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }
    }

    impl AsyncRead for Taken {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Taken {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.get_mut().take("write", bytes)
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.get_mut().take("write", &slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<_>>())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Wire for Taken {
        const SENDS_FILES: bool = true;

        fn poll_send_file(&mut self, _: &mut Context<'_>, span: &FileSpan) -> Poll<io::Result<usize>> {
            self.take("file", &Chunk::Span(span.clone()).into_bytes()?)
        }

        fn poll_write_before_file(&mut self, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.take("before", bytes)
        }
    }

    fn span(bytes: &[u8]) -> FileSpan {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        FileSpan { file: Arc::new(file), offset: 0, len: bytes.len() }
    }

    /// Writes as hyper does: slices of all that is queued, then on by as much as was taken.
    async fn write_all(wire: &mut Taken, offer: &Offer, queue: &mut [Outgoing]) {
        while queue.iter().any(Buf::has_remaining) {
            let mut slices = [IoSlice::new(&[]); 8];
            let mut used = 0;
            for piece in queue.iter().filter(|piece| piece.has_remaining()) {
                used += piece.chunks_vectored(&mut slices[used..]);
            }
            let mut taken = poll_fn(|cx| poll_write(wire, offer, cx, &slices[..used])).await.unwrap();
            assert!(taken > 0);
            for piece in queue.iter_mut() {
                let part = taken.min(piece.remaining());
                piece.advance(part);
                taken -= part;
            }
        }
    }

    #[tokio::test]
    async fn bytes_and_spans_go_out_in_the_order_they_are_queued_in_however_little_is_taken_at_once() {
        for room in [1, 3, 1000] {
            let offer = Offer::default();
            let bytes = |bytes| Outgoing::Bytes(Bytes::from_static(bytes));
            let file = |bytes| Outgoing::new(Chunk::Span(span(bytes)), Some(&offer)).unwrap();
            let mut queue = [bytes(b"head "), file(b"first "), file(b"second "), bytes(b"between "), file(b"third")];
            let mut wire = Taken { room, calls: Vec::new(), bytes: Vec::new() };
            write_all(&mut wire, &offer, &mut queue).await;
            assert_eq!(String::from_utf8(wire.bytes).unwrap(), "head first second between third");
            if room == 1000 {
                assert_eq!(wire.calls, [("before", 5), ("file", 6), ("file", 7), ("before", 8), ("file", 5)]);
            }
        }
    }

    #[test]
    fn a_span_is_read_where_the_socket_can_not_send_it_and_has_no_bytes_where_it_can() {
        let chunk = Chunk::Span(span(b"0123"));
        let read = Outgoing::new(chunk.clone(), None).unwrap();
        assert_eq!((read.chunk(), read.remaining()), (&b"0123"[..], 4));
        let sent = Outgoing::new(chunk, Some(&Offer::default())).unwrap();
        assert_eq!((sent.chunk(), sent.remaining()), (&b""[..], 4));
    }
}
