//! The `[server]` section.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

/// `[server]`: where clients find the gateway.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// `host:port` of the public listener.
    pub listen: String,
    /// `host:port` of a second listener for everything below `/-/`, which the public one then no longer
    /// answers, but for `/-/livez` and `/-/readyz`.
    pub admin_listen: Option<String>,
    /// The URL under which clients reach the gateway, with the path prefix if it has one:
    /// `https://hub.example.com/hf`. Needed where a proxy before it changes host, scheme or path; without it
    /// answers are made from the `Host` header.
    pub public_url: Option<String>,
    /// Addresses and networks (`10.0.0.0/8`) of proxies whose `X-Forwarded-For`, `-Proto` and `-Host` are
    /// believed.
    pub trusted_proxies: Vec<String>,
    /// Origins whose web pages may read what the Hub's routes answer: `https://notebooks.example.com`, or `*` for all. None
    /// unless set: with `auth.anonymous`, a page that is open in a browser inside reads what that browser may reach.
    pub cors_origins: Vec<String>,
    /// How long answers and fills under way may take once the process was told to stop.
    #[serde(deserialize_with = "crate::duration::read")]
    pub drain_timeout: Duration,
    /// TLS on both listeners; without `cert` and `key`, plain HTTP.
    pub tls: TlsConfig,
    /// Bounds on connections.
    pub limits: ConnectionLimits,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            admin_listen: None,
            public_url: None,
            trusted_proxies: Vec::new(),
            cors_origins: Vec::new(),
            drain_timeout: Duration::from_secs(30),
            tls: TlsConfig::default(),
            limits: ConnectionLimits::default(),
        }
    }
}

/// `[server.tls]`: PEM files, read again when they change.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate chain, the server's own first.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// Authorities of client certificates. With it, clients without such a certificate are refused.
    pub client_ca: Option<PathBuf>,
}

/// `[server.limits]`: bounds on each listener's connections.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionLimits {
    /// Most connections at once. A few more are told 503 with Retry-After; the rest wait to be accepted.
    pub connections: usize,
    /// How long a request's head may take to arrive. After as long, an HTTP/2 client is asked whether it lives, and has
    /// 20 s to say so.
    #[serde(deserialize_with = "crate::duration::read")]
    pub header_timeout: Duration,
    /// How long a connection may stay idle between requests. Longer than a load balancer before it keeps one: where both
    /// give up at once, it sends a request into a connection that is being closed.
    #[serde(deserialize_with = "crate::duration::read")]
    pub idle_timeout: Duration,
    /// How long a client may take nothing of what is ready for it; then its connection is closed. A download that
    /// waits for the origin is none of this.
    #[serde(deserialize_with = "crate::duration::read")]
    pub write_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 8192,
            header_timeout: Duration::from_mins(1),
            idle_timeout: Duration::from_mins(2),
            write_timeout: Duration::from_mins(5),
        }
    }
}
