//! Leave for web pages of any origin to read what the Hub's own API gives them, as the Hub does.
//!
//! Without it a browser keeps the answers from huggingface.js and transformers.js. Any origin is safe: nothing here
//! depends on cookies, which `*` leaves out, and whoever sends a token has it. Our own pages are not part of it.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};

use super::Payload;

/// What scripts may see of an answer beside its body: the Hub's list without Xet, and what hubgate adds.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,X-Total-Count,X-HF-Warning,ETag,Link,Accept-Ranges,\
     Content-Range,Content-Disposition,X-Linked-Size,X-Linked-ETag,Retry-After",
);

/// The longest list of headers that a page may ask for.
const LONGEST_LIST: usize = 1024;

/// Lets every page read the answer.
pub(super) fn open(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
}

/// The answer to a browser that asks before it asks. It sends no token with it, so all are answered.
pub(super) fn preflight(parts: &Parts) -> Response<Payload> {
    let mut response = Response::new(Payload::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET,HEAD,POST,OPTIONS"));
    // `*` would not mean Authorization, so what is asked for is named, as the Hub does.
    let asked = parts.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    if let Some(asked) = asked.filter(|asked| asked.len() <= LONGEST_LIST && asked.to_str().is_ok()) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    headers.insert(header::VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
    response
}
