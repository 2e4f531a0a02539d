//! Files: which headers say what they are, and which bytes follow.
//!
//! The rules are PROTOCOL section 3's, each with the client that breaks without it:
//! - HEAD and GET have the same headers; Content-Length is true on HEAD, or 0.36 and later store empty files;
//! - a branch or tag is answered by a **relative** 307 to the same file at its commit, so that a HEAD and the
//!   GET after it see one commit; the metadata stands on both hops, and `X-Linked-Size` too, since 0.x
//!   clients would take the redirect's own length for the file's;
//! - `Location` stands on that 307 alone: Python follows it on any status;
//! - nothing of Xet, whatever the client would accept.

use std::{borrow::Cow, fmt::Write as _, ops::Range, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use time::OffsetDateTime;

use super::{
    Ask, Payload, Shared, error, face,
    hub::{Answer, Refused},
    layers::{Outcome, Visit},
    shown::Shown,
};
use crate::{
    gateway::{File, Located, OnWhole, Opening},
    hub::{
        BlobId, ByteRange, Condition, HubRoute, RangeError, Repo, RepoPath, Revision, Selected, SizeRule,
        content_range, if_range_holds, lfs_pointer, unsatisfied_content_range,
    },
};

const X_REPO_COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");
const X_LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
const X_LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");
const X_HF_WARNING: HeaderName = HeaderName::from_static("x-hf-warning");
const X_HF_DOWNLOAD_COUNTER: HeaderName = HeaderName::from_static("x-hf-download-counter");
const X_ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");

/// A file as a URL names it.
pub(super) struct Wanted<'r> {
    pub(super) repo: &'r Repo,
    pub(super) revision: &'r Revision,
    pub(super) path: &'r RepoPath,
    /// As git has it: the pointer's text, for an LFS file.
    pub(super) raw: bool,
}

/// The bytes that an answer is about: the file's, or its pointer's.
pub(super) struct Content {
    etag: BlobId,
    size: u64,
    linked: bool,
    /// The bytes themselves, where they are made here.
    text: Option<String>,
}

impl Shared {
    /// Answers HEAD and GET of a file.
    pub(super) async fn file(&self, ask: &Ask<'_>, wanted: &Wanted<'_>, visit: &mut Visit) -> Answer {
        let day = OffsetDateTime::now_utc().date();
        let located = self.gateway.locate(&ask.asker, wanted.repo, wanted.revision, wanted.path).await?;
        let is_here = matches!(located, Located::Here(_));
        let file = match located {
            Located::Here(file) => file,
            Located::Elsewhere(file) => {
                visit.about(file.commit, file.stale);
                // Another spelling at a full sha is served in place: sent on, it would come back.
                if wanted.revision.as_commit() != Some(file.commit) {
                    return self.redirect(ask, wanted, &file, visit);
                }
                file
            }
        };
        visit.commit = Some(file.commit);
        let content = Content::of(&file, wanted.raw);
        let headers = metadata(ask, &file, &content);
        let shown = Arc::new(Shown { route: visit.route, file, content, headers, day });
        if is_here && self.gateway.shows_still(&shown.file, day) {
            Box::pin(self.shown.keep(ask.parts, shown.clone())).await;
        }
        self.send(ask, &shown, visit).await
    }

