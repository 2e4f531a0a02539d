use std::collections::HashSet;

use super::{
    super::{
        Entry, Manifest, What,
        testing::{Fate, MemoryStore, content, fact},
    },
    *,
};
use crate::store::ErrorKind;

/// A manifest, and what ends it.
struct Running {
    store: Arc<MemoryStore>,
    manifest: Manifest,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

fn start() -> Running {
    let (store, tracker, shutdown) = (MemoryStore::new(), TaskTracker::new(), CancellationToken::new());
    let manifest = Manifest::start(store.clone(), WriterId::new(), &tracker, shutdown.clone());
    Running { store, manifest, tracker, shutdown }
}

impl Running {
    async fn stop(self) -> Arc<MemoryStore> {
        self.shutdown.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        self.store
    }
}

/// All lines of the only chain, in order, checked to be one.
fn chain(store: &Arc<MemoryStore>) -> Vec<Record> {
    let (mut prev, mut seq, mut records) = (Sha256::ZERO, 1, Vec::new());
    for key in store.keys("manifest/log/") {
        let body = store.object(&key);
        assert_eq!(key, Key::log(key.split('/').nth(2).unwrap(), seq).as_str());
        for line in std::str::from_utf8(&body).unwrap().lines() {
            let record: Record = serde_json::from_str(line).unwrap();
            assert_eq!((record.seq, record.prev), (seq, prev));
            (prev, seq) = (Sha256::of(line.as_bytes()), seq + 1);
            records.push(record);
        }
    }
    records
}

#[tokio::test]
async fn a_hundred_concurrent_records_make_one_chain_in_few_objects() {
    let running = start();
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let manifest = running.manifest.clone();
            tokio::spawn(async move { manifest.record_stored(fact(n)).await.unwrap() })
        })
        .collect();
    for task in tasks {
        let entry = task.await.unwrap();
        // Whoever has the answer finds log and index in the store.
        assert_eq!(running.store.object(entry.key().as_str()), entry.to_bytes().unwrap());
    }
    let store = running.stop().await;
    let records = chain(&store);
    assert_eq!(records.len(), 100);
    assert!(records.is_sorted_by_key(|record| record.time));
    let paths: HashSet<_> = records.into_iter().map(|record| record.fact.path).collect();
    assert_eq!(paths.len(), 100);
    assert!(store.keys("manifest/log/").len() < 50, "records were not batched");
}

#[tokio::test]
async fn a_passing_fault_is_not_seen_by_the_caller() {
    let running = start();
    running.store.next_write("manifest/log/", Fate::Fails(ErrorKind::Busy));
    running.store.next_write("manifest/index/", Fate::Fails(ErrorKind::Unreachable));
    running.manifest.record_stored(fact(1)).await.unwrap();
    assert_eq!(chain(&running.stop().await).len(), 1);
}

#[tokio::test]
async fn a_write_that_landed_though_it_timed_out_is_not_written_twice() {
    let running = start();
    running.store.next_write("manifest/log/", Fate::LandsAndFails(ErrorKind::Unreachable));
    running.manifest.record_stored(fact(1)).await.unwrap();
    running.manifest.record_stored(fact(2)).await.unwrap();
    assert_eq!(chain(&running.stop().await).len(), 2);
}

#[tokio::test]
async fn a_batch_that_fails_for_good_tells_its_waiters_and_leaves_neither_gap_nor_fork() {
    for fate in [Fate::Fails, Fate::LandsAndFails] {
        let running = start();
        running.manifest.record_stored(fact(1)).await.unwrap();
        running.store.plant(Key::blob(&fact(2).sha256).as_str(), content(2));
        running.store.next_write("manifest/log/", fate(ErrorKind::PermissionDenied));
        assert!(matches!(running.manifest.record_stored(fact(2)).await, Err(Error::Log(_))));
        assert_eq!(running.manifest.entry(&fact(2).repo, fact(2).commit, &fact(2).path).await.unwrap(), None);

        // While the store still refuses, the next one fails too and takes no number.
        running.store.next_write("manifest/log/", Fate::Fails(ErrorKind::PermissionDenied));
        assert!(matches!(running.manifest.record_stored(fact(3)).await, Err(Error::Log(_))));

        running.manifest.record_stored(fact(4)).await.unwrap();
        let store = running.stop().await;
        let paths: Vec<_> = chain(&store).into_iter().map(|record| record.fact.path).collect();
        assert_eq!(paths, [1, 2, 4].map(|n| fact(n).path));
        // The record that came late has its index entry too, since its blob is there.
        assert_eq!(store.keys("manifest/index/").len(), 3);
    }
}

