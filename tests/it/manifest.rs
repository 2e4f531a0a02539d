//! The manifest on a real directory: several processes, crashes at every write, tampering, and the proof.

use std::{
    fs,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use hubgate::{
    hub::{BlobId, Repo, RepoKind, Sha256},
    manifest::{
        Entry, Filter, Format, Manifest, NewRecord, What, WriterId, export,
        verify::{Kind, Options, Report, verify},
    },
    store::{
        self, Copied, CopyFacts, Error, ErrorKind, Key, LocalConfig, Object, ObjectMeta, Prefix, Probe, PutMode,
        PutOutcome, SpoolConfig, Stage, Store, StoreConfig,
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

fn content(n: usize) -> Vec<u8> {
    format!("content of file {n}").repeat(100).into_bytes()
}

fn fact(n: usize) -> NewRecord {
    let sha256 = Sha256::of(&content(n));
    NewRecord {
        what: What::Stored,
        repo: Repo::new(RepoKind::Model, "org/name").unwrap(),
        upstream_id: None,
        revision: Some("main".parse().unwrap()),
        commit: "c".repeat(40).parse().unwrap(),
        path: format!("dir/file-{n}.bin").parse().unwrap(),
        size: content(n).len() as u64,
        sha256,
        etag: BlobId::Sha256(sha256),
        licence: Some("apache-2.0".into()),
        licence_from: Some("readme".into()),
        rule: Some("rule".into()),
        approved_by: None,
        ticket: None,
        policy_sha256: None,
        asked_by: Some("test".into()),
        origin: "huggingface.co".into(),
    }
}

async fn open(dir: &Path, writer: &WriterId) -> Arc<dyn Store> {
    let local = LocalConfig { path: dir.into() };
    let config = StoreConfig { local, ..StoreConfig::default() };
    store::build(&config, &SpoolConfig::default(), writer.as_str()).await.unwrap()
}

/// One process: its manifest, and what ends it.
struct Process {
    store: Arc<dyn Store>,
    manifest: Manifest,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl Process {
    async fn start(dir: &Path) -> Self {
        let writer = WriterId::new();
        Self::on(open(dir, &writer).await, writer)
    }

    fn on(store: Arc<dyn Store>, writer: WriterId) -> Self {
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let manifest = Manifest::start(store.clone(), writer, &tracker, shutdown.clone());
        Self { store, manifest, tracker, shutdown }
    }

    /// As a fill does it: blob, then record and entry.
    async fn keep(&self, n: usize) -> Result<Arc<Entry>, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let stage = self.store.stage(fact(n).size, Some(fact(n).sha256)).await.map_err(|e| text(&e))?;
        stage.file().write_all_at(&content(n), 0).map_err(|e| text(&e))?;
        stage.commit(fact(n).sha256).await.map_err(|e| text(&e))?;
        self.manifest.record_stored(fact(n)).await.map_err(|e| text(&e))
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

async fn check(dir: &Path, repair: bool) -> Report {
    let store = open(dir, &WriterId::new()).await;
    verify(store, Options { repair, ..Options::default() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_processes_stored_is_proven_by_a_third() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Process::start(dir.path()).await, Process::start(dir.path()).await);
    // Both store file 5, as two gateways may that miss at once.
    let ((), ()) =
        tokio::join!(async { for_each(0..6, |n| a.keep(n)).await }, async { for_each(5..10, |n| b.keep(n)).await });
    let file = fact(9);
    let seen = a.manifest.entry(&file.repo, file.commit, &file.path).await.unwrap().unwrap();
    assert_eq!((seen.size, seen.sha256), (file.size, file.sha256));
    a.stop().await;
    b.stop().await;

    let report = check(dir.path(), false).await;
    assert!(report.is_fine(), "{report:?}");
    assert_eq!((report.records, report.entries, report.blobs), (11, 10, 10));

    let mut csv = Vec::new();
    let store = open(dir.path(), &WriterId::new()).await;
    let exported = export(&*store, &Filter::default(), Format::Csv, &mut csv).await.unwrap();
    assert!(exported.is_whole() && exported.records == 10, "{exported:?}");
    let csv = String::from_utf8(csv).unwrap();
    assert!(csv.starts_with("repo,revision,sha256,size,license,"), "{csv}");
    assert!(csv.contains(&format!("\norg/name,main,{},{},apache-2.0,", file.sha256, file.size)), "{csv}");
}

async fn for_each<F: Future<Output = Result<Arc<Entry>, String>>>(files: Range<usize>, keep: impl Fn(usize) -> F) {
    futures_util::future::try_join_all(files.map(keep)).await.unwrap();
}

#[tokio::test]
async fn whatever_is_changed_by_hand_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path()).await;
    for n in 0..5 {
        process.keep(n).await.unwrap();
    }
    let writer = process.manifest.writer().clone();
    process.stop().await;
    let at = |key: Key| dir.path().join(key.as_str());

    let edit = |key: Key, from: &str, to: &str| {
        let text = fs::read_to_string(at(key.clone())).unwrap();
        fs::remove_file(at(key.clone())).unwrap();
        fs::write(at(key), text.replacen(from, to, 1)).unwrap();
    };
    edit(Key::blob(&fact(0).sha256), "c", "d");
    edit(Key::log(writer.as_str(), 2), "apache-2.0", "mit");
    fs::remove_file(at(Key::log(writer.as_str(), 4))).unwrap();
    fs::remove_file(at(Key::blob(&fact(4).sha256))).unwrap();
    // The very last record of a chain too.
    let last = Process::start(dir.path()).await;
    last.keep(5).await.unwrap();
    let last_writer = last.manifest.writer().clone();
    last.stop().await;
    edit(Key::log(last_writer.as_str(), 1), "\"rule\":\"rule\"", "\"rule\":\"another\"");

    let report = check(dir.path(), true).await;
    let name = |n: usize| format!("org/name@{} dir/file-{n}.bin", fact(n).commit);
    let mut found: Vec<_> = report.findings.iter().map(|f| (f.kind, f.name.clone())).collect();
    found.sort();
    let log = format!("log of {writer}");
    let mut expected = vec![
        (Kind::AlteredBlob, name(0)),
        (Kind::AlteredRecord, log.clone()),
        (Kind::AlteredRecord, format!("log of {last_writer}")),
        (Kind::MissingRecord, log),
        (Kind::NoLogRecord, name(3)),
        (Kind::MissingBlob, name(4)),
    ];
    expected.sort();
    assert_eq!(found, expected);
    assert!(!report.is_fine() && report.repaired == 0);
}

/// A store that dies at its n-th change, before or just after it: from then on nothing works.
#[derive(Debug)]
struct Dying {
    inner: Arc<dyn Store>,
    changes_left: Arc<AtomicI64>,
    lands: bool,
}

impl Dying {
    fn dead() -> Error {
        // Of a kind that is not tried again: the process is gone.
        Error::new(ErrorKind::PermissionDenied)
    }

    /// Lets a change happen, unless the store is dead by now.
    async fn change<T>(&self, change: impl Future<Output = store::Result<T>>) -> store::Result<T> {
        change_while_alive(&self.changes_left, self.lands, change).await
    }
}

async fn change_while_alive<T>(
    left: &AtomicI64,
    lands: bool,
    change: impl Future<Output = store::Result<T>>,
) -> store::Result<T> {
    match left.fetch_sub(1, Ordering::Relaxed) {
        2.. => change.await,
        1 if lands => change.await.and(Err(Dying::dead())),
        _ => Err(Dying::dead()),
    }
}

#[async_trait]
impl Store for Dying {
    async fn head(&self, key: &Key) -> store::Result<Option<ObjectMeta>> {
        self.inner.head(key).await
    }
    async fn get(&self, key: &Key, limit: u64) -> store::Result<Option<Bytes>> {
        self.inner.get(key, limit).await
    }
    async fn open(&self, key: &Key, range: Option<Range<u64>>) -> store::Result<Option<Object>> {
        self.inner.open(key, range).await
    }
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> store::Result<PutOutcome> {
        if key.as_str().starts_with(Prefix::heads().as_str()) {
            // Written beside all else, so that it has no place among the changes.
            let is_dead = self.changes_left.load(Ordering::Relaxed) <= 0;
            return if is_dead { Err(Self::dead()) } else { self.inner.put(key, body, mode).await };
        }
        self.change(self.inner.put(key, body, mode)).await
    }
    async fn stage(&self, size: u64, sha256: Option<Sha256>) -> store::Result<Box<dyn Stage>> {
        let inner = self.inner.stage(size, sha256).await?;
        Ok(Box::new(DyingStage { inner, changes_left: self.changes_left.clone(), lands: self.lands }))
    }
    fn largest_stage(&self) -> Option<(u64, &'static str)> {
        self.inner.largest_stage()
    }
    async fn copy(&self, blob: &Sha256, to: &Key, facts: &CopyFacts) -> store::Result<Copied> {
        self.change(self.inner.copy(blob, to, facts)).await
    }
    fn list(&self, prefix: &Prefix) -> BoxStream<'_, store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn delete(&self, key: &Key) -> store::Result<()> {
        self.change(self.inner.delete(key)).await
    }
    async fn probe(&self) -> store::Result<Probe> {
        self.inner.probe().await
    }
    async fn sweep(&self, apply: bool) -> store::Result<u64> {
        self.inner.sweep(apply).await
    }
}

struct DyingStage {
    inner: Box<dyn Stage>,
    changes_left: Arc<AtomicI64>,
    lands: bool,
}

#[async_trait]
impl Stage for DyingStage {
    fn file(&self) -> Arc<fs::File> {
        self.inner.file()
    }
    async fn advance(&mut self, upto: u64) -> store::Result<u64> {
        self.inner.advance(upto).await
    }
    async fn commit(self: Box<Self>, sha256: Sha256) -> store::Result<()> {
        change_while_alive(&self.changes_left, self.lands, self.inner.commit(sha256)).await
    }
}

#[tokio::test]
async fn after_a_crash_at_any_write_repair_and_the_next_fill_make_the_store_whole() {
    // A file is three changes (blob, log, index), an eviction two (log, index): the ninth never comes.
    for lands in [false, true] {
        for crash_at in 1..=9 {
            let dir = tempfile::tempdir().unwrap();
            let writer = WriterId::new();
            let inner = open(dir.path(), &writer).await;
            let changes_left = Arc::new(AtomicI64::new(crash_at));
            let process = Process::on(Arc::new(Dying { inner, changes_left, lands }), writer);
            let mut acknowledged = Vec::new();
            for n in 0..2 {
                if process.keep(n).await.is_ok() {
                    acknowledged.push(n);
                }
            }
            let eviction = NewRecord { what: What::Evicted, ..fact(0) };
            let evicted = acknowledged.contains(&0) && process.manifest.record(eviction).await.is_ok();
            process.stop().await;
            let place = format!("crash at change {crash_at}, landed: {lands}");

            // What was acknowledged is there, before any repair.
            let restarted = Process::start(dir.path()).await;
            for n in acknowledged.into_iter().filter(|n| *n != 0) {
                let (repo, commit, path) = (fact(n).repo, fact(n).commit, fact(n).path);
                assert!(restarted.manifest.entry(&repo, commit, &path).await.unwrap().is_some(), "{place}");
            }

            // Repair completes it; what remains is content that nobody recorded or that was evicted.
            check(dir.path(), true).await;
            let report = check(dir.path(), false).await;
            assert!(report.findings.iter().all(|f| f.kind == Kind::UnrecordedBlob), "{place}: {report:?}");
            if evicted {
                assert_eq!(restarted.manifest.entry(&fact(0).repo, fact(0).commit, &fact(0).path).await.unwrap(), None);
            }

            // The next fills adopt it.
            for n in 0..2 {
                restarted.keep(n).await.unwrap();
            }
            restarted.stop().await;
            let report = check(dir.path(), false).await;
            assert!(report.findings.is_empty() && report.entries == 2, "{place}: {report:?}");
        }
    }
}
