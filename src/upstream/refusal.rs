//! What an answer that is no success means (PROTOCOL 5.1). Pure: headers and text in, a meaning out.

use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};

use super::{ErrorKind, page::visible_text};

/// The sentence by which clients know a disabled repo; it has no error code.
const DISABLED: &str = "Access to this resource is disabled.";

/// The sentence of a token that is no token.
const BAD_CREDENTIALS: &str = "Invalid credentials in Authorization header";

/// An answer's meaning.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// This.
    Is(ErrorKind),
    /// A 401 while we sent a token: this if the token is good, else it is the token that is refused.
    IfTokenIsGood(ErrorKind),
}

/// How the question was asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// The endpoint itself, not a CDN.
    pub(super) endpoint: bool,
    /// With our token.
    pub(super) with_token: bool,
    /// Through an egress proxy, whose pages then explain what the Hub never would.
    pub(super) by_proxy: bool,
}

/// Reads an answer outside 2xx.
pub(super) fn read(status: StatusCode, headers: &HeaderMap, text: &str, asked: Asked) -> Refusal {
    let code = header(headers, "x-error-code");
    let message = message(headers, text);
    let is = |kind| Refusal::Is(kind);
    if code.is_empty() && asked.by_proxy && is_page(headers) && !is_of_hub(headers) {
        return is(ErrorKind::of_proxy(status, text));
    }
    if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
        return is(ErrorKind::Server(status.as_u16()));
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        return is(ErrorKind::RateLimited { retry_after: super::budget::wait_after_429(headers) });
    }
    if !asked.endpoint {
        // No more of its text than the code: S3 repeats the signature that it refuses.
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
        let code: String = code.unwrap_or("no code").chars().filter(char::is_ascii_alphanumeric).take(40).collect();
        return is(ErrorKind::Malformed(format!("{status} from a CDN ({code})")));
    }
    let on_401 = |kind| match status {
        StatusCode::UNAUTHORIZED if asked.with_token => Refusal::IfTokenIsGood(kind),
        _ => Refusal::Is(kind),
    };
    match (code, status.as_u16()) {
        ("RevisionNotFound", _) => is(ErrorKind::RevisionNotFound),
        ("EntryNotFound", _) => is(ErrorKind::EntryNotFound),
        ("GatedRepo", _) => on_401(ErrorKind::Gated(message)),
        _ if message == DISABLED => is(ErrorKind::Disabled),
        _ if message == BAD_CREDENTIALS && asked.with_token => is(ErrorKind::TokenRefused),
        ("RepoNotFound", _) | (_, 401) => on_401(ErrorKind::RepoNotFound),
        (_, 403) => is(ErrorKind::Gated(message)),
        (_, 451) => is(ErrorKind::Unavailable451),
        (_, 404) => is(ErrorKind::Malformed(format!(
            "404 without X-Error-Code ({message}): is upstream.endpoint the root of a Hub?"
        ))),
        _ => is(ErrorKind::Malformed(format!("{status}: {message}"))),
    }
}

/// Whether an answer is a web page, which no answer to our questions is.
pub(super) fn is_page(headers: &HeaderMap) -> bool {
    header(headers, CONTENT_TYPE.as_str()).trim_start().to_ascii_lowercase().starts_with("text/html")
}

/// Whether the Hub or the CDN before it signed the answer: their error pages are not the proxy's.
fn is_of_hub(headers: &HeaderMap) -> bool {
    header(headers, "x-powered-by").starts_with("huggingface")
        || header(headers, "x-request-id").starts_with("Root=")
        || headers.contains_key("x-amz-cf-id")
        || headers.contains_key("x-error-message")
}

