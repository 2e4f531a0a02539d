//! `hubgate lock`, the program, and what a lock holds a gateway to: what was reviewed is what is served.

use std::{fs, path::Path, sync::Arc};

use hub_standin::{Class, Content, NewCommit, RepoBuilder, Standin};
use hubgate::hub::Sha256;
use serde_json::Value;

use crate::support::{
    gateway::{POLICY, Setup, TestGateway},
    process::{hubgate, set_up},
};

const MIT: &str = "---\nlicense: mit\n---\n";
const MIRROR: &str = "[[mirror]]\nrepo = \"acme/m\"\n";

fn model() -> RepoBuilder {
    RepoBuilder::model("acme/m").commit(
        NewCommit::new("one")
            .file("README.md", MIT)
            .file("config.json", "{}")
            .file("old.txt", "old")
            .lfs("model.safetensors", Content::generated(20_000, 1))
            .lfs("weights.pkl", Content::generated(9_000, 2)),
    )
}

/// Another licence, a file of each sort more, one changed, one gone.
fn next() -> NewCommit {
    NewCommit::new("two")
        .file("README.md", "---\nlicense: apache-2.0\n---\n")
        .lfs("model.safetensors", Content::generated(21_000, 3))
        .file("modeling_m.py", "print()")
        .lfs("more.pkl", Content::generated(9_000, 4))
        .remove("old.txt")
}

struct Ran {
    code: i32,
    said: String,
    complaints: String,
}

async fn run(root: &Path, arguments: &[&str]) -> Ran {
    let mut command = hubgate(root, arguments);
    command.current_dir(root);
    let output = tokio::process::Command::from(command).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), said: text(output.stdout), complaints: text(output.stderr) }
}

/// A gateway that a lock holds, which is empty at first; and the lock file beside its configuration.
async fn locked_gateway(hub: &Standin, policy: &str) -> TestGateway {
    let root = Arc::new(tempfile::tempdir().unwrap());
    let lock = root.path().join("models.lock");
    fs::write(&lock, "version = 1\n").unwrap();
    let lines = format!("policy.lock = \"{}\"\nupstream.ref_ttl = \"0s\"", lock.display());
    Setup::new().policy(&format!("{POLICY}{policy}")).config(&lines).on(&root).start(hub).await
}

fn lock_of(gate: &TestGateway) -> String {
    fs::read_to_string(gate.root.path().join("models.lock")).unwrap()
}

/// Puts another lock in force, with the policy as it is.
fn set_lock(gate: &TestGateway, lock: &str) {
    fs::write(gate.root.path().join("models.lock"), lock).unwrap();
    gate.set_policy(&fs::read_to_string(gate.policy_file()).unwrap()).unwrap();
}

