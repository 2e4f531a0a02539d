//! Globs over repo ids, revisions and file paths.
//!
//! In all of them `*` and `?` stay within one part of a path, `**` crosses `/`, `[abc]` is one of some characters and
//! `{a,b}` one of some texts. Repo ids and file paths match without regard to (ASCII) case, revisions exactly.

use std::collections::HashMap;

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

/// What is wrong with a pattern and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) problem: String,
    pub(super) remedy: String,
}

impl Mistake {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }
}

/// Whether a pattern is only itself.
pub(super) fn is_literal(pattern: &str) -> bool {
    !pattern.contains(['*', '?', '[', ']', '{', '}', '\\'])
}

fn glob(pattern: &str) -> Result<globset::Glob, Mistake> {
    GlobBuilder::new(pattern)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|e| Mistake::new(format!("not a glob: {}", e.kind()), "use *, ?, **, [abc] and {a,b}, closed"))
}

fn set(globs: impl IntoIterator<Item = globset::Glob>) -> Result<GlobSet, Mistake> {
    let mut builder = GlobSetBuilder::new();
    for glob in globs {
        builder.add(glob);
    }
    builder.build().map_err(|e| Mistake::new(format!("these globs are too large together: {e}"), "shorten them"))
}

/// Patterns over repo ids of one kind, each with a value; the most specific one that matches wins: an id in full
/// before any glob, then the glob with more literal characters, then the one added first.
#[derive(Debug)]
pub(super) struct RepoPatterns {
    exact: HashMap<String, usize>,
    /// Of each `owner/*`, the commonest glob, its place in `by_rank`: a look-up where a regular expression would cost
    /// ten times as much.
    owners: HashMap<String, usize>,
    globs: GlobSet,
    /// The place of each glob of `globs` in `by_rank`, rising.
    ranks: Vec<usize>,
    /// The values of all globs, most specific first.
    by_rank: Vec<usize>,
}

impl RepoPatterns {
    /// Takes (pattern, value) pairs; every pattern was checked by [`check_repo_pattern`].
    pub(super) fn new<'a>(patterns: impl IntoIterator<Item = (&'a str, usize)>) -> Result<Self, Mistake> {
        let mut exact = HashMap::new();
        let mut wild = Vec::new();
        for (pattern, value) in patterns {
            let pattern = pattern.to_ascii_lowercase();
            if is_literal(&pattern) {
                exact.entry(pattern).or_insert(value);
            } else {
                wild.push((pattern, value));
            }
        }
        let letters = |pattern: &str| pattern.chars().filter(char::is_ascii_alphanumeric).count();
        wild.sort_by_key(|(pattern, _)| std::cmp::Reverse(letters(pattern)));
        let (mut owners, mut globs, mut ranks) = (HashMap::new(), Vec::new(), Vec::new());
        for (rank, (pattern, _)) in wild.iter().enumerate() {
            match pattern.strip_suffix("/*").filter(|owner| is_literal(owner)) {
                Some(owner) => {
                    owners.entry(owner.to_owned()).or_insert(rank);
                }
                None => {
                    globs.push(glob(pattern)?);
                    ranks.push(rank);
                }
            }
        }
        let by_rank = wild.into_iter().map(|(_, value)| value).collect();
        Ok(Self { exact, owners, globs: set(globs)?, ranks, by_rank })
    }

    /// The value of the most specific pattern that matches an id in lower case.
    pub(super) fn find(&self, id: &str) -> Option<usize> {
        if let Some(value) = self.exact.get(id) {
            return Some(*value);
        }
        let of_owner = id.split_once('/').and_then(|(owner, _)| self.owners.get(owner)).copied();
        let rank = of_owner.into_iter().chain(self.find_glob(id)).min()?;
        self.by_rank.get(rank).copied()
    }

    fn find_glob(&self, id: &str) -> Option<usize> {
        let candidate = Candidate::from_bytes(id);
        if self.globs.is_empty() || !self.globs.is_match_candidate(&candidate) {
            return None;
        }
        let index = self.globs.matches_candidate(&candidate).into_iter().min()?;
        self.ranks.get(index).copied()
    }
}

