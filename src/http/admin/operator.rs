//! Who asks, and may they: the guard before every route.

use std::{fmt::Display, net::IpAddr, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::request::Parts;
use serde_json::Value;

use super::{super::auth::Scope, Problem};
use crate::{
    admin::{Actor, Change},
    gateway::Asker,
};

/// An operator whose token was known, with what the audit log says of its request. The edge puts it there.
#[derive(Debug, Clone)]
pub(in crate::http) struct Operator {
    pub(in crate::http) name: Arc<str>,
    pub(in crate::http) scopes: Vec<Scope>,
    pub(in crate::http) address: IpAddr,
    pub(in crate::http) request_id: String,
}

impl Operator {
    /// Who it is, for the changes that it makes.
    pub(in crate::http) fn actor(&self) -> Actor {
        Actor {
            name: self.name.to_string(),
            from: Some(self.address.to_string()),
            request_id: Some(self.request_id.clone()),
        }
    }

    /// Who it is, where it asks the gateway for something.
    pub(in crate::http) fn asker(&self) -> Asker {
        Asker { address: self.address, name: Some(self.name.clone()), background: false }
    }

    /// A change that this operator asks for.
    pub(in crate::http) fn change(
        &self,
        what: &str,
        subject: &(impl Display + ?Sized),
        why: Option<&str>,
        details: Value,
    ) -> Change {
        self.actor().change(what, subject, why, details)
    }
}

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or(Problem::NoToken)
    }
}

/// Lets an operator pass who has any of the scopes.
pub(super) async fn allowed(State(needs): State<&'static [Scope]>, request: Request, next: Next) -> Response {
    let Some(operator) = request.extensions().get::<Operator>() else { return Problem::NoToken.into_response() };
    if !operator.scopes.iter().any(|scope| needs.contains(scope)) {
        let name = operator.name.to_string();
        tracing::warn!(who = name, path = request.uri().path(), "an operator lacks the scope");
        return Problem::MissingScope { name, needs }.into_response();
    }
    next.run(request).await
}
