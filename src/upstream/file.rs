//! A file's bytes: one signed URL for a whole fill, ranges checked against what was asked.

use std::{
    ops::Range,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use futures_util::{Stream, StreamExt as _};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE},
};
use time::{OffsetDateTime, PrimitiveDateTime, macros::format_description};
use url::Url;

use super::{
    Error, ErrorKind, Purpose, Result, Upstream,
    backoff::Backoff,
    body::Body,
    exchange::{Answer, Ask, Lane, shown},
    refusal::is_page,
};
use crate::hub::{Commit, HubRoute, Repo, RepoPath};

/// A signed URL is not used in the last moments of its life.
const MARGIN: Duration = Duration::from_secs(30);

/// A file at the origin. Keep one for a whole fill: it remembers where the CDN has it, and asks the Hub,
/// which counts such questions, again only when that place refuses.
#[derive(Debug)]
pub struct OriginFile {
    upstream: Arc<Upstream>,
    route: HubRoute,
    /// Whether nobody waits for it.
    can_wait: AtomicBool,
    signed: Mutex<Option<Url>>,
}

/// What is asked of a file.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    start: u64,
    end: u64,
    total: u64,
}

impl Upstream {
    /// A file to open; nothing is asked yet.
    pub fn file(self: &Arc<Self>, repo: &Repo, commit: Commit, path: &RepoPath) -> OriginFile {
        OriginFile {
            upstream: self.clone(),
            route: HubRoute::Resolve { repo: repo.clone(), revision: commit.into(), path: path.clone() },
            can_wait: AtomicBool::new(false),
            signed: Mutex::default(),
        }
    }
}

impl OriginFile {
    /// The same file for work that nobody waits for.
    #[must_use]
    pub fn for_purpose(self, purpose: Purpose) -> Self {
        Self { can_wait: AtomicBool::new(purpose == Purpose::Background), ..self }
    }

    /// A client waits for it from now on: the next request for it may use the whole budget.
    pub fn hurry(&self) {
        self.can_wait.store(false, Ordering::Relaxed);
    }

    /// Whether a further request for it would begin at once.
    pub fn has_room(&self) -> bool {
        self.upstream.exchange.files.available_permits() > 0
    }

    fn purpose(&self) -> Purpose {
        if self.can_wait.load(Ordering::Relaxed) { Purpose::Background } else { Purpose::Client }
    }

    /// Opens the bytes of `range` of a file of `total` bytes. `open_ended` asks for everything from
    /// `range.start` on, as one request that can go on to the end of the file; the body then has
    /// `total - range.start` bytes whatever `range.end` says.
    ///
    /// Retries the opening only. An origin whose size differs from `total` is [`ErrorKind::WrongSize`].
    pub async fn open(&self, range: Range<u64>, total: u64, open_ended: bool) -> Result<OriginBody> {
        self.upstream.check_online()?;
        let wanted = Wanted { start: range.start, end: if open_ended { total } else { range.end }, total };
        if wanted.start > wanted.end || wanted.end > total {
            return Err(Error::malformed(format!("bytes {range:?} of a file of {total}")));
        }
        let mut backoff = Backoff::default();
        loop {
            let result = self.open_once(wanted, open_ended).await;
            self.upstream.record.note(&result);
            match result {
                Err(error) if backoff.wait_after(&error).await => {}
                result => return result,
            }
        }
    }

    async fn open_once(&self, wanted: Wanted, open_ended: bool) -> Result<OriginBody> {
        let mut ask = self.upstream.question(&self.route, self.purpose())?;
        ask.lane = Lane::Files;
        ask.range = wanted.header(open_ended);
        let signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(url) = signed.filter(|url| !is_expiring(url, OffsetDateTime::now_utc())) {
            let again = Ask { url: url.clone(), ..ask.clone() };
            match self.ask(&again, wanted).await {
                Ok(body) => return Ok(body),
                Err(error) => {
                    // Expired, revoked, or a CDN host in trouble: the Hub will name a place that is good now.
                    tracing::debug!(%error, "a signed URL is used up");
                    let mut known = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
                    if known.as_ref() == Some(&url) {
                        *known = None;
                    }
                }
            }
        }
        self.ask(&ask, wanted).await
    }

    async fn ask(&self, ask: &Ask, wanted: Wanted) -> Result<OriginBody> {
        let answer = self.upstream.exchange.ask(ask).await?;
        if answer.is_elsewhere {
            *self.signed.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer.url.clone());
        }
        let shown = shown(&ask.method, &answer.url);
        OriginBody::begin(answer, wanted, &shown).await.map_err(|error| error.asking(&shown))
    }
}

impl Wanted {
    /// Nothing for the whole file: there the answer needs no 206.
    fn header(self, open_ended: bool) -> Option<HeaderValue> {
        let Self { start, end, total } = self;
        if start == end || (start == 0 && end == total) {
            return None;
        }
        let text = if open_ended { format!("bytes={start}-") } else { format!("bytes={start}-{}", end - 1) };
        HeaderValue::try_from(text).ok()
    }
}

/// Bytes of a file on their way. Ends after exactly the bytes that were asked for, or with an error: never
/// short, never with more.
pub struct OriginBody {
    body: Option<Body>,
    host: String,
    shown: String,
    /// Of a whole file that came instead of a range.
    to_skip: u64,
    skipped: u64,
    left: u64,
    /// Whether the answer ends where we do.
    ends_with_us: bool,
}

