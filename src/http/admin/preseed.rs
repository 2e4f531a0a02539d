//! Whole repos to bring in: asked for, looked at, cancelled, begun anew.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Answer, Control, Operator, Problem,
    asked::{Asked, repo},
};
use crate::{
    gateway,
    hub::{RepoKind, Revision},
    jobs::{self, JobId, Request, Shown},
};

/// Priorities lie between this and its negative.
const HIGHEST_PRIORITY: i32 = 100;

/// Most patterns in one list.
const MOST_PATTERNS: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    repo: String,
    kind: Option<RepoKind>,
    revision: Option<String>,
    #[serde(default)]
    include: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    priority: i32,
}

#[derive(Serialize)]
pub(super) struct List {
    jobs: Vec<Shown>,
}

impl Wish {
    fn request(self) -> Result<(Request, i32), Problem> {
        let Self { repo: name, kind, revision, include, exclude, priority } = self;
        let repo = repo(&name, kind)?;
        let revision = match revision {
            None => Revision::main(),
            Some(text) => text.parse::<Revision>().map_err(|error| Problem::Invalid(format!("revision: {error}")))?,
        };
        for (field, patterns) in [("include", &include), ("exclude", &exclude)] {
            if patterns.len() > MOST_PATTERNS {
                return Err(Problem::Invalid(format!("{field}: write at most {MOST_PATTERNS} patterns")));
            }
        }
        if priority.abs() > HIGHEST_PRIORITY {
            return Err(Problem::Invalid(format!(
                "priority: {priority}: write a number from -{HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}; higher goes first"
            )));
        }
        let request = Request::new(repo, revision, include, exclude);
        Ok((request.map_err(|error| Problem::Invalid(error.to_string()))?, priority))
    }
}

/// 202: the work is still to be done, or goes on.
pub(super) async fn ask(
    State(control): State<Control>,
    operator: Operator,
    Asked(wish): Asked<Wish>,
) -> Result<(StatusCode, Json<Shown>), Problem> {
    let (request, priority) = wish.request()?;
    let details = json!({ "job": request.id(), "request": request, "priority": priority });
    let change = operator.change("preseed.ask", request.repo(), None, details);
    control.admin.audit().record(change).await?;
    Ok((StatusCode::ACCEPTED, Json(control.jobs.ask(&request, priority, &operator.name).await?)))
}

pub(super) async fn list(State(control): State<Control>) -> Answer<List> {
    Ok(Json(List { jobs: control.jobs.list().await? }))
}

pub(super) async fn show(State(control): State<Control>, Path(id): Path<String>) -> Answer<Shown> {
    Ok(Json(control.jobs.show(&job_id(&id)?).await?))
}

pub(super) async fn cancel(
    State(control): State<Control>,
    operator: Operator,
    Path(id): Path<String>,
) -> Answer<Shown> {
    let id = job_id(&id)?;
    record(&control, &operator, "preseed.cancel", &id).await?;
    Ok(Json(control.jobs.cancel(&id, &operator.name).await?))
}

pub(super) async fn retry(
    State(control): State<Control>,
    operator: Operator,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Shown>), Problem> {
    let id = job_id(&id)?;
    record(&control, &operator, "preseed.retry", &id).await?;
    Ok((StatusCode::ACCEPTED, Json(control.jobs.retry(&id, &operator.name).await?)))
}

/// Writes down a change of a job that there is.
async fn record(control: &Control, operator: &Operator, what: &str, id: &JobId) -> Result<(), Problem> {
    let job = control.jobs.show(id).await?;
    let details = json!({ "job": id, "attempt": job.attempt, "state": job.state });
    control.admin.audit().record(operator.change(what, job.request.repo(), None, details)).await?;
    Ok(())
}

fn job_id(text: &str) -> Result<JobId, Problem> {
    text.parse::<JobId>().map_err(|error| Problem::Invalid(error.to_string()))
}

impl From<jobs::Error> for Problem {
    fn from(error: jobs::Error) -> Self {
        match error {
            jobs::Error::Unknown(_) => Self::NotFound(error.to_string()),
            jobs::Error::NotNow(_) => Self::Conflict(error.to_string()),
            jobs::Error::TooMany => {
                let (why, retry_after) = (error.to_string(), std::time::Duration::from_mins(1));
                Self::Gateway(gateway::Error::Busy { why, retry_after })
            }
            jobs::Error::Store(error) => error.into(),
        }
    }
}
