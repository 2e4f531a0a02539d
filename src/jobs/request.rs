//! What a job is to bring in, and the id that follows from it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    hub::{ParseError, Repo, RepoKind, Revision, Sha256},
    policy::{Selection, SelectionError},
};

/// Hex digits of an id.
const ID_LENGTH: usize = 32;

/// A revision of a repo, and which of its files. Two that mean the same are equal.
///
/// In JSON: `repo`, `kind`, `revision`, `include`, `exclude`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Request {
    repo: Repo,
    revision: Revision,
    selection: Selection,
}

#[derive(Serialize, Deserialize)]
struct Written {
    repo: String,
    kind: RepoKind,
    revision: Revision,
    include: Vec<String>,
    exclude: Vec<String>,
}

impl Request {
    /// Patterns are sorted, and each stands once.
    ///
    /// # Errors
    /// A pattern that is none.
    pub fn new(
        repo: Repo,
        revision: Revision,
        include: Vec<String>,
        exclude: Vec<String>,
    ) -> Result<Self, SelectionError> {
        let sorted = |mut list: Vec<String>| {
            list.sort();
            list.dedup();
            list
        };
        Ok(Self { repo, revision, selection: Selection::new(sorted(include), sorted(exclude))? })
    }

    /// The repo, as it was asked for.
    pub fn repo(&self) -> &Repo {
        &self.repo
    }

    /// The revision.
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// Which files.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The hash of all of it. The Hub ignores the case of names, and so does the id.
    pub fn id(&self) -> JobId {
        let (kind, name) = (self.repo.kind().singular(), self.repo.id().to_ascii_lowercase());
        let (include, exclude) = (self.selection.include(), self.selection.exclude());
        let text = serde_json::json!([kind, name, self.revision, include, exclude]).to_string();
        JobId(Sha256::of(text.as_bytes()).to_string()[..ID_LENGTH].to_owned())
    }
}

impl TryFrom<Written> for Request {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { repo, kind, revision, include, exclude } = written;
        let repo = Repo::new(kind, &repo).map_err(|error| error.to_string())?;
        Self::new(repo, revision, include, exclude).map_err(|error| error.to_string())
    }
}

impl From<Request> for Written {
    fn from(request: Request) -> Self {
        Self {
            repo: request.repo.id().to_owned(),
            kind: request.repo.kind(),
            revision: request.revision,
            include: request.selection.include().to_vec(),
            exclude: request.selection.exclude().to_vec(),
        }
    }
}

/// A job's name: 32 hex digits, the beginning of its request's sha256.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct JobId(String);

impl JobId {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for JobId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if text.len() != ID_LENGTH || !digits {
            return Err(ParseError::new("job id", text, "a job's id is 32 hex digits, in lower case"));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(repo: &str, revision: &str, include: &[&str], exclude: &[&str]) -> Request {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Request::new(repo.parse().unwrap(), revision.parse().unwrap(), owned(include), owned(exclude)).unwrap()
    }

    #[test]
    fn the_same_wish_has_the_same_id_however_it_is_written() {
        let one = request("acme/tiny", "main", &["*.json", "a/"], &["b"]);
        for same in [
            request("acme/tiny", "main", &["a/", "*.json", "a/"], &["b"]),
            request("ACME/Tiny", "main", &["*.json", "a/"], &["b"]),
        ] {
            assert_eq!(one.id(), same.id());
        }
        for other in [
            request("acme/tiny", "v1", &["*.json", "a/"], &["b"]),
            request("datasets/acme/tiny", "main", &["*.json", "a/"], &["b"]),
            request("acme/tiny", "main", &["*.json", "a/", "b"], &[]),
            request("acme/tiny", "main", &["*.json", "a/"], &[]),
        ] {
            assert_ne!(one.id(), other.id(), "{other:?}");
        }
        assert_eq!(one.id().as_str().parse::<JobId>().unwrap(), one.id());
    }

    #[test]
    fn a_request_is_read_back_from_its_json() {
        let written = request("datasets/acme/table", "refs/convert/parquet", &["*.parquet"], &["x/"]);
        let text = serde_json::to_string(&written).unwrap();
        assert!(
            text.starts_with(r#"{"repo":"acme/table","kind":"dataset","revision":"refs/convert/parquet""#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), written);
    }

    #[test]
    fn an_id_is_nothing_that_could_lead_out_of_its_folder() {
        for bad in ["", "..", "../../x", "ABCDEF0123456789ABCDEF0123456789", "0123", &"0".repeat(33)] {
            assert!(bad.parse::<JobId>().is_err(), "{bad:?}");
        }
    }
}
