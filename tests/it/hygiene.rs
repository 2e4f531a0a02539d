//! What is removed and what never is: gc, eviction, and what an auditor asks of the manifest, by the real program.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use hub_standin::{Content, NewCommit, RepoBuilder, Standin};
use hubgate::{
    housekeeping::gc,
    hub::Sha256,
    store::{self, Key, LocalConfig, PutMode, SpoolConfig, Store, StoreConfig},
};
use serde_json::Value;

use crate::support::{
    gateway::{POLICY, Setup, TestGateway},
    process::{Process, hubgate, set_up},
    s3::S3sServer,
};

const DAY: Duration = Duration::from_hours(24);
const TINY: &str = "/acme/tiny/resolve/main/model.safetensors";

/// Exit code, standard output, standard error.
fn ran(root: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = hubgate(root, arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// The JSON of a command that ends with this exit code.
fn json(root: &Path, arguments: &[&str], expected: i32) -> Value {
    let (code, said, complaint) = ran(root, &[arguments, &["--json"]].concat());
    assert_eq!(code, expected, "{arguments:?}: {said}{complaint}");
    serde_json::from_str(&said).unwrap()
}

/// Serves, asks for these, and stops.
async fn fetched(root: &Path, paths: &[&str]) {
    let mut process = Process::start(root).await;
    for path in paths {
        let answer = process.client.get(path).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}\n{}", answer.text(), process.log());
    }
    process.signal(rustix::process::Signal::TERM);
    assert!(process.ended().await.success(), "{}", process.log());
}

fn blob(store: &Path, content: &[u8]) -> PathBuf {
    store.join(Key::blob(&Sha256::of(content)).as_str())
}

/// A blob without a record, as a crash leaves it.
fn plant(store: &Path, content: &[u8], age: Duration) -> PathBuf {
    let path = blob(store, content);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    set_age(&path, age);
    path
}

fn set_age(path: &Path, age: Duration) {
    File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

/// Makes all blobs so old.
fn age_blobs(store: &Path, age: Duration) {
    for folder in fs::read_dir(store.join("blobs/sha256")).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            set_age(&file.unwrap().path(), age);
        }
    }
}

/// Moves what gc saw at its first look into the past.
fn age_look(store: &Path, by: Duration) {
    let path = store.join("usage/gc-candidates.json");
    let mut look: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for seen in look["blobs"].as_object_mut().unwrap().values_mut() {
        let then = humantime::parse_rfc3339(seen.as_str().unwrap()).unwrap() - by;
        *seen = humantime::format_rfc3339_micros(then).to_string().into();
    }
    fs::remove_file(&path).unwrap();
    fs::write(&path, look.to_string()).unwrap();
}

#[tokio::test]
async fn gc_removes_what_nothing_named_at_two_looks_an_hour_apart_and_nothing_else() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    let store = root.path().join("store");
    fetched(root.path(), &[TINY]).await;
    age_blobs(&store, 30 * DAY);
    let (old, young) = (plant(&store, b"left by a crash", 8 * DAY), plant(&store, b"just written", 6 * DAY));

    // The first look removes nothing, whatever was asked.
    let (code, said, _) = ran(root.path(), &["gc", "--apply"]);
    assert!(
        code == 0 && said.contains("1 more (15 bytes) were not seen so an hour ago; look again after 20"),
        "{said}"
    );
    age_look(&store, Duration::from_mins(59));
    let report = json(root.path(), &["gc", "--apply"], 0);
    assert!(report["blobs"] == serde_json::json!([]) && report["waiting"] == 1 && report["young"] == 1, "{report}");
    assert!(old.exists());

    // The second says what would go, and then it goes.
    age_look(&store, Duration::from_mins(2));
    let (code, said, _) = ran(root.path(), &["gc"]);
    assert!(code == 0 && said.contains("1 blobs that nothing names to be removed: 15 bytes"), "{said}");
    assert!(old.exists() && said.contains("nothing was removed; --apply does"), "{said}");
    let report = json(root.path(), &["gc", "--apply"], 0);
    assert!(report["applied"] == true && report["bytes"] == 15, "{report}");
    assert_eq!(report["blobs"][0]["sha256"], Sha256::of(b"left by a crash").to_string());
    assert!(!old.exists() && young.exists());

    // What is recorded is as old, and is all there.
    fs::remove_file(young).unwrap();
    let (code, said, _) = ran(root.path(), &["verify"]);
    assert!(code == 0 && said.contains("all is well"), "{said}");
    assert_eq!(json(root.path(), &["gc"], 0)["waiting"], 0);
}

