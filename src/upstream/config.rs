//! The `[upstream]` section, and what is wrong with one that can't be used.

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;
use serde::Deserialize;

/// The origin Hub and the way to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamConfig {
    /// The Hub to fetch from: scheme, host, and a port and path prefix where it has them.
    pub endpoint: String,
    /// Our own access token, sent to the endpoint's own origin alone.
    pub token: Option<SecretString>,
    /// A file that holds the token; reread when it changes. Not together with `token`.
    pub token_file: Option<PathBuf>,
    /// The egress proxy, `http://host:port` or `https://host:port`, for everything upstream. Where it is not
    /// set, `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` count; `none` means no proxy whatever they say.
    pub proxy: Option<String>,
    /// The user for the proxy's Basic authentication; may stand in the proxy's URL instead.
    pub proxy_user: Option<String>,
    /// That user's password.
    pub proxy_password: Option<SecretString>,
    /// A file that holds the password; reread when it changes. Not together with `proxy_password`.
    pub proxy_password_file: Option<PathBuf>,
    /// A PEM file of certificate authorities to trust beside the public ones: of an inspecting proxy, of a
    /// private Hub.
    pub ca_file: Option<PathBuf>,
    /// Where bytes may come from: `example.com` means that host and all below it, on the scheme's own port or
    /// the endpoint's; `example.com:8443` means that port; IP addresses count only as written here. The
    /// endpoint itself always may.
    pub allowed_hosts: Vec<String>,
    /// Allow connections without a proxy to loopback, link-local and private addresses.
    pub allow_private: bool,
    /// Connections at the same time, at least 2; a quarter of them is kept for look-ups.
    pub connections: usize,
    /// How long a branch's or tag's commit is held before it is looked up again.
    #[serde(deserialize_with = "crate::duration::read")]
    pub ref_ttl: Duration,
    /// What to do with stored files of a repo that the origin says is gone.
    pub on_gone: OnGone,
    /// Ask nothing at all; answer from the store.
    pub offline: bool,
    /// Until a connection stands: name look-up, TCP, the proxy's CONNECT and TLS together.
    #[serde(deserialize_with = "crate::duration::read")]
    pub connect_timeout: Duration,
    /// Until an answer's headers are here, connecting included.
    #[serde(deserialize_with = "crate::duration::read")]
    pub header_timeout: Duration,
    /// The longest silence within a body.
    #[serde(deserialize_with = "crate::duration::read")]
    pub read_timeout: Duration,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            endpoint: "https://huggingface.co".into(),
            token: None,
            token_file: None,
            proxy: None,
            proxy_user: None,
            proxy_password: None,
            proxy_password_file: None,
            ca_file: None,
            // The CDN and Xet hosts of PROTOCOL 13 are all below these two.
            allowed_hosts: vec!["huggingface.co".into(), "hf.co".into()],
            allow_private: false,
            connections: 64,
            ref_ttl: Duration::from_mins(1),
            on_gone: OnGone::Serve,
            offline: false,
            connect_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(30),
            read_timeout: Duration::from_secs(30),
        }
    }
}

/// What to do with stored files of a repo that the origin says is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnGone {
    /// Serve them, marked `gone_upstream` in the log.
    #[default]
    Serve,
    /// Refuse them.
    Refuse,
}

/// The proxy variables of the environment, read by whoever reads the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyEnv {
    /// `HTTPS_PROXY`: for https targets.
    pub https_proxy: Option<String>,
    /// `HTTP_PROXY`: for http targets.
    pub http_proxy: Option<String>,
    /// `NO_PROXY`: hosts, domains and networks that are asked directly. Counts for the two above only.
    pub no_proxy: Option<String>,
}

/// A configuration that can't be used: names the key, what is wrong and the remedy. Never the value of a
/// key that may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The key, or the environment variable.
    pub key: &'static str,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl ConfigError {
    pub(super) fn new(key: &'static str, problem: impl Into<String>) -> Self {
        Self { key, problem: problem.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_unknown_ones_refused() {
        let config: UpstreamConfig = toml::from_str(
            "endpoint = 'http://hub.test:9801'\nconnect_timeout = '2s'\non_gone = 'refuse'\ntoken = 'hf_secret'",
        )
        .unwrap();
        assert_eq!(config.connect_timeout, Duration::from_secs(2));
        assert_eq!(config.on_gone, OnGone::Refuse);
        assert!(!format!("{config:?}").contains("hf_secret"));
        for wrong in ["endpont = 'x'", "read_timeout = '10 parsecs'", "read_timeout = 10", "on_gone = 'maybe'"] {
            assert!(toml::from_str::<UpstreamConfig>(wrong).is_err(), "{wrong} was accepted");
        }
    }
}
