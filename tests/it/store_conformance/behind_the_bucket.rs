//! Cases that need to reach behind the server.

use super::*;
use crate::support::s3::Completion;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_a_dead_process_left_is_swept_by_its_intent() {
    let place = Place::s3s().await;
    let dead = place.open_as("dead").await;
    let bytes = noise(40 * MIB);
    let mut stage = dead.stage(bytes.len() as u64, Some(Sha256::of(&bytes))).await.unwrap();
    stage.file().write_all_at(&bytes, 0).unwrap();
    stage.advance(bytes.len() as u64).await.unwrap();
    // A process that is killed runs no destructor.
    std::mem::forget(stage);
    let sweeper = place.open().await;
    assert_eq!(names(&*sweeper, &Prefix::uploads()).await.len(), 1);
    assert_eq!(sweeper.sweep(true).await.unwrap(), 0, "it may be alive");
    place.server.as_ref().unwrap().age_uploads();
    assert_eq!(sweeper.sweep(false).await.unwrap(), 1);
    assert_eq!((place.server.as_ref().unwrap().uploads(), names(&*sweeper, &Prefix::uploads()).await.len()), (1, 1));
    assert_eq!(sweeper.sweep(true).await.unwrap(), 1);
    assert!(names(&*sweeper, &Prefix::all()).await.is_empty());
}