#[tokio::test]
async fn gc_is_alone_in_a_directory_and_says_so() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    let mut process = Process::start(root.path()).await;
    let (code, _, complaint) = ran(root.path(), &["gc", "--apply"]);
    assert!(code == 1 && complaint.contains("other hubgate processes use"), "{complaint}");
    assert_eq!(ran(root.path(), &["gc"]).0, 0, "a look is fine beside it");
    assert_eq!(process.client.get(TINY).await.unwrap().status, 200, "and serving goes on");
    process.signal(rustix::process::Signal::TERM);
    process.ended().await;
    assert_eq!(ran(root.path(), &["gc", "--apply"]).0, 0);

    // While it is alone nobody else comes in.
    let alone = open(&root.path().join("store")).await;
    alone.take_alone().await.unwrap();
    let (code, _, complaint) = ran(root.path(), &["verify"]);
    assert!(code == 1 && complaint.contains("for itself; start again when it has ended"), "{complaint}");
    drop(alone);
    assert_eq!(ran(root.path(), &["verify"]).0, 0);
}

#[tokio::test]
async fn gc_removes_nothing_when_it_cannot_tell_what_is_needed() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    let store = root.path().join("store");
    fetched(root.path(), &[TINY]).await;
    let old = plant(&store, b"left by a crash", 8 * DAY);
    assert_eq!(ran(root.path(), &["gc"]).0, 0);
    age_look(&store, Duration::from_hours(2));

    let look = store.join("usage/gc-candidates.json");
    let good = fs::read(&look).unwrap();
    fs::remove_file(&look).unwrap();
    fs::write(&look, "nonsense").unwrap();
    let (code, _, complaint) = ran(root.path(), &["gc", "--apply"]);
    assert!(code == 1 && complaint.contains("usage/gc-candidates.json: not a look of `hubgate gc`"), "{complaint}");
    fs::write(&look, good).unwrap();

    let entry = files_below(&store.join("manifest/index")).remove(0);
    let good = fs::read(&entry).unwrap();
    fs::remove_file(&entry).unwrap();
    fs::write(&entry, "{}").unwrap();
    let (code, _, complaint) = ran(root.path(), &["gc", "--apply"]);
    assert!(code == 1 && complaint.contains("run `hubgate verify --repair` first"), "{complaint}");
    assert!(old.exists());

    // An entry that a crash prevented: the log names the blob.
    fs::remove_file(&entry).unwrap();
    age_blobs(&store, 30 * DAY);
    assert_eq!(json(root.path(), &["gc"], 0)["waiting"], 0);
    fs::write(&entry, good).unwrap();
    assert_eq!(json(root.path(), &["gc", "--apply"], 0)["bytes"], 15);
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

async fn open(path: &Path) -> std::sync::Arc<dyn Store> {
    let config = StoreConfig { local: LocalConfig { path: path.into() }, ..StoreConfig::default() };
    store::build(&config, &SpoolConfig::default(), "test").await.unwrap()
}

