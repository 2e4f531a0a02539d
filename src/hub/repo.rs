//! Which repo: its kind and its id of one or two labels.

use std::{fmt, str::FromStr, sync::Arc};

use super::ParseError;

/// What a repo holds; the Hub keeps each kind in a name space of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RepoKind {
    /// A model: URLs without a prefix.
    Model,
    /// A data set: URLs below `/datasets`.
    Dataset,
    /// A space: URLs below `/spaces`.
    Space,
}

impl RepoKind {
    /// All kinds, in the order in which we list them.
    pub const ALL: [Self; 3] = [Self::Model, Self::Dataset, Self::Space];

    /// The plural of API URLs and store keys: `models`, `datasets`, `spaces`.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
            Self::Space => "spaces",
        }
    }

    /// The singular of configuration and the manifest: `model`, `dataset`, `space`.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
            Self::Space => "space",
        }
    }

    /// What stands before the repo id in a web URL: nothing, `datasets/` or `spaces/`.
    pub fn web_prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
            Self::Space => "spaces/",
        }
    }
}

impl fmt::Display for RepoKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.singular())
    }
}

impl FromStr for RepoKind {
    type Err = ParseError;

    /// Reads the singular or the plural.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "model" | "models" => Ok(Self::Model),
            "dataset" | "datasets" => Ok(Self::Dataset),
            "space" | "spaces" => Ok(Self::Space),
            _ => Err(ParseError::new("repo kind", text, "write model, dataset or space")),
        }
    }
}

/// A repo on the Hub: its kind and its id, `org/name` or a legacy one-label id such as `gpt2`.
///
/// The id keeps the letters as they were asked; the Hub ignores case, so comparing two spellings is
/// [`Repo::same_name`]'s work, not `==`'s.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repo {
    kind: RepoKind,
    id: Arc<str>,
}

/// No repo's first label: these begin URLs of another meaning, and `datasets/x` would be two repos.
const RESERVED: [&str; 6] = ["api", "models", "datasets", "spaces", "kernels", "buckets"];

impl Repo {
    /// Checks an id by the Hub's rules (`validate_repo_id` of `huggingface_hub`): one or two labels of
    /// `[A-Za-z0-9_.-]`, each at most 96 characters, not starting or ending with `-` or `.`, no `--`, no
    /// `..`, not ending in `.git`; and the first label is none of the words that begin the Hub's own URLs.
    pub fn new(kind: RepoKind, id: &str) -> Result<Self, ParseError> {
        let wrong = |problem| Err(ParseError::new("repo id", id, problem));
        let labels: Vec<&str> = id.split('/').collect();
        if labels.len() > 2 {
            return wrong("a repo id is `name` or `org/name`");
        }
        for label in &labels {
            if label.is_empty() || label.len() > 96 {
                return wrong("each part of a repo id has 1 to 96 characters");
            }
            if !label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
                return wrong("a repo id has letters, digits, `-`, `_` and `.` only");
            }
            if label.starts_with(['-', '.']) || label.ends_with(['-', '.']) {
                return wrong("no part of a repo id starts or ends with `-` or `.`");
            }
        }
        if RESERVED.iter().any(|name| labels[0].eq_ignore_ascii_case(name)) {
            return wrong("the Hub keeps `api`, `models`, `datasets`, `spaces`, `kernels` and `buckets` for itself");
        }
        if id.contains("--") || id.contains("..") {
            return wrong("`--` and `..` are not allowed in a repo id");
        }
        if id.ends_with(".git") {
            return wrong("a repo id does not end with `.git`");
        }
        Ok(Self { kind, id: id.into() })
    }

    /// The kind.
    pub fn kind(&self) -> RepoKind {
        self.kind
    }

    /// The id as it was asked: `org/name` or `name`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The id as one segment of a store key or cache folder: `org--name`. Unambiguous, since `--` is not
    /// allowed in ids.
    pub fn segment(&self) -> String {
        self.id.replace('/', "--")
    }

    /// The name in lower case, the same for all spellings of it.
    #[must_use]
    pub fn folded(&self) -> Self {
        Self { kind: self.kind, id: self.id.to_ascii_lowercase().into() }
    }

    /// Whether both names mean one repo on the Hub, which ignores case.
    pub fn same_name(&self, other: &Self) -> bool {
        self.kind == other.kind && self.id.eq_ignore_ascii_case(&other.id)
    }
}

/// As in a web URL: `org/name`, `datasets/org/name`, `spaces/org/name`.
impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.web_prefix(), self.id)
    }
}

/// Reads what `Display` writes.
impl FromStr for Repo {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Some(id) = text.strip_prefix("datasets/") {
            Self::new(RepoKind::Dataset, id)
        } else if let Some(id) = text.strip_prefix("spaces/") {
            Self::new(RepoKind::Space, id)
        } else {
            Self::new(RepoKind::Model, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_hubs_rules() {
        for good in ["gpt2", "org/name", "a.b/c_d-e", "0/1", "Org/Name.v2"] {
            let repo = Repo::new(RepoKind::Dataset, good).unwrap();
            assert_eq!(repo.to_string().parse::<Repo>().unwrap(), repo);
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "..",
            "a/..",
            "a--b/c",
            "a b",
            "a/b.git",
            "-a/b",
            "a/b.",
            "a/é",
            "a%2Fb",
            "datasets/a",
            "API/a",
        ] {
            assert!(Repo::new(RepoKind::Model, bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn one_name_in_two_spellings_is_one_repo() {
        let a = Repo::new(RepoKind::Model, "Org/Name").unwrap();
        let b = Repo::new(RepoKind::Model, "org/name").unwrap();
        let other_kind = Repo::new(RepoKind::Space, "org/name").unwrap();
        assert!(a.same_name(&b) && a != b);
        assert!(!a.same_name(&other_kind));
    }
}
