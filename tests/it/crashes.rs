//! The real program, killed and stopped: what is stored stays true (I3), and an answer under way ends well.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use hub_standin::{Fault, FaultKind, Origin, Standin};

use crate::{
    fills::big,
    support::{
        client::Client,
        gateway::eventually,
        process::{Process, hubgate, set_up},
        s3::S3sServer,
    },
};

const SIZE: u64 = 24 << 20;
const URL: &str = "/acme/big/resolve/main/model.safetensors";
const NAME: &str = "acme/big/model.safetensors";

/// Runs `hubgate verify`: its exit code and what it says.
fn verify(root: &Path, arguments: &[&str]) -> (i32, String) {
    let output = hubgate(root, &[&["verify"], arguments].concat()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// What a crash may leave is a record without its index entry, which `--repair` completes, or content without a
/// record, which the next fill of it takes up.
fn agrees(root: &Path, when: &str) {
    let (code, said) = verify(root, &["--repair"]);
    if code != 0 {
        assert!(said.contains("unrecorded blob") || said.contains("log record without index entry"), "{when}: {said}");
        assert!(!said.contains("missing") && !said.contains("altered"), "{when}: {said}");
        let (code, said) = verify(root, &[]);
        let is_content_alone = said.contains("unrecorded blob") && !said.contains("log record without index entry");
        assert!(code == 0 || is_content_alone, "{when}, after the repair: {said}");
    }
}

/// Nothing at all is amiss.
fn is_sound(root: &Path, when: &str) {
    let (code, said) = verify(root, &[]);
    assert_eq!(code, 0, "{when}: {said}");
}

fn files_below(dir: PathBuf) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(path)) } else { files.push(path) }
    }
    files
}