/// As beside a gateway on a bucket, where nobody is alone: the blob is due for removal when a fill brings it.
#[tokio::test]
async fn gc_between_a_fills_blob_and_its_record_loses_no_file() {
    use std::os::unix::fs::FileExt as _;
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    let content = b"unrecorded, old, and wanted again";
    let path = plant(root.path(), content, 8 * DAY);
    gc::run(&*store, false).await.unwrap();
    age_look(root.path(), Duration::from_hours(2));
    assert_eq!(gc::run(&*store, false).await.unwrap().blobs.len(), 1, "due");

    let stage = store.stage(content.len() as u64, Some(Sha256::of(content))).await.unwrap();
    stage.file().write_all_at(content, 0).unwrap();
    stage.commit(Sha256::of(content)).await.unwrap();
    let found = gc::run(&*store, true).await.unwrap();
    assert!(found.blobs.is_empty() && found.young == 1, "{found:?}");
    assert!(path.exists());

    // Who records it as it is claims it first.
    set_age(&path, 8 * DAY);
    gc::run(&*store, false).await.unwrap();
    age_look(root.path(), Duration::from_hours(2));
    store.put(&Key::claim(&Sha256::of(content)), Bytes::new(), PutMode::Overwrite).await.unwrap();
    let found = gc::run(&*store, true).await.unwrap();
    assert!(found.spared == 1 && path.exists(), "{found:?}");
    // A claim that was not followed by a record holds for a day.
    set_age(&root.path().join(Key::claim(&Sha256::of(content)).as_str()), 2 * DAY);
    age_look(root.path(), Duration::from_hours(2));
    gc::run(&*store, false).await.unwrap();
    age_look(root.path(), Duration::from_hours(2));
    assert_eq!(gc::run(&*store, true).await.unwrap().blobs.len(), 1);
    assert!(!path.exists() && !root.path().join(Key::claim(&Sha256::of(content)).as_str()).exists());
}

#[tokio::test]
async fn an_old_unrecorded_blob_that_is_asked_for_is_recorded_claimed_and_kept() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = TestGateway::before(&hub).await;
    let store = gate.root.path().join("store");
    let content = hub.bytes("acme/tiny", "main", "model.safetensors");
    let path = plant(&store, &content, 8 * DAY);
    gc::run(&*gate.store, false).await.unwrap();
    age_look(&store, Duration::from_hours(2));
    assert_eq!(gate.get(TINY).await.body, content);
    assert_eq!(hub.counters().file_bytes("acme/tiny/model.safetensors"), 0, "it was here");
    assert!(store.join(Key::claim(&Sha256::of(&content)).as_str()).exists());
    assert!(gc::run(&*gate.store, true).await.unwrap().blobs.is_empty());
    assert!(path.exists());
}

#[tokio::test]
async fn gc_on_a_bucket_works_beside_a_gateway() {
    let hub = Standin::builder().fixtures().start().await;
    let server = S3sServer::start().await;
    let s3 = server.config();
    let spool = tempfile::tempdir().unwrap();
    let root = set_up(
        &hub,
        &format!(
            "store.kind = \"s3\"\nstore.s3.endpoint = {:?}\nstore.s3.bucket = {:?}\nstore.s3.prefix = {:?}\n\
             store.s3.access_key = \"test-key\"\nstore.s3.secret_key = \"test-secret\"\nspool.dir = \"{}\"",
            s3.endpoint.unwrap(),
            s3.bucket,
            s3.prefix,
            spool.path().display(),
        ),
    );
    let process = Process::start(root.path()).await;
    let content = process.client.get(TINY).await.unwrap().body;
    age_blobs(&server.folder(), 30 * DAY);
    let old = plant(&server.folder(), b"left by a crash", 8 * DAY);
    assert_eq!(async_json(root.path(), &["gc", "--apply"]).await["waiting"], 1);
    age_look(&server.folder(), Duration::from_hours(2));
    assert_eq!(async_json(root.path(), &["gc", "--apply"]).await["bytes"], 15);
    assert!(!old.exists() && blob(&server.folder(), &content).exists());
    assert_eq!(process.client.get(TINY).await.unwrap().body, content);
}

/// The same where a server in this process must answer meanwhile.
async fn async_json(root: &Path, arguments: &[&str]) -> Value {
    let (root, arguments) = (root.to_owned(), arguments.iter().map(ToString::to_string).collect::<Vec<_>>());
    let json = move || json(&root, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), 0);
    tokio::task::spawn_blocking(json).await.unwrap()
}

/// A model of four megabytes.
fn model(name: &str, seed: u64) -> RepoBuilder {
    let card = "---\nlicense: mit\n---\n";
    RepoBuilder::model(format!("acme/{name}").as_str()).commit(
        NewCommit::new("one").file("README.md", card).lfs("model.safetensors", Content::generated(4_000_000, seed)),
    )
}

