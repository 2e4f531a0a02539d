//! Where a request comes from and by what address its client sees us, through whatever proxies stand
//! between. `X-Forwarded-*` is believed from `server.trusted_proxies` alone.

use std::{fmt, net::IpAddr, str::FromStr};

use http::{HeaderMap, Uri, header, uri::Authority};

use crate::server::{Peer, ServerConfig};

/// `server.public_url` and `server.trusted_proxies`, ready for use.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    public: Option<PublicUrl>,
    trusted: Vec<Network>,
}

/// The URL under which clients reach us.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PublicUrl {
    /// `https://hub.example.com`.
    origin: String,
    /// `/hf`, or empty.
    prefix: String,
}

/// A `[server]` key that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("server.{key}: {value:?}: {problem}")]
pub struct AddressError {
    key: &'static str,
    value: String,
    problem: &'static str,
}

impl Addresses {
    /// Reads the two keys.
    ///
    /// # Errors
    /// Names the key, the value and what would be right.
    pub fn new(config: &ServerConfig) -> Result<Self, AddressError> {
        let public = config.public_url.as_deref().map(PublicUrl::parse).transpose()?;
        let trusted = config.trusted_proxies.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        Ok(Self { public, trusted })
    }

    /// The path prefix of `public_url`, as `/hf`; empty where there is none.
    pub(super) fn prefix(&self) -> &str {
        self.public.as_ref().map_or("", |public| &public.prefix)
    }

    /// Takes the prefix off a path. A path without it stays as it is: a proxy may have taken it off already.
    pub(super) fn inside<'p>(&self, path: &'p str) -> &'p str {
        let path_start = path.len() - path.trim_start_matches('/').len();
        match path[path_start.saturating_sub(1)..].strip_prefix(self.prefix()) {
            Some(inside) if !self.prefix().is_empty() && (inside.is_empty() || inside.starts_with('/')) => inside,
            _ => path,
        }
    }

    /// The client's address: the last hop that is not a trusted proxy.
    pub(super) fn client(&self, peer: Peer, headers: &HeaderMap) -> IpAddr {
        let peer = peer.address.ip().to_canonical();
        if self.trusted.is_empty() || !self.trusts(peer) {
            return peer;
        }
        let mut client = peer;
        let hops = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let hops: Vec<&str> = hops.flat_map(|value| value.split(',')).collect();
        for hop in hops.iter().rev() {
            // What a hop that we don't understand says of those before it is worth nothing.
            let Some(address) = forwarded_address(hop) else { break };
            client = address;
            if !self.trusts(address) {
                break;
            }
        }
        client
    }

    /// The base of absolute URLs: scheme, host and prefix as the client sees them, without a slash at its
    /// end. `None` where the request does not tell.
    pub(super) fn base(&self, peer: Peer, uri: &Uri, headers: &HeaderMap) -> Option<String> {
        if let Some(public) = &self.public {
            return Some(format!("{}{}", public.origin, public.prefix));
        }
        let trusted = self.trusts(peer.address.ip().to_canonical());
        let forwarded = |name: &str| {
            let value = headers.get(name).filter(|_| trusted)?.to_str().ok()?;
            // Of several proxies, the first one is the client's.
            value.split(',').next().map(str::trim).filter(|value| !value.is_empty())
        };
        let scheme = match forwarded("x-forwarded-proto") {
            Some("https") => "https",
            Some("http") => "http",
            _ if peer.tls => "https",
            _ => "http",
        };
        let host = forwarded("x-forwarded-host")
            .or_else(|| headers.get(header::HOST)?.to_str().ok())
            .or_else(|| uri.authority().map(Authority::as_str))?;
        // A host that is none would write text of the client's choice into a header.
        let host: Authority = host.parse().ok()?;
        (!host.as_str().contains('@')).then(|| format!("{scheme}://{host}"))
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }
}

/// An element of `X-Forwarded-For`: an address, maybe with a port, IPv6 maybe in brackets.
fn forwarded_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse().ok().map(|socket: std::net::SocketAddr| socket.ip()));
    address.map(|address| address.to_canonical())
}

impl PublicUrl {
    fn parse(text: &str) -> Result<Self, AddressError> {
        let wrong = |problem| AddressError { key: "public_url", value: text.into(), problem };
        let uri: Uri = text.parse().map_err(|_| wrong("this is no URL; write https://hub.example.com/prefix"))?;
        let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong("write it whole, starting with http:// or https://"));
        };
        if uri.query().is_some() || authority.as_str().contains('@') {
            return Err(wrong("it may have a host, a port and a path, nothing else"));
        }
        let prefix = uri.path().trim_end_matches('/');
        if prefix.contains("//") || prefix.starts_with("/-") {
            return Err(wrong("the path may hold no empty part and not start with /-"));
        }
        Ok(Self { origin: format!("{scheme}://{authority}"), prefix: prefix.to_owned() })
    }
}

