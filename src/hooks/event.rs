//! What the hook is told: the commit, its licence, its files and where they lie.

use serde::Serialize;

use crate::{
    hub::{Repo, RepoKind, RepoPath, Revision, Sha256},
    store::{Error, ErrorKind, Key, Result, StoreConfig, StoreKind},
};

/// A commit of which every file that policy serves is stored and recorded.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The repo under its canonical name.
    pub repo: Repo,
    /// The full commit.
    pub commit: crate::hub::Commit,
    /// The revision that led to it.
    pub revision: Revision,
    /// The licence, as the manifest has it.
    pub license: String,
    /// The rule that allows it.
    pub rule: String,
    /// Who approved the rule.
    pub approved_by: Option<String>,
    /// Where that is written.
    pub ticket: Option<String>,
    /// The digest of the policy that decided.
    pub policy_sha256: Sha256,
    /// The files, in the order of their paths.
    pub files: Vec<File>,
}

/// One file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its path in the commit.
    pub path: RepoPath,
    /// Length in bytes.
    pub size: u64,
    /// The digest of its content.
    pub sha256: Sha256,
}

/// Where the store's objects lie; a key is added to it with a `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Location {
    /// A directory.
    Local {
        /// Its absolute path.
        path: String,
    },
    /// A bucket.
    S3 {
        /// The server's URL; none for AWS.
        endpoint: Option<String>,
        /// The bucket.
        bucket: String,
        /// What stands before all keys; may be empty.
        prefix: String,
    },
}

impl Location {
    /// Where the configured store lies. A relative path is of the process's working directory.
    pub fn of(config: &StoreConfig) -> Self {
        match config.kind {
            StoreKind::Local => {
                let path = std::path::absolute(&config.local.path).unwrap_or_else(|_| config.local.path.clone());
                Self::Local { path: path.display().to_string() }
            }
            StoreKind::S3 => Self::S3 {
                endpoint: config.s3.endpoint.clone(),
                bucket: config.s3.bucket.clone(),
                prefix: config.s3.prefix.clone(),
            },
        }
    }
}

#[derive(Serialize)]
struct Told<'a> {
    event: &'static str,
    kind: RepoKind,
    repo: &'a str,
    commit: crate::hub::Commit,
    revision: &'a Revision,
    license: &'a str,
    rule: &'a str,
    approved_by: Option<&'a str>,
    ticket: Option<&'a str>,
    policy_sha256: Sha256,
    store: &'a Location,
    files: Vec<ToldFile<'a>>,
}

#[derive(Serialize)]
struct ToldFile<'a> {
    path: &'a RepoPath,
    size: u64,
    sha256: Sha256,
    key: String,
}

impl Commit {
    /// The hook's standard input: one JSON object, the same bytes for the same facts.
    pub(super) fn to_json(&self, store: &Location) -> Result<Vec<u8>> {
        let files = self.files.iter();
        let told = Told {
            event: "commit_complete",
            kind: self.repo.kind(),
            repo: self.repo.id(),
            commit: self.commit,
            revision: &self.revision,
            license: &self.license,
            rule: &self.rule,
            approved_by: self.approved_by.as_deref(),
            ticket: self.ticket.as_deref(),
            policy_sha256: self.policy_sha256,
            store,
            files: files
                .map(|file| ToldFile {
                    path: &file.path,
                    size: file.size,
                    sha256: file.sha256,
                    key: Key::blob(&file.sha256).to_string(),
                })
                .collect(),
        };
        serde_json::to_vec(&told).map_err(|error| Error::new(ErrorKind::Other(error.to_string())))
    }

    /// What identifies the content: the commit and its files, not who allowed them. A policy's every change would
    /// otherwise be a reason to run the hook again.
    pub(super) fn content_sha256(&self) -> Sha256 {
        let lines = self.files.iter().map(|file| format!("{} {} {}\n", file.sha256, file.size, file.path));
        Sha256::of(format!("{} {}\n{}", self.repo, self.commit, lines.collect::<String>()).as_bytes())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::hooks) fn commit() -> Commit {
        Commit {
            repo: "datasets/org/name".parse().unwrap(),
            commit: "c".repeat(40).parse().unwrap(),
            revision: "main".parse().unwrap(),
            license: "mit".into(),
            rule: "r".into(),
            approved_by: None,
            ticket: Some("SEC-1".into()),
            policy_sha256: Sha256::of(b"policy"),
            files: vec![File { path: "a b.txt".parse().unwrap(), size: 3, sha256: Sha256::of(b"abc") }],
        }
    }

    #[test]
    fn a_hook_is_told_what_it_needs_to_find_every_file() {
        let location = Location::S3 { endpoint: None, bucket: "models".into(), prefix: "hubgate".into() };
        let told: serde_json::Value = serde_json::from_slice(&commit().to_json(&location).unwrap()).unwrap();
        let sha256 = Sha256::of(b"abc").to_string();
        assert_eq!(
            told["store"],
            serde_json::json!({"kind": "s3", "endpoint": null, "bucket": "models", "prefix": "hubgate"})
        );
        assert_eq!(
            (&told["kind"], &told["repo"], &told["license"]),
            (&"dataset".into(), &"org/name".into(), &"mit".into())
        );
        let key = format!("blobs/sha256/{}/{sha256}", &sha256[..2]);
        assert_eq!(told["files"], serde_json::json!([{"path": "a b.txt", "size": 3, "sha256": sha256, "key": key}]));
    }

    #[test]
    fn another_policy_is_the_same_content_and_another_file_is_not() {
        let (one, mut other) = (commit(), commit());
        other.policy_sha256 = Sha256::of(b"another");
        assert_eq!(one.content_sha256(), other.content_sha256());
        other.files[0].size = 4;
        assert_ne!(one.content_sha256(), other.content_sha256());
    }
}
