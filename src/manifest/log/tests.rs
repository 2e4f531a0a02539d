use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::{
    hub::Sha256,
    manifest::{
        Manifest,
        testing::{MemoryStore, fact},
    },
    store::Key,
};

/// A log of nine records in three objects of three.
async fn three_batches() -> (Arc<MemoryStore>, WriterId, Vec<String>) {
    let store = MemoryStore::new();
    let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let manifest = Manifest::start(store.clone(), WriterId::new(), &tracker, shutdown.clone());
    for batch in 0..3 {
        let three = (0..3).map(|n| manifest.record_stored(fact(batch * 3 + n)));
        futures_util::future::try_join_all(three).await.unwrap();
    }
    // Its head is written.
    shutdown.cancel();
    tracker.close();
    tracker.wait().await;
    let keys = store.keys("manifest/log/");
    assert_eq!(keys.len(), 3, "{keys:?}");
    (store, manifest.writer().clone(), keys)
}

async fn read(store: &MemoryStore) -> (Vec<u64>, Vec<LogFault>) {
    let (mut seqs, mut faults) = (Vec::new(), Vec::new());
    let mut items = log(store);
    while let Some(item) = items.next().await {
        match item.unwrap() {
            LogItem::Record(logged) => seqs.push(logged.record.seq),
            LogItem::Newer(_) => seqs.push(0),
            LogItem::Fault(fault) => faults.push(fault),
        }
    }
    (seqs, faults)
}

fn edit(store: &MemoryStore, key: &str, edit: impl Fn(String) -> String) {
    let text = String::from_utf8(store.object(key).to_vec()).unwrap();
    let edited = edit(text.clone());
    assert_ne!(text, edited);
    store.plant(key, edited);
}

#[tokio::test]
async fn chains_of_several_writers_are_read_in_order() {
    let (store, _, _) = three_batches().await;
    let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let other = Manifest::start(store.clone(), "zz".parse().unwrap(), &tracker, shutdown);
    other.record_stored(fact(1)).await.unwrap();
    assert_eq!(read(&store).await, (vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 1], vec![]));
}

#[tokio::test]
async fn an_altered_record_is_named() {
    let (store, writer, keys) = three_batches().await;
    edit(&store, &keys[1], |text| text.replace("file-4.bin", "file-X.bin"));
    let (seqs, faults) = read(&store).await;
    assert_eq!(seqs.len(), 9);
    assert_eq!(faults, [LogFault::Altered { writer, seq: 5 }]);
}

#[tokio::test]
async fn a_removed_batch_and_a_removed_record_are_named() {
    let (store, writer, keys) = three_batches().await;
    store.uproot(&keys[1]);
    edit(&store, &keys[2], |text| {
        text.split_inclusive('\n').enumerate().filter(|(n, _)| *n != 1).map(|l| l.1).collect()
    });
    let (seqs, faults) = read(&store).await;
    assert_eq!(seqs, [1, 2, 3, 7, 9]);
    let missing = |from, to| LogFault::Missing { writer: writer.clone(), from, to };
    assert_eq!(faults, [missing(4, 6), missing(8, 8)]);

    let (store, writer, keys) = three_batches().await;
    store.uproot(&keys[0]);
    assert_eq!(read(&store).await.1, [LogFault::Missing { writer, from: 1, to: 3 }]);
}

#[tokio::test]
async fn what_a_listing_leaves_out_is_read_all_the_same() {
    for left_out in [&[0][..], &[1], &[2], &[0, 1], &[1, 2], &[0, 1, 2]] {
        let (store, _, keys) = three_batches().await;
        for n in left_out {
            store.leave_out(&keys[*n]);
        }
        assert_eq!(read(&store).await, ((1..=9).collect(), vec![]), "{left_out:?}");
        // Before and behind the chains of others, too.
        for writer in ["00", "zz"] {
            let shutdown = CancellationToken::new();
            let other = Manifest::start(store.clone(), writer.parse().unwrap(), &TaskTracker::new(), shutdown);
            other.record_stored(fact(1)).await.unwrap();
        }
        let (mut seqs, faults) = read(&store).await;
        seqs.sort_unstable();
        assert_eq!((seqs, faults), (vec![1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9], vec![]), "{left_out:?}");
    }
}

#[tokio::test]
async fn what_is_neither_listed_nor_there_is_missing_and_what_stands_behind_it_is_read() {
    let (store, writer, keys) = three_batches().await;
    store.leave_out(&keys[1]);
    store.uproot(&keys[0]);
    let (seqs, faults) = read(&store).await;
    // Nothing names the second object once the first is gone.
    assert_eq!((seqs, faults), (vec![7, 8, 9], vec![LogFault::Missing { writer, from: 1, to: 6 }]));
}

