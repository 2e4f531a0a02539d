//! What policy refuses while it is on its way.

use super::*;
use crate::hub::Commit;

const WITHOUT_THE_FIRST: &str = r#"
[licenses]
allow = ["mit"]

[[allow]]
repo = "other/name"
"#;

const NOTHING: &str = "[licenses]\nallow = [\"mit\"]\n";

#[tokio::test(start_paused = true)]
async fn a_fill_ends_when_what_it_is_for_is_withdrawn() {
    let gate = Arc::new(Semaphore::new(40));
    let bench = Bench::new(20 * MIB, [], Some(gate.clone())).await;
    let fill = bench.begin().await;
    let reading = tokio::spawn(read(reader(&fill, 0..20 * MIB as u64, Reading::Sequential)));
    prefix(&fill, 10 * MIB as u64).await;
    bench.change_policy(NOTHING);
    // The origin sends no more, so that nothing but the look at policy can end it.
    assert!(matches!(fill.ended().await, FillEnd::Denied(_)));
    assert!(reading.await.unwrap().1, "the reader was not broken off");
    gate.add_permits(1000);
    assert!(!bench.is_recorded("a.bin").await);
    assert!(bench.store.head(&Key::blob(&bench.sha256())).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn of_two_files_with_one_content_the_one_that_is_withdrawn_is_not_recorded_and_the_other_is() {
    let gate = Arc::new(Semaphore::new(40));
    let bench = Bench::new(20 * MIB, [], Some(gate.clone())).await;
    let size = 20 * MIB as u64;
    let fill = bench.begin().await;
    assert!(matches!(bench.fills.join(bench.order_of("other/name", "b.bin")).await.unwrap(), Joined::Live(_)));
    let of = |repo, path| Reader::new(&fill, file(repo, path), 0..size, Reading::Sequential, "client".into());
    let (first, other) = (tokio::spawn(read(of("org/name", "a.bin"))), tokio::spawn(read(of("other/name", "b.bin"))));
    prefix(&fill, 10 * MIB as u64).await;
    bench.change_policy(WITHOUT_THE_FIRST);
    gate.add_permits(1000);
    let (bytes, broke) = other.await.unwrap();
    assert!(!broke && bytes == bench.script.content);
    let (bytes, broke) = first.await.unwrap();
    assert!(broke && bytes.len() < bench.script.content.len(), "{}", bytes.len());
    assert!(!bench.is_recorded("a.bin").await);
    assert!(bench.is_recorded_of(&Repo::new(RepoKind::Model, "other/name").unwrap(), "b.bin").await);
    // Who was allowed by the policy before that joins no fill, live or not.
    let FillEnd::Stored(_) = fill.ended().await else { panic!("not stored") };
}

#[tokio::test]
async fn who_was_let_in_by_an_earlier_policy_joins_nothing() {
    let bench = Bench::new(20 * MIB, [], Some(Arc::new(Semaphore::new(0)))).await;
    let order = bench.order();
    let Joined::Begun(_) = bench.fills.join(bench.order_of("other/name", "b.bin")).await.unwrap() else {
        panic!("not begun")
    };
    bench.change_policy(WITHOUT_THE_FIRST);
    assert!(matches!(bench.fills.join(order).await, Err(Error::Denied(_))));
}

#[tokio::test]
async fn the_record_names_the_policy_that_was_in_force_at_the_end() {
    let gate = Arc::new(Semaphore::new(0));
    let bench = Bench::new(9 * MIB, [], Some(gate.clone())).await;
    let fill = bench.begin().await;
    bench.change_policy(&format!("{POLICY}\n# reviewed again\n"));
    gate.add_permits(1000);
    assert!(matches!(fill.ended().await, FillEnd::Stored(_)));
    let key = Key::policy(&bench.policy.current().digest());
    assert!(bench.store.head(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn content_that_is_announced_with_two_sizes_is_not_shared() {
    let bench = Bench::new(20 * MIB, [], Some(Arc::new(Semaphore::new(0)))).await;
    let _fill = bench.begin().await;
    let lie = bench.order_of("other/name", "b.bin");
    let lie = Order { size: 1000, record: NewRecord { size: 1000, ..lie.record }, ..lie };
    assert!(matches!(bench.fills.join(lie).await, Err(Error::Insane(text)) if text.contains("1000 bytes")));
    let commit: Commit = "c".repeat(40).parse().unwrap();
    assert!(bench.manifest.entry(&repo(), commit, &"b.bin".parse().unwrap()).await.unwrap().is_none());
}
