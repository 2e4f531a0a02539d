//! The real gateway, on a free port before a stand-in Hub, with a policy and a store of its own.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::Method;
use hub_standin::Standin;
use hubgate::{
    app::{App, StartError},
    config::{self, Sources},
    gateway::Gateway,
    policy::{LoadError, PolicyHandle, Reload},
    store::Store,
    telemetry::{AccessLog, LogFormat},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::{Answer, Client};

/// The policy of most tests: everything of acme, under the usual licences.
pub(crate) const POLICY: &str = r#"
[licenses]
allow = ["apache-2.0", "mit", "cc-by-4.0"]

[files]
deny = ["*.pkl", "*.py"]

[[allow]]
name = "acme"
repo = "acme/*"

[[allow]]
name = "acme-data"
repo = "acme/*"
kind = "dataset"

[[allow]]
name = "acme-spaces"
repo = "acme/*"
kind = "space"

[[deny]]
name = "no-evil"
repo = "acme/evil*"
reason = "Content policy 4.2"
"#;

/// How long a line of the access log may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// A gateway that is not started yet.
pub(crate) struct Setup {
    policy: String,
    config: String,
    root: Option<Arc<tempfile::TempDir>>,
}

/// A running gateway.
pub(crate) struct TestGateway {
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    /// A client of it.
    pub(crate) client: Client,
    /// A client of its second listener, where `server.admin_listen` is set.
    pub(crate) admin: Option<Client>,
    /// The use cases, without HTTP.
    pub(crate) gateway: Gateway,
    /// Its store.
    pub(crate) store: Arc<dyn Store>,
    /// Its policy.
    pub(crate) policy: Arc<PolicyHandle>,
    /// Policy, configuration and store lie here; give it to another [`Setup`] to start on the same store.
    pub(crate) root: Arc<tempfile::TempDir>,
    log: Lines,
    stop: CancellationToken,
    running: JoinHandle<Result<(), StartError>>,
}

/// What was logged of requests.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self { policy: POLICY.to_owned(), config: String::new(), root: None }
    }

    /// Another policy than [`POLICY`].
    pub(crate) fn policy(mut self, policy: &str) -> Self {
        policy.clone_into(&mut self.policy);
        self
    }

    /// More configuration, as `section.key = value` lines of TOML (dotted keys).
    pub(crate) fn config(mut self, lines: &str) -> Self {
        let _ = writeln!(self.config, "{lines}");
        self
    }

    /// The store of another gateway, stopped or running.
    pub(crate) fn on(mut self, root: &Arc<tempfile::TempDir>) -> Self {
        self.root = Some(root.clone());
        self
    }

    /// Starts it before `hub` and waits until it is ready.
    pub(crate) async fn start(self, hub: &Standin) -> TestGateway {
        let root = self.root.unwrap_or_else(|| Arc::new(tempfile::tempdir().unwrap()));
        let policy = root.path().join("policy");
        std::fs::create_dir_all(&policy).unwrap();
        std::fs::write(policy.join("policy.toml"), &self.policy).unwrap();
        let file = root.path().join("config.toml");
        std::fs::write(&file, configuration(hub, root.path(), &self.config)).unwrap();
        let loaded = config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap();
        let log = Lines::default();
        let (access, guard) = AccessLog::to(log.clone(), LogFormat::Json);
        let app = App::build(&loaded, access).await.unwrap();
        let urls: Vec<String> = app.addresses().map(|address| format!("http://{address}")).collect();
        let url = urls[0].clone();
        let admin = urls.get(1).map(|url| Client::new(url));
        let (gateway, store) = (app.core().gateway.clone(), app.core().store.clone());
        let policy = app.core().policy.clone();
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let stop = stop.clone();
            async move {
                let ended = app.run(stop).await;
                drop(guard);
                ended
            }
        });
        let client = Client::new(&url);
        client.wait_until_ready().await.unwrap();
        TestGateway { url, client, admin, gateway, store, policy, root, log, stop, running }
    }
}

