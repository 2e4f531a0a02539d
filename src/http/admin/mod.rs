//! The admin API, below `/-/admin/v1/`: what operators read and change, each under a name and within its scopes.
//!
//! [`routes`] is the table of all of it, and `docs/openapi.json` its description; a test holds the two against each
//! other. A handler reads its request into types, has the change written to the audit log, then makes it. Errors are a
//! [`Problem`]; their statuses are decided in [`super::error`].

mod approvals;
mod asked;
mod audit;
mod operator;
mod policy;
mod preseed;
mod problem;
mod repos;
mod requests;
mod whoami;
mod withdrawals;

use std::sync::Arc;

use axum::{
    Json, Router,
    http::{HeaderValue, Method, StatusCode, header},
    middleware,
    response::Response,
    routing::{MethodRouter, get, post},
};

pub(super) use operator::Operator;
pub(super) use problem::Problem;

use super::auth::Scope::{self, Approve, Audit, Operate, Request};
use crate::{admin::Admin, gateway::Gateway, jobs::Jobs, policy::PolicyHandle};

/// Where it stands.
pub(super) const ROOT: &str = "/-/admin/v1";

/// The description of the API, as it is served.
const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// What the handlers work with.
#[derive(Clone)]
pub(super) struct Control {
    pub(super) gateway: Gateway,
    pub(super) admin: Admin,
    pub(super) policy: Arc<PolicyHandle>,
    pub(super) jobs: Jobs,
}

/// What a handler answers.
type Answer<T> = Result<Json<T>, Problem>;

/// What a handler answers that made something.
type Created<T> = Result<(StatusCode, Json<T>), Problem>;

/// One route: who may use it, and what answers.
struct Route {
    #[cfg_attr(not(test), expect(dead_code, reason = "for the test that holds the document against this table"))]
    method: Method,
    path: &'static str,
    /// Any of these; none means that no token is needed.
    may: &'static [Scope],
    handler: MethodRouter<Control>,
}

/// Any operator.
const ANY: &[Scope] = &Scope::ALL;

/// All routes.
fn routes() -> Vec<Route> {
    let read = |path, may, handler| Route { method: Method::GET, path, may, handler };
    let change = |path, may, handler| Route { method: Method::POST, path, may, handler };
    vec![
        read("/openapi.json", &[], get(openapi)),
        read("/whoami", ANY, get(whoami::show)),
        read("/audit", &[Audit], get(audit::list)),
        read("/policy", &[Audit, Approve, Operate], get(policy::show)),
        change("/policy/reload", &[Operate], post(policy::reload)),
        read("/policy/explain", ANY, get(policy::explain)),
        read("/repos", &[Audit, Operate], get(repos::list)),
        read("/repos/show", &[Audit, Operate], get(repos::show)),
        read("/manifest", &[Audit], get(repos::search)),
        read("/requests", ANY, get(requests::list)),
        change("/requests", &[Request], post(requests::ask)),
        change("/requests/inspect", &[Approve], post(requests::inspect)),
        read("/approvals", ANY, get(approvals::list)),
        change("/approvals", &[Approve], post(approvals::approve)),
        change("/approvals/{id}/revoke", &[Approve], post(approvals::revoke)),
        change("/rejections", &[Approve], post(approvals::reject)),
        read("/withdrawals", ANY, get(withdrawals::list)),
        change("/withdrawals", &[Operate, Approve], post(withdrawals::withdraw)),
        change("/withdrawals/{id}/lift", &[Approve], post(withdrawals::lift)),
        read("/preseed", &[Operate, Audit], get(preseed::list)),
        change("/preseed", &[Operate], post(preseed::ask)),
        read("/preseed/{id}", &[Operate, Audit], get(preseed::show)),
        change("/preseed/{id}/cancel", &[Operate], post(preseed::cancel)),
        change("/preseed/{id}/retry", &[Operate], post(preseed::retry)),
    ]
}

/// The router of all of it.
pub(super) fn router(control: Control) -> Router {
    let table = routes().into_iter().fold(Router::new(), |router, Route { path, may, handler, .. }| {
        let handler = match may {
            [] => handler,
            may => handler.layer(middleware::from_fn_with_state(may, operator::allowed)),
        };
        router.route(path, handler)
    });
    table
        .fallback(async || Problem::NoSuchPage)
        .method_not_allowed_fallback(async || Problem::WrongMethod)
        .layer(middleware::map_response(guarded))
        .with_state(control)
}

/// Answers are for this operator alone, and never a page.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn openapi() -> ([(header::HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// (method, path, scopes) of every operation.
    fn documented() -> BTreeSet<(String, String, Vec<String>)> {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut found = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let scopes = operation["x-scopes"].as_array().unwrap_or_else(|| panic!("{method} {path}: x-scopes"));
                let scopes = scopes.iter().map(|scope| scope.as_str().unwrap().to_owned()).collect();
                found.insert((method.to_ascii_uppercase(), path.clone(), scopes));
            }
        }
        found
    }

    #[test]
    fn the_document_has_every_route_with_its_scopes_and_no_other() {
        let routed: BTreeSet<_> = routes()
            .iter()
            .map(|route| {
                let scopes = route.may.iter().map(ToString::to_string).collect();
                (route.method.to_string(), route.path.to_owned(), scopes)
            })
            .collect();
        assert_eq!(routed, documented());
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        assert_eq!(document["servers"][0]["url"], ROOT);
    }

    #[test]
    fn every_reference_in_the_document_leads_somewhere() {
        fn walk<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str));
                    map.values().for_each(|value| walk(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
                _ => {}
            }
        }
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut references = Vec::new();
        walk(&document, &mut references);
        assert!(!references.is_empty());
        for reference in references {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }
}
