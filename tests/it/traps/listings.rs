//! Info, tree and paths-info: what is there, in the Hub's shapes, with nothing of Xet.

use hub_standin::{Class, Fault, FaultKind};
use serde_json::{Value, json};

use super::world;

/// Every entry of a JSON array by one of its keys.
fn names(list: &Value, key: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|entry| entry[key].as_str().unwrap().to_owned()).collect()
}

/// `siblings` is what 0.x and Rust take the file list from; the ids and sizes come with `blobs` alone.
#[tokio::test]
async fn info_has_the_files_and_with_blobs_their_sizes_and_ids() {
    let (hub, gate) = world().await;
    let plain = gate.get("/api/models/acme/tiny").await;
    let info = plain.json();
    assert_eq!(
        (info["id"].as_str(), info["sha"].as_str()),
        (Some("acme/tiny"), Some(&*hub.commit("acme/tiny", "main")))
    );
    assert_eq!(info["cardData"]["license"], "apache-2.0");
    assert_eq!(plain.header("x-repo-commit"), hub.commit("acme/tiny", "main"));
    let files = names(&info["siblings"], "rfilename");
    assert!(files.contains(&"sub/dir/weights.bin".to_owned()) && files.contains(&"empty.txt".to_owned()), "{files:?}");
    assert!(info["siblings"][0].get("size").is_none());

    for query in ["blobs=true", "blobs=True", "blobs=1&securityStatus=true"] {
        let info = gate.get(&format!("/api/models/acme/tiny/revision/main?{query}")).await.json();
        for sibling in info["siblings"].as_array().unwrap() {
            let file = sibling["rfilename"].as_str().unwrap();
            let bytes = hub.bytes("acme/tiny", "main", file);
            assert_eq!(sibling["size"], bytes.len(), "{query} {file}");
            if let Some(lfs) = sibling.get("lfs") {
                assert_eq!(
                    (&lfs["sha256"], &lfs["size"]),
                    (&json!(hub.sha256("acme/tiny", "main", file)), &json!(bytes.len()))
                );
                assert!(lfs["pointerSize"].is_u64());
            } else {
                assert_eq!(sibling["blobId"], hub.etag("acme/tiny", "main", file), "{query} {file}");
            }
        }
    }
}

/// Trap 46: what a client's `expand` narrows is its answer, not what the licence is read from.
#[tokio::test]
async fn expand_narrows_the_answer_and_not_the_decision() {
    let (_hub, gate) = world().await;
    for query in [
        "expand=gated&expand=downloads",
        "expand[]=gated&expand[]=downloads",
        "expand%5B%5D=gated&expand%5B%5D=downloads",
    ] {
        let info = gate.get(&format!("/api/models/acme/tiny?{query}")).await;
        let mut keys: Vec<String> = info.json().as_object().unwrap().keys().cloned().collect();
        keys.sort();
        assert_eq!(keys, ["_id", "downloads", "gated", "id"], "{query}");
        let refused = gate.get(&format!("/api/models/acme/no-license?{query}")).await;
        assert_eq!(refused.status, 403, "{query}");
    }
    let files = gate.get("/api/models/acme/tiny?expand=siblings&expand=sha").await.json();
    assert!(!files["siblings"].as_array().unwrap().is_empty() && files["sha"].is_string());
    // 0.x sends flags under this name.
    let flag = gate.get("/api/models/acme/tiny?expand=False").await.json();
    assert!(flag["sha"].is_string());
}

/// Asked for or not, a scan that we do not have is left out, which every client accepts.
#[tokio::test]
async fn security_status_is_answered_without_harm() {
    let (_hub, gate) = world().await;
    for url in ["/api/models/acme/tiny?securityStatus=true", "/api/models/acme/tiny?expand=securityRepoStatus"] {
        let answer = gate.get(url).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["id"]), (200, &json!("acme/tiny")), "{url}");
    }
}

/// Trap 43: Python wants all keys of `securityFileStatus` and `lastCommit`, or neither.
#[tokio::test]
async fn an_expanded_tree_has_no_half_of_a_scan() {
    let (_hub, gate) = world().await;
    for url in [
        "/api/models/acme/tiny/tree/main?expand=true&recursive=true",
        "/api/models/acme/tiny/tree/main?expand=True&recursive=True",
    ] {
        let tree = gate.get(url).await.json();
        for entry in tree.as_array().unwrap() {
            for (object, keys) in [
                ("securityFileStatus", ["status", "avScan", "pickleImportScan"]),
                ("lastCommit", ["id", "title", "date"]),
            ] {
                if let Some(found) = entry.get(object) {
                    assert!(keys.iter().all(|key| found.get(key).is_some()), "{entry}");
                }
            }
            assert!(entry["type"] == "file" || entry["type"] == "directory");
            assert!(entry["path"].is_string() && entry["oid"].is_string() && entry["size"].is_u64(), "{entry}");
        }
    }
}

