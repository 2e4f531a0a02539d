//! An answer before it is bytes: status, headers and payload; and the header sets of the real Hub.

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use serde::Serialize;
use sha1::Digest as _;

use crate::ask::Ask;
use crate::body::{self, Body, Outgoing};
use crate::content::Content;
use crate::counters::Origin;
use crate::faults::FaultKind;
use crate::server::Connection;
use crate::state::{Gzip, Window};

/// Headers of the Hub's cross-origin answers.
const EXPOSED: &str = "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,X-Total-Count,ETag,Link,Accept-Ranges,\
                       Content-Range,X-Linked-Size,X-Linked-ETag,X-Xet-Hash";

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(Cow<'static, str>, String)>,
    pub(crate) payload: Payload,
}

pub(crate) enum Payload {
    Text(Bytes),
    File {
        content: Content,
        range: Range<u64>,
        /// Zero bytes after it.
        padding: u64,
    },
}

impl Answer {
    /// With a weak ETag of the body, as the Hub's framework makes it for everything.
    pub(crate) fn text(status: u16, text: impl Into<Bytes>) -> Self {
        let text = text.into();
        let etag = weak_etag(&text);
        Self { status, headers: Vec::new(), payload: Payload::Text(text) }
            .header("content-type", "text/plain; charset=utf-8")
            .header("etag", etag)
    }

