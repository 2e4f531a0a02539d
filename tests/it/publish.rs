//! The publish view and the hook, through the program: what workloads that read the directory themselves find.

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
async fn a_file_that_is_withheld_from_now_on_is_taken_away() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, REPOS).await;
    assert_eq!(ran(root.path(), &["publish"]).0, 0);
    let policy = POLICY.replace("[\"*.pkl\", ", "[\"*.pkl\", \"*.txt\", ");
    fs::write(root.path().join("policy/policy.toml"), policy).unwrap();
    let (code, said) = ran(root.path(), &["publish"]);
    assert_eq!(code, 0, "{said}");
    assert!(!names(&copies(root.path())).iter().any(|name| name.ends_with(".txt")), "in no copy of any commit");
    is_commit(&hub, &copies(root.path()), &hub.commit(REPO, "main"));
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

/// Writes a hook that keeps what it was told beside itself and ends with `code`.
fn hook(root: &Path, code: u8) -> String {
    let path = root.join("hook.sh");
    let script = format!("cat > {}/told.json\necho looked at it\necho why >&2\nexit {code}\n", root.display());
    fs::write(&path, script).unwrap();
    format!("hooks.commit_complete = [\"/bin/sh\", \"{}\"]", path.display())
}

fn runs(root: &Path, commit: &str) -> Vec<Value> {
    let folder = root.join("store/evidence/models/acme--move").join(commit);
    let read = |name: String| serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap();
    names(&folder).into_iter().map(read).collect()
}

#[tokio::test]
async fn a_commit_on_which_the_hook_fails_is_not_published_and_every_run_is_kept() {
    let hub = Standin::builder().repo(first()).start().await;
    let aside = tempfile::tempdir().unwrap();
    let (root, process) = world(&hub, &format!("{REPOS}\n{}", hook(aside.path(), 3))).await;
    let commit = hub.commit(REPO, "main");
    process.kill().await;
    let (code, said) = ran(root.path(), &["publish"]);
    assert!(code == 1 && said.contains("the hook ended with exit code 3"), "{said}");
    assert!(!copies(root.path()).exists());
    let kept = runs(root.path(), &commit);
    let last = kept.last().unwrap();
    assert_eq!(
        (&last["exit_code"], &last["stdout"], &last["stderr"]),
        (&3.into(), &"looked at it\n".into(), &"why\n".into())
    );

    let told: Value = serde_json::from_slice(&fs::read(aside.path().join("told.json")).unwrap()).unwrap();
    assert_eq!(
        (&told["repo"], &told["commit"], &told["license"]),
        (&REPO.into(), &commit.clone().into(), &"apache-2.0".into())
    );
    let place = Path::new(told["store"]["path"].as_str().unwrap());
    let files = told["files"].as_array().unwrap();
    assert_eq!(files.len(), 5, "what is withheld is no part of it: {told}");
    for file in files {
        let there = fs::read(place.join(file["key"].as_str().unwrap())).unwrap();
        assert_eq!(there, hub.bytes(REPO, &commit, file["path"].as_str().unwrap()));
    }

    hook(aside.path(), 0);
    let (code, said) = ran(root.path(), &["publish"]);
    assert_eq!(code, 0, "{said}");
    is_commit(&hub, &copies(root.path()), &commit);
    let count = runs(root.path(), &commit).len();
    assert_eq!(runs(root.path(), &commit)[count - 1]["exit_code"], 0);
    assert_eq!(ran(root.path(), &["publish"]).0, 0);
    assert_eq!(runs(root.path(), &commit).len(), count, "one that passed is not run again");
}

#[tokio::test]
async fn where_the_rule_asks_for_the_hook_nothing_is_served_before_it_has_passed() {
    let hub = Standin::builder().repo(first()).start().await;
    let aside = tempfile::tempdir().unwrap();
    let (root, process) = world(&hub, &hook(aside.path(), 1)).await;
    let commit = hub.commit(REPO, "main");
    eventually("the hook has run by itself", async || !runs(root.path(), &commit).is_empty()).await;
    fs::write(root.path().join("policy/policy.toml"), demand()).unwrap();
    let url = format!("/{REPO}/resolve/main/config.json");
    let refused = async |why: &str| {
        let answer = process.client.get(&url).await.unwrap();
        answer.status == 403 && answer.header("x-error-message").contains(why)
    };
    eventually("the rule holds", async || refused("the hook ended with exit code 1").await).await;
    assert_eq!(ran(root.path(), &["publish", REPO]).0, 1);
    assert!(refused("the hook ended with exit code 1").await);
    hook(aside.path(), 0);
    let (code, said) = ran(root.path(), &["publish", REPO]);
    assert_eq!(code, 0, "{said}");
    eventually("served", async || process.client.get(&url).await.unwrap().status == 200).await;
    drop(process);
}

