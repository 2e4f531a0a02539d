//! How the bytes come: once for all readers, resumed, paused, within limits.

use super::*;

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
    fill.unread_for(PAUSE_AFTER).await;
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
async fn a_paused_fill_gives_way_to_one_that_somebody_waits_for() {
    let gate = Arc::new(Semaphore::new(4));
    let config = FillConfig { max_live: 1, ..FillConfig::default() };
    let bench = Bench::with(10 * MIB, [], Some(gate), config).await;
    let paused = bench.begin().await;
    let other = Sha256::of(b"other");
    let order = || bench.order_for(BlobId::Sha256(other), FillKey::Sha256(other), "b.bin");
    assert!(matches!(bench.fills.join(order()).await, Err(Error::Busy { .. })), "it is not paused yet");
    paused.unread_for(PAUSE_AFTER).await;
    assert!(matches!(bench.fills.join(order()).await, Ok(Joined::Begun(_))));
    assert!(matches!(paused.ended().await, FillEnd::Abandoned));
}