/// Refuses what can't be a pattern over `<org>/<name>` or a legacy one-label id.
pub(super) fn check_repo_pattern(pattern: &str) -> Result<(), Mistake> {
    let example = "write an id such as org/name or a glob such as org/*";
    for prefix in ["datasets/", "spaces/", "models/"] {
        if let Some(id) = pattern.strip_prefix(prefix).filter(|id| id.contains('/')) {
            let kind = prefix.trim_end_matches("s/");
            return Err(Mistake::new(
                "the kind of a repo is not part of its id",
                format!("write repo = \"{id}\" and kind = \"{kind}\""),
            ));
        }
    }
    if is_literal(pattern) {
        return match crate::hub::Repo::new(crate::hub::RepoKind::Model, pattern) {
            Ok(_) => Ok(()),
            Err(e) => Err(Mistake::new(e.problem, example)),
        };
    }
    if let Some(c) = pattern.chars().find(|c| !c.is_ascii_alphanumeric() && !"-_./*?[]{},!^\\".contains(*c)) {
        return Err(Mistake::new(format!("{c:?} is in no repo id"), example));
    }
    if pattern.starts_with('/') || pattern.ends_with('/') {
        return Err(Mistake::new("a repo id neither starts nor ends with /", example));
    }
    glob(&pattern.to_ascii_lowercase()).map(|_| ())
}

/// Patterns over file paths, as in .gitignore: without a `/` a pattern is matched with the file's name at any depth,
/// with one the whole path is; `dir/` means everything below a folder of that name, at any depth.
#[derive(Debug, Clone, Default)]
pub(super) struct FilePatterns {
    set: GlobSet,
    patterns: Vec<String>,
}

impl FilePatterns {
    pub(super) fn new(patterns: impl IntoIterator<Item = String>) -> Result<Self, Mistake> {
        let patterns: Vec<String> = patterns.into_iter().collect();
        let globs = patterns.iter().map(|pattern| file_glob(pattern)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { set: set(globs)?, patterns })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// As written.
    pub(super) fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// The first pattern that matches a path in lower case.
    pub(super) fn find(&self, path: &str) -> Option<&str> {
        if self.patterns.is_empty() {
            return None;
        }
        let candidate = Candidate::from_bytes(path);
        if !self.set.is_match_candidate(&candidate) {
            return None;
        }
        let index = self.set.matches_candidate(&candidate).into_iter().min()?;
        self.patterns.get(index).map(String::as_str)
    }
}

/// The glob of one file pattern.
pub(super) fn file_glob(pattern: &str) -> Result<globset::Glob, Mistake> {
    let example = "write a file name such as *.bin or a path such as onnx/*.onnx";
    if pattern.trim().is_empty() || pattern.contains(char::is_control) {
        return Err(Mistake::new("an empty pattern or a control character", example));
    }
    if let Some(rest) = pattern.strip_prefix('!') {
        return Err(Mistake::new("patterns are not negated", format!("put \"{rest}\" into files.allow of a rule")));
    }
    let pattern = pattern.to_ascii_lowercase();
    let whole = match pattern.strip_suffix('/') {
        Some(folder) if folder.trim_start_matches('/').contains('/') => format!("{folder}/**"),
        Some(folder) if folder.starts_with('/') => format!("{folder}/**"),
        Some(folder) => format!("**/{folder}/**"),
        None if pattern.contains('/') => pattern,
        None => format!("**/{pattern}"),
    };
    glob(whole.trim_start_matches('/'))
}

/// Patterns over the names of branches, tags and special refs.
#[derive(Debug, Clone)]
pub(super) struct RefPatterns {
    set: GlobSet,
    /// Those that name special refs: only they match them.
    special: GlobSet,
    patterns: Vec<String>,
}

impl RefPatterns {
    pub(super) fn new(patterns: impl IntoIterator<Item = String>) -> Result<Self, Mistake> {
        let patterns: Vec<String> = patterns.into_iter().collect();
        let globs = |wanted: fn(&str) -> bool| {
            let names = patterns.iter().map(|pattern| ref_name(pattern)).filter(|name| wanted(name));
            set(names.map(|name| glob(&name)).collect::<Result<Vec<_>, _>>()?)
        };
        Ok(Self { set: globs(|name| !is_special_ref(name))?, special: globs(is_special_ref)?, patterns })
    }

    pub(super) fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Whether one of the patterns matches a name as [`ref_name`] gives it.
    pub(super) fn match_name(&self, name: &str) -> bool {
        if is_special_ref(name) { self.special.is_match(name) } else { self.set.is_match(name) }
    }

    /// Whether one of the patterns is this very text, not a glob.
    pub(super) fn name_literally(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| is_literal(pattern) && ref_name(pattern) == name)
    }

    /// Whether all of the patterns are full shas.
    pub(super) fn are_commits(&self) -> bool {
        self.patterns.iter().all(|pattern| pattern.parse::<crate::hub::Commit>().is_ok())
    }

    /// Whether any of the patterns names special refs.
    pub(super) fn name_special_refs(&self) -> bool {
        !self.special.is_empty()
    }
}

