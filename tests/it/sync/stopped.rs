//! What stops a sync in the middle: a kill, a signal, a disk or a bucket that is full. Nothing is half done, and the
//! next run fetches the rest.

use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr},
};

use super::*;

/// A sync of [`big`] that has fetched its small files and stands in the middle of the large one, and what it says.
async fn stalled(hub: &Standin, root: &Path) -> (Child, Lines<BufReader<ChildStderr>>) {
    let stall = FaultKind::StallAfter { bytes: 4_000_000, ms: None };
    hub.fault(Fault::new(stall).path("acme/big/model.safetensors").origin(Origin::Cdn));
    let mut command = tokio::process::Command::from(sync(root, &["--repo", "acme/big"]));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    for _ in 0..6 {
        let line = lines.next_line().await.unwrap().unwrap();
        assert!(line.contains("fetched"), "{line}");
    }
    (child, lines)
}

#[tokio::test]
async fn killed_in_the_middle_only_what_is_missing_is_fetched_by_the_next_run() {
    let hub = Standin::builder().repo(big()).start().await;
    let root = set_up(&hub, "");
    let (mut child, _) = stalled(&hub, root.path()).await;
    child.kill().await.unwrap();
    hub.clear_faults();
    hub.reset_counters();
    let again = synced(root.path(), &["--repo", "acme/big"]).await;
    assert_eq!(again.code, 0, "{}{}", again.said, again.complaints);
    assert!(again.said.contains("fetched 1 file (24.0 MiB), already here 6 files"), "{}", again.said);
    assert_eq!(hub.counters().file_bytes("acme/big/part-*"), 0);
    assert_eq!(hub.counters().file_bytes("acme/big/model.safetensors"), BIG);
    all_is_well(root.path()).await;
}

#[tokio::test]
async fn told_to_stop_it_ends_at_once_with_a_word_and_leaves_nothing_half_done() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let hub = Standin::builder().repo(big()).start().await;
        let root = set_up(&hub, "");
        let (mut child, mut lines) = stalled(&hub, root.path()).await;
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
        let mut rest = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            rest.push_str(&line);
        }
        assert_eq!(child.wait().await.unwrap().code(), Some(1), "{rest}");
        assert!(rest.contains("interrupted; what is stored stays"), "{rest}");
        assert!(!root.path().join("data").exists());
        let staged: Vec<_> = contents(&root.path().join("store/.staging")).into_iter().collect();
        assert!(staged.is_empty(), "{staged:?}");
        all_is_well(root.path()).await;
    }
}

/// Two runs: in the first there is no room for blobs (a line of `said` says so), in the second there is.
fn full_and_then_not(full: &Ran, says: &str, then: &Ran) {
    assert_eq!(full.code, 1, "{}{}", full.said, full.complaints);
    assert!(full.said.contains("  failed    model.safetensors: ") && full.said.contains(says), "{}", full.said);
    assert!(full.said.contains("refused or not whole: acme/big@main"), "{}", full.said);
    assert_eq!(then.code, 0, "{}{}", then.said, then.complaints);
    assert!(then.said.contains("fetched 1 file (24.0 MiB), already here 6 files"), "{}", then.said);
}

#[tokio::test]
async fn where_the_disk_is_full_it_says_so_keeps_what_is_whole_and_the_next_run_fetches_the_rest() {
    let hub = Standin::builder().repo(big()).start().await;
    let root = set_up(&hub, "");
    // No file may grow past 4 MiB, which the file system says as it says that it is full.
    let limited = "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\"";
    let usual = sync(root.path(), &["--repo", "acme/big"]);
    let mut command = Command::new("sh");
    command.args(["-c", limited]).arg(usual.get_program()).args(usual.get_args()).current_dir(root.path()).env_clear();
    let full = run(command).await;
    all_is_well(root.path()).await;
    let staged: Vec<_> = contents(&root.path().join("store/.staging")).into_iter().collect();
    assert!(staged.is_empty(), "{staged:?}");
    let then = run(usual).await;
    let why = "model.safetensors: no room for another transfer: the file system of store.local.path (";
    full_and_then_not(&full, why, &then);
    all_is_well(root.path()).await;
}

#[tokio::test]
async fn where_the_bucket_is_full_it_says_so_and_the_next_run_fetches_the_rest() {
    let hub = Standin::builder().repo(big()).start().await;
    let s3 = S3sServer::start().await;
    let spool = tempfile::tempdir().unwrap();
    let root = set_up(&hub, &s3.lines(spool.path()));
    let arguments = ["--repo", "acme/big"];
    assert_eq!(synced(root.path(), &[&arguments[..], &["--exclude", "*.safetensors"]].concat()).await.code, 0);
    s3.fill_up(true);
    let full = synced(root.path(), &arguments).await;
    s3.fill_up(false);
    all_is_well(root.path()).await;
    assert_eq!((s3.uploads(), s3.large_files()), (0, 0), "nothing is half there");
    let then = synced(root.path(), &arguments).await;
    full_and_then_not(&full, "the bucket (store.s3.bucket) or its server is full", &then);
    all_is_well(root.path()).await;
}
