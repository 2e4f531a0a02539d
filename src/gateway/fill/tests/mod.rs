//! Fills against a scripted origin and a real directory store.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    DROP_AFTER, FileName, Fill, FillConfig, FillEnd, FillKey, Fills, Joined, Order, Origin, PAUSE_AFTER, Reader,
    Reading, taint_mark,
};
use crate::{
    gateway::{Error, grant::Grant, tasks::Tasks},
    hub::{BlobId, GitHasher, Repo, RepoKind, Sha256},
    manifest::{Manifest, NewRecord, What, WriterId},
    policy::{EnvLists, Identity, LicenseClaims, PolicyHandle, RepoFacts, today},
    store::{self, Key, Store},
    upstream,
};

mod origin;
mod refused;
mod transfer;
mod verified;

const MIB: usize = 1024 * 1024;

async fn is_tainted(store: &dyn Store, sha256: &Sha256) -> store::Result<bool> {
    Ok(taint_mark(store, sha256).await?.is_some())
}

/// What the origin does on one opening.
enum Act {
    /// Sends what was asked.
    Honest,
    /// Sends this many bytes, then breaks off.
    Cut(u64),
    /// Sends what was asked with one byte changed, this far into the file.
    Flip(u64),
    /// Says for good that there is no such file.
    Gone,
    /// Fails in this way.
    Fail(upstream::ErrorKind),
    /// Says nothing at all.
    Hang,
}

struct Script {
    content: Bytes,
    acts: Mutex<VecDeque<Act>>,
    openings: Mutex<Vec<Range<u64>>>,
    sent: AtomicU64,
    /// A permit for every piece, when there is a gate.
    gate: Option<Arc<Semaphore>>,
    pieces: AtomicUsize,
}

impl Script {
    fn new(content: Bytes, acts: impl IntoIterator<Item = Act>, gate: Option<Arc<Semaphore>>) -> Arc<Self> {
        let acts = Mutex::new(acts.into_iter().collect());
        let (openings, sent, pieces) = (Mutex::default(), AtomicU64::default(), AtomicUsize::default());
        Arc::new(Self { content, acts, openings, sent, gate, pieces })
    }
}

#[async_trait]
impl Origin for Arc<Script> {
    async fn open(&self, range: Range<u64>, _: u64) -> upstream::Result<BoxStream<'static, upstream::Result<Bytes>>> {
        self.openings.lock().unwrap().push(range.clone());
        let act = self.acts.lock().unwrap().pop_front().unwrap_or(Act::Honest);
        let mut bytes = self.content[usize(range.start)..usize(range.end)].to_vec();
        let mut end = None;
        match act {
            Act::Honest => {}
            Act::Cut(at) => {
                bytes.truncate(usize(at));
                end = Some(Err(upstream::Error::new(upstream::ErrorKind::Unreachable)));
            }
            Act::Flip(at) => bytes[usize(at - range.start)] ^= 1,
            Act::Gone => return Err(upstream::Error::new(upstream::ErrorKind::EntryNotFound)),
            Act::Fail(kind) => return Err(upstream::Error::new(kind)),
            Act::Hang => std::future::pending().await,
        }
        let script = self.clone();
        let pieces = Bytes::from(bytes).chunks(MIB / 4).map(Bytes::copy_from_slice).collect::<Vec<_>>();
        let pieces = futures_util::stream::iter(pieces).then(move |piece| {
            let script = script.clone();
            async move {
                if let Some(gate) = &script.gate {
                    gate.acquire().await.unwrap().forget();
                }
                script.pieces.fetch_add(1, Ordering::SeqCst);
                script.sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
                Ok(piece)
            }
        });
        Ok(pieces.chain(futures_util::stream::iter(end)).boxed())
    }
}

fn usize(n: u64) -> usize {
    usize::try_from(n).unwrap()
}

struct Bench {
    dir: tempfile::TempDir,
    policy: Arc<PolicyHandle>,
    store: Arc<dyn Store>,
    manifest: Manifest,
    fills: Arc<Fills>,
    script: Arc<Script>,
}

impl Bench {
    async fn new(size: usize, acts: impl IntoIterator<Item = Act>, gate: Option<Arc<Semaphore>>) -> Self {
        Self::with(size, acts, gate, FillConfig::default()).await
    }

    async fn with(
        size: usize,
        acts: impl IntoIterator<Item = Act>,
        gate: Option<Arc<Semaphore>>,
        config: FillConfig,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut store_config = store::StoreConfig::default();
        store_config.local.path = dir.path().join("store");
        let store = store::build(&store_config, &store::SpoolConfig::default(), "w").await.unwrap();
        std::fs::create_dir(dir.path().join("policy")).unwrap();
        std::fs::write(dir.path().join("policy/policy.toml"), POLICY).unwrap();
        let policy = Arc::new(PolicyHandle::open(dir.path().join("policy"), EnvLists::default()).unwrap());
        let tasks = TaskTracker::new();
        let manifest = Manifest::start(store.clone(), WriterId::new(), &tasks, CancellationToken::new());
        let contact = Some("ml-platform@example.com".into());
        let fills = Fills::new(config, store.clone(), manifest.clone(), policy.clone(), contact, Tasks::here(tasks));
        // Not the same byte everywhere: a piece in the wrong place must change the digest.
        let content: Vec<u8> = (0..size).map(|n| u8::try_from((n * 31 + n / 251) % 256).unwrap()).collect();
        let script = Script::new(content.into(), acts, gate);
        Self { dir, policy, store, manifest, fills, script }
    }