/// Stores a blob of several parts.
async fn store_large(store: &dyn Store) {
    let bytes = noise(40 * MIB);
    let key = store_blob(store, &bytes, Some(Sha256::of(&bytes))).await;
    assert!(read(store, &key, None).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_whose_beginning_was_lost_is_found_by_its_intent() {
    let place = Place::s3s().await;
    let server = place.server.as_ref().unwrap();
    let store = place.open().await;
    server.lose_beginnings(2);
    store_large(&*store).await;
    // Two that nobody knows the id of, with an intent each.
    assert_eq!((server.uploads(), names(&*store, &Prefix::uploads()).await.len()), (2, 2));
    server.age_uploads();
    // Where uploads are not listed, nobody can tell that nothing is left.
    assert_eq!(store.sweep(true).await.unwrap(), 0);
    assert_eq!((server.uploads(), names(&*store, &Prefix::uploads()).await.len()), (2, 2));
    server.list_uploads();
    assert_eq!(store.sweep(false).await.unwrap(), 2, "each is counted once");
    assert_eq!((server.uploads(), names(&*store, &Prefix::uploads()).await.len()), (2, 2));
    assert_eq!(store.sweep(true).await.unwrap(), 2);
    assert_eq!((server.uploads(), names(&*store, &Prefix::uploads()).await.len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_upload_leaves_no_intent() {
    let place = Place::s3s().await;
    let store = place.open().await;
    place.server.as_ref().unwrap().refuse_beginnings();
    let bytes = noise(20 * MIB);
    let mut stage = store.stage(bytes.len() as u64, Some(Sha256::of(&bytes))).await.unwrap();
    stage.file().write_all_at(&bytes, 0).unwrap();
    assert_eq!(stage.advance(bytes.len() as u64).await.unwrap_err().kind, ErrorKind::PermissionDenied);
    assert!(names(&*store, &Prefix::uploads()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_altered_on_its_way_without_tls_is_refused_and_sent_again() {
    let place = Place::s3s().await;
    let (store, server) = (place.open().await, place.server.as_ref().unwrap());
    let bytes = noise(40 * MIB);
    let sha256 = Sha256::of(&bytes);
    let staged = async || {
        let stage = store.stage(bytes.len() as u64, Some(sha256)).await.unwrap();
        stage.file().write_all_at(&bytes, 0).unwrap();
        stage
    };
    server.spoil_parts(99);
    assert_eq!(staged().await.commit(sha256).await.unwrap_err().kind, ErrorKind::Busy);
    assert!(store.head(&Key::blob(&sha256)).await.unwrap().is_none());
    server.spoil_parts(2);
    staged().await.commit(sha256).await.unwrap();
    assert!(read(&*store, &Key::blob(&sha256), None).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_upload_is_not_taken_for_one_whose_beginning_was_lost() {
    let place = Place::s3s().await;
    let server = place.server.as_ref().unwrap();
    let (store, other) = (place.open().await, place.open_as("other").await);
    let bytes = noise(40 * MIB);
    server.lose_beginnings(1);
    let mut stage = store.stage(bytes.len() as u64, Some(Sha256::of(&bytes))).await.unwrap();
    stage.file().write_all_at(&bytes, 0).unwrap();
    stage.advance(bytes.len() as u64).await.unwrap();
    // All old, as of an upload that goes on for days; only this process knows that it lives.
    server.age_uploads();
    server.list_uploads();
    assert_eq!(store.sweep(true).await.unwrap(), 1);
    assert_eq!(server.uploads(), 1);
    stage.commit(Sha256::of(&bytes)).await.unwrap();
    assert!(read(&*other, &Key::blob(&Sha256::of(&bytes)), None).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_upload_leaves_no_part_behind() {
    let place = Place::s3s().await;
    let store = place.open().await;
    let bytes = noise(80 * MIB);
    let mut stage = store.stage(bytes.len() as u64, Some(Sha256::of(&bytes))).await.unwrap();
    stage.file().write_all_at(&bytes, 0).unwrap();
    stage.advance(bytes.len() as u64).await.unwrap();
    drop(stage);
    // It waits for what is still being aborted.
    assert_eq!(store.sweep(true).await.unwrap(), 0);
    assert_eq!(place.server.as_ref().unwrap().large_files(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_the_server_cuts_is_continued_where_it_was() {
    let place = Place::s3s().await;
    let store = place.open().await;
    let bytes = noise(MIB);
    let key = store_blob(&*store, &bytes, None).await;
    // Every one of them makes progress, so their number has no bound.
    place.server.as_ref().unwrap().cut(7);
    assert!(read(&*store, &key, None).await.unwrap() == bytes);
    place.server.as_ref().unwrap().cut(2);
    assert!(read(&*store, &key, Some(5..900_001)).await.unwrap() == bytes[5..900_001]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_an_object_that_goes_away_ends_with_an_error() {
    let place = Place::s3s().await;
    let store = place.open().await;
    let bytes = noise(MIB);
    let key = store_blob(&*store, &bytes, None).await;
    place.server.as_ref().unwrap().cut(1);
    let mut body = store.open(&key, None).await.unwrap().unwrap().body;
    store.delete(&key).await.unwrap();
    let mut given = 0;
    let error = loop {
        match body.frame().await.unwrap() {
            Ok(frame) => given += frame.into_data().unwrap().len(),
            Err(error) => break error,
        }
    };
    // What the server still held when it broke off may be lost with the connection.
    assert!(given <= CUT_AFTER_BYTES, "{given} bytes");
    assert!(matches!(error.kind, ErrorKind::Corrupt(_)), "{error}");
}

async fn probe_of(config: S3Config) -> hubgate::store::Error {
    let spool = TempDir::new().unwrap();
    let spool_config = SpoolConfig { dir: spool.path().to_owned(), max_size: ByteSize::mib(1) };
    let store = StoreConfig { kind: StoreKind::S3, s3: config, ..StoreConfig::default() };
    build(&store, &spool_config, "test").await.unwrap().probe().await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_names_what_is_wrong() {
    let server = S3sServer::start().await;
    let no_one = "http://127.0.0.1:1".to_owned();
    let cases = [
        ("store.s3.bucket", S3Config { bucket: "nowhere".into(), ..server.config() }),
        ("store.s3.access_key", S3Config { access_key: Some("stranger".into()), ..server.config() }),
        ("store.s3.secret_key", S3Config { secret_key: Some("wrong".to_owned().into()), ..server.config() }),
        ("store: unreachable", S3Config { endpoint: Some(no_one), ..server.config() }),
    ];
    for (named, config) in cases {
        let error = probe_of(config).await;
        assert!(error.to_string().contains(named), "{named}: {error}: {:?}", error.source);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_the_server_forgot_is_a_copy_only_if_that_is_the_copy() {
    let place = Place::s3s().await;
    let (store, server) = (place.open().await, place.server.as_ref().unwrap());
    let key = Key::published(&place.copies(), &copied_repo(), None, &"w.bin".parse().unwrap());
    let (old, new) = (vec![1; 20 * MIB], vec![2; 20 * MIB]);
    for bytes in [&old, &new] {
        store_blob(&*store, bytes, Some(Sha256::of(bytes))).await;
    }
    // The answer was lost, and the copy is there.
    server.forget_upload(Completion::Done);
    assert_eq!(store.copy(&Sha256::of(&old), &key, &facts(&old)).await.unwrap(), Copied::Made);
    // Aborted by somebody, and what is there is another file of the same size.
    server.forget_upload(Completion::Aborted);
    store.copy(&Sha256::of(&new), &key, &facts(&new)).await.unwrap_err();
    assert!(read(&*store, &key, None).await.unwrap() == old);
    assert_eq!(store.copy(&Sha256::of(&new), &key, &facts(&new)).await.unwrap(), Copied::Made);
    assert!(read(&*store, &key, None).await.unwrap() == new);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_the_server_forgot_is_a_blob_only_if_it_made_that() {
    let place = Place::s3s().await;
    let (store, server) = (place.open().await, place.server.as_ref().unwrap());
    let bytes = noise(20 * MIB);
    let sha256 = Sha256::of(&bytes);
    let key = Key::blob(&sha256);
    let staged = async || {
        let stage = store.stage(bytes.len() as u64, Some(sha256)).await.unwrap();
        stage.file().write_all_at(&bytes, 0).unwrap();
        stage
    };
    // Aborted by somebody, and what is there is as long and has other bytes.
    let altered = Bytes::from(vec![7; 20 * MIB]);
    store.put(&key, altered.clone(), PutMode::Overwrite).await.unwrap();
    server.forget_upload(Completion::Aborted);
    let error = staged().await.commit(sha256).await.unwrap_err();
    assert!(error.to_string().contains(key.as_str()), "{error}");
    assert!(read(&*store, &key, None).await.unwrap() == altered);
    // The answer was lost, and the blob is there.
    server.forget_upload(Completion::Done);
    staged().await.commit(sha256).await.unwrap();
    assert!(read(&*store, &key, None).await.unwrap() == bytes);
    // Of an upload that was aborted, an earlier one's blob is no sign, though its bytes are right.
    server.forget_upload(Completion::Aborted);
    staged().await.commit(sha256).await.unwrap_err();
    assert!(read(&*store, &key, None).await.unwrap() == bytes);
}
