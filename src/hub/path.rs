//! A file's path inside a repo, safe by construction.

use std::{fmt, str::FromStr, sync::Arc};

use super::ParseError;

/// A path in a commit's tree. Never empty, never absolute; no segment is empty, `.` or `..`; no `\`, NUL or
/// other control character; at most 1,024 bytes. So it can't leave the place it is joined to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoPath(Arc<str>);

impl RepoPath {
    /// The decoded text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RepoPath {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = |problem| Err(ParseError::new("path", text, problem));
        if text.is_empty() || text.len() > 1024 {
            return wrong("a path has 1 to 1,024 bytes");
        }
        if text.chars().any(|c| c.is_control() || c == '\\') {
            return wrong("a path has no control character and no backslash");
        }
        if text.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return wrong("no part of a path is empty, `.` or `..`");
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_accepted_path_leaves_its_place() {
        for good in ["a", "a/b.txt", "sub dir/filé #1 100%.txt", "...", "a/..b"] {
            assert_eq!(good.parse::<RepoPath>().unwrap().as_str(), good);
        }
        for bad in ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\\b", "a\0b", "a\nb"] {
            assert!(bad.parse::<RepoPath>().is_err(), "{bad:?} was accepted");
        }
        assert!("x".repeat(1025).parse::<RepoPath>().is_err());
    }
}