#[tokio::test]
async fn where_the_rule_asks_for_a_hook_that_has_not_run_clients_start_nothing() {
    let hub = Standin::builder().repo(first()).start().await;
    let root = set_up(&hub, PLACE);
    fs::write(root.path().join("policy/policy.toml"), demand()).unwrap();
    let process = Process::start(root.path()).await;
    let answer = process.client.get(&format!("/{REPO}/resolve/main/model.safetensors")).await.unwrap();
    assert_eq!(answer.status, 403);
    assert!(answer.header("x-error-message").contains("it has not run on this commit yet"), "{:?}", answer.headers);
    assert!(!root.path().join("store/blobs").exists(), "nothing was fetched for it");
}

/// The usual policy, and the hook must have passed.
fn demand() -> String {
    POLICY.replacen("repo = \"acme/*\"", "repo = \"acme/*\"\nhook = \"required\"", 1)
}

#[tokio::test]
async fn withdrawn_content_is_taken_away_though_its_commit_is_not_whole_any_more() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, REPOS).await;
    process.kill().await;
    assert_eq!(ran(root.path(), &["publish"]).0, 0);
    let sha256 = hub.sha256(REPO, &hub.commit(REPO, "main"), "model.safetensors");
    let (code, said) = ran(root.path(), &["withdraw", &format!("sha256:{sha256}"), "--reason", "stolen", "--purge"]);
    assert_eq!(code, 0, "{said}");
    let (_, said) = ran(root.path(), &["publish"]);
    assert!(names(&copies(root.path())).is_empty() && said.contains("stolen"), "{said}");
}

#[tokio::test]
async fn a_file_that_is_withheld_from_now_on_is_taken_away_though_another_is_not_stored() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, REPOS).await;
    process.kill().await;
    assert_eq!(ran(root.path(), &["publish"]).0, 0);
    fs::remove_dir_all(root.path().join("store/manifest/index")).unwrap();
    assert_ne!(ran(root.path(), &["publish"]).0, 0);
    is_commit(&hub, &copies(root.path()), &hub.commit(REPO, "main"));
    let policy = POLICY.replace("[\"*.pkl\", ", "[\"*.pkl\", \"*.txt\", ");
    fs::write(root.path().join("policy/policy.toml"), policy).unwrap();
    let (_, said) = ran(root.path(), &["publish"]);
    assert!(names(&copies(root.path())).is_empty() && said.contains("withheld"), "{said}");
}

#[tokio::test]
async fn a_revision_that_is_refused_takes_nothing_of_another_away() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, REPOS).await;
    process.kill().await;
    let policy = POLICY.replacen("repo = \"acme/*\"", "repo = \"acme/*\"\nrevisions = [\"main\"]", 1);
    fs::write(root.path().join("policy/policy.toml"), policy).unwrap();
    assert_eq!(ran(root.path(), &["publish"]).0, 0);
    let (code, said) = ran(root.path(), &["publish", &format!("{REPO}@dev")]);
    assert!(code == 1 && said.contains("Blocked by hubgate policy"), "{said}");
    is_commit(&hub, &copies(root.path()), &hub.commit(REPO, "main"));
}

#[tokio::test]
async fn what_was_withdrawn_is_published_again_when_that_is_lifted() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, REPOS).await;
    let folder = copies(root.path());
    let marker = folder.join(".hubgate-commit");
    fs::write(root.path().join("policy/policy.toml"), format!("{POLICY}\n")).unwrap();
    eventually("published", async || marker.exists()).await;
    let (code, said) = ran(root.path(), &["withdraw", REPO, "--reason", "to be looked at", "--json"]);
    assert_eq!(code, 0, "{said}");
    let said: Value = serde_json::from_str(&said[said.find('{').unwrap()..]).unwrap();
    eventually("unpublished", async || names(&folder).is_empty()).await;
    let (code, said) = ran(root.path(), &["withdraw", "--lift", said["id"].as_str().unwrap(), "--reason", "fine"]);
    assert_eq!(code, 0, "{said}");
    eventually("published again", async || marker.exists()).await;
    is_commit(&hub, &folder, &hub.commit(REPO, "main"));
    drop(process);
}

