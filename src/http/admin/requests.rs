//! Requests that wait: listing them, asking in person, and asking upstream about one.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Answer, Control, Created, Operator, Problem,
    asked::{Asked, Selected, repo, text},
};
use crate::{
    admin::{Requests, State as RequestState},
    gateway::Inspection,
    hub::{RepoKind, Revision},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    /// Only those; waiting, unless said otherwise.
    state: Option<Which>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Which {
    All,
    Waiting,
    Allowed,
    Rejected,
}

pub(super) async fn list(State(control): State<Control>, Selected(selection): Selected<Selection>) -> Answer<Requests> {
    let mut found = control.admin.list_requests().await?;
    let wanted = match selection.state.unwrap_or(Which::Waiting) {
        Which::All => return Ok(Json(found)),
        Which::Waiting => RequestState::Waiting,
        Which::Allowed => RequestState::Allowed,
        Which::Rejected => RequestState::Rejected,
    };
    found.requests.retain(|request| request.state == wanted);
    Ok(Json(found))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    repo: String,
    kind: Option<RepoKind>,
    reason: String,
}

#[derive(Serialize)]
pub(super) struct Noted {
    noted: bool,
}

pub(super) async fn ask(
    State(control): State<Control>,
    operator: Operator,
    Asked(wish): Asked<Wish>,
) -> Created<Noted> {
    let (repo, reason) = (repo(&wish.repo, wish.kind)?, text("reason", &wish.reason)?);
    control.admin.request(&repo, &reason, &operator.actor()).await?;
    Ok((StatusCode::CREATED, Json(Noted { noted: true })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Look {
    repo: String,
    kind: Option<RepoKind>,
    revision: Option<String>,
    reason: String,
}

/// The one place where upstream is asked about a repo that no rule names; written down before.
pub(super) async fn inspect(
    State(control): State<Control>,
    operator: Operator,
    Asked(look): Asked<Look>,
) -> Answer<Inspection> {
    let (repo, reason) = (repo(&look.repo, look.kind)?, text("reason", &look.reason)?);
    let revision = match &look.revision {
        None => Revision::main(),
        Some(text) => text.parse().map_err(|error| Problem::Invalid(format!("revision: {error}")))?,
    };
    let details = json!({ "revision": revision });
    control.admin.audit().record(operator.change("request.inspect", &repo, Some(&reason), details)).await?;
    Ok(Json(control.gateway.inspect(&operator.asker(), &repo, &revision).await?))
}
