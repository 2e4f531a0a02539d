//! A stand-in before it runs: what it serves, where, and how it behaves.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::control::ControlHandler;
use crate::counters::Origin;
use crate::describe::RepoBuilder;
use crate::origin::OriginHandler;
use crate::server::Listening;
use crate::standin::Standin;
use crate::state::{Gzip, Settings, State, Urls};
use crate::tls::Tls;
use crate::world::{DEFAULT_TOKEN, World};

/// Describes a stand-in.
#[derive(Clone)]
pub struct Builder {
    repos: Vec<RepoBuilder>,
    token: String,
    stranger_token: Option<String>,
    settings: Settings,
    tls: bool,
    hub_listen: SocketAddr,
    cdn_listen: SocketAddr,
    control_listen: Option<SocketAddr>,
    hub_host: String,
    cdn_host: String,
    hub_rate: u64,
    cdn_rate: u64,
    keep: usize,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            repos: Vec::new(),
            token: DEFAULT_TOKEN.to_owned(),
            stranger_token: None,
            settings: Settings::default(),
            tls: false,
            hub_listen: free,
            cdn_listen: free,
            control_listen: None,
            hub_host: String::new(),
            cdn_host: String::new(),
            hub_rate: 0,
            cdn_rate: 0,
            keep: 10_000,
        }
    }

    /// The repos of [`fixtures()`](crate::fixtures()).
    pub fn fixtures(mut self) -> Self {
        self.repos.extend(crate::fixtures());
        self
    }

    /// One more repo.
    pub fn repo(mut self, repo: RepoBuilder) -> Self {
        self.repos.push(repo);
        self
    }

    /// The token that has access; [`DEFAULT_TOKEN`] unless set. Any other is refused.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = token.into();
        self
    }

    /// A token that is good but has access to nothing gated or private.
    pub fn stranger_token(mut self, token: impl Into<String>) -> Self {
        self.stranger_token = Some(token.into());
        self
    }

    /// Both origins speak TLS, by certificates of [`Standin::ca_pem`].
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// When text is compressed.
    pub fn gzip(mut self, gzip: Gzip) -> Self {
        self.settings.gzip = gzip;
        self
    }

    /// How long a CDN URL holds: an hour unless set.
    pub fn signed_for(mut self, time: Duration) -> Self {
        self.settings.signed_for = time;
        self
    }

    /// Enforces quotas of requests in five minutes: of the API, and of files.
    pub fn quota(mut self, api: u64, resolvers: u64) -> Self {
        self.settings.quota = (api, resolvers);
        self.settings.enforced = true;
        self
    }

    /// Entries of a page of a listing: 1000 (100 with `expand`) unless set.
    pub fn page_size(mut self, entries: usize) -> Self {
        self.settings.page = (entries, entries);
        self
    }

    /// Where the two origins listen: free ports of 127.0.0.1 unless set.
    pub fn listen(mut self, hub: SocketAddr, cdn: SocketAddr) -> Self {
        (self.hub_listen, self.cdn_listen) = (hub, cdn);
        self
    }

    /// Listens for control requests too.
    pub fn control(mut self, address: SocketAddr) -> Self {
        self.control_listen = Some(address);
        self
    }

    /// Host names that stand in URLs in place of the addresses; the ports stay.
    pub fn hosts(mut self, hub: impl Into<String>, cdn: impl Into<String>) -> Self {
        (self.hub_host, self.cdn_host) = (hub.into(), cdn.into());
        self
    }

    /// At most so many bytes a second from an origin, over all connections. 0: no limit.
    pub fn rate(mut self, origin: Origin, bytes_per_second: u64) -> Self {
        match origin {
            Origin::Hub => self.hub_rate = bytes_per_second,
            Origin::Cdn => self.cdn_rate = bytes_per_second,
        }
        self
    }

    /// How many requests are kept with their headers: 10,000 unless set.
    pub fn keep_requests(mut self, requests: usize) -> Self {
        self.keep = requests;
        self
    }

    /// Starts it, inside a tokio runtime.
    ///
    /// # Panics
    /// When it cannot be: content that can't be read, an address in use.
    pub async fn start(self) -> Standin {
        match self.try_start().await {
            Ok(standin) => standin,
            Err(error) => panic!("the stand-in Hub cannot start: {error}"),
        }
    }

    /// Starts it, inside a tokio runtime.
    pub async fn try_start(self) -> io::Result<Standin> {
        let mut world = World::new(self.token, self.stranger_token);
        for repo in self.repos {
            world.add(repo)?;
        }
        let state = Arc::new(State::new(world, self.settings, self.keep));
        state.pacer(Origin::Hub).set(self.hub_rate);
        state.pacer(Origin::Cdn).set(self.cdn_rate);
        let tls = if self.tls { Some(Tls::new()?) } else { None };
        let acceptor = || tls.as_ref().map(|tls| tls.acceptor.clone());
        let handler = |origin| OriginHandler { state: state.clone(), origin };
        let hub = Listening::start(self.hub_listen, acceptor(), handler(Origin::Hub)).await?;
        let cdn = Listening::start(self.cdn_listen, acceptor(), handler(Origin::Cdn)).await?;
        let control = match self.control_listen {
            Some(address) => Some(Listening::start(address, None, ControlHandler { state: state.clone() }).await?),
            None => None,
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = |host: &str, address: SocketAddr| {
            let host = if host.is_empty() { address.ip().to_string() } else { host.to_owned() };
            format!("{scheme}://{host}:{}", address.port())
        };
        let urls = Urls { hub: url(&self.hub_host, hub.address), cdn: url(&self.cdn_host, cdn.address) };
        state.set_urls(urls.clone());
        let addresses = (hub.address, cdn.address);
        let running = std::sync::Mutex::new((Some(hub), Some(cdn)));
        Ok(Standin { state, urls, addresses, running, control, tls })
    }
}