#[tokio::test]
async fn a_locked_branch_serves_what_was_reviewed_while_upstream_moves_and_when_it_is_gone() {
    let hub = Standin::builder().repo(model().tag("v1")).fixtures().start().await;
    let gate = locked_gateway(&hub, MIRROR).await;
    let before = gate.health().await["policy_sha256"].clone();
    let root = gate.root.path().to_owned();
    let first = run(&root, &["lock"]).await;
    assert_eq!(first.code, 0, "{}{}", first.said, first.complaints);
    let one = hub.commit("acme/m", "main");
    assert!(
        first.said.starts_with(&format!("acme/m@main: locked at {one} (5 files, licence mit, rule acme)\n")),
        "{}",
        first.said
    );
    let text = lock_of(&gate);
    let sha256 = |path| hub.sha256("acme/m", &one, path);
    for line in [
        format!("repo = \"acme/m\"\nkind = \"model\"\nrevision = \"main\"\ncommit = \"{one}\"\n"),
        format!(
            "  {{ path = \"config.json\", size = 2, git = \"{}\", sha256 = \"{}\" }},\n",
            hub.etag("acme/m", &one, "config.json"),
            Sha256::of(b"{}")
        ),
        format!("  {{ path = \"model.safetensors\", size = 20000, sha256 = \"{}\" }},\n", sha256("model.safetensors")),
        format!("  {{ path = \"weights.pkl\", size = 9000, sha256 = \"{}\" }},\n", sha256("weights.pkl")),
    ] {
        assert!(text.contains(&line), "{text}\n{line}");
    }
    set_lock(&gate, &text);
    let in_force = gate.health().await["policy_sha256"].clone();
    assert_ne!(in_force, before, "the lock is a part of the policy's digest");

    let two = hub.push("acme/m", "main", next());
    hub.reset_counters();
    let again = run(&root, &["lock"]).await;
    assert!(again.code == 0 && again.said.contains("models.lock: unchanged, 1 revision locked"), "{}", again.said);
    assert_eq!(lock_of(&gate), text, "the same commits are the same bytes");
    let file = gate.get("/acme/m/resolve/main/model.safetensors").await;
    assert_eq!((file.status.as_u16(), file.header("x-repo-commit")), (200, one.as_str()));
    assert!(file.body == hub.bytes("acme/m", &one, "model.safetensors"));
    assert_eq!(gate.get("/api/models/acme/m").await.json()["sha"], one.as_str());
    let refs = gate.get("/api/models/acme/m/refs").await.json();
    assert_eq!(refs["branches"][0]["targetCommit"], one.as_str(), "{refs}");
    assert_eq!(refs["tags"], serde_json::json!([]), "v1 is not locked");
    for revision in ["v1", two.as_str()] {
        let refused = gate.get(&format!("/acme/m/resolve/{revision}/config.json")).await;
        let why = refused.header("x-error-message");
        assert_eq!(refused.status, 403, "{revision}");
        assert!(why.contains(&format!("is not in the lock, which has main at {one}")), "{revision}: {why}");
    }
    assert_eq!(hub.requests("*/revision/main").len(), 0, "upstream is not asked what a locked branch means");
    assert_eq!(gate.get("/acme/tiny/resolve/main/config.json").await.status, 200, "others go on by policy");

    let explained = run(&root, &["policy", "explain", "acme/m"]).await;
    assert!(
        explained.said.contains(&format!("main means the locked commit {one} (models.lock:5)")),
        "{}",
        explained.said
    );
    // The auditor finds the texts under the digests that records have.
    let stored = |digest: &str| fs::read_to_string(root.join("store/policies").join(digest));
    assert_eq!(stored(&Sha256::of(text.as_bytes()).to_string()).unwrap(), text);
    assert!(stored(in_force.as_str().unwrap()).unwrap().contains("# ==> lock models.lock ("));

    let verified = run(&root, &["verify"]).await;
    assert_eq!(verified.code, 0, "{}{}", verified.said, verified.complaints);

    hub.stop().await;
    assert_eq!(gate.get("/acme/m/resolve/main/model.safetensors").await.status, 200);
    assert_eq!(gate.get("/acme/m/resolve/main/config.json").await.text(), "{}");
}

#[tokio::test]
async fn a_branch_means_what_was_locked_under_a_former_name_that_the_lock_does_not_have() {
    let hub = Standin::builder().repo(model().alias("acme/old")).start().await;
    let gate = locked_gateway(&hub, MIRROR).await;
    assert_eq!(run(gate.root.path(), &["lock"]).await.code, 0);
    let one = hub.commit("acme/m", "main");
    set_lock(&gate, &lock_of(&gate));
    let old = "/acme/old/resolve/main/config.json";
    // That it is a former name is known from here on.
    assert_eq!(gate.head(old).await.header("x-repo-commit"), one);
    hub.push("acme/m", "main", next());
    for path in [old, "/acme/m/resolve/main/config.json"] {
        let answer = gate.head(path).await;
        assert_eq!(answer.header("x-repo-commit"), one, "{path}: {:?}", answer.headers);
    }
    assert_eq!(gate.head("/acme/old/resolve/v1/config.json").await.status, 403);
}

