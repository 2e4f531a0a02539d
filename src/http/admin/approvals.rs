//! Saying yes or no to a repo, and taking a yes back.

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use time::{Date, macros::format_description};

use super::{
    Answer, Control, Created, Operator, Problem,
    asked::{Asked, Because, id, repo, text},
};
use crate::{
    admin::{ApprovalShown, Proposal},
    hub::RepoKind,
    policy::LicenseId,
};

#[derive(Serialize)]
pub(super) struct Approvals {
    approvals: Vec<ApprovalShown>,
}

pub(super) async fn list(State(control): State<Control>) -> Answer<Approvals> {
    Ok(Json(Approvals { approvals: control.admin.list_approvals().await? }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Yes {
    repo: String,
    kind: Option<RepoKind>,
    licence: String,
    reason: String,
    expires: String,
    pin: Option<String>,
    #[serde(default)]
    gated: bool,
    ticket: Option<String>,
}

impl Yes {
    fn proposal(&self) -> Result<Proposal, Problem> {
        let expires = Date::parse(&self.expires, format_description!("[year]-[month]-[day]")).map_err(|_| {
            Problem::Invalid(format!("expires: {:?} is no day: write the last day as YYYY-MM-DD", self.expires))
        })?;
        let pin = self.pin.as_deref().map(str::parse).transpose();
        Ok(Proposal {
            repo: repo(&self.repo, self.kind)?,
            licence: LicenseId::new(&text("licence", &self.licence)?),
            reason: text("reason", &self.reason)?,
            expires,
            pin: pin.map_err(|error| Problem::Invalid(format!("pin: {error}")))?,
            gated: self.gated,
            ticket: self.ticket.as_deref().map(|ticket| text("ticket", ticket)).transpose()?,
        })
    }
}

pub(super) async fn approve(
    State(control): State<Control>,
    operator: Operator,
    Asked(yes): Asked<Yes>,
) -> Created<ApprovalShown> {
    let approved = control.admin.approve(&yes.proposal()?, &operator.actor()).await?;
    Ok((StatusCode::CREATED, Json(approved)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct No {
    repo: String,
    kind: Option<RepoKind>,
    reason: String,
}

pub(super) async fn reject(
    State(control): State<Control>,
    operator: Operator,
    Asked(no): Asked<No>,
) -> Created<ApprovalShown> {
    let (repo, reason) = (repo(&no.repo, no.kind)?, text("reason", &no.reason)?);
    let rejected = control.admin.reject(&repo, &reason, &operator.actor()).await?;
    Ok((StatusCode::CREATED, Json(rejected)))
}

pub(super) async fn revoke(
    State(control): State<Control>,
    operator: Operator,
    Path(name): Path<String>,
    Asked(because): Asked<Because>,
) -> Answer<ApprovalShown> {
    let reason = text("reason", &because.reason)?;
    Ok(Json(control.admin.revoke(&id(&name)?, &reason, &operator.actor()).await?))
}
