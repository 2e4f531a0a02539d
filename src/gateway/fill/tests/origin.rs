//! An origin that fails, stands still or lies about a size: what is here is kept, and nobody stalls the others.

use std::time::Duration;

use super::*;
use crate::upstream::ErrorKind;

#[tokio::test(start_paused = true)]
async fn what_is_here_when_the_origin_stays_away_is_kept_for_the_next_reader() {
    let refused = ErrorKind::ProxyAuth { schemes: Vec::new() };
    let bench = Bench::new(20 * MIB, [Act::Cut(10 * MIB as u64), Act::Fail(refused)], None).await;
    let size = 20 * MIB as u64;
    let fill = bench.begin().await;
    let (bytes, broke) = read(reader(&fill, 0..size, Reading::Sequential)).await;
    assert!(broke && bytes.len() <= 10 * MIB);
    assert!(fill.end().is_none(), "all that was fetched was thrown away");
    // Another comes back for it, much later.
    tokio::time::sleep(DROP_AFTER / 2).await;
    let Joined::Live(fill) = bench.fills.join(bench.order()).await.unwrap() else { panic!("not live") };
    let (bytes, broke) = read(reader(&fill, 0..size, Reading::Sequential)).await;
    assert!(!broke && bytes == bench.script.content);
    assert_eq!(bench.script.sent.load(Ordering::SeqCst), size, "no byte crosses twice");
}

#[tokio::test(start_paused = true)]
async fn what_fails_where_it_was_begun_is_fetched_on_where_the_next_reader_asks_for_it() {
    let moved = || Act::Fail(ErrorKind::Moved(Repo::new(RepoKind::Model, "org/new").unwrap()));
    let bench = Bench::new(20 * MIB, [Act::Cut(10 * MIB as u64), moved(), moved(), moved()], None).await;
    let size = 20 * MIB as u64;
    let fill = bench.begin().await;
    assert!(read(reader(&fill, 0..size, Reading::Sequential)).await.1);
    let elsewhere = Script::new(bench.script.content.clone(), [], None);
    let order = Order { origin: Arc::new(elsewhere.clone()), ..bench.order() };
    let Joined::Live(fill) = bench.fills.join(order).await.unwrap() else { panic!("not live") };
    let (bytes, broke) = read(reader(&fill, 0..size, Reading::Sequential)).await;
    assert!(!broke && bytes == bench.script.content);
    assert_eq!(elsewhere.openings.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_client_is_known_to_have_what_it_was_given_from_the_start_and_no_slice() {
    let gate = Arc::new(Semaphore::new(40));
    let bench = Bench::new(20 * MIB, [], Some(gate.clone())).await;
    let (fill, key) = (bench.begin().await, bench.order().key);
    prefix(&fill, 2000).await;
    let knows = |until| {
        let clients: Vec<_> = fill.peek(|state| state.given_to.keys().cloned().collect());
        assert_eq!(clients.len(), 1);
        bench.fills.read_by(&key, &clients[0], until).is_some()
    };
    assert!(!read(reader(&fill, 1000..2000, Reading::Slice)).await.1);
    assert!(!knows(1) && !knows(2000));
    assert!(!read(reader(&fill, 0..1000, Reading::Slice)).await.1);
    assert!(knows(1000) && !knows(1001));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_comes_back_for_is_dropped_after_half_an_hour() {
    let refused = ErrorKind::ProxyAuth { schemes: Vec::new() };
    for acts in [vec![Act::Cut(10 * MIB as u64), Act::Fail(refused)], Vec::new()] {
        let paused = acts.is_empty();
        let bench = Bench::new(20 * MIB, acts, paused.then(|| Arc::new(Semaphore::new(40)))).await;
        let fill = bench.begin().await;
        let begun = tokio::time::Instant::now();
        assert!(matches!(fill.ended().await, FillEnd::Abandoned));
        assert!(begun.elapsed() >= DROP_AFTER && begun.elapsed() < 2 * DROP_AFTER, "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_fill_that_waits_for_its_origin_gives_way_when_nobody_reads() {
    let config = FillConfig { max_live: 1, ..FillConfig::default() };
    for act in [Act::Hang, Act::Fail(ErrorKind::RateLimited { retry_after: Duration::from_mins(9) })] {
        let bench = Bench::with(10 * MIB, [act], None, config.clone()).await;
        let fill = bench.begin().await;
        tokio::time::sleep(PAUSE_AFTER + Duration::from_secs(1)).await;
        bench.fills.give_up_paused();
        let end = tokio::time::timeout(Duration::from_secs(1), fill.ended()).await;
        assert!(matches!(end, Ok(FillEnd::Abandoned)), "{end:?}");
    }
}

#[tokio::test]
async fn an_extra_request_that_hangs_holds_nobody_up() {
    let gate = Arc::new(Semaphore::new(1));
    let bench = Bench::new(40 * MIB, [Act::Honest, Act::Hang], Some(gate.clone())).await;
    let size = 40 * MIB as u64;
    let fill = bench.begin().await;
    prefix(&fill, 1).await;
    let slice = 20 * MIB as u64..21 * MIB as u64;
    let slice = tokio::spawn(read(reader(&fill, slice, Reading::Slice)));
    while bench.script.openings.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(1000);
    let (bytes, broke) = read(reader(&fill, 0..size, Reading::Sequential)).await;
    assert!(!broke && bytes == bench.script.content);
    assert!(slice.await.unwrap().0 == bench.script.content[20 * MIB..21 * MIB]);
    assert_eq!(bench.script.openings.lock().unwrap().len(), 2, "the main fetch went on through it");
}

#[tokio::test]
async fn a_fill_makes_four_extra_requests_at_most() {
    let gate = Arc::new(Semaphore::new(1));
    let bench = Bench::new(100 * MIB, [], Some(gate.clone())).await;
    let fill = bench.begin().await;
    prefix(&fill, 1).await;
    let slices: Vec<_> = (1..=8_u64)
        .map(|n| {
            let start = n * 10 * MIB as u64;
            tokio::spawn(read(reader(&fill, start..start + 1000, Reading::Slice)))
        })
        .collect();
    while bench.script.openings.lock().unwrap().len() < 5 {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.script.openings.lock().unwrap().len(), 5);
    gate.add_permits(10_000);
    for slice in slices {
        assert!(!slice.await.unwrap().1);
    }
}

#[tokio::test]
async fn a_size_that_is_wrong_is_slowed_down_for_those_who_state_it() {
    let bench = Bench::new(20 * MIB, [Act::Fail(ErrorKind::WrongSize("10 bytes".into()))], None).await;
    let fill = bench.begin().await;
    assert!(matches!(fill.ended().await, FillEnd::WrongSize(_)));
    while bench.fills.count() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(bench.fills.join(bench.order()).await, Err(Error::Busy { .. })));
    let honest = Order { size: 10, ..bench.order() };
    assert!(matches!(bench.fills.join(honest).await, Ok(Joined::Begun(_))), "another stated the right size");
}
