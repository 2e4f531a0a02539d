//! Our own routes, all below `/-/`, where no repo id can be.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Json, Router, extract,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use serde_json::json;

use super::{EdgeParts, Side, Traffic, admin, metrics};
use crate::{
    admin::Admin,
    gateway::{Gateway, Health},
    store::StoreHealth,
};

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

    /// Whether it has.
    pub fn has_store(&self) -> bool {
        self.store.load(Ordering::Relaxed)
    }

    /// The process was told to stop.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

/// What our routes tell of.
#[derive(Clone)]
pub(super) struct Own {
    pub(super) gateway: Gateway,
    admin: Admin,
    readiness: Arc<Readiness>,
    pub(super) store: Arc<StoreHealth>,
    pub(super) traffic: Arc<Traffic>,
}

/// How the process is doing.
pub(super) struct State {
    pub(super) health: Health,
    pub(super) ready: bool,
    /// One sentence each.
    pub(super) degraded: Vec<String>,
}

impl Own {
    pub(super) fn state(&self) -> State {
        let mut health = self.gateway.health();
        let mut degraded = std::mem::take(&mut health.degraded);
        degraded.extend(self.admin.degraded());
        let store = self.readiness.has_store();
        let stopping = self.readiness.stopping.load(Ordering::Relaxed);
        if !store {
            degraded.push("the store has not answered yet".into());
        }
        if let Some(why) = self.store.refuses_writes() {
            degraded.push(format!("the store takes nothing new ({why}); what is stored is served"));
        }
        if stopping {
            degraded.push("stopping".into());
        }
        State { health, ready: store && self.admin.is_read() && !stopping, degraded }
    }
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

/// Whether it asks for no more than a sign of life.
pub(super) fn is_livez(path: &str) -> bool {
    path.trim_start_matches('/') == "-/livez"
}

/// The table of our routes.
pub(super) fn router(parts: &EdgeParts, side: Side) -> Router {
    let own = Own {
        gateway: parts.gateway.clone(),
        admin: parts.admin.clone(),
        readiness: parts.readiness.clone(),
        store: parts.store.clone(),
        traffic: parts.traffic.clone(),
    };
    let control = admin::Control {
        gateway: parts.gateway.clone(),
        admin: parts.admin.clone(),
        policy: parts.policy.clone(),
        jobs: parts.jobs.clone(),
    };
    let health = Router::new().route("/-/livez", get(livez)).route("/-/readyz", get(readyz));
    let routes = match side {
        Side::Public => health,
        Side::Both | Side::Admin => {
            health.route("/-/metrics", get(metrics::page)).nest_service(admin::ROOT, admin::router(control))
        }
    };
    routes.fallback(unknown).with_state(own)
}

/// The process runs. Asks nobody.
async fn livez() -> Response {
    lives()
}

/// A sign of life.
pub(super) fn lives() -> Response {
    ([(header::CACHE_CONTROL, "no-store")], "ok\n").into_response()
}

/// Whether clients should be sent here: what is stored can be served. Upstream being away is degraded, not
/// unready (DESIGN I10).
async fn readyz(extract::State(own): extract::State<Own>) -> Response {
    let State { health, ready, degraded } = own.state();
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
