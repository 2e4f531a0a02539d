//! Preseeding: jobs asked for by the admin API and by `hubgate preseed`, over real gateways and processes.

use std::{path::Path, process::Output};

use bytes::Bytes;
use http::Method;
use hub_standin::{Class, Content, Fault, FaultKind, NewCommit, Origin, RepoBuilder, Standin};
use serde_json::{Value, json};

use crate::support::{
    client::Client,
    gateway::{POLICY, Setup, TestGateway, eventually},
    process::{Process, hubgate, set_up},
};

const SIZE: u64 = 3_000_000;

/// A repo of a few files, two of them large.
fn repo(id: &str) -> RepoBuilder {
    RepoBuilder::model(id).commit(
        NewCommit::new("one")
            .file("README.md", "---\nlicense: mit\n---\n")
            .file("config.json", format!("{{\"name\": \"{id}\"}}"))
            .file("notes.pkl", "x")
            .lfs("a.safetensors", Content::generated(SIZE + 1, 1))
            .lfs("b.safetensors", Content::generated(SIZE, 2)),
    )
}

/// Configuration: an operator whose token is `hg_otto`, one who may only ask, and jobs that change hands soon.
fn admins() -> String {
    let admin = |name: &str, scope: &str| {
        let sha256 = hubgate::hub::Sha256::of(format!("hg_{name}").as_bytes());
        format!("{{ name = \"{name}\", token_sha256 = \"{sha256}\", scopes = [\"{scope}\"] }}")
    };
    format!(
        "auth.admins = [{}, {}, {}]\njobs.takeover = \"2s\"\njobs.files = 1",
        admin("otto", "operate"),
        admin("rita", "request"),
        admin("aude", "audit")
    )
}

async fn start(hub: &Standin) -> TestGateway {
    Setup::new().config(&admins()).start(hub).await
}

async fn by(client: &Client, name: &str, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let token = format!("Bearer hg_{name}");
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
    let answer = client.send(method, &format!("/-/admin/v1{path}"), &headers, body).await.unwrap();
    (answer.status.as_u16(), answer.json())
}

async fn post(client: &Client, path: &str, body: &Value) -> (u16, Value) {
    by(client, "otto", Method::POST, path, body).await
}

/// Asks for a repo: the job.
async fn preseed(client: &Client, body: Value) -> Value {
    let (status, job) = post(client, "/preseed", &body).await;
    assert_eq!(status, 202, "{job}");
    job
}

async fn show(client: &Client, id: &Value) -> Value {
    let (status, job) =
        by(client, "otto", Method::GET, &format!("/preseed/{}", id.as_str().unwrap()), &Value::Null).await;
    assert_eq!(status, 200, "{job}");
    job
}

/// Waits for a state of a job.
async fn reaches(client: &Client, id: &Value, state: &str) -> Value {
    eventually(&format!("{id} is {state}"), async || {
        let job = show(client, id).await;
        let over = ["done", "failed", "cancelled"].contains(&job["state"].as_str().unwrap());
        assert!(!over || job["state"] == state, "not {state}: {job:#}");
        job["state"] == state
    })
    .await;
    show(client, id).await
}

/// A file of a job.
fn file<'j>(job: &'j Value, path: &str) -> &'j Value {
    let files = job["files"].as_array().unwrap();
    files.iter().find(|file| file["path"] == path).unwrap_or_else(|| panic!("{path}: {job:#}"))
}

/// Lets every download of the named repo stop after a megabyte.
fn stall(hub: &Standin, pattern: &str) -> u64 {
    let stall = FaultKind::StallAfter { bytes: 1_000_000, ms: None };
    hub.fault(Fault::new(stall).path(pattern).origin(Origin::Cdn))
}

/// Waits until a job has bytes of a file that stalls.
async fn has_begun(client: &Client, id: &Value) {
    eventually("the first large file is on its way", async || {
        let job = show(client, id).await;
        job["files"].as_array().unwrap().iter().any(|file| file["state"] == "coming" && file["bytes"] != 0)
    })
    .await;
}