    pub(crate) fn json(status: u16, value: &impl Serialize) -> Self {
        let text = serde_json::to_vec(value).unwrap_or_default();
        Self::text(status, text).header("content-type", "application/json; charset=utf-8")
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), payload: Payload::Text(Bytes::new()) }
    }

    /// As the Hub redirects: a line of text says where to.
    pub(crate) fn redirect(status: u16, location: &str) -> Self {
        let words = if status == 302 { "Found" } else { "Temporary Redirect" };
        let text = format!("{words}. Redirecting to {location}");
        Self { status, headers: Vec::new(), payload: Payload::Text(text.into()) }
            .header("content-type", "text/plain; charset=utf-8")
            .header("vary", "Origin, Accept")
            .header("location", location)
    }

    /// Sets a header, in place of one of that name.
    pub(crate) fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    fn len(&self) -> u64 {
        match &self.payload {
            Payload::Text(text) => text.len() as u64,
            Payload::File { range, padding, .. } => range.end - range.start + padding,
        }
    }

    fn is_text(&self) -> bool {
        let kind = self.get("content-type").unwrap_or_default();
        kind.starts_with("text/") || kind.starts_with("application/json")
    }

    /// Compressed, if it is text that the client may get so.
    fn compressed(self, ask: &Ask) -> io::Result<Self> {
        let accepted = ask.header("accept-encoding");
        let trap =
            ask.state.settings.gzip == Gzip::UnlessIdentity || !ask.strike(|kind| *kind == FaultKind::Gzip).is_empty();
        let wanted = if trap {
            accepted.is_none_or(|accepted| accepted.trim() != "identity")
        } else {
            let accepts = accepted.is_some_and(|accepted| accepted.contains("gzip"));
            ask.state.settings.gzip == Gzip::WhenAccepted && accepts && self.len() >= 1024
        };
        if !wanted || self.status != 200 || !(trap || self.is_text()) {
            return Ok(self);
        }
        let plain: Bytes = match &self.payload {
            Payload::Text(text) => text.clone(),
            Payload::File { content, range, .. } => content.read(range.clone())?.into(),
        };
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain)?;
        let packed = encoder.finish()?;
        Ok(Self { payload: Payload::Text(packed.into()), ..self }
            .header("content-encoding", "gzip")
            .header("vary", "Origin, Accept-Encoding"))
    }

    /// Headers that every answer of the Hub has.
    fn dressed(mut self, ask: &Ask, window: &Window) -> Self {
        if ask.origin == Origin::Cdn {
            return self.header("x-hf-cdn-pop", "standin");
        }
        let trace = ask.header("x-amzn-trace-id").map(|trace| format!(";{trace}")).unwrap_or_default();
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = hex::encode(&sha1::Sha1::digest(format!("{seconds:?}{}", ask.path))[..12]);
        let x_cache = if self.status >= 400 { "Error from cloudfront" } else { "Miss from cloudfront" };
        let policy = format!("\"fixed window\";\"{}\";q={};w=300", window.name, window.quota);
        for (name, value) in [
            ("x-powered-by", "huggingface-moon".to_owned()),
            ("x-request-id", format!("Root=1-{:08x}-{id}{trace}", seconds.as_secs())),
            ("ratelimit", format!("\"{}\";r={};t={}", window.name, window.left, window.reset)),
            ("ratelimit-policy", policy),
            ("cross-origin-opener-policy", "same-origin".to_owned()),
            ("referrer-policy", "strict-origin-when-cross-origin".to_owned()),
            ("access-control-max-age", "86400".to_owned()),
            ("access-control-allow-origin", "https://huggingface.co".to_owned()),
            ("vary", "Origin".to_owned()),
            ("access-control-expose-headers", EXPOSED.to_owned()),
            ("x-cache", x_cache.to_owned()),
            ("via", "1.1 standin.cloudfront.net (CloudFront)".to_owned()),
            ("x-amz-cf-pop", "LOC50-P1".to_owned()),
        ] {
            if self.get(name).is_none() {
                self.headers.push((name.into(), value));
            }
        }
        self
    }

    /// The response, with what faults do to headers and body.
    pub(crate) fn send(
        self,
        ask: &Ask,
        window: &Window,
        connection: Arc<Connection>,
        seq: u64,
    ) -> io::Result<Response<Body>> {
        let answer = self.dressed(ask, window).compressed(ask)?;
        let len = answer.len();
        let bodiless = matches!(answer.status, 204 | 304);
        let mut response = Response::new(body::empty());
        *response.status_mut() = http::StatusCode::from_u16(answer.status).map_err(io::Error::other)?;
        for (name, value) in &answer.headers {
            insert(&mut response, name, value)?;
        }
        // As on the Hub, the length of compressed text is not told.
        if !bodiless && answer.get("content-encoding").is_none() && answer.get("content-length").is_none() {
            insert(&mut response, "content-length", &len.to_string())?;
        }
        for struck in ask.strike(FaultKind::is_of_headers) {
            match struck.kind {
                FaultKind::DropHeader { name } => drop(response.headers_mut().remove(name)),
                FaultKind::SetHeader { name, value } => insert(&mut response, &name, &value)?,
                _ => {}
            }
        }
        if ask.is_head() || bodiless {
            return Ok(response);
        }
        let spoilable = len > 0 && (200..300).contains(&answer.status);
        let faults = if spoilable { ask.strike(FaultKind::is_of_body) } else { Vec::new() };
        let (content, range, padding, is_file) = match answer.payload {
            Payload::Text(text) => (Content::Bytes(text), 0..len, 0, false),
            Payload::File { content, range, padding } => (content, range, padding, true),
        };
        let file = ask.target.file.clone().filter(|_| is_file);
        let state = ask.state.clone();
        let origin = ask.origin;
        *response.body_mut() =
            body::stream(Outgoing { content, range, padding, faults, state, connection, origin, seq, file })?;
        Ok(response)
    }
}

/// A message may quote what was asked; what no header can hold becomes a question mark.
fn insert(response: &mut Response<Body>, name: &str, value: &str) -> io::Result<()> {
    let name = HeaderName::try_from(name).map_err(io::Error::other)?;
    let value: String = value.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect();
    response.headers_mut().insert(name, HeaderValue::try_from(value).map_err(io::Error::other)?);
    Ok(())
}

/// As the Hub's framework writes it: length in hex, then the start of a base64 sha1.
fn weak_etag(body: &[u8]) -> String {
    let hash = base64::engine::general_purpose::STANDARD.encode(sha1::Sha1::digest(body));
    format!("W/\"{:x}-{}\"", body.len(), &hash[..27])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_of_error_pages_are_the_recorded_ones() {
        assert_eq!(weak_etag(b"Entry not found"), "W/\"f-mY2VvLxuxB7KhsoOdQTlMTccuAQ\"");
        assert_eq!(weak_etag(b"Invalid username or password."), "W/\"1d-DMkJvg8tpLoaQbsiq9Mz7l2CJyI\"");
    }
}
