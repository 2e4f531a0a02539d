//! Our own routes, all below `/-/`, where no repo id can be.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use serde_json::json;

use super::{Side, admin};
use crate::gateway::Gateway;

/// Whether this process should be sent requests.
#[derive(Debug, Default)]
pub struct Readiness {
    store: AtomicBool,
    stopping: AtomicBool,
}

impl Readiness {
    /// The store has answered and is what it should be.
    pub fn store_is_ready(&self) {
        self.store.store(true, Ordering::Relaxed);
    }

    /// The process was told to stop.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Own {
    gateway: Gateway,
    readiness: Arc<Readiness>,
}

/// Whether a path, without the prefix of `public_url`, is ours.
pub(super) fn is_own(path: &str) -> bool {
    let inside = path.trim_start_matches('/');
    inside == "-" || inside.starts_with("-/")
}

/// Whether it is the admin API's, and so about an operator.
pub(super) fn is_admins(path: &str) -> bool {
    path.trim_start_matches('/').starts_with("-/admin/")
}

/// The table of our routes.
pub(super) fn router(control: admin::Control, readiness: Arc<Readiness>, side: Side) -> Router {
    let gateway = control.gateway.clone();
    let health = Router::new().route("/-/livez", get(livez)).route("/-/readyz", get(readyz));
    let routes = match side {
        Side::Public => health,
        Side::Both | Side::Admin => health.nest_service(admin::ROOT, admin::router(control)),
    };
    routes.fallback(unknown).with_state(Own { gateway, readiness })
}

/// The process runs. Asks nobody.
async fn livez() -> Response {
    ([(header::CACHE_CONTROL, "no-store")], "ok\n").into_response()
}

/// Whether clients should be sent here: what is stored can be served. Upstream being away is degraded, not
/// unready (DESIGN I10).
async fn readyz(State(own): State<Own>) -> Response {
    let health = own.gateway.health();
    let store = own.readiness.store.load(Ordering::Relaxed);
    let stopping = own.readiness.stopping.load(Ordering::Relaxed);
    let ready = store && !stopping;
    let mut degraded = health.degraded;
    if !store {
        degraded.push("the store has not answered yet".into());
    }
    if stopping {
        degraded.push("stopping".into());
    }
    let body = json!({
        "ready": ready,
        "degraded": degraded,
        "policy_sha256": health.policy_sha256,
        "policy_error": health.policy_error,
        "fills": health.fills,
        "version": env!("CARGO_PKG_VERSION"),
    });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

async fn unknown() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({"error": "hubgate has no such page"}))).into_response()
}
