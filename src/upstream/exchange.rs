//! One question to the origin and its answer: hop by hop through redirects, within the budget.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, LOCATION, PROXY_AUTHORIZATION, RANGE},
};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use secrecy::ExposeSecret;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use super::{
    Error, ErrorKind, Purpose, Result, USER_AGENT,
    body::Body,
    budget::{Budget, BudgetClass},
    connect::Connector,
    hosts::AllowedHosts,
    proxy::Proxies,
    refusal::{self, Asked, Refusal},
    token::OwnToken,
};
use crate::{
    hub::{HubRoute, Repo},
    telemetry::{Family, status_class},
};

/// Redirects that one question may take.
const MOST_REDIRECTS: usize = 5;

/// How often a question is put again after a 429.
const MOST_429S: usize = 10;

/// How much of a refusal is read.
const REFUSAL_LIMIT: usize = 64 << 10;

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    /// The repo that it is about: a redirect to another one is not followed.
    pub(super) repo: Option<Repo>,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) class: BudgetClass,
    pub(super) purpose: Purpose,
    pub(super) lane: Lane,
    /// The value of `Range`.
    pub(super) range: Option<HeaderValue>,
    /// Of a POST: a form.
    pub(super) form: Option<Bytes>,
}

/// Which of the bounded connections a question may take.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    /// Short ones, kept free of file bodies.
    LookUps,
    /// File bodies, which may take hours.
    Files,
}

/// An answer's head, and its body still to come.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// Where it came from in the end.
    pub(super) url: Url,
    /// Whether that was outside the endpoint's own origin.
    pub(super) is_elsewhere: bool,
    asked: Asked,
}

/// All that it takes to ask.
pub(super) struct Exchange {
    pub(super) client: Client<Connector, Full<Bytes>>,
    pub(super) endpoint: Url,
    pub(super) hosts: AllowedHosts,
    pub(super) proxies: Arc<Proxies>,
    pub(super) token: OwnToken,
    pub(super) budget: Budget,
    pub(super) lookups: Arc<Semaphore>,
    pub(super) files: Arc<Semaphore>,
    pub(super) header_timeout: Duration,
    pub(super) read_timeout: Duration,
    pub(super) requests: Family<2>,
    pub(super) bytes_in: Arc<AtomicU64>,
}

