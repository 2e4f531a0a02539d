//! A repo's facts (PROTOCOL 4.1, section 12).

use serde::{
    Deserialize, Serialize, Serializer,
    ser::{SerializeMap as _, SerializeSeq as _},
};
use serde_json::Value;

use super::{TreeNode, strip_xet};
use crate::hub::{Commit, GitOid, InfoQuery, Repo, Sha256};

/// The origin's answer to a question for a repo's info: the facts that decide something as types, and all of
/// them as they came.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Value")]
pub struct RepoInfo {
    /// The canonical name, `org/name`.
    pub id: String,
    /// The Hub's own id, which a repo of the same name made later doesn't have: `_id`.
    pub hub_id: Option<String>,
    /// The owner.
    pub author: Option<String>,
    /// The commit that was asked for.
    pub sha: Option<Commit>,
    /// Whether only some callers see it.
    pub private: bool,
    /// Whether only some callers get its files.
    pub gated: Gated,
    /// Whether the Hub has closed it.
    pub disabled: bool,
    /// What its card states; from the info, not from the README at the commit.
    pub license: StatedLicense,
    /// Tags, among them `license:...`.
    pub tags: Vec<String>,
    /// When it was last changed, as the Hub writes it.
    pub last_modified: Option<String>,
    /// The files, if the answer had any list of them.
    pub siblings: Option<Vec<InfoSibling>>,
    /// The whole answer, an object, without siblings and without anything of Xet: for passing on.
    pub facts: Value,
}

/// Whether, and how, callers get access to a repo's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Gated {
    /// Open: `false`.
    #[default]
    No,
    /// At once after accepting terms: `"auto"`.
    Auto,
    /// After the owner's yes: `"manual"`.
    Manual,
    /// Something that we do not know; gated, to be safe.
    Other(String),
}

impl Gated {
    /// Whether the files are not for everyone.
    pub fn is_gated(&self) -> bool {
        *self != Self::No
    }
}

/// What a card states of its licence: `license`, `license_name`, `license_link`. Texts as they came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatedLicense {
    /// One or more licence ids, or none.
    pub ids: Vec<String>,
    /// The name of a licence that the Hub has no id for.
    pub name: Option<String>,
    /// Where its text is: a file in the repo or a URL.
    pub link: Option<String>,
}

impl StatedLicense {
    /// Reads a card's data: the front matter of a README, or `cardData`. A licence is a text or a list of
    /// texts; other scalars in their place are kept as their text, so that policy sees them.
    pub fn of_card(card: &Value) -> Self {
        let ids = match &card["license"] {
            Value::Array(items) => items.iter().filter_map(text).collect(),
            one => text(one).into_iter().collect(),
        };
        Self { ids, name: text(&card["license_name"]), link: text(&card["license_link"]) }
    }
}

fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => return None,
        Value::String(text) => text.trim().to_owned(),
        other => other.to_string(),
    };
    (!text.is_empty()).then_some(text)
}

/// A file in an info's list. Sizes and ids stand there only with `blobs=true`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InfoSibling {
    /// The path, unchecked.
    pub rfilename: String,
    /// Its size in bytes.
    #[serde(default)]
    pub size: Option<u64>,
    /// The git id of the file or the pointer file.
    #[serde(default)]
    pub blob_id: Option<GitOid>,
    /// For LFS files; `None` too where it is masked or incomplete.
    #[serde(default, deserialize_with = "complete")]
    pub lfs: Option<LfsInfo>,
}

/// The LFS part of a sibling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LfsInfo {
    /// The content's sha256.
    pub sha256: Sha256,
    /// The content's size in bytes.
    pub size: u64,
    /// The pointer file's size in bytes.
    pub pointer_size: u64,
}

fn complete<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<LfsInfo>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

impl RepoInfo {
    /// The licences that the tags name, without `license:`.
    pub fn license_tags(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().filter_map(|tag| tag.strip_prefix("license:"))
    }
}

impl TryFrom<Value> for RepoInfo {
    type Error = String;

    fn try_from(mut json: Value) -> Result<Self, String> {
        strip_xet(&mut json);
        let Value::Object(mut facts) = json else { return Err("a repo's info is a JSON object".into()) };
        let siblings = match facts.remove("siblings") {
            None | Some(Value::Null) => None,
            Some(list) => Some(serde_json::from_value(list).map_err(|error| format!("siblings: {error}"))?),
        };
        let text = |key: &str| facts.get(key).and_then(Value::as_str).map(str::to_owned);
        let flag = |key: &str| match facts.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| format!("{key} is {value}, neither true nor false")),
        };
        let tags = match facts.get("tags") {
            Some(Value::Array(tags)) => tags.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        Ok(Self {
            id: text("id").ok_or("a repo's info has an id")?,
            hub_id: text("_id"),
            author: text("author"),
            sha: text("sha").map(|sha| sha.parse()).transpose().map_err(|error| format!("sha: {error}"))?,
            private: flag("private")?,
            gated: match facts.get("gated") {
                None | Some(Value::Null | Value::Bool(false)) => Gated::No,
                Some(Value::String(how)) if how == "auto" => Gated::Auto,
                Some(Value::String(how)) if how == "manual" => Gated::Manual,
                Some(other) => Gated::Other(other.to_string()),
            },
            disabled: flag("disabled")?,
            license: facts.get("cardData").map(StatedLicense::of_card).unwrap_or_default(),
            tags,
            last_modified: text("lastModified"),
            siblings,
            facts: Value::Object(facts),
        })
    }
}

