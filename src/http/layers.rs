//! What surrounds every request: its id, and the one line that the access log has of it.
//!
//! The line is written when the answer's body has ended, broken off, or was left by the client; it has no
//! query and no token.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::SizeHint;

use super::Payload;
use crate::{
    body::{Chunk, Chunks, Taken},
    gateway::{BodyError, Cached},
    hub::{Commit, Repo, RepoPath},
    telemetry::{AccessLog, Family, status_class},
};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_AMZN_TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");
/// Longest request id of a client's that we take over.
const LONGEST_ID: usize = 128;
/// How much of a User-Agent the log shows.
const AGENT_SHOWN: usize = 80;

/// Makes request ids: random for the process, counted within it.
#[derive(Debug)]
pub(super) struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        let (process, _) = uuid::Uuid::new_v4().as_u64_pair();
        Self { process, next: AtomicU64::new(0) }
    }

    /// The id of a request: the client's own `X-Request-Id`, else a new one; then, as on the Hub, `;` and
    /// the client's `X-Amzn-Trace-Id` where it sent one (PROTOCOL 3.2).
    pub(super) fn of(&self, headers: &HeaderMap) -> HeaderValue {
        let sane = |value: &&HeaderValue| {
            (1..=LONGEST_ID).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        let own = headers.get(X_REQUEST_ID).filter(sane);
        let trace = headers.get(X_AMZN_TRACE_ID).filter(sane);
        if let (Some(own), None) = (own, trace) {
            return own.clone();
        }
        let mut id = own.map_or_else(
            || {
                // Both parts as hex digits, at a fraction of what `format!` takes.
                let mut id = vec![0; 32];
                let (process, number) = id.split_at_mut(16);
                let _ = hex::encode_to_slice(self.process.to_be_bytes(), process);
                let _ = hex::encode_to_slice(self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes(), number);
                id
            },
            |own| own.as_bytes().to_vec(),
        );
        if let Some(trace) = trace {
            id.push(b';');
            id.extend_from_slice(trace.as_bytes());
        }
        HeaderValue::from_maybe_shared(Bytes::from(id)).unwrap_or(HeaderValue::from_static("-"))
    }
}

/// What is known of one request; handlers add what they learn.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) started: Instant,
    pub(super) id: HeaderValue,
    pub(super) address: IpAddr,
    pub(super) client: Option<Arc<str>>,
    pub(super) method: Method,
    pub(super) agent: Option<HeaderValue>,
    pub(super) route: &'static str,
    /// Whether it was for the Hub rather than for our own pages.
    pub(super) is_hubs: bool,
    /// The origin of the page that may read the answer.
    pub(super) leave: Option<HeaderValue>,
    pub(super) repo: Option<Repo>,
    pub(super) commit: Option<Commit>,
    pub(super) path: Option<RepoPath>,
    pub(super) outcome: Outcome,
    /// The error's own text, where there was one.
    pub(super) reason: Option<String>,
}

/// Where the answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// No file was sent.
    None,
    /// None either, and an older look at the revision answered: the origin could not be asked.
    Stale,
    /// A file was, from there.
    Sent(Cached),
    /// Policy refused.
    Denied,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Stale => "stale",
            Self::Sent(Cached::Hit) => "hit",
            Self::Sent(Cached::Fill) => "fill",
            Self::Sent(Cached::Joined) => "joined",
            Self::Denied => "denied",
        }
    }
}

impl Visit {
    /// Notes the commit that the answer is about, and whether an older look at the revision led to it.
    pub(super) fn about(&mut self, commit: Commit, stale: bool) {
        self.commit = Some(commit);
        if stale {
            self.outcome = Outcome::Stale;
        }
    }

    fn log(&self, log: &AccessLog, status: StatusCode, bytes: u64, ended: &'static str, error: Option<&str>) {
        log.write(|line| {
            match &self.client {
                Some(name) => line.text("client", name),
                None => line.text("client", self.address),
            }
            line.text("method", &self.method);
            line.word("route", self.route);
            if let Some(repo) = &self.repo {
                line.text("repo", repo);
            }
            if let Some(commit) = &self.commit {
                line.text("commit", commit);
            }
            if let Some(path) = &self.path {
                line.text("path", path);
            }
            line.number("status", status.as_u16());
            line.number("bytes", bytes);
            line.word("cache", self.outcome.name());
            line.word("ended", ended);
            line.number("duration_ms", u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX));
            line.text("request_id", self.id.to_str().unwrap_or("-"));
            if let Some(agent) = self.agent.as_ref().and_then(|agent| agent.to_str().ok()) {
                line.text("agent", agent.get(..AGENT_SHOWN).unwrap_or(agent));
            }
            if let Some(reason) = error.or(self.reason.as_deref()) {
                line.text("reason", reason);
            }
        });
    }
}

/// What has been answered since the start, for metrics. Our own pages are not counted.
#[derive(Debug)]
pub struct Traffic {
    /// Answers that are over, by where they came from and status.
    pub(super) requests: Family<2>,
    /// Bytes of bodies.
    pub(super) bytes: AtomicU64,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { requests: Family::new(["outcome", "status"]), bytes: AtomicU64::default() }
    }
}

/// Where it is kept what answers came to.
#[derive(Debug, Clone)]
pub(super) struct Books {
    pub(super) access: AccessLog,
    pub(super) traffic: Arc<Traffic>,
}

/// An answer's body that counts what goes out, and writes the access line when it is over.
#[derive(Debug)]
pub struct Counted {
    payload: Payload,
    /// `None` once the line is written.
    visit: Option<Box<Visit>>,
    books: Books,
    status: StatusCode,
    /// Bytes that will go out, where that is known: none for HEAD.
    expected: Option<u64>,
    sent: u64,
}

impl Counted {
    /// `length` is what the answer announces.
    pub(super) fn new(
        payload: Payload,
        visit: Box<Visit>,
        books: Books,
        status: StatusCode,
        length: Option<u64>,
    ) -> Self {
        let expected =
            if visit.method == Method::HEAD { Some(0) } else { length.or_else(|| payload.size_to_come().exact()) };
        Self { payload, visit: Some(visit), books, status, expected, sent: 0 }
    }

    fn finish(&mut self, ended: &'static str, error: Option<&str>) {
        if let Some(visit) = self.visit.take() {
            visit.log(&self.books.access, self.status, self.sent, ended, error);
            if visit.is_hubs {
                self.books.traffic.requests.count([visit.outcome.name(), status_class(self.status.as_u16())]);
                self.books.traffic.bytes.fetch_add(self.sent, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // hyper stops asking once it has as many bytes as it announced.
        self.finish(if self.expected == Some(self.sent) { "whole" } else { "left" }, None);
    }
}

impl Chunks for Counted {
    type Error = BodyError;

    fn poll_chunk(&mut self, cx: &mut Context<'_>, taken: Taken) -> Poll<Option<Result<Chunk, BodyError>>> {
        let chunk = std::task::ready!(self.payload.poll_chunk(cx, taken));
        match &chunk {
            Some(Ok(chunk)) => self.sent += chunk.len() as u64,
            Some(Err(error)) => self.finish("broken", Some(&error.to_string())),
            None => self.finish("whole", None),
        }
        Poll::Ready(chunk)
    }

    fn is_over(&self) -> bool {
        self.payload.is_over()
    }

    fn size_to_come(&self) -> SizeHint {
        self.payload.size_to_come()
    }
}

/// The client's User-Agent, for [`Visit::agent`] and for choosing what it understands.
pub(super) fn agent(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(header::USER_AGENT)
}
