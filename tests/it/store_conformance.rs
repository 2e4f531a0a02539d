//! What every store promises, tried on each: a directory, s3s-fs in this process, and a real S3 server
//! where the environment names one (see [`real_server`]).

mod behind_the_bucket;

use std::{
    os::unix::fs::FileExt as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use bytesize::ByteSize;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hubgate::{
    hub::{Commit, Repo, RepoKind, RepoPath, Revision, Sha256},
    store::{
        Copied, CopyFacts, ErrorKind, Key, LocalConfig, Prefix, PublishPrefix, PutMode, PutOutcome, S3Config,
        SpoolConfig, Store, StoreConfig, StoreKind, build, open_layout,
    },
};
use tempfile::TempDir;

use crate::support::s3::{CUT_AFTER_BYTES, S3sServer, real_server};

const MIB: usize = 1024 * 1024;

/// Larger than every limit in the suite.
const ANY: u64 = 1 << 30;

/// The largest blob that a bucket copies in one request here; S3's own limit is 5 GiB.
const WHOLE_COPY_MAX: u64 = 8 << 20;

/// Somewhere to keep objects, and the means to open it as several processes would.
struct Place {
    store: StoreConfig,
    spool: TempDir,
    server: Option<S3sServer>,
}

impl Place {
    fn directory() -> Self {
        let spool = TempDir::new().unwrap();
        let local = LocalConfig { path: spool.path().join("store") };
        Self { store: StoreConfig { local, ..StoreConfig::default() }, spool, server: None }
    }

    async fn s3s() -> Self {
        let server = S3sServer::start().await;
        Self { server: Some(server), ..Self::directory() }.with_bucket()
    }

    fn with_bucket(mut self) -> Self {
        let server = self.server.as_ref().unwrap();
        let s3 = S3Config { whole_copy_max: WHOLE_COPY_MAX, ..server.config() };
        self.store = StoreConfig { kind: StoreKind::S3, s3, ..StoreConfig::default() };
        self
    }

    fn real() -> Option<Self> {
        let s3 = S3Config { whole_copy_max: WHOLE_COPY_MAX, ..real_server()? };
        let store = StoreConfig { kind: StoreKind::S3, s3, ..StoreConfig::default() };
        Some(Self { store, spool: TempDir::new().unwrap(), server: None })
    }

    async fn open_as(&self, writer: &str) -> Arc<dyn Store> {
        let spool = SpoolConfig { dir: self.spool.path().join("spool"), max_size: ByteSize::mib(256) };
        build(&self.store, &spool, writer).await.unwrap()
    }

    async fn open(&self) -> Arc<dyn Store> {
        let store = self.open_as("first").await;
        store.probe().await.unwrap();
        store
    }

    /// Where copies lie, beside the store's own prefix.
    fn copies(&self) -> PublishPrefix {
        format!("mirrors/hf/{}", self.store.s3.prefix.replace('/', "-")).parse().unwrap()
    }

    async fn clean_up(&self) {
        let store = self.open_as("cleaner").await;
        let mut keys: Vec<_> = store.list(&Prefix::all()).map_ok(|there| there.key).try_collect().await.unwrap();
        let copies = Prefix::published(&self.copies(), &copied_repo(), None);
        keys.extend(store.list(&copies).map_ok(|there| there.key).try_collect::<Vec<_>>().await.unwrap());
        stream::iter(keys).for_each_concurrent(16, async |key| store.delete(&key).await.unwrap()).await;
    }
}

macro_rules! every_store_promises {
    ($($case:ident),* $(,)?) => {
        mod directory { $(
            #[tokio::test]
            async fn $case() { super::$case(&super::Place::directory()).await }
        )* }
        mod s3s_fs { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::$case(&super::Place::s3s().await).await }
        )* }
        mod real_s3 { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let Some(place) = super::Place::real() else { return };
                super::$case(&place).await;
                place.clean_up().await;
            }
        )* }
    };
}

