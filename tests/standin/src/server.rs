//! The listeners: accept, TLS, one task for each connection, and an end that breaks them all.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::body::Body;

/// What a request handler may do to the connection it came on.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    breaking: AtomicBool,
}

impl Connection {
    /// Ends the connection as soon as everything before has been handed to the kernel.
    pub(crate) fn break_when_flushed(&self) {
        self.breaking.store(true, Ordering::Release);
    }
}

/// A socket that fails on flush once its connection is to break.
struct Breakable<S> {
    inner: S,
    connection: Arc<Connection>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Breakable<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Breakable<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) && self.connection.breaking.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        flushed
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Answers one request, or says that the connection closes without an answer.
pub(crate) trait Handler: Clone + Send + Sync + 'static {
    /// A connection was accepted.
    fn connected(&self) {}

    fn handle(
        &self,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> impl Future<Output = io::Result<Response<Body>>> + Send;
}

/// A running listener.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Listening {
    pub(crate) async fn start(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        handler: impl Handler,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
        let address = listener.local_addr()?;
        Ok(Self { address, task: tokio::spawn(accept(listener, tls, handler)) })
    }

    /// Refuses new connections and breaks those that are open.
    pub(crate) async fn stop(self) {
        self.task.abort();
        drop(self.task.await);
    }

    pub(crate) fn abort(&self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, handler: impl Handler) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((socket, _)) = listener.accept().await else {
            continue;
        };
        drop(socket.set_nodelay(true));
        handler.connected();
        let (tls, handler) = (tls.clone(), handler.clone());
        connections.spawn(async move {
            match tls {
                None => serve(socket, handler).await,
                Some(tls) => {
                    if let Ok(socket) = tls.accept(socket).await {
                        serve(socket, handler).await;
                    }
                }
            }
        });
    }
}

async fn serve<S>(socket: S, handler: impl Handler)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Arc::new(Connection::default());
    let io = TokioIo::new(Breakable { inner: socket, connection: connection.clone() });
    let service = service_fn(move |request| {
        let (handler, connection) = (handler.clone(), connection.clone());
        async move { handler.handle(request, connection).await }
    });
    // A client that breaks off, or a fault that does, ends here: nothing to report.
    drop(hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(io, service).await);
}