/// `hubgate preseed` with the operator's token.
async fn command(url: &str, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hubgate"));
    command.arg("preseed").args(arguments).args(["--url", url]).env_clear().env("HUBGATE_ADMIN_TOKEN", "hg_otto");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_job_brings_a_repo_in_and_says_so_of_every_file() {
    let hub = Standin::builder().repo(repo("acme/mixed")).start().await;
    let gate = start(&hub).await;
    let asked = preseed(&gate.client, json!({ "repo": "acme/mixed", "exclude": ["b.*"], "priority": 7 })).await;
    assert_eq!((&asked["kind"], &asked["revision"], &asked["priority"]), (&json!("model"), &json!("main"), &json!(7)));
    assert_eq!((&asked["asked_by"], &asked["attempt"]), (&json!("otto"), &json!(1)));
    let job = reaches(&gate.client, &asked["id"], "done").await;
    assert_eq!(job["commit"], hub.commit("acme/mixed", "main"));
    assert_eq!((&job["licence"], &job["rule"], &job["reason"]), (&json!("mit"), &json!("acme"), &Value::Null));
    assert_eq!((&job["files_total"], &job["files_done"]), (&json!(3), &json!(3)));
    assert_eq!(job["bytes_done"], job["bytes_total"]);
    // What was read for the repos that it names came before its turn.
    assert!(job["bytes_fetched"].as_u64().unwrap() > SIZE, "{job:#}");
    assert_eq!(file(&job, "a.safetensors")["state"], "fetched");
    assert_eq!(file(&job, "b.safetensors")["state"], "excluded");
    assert_eq!(file(&job, "notes.pkl")["state"], "withheld");
    assert!(file(&job, "notes.pkl")["reason"].as_str().unwrap().contains("*.pkl"), "{job:#}");

    hub.reset_counters();
    let served = gate.get("/acme/mixed/resolve/main/a.safetensors").await;
    assert!(served.body == hub.bytes("acme/mixed", "main", "a.safetensors"));
    assert_eq!(hub.count(Class::Resolve) + hub.count(Class::Cdn), 0);

    let (status, list) = by(&gate.client, "aude", Method::GET, "/preseed", &Value::Null).await;
    assert_eq!(status, 200);
    assert_eq!((&list["jobs"][0]["id"], &list["jobs"][0]["state"]), (&asked["id"], &json!("done")));
    assert_eq!(list["jobs"][0]["files"], json!([]), "a list does without");
    let (_, audit) = by(&gate.client, "aude", Method::GET, "/audit?what=preseed", &Value::Null).await;
    let entry = &audit["entries"][0];
    assert_eq!(
        (&entry["who"], &entry["what"], &entry["subject"]),
        (&json!("otto"), &json!("preseed.ask"), &json!("acme/mixed"))
    );
    assert_eq!(entry["details"]["job"], asked["id"]);
    gate.stop().await;
}

#[tokio::test]
async fn the_same_request_is_the_same_job_and_once_over_it_looks_for_what_is_new() {
    let hub = Standin::builder().repo(repo("acme/mixed")).start().await;
    let gate = start(&hub).await;
    let held = stall(&hub, "acme/mixed/a.safetensors");
    let first = preseed(&gate.client, json!({ "repo": "acme/mixed", "exclude": ["x", "b.*"] })).await;
    let second = preseed(&gate.client, json!({ "repo": "ACME/mixed", "kind": "model", "exclude": ["b.*", "x"] })).await;
    assert_eq!((&second["id"], &second["attempt"]), (&first["id"], &json!(1)));
    let other = preseed(&gate.client, json!({ "repo": "acme/mixed", "include": ["b.*"] })).await;
    assert_ne!(other["id"], first["id"]);
    reaches(&gate.client, &other["id"], "done").await;
    hub.clear_fault(held);
    reaches(&gate.client, &first["id"], "done").await;

    hub.push("acme/mixed", "main", NewCommit::new("two").file("new.json", "{\"new\": 1}"));
    let again = preseed(&gate.client, json!({ "repo": "acme/mixed", "exclude": ["b.*", "x"] })).await;
    assert_eq!((&again["id"], &again["attempt"]), (&first["id"], &json!(2)));
    // A branch's commit is held for a minute; only a later look finds the new one.
    let job = reaches(&gate.client, &first["id"], "done").await;
    assert_eq!(job["files_done"], job["files_total"]);
    assert_eq!(hub.counters().file_bytes("acme/mixed/a.safetensors"), SIZE + 1, "a byte crosses once");
    gate.stop().await;
}

#[tokio::test]
async fn bad_input_is_a_clear_answer_and_nothing_is_begun() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = start(&hub).await;
    let cases = [
        (json!({}), 400, "repo"),
        (json!({ "repo": "acme/tiny", "includes": ["x"] }), 400, "includes"),
        (json!({ "repo": "acme/tiny", "kind": "thing" }), 400, "thing"),
        (json!({ "repo": "acme/tiny", "priority": "high" }), 400, "high"),
        (json!({ "repo": "a b" }), 422, "a b"),
        (json!({ "repo": "acme/tiny", "revision": "a..b" }), 422, "a..b"),
        (json!({ "repo": "acme/tiny", "include": ["[x"] }), 422, "[x"),
        (json!({ "repo": "acme/tiny", "priority": 101 }), 422, "101"),
    ];
    for (body, expected, said) in cases {
        let (status, answer) = post(&gate.client, "/preseed", &body).await;
        assert_eq!(status, expected, "{body}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(said), "{body}: {answer}");
    }
    for (path, expected) in
        [("/preseed/..%2Fx", 422), ("/preseed/0123", 422), (&*format!("/preseed/{}", "0".repeat(32)), 404)]
    {
        for (method, path) in [(Method::GET, path.to_owned()), (Method::POST, format!("{path}/cancel"))] {
            let (status, answer) = by(&gate.client, "otto", method, &path, &Value::Null).await;
            assert_eq!(status, expected, "{path}: {answer}");
        }
    }
    let (status, _) = by(&gate.client, "rita", Method::POST, "/preseed", &json!({ "repo": "acme/tiny" })).await;
    assert_eq!(status, 403);
    let (status, _) = by(&gate.client, "aude", Method::POST, "/preseed", &json!({ "repo": "acme/tiny" })).await;
    assert_eq!(status, 403, "who audits changes nothing");
    let (_, list) = by(&gate.client, "otto", Method::GET, "/preseed", &Value::Null).await;
    assert_eq!(list, json!({ "jobs": [] }));
    gate.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_stops_within_seconds_and_a_retry_fetches_the_rest_only() {
    let hub = Standin::builder().repo(repo("acme/mixed")).start().await;
    let gate = start(&hub).await;
    let held = stall(&hub, "acme/mixed/b.safetensors");
    let asked = preseed(&gate.client, json!({ "repo": "acme/mixed" })).await;
    let id = asked["id"].as_str().unwrap().to_owned();
    eventually("the second file is on its way", async || {
        let job = show(&gate.client, &asked["id"]).await;
        job["files"].as_array().unwrap().iter().any(|file| file["path"] == "b.safetensors" && file["bytes"] != 0)
    })
    .await;
    let (status, early) = post(&gate.client, &format!("/preseed/{id}/retry"), &Value::Null).await;
    assert_eq!(status, 409, "{early}");
    let (status, cancelled) = post(&gate.client, &format!("/preseed/{id}/cancel"), &Value::Null).await;
    assert_eq!((status, &cancelled["state"]), (200, &json!("cancelled")));
    gate.wait_until_idle().await;
    assert_eq!(post(&gate.client, &format!("/preseed/{id}/cancel"), &Value::Null).await.0, 409);
    hub.clear_fault(held);
    hub.reset_counters();
    let (status, retried) = post(&gate.client, &format!("/preseed/{id}/retry"), &Value::Null).await;
    assert_eq!((status, &retried["attempt"]), (202, &json!(2)));
    let job = reaches(&gate.client, &asked["id"], "done").await;
    assert_eq!(file(&job, "a.safetensors")["state"], "stored");
    assert_eq!(hub.counters().file_bytes("acme/mixed/a.safetensors"), 0);
    assert_eq!(post(&gate.client, &format!("/preseed/{id}/retry"), &Value::Null).await.0, 409, "it is done");
    gate.stop().await;
}

#[tokio::test]
async fn a_job_that_policy_refuses_fails_with_policys_words_and_asks_nothing_upstream() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = start(&hub).await;
    let asked = preseed(&gate.client, json!({ "repo": "other/x" })).await;
    let job = reaches(&gate.client, &asked["id"], "failed").await;
    let reason = job["reason"].as_str().unwrap();
    assert!(reason.contains("no allow rule names the model other/x") && reason.contains("ask@example.com"), "{reason}");
    assert_eq!(hub.requests("other/x*").len(), 0);

    let absent = preseed(&gate.client, json!({ "repo": "acme/absent" })).await;
    let job = reaches(&gate.client, &absent["id"], "failed").await;
    assert!(job["reason"].as_str().unwrap().contains("not found"), "{job}");
    gate.stop().await;
}

#[tokio::test]
async fn a_repo_that_is_denied_or_withdrawn_while_its_job_runs_fails_it_at_the_next_file() {
    for how in ["by the policy folder", "by an admin"] {
        let hub = Standin::builder().repo(repo("acme/mixed")).start().await;
        let gate = start(&hub).await;
        let held = stall(&hub, "acme/mixed/a.safetensors");
        let asked = preseed(&gate.client, json!({ "repo": "acme/mixed" })).await;
        has_begun(&gate.client, &asked["id"]).await;
        if how == "by an admin" {
            let body = json!({ "repo": "acme/mixed", "reason": "withdrawn in November" });
            assert_eq!(post(&gate.client, "/withdrawals", &body).await.0, 201);
        } else {
            let deny = "[[deny]]\nrepo = \"acme/mixed\"\nreason = \"withdrawn in November\"\n";
            gate.set_policy(&format!("{POLICY}{deny}")).unwrap();
        }
        hub.clear_fault(held);
        let job = reaches(&gate.client, &asked["id"], "failed").await;
        assert!(job["reason"].as_str().unwrap().contains("withdrawn in November"), "{how}: {job:#}");
        assert_eq!(file(&job, "b.safetensors")["state"], "failed", "{how}");
        assert_eq!(hub.counters().file_bytes("acme/mixed/b.safetensors"), 0, "{how}");
        gate.stop().await;
    }
}

#[tokio::test]
async fn killed_in_the_middle_a_job_is_taken_up_after_the_restart() {
    let hub = Standin::builder().repo(repo("acme/mixed")).start().await;
    let root = set_up(&hub, &admins());
    let process = Process::start(root.path()).await;
    let held = stall(&hub, "acme/mixed/b.safetensors");
    let asked = preseed(&process.client, json!({ "repo": "acme/mixed" })).await;
    eventually("the first large file is stored", async || {
        let job = show(&process.client, &asked["id"]).await;
        job["files"].as_array().unwrap().iter().any(|file| file["path"] == "b.safetensors" && file["bytes"] != 0)
    })
    .await;
    process.kill().await;
    hub.clear_fault(held);
    hub.reset_counters();

    let process = Process::start(root.path()).await;
    let job = reaches(&process.client, &asked["id"], "done").await;
    assert_eq!(job["attempt"], 1, "nobody had to ask again");
    assert_eq!(file(&job, "a.safetensors")["state"], "stored");
    assert_eq!(hub.counters().file_bytes("acme/mixed/a.safetensors"), 0, "only what is missing");
    // What was held back from the process that died may be counted with it.
    assert!((SIZE..2 * SIZE).contains(&hub.counters().file_bytes("acme/mixed/b.safetensors")), "fetched once");
    process.kill().await;
    let verified = hubgate(root.path(), &["verify"]).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified.stdout));
}

