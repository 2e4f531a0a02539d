//! `hubgate sync`, the program: what the plain mirror did, and that it is never half done.

mod stopped;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use hub_standin::{Class, Content, Fault, FaultKind, NewCommit, Origin, RepoBuilder, Standin};
use hubgate::store::{self, LocalConfig, SpoolConfig, StoreConfig};
use serde_json::Value;

use crate::support::{
    process::{Process, hubgate, set_up},
    proxy::{Proxy, ProxyConfig},
    s3::S3sServer,
};

const BIG: u64 = 24 << 20;

/// What a run came to.
struct Ran {
    code: i32,
    said: String,
    complaints: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.said).unwrap_or_else(|error| panic!("{error}: {}{}", self.said, self.complaints))
    }
}

async fn run(mut command: Command) -> Ran {
    command.stdin(Stdio::null());
    let output = tokio::process::Command::from(command).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), said: text(output.stdout), complaints: text(output.stderr) }
}

/// `hubgate sync` in `root`, as [`set_up`] made it.
fn sync(root: &Path, arguments: &[&str]) -> Command {
    let mut command = hubgate(root, &[&["sync"], arguments].concat());
    command.current_dir(root);
    command
}

async fn synced(root: &Path, arguments: &[&str]) -> Ran {
    run(sync(root, arguments)).await
}

async fn all_is_well(root: &Path) {
    let verified = run(hubgate(root, &["verify"])).await;
    assert_eq!(verified.code, 0, "{}{}", verified.said, verified.complaints);
}

/// Every file below a folder with its bytes, and every folder.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
            found.insert(path, None);
        } else {
            let body = fs::read(&path).unwrap();
            found.insert(path, Some(body));
        }
    }
    found
}

/// When each file and folder below a folder was last changed in any way, itself too: a file that came and went shows.
fn changes(folder: &Path) -> BTreeMap<PathBuf, (i64, i64)> {
    let when = |path: &Path| {
        let metadata = path.metadata().unwrap();
        (metadata.ctime(), metadata.ctime_nsec())
    };
    let below = contents(folder).into_keys().map(|path| (path.clone(), when(&path)));
    below.chain([(folder.to_owned(), when(folder))]).collect()
}

/// Requests for files.
fn fetched_files(hub: &Standin) -> u64 {
    hub.count(Class::Resolve) + hub.count(Class::ResolveCache) + hub.count(Class::Cdn)
}

/// A repo with one large file and some small ones.
fn big() -> RepoBuilder {
    let mut commit = NewCommit::new("one").file("README.md", "---\nlicense: mit\n---\n");
    for n in 0..5 {
        commit = commit.file(format!("part-{n}.json"), format!("{{\"part\": {n}}}"));
    }
    RepoBuilder::model("acme/big").commit(commit.lfs("model.safetensors", Content::generated(BIG, 7)))
}

#[tokio::test]
async fn what_is_missing_is_fetched_once_recorded_and_written_as_csv() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    let repos = ["--repo", "acme/tiny", "--repo", "datasets/acme/table@main"];
    let first = synced(root.path(), &repos).await;
    assert_eq!(first.code, 0, "{}{}", first.said, first.complaints);
    assert!(
        first.said.contains("acme/tiny@main ") && first.said.contains("datasets/acme/table@main "),
        "{}",
        first.said
    );
    assert!(first.complaints.contains("acme/tiny@main model.safetensors: fetched (21.9 KiB)"), "{}", first.complaints);
    let csv = fs::read_to_string(root.path().join("data/manifest.csv")).unwrap();
    assert!(csv.starts_with("repo,revision,sha256,size,license,"), "{csv}");
    let sha256 = hub.sha256("acme/tiny", "main", "model.safetensors");
    assert!(csv.lines().any(|line| line.starts_with(&format!("acme/tiny,main,{sha256},22472,apache-2.0,"))), "{csv}");
    assert!(csv.contains("datasets/acme/table,main,") && csv.contains(",sync,"), "{csv}");
    all_is_well(root.path()).await;

    hub.reset_counters();
    let second = synced(root.path(), &repos).await;
    assert_eq!(second.code, 0, "{}{}", second.said, second.complaints);
    assert!(second.said.contains("total: fetched 0 files"), "{}", second.said);
    assert_eq!(fetched_files(&hub), 0, "{:?}", hub.counters().paths);
    assert_eq!(fs::read_to_string(root.path().join("data/manifest.csv")).unwrap(), csv);

    // A branch that has moved: only what is new.
    hub.push("acme/tiny", "main", NewCommit::new("two").file("new.json", "{\"new\": 1}"));
    let third = synced(root.path(), &[&repos[..], &["--set", "upstream.ref_ttl=0s", "--json"]].concat()).await;
    assert_eq!(third.code, 0, "{}", third.complaints);
    let repo = &third.json()["repos"][0];
    assert_eq!((&repo["fetched"]["files"], &repo["state"]), (&1.into(), &"complete".into()), "{repo:#}");
    assert_eq!(repo["commit"], hub.commit("acme/tiny", "main"));
}