#[tokio::test]
async fn a_file_that_is_not_the_one_that_was_locked_is_refused_and_one_that_was_not_locked_is_hidden() {
    let hub = Standin::builder().repo(model()).start().await;
    let gate = locked_gateway(&hub, MIRROR).await;
    assert_eq!(run(gate.root.path(), &["lock"]).await.code, 0);
    let text = lock_of(&gate);
    let one = hub.commit("acme/m", "main");
    let (weights, other) = (hub.sha256("acme/m", "main", "model.safetensors"), "7".repeat(64));

    set_lock(&gate, &text.replace(&weights, &other));
    for revision in ["main", one.as_str()] {
        let refused = gate.get(&format!("/acme/m/resolve/{revision}/model.safetensors")).await;
        let why = refused.header("x-error-message").to_owned();
        assert_eq!(refused.status, 403, "{revision}: {why}");
        let told = format!(
            "model.safetensors of acme/m@{one} has sha256 {weights}, and the lock (models.lock:5) has sha256 {other}. "
        );
        assert!(why.contains(&told) && why.contains("hubgate lock --diff acme/m"), "{why}");
    }
    assert_eq!(hub.counters().file_bytes("acme/m/model.safetensors"), 0, "nothing was fetched");
    let explained = run(gate.root.path(), &["policy", "explain", "acme/m"]).await;
    assert!(
        explained.said.contains("1 too large or not as locked") && explained.said.contains(&other),
        "{}",
        explained.said
    );

    // Of a git file the sha256 is held against the lock when its content is known: stored by `hubgate lock` already, and
    // once more when it is fetched anew.
    let config = Sha256::of(b"{}").to_string();
    for _ in 0..2 {
        set_lock(&gate, &text.replace(&config, &other));
        let refused = gate.get("/acme/m/resolve/main/config.json").await;
        let why = refused.header("x-error-message").to_owned();
        assert_eq!(refused.status, 403, "{why}");
        assert!(
            why.contains(&format!("has sha256 {config}, and the lock (models.lock:5) has sha256 {other}")),
            "{why}"
        );
        set_lock(&gate, &text);
        assert_eq!(gate.get("/acme/m/resolve/main/config.json").await.text(), "{}");
        // Another store, which has nothing yet.
        fs::remove_dir_all(gate.root.path().join("store/oids")).unwrap_or_default();
    }

    let without: Vec<&str> = text.lines().filter(|line| !line.contains("old.txt")).collect();
    let without = without.join("\n");
    set_lock(&gate, &without);
    let hidden = gate.get("/acme/m/resolve/main/old.txt").await;
    assert_eq!((hidden.status.as_u16(), hidden.header("x-error-code")), (404, "EntryNotFound"));
    assert!(hidden.header("x-error-message").contains("old.txt is withheld (not in the lock)"), "{:?}", hidden.headers);
    let tree = gate.get("/api/models/acme/m/tree/main").await;
    assert!(!tree.text().contains("old.txt") && tree.text().contains("config.json"), "{}", tree.text());
    assert!(tree.header("x-hf-warning").contains("not in the lock"), "{:?}", tree.headers);
    set_lock(&gate, &text);
    assert_eq!(gate.get("/acme/m/resolve/main/old.txt").await.text(), "old");
}

#[tokio::test]
async fn content_that_differs_from_the_lock_is_never_stored() {
    let hub = Standin::builder().repo(model()).start().await;
    let root = set_up(&hub, "");
    fs::write(root.path().join("policy/mirror.toml"), MIRROR).unwrap();
    assert_eq!(run(root.path(), &["lock"]).await.code, 0);
    let text = fs::read_to_string(root.path().join("models.lock")).unwrap();
    let gate = locked_gateway(&hub, MIRROR).await;
    let config = Sha256::of(b"{}").to_string();
    set_lock(&gate, &text.replace(&config, &"7".repeat(64)));
    let refused = gate.get("/acme/m/resolve/main/config.json").await;
    assert_eq!(refused.status, 403, "{:?}", refused.headers);
    assert!(
        refused.header("x-error-message").contains(&format!("has sha256 {config}, and the lock")),
        "{:?}",
        refused.headers
    );
    let blob = gate.root.path().join("store/blobs/sha256").join(&config[..2]).join(&config);
    assert!(!blob.exists());
    set_lock(&gate, &text);
    assert_eq!(gate.get("/acme/m/resolve/main/config.json").await.text(), "{}");
    assert!(blob.exists());
}