    fn sha256(&self) -> Sha256 {
        Sha256::of(&self.script.content)
    }

    fn order(&self) -> Order {
        let sha256 = self.sha256();
        self.order_for(BlobId::Sha256(sha256), FillKey::Sha256(sha256), "a.bin")
    }

    /// An order of the same content for another file of the same or another repo.
    fn order_of(&self, repo: &str, path: &str) -> Order {
        let (sha256, repo) = (self.sha256(), Repo::new(RepoKind::Model, repo).unwrap());
        let order = self.order_for(BlobId::Sha256(sha256), FillKey::Sha256(sha256), path);
        Order { grant: self.grant(&repo), record: NewRecord { repo, ..order.record }, ..order }
    }

    /// As the policy in force decides.
    fn grant(&self, repo: &Repo) -> Arc<Grant> {
        let facts = RepoFacts {
            canonical: repo.clone(),
            commit: "c".repeat(40).parse().unwrap(),
            identity: Identity::default(),
            first_seen: Vec::new(),
            gated: false,
            private: false,
            disabled: false,
            license: LicenseClaims::read(Some(b"---\nlicense: mit\n---\n"), &serde_json::json!({})),
        };
        let policy = self.policy.current();
        let rule = policy.decide_repo(repo, today()).unwrap();
        let approved = policy.decide_facts(&rule, repo, &facts, today()).unwrap();
        Arc::new(Grant { asked: repo.clone(), facts, approved, policy, upstream_id: None, warning: None })
    }

    /// Puts another policy in force.
    fn change_policy(&self, text: &str) {
        std::fs::write(self.dir.path().join("policy/policy.toml"), text).unwrap();
        self.policy.reload().unwrap();
    }

    fn order_for(&self, blob: BlobId, key: FillKey, path: &str) -> Order {
        let size = self.script.content.len() as u64;
        Order {
            key,
            blob,
            size,
            verified_only: false,
            grant: self.grant(&repo()),
            record: record(path, size, blob),
            origin: Arc::new(self.script.clone()),
            asked_by: "tester".into(),
            background: false,
        }
    }

    async fn begin(&self) -> Arc<Fill> {
        match self.fills.join(self.order()).await.unwrap() {
            Joined::Begun(fill) | Joined::Live(fill) | Joined::Ending(fill) => fill,
        }
    }

    async fn is_recorded(&self, path: &str) -> bool {
        self.is_recorded_of(&repo(), path).await
    }

    async fn is_recorded_of(&self, repo: &Repo, path: &str) -> bool {
        let commit = "c".repeat(40).parse().unwrap();
        self.manifest.entry(repo, commit, &path.parse().unwrap()).await.unwrap().is_some()
    }
}

/// Waits until so much is there from the start.
async fn prefix(fill: &Fill, upto: u64) {
    let mut version = fill.version.subscribe();
    while fill.peek(|state| state.progress.prefix()) < upto {
        version.changed().await.unwrap();
    }
}

const POLICY: &str = r#"
[licenses]
allow = ["mit"]

[[allow]]
repo = "org/name"

[[allow]]
repo = "other/name"
"#;

fn file(repo: &str, path: &str) -> FileName {
    (Repo::new(RepoKind::Model, repo).unwrap(), "c".repeat(40).parse().unwrap(), path.parse().unwrap())
}

fn repo() -> Repo {
    Repo::new(RepoKind::Model, "org/name").unwrap()
}

fn record(path: &str, size: u64, etag: BlobId) -> NewRecord {
    NewRecord {
        what: What::Stored,
        repo: repo(),
        upstream_id: None,
        revision: None,
        commit: "c".repeat(40).parse().unwrap(),
        path: path.parse().unwrap(),
        size,
        sha256: Sha256::of(b""),
        etag,
        licence: None,
        licence_from: None,
        rule: None,
        approved_by: None,
        ticket: None,
        policy_sha256: None,
        asked_by: None,
        origin: "origin".into(),
    }
}

fn reader(fill: &Arc<Fill>, range: Range<u64>, reading: Reading) -> Reader {
    Reader::new(fill, file("org/name", "a.bin"), range, reading, "client".into())
}

/// Reads a body to its end: the bytes, and whether it broke off.
async fn read(reader: Reader) -> (Vec<u8>, bool) {
    let Ok(mut body) = reader.into_body().await else { return (Vec::new(), true) };
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(frame.data_ref().unwrap()),
            Err(_) => return (bytes, true),
        }
    }
    (bytes, false)
}