impl OriginBody {
    async fn begin(answer: Answer, wanted: Wanted, shown: &str) -> Result<Self> {
        let Wanted { start, end, total } = wanted;
        if let Some(encoding) = answer.header(&CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            return Err(Error::malformed(format!("a file in encoding {encoding:?}, which was not asked for")));
        }
        let length: Option<u64> = answer.header(&CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let (first, last_and_one) = match answer.status {
            StatusCode::PARTIAL_CONTENT => {
                let stated = answer.header(&CONTENT_RANGE).unwrap_or_default().to_owned();
                let parsed = parse_content_range(&stated);
                if let Some((_, Some(size))) = parsed.as_ref().filter(|(_, size)| *size != Some(total)) {
                    return Err(wrong_size(*size, total));
                }
                if parsed.is_none_or(|(part, _)| part != (start..end)) {
                    let problem = format!("Content-Range {stated:?} for bytes {start} to {end} of {total}");
                    return Err(Error::malformed(problem));
                }
                (start, end)
            }
            StatusCode::OK => (0, total),
            status => return Err(Error::malformed(format!("{status} for a file"))),
        };
        if let Some(length) = length.filter(|length| *length != last_and_one - first) {
            if is_page(&answer.headers) {
                return Err(answer.into_page_error().await);
            }
            if answer.status == StatusCode::OK {
                return Err(wrong_size(length, total));
            }
            let problem = format!("{length} bytes announced for bytes {first} to {last_and_one} of {total}");
            return Err(Error::malformed(problem));
        }
        Ok(Self {
            host: answer.url.host_str().unwrap_or_default().to_owned(),
            shown: shown.to_owned(),
            body: Some(answer.body),
            to_skip: start - first,
            skipped: 0,
            left: end - start,
            ends_with_us: end == last_and_one,
        })
    }

    /// The next bytes, never empty; `None` after the last. Safe to cancel.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.next().await.transpose()
    }

    /// The host that the bytes come from, for the manifest.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Bytes that crossed the egress for nothing so far, since the origin ignored the range.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Bytes still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        loop {
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            if self.left == 0 && (!self.ends_with_us || body.is_end()) {
                return Poll::Ready(None);
            }
            let mut data = match std::task::ready!(body.poll_data(cx)) {
                Some(data) => data?,
                None if self.left == 0 => return Poll::Ready(None),
                None => {
                    let short = format!("the body ended {} bytes early", self.left);
                    return Poll::Ready(Some(Err(Error::new(ErrorKind::Unreachable).because(short))));
                }
            };
            let skip = self.to_skip.min(data.len() as u64);
            data.advance(usize::try_from(skip).unwrap_or(usize::MAX));
            self.to_skip -= skip;
            self.skipped += skip;
            if data.is_empty() {
                continue;
            }
            if data.len() as u64 > self.left {
                if self.ends_with_us {
                    let problem = "more bytes than the file has".to_owned();
                    return Poll::Ready(Some(Err(Error::new(ErrorKind::WrongSize(problem)))));
                }
                data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            }
            self.left -= data.len() as u64;
            return Poll::Ready(Some(Ok(data)));
        }
    }
}

impl Stream for OriginBody {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.poll(cx));
        if !matches!(next, Some(Ok(_))) {
            // The end, good or bad: the connection is free.
            self.body = None;
        }
        Poll::Ready(next.map(|data| data.map_err(|error| error.asking(&self.shown))))
    }
}

impl std::fmt::Debug for OriginBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OriginBody").field("host", &self.host).field("left", &self.left).finish_non_exhaustive()
    }
}

fn wrong_size(size: u64, total: u64) -> Error {
    Error::new(ErrorKind::WrongSize(format!("{size} bytes, and {total} were announced")))
}

/// `bytes 0-499/1234` or `bytes 0-499/*`.
fn parse_content_range(value: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (part, size) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let range = first.trim().parse().ok()?..last.trim().parse::<u64>().ok()?.checked_add(1)?;
    let size = match size.trim() {
        "*" => None,
        size => Some(size.parse().ok()?),
    };
    Some((range, size))
}

/// Whether a signed URL says itself that its time is over: `Expires` of one CDN, `X-Amz-Date` and
/// `X-Amz-Expires` of the other (PROTOCOL 13). One that says nothing is tried.
fn is_expiring(url: &Url, now: OffsetDateTime) -> bool {
    let query = |key: &str| url.query_pairs().find(|(name, _)| name == key).map(|(_, value)| value.into_owned());
    let of_cloudfront = || OffsetDateTime::from_unix_timestamp(query("Expires")?.parse().ok()?).ok();
    let of_sigv4 = || {
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let signed = PrimitiveDateTime::parse(&query("X-Amz-Date")?, &format).ok()?.assume_utc();
        signed.checked_add(time::Duration::seconds(query("X-Amz-Expires")?.parse().ok()?))
    };
    of_cloudfront().or_else(of_sigv4).is_some_and(|expires| expires - MARGIN < now)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn content_range_is_read_strictly() {
        assert_eq!(parse_content_range("bytes 0-499/1234"), Some((0..500, Some(1234))));
        assert_eq!(parse_content_range("bytes 5-5/*"), Some((5..6, None)));
        for bad in ["", "bytes */10", "bytes=0-1/2", "items 0-1/2", "bytes 0-18446744073709551615/*", "bytes 0-1/x"] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_signed_url_near_its_end_is_not_used() {
        let now = datetime!(2026-11-24 06:00 UTC);
        let of = |query: &str| is_expiring(&Url::parse(&format!("https://cdn/x?{query}")).unwrap(), now);
        assert!(of(&format!("Expires={}", (now + Duration::from_secs(10)).unix_timestamp())));
        assert!(!of(&format!("Expires={}", (now + Duration::from_secs(100)).unix_timestamp())));
        assert!(of("X-Amz-Date=20261124T050000Z&X-Amz-Expires=3600"));
        assert!(!of("X-Amz-Date=20261124T055900Z&X-Amz-Expires=3600"));
        assert!(!of("sig=abc"));
    }
}