/// The Hub's words: the header, else the JSON's `error`, else the text; at most 300 characters.
fn message(headers: &HeaderMap, text: &str) -> String {
    let header = headers.get("x-error-message").map(|value| String::from_utf8_lossy(value.as_bytes()));
    if let Some(message) = header.filter(|message| !message.is_empty()) {
        return message.chars().take(300).collect();
    }
    let json = serde_json::from_str::<serde_json::Value>(text).ok();
    match json.as_ref().and_then(|json| json["error"].as_str()) {
        Some(message) => message.chars().take(300).collect(),
        None => visible_text(text),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANONYMOUS: Asked = Asked { endpoint: true, with_token: false, by_proxy: false };
    const WITH_TOKEN: Asked = Asked { endpoint: true, with_token: true, by_proxy: false };

    fn of(status: u16, headers: &[(&str, &str)], text: &str, asked: Asked) -> Refusal {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        read(StatusCode::from_u16(status).unwrap(), &map, text, asked)
    }

    /// Each line is an answer that the real Hub gave (PROTOCOL 5.1).
    #[test]
    fn the_hubs_own_refusals_are_understood() {
        use ErrorKind::{Disabled, EntryNotFound, Gated, RepoNotFound, RevisionNotFound, TokenRefused, Unavailable451};
        let code = |code| ("x-error-code", code);
        let says = |text| ("x-error-message", text);
        let is = Refusal::Is;
        let nobody = "Invalid username or password.";
        let restricted = "Access to model a/b is restricted. Please log in.";
        let pending = "Your request to access model a/b is awaiting a review from the repo authors.";
        for (status, headers, asked, expected) in [
            (404, vec![code("EntryNotFound"), says("Entry not found")], ANONYMOUS, is(EntryNotFound)),
            (404, vec![code("RevisionNotFound"), says("Invalid rev id: x")], WITH_TOKEN, is(RevisionNotFound)),
            (404, vec![code("RepoNotFound"), says("Repository not found")], WITH_TOKEN, is(RepoNotFound)),
            (401, vec![says(nobody)], ANONYMOUS, is(RepoNotFound)),
            (401, vec![says(nobody)], WITH_TOKEN, Refusal::IfTokenIsGood(RepoNotFound)),
            (401, vec![says("Invalid credentials in Authorization header")], WITH_TOKEN, is(TokenRefused)),
            (401, vec![code("GatedRepo"), says(restricted)], ANONYMOUS, is(Gated(restricted.into()))),
            (
                401,
                vec![code("GatedRepo"), says(restricted)],
                WITH_TOKEN,
                Refusal::IfTokenIsGood(Gated(restricted.into())),
            ),
            (403, vec![code("GatedRepo"), says(pending)], WITH_TOKEN, is(Gated(pending.into()))),
            (403, vec![says("Access to this resource is disabled.")], WITH_TOKEN, is(Disabled)),
            (451, vec![], ANONYMOUS, is(Unavailable451)),
        ] {
            assert_eq!(of(status, &headers, "", asked), expected, "{status} {headers:?}");
        }
    }

    #[test]
    fn a_bare_404_is_no_proof_that_a_repo_is_gone() {
        assert!(matches!(of(404, &[], "Not Found", ANONYMOUS), Refusal::Is(ErrorKind::Malformed(_))));
    }

    #[test]
    fn a_page_is_the_proxys_unless_the_hub_signed_it() {
        let html = ("content-type", "text/html; charset=utf-8");
        let asked = Asked { by_proxy: true, ..ANONYMOUS };
        let page = "<h1>Blocked</h1> by policy";
        let refused = |status| Refusal::Is(ErrorKind::ProxyRefused { status, text: "Blocked by policy".into() });
        assert_eq!(of(403, &[html], page, asked), refused(403));
        assert_eq!(of(500, &[html], page, asked), refused(500));
        for status in [502, 503, 504] {
            let beyond = Refusal::Is(ErrorKind::BeyondProxy { status, text: "Blocked by policy".into() });
            assert_eq!(of(status, &[html], page, asked), beyond, "a gateway that can't go on");
        }
        let signed = [html, ("x-request-id", "Root=1-2")];
        assert_eq!(of(503, &signed, page, asked), Refusal::Is(ErrorKind::Server(503)));
        assert_eq!(of(503, &[html], page, ANONYMOUS), Refusal::Is(ErrorKind::Server(503)));
    }

    #[test]
    fn a_cdn_says_nothing_about_a_repo() {
        let asked = Asked { endpoint: false, ..ANONYMOUS };
        for status in [401, 403, 404, 451] {
            assert!(matches!(of(status, &[], "", asked), Refusal::Is(ErrorKind::Malformed(_))), "{status}");
        }
        let xml = "<Error><Code>SignatureDoesNotMatch</Code><SignatureProvided>secret</SignatureProvided></Error>";
        let expected = ErrorKind::Malformed("403 Forbidden from a CDN (SignatureDoesNotMatch)".into());
        assert_eq!(of(403, &[], xml, asked), Refusal::Is(expected));
    }
}
