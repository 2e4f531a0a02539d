//! `GET audit`: who changed what, when and why.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    Answer, Control,
    asked::{Selected, moment, parsed},
};
use crate::admin::{AuditEntry, AuditFilter};

/// Entries in one answer, unless less is asked for.
const USUAL: usize = 100;
/// And at most.
const MOST: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    #[serde(default, deserialize_with = "moment")]
    since: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "moment")]
    until: Option<OffsetDateTime>,
    who: Option<String>,
    what: Option<String>,
    #[serde(default, deserialize_with = "parsed")]
    limit: Option<usize>,
}

#[derive(Serialize)]
pub(super) struct Entries {
    entries: Vec<AuditEntry>,
}

pub(super) async fn list(State(control): State<Control>, Selected(selection): Selected<Selection>) -> Answer<Entries> {
    let Selection { since, until, who, what, limit } = selection;
    let filter = AuditFilter { since, until, who, what, limit: limit.unwrap_or(USUAL).clamp(1, MOST) };
    Ok(Json(Entries { entries: control.admin.audit().list(&filter).await? }))
}
