//! What is left of a request's body when its answer comes early: a refusal doesn't wait for the end of an upload.
//!
//! A socket that is closed with bytes still to be read is reset by the kernel. A client that writes all of its
//! request before it reads then fails in the middle of writing, and never sees why it was refused. So a body that
//! no handler read is taken and thrown away: a small one before the answer, which keeps the connection; of any
//! other the answer goes out first, then an end of our side, and then we listen on for a while ([`Linger`]).
//! A client that waits for `100 Continue` sends nothing, since it is answered without being asked to go on.
//!
//! HTTP/2 needs none of this: a stream is reset without its connection.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body_util::BodyExt as _;
use hyper::{
    Request, Version,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::EXPECT,
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{self, Instant, Sleep},
};

use super::ConnectionLimits;

/// A body that is no larger is read before the answer goes out; of one that doesn't say its length, no more than that.
const SMALL_BYTES: u64 = 64 * 1024;
/// How long that may take. It was sent with the request's head, or right behind it.
const SMALL_WITHIN: Duration = Duration::from_secs(1);
/// How long a client is listened to after its answer.
const LINGER: Duration = Duration::from_secs(30);
/// And how long while it sends nothing.
const LINGER_SILENCE: Duration = Duration::from_secs(5);
/// Most that is thrown away of one connection.
const LINGER_BYTES: u64 = 256 * 1024 * 1024;
/// What is read at once meanwhile: small, for every connection may be listened to at the same time.
const LINGER_BUFFER: usize = 8 * 1024;

/// The body of a request, as it arrives.
#[derive(Debug)]
pub struct RequestBody {
    /// `None` only while it is being dropped.
    incoming: Option<Incoming>,
    /// Where what nobody read is left, if anything can be.
    rest: Option<Arc<Rest>>,
}

/// What a handler has left of a request's body.
#[derive(Debug)]
pub(super) struct Rest {
    state: Mutex<State>,
    /// Whether the client wants to be told before it sends its body.
    waits_to_send: bool,
}

#[derive(Debug, Default)]
enum State {
    /// A handler has it still.
    #[default]
    Held,
    /// It was dropped before its end.
    Left(Incoming),
    /// There is no more.
    Ended,
}

/// Puts a request before a handler such that what it doesn't read of the body is known afterwards. `None` where
/// there is nothing to know.
pub(super) fn watch(request: Request<Incoming>) -> (Request<RequestBody>, Option<Arc<Rest>>) {
    let can_be_left = request.version() < Version::HTTP_2 && !request.body().is_end_stream();
    let rest = can_be_left.then(|| {
        let waits_to_send = request.headers().contains_key(EXPECT);
        Arc::new(Rest { state: Mutex::default(), waits_to_send })
    });
    let request = request.map(|incoming| RequestBody { incoming: Some(incoming), rest: rest.clone() });
    (request, rest)
}

impl Rest {
    fn set(&self, state: State) -> State {
        std::mem::replace(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), state)
    }

    /// Whether all of the body was read, or can be at once since it is small. If not, what is left is let go, and
    /// the connection can have no other request.
    pub(super) async fn is_read(&self) -> bool {
        let mut incoming = match self.set(State::Ended) {
            State::Ended => return true,
            State::Held => return false,
            State::Left(incoming) => incoming,
        };
        if self.waits_to_send || incoming.size_hint().lower() > SMALL_BYTES {
            return false;
        }
        let read = async {
            let mut left = SMALL_BYTES;
            while let Some(frame) = incoming.frame().await {
                let Ok(frame) = frame else { return false };
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                match left.checked_sub(length) {
                    Some(rest) => left = rest,
                    None => return false,
                }
            }
            true
        };
        time::timeout(SMALL_WITHIN, read).await.unwrap_or(false)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(incoming).poll_frame(cx));
        // What broke off has nothing left to be read either.
        if !matches!(frame, Some(Ok(_)))
            && let Some(rest) = this.rest.take()
        {
            rest.set(State::Ended);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let (Some(incoming), Some(rest)) = (self.incoming.take(), self.rest.take()) {
            rest.set(if incoming.is_end_stream() { State::Ended } else { State::Left(incoming) });
        }
    }
}

/// How long a client is listened to that was answered early.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    whole: Duration,
    silence: Duration,
}

impl Patience {
    /// No longer than it could have held the connection otherwise.
    pub(super) fn within(limits: &ConnectionLimits) -> Self {
        Self { whole: LINGER.min(limits.write_timeout), silence: LINGER_SILENCE.min(limits.header_timeout) }
    }
}

/// Listening on after the last answer: what comes is thrown away, until the client has ended its side or the
/// patience has.
#[derive(Debug)]
pub(super) struct Linger {
    patience: Patience,
    over: Instant,
    timer: Pin<Box<Sleep>>,
    left: u64,
    buffer: Box<[u8]>,
}

impl Linger {
    pub(super) fn new(patience: Patience) -> Self {
        let now = Instant::now();
        Self {
            patience,
            over: now + patience.whole,
            timer: Box::pin(time::sleep_until(now + patience.silence.min(patience.whole))),
            left: LINGER_BYTES,
            buffer: vec![0; LINGER_BUFFER].into(),
        }
    }

    /// Ready when it is over, however it ended.
    pub(super) fn poll<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut self.buffer);
            let outcome: io::Result<()> = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
            let read = buffer.filled().len() as u64;
            self.left = self.left.saturating_sub(read);
            if outcome.is_err() || read == 0 || self.left == 0 {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset((Instant::now() + self.patience.silence).min(self.over));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncWriteExt as _, duplex, repeat};

    use super::*;

    fn linger() -> Linger {
        Linger::new(Patience::within(&ConnectionLimits::default()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_more_is_left_soon_and_one_that_goes_on_later() {
        let (_client, mut server) = duplex(1024);
        let (begun, mut lingering) = (Instant::now(), linger());
        poll_fn(|cx| lingering.poll(&mut server, cx)).await;
        // The clock stands still but for waits: this is what was waited for.
        assert_eq!(begun.elapsed(), LINGER_SILENCE);

        let (mut client, mut server) = duplex(1024);
        let dripping = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                time::sleep(LINGER_SILENCE / 2).await;
            }
        });
        let (begun, mut lingering) = (Instant::now(), linger());
        poll_fn(|cx| lingering.poll(&mut server, cx)).await;
        assert_eq!(begun.elapsed(), LINGER);
        dripping.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_ends_it_and_so_does_too_much() {
        let begun = Instant::now();
        let (mut client, mut server) = duplex(1024);
        client.write_all(b"the rest").await.unwrap();
        drop(client);
        let mut lingering = linger();
        poll_fn(|cx| lingering.poll(&mut server, cx)).await;
        assert_eq!(lingering.left, LINGER_BYTES - 8);

        let mut lingering = linger();
        poll_fn(|cx| lingering.poll(&mut repeat(0), cx)).await;
        assert_eq!((lingering.left, begun.elapsed()), (0, Duration::ZERO));
    }

    #[test]
    fn nobody_is_listened_to_for_longer_than_the_limits_allow() {
        let limit = Duration::from_secs(1);
        let patience = Patience::within(&ConnectionLimits {
            header_timeout: limit,
            write_timeout: limit,
            ..ConnectionLimits::default()
        });
        assert_eq!((patience.whole, patience.silence), (limit, limit));
    }
}
