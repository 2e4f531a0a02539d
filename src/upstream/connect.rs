//! Connections: straight to the target or through the egress proxy, plain or TLS.
//!
//! Behind a proxy no name is looked up here. Without one, a name that leads to a private address leads
//! nowhere, checked on the very addresses that are connected to.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use http::{Uri, uri::Scheme};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector, dns::Name},
    rt::TokioIo,
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tower::Service;

use super::{
    Error, ErrorKind, Result,
    proxy::{Proxies, Proxy},
    tunnel,
};

/// Makes the connections of hyper-util's client.
#[derive(Clone)]
pub(super) struct Connector(Arc<Ways>);

struct Ways {
    proxies: Arc<Proxies>,
    tls: TlsConnector,
    /// To targets: looks up public addresses only.
    direct: HttpConnector<Resolver>,
    /// To the proxy, which may well be private.
    to_proxy: HttpConnector<Resolver>,
    resolver: Resolver,
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(proxies: Arc<Proxies>, tls: TlsConnector, allow_private: bool, timeout: Duration) -> Self {
        let connector = |resolver| {
            let mut connector = HttpConnector::new_with_resolver(resolver);
            connector.enforce_http(false);
            connector.set_nodelay(true);
            connector.set_keepalive(Some(Duration::from_mins(1)));
            connector
        };
        let resolver = Resolver { allow_private };
        Self(Arc::new(Ways {
            proxies,
            tls,
            direct: connector(resolver),
            to_proxy: connector(Resolver { allow_private: true }),
            resolver,
            timeout,
        }))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Socket>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<TokioIo<Socket>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let ways = self.0.clone();
        async move {
            let connected = tokio::time::timeout(ways.timeout, ways.connect(&target)).await;
            let timed_out = |_| Error::new(ErrorKind::Timeout).because("no connection in upstream.connect_timeout");
            connected.map_err(timed_out)?.map(TokioIo::new)
        }
        .boxed()
    }
}

impl Ways {
    async fn connect(&self, target: &Uri) -> Result<Socket> {
        let host = target.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_https = target.scheme() == Some(&Scheme::HTTPS);
        let Some(proxy) = self.proxies.of(target) else {
            if let Ok(ip) = host.parse() {
                self.resolver.check(ip)?;
            }
            let stream = tcp(&self.direct, target.clone(), ErrorKind::Unreachable).await?;
            let io = if is_https { self.tls(host, Box::new(stream)).await? } else { Box::new(stream) };
            return Ok(Socket { io, absolute_form: false });
        };
        let io = self.connect_to(proxy).await?;
        if !is_https {
            return Ok(Socket { io, absolute_form: true });
        }
        let visit = proxy.enter().await?;
        let io = tunnel::open(io, target, visit).await?;
        Ok(Socket { io: self.tls(host, io).await?, absolute_form: false })
    }

    async fn connect_to(&self, proxy: &Proxy) -> Result<Box<dyn Io>> {
        let stream = tcp(&self.to_proxy, proxy.uri.clone(), ErrorKind::ProxyUnreachable).await?;
        if !proxy.is_tls {
            return Ok(Box::new(stream));
        }
        self.tls(&proxy.host, Box::new(stream)).await.map_err(|mut error| {
            error.kind = ErrorKind::ProxyUnreachable;
            error
        })
    }

    async fn tls(&self, host: &str, io: Box<dyn Io>) -> Result<Box<dyn Io>> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Error::malformed(format!("{host:?} is no name for TLS")))?;
        let stream = self.tls.connect(name, io).await.map_err(|error| {
            let rustls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            let hint = match rustls {
                Some(rustls::Error::InvalidCertificate(_)) => {
                    "; if an inspecting proxy or a private CA signed it, name that CA in upstream.ca_file"
                }
                _ => "",
            };
            Error::new(ErrorKind::Unreachable).because(format!("TLS to {host}: {error}{hint}"))
        })?;
        Ok(Box::new(stream))
    }
}

async fn tcp(connector: &HttpConnector<Resolver>, to: Uri, kind: ErrorKind) -> Result<TcpStream> {
    let place = to.authority().map(ToString::to_string).unwrap_or_default();
    match connector.clone().call(to).await {
        Ok(stream) => Ok(stream.into_inner()),
        Err(error) => Err(Error::within(&error).unwrap_or_else(|| {
            let mut text = format!("{place}: {error}");
            if let Some(cause) = std::error::Error::source(&error) {
                text = format!("{text}: {cause}");
            }
            Error::new(kind).because(text)
        })),
    }
}

/// Looks names up, and leaves out addresses that are not to be asked.
#[derive(Clone, Copy)]
struct Resolver {
    allow_private: bool,
}

impl Resolver {
    fn check(self, ip: IpAddr) -> Result<()> {
        if self.allow_private || !is_private(ip) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::PrivateAddress(ip.to_string())))
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = *self;
        async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(|error| {
                Error::new(ErrorKind::Unreachable).because(format!("cannot look up {}: {error}", name.as_str()))
            })?;
            let (public, private): (Vec<_>, Vec<_>) = found.partition(|found| resolver.check(found.ip()).is_ok());
            if let (true, Some(private)) = (public.is_empty(), private.first()) {
                return Err(Error::new(ErrorKind::PrivateAddress(format!("{} is {}", name.as_str(), private.ip()))));
            }
            Ok(public.into_iter())
        }
        .boxed()
    }
}

/// Not an address of the public internet: loopback, link-local (metadata services live there), private,
/// shared, multicast, unspecified; also where IPv6 only wraps such an IPv4 address.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_private_v4(ip),
        IpAddr::V6(ip) => is_private_v6(ip),
    }
}

fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 198 && (18..20).contains(&b))
        || ip.octets()[..3] == [192, 0, 0]
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let last = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_unique_local()
        || ip.is_unicast_link_local()
        || (s[0] & 0xffc0) == 0xfec0
        || (s[0] == 0x2001 && s[1] == 0xdb8)
        // IPv4-mapped and -compatible, NAT64, 6to4
        || (s[..5] == [0; 5] && matches!(s[5], 0 | 0xffff) && is_private_v4(last(s[6], s[7])))
        || (s[..6] == [0x64, 0xff9b, 0, 0, 0, 0] && is_private_v4(last(s[6], s[7])))
        || (s[0] == 0x2002 && is_private_v4(last(s[1], s[2])))
}

/// Anything that TLS or HTTP can run over.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection on which requests can be sent.
pub(super) struct Socket {
    io: Box<dyn Io>,
    /// Plain http through a proxy: the request line has the whole URL.
    absolute_form: bool,
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.absolute_form)
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_of_the_internet_are_known() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "fec0::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "::127.0.0.1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "::ffff:1.1.1.1", "64:ff9b::101:101"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_leads_nowhere() {
        let resolve = async |allow_private| {
            Resolver { allow_private }.call("localhost".parse().unwrap()).await.map(|found| found.len())
        };
        assert!(matches!(resolve(false).await.unwrap_err().kind, ErrorKind::PrivateAddress(_)));
        assert!(resolve(true).await.unwrap() > 0);
    }
}
