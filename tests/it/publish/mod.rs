//! The publish view and the hook, through the program: what workloads that read the directory themselves find.

mod hooks;
mod removal;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use hub_standin::{NewCommit, RepoBuilder, Standin};
use serde_json::Value;

use crate::support::{
    client::Client,
    gateway::{POLICY, eventually},
    process::{Process, hubgate, set_up},
};

const REPO: &str = "acme/move";
const PLACE: &str = "upstream.ref_ttl = \"0s\"\npublish.prefix = \"mirrors/hf\"";
const REPOS: &str = "publish.repos = [\"acme/move\"]";
const README: &str = "---\nlicense: apache-2.0\n---\n# Moves\n";

/// A model whose next commit is [`second`].
fn first() -> RepoBuilder {
    let commit = NewCommit::new("First").file("README.md", README).file("config.json", "{\"n\": 1}\n");
    let commit = commit.file("a", "a file\n").file("old/deep/er.txt", "old\n").file("x.pkl", "withheld\n");
    RepoBuilder::model(REPO).commit(commit.lfs("model.safetensors", vec![7; 100_000]))
}

/// Changes a file, removes one, and makes a folder of a file's name.
fn second() -> NewCommit {
    let commit = NewCommit::new("Second").file("config.json", "{\"n\": 2}\n").remove("old/deep/er.txt");
    commit.remove("a").file("a/b", "in a folder\n")
}

/// Fetches every file of `main` that policy shows.
async fn fetch_all(client: &Client) -> Vec<String> {
    let tree = client.get(&format!("/api/models/{REPO}/tree/main?recursive=true")).await.unwrap().json();
    let mut paths = Vec::new();
    for entry in tree.as_array().unwrap().iter().filter(|entry| entry["type"] == "file") {
        let path = entry["path"].as_str().unwrap();
        let answer = client.get(&format!("/{REPO}/resolve/main/{path}")).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        paths.push(path.to_owned());
    }
    paths
}

