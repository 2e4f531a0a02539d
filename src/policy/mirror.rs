//! `[[mirror]]`: the repos that are kept here as a whole, and which of their files are wanted.
//!
//! A wish, never a permission: what a mirror entry names comes in only where an allow rule lets it.

use serde::{Deserialize, Serialize};

use super::pattern::{FilePatterns, Mistake, file_glob};
use crate::hub::{Repo, RepoPath, Revision};

/// One `[[mirror]]` of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The repo, named in full.
    pub repo: Repo,
    /// The revisions to keep, at least one.
    pub revisions: Vec<Revision>,
    /// Which of its files.
    pub selection: Selection,
    /// The file of the policy folder and the line where it stands: `mirror.toml:3`.
    pub source: String,
}

/// Which files of a commit are wanted, by patterns of the policy's own grammar. By default all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(try_from = "Globs", into = "Globs")]
pub struct Selection {
    include: FilePatterns,
    exclude: FilePatterns,
}

/// A selection as it is written.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Globs {
    include: Vec<String>,
    exclude: Vec<String>,
}

/// A pattern that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {pattern:?}: {problem}; {remedy}")]
pub struct SelectionError {
    /// `include` or `exclude`.
    pub key: &'static str,
    /// The pattern as written.
    pub pattern: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

impl Selection {
    /// All files that match a pattern of `include`, or all where it is empty, without those that match one of
    /// `exclude`.
    pub fn new(include: Vec<String>, exclude: Vec<String>) -> Result<Self, SelectionError> {
        Ok(Self { include: patterns("include", include)?, exclude: patterns("exclude", exclude)? })
    }

    /// Whether a file is wanted.
    pub fn takes(&self, path: &RepoPath) -> bool {
        let path = path.as_str().to_ascii_lowercase();
        (self.include.is_empty() || self.include.find(&path).is_some()) && self.exclude.find(&path).is_none()
    }

    /// Whether every file is wanted.
    pub fn is_everything(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// The patterns of what is wanted, as written; none means everything.
    pub fn include(&self) -> &[String] {
        self.include.patterns()
    }

    /// The patterns of what is not, as written.
    pub fn exclude(&self) -> &[String] {
        self.exclude.patterns()
    }
}

impl PartialEq for Selection {
    fn eq(&self, other: &Self) -> bool {
        self.include() == other.include() && self.exclude() == other.exclude()
    }
}

impl Eq for Selection {}

impl TryFrom<Globs> for Selection {
    type Error = SelectionError;

    fn try_from(globs: Globs) -> Result<Self, SelectionError> {
        Self::new(globs.include, globs.exclude)
    }
}

impl From<Selection> for Globs {
    fn from(selection: Selection) -> Self {
        Self { include: selection.include().to_vec(), exclude: selection.exclude().to_vec() }
    }
}

fn patterns(key: &'static str, list: Vec<String>) -> Result<FilePatterns, SelectionError> {
    let wrong = |pattern: &str, Mistake { problem, remedy }| SelectionError {
        key,
        pattern: pattern.to_owned(),
        problem,
        remedy,
    };
    for pattern in &list {
        file_glob(pattern).map_err(|mistake| wrong(pattern, mistake))?;
    }
    let together = list.join(" ");
    FilePatterns::new(list).map_err(|mistake| wrong(&together, mistake))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        Severity, check,
        tests::{day, policy},
    };

    fn selection(include: &[&str], exclude: &[&str]) -> Result<Selection, SelectionError> {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Selection::new(owned(include), owned(exclude))
    }

