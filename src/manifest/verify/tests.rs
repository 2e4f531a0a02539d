use std::sync::Mutex;

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    super::{
        Manifest, NewRecord, What, WriterId,
        testing::{Fate, MemoryStore, content, fact},
    },
    *,
};
use crate::{hub::BlobId, store::ErrorKind};

/// A store with a manifest on it.
fn manifest() -> (Arc<MemoryStore>, Manifest) {
    let store = MemoryStore::new();
    let manifest = Manifest::start(store.clone(), WriterId::new(), &TaskTracker::new(), CancellationToken::new());
    (store, manifest)
}

/// A store with files 0 to `count`, well stored.
async fn stored(count: usize) -> (Arc<MemoryStore>, Manifest) {
    let (store, manifest) = manifest();
    let all = (0..count).map(|n| {
        store.plant(&blob(n), content(n));
        manifest.record_stored(fact(n))
    });
    futures_util::future::try_join_all(all).await.unwrap();
    (store, manifest)
}

fn blob(n: usize) -> String {
    Key::blob(&fact(n).sha256).to_string()
}

fn entry(n: usize) -> String {
    Entry::of(&fact(n)).key().to_string()
}

fn named(n: usize) -> String {
    format!("org/name@{} dir/file-{n}.bin", fact(n).commit)
}

async fn check(store: &Arc<MemoryStore>) -> Report {
    verify(store.clone(), Options::default()).await.unwrap()
}

async fn repair(store: &Arc<MemoryStore>) -> Report {
    verify(store.clone(), Options { repair: true, ..Options::default() }).await.unwrap()
}

/// The kinds and names of all findings.
fn found(report: &Report) -> Vec<(Kind, &str)> {
    report.findings.iter().map(|finding| (finding.kind, finding.name.as_str())).collect()
}

#[tokio::test]
async fn a_whole_store_is_fine() {
    let (store, manifest) = stored(20).await;
    // The same content in another file, and a file that came, went and came back.
    manifest.record_stored(NewRecord { path: "copy".parse().unwrap(), ..fact(3) }).await.unwrap();
    manifest.record(NewRecord { what: What::Evicted, ..fact(4) }).await.unwrap();
    manifest.record_stored(fact(4)).await.unwrap();
    manifest.record(NewRecord { what: What::Evicted, ..fact(5) }).await.unwrap();
    store.uproot(&blob(5));
    let report = check(&store).await;
    assert_eq!(found(&report), []);
    assert!(report.is_fine());
    assert_eq!((report.records, report.entries, report.blobs), (24, 20, 19));
}

#[tokio::test]
async fn a_file_that_another_process_evicted_is_not_missed_whichever_chain_is_read_first() {
    let store = MemoryStore::new();
    let start = |writer: &str| {
        Manifest::start(store.clone(), writer.parse().unwrap(), &TaskTracker::new(), CancellationToken::new())
    };
    let (first, last) = (start("a"), start("z"));
    last.record_stored(fact(1)).await.unwrap();
    first.record(NewRecord { what: What::Evicted, ..fact(1) }).await.unwrap();
    first.record_stored(fact(2)).await.unwrap();
    last.record(NewRecord { what: What::Evicted, ..fact(2) }).await.unwrap();
    assert_eq!(found(&check(&store).await), []);
}

#[tokio::test]
async fn a_missing_blob_is_named_by_every_file_that_needs_it() {
    let (store, manifest) = stored(5).await;
    manifest.record_stored(NewRecord { path: "copy".parse().unwrap(), ..fact(3) }).await.unwrap();
    store.uproot(&blob(3));
    let report = repair(&store).await;
    let copy = format!("org/name@{} copy", fact(3).commit);
    let mut names = found(&report);
    names.sort();
    assert_eq!(names, [(Kind::MissingBlob, copy.as_str()), (Kind::MissingBlob, named(3).as_str())]);
    assert!(!report.is_fine());
}

#[tokio::test]
async fn one_altered_byte_of_a_blob_is_found_and_never_repaired() {
    let (store, _) = stored(5).await;
    let mut body = content(2);
    body[0] ^= 1;
    store.plant(&blob(2), body.clone());
    for report in [check(&store).await, repair(&store).await] {
        assert_eq!(found(&report), [(Kind::AlteredBlob, named(2).as_str())]);
        assert!(!report.is_fine());
    }
    assert_eq!(store.object(&blob(2)), body);
}