impl Exchange {
    /// Asks, follows redirects to allowed hosts, waits out 429s. The answer is a success; all else is an
    /// error that says what it means. A redirect to another repo is such an error too, [`ErrorKind::Moved`]: of that
    /// repo nothing is asked before policy has allowed its name.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<Answer> {
        let mut url = ask.url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let shown = shown(&ask.method, &url);
            let answer = self.hop(ask, &url).await.map_err(|error| error.asking(&shown))?;
            if answer.status.is_success() {
                return Ok(answer);
            }
            if !is_redirect(answer.status, &ask.method) {
                return Err(self.refused(answer).await.asking(&shown));
            }
            url = target(&answer).map_err(|error| error.asking(&shown))?;
            if let Some(name) = self.other_repo(ask, &url) {
                return Err(Error::new(ErrorKind::Moved(name)).asking(&shown));
            }
        }
        Err(Error::malformed(format!("more than {MOST_REDIRECTS} redirects")).asking(&shown(&ask.method, &ask.url)))
    }

    /// The repo that a URL of the endpoint is about, where that is another one than was asked about, whatever its letters.
    fn other_repo(&self, ask: &Ask, url: &Url) -> Option<Repo> {
        let asked = ask.repo.as_ref().filter(|_| self.is_own(url))?;
        let path = url.path().strip_prefix(self.endpoint.path().trim_end_matches('/'))?;
        let route = HubRoute::parse(&ask.method, path, None).ok()?;
        let readings = [route.other_reading(), Some(route)];
        if readings.iter().flatten().filter_map(HubRoute::repo).any(|repo| repo.same_name(asked)) {
            return None;
        }
        readings.into_iter().flatten().next_back()?.repo().cloned()
    }

    /// One request, again after each 429 of the endpoint.
    async fn hop(&self, ask: &Ask, url: &Url) -> Result<Answer> {
        self.hosts.check(url)?;
        if !self.is_own(url) {
            return self.send(ask, url, self.permit(ask.lane).await?).await;
        }
        let mut tries = 0;
        loop {
            // Held until the answer is noted, so that those who wait behind this request learn from it. Not while this
            // one itself waits for a connection, which file bodies may have for hours.
            let mut pass = Some(self.budget.enter(ask.class, ask.purpose).await?);
            let permit = match self.places(ask.lane).clone().try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) => {
                    pass = None;
                    self.permit(ask.lane).await?
                }
            };
            let answer = self.send(ask, url, permit).await?;
            self.budget.note(ask.class, answer.status, &answer.headers);
            drop(pass);
            tries += 1;
            if answer.status != StatusCode::TOO_MANY_REQUESTS || tries > MOST_429S {
                return Ok(answer);
            }
        }
    }

    async fn send(&self, ask: &Ask, url: &Url, permit: OwnedSemaphorePermit) -> Result<Answer> {
        let uri: Uri = url.as_str().parse().map_err(|_| Error::malformed("a URL that HTTP can't carry"))?;
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(uri.clone())
            .header(http::header::USER_AGENT, USER_AGENT)
            .header(ACCEPT, "*/*")
            .header(ACCEPT_ENCODING, "identity");
        if let Some(range) = &ask.range {
            request = request.header(RANGE, range);
        }
        if ask.form.is_some() {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let token = if self.is_own(url) { self.token.current() } else { None };
        let with_token = token.is_some();
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, bearer(token.expose_secret())?);
        }
        let proxy = self.proxies.of(&uri);
        // For https the connector has this talk with the proxy, once for each connection.
        let visit = match proxy.filter(|_| url.scheme() == "http") {
            Some(proxy) => Some(proxy.enter().await?),
            None => None,
        };
        if let Some(authorization) = visit.as_ref().and_then(|visit| visit.authorization.as_ref()) {
            request = request.header(PROXY_AUTHORIZATION, authorization);
        }
        let request = request
            .body(Full::new(ask.form.clone().unwrap_or_default()))
            .map_err(|error| Error::malformed(error.to_string()))?;
        let is_own = self.is_own(url);
        let response = tokio::time::timeout(self.header_timeout, self.client.request(request)).await;
        let status = response.as_ref().ok().and_then(|response| Some(response.as_ref().ok()?.status().as_u16()));
        self.requests.count([if is_own { ask.class.name() } else { "elsewhere" }, status.map_or("none", status_class)]);
        let response = response
            .map_err(|_| Error::new(ErrorKind::Timeout).because("no answer in upstream.header_timeout"))?
            .map_err(|error| {
                Error::within(&error).unwrap_or_else(|| Error::new(ErrorKind::Unreachable).because(error))
            })?;
        if let Some(visit) = visit {
            if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
                return Err(visit.credentials_were_refused(response.headers()));
            }
            visit.credentials_were_good();
        }
        let (head, incoming) = response.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: Body::new(incoming, self.read_timeout, self.bytes_in.clone(), permit),
            url: url.clone(),
            is_elsewhere: !is_own,
            asked: Asked { endpoint: is_own, with_token, by_proxy: proxy.is_some() },
        })
    }

    fn places(&self, lane: Lane) -> &Arc<Semaphore> {
        match lane {
            Lane::LookUps => &self.lookups,
            Lane::Files => &self.files,
        }
    }

    async fn permit(&self, lane: Lane) -> Result<OwnedSemaphorePermit> {
        self.places(lane).clone().acquire_owned().await.map_err(|_| Error::new(ErrorKind::Offline))
    }

    /// The endpoint's own origin: scheme, host and port.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    async fn refused(&self, mut answer: Answer) -> Error {
        // What can't be read of a refusal doesn't make it less of one.
        let text = answer.body.start(REFUSAL_LIMIT).await.map(|(text, _)| text).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        drop(answer.body);
        match refusal::read(answer.status, &answer.headers, &text, answer.asked) {
            Refusal::Is(kind) => Error::new(kind),
            Refusal::IfTokenIsGood(kind) => match self.is_token_good().await {
                Ok(true) => Error::new(kind),
                Ok(false) => Error::new(ErrorKind::TokenRefused),
                Err(error) => error,
            },
        }
    }

    /// Whether the Hub knows our token: `whoami-v2`, once a minute at most.
    async fn is_token_good(&self) -> Result<bool> {
        let Some(token) = self.token.current() else { return Ok(true) };
        let mut checked = self.token.checked(&token).await;
        if let Some(is_good) = checked.verdict() {
            return Ok(is_good);
        }
        let ask = Ask {
            repo: None,
            method: Method::GET,
            url: self.url("/api/whoami-v2")?,
            class: BudgetClass::Api,
            purpose: Purpose::Client,
            lane: Lane::LookUps,
            range: None,
            form: None,
        };
        let answer = self.hop(&ask, &ask.url).await.map_err(|error| error.asking(&shown(&ask.method, &ask.url)))?;
        let is_good = match answer.status.as_u16() {
            200..300 => true,
            401 => false,
            status => return Err(Error::new(ErrorKind::Server(status)).asking(&shown(&ask.method, &ask.url))),
        };
        checked.note(is_good);
        Ok(is_good)
    }

    /// A URL below the endpoint, from a path and query that begin with `/`.
    pub(super) fn url(&self, path_and_query: &str) -> Result<Url> {
        let base = self.endpoint.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}{path_and_query}")).map_err(|error| Error::malformed(error.to_string()))
    }
}

impl Answer {
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A web page where there should be none: the proxy's, if there is one.
    pub(super) async fn into_page_error(mut self) -> Error {
        let text = self.body.start(REFUSAL_LIMIT).await.map(|(text, _)| text).unwrap_or_default();
        let text = super::page::visible_text(&String::from_utf8_lossy(&text));
        if self.asked.by_proxy {
            Error::new(ErrorKind::ProxyRefused { status: self.status.as_u16(), text })
        } else {
            Error::malformed(format!("a web page: {text}"))
        }
    }
}

/// Method, host and path for errors: the query of a signed URL is a secret.
pub(super) fn shown(method: &Method, url: &Url) -> String {
    format!("{method} {}{}", url.origin().ascii_serialization(), url.path())
}

fn bearer(token: &str) -> Result<HeaderValue> {
    let mut value =
        HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| Error::new(ErrorKind::TokenRefused))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A POST is put again only where the status says to put it again as it was.
fn is_redirect(status: StatusCode, method: &Method) -> bool {
    match status.as_u16() {
        301..=303 => *method == Method::GET,
        307 | 308 => true,
        _ => false,
    }
}

fn target(answer: &Answer) -> Result<Url> {
    let location =
        answer.header(&LOCATION).ok_or_else(|| Error::malformed(format!("{} without a Location", answer.status)))?;
    answer.url.join(location).map_err(|_| Error::malformed("a Location that is no URL"))
}