#[tokio::test]
async fn a_dry_run_says_all_of_it_and_changes_not_one_byte() {
    let hub = Standin::builder().fixtures().repo(big()).start().await;
    let root = set_up(&hub, "");
    let arguments = ["--dry-run", "--repo", "acme/tiny", "--repo", "acme/noncommercial", "--repo", "acme/big"];
    let before = contents(root.path());
    let dry = synced(root.path(), &[&arguments[..], &["--exclude", "part-*"]].concat()).await;
    assert_eq!(dry.code, 1, "one is refused: {}", dry.said);
    assert_eq!(contents(root.path()), before, "not even the store's folder is made");
    for said in [
        "acme/tiny@main ",
        "licence apache-2.0 (",
        "  fetch       21.9 KiB  model.safetensors",
        "acme/noncommercial@main: refused: Blocked by hubgate policy",
        "cc-by-nc-4.0",
        "left out 5 files",
        "refused or not whole: acme/noncommercial@main",
        "total: to fetch ",
    ] {
        assert!(dry.said.contains(said), "{said:?} is not in {}", dry.said);
    }

    // Over a store that has something.
    assert_eq!(synced(root.path(), &["--repo", "acme/tiny"]).await.code, 0);
    let store = root.path().join("store");
    let (before, unchanged) = (contents(&store), changes(&store));
    let csv = fs::read(root.path().join("data/manifest.csv")).unwrap();
    let dry = synced(root.path(), &["--dry-run", "--json", "--repo", "acme/tiny", "--repo", "acme/big"]).await;
    assert_eq!(dry.code, 0, "{}", dry.complaints);
    assert_eq!((contents(&store), changes(&store)), (before, unchanged));
    assert_eq!(fs::read(root.path().join("data/manifest.csv")).unwrap(), csv);
    let said = dry.json();
    assert_eq!((&said["dry_run"], &said["repos"][0]["plan"]["missing"]["files"]), (&true.into(), &0.into()));
    assert_eq!(said["repos"][1]["plan"]["missing"]["files"], 7);
    assert!(said["total"]["to_fetch"]["bytes"].as_u64().unwrap() > BIG, "{said:#}");
    assert_eq!(hub.counters().file_bytes("acme/big/model.safetensors"), 0);

    // Over one that was copied here, without what processes leave in a directory that they share.
    fs::remove_dir(store.join(".staging")).unwrap();
    fs::remove_file(store.join(".in-use")).unwrap();
    let before = changes(&store);
    let dry = synced(root.path(), &["--dry-run", "--repo", "acme/tiny"]).await;
    assert_eq!((dry.code, changes(&store)), (0, before), "{}", dry.complaints);
    // Over one that gc has for itself.
    let config = StoreConfig { local: LocalConfig { path: store.clone() }, ..StoreConfig::default() };
    let alone = store::build(&config, &SpoolConfig::default(), "gc").await.unwrap();
    alone.take_alone().await.unwrap();
    let dry = synced(root.path(), &["--dry-run", "--repo", "acme/tiny"]).await;
    assert!(
        dry.code == 1 && dry.complaints.contains("for itself; start again when it has ended"),
        "{}",
        dry.complaints
    );
}

#[tokio::test]
async fn what_is_refused_or_fails_is_exit_1_and_named_and_the_rest_goes_on() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    hub.fault(Fault::new(FaultKind::FlipByte { at: 5 }).path("acme/copy/model.safetensors"));
    let repos = ["other/x", "acme/no-license", "acme/absent", "acme/tiny@nowhere", "acme/copy", "datasets/acme/table"];
    let arguments: Vec<&str> = repos.iter().flat_map(|repo| ["--repo", repo]).collect();
    let ran = synced(root.path(), &arguments).await;
    assert_eq!(ran.code, 1);
    for said in [
        "other/x@main: refused: Blocked by hubgate policy: no allow rule names the model other/x",
        "acme/no-license@main: refused: Blocked by hubgate policy (rule acme)",
        "acme/absent@main: failed: acme/absent: repository not found",
        "acme/tiny@nowhere: failed: acme/tiny: invalid rev id: nowhere",
        "failed 1 file",
        "  failed    model.safetensors: ",
        "refused or not whole: other/x@main, acme/no-license@main, acme/absent@main, acme/tiny@nowhere, acme/copy@main\n",
    ] {
        assert!(ran.said.contains(said), "{said:?} is not in {}", ran.said);
    }
    let csv = fs::read_to_string(root.path().join("data/manifest.csv")).unwrap();
    assert!(csv.contains("datasets/acme/table,main,") && csv.contains(",README.md,"), "{csv}");
    all_is_well(root.path()).await;
    let json = synced(root.path(), &["--json", "--repo", "other/x"]).await.json();
    assert_eq!((&json["ok"], &json["repos"][0]["state"]), (&false.into(), &"refused".into()));
}

