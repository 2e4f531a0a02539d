use std::os::unix::fs::FileExt as _;

use super::*;

fn config(path: &Path) -> LocalConfig {
    LocalConfig { path: path.to_owned() }
}

async fn store_in(path: &Path) -> LocalStore {
    LocalStore::create(&config(path), "test").await.unwrap()
}

fn staged_files(root: &Path) -> usize {
    Walk::below(&root.join(".staging"), &Prefix::all())
        .filter(|file| !file.as_ref().unwrap().key.as_str().ends_with("lock"))
        .count()
}

/// Makes everything in a dead process's staging folder a day and a minute old.
fn age(folder: &Path) {
    let then = std::time::SystemTime::now() - LEFTOVERS_AFTER - Duration::from_mins(1);
    for file in fs::read_dir(folder).unwrap() {
        File::options().write(true).open(file.unwrap().path()).unwrap().set_modified(then).unwrap();
    }
}

#[tokio::test]
async fn a_dropped_stage_gives_its_room_back_and_a_dropped_store_its_folder() {
    let root = tempfile::tempdir().unwrap();
    let store = store_in(root.path()).await;
    let stage = store.stage(1 << 20, None).await.unwrap();
    assert_eq!(staged_files(root.path()), 1);
    drop(store);
    assert_eq!(staged_files(root.path()), 1, "a stage outlives the store's handle");
    drop(stage);
    assert_eq!(fs::read_dir(root.path().join(".staging")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_staging_file_has_its_room_from_the_start() {
    use std::os::unix::fs::MetadataExt as _;
    let root = tempfile::tempdir().unwrap();
    let store = store_in(root.path()).await;
    let stage = store.stage(5 << 20, None).await.unwrap();
    let metadata = stage.file().metadata().unwrap();
    assert_eq!(metadata.len(), 5 << 20);
    assert!(metadata.blocks() * 512 >= 5 << 20, "{} blocks", metadata.blocks());
}

#[tokio::test]
async fn what_can_never_fit_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let store = store_in(root.path()).await;
    let Err(error) = store.stage(1 << 60, None).await else { panic!("an exabyte fitted") };
    assert!(matches!(&error.kind, ErrorKind::Full(limit) if limit.contains("store.local.path")), "{error:?}");
    assert_eq!(staged_files(root.path()), 0);
}

#[tokio::test]
async fn a_blob_is_read_only() {
    let root = tempfile::tempdir().unwrap();
    let store = store_in(root.path()).await;
    let stage = store.stage(3, None).await.unwrap();
    stage.file().write_all_at(b"abc", 0).unwrap();
    let sha256 = Sha256::of(b"abc");
    stage.commit(sha256).await.unwrap();
    let path = root.path().join(Key::blob(&sha256).as_str());
    assert!(fs::metadata(path).unwrap().permissions().readonly());
    assert_eq!(staged_files(root.path()), 0);
}

#[tokio::test]
async fn a_file_that_was_cut_behind_our_back_does_not_become_a_blob() {
    let root = tempfile::tempdir().unwrap();
    let store = store_in(root.path()).await;
    let stage = store.stage(3, None).await.unwrap();
    stage.file().set_len(2).unwrap();
    let error = stage.commit(Sha256::of(b"abc")).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Corrupt(_)), "{error:?}");
    assert!(store.head(&Key::blob(&Sha256::of(b"abc"))).await.unwrap().is_none());
}

#[tokio::test]
async fn sweeping_takes_old_leftovers_of_the_dead_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let all = root.path().join(".staging");
    for dead in ["dead", "just-died"] {
        fs::create_dir_all(all.join(dead)).unwrap();
        fs::write(all.join(dead).join("lock"), "").unwrap();
        fs::write(all.join(dead).join("file"), "half").unwrap();
    }
    age(&all.join("dead"));
    let live = store_in(root.path()).await;
    let stage = live.stage(10, None).await.unwrap();
    let names = fs::read_dir(&all).unwrap().map(|folder| folder.unwrap().path());
    let of_the_living: Vec<_> =
        names.filter(|path| path.file_name().unwrap().to_str().unwrap().contains("test.")).collect();
    age(&of_the_living[0]);

    let sweeper = store_in(root.path()).await;
    assert_eq!(sweeper.sweep(false).await.unwrap(), 1);
    assert!(all.join("dead").join("file").exists(), "only counted");
    assert_eq!(sweeper.sweep(true).await.unwrap(), 1);
    assert!(!all.join("dead").exists());
    assert!(all.join("just-died").join("file").exists());
    stage.file().write_all_at(b"still here", 0).unwrap();
    stage.commit(Sha256::of(b"still here")).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named_with_its_key() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let error = LocalStore::create(&config(&file.join("store")), "test").await.unwrap_err();
    assert!(matches!(&error.kind, ErrorKind::Misconfigured(what) if what.contains("store.local.path")), "{error:?}");
}

#[tokio::test]
async fn a_key_never_leaves_the_directory_nor_names_the_staging_files() {
    let root = tempfile::tempdir().unwrap();
    let store = store_in(root.path()).await;
    for text in
        ["../x", "//etc/passwd", "/../x", "/a/../../x", "a//b", "", "/", "a/./b", ".staging/x", "/.staging/x", "a\0b"]
    {
        let key = Key::listed(text);
        assert!(store.head(&key).await.is_err(), "{text:?}");
        assert!(store.put(&key, Bytes::new(), PutMode::Create).await.is_err(), "{text:?}");
    }
    // A published copy's key counts from the top of this directory, not of the machine.
    store.put(&Key::listed("/etc/passwd"), Bytes::new(), PutMode::Create).await.unwrap();
    assert!(root.path().join("etc/passwd").is_file());
}

#[tokio::test]
async fn create_only_holds_where_the_kernel_has_no_such_rename() {
    let root = tempfile::tempdir().unwrap();
    let (from, to) = (root.path().join("from"), root.path().join("to"));
    fs::write(&from, "new").unwrap();
    fs::write(&to, "old").unwrap();
    assert_eq!(rename_new(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::hard_link(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&to).unwrap(), b"old");
}

#[tokio::test]
async fn every_kind_of_write_makes_its_whole_way_durable_even_through_folders_of_others() {
    let root = tempfile::tempdir().unwrap();
    let store = store_in(root.path()).await;
    let blob = Key::blob(&Sha256::of(b"blob"));
    let log = Key::log("w", 1);
    let way = |key: &Key| store.root.join(key.as_str()).parent().unwrap().to_owned();
    for key in [&blob, &log] {
        fs::create_dir_all(way(key)).unwrap();
        assert!(!store.folders.is_durable(&way(key)));
    }
    let stage = store.stage(4, None).await.unwrap();
    stage.file().write_all_at(b"blob", 0).unwrap();
    stage.commit(Sha256::of(b"blob")).await.unwrap();
    assert!(store.folders.is_durable(&way(&blob)));

    // What is kept is answered for too: another process may have been killed before its sync.
    fs::write(store.root.join(log.as_str()), "record").unwrap();
    assert_eq!(store.put(&log, "record".into(), PutMode::Create).await.unwrap(), PutOutcome::Existed);
    assert!(store.folders.is_durable(&way(&log)));
}

#[test]
fn a_process_starts_while_another_sweeps() {
    let root = tempfile::tempdir().unwrap();
    let sweeper = Staging::take(root.path(), "sweeper").unwrap();
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| (0..300).try_for_each(|_| Staging::take(root.path(), "new").map(drop)));
        while !starting.is_finished() {
            sweeper.sweep(LEFTOVERS_AFTER, true).unwrap();
        }
        starting.join().unwrap().unwrap();
    });
}