fn ran(root: &Path, arguments: &[&str]) -> (i32, String) {
    let output = hubgate(root, arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn copies(root: &Path) -> PathBuf {
    root.join("store/mirrors/hf").join(REPO)
}

/// All files below a folder, as paths relative to it.
fn names(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, top: &Path, names: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, top, names);
            } else {
                names.push(path.strip_prefix(top).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut names_found = Vec::new();
    walk(folder, folder, &mut names_found);
    names_found.sort();
    names_found
}

/// Checks that a folder is exactly the commit that its marker names, byte by byte.
fn is_commit(hub: &Standin, folder: &Path, commit: &str) {
    let marker: Value = serde_json::from_slice(&fs::read(folder.join(".hubgate-commit")).unwrap()).unwrap();
    assert_eq!((&marker["commit"], &marker["repo"]), (&commit.into(), &REPO.into()));
    let mut count = 0;
    for name in names(folder).iter().filter(|name| !name.starts_with('@') && *name != ".hubgate-commit") {
        assert_eq!(fs::read(folder.join(name)).unwrap(), hub.bytes(REPO, commit, name), "{name}");
        count += 1;
    }
    assert_eq!(marker["files"], count);
}

/// A gateway that has the whole first commit, running.
async fn world(hub: &Standin, more: &str) -> (tempfile::TempDir, Process) {
    let root = set_up(hub, &format!("{PLACE}\n{more}"));
    let process = Process::start(root.path()).await;
    fetch_all(&process.client).await;
    (root, process)
}

#[tokio::test]
async fn the_copies_are_one_commit_and_then_the_next() {
    let hub = Standin::builder().repo(first()).start().await;
    let root = set_up(&hub, &format!("{PLACE}\n{REPOS}\npublish.by_commit = true"));
    let process = Process::start(root.path()).await;
    let (code, said) = ran(root.path(), &["publish"]);
    assert!(code == 1 && said.contains("not stored yet"), "{said}");
    assert!(!copies(root.path()).exists());

    fetch_all(&process.client).await;
    let (code, said) = ran(root.path(), &["publish"]);
    assert_eq!(code, 0, "{said}");
    let (one, folder) = (hub.commit(REPO, "main"), copies(root.path()));
    is_commit(&hub, &folder, &one);
    is_commit(&hub, &folder.join(format!("@{one}")), &one);
    let plain: Vec<String> = names(&folder).into_iter().filter(|name| !name.starts_with('@')).collect();
    assert_eq!(plain, [".hubgate-commit", "README.md", "a", "config.json", "model.safetensors", "old/deep/er.txt"]);
    let weights = fs::metadata(folder.join("model.safetensors")).unwrap();
    assert_eq!(weights.permissions().mode() & 0o222, 0, "nobody may change what is also the store's");
    let csv = fs::read_to_string(root.path().join("store/mirrors/hf/manifest.csv")).unwrap();
    assert!(csv.starts_with("repo,revision,sha256,size,license,kind,commit,path\n"), "{csv}");
    let row = format!(
        "{REPO},main,{},100000,apache-2.0,model,{one},model.safetensors\n",
        hub.sha256(REPO, &one, "model.safetensors")
    );
    assert!(csv.contains(&row) && csv.lines().count() == 6, "{csv}");
    let (code, said) = ran(root.path(), &["publish", "--json", REPO]);
    let line: Value = serde_json::from_str(said.trim()).unwrap();
    assert_eq!((code, &line["outcome"], &line["commit"]), (0, &"unchanged".into(), &one.clone().into()), "{said}");

    hub.push(REPO, "main", second());
    let two = hub.commit(REPO, "main");
    fetch_all(&process.client).await;
    // The running gateway does it by itself, within a minute.
    let (code, said) = ran(root.path(), &["publish", REPO]);
    assert_eq!(code, 0, "{said}");
    is_commit(&hub, &folder, &two);
    let plain: Vec<String> = names(&folder).into_iter().filter(|name| !name.starts_with('@')).collect();
    assert_eq!(plain, [".hubgate-commit", "README.md", "a/b", "config.json", "model.safetensors"]);
    assert!(!folder.join("old").exists(), "no empty folder is left");
    assert_eq!(fs::metadata(folder.join("model.safetensors")).unwrap().ino(), weights.ino(), "not copied again");
    is_commit(&hub, &folder.join(format!("@{one}")), &one);
    is_commit(&hub, &folder.join(format!("@{two}")), &two);

    // The published files are not the store's own business.
    let (code, said) = ran(root.path(), &["verify"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = ran(root.path(), &["publish", "--unpublish", REPO]);
    assert_eq!(code, 0, "{said}");
    assert!(names(&folder).is_empty(), "{:?}", names(&folder));
    let csv = fs::read_to_string(root.path().join("store/mirrors/hf/manifest.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1, "{csv}");
    drop(process);
}

#[tokio::test]
async fn a_running_gateway_publishes_what_is_whole_and_removes_what_policy_refuses_now() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, REPOS).await;
    let folder = copies(root.path());
    let marker = folder.join(".hubgate-commit");
    // A changed policy is looked at sooner than the minute is over.
    let policy = root.path().join("policy/policy.toml");
    fs::write(&policy, format!("{POLICY}\n")).unwrap();
    eventually("published", async || marker.exists()).await;
    is_commit(&hub, &folder, &hub.commit(REPO, "main"));

    let ended = POLICY.replacen("repo = \"acme/*\"", "repo = \"acme/*\"\nexpires = \"2020-01-31\"", 1);
    fs::write(&policy, ended).unwrap();
    eventually("unpublished", async || names(&folder).is_empty()).await;
    let record = root.path().join("store/published/models/acme--move/current/record.json");
    eventually("recorded", async || fs::read_to_string(&record).unwrap().contains("\"unpublished\"")).await;
    let record: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    assert!(record["reason"].as_str().unwrap().contains("ended after 2020-01-31"), "{record}");

    let (code, said) = ran(root.path(), &["publish", REPO]);
    assert!(code == 1 && said.contains("ended after 2020-01-31"), "{said}");
    assert!(names(&folder).is_empty());
    drop(process);
}

#[tokio::test]
async fn what_was_interrupted_is_made_whole_and_two_publishers_do_no_harm() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, REPOS).await;
    process.kill().await;
    assert_eq!(ran(root.path(), &["publish"]).0, 0);
    let (folder, commit) = (copies(root.path()), hub.commit(REPO, "main"));

    // As a publisher leaves it that dies on its way from another commit: no marker, a file too many, one missing, and
    // one whose content nobody vouches for.
    let known = root.path().join("store/published/models/acme--move/current");
    let record = fs::read_to_string(known.join("record.json")).unwrap();
    fs::write(known.join("record.json"), record.replace("\"published\"", "\"publishing\"")).unwrap();
    let list: Vec<Value> = serde_json::from_slice(&fs::read(known.join("files.json")).unwrap()).unwrap();
    let list: Vec<&Value> = list.iter().filter(|file| file["path"] != "config.json").collect();
    fs::write(known.join("files.json"), serde_json::to_vec(&list).unwrap()).unwrap();
    fs::remove_file(folder.join(".hubgate-commit")).unwrap();
    fs::remove_file(folder.join("a")).unwrap();
    fs::remove_file(folder.join("config.json")).unwrap();
    fs::write(folder.join("config.json"), "{\"n\": 9}\n").unwrap();
    fs::write(folder.join("left over\u{1}"), "x").unwrap();

    let publishers: Vec<_> = (0..2).map(|_| hubgate(root.path(), &["publish", "--json"]).spawn().unwrap()).collect();
    let codes: Vec<_> = publishers.into_iter().map(|mut it| it.wait().unwrap().code().unwrap()).collect();
    assert_eq!(codes, [0, 0], "one of them publishes, the other waits and finds it done");
    is_commit(&hub, &folder, &commit);
    assert_eq!(names(&folder).len(), 6, "{:?}", names(&folder));
    assert!(!known.join("lease.json").exists());
}

#[tokio::test]
async fn what_cannot_be_published_is_said() {
    let hub = Standin::builder().repo(first()).start().await;
    let root = set_up(&hub, "");
    let (code, said) = ran(root.path(), &["publish", REPO]);
    assert!(code == 2 && said.contains("publish.prefix is not set"), "{said}");
    for (more, says) in [
        ("publish.prefix = \"blobs/x\"", "overlaps the store's own keys"),
        ("publish.prefix = \"a/../b\"", "publish.prefix (MINIO_PREFIX)"),
        ("publish.prefix = \"a\"\npublish.repos = [\"x/y/z\"]", "publish.repos: \"x/y/z\""),
        ("publish.prefix = \"a\"\npublish.repos = [\"x\", \"x/y\"]", "inside each other"),
        ("hooks.timeout = \"soon\"", "hooks.timeout"),
    ] {
        let root = set_up(&hub, more);
        let (code, said) = ran(root.path(), &["check-config"]);
        assert!(code == 2 && said.contains(says), "{more}: {said}");
    }
    let root = set_up(&hub, "publish.prefix = \"p\"");
    let (code, said) = ran(root.path(), &["publish", "acme/move", "other/name"]);
    assert!(code == 1 && said.contains("nothing of acme/move is stored"), "{said}");
    assert!(said.contains("other/name@main: not published: Blocked by hubgate policy: no allow rule"), "{said}");
}

#[tokio::test]
async fn a_repo_with_a_file_of_hubgates_own_name_is_not_published() {
    let hub =
        Standin::builder().repo(first().commit(NewCommit::new("Odd").file(".hubgate-commit", "{}"))).start().await;
    let (root, process) = world(&hub, "").await;
    let (code, said) = ran(root.path(), &["publish", REPO]);
    assert!(code == 1 && said.contains("its file .hubgate-commit has a name of hubgate's own"), "{said}");
    assert!(!copies(root.path()).exists());
    drop(process);
}

#[tokio::test]
async fn the_plain_mirrors_own_variables_are_enough() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, "").await;
    process.kill().await;
    let output = hubgate(root.path(), &["publish"]).env("HF_REPOS", REPO).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    is_commit(&hub, &copies(root.path()), &hub.commit(REPO, "main"));
}

