//! The only way out: every byte that hubgate fetches from the origin Hub and its CDN comes in here (I1).
//!
//! What is promised: only allowed hosts are asked, through the egress proxy where there is one; the token
//! goes to the endpoint's own origin alone (I7); redirects are followed by hand, hop by hop; every wait has
//! an end and every answer a bound; the Hub's request budget is respected, with its last tenth kept for
//! clients. What never happens: no policy is asked, nothing is stored, nothing of a client's request (its
//! token least of all) is sent.
//!
//! A question goes through these files: `lookups` and `file` say what is asked, `exchange` carries it from
//! hop to hop (`hosts`, `budget`, `token`), `connect` and `tunnel` find the way (`proxy`), `refusal` reads a
//! no. Not reqwest: it keeps the proxy's own answers to itself, and those are what an operator needs.
//!
//! All futures may be dropped at any point: put a timeout around them where a client waits. A 429 is waited
//! out in here, up to 15 minutes.

mod backoff;
mod body;
mod budget;
mod config;
mod connect;
mod error;
mod exchange;
mod file;
mod hosts;
mod lookups;
mod page;
mod pages;
mod proxy;
mod refusal;
mod secret;
mod status;
mod tls;
mod token;
mod tunnel;

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::sync::Semaphore;
use url::Url;

pub use budget::{BudgetClass, BudgetStatus};
pub use config::{ConfigError, OnGone, ProxyEnv, UpstreamConfig};
pub use error::{Error, ErrorKind, Result};
pub use file::{OriginBody, OriginFile};
pub use lookups::{InHistory, Look};
pub use status::Status;

use crate::telemetry::Family;
use {connect::Connector, exchange::Exchange, hosts::AllowedHosts, proxy::Proxies, secret::Secret, token::OwnToken};

/// How we introduce ourselves, to the Hub and to the proxy.
const USER_AGENT: &str = concat!("hubgate/", env!("CARGO_PKG_VERSION"));

/// Read from a connection at once, at most: large files come in few pieces.
const READ_BUFFER: usize = 256 << 10;

/// An idle connection is closed before the Hub would.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);

/// For whom the origin is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A client waits. May use the whole budget.
    Client,
    /// Nobody waits: revalidation, preseeding, the rest of a tree. Leaves the last tenth of the budget alone.
    Background,
}

/// The origin Hub, as seen through the egress.
pub struct Upstream {
    exchange: Exchange,
    record: status::Record,
    offline: bool,
}

impl Upstream {
    /// Reads the configuration and the files that it names. Connects to nothing.
    pub fn new(config: &UpstreamConfig, env: ProxyEnv) -> std::result::Result<Arc<Self>, ConfigError> {
        let endpoint = endpoint(&config.endpoint)?;
        if config.connections < 2 {
            return Err(ConfigError::new("upstream.connections", "at least 2: one for files, one for look-ups"));
        }
        for (key, value) in [
            ("upstream.connect_timeout", config.connect_timeout),
            ("upstream.header_timeout", config.header_timeout),
            ("upstream.read_timeout", config.read_timeout),
        ] {
            if value.is_zero() {
                return Err(ConfigError::new(key, "longer than nothing, such as 10s"));
            }
        }
        let proxies = Arc::new(Proxies::new(config, env)?);
        let connector = Connector::new(
            proxies.clone(),
            tls::connector(config.ca_file.as_deref())?,
            config.allow_private,
            config.connect_timeout,
        );
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_max_idle_per_host(config.connections)
            .http1_max_buf_size(READ_BUFFER)
            .build(connector);
        let for_lookups = (config.connections / 4).max(1);
        let exchange = Exchange {
            client,
            hosts: AllowedHosts::new(&endpoint, &config.allowed_hosts)?,
            endpoint,
            proxies,
            token: OwnToken::new(Secret::new(
                ("upstream.token", config.token.as_ref()),
                ("upstream.token_file", config.token_file.as_ref()),
            )?),
            budget: budget::Budget::default(),
            lookups: Arc::new(Semaphore::new(for_lookups)),
            files: Arc::new(Semaphore::new(config.connections - for_lookups)),
            header_timeout: config.header_timeout,
            read_timeout: config.read_timeout,
            requests: Family::new(["class", "status"]),
            bytes_in: Arc::default(),
        };
        Ok(Arc::new(Self { exchange, record: status::Record::default(), offline: config.offline }))
    }

    /// The endpoint's host, as the manifest names the origin.
    pub fn endpoint_host(&self) -> &str {
        self.exchange.endpoint.host_str().unwrap_or_default()
    }

    /// How the way out is doing.
    pub fn status(&self) -> Status {
        Status {
            offline: self.offline,
            last_success: self.record.last_success(),
            last_failure: self.record.last_failure(),
            budget: self.exchange.budget.status(),
            requests: self.exchange.requests.rows(),
            bytes: self.exchange.bytes_in.load(Ordering::Relaxed),
        }
    }

    fn check_online(&self) -> Result<()> {
        if self.offline { Err(Error::new(ErrorKind::Offline)) } else { Ok(()) }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("endpoint", &self.exchange.endpoint.as_str()).finish_non_exhaustive()
    }
}

fn endpoint(text: &str) -> std::result::Result<Url, ConfigError> {
    let wrong = |problem: &str| {
        Err(ConfigError::new("upstream.endpoint", format!("{problem}; write https://host or https://host/prefix")))
    };
    let Ok(url) = Url::parse(text) else { return wrong(&format!("{text:?} is no URL")) };
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("credentials do not belong into the URL: use upstream.token");
    }
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return wrong(&format!("{text:?} is neither http nor https"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong(&format!("{text:?} has a query or fragment"));
    }
    Ok(url)
}