#[tokio::test]
async fn told_to_stop_a_replica_gives_its_job_to_another_at_once() {
    let hub = Standin::builder().repo(repo("acme/mixed")).start().await;
    let one = Setup::new().config(&admins()).config("jobs.takeover = \"1h\"").start(&hub).await;
    let held = stall(&hub, "acme/mixed/a.safetensors");
    let asked = preseed(&one.client, json!({ "repo": "acme/mixed" })).await;
    has_begun(&one.client, &asked["id"]).await;
    let root = one.stop().await;
    hub.clear_fault(held);
    let two = Setup::new().config(&admins()).config("jobs.takeover = \"1h\"").on(&root).start(&hub).await;
    reaches(&two.client, &asked["id"], "done").await;
    two.stop().await;
}

#[tokio::test]
async fn of_two_gateways_on_one_store_one_runs_a_job_and_both_know_and_cancel_it() {
    let hub = Standin::builder().repo(repo("acme/mixed")).repo(repo("acme/other")).start().await;
    let root = set_up(&hub, &admins());
    let (one, two) = tokio::join!(Process::start(root.path()), Process::start(root.path()));
    let held = stall(&hub, "acme/mixed/a.safetensors");
    let asked = preseed(&one.client, json!({ "repo": "acme/mixed" })).await;
    let seen = reaches(&two.client, &asked["id"], "running").await;
    eventually("the other one tells of its files, too", async || {
        let job = show(&two.client, &asked["id"]).await;
        job["files"].as_array().unwrap().iter().any(|file| file["state"] == "coming")
    })
    .await;
    let (status, _) =
        post(&two.client, &format!("/preseed/{}/cancel", seen["id"].as_str().unwrap()), &Value::Null).await;
    assert_eq!(status, 200);
    eventually("the runner stops", async || one.log().contains("job ended")).await;
    assert_eq!(show(&one.client, &asked["id"]).await["state"], "cancelled");
    hub.clear_fault(held);

    // The runner dies for good; the other one takes its job up.
    let held = stall(&hub, "acme/other/a.safetensors");
    let asked = preseed(&one.client, json!({ "repo": "acme/other" })).await;
    has_begun(&one.client, &asked["id"]).await;
    let first = show(&one.client, &asked["id"]).await["runner"].clone();
    one.kill().await;
    hub.clear_fault(held);
    let job = reaches(&two.client, &asked["id"], "done").await;
    assert_ne!(job["runner"], first);
    assert_eq!(job["attempt"], 1);
    two.kill().await;
}

