//! Listings: `/tree/` page by page, and `/paths-info/`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::errors::{self, Form};
use super::next_link;
use super::resolve::Facts;
use crate::answer::Answer;
use crate::ask::{Ask, pairs};
use crate::faults::{FaultKind, glob};
use crate::repo::{Commit, Repo, iso_date};
use crate::tree::{Entry, Node};

/// What stands in place of a hash for callers without access.
const MASK: &str = "****************************************************************";

/// One line of a listing, in the Hub's order of keys.
#[derive(Serialize)]
struct Line {
    #[serde(rename = "type")]
    kind: &'static str,
    oid: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs: Option<LfsLine>,
    #[serde(rename = "xetHash", skip_serializing_if = "Option::is_none")]
    xet_hash: Option<String>,
    path: String,
    #[serde(rename = "lastCommit", skip_serializing_if = "Option::is_none")]
    last_commit: Option<Value>,
    #[serde(rename = "securityFileStatus", skip_serializing_if = "Option::is_none")]
    security: Option<Value>,
}

#[derive(Serialize)]
struct LfsLine {
    oid: String,
    size: u64,
    #[serde(rename = "pointerSize")]
    pointer_size: usize,
}

/// Where a page begins, inside the Hub's opaque cursor.
#[derive(Serialize, Deserialize)]
struct Cursor {
    file_name: String,
    tree_oid: String,
    at: usize,
}

impl Cursor {
    /// As the Hub makes it: base64 of (base64 of JSON, a colon, the limit).
    fn encode(&self, limit: usize) -> String {
        let inner = STANDARD.encode(serde_json::to_vec(self).unwrap_or_default());
        STANDARD.encode(format!("{inner}:{limit}"))
    }

    fn decode(text: &str) -> Option<Self> {
        let outer = String::from_utf8(STANDARD.decode(text).ok()?).ok()?;
        serde_json::from_slice(&STANDARD.decode(outer.split(':').next()?).ok()?).ok()
    }
}

pub(super) async fn tree(
    ask: &Ask,
    repo: &Repo,
    commit: &Arc<Commit>,
    path: &str,
    closed: bool,
) -> Result<Answer, Answer> {
    let expand = ask.params("expand").iter().any(|value| value.eq_ignore_ascii_case("true") || *value == "1");
    let (plain, expanded) = ask.state.settings.page;
    let largest = if expand { expanded } else { plain };
    let limit = match ask.param("limit") {
        None => largest,
        Some(text) => {
            let limit: usize = text.parse().map_err(|_| errors::bad_request("Invalid limit: must be a number"))?;
            limit.clamp(1, largest)
        }
    };
    let from = match ask.param("cursor") {
        None => 0,
        Some(text) => Cursor::decode(text).ok_or_else(|| errors::bad_request("Invalid cursor"))?.at,
    };
    let recursive = ask.flag("recursive");
    let page = commit.tree.page(path, recursive, from, limit);
    let (entries, more) = page.ok_or_else(|| errors::entry_not_found(Form::Json, &commit.id))?;
    if let Some(crowd) = commit.tree.crowd {
        tokio::time::sleep(crowd.page_delay).await;
    }
    let last = entries.last().map(|entry| entry.path.clone()).unwrap_or_default();
    let mut answer = Answer::json(200, &lines(ask, repo, commit, entries, expand, closed));
    if more {
        let cursor = Cursor { file_name: last, tree_oid: commit.tree.oid.clone(), at: from + limit };
        answer =
            answer.header("link", next_link(ask, &[("limit", limit.to_string()), ("cursor", cursor.encode(limit))]));
    }
    Ok(answer)
}