    /// Answers with a file that was found: what of it this request wants.
    pub(super) async fn send(&self, ask: &Ask<'_>, shown: &Shown, visit: &mut Visit) -> Answer {
        let Shown { file, content, .. } = shown;
        let mut headers = shown.headers.clone();

        let asked = &ask.parts.headers;
        match Condition::of(
            joined(asked, &header::IF_MATCH).as_deref(),
            joined(asked, &header::IF_NONE_MATCH).as_deref(),
            &content.etag,
        ) {
            Condition::Met => {}
            Condition::NotModified => return Ok(answer(StatusCode::NOT_MODIFIED, headers, Payload::Empty)),
            Condition::Failed => {
                headers.insert(header::CONTENT_LENGTH, 0.into());
                return Ok(answer(StatusCode::PRECONDITION_FAILED, headers, Payload::Empty));
            }
        }
        let range = match byte_range(ask, &content.etag) {
            Ok(range) => range,
            Err(problem) => {
                insert(&mut headers, X_ERROR_MESSAGE, face::one_line(&problem.to_string()));
                return Ok(unsatisfiable(headers, content.size));
            }
        };
        let part = match range.map(|range| range.select(content.size)) {
            None => None,
            Some(Selected::Part(part)) => Some(part),
            Some(Selected::Empty) => {
                insert(&mut headers, header::CONTENT_RANGE, unsatisfied_content_range(0));
                None
            }
            Some(Selected::Unsatisfiable) => return Ok(unsatisfiable(headers, content.size)),
        };

        if ask.parts.method == Method::HEAD {
            let announce = announced(ask, content.size, visit)?;
            let status = cover(&mut headers, None, content.size, announce);
            return Ok(answer(status, headers, Payload::Empty));
        }
        if let Some(text) = content.text.clone() {
            let status = cover(&mut headers, part.as_ref(), content.size, true);
            let bytes = bytes::Bytes::from(text);
            // A pointer is some 130 bytes long.
            let cut = |part: Range<u64>| Some(usize::try_from(part.start).ok()?..usize::try_from(part.end).ok()?);
            let bytes = part.and_then(cut).and_then(|part| Some(bytes.slice_ref(bytes.get(part)?))).unwrap_or(bytes);
            return Ok(answer(status, headers, Payload::Full(bytes)));
        }
        let opening = Opening {
            range: part.clone(),
            rest: range.is_some_and(ByteRange::continues).then(|| on_whole(ask)),
            asked_at: visit.started,
        };
        let opened = self.gateway.open(&ask.asker, file, opening).await?;
        visit.outcome = Outcome::Sent(opened.cached);
        // The gateway may answer a range with the whole file (taint, DESIGN section 5): then it is a 200.
        let whole = 0..content.size;
        let sent = (opened.range != whole || part.as_ref() == Some(&whole)).then_some(opened.range);
        let status = cover(&mut headers, sent.as_ref(), content.size, true);
        Ok(answer(status, headers, Payload::File(opened.body)))
    }

    /// The relative 307 to the same file at its commit, with the prefix that clients see and their query.
    fn redirect(&self, ask: &Ask<'_>, wanted: &Wanted<'_>, file: &File, visit: &mut Visit) -> Answer {
        let content = Content::of(file, wanted.raw);
        let announce = announced(ask, content.size, visit)?;
        let (repo, revision, path) = (wanted.repo.clone(), Revision::from(file.commit), wanted.path.clone());
        let target = if wanted.raw {
            HubRoute::Raw { repo, revision, path }
        } else {
            HubRoute::Resolve { repo, revision, path }
        };
        let mut location = format!("{}{target}", self.addresses.prefix());
        if let Some(query) = ask.parts.uri.query() {
            let _ = write!(location, "?{query}");
        }
        let mut headers = metadata(ask, file, &content);
        insert(&mut headers, header::LOCATION, location);
        insert(&mut headers, X_LINKED_ETAG, quoted(&content.etag));
        if announce {
            headers.insert(X_LINKED_SIZE, content.size.into());
        } else {
            headers.remove(X_LINKED_SIZE);
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let body = format!("Temporary Redirect. Redirecting to commit {}\n", file.commit);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::CONTENT_LENGTH, body.len().into());
        Ok(answer(StatusCode::TEMPORARY_REDIRECT, headers, Payload::from(body)))
    }
}

/// Whether to announce the size on HEAD. Clients that refuse a large one over plain HTTP go on where none
/// is announced, or can't be helped (DESIGN section 7). That is what they do with HEAD's answer when they download:
/// the same versions stream and read ranges of files of any size, for which they send GET alone.
fn announced(ask: &Ask<'_>, size: u64, visit: &mut Visit) -> Result<bool, Refused> {
    if size <= SizeRule::LIMIT_BYTES {
        return Ok(true);
    }
    match ask.form.client.refuses_size_over_50gb() {
        SizeRule::OmitSize => Ok(false),
        SizeRule::Refuses if ask.parts.method == Method::HEAD => {
            Err(Refused::from(error::too_large_for_client(size, &ask.form, visit)))
        }
        SizeRule::Fine | SizeRule::Refuses => Ok(true),
    }
}

/// What this client makes of a whole file where it asked for the rest. `HfFileSystem`, which datasets streams through,
/// looks at no status; the versions of its library that mark their downloads are told from it by that mark.
fn on_whole(ask: &Ask<'_>) -> OnWhole {
    if ask.form.client.marks_downloads() && !ask.parts.headers.contains_key(X_HF_DOWNLOAD_COUNTER) {
        OnWhole::TakesItForTheRest
    } else {
        OnWhole::StartsOver
    }
}