every_store_promises! {
    an_object_is_read_back_as_it_was_written,
    what_is_not_there_is_none_and_no_error,
    create_keeps_what_is_there_and_overwrite_replaces_it,
    ranges_are_exact,
    names_that_look_alike_are_different_keys,
    a_listing_is_complete_and_in_key_order,
    an_object_larger_than_the_limit_is_an_error_not_a_cut,
    what_is_deleted_is_gone_for_everybody,
    a_small_blob_is_whole_or_absent,
    a_blob_of_many_parts_is_written_in_any_order,
    a_git_file_whose_digest_comes_at_the_end_is_stored,
    committing_twice_is_fine,
    a_dropped_stage_leaves_nothing,
    sweeping_never_takes_a_live_ones_work,
    a_blob_that_can_never_fit_is_refused_naming_the_key,
    the_probe_leaves_nothing_behind,
    the_layout_is_marked_and_an_unknown_one_refused,
    a_copy_is_the_blob_under_the_hubs_own_name,
    a_copied_file_gives_way_to_a_folder_of_its_name_and_back,
    a_copy_of_what_is_not_there_is_an_error_and_leaves_nothing,
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ len as u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn key_of(name: &str) -> Key {
    Key::policy(&Sha256::of(name.as_bytes()))
}

async fn read(store: &dyn Store, key: &Key, range: Option<std::ops::Range<u64>>) -> Option<Bytes> {
    let object = store.open(key, range).await.unwrap()?;
    let announced = object.body.size_hint().exact();
    let bytes = object.body.collect().await.unwrap().to_bytes();
    assert_eq!(announced, Some(bytes.len() as u64), "a body announces its exact length");
    Some(bytes)
}

async fn names(store: &dyn Store, prefix: &Prefix) -> Vec<String> {
    store.list(prefix).map_ok(|there| there.key.to_string()).try_collect().await.unwrap()
}

async fn store_blob(store: &dyn Store, bytes: &[u8], announced: Option<Sha256>) -> Key {
    let sha256 = Sha256::of(bytes);
    let mut stage = store.stage(bytes.len() as u64, announced).await.unwrap();
    stage.file().write_all_at(bytes, 0).unwrap();
    stage.advance(bytes.len() as u64).await.unwrap();
    stage.commit(sha256).await.unwrap();
    Key::blob(&sha256)
}

async fn an_object_is_read_back_as_it_was_written(place: &Place) {
    let store = place.open().await;
    for len in [0, 1, 5000, 300_000] {
        let (key, body) = (key_of(&len.to_string()), Bytes::from(noise(len)));
        assert_eq!(store.put(&key, body.clone(), PutMode::Create).await.unwrap(), PutOutcome::Written);
        assert_eq!(store.get(&key, len as u64).await.unwrap(), Some(body.clone()));
        assert_eq!(read(&*store, &key, None).await, Some(body));
        let there = store.head(&key).await.unwrap().unwrap();
        assert_eq!((&there.key, there.size), (&key, len as u64));
        let age = SystemTime::now().duration_since(there.modified).unwrap_or_default();
        assert!(age < Duration::from_hours(1), "{age:?}");
    }
}

async fn what_is_not_there_is_none_and_no_error(place: &Place) {
    let store = place.open().await;
    let key = key_of("absent");
    assert_eq!(store.head(&key).await.unwrap(), None);
    assert_eq!(store.get(&key, ANY).await.unwrap(), None);
    assert!(store.open(&key, None).await.unwrap().is_none());
    assert!(store.open(&key, Some(0..1)).await.unwrap().is_none());
    assert!(store.open(&key, Some(0..0)).await.unwrap().is_none());
    store.delete(&key).await.unwrap();
    assert!(names(&*store, &Prefix::log()).await.is_empty());
}

async fn create_keeps_what_is_there_and_overwrite_replaces_it(place: &Place) {
    let store = place.open().await;
    let key = key_of("one");
    let put =
        async |text: &'static str, mode| store.put(&key, Bytes::from_static(text.as_bytes()), mode).await.unwrap();
    assert_eq!(put("first", PutMode::Create).await, PutOutcome::Written);
    assert_eq!(put("second, longer", PutMode::Create).await, PutOutcome::Existed);
    assert_eq!(store.get(&key, ANY).await.unwrap().unwrap(), "first");
    assert_eq!(put("3rd", PutMode::Overwrite).await, PutOutcome::Written);
    assert_eq!(place.open_as("other").await.get(&key, ANY).await.unwrap().unwrap(), "3rd");
}

async fn ranges_are_exact(place: &Place) {
    let store = place.open().await;
    let bytes = noise(MIB + 7);
    let key = store_blob(&*store, &bytes, Some(Sha256::of(&bytes))).await;
    let end = bytes.len() as u64;
    for range in [0..1, 0..end, end - 1..end, 262_143..262_145, 100..700_000, 0..0, end..end] {
        let expected = &bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        let object = store.open(&key, Some(range.clone())).await.unwrap().unwrap();
        assert_eq!(object.size, end, "the size of the whole object, {range:?}");
        assert!(read(&*store, &key, Some(range.clone())).await.unwrap() == expected, "{range:?}");
    }
    for range in [0..end + 1, end..end + 1, end + 5..end + 9, end + 1..end + 1] {
        assert!(store.open(&key, Some(range.clone())).await.is_err(), "{range:?} is not inside");
    }
}

async fn names_that_look_alike_are_different_keys(place: &Place) {
    let store = place.open().await;
    let commit: Commit = "1".repeat(40).parse().unwrap();
    let long = format!("{}x", "d/".repeat(400));
    let paths = ["a", "a/b", "a/b/c", "a b", "a+b", "a%20b", "A", "é", "e\u{301}", "#?&=", "100%.txt", &long];
    let mut keys = Vec::new();
    for repo in ["org/name", "org/name.git2", "name", "Org/name"] {
        for kind in [RepoKind::Model, RepoKind::Dataset] {
            let Ok(repo) = Repo::new(kind, repo) else { continue };
            keys.push(Key::identity(&repo));
            keys.push(Key::snapshot(&repo, commit, "facts.json"));
            keys.push(Key::snapshot(&repo, commit, "tree/00000.jsonl"));
            for revision in ["main", "refs/pr/1", "refs/pr/10", "feature/a", "feature"] {
                keys.push(Key::reference(&repo, &revision.parse::<Revision>().unwrap()));
            }
            for path in paths {
                keys.push(Key::index(&repo, commit, &path.parse::<RepoPath>().unwrap()));
            }
        }
    }
    assert!(keys.len() > 100);
    stream::iter(&keys)
        .for_each_concurrent(16, async |key| {
            let outcome = store.put(key, Bytes::from(key.to_string()), PutMode::Create).await.unwrap();
            assert_eq!(outcome, PutOutcome::Written, "{key}");
        })
        .await;
    for key in &keys {
        assert_eq!(store.get(key, ANY).await.unwrap().unwrap(), key.to_string());
    }
    let mut expected: Vec<_> = keys.iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(names(&*store, &Prefix::all()).await, expected);
}

async fn a_listing_is_complete_and_in_key_order(place: &Place) {
    let store = place.open().await;
    let mut keys: Vec<_> = (0..1_050).map(|i| Key::log("w1", i)).collect();
    keys.extend((0..3).map(|i| Key::log("w1-a", i)).chain((0..3).map(|i| Key::log("w1.a", i))));
    keys.push(key_of("elsewhere"));
    stream::iter(&keys)
        .for_each_concurrent(16, async |key| {
            store.put(key, Bytes::from_static(b"record\n"), PutMode::Create).await.unwrap();
        })
        .await;
    keys.pop();
    keys.sort();
    let listed: Vec<_> = store.list(&Prefix::log()).try_collect().await.unwrap();
    assert_eq!(listed.iter().map(|there| there.key.clone()).collect::<Vec<_>>(), keys);
    assert!(listed.iter().all(|there| there.size == 7));
    assert_eq!(names(&*store, &Prefix::all()).await.len(), keys.len() + 1);
}

async fn an_object_larger_than_the_limit_is_an_error_not_a_cut(place: &Place) {
    let store = place.open().await;
    let key = key_of("large");
    store.put(&key, Bytes::from(noise(1001)), PutMode::Create).await.unwrap();
    assert_eq!(store.get(&key, 1000).await.unwrap_err().kind, ErrorKind::TooLarge(1000));
    assert_eq!(store.get(&key, 1001).await.unwrap().unwrap().len(), 1001);
}

async fn what_is_deleted_is_gone_for_everybody(place: &Place) {
    let store = place.open().await;
    let bytes = noise(10_000);
    let key = store_blob(&*store, &bytes, None).await;
    let reading = store.open(&key, None).await.unwrap().unwrap();
    store.delete(&key).await.unwrap();
    store.delete(&key).await.unwrap();
    assert!(store.open(&key, None).await.unwrap().is_none());
    assert!(place.open_as("other").await.head(&key).await.unwrap().is_none());
    assert!(names(&*store, &Prefix::all()).await.is_empty());
    // A body that is open already may end in an error, but not short or with other bytes.
    if let Ok(read) = reading.body.collect().await {
        assert_eq!(read.to_bytes(), bytes);
    }
}

async fn a_small_blob_is_whole_or_absent(place: &Place) {
    let (store, other) = (place.open().await, place.open_as("other").await);
    let bytes = noise(70_000);
    let sha256 = Sha256::of(&bytes);
    let mut stage = store.stage(bytes.len() as u64, Some(sha256)).await.unwrap();
    assert_eq!(stage.file().metadata().unwrap().len(), bytes.len() as u64, "as long as it will be, from the start");
    stage.file().write_all_at(&bytes[..30_000], 0).unwrap();
    stage.advance(30_000).await.unwrap();
    assert!(other.open(&Key::blob(&sha256), None).await.unwrap().is_none());
    assert!(names(&*other, &Prefix::blobs()).await.is_empty());
    stage.file().write_all_at(&bytes[30_000..], 30_000).unwrap();
    stage.advance(70_000).await.unwrap();
    stage.commit(sha256).await.unwrap();
    for store in [store, other] {
        assert!(read(&*store, &Key::blob(&sha256), None).await.unwrap() == bytes);
    }
    let empty = store_blob(&*place.open_as("third").await, b"", None).await;
    assert_eq!(read(&*place.open_as("fourth").await, &empty, None).await.unwrap(), "");
}

async fn a_blob_of_many_parts_is_written_in_any_order(place: &Place) {
    let store = place.open().await;
    let bytes = noise(100 * MIB + 12_345);
    let (size, sha256) = (bytes.len() as u64, Sha256::of(&bytes));
    let mut stage = store.stage(size, Some(sha256)).await.unwrap();
    let file = stage.file();
    // The end comes first, as when a reader asks for a footer.
    file.write_all_at(&bytes[90 * MIB..], 90 * MIB as u64).unwrap();
    let mut taken = 0;
    for start in (0..90 * MIB).step_by(5 * MIB) {
        file.write_all_at(&bytes[start..start + 5 * MIB], start as u64).unwrap();
        let upto = (start + 5 * MIB) as u64;
        let now = stage.advance(upto).await.unwrap();
        assert!(now >= taken && now <= upto, "{taken} {now} {upto}");
        taken = now;
    }
    assert!(store.head(&Key::blob(&sha256)).await.unwrap().is_none());
    let mut calls = 0;
    while size - taken > 64 * MIB as u64 {
        taken = stage.advance(size).await.unwrap();
        calls += 1;
        assert!(calls < 100, "each call waits for a part, so this ends");
    }
    stage.commit(sha256).await.unwrap();
    let stored = read(&*store, &Key::blob(&sha256), None).await.unwrap();
    assert!(stored == bytes, "the blob has the bytes that were written");
    assert_eq!(names(&*store, &Prefix::all()).await, [Key::blob(&sha256).to_string()], "and nothing else is left");
}

async fn a_git_file_whose_digest_comes_at_the_end_is_stored(place: &Place) {
    let store = place.open().await;
    for len in [1000, 20 * MIB] {
        let bytes = noise(len);
        let key = store_blob(&*store, &bytes, None).await;
        assert!(read(&*store, &key, None).await.unwrap() == bytes, "{len}");
    }
}

async fn committing_twice_is_fine(place: &Place) {
    let (store, other) = (place.open().await, place.open_as("other").await);
    for len in [1000, 17 * MIB] {
        let bytes = noise(len);
        let first = store_blob(&*store, &bytes, Some(Sha256::of(&bytes))).await;
        assert_eq!(store_blob(&*other, &bytes, Some(Sha256::of(&bytes))).await, first);
        assert!(read(&*store, &first, None).await.unwrap() == bytes, "{len}");
    }
}

async fn a_dropped_stage_leaves_nothing(place: &Place) {
    let store = place.open().await;
    for size in [1000, 40 * MIB] {
        let bytes = noise(size);
        for upto in [0, size / 2, size] {
            let mut stage = store.stage(size as u64, Some(Sha256::of(&bytes))).await.unwrap();
            stage.file().write_all_at(&bytes[..upto], 0).unwrap();
            stage.advance(upto as u64).await.unwrap();
            drop(stage);
        }
    }
    assert_eq!(store.sweep(true).await.unwrap(), 0, "what is new is not swept, it is gone");
    assert!(names(&*store, &Prefix::all()).await.is_empty());
    // All of 256 MiB of the spool is free again.
    drop(store.stage(256 * MIB as u64, None).await.unwrap());
}

async fn sweeping_never_takes_a_live_ones_work(place: &Place) {
    let store = place.open().await;
    let bytes = noise(40 * MIB);
    let sha256 = Sha256::of(&bytes);
    let mut stage = store.stage(bytes.len() as u64, Some(sha256)).await.unwrap();
    stage.file().write_all_at(&bytes, 0).unwrap();
    stage.advance(bytes.len() as u64).await.unwrap();
    assert_eq!(place.open_as("sweeper").await.sweep(true).await.unwrap(), 0);
    assert_eq!(store.sweep(true).await.unwrap(), 0);
    stage.commit(sha256).await.unwrap();
    assert!(read(&*store, &Key::blob(&sha256), None).await.unwrap() == bytes);
}

async fn a_blob_that_can_never_fit_is_refused_naming_the_key(place: &Place) {
    let store = place.open().await;
    let Err(error) = store.stage(1 << 60, None).await else { panic!("an exabyte fitted") };
    let named = if place.store.kind == StoreKind::S3 { "spool.max_size" } else { "store.local.path" };
    assert!(matches!(&error.kind, ErrorKind::Full(limit) if limit.contains(named)), "{error}");
    let expected = (place.store.kind == StoreKind::S3).then_some((256 * MIB as u64, "spool.max_size"));
    assert_eq!(store.largest_stage(), expected);
    store_blob(&*store, b"there is still room", None).await;
}

async fn the_probe_leaves_nothing_behind(place: &Place) {
    let store = place.open().await;
    let first = store.probe().await.unwrap();
    assert_eq!(store.probe().await.unwrap(), first);
    assert!(names(&*store, &Prefix::all()).await.is_empty());
}

async fn the_layout_is_marked_and_an_unknown_one_refused(place: &Place) {
    let store = place.open().await;
    open_layout(&*store).await.unwrap();
    open_layout(&*place.open_as("other").await).await.unwrap();
    assert_eq!(store.get(&Key::layout(), ANY).await.unwrap().unwrap(), "{\"layout\":1}\n");
    for unknown in ["{\"layout\":2}", "what is this"] {
        store.put(&Key::layout(), Bytes::from(unknown), PutMode::Overwrite).await.unwrap();
        let error = open_layout(&*store).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Misconfigured(_)), "{error}");
    }
}

