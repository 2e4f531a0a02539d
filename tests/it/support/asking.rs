//! A gateway with its own stand-in Hub, asked one request at a time, redirects shown and not followed.

use bytes::Bytes;
use http::{HeaderMap, Method};
use hub_standin::Standin;
use serde_json::Value;

use super::{
    client::Client,
    gateway::{Setup, TestGateway},
};

/// Allows the stand-in's models and data sets, an old name of one, and hides pickles.
pub(crate) const POLICY: &str = r#"
[licenses]
allow = ["apache-2.0", "mit", "cc-by-4.0"]
[files]
deny = ["*.pkl"]
[[allow]]
name = "models"
repo = "acme/*"
[[allow]]
name = "old-names"
repo = "tiny"
[[allow]]
name = "datasets"
repo = "acme/*"
kind = "dataset"
[[deny]]
repo = "acme/nested"
reason = "Content policy 4.2"
"#;

/// The two together.
pub(crate) struct Asking {
    pub(crate) hub: Standin,
    pub(crate) gate: TestGateway,
    lines_read: usize,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// A header's text; empty where it isn't there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Asking {
    /// With [`POLICY`], over the stand-in's fixtures.
    pub(crate) async fn start() -> Self {
        Self::with("").await
    }

    /// With more configuration, as dotted keys.
    pub(crate) async fn with(config: &str) -> Self {
        Self::over(Standin::builder().fixtures().start().await, config).await
    }

    /// Over a Hub of the test's own.
    pub(crate) async fn over(hub: Standin, config: &str) -> Self {
        let token = format!("upstream.token = {:?}", hub.token());
        let gate = Setup::new().policy(POLICY).config(&token).config(config).start(&hub).await;
        Self { hub, gate, lines_read: 0 }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.ask(Method::GET, path, &[], "").await
    }

    pub(crate) async fn head(&self, path: &str) -> Reply {
        self.ask(Method::HEAD, path, &[], "").await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.ask(Method::GET, path, headers, "").await
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        ask(&self.gate.client, method, path, headers, body).await
    }

    /// The commit that the main branch means upstream.
    pub(crate) fn commit(&self, repo: &str) -> String {
        self.hub.commit(repo, "main")
    }

    /// The access line of the next request that is not to `/-/`.
    pub(crate) async fn next_line(&mut self) -> Value {
        loop {
            match self.gate.access_log().get(self.lines_read) {
                Some(line) => {
                    self.lines_read += 1;
                    if line["route"] != "own" {
                        return line.clone();
                    }
                }
                // The log's thread writes in its own time.
                None => tokio::task::yield_now().await,
            }
        }
    }
}

/// One request, whole.
pub(crate) async fn ask(client: &Client, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let answer = client.send(method, path, headers, Bytes::copy_from_slice(body.as_bytes())).await.unwrap();
    assert!(!answer.broke, "{path} broke off after {} bytes", answer.body.len());
    Reply { status: answer.status.as_u16(), headers: answer.headers, body: answer.body }
}
