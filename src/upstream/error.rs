//! What can go wrong on the way out: whose fault it is, whether stored copies may stand in for it, and two
//! texts: one for the operator's log, one for clients, who must not learn the origin's name.

use std::{fmt, sync::Arc, time::Duration};

use http::StatusCode;

use super::page::visible_text;
use crate::hub::Repo;

/// The origin's answers.
pub type Result<T> = std::result::Result<T, Error>;

/// A call to the origin that did not give what was asked.
///
/// `Display` is for logs: it names hosts, never a token, a password or the query of a signed URL.
#[derive(Debug, Clone)]
pub struct Error {
    /// What happened, for those who decide on it.
    pub kind: ErrorKind,
    /// The cause beneath, for logs.
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    /// What was asked: method, host and path, without the query. Empty where nothing was.
    asked: Arc<str>,
}

/// The ways in which the origin, or the hop to it, can fail us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorKind {
    /// The repo that was asked about has this name now; nothing was asked under it. Policy must allow it first.
    Moved(Repo),
    /// No such repo for us: 404 `RepoNotFound`, or a 401 that is not our token's fault (PROTOCOL 5.1).
    RepoNotFound,
    /// The repo has no such branch, tag, ref or commit.
    RevisionNotFound,
    /// The commit has no such file or folder.
    EntryNotFound,
    /// The repo is gated or private and our account has no access; the Hub's own words.
    Gated(String),
    /// The Hub has disabled the repo.
    Disabled,
    /// Not available for legal reasons (451).
    Unavailable451,
    /// Our own token is refused. Nobody's repo is at fault: `upstream.token` is.
    TokenRefused,
    /// The Hub wants us to wait longer than is sensible to wait here.
    RateLimited {
        /// How long.
        retry_after: Duration,
    },
    /// What is left of the Hub's budget is kept for clients; background work waits for the next window.
    BudgetSpent {
        /// Until the next window.
        retry_after: Duration,
    },
    /// No connection, or one that broke.
    Unreachable,
    /// Nothing came for too long.
    Timeout,
    /// A 408 or 5xx of the origin.
    Server(u16),
    /// The egress proxy wants other credentials (407). Remembered for a minute, since accounts get locked.
    ProxyAuth {
        /// The schemes that it offers, as it wrote them: `Basic`, `NTLM`, `Negotiate`.
        schemes: Vec<String>,
    },
    /// The egress proxy refused, or answered with a page of its own.
    ProxyRefused {
        /// Its status; may be 200 for a page.
        status: u16,
        /// Its text without tags, at most 300 characters.
        text: String,
    },
    /// The egress proxy lets the request pass and can't reach the origin: its 502, 503 or 504.
    BeyondProxy {
        /// Its status.
        status: u16,
        /// Its text without tags, at most 300 characters.
        text: String,
    },
    /// No connection to the egress proxy itself.
    ProxyUnreachable,
    /// A host outside `upstream.allowed_hosts`, here with the reason.
    HostNotAllowed(String),
    /// A name that resolves to nothing but private addresses, without a proxy in between.
    PrivateAddress(String),
    /// An answer that makes no sense; says what.
    Malformed(String),
    /// A file of another size than was announced; says what of.
    WrongSize(String),
    /// `upstream.offline` is set: nothing is asked.
    Offline,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind) -> Self {
        Self { kind, source: None, asked: "".into() }
    }

    pub(super) fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Names what was asked, unless something nearer to the fault did so already.
    pub(super) fn asking(mut self, asked: &str) -> Self {
        if self.asked.is_empty() {
            self.asked = asked.into();
        }
        self
    }

    /// An error of ours that a library has wrapped.
    pub(super) fn within(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        std::iter::successors(Some(error), |error| error.source())
            .find_map(|error| error.downcast_ref::<Self>().cloned())
    }

    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed(what.into()))
    }

    /// Nothing definite was learned about the repo: what is stored may be served as it is (I10).
    pub fn is_outage(&self) -> bool {
        match &self.kind {
            ErrorKind::Moved(_)
            | ErrorKind::RepoNotFound
            | ErrorKind::RevisionNotFound
            | ErrorKind::EntryNotFound
            | ErrorKind::Gated(_)
            | ErrorKind::Disabled
            | ErrorKind::Unavailable451
            | ErrorKind::TokenRefused => false,
            ErrorKind::RateLimited { .. }
            | ErrorKind::BudgetSpent { .. }
            | ErrorKind::Unreachable
            | ErrorKind::Timeout
            | ErrorKind::Server(_)
            | ErrorKind::ProxyAuth { .. }
            | ErrorKind::ProxyRefused { .. }
            | ErrorKind::BeyondProxy { .. }
            | ErrorKind::ProxyUnreachable
            | ErrorKind::HostNotAllowed(_)
            | ErrorKind::PrivateAddress(_)
            | ErrorKind::Malformed(_)
            | ErrorKind::WrongSize(_)
            | ErrorKind::Offline => true,
        }
    }

    /// The Hub says for certain that this repo is not to be had, with a token that is good (I10,
    /// `upstream.on_gone`). A missing revision or file is no such thing: the repo is there.
    pub fn is_gone(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::RepoNotFound | ErrorKind::Gated(_) | ErrorKind::Disabled | ErrorKind::Unavailable451
        )
    }

    /// The Hub says for certain that there is no such thing, or none for us.
    pub fn is_definite(&self) -> bool {
        self.is_gone() || matches!(self.kind, ErrorKind::RevisionNotFound | ErrorKind::EntryNotFound)
    }

    /// The name that the repo has now, where that is why nothing was asked.
    pub fn moved_to(&self) -> Option<&Repo> {
        if let ErrorKind::Moved(name) = &self.kind { Some(name) } else { None }
    }

    /// Whether the same call may well succeed a moment later.
    pub fn is_worth_retrying(&self) -> bool {
        match self.kind {
            ErrorKind::Unreachable
            | ErrorKind::Timeout
            | ErrorKind::Server(_)
            | ErrorKind::BeyondProxy { .. }
            | ErrorKind::ProxyUnreachable => true,
            ErrorKind::ProxyRefused { status, .. } => status >= 500,
            _ => false,
        }
    }

    /// When to come back, where the Hub or we said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.kind {
            ErrorKind::RateLimited { retry_after } | ErrorKind::BudgetSpent { retry_after } => Some(retry_after),
            _ => None,
        }
    }

    /// A sentence for clients: the reason, without any host name (I1).
    pub fn public_text(&self) -> String {
        match &self.kind {
            ErrorKind::RepoNotFound => "the origin has no such repo, or none that this gateway may see".into(),
            ErrorKind::Moved(name) => format!("the repo is called {} now", name.id()),
            ErrorKind::RevisionNotFound => "the repo has no such revision".into(),
            ErrorKind::EntryNotFound => "the commit has no such file".into(),
            ErrorKind::Gated(_) => "the origin restricts this repo and this gateway's account has no access".into(),
            ErrorKind::Disabled => "the origin has disabled this repo".into(),
            ErrorKind::Unavailable451 => "the origin withholds this repo for legal reasons".into(),
            ErrorKind::TokenRefused => "the origin refuses this gateway's token (upstream.token)".into(),
            ErrorKind::RateLimited { .. } => "the origin limits this gateway's requests for now".into(),
            ErrorKind::BudgetSpent { .. } => "the origin's request budget is kept for other work for now".into(),
            ErrorKind::Unreachable => "the origin cannot be reached".into(),
            ErrorKind::Timeout => "the origin does not answer in time".into(),
            ErrorKind::Server(status) => format!("the origin answers with an error ({status})"),
            ErrorKind::ProxyAuth { .. } => "the egress proxy refuses this gateway's credentials".into(),
            ErrorKind::ProxyRefused { status, .. } => format!("the egress proxy refuses the request ({status})"),
            ErrorKind::BeyondProxy { status, .. } => {
                format!("the origin cannot be reached by the egress proxy ({status})")
            }
            ErrorKind::ProxyUnreachable => "the egress proxy cannot be reached".into(),
            ErrorKind::HostNotAllowed(_) => {
                "the origin points to a host that this gateway may not ask (upstream.allowed_hosts)".into()
            }
            ErrorKind::PrivateAddress(_) => "the origin resolves to a private address (upstream.allow_private)".into(),
            ErrorKind::Malformed(_) => "the origin's answer makes no sense".into(),
            ErrorKind::WrongSize(_) => {
                "the origin's file has another size than was announced; nothing was stored".into()
            }
            ErrorKind::Offline => "this gateway is offline and has not stored this".into(),
        }
    }
}