#[tokio::test]
async fn no_more_jobs_run_at_once_than_are_allowed_and_the_highest_priority_goes_first() {
    let hub = Standin::builder().repo(repo("acme/one")).repo(repo("acme/two")).repo(repo("acme/three")).start().await;
    let gate = Setup::new().config(&admins()).config("jobs.concurrency = 1").start(&hub).await;
    let held = stall(&hub, "acme/one/a.safetensors");
    let one = preseed(&gate.client, json!({ "repo": "acme/one" })).await;
    has_begun(&gate.client, &one["id"]).await;
    let two = preseed(&gate.client, json!({ "repo": "acme/two", "priority": -1 })).await;
    let three = preseed(&gate.client, json!({ "repo": "acme/three", "priority": 5 })).await;
    assert_eq!((&two["state"], &three["state"]), (&json!("queued"), &json!("queued")));
    hub.clear_fault(held);
    let (two, three) =
        (reaches(&gate.client, &two["id"], "done").await, reaches(&gate.client, &three["id"], "done").await);
    let began = |job: &Value| job["started_at"].as_str().unwrap().to_owned();
    assert!(began(&three) < began(&two), "{} {}", began(&three), began(&two));
    gate.stop().await;
}

/// An adapter that names a base, whose remote code lies elsewhere.
fn family() -> Vec<RepoBuilder> {
    let readme = |base: &str| format!("---\nlicense: mit\n{base}---\n");
    let with = |id: &str, base: &str, name: &str, json: Value| {
        let commit = NewCommit::new("one").file("README.md", readme(base)).file(name, json.to_string());
        RepoBuilder::model(id).commit(commit.lfs("model.safetensors", Content::generated(1000, 7)))
    };
    let code = "acme/code--modeling.Model";
    vec![
        with(
            "acme/adapter",
            "base_model: far/away\n",
            "adapter_config.json",
            json!({"base_model_name_or_path": "acme/base"}),
        ),
        with("acme/base", "", "config.json", json!({"auto_map": {"AutoModel": code, "AutoConfig": code}})),
        with("acme/code", "", "config.json", json!({"_name_or_path": "acme/evil"})),
        with("acme/evil", "", "config.json", json!({})),
        with("far/away", "", "config.json", json!({})),
    ]
}