#[tokio::test]
async fn nothing_comes_in_while_a_withdrawal_can_not_be_read() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    let withdrawals = root.path().join("store/withdrawals");
    fs::create_dir_all(&withdrawals).unwrap();
    fs::write(withdrawals.join("20261124T120000Z-0011223344.json"), "{").unwrap();
    let ran = synced(root.path(), &["--repo", "acme/tiny"]).await;
    assert_eq!((ran.code, fetched_files(&hub)), (1, 0), "{}", ran.complaints);
    assert!(ran.complaints.contains("withdrawals/20261124T120000Z-0011223344.json"), "{}", ran.complaints);
    fs::remove_dir_all(&withdrawals).unwrap();
    assert_eq!(synced(root.path(), &["--repo", "acme/tiny"]).await.code, 0);
}

#[tokio::test]
async fn what_can_not_be_done_at_all_is_said_in_a_line() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    let nothing = synced(root.path(), &[]).await;
    assert_eq!(nothing.code, 2);
    assert!(nothing.complaints.contains("there is no repo to sync: name them with --repo"), "{}", nothing.complaints);
    let mut command = sync(root.path(), &[]);
    command.env("HF_REPOS", "acme/tiny acme/../x");
    let malformed = run(command).await;
    assert_eq!(malformed.code, 2);
    assert!(malformed.complaints.contains("HF_REPOS: acme/../x: "), "{}", malformed.complaints);
    let glob = synced(root.path(), &["--repo", "acme/tiny", "--exclude", "[x"]).await;
    assert_eq!(glob.code, 2);
    assert!(glob.complaints.contains("--exclude \"[x\": not a glob"), "{}", glob.complaints);

    let refused = hub.fault(Fault::new(FaultKind::TokenRefused));
    let ran = synced(root.path(), &["--repo", "acme/tiny", "--set", "upstream.token=hf_hush"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.said.contains("the Hub refuses our token: renew upstream.token"), "{}", ran.said);
    assert!(!ran.said.contains("hf_hush") && !ran.complaints.contains("hf_hush"));
    hub.clear_fault(refused);
    let ran = synced(root.path(), &["--repo", "acme/tiny", "--set", "upstream.proxy=http://127.0.0.1:9"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.said.contains("failed: ") && ran.said.contains("proxy"), "{}", ran.said);

    // With something here already, an origin that can't be asked is no success either.
    assert_eq!(synced(root.path(), &["--repo", "acme/tiny"]).await.code, 0);
    hub.stop().await;
    let ran = synced(root.path(), &["--repo", "acme/tiny", "--set", "upstream.ref_ttl=0s"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.said.contains("the origin could not be asked"), "{}", ran.said);
}

#[tokio::test]
async fn the_policys_list_says_which_repos_revisions_and_files() {
    let hub = Standin::builder().fixtures().repo(big()).start().await;
    let root = set_up(&hub, "");
    let list = "[[mirror]]\nrepo = \"acme/tiny\"\nrevisions = [\"main\", \"v1.0\"]\ninclude = [\"*.json\"]\n\
                [[mirror]]\nrepo = \"acme/big\"\nexclude = [\"*.safetensors\", \"part-0.json\"]\n";
    fs::write(root.path().join("policy/mirror.toml"), list).unwrap();
    let ran = synced(root.path(), &["--json", "--manifest", "out.csv"]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.said, ran.complaints);
    let said = ran.json();
    let names: Vec<String> = said["repos"]
        .as_array()
        .unwrap()
        .iter()
        .map(|repo| format!("{}@{}", repo["repo"].as_str().unwrap(), repo["revision"].as_str().unwrap()))
        .collect();
    assert_eq!(names, ["acme/tiny@main", "acme/tiny@v1.0", "acme/big@main"]);
    assert_eq!(said["repos"][2]["fetched"]["files"], 5);
    assert_eq!(hub.counters().file_bytes("*.safetensors"), 0);
    let csv = fs::read_to_string(root.path().join("out.csv")).unwrap();
    assert!(csv.contains(",part-1.json,") && !csv.contains(",part-0.json,") && !csv.contains("safetensors"), "{csv}");
    let check = run(hubgate(root.path(), &["policy", "check"])).await;
    assert!(check.code == 0 && !check.said.contains("mirror"), "{}", check.said);
    fs::write(root.path().join("policy/mirror.toml"), "[[mirror]]\nrepo = \"other/x\"\n").unwrap();
    let check = run(hubgate(root.path(), &["policy", "check"])).await;
    assert!(check.said.contains("mirror.toml:1: warning: mirror other/x: sync will refuse it"), "{}", check.said);
}

#[tokio::test]
async fn the_plain_mirrors_env_file_is_enough_from_the_hub_through_the_proxy_to_the_bucket() {
    let hub = Standin::builder().fixtures().hosts("hub.test", "cdn.hub.test").start().await;
    let proxy = Proxy::start(ProxyConfig::default()).await;
    let s3 = S3sServer::start().await;
    let bucket = s3.config();
    let root = tempfile::tempdir().unwrap();
    let secret = "test-secret";
    let env = format!(
        "# the plain mirror's\nHF_TOKEN={}\nHF_REPOS=\"acme/tiny, datasets/acme/table@main acme/gated\"\n\
         MINIO_ENDPOINT={}\nMINIO_ACCESS_KEY=test-key\nMINIO_SECRET_KEY='{secret}'\nMINIO_BUCKET={}\n\
         LICENSE_ALLOWLIST=Apache-2.0,cc-by-4.0\nHTTP_PROXY={}\nHTTPS_PROXY=${{HTTP_PROXY}}\nNO_PROXY=localhost\n",
        hub.token(),
        bucket.endpoint.as_deref().unwrap().trim_start_matches("http://"),
        bucket.bucket,
        proxy.url(),
    );
    let in_root = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hubgate"));
        command.args(arguments).current_dir(root.path()).env_clear();
        command.env("HUBGATE_UPSTREAM__ENDPOINT", hub.hub_url());
        let cdn = format!("[\"cdn.hub.test:{}\"]", hub.cdn_address().port());
        command.env("HUBGATE_UPSTREAM__ALLOWED_HOSTS", cdn);
        command
    };
    fs::write(root.path().join(".env"), &env).unwrap();
    for command in [&["sync"][..], &["check-config"], &["verify"], &["policy", "check"]] {
        let malformed = run(in_root(command)).await;
        assert_eq!(malformed.code, 2, "{command:?}");
        assert_eq!(
            malformed.complaints.trim(),
            "hubgate: .env: line 10: HTTPS_PROXY has a $, and nothing is put in for \
                    $NAME here: write the value in single quotes"
        );
    }
    fs::write(root.path().join(".env"), env.replace("${HTTP_PROXY}", &proxy.url())).unwrap();
    let shown = run(in_root(&["check-config"])).await;
    assert_eq!(shown.code, 0, "{}", shown.complaints);
    assert!(shown.said.contains("bucket = \"models\"") && !shown.said.contains(secret), "{}", shown.said);

    let dry = run(in_root(&["sync", "--dry-run"])).await;
    assert_eq!(dry.code, 1, "the gated one is refused: {}{}", dry.said, dry.complaints);
    let left: Vec<_> = contents(root.path()).into_keys().collect();
    assert_eq!(left, [root.path().join(".env")], "not even the spool's folder is made");
    hub.reset_counters();
    let asked_dry = proxy.asked().len();

    let ran = run(in_root(&["sync"])).await;
    assert_eq!(ran.code, 1, "the gated one is refused: {}{}", ran.said, ran.complaints);
    assert!(ran.said.contains("refused or not whole: acme/gated@main\n"), "{}{}", ran.said, ran.complaints);
    assert!(!ran.said.contains(secret) && !ran.complaints.contains(secret) && !ran.said.contains(&hub.token()));
    let csv = fs::read_to_string(root.path().join("data/manifest.csv")).unwrap();
    assert!(csv.contains("acme/tiny,main,") && csv.contains("datasets/acme/table,main,"), "{csv}");
    // The bucket is reached directly, the Hub through the proxy alone.
    let asked = proxy.asked().len() - asked_dry;
    assert_eq!(u64::try_from(asked).unwrap(), hub.counters().requests, "{:#?}", proxy.asked());
    assert!(hub.requests("GET /acme/tiny/*").iter().any(|asked| asked.header("authorization").is_some()));
    let verified = run(in_root(&["verify"])).await;
    assert_eq!(verified.code, 0, "{}{}", verified.said, verified.complaints);

    // The real environment wins.
    let mut command = in_root(&["sync", "--dry-run", "--json"]);
    command.env("HF_REPOS", "acme/copy");
    let said = run(command).await.json();
    assert_eq!(said["repos"].as_array().unwrap().len(), 1);
    assert_eq!(said["repos"][0]["repo"], "acme/copy");
}

#[tokio::test]
async fn beside_a_running_gateway_it_fills_the_same_store() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    let process = Process::start(root.path()).await;
    let ran = synced(root.path(), &["--repo", "acme/tiny"]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.said, ran.complaints);
    let expected = hub.bytes("acme/tiny", "main", "model.safetensors");
    hub.reset_counters();
    let answer = process.client.get("/acme/tiny/resolve/main/model.safetensors").await.unwrap();
    assert!(answer.status == 200 && answer.body == expected);
    assert_eq!(hub.count(Class::Cdn), 0, "it was here");
    process.kill().await;
    all_is_well(root.path()).await;
}