/// What the Hub lists, entry for entry, but for Xet and scans.
#[tokio::test]
async fn the_tree_is_the_hubs_own() {
    let (hub, gate) = world().await;
    let direct = crate::support::client::Client::new(hub.hub_url());
    for url in [
        "/api/models/acme/tiny/tree/main?recursive=true",
        "/api/models/acme/tiny/tree/main",
        "/api/models/acme/tiny/tree/main/sub?recursive=false",
        "/api/models/acme/nested/tree/main/onnx",
        "/api/datasets/acme/table/tree/main/data",
        "/api/spaces/acme/demo/tree/main",
    ] {
        let sorted = |mut list: Value| {
            let entries = list.as_array_mut().unwrap();
            entries.sort_by_key(|entry| entry["path"].as_str().unwrap().to_owned());
            for entry in entries {
                entry.as_object_mut().unwrap().remove("xetHash");
            }
            list
        };
        let (ours, theirs) = (gate.get(url).await, direct.get(url).await.unwrap());
        assert_eq!((ours.status.as_u16(), sorted(ours.json())), (200, sorted(theirs.json())), "{url}");
    }
}

/// A folder of which nothing is shown would be listed as one that is empty, which git doesn't know.
#[tokio::test]
async fn a_folder_of_which_every_file_is_hidden_is_not_listed() {
    let hub = hub_standin::Standin::builder().fixtures().start().await;
    let policy =
        "[licenses]\nallow = [\"mit\"]\n[[allow]]\nname = \"acme\"\nrepo = \"acme/*\"\nfiles.exclude = [\"onnx/\"]\n";
    let gate = crate::support::gateway::Setup::new().policy(policy).start(&hub).await;
    for query in ["", "?recursive=true"] {
        let listing = gate.get(&format!("/api/models/acme/nested/tree/main{query}")).await;
        assert_eq!(listing.status, 200, "{}", listing.text());
        let listing = listing.json();
        let paths: Vec<_> = listing.as_array().unwrap().iter().map(|node| node["path"].as_str().unwrap()).collect();
        assert!(paths.contains(&"README.md") && !paths.iter().any(|path| path.starts_with("onnx")), "{paths:?}");
    }
    let infos =
        gate.post("/api/models/acme/nested/paths-info/main", "application/x-www-form-urlencoded", "paths=onnx").await;
    assert_eq!(infos.text(), "[]");
}

/// transformers asks for `additional_chat_templates` of every tokenizer and relies on this error.
#[tokio::test]
async fn a_folder_that_is_not_there_is_entry_not_found_with_the_commit() {
    let (hub, gate) = world().await;
    for folder in ["additional_chat_templates", "sub/nowhere", "config.json"] {
        let answer = gate.get(&format!("/api/models/acme/tiny/tree/main/{folder}?recursive=false")).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-error-code")), (404, "EntryNotFound"), "{folder}");
        assert_eq!(answer.header("x-repo-commit"), hub.commit("acme/tiny", "main"), "{folder}");
        assert!(answer.json()["error"].is_string());
    }
}