/// One name for the spellings in which git finds a ref: `refs/heads/x` and `refs/tags/x` are `x`, `HEAD` is the Hub's
/// `main`, and `pr/1` is `refs/pr/1`, since git looks for a short name below `refs/` too.
pub(super) fn ref_name(text: &str) -> std::borrow::Cow<'_, str> {
    if text == "HEAD" {
        return "main".into();
    }
    if let Some(name) = text.strip_prefix("refs/heads/").or_else(|| text.strip_prefix("refs/tags/")) {
        return name.into();
    }
    if text.starts_with("pr/") || text.starts_with("convert/") {
        return format!("refs/{text}").into();
    }
    text.into()
}

/// Whether a [`ref_name`] is outside the ordinary branches and tags.
pub(super) fn is_special_ref(name: &str) -> bool {
    name.starts_with("refs/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_pattern_wins_whatever_the_order() {
        let mut patterns = [
            ("*/*", 0),
            ("org/*", 1),
            ("org/name-*", 2),
            ("Org/Name-v1", 3),
            ("gpt2", 4),
            ("*", 5),
            ("*/longer-than-the-owner", 6),
        ];
        for _ in 0..2 {
            let set = RepoPatterns::new(patterns.iter().copied()).unwrap();
            let cases = [
                ("org/name-v1", Some(3)),
                ("org/name-v2", Some(2)),
                ("org/x", Some(1)),
                ("org/longer-than-the-owner", Some(6)),
                ("a/b", Some(0)),
                ("gpt2", Some(4)),
                ("gpt3", Some(5)),
            ];
            for (id, expected) in cases {
                assert_eq!(set.find(id), expected, "{id}");
            }
            patterns.reverse();
        }
    }

    #[test]
    fn a_star_stays_within_a_label() {
        let set = RepoPatterns::new([("org*", 0), ("*/x", 1)]).unwrap();
        assert_eq!(set.find("org/x"), Some(1));
        assert_eq!(set.find("org1"), Some(0));
        assert_eq!(set.find("org/y"), None);
    }

    #[test]
    fn bad_repo_patterns_are_refused_with_a_remedy() {
        for good in ["gpt2", "org/name", "org/*", "*/*-uncensored", "{gpt2,openai-community/gpt2}", "org/[a-c]*"] {
            assert_eq!(check_repo_pattern(good), Ok(()), "{good}");
        }
        for bad in ["", "/", "org/", "/x*", "a/b/c", "a b", "org/[a", "org/{a", "a--b", "é*", "datasets/org/x"] {
            let mistake = check_repo_pattern(bad).expect_err(bad);
            assert!(!mistake.remedy.is_empty());
        }
        assert!(check_repo_pattern("datasets/org/x").unwrap_err().remedy.contains("kind = \"dataset\""));
    }

    #[test]
    fn file_patterns_match_the_name_at_any_depth_or_the_whole_path() {
        let cases = [
            ("*.py", "a.py", true),
            ("*.py", "src/deep/a.py", true),
            ("*.py", "a.pyc", false),
            ("*.PKL", "a.pkl", true),
            ("onnx/*", "onnx/a", true),
            ("onnx/*", "onnx/a/b", false),
            ("onnx/*", "sub/onnx/a", false),
            ("onnx/", "onnx/a/b", true),
            ("onnx/", "sub/onnx/a", true),
            ("/onnx/", "sub/onnx/a", false),
            ("onnx/", "onnx", false),
            ("/config.json", "config.json", true),
            ("/config.json", "sub/config.json", false),
            ("onnx/**/*.onnx", "onnx/a/b/m.onnx", true),
            ("model-0000?-of-*.safetensors", "model-00001-of-00002.safetensors", true),
            ("*.{pt,pth}", "x.pth", true),
        ];
        for (pattern, path, expected) in cases {
            let found = FilePatterns::new([pattern.to_owned()]).unwrap().find(path).is_some();
            assert_eq!(found, expected, "{pattern} on {path}");
        }
        for bad in ["", " ", "!x", "[a", "{a", "a\nb"] {
            assert!(FilePatterns::new([bad.to_owned()]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn special_refs_are_matched_only_by_patterns_that_name_them() {
        let set = |patterns: &[&str]| RefPatterns::new(patterns.iter().map(|p| (*p).to_owned())).unwrap();
        let cases: [(&[&str], &str, bool); 10] = [
            (&["**"], "refs/pr/1", false),
            (&["**"], "pr/1", false),
            (&["refs/pr/*"], "refs/pr/1", true),
            (&["refs/pr/*"], "pr/1", true),
            (&["refs/convert/parquet"], "refs/convert/duckdb", false),
            (&["main"], "refs/heads/main", true),
            (&["main"], "HEAD", true),
            (&["v*"], "refs/tags/v1", true),
            (&["v*"], "feature/v1", false),
            (&["refs/pr/*"], "main", false),
        ];
        for (patterns, name, expected) in cases {
            assert_eq!(set(patterns).match_name(&ref_name(name)), expected, "{patterns:?} on {name}");
        }
    }
}