#[tokio::test]
async fn a_crash_after_the_blob_leaves_an_unrecorded_one_that_stays() {
    let (store, _) = stored(2).await;
    store.plant(&blob(7), content(7));
    let report = repair(&store).await;
    assert_eq!(found(&report), [(Kind::UnrecordedBlob, fact(7).sha256.to_string().as_str())]);
    assert!(!report.is_fine());
    assert_eq!(store.object(&blob(7)), content(7));
}

#[tokio::test]
async fn a_blob_left_by_an_eviction_is_unrecorded_too() {
    let (store, manifest) = stored(2).await;
    manifest.record(NewRecord { what: What::Evicted, ..fact(1) }).await.unwrap();
    let report = check(&store).await;
    assert_eq!(found(&report), [(Kind::UnrecordedBlob, fact(1).sha256.to_string().as_str())]);
}

#[tokio::test]
async fn a_crash_between_log_and_index_is_completed_by_repair() {
    let (store, manifest) = stored(3).await;
    store.plant(&blob(3), content(3));
    store.next_write("manifest/index/", Fate::Fails(ErrorKind::PermissionDenied));
    manifest.record_stored(fact(3)).await.unwrap_err();

    let report = check(&store).await;
    assert_eq!(found(&report), [(Kind::NoIndexEntry, named(3).as_str())]);
    assert!(!report.is_fine());

    let report = repair(&store).await;
    assert_eq!(found(&report), [(Kind::NoIndexEntry, named(3).as_str())]);
    assert!(report.is_fine() && report.repaired == 1);
    let again = check(&store).await;
    assert_eq!((found(&again), again.entries), (vec![], 4));
}

#[tokio::test]
async fn repair_writes_no_entry_for_a_blob_that_is_gone_or_altered() {
    let (store, _) = stored(3).await;
    store.uproot(&entry(1));
    store.uproot(&blob(1));
    store.uproot(&entry(2));
    store.plant(&blob(2), "something else");
    let report = repair(&store).await;
    let mut names = found(&report);
    names.sort();
    assert_eq!(names, [(Kind::MissingBlob, named(1).as_str()), (Kind::AlteredBlob, named(2).as_str())]);
    assert_eq!(store.keys("manifest/index/"), [entry(0)]);
}

#[tokio::test]
async fn a_broken_entry_is_named_and_written_anew_from_its_record() {
    let (store, _) = stored(3).await;
    let good = store.object(&entry(1));
    store.plant(&entry(1), &b"{"[..]);
    store.plant("manifest/index/stray", &b"{"[..]);
    let report = repair(&store).await;
    let mut names = found(&report);
    names.sort();
    assert_eq!(names, [(Kind::Unreadable, "manifest/index/stray"), (Kind::Unreadable, named(1).as_str())]);
    assert_eq!((report.repaired, store.object(&entry(1))), (1, good));
}

#[tokio::test]
async fn an_entry_without_a_record_is_named_and_stays() {
    let (store, _) = stored(2).await;
    store.plant(&blob(9), content(9));
    store.plant(&entry(9), Entry::of(&fact(9)).to_bytes().unwrap());
    let report = repair(&store).await;
    assert_eq!(found(&report), [(Kind::NoLogRecord, named(9).as_str())]);
    assert!(!report.is_fine() && store.keys(&entry(9)).len() == 1);
}

#[tokio::test]
async fn an_entry_that_says_something_else_than_its_record_is_named_and_stays() {
    let (store, _) = stored(2).await;
    let forged = NewRecord { sha256: fact(0).sha256, size: fact(0).size, etag: fact(0).etag, ..fact(1) };
    store.plant(&entry(1), Entry::of(&forged).to_bytes().unwrap());
    let report = repair(&store).await;
    let disagreement = (Kind::Disagreement, named(1));
    assert!(found(&report).contains(&(disagreement.0, disagreement.1.as_str())), "{report:?}");
    assert!(!report.is_fine());
}