#[tokio::test]
async fn what_a_repo_names_beyond_itself_is_one_list_and_nothing_is_asked_of_what_no_rule_names() {
    let hub = family().into_iter().fold(Standin::builder(), hub_standin::Builder::repo).start().await;
    let gate = start(&hub).await;
    let asked = preseed(&gate.client, json!({ "repo": "acme/adapter" })).await;
    let job = reaches(&gate.client, &asked["id"], "done").await;
    let references = job["references"]["repos"].as_array().unwrap();
    let shown: Vec<String> = references
        .iter()
        .map(|one| {
            let by = &one["named_by"][0];
            let texts = [&one["repo"], &one["standing"], &by["repo"], &by["file"], &by["field"]];
            texts.map(|text| text.as_str().unwrap()).join(" ")
        })
        .collect();
    assert_eq!(
        shown,
        [
            "acme/base allowed acme/adapter adapter_config.json base_model_name_or_path",
            "far/away denied acme/adapter README.md base_model",
            "acme/code allowed acme/base config.json auto_map.AutoConfig",
            "acme/evil denied acme/code config.json _name_or_path",
        ]
    );
    assert_eq!(references[2]["named_by"].as_array().unwrap().len(), 2, "each repo stands once: {references:#?}");
    assert_eq!((&references[0]["licence"], &references[1]["licence"]), (&json!("mit"), &Value::Null));
    assert!(references[0]["bytes"].as_u64().unwrap() > 1000, "{references:#?}");
    assert!(references[1]["why"].as_str().unwrap().contains("no allow rule names the model far/away"));
    assert!(references[3]["why"].as_str().unwrap().contains("Content policy 4.2"));
    assert_eq!(job["references"]["unread"], json!([]));
    for denied in ["far/away", "acme/evil"] {
        assert_eq!(hub.requests(&format!("{denied}*")).len(), 0, "{denied}");
    }
    assert_eq!(hub.counters().file_bytes("acme/base/model.safetensors"), 0, "what is named is not fetched for it");
    gate.stop().await;
}

