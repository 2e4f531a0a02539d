//! What an operator's request ran into. Statuses and codes stand in [`super::super::error`]'s table; the one shape of
//! the body is `{"error": {"code": ..., "message": ...}}`.

use std::time::Duration;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use serde_json::json;

use super::super::{auth::Scope, error};
use crate::{admin, gateway, manifest, store};

/// Why a request of an operator's is not answered as it wished.
#[derive(Debug)]
pub(in crate::http) enum Problem {
    /// No token, or none that `auth.admins` knows.
    NoToken,
    /// A known operator that may not do this; which scopes would do.
    MissingScope {
        /// Who.
        name: String,
        /// Any of these.
        needs: &'static [Scope],
    },
    /// No such route.
    NoSuchPage,
    /// A route that does not answer this method.
    WrongMethod,
    /// Nothing of this name.
    NotFound(String),
    /// A body or a query that can't be read.
    Malformed(String),
    /// A body past this many bytes.
    TooLarge(usize),
    /// A body that did not arrive in this time.
    TooSlow(Duration),
    /// Something that can be read and can't be meant.
    Invalid(String),
    /// What there is already speaks against it.
    Conflict(String),
    /// What operators may do did not allow it.
    Admin(admin::Error),
    /// The gateway, the store or the manifest could not.
    Gateway(gateway::Error),
}

impl Problem {
    pub(in crate::http) fn message(&self) -> String {
        match self {
            Self::NoToken => {
                "the admin API needs Authorization: Bearer with a token of auth.admins; `hubgate token new` makes one"
                    .into()
            }
            Self::MissingScope { name, needs } => {
                let needs: Vec<&str> = needs.iter().map(|scope| scope.as_str()).collect();
                format!("{name} lacks the scope {}: ask the operator to add it to auth.admins", needs.join(" or "))
            }
            Self::NoSuchPage => "hubgate has no such page; GET /-/admin/v1/openapi.json lists them".into(),
            Self::WrongMethod => "this page does not answer this method".into(),
            Self::TooLarge(limit) => format!("the body is larger than {limit} bytes"),
            Self::TooSlow(limit) => format!("the request's body did not arrive within {} s", limit.as_secs()),
            Self::NotFound(text) | Self::Malformed(text) | Self::Invalid(text) | Self::Conflict(text) => text.clone(),
            Self::Admin(error) => error.to_string(),
            Self::Gateway(_) => "hubgate could not do this".into(),
        }
    }
}

impl From<gateway::Error> for Problem {
    fn from(error: gateway::Error) -> Self {
        Self::Gateway(error)
    }
}

impl From<admin::Error> for Problem {
    fn from(error: admin::Error) -> Self {
        match error {
            admin::Error::Store(error) => error.into(),
            admin::Error::Manifest(error) => error.into(),
            admin::Error::Busy { why, retry_after } => Self::Gateway(gateway::Error::Busy { why, retry_after }),
            error => Self::Admin(error),
        }
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        Self::Gateway(error.into())
    }
}

impl From<manifest::Error> for Problem {
    fn from(error: manifest::Error) -> Self {
        Self::Gateway(error.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let error::AdminFace { status, code, message, retry_after } = error::of_admins(&self);
        let body = Json(json!({ "error": { "code": code, "message": message } }));
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        if let Some(after) = retry_after {
            headers.insert(header::RETRY_AFTER, after.as_secs().max(1).into());
        }
        if matches!(self, Self::NoToken) {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"hubgate admin\""));
        }
        response
    }
}