/// Trap 35: paths-info is a read by POST, as a form from Python and as JSON from JavaScript; what is missing is left out.
#[tokio::test]
async fn paths_info_is_read_from_forms_and_from_json() {
    let (hub, gate) = world().await;
    let form = "application/x-www-form-urlencoded";
    let url = "/api/models/acme/tiny/paths-info/main";
    for (kind, body) in [
        (form, "paths=config.json&paths=nowhere.txt&paths=sub%2Fdir&paths=model.safetensors&expand=False"),
        (form, "paths=config.json&paths=nowhere.txt&paths=sub/dir/&paths=model.safetensors&expand=true"),
        ("application/json", r#"{"paths":["config.json","nowhere.txt","sub/dir","model.safetensors"],"expand":true}"#),
        ("application/json; charset=utf-8", r#"{"paths":["config.json","sub/dir","model.safetensors"]}"#),
    ] {
        let answer = gate.post(url, kind, body).await;
        assert_eq!(answer.status, 200, "{kind} {body}: {}", answer.text());
        let list = answer.json();
        assert_eq!(names(&list, "path"), ["config.json", "sub/dir", "model.safetensors"], "{body}");
        assert_eq!(list[1]["type"], "directory");
        assert_eq!(list[2]["lfs"]["oid"], hub.sha256("acme/tiny", "main", "model.safetensors"));
        assert!(!answer.text().contains("xet"));
    }
    assert_eq!(gate.post(url, form, "paths=../../etc/passwd&expand=false").await.json(), json!([]));
    let bad = gate.post(url, "application/json", "{\"paths\":").await;
    assert_eq!(bad.status, 400);
    let huge = format!("paths={}", "a".repeat(3 << 20));
    assert_eq!(gate.post(url, form, &huge).await.status, 413);
    assert_eq!(gate.post("/api/models/other/repo/paths-info/main", form, "paths=a").await.status, 403);
}

/// Traps 10, 11, 12, 13: any one of these sends a client to the CAS, past the gateway.
#[tokio::test]
async fn nothing_of_xet_stands_in_any_answer() {
    let (hub, gate) = world().await;
    hub.update("acme/tiny", |repo| {
        let card =
            json!({"license": "apache-2.0", "xetHash": "x", "deep": [{"xetEnabled": true, "kept": {"xetHash": "x"}}]});
        repo.card = Some(card);
    });
    let commit = hub.commit("acme/tiny", "main");
    let accept = [("accept", "application/vnd.xet-fileinfo+json, */*")];
    for url in [
        "/acme/tiny/resolve/main/model.safetensors".to_owned(),
        format!("/acme/tiny/resolve/{commit}/model.safetensors"),
        format!("/api/resolve-cache/models/acme/tiny/{commit}/model.safetensors"),
        "/acme/tiny/raw/main/model.safetensors".into(),
        "/api/models/acme/tiny?blobs=true&securityStatus=true".into(),
        "/api/models/acme/tiny?expand=xetEnabled&expand=siblings".into(),
        format!("/api/models/acme/tiny/revision/{commit}?blobs=true"),
        "/api/models/acme/tiny/tree/main?recursive=true&expand=true".into(),
        "/api/models/acme/tiny/tree/main?recursive=true&limit=2".into(),
        "/api/models".into(),
        "/api/models?full=true&expand=xetEnabled".into(),
        "/api/models/acme/tiny/refs".into(),
        "/api/models/acme/tiny/commits/main".into(),
    ] {
        for method in ["HEAD", "GET"] {
            let answer = gate.ask(method, &url, &accept).await;
            assert!(answer.status.as_u16() < 400, "{method} {url}: {}", answer.status);
            for (name, value) in &answer.headers {
                let text = format!("{name}: {value:?}").to_lowercase();
                assert!(!text.contains("xet"), "{method} {url}: {text}");
            }
            assert!(!answer.text().to_lowercase().contains("xet"), "{method} {url}: {}", answer.text());
        }
    }
    for url in [
        "/api/models/acme/tiny/xet-read-token/main".to_owned(),
        format!("/api/models/acme/tiny/xet-read-token/{commit}"),
    ] {
        let token = gate.get(&url).await;
        assert_eq!(token.status, 404, "{url}");
        assert!(token.header("x-error-message").contains("HF_HUB_DISABLE_XET=1"), "the cure is named");
        assert_eq!(token.header("x-error-code"), "", "no code that a client takes for a missing file");
    }
    assert!(gate.get("/api/models/acme/tiny").await.json()["cardData"]["deep"][0]["kept"].is_object());
    assert_eq!((hub.count(Class::XetToken), hub.count(Class::Cas)), (0, 0));
}

/// Trap 42: an error object with status 200 in place of a listing is a `TypeError` in Python.
#[tokio::test]
async fn an_object_in_place_of_a_tree_is_an_error_of_the_origin() {
    let (hub, gate) = world().await;
    let page = FaultKind::Status {
        code: 200,
        body: "{\"error\": \"no\"}".into(),
        headers: vec![("content-type".into(), "application/json".into())],
    };
    let fault = hub.fault(Fault::new(page).class(Class::Tree));
    for url in ["/api/models/acme/tiny/tree/main", "/acme/tiny/resolve/main/config.json"] {
        let answer = gate.get(url).await;
        assert!(answer.status.is_server_error(), "{url}: {} {}", answer.status, answer.text());
    }
    hub.clear_fault(fault);
    assert_eq!(gate.get("/api/models/acme/tiny/tree/main").await.status, 200, "nothing of it was kept");
}

/// Trap 1 holds for the API too: a listing's HEAD is its GET without the body.
#[tokio::test]
async fn head_of_the_api_has_the_length_of_its_answer() {
    let (_hub, gate) = world().await;
    for url in [
        "/api/models/acme/tiny",
        "/api/models/acme/tiny/tree/main?limit=2",
        "/api/models/acme/tiny/refs",
        "/api/models/acme/tiny/commits/main",
        "/api/models",
        "/api/models/acme/nowhere",
        "/api/nothing",
    ] {
        let (get, head) = (gate.ask("GET", url, &[]).await, gate.ask("HEAD", url, &[]).await);
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{url}");
        for name in ["content-length", "content-type", "x-repo-commit", "link", "x-total-count", "x-error-code"] {
            assert_eq!(head.header(name), get.header(name), "{url}: {name}");
        }
        assert_eq!(get.header("content-length"), get.body.len().to_string(), "{url}");
    }
}