impl ErrorKind {
    /// An answer of the egress proxy's own: a refusal, or that it can't reach the origin, as a gateway says it (RFC 9110,
    /// section 15.6).
    pub(super) fn of_proxy(status: StatusCode, page: &str) -> Self {
        let text = visible_text(page);
        match status.as_u16() {
            status @ 502..=504 => Self::BeyondProxy { status, text },
            status => Self::ProxyRefused { status, text },
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved(name) => write!(f, "the repo is called {name} now"),
            Self::RepoNotFound => f.write_str("no such repo"),
            Self::RevisionNotFound => f.write_str("no such revision"),
            Self::EntryNotFound => f.write_str("no such entry"),
            Self::Gated(text) => write!(f, "access is restricted: {text}"),
            Self::Disabled => f.write_str("the repo is disabled"),
            Self::Unavailable451 => f.write_str("unavailable for legal reasons (451)"),
            Self::TokenRefused => f.write_str("the Hub refuses our token: renew upstream.token or upstream.token_file"),
            Self::RateLimited { retry_after } => write!(f, "rate limited for {} s", retry_after.as_secs()),
            Self::BudgetSpent { retry_after } => {
                write!(f, "what is left of the budget is kept for clients for {} s", retry_after.as_secs())
            }
            Self::Unreachable => f.write_str("no connection"),
            Self::Timeout => f.write_str("timed out"),
            Self::Server(status) => write!(f, "the origin answered {status}"),
            Self::ProxyAuth { schemes } if schemes.is_empty() => {
                f.write_str("the egress proxy wants credentials (407) and offers no scheme")
            }
            Self::ProxyAuth { schemes } => {
                let offered = schemes.join(", ");
                if schemes.iter().any(|scheme| scheme.eq_ignore_ascii_case("basic")) {
                    write!(
                        f,
                        "the egress proxy refuses our credentials (407; offers {offered}): check upstream.proxy_user and \
                         upstream.proxy_password; no further try for a minute, since accounts get locked"
                    )
                } else {
                    write!(
                        f,
                        "the egress proxy offers {offered} only (407) and hubgate speaks Basic: run a local helper such \
                         as cntlm or px and point upstream.proxy to it"
                    )
                }
            }
            Self::ProxyRefused { status, text } if text.is_empty() => write!(f, "the egress proxy answered {status}"),
            Self::ProxyRefused { status, text } => write!(f, "the egress proxy answered {status}: {text}"),
            Self::BeyondProxy { status, text } => {
                write!(f, "the egress proxy cannot reach the origin ({status})")?;
                if text.is_empty() { Ok(()) } else { write!(f, ": {text}") }
            }
            Self::ProxyUnreachable => f.write_str("no connection to the egress proxy"),
            Self::HostNotAllowed(host) => write!(f, "not allowed by upstream.allowed_hosts: {host}"),
            Self::PrivateAddress(host) => {
                write!(f, "private address without a proxy, see upstream.allow_private: {host}")
            }
            Self::Malformed(what) => write!(f, "an answer that makes no sense: {what}"),
            Self::WrongSize(what) => write!(f, "a file of another size than announced: {what}"),
            Self::Offline => f.write_str("upstream.offline is set"),
        }
    }
}