fn copied_repo() -> Repo {
    "datasets/org/name".parse().unwrap()
}

fn facts(bytes: &[u8]) -> CopyFacts {
    let (repo, license) = (copied_repo().to_string(), "other:Größe 1.0".into());
    CopyFacts { repo, commit: "1".repeat(40).parse().unwrap(), license, size: bytes.len() as u64 }
}

async fn a_copy_is_the_blob_under_the_hubs_own_name(place: &Place) {
    let (store, copies, repo) = (place.open().await, place.copies(), copied_repo());
    let key = |path: &str| Key::published(&copies, &repo, None, &path.parse().unwrap());
    let mut expected = Vec::new();
    for (len, path) in
        [(0, "empty"), (1000, ".gitattributes"), (2000, "sub dir/filé #1 100%.txt"), (20 * MIB + 7, "w.bin")]
    {
        let bytes = noise(len);
        store_blob(&*store, &bytes, Some(Sha256::of(&bytes))).await;
        // What was there before is replaced.
        store.put(&key(path), Bytes::from_static(b"before"), PutMode::Overwrite).await.unwrap();
        assert_eq!(store.copy(&Sha256::of(&bytes), &key(path), &facts(&bytes)).await.unwrap(), Copied::Made);
        assert!(read(&*store, &key(path), None).await.unwrap() == bytes, "{path}");
        assert_eq!(store.head(&key(path)).await.unwrap().unwrap().size, len as u64);
        expected.push(key(path).to_string());
    }
    expected.sort();
    let all = Prefix::published(&copies, &repo, None);
    assert_eq!(names(&*store, &all).await, expected);

    // Made again, a small one is simply made; of a large one a bucket's own facts tell that it is there.
    let large = noise(20 * MIB + 7);
    let again = store.copy(&Sha256::of(&large), &key("w.bin"), &facts(&large)).await.unwrap();
    let is_bucket = place.store.kind == StoreKind::S3;
    assert_eq!(again, if is_bucket { Copied::Kept } else { Copied::Made });
    let other = noise(20 * MIB + 8);
    store_blob(&*store, &other, Some(Sha256::of(&other))).await;
    assert_eq!(store.copy(&Sha256::of(&other), &key("w.bin"), &facts(&other)).await.unwrap(), Copied::Made);
    assert!(read(&*store, &key("w.bin"), None).await.unwrap() == other);

    // A copy does not need its blob, and the blob not its copy.
    store.delete(&Key::blob(&Sha256::of(&other))).await.unwrap();
    assert!(read(&*store, &key("w.bin"), None).await.unwrap() == other);
    store.delete(&key(".gitattributes")).await.unwrap();
    assert!(store.head(&Key::blob(&Sha256::of(&noise(1000)))).await.unwrap().is_some());
    assert_eq!(names(&*store, &all).await.len(), expected.len() - 1);
    assert!(names(&*store, &Prefix::uploads()).await.is_empty(), "no upload is left");
}

