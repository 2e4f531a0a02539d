//! Repo info: `/api/{kind}/{id}` and its `/revision/` form.

use serde_json::{Map, Value, json};

use super::errors;
use super::resolve::Facts;
use crate::answer::Answer;
use crate::ask::Ask;
use crate::card;
use crate::faults::{FaultKind, glob};
use crate::file::File;
use crate::repo::{Commit, Kind, Repo, iso_date};

/// Past this many files the Hub's `siblings` are not complete.
const SIBLINGS: usize = 50_000;

/// Properties that `expand` may name.
const EXPANDABLE: &[&str] = &[
    "author",
    "baseModels",
    "cardData",
    "childrenModelCount",
    "citation",
    "config",
    "createdAt",
    "datasets",
    "description",
    "disabled",
    "downloads",
    "downloadsAllTime",
    "evalResults",
    "gated",
    "gguf",
    "inference",
    "inferenceProviderMapping",
    "lastModified",
    "library_name",
    "likes",
    "mask_token",
    "model-index",
    "models",
    "paperswithcode_id",
    "pipeline_tag",
    "private",
    "resourceGroup",
    "runtime",
    "safetensors",
    "sdk",
    "securityRepoStatus",
    "sha",
    "siblings",
    "spaces",
    "subdomain",
    "tags",
    "transformersInfo",
    "trendingScore",
    "usedStorage",
    "widgetData",
    "xetEnabled",
];

pub(super) fn info(ask: &Ask, repo: &Repo, commit: &Commit) -> Result<Answer, Answer> {
    let expand = expand(ask)?;
    let blobs = ask.flag("blobs");
    let mut all = facts(repo, commit);
    if ask.flag("securityStatus") || expand.contains(&"securityRepoStatus") {
        all.insert("securityRepoStatus".into(), security(repo));
    }
    all.insert("siblings".into(), siblings(ask, commit, blobs));
    if blobs || expand.contains(&"usedStorage") {
        let used: u64 = commit.tree.files.values().map(|file| file.size).sum();
        all.insert("usedStorage".into(), used.into());
    }
    all.insert("xetEnabled".into(), repo.xet.into());
    if expand.is_empty() {
        all.remove("xetEnabled");
    } else {
        all.retain(|key, _| matches!(key.as_str(), "_id" | "id") || expand.contains(&key.as_str()));
    }
    Ok(Answer::json(200, &all))
}

/// The properties asked for by `expand`; one that there is not is an error that lists them all.
pub(super) fn expand(ask: &Ask) -> Result<Vec<&str>, Answer> {
    let names: Vec<&str> = ask.params("expand").into_iter().filter(|name| !is_flag(name)).collect();
    if names.iter().any(|name| !EXPANDABLE.contains(name)) {
        return Err(errors::bad_request(&format!("\"expand\" must be one of [{}]", EXPANDABLE.join(", "))));
    }
    Ok(names)
}

fn is_flag(name: &str) -> bool {
    name.is_empty() || name.eq_ignore_ascii_case("true") || name.eq_ignore_ascii_case("false")
}

/// All but the files.
pub(super) fn facts(repo: &Repo, commit: &Commit) -> Map<String, Value> {
    let card = card::card_data(repo, commit);
    let tags = card::tags(repo, commit, card.as_ref());
    let mut all = Map::new();
    let mut put = |key: &str, value: Value| drop(all.insert(key.to_owned(), value));
    put("_id", json!(repo.object_id));
    put("id", json!(repo.name.id));
    put("private", json!(repo.private));
    put("tags", json!(tags));
    put("downloads", json!(repo.downloads));
    put("likes", json!(0));
    if !repo.author.is_empty() {
        put("author", json!(repo.author));
    }
    put("sha", json!(commit.id));
    put("lastModified", json!(iso_date(commit.when)));
    put("createdAt", json!("2026-01-05T08:00:00.000Z"));
    put("gated", repo.gated.json());
    put("disabled", json!(repo.disabled));
    for key in ["library_name", "pipeline_tag", "sdk"] {
        if let Some(value) = card.as_ref().and_then(|card| card.get(key)) {
            put(key, value.clone());
        }
    }
    match repo.name.kind {
        Kind::Model => {
            put("modelId", json!(repo.name.id));
            put("model-index", Value::Null);
            put("config", config(commit));
            put("spaces", json!([]));
        }
        Kind::Dataset => put("description", json!("")),
        Kind::Space => put(
            "runtime",
            json!({ "stage": "RUNNING", "hardware": { "current": "cpu-basic", "requested": "cpu-basic" } }),
        ),
    }
    if let Some(card) = card {
        put("cardData", card);
    }
    all
}

fn config(commit: &Commit) -> Value {
    let file = commit.tree.files.get("config.json").and_then(|file| file.content.read(0..1 << 20).ok());
    let config: Value = file.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let kept =
        ["architectures", "model_type"].into_iter().filter_map(|key| Some((key.to_owned(), config.get(key)?.clone())));
    Value::Object(kept.collect())
}

pub(super) fn security(repo: &Repo) -> Value {
    let issue = |(path, level): &(String, String)| json!({ "path": path, "level": level });
    json!({ "scansDone": true, "filesWithIssues": repo.security_issues.iter().map(issue).collect::<Vec<_>>() })
}

fn siblings(ask: &Ask, commit: &Commit, blobs: bool) -> Value {
    let lies = Facts::of(ask);
    let mut listed: Vec<Value> =
        commit.tree.paths(SIBLINGS).iter().map(|(path, file)| sibling(path, file, blobs, &lies)).collect();
    for struck in ask.strike(|kind| matches!(kind, FaultKind::SiblingsDisagree { .. })) {
        if let FaultKind::SiblingsDisagree { drop, add } = struck.kind {
            let dropped =
                |line: &Value| drop.iter().any(|glob_| glob(glob_, line["rfilename"].as_str().unwrap_or_default()));
            listed.retain(|line| !dropped(line));
            listed.extend(add.into_iter().map(|path| json!({ "rfilename": path })));
        }
    }
    listed.into()
}

fn sibling(path: &str, file: &File, blobs: bool, lies: &Facts) -> Value {
    let mut line = json!({ "rfilename": path });
    if blobs {
        line["size"] = lies.size(file.size).into();
        line["blobId"] = lies.digest(&file.blob_id).into();
        if let Some(lfs) = &file.lfs {
            line["lfs"] = json!({
                "sha256": lies.digest(&lfs.sha256), "size": lies.size(file.size), "pointerSize": lfs.pointer.len(),
            });
        }
    }
    line
}
