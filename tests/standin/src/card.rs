//! What the Hub reads out of a README's front matter: `cardData` and `tags`.

use serde_json::Value;

use crate::repo::{Commit, Kind, Repo};

/// The front matter of the README at `commit`, unless the repo says that the API tells another card.
pub(crate) fn card_data(repo: &Repo, commit: &Commit) -> Option<Value> {
    if repo.card.is_some() {
        return repo.card.clone();
    }
    let readme = commit.tree.files.get("README.md")?;
    let text = String::from_utf8(readme.content.read(0..1 << 20).ok()?).ok()?;
    front_matter(&text)
}

fn front_matter(text: &str) -> Option<Value> {
    let text = text.replace("\r\n", "\n");
    let rest = text.strip_prefix("---\n")?;
    let end = if rest.starts_with("---") { 0 } else { rest.find("\n---")? + 1 };
    let value: Value = serde_saphyr::from_str(&rest[..end]).ok()?;
    value.is_object().then_some(value)
}

/// Tags as the Hub derives them from the card and the files.
pub(crate) fn tags(repo: &Repo, commit: &Commit, card: Option<&Value>) -> Vec<String> {
    if let Some(tags) = &repo.tags {
        return tags.clone();
    }
    let mut tags = Vec::new();
    let texts = |key: &str| -> Vec<String> {
        match card.and_then(|card| card.get(key)) {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        }
    };
    tags.extend(texts("library_name"));
    let has = |ending: &str| commit.tree.files.keys().any(|path| path.ends_with(ending));
    if repo.name.kind == Kind::Model {
        for (ending, tag) in [("pytorch_model.bin", "pytorch"), (".safetensors", "safetensors"), (".gguf", "gguf")] {
            if has(ending) {
                tags.push(tag.to_owned());
            }
        }
    }
    tags.extend(texts("pipeline_tag"));
    tags.extend(texts("tags"));
    tags.extend(texts("language"));
    tags.extend(texts("datasets").into_iter().map(|dataset| format!("dataset:{dataset}")));
    tags.extend(texts("base_model").into_iter().map(|model| format!("base_model:{model}")));
    tags.extend(texts("license").into_iter().map(|license| format!("license:{}", license.to_lowercase())));
    tags.push("region:us".to_owned());
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn front_matter_is_read_and_its_absence_seen() {
        let card = front_matter("---\nlicense: [mit, apache-2.0]\n---\n# Title\n").unwrap();
        assert_eq!(card["license"][1], "apache-2.0");
        assert_eq!(front_matter("---\r\nlicense: mit\r\n---\r\n").unwrap()["license"], "mit");
        assert!(front_matter("# Title\n---\nlicense: mit\n---\n").is_none());
        assert!(front_matter("---\nlicense: mit\n").is_none());
    }
}
