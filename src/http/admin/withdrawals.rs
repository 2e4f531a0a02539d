//! Withdrawing what may not be served any more, and ending that.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    Answer, Control, Created, Operator, Problem,
    asked::{Asked, Because, id, repo, text},
};
use crate::{
    admin::{Target, WithdrawalShown},
    hub::RepoKind,
};

/// How long an answer waits for files to be removed; it goes on behind it.
const PATIENCE: Duration = Duration::from_secs(8);

#[derive(Serialize)]
pub(super) struct Withdrawals {
    withdrawals: Vec<WithdrawalShown>,
}

pub(super) async fn list(State(control): State<Control>) -> Answer<Withdrawals> {
    Ok(Json(Withdrawals { withdrawals: control.admin.list_withdrawals().await? }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Withdraw {
    repo: Option<String>,
    kind: Option<RepoKind>,
    commit: Option<String>,
    sha256: Option<String>,
    reason: String,
    #[serde(default)]
    purge: bool,
}

impl Withdraw {
    fn target(&self) -> Result<Target, Problem> {
        let named = self.repo.as_deref().map(|name| repo(name, self.kind)).transpose()?;
        match (named, &self.commit, &self.sha256) {
            (Some(repo), None, None) => Ok(Target::Repo { repo }),
            (Some(repo), Some(commit), None) => {
                let commit = commit.parse().map_err(|error| Problem::Invalid(format!("commit: {error}")))?;
                Ok(Target::Commit { repo, commit })
            }
            (None, None, Some(sha256)) if self.kind.is_none() => {
                let sha256 = sha256.parse().map_err(|error| Problem::Invalid(format!("sha256: {error}")))?;
                Ok(Target::Sha256 { sha256 })
            }
            _ => Err(Problem::Invalid("name a repo, a repo and its commit, or a sha256 alone".into())),
        }
    }
}

/// 201 once it is refused here; files that are being removed are `purged` when that is done.
pub(super) async fn withdraw(
    State(control): State<Control>,
    operator: Operator,
    Asked(asked): Asked<Withdraw>,
) -> Created<WithdrawalShown> {
    let (target, reason) = (asked.target()?, text("reason", &asked.reason)?);
    let shown = control.admin.withdraw(target, &reason, asked.purge, &operator.actor()).await?;
    let id = shown.withdrawal.id;
    let removing = control.admin.carry_out_behind(&id);
    let _ = tokio::time::timeout(PATIENCE, removing).await;
    Ok((StatusCode::CREATED, Json(control.admin.withdrawal(&id)?)))
}

pub(super) async fn lift(
    State(control): State<Control>,
    operator: Operator,
    Path(name): Path<String>,
    Asked(because): Asked<Because>,
) -> Answer<WithdrawalShown> {
    let reason = text("reason", &because.reason)?;
    Ok(Json(control.admin.lift(&id(&name)?, &reason, &operator.actor()).await?))
}