async fn a_copied_file_gives_way_to_a_folder_of_its_name_and_back(place: &Place) {
    let (store, copies, repo) = (place.open().await, place.copies(), copied_repo());
    let bytes = noise(100);
    store_blob(&*store, &bytes, None).await;
    // s3s-fs keeps the folders of what was deleted, and then has no room for a file of their name.
    let back = if place.server.is_some() { &[][..] } else { &["a", "a/b"] };
    for path in ["a", "a/b/c"].iter().chain(back) {
        let key = Key::published(&copies, &repo, None, &path.parse().unwrap());
        store.copy(&Sha256::of(&bytes), &key, &facts(&bytes)).await.unwrap();
        assert!(read(&*store, &key, None).await.unwrap() == bytes, "{path}");
        store.delete(&key).await.unwrap();
        assert!(store.head(&key).await.unwrap().is_none());
    }
}

async fn a_copy_of_what_is_not_there_is_an_error_and_leaves_nothing(place: &Place) {
    let (store, copies, repo) = (place.open().await, place.copies(), copied_repo());
    for len in [100, 20 * MIB] {
        let bytes = noise(len);
        let key = Key::published(&copies, &repo, None, &"a".parse().unwrap());
        assert!(store.copy(&Sha256::of(&bytes), &key, &facts(&bytes)).await.is_err());
        assert!(store.head(&key).await.unwrap().is_none());
    }
    // The abort of the upload goes on behind; a sweep waits for it.
    store.sweep(true).await.unwrap();
    assert!(names(&*store, &Prefix::uploads()).await.is_empty());
}
