//! What is stored: repos with their commits, files and bytes; and the manifest's records.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    Answer, Control, Problem,
    asked::{Selected, moment, parsed, repo},
};
use crate::{
    gateway::{StoredQuery, StoredRepo},
    hub::{Repo, RepoKind, Sha256},
    manifest::{Filter, Found, Record},
};

/// Repos on a page, unless fewer are asked for.
const PAGE: usize = 50;
/// Records in one answer, unless less is asked for; and at most.
const RECORDS: usize = 100;
const MOST_RECORDS: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    kind: Option<RepoKind>,
    search: Option<String>,
    #[serde(default, deserialize_with = "parsed")]
    after: Option<Repo>,
    #[serde(default, deserialize_with = "parsed")]
    limit: Option<usize>,
}

#[derive(Serialize)]
pub(super) struct Page {
    repos: Vec<StoredRepo>,
    next: Option<Repo>,
}

pub(super) async fn list(State(control): State<Control>, Selected(listing): Selected<Listing>) -> Answer<Page> {
    let Listing { kind, search, after, limit } = listing;
    let query = StoredQuery { kind, search, after, limit: limit.unwrap_or(PAGE).clamp(1, PAGE) };
    let (repos, next) = control.gateway.stored_repos(&query).await?;
    Ok(Json(Page { repos, next }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct One {
    repo: String,
    kind: Option<RepoKind>,
}

pub(super) async fn show(State(control): State<Control>, Selected(one): Selected<One>) -> Answer<StoredRepo> {
    let repo = repo(&one.repo, one.kind)?;
    let found = control.gateway.stored(&repo).await?;
    found.map(Json).ok_or_else(|| Problem::NotFound(format!("nothing is known of {repo}")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Search {
    repo: Option<String>,
    #[serde(default, deserialize_with = "parsed")]
    sha256: Option<Sha256>,
    #[serde(default, deserialize_with = "moment")]
    since: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "moment")]
    until: Option<OffsetDateTime>,
    licence: Option<String>,
    #[serde(default, deserialize_with = "parsed")]
    history: Option<bool>,
    #[serde(default, deserialize_with = "parsed")]
    limit: Option<usize>,
}

#[derive(Serialize)]
pub(super) struct Answered {
    records: Vec<Record>,
    more: bool,
    /// Breaks of the log; `hubgate verify` says which.
    faults: u64,
}

pub(super) async fn search(State(control): State<Control>, Selected(search): Selected<Search>) -> Answer<Answered> {
    let repo = search.repo.as_deref().map(Filter::repos).transpose();
    let filter = Filter {
        repo: repo.map_err(|error| Problem::Invalid(format!("repo: {error}")))?,
        sha256: search.sha256,
        since: search.since,
        until: search.until,
        licence: search.licence,
        history: search.history.unwrap_or(false),
    };
    let limit = search.limit.unwrap_or(RECORDS).clamp(1, MOST_RECORDS);
    let found = control.admin.search_manifest(&filter, limit).await?;
    let Found { records, more, faults } = Arc::unwrap_or_clone(found);
    Ok(Json(Answered { records, more, faults }))
}