#[tokio::test]
async fn killed_at_any_moment_of_a_fill_store_and_manifest_agree_and_the_file_is_served_after() {
    survives_kills(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_of_a_fill_into_a_bucket_they_agree_as_well() {
    survives_kills(Some(&S3sServer::start().await)).await;
}

/// In a directory, or in a bucket in which what came before is still there.
async fn survives_kills(server: Option<&S3sServer>) {
    // How many bytes the client has when the process dies; the last time right after the end.
    for given in [0, 1, 8_000_000, 23_000_000, usize::try_from(SIZE).unwrap()] {
        let hub = Standin::builder().repo(big(SIZE)).start().await;
        let spool = tempfile::tempdir().unwrap();
        let store = server.map(|server| server.lines(spool.path())).unwrap_or_default();
        let root = set_up(&hub, &store);
        let process = Process::start(root.path()).await;
        if given < 20_000_000 {
            let stall = FaultKind::StallAfter { bytes: given as u64 + 1_000_000, ms: None };
            hub.fault(Fault::new(stall).path(NAME).origin(Origin::Cdn));
        }
        let mut download = process.client.begin(URL, &[]).await.unwrap();
        assert_eq!(download.status, 200);
        let prefix = download.read(given).await;
        assert!(prefix.len() >= given);
        process.kill().await;
        hub.clear_faults();

        agrees(root.path(), &format!("killed with {given} bytes out"));
        let process = Process::start(root.path()).await;
        let expected = hub.bytes("acme/big", "main", "model.safetensors");
        // The client resumes with what it has: it ends with the right file.
        if !prefix.is_empty() && prefix.len() < expected.len() {
            let url = format!("/acme/big/resolve/{}/model.safetensors", hub.commit("acme/big", "main"));
            let range = format!("bytes={}-", prefix.len());
            let rest = process.client.get_with(&url, &[("range", &range)]).await.unwrap();
            let whole = if rest.status == 206 { [&prefix[..], &rest.body[..]].concat() } else { rest.body.to_vec() };
            assert!(whole == expected, "{given}: {}", rest.status);
        }
        let answer = process.client.get(URL).await.unwrap();
        assert!(answer.status == 200 && answer.body == expected, "{given}: {}", answer.status);
        process.kill().await;
        is_sound(root.path(), "killed after an answer");
        hub.stop().await;
        let process = Process::start(root.path()).await;
        assert!(process.client.get(URL).await.unwrap().body == expected, "{given}: not served with the Hub gone");
    }
}

#[tokio::test]
async fn an_entry_whose_blob_is_gone_or_short_is_fetched_again_with_an_alarm() {
    for harm in ["deleted", "cut short"] {
        let hub = Standin::builder().repo(big(SIZE)).start().await;
        let root = set_up(&hub, "");
        let process = Process::start(root.path()).await;
        let expected = hub.bytes("acme/big", "main", "model.safetensors");
        assert!(process.client.get(URL).await.unwrap().body == expected);
        process.kill().await;
        let blob = files_below(root.path().join("store/blobs"))
            .into_iter()
            .find(|file| file.metadata().unwrap().len() == SIZE)
            .unwrap();
        std::fs::remove_file(&blob).unwrap();
        if harm == "cut short" {
            std::fs::write(&blob, &expected[..1000]).unwrap();
        }
        let (code, said) = verify(root.path(), &[]);
        assert_eq!(code, 1, "{harm}: {said}");
        let process = Process::start(root.path()).await;
        let range = format!("bytes={}-", SIZE - 10);
        let tail = process.client.get_with(URL, &[("range", &range)]).await.unwrap();
        assert!(tail.status.is_success(), "{harm}: {} {}", tail.status, tail.text());
        let answer = process.client.get(URL).await.unwrap();
        assert!(answer.status == 200 && answer.body == expected, "{harm}: {}", answer.status);
        assert!(process.log().contains("alarm"), "{harm}: {}", process.log());
        let (code, said) = verify(root.path(), &[]);
        assert_eq!(code, 0, "{harm}: {said}");
    }
}

#[tokio::test]
async fn told_to_stop_during_a_fill_it_finishes_the_answer_and_ends_with_0() {
    let hub = Standin::builder().repo(big(SIZE)).start().await;
    let root = set_up(&hub, "");
    let mut process = Process::start(root.path()).await;
    let stall =
        hub.fault(Fault::new(FaultKind::StallAfter { bytes: 2_000_000, ms: None }).path(NAME).origin(Origin::Cdn));
    let mut download = process.client.begin(URL, &[]).await.unwrap();
    let first = download.read(1000).await;
    process.signal(rustix::process::Signal::TERM);
    eventually("new connections are refused", async || {
        let endpoint = Client::new(process.client.endpoint());
        endpoint.get("/-/livez").await.is_err()
    })
    .await;
    hub.clear_fault(stall);
    let (rest, broke) = download.rest().await;
    assert!(!broke && [first, rest].concat() == hub.bytes("acme/big", "main", "model.safetensors"));
    let status = process.ended().await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
    let (code, said) = verify(root.path(), &[]);
    assert_eq!(code, 0, "{said}");
}

#[tokio::test]
async fn told_to_stop_it_waits_for_a_slow_client() {
    // More than the sockets' buffers hold.
    const LARGE: u64 = 100 << 20;
    let hub = Standin::builder().repo(big(LARGE)).start().await;
    let root = set_up(&hub, "");
    let mut process = Process::start(root.path()).await;
    let expected = hub.bytes("acme/big", "main", "model.safetensors");
    assert!(process.client.get(URL).await.unwrap().body == expected);
    let mut download = process.client.begin(URL, &[]).await.unwrap();
    let first = download.read(1000).await;
    process.signal(rustix::process::Signal::TERM);
    eventually("it is stopping", async || process.log().contains("stopping")).await;
    eventually("new connections are refused", async || {
        Client::new(process.client.endpoint()).get("/-/livez").await.is_err()
    })
    .await;
    let (rest, broke) = download.rest().await;
    assert!(!broke && [first, rest].concat() == expected);
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let hub = Standin::builder().repo(big(SIZE)).start().await;
    let root = set_up(&hub, "");
    let mut process = Process::start(root.path()).await;
    hub.fault(Fault::new(FaultKind::StallAfter { bytes: 2_000_000, ms: None }).path(NAME).origin(Origin::Cdn));
    let mut download = process.client.begin(URL, &[]).await.unwrap();
    assert!(!download.read(1000).await.is_empty());
    process.signal(rustix::process::Signal::TERM);
    eventually("it is stopping", async || process.log().contains("stopping")).await;
    assert!(process.child.try_wait().unwrap().is_none(), "it waits for the answer under way");
    process.signal(rustix::process::Signal::TERM);
    let status = process.ended().await;
    assert_eq!(status.code(), Some(1), "{}", process.log());
    let (_, broke) = download.rest().await;
    assert!(broke, "a client must see that its file did not come whole");
}

#[tokio::test]
async fn what_is_set_up_wrongly_is_named_with_file_key_value_and_remedy() {
    let hub = Standin::builder().start().await;
    for (more, said) in [
        ("upstream.proxi = \"http://p\"", ["config.toml", "proxi"]),
        ("upstream.ref_ttl = \"soon\"", ["upstream.ref_ttl", "soon"]),
        ("fill.max_live = -1", ["fill.max_live", "-1"]),
        ("upstream.connections = 1", ["upstream.connections", "at least 2"]),
        ("nonsense", ["config.toml", "line"]),
    ] {
        let root = set_up(&hub, more);
        fails_to_start(root.path(), &said);
    }
    let root = set_up(&hub, "");
    std::fs::write(root.path().join("policy/policy.toml"), "[[allow]]\nname = \"a\"\nrepos = \"x/*\"\n").unwrap();
    fails_to_start(root.path(), &["policy.toml", "repos", "3"]);
    std::fs::write(root.path().join("policy/policy.toml"), "[[allow]]\nname = \"a\"\nrepo = \"x/*\"\npin = \"12\"\n")
        .unwrap();
    fails_to_start(root.path(), &["policy.toml", "pin", "12"]);
}

pub(crate) fn fails_to_start(root: &Path, said: &[&str]) {
    let mut child = hubgate(root, &["serve"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut complaints = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        complaints.read_to_string(&mut text).unwrap();
        text
    });
    let started = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if started.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = reader.join().unwrap();
    let status = status.unwrap_or_else(|| panic!("it started, although {said:?} should have kept it: {text}"));
    assert_eq!(status.code(), Some(2), "{text}");
    for said in said {
        assert!(text.contains(said), "{said:?} is not said: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}