    #[test]
    fn a_selection_takes_what_is_included_and_not_excluded() {
        let cases: [(&[&str], &[&str], &str, bool); 6] = [
            (&[], &[], "onnx/model.onnx", true),
            (&["*.json", "*.safetensors"], &[], "sub/Config.JSON", true),
            (&["*.json"], &[], "model.safetensors", false),
            (&[], &["onnx/"], "onnx/model.onnx", false),
            (&["*.json"], &["config.json"], "config.json", false),
            (&[], &["*.gguf"], "model.safetensors", true),
        ];
        for (include, exclude, path, taken) in cases {
            let selection = selection(include, exclude).unwrap();
            assert_eq!(selection.takes(&path.parse().unwrap()), taken, "{include:?} without {exclude:?}: {path}");
        }
        let error = selection(&["a"], &["[b"]).unwrap_err().to_string();
        assert!(error.starts_with("exclude \"[b\": not a glob"), "{error}");
    }

    #[test]
    fn a_selection_is_read_back_from_its_json_and_a_bad_one_is_not() {
        let written = selection(&["*.json"], &["onnx/"]).unwrap();
        let text = serde_json::to_string(&written).unwrap();
        assert_eq!(text, r#"{"include":["*.json"],"exclude":["onnx/"]}"#);
        assert_eq!(serde_json::from_str::<Selection>(&text).unwrap(), written);
        assert!(serde_json::from_str::<Selection>("{}").unwrap().is_everything());
        assert!(serde_json::from_str::<Selection>(r#"{"include":["[x"]}"#).is_err());
    }

    const ALLOWED: &str = "[licenses]\nallow = [\"mit\"]\n[[allow]]\nname = \"r\"\nrepo = \"acme/*\"\n\
                           revisions = [\"main\"]\n[[allow]]\nname = \"d\"\nrepo = \"acme/*\"\nkind = \"dataset\"\n";

    #[test]
    fn the_list_names_repos_of_any_kind_at_main_unless_it_says_otherwise() {
        let set = policy(&format!(
            "{ALLOWED}[[mirror]]\nrepo = \"acme/tiny\"\n\
             [[mirror]]\nrepo = \"datasets/acme/table\"\nrevisions = [\"main\", \"v1\"]\nexclude = [\"*.csv\"]\n\
             [[mirror]]\nrepo = \"acme/table\"\nkind = \"dataset\"\nrevisions = [\"v2\"]\ninclude = [\"*.parquet\"]\n"
        ));
        let shown: Vec<String> = set
            .mirrors()
            .iter()
            .map(|mirror| {
                let revisions: Vec<&str> = mirror.revisions.iter().map(Revision::as_str).collect();
                let (include, exclude) = (mirror.selection.include(), mirror.selection.exclude());
                format!("{} {} {revisions:?} +{include:?} -{exclude:?}", mirror.source, mirror.repo)
            })
            .collect();
        assert_eq!(
            shown,
            [
                r#"policy.toml:11 acme/tiny ["main"] +[] -[]"#,
                r#"policy.toml:13 datasets/acme/table ["main", "v1"] +[] -["*.csv"]"#,
                r#"policy.toml:17 datasets/acme/table ["v2"] +["*.parquet"] -[]"#,
            ]
        );
    }

    #[test]
    fn an_entry_that_no_rule_allows_is_a_warning_with_its_place() {
        let set = policy(&format!(
            "{ALLOWED}[[mirror]]\nrepo = \"acme/tiny\"\n[[mirror]]\nrepo = \"other/x\"\n\
             [[mirror]]\nrepo = \"acme/y\"\nrevisions = [\"v1\"]\n"
        ));
        let found = check(&set, day("2026-11-24"), None);
        let of_mirrors: Vec<String> = found
            .iter()
            .filter(|finding| finding.severity == Severity::Warning && finding.text.starts_with("mirror"))
            .map(ToString::to_string)
            .collect();
        assert_eq!(of_mirrors.len(), 2, "{of_mirrors:?}");
        assert!(
            of_mirrors[0].starts_with("policy.toml:13: warning: mirror other/x: sync will refuse it: no allow rule")
        );
        assert!(
            of_mirrors[1].starts_with("policy.toml:15: warning: mirror acme/y@v1: sync will refuse it: revision v1")
        );
    }
}