#[tokio::test]
async fn a_reviewer_sees_what_upstream_would_change_and_one_repo_moves() {
    let hub = Standin::builder().repo(model()).fixtures().start().await;
    let gate = locked_gateway(&hub, &format!("{MIRROR}[[mirror]]\nrepo = \"datasets/acme/table\"\n")).await;
    let root = gate.root.path().to_owned();
    assert_eq!(run(&root, &["lock"]).await.code, 0);
    let text = lock_of(&gate);
    set_lock(&gate, &text);
    let same = run(&root, &["lock", "--diff"]).await;
    assert_eq!(same.code, 0, "{}{}", same.said, same.complaints);
    assert!(same.said.contains("2 revisions looked at, 0 not as locked"), "{}", same.said);

    let one = hub.commit("acme/m", "main");
    let two = hub.push("acme/m", "main", next());
    let (before, after) =
        (hub.sha256("acme/m", &one, "model.safetensors"), hub.sha256("acme/m", &two, "model.safetensors"));
    let stored: Vec<_> = fs::read_dir(root.join("store/snapshots/models/acme--m")).unwrap().collect();
    let diff = run(&root, &["lock", "--diff"]).await;
    assert_eq!(diff.code, 1, "{}{}", diff.said, diff.complaints);
    for line in [
        "acme/m@main: differs\n".to_owned(),
        format!("  commit   {one} -> {two}\n"),
        "  licence  mit -> apache-2.0\n".into(),
        format!(
            "  added    modeling_m.py: git id {}, 7 bytes; Python code; policy withholds it\n",
            hub.etag("acme/m", &two, "modeling_m.py")
        ),
        format!(
            "  added    more.pkl: sha256 {}, 9000 bytes; a pickle, which can run code when it is loaded; policy withholds it\n",
            hub.sha256("acme/m", &two, "more.pkl")
        ),
        format!("  changed  model.safetensors: sha256 {before}, 20000 bytes -> sha256 {after}, 21000 bytes\n"),
        "  removed  old.txt: sha256 ".into(),
        "  review   new code or pickle files: modeling_m.py, more.pkl\n".into(),
        format!("datasets/acme/table@main: unchanged at {}\n", hub.commit("datasets/acme/table", "main")),
    ] {
        assert!(diff.said.contains(&line), "{}\n{line}", diff.said);
    }
    assert_eq!(lock_of(&gate), text);
    assert_eq!(
        fs::read_dir(root.join("store/snapshots/models/acme--m")).unwrap().count(),
        stored.len(),
        "nothing is stored"
    );
    let json = run(&root, &["lock", "--diff", "acme/m", "--json"]).await;
    let json: Value = serde_json::from_str(&json.said).unwrap();
    let repo = &json["repos"][0];
    assert_eq!(
        (&json["ok"], &repo["state"], &repo["change"]["commit"]["after"]),
        (&false.into(), &"differs".into(), &two.as_str().into())
    );
    assert_eq!(repo["new_code"], serde_json::json!(["modeling_m.py", "more.pkl"]));

    hub.push("datasets/acme/table", "main", NewCommit::new("more").file("more.csv", "1"));
    let moved = run(&root, &["lock", "--update", "acme/m"]).await;
    assert_eq!(moved.code, 0, "{}{}", moved.said, moved.complaints);
    assert!(moved.said.contains(&format!("acme/m@main: moved\n  commit   {one} -> {two}\n")), "{}", moved.said);
    let now = lock_of(&gate);
    let entry_of =
        |text: &str, repo: &str| text.split("\n[[repo]]\n").find(|entry| entry.contains(repo)).unwrap().to_owned();
    assert!(now.contains(&two) && !now.contains(&one));
    assert_eq!(
        entry_of(&now, "\"acme/table\"").trim(),
        entry_of(&text, "\"acme/table\"").trim(),
        "the other one stays"
    );
    let main = "/acme/m/resolve/main/model.safetensors";
    assert_eq!(gate.head(main).await.header("x-repo-commit"), one, "not before the gateway has the new lock");
    set_lock(&gate, &now);
    assert_eq!(gate.head(main).await.header("x-repo-commit"), two);

    // What policy refuses is still shown, and not taken.
    let three =
        hub.push("acme/m", "main", NewCommit::new("three").file("README.md", "---\nlicense: cc-by-nc-4.0\n---\n"));
    let diff = run(&root, &["lock", "--diff", "acme/m@main"]).await;
    assert!(diff.code == 1 && diff.said.contains("  licence  apache-2.0 -> cc-by-nc-4.0\n"), "{}", diff.said);
    assert!(
        diff.said.contains("  refused  Blocked by hubgate policy (rule acme)") && diff.said.contains(&three),
        "{}",
        diff.said
    );
    let moved = run(&root, &["lock", "--update", "acme/m"]).await;
    assert_eq!(moved.code, 1, "{}", moved.said);
    assert!(moved.said.contains("acme/m@main: failed: Blocked by hubgate policy"), "{}", moved.said);
    assert!(moved.complaints.contains("is left as it is"), "{}", moved.complaints);
    assert_eq!(lock_of(&gate), now);
    let unknown = run(&root, &["lock", "--update", "acme/other"]).await;
    assert!(unknown.code == 2 && unknown.complaints.contains("acme/other is not in"), "{}", unknown.complaints);
}