fn url(name: &str) -> String {
    format!("/acme/{name}/resolve/main/model.safetensors")
}

async fn models() -> Standin {
    Standin::builder().repo(model("a", 1)).repo(model("b", 2)).repo(model("c", 3)).repo(model("d", 4)).start().await
}

fn weights(hub: &Standin, name: &str) -> Vec<u8> {
    hub.bytes(format!("acme/{name}").as_str(), "main", "model.safetensors")
}

fn is_stored(root: &Path, hub: &Standin, name: &str) -> bool {
    blob(&root.join("store"), &weights(hub, name)).exists()
}

#[tokio::test]
async fn past_store_max_size_what_was_served_longest_ago_is_evicted_recorded_and_fetched_again() {
    let hub = models().await;
    let root = set_up(&hub, "store.max_size = \"10MB\"");
    let process = Process::start(root.path()).await;
    let get = async |name: &str| {
        let answer = process.client.get(&url(name)).await.unwrap();
        assert_eq!(answer.status, 200, "{name}: {}\n{}", answer.text(), process.log());
        assert_eq!(answer.body, weights(&hub, name));
    };
    get("a").await;
    get("b").await;
    get("a").await;
    // It does not fit: the one that was read longest ago goes, though it came later.
    get("c").await;
    let stored = |name: &str| is_stored(root.path(), &hub, name);
    assert!(stored("a") && !stored("b") && stored("c"), "{}", process.log());
    let fetched_before = hub.counters().file_bytes("acme/b/model.safetensors");
    get("b").await;
    assert_eq!(hub.counters().file_bytes("acme/b/model.safetensors"), 2 * fetched_before);
    let mut process = process;
    process.signal(rustix::process::Signal::TERM);
    assert!(process.ended().await.success());

    let (_, history, _) = ran(root.path(), &["manifest", "export", "--history", "--repo", "acme/b"]);
    let column = |line: &str| line.split(',').nth(9).unwrap().to_owned();
    let what: Vec<_> = history.lines().skip(1).filter(|line| line.contains("model.safetensors")).map(column).collect();
    assert_eq!(what, ["stored", "evicted", "stored"], "{history}");
    assert!(history.contains("store.max_size"), "{history}");
    let (code, said, _) = ran(root.path(), &["verify"]);
    assert!(code == 0 && said.contains("all is well"), "{said}");
    // What was served is in the store for the others.
    let notes: Vec<_> = files_below(&root.path().join("store/usage"));
    assert!(notes.len() == 1 && fs::read_to_string(&notes[0]).unwrap().contains("served"), "{notes:?}");
}

#[tokio::test]
async fn what_the_mirror_list_or_a_pin_names_is_never_evicted_and_what_does_not_fit_says_so() {
    let hub = models().await;
    let commit = hub.commit("acme/b", "main");
    let policy = format!(
        "{POLICY}\n[[allow]]\nname = \"pinned\"\nrepo = \"acme/b\"\npin = \"{commit}\"\n[[mirror]]\nrepo = \"acme/a\"\n"
    );
    let gate = Setup::new().policy(&policy).config("store.max_size = \"10MB\"").start(&hub).await;
    for name in ["a", "b"] {
        assert_eq!(gate.get(&url(name)).await.status, 200);
    }
    let refused = gate.get(&url("c")).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(!refused.header("retry-after").is_empty());
    let why = refused.header("x-error-message");
    assert!(why.contains("store.max_size is 9.5 MiB") && why.contains("pinned, locked, mirrored"), "{why}");
    for name in ["a", "b"] {
        assert!(is_stored(gate.root.path(), &hub, name), "{name}");
    }
    // One that can never fit is no matter of waiting.
    let root = gate.stop().await;
    let gate = Setup::new().config("store.max_size = \"3MB\"").on(&root).start(&hub).await;
    let refused = gate.head(&url("d")).await;
    assert!(
        refused.status == 403 && refused.header("x-error-message").contains("store.max_size"),
        "{:?}",
        refused.headers
    );
}