#[tokio::test]
async fn a_late_record_whose_blob_is_gone_gets_no_index_entry() {
    let running = start();
    running.store.next_write("manifest/log/", Fate::Fails(ErrorKind::PermissionDenied));
    assert!(running.manifest.record_stored(fact(1)).await.is_err());
    running.manifest.record_stored(fact(2)).await.unwrap();
    let store = running.stop().await;
    assert_eq!(chain(&store).len(), 2);
    assert_eq!(store.keys("manifest/index/"), [Entry::of(&fact(2)).key().as_str()]);
}

#[tokio::test]
async fn an_index_that_fails_is_an_error_with_the_record_in_the_log() {
    let running = start();
    running.store.next_write("manifest/index/", Fate::Fails(ErrorKind::Full("store.path".into())));
    assert!(matches!(running.manifest.record_stored(fact(1)).await, Err(Error::Index(_))));
    let (repo, commit, path) = (fact(1).repo, fact(1).commit, fact(1).path);
    assert_eq!(running.manifest.entry(&repo, commit, &path).await.unwrap(), None);
    // The next fill of the file completes it.
    running.manifest.record_stored(fact(1)).await.unwrap();
    assert!(running.manifest.entry(&repo, commit, &path).await.unwrap().is_some());
    assert_eq!(chain(&running.stop().await).len(), 2);
}

#[tokio::test]
async fn another_ones_records_in_this_chain_are_an_error_and_stay() {
    let running = start();
    let key = Key::log(running.manifest.writer().as_str(), 1);
    running.store.plant(key.as_str(), "not ours\n");
    assert!(matches!(running.manifest.record_stored(fact(1)).await, Err(Error::Taken(at)) if at == key));
    assert_eq!(running.stop().await.object(key.as_str()), "not ours\n");
}

