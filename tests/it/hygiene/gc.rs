//! gc: blobs that nothing names, leftovers, jobs that are over.

use std::{fs, path::Path, time::Duration};

use bytes::Bytes;
use http::Method;
use hub_standin::Standin;
use hubgate::{
    housekeeping::gc,
    hub::Sha256,
    store::{self, Key, LocalConfig, PutMode, SpoolConfig, Store, StoreConfig},
};
use serde_json::{Value, json as body};

use super::*;
use crate::support::{
    gateway::{TestGateway, eventually},
    process::set_up,
    s3::S3sServer,
};

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
    assert!(code == 1 && complaint.contains("`hubgate verify --repair` mends it"), "{complaint}");
    assert!(old.exists());

    // An entry that a crash prevented: the log names the blob.
    fs::remove_file(&entry).unwrap();
    age_blobs(&store, 30 * DAY);
    assert_eq!(json(root.path(), &["gc"], 0)["waiting"], 0);
    fs::write(&entry, good).unwrap();
    assert_eq!(json(root.path(), &["gc", "--apply"], 0)["bytes"], 15);
}

#[tokio::test]
async fn gc_says_what_it_removed_though_it_fails_afterwards() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    let store = root.path().join("store");
    fetched(root.path(), &[TINY]).await;
    let old = plant(&store, b"left by a crash", 8 * DAY);
    assert_eq!(ran(root.path(), &["gc"]).0, 0);
    age_look(&store, Duration::from_hours(2));
    // A job that has been over for long, and that nobody can read.
    let job = store.join(Key::job(&"0".repeat(32), "request.json").as_str());
    fs::create_dir_all(job.parent().unwrap()).unwrap();
    fs::write(&job, vec![b' '; 5 << 20]).unwrap();
    set_age(&job, 8 * DAY);

    let (code, said, complaint) = ran(root.path(), &["gc", "--apply", "--json"]);
    assert!(code == 1 && complaint.contains(job.file_name().unwrap().to_str().unwrap()), "{complaint}");
    assert!(!old.exists());
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["blobs"][0]["sha256"], Sha256::of(b"left by a crash").to_string());
    fs::remove_file(&job).unwrap();
    json(root.path(), &["gc", "--apply"], 0);
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
    let spool = tempfile::tempdir().unwrap();
    let root = set_up(&hub, &server.lines(spool.path()));
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

/// Every file below a folder, so old.
fn age_all(folder: &Path, age: Duration) {
    for path in files_below(folder) {
        set_age(&path, age);
    }
}

#[tokio::test]
async fn gc_removes_jobs_that_were_over_a_week_ago_and_they_can_be_asked_for_anew() {
    let hub = Standin::builder().fixtures().start().await;
    let sha256 = Sha256::of(b"hg_otto");
    let admins = format!("auth.admins = [{{ name = \"otto\", token_sha256 = \"{sha256}\", scopes = [\"operate\"] }}]");
    let root = set_up(&hub, &admins);
    let store = root.path().join("store");
    let asked = async |process: &Process, repo: &str| {
        let (headers, body) = ([("authorization", "Bearer hg_otto")], body!({"repo": repo}).to_string());
        let headers = [headers[0], ("content-type", "application/json")];
        let answer = process.client.send(Method::POST, "/-/admin/v1/preseed", &headers, body.into()).await.unwrap();
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    let shown = async |process: &Process, id: &str| {
        let headers = [("authorization", "Bearer hg_otto")];
        let path = format!("/-/admin/v1/preseed/{id}");
        process.client.send(Method::GET, &path, &headers, Bytes::new()).await.unwrap().json()
    };
    let ended = async |process: &Process, id: &str, state: &str| {
        eventually(&format!("{id} is {state}"), async || shown(process, id).await["state"] == state).await;
    };
    let stopped = async |mut process: Process| {
        process.signal(rustix::process::Signal::TERM);
        assert!(process.ended().await.success(), "{}", process.log());
    };

    let process = Process::start(root.path()).await;
    let (done, failed) = (asked(&process, "acme/tiny").await, asked(&process, "acme/absent").await);
    ended(&process, &done, "done").await;
    ended(&process, &failed, "failed").await;
    stopped(process).await;
    // One that nobody takes up waits, however long.
    let idle = Process::run(hubgate(root.path(), &["--set", "jobs.concurrency=0", "serve"])).await;
    let waiting = asked(&idle, "acme/nested").await;
    stopped(idle).await;
    let folder = |id: &str| store.join("jobs").join(id);
    age_all(&folder(&done), 8 * DAY);
    age_all(&folder(&failed), 6 * DAY);
    age_all(&folder(&waiting), 80 * DAY);

    let before = files_below(&store.join("jobs"));
    let (code, said, _) = ran(root.path(), &["gc"]);
    assert!(code == 0 && said.contains("1 jobs that have been over for seven days to be removed"), "{said}");
    assert!(said.contains(&format!("job {done}  acme/tiny@main  over since ")), "{said}");
    assert_eq!(files_below(&store.join("jobs")), before, "only said");
    let report = json(root.path(), &["gc", "--apply"], 0);
    assert_eq!(report["expired_jobs"][0]["id"], done, "{report}");
    assert_eq!(
        (report["expired_jobs"].as_array().unwrap().len(), &report["expired_jobs"][0]["state"]),
        (1, &"done".into())
    );
    assert!(files_below(&folder(&done)).is_empty());
    assert!(!files_below(&folder(&failed)).is_empty() && !files_below(&folder(&waiting)).is_empty());
    assert_eq!(json(root.path(), &["gc", "--apply"], 0)["expired_jobs"], body!([]));

    // What a removal that was broken off has left is no part of the next job of the same name, and goes too.
    fs::create_dir_all(folder(&done)).unwrap();
    fs::write(folder(&done).join("cancelled-1.json"), "{}").unwrap();
    let process = Process::start(root.path()).await;
    assert_eq!(asked(&process, "acme/tiny").await, done);
    ended(&process, &done, "done").await;
    stopped(process).await;
    fs::remove_file(folder(&done).join("request.json")).unwrap();
    age_all(&folder(&done), 8 * DAY);
    assert_eq!(json(root.path(), &["gc", "--apply"], 0)["expired_jobs"], body!([]));
    assert!(files_below(&folder(&done)).is_empty());
}

#[tokio::test]
async fn gc_counts_what_dead_writers_left_before_it_removes_it() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    let dead = root.path().join("store/.staging/dead");
    fs::create_dir_all(&dead).unwrap();
    fs::write(root.path().join("store/layout.json"), "{\"layout\":1}").unwrap();
    for name in ["lock", "half", "another"] {
        fs::write(dead.join(name), "half").unwrap();
    }
    age_all(&dead, 2 * DAY);
    let report = json(root.path(), &["gc"], 0);
    assert_eq!((&report["applied"], &report["leftovers"]), (&false.into(), &2.into()), "{report}");
    assert!(dead.join("half").exists());
    assert_eq!(json(root.path(), &["gc", "--apply"], 0)["leftovers"], 2);
    assert!(!dead.exists());
}
