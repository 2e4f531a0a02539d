//! What a client sees of an error, made into a response: the forms that the Hub's clients understand
//! (PROTOCOL 5). Which error has which status stands in [`super::error`].

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use serde_json::json;

use super::{Payload, Shared};
use crate::{
    gateway::Refusal,
    hub::{ClientKind, Commit},
    policy::RefusalForm,
};

/// Longest text in a header; longer ones are cut. Some clients and proxies stop at 8 KiB for all headers.
const LONGEST_MESSAGE: usize = 1000;

/// How errors look to this client on this route.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// `policy.refusal`.
    pub(super) refusal: RefusalForm,
    /// Which client asks.
    pub(super) client: ClientKind,
    /// Whether this is below `/api`: errors are JSON there, text elsewhere.
    pub(super) api: bool,
    /// Whether this is a GET; clients retry other errors on it than on HEAD.
    pub(super) get: bool,
}

impl Shared {
    /// `path` is without the prefix of `public_url`.
    pub(super) fn form(&self, parts: &Parts, path: &str) -> Form {
        let agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        Form {
            refusal: self.refusal,
            client: ClientKind::of(agent),
            api: super::hub::is_api(path),
            get: parts.method == http::Method::GET,
        }
    }
}

/// What a client sees of an error.
#[derive(Debug)]
pub(super) struct Face {
    pub(super) status: StatusCode,
    pub(super) code: Option<&'static str>,
    pub(super) message: String,
    pub(super) commit: Option<Commit>,
    pub(super) retry_after: Option<Duration>,
    pub(super) refusal: Option<Refusal>,
}

impl Face {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, code: None, message: message.into(), commit: None, retry_after: None, refusal: None }
    }

    pub(super) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Worth trying again.
    pub(super) fn later(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The answer; `api` where errors are JSON.
    pub(super) fn respond(self, api: bool) -> Response<Payload> {
        let message = one_line(&self.message);
        let (body, kind) = if api || self.refusal.is_some() {
            let mut body = json!({ "error": message });
            if let Some(rule) = self.refusal.as_ref().and_then(|refusal| refusal.rule.as_ref()) {
                body["rule"] = json!(rule);
            }
            (body.to_string(), "application/json; charset=utf-8")
        } else {
            (message.clone(), "text/plain; charset=utf-8")
        };
        let length = body.len();
        let mut response = Response::new(Payload::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CONTENT_LENGTH, length.into());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::VARY, HeaderValue::from_static("Authorization, User-Agent"));
        if let Some(code) = self.code {
            headers.insert("x-error-code", HeaderValue::from_static(code));
        }
        if let Some(commit) = self.commit
            && let Ok(commit) = HeaderValue::try_from(commit.to_string())
        {
            headers.insert("x-repo-commit", commit);
        }
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, after.as_secs().max(1).into());
        }
        if self.refusal.is_some()
            && let Some(warning) = warning_header(&message)
        {
            headers.insert("x-hf-warning", warning);
        }
        if let Ok(message) = HeaderValue::try_from(message) {
            headers.insert("x-error-message", message);
        }
        response
    }
}

/// One line of printable ASCII, as a header takes it.
pub(super) fn one_line(text: &str) -> String {
    let plain = |c: char| match c {
        ' '..='~' => c,
        c if c.is_whitespace() || c.is_control() => ' ',
        _ => '?',
    };
    text.chars().take(LONGEST_MESSAGE).map(plain).collect()
}

/// `X-HF-Warning`: a topic, which clients show once a process, and the text.
pub(super) fn warning_header(warning: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("policy; {}", one_line(warning))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_one_line_of_ascii_in_headers() {
        let refusal = Refusal {
            text: "no\r\nX-Forged: 1\t\u{e9}\u{7f}".into(),
            rule: Some("r".into()),
            kind: None,
            denial: None,
        };
        let mut face = Face::new(StatusCode::FORBIDDEN, refusal.text.clone());
        face.refusal = Some(refusal);
        let response = face.respond(true);
        assert_eq!(response.headers()["x-error-message"], "no  X-Forged: 1 ? ");
        assert_eq!(response.headers()["x-hf-warning"], "policy; no  X-Forged: 1 ? ");
        assert!(!response.headers().contains_key("x-forged"));
        assert_eq!(one_line(&"x".repeat(5000)).len(), LONGEST_MESSAGE);
    }
}
