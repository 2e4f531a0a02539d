//! The publish view's place: plain keys for workloads that read the bucket themselves (DESIGN section 9).

use std::{fmt, str::FromStr, sync::Arc};

use crate::hub::{Commit, Repo, Sha256};

/// The object that says which commit a repo's copies are.
pub const MARKER: &str = ".hubgate-commit";

/// The list of all copies, below the publish prefix.
pub const CATALOGUE: &str = "manifest.csv";

/// `publish.prefix`: names joined by `/`, from the top of the bucket or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishPrefix(Arc<str>);

/// What a copy says of itself where the store keeps such facts beside an object (S3's user metadata). For those who
/// read the bucket; hubgate decides nothing by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFacts {
    /// The repo, as in a web URL.
    pub repo: String,
    /// The commit for which the copy was made. The same content may be in later commits too.
    pub commit: Commit,
    /// The licence as recorded.
    pub license: String,
    /// Length in bytes.
    pub size: u64,
}

/// What [`Store::copy`](super::Store::copy) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// The copy was made.
    Made,
    /// The very copy was there already, and the store could tell.
    Kept,
}

impl PublishPrefix {
    /// Where the copies of a repo lie, ending in `/`; of one commit, below `@<commit>/`. Begins with `/`: it counts
    /// from the top, not from the store's own prefix.
    pub(super) fn folder(&self, repo: &Repo, commit: Option<Commit>) -> String {
        match commit {
            None => format!("/{self}/{repo}/"),
            Some(commit) => format!("/{self}/{repo}/@{commit}/"),
        }
    }
}

impl fmt::Display for PublishPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Slashes at its ends do not matter, since the plain mirror's `MINIO_PREFIX` was written with and without.
impl FromStr for PublishPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim_matches('/');
        let plain = |segment: &str| {
            !segment.is_empty()
                && !segment.starts_with('.')
                && segment.len() < 255
                && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if !text.split('/').all(plain) {
            return Err(format!(
                "{text:?}: write names of letters, digits, '-', '_' and '.', joined by '/', none of which begins with \
                 '.', such as mirrors/hf"
            ));
        }
        Ok(Self(text.into()))
    }
}

impl CopyFacts {
    /// The facts as S3 keeps them: names and values of one line of ASCII.
    pub(super) fn metadata(&self, blob: &Sha256) -> [(&'static str, String); 4] {
        let ascii = |text: &str| text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect();
        [
            ("sha256", blob.to_string()),
            ("commit", self.commit.to_string()),
            ("repo", ascii(&self.repo)),
            ("license", ascii(&self.license)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Key, Prefix};

    #[test]
    fn copies_count_from_the_top_under_the_hubs_own_names() {
        let prefix: PublishPrefix = "/mirrors/hf/".parse().unwrap();
        let commit: Commit = "1".repeat(40).parse().unwrap();
        let path = "sub dir/filé #1.txt".parse().unwrap();
        for (repo, folder) in [("org/name", "mirrors/hf/org/name/"), ("datasets/a/b", "mirrors/hf/datasets/a/b/")] {
            let repo: Repo = repo.parse().unwrap();
            let key = Key::published(&prefix, &repo, None, &path);
            assert_eq!(key.from_top(), Some(&*format!("{folder}{path}")));
            let key = Key::marker(&prefix, &repo, Some(commit));
            assert_eq!(key.from_top(), Some(&*format!("{folder}@{commit}/.hubgate-commit")));
            assert_eq!(Prefix::published(&prefix, &repo, None).from_top(), Some(folder));
        }
        assert_eq!(Key::catalogue(&prefix).from_top(), Some("mirrors/hf/manifest.csv"));
        assert_eq!(Key::layout().from_top(), None);
    }

    #[test]
    fn a_prefix_that_could_lead_elsewhere_is_refused() {
        for bad in ["", "/", "a//b", "..", "a/../b", ".staging", "a b", "é", "a/.b"] {
            assert!(bad.parse::<PublishPrefix>().is_err(), "{bad:?} was accepted");
        }
    }
}
