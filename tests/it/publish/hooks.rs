//! The hook: what it is told, what it decides, and when it is run.

use super::*;

/// Writes a hook that keeps what it was told beside itself and ends with `code`.
pub(super) fn hook(root: &Path, code: u8) -> String {
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

/// The usual policy, and the hook must have passed.
fn demand() -> String {
    POLICY.replacen("repo = \"acme/*\"", "repo = \"acme/*\"\nhook = \"required\"", 1)
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

#[tokio::test(flavor = "multi_thread")]
async fn the_hook_runs_on_a_repo_that_is_allowed_by_its_legacy_name_alone() {
    let commit = NewCommit::new("One").file("README.md", README).file("config.json", "{\"n\": 1}\n");
    let hub = Standin::builder().repo(RepoBuilder::model("openhub/old").alias("old").commit(commit)).start().await;
    let aside = tempfile::tempdir().unwrap();
    let root = set_up(&hub, &hook(aside.path(), 0));
    let policy = POLICY.replacen("repo = \"acme/*\"", "repo = \"old\"\nhook = \"required\"", 1);
    fs::write(root.path().join("policy/policy.toml"), policy).unwrap();
    let (code, said) = ran(root.path(), &["sync", "--repo", "old"]);
    assert_eq!(code, 0, "{said}");
    let told: Value = serde_json::from_slice(&fs::read(aside.path().join("told.json")).unwrap()).unwrap();
    assert_eq!(told["repo"], "openhub/old");
    let process = Process::start(root.path()).await;
    assert_eq!(process.client.get("/old/resolve/main/config.json").await.unwrap().status, 200, "{}", process.log());
    drop(process);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_while_others_are_looked_at_is_not_taken_for_what_lay_there_before() {
    let commit = NewCommit::new("First").file("README.md", README).file("config.json", "{}");
    let hub = Standin::builder().repo(first()).repo(RepoBuilder::model("acme/other").commit(commit)).start().await;
    let aside = tempfile::tempdir().unwrap();
    let (root, process) = world(&hub, &hook(aside.path(), 0)).await;
    for path in ["README.md", "config.json"] {
        assert_eq!(process.client.get(&format!("/acme/other/resolve/main/{path}")).await.unwrap().status, 200);
    }
    process.kill().await;
    assert_eq!(ran(root.path(), &["publish", REPO, "acme/other"]).0, 0);
    assert_eq!(ran(root.path(), &["publish", "--unpublish", "acme/other"]).0, 0);

    // The look begins with what is known of both, and then the hook on the first takes its time.
    let publish = format!(
        "{} --config {} publish acme/other",
        env!("CARGO_BIN_EXE_hubgate"),
        root.path().join("config.toml").display()
    );
    fs::write(aside.path().join("hook.sh"), format!("cat > /dev/null\n{publish} >&2\n")).unwrap();
    let policy = POLICY.replace("[\"*.pkl\", ", "[\"*.pkl\", \"*.txt\", ");
    fs::write(root.path().join("policy/policy.toml"), policy).unwrap();
    let (code, said) = ran(root.path(), &["publish"]);
    assert_eq!(code, 0, "{said}");
    let other = root.path().join("store/mirrors/hf/acme/other");
    assert_eq!(names(&other), [".hubgate-commit", "README.md", "config.json"], "{said}");
}
