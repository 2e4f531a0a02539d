//! Refs and history (PROTOCOL 4.5).

use serde::{Deserialize, Serialize};

use crate::hub::Commit;

/// The answer of `/refs`. The first three keys must be there, even when empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refs {
    /// Branches; `main` is one.
    #[serde(default)]
    pub branches: Vec<RefInfo>,
    /// `refs/convert/...`.
    #[serde(default)]
    pub converts: Vec<RefInfo>,
    /// Tags.
    #[serde(default)]
    pub tags: Vec<RefInfo>,
    /// `refs/pr/...`, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_requests: Option<Vec<RefInfo>>,
}

/// One ref.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefInfo {
    /// The short name: `main`, `v1.0`, the number of a pull request.
    pub name: String,
    /// The full name: `refs/heads/main`.
    #[serde(rename = "ref")]
    pub full_name: String,
    /// What it points to.
    pub target_commit: Commit,
}

/// One element of the answer of `/commits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitInfo {
    /// The commit.
    pub id: Commit,
    /// The first line of its message.
    #[serde(default)]
    pub title: String,
    /// The rest of its message.
    #[serde(default)]
    pub message: String,
    /// Who made it.
    #[serde(default)]
    pub authors: Vec<CommitAuthor>,
    /// When, as the Hub writes it: ISO 8601 with `Z`.
    pub date: String,
    /// Title and message as HTML: `expand[]=formatted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub formatted: Option<serde_json::Value>,
}

/// An author of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitAuthor {
    /// The Hub's user name.
    #[serde(default)]
    pub user: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refs_always_have_the_three_keys_that_clients_require() {
        let empty = serde_json::to_value(Refs::default()).unwrap();
        assert_eq!(empty, json!({"branches": [], "converts": [], "tags": []}));
        let full = json!({
            "branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": "1".repeat(40)}],
            "converts": [], "tags": [],
            "pullRequests": [{"name": "187", "ref": "refs/pr/187", "targetCommit": "2".repeat(40)}],
        });
        let read: Refs = serde_json::from_value(full.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), full);
    }

    #[test]
    fn history_goes_out_as_it_came() {
        let full = json!([{
            "id": "1".repeat(40), "title": "Upload", "message": "", "authors": [{"user": "a"}],
            "date": "2022-11-30T19:54:16.000Z",
        }]);
        let read: Vec<CommitInfo> = serde_json::from_value(full.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), full);
    }
}
