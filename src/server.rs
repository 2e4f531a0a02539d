//! The sockets: accepting, TLS, limits on connections, and a shutdown that lets answers finish.
//!
//! Knows connections and requests, never what they mean: a [`Handle`] answers them. The public and the
//! admin listener run the same loop.

mod activity;
mod config;
mod connection;
mod outgoing;
mod tls;
mod unread;
mod workers;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{Request, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

pub use config::{ConnectionLimits, ServerConfig, TlsConfig};
pub use tls::Tls;
pub use unread::RequestBody;
pub use workers::Workers;

use crate::body::Chunks;
use connection::{Admitted, Connection};

/// Connections past the limit that are still told so before they are closed; past these nothing is accepted.
const TURNED_AWAY_AT_ONCE: usize = 256;
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
    type Body: Chunks<Error: std::error::Error + Send + Sync> + Unpin + Send + 'static;

    /// Answers one request. It need not read the body; what it leaves is seen to behind its answer.
    fn handle(&self, peer: Peer, request: Request<RequestBody>) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Answers a request on a connection past the limit: busy, come back.
    fn turn_away(&self, peer: Peer, request: Request<RequestBody>) -> Response<Self::Body>;
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
    /// The threads that its connections are served on.
    pub workers: Workers,
}

/// Serves until `stop` is cancelled, then stops accepting, lets the answers under way finish for the drain
/// time, and breaks the rest.
pub async fn serve<H: Handle>(listener: Listener, serve: Serve, handler: H, stop: CancellationToken) {
    let builder = Arc::new(connection::builder(&serve.limits));
    let room = Arc::new(Semaphore::new(serve.limits.connections));
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE));
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
            limits: serve.limits.clone(),
            stop: stop.clone(),
            admitted,
        };
        let tls = serve.tls.clone();
        let broken_off = broken_off.clone();
        let served = async move |stream| {
            tokio::select! {
                () = connection.run(stream, address, tls) => {}
                () = broken_off.cancelled() => debug!(%address, "connection broken off at the drain deadline"),
            }
        };
        let Some(seat) = serve.workers.seat() else {
            connections.spawn(served(stream));
            continue;
        };
        // The socket moves from this runtime's event queue to that of its worker.
        let (moved, worker) = (stream.into_std(), seat.loop_.clone());
        connections.spawn_on(
            async move {
                let seat = seat;
                match moved.and_then(TcpStream::from_std) {
                    Ok(stream) => served(stream).await,
                    Err(error) => warn!(%error, %address, "can't serve a connection"),
                }
                drop(seat);
            },
            &worker,
        );
    }

    drop(listener);
    connections.close();
    if time::timeout(serve.drain_timeout, connections.wait()).await.is_err() {
        warn!(connections = connections.len(), "the drain time is over; breaking off the answers still under way");
    }
    broken_off.cancel();
    connections.wait().await;
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
