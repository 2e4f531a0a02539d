//! What is removed and what never is: gc, eviction, and what an auditor asks of the manifest, by the real program.

mod audit;
mod evict;
mod gc;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use hub_standin::{Content, NewCommit, RepoBuilder, Standin};
use hubgate::{hub::Sha256, store::Key};
use serde_json::Value;

use crate::support::process::{Process, hubgate};

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

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// A model of four megabytes.
fn model(name: &str, seed: u64) -> RepoBuilder {
    let card = "---\nlicense: mit\n---\n";
    RepoBuilder::model(format!("acme/{name}").as_str()).commit(
        NewCommit::new("one").file("README.md", card).lfs("model.safetensors", Content::generated(4_000_000, seed)),
    )
}

/// A model of six megabytes.
fn large() -> RepoBuilder {
    let card = "---\nlicense: mit\n---\n";
    RepoBuilder::model("acme/large").commit(
        NewCommit::new("one").file("README.md", card).lfs("model.safetensors", Content::generated(6_000_000, 9)),
    )
}

fn url(name: &str) -> String {
    format!("/acme/{name}/resolve/main/model.safetensors")
}

async fn models() -> Standin {
    let models = [("a", 1), ("b", 2), ("c", 3), ("d", 4)].into_iter();
    models.fold(Standin::builder(), |hub, (name, seed)| hub.repo(model(name, seed))).repo(large()).start().await
}

fn weights(hub: &Standin, name: &str) -> Vec<u8> {
    hub.bytes(format!("acme/{name}").as_str(), "main", "model.safetensors")
}

fn is_stored(root: &Path, hub: &Standin, name: &str) -> bool {
    blob(&root.join("store"), &weights(hub, name)).exists()
}
