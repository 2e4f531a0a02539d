//! What an operator's request says: its body and its query, as types. Unknown fields are errors that name them.

use std::{fmt::Display, str::FromStr, time::Duration};

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use time::{Date, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};
use tokio::time::timeout;

use super::Problem;
use crate::{
    admin::{self, Id},
    hub::{Repo, RepoKind},
};

/// Largest body in bytes. A request names one repo and its reasons.
const LARGEST_BODY: usize = 64 * 1024;
/// How long it may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// A JSON body.
pub(in crate::http) struct Asked<T>(pub(in crate::http) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let body = Limited::new(request.into_body(), LARGEST_BODY).collect();
        let body = timeout(BODY_WITHIN, body).await.map_err(|_| Problem::TooSlow(BODY_WITHIN))?;
        let body = body.map_err(|problem| {
            if problem.is::<LengthLimitError>() {
                Problem::TooLarge(LARGEST_BODY)
            } else {
                Problem::Malformed(format!("the body broke off: {problem}"))
            }
        })?;
        let parsed = serde_json::from_slice(&body.to_bytes());
        parsed.map(Self).map_err(|problem| Problem::Malformed(format!("the body is not the JSON asked for: {problem}")))
    }
}

/// A query.
pub(in crate::http) struct Selected<T>(pub(in crate::http) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Selected<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let parsed = Query::try_from_uri(&parts.uri);
        parsed.map(|Query(query)| Self(query)).map_err(|problem| Problem::Malformed(problem.body_text()))
    }
}

/// A repo as a request names it: `repo`, and `kind` unless the name begins with it (`datasets/org/name`).
pub(in crate::http) fn repo(name: &str, kind: Option<RepoKind>) -> Result<Repo, Problem> {
    let repo = match kind {
        None => name.parse(),
        Some(kind) => Repo::new(kind, name.strip_prefix(kind.web_prefix()).unwrap_or(name)),
    };
    repo.map_err(|error| Problem::Invalid(format!("repo: {error}")))
}

/// The body of a change that needs a reason and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Because {
    pub(in crate::http) reason: String,
}

/// The id in a path.
pub(in crate::http) fn id(text: &str) -> Result<Id, Problem> {
    text.parse().map_err(Problem::NotFound)
}

/// A text that somebody wrote, for others to read.
pub(in crate::http) fn text(field: &str, text: &str) -> Result<String, Problem> {
    Ok(admin::line(field, text)?)
}

/// A day or a time: `2026-11-24` or `2026-11-24T06:00:00Z`.
pub(in crate::http) fn moment<'de, D: Deserializer<'de>>(from: D) -> Result<Option<OffsetDateTime>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
    let day = || Date::parse(&text, format_description!("[year]-[month]-[day]")).map(|day| day.midnight().assume_utc());
    let moment = OffsetDateTime::parse(&text, &Rfc3339).or_else(|_| day());
    moment
        .map(Some)
        .map_err(|_| serde::de::Error::custom(format!("{text:?} is no time: write 2026-11-24 or 2026-11-24T06:00:00Z")))
}

/// A number or another value in a query, where serde has seen a text only.
pub(in crate::http) fn parsed<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let text = Option::<String>::deserialize(from)?.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}")))).transpose()
}