/// Tells everything: what was asked, what happened and the cause, so that one log field is enough.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.asked.is_empty() {
            write!(f, "{}: ", self.asked)?;
        }
        self.kind.fmt(f)?;
        if let Some(source) = &self.source {
            write!(f, " ({source}")?;
            let mut cause = source.source();
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// No `source()`: `Display` has told it.
impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_407_without_basic_names_the_schemes_and_the_remedy() {
        let kind = ErrorKind::ProxyAuth { schemes: vec!["NTLM".into(), "Negotiate".into()] };
        let text = Error::new(kind).to_string();
        assert!(text.contains("NTLM, Negotiate") && text.contains("cntlm"), "{text}");
    }

    #[test]
    fn what_clients_read_names_no_host() {
        for kind in [
            ErrorKind::Gated("Visit https://huggingface.co/x to ask for access".into()),
            ErrorKind::HostNotAllowed("cdn.example.com".into()),
            ErrorKind::ProxyRefused { status: 403, text: "blocked by proxy.corp".into() },
            ErrorKind::BeyondProxy { status: 503, text: "https://huggingface.co: no route".into() },
            ErrorKind::PrivateAddress("hub.corp".into()),
            ErrorKind::Malformed("Link to https://other.example".into()),
        ] {
            let error =
                Error::new(kind).asking("GET https://huggingface.co/api/models/x").because("at proxy.corp:3128");
            let text = error.public_text();
            assert!(!text.contains("http") && !text.contains(".co"), "{text}");
        }
    }

    #[test]
    fn gone_and_outage_exclude_each_other() {
        for (kind, gone, outage) in [
            (ErrorKind::RepoNotFound, true, false),
            (ErrorKind::RevisionNotFound, false, false),
            (ErrorKind::TokenRefused, false, false),
            (ErrorKind::Server(503), false, true),
            (ErrorKind::Offline, false, true),
        ] {
            let error = Error::new(kind);
            assert_eq!((error.is_gone(), error.is_outage()), (gone, outage), "{error}");
        }
    }
}
