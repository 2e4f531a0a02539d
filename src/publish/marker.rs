//! The marker: which commit a repo's copies are, and how many. Workloads read it before and after.

use std::fmt::Write as _;

use bytes::Bytes;
use serde::Serialize;

use super::record::Target;
use crate::{
    gateway::Publishable,
    hub::{Commit, RepoKind, Revision, Sha256},
    store::{Error, ErrorKind, Result},
};

/// Deterministic facts only: the same copies have the same marker, whoever made them and when.
#[derive(Serialize)]
struct Marker<'a> {
    kind: RepoKind,
    repo: &'a str,
    revision: &'a Revision,
    commit: Commit,
    license: &'a str,
    files: usize,
    bytes: u64,
    /// Over the lines `<sha256>  <path>` in the order of the paths, as `sha256sum` writes them.
    files_sha256: Sha256,
}

/// The marker's text: one line of JSON.
pub(super) fn marker(target: &Target, revision: &Revision, from: &Publishable) -> Result<Bytes> {
    let mut lines = String::new();
    for file in &from.files {
        let _ = writeln!(lines, "{}  {}", file.sha256, file.path);
    }
    let marker = Marker {
        kind: target.repo.kind(),
        repo: target.repo.id(),
        revision,
        commit: from.commit,
        license: &from.license,
        files: from.files.len(),
        bytes: from.files.iter().map(|file| file.size).sum(),
        files_sha256: Sha256::of(lines.as_bytes()),
    };
    let mut text = serde_json::to_vec(&marker).map_err(|error| Error::new(ErrorKind::Other(error.to_string())))?;
    text.push(b'\n');
    Ok(Bytes::from(text))
}
