//! A running gateway's admin API, asked from the command line: one request at a time, JSON both ways.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use url::Url;

use super::Failure;
use crate::config::Sources;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// Larger answers are none of ours.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// Which gateway, and who asks.
#[derive(Debug, Clone, Args)]
pub(super) struct RemoteArgs {
    /// A running gateway whose admin API to ask: `http://127.0.0.1:8081`. `HUBGATE_ADMIN_URL` says the same.
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
    /// A file that holds the admin token; else `HUBGATE_ADMIN_TOKEN`, else the file that `HUBGATE_ADMIN_TOKEN_FILE` names.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Authorities to trust for an https URL, instead of the public ones. `HUBGATE_ADMIN_CA_FILE` says the same.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// A gateway that can be asked.
#[derive(Debug)]
pub(super) struct Remote {
    url: Url,
    token: String,
    ca_file: Option<PathBuf>,
}

impl RemoteArgs {
    /// The gateway that was named, if one was: by a flag, the environment or `.env`.
    pub(super) fn remote(&self, sources: &Sources) -> Result<Option<Remote>, Failure> {
        let variable = |name| sources.variable(name);
        let setup = |error: String| Failure::Setup(error);
        let url = match (&self.url, variable("HUBGATE_ADMIN_URL")) {
            (Some(url), _) => url.clone(),
            (None, Some(text)) => {
                text.parse().map_err(|error| setup(format!("HUBGATE_ADMIN_URL: {text:?}: {error}")))?
            }
            (None, None) => return Ok(None),
        };
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(setup(format!("--url: {url}: write http://host:port or https://host:port")));
        }
        let named = self.token_file.clone();
        let from_file = |path: PathBuf| {
            let read = std::fs::read_to_string(&path);
            read.map_err(|error| setup(format!("the admin token: {}: {error}", path.display())))
        };
        let token = match (named, variable("HUBGATE_ADMIN_TOKEN"), variable("HUBGATE_ADMIN_TOKEN_FILE")) {
            (Some(path), ..) => from_file(path)?,
            (None, Some(token), _) => token.to_owned(),
            (None, None, Some(path)) => from_file(path.into())?,
            (None, None, None) => {
                return Err(setup("the admin token: set HUBGATE_ADMIN_TOKEN or give --token-file".into()));
            }
        };
        let ca_file = self.ca_file.clone().or_else(|| variable("HUBGATE_ADMIN_CA_FILE").map(PathBuf::from));
        Ok(Some(Remote { url, token: token.trim().to_owned(), ca_file }))
    }

    /// The same, where there must be one.
    pub(super) fn required(&self, sources: &Sources) -> Result<Remote, Failure> {
        self.remote(sources)?.ok_or_else(|| Failure::Setup("name a running gateway: --url or HUBGATE_ADMIN_URL".into()))
    }
}

impl Remote {
    /// Asks for `path` below `/-/admin/v1`. An error of the API's is its message.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let asked = tokio::time::timeout(PATIENCE, self.ask_unhurried(method, path, body)).await;
        let answer = asked.map_err(|_| anyhow!("no answer within {} s", PATIENCE.as_secs())).and_then(|answer| answer);
        answer.with_context(|| self.url.to_string()).map_err(Failure::Failed)
    }

    async fn ask_unhurried(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let host = self.url.host_str().context("the URL has no host")?;
        let port = self.url.port_or_known_default().context("the URL has no port")?;
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        let path = format!("{}/-/admin/v1{path}", self.url.path().trim_end_matches('/'));
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("{host}:{port}"))
            .header(header::USER_AGENT, concat!("hubgate/", env!("CARGO_PKG_VERSION")))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = request.body(Full::new(body))?;
        if self.url.scheme() == "http" {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        exchange(self.connector()?.connect(name, stream).await?, request).await
    }

    fn connector(&self) -> anyhow::Result<tokio_rustls::TlsConnector> {
        let mut roots = rustls::RootCertStore::empty();
        match &self.ca_file {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(path) => {
                for certificate in CertificateDer::pem_file_iter(path).with_context(|| path.display().to_string())? {
                    roots.add(certificate?)?;
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(tokio_rustls::TlsConnector::from(Arc::new(config)))
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<Value>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await.map_err(|error| anyhow!(error))?;
    drop(sender);
    connection.abort();
    let answer: Value = serde_json::from_slice(&body.to_bytes())
        .with_context(|| format!("status {status}, and no JSON: is this a hubgate's admin listener?"))?;
    if status.is_success() {
        return Ok(answer);
    }
    match answer["error"]["message"].as_str() {
        Some(message) => bail!("{message}"),
        None if status == StatusCode::NOT_FOUND => bail!("this listener has no admin API; see server.admin_listen"),
        None => bail!("status {status}"),
    }
}