impl Content {
    fn of(file: &File, raw: bool) -> Self {
        match (file.blob, raw) {
            (BlobId::Sha256(sha256), true) => {
                let text = lfs_pointer(&sha256, file.size);
                Self { etag: BlobId::Git(file.oid), size: text.len() as u64, linked: false, text: Some(text) }
            }
            (etag, _) => Self { etag, size: file.size, linked: matches!(etag, BlobId::Sha256(_)), text: None },
        }
    }
}

/// What a file is: the headers of all its answers.
fn metadata(ask: &Ask<'_>, file: &File, content: &Content) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(16);
    insert(&mut headers, X_REPO_COMMIT, file.commit.to_string());
    let etag = quoted(&content.etag);
    if content.linked {
        insert(&mut headers, X_LINKED_ETAG, etag.clone());
        headers.insert(X_LINKED_SIZE, content.size.into());
    }
    insert(&mut headers, header::ETAG, etag);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Policy is asked on every request, so whoever keeps this must ask again.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("Authorization"));
    let kind = if content.linked { "application/octet-stream" } else { "text/plain; charset=utf-8" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // A repo's files are strangers' content on our origin, where the UI will be.
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(disposition) = disposition(&file.path, ask.parts.uri.query()) {
        insert(&mut headers, header::CONTENT_DISPOSITION, disposition);
    }
    if let Some(warning) = file.warning.as_ref().and_then(|warning| face::warning_header(warning)) {
        headers.insert(X_HF_WARNING, warning);
    }
    headers
}

/// The range that counts, if one does. On HEAD none does (RFC 9110 section 14.2).
fn byte_range(ask: &Ask<'_>, etag: &BlobId) -> Result<Option<ByteRange>, RangeError> {
    let headers = &ask.parts.headers;
    let Some(range) = joined(headers, &header::RANGE) else { return Ok(None) };
    if ask.parts.method == Method::HEAD || !if_range_holds(joined(headers, &header::IF_RANGE).as_deref(), etag) {
        return Ok(None);
    }
    ByteRange::parse(&range)
}

/// The text of a header that may come in several lines. Lines that are no text are as none.
fn joined<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, str>> {
    let mut lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    let first = Cow::Borrowed(lines.next()?);
    Some(lines.fold(first, |text, line| Cow::Owned(format!("{text},{line}"))))
}

fn unsatisfiable(mut headers: HeaderMap, size: u64) -> Response<Payload> {
    insert(&mut headers, header::CONTENT_RANGE, unsatisfied_content_range(size));
    headers.insert(header::CONTENT_LENGTH, 0.into());
    answer(StatusCode::RANGE_NOT_SATISFIABLE, headers, Payload::Empty)
}

/// Sets the length, and the range where only a part is sent; says which status that is.
fn cover(headers: &mut HeaderMap, part: Option<&Range<u64>>, size: u64, announce: bool) -> StatusCode {
    if let Some(part) = part {
        headers.insert(header::CONTENT_LENGTH, (part.end - part.start).into());
        insert(headers, header::CONTENT_RANGE, content_range(part, size));
        return StatusCode::PARTIAL_CONTENT;
    }
    if announce {
        headers.insert(header::CONTENT_LENGTH, size.into());
    } else {
        headers.remove(X_LINKED_SIZE);
    }
    StatusCode::OK
}

/// As the Hub writes it; `?download=true` saves, `?noContentDisposition=1` (JavaScript) leaves it out.
fn disposition(path: &RepoPath, query: Option<&str>) -> Option<String> {
    const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    let mut kind = "inline";
    for pair in query.unwrap_or("").split('&') {
        match pair {
            "noContentDisposition=1" | "noContentDisposition=true" => return None,
            "download=true" | "download=1" | "download=True" => kind = "attachment",
            _ => {}
        }
    }
    let name = path.file_name();
    let plain: String =
        name.chars().map(|c| if matches!(c, ' '..='~') && c != '"' && c != '\\' { c } else { '_' }).collect();
    Some(format!("{kind}; filename*=UTF-8''{}; filename=\"{plain}\";", utf8_percent_encode(name, PLAIN)))
}

fn quoted(etag: &BlobId) -> String {
    format!("\"{etag}\"")
}

/// All our values are ASCII without control characters; one that isn't would be left out, not cut short.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

fn answer(status: StatusCode, headers: HeaderMap, payload: Payload) -> Response<Payload> {
    let mut response = Response::new(payload);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
