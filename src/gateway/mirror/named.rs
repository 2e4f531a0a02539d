//! The repos that a repo's small files name: pure.
//!
//! Libraries load more than the repo that they are told: an adapter its base model, remote code from another repo
//! (`auto_map`: `other/repo--file.Class`), a processor its tokenizer. A text counts where it looks like a repo's id;
//! whether there is such a repo is not known here.

use serde_json::Value;

use crate::hub::{Repo, RepoKind, Revision};

/// The files, at a repo's top, in which other repos are named.
pub(super) const FILES: [&str; 9] = [
    "adapter_config.json",
    "config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
    "model_index.json",
];

/// How deep a file is looked into.
const DEEPEST: usize = 8;

/// A repo that a field names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) repo: Repo,
    /// Where the file says which.
    pub(super) revision: Option<Revision>,
    pub(super) field: String,
}

/// What a file names, in the order in which it does.
pub(super) fn named_in(file: &str, content: &Value) -> Vec<Named> {
    let mut found = Vec::new();
    walk(file, content, &mut Vec::new(), &mut found);
    found
}

/// What a model card's `base_model` names. The card's field is one text or a list of them.
pub(super) fn named_in_card(card: &Value) -> Vec<Named> {
    let texts = texts(card.get("base_model"));
    let named = texts.filter_map(one_label_too).map(|repo| Named { repo, revision: None, field: "base_model".into() });
    named.collect()
}

fn walk<'v>(file: &str, value: &'v Value, path: &mut Vec<&'v str>, found: &mut Vec<Named>) {
    if path.len() > DEEPEST {
        return;
    }
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        path.push(name);
        let field = || path.join(".");
        if name == "auto_map" {
            for (class, value) in value.as_object().into_iter().flatten() {
                for repo in texts(Some(value)).filter_map(of_remote_code) {
                    found.push(Named { repo, revision: None, field: format!("{}.{class}", field()) });
                }
            }
        } else if let Some(text) = value.as_str().filter(|_| is_reference(name)) {
            // An adapter's base is loaded by any name; elsewhere one word may be anything.
            let is_base = file == "adapter_config.json" && name == "base_model_name_or_path";
            if let Some(repo) = if is_base { one_label_too(text) } else { two_labels(text) } {
                let revision = fields.get("revision").and_then(Value::as_str).filter(|_| is_base);
                found.push(Named { repo, revision: revision.and_then(|text| text.parse().ok()), field: field() });
            }
        } else {
            walk(file, value, path, found);
        }
        path.pop();
    }
}

/// Whether a field names a repo or a path.
fn is_reference(name: &str) -> bool {
    name.ends_with("name_or_path") || matches!(name, "tokenizer_name" | "processor_name" | "base_model")
}

/// `other/repo--file.Class`; without `--`, the file lies in the same repo.
fn of_remote_code(text: &str) -> Option<Repo> {
    two_labels(text.split_once("--")?.0)
}

fn two_labels(text: &str) -> Option<Repo> {
    one_label_too(text).filter(|_| text.contains('/'))
}

fn one_label_too(text: &str) -> Option<Repo> {
    Repo::new(RepoKind::Model, text).ok()
}

/// A text, or each text of a list.
fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    let one = value.and_then(Value::as_str);
    let many = value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    one.into_iter().chain(many)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(named: Vec<Named>) -> Vec<String> {
        let show = |named: Named| {
            let revision = named.revision.map(|revision| format!("@{revision}")).unwrap_or_default();
            format!("{}: {}{revision}", named.field, named.repo)
        };
        named.into_iter().map(show).collect()
    }

    #[test]
    fn what_libraries_load_beyond_a_repo_is_found() {
        let cases = [
            (
                "adapter_config.json",
                json!({"base_model_name_or_path": "acme/base", "revision": "v1", "peft_type": "LORA"}),
                vec!["base_model_name_or_path: acme/base@v1"],
            ),
            (
                "adapter_config.json",
                json!({"base_model_name_or_path": "gpt2", "revision": null}),
                vec!["base_model_name_or_path: gpt2"],
            ),
            (
                "config.json",
                json!({
                    "_name_or_path": "acme/parent",
                    "auto_map": {
                        "AutoConfig": "configuration.Config",
                        "AutoModel": "acme/code--modeling.Model",
                    },
                    "text_config": {"_name_or_path": "acme/text"},
                    "architectures": ["acme/none"],
                }),
                vec![
                    "_name_or_path: acme/parent",
                    "auto_map.AutoModel: acme/code",
                    "text_config._name_or_path: acme/text",
                ],
            ),
            (
                "tokenizer_config.json",
                json!({
                    "name_or_path": "acme/tok",
                    "auto_map": {"AutoTokenizer": ["acme/code--tok.Slow", null]},
                }),
                vec!["auto_map.AutoTokenizer: acme/code", "name_or_path: acme/tok"],
            ),
            ("processor_config.json", json!({"tokenizer_name": "acme/tok"}), vec!["tokenizer_name: acme/tok"]),
        ];
        for (file, content, expected) in cases {
            assert_eq!(shown(named_in(file, &content)), expected, "{file}");
        }
    }

    #[test]
    fn paths_words_and_nonsense_are_no_repos() {
        for text in ["", ".", "./output", "/data/model", "../x/y", "~/model", "bert", "a/b/c", "C:\\model", "a b/c"] {
            assert!(named_in("config.json", &json!({"_name_or_path": text})).is_empty(), "{text:?}");
        }
        for text in ["configuration.Config", "--x.Y", "word--x.Y", "../up--x.Y"] {
            assert!(named_in("config.json", &json!({"auto_map": {"AutoModel": text}})).is_empty(), "{text:?}");
        }
        for odd in [json!([]), json!("acme/x"), json!({"auto_map": "acme/x--y.Z"}), json!({"_name_or_path": 1})] {
            assert!(named_in("config.json", &odd).is_empty(), "{odd}");
        }
    }

    #[test]
    fn a_cards_base_model_is_one_or_many() {
        assert_eq!(shown(named_in_card(&json!({"base_model": "gpt2"}))), ["base_model: gpt2"]);
        let many = json!({"base_model": ["acme/a", "not a repo", "acme/b"]});
        assert_eq!(shown(named_in_card(&many)), ["base_model: acme/a", "base_model: acme/b"]);
        assert!(named_in_card(&json!({"license": "mit"})).is_empty());
    }
}
