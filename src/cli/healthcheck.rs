//! `hubgate healthcheck`: asks the gateway on this machine, by its own configuration. No shell, no curl
//! needed in the image.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, lookup_host},
};

use super::{Done, Failure, runtime};
use crate::{config::Loaded, server::TlsConfig};

/// A gateway that takes longer is not well.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// Asks whether it is ready for traffic, rather than whether it lives.
    #[arg(long)]
    ready: bool,
    /// The client certificate to show where the server asks for one; without it, the server's own.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

pub(super) fn run(loaded: &Loaded, args: &HealthcheckArgs) -> Done {
    let page = if args.ready { "/-/readyz" } else { "/-/livez" };
    let server = &loaded.config.server;
    let tls = server.tls.cert.is_some().then(|| client_config(&server.tls, args)).transpose()?;
    runtime()?.block_on(async {
        let asked = tokio::time::timeout(PATIENCE, ask(&server.listen, tls, page)).await;
        let answer = asked.map_err(|_| Failure::Failed(anyhow!("{}: no answer within {PATIENCE:?}", server.listen)))?;
        let place = || match server.tls.client_ca {
            Some(_) => format!(
                "{}: server.tls.client_ca is set: name a certificate that it has signed for clients with --cert and --key",
                server.listen
            ),
            None => server.listen.clone(),
        };
        let (status, body) = answer.with_context(place).map_err(Failure::Failed)?;
        print!("{}", if body.ends_with('\n') { body } else { body + "\n" });
        if status == 200 { Ok(()) } else { Err(Failure::Failed(anyhow!("{page} answers {status}"))) }
    })
}

/// TLS to ourselves, with a client certificate where the server wants one.
fn client_config(server: &TlsConfig, args: &HealthcheckArgs) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Failed(error.into()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OurOwn(provider)));
    let own = server.client_ca.as_ref().and(server.cert.as_ref().zip(server.key.as_ref()));
    let Some((cert, key)) = args.cert.as_ref().zip(args.key.as_ref()).or(own) else {
        return Ok(builder.with_no_client_auth());
    };
    let setup = |path: &Path, error: &dyn std::fmt::Display| Failure::Setup(format!("{}: {error}", path.display()));
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|error| setup(cert, &error))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| setup(key, &error))?;
    builder.with_client_auth_cert(chain, secret).map_err(|error| setup(cert, &error))
}

/// The status and the body of a page.
async fn ask(listen: &str, tls: Option<ClientConfig>, page: &str) -> io::Result<(u16, String)> {
    let bound = lookup_host(listen).await?.next().ok_or_else(|| io::Error::other(format!("{listen}: no address")))?;
    let address = SocketAddr::new(reachable(bound.ip()), bound.port());
    let stream = TcpStream::connect(address).await?;
    let Some(tls) = tls else { return get(stream, page).await };
    let stream =
        tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(ServerName::from(address.ip()), stream).await?;
    get(stream, page).await
}

/// Where to reach a listener on all addresses.
fn reachable(bound: IpAddr) -> IpAddr {
    match bound {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, page: &str) -> io::Result<(u16, String)> {
    let request = format!(
        "GET {page} HTTP/1.1\r\nhost: localhost\r\nuser-agent: hubgate-healthcheck\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    match stream.take(64 * 1024).read_to_end(&mut answer).await {
        // A peer that hangs up without TLS's goodbye has said all the same.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !answer.is_empty() => {}
        outcome => drop(outcome?),
    }
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("the answer is not HTTP"))?;
    Ok((status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned()))
}

/// Takes any certificate: this asks our own process on this machine and sends it nothing of worth, and its
/// certificate names another host than the loopback address.
#[derive(Debug)]
struct OurOwn(Arc<CryptoProvider>);

impl ServerCertVerifier for OurOwn {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
