//! One connection: its handshake, its requests, and its end.
//!
//! It ends when the client goes, when the process is told to stop and nothing is under way, or when it keeps us
//! waiting for longer than `[server.limits]` allows.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{
    Request, Response, Version,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    ConnectionLimits, Handle, Peer, Tls,
    activity::{Activity, Look, Overdue, Socket, Watched},
    outgoing::{Offer, Wire},
    unread::{self, Patience},
};

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection past the limit may take to hear it.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest head of a request; and when hyper holds as much of an answer it writes, so that a body's pieces
/// (256 KiB) go out one by one, each still in the core's cache.
const CONNECTION_BUFFER_BYTES: usize = 128 * 1024;

/// Room for a connection among those that are served, or only to be told that there is none.
pub(super) enum Admitted {
    Served(OwnedSemaphorePermit),
    TurnedAway(OwnedSemaphorePermit),
}

/// hyper, set up for both versions of HTTP.
pub(super) fn builder(limits: &ConnectionLimits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // It would count an idle connection's time to a head's. `Activity` bounds both.
        .header_read_timeout(None)
        .max_buf_size(CONNECTION_BUFFER_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.header_timeout)
        .max_concurrent_streams(64);
    builder
}

/// A connection that was accepted.
pub(super) struct Connection<H> {
    pub(super) builder: Arc<auto::Builder<TokioExecutor>>,
    pub(super) handler: H,
    pub(super) limits: ConnectionLimits,
    pub(super) stop: CancellationToken,
    pub(super) admitted: Admitted,
}

impl<H: Handle> Connection<H> {
    /// Serves it to its end.
    pub(super) async fn run(self, stream: TcpStream, address: SocketAddr, tls: Option<Arc<Tls>>) {
        let Some(tls) = tls else { return self.speak(stream, Peer { address, tls: false }).await };
        match time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => self.speak(stream, Peer { address, tls: true }).await,
            Ok(Err(error)) => debug!(%error, %address, "TLS handshake failed"),
            Err(_) => debug!(%address, "TLS handshake took too long"),
        }
    }

    async fn speak<S: Wire>(self, stream: S, peer: Peer) {
        match &self.admitted {
            Admitted::Served(_permit) => self.serve(stream, peer).await,
            Admitted::TurnedAway(_permit) => self.turn_away(stream, peer).await,
        }
    }

    async fn serve<S: Wire>(&self, stream: S, peer: Peer) {
        let (activity, offer) = (Activity::new(Patience::within(&self.limits)), Offer::default());
        let service = service_fn(|request: Request<Incoming>| {
            let answering = activity.begin(request.version());
            let offer = (S::SENDS_FILES && request.version() < Version::HTTP_2).then(|| offer.clone());
            let handler = self.handler.clone();
            let (request, rest) = unread::watch(request);
            let rest = rest.map(|rest| (rest, activity.clone()));
            async move {
                let mut answer = handler.handle(peer, request).await;
                if let Some((rest, activity)) = rest
                    && !rest.is_read().await
                {
                    end_with(&mut answer, &activity);
                }
                Ok::<_, std::convert::Infallible>(answer.map(|body| Watched::new(body, answering, offer)))
            }
        });
        let socket = TokioIo::new(Socket::new(stream, activity.clone(), offer.clone()));
        let mut connection = pin!(self.builder.serve_connection(socket, service));
        let mut stopping = false;
        // When a connection that was told to go must be gone.
        let mut gone_by: Option<Instant> = None;
        loop {
            let again = match activity.look(&self.limits) {
                Look::Again(at) => at,
                Look::Overdue(Overdue::Idle) if gone_by.is_none_or(|by| by > Instant::now()) => {
                    // Its last bytes may still be on their way to a slow client.
                    *gone_by.get_or_insert_with(|| {
                        connection.as_mut().graceful_shutdown();
                        Instant::now() + self.limits.write_timeout
                    })
                }
                Look::Overdue(why) => return debug!(?why, address = %peer.address, "connection closed"),
            };
            tokio::select! {
                biased;
                outcome = connection.as_mut() => return ended(outcome, peer),
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = time::sleep_until(again) => {}
            }
        }
    }

    /// Tells whoever asks that there is no room.
    async fn turn_away<S: Wire>(&self, stream: S, peer: Peer) {
        let activity = Activity::new(Patience::within(&self.limits));
        let service = service_fn(|request: Request<Incoming>| {
            let answering = activity.begin(request.version());
            let (request, rest) = unread::watch(request);
            let mut answer = self.handler.turn_away(peer, request);
            if rest.is_some() {
                end_with(&mut answer, &activity);
            }
            async move { Ok::<_, std::convert::Infallible>(answer.map(|body| Watched::new(body, answering, None))) }
        });
        let socket = TokioIo::new(Socket::new(stream, activity.clone(), Offer::default()));
        let connection = self.builder.serve_connection(socket, service);
        ended(time::timeout(TURN_AWAY_TIMEOUT, connection).await.unwrap_or(Ok(())), peer);
    }
}

/// Makes an answer its connection's last: the body of its request was not read to the end.
fn end_with<B>(answer: &mut Response<B>, activity: &Activity) {
    activity.leaves_unread();
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

fn ended(outcome: Result<(), Box<dyn std::error::Error + Send + Sync>>, peer: Peer) {
    if let Err(error) = outcome {
        debug!(%error, address = %peer.address, "connection ended");
    }
}