#[tokio::test]
async fn another_prefix_takes_the_copies_along_and_leaves_nothing_at_the_old_one() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, &format!("{REPOS}\npublish.by_commit = true")).await;
    process.kill().await;
    assert_eq!(ran(root.path(), &["publish"]).0, 0);
    let (code, said) = ran(root.path(), &["--set", "publish.prefix=mirrors/new", "publish"]);
    assert_eq!(code, 0, "{said}");
    is_commit(&hub, &root.path().join("store/mirrors/new").join(REPO), &hub.commit(REPO, "main"));
    assert_eq!(names(&root.path().join("store/mirrors/hf")), [""; 0], "{said}");
    assert!(root.path().join("store/mirrors/new/manifest.csv").exists());
}

#[tokio::test]
async fn copies_that_the_configuration_names_no_more_are_named_with_what_removes_them() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, REPOS).await;
    process.kill().await;
    let (code, said) = ran(root.path(), &["publish"]);
    assert!(code == 0 && !said.contains("--unpublish"), "{said}");
    let other = ["--set", "publish.repos=[\"acme/other\"]"];
    let (_, said) = ran(root.path(), &[&other[..], &["publish"]].concat());
    let line = format!(
        "{REPO}: copies lie below mirrors/hf/{REPO}, and publish.repos does not name it; \
         `hubgate publish --unpublish {REPO}` removes them"
    );
    assert!(said.contains(&line), "{said}");
    is_commit(&hub, &copies(root.path()), &hub.commit(REPO, "main"));
    assert_eq!(ran(root.path(), &[&other[..], &["publish", "--unpublish", REPO]].concat()).0, 0);
    let (_, said) = ran(root.path(), &[&other[..], &["publish"]].concat());
    assert!(!said.contains("--unpublish") && names(&copies(root.path())).is_empty(), "{said}");
}
