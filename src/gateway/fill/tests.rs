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

use super::{Fill, FillConfig, FillEnd, FillKey, Fills, Joined, Order, Origin, Reader, Reading, is_tainted};
use crate::{
    gateway::Error,
    hub::{BlobId, GitHasher, Repo, RepoKind, Sha256},
    manifest::{Manifest, NewRecord, What, WriterId},
    policy::PolicySet,
    store::{self, Key, Store},
    upstream,
};

const MIB: usize = 1024 * 1024;

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
    _dir: tempfile::TempDir,
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
        let tasks = TaskTracker::new();
        let manifest = Manifest::start(store.clone(), WriterId::new(), &tasks, CancellationToken::new());
        let fills = Fills::new(config, store.clone(), manifest.clone(), tasks);
        // Not the same byte everywhere: a piece in the wrong place must change the digest.
        let content: Vec<u8> = (0..size).map(|n| u8::try_from((n * 31 + n / 251) % 256).unwrap()).collect();
        let script = Arc::new(Script {
            content: content.into(),
            acts: Mutex::new(acts.into_iter().collect()),
            openings: Mutex::default(),
            sent: AtomicU64::default(),
            gate,
            pieces: AtomicUsize::default(),
        });
        Self { _dir: dir, store, manifest, fills, script }
    }

    fn sha256(&self) -> Sha256 {
        Sha256::of(&self.script.content)
    }

    fn order(&self) -> Order {
        let sha256 = self.sha256();
        self.order_for(BlobId::Sha256(sha256), FillKey::Sha256(sha256), "a.bin")
    }

    fn order_for(&self, blob: BlobId, key: FillKey, path: &str) -> Order {
        let size = self.script.content.len() as u64;
        Order {
            key,
            blob,
            size,
            verified_only: false,
            policy: Arc::new(PolicySet::load(std::path::Path::new("/nonexistent")).unwrap()),
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
        let commit = "c".repeat(40).parse().unwrap();
        self.manifest.entry(&repo(), commit, &path.parse().unwrap()).await.unwrap().is_some()
    }
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
    Reader::new(fill, range, reading, "client".into())
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

#[tokio::test]
async fn a_fill_is_stored_recorded_and_read_by_many_at_the_price_of_one() {
    let bench = Bench::new(20 * MIB, [], None).await;
    let size = 20 * MIB as u64;
    let fill = bench.begin().await;
    let readers: Vec<_> = (0..16).map(|_| tokio::spawn(read(reader(&fill, 0..size, Reading::Sequential)))).collect();
    for read in readers {
        let (bytes, broke) = read.await.unwrap();
        assert!(!broke && bytes == bench.script.content);
    }
    assert!(matches!(fill.ended().await, FillEnd::Stored(sha256) if sha256 == bench.sha256()));
    assert_eq!(bench.script.sent.load(Ordering::SeqCst), size);
    assert!(bench.is_recorded("a.bin").await);
    assert!(bench.store.head(&Key::blob(&bench.sha256())).await.unwrap().is_some());
    assert!(!is_tainted(&*bench.store, &bench.sha256()).await.unwrap(), "the mark goes when the fill is stored");
}

#[tokio::test]
async fn a_cut_is_resumed_where_it_happened_behind_the_open_connection() {
    let bench = Bench::new(20 * MIB, [Act::Cut(5 * MIB as u64), Act::Cut(MIB as u64)], None).await;
    let fill = bench.begin().await;
    let (bytes, broke) = read(reader(&fill, 0..20 * MIB as u64, Reading::Sequential)).await;
    assert!(!broke && bytes == bench.script.content);
    let openings = bench.script.openings.lock().unwrap().clone();
    let size = 20 * MIB as u64;
    assert_eq!(openings, [0..size, 5 * MIB as u64..size, 6 * MIB as u64..size]);
    assert_eq!(bench.script.sent.load(Ordering::SeqCst), size, "no byte crosses twice");
}

#[tokio::test]
async fn no_reader_gets_every_byte_of_content_that_is_wrong() {
    let bench = Bench::new(20 * MIB, [Act::Flip(MIB as u64)], None).await;
    let size = 20 * MIB as u64;
    let fill = bench.begin().await;
    let full = tokio::spawn(read(reader(&fill, 0..size, Reading::Sequential)));
    let tail = tokio::spawn(read(reader(&fill, size - 100..size, Reading::Slice)));
    let (full, broke) = full.await.unwrap();
    assert!(broke && full.len() < bench.script.content.len());
    let (tail, _) = tail.await.unwrap();
    assert!(full.len() + tail.len() < bench.script.content.len(), "not both together either");
    assert!(matches!(fill.ended().await, FillEnd::Rejected(_)));
    assert!(!bench.is_recorded("a.bin").await);
    assert!(bench.store.head(&Key::blob(&bench.sha256())).await.unwrap().is_none());
    assert!(is_tainted(&*bench.store, &bench.sha256()).await.unwrap(), "bytes of it are about");
    let again = bench.fills.join(bench.order()).await;
    assert!(matches!(again, Err(Error::Busy { .. })), "not fetched again at once");
}

#[tokio::test]
async fn the_mark_of_a_failed_fill_outlives_a_later_success() {
    let bench = Bench::new(20 * MIB, [Act::Cut(10 * MIB as u64), Act::Gone], None).await;
    let size = 20 * MIB as u64;
    let fill = bench.begin().await;
    let (_, broke) = read(reader(&fill, 0..size, Reading::Sequential)).await;
    assert!(broke);
    fill.ended().await;
    while bench.fills.count() > 0 {
        tokio::task::yield_now().await;
    }
    let fill = bench.begin().await;
    let (bytes, broke) = read(reader(&fill, 0..size, Reading::Sequential)).await;
    assert!(!broke && bytes == bench.script.content);
    assert!(matches!(fill.ended().await, FillEnd::Stored(_)));
    assert!(is_tainted(&*bench.store, &bench.sha256()).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_wants_only_verified_bytes_gets_none_of_a_fill_that_another_began() {
    let gate = Arc::new(Semaphore::new(8));
    let bench = Bench::new(20 * MIB, [], Some(gate.clone())).await;
    let fill = bench.begin().await;
    let mut other = reader(&fill, 0..MIB as u64, Reading::Slice).into_body().await.unwrap();
    other.frame().await.unwrap().unwrap();
    let mut body = Box::pin(reader(&fill, 0..20 * MIB as u64, Reading::Verified).into_body());
    let early = tokio::time::timeout(std::time::Duration::from_secs(20), &mut body).await;
    assert!(early.is_err(), "bytes went out before they were verified");
    gate.add_permits(1000);
    let bytes = body.await.unwrap().collect().await.unwrap().to_bytes();
    assert!(bytes == bench.script.content);
}

#[tokio::test]
async fn a_mark_that_is_being_set_when_the_fill_is_stored_goes_too() {
    let bench = Bench::new(9 * MIB, [], Some(Arc::new(Semaphore::new(0)))).await;
    let fill = bench.begin().await;
    let (key, mark) = (Key::taint(&bench.sha256()), Bytes::from_static(b"{}"));
    let setting = fill.taint.get_or_init(|| async {
        // The store is slow: the end comes first.
        tokio::task::yield_now().await;
        bench.store.put(&key, mark.clone(), store::PutMode::Create).await.unwrap();
        Some(mark.clone())
    });
    let (_, cleared) = tokio::join!(biased; setting, fill.clear_taint());
    cleared.unwrap();
    assert!(!is_tainted(&*bench.store, &bench.sha256()).await.unwrap());
}

#[tokio::test]
async fn a_footer_is_fetched_by_a_request_of_its_own_and_no_byte_twice() {
    let gate = Arc::new(Semaphore::new(1));
    let bench = Bench::new(40 * MIB, [], Some(gate.clone())).await;
    let size = 40 * MIB as u64;
    let fill = bench.begin().await;
    // The main fetch has one piece and waits; then the footer is asked for.
    let mut version = fill.version.subscribe();
    while fill.peek(|state| state.progress.prefix()) == 0 {
        version.changed().await.unwrap();
    }
    let footer = tokio::spawn(read(reader(&fill, size - MIB as u64..size, Reading::Slice)));
    gate.add_permits(1000);
    let (bytes, broke) = footer.await.unwrap();
    assert!(!broke && bytes == bench.script.content[39 * MIB..]);
    let (bytes, broke) = read(reader(&fill, 0..size, Reading::Sequential)).await;
    assert!(!broke && bytes == bench.script.content);
    let openings = bench.script.openings.lock().unwrap().clone();
    assert!(openings.contains(&(size - MIB as u64..size)), "{openings:?}");
    assert!(matches!(fill.ended().await, FillEnd::Stored(_)));
}

#[tokio::test]
async fn small_and_git_files_are_verified_before_their_first_byte() {
    for act in [Act::Honest, Act::Flip(0)] {
        let honest = matches!(act, Act::Honest);
        let bench = Bench::new(MIB, [act], None).await;
        let mut hasher = GitHasher::new(MIB as u64);
        hasher.update(&bench.script.content);
        let oid = hasher.finish().unwrap();
        let order = bench.order_for(BlobId::Git(oid), FillKey::Git(repo(), oid), "a.txt");
        let Joined::Begun(fill) = bench.fills.join(order).await.unwrap() else { panic!("not begun") };
        let (bytes, broke) = read(reader(&fill, 0..MIB as u64, Reading::Sequential)).await;
        if honest {
            assert!(!broke && bytes == bench.script.content);
            let known = bench.store.get(&Key::oid(&repo(), &oid), 100).await.unwrap().unwrap();
            assert_eq!(known, bench.sha256().to_string());
        } else {
            assert!(broke && bytes.is_empty());
        }
        assert!(!is_tainted(&*bench.store, &bench.sha256()).await.unwrap());
    }
}

#[tokio::test]
async fn all_who_joined_are_recorded_before_the_last_byte_goes_out() {
    let gate = Arc::new(Semaphore::new(0));
    let bench = Bench::new(10 * MIB, [], Some(gate.clone())).await;
    let sha256 = bench.sha256();
    let fill = bench.begin().await;
    let second = bench.order_for(BlobId::Sha256(sha256), FillKey::Sha256(sha256), "b.bin");
    assert!(matches!(bench.fills.join(second).await.unwrap(), Joined::Live(_)));
    gate.add_permits(1000);
    let (_, broke) = read(reader(&fill, 0..10 * MIB as u64, Reading::Sequential)).await;
    assert!(!broke);
    assert!(bench.is_recorded("a.bin").await && bench.is_recorded("b.bin").await);
}

#[tokio::test]
async fn a_read_that_gives_less_than_was_asked_leaves_no_hole() {
    let bench = Bench::new(9 * MIB, [], None).await;
    let fill = bench.begin().await;
    assert!(matches!(fill.ended().await, FillEnd::Stored(_)));
    // Within a chunk: the next read goes on from there, and finds nothing.
    let there = 5 * MIB + 1000;
    fill.file.set_len(there as u64).unwrap();
    let (bytes, broke) = read(reader(&fill, 0..9 * MIB as u64, Reading::Sequential)).await;
    assert!(broke, "an answer that is short must not look whole");
    assert!(bytes == bench.script.content[..there]);
}

#[tokio::test]
async fn an_empty_file_needs_no_fetch() {
    let bench = Bench::new(0, [], None).await;
    let fill = bench.begin().await;
    let (bytes, broke) = read(reader(&fill, 0..0, Reading::Sequential)).await;
    assert!(!broke && bytes.is_empty());
    assert!(bench.script.openings.lock().unwrap().is_empty());
    assert!(bench.is_recorded("a.bin").await);
}

#[tokio::test]
async fn limits_on_live_fills_answer_busy() {
    let gate = Arc::new(Semaphore::new(0));
    let config = FillConfig { max_live: 1, ..FillConfig::default() };
    let bench = Bench::with(10 * MIB, [], Some(gate), config).await;
    let _fill = bench.begin().await;
    let other = Sha256::of(b"other");
    let order = bench.order_for(BlobId::Sha256(other), FillKey::Sha256(other), "b.bin");
    assert!(matches!(bench.fills.join(order).await, Err(Error::Busy { .. })));
    assert!(matches!(bench.fills.join(bench.order()).await, Ok(Joined::Live(_))), "joining is always possible");
}

#[tokio::test(start_paused = true)]
async fn a_fill_that_nobody_reads_pauses_and_goes_on_with_the_next_reader() {
    let gate = Arc::new(Semaphore::new(4));
    let bench = Bench::new(10 * MIB, [], Some(gate.clone())).await;
    let size = 10 * MIB as u64;
    let fill = bench.begin().await;
    fill.unread_for(super::PAUSE_AFTER).await;
    // The origin's connection is dropped, with what had arrived kept.
    let mut version = fill.version.subscribe();
    while fill.peek(|state| state.progress.prefix()) < MIB as u64 {
        version.changed().await.unwrap();
    }
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    gate.add_permits(1000);
    let (bytes, broke) = read(reader(&fill, 0..size, Reading::Sequential)).await;
    assert!(!broke && bytes == bench.script.content);
    let openings = bench.script.openings.lock().unwrap().clone();
    assert_eq!(openings, [0..size, MIB as u64..size]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_held_gets_a_few_bytes_every_three_seconds() {
    let gate = Arc::new(Semaphore::new(1));
    let bench = Bench::new(9 * MIB, [], Some(gate)).await;
    let fill = bench.begin().await;
    let first = MIB as u64 / 4;
    // Everything but the reserve of what is there was given: the reader is held.
    let mut version = fill.version.subscribe();
    while fill.peek(|state| state.progress.prefix()) < first {
        version.changed().await.unwrap();
    }
    fill.change(|state| {
        state.progress.arrived(0..9 * MIB as u64);
        state.progress.offer(first..9 * MIB as u64, Reading::Slice)
    });
    let mut body = reader(&fill, 0..first, Reading::Slice).into_body().await.unwrap();
    let first_frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let begun = tokio::time::Instant::now();
    let drip = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(
        drip.len() <= 4 && begun.elapsed() >= std::time::Duration::from_secs(3),
        "{} after {}",
        drip.len(),
        first_frame.len()
    );
}

#[tokio::test(start_paused = true)]
async fn a_paused_fill_gives_way_to_one_that_somebody_waits_for() {
    let gate = Arc::new(Semaphore::new(4));
    let config = FillConfig { max_live: 1, ..FillConfig::default() };
    let bench = Bench::with(10 * MIB, [], Some(gate), config).await;
    let paused = bench.begin().await;
    let other = Sha256::of(b"other");
    let order = || bench.order_for(BlobId::Sha256(other), FillKey::Sha256(other), "b.bin");
    assert!(matches!(bench.fills.join(order()).await, Err(Error::Busy { .. })), "it is not paused yet");
    paused.unread_for(super::PAUSE_AFTER).await;
    assert!(matches!(bench.fills.join(order()).await, Ok(Joined::Begun(_))));
    assert!(matches!(paused.ended().await, FillEnd::Abandoned));
}
