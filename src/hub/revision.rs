//! Revisions (what a client asks for, may move) and commits (full shas, never change).

use std::{fmt, str::FromStr, sync::Arc};

use super::ParseError;

/// A full commit sha. The only key under which files are stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Commit([u8; 20]);

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::digest::write_hex(&self.0, f)
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Commit {
    type Err = ParseError;

    /// Forty hex digits, in either case.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut sha = [0; 20];
        hex::decode_to_slice(text, &mut sha)
            .map_err(|_| ParseError::new("commit", text, "a commit is 40 hex digits"))?;
        Ok(Self(sha))
    }
}

/// What a client asks for: a branch, a tag, `refs/pr/1`, an abbreviated or a full sha. May mean another
/// commit tomorrow, unless it is a full sha.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(Arc<str>);

impl Revision {
    /// The Hub's default branch.
    pub fn main() -> Self {
        Self("main".into())
    }

    /// The text as it was asked, decoded.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The commit, if this is a full sha.
    pub fn as_commit(&self) -> Option<Commit> {
        self.0.parse().ok()
    }

    /// Whether git may read this as a commit's short name: 4 to 39 hex digits, or what `git describe` prints,
    /// `<any>-g<hex>`. A branch may be spelled so too; only the origin knows.
    pub fn may_be_short_sha(&self) -> bool {
        let short = |text: &str| (4..40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        let described = self.0.rsplit_once("-g").map_or("", |(_, sha)| sha);
        short(&self.0) || short(described) || described.parse::<Commit>().is_ok()
    }

    /// Whether this is outside the ordinary branches and tags: `refs/pr/N` or `refs/convert/NAME`. Such a
    /// revision is served only where a rule names it.
    pub fn is_special_ref(&self) -> bool {
        self.0.starts_with("refs/pr/") || self.0.starts_with("refs/convert/")
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Commit> for Revision {
    fn from(commit: Commit) -> Self {
        Self(commit.to_string().into())
    }
}

impl FromStr for Revision {
    type Err = ParseError;

    /// Accepts what git accepts as a ref name (`git check-ref-format`), in at most 250 bytes; full shas
    /// are put in lower case so that one commit has one spelling.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = |problem| Err(ParseError::new("revision", text, problem));
        if text.is_empty() || text.len() > 250 {
            return wrong("a revision has 1 to 250 bytes");
        }
        if text.chars().any(|c| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\')) {
            return wrong("a revision has no space, control character or any of ~^:?*[\\");
        }
        if text.contains("..") || text.contains("@{") || text.contains("//") {
            return wrong("`..`, `@{` and `//` are not allowed in a revision");
        }
        if text.starts_with(['/', '-']) || text.ends_with(['/', '.']) {
            return wrong("a revision does not start with `/` or `-` nor end with `/` or `.`");
        }
        if text.split('/').any(|part| part.starts_with('.') || part.ends_with(".lock")) {
            return wrong("no part of a revision starts with `.` or ends with `.lock`");
        }
        if text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Self(text.to_ascii_lowercase().into()));
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_what_git_accepts() {
        for good in ["main", "v1.0", "refs/pr/1", "feature/x", "refs/convert/parquet", "HEAD", "1111111", "é"] {
            assert_eq!(good.parse::<Revision>().unwrap().as_str(), good);
        }
        for bad in ["", "a..b", "/a", "a/", "-a", "a b", "a\\b", "a\0", ".a", "a/.b", "a.lock", "a@{1}", "a//b", "a?"] {
            assert!(bad.parse::<Revision>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_full_sha_is_a_commit_in_one_spelling() {
        let upper = "A".repeat(40).parse::<Revision>().unwrap();
        assert_eq!(upper.as_str(), "a".repeat(40));
        assert_eq!(upper.as_commit().unwrap().to_string(), "a".repeat(40));
    }

    #[test]
    fn what_git_reads_as_a_short_sha_is_known_as_one() {
        let described = format!("v1-0-g{}", "a".repeat(40));
        for short in ["abcd", "ABCDEF1", "v1.0-3-gabcdef1", "x-gabcd", &described] {
            assert!(short.parse::<Revision>().unwrap().may_be_short_sha(), "{short}");
        }
        for other in ["main", "abc", "v1.0-3", "my-great-branch", "gabcd", "x-gabc", &"a".repeat(40)] {
            assert!(!other.parse::<Revision>().unwrap().may_be_short_sha(), "{other}");
        }
    }
}
