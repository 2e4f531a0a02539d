//! The policy: what is in force, whether it is well formed, what a repo would get; and having it looked at now.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Answer, Control, Operator, Problem,
    asked::{Selected, repo},
};
use crate::{
    gateway::Asker,
    hub::{Commit, RepoKind, Revision, Sha256},
    policy::{self, Explanation, Finding, PolicySet, Reload, Rule, today},
};

#[derive(Serialize)]
pub(super) struct InForce {
    sha256: Sha256,
    /// Why the folder's contents are not what is in force.
    problem: Option<String>,
    rules: Vec<RuleShown>,
    denied_files: Vec<String>,
    findings: Vec<Finding>,
    /// All files, as stored under `policies/<sha256>`.
    text: String,
}

#[derive(Serialize)]
struct RuleShown {
    name: String,
    repo: String,
    kind: RepoKind,
    source: String,
    revisions: Option<Vec<String>>,
    pin: Option<Commit>,
    gated: bool,
    max_file_size: Option<u64>,
    licences: Vec<String>,
    approved_by: Option<String>,
    ticket: Option<String>,
    expires: Option<String>,
}

impl RuleShown {
    fn of(rule: &Arc<Rule>) -> Self {
        Self {
            name: rule.name.clone(),
            repo: rule.repo.clone(),
            kind: rule.kind,
            source: rule.source.clone(),
            revisions: rule.revisions().map(<[String]>::to_vec),
            pin: rule.pin,
            gated: rule.gated,
            max_file_size: rule.max_file_size,
            licences: rule.accepted_licenses().iter().map(ToString::to_string).collect(),
            approved_by: rule.approved_by.clone(),
            ticket: rule.ticket.clone(),
            expires: rule.expires.map(|day| day.to_string()),
        }
    }
}

pub(super) async fn show(State(control): State<Control>) -> Answer<InForce> {
    let set: Arc<PolicySet> = control.policy.current();
    Ok(Json(InForce {
        sha256: set.digest(),
        problem: control.policy.problem().map(|problem| problem.to_string()),
        rules: set.rules().iter().map(RuleShown::of).collect(),
        denied_files: set.denied_files().to_vec(),
        findings: policy::check(&set, today(), None),
        text: set.text().to_owned(),
    }))
}

#[derive(Serialize)]
pub(super) struct Reloaded {
    changed: bool,
    sha256: Sha256,
}

pub(super) async fn reload(State(control): State<Control>, operator: Operator) -> Answer<Reloaded> {
    control.admin.audit().record(operator.change("policy.reload", "policy", None, Value::Null)).await?;
    let handle = control.policy.clone();
    let reloaded = tokio::task::spawn_blocking(move || handle.reload()).await;
    let reloaded = reloaded.map_err(|error| Problem::Conflict(format!("the look failed: {error}")))?;
    let changed = reloaded.map_err(|problem| {
        Problem::Conflict(format!("the policy folder is refused, and the policy before it stays in force: {problem}"))
    })?;
    Ok(Json(Reloaded { changed: changed == Reload::Changed, sha256: control.policy.current().digest() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    repo: String,
    kind: Option<RepoKind>,
    revision: Option<String>,
}

/// Of a repo that no rule names, nothing is asked upstream for this.
pub(super) async fn explain(
    State(control): State<Control>,
    operator: Operator,
    Selected(question): Selected<Question>,
) -> Answer<Explanation> {
    let repo = repo(&question.repo, question.kind)?;
    let revision = match &question.revision {
        None => Revision::main(),
        Some(text) => text.parse().map_err(|error| Problem::Invalid(format!("revision: {error}")))?,
    };
    let asker = Asker { address: operator.address, name: Some(operator.name.clone()), background: false };
    Ok(Json(control.gateway.explain(&asker, &repo, &revision).await))
}