#[tokio::test]
async fn what_a_lock_names_is_never_evicted() {
    let hub = models().await;
    let root = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let lock = root.path().join("models.lock");
    fs::write(&lock, "version = 1\n").unwrap();
    let policy = format!("{POLICY}[[allow]]\nrepo = \"acme/a\"\n[[allow]]\nrepo = \"acme/b\"\n");
    let config = format!("store.max_size = \"10MB\"\npolicy.lock = \"{}\"", lock.display());
    let gate = Setup::new().policy(&policy).config(&config).on(&root).start(&hub).await;
    let at = root.path().to_owned();
    // It asks the stand-in, which runs on this thread.
    let (code, said, complaint) = tokio::task::spawn_blocking(move || ran(&at, &["lock"])).await.unwrap();
    assert!(code == 0 && said.contains("2 revisions locked"), "{said}{complaint}");
    gate.set_policy(&policy).unwrap();
    for name in ["a", "b"] {
        assert_eq!(gate.get(&url(name)).await.status, 200);
    }
    let refused = gate.get(&url("c")).await;
    assert!(refused.status == 503 && refused.header("x-error-message").contains("locked"), "{:?}", refused.headers);
    for name in ["a", "b"] {
        assert!(is_stored(gate.root.path(), &hub, name), "{name}");
    }
}