#[tokio::test]
async fn an_eviction_cut_before_its_index_is_completed_by_repair() {
    let (store, manifest) = stored(2).await;
    manifest.record(NewRecord { what: What::Withdrawn, ..fact(1) }).await.unwrap();
    store.uproot(&blob(1));
    store.plant(&entry(1), Entry::of(&fact(1)).to_bytes().unwrap());
    let report = check(&store).await;
    assert!(found(&report).contains(&(Kind::ServedAfterRemoval, named(1).as_str())), "{report:?}");
    assert_eq!(store.keys("manifest/index/").len(), 2);
    repair(&store).await;
    assert_eq!(store.keys("manifest/index/"), [entry(0)]);
    assert!(check(&store).await.is_fine());
}

#[tokio::test]
async fn an_altered_record_and_a_removed_batch_are_named_by_writer() {
    let (store, manifest) = manifest();
    for n in 0..4 {
        store.plant(&blob(n), content(n));
        manifest.record_stored(fact(n)).await.unwrap();
    }
    let keys = store.keys("manifest/log/");
    let altered = String::from_utf8(store.object(&keys[0]).to_vec()).unwrap().replace("apache-2.0", "mit");
    store.plant(&keys[0], altered);
    store.uproot(&keys[2]);
    let report = check(&store).await;
    let writer = format!("log of {}", manifest.writer());
    let expected = [
        (Kind::AlteredRecord, writer.as_str()),
        (Kind::MissingRecord, writer.as_str()),
        (Kind::NoLogRecord, &named(2)),
    ];
    assert_eq!(found(&report), expected);
    assert!(report.findings[0].detail.contains("record 1 "), "{report:?}");
    assert!(report.findings[1].detail.contains("record 3 is missing"), "{report:?}");
}

#[tokio::test]
async fn a_policy_without_its_text_and_objects_in_wrong_places_are_named() {
    let (store, manifest) = stored(1).await;
    let known = Sha256::of(b"known policy");
    manifest.remember_policy(known, "known policy").await.unwrap();
    let policy = |digest| NewRecord { policy_sha256: Some(digest), ..fact(0) };
    manifest.record_stored(policy(known)).await.unwrap();
    assert!(check(&store).await.is_fine());

    let lost = Sha256::of(b"lost policy");
    manifest.record_stored(policy(lost)).await.unwrap();
    store.plant(Key::policy(&known).as_str(), "another policy");
    store.plant("blobs/sha256/aa/readme", "hello");
    store.plant("snapshots/models/org--name/main/facts.json", "{}");
    let report = check(&store).await;
    let mut found = found(&report);
    found[..2].sort_unstable();
    let expected = [
        (Kind::Unreadable, Key::policy(&known).to_string()),
        (Kind::MissingPolicy, lost.to_string()),
        (Kind::Unreadable, "snapshots/models/org--name/main/facts.json".into()),
        (Kind::Unreadable, "blobs/sha256/aa/readme".into()),
    ];
    assert_eq!(found, expected.each_ref().map(|(kind, name)| (*kind, name.as_str())));
}

/// Snapshots whose files are given, for tests.
struct Given(Vec<SnapshotItem>);

impl SnapshotReader for Given {
    fn read<'a>(&'a self, _: &'a dyn Store, _: &'a Repo, _: Commit) -> BoxStream<'a, store::Result<SnapshotItem>> {
        stream::iter(self.0.iter().cloned().map(Ok)).boxed()
    }
}

#[tokio::test]
async fn a_snapshot_that_names_other_content_than_the_entry_is_named() {
    let (store, _) = stored(3).await;
    store.plant(&format!("snapshots/models/org--name/{}/facts.json", fact(0).commit), "{}");
    store.plant(&format!("snapshots/models/org--name/{}/tree.json", fact(0).commit), "{}");
    let file = |n: usize, size| SnapshotItem::File { path: fact(n).path, size, id: fact(n).etag };
    let with = |items| Options { snapshots: Some(Arc::new(Given(items))), ..Options::default() };

    // File 9 is not stored yet, so nothing contradicts the snapshot.
    let good = vec![file(0, fact(0).size), file(2, fact(2).size), file(9, 1)];
    let report = verify(store.clone(), with(good)).await.unwrap();
    assert!(report.is_fine() && report.snapshots_checked && report.snapshots == 1, "{report:?}");

    let other = SnapshotItem::File { path: fact(1).path, size: fact(1).size, id: BlobId::Sha256(fact(0).sha256) };
    let bad = vec![file(0, 1), other, SnapshotItem::Problem("tree/00001.jsonl is missing".into())];
    let report = verify(store.clone(), with(bad)).await.unwrap();
    let name = format!("org/name@{}", fact(0).commit);
    assert_eq!(found(&report), [(Kind::Snapshot, name.as_str()); 3]);
}