/// An address or a network in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError {
            key: "trusted_proxies",
            value: text.into(),
            problem: "write an address (10.0.0.7) or a network (10.0.0.0/8)",
        };
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| wrong()))?;
        if bits > most { Err(wrong()) } else { Ok(Self { address, bits }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(public_url: Option<&str>, trusted: &[&str]) -> Result<Addresses, AddressError> {
        Addresses::new(&ServerConfig {
            public_url: public_url.map(str::to_owned),
            trusted_proxies: trusted.iter().map(ToString::to_string).collect(),
            ..ServerConfig::default()
        })
    }

    fn peer(address: &str) -> Peer {
        Peer { address: format!("{address}:1").parse().unwrap(), tls: false }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
    }

    #[test]
    fn only_trusted_proxies_are_believed_about_the_client() {
        let trusting = addresses(None, &["10.0.0.0/8", "fd00::/8"]).unwrap();
        let forwarded = headers(&[("x-forwarded-for", "1.1.1.1, 203.0.113.9, 10.1.2.3")]);
        let client = |peer_address| trusting.client(peer(peer_address), &forwarded).to_string();
        assert_eq!(client("10.0.0.1"), "203.0.113.9", "the last hop that is no proxy of ours, not the forged first");
        assert_eq!(client("192.0.2.5"), "192.0.2.5");
        assert_eq!(client("[::ffff:10.0.0.1]"), "203.0.113.9");
        let odd = headers(&[("x-forwarded-for", "203.0.113.9, unknown, 10.1.2.3:99")]);
        assert_eq!(trusting.client(peer("10.0.0.1"), &odd).to_string(), "10.1.2.3");
        assert_eq!(
            trusting.client(peer("[fd00::1]"), &headers(&[("x-forwarded-for", "[2001:db8::7]:5")])).to_string(),
            "2001:db8::7"
        );
    }

    #[test]
    fn the_base_is_what_the_client_sees() {
        let plain = addresses(None, &["10.0.0.1"]).unwrap();
        let forwarded = headers(&[
            ("host", "inside:8080"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "hub.example.com"),
        ]);
        let uri = Uri::from_static("/api/models");
        let base = |address: &str| plain.base(peer(address), &uri, &forwarded).unwrap();
        assert_eq!(base("10.0.0.1"), "https://hub.example.com");
        assert_eq!(base("10.0.0.2"), "http://inside:8080");
        assert_eq!(plain.base(peer("10.0.0.2"), &uri, &headers(&[("host", "a b>; rel=x")])), None);
        let public = addresses(Some("https://hub.example.com/hf/"), &[]).unwrap();
        assert_eq!(public.base(peer("10.0.0.2"), &uri, &forwarded).unwrap(), "https://hub.example.com/hf");
    }

    #[test]
    fn the_prefix_is_taken_off_where_it_is_a_whole_segment() {
        let public = addresses(Some("http://h/hf"), &[]).unwrap();
        for (path, inside) in [
            ("/hf/org/name", "/org/name"),
            ("//hf/org/name", "/org/name"),
            ("/hf", ""),
            ("/hfx/name", "/hfx/name"),
            ("/org/name", "/org/name"),
        ] {
            assert_eq!(public.inside(path), inside, "{path}");
        }
        assert_eq!(addresses(None, &[]).unwrap().inside("//org/name"), "//org/name");
    }

    #[test]
    fn bad_values_are_named_with_their_key() {
        for bad in
            ["hub.example.com", "ftp://h", "https://", "https://h/?a", "https://u@h", "https://h/-/x", "https://h/a//b"]
        {
            let error = addresses(Some(bad), &[]).unwrap_err().to_string();
            assert!(error.starts_with("server.public_url: "), "{error}");
        }
        for bad in ["10.0.0.0/33", "10.0.0", "::/129", "proxy.example.com", ""] {
            let error = addresses(None, &[bad]).unwrap_err().to_string();
            assert!(error.starts_with("server.trusted_proxies: "), "{error}");
        }
        let all = addresses(None, &["0.0.0.0/0"]).unwrap();
        assert!(all.trusts("8.8.8.8".parse().unwrap()) && !all.trusts("::1".parse().unwrap()));
    }
}
