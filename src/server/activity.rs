//! What a connection is doing, seen from outside of hyper, which bounds only some of its waits: a client that asks
//! for a file and reads nothing of it would keep its connection for ever, and so would one of HTTP/2 that asks
//! nothing more.
//!
//! The socket and the answers note what happens to them; the connection's loop looks from time to time. Whether an
//! answer is late because its source is slow is none of this module's business: only the client's part counts.

use std::{
    error::Error,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use hyper::{
    Version,
    body::{Body, Frame, SizeHint},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    ConnectionLimits,
    outgoing::{self, Offer, Outgoing, Wire},
    unread::{Linger, Patience},
};
use crate::body::{Chunks, Taken};

/// What is known of one connection.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    begun: Instant,
    /// The version of its requests, once there was one.
    version: Option<Version>,
    /// Since when the socket takes nothing of what is ready.
    blocked: Option<Instant>,
    /// The answers under way: which, and since when a piece of it was not followed by the wish for another.
    answers: Vec<(u64, Option<Instant>)>,
    next: u64,
    /// Since when no answer is under way.
    idle: Instant,
    /// Since when bytes come that are no request yet, while no answer is under way. Not of HTTP/2, which has more to say.
    heading: Option<Instant>,
    /// The last request's body was left unread.
    unread: bool,
    /// How long a client is listened to after the last answer, if there is something of it to be read.
    patience: Patience,
}

/// Why a connection has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// No request came.
    NeverAsked,
    /// The head of a request does not come to its end.
    SlowHead,
    /// Nothing is under way.
    Idle,
    /// The client takes nothing of what is ready for it.
    NotReading,
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// All is well. Look again then; nothing can be overdue before.
    Again(Instant),
    /// It has to go.
    Overdue(Overdue),
}

impl Activity {
    pub(super) fn new(patience: Patience) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self(Mutex::new(State {
            begun: now,
            version: None,
            blocked: None,
            answers: Vec::new(),
            next: 0,
            idle: now,
            heading: None,
            unread: false,
            patience,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request; its answer is under way until what this returns is dropped.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> Answering {
        let mut state = self.state();
        (state.version, state.heading) = (Some(version), None);
        let number = state.next;
        state.next += 1;
        state.answers.push((number, None));
        Answering { activity: self.clone(), number }
    }

    /// Notes that the request's body was not read to its end, so that its answer is the connection's last.
    pub(super) fn leaves_unread(&self) {
        self.state().unread = true;
    }

    /// Notes that bytes have come.
    fn hears(&self) {
        let mut state = self.state();
        if state.answers.is_empty() && state.version != Some(Version::HTTP_2) {
            state.heading.get_or_insert_with(Instant::now);
        }
    }

    /// Whether the connection has kept us waiting for longer than it may.
    pub(super) fn look(&self, limits: &ConnectionLimits) -> Look {
        let (state, now) = (self.state(), Instant::now());
        let never_asked = state.version.is_none().then_some(state.begun);
        let heading = state.heading.filter(|_| state.version.is_some());
        let is_idle = state.version.is_some() && state.answers.is_empty() && heading.is_none();
        let idle = is_idle.then_some(state.idle);
        let unread = state.answers.iter().filter_map(|(_, since)| *since).chain(state.blocked).min();
        let due = [
            never_asked.map(|since| (since + limits.header_timeout, Overdue::NeverAsked)),
            heading.map(|since| (since + limits.header_timeout, Overdue::SlowHead)),
            idle.map(|since| (since + limits.idle_timeout, Overdue::Idle)),
            unread.map(|since| (since + limits.write_timeout, Overdue::NotReading)),
        ];
        let again = now + limits.header_timeout.min(limits.idle_timeout).min(limits.write_timeout);
        match due.into_iter().flatten().min_by_key(|(at, _)| *at) {
            Some((at, why)) if at <= now => Look::Overdue(why),
            Some((at, _)) => Look::Again(at.min(again)),
            None => Look::Again(again),
        }
    }
}

/// An answer under way.
#[derive(Debug)]
pub(super) struct Answering {
    activity: Arc<Activity>,
    number: u64,
}

impl Answering {
    fn note(&self, since: Option<Instant>) {
        let mut state = self.activity.state();
        if let Some(answer) = state.answers.iter_mut().find(|(number, _)| *number == self.number) {
            answer.1 = since;
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.answers.retain(|(number, _)| *number != self.number);
        if state.answers.is_empty() {
            state.idle = Instant::now();
        }
    }
}

/// An answer's body. hyper asks for a piece only when there is room for it.
#[derive(Debug)]
pub(super) struct Watched<B> {
    body: B,
    answering: Answering,
    /// Where its spans are laid; `None` where the socket can't send them.
    offer: Option<Offer>,
}

impl<B> Watched<B> {
    pub(super) fn new(body: B, answering: Answering, offer: Option<Offer>) -> Self {
        Self { body, answering, offer }
    }
}

impl<B: Chunks<Error: Error + Send + Sync + 'static> + Unpin> Body for Watched<B> {
    type Data = Outgoing;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Outgoing>, Self::Error>>> {
        let this = self.get_mut();
        let taken = if this.offer.is_some() { Taken::Spans } else { Taken::Bytes };
        let chunk = this.body.poll_chunk(cx, taken);
        // While there is no piece, it is the client who waits.
        this.answering.note(chunk.is_ready().then(Instant::now));
        Poll::Ready(ready!(chunk).map(|chunk| Ok(Frame::data(Outgoing::new(chunk?, this.offer.as_ref())?))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_to_come()
    }
}

/// A socket that notes when it takes nothing, and whose end waits for a client that still sends.
#[derive(Debug)]
pub(super) struct Socket<S> {
    stream: S,
    activity: Arc<Activity>,
    offer: Offer,
    is_blocked: bool,
    /// Our side has ended.
    linger: Option<Linger>,
}

impl<S> Socket<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>, offer: Offer) -> Self {
        Self { stream, activity, offer, is_blocked: false, linger: None }
    }

    fn note<T>(&mut self, outcome: Poll<T>) -> Poll<T> {
        if outcome.is_pending() != self.is_blocked {
            self.is_blocked = outcome.is_pending();
            self.activity.state().blocked = self.is_blocked.then(Instant::now);
        }
        outcome
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (this, before) = (self.get_mut(), buffer.filled().len());
        let outcome = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            this.activity.hears();
        }
        outcome
    }
}

impl<S: Wire> AsyncWrite for Socket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.note(outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = outgoing::poll_write(&mut this.stream, &this.offer, cx, slices);
        this.note(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        this.note(outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            let outcome = Pin::new(&mut this.stream).poll_shutdown(cx);
            ready!(this.note(outcome))?;
            let patience = {
                let state = this.activity.state();
                // A head that makes no sense is answered too, perhaps before all of it has come.
                (state.unread || state.heading.is_some()).then_some(state.patience)
            };
            let Some(patience) = patience else { return Poll::Ready(Ok(())) };
            this.linger = Some(Linger::new(patience));
        }
        let Some(linger) = &mut this.linger else { return Poll::Ready(Ok(())) };
        linger.poll(&mut this.stream, cx).map(Ok)
    }
}