#[tokio::test]
async fn what_was_handed_in_before_the_stop_is_written_and_later_records_are_refused() {
    let running = start();
    let mut waiting: Vec<_> = Vec::new();
    for n in 0..20 {
        let manifest = running.manifest.clone();
        let mut record = Box::pin(async move { manifest.record_stored(fact(n)).await });
        // Polled once, it stands in the queue.
        assert!(futures_util::poll!(record.as_mut()).is_pending());
        waiting.push(record);
    }
    running.shutdown.cancel();
    for record in waiting {
        record.await.unwrap();
    }
    assert!(matches!(running.manifest.record_stored(fact(99)).await, Err(Error::Closed)));
    assert_eq!(chain(&running.stop().await).len(), 20);
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_stop_its_record() {
    let running = start();
    let manifest = running.manifest.clone();
    let mut record = Box::pin(async move { manifest.record_stored(fact(1)).await });
    assert!(futures_util::poll!(record.as_mut()).is_pending());
    drop(record);
    let store = running.stop().await;
    assert_eq!((chain(&store).len(), store.keys("manifest/index/").len()), (1, 1));
}

#[tokio::test]
async fn an_evicted_file_is_in_the_log_and_no_longer_in_the_index() {
    let running = start();
    running.manifest.record_stored(fact(1)).await.unwrap();
    running.manifest.record(NewRecord { what: What::Evicted, ..fact(1) }).await.unwrap();
    assert_eq!(running.manifest.entry(&fact(1).repo, fact(1).commit, &fact(1).path).await.unwrap(), None);
    let store = running.stop().await;
    assert_eq!(chain(&store)[1].fact.what, What::Evicted);
    assert!(store.keys("manifest/index/").is_empty());
}

#[tokio::test]
async fn a_batch_that_could_not_be_written_is_tried_again_at_the_stop() {
    let running = start();
    running.store.plant(Key::blob(&fact(1).sha256).as_str(), content(1));
    running.store.next_write("manifest/log/", Fate::Fails(ErrorKind::PermissionDenied));
    assert!(running.manifest.record_stored(fact(1)).await.is_err());
    let store = running.stop().await;
    assert_eq!((chain(&store).len(), store.keys("manifest/index/").len()), (1, 1));
}

#[tokio::test]
async fn an_eviction_right_behind_a_slow_store_of_the_same_file_is_what_remains() {
    let running = start();
    let slow = running.store.hold_write("manifest/index/");
    let (storing, evicting) = (running.manifest.clone(), running.manifest.clone());
    let stored = tokio::spawn(async move { storing.record_stored(fact(1)).await });
    running.store.until("manifest/log/", 1).await;
    let evicted = tokio::spawn(async move { evicting.record(NewRecord { what: What::Evicted, ..fact(1) }).await });
    running.store.until("manifest/log/", 2).await;
    for _ in 0..100 {
        // Every chance to overtake.
        tokio::task::yield_now().await;
    }
    slow.notify_one();
    stored.await.unwrap().unwrap();
    evicted.await.unwrap().unwrap();
    assert_eq!(running.manifest.entry(&fact(1).repo, fact(1).commit, &fact(1).path).await.unwrap(), None);
    let store = running.stop().await;
    assert_eq!(chain(&store)[1].fact.what, What::Evicted);
    assert!(store.keys("manifest/index/").is_empty());
}

#[tokio::test]
async fn a_slow_index_entry_holds_up_no_other_file() {
    let running = start();
    let slow = running.store.hold_write("manifest/index/");
    let manifest = running.manifest.clone();
    let held = tokio::spawn(async move { manifest.record_stored(fact(1)).await });
    running.store.until("manifest/log/", 1).await;
    running.manifest.record_stored(fact(2)).await.unwrap();
    slow.notify_one();
    held.await.unwrap().unwrap();
}

#[tokio::test]
async fn of_many_who_adopt_the_same_content_at_once_one_records_it() {
    let running = start();
    let adoptions = (0..32).map(|n| {
        let asked_by = Some(format!("client {n}"));
        running.manifest.record_adopted(NewRecord { asked_by, ..fact(1) })
    });
    for entry in futures_util::future::try_join_all(adoptions).await.unwrap() {
        assert_eq!(*entry, Entry::of(&fact(1)));
    }
    // Evicted, it is recorded anew.
    running.manifest.record(NewRecord { what: What::Evicted, ..fact(1) }).await.unwrap();
    running.manifest.record_adopted(fact(1)).await.unwrap();
    let whats: Vec<_> = chain(&running.stop().await).into_iter().map(|record| record.fact.what).collect();
    assert_eq!(whats, [What::Stored, What::Evicted, What::Stored]);
}

#[tokio::test]
async fn nobody_waits_for_the_head_and_at_the_stop_it_names_the_last_record() {
    let running = start();
    let key = Key::head(running.manifest.writer().as_str());
    let slow = running.store.hold_write("manifest/heads/");
    for n in 0..3 {
        running.manifest.record_stored(fact(n)).await.unwrap();
    }
    assert!(running.store.keys("manifest/heads/").is_empty());
    slow.notify_one();
    let store = running.stop().await;
    let last = store.object(store.keys("manifest/log/").last().unwrap());
    let line = last.strip_suffix(b"\n").unwrap();
    let head: serde_json::Value = serde_json::from_slice(&store.object(key.as_str())).unwrap();
    assert_eq!((head["seq"].as_u64(), head["sha256"].as_str()), (Some(3), Some(&*Sha256::of(line).to_string())));
}

#[tokio::test]
async fn a_head_that_cannot_be_written_disturbs_nobody() {
    let running = start();
    running.store.next_write("manifest/heads/", Fate::Fails(ErrorKind::PermissionDenied));
    running.manifest.record_stored(fact(1)).await.unwrap();
    let store = running.stop().await;
    assert_eq!((chain(&store).len(), store.keys("manifest/heads/").len()), (1, 0));
}

/// What another process left whose clock was so many seconds ahead: a stored file, and its head.
fn stored_by_a_clock_ahead(store: &MemoryStore, seconds: i64) -> OffsetDateTime {
    store.plant_record("0", seconds, fact(1));
    let log = store.object(Key::log("0", 1).as_str());
    let record: Record = serde_json::from_slice(&log).unwrap();
    let head = serde_json::json!({
        "schema": 1, "writer": "0", "seq": 1, "sha256": Sha256::of(&log),
        "time": record.time.format(&time::format_description::well_known::Rfc3339).unwrap(),
    });
    store.plant(Key::head("0").as_str(), head.to_string());
    record.time
}

#[tokio::test]
async fn what_is_recorded_after_the_clock_was_set_back_is_newer_all_the_same() {
    let running = start();
    let ahead = stored_by_a_clock_ahead(&running.store, 3600);
    for _ in 0..2 {
        running.manifest.record(NewRecord { what: What::Evicted, ..fact(1) }).await.unwrap();
    }
    let store = running.stop().await;
    store.uproot(Key::log("0", 1).as_str());
    let records = chain(&store);
    assert!(records.len() == 2 && records.iter().all(|record| record.time > ahead), "{records:?}");
    let head = store.object(Key::head(records[0].writer.as_str()).as_str());
    let head: serde_json::Value = serde_json::from_slice(&head).unwrap();
    // The next process goes on from there.
    assert!(head["time"].is_string(), "{head}");
}

#[tokio::test]
async fn a_clock_that_was_days_ahead_is_not_followed() {
    let running = start();
    let ahead = stored_by_a_clock_ahead(&running.store, 3 * 86_400);
    running.manifest.record_stored(fact(2)).await.unwrap();
    let store = running.stop().await;
    store.uproot(Key::log("0", 1).as_str());
    assert!(chain(&store)[0].time < ahead - time::Duration::DAY);
}