#[tokio::test]
async fn two_at_once_do_no_harm() {
    let hub = Standin::builder().fixtures().repo(big()).start().await;
    let root = set_up(&hub, "");
    let arguments = ["--repo", "acme/big", "--repo", "acme/tiny", "--repo", "acme/copy"];
    let (one, two) = tokio::join!(synced(root.path(), &arguments), synced(root.path(), &arguments));
    for ran in [one, two] {
        assert_eq!(ran.code, 0, "{}{}", ran.said, ran.complaints);
    }
    all_is_well(root.path()).await;
    let csv = fs::read_to_string(root.path().join("data/manifest.csv")).unwrap();
    assert_eq!(csv.lines().filter(|line| line.contains("acme/big,main,")).count(), 7, "{csv}");
}

#[tokio::test]
async fn what_publish_names_is_copied_when_it_is_whole_unless_the_hook_says_no() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "publish.prefix = \"mirrors\"\npublish.repos = [\"acme/tiny\", \"acme/copy\"]");
    let ran = synced(root.path(), &["--repo", "acme/tiny"]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.said, ran.complaints);
    assert!(ran.said.contains("  published acme/tiny: "), "{}", ran.said);
    let copies = root.path().join("store/mirrors/acme");
    let expected = hub.bytes("acme/tiny", "main", "model.safetensors");
    assert_eq!(fs::read(copies.join("tiny/model.safetensors")).unwrap(), expected);
    assert!(copies.join("tiny/.hubgate-commit").exists() && !copies.join("copy").exists());

    let refusing = ["--set", "hooks.commit_complete=[\"/bin/false\"]"];
    let ran = synced(root.path(), &[&["--repo", "acme/copy"], &refusing[..]].concat()).await;
    assert_eq!(ran.code, 1, "{}{}", ran.said, ran.complaints);
    assert!(ran.said.contains("acme/copy not published: "), "{}", ran.said);
    assert!(!copies.join("copy").exists());
}

#[tokio::test]
async fn a_dry_run_lists_what_a_repo_names_beyond_itself_and_stores_nothing_for_it() {
    let adapter = NewCommit::new("one").file("README.md", "---\nlicense: mit\n---\n");
    let adapter = adapter.file("adapter_config.json", "{\"base_model_name_or_path\": \"far/away\"}");
    let hub = Standin::builder().repo(RepoBuilder::model("acme/adapter").commit(adapter)).start().await;
    let root = set_up(&hub, "");
    let ran = synced(root.path(), &["--dry-run", "--repo", "acme/adapter"]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.said, ran.complaints);
    assert!(
        ran.said.contains("names beyond itself:") && ran.said.contains("far/away@main (acme/adapter"),
        "{}",
        ran.said
    );
    assert!(
        ran.said.contains("): denied: Blocked by hubgate policy: no allow rule names the model far/away"),
        "{}",
        ran.said
    );
    let json = synced(root.path(), &["--dry-run", "--json", "--repo", "acme/adapter"]).await.json();
    assert_eq!(json["repos"][0]["references"]["repos"][0]["standing"], "denied", "{json:#}");
    assert_eq!(hub.requests("far/away*").len(), 0);
    assert!(!root.path().join("store").exists(), "a dry run makes no store");
}