#[tokio::test]
async fn what_can_not_be_locked_is_named_and_nothing_is_written() {
    let hub = Standin::builder().repo(model()).fixtures().start().await;
    let root = set_up(&hub, "");
    let wanted = ["acme/evil", "acme/no-license", "acme/absent", "acme/m"];
    let list = wanted.map(|repo| format!("[[mirror]]\nrepo = \"{repo}\"\n")).concat();
    fs::write(root.path().join("policy/mirror.toml"), list).unwrap();
    let ran = run(root.path(), &["lock"]).await;
    assert_eq!(ran.code, 1, "{}{}", ran.said, ran.complaints);
    for line in [
        "acme/evil@main: failed: Blocked by hubgate policy (rule no-evil): model acme/evil is denied: Content policy 4.2.",
        "acme/no-license@main: failed: Blocked by hubgate policy (rule acme)",
        "acme/absent@main: failed: acme/absent: repository not found",
        "acme/m@main: locked at ",
    ] {
        assert!(ran.said.contains(line), "{}\n{line}", ran.said);
    }
    assert!(ran.complaints.contains("models.lock is left as it is"), "{}", ran.complaints);
    let lock = root.path().join("models.lock");
    assert!(!lock.exists());
    let ran = run(root.path(), &["lock", "--keep-going"]).await;
    assert!(ran.code == 1 && ran.said.contains("models.lock: written, 1 revision locked"), "{}", ran.said);
    let written = fs::read_to_string(&lock).unwrap();
    assert!(written.contains("\"acme/m\"") && !written.contains("absent"), "{written}");

    // A repo that is denied afterwards leaves the lock with the next run, and `policy check` says so before.
    fs::write(root.path().join("policy/mirror.toml"), "[[deny]]\nrepo = \"acme/m\"\nreason = \"SEC-9\"\n").unwrap();
    let policy_lock = format!("policy.lock={}", lock.display());
    let check = run(root.path(), &["policy", "check", "--set", &policy_lock]).await;
    assert!(
        check.said.contains("models.lock:5: warning: locked acme/m@main at ") && check.said.contains("SEC-9"),
        "{}",
        check.said
    );
    let diff = run(root.path(), &["lock", "--diff"]).await;
    assert!(
        diff.code == 1 && diff.said.contains("acme/m@main: no longer approved: Blocked by hubgate policy"),
        "{}",
        diff.said
    );
    let ran = run(root.path(), &["lock"]).await;
    assert!(
        ran.code == 0 && ran.said.contains("models.lock: written, 0 revisions locked"),
        "{}{}",
        ran.said,
        ran.complaints
    );
}

#[tokio::test]
async fn what_has_expired_or_hf_repos_leaves_out_stays_in_the_lock() {
    let hub = Standin::builder().repo(model()).fixtures().start().await;
    let root = set_up(&hub, "");
    fs::write(root.path().join("policy/mirror.toml"), MIRROR).unwrap();
    assert_eq!(run(root.path(), &["lock"]).await.code, 0);
    let lock = root.path().join("models.lock");
    let text = fs::read_to_string(&lock).unwrap();

    let mut command = hubgate(root.path(), &["lock"]);
    command.current_dir(root.path()).env("HF_REPOS", "acme/tiny");
    let output = tokio::process::Command::from(command).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("acme/m@main: stays at ") && said.contains("is not in HF_REPOS"), "{said}");
    let narrowed = fs::read_to_string(&lock).unwrap();
    assert!(
        narrowed.contains("\"acme/tiny\"") && narrowed.contains(text.split_once("\n\n").unwrap().1.trim()),
        "{narrowed}"
    );

    fs::write(&lock, &text).unwrap();
    let ended = POLICY.replacen("repo = \"acme/*\"", "repo = \"acme/*\"\nexpires = \"2020-01-31\"", 1);
    fs::write(root.path().join("policy/policy.toml"), ended).unwrap();
    let ran = run(root.path(), &["lock"]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.said, ran.complaints);
    assert!(ran.said.contains("stays at ") && ran.said.contains("ended after 2020-01-31"), "{}", ran.said);
    assert_eq!(fs::read_to_string(&lock).unwrap(), text);
    let diff = run(root.path(), &["lock", "--diff"]).await;
    assert!(diff.code == 1 && diff.said.contains("and is refused now: "), "{}", diff.said);
}