/// The body that answers a question for a repo's info: the facts as the origin stated them, under the name
/// and at the commit that we serve, with the files that may be seen. With `expand`, only what was asked, and
/// `_id` and `id`; a property that we do not have is left out.
///
/// # Errors
/// None in practice: serialising these into memory doesn't fail.
pub fn info_answer<'a>(
    facts: &Value,
    repo: &Repo,
    commit: Commit,
    files: impl IntoIterator<Item = &'a TreeNode> + Clone,
    query: &InfoQuery,
) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&InfoAnswer { facts, repo, commit, files, query })
}

struct InfoAnswer<'q, I> {
    facts: &'q Value,
    repo: &'q Repo,
    commit: Commit,
    files: I,
    query: &'q InfoQuery,
}

impl<'a, I: IntoIterator<Item = &'a TreeNode> + Clone> Serialize for InfoAnswer<'_, I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let expand = &self.query.expand;
        let wanted = |key: &str| {
            expand.is_empty() || matches!(key, "id" | "_id") || expand.iter().any(|property| property == key)
        };
        let mut answer = serializer.serialize_map(None)?;
        if let Some(hub_id) = self.facts.get("_id") {
            answer.serialize_entry("_id", hub_id)?;
        }
        answer.serialize_entry("id", self.repo.id())?;
        for (key, value) in self.facts.as_object().into_iter().flatten() {
            match key.as_str() {
                "_id" | "id" | "sha" | "siblings" | "xetHash" | "xetEnabled" => {}
                key if !wanted(key) => {}
                "modelId" => answer.serialize_entry("modelId", self.repo.id())?,
                key if holds_xet(value) => {
                    let mut clean = value.clone();
                    strip_xet(&mut clean);
                    answer.serialize_entry(key, &clean)?;
                }
                key => answer.serialize_entry(key, value)?,
            }
        }
        if wanted("sha") {
            answer.serialize_entry("sha", &self.commit)?;
        }
        if wanted("siblings") {
            answer.serialize_entry("siblings", &Siblings { files: self.files.clone(), blobs: self.query.blobs })?;
        }
        answer.end()
    }
}

fn holds_xet(value: &Value) -> bool {
    match value {
        Value::Object(map) => {
            map.iter().any(|(key, value)| key == "xetHash" || key == "xetEnabled" || holds_xet(value))
        }
        Value::Array(items) => items.iter().any(holds_xet),
        _ => false,
    }
}

/// The list of files, written one by one: a repo may have hundreds of thousands.
struct Siblings<I> {
    files: I,
    blobs: bool,
}

#[derive(Serialize)]
struct NameOnly<'a> {
    rfilename: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WithBlob<'a> {
    rfilename: &'a str,
    size: u64,
    blob_id: GitOid,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs: Option<LfsInfo>,
}