/// Looks again and again until it is so.
pub(crate) async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let looking = async {
        while !is_so().await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), looking).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// The configuration of most tests. Keys in `more` replace those here.
fn configuration(hub: &Standin, root: &Path, more: &str) -> String {
    let cdn = hub.cdn_url();
    let cdn = cdn.trim_start_matches("http://").trim_start_matches("https://");
    let store = root.join("store");
    let policy = root.join("policy");
    let mut lines = vec![
        "server.listen = \"127.0.0.1:0\"".to_owned(),
        "server.drain_timeout = \"5s\"".to_owned(),
        format!("upstream.endpoint = {:?}", hub.hub_url()),
        format!("upstream.allowed_hosts = [{cdn:?}]"),
        "upstream.allow_private = true".to_owned(),
        "upstream.proxy = \"none\"".to_owned(),
        format!("store.local.path = {store:?}"),
        format!("policy.dir = {policy:?}"),
        "policy.contact = \"ask@example.com\"".to_owned(),
        "limits.upstream_per_minute = 1000000".to_owned(),
        "limits.burst = 1000000".to_owned(),
    ];
    for line in more.lines().filter(|line| !line.trim().is_empty()) {
        let key = line.split('=').next().unwrap_or_default().trim().to_owned();
        lines.retain(|old| old.split('=').next().unwrap_or_default().trim() != key);
        lines.push(line.to_owned());
    }
    lines.join("\n")
}

impl TestGateway {
    /// A gateway with the usual policy before `hub`.
    pub(crate) async fn before(hub: &Standin) -> Self {
        Setup::new().start(hub).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.client.get(path).await.unwrap()
    }

    pub(crate) async fn head(&self, path: &str) -> Answer {
        self.client.head(path).await.unwrap()
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.client.get_with(path, headers).await.unwrap()
    }

    /// One request as it is: no redirect is followed.
    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        self.client.send(method, path, headers, Bytes::new()).await.unwrap()
    }

    /// A body sent by POST.
    pub(crate) async fn post(&self, path: &str, content_type: &str, body: &str) -> Answer {
        let headers = [("content-type", content_type)];
        self.client.send(Method::POST, path, &headers, Bytes::copy_from_slice(body.as_bytes())).await.unwrap()
    }

    /// Puts another policy into the folder and has it looked at, as SIGHUP and the watch do.
    pub(crate) fn set_policy(&self, policy: &str) -> Result<Reload, Arc<LoadError>> {
        std::fs::write(self.policy_file(), policy).unwrap();
        self.policy.reload()
    }

    /// `/-/readyz`.
    pub(crate) async fn health(&self) -> serde_json::Value {
        serde_json::from_str(&self.get("/-/readyz").await.text()).unwrap()
    }

    /// Waits until no transfer is under way.
    pub(crate) async fn wait_until_idle(&self) {
        eventually("no transfer is under way", async || self.health().await["fills"] == 0).await;
    }

    /// The access log so far, a JSON object for each line.
    pub(crate) fn access_log(&self) -> Vec<serde_json::Value> {
        let bytes = self.log.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The access line of the request that this answered. Lines are written behind the answer.
    pub(crate) async fn access_line(&self, answer: &Answer) -> serde_json::Value {
        let id = answer.header("x-request-id").to_owned();
        let written = async {
            loop {
                let found = self.access_log().into_iter().find(|line| line["request_id"] == id.as_str());
                match found {
                    Some(line) => return line,
                    None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, written).await.expect("the access log has a line of every request")
    }

    /// Where the policy lies; a change is in force after at most 5 seconds.
    pub(crate) fn policy_file(&self) -> PathBuf {
        self.root.path().join("policy/policy.toml")
    }

    /// Stops it as SIGTERM does and waits for the end.
    pub(crate) async fn stop(self) -> Arc<tempfile::TempDir> {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        self.root
    }
}