#[tokio::test]
async fn what_was_asked_for_is_locked_from_the_store_with_the_hub_gone() {
    let hub = Standin::builder().repo(model()).fixtures().start().await;
    let exact = "[[allow]]\nname = \"nested\"\nrepo = \"acme/nested\"\n";
    let gate = locked_gateway(&hub, exact).await;
    for path in [
        "/acme/m/resolve/main/config.json",
        "/acme/tiny/resolve/dev/config.json",
        "/acme/nested/resolve/main/config.json",
    ] {
        assert_eq!(gate.get(path).await.status, 200, "{path}");
        // The tree comes in behind a file.
        assert_eq!(
            gate.get(
                &path.replace("/acme", "/api/models/acme").replace("/resolve/", "/tree/").replace("/config.json", "")
            )
            .await
            .status,
            200
        );
    }
    let (one, dev) = (hub.commit("acme/m", "main"), hub.commit("acme/tiny", "dev"));
    hub.stop().await;
    let ran = run(gate.root.path(), &["lock"]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.said, ran.complaints);
    for line in [
        format!("acme/m@main: locked at {one}"),
        format!("acme/tiny@dev: locked at {dev}"),
        "acme/nested@main: locked at ".into(),
    ] {
        assert!(ran.said.contains(&line), "{}\n{line}", ran.said);
    }
    assert!(
        ran.complaints.contains("acme/m@main: old.txt is locked by its git id; its sha256 is not known: "),
        "{}",
        ran.complaints
    );
    let text = lock_of(&gate);
    assert!(text.contains(&format!("sha256 = \"{}\"", Sha256::of(b"{}"))), "what is stored has its sha256: {text}");
    set_lock(&gate, &text);
    assert_eq!(gate.get("/acme/m/resolve/main/config.json").await.text(), "{}");
    let diff = run(gate.root.path(), &["lock", "--diff", "acme/m"]).await;
    assert!(diff.code == 1 && diff.said.contains("acme/m@main: failed: "), "{}", diff.said);
}

#[tokio::test]
async fn a_bad_lock_ends_the_start_and_leaves_a_running_gateway_as_it_was() {
    let hub = Standin::builder().repo(model()).start().await;
    let gate = locked_gateway(&hub, MIRROR).await;
    assert_eq!(run(gate.root.path(), &["lock"]).await.code, 0);
    let text = lock_of(&gate);
    set_lock(&gate, &text);
    let digest = gate.health().await["policy_sha256"].clone();
    let bad = text.replace("license = ", "licence = ");
    fs::write(gate.root.path().join("models.lock"), &bad).unwrap();
    let policy = fs::read_to_string(gate.policy_file()).unwrap();
    let error = gate.set_policy(&policy).unwrap_err();
    assert!(error.to_string().contains("models.lock:12: licence: unknown field `licence`"), "{error}");
    let health = gate.health().await;
    assert_eq!(health["policy_sha256"], digest);
    assert!(health["policy_error"].as_str().unwrap().contains("models.lock:12: "), "{health}");
    assert_eq!(
        gate.head("/acme/m/resolve/main/config.json").await.header("x-repo-commit"),
        hub.commit("acme/m", "main")
    );
    for arguments in [&["serve"][..], &["check-config"], &["policy", "check"], &["lock"], &["lock", "--diff"]] {
        let ran = run(gate.root.path(), arguments).await;
        assert!(
            ran.code == 2 && ran.complaints.contains("models.lock:12: licence: "),
            "{arguments:?}: {}",
            ran.complaints
        );
    }
    fs::remove_file(gate.root.path().join("models.lock")).unwrap();
    let ran = run(gate.root.path(), &["serve"]).await;
    let told = "policy.lock names this file, and it is not there; write it with `hubgate lock`";
    assert!(ran.code == 2 && ran.complaints.contains(told), "{}", ran.complaints);
    let ran = run(gate.root.path(), &["lock", "--diff"]).await;
    assert!(
        ran.code == 2 && ran.complaints.contains("there is no such file; write it with `hubgate lock`"),
        "{}",
        ran.complaints
    );
    assert!(gate.health().await["policy_error"].is_string());
    assert_eq!(hub.count(Class::Cdn), 0);
}
