//! A few lines of HTTP client that follow relative redirects, as the Hub's clients do.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client as Hyper, connect::HttpConnector},
    rt::TokioExecutor,
};

pub(crate) struct Client {
    endpoint: String,
    hyper: Hyper<HttpConnector, Empty<Bytes>>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Client {
    pub(crate) fn new(endpoint: &str) -> Self {
        Self { endpoint: endpoint.to_owned(), hyper: Hyper::builder(TokioExecutor::new()).build_http() }
    }

    pub(crate) async fn head(&self, path: &str) -> Result<Answer> {
        self.ask(Method::HEAD, path).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        self.ask(Method::GET, path).await
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Answer> {
        let mut path = path.to_owned();
        for _ in 0..5 {
            let uri: Uri = format!("{}{path}", self.endpoint).parse()?;
            let request = Request::builder().method(&method).uri(uri).header("user-agent", "hubgate-demo/1.0");
            let response = self.hyper.request(request.body(Empty::new())?).await?;
            let (head, body) = response.into_parts();
            if head.status == StatusCode::TEMPORARY_REDIRECT {
                let location = head.headers.get("location").context("a redirect without Location")?;
                path = location.to_str()?.to_owned();
                continue;
            }
            let body = body.collect().await?.to_bytes();
            return Ok(Answer { status: head.status, headers: head.headers, body });
        }
        bail!("too many redirects")
    }

    pub(crate) async fn wait_until_ready(&self) -> Result<()> {
        let ready = async {
            loop {
                if let Ok(answer) = self.get("/-/readyz").await && answer.status == StatusCode::OK {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(super::PATIENCE, ready).await.context("hubgate did not become ready")
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> String {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