#[tokio::test]
async fn an_altered_last_record_is_named() {
    let (store, writer, keys) = three_batches().await;
    edit(&store, &keys[2], |text| text.replace("file-8.bin", "file-X.bin"));
    assert_eq!(read(&store).await.1, [LogFault::Altered { writer, seq: 9 }]);
}

#[tokio::test]
async fn an_end_that_was_cut_off_is_named() {
    let missing = |writer: &WriterId, from| LogFault::Missing { writer: writer.clone(), from, to: 9 };
    let (store, writer, keys) = three_batches().await;
    edit(&store, &keys[2], |text| text.split_inclusive('\n').take(2).collect());
    assert_eq!(read(&store).await, ((1..=8).collect(), vec![missing(&writer, 9)]));

    store.uproot(&keys[2]);
    assert_eq!(read(&store).await, ((1..=6).collect(), vec![missing(&writer, 7)]));

    store.uproot(&keys[1]);
    store.uproot(&keys[0]);
    // Beside a chain that is whole.
    let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let other = Manifest::start(store.clone(), "zz".parse().unwrap(), &tracker, shutdown);
    other.record_stored(fact(1)).await.unwrap();
    assert_eq!(read(&store).await, (vec![1], vec![missing(&writer, 1)]));
}

#[tokio::test]
async fn a_head_that_lags_is_no_fault_and_one_that_is_none_is_named() {
    let (store, writer, keys) = three_batches().await;
    let head = Key::head(writer.as_str());
    let sixth = store.object(&keys[1]);
    let digest = Sha256::of(sixth.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap());
    store.plant(head.as_str(), format!(r#"{{"schema":1,"writer":"{writer}","seq":6,"sha256":"{digest}"}}"#));
    assert_eq!(read(&store).await, ((1..=9).collect(), vec![]));
    store.plant(head.as_str(), format!(r#"{{"schema":2,"writer":"{writer}","seq":7,"sha256":"{digest}"}}"#));
    assert_eq!(read(&store).await.1, []);

    for broken in ["", "{}", &format!(r#"{{"schema":1,"writer":"zz","seq":6,"sha256":"{digest}"}}"#)] {
        store.plant(head.as_str(), broken.to_owned());
        let (seqs, faults) = read(&store).await;
        assert_eq!(seqs.len(), 9);
        let [LogFault::Misplaced { key, .. }] = &faults[..] else { panic!("{broken}: {faults:?}") };
        assert_eq!(key, head.as_str());
    }
}

#[tokio::test]
async fn records_in_another_order_or_place_are_named() {
    let (store, _, keys) = three_batches().await;
    edit(&store, &keys[0], |text| text.split_inclusive('\n').rev().collect());
    assert!(!read(&store).await.1.is_empty());

    let (store, writer, keys) = three_batches().await;
    store.plant(&format!("manifest/log/{writer}/00000000000000000010.jsonl"), store.object(&keys[2]));
    store.plant("manifest/log/stray", "");
    store.plant("manifest/log/other/00000000000000000001.jsonl", store.object(&keys[0]));
    let (seqs, faults) = read(&store).await;
    assert_eq!(seqs.len(), 9);
    assert!(faults.iter().all(|fault| matches!(fault, LogFault::Misplaced { .. })), "{faults:?}");
    assert_eq!(faults.len(), 3 + 1 + 3);
}

#[tokio::test]
async fn text_that_is_no_record_is_named_by_line_and_the_rest_is_read() {
    let (store, _, keys) = three_batches().await;
    edit(&store, &keys[1], |text| text.replacen("{\"schema\"", "\"schema\"", 1));
    store.plant(&keys[2], "");
    let (seqs, faults) = read(&store).await;
    assert_eq!(seqs, [1, 2, 3, 5, 6]);
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(matches!(&faults[0], LogFault::Unparsable { key, line: 1, .. } if *key == keys[1]), "{faults:?}");
    assert!(matches!(&faults[1], LogFault::Misplaced { key, .. } if *key == keys[2]), "{faults:?}");
}

#[tokio::test]
async fn records_of_a_later_version_are_kept_in_their_chain() {
    let (store, _, keys) = three_batches().await;
    edit(&store, &keys[2], |text| text.replace("{\"schema\":1", "{\"schema\":2,\"mood\":true"));
    let (seqs, faults) = read(&store).await;
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6, 0, 0, 0]);
    // Changed by this test, so the links within the object and that of the head are broken.
    assert_eq!(faults.len(), 3, "{faults:?}");
}