#[tokio::test]
async fn gc_evicts_on_demand_by_what_was_noted_and_twice_does_no_harm() {
    let hub = models().await;
    let root = set_up(&hub, "");
    let store = root.path().join("store");
    fetched(root.path(), &[&url("a"), &url("b"), &url("c")]).await;
    let (code, _, complaint) = ran(root.path(), &["gc", "--evict"]);
    assert!(code == 2 && complaint.contains("store.max_size is not set"), "{complaint}");

    // By the files' times a would go first; another replica has noted that it was served since.
    for (name, days) in [("a", 9), ("b", 8), ("c", 7)] {
        let content = weights(&hub, name);
        set_age(&blob(&store, &content), days * DAY);
    }
    let sha256 = Sha256::of(&hub.bytes("acme/a", "main", "model.safetensors"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    fs::create_dir_all(store.join("usage/other-replica")).unwrap();
    let note = format!("{{\"schema\":1,\"served\":{{\"{sha256}\":{now}}}}}");
    fs::write(store.join("usage/other-replica/2026-11-24.json"), note).unwrap();

    let bound = ["--set", "store.max_size=10MB"];
    let (code, said, _) = ran(root.path(), &[&bound[..], &["gc", "--evict"]].concat());
    assert!(code == 1 || code == 0, "{said}");
    assert!(said.contains("1 blobs to be evicted: 4000000 bytes") && said.contains("acme/b@"), "{said}");
    assert!(is_stored(root.path(), &hub, "b"));
    let report = json(root.path(), &[&bound[..], &["gc", "--apply", "--evict"]].concat(), 0);
    assert_eq!(report["evicted"]["bytes"], 4_000_000, "{report}");
    assert!(is_stored(root.path(), &hub, "a") && !is_stored(root.path(), &hub, "b"));
    let report = json(root.path(), &[&bound[..], &["gc", "--apply", "--evict"]].concat(), 0);
    assert_eq!(report["evicted"]["bytes"], 0, "{report}");
    assert_eq!(ran(root.path(), &["verify"]).0, 0);
    let (code, said, _) = ran(root.path(), &["manifest", "list"]);
    assert!(code == 0 && !said.contains("acme/b@") && said.contains("acme/a@"), "{said}");
}

#[tokio::test]
async fn verify_goes_on_after_an_interruption_or_looks_at_a_sample() {
    let hub = models().await;
    let root = set_up(&hub, "");
    let store = root.path().join("store");
    fetched(root.path(), &[&url("a"), &url("b"), &url("c")]).await;
    let blobs = files_below(&store.join("blobs"));
    let all = blobs.len();

    // As an interruption leaves it: all but one were found whole.
    let state = root.path().join("state");
    let mut text = format!("{{\"hubgate_verify\":1,\"store\":{:?}}}\n", store.display().to_string());
    for path in &blobs[1..] {
        let metadata = path.metadata().unwrap();
        let micros = metadata.modified().unwrap().duration_since(UNIX_EPOCH).unwrap().as_micros();
        let name = path.file_name().unwrap().to_str().unwrap();
        writeln!(text, "{name} {} {micros}", metadata.len()).unwrap();
    }
    fs::write(&state, &text).unwrap();
    let verify = ["verify", "--state", state.to_str().unwrap()];
    let report = json(root.path(), &verify, 0);
    assert!(report["blobs"] == 1 && report["blobs_not_hashed"] == all - 1, "{report}");
    assert!(!state.exists(), "the next one begins anew");
    assert_eq!(json(root.path(), &verify, 0)["blobs"], all);

    // What was changed since is hashed again.
    fs::write(&state, &text).unwrap();
    let content = fs::read(&blobs[1]).unwrap();
    fs::remove_file(&blobs[1]).unwrap();
    fs::write(&blobs[1], vec![b'x'; content.len()]).unwrap();
    assert_eq!(json(root.path(), &verify, 1)["counts"]["altered_blob"], 1);
    // A sample of all finds it, too; one of two hashes two.
    assert_eq!(json(root.path(), &["verify", "--sample", "1000"], 1)["counts"]["altered_blob"], 1);
    fs::remove_file(&blobs[1]).unwrap();
    fs::write(&blobs[1], content).unwrap();
    let report = json(root.path(), &["verify", "--sample", "2"], 0);
    assert!(report["blobs"] == 2 && report["blobs_not_hashed"] == all - 2, "{report}");

    fs::write(&state, "precious").unwrap();
    let (code, _, complaint) = ran(root.path(), &verify);
    assert!(code == 2 && complaint.contains("remove it or name another file"), "{complaint}");
    assert_eq!(fs::read_to_string(&state).unwrap(), "precious");
    assert_eq!(ran(root.path(), &["verify", "--sample", "0"]).0, 2);
}

#[tokio::test]
async fn an_auditor_filters_the_manifest_and_sees_a_changed_record() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    let table = "/datasets/acme/table/resolve/main/README.md";
    fetched(root.path(), &[TINY, "/acme/nested/resolve/main/config.json", table]).await;
    let rows = |more: &[&str]| {
        let (code, said, complaint) = ran(root.path(), &[&["manifest", "export"], more].concat());
        assert_eq!(code, 0, "{more:?}: {complaint}");
        said.lines().skip(1).map(|line| line.split(',').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(rows(&[]).len(), 3);
    assert_eq!(rows(&["--repo", "acme/*"]).len(), 2);
    assert_eq!(rows(&["--repo", "datasets/acme/table"]), ["datasets/acme/table"]);
    assert_eq!(rows(&["--license", "mit"]), ["acme/nested"]);
    assert_eq!(rows(&["--license", "mit", "--repo", "acme/tiny"]).len(), 0);
    assert_eq!(rows(&["--since", "2999-01-01"]).len(), 0);
    assert_eq!(rows(&["--since", "2020-01-01", "--until", "2999-01-01T00:00:00Z"]).len(), 3);
    assert_eq!(ran(root.path(), &["manifest", "export", "--since", "yesterday"]).0, 2);
    assert_eq!(ran(root.path(), &["manifest", "export", "--repo", "[x"]).0, 2);

    let log = files_below(&root.path().join("store/manifest/log"));
    let text = fs::read_to_string(&log[0]).unwrap();
    fs::remove_file(&log[0]).unwrap();
    fs::write(&log[0], text.replacen("apache-2.0", "mit-0-0000", 1)).unwrap();
    let (code, said, _) = ran(root.path(), &["verify"]);
    assert!(
        code == 1 && said.contains("altered log record: log of ") && said.contains("record 1 was altered"),
        "{said}"
    );
    fs::remove_file(&log[0]).unwrap();
    let (code, said, _) = ran(root.path(), &["verify"]);
    assert!(
        code == 1 && said.contains("missing log record: log of ") && said.contains("record 1 is missing"),
        "{said}"
    );
}
