//! A few lines of HTTP client: one request as it is, or following relative redirects as the Hub's clients do.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client as Hyper, connect::HttpConnector},
    rt::TokioExecutor,
};

/// How long a gateway may take to be ready.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// A client of one endpoint. Its connections are its own.
pub(crate) struct Client {
    endpoint: String,
    hyper: Hyper<HttpConnector, Full<Bytes>>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The body broke off: `body` is what came before.
    pub(crate) broke: bool,
}

impl Client {
    pub(crate) fn new(endpoint: &str) -> Self {
        Self { endpoint: endpoint.to_owned(), hyper: Hyper::builder(TokioExecutor::new()).build_http() }
    }

    /// The URL that paths follow.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// HEAD, redirects followed.
    pub(crate) async fn head(&self, path: &str) -> Result<Answer> {
        self.follow(Method::HEAD, path, &[]).await
    }

    /// GET, redirects followed.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        self.follow(Method::GET, path, &[]).await
    }

    /// GET with headers, redirects followed.
    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        self.follow(Method::GET, path, headers).await
    }

    /// Follows relative redirects; an absolute one is an error, since several clients stop there.
    pub(crate) async fn follow(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        let mut path = path.to_owned();
        for _ in 0..5 {
            let answer = self.send(method.clone(), &path, headers, Bytes::new()).await?;
            if answer.status != StatusCode::TEMPORARY_REDIRECT {
                return Ok(answer);
            }
            let location = answer.headers.get("location").context("a redirect without Location")?;
            location.to_str()?.clone_into(&mut path);
            ensure!(path.starts_with('/'), "an absolute Location: {path}");
        }
        bail!("too many redirects")
    }

    /// One request, one answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer> {
        let (head, mut body) = self.open(method, path, headers, body).await?.into_parts();
        let mut bytes = Vec::new();
        let mut broke = false;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Err(_) => {
                    broke = true;
                    break;
                }
            }
        }
        Ok(Answer { status: head.status, headers: head.headers, body: bytes.into(), broke })
    }

    /// One request, and the answer as it begins.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let uri: Uri = format!("{}{path}", self.endpoint).parse()?;
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ok(self.hyper.request(request.body(Full::new(body))?).await?)
    }

    /// Begins a GET, redirects followed, and reads nothing of the body yet.
    pub(crate) async fn begin(&self, path: &str, headers: &[(&str, &str)]) -> Result<Download> {
        let mut path = path.to_owned();
        for _ in 0..5 {
            let (head, body) = self.open(Method::GET, &path, headers, Bytes::new()).await?.into_parts();
            if head.status != StatusCode::TEMPORARY_REDIRECT {
                return Ok(Download { status: head.status, headers: head.headers, body });
            }
            let location = head.headers.get("location").context("a redirect without Location")?;
            location.to_str()?.clone_into(&mut path);
        }
        bail!("too many redirects")
    }

    /// Waits until `/-/readyz` says 200.
    pub(crate) async fn wait_until_ready(&self) -> Result<()> {
        let ready = async {
            loop {
                if let Ok(answer) = self.get("/-/readyz").await
                    && answer.status == StatusCode::OK
                {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.context("the gateway did not become ready")
    }
}

/// An answer whose body is read bit by bit. Dropping it is a client that leaves.
pub(crate) struct Download {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
}

impl Download {
    /// Reads at least `wanted` bytes, or all that comes.
    pub(crate) async fn read(&mut self, wanted: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < wanted {
            match self.body.frame().await {
                Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(_)) | None => break,
            }
        }
        bytes
    }

    /// The rest, and whether it broke off.
    pub(crate) async fn rest(mut self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        while let Some(frame) = self.body.frame().await {
            match frame {
                Ok(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Err(_) => return (bytes, true),
            }
        }
        (bytes, false)
    }
}

impl Answer {
    /// A header's text; empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON: {error}: {}", self.text()))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
