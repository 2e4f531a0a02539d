//! Which hosts may be asked: `upstream.allowed_hosts`, matched at label boundaries.

use std::net::IpAddr;

use url::{Host, Url};

use super::{ConfigError, Error, ErrorKind, Result};

/// The endpoint's own host and port, and those of the list.
#[derive(Debug)]
pub(super) struct AllowedHosts {
    endpoint: Url,
    rules: Vec<Rule>,
}

#[derive(Debug, PartialEq, Eq)]
struct Rule {
    host: Name,
    /// `None`: the scheme's own port or the endpoint's.
    port: Option<u16>,
}

#[derive(Debug, PartialEq, Eq)]
enum Name {
    /// This host and all below it; lower case.
    Domain(String),
    /// This address alone.
    Ip(IpAddr),
}

impl AllowedHosts {
    pub(super) fn new(endpoint: &Url, entries: &[String]) -> std::result::Result<Self, ConfigError> {
        let rules = entries.iter().map(|entry| Rule::parse(entry)).collect::<std::result::Result<_, _>>()?;
        Ok(Self { endpoint: endpoint.clone(), rules })
    }

    /// Whether this URL may be asked. Of an https endpoint nothing leads to plain http.
    pub(super) fn check(&self, url: &Url) -> Result<()> {
        let refuse = |why: String| Err(Error::new(ErrorKind::HostNotAllowed(why)));
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return refuse(format!("a URL without a host ({}:)", url.scheme()));
        };
        let shown = format!("{host}:{port}");
        if !matches!(url.scheme(), "http" | "https") {
            return refuse(format!("{shown} by {}", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse(format!("{shown} with credentials in the URL"));
        }
        if url.origin() == self.endpoint.origin() {
            return Ok(());
        }
        if self.endpoint.scheme() == "https" && url.scheme() == "http" {
            return refuse(format!("{shown} by plain http, while the endpoint is https"));
        }
        let usual_port = port == if url.scheme() == "https" { 443 } else { 80 }
            || Some(port) == self.endpoint.port_or_known_default();
        let named = |rule: &&Rule| match (&rule.host, &host) {
            (Name::Domain(domain), Host::Domain(name)) => is_at_or_below(name, domain),
            (Name::Ip(ip), Host::Ipv4(address)) => *ip == IpAddr::V4(*address),
            (Name::Ip(ip), Host::Ipv6(address)) => *ip == IpAddr::V6(*address),
            _ => false,
        };
        if self.rules.iter().filter(named).any(|rule| rule.port.map_or(usual_port, |listed| listed == port)) {
            return Ok(());
        }
        refuse(shown)
    }
}

/// `cdn.hf.co` is below `hf.co`; `evilhf.co` is not.
fn is_at_or_below(name: &str, domain: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl Rule {
    fn parse(entry: &str) -> std::result::Result<Self, ConfigError> {
        let wrong = |problem: &str| {
            Err(ConfigError::new("upstream.allowed_hosts", format!("{entry:?}: {problem}; write host or host:port")))
        };
        if entry.contains('/') || entry.contains('@') {
            return wrong("a host is no URL");
        }
        if let Ok(ip) = entry.parse() {
            return Ok(Self { host: Name::Ip(ip), port: None });
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => match port.parse() {
                Ok(port) => (host, Some(port)),
                Err(_) => return wrong("no port number"),
            },
            None => (entry, None),
        };
        let host = host.strip_prefix("*.").or_else(|| host.strip_prefix('.')).unwrap_or(host);
        match Host::parse(host) {
            Ok(Host::Domain(domain)) => Ok(Self { host: Name::Domain(domain), port }),
            Ok(Host::Ipv4(ip)) => Ok(Self { host: Name::Ip(ip.into()), port }),
            Ok(Host::Ipv6(ip)) => Ok(Self { host: Name::Ip(ip.into()), port }),
            Err(error) => wrong(&error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(endpoint: &str, entries: &[&str], url: &str) -> bool {
        let entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
        let hosts = AllowedHosts::new(&Url::parse(endpoint).unwrap(), &entries).unwrap();
        hosts.check(&Url::parse(url).unwrap()).is_ok()
    }

    #[test]
    fn hosts_are_matched_at_label_boundaries() {
        let hub = "https://huggingface.co";
        let list = ["huggingface.co", "hf.co", "cdn.example.com:8443"];
        for good in [
            "https://huggingface.co/x",
            "https://cdn-lfs.hf.co/x",
            "https://us.aws.cdn.hf.co/x",
            "https://CAS-bridge.xethub.HF.co/x",
            "https://cdn-lfs.huggingface.co/x",
            "https://cdn.example.com:8443/x",
        ] {
            assert!(allowed(hub, &list, good), "{good} was refused");
        }
        for bad in [
            "https://evilhf.co/x",
            "https://hf.co.evil.com/x",
            "https://huggingface.co:8443/x",
            "https://cdn.example.com/x",
            "http://huggingface.co/x",
            "https://user@huggingface.co/x",
            "https://1.2.3.4/x",
            "https://2130706433/x",
            "https://[::1]/x",
            "ftp://huggingface.co/x",
            "data:text/plain,x",
        ] {
            assert!(!allowed(hub, &list, bad), "{bad} was allowed");
        }
    }

    #[test]
    fn the_endpoints_host_is_allowed_and_addresses_only_as_listed() {
        let hub = "http://127.0.0.1:9801/prefix";
        assert!(allowed(hub, &[], "http://127.0.0.1:9801/x"));
        assert!(!allowed(hub, &[], "http://127.0.0.1:9802/x"));
        assert!(allowed(hub, &["127.0.0.1:9802"], "http://127.0.0.1:9802/x"));
        assert!(!allowed(hub, &["127.0.0.1:9802"], "http://127.0.0.2:9802/x"));
        assert!(allowed(hub, &["[::1]:9802"], "http://[::1]:9802/x"));
        assert!(allowed(hub, &["::1"], "http://[::1]:9801/x"));
        assert!(allowed(hub, &["cdn.test"], "http://cdn.test:9801/x"), "the endpoint's port");
    }

    #[test]
    fn an_entry_that_is_no_host_is_refused_by_name() {
        for bad in ["https://hf.co", "hf.co/x", "hf.co:https", "a b"] {
            let error = AllowedHosts::new(&Url::parse("http://a").unwrap(), &[bad.to_owned()]).unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
    }
}