#[tokio::test]
async fn what_is_stored_while_we_look_is_not_reported() {
    let (store, manifest) = stored(2).await;
    // File 5 is recorded and written after the index was read, file 6 after the log was.
    let late = Mutex::new(vec![(Phase::Log, 5), (Phase::Blobs, 6)]);
    let (target, writer) = (store.clone(), manifest.writer().clone());
    let progress = move |progress: Progress| {
        let mut late = late.lock().unwrap();
        if late.first().is_some_and(|(phase, _)| *phase == progress.phase) {
            let (_, n) = late.remove(0);
            plant_whole(&target, &format!("{writer}-{n}"), n);
        }
    };
    let options = Options { progress: Some(Arc::new(progress)), jobs: 1, ..Options::default() };
    let report = verify(store.clone(), options).await.unwrap();
    assert_eq!(found(&report), []);
    assert_eq!(store.keys("manifest/index/").len(), 4);
}

/// Stores a file whole, as another process would.
fn plant_whole(store: &MemoryStore, writer: &str, n: usize) {
    store.plant(&blob(n), content(n));
    store.plant_record(writer, 0, fact(n));
    plant_entry(store, n);
}

fn plant_entry(store: &MemoryStore, n: usize) {
    store.plant(&entry(n), Entry::of(&fact(n)).to_bytes().unwrap());
}

fn evicted(n: usize) -> NewRecord {
    NewRecord { what: What::Evicted, ..fact(n) }
}

/// What another process does at the first sign of a phase.
type Deed = Box<dyn Fn(&MemoryStore) + Send>;

/// A verification during which this happens.
async fn meanwhile<const N: usize>(store: &Arc<MemoryStore>, repair: bool, deeds: [(Phase, Deed); N]) -> Report {
    let (deeds, target) = (Mutex::new(Vec::from(deeds)), store.clone());
    let progress = move |progress: Progress| {
        let mut deeds = deeds.lock().unwrap();
        if let Some(place) = deeds.iter().position(|(phase, _)| *phase == progress.phase) {
            deeds.remove(place).1(&target);
        }
    };
    let options = Options { repair, progress: Some(Arc::new(progress)), jobs: 1, ..Options::default() };
    verify(store.clone(), options).await.unwrap()
}