#[tokio::test]
async fn another_set_of_files_is_not_published_where_the_hook_fails_on_it() {
    let hub = Standin::builder().repo(first()).start().await;
    let aside = tempfile::tempdir().unwrap();
    let (root, process) = world(&hub, &format!("{REPOS}\n{}", hook(aside.path(), 0))).await;
    process.kill().await;
    assert_eq!(ran(root.path(), &["publish"]).0, 0);
    hook(aside.path(), 1);
    let list = format!("[[mirror]]\nrepo = \"{REPO}\"\nexclude = [\"*.txt\"]\n");
    fs::write(root.path().join("policy/mirror.toml"), list).unwrap();
    let (code, said) = ran(root.path(), &["publish"]);
    assert!(code == 1 && said.contains("exit code 1"), "{said}");
    assert!(copies(root.path()).join("old/deep/er.txt").exists());
    is_commit(&hub, &copies(root.path()), &hub.commit(REPO, "main"));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_rule_asks_for_the_hook_only_files_that_it_was_shown_are_served() {
    let hub = Standin::builder().repo(first()).start().await;
    let aside = tempfile::tempdir().unwrap();
    let root = set_up(&hub, &format!("{PLACE}\n{}", hook(aside.path(), 0)));
    fs::write(root.path().join("policy/policy.toml"), demand()).unwrap();
    let list = format!("[[mirror]]\nrepo = \"{REPO}\"\ninclude = [\"*.json\", \"*.md\"]\n");
    fs::write(root.path().join("policy/mirror.toml"), list).unwrap();
    let (code, said) = ran(root.path(), &["sync"]);
    assert_eq!(code, 0, "{said}");
    let process = Process::start(root.path()).await;
    let get = async |path: &str| process.client.get(&format!("/{REPO}/resolve/main/{path}")).await.unwrap();
    assert_eq!(get("config.json").await.status, 200);
    let answer = get("model.safetensors").await;
    assert_eq!(answer.status, 403);
    assert!(answer.header("x-error-message").contains("was not shown model.safetensors"), "{:?}", answer.headers);
    drop(process);
}

#[tokio::test]
async fn no_publication_keeps_what_is_refused_from_being_removed() {
    let hub = Standin::builder().repo(first()).repo(
        RepoBuilder::model("acme/other")
            .commit(NewCommit::new("First").file("README.md", README).file("config.json", "{}")),
    );
    let hub = hub.start().await;
    let aside = tempfile::tempdir().unwrap();
    let more = format!("publish.repos = [\"{REPO}\", \"acme/other\"]\n{}", hook(aside.path(), 0));
    let (root, process) = world(&hub, &more).await;
    process.kill().await;
    ran(root.path(), &["publish", REPO]);
    is_commit(&hub, &copies(root.path()), &hub.commit(REPO, "main"));
    // The hook on the other repo does not end, for whoever asks.
    let runs = aside.path().join("runs");
    let script = format!("echo >> {0}\nwhile [ -e {0} ]; do sleep 0.1; done\n", runs.display());
    fs::write(aside.path().join("hook.sh"), script).unwrap();
    let process = Process::start(root.path()).await;
    for path in ["README.md", "config.json"] {
        assert_eq!(process.client.get(&format!("/acme/other/resolve/main/{path}")).await.unwrap().status, 200);
    }
    fs::write(root.path().join("policy/policy.toml"), format!("{POLICY}\n")).unwrap();
    let count = || fs::read_to_string(&runs).unwrap_or_default().lines().count();
    eventually("the hook runs for the listener and for the look", async || count() >= 2).await;
    let denied = format!("{POLICY}\n[[deny]]\nname = \"no\"\nrepo = \"{REPO}\"\nreason = \"not this\"\n");
    fs::write(root.path().join("policy/policy.toml"), denied).unwrap();
    eventually("unpublished", async || names(&copies(root.path())).is_empty()).await;
    fs::remove_file(&runs).unwrap();
    process.kill().await;
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