#[tokio::test]
async fn the_command_line_asks_shows_and_ends_with_the_right_code() {
    let repos = family().into_iter().chain([repo("acme/mixed")]);
    let hub = repos.fold(Standin::builder(), hub_standin::Builder::repo).start().await;
    let gate = start(&hub).await;
    let done = command(&gate.url, &["acme/mixed@main", "--exclude", "b.*"]).await;
    let (out, err) = (text(&done.stdout), text(&done.stderr));
    assert_eq!(done.status.code(), Some(0), "{out}{err}");
    assert!(
        out.starts_with("acme/mixed@main ") && out.contains(": done, 3 files") && out.contains("rule acme"),
        "{out}"
    );
    assert!(err.contains("acme/mixed@main: done, 3 of 3 files"), "plain lines where there is no terminal: {err}");
    assert!(!err.contains('\r') && !err.contains('\u{1b}'), "{err:?}");

    let named = command(&gate.url, &["acme/adapter"]).await;
    let out = text(&named.stdout);
    assert!(
        out.contains("names beyond itself:") && out.contains("acme/base@main (acme/adapter adapter_config.json"),
        "{out}"
    );
    assert!(out.contains("): allowed, licence mit,") && out.contains("): denied: "), "{out}");

    let json = command(&gate.url, &["acme/mixed", "--json"]).await;
    let job: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((json.status.code(), &job["state"], &job["files_done"]), (Some(0), &json!("done"), &json!(4)));

    let refused = command(&gate.url, &["other/x"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stdout).contains("other/x@main: failed: "), "{}", text(&refused.stdout));
    assert!(text(&refused.stdout).contains("no allow rule names the model other/x"));
    gate.stop().await;
}

#[tokio::test]
async fn the_command_line_says_what_it_needs_and_what_the_gateway_says() {
    let hub = Standin::builder().repo(repo("acme/mixed")).start().await;
    let gate = Setup::new().config(&admins()).config("jobs.concurrency = 0").start(&hub).await;
    let unheard = command(&gate.url, &["acme/mixed", "--no-wait"]).await;
    assert_eq!(unheard.status.code(), Some(0), "{}", text(&unheard.stderr));
    assert!(text(&unheard.stdout).contains(": queued"), "{}", text(&unheard.stdout));
    let bad_glob = command(&gate.url, &["acme/mixed", "--include", "[x"]).await;
    assert_eq!(bad_glob.status.code(), Some(2));
    assert!(text(&bad_glob.stderr).contains("[x"), "{}", text(&bad_glob.stderr));
    assert_eq!(command(&gate.url, &["a b"]).await.status.code(), Some(2));

    let token_file = gate.root.path().join("token");
    std::fs::write(&token_file, "hg_rita\n").unwrap();
    let rita = run(gate.root.path(), &["acme/mixed", "--url", &gate.url, "--token-file", "token"], &[]).await;
    assert_eq!(rita.status.code(), Some(1));
    assert!(text(&rita.stderr).contains("rita lacks the scope operate"), "{}", text(&rita.stderr));
    for (variables, said) in [
        (vec![("HUBGATE_ADMIN_TOKEN", "hg_otto")], "HUBGATE_ADMIN_URL"),
        (vec![("HUBGATE_ADMIN_URL", gate.url.as_str())], "HUBGATE_ADMIN_TOKEN"),
    ] {
        let output = run(gate.root.path(), &["acme/mixed"], &variables).await;
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
    }
    gate.stop().await;
}

/// `hubgate preseed` in a folder, with these variables alone.
async fn run(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hubgate"));
    command.arg("preseed").args(arguments).current_dir(folder).env_clear().envs(variables.iter().copied());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}
