//! Leave for web pages of other origins to read what the Hub's own API gives them (`server.cors_origins`).
//!
//! None, unless an operator gives it: where the network is the credential, any page that is open in a browser inside could
//! read what clients without a name may read. Cookies play no part, and our own pages are not part of it.

use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header, request::Parts};

use super::Payload;

/// What scripts may see of an answer beside its body: the Hub's list without Xet, and what hubgate adds.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,X-Total-Count,X-HF-Warning,ETag,Link,Accept-Ranges,\
     Content-Range,Content-Disposition,X-Linked-Size,X-Linked-ETag,Retry-After",
);

/// The longest list of headers that a page may ask for.
const LONGEST_LIST: usize = 1024;

/// The origins whose pages may read answers.
#[derive(Debug, Clone, Default)]
pub struct AllowedOrigins {
    any: bool,
    listed: Vec<HeaderValue>,
}

impl AllowedOrigins {
    /// Reads `server.cors_origins`.
    ///
    /// # Errors
    /// Names the key, the value and what would do.
    pub fn new(origins: &[String]) -> Result<Self, String> {
        if origins.iter().any(|origin| origin == "*") {
            return match origins {
                [_] => Ok(Self { any: true, listed: Vec::new() }),
                _ => Err("server.cors_origins: \"*\" means all origins, so it stands alone".into()),
            };
        }
        let listed = origins.iter().map(|origin| read(origin).ok_or_else(|| not_an_origin(origin)));
        Ok(Self { any: false, listed: listed.collect::<Result<_, _>>()? })
    }

    /// The origin of the page that asks, as it is to be named in the answer that it may read.
    pub(super) fn leave(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.any {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = headers.get(header::ORIGIN)?;
        self.listed.iter().find(|listed| *listed == origin).cloned()
    }

    /// Gives leave to the origin, where it has any.
    pub(super) fn open(&self, headers: &mut HeaderMap, origin: Option<HeaderValue>) {
        if !self.listed.is_empty() {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}

/// An origin as a browser writes it: in lower case, without the port that its scheme has anyway.
fn read(origin: &str) -> Option<HeaderValue> {
    let uri: Uri = origin.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let is_web = matches!((scheme, authority.port_u16()), ("http", port) if port != Some(80))
        || matches!((scheme, authority.port_u16()), ("https", port) if port != Some(443));
    let is_bare = format!("{scheme}://{authority}") == origin && !authority.as_str().contains('@');
    (is_web && is_bare && *origin == origin.to_ascii_lowercase()).then(|| HeaderValue::from_str(origin).ok())?
}

fn not_an_origin(value: &str) -> String {
    format!(
        "server.cors_origins: {value:?} is no origin as browsers send it: write scheme://host or scheme://host:port in lower \
         case, with no path and no default port, such as \"https://notebooks.example.com\", or \"*\" alone"
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_origins_as_browsers_write_them_are_taken() {
        let new = |origins: &[&str]| AllowedOrigins::new(&origins.iter().map(ToString::to_string).collect::<Vec<_>>());
        for good in [&[][..], &["*"], &["https://a.example", "http://localhost:3000", "http://[::1]:8080"]] {
            assert!(new(good).is_ok(), "{good:?}");
        }
        for bad in [
            &["*", "https://a.example"][..],
            &["https://a.example/"],
            &["https://a.example/x"],
            &["https://A.example"],
            &["https://a.example:443"],
            &["http://me@a.example"],
            &["a.example"],
            &["null"],
            &["ftp://a.example"],
            &[""],
        ] {
            assert!(new(bad).unwrap_err().starts_with("server.cors_origins: "), "{bad:?}");
        }
    }
}
