//! `GET whoami`: whose token this is and what it may do, for programs that show only what would work.

use axum::Json;
use serde::Serialize;

use super::{super::auth::Scope, Answer, Operator};

#[derive(Serialize)]
pub(super) struct Me {
    name: String,
    scopes: Vec<Scope>,
}

pub(super) async fn show(operator: Operator) -> Answer<Me> {
    Ok(Json(Me { name: operator.name.to_string(), scopes: operator.scopes }))
}
