//! What readers get, and when: nothing wrong that is whole, and no last byte before the record.

use super::*;

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
async fn the_mark_stands_before_the_first_byte_goes_out_and_without_it_none_does() {
    for in_the_way in [false, true] {
        let bench = Bench::new(20 * MIB, [], Some(Arc::new(Semaphore::new(8)))).await;
        if in_the_way {
            std::fs::write(bench.dir.path().join("store/tainted"), "not a folder").unwrap();
        }
        let fill = bench.begin().await;
        let first = reader(&fill, 0..MIB as u64, Reading::Slice).into_body().await;
        assert_eq!(first.is_err(), in_the_way);
        if !in_the_way {
            assert!(is_tainted(&*bench.store, &bench.sha256()).await.unwrap());
        }
    }
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