impl<'a, I: IntoIterator<Item = &'a TreeNode> + Clone> Serialize for Siblings<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for node in self.files.clone().into_iter().filter(|node| !node.folder) {
            let rfilename = node.path.as_str();
            if self.blobs {
                let lfs = node.lfs.map(|(sha256, pointer_size)| LfsInfo { sha256, size: node.size, pointer_size });
                list.serialize_element(&WithBlob { rfilename, size: node.size, blob_id: node.oid, lfs })?;
            } else {
                list.serialize_element(&NameOnly { rfilename })?;
            }
        }
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::hub::RepoKind;

    fn recorded() -> Value {
        json!({
            "_id": "69414ed409f9267fc5b494e2", "id": "org/name", "private": false,
            "tags": ["license:mit", "region:us"], "downloads": 0, "modelId": "org/name", "author": "org",
            "sha": "6f1dade6f974de81ce21aa14b87add2e0217b05e", "lastModified": "2026-01-01T02:52:44.000Z",
            "gated": "manual", "disabled": false, "model-index": null, "config": {"xetHash": "x", "a": 1},
            "cardData": {"license": "mit"}, "xetEnabled": true,
            "siblings": [{"rfilename": "README.md"}, {"rfilename": "a.bin", "size": 22,
                "blobId": "cd1c6d8bde5006076655711a49feae66f07d707e",
                "lfs": {"pointerSize": 127, "size": 22, "sha256": "f".repeat(64)}, "xetHash": "y"}],
        })
    }

    fn nodes() -> Vec<TreeNode> {
        serde_json::from_value(json!([
            {"type": "directory", "oid": "d03ec5ec179df58241d27d55f92a674f5f44197f", "size": 0, "path": "sub"},
            {"type": "file", "oid": "6d34772f5ca361021038b404fb913ec8dc0b1a5a", "size": 5, "path": "README.md"},
            {"type": "file", "oid": "cd1c6d8bde5006076655711a49feae66f07d707e", "size": 22, "path": "sub/a.bin",
             "lfs": {"oid": "f".repeat(64), "size": 22, "pointerSize": 127}, "xetHash": "z"},
        ]))
        .unwrap()
    }

    fn answer(query: &InfoQuery) -> Value {
        let info: RepoInfo = serde_json::from_value(recorded()).unwrap();
        let repo = Repo::new(RepoKind::Model, "new-org/name").unwrap();
        let commit = "1".repeat(40).parse().unwrap();
        serde_json::from_slice(&info_answer(&info.facts, &repo, commit, &nodes(), query).unwrap()).unwrap()
    }

    #[test]
    fn the_facts_that_decide_are_read_and_all_others_kept() {
        let info: RepoInfo = serde_json::from_value(recorded()).unwrap();
        assert_eq!((info.id.as_str(), info.author.as_deref()), ("org/name", Some("org")));
        assert_eq!(info.hub_id.as_deref(), Some("69414ed409f9267fc5b494e2"));
        assert_eq!(info.gated, Gated::Manual);
        assert_eq!(info.license.ids, ["mit"]);
        assert_eq!(info.license_tags().collect::<Vec<_>>(), ["mit"]);
        assert_eq!(info.siblings.as_ref().unwrap()[1].lfs.unwrap().pointer_size, 127);
        assert_eq!(info.facts["config"], json!({"a": 1}));
        assert!(info.facts.get("siblings").is_none());
    }

    #[test]
    fn what_is_missing_is_none_and_what_is_wrong_is_an_error() {
        let bare: RepoInfo = serde_json::from_value(json!({"id": "gpt2", "siblings": null})).unwrap();
        assert!(bare.sha.is_none() && bare.siblings.is_none() && !bare.private && !bare.gated.is_gated());
        for bad in [json!([]), json!({}), json!({"id": "a", "sha": "x"}), json!({"id": "a", "private": "no"})] {
            assert!(serde_json::from_value::<RepoInfo>(bad.clone()).is_err(), "{bad} was accepted");
        }
        let odd: RepoInfo = serde_json::from_value(json!({"id": "a", "gated": "sometimes"})).unwrap();
        assert!(odd.gated.is_gated());
    }

    #[test]
    fn a_licence_is_a_text_a_list_or_nothing() {
        let ids = |license: Value| StatedLicense::of_card(&json!({ "license": license })).ids;
        assert_eq!(ids(json!("mit")), ["mit"]);
        assert_eq!(ids(json!(["mit", "apache-2.0"])), ["mit", "apache-2.0"]);
        assert_eq!(ids(json!([1.5])), ["1.5"]);
        assert!(ids(json!(null)).is_empty() && ids(json!(" ")).is_empty());
        assert_eq!(StatedLicense::of_card(&json!("no card")), StatedLicense::default());
        let other =
            StatedLicense::of_card(&json!({"license": "other", "license_name": "x", "license_link": "LICENSE"}));
        assert_eq!((other.name.as_deref(), other.link.as_deref()), (Some("x"), Some("LICENSE")));
    }

    #[test]
    fn an_answer_has_our_name_our_commit_our_files_and_no_xet() {
        let plain = answer(&InfoQuery::default());
        assert_eq!(plain["id"], "new-org/name");
        assert_eq!(plain["modelId"], "new-org/name");
        assert_eq!(plain["sha"], "1".repeat(40));
        assert_eq!(plain["siblings"], json!([{"rfilename": "README.md"}, {"rfilename": "sub/a.bin"}]));
        assert_eq!(plain["gated"], "manual");
        assert!(!plain.to_string().contains("xet"), "{plain}");

        let blobs = answer(&InfoQuery { blobs: true, ..InfoQuery::default() });
        let expected = json!({"rfilename": "sub/a.bin", "size": 22,
            "blobId": "cd1c6d8bde5006076655711a49feae66f07d707e",
            "lfs": {"sha256": "f".repeat(64), "size": 22, "pointerSize": 127}});
        assert_eq!(blobs["siblings"][1], expected);
        assert!(blobs["siblings"][0].get("lfs").is_none());
    }

    #[test]
    fn expand_gives_what_was_asked_and_the_ids() {
        let expand = ["gated", "xetEnabled", "nonsense"].map(str::to_owned).to_vec();
        let expanded = answer(&InfoQuery { expand, ..InfoQuery::default() });
        assert_eq!(expanded, json!({"_id": "69414ed409f9267fc5b494e2", "id": "new-org/name", "gated": "manual"}));
        let with_files = answer(&InfoQuery { expand: vec!["siblings".into(), "sha".into()], ..InfoQuery::default() });
        assert_eq!(with_files.as_object().unwrap().len(), 4);
        assert_eq!(with_files["siblings"].as_array().unwrap().len(), 2);
    }
}
