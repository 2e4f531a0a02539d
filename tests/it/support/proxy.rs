//! A small egress proxy: CONNECT and plain http, Basic authentication, TLS to itself, refusals. Leads every
//! name to the loopback address, so a test can prove that nobody else looked a name up; keeps what it was
//! asked.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring},
};

/// How a proxy behaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProxyConfig {
    /// The `user:password` that it wants, by Basic.
    pub(crate) account: Option<String>,
    /// The values of `Proxy-Authenticate` of its 407.
    pub(crate) schemes: Vec<String>,
    /// The answer to whatever is asked: status, content type, page.
    pub(crate) refusal: Option<(u16, &'static str, &'static str)>,
    /// Speaks TLS to its clients, by a certificate for `localhost`.
    pub(crate) tls: bool,
}

/// One request line as it came, and the credentials with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// `CONNECT hub.test:443` or `GET http://...`.
    pub(crate) line: String,
    /// `Proxy-Authorization`.
    pub(crate) authorization: Option<String>,
}

/// A running proxy. Dropping it ends it and its connections.
pub(crate) struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    ca_pem: Option<String>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port.
    pub(crate) async fn start(config: ProxyConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (acceptor, ca_pem) = if config.tls { tls() } else { (None, None) };
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let mut accepting = JoinSet::new();
        let record = asked.clone();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (config, record, acceptor) = (config.clone(), record.clone(), acceptor.clone());
                connections.spawn(async move {
                    // A client that leaves is no failure of the proxy.
                    let served = match acceptor {
                        None => serve(socket, &config, &record).await,
                        Some(acceptor) => match acceptor.accept(socket).await {
                            Ok(socket) => serve(socket, &config, &record).await,
                            Err(error) => Err(error),
                        },
                    };
                    drop(served);
                });
            }
        });
        Self { address, asked, ca_pem, _accepting: accepting }
    }

    /// For `upstream.proxy`.
    pub(crate) fn url(&self) -> String {
        if self.ca_pem.is_some() {
            format!("https://localhost:{}", self.address.port())
        } else {
            format!("http://{}", self.address)
        }
    }

    /// The certificate to trust, of a proxy that speaks TLS.
    pub(crate) fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// All that was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn tls() -> (Option<TlsAcceptor>, Option<String>) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (Some(TlsAcceptor::from(Arc::new(config))), Some(cert.pem()))
}

async fn serve<S>(socket: S, config: &ProxyConfig, record: &Mutex<Vec<Asked>>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut client = BufReader::with_capacity(256 << 10, socket);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if client.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    let header = |name: &str| {
        head.iter().skip(1).filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    let request: Vec<&str> = head[0].split(' ').collect();
    let (method, target) = (request[0], request[1]);
    let authorization = header("proxy-authorization").map(|(_, value)| value.trim().to_owned());
    record.lock().unwrap().push(Asked { line: format!("{method} {target}"), authorization: authorization.clone() });

    if let Some(account) = &config.account
        && authorization != Some(format!("Basic {}", BASE64_STANDARD.encode(account)))
    {
        let schemes: Vec<String> =
            config.schemes.iter().map(|scheme| format!("Proxy-Authenticate: {scheme}\r\n")).collect();
        let schemes = schemes.concat();
        let answer = format!("HTTP/1.1 407 Authenticate\r\n{schemes}Content-Length: 0\r\nConnection: close\r\n\r\n");
        return client.write_all(answer.as_bytes()).await;
    }
    if let Some((status, kind, page)) = config.refusal {
        let length = page.len();
        let answer = format!(
            "HTTP/1.1 {status} No\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{page}"
        );
        return client.write_all(answer.as_bytes()).await;
    }
    if method == "CONNECT" {
        let mut server = connect(target).await?;
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
        tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, 256 << 10, 256 << 10).await?;
        return Ok(());
    }
    let (authority, path) = target.trim_start_matches("http://").split_once('/').unwrap();
    let mut server = connect(authority).await?;
    let mut forwarded = format!("{method} /{path} HTTP/1.1\r\nConnection: close\r\n");
    for line in &head[1..] {
        if !line.to_ascii_lowercase().starts_with("proxy-") {
            forwarded.push_str(line);
            forwarded.push_str("\r\n");
        }
    }
    forwarded.push_str("\r\n");
    server.write_all(forwarded.as_bytes()).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Any name is this machine.
async fn connect(authority: &str) -> io::Result<TcpStream> {
    let port: u16 = authority.rsplit_once(':').map_or(80, |(_, port)| port.parse().unwrap());
    TcpStream::connect(("127.0.0.1", port)).await
}
