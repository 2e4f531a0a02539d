//! The sockets: accepting, TLS, limits on connections, and a shutdown that lets answers finish.
//!
//! Knows connections and requests, never what they mean: a [`Handle`] answers them. The public and the
//! admin listener run the same loop.

mod config;
mod tls;

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

pub use config::{ConnectionLimits, ServerConfig, TlsConfig};
pub use tls::Tls;

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections past the limit that are still told so before they are closed; past these nothing is accepted.
const TURNED_AWAY_AT_ONCE: usize = 256;
/// How long a connection past the limit may take to hear it.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest head of a request; and when hyper holds as much of an answer it writes, so that a body's pieces
/// (256 KiB) go out one by one, each still in the core's cache.
const CONNECTION_BUFFER_BYTES: usize = 128 * 1024;
/// After `accept` failed for want of file descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What is known of the connection that a request came by.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The other end: a client, or a proxy before it.
    pub address: SocketAddr,
    /// Whether TLS ends here.
    pub tls: bool,
}

/// Answers requests. Cloned for each connection.
pub trait Handle: Clone + Send + Sync + 'static {
    /// The answers' bodies.
    type Body: hyper::body::Body<Data = bytes::Bytes, Error: std::error::Error + Send + Sync> + Send + 'static;

    /// Answers one request.
    fn handle(&self, peer: Peer, request: Request<Incoming>) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Answers a request on a connection past the limit: busy, come back.
    fn turn_away(&self, peer: Peer, request: Request<Incoming>) -> Response<Self::Body>;
}

/// A bound socket that isn't served yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address`, `host:port`.
    ///
    /// # Errors
    /// Names the address and what the system said.
    pub async fn bind(address: &str) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("can't listen on {address}: {error}"));
        let socket = TcpListener::bind(address).await.map_err(named)?;
        let address = socket.local_addr().map_err(named)?;
        Ok(Self { socket, address })
    }

    /// The address that was bound: with the port that the system chose, where the port asked for was 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// How a listener is served.
#[derive(Debug, Clone)]
pub struct Serve {
    /// Bounds on its connections.
    pub limits: ConnectionLimits,
    /// Its certificate; without it, plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// How long answers under way may take once `stop` was called.
    pub drain_timeout: Duration,
}

/// Serves until `stop` is cancelled, then stops accepting, lets the answers under way finish for the drain
/// time, and breaks the rest.
pub async fn serve<H: Handle>(listener: Listener, serve: Serve, handler: H, stop: CancellationToken) {
    let builder = Arc::new(connection_builder(&serve.limits));
    let room = Arc::new(Semaphore::new(serve.limits.connections));
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE));
    let graceful = GracefulShutdown::new();
    let broken_off = CancellationToken::new();
    let connections = TaskTracker::new();

    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener.socket, &room, &turned_away) => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, address, admitted) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, listen = %listener.address, "can't accept a connection");
                time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, %address, "TCP_NODELAY");
        }
        let connection = Connection {
            builder: builder.clone(),
            handler: handler.clone(),
            watcher: graceful.watcher(),
            first_request_within: serve.limits.header_timeout,
            admitted,
        };
        let tls = serve.tls.clone();
        let broken_off = broken_off.clone();
        connections.spawn(async move {
            tokio::select! {
                () = connection.run(stream, address, tls) => {}
                () = broken_off.cancelled() => debug!(%address, "connection broken off at the drain deadline"),
            }
        });
    }

    drop(listener);
    connections.close();
    if time::timeout(serve.drain_timeout, graceful.shutdown()).await.is_err() {
        warn!(connections = connections.len(), "the drain time is over; breaking off the answers still under way");
    }
    broken_off.cancel();
    connections.wait().await;
}

/// Room for a connection among those that are served, or only to be told that there is none.
enum Admitted {
    Served(OwnedSemaphorePermit),
    TurnedAway(OwnedSemaphorePermit),
}

async fn accept(
    socket: &TcpListener,
    room: &Arc<Semaphore>,
    turned_away: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, Admitted)> {
    // Room first: where there is none at all, the backlog and then the client wait.
    let spare = tokio::select! {
        biased;
        Ok(permit) = room.clone().acquire_owned() => Admitted::Served(permit),
        Ok(permit) = turned_away.clone().acquire_owned() => Admitted::TurnedAway(permit),
        else => return Err(io::Error::other("the listener is closing")),
    };
    let (stream, address) = socket.accept().await?;
    // The last connection may have ended while this one was awaited.
    let admitted = match (spare, room.clone().try_acquire_owned()) {
        (Admitted::TurnedAway(_), Ok(permit)) => Admitted::Served(permit),
        (spare, _) => spare,
    };
    Ok((stream, address, admitted))
}

fn connection_builder(limits: &ConnectionLimits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(CONNECTION_BUFFER_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.header_timeout)
        .max_concurrent_streams(64);
    builder
}

struct Connection<H> {
    builder: Arc<auto::Builder<TokioExecutor>>,
    handler: H,
    watcher: hyper_util::server::graceful::Watcher,
    first_request_within: Duration,
    admitted: Admitted,
}

impl<H: Handle> Connection<H> {
    async fn run(self, stream: TcpStream, address: SocketAddr, tls: Option<Arc<Tls>>) {
        let Some(tls) = tls else { return self.speak(stream, Peer { address, tls: false }).await };
        match time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => self.speak(stream, Peer { address, tls: true }).await,
            Ok(Err(error)) => debug!(%error, %address, "TLS handshake failed"),
            Err(_) => debug!(%address, "TLS handshake took too long"),
        }
    }

    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S, peer: Peer) {
        let handler = self.handler;
        let outcome = match self.admitted {
            Admitted::Served(_permit) => {
                let has_asked = AtomicBool::new(false);
                let service = service_fn(|request| {
                    has_asked.store(true, Ordering::Relaxed);
                    let handler = handler.clone();
                    async move { Ok::<_, std::convert::Infallible>(handler.handle(peer, request).await) }
                });
                let connection = self.builder.serve_connection(TokioIo::new(stream), service);
                let mut connection = pin!(self.watcher.watch(connection));
                match time::timeout(self.first_request_within, &mut connection).await {
                    Ok(outcome) => outcome,
                    Err(_) if has_asked.load(Ordering::Relaxed) => connection.await,
                    // hyper's clock for a request's head starts only when it knows which HTTP this is.
                    Err(_) => return debug!(address = %peer.address, "connection without a request"),
                }
            }
            Admitted::TurnedAway(_permit) => {
                let service = service_fn(|request| {
                    let answer = handler.turn_away(peer, request);
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                let connection = self.builder.serve_connection(TokioIo::new(stream), service);
                let connection = self.watcher.watch(connection);
                time::timeout(TURN_AWAY_TIMEOUT, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = outcome {
            debug!(%error, address = %peer.address, "connection ended");
        }
    }
}

/// Raises the soft limit on open files to the hard one: each connection, and each file that is read, is one.
pub fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => info!(open_files = limit.maximum, "raised the limit on open files"),
        Err(error) => warn!(%error, "can't raise the limit on open files"),
    }
}

#[cfg(test)]
mod tests;