#[tokio::test]
async fn a_new_writer_that_sorts_before_the_others_hides_no_finding() {
    let (store, _) = stored(4).await;
    store.plant(&blob(1), "altered");
    store.uproot(&blob(2));
    store.uproot(&entry(3));
    let report = meanwhile(&store, false, [(Phase::Blobs, Box::new(|store| plant_whole(store, "0", 9)))]).await;
    let mut names = found(&report);
    names.sort();
    let (missing, altered, unserved) = (named(2), named(1), named(3));
    let expected = [
        (Kind::MissingBlob, missing.as_str()),
        (Kind::AlteredBlob, altered.as_str()),
        (Kind::NoIndexEntry, unserved.as_str()),
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn what_came_and_was_evicted_while_we_hashed_stays_evicted() {
    let (store, _) = stored(2).await;
    let deeds: [(Phase, Deed); 2] = [
        // Behind the listing of the index, and before the log is read.
        (Phase::Index, Box::new(|store| plant_whole(store, "a", 7))),
        (
            Phase::Blobs,
            Box::new(|store| {
                store.plant_record("b", 1, evicted(7));
                store.uproot(&entry(7));
            }),
        ),
    ];
    assert_eq!(found(&meanwhile(&store, true, deeds).await), []);
    assert_eq!(store.keys(&entry(7)), [""; 0]);
}

#[tokio::test]
async fn what_was_evicted_and_came_back_while_we_hashed_stays_served() {
    let (store, _) = stored(1).await;
    let deeds: [(Phase, Deed); 2] = [
        (
            Phase::Index,
            Box::new(|store| {
                store.plant_record("a", 1, evicted(0));
                store.uproot(&entry(0));
            }),
        ),
        (
            Phase::Blobs,
            Box::new(|store| {
                store.plant_record("b", 2, fact(0));
                plant_entry(store, 0);
            }),
        ),
    ];
    assert_eq!(found(&meanwhile(&store, true, deeds).await), []);
    assert_eq!(store.keys("manifest/index/"), [entry(0)]);
}

#[tokio::test]
async fn what_is_recorded_while_we_repair_is_what_stands_in_the_end() {
    let (store, manifest) = stored(3).await;
    store.uproot(&entry(1));
    let evicts: Deed = Box::new(|store| store.plant_record("a", 1, evicted(1)));
    let report = meanwhile(&store, true, [(Phase::Findings, evicts)]).await;
    assert_eq!((found(&report), store.keys(&entry(1)).len()), (vec![(Kind::NoIndexEntry, named(1).as_str())], 0));

    manifest.record(evicted(2)).await.unwrap();
    plant_entry(&store, 2);
    // Its entry was written before we removed it as a leftover.
    let seen = std::sync::atomic::AtomicU64::new(0);
    let target = store.clone();
    let progress = move |progress: Progress| {
        if progress.phase == Phase::Findings
            && progress.done > seen.swap(progress.done, std::sync::atomic::Ordering::Relaxed)
        {
            target.plant_record("b", 1, fact(2));
        }
    };
    let options = Options { repair: true, progress: Some(Arc::new(progress)), ..Options::default() };
    let report = verify(store.clone(), options).await.unwrap();
    assert!(found(&report).contains(&(Kind::ServedAfterRemoval, named(2).as_str())), "{report:?}");
    assert_eq!(store.keys(&entry(2)).len(), 1);
}

#[tokio::test]
async fn a_blob_that_is_whole_again_or_gone_with_its_file_is_not_reported() {
    let (store, _) = stored(3).await;
    store.plant(&blob(0), "altered");
    store.plant(&blob(1), "altered");
    let refetched: Deed = Box::new(|store| {
        store.plant(&blob(0), content(0));
        store.plant_record("a", 1, evicted(1));
        store.uproot(&entry(1));
        store.uproot(&blob(1));
    });
    // The last blob that is hashed, so that the others were hashed before.
    let (target, deed) = (store.clone(), Mutex::new(Some(refetched)));
    let progress = move |progress: Progress| {
        if progress.phase == Phase::Blobs && Some(progress.done) == progress.of {
            deed.lock().unwrap().take().unwrap()(&target);
        }
    };
    let options = Options { progress: Some(Arc::new(progress)), jobs: 1, ..Options::default() };
    let report = verify(store.clone(), options).await.unwrap();
    assert_eq!(found(&report), []);
}

#[tokio::test]
async fn a_broken_entry_of_a_removed_file_is_removed_and_one_that_nobody_recorded_stays() {
    let (store, manifest) = stored(2).await;
    manifest.record(evicted(1)).await.unwrap();
    store.uproot(&blob(1));
    store.plant(&entry(1), "{");
    assert!(!check(&store).await.is_fine());
    let report = repair(&store).await;
    assert_eq!(found(&report), [(Kind::Unreadable, entry(1).as_str())]);
    assert!(report.is_fine() && store.keys("manifest/index/") == [entry(0)]);
    assert!(super::super::named_blobs(&*store).await.is_ok());

    store.plant("manifest/index/stray", "{");
    let report = repair(&store).await;
    assert!(!report.is_fine() && report.findings[0].detail.contains("move it away"), "{report:?}");
    let unsure = super::super::named_blobs(&*store).await.unwrap_err().to_string();
    assert!(unsure.contains("manifest/index/stray") && unsure.contains("move the object away"), "{unsure}");
}

#[tokio::test]
async fn twenty_thousand_files_are_verified_and_the_one_bad_byte_among_them_found() {
    let (store, _) = stored(20_000).await;
    store.plant(&blob(12_345), "altered");
    let report = check(&store).await;
    assert_eq!(found(&report), [(Kind::AlteredBlob, named(12_345).as_str())]);
    assert_eq!((report.records, report.entries, report.blobs), (20_000, 20_000, 20_000));
}