pub(super) fn paths_info(ask: &Ask, repo: &Repo, commit: &Arc<Commit>, closed: bool) -> Result<Answer, Answer> {
    #[derive(Deserialize)]
    struct Body {
        paths: Paths,
        #[serde(default)]
        expand: bool,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Paths {
        Many(Vec<String>),
        One(String),
    }
    if ask.method != "POST" {
        return Err(errors::no_such_page(Form::Json));
    }
    let is_json = ask.header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
    let (paths, expand) = if is_json {
        let body: Body = serde_json::from_slice(&ask.body).map_err(|error| errors::bad_request(&error.to_string()))?;
        let paths = match body.paths {
            Paths::Many(paths) => paths,
            Paths::One(path) => vec![path],
        };
        (paths, body.expand)
    } else {
        let form = pairs(&String::from_utf8_lossy(&ask.body));
        let expand = form.iter().any(|(key, value)| key == "expand" && value.eq_ignore_ascii_case("true"));
        (form.into_iter().filter(|(key, _)| key == "paths").map(|(_, value)| value).collect(), expand)
    };
    let entries = paths.iter().filter_map(|path| commit.tree.find(path.trim_matches('/'))).collect();
    Ok(Answer::json(200, &lines(ask, repo, commit, entries, expand, closed)))
}

/// The lines of a page, spoiled as faults say.
fn lines(
    ask: &Ask,
    repo: &Repo,
    commit: &Arc<Commit>,
    mut entries: Vec<Entry>,
    expand: bool,
    closed: bool,
) -> Vec<Line> {
    let lies = Facts::of(ask);
    let mut masked = closed;
    for struck in ask.strike(FaultKind::is_of_listing) {
        match struck.kind {
            FaultKind::MaskedTree => masked = true,
            FaultKind::PartialTree { drop } => {
                entries.retain(|entry| !drop.iter().any(|pattern| glob(pattern, &entry.path)));
            }
            FaultKind::ExtraTreeEntry { path } => {
                let file = entries.iter().find(|entry| matches!(entry.node, Node::File(_)));
                let copied = entries.iter().find(|entry| entry.path == path).or(file);
                if let Some(node) = copied.map(|entry| entry.node.clone()) {
                    entries.push(Entry { path, node });
                }
            }
            _ => {}
        }
    }
    let history = if expand { repo.history(commit) } else { Vec::new() };
    entries.into_iter().map(|entry| line(repo, entry, &lies, masked, &history)).collect()
}

fn line(repo: &Repo, entry: Entry, lies: &Facts, masked: bool, history: &[Arc<Commit>]) -> Line {
    let last_commit = last_change(history, &entry)
        .map(|commit| json!({ "id": commit.id, "title": commit.title, "date": iso_date(commit.when) }));
    let hash = |hash: &str| {
        if masked { MASK.to_owned() } else { lies.digest(hash) }
    };
    match entry.node {
        Node::Dir(oid) => Line {
            kind: "directory",
            oid,
            size: 0,
            lfs: None,
            xet_hash: None,
            path: entry.path,
            last_commit,
            security: None,
        },
        Node::File(file) => {
            let size = lies.size(file.size);
            let lfs = file.lfs.as_ref();
            let security = (!history.is_empty()).then(|| security(repo, &entry.path));
            Line {
                kind: "file",
                oid: lies.digest(&file.blob_id),
                size,
                lfs: lfs.map(|lfs| LfsLine { oid: hash(&lfs.sha256), size, pointer_size: lfs.pointer.len() }),
                xet_hash: lfs
                    .and_then(|lfs| lfs.xet_hash.as_deref())
                    .map(|xet| if masked { MASK } else { xet }.to_owned()),
                path: entry.path,
                last_commit,
                security,
            }
        }
    }
}

/// The oldest commit since which this entry is as it is.
fn last_change<'a>(history: &'a [Arc<Commit>], entry: &Entry) -> Option<&'a Arc<Commit>> {
    let id = |node: &Node| match node {
        Node::Dir(oid) => oid.clone(),
        Node::File(file) => file.blob_id.clone(),
    };
    let wanted = id(&entry.node);
    let same = |commit: &&Arc<Commit>| commit.tree.find(&entry.path).is_some_and(|found| id(&found.node) == wanted);
    history.iter().take_while(same).last().or_else(|| history.first())
}

fn security(repo: &Repo, path: &str) -> Value {
    let issue = repo.security_issues.iter().find(|(known, _)| known == path);
    let status = issue.map_or("safe", |(_, level)| level.as_str());
    json!({
        "status": status,
        "avScan": { "status": status, "virusNames": null },
        "pickleImportScan": { "status": status, "pickleImports": [] },
        "protectAiScan": { "status": "unscanned" },
        "jFrogScan": { "status": "unscanned" },
        "virusTotalScan": { "status": "unscanned" },
    })
}
